//! What Exchange limits, in its own words: the throttling policy, parameter by parameter.
//!
//! A [`Budget`](crate::principal::Budget) is one allowance that the server keeps for one
//! [`Principal`](crate::principal::Principal). A [`Limit`](crate::ledger::Limit) says how it is counted. A call draws
//! [`Charge`](crate::principal::Charge)s on budgets, and runs when all of them have room.
//!
//! | access | the principal |
//! | --- | --- |
//! | the account's own mailbox, or one that it is a delegate of | the calling account |
//! | impersonation, since Exchange 2010 SP2 RU4 | the impersonated mailbox's copy, which all accounts share and which is not its owner's budget |
//! | impersonation before that | the mailbox's owner |
//! | impersonation of one mailbox that touches another one | that copy, and the calling account |
//!
//! So one service account that impersonates has 27 calls at a time for each mailbox, and as a delegate 27 for all:
//!
//! ```
//! use http::Request;
//! use tower_ews::body::ReplayBody;
//! use tower_ews::extensions::Caller;
//! use tower_ews::policy::ThrottlingPolicy;
//! use tower_ews::principal::{Budget, MakeCharges};
//!
//! let call = |header: &str| {
//!     let soap = format!(
//!         r#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"
//!              xmlns:t="http://schemas.microsoft.com/exchange/services/2006/types"
//!              xmlns="http://schemas.microsoft.com/exchange/services/2006/messages"><s:Header>{header}</s:Header><s:Body>
//!            <GetFolder><FolderShape><t:BaseShape>IdOnly</t:BaseShape></FolderShape><FolderIds>
//!              <t:DistinguishedFolderId Id="inbox"/></FolderIds></GetFolder></s:Body></s:Envelope>"#
//!     );
//!     let mut request = Request::new(ReplayBody::from(soap));
//!     request.extensions_mut().insert(Caller::new("svc@contoso.com"));
//!     request
//! };
//! let charges = ThrottlingPolicy::exchange_online().charges();
//! let payer = |request: Request<ReplayBody>| {
//!     let charges = charges.make_charges(&request);
//!     let charge = charges.iter().find(|charge| charge.budget() == Budget::Concurrency);
//!     charge.unwrap().principal().to_string()
//! };
//! let own = payer(call(""));
//! let impersonated = payer(call(
//!     "<t:ExchangeImpersonation><t:ConnectingSID><t:PrimarySmtpAddress>amy@contoso.com</t:PrimarySmtpAddress>\
//!      </t:ConnectingSID></t:ExchangeImpersonation>",
//! ));
//! assert!(own.contains("svc@contoso.com") && impersonated.contains("amy@contoso.com"));
//! ```
//!
#![doc = include_str!("../../docs/policy.md")]
