//! What the operations do.

mod attachments;
mod catalog;
mod context;
mod delegates;
mod directory;
mod discovery;
mod dispatch;
mod find;
mod folder_moves;
mod folders;
mod items;
mod notifications;
mod response;
mod restriction;
mod sync;
mod touched;
mod transfer;

pub(super) use self::catalog::Operation;
pub(super) use self::context::{Context, Scratch};
pub(super) use self::response::OperationResponse;
pub(super) use self::touched::touched;
