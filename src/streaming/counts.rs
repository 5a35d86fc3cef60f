//! [`Counts`]: how far it is.

/// How many mailboxes are listened to, and by how many connections.
///
/// ```
/// use tower_ews::streaming::Counts;
///
/// assert_eq!(Counts::default().connections, 0);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counts {
    /// Mailboxes that are not [lost](super::Notification::Lost).
    pub mailboxes: usize,
    /// Those that have a subscription.
    pub subscribed: usize,
    /// Groups of mailboxes.
    pub groups: usize,
    /// Connections that are open.
    pub connections: usize,
}
