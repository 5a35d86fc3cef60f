//! An outline is refused, or what quick-xml's reader finds too: `cargo +nightly fuzz run outline`.
#![no_main]

#[path = "../../tests/checks/outline.rs"]
mod checks;

use libfuzzer_sys::fuzz_target;
use tower_ews::soap::Outline;

fuzz_target!(|body: &[u8]| {
    if let Ok(outline) = Outline::parse(body) {
        checks::assert_agrees(body, &outline);
        outline.targets(body);
    }
});
