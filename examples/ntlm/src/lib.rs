//! A client that authenticates with NTLM, to put beneath [`EwsStack`](tower_ews::EwsStack), and a server that checks it.
//!
//! NTLM authenticates a connection, not a request: whatever comes over it later is the same account's. So each connection here
//! belongs to one credential for as long as it lives, and only one call uses it at a time, from its first leg until the end of its
//! response. The stack names the credential as it does for Basic; [`ntlm_client`] takes it off before anything is sent.

mod binding;
mod body;
mod client;
mod connection;
pub mod job;
mod login;
pub mod server;
mod target;

pub use body::NtlmBody;
pub use client::ntlm_client;
