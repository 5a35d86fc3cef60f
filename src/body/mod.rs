//! Request bodies that can be sent again, and the layer that makes one of any body.

mod buffer_request;
#[cfg(feature = "ews")]
mod outline;
mod replay;
pub(crate) mod rope;
#[cfg(test)]
mod tests;

pub use self::buffer_request::{
    BufferRequest, BufferRequestError, BufferRequestFuture, BufferRequestLayer,
};
pub(crate) use self::buffer_request::{LookedAt, encoding};
pub use self::replay::ReplayBody;
pub use self::rope::{Rope, RopeIntoIter};
