//! Several accounts as one: picks the account of each attempt, by what each has open, its room and its load.
//!
//! Exchange limits each service account: 27 concurrent calls, 16 open mailboxes. A job that works on thousands of mailboxes
//! needs several accounts, and somebody who says which of them makes which call. [`AccountPool`] does so for each attempt:
//!
//! 1. the account that has the mailbox of the call open already,
//! 2. else the one with room for it and the fewest calls under way, round robin among equals,
//! 3. else whichever has room first.
//!
//! It acquires the permit of the attempt from the [`Ledger`] that the other layers share, names the account with a [`Caller`]
//! in the request's extensions, and puts its credentials on.
//! [`ConcurrencyByPrincipal`](crate::concurrency_by_principal), beneath it, takes the permit over. Without that layer the pool
//! holds it until the response body has ended; budgets that count time or subscriptions need the layer.
//!
//! ```
//! use http::{Request, Response};
//! use http_body_util::Full;
//! use bytes::Bytes;
//! use tower::{Layer, ServiceExt, service_fn};
//! use tower_ews::account_pool::{Account, AccountPoolLayer};
//! use tower_ews::extensions::Caller;
//! use tower_ews::principal::Principal;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower::BoxError> {
//! // Two keys of an API that allows four concurrent calls of each.
//! let by_key = |request: &Request<()>| {
//!     request.extensions().get::<Caller>().map(|caller| Principal::new(caller.name()))
//! };
//! let pool = AccountPoolLayer::in_flight(4, by_key)
//!     .account(Account::new("key1").authorization("Bearer 1111".parse()?))
//!     .account(Account::new("key2").authorization("Bearer 2222".parse()?));
//!
//! let client = service_fn(async |request: Request<()>| {
//!     Ok::<_, std::convert::Infallible>(Response::new(Full::<Bytes>::from(
//!         request.headers()["authorization"].as_bytes().to_vec(),
//!     )))
//! });
//! let response = pool.layer(client).oneshot(Request::new(())).await?;
//! # let _ = response;
//! # Ok(())
//! # }
//! ```
//!
//! In [`EwsStack`](crate::EwsStack) it is [an option](crate::EwsStack::accounts).
//!
//! # Which mailbox an account has open
//!
//! Where the charges of a call have a [value](crate::principal::Charge::value), as those of delegate access have, the pool
//! remembers which account has opened it, for as long as [`stay`](AccountPoolLayer::stay) says. One call of a mailbox that no account has
//! open looks for an account, and the others wait for what it finds. A call that waits for its mailbox's account for longer than
//! [`spill_over`](AccountPoolLayer::spill_over) asks the other accounts, too, and so does one that is sent again after a
//! refusal: its account is locked out, or full of mailboxes.
//!
//! A call whose extensions name one of the accounts as its [`Caller`] is made with that account alone: a subscription belongs to
//! the account that made it. One that names anybody else passes untouched. An account that is [reserved](Account::reserved) makes
//! no other calls than those that name it.
//!
//! # Which accounts are left out
//!
//! Accounts that are locked out or full are waited for, as the ledger knows of them. An account that cannot work is left out,
//! for a minute at first, and twice as long each time up to an hour; then one call asks whether it works again:
//!
//! | what the server says | the account |
//! | --- | --- |
//! | HTTP 401 | gets fresh credentials once, then is left out |
//! | HTTP 456 | is locked: left out |
//! | `ErrorPasswordExpired`, `ErrorPasswordChangeRequired`, `ErrorAccountDisabled`, `ErrorAccountSuspend`, for all members | is left out once another account has made the same call, or after three mailboxes in a row: the code can mean the mailbox |
//! | credentials that cannot be fetched, or not within a minute | is left out |
//!
//! In each case nothing was executed, so the attempt moves to the next account. The log warns, with the target
//! `tower_ews::account_pool`, and [`snapshot`](AccountPoolLayer::snapshot) tells. If no account is left, the call ends with the
//! server's last refusal, or with [`NoAccount`] if nothing was sent.
//!
//! # Cancellation
//!
//! Dropping the response future at any point leaves all queues or gives the permit back.
//!
//! # Errors
//!
//! All as [`BoxError`](tower::BoxError):
//!
//! - [`NoAccount`], if all accounts are left out. Nothing was sent.
//! - [`AcquireError`](crate::ledger::AcquireError) and
//!   [`DeadlineElapsed`](crate::concurrency_by_principal::DeadlineElapsed), as from `ConcurrencyByPrincipal`. Nothing was sent.
//! - The inner service's own error.

mod account;
mod body;
mod call;
mod choice;
mod homes;
mod layer;
mod member;
mod refusal;
mod service;
mod shared;

pub use self::account::{Account, CredentialsRequest};
pub use self::body::PoolBody;
pub use self::layer::AccountPoolLayer;
pub use self::member::AccountSnapshot;
pub use self::service::{AccountPool, ResponseFuture};
pub use crate::errors::{LeftOut, LeftOutReason, NoAccount};
#[cfg(doc)]
use crate::{extensions::Caller, ledger::Ledger};

#[cfg(test)]
mod tests;
