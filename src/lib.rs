//! Independent tower layers that let a client live inside Exchange's throttling.
#![forbid(unsafe_code)]

pub mod body;
pub mod concurrency_by_principal;
pub mod ledger;
pub mod principal;
pub mod soap;
pub mod trail;
