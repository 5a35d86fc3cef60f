//! What becomes of a call for each kind of response: the whole table.
//!
//! The first question is always whether the request was executed, the second one whether it may be sent again. The caller sees the
//! result in [`RetryInfo`](crate::server_busy_backoff::RetryInfo), in
//! [`BatchReport`](crate::batch_splitter::BatchReport) or in a [typed error](crate::EwsStack#errors).
//!
//! ```
//! use tower_ews::stack::{busy_for, fault_of, status_of};
//!
//! // What a gateway or a web application responds with, when its own call to Exchange ends in an error.
//! fn respond(error: &tower::BoxError) -> http::Response<String> {
//!     let mut response = http::Response::new(format!("{:?}", fault_of(error)));
//!     *response.status_mut() = status_of(error);
//!     if let Some(busy) = busy_for(error) {
//!         response.headers_mut().insert("retry-after", busy.as_secs().max(1).into());
//!     }
//!     response
//! }
//! # assert!(respond(&"connection reset".into()).status().is_server_error());
//! ```
//!
#![doc = include_str!("../../docs/responses.md")]
