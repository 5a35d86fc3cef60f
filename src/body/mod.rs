//! Request bodies that can be sent again, and the layer that makes one of any body.

pub(crate) mod boxed_errors;
mod buffer_request;
pub(crate) mod client;
pub(crate) mod collected;
pub(crate) mod either;
pub(crate) mod forward;
pub(crate) mod frame_buffer;
#[cfg(any(feature = "ews", feature = "graph"))]
pub(crate) mod inflate;
#[cfg(feature = "ews")]
pub(crate) mod inflate_body;
#[cfg(feature = "ews")]
mod invalid_characters;
#[cfg(feature = "ews")]
mod outline;
mod replay;
pub(crate) mod rope;
#[cfg(test)]
mod tests;
mod watch;

pub(crate) use self::buffer_request::encoding;
pub use self::buffer_request::{
    BufferRequest, BufferRequestError, BufferRequestFuture, BufferRequestLayer,
};
#[cfg(feature = "ews")]
#[cfg_attr(docsrs, doc(cfg(feature = "ews")))]
pub use self::invalid_characters::InvalidCharacters;
pub use self::replay::ReplayBody;
pub use self::rope::{Rope, RopeIntoIter};
pub(crate) use self::watch::BodyWatch;
