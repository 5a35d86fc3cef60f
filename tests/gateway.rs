//! The example `gateway` as a process, over real sockets.
//!
//! `cargo test --all-features` builds it; `cargo test --all-features --test gateway` alone does not. `--example gateway` runs the
//! unit tests of its parts.
#![cfg(feature = "https")]

#[path = "gateway/browser.rs"]
mod browser;
#[path = "gateway/harness.rs"]
mod harness;
#[path = "gateway/hostile.rs"]
mod hostile;
#[path = "gateway/life.rs"]
mod life;
#[path = "gateway/people.rs"]
mod people;
#[path = "gateway/proxy.rs"]
mod proxy;
