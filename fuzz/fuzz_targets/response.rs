//! A response says the same however it is cut, and its messages are elements: `cargo +nightly fuzz run response`.
//!
//! The first bytes are the lengths of the pieces.
#![no_main]

#[path = "../../tests/checks/response.rs"]
mod checks;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: &[u8]| {
    let (cuts, body) = input.split_at(input.len().min(4));
    checks::assert_agrees(body, cuts);
});
