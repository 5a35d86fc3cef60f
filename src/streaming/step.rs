//! [`Step`]: what is to be done next.

use std::sync::Arc;

use http::Uri;

use crate::affinity::AffinityGroup;
use crate::extensions::Caller;

/// A mailbox, by its number.
pub(super) type MemberId = usize;
/// A group, by its number.
pub(super) type GroupId = u64;

/// A call that is to be made.
#[derive(Debug)]
pub(super) enum Step {
    Locate {
        members: Vec<MemberId>,
        mailboxes: Vec<Arc<str>>,
        /// What is remembered of them was wrong.
        fresh: bool,
        /// Calls that were begun at once have the same.
        round: u64,
    },
    Subscribe {
        member: MemberId,
        group: GroupId,
        mailbox: Arc<str>,
        route: Route,
    },
    /// Asks for the events of a pull subscription.
    Poll {
        member: MemberId,
        group: GroupId,
        mailbox: Arc<str>,
        id: Arc<str>,
        watermark: Box<str>,
        route: Route,
    },
    /// Ends a subscription that nobody wants any more.
    Unsubscribe {
        mailbox: Arc<str>,
        id: Arc<str>,
        route: Route,
    },
    Connect {
        group: GroupId,
        /// Which of the group's connections.
        number: u64,
        ids: Vec<Arc<str>>,
        impersonated: Option<Arc<str>>,
        minutes: u64,
        route: Route,
    },
}

/// Where a call goes, and in whose name.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) affinity: AffinityGroup,
    pub(super) endpoint: Option<Uri>,
    pub(super) caller: Option<Caller>,
}
