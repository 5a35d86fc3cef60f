//! Who is charged for a call, and for how much: principals, budgets and charges.
//!
//! A *principal* is the identity that the server charges: an account, or a mailbox's impersonation copy. A *budget*
//! is one allowance that the server keeps for one principal, and a *charge* is what one call draws on one budget.
//! [`MakeCharges`] turns a request into its charges. A closure is one, so an API that is not EWS needs no more than this:
//!
//! ```
//! use http::Request;
//! use tower_ews::principal::{MakeCharges, Principal};
//!
//! let by_tenant = |request: &Request<()>| {
//!     let tenant = request.headers().get("x-tenant")?.to_str().ok()?;
//!     Some(Principal::new(tenant))
//! };
//!
//! let request = Request::builder().header("x-tenant", "contoso").body(()).unwrap();
//! let charges = by_tenant.make_charges(&request);
//! assert_eq!(charges.len(), 1);
//! ```

#[cfg(feature = "ews")]
mod accounts;
#[cfg(feature = "ews")]
mod amounts;
mod budget;
mod charges;
#[cfg(test)]
pub(crate) mod counted;
#[cfg(feature = "ews")]
mod ews;
#[cfg(feature = "ews")]
mod found_rows;
#[cfg(feature = "graph")]
mod graph;
mod identity;
mod key;
mod lease;
mod make_charges;
mod requests;
mod rules;
#[cfg(feature = "ews")]
mod subscriptions;

pub use self::budget::Budget;
pub use self::charges::{Charge, Charges};
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub use self::ews::EwsCharges;
#[cfg(feature = "graph")]
#[cfg_attr(docsrs, doc(cfg(feature = "graph")))]
pub use self::graph::{GraphCharges, GraphScope};
pub use self::identity::{Access, Principal, PrincipalKind};
pub use self::key::{ParseBudgetError, ParseKeyError};
pub(crate) use self::lease::Estimate;
pub use self::lease::{Lease, LeaseChange, ReadLease};
pub use self::make_charges::MakeCharges;
pub use self::requests::RequestCharges;
pub use self::rules::{BudgetRule, ChargeRule, Payer};
