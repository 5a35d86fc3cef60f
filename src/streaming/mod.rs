//! Listens to thousands of mailboxes: streaming notifications, grouped, reconnected and resubscribed.

mod agenda;
mod calls;
mod connection;
mod end;
mod group;
mod locate;
mod member;
mod notification;
mod notifications;
mod plan;
mod settings;
mod step;
mod subscriptions;

pub use self::locate::{Autodiscover, LocateMailboxes, Location, Locations};
pub use self::notification::{Notification, SubscriptionError};
pub use self::notifications::Notifications;
pub use self::plan::Counts;
pub use self::subscriptions::Subscriptions;
pub use crate::soap::notifications::{EventKind, ItemEvent};
