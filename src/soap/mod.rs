//! What EWS says on the wire: the only module that knows element names.
//!
//! [`outline`] finds the byte ranges of a request that matter, [`response`] the faults and response
//! messages of a response, [`operation`] and [`code`] are tables of what Microsoft publishes about
//! operations and response codes, and [`item_id`] tells whose an item id is. All of it takes bytes
//! from strangers: nothing here panics, and nothing resolves an entity that it was not born with.
//!
//! ```
//! use tower_ews::soap::{Operation, Outline};
//!
//! let body = br#"<s:Envelope xmlns:s="http://schemas.xmlsoap.org/soap/envelope/"><s:Body>
//!   <GetItem xmlns="http://schemas.microsoft.com/exchange/services/2006/messages">
//!     <ItemIds><ItemId Id="AAMk1"/><ItemId Id="AAMk2"/></ItemIds>
//!   </GetItem></s:Body></s:Envelope>"#;
//! let outline = Outline::parse(body)?;
//! assert_eq!(outline.operation(), Some(Operation::GET_ITEM));
//! let members = outline.array().unwrap().members();
//! assert_eq!(&body[members[1].clone()], br#"<ItemId Id="AAMk2"/>"#);
//! # Ok::<(), tower_ews::soap::OutlineError>(())
//! ```
pub(crate) mod autodiscover;
mod back_off;
pub(crate) mod batch;
mod bindings;
pub(crate) mod characters;
pub mod code;
mod code_class;
mod code_table;
mod disposition;
mod elements;
pub(crate) mod envelopes;
mod find;
mod found_rows;
mod header;
pub mod item_id;
mod levels;
pub(crate) mod lists;
pub(crate) mod member_status;
pub(crate) mod merge;
mod message;
pub(crate) mod namespaces;
pub(crate) mod notification_request;
pub(crate) mod notifications;
pub mod operation;
mod operation_facts;
mod operation_table;
pub mod outline;
mod outline_error;
pub(crate) mod page_request;
pub(crate) mod page_response;
mod policy_part;
mod recovery_time;
pub mod response;
mod scanner;
pub(crate) mod sent;
mod skim;
mod space;
mod subscription;
mod tag;
mod targets;
pub(crate) mod truncation;
mod xml;

pub use self::characters::InvalidCharacter;
pub(crate) use self::found_rows::FoundRows;
pub(crate) use self::policy_part::policy_part;
pub use self::recovery_time::RecoveryTime;
pub(crate) use self::subscription::{SubscriptionRequest, SubscriptionResponse};
pub use self::targets::Targets;
#[doc(no_inline)]
pub use self::{
    code::{CodeClass, Outcome, ResponseCode},
    operation::{Operation, OperationIdempotency, Split},
    outline::{ConnectingSid, Outline, OutlineError, SidKind},
    response::{ResponseClass, ResponseMessage, ResponseScanner, ScanError, SoapResponse},
};
