//! [`Overflow`]: what happens when the queue is full.

/// What happens to a record for which the queue has no room.
///
/// ```
/// use tower_ews::audit_log::{JsonLinesSink, Overflow};
///
/// let builder = JsonLinesSink::builder().overflow(Overflow::Block);
/// # let _ = builder;
/// assert_eq!(Overflow::default(), Overflow::Drop);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Overflow {
    /// The record is dropped, and counted in [`JsonLinesSink::lost`](super::JsonLinesSink::lost).
    #[default]
    Drop,
    /// The call waits until there is room, and blocks the thread that it runs on. No record is lost,
    /// but a disk that hangs stops the program.
    Block,
}
