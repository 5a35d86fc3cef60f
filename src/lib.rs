//! Independent tower layers that let a client live inside Exchange's throttling.
#![forbid(unsafe_code)]

pub mod anchor_headers;
pub mod body;
mod builder;
pub mod client_request_id;
pub mod concurrency_by_principal;
pub mod ledger;
pub mod policy;
pub mod principal;
#[cfg(feature = "serde")]
mod seconds;
pub mod server_busy_backoff;
#[cfg(feature = "simulator")]
pub mod simulator;
pub mod soap;
mod stack;
pub mod trail;

pub use builder::ServiceBuilderExt;
pub use stack::{EwsService, EwsStack};
