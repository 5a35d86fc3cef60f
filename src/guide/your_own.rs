//! Charges, a classifier, a batch format, a sink and a ledger of your own.
//!
//! | trait | it says | it is right when |
//! | --- | --- | --- |
//! | [`MakeCharges`](crate::principal::MakeCharges) | which budgets of whom a request draws on | the same principals come out as the server charges |
//! | [`Classify`](crate::server_busy_backoff::Classify) | what a response means, and whether a request may be sent twice | what may have been executed is never called refused |
//! | [`BatchFormat`](crate::batch_splitter::BatchFormat) | where a batch may be cut, and how responses are put together | no message is ever given to another member |
//! | [`Sink`](crate::audit_log::Sink) | where records go | it neither blocks nor fails a call |
//! | [`Ledger`](crate::ledger::Ledger) | who keeps the budgets | a dropped future holds nothing, a release happens once |
//!
//! The page of each trait has an implementation that runs. A closure is enough for most charges. This one has a rate and a
//! concurrency for each tenant, and lets requests without a tenant pass:
//!
//! ```
//! use http::Request;
//! use tower_ews::principal::{Budget, Charge, Charges, MakeCharges, Principal};
//!
//! fn charges(request: &Request<String>) -> Charges {
//!     let tenant = request.headers().get("x-tenant").and_then(|tenant| tenant.to_str().ok());
//!     let charge = |budget| Some(Charge::new(Principal::new(tenant?), budget, 1));
//!     [Budget::Concurrency, Budget::Requests].into_iter().filter_map(charge).collect()
//! }
//!
//! let request = Request::builder().header("x-tenant", "contoso").body(String::new()).unwrap();
//! assert_eq!(charges.make_charges(&request).len(), 2);
//! assert!(charges.make_charges(&Request::new(String::new())).is_empty());
//! ```
//!
//! A classifier overrides what differs from plain HTTP. Two questions must not be mixed up: `Refusal::new` means *not executed*, and
//! lets everything be sent again; a response that leaves it open is `outcome_unknown`:
//!
//! ```
//! use http::response;
//! use tower_ews::server_busy_backoff::{ClassifiedResponse, Classify, Refusal, RefusalScope, RequestClass};
//!
//! struct Shop;
//!
//! impl<B> Classify<B> for Shop {
//!     fn response(&self, _: &RequestClass, head: &response::Parts) -> ClassifiedResponse {
//!         match head.status.as_u16() {
//!             // Its documents: "the tenant is over its quota, nothing was done".
//!             402 => Refusal::new("quota").scope(RefusalScope::Principal).into(),
//!             // A proxy before it gave up waiting: who knows?
//!             598 => Refusal::new("proxy").outcome_unknown().max_retries(3).into(),
//!             _ => ClassifiedResponse::by_status(head),
//!         }
//!     }
//! }
//! # let (head, ()) = http::Response::builder().status(402).body(()).unwrap().into_parts();
//! # let class = RequestClass::by_method(&http::Method::GET);
//! # assert!(Classify::<()>::response(&Shop, &class, &head).refusal.is_some());
//! ```
//!
//! `examples/any_api.rs` is a whole client with both, against a server that refuses.
//!
//! Try what you wrote against a server that misbehaves, in virtual time: the `simulator` (a feature) has an
//! Exchange and a Graph whose limits you set, and a paused clock makes a day pass in milliseconds.
