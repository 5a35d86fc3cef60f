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
    },
    Subscribe {
        member: MemberId,
        at: Place,
        mailbox: Arc<str>,
        route: Route,
    },
    Connect {
        at: Place,
        ids: Vec<Arc<str>>,
        impersonated: Option<Arc<str>>,
        minutes: u64,
        route: Route,
    },
}

/// A group, and which of its lives: its calls of an earlier one count for nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) group: GroupId,
    pub(super) life: u64,
}

/// Where a call goes, and in whose name.
#[derive(Clone, Debug)]
pub(super) struct Route {
    pub(super) affinity: AffinityGroup,
    pub(super) endpoint: Option<Uri>,
    pub(super) caller: Option<Caller>,
}
