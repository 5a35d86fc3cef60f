//! [`Exchange`]: the simulated server, and what it saw.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, StatusCode};

use super::account::AccountRefusal;
use super::budget::Payer;
use super::engine::Engine;
use super::faults::Fault;
use super::policy::Policy;
use super::report::{Call, Report};
use super::xml::Element;

/// The simulated server. Clones are handles of the same one.
///
/// ```
/// use tower_ews::simulator::Exchange;
///
/// let exchange = Exchange::builder().mailbox("anna@contoso.com").build();
/// assert_eq!(exchange.report().calls, 0);
/// ```
#[derive(Clone, Debug)]
pub struct Exchange {
    pub(super) engine: Arc<Engine>,
}

/// An item as the store holds it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() {
/// let exchange = tower_ews::simulator::Exchange::builder().build();
/// let drafts = exchange.items("anna@contoso.com").into_iter().filter(|item| item.folder == "Drafts");
/// assert_eq!(drafts.count(), 0);
/// # }
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoredItem {
    /// Its EWS id.
    pub id: String,
    /// Its kind: `CalendarItem`, `Message`, ...
    pub kind: String,
    /// Its subject, empty when it has none.
    pub subject: String,
    /// The name of its folder.
    pub folder: String,
}

impl Exchange {
    /// What it saw so far.
    pub fn report(&self) -> Report {
        let state = self.engine.state.lock();
        let mut report = state.counters.report.clone();
        report.peak_in_flight = state.budgets.peaks();
        report.peak_hanging = state.budgets.hanging_peaks();
        for item in state
            .store
            .iter()
            .flat_map(|mailbox| mailbox.items.values())
        {
            *report.existing.entry(item.subject()).or_default() += 1;
        }
        report
    }

    /// Starts the counters and the record of calls anew. Items and budgets stay.
    pub fn reset_report(&self) {
        let mut state = self.engine.state.lock();
        state.counters.reset();
        state.budgets.reset_peaks();
    }

    /// Every call that it saw, in order of arrival; the last 200,000 of them.
    pub fn calls(&self) -> Vec<Call> {
        self.engine.state.lock().counters.calls()
    }

    /// What a mailbox holds, by folder and age. Empty when there is no such mailbox.
    pub fn items(&self, mailbox: &str) -> Vec<StoredItem> {
        let state = self.engine.state.lock();
        let Some(mailbox) = state.store.existing(mailbox) else {
            return Vec::new();
        };
        mailbox
            .items
            .iter()
            .map(|(place, item)| StoredItem {
                id: mailbox.item_id(*place),
                kind: item.element.clone(),
                subject: item.subject(),
                folder: mailbox
                    .folders
                    .get(&place.0)
                    .map(|folder| folder.name.clone())
                    .unwrap_or_default(),
            })
            .collect()
    }

    /// Calls of this payer that are in flight now.
    pub fn in_flight(&self, payer: &Payer) -> u32 {
        self.engine.state.lock().budgets.in_flight(payer)
    }

    /// Subscriptions that this payer has now. Where the mailbox pays it is the payer's copy.
    pub fn subscriptions(&self, payer: &Payer) -> usize {
        let now = self.engine.policy_time(self.engine.now());
        self.engine.state.lock().subscriptions.of(payer, now)
    }

    /// Loses all subscriptions, as a server does that is restarted.
    pub fn lose_subscriptions(&self) {
        self.engine.state.lock().subscriptions.clear();
    }

    /// Loses the subscriptions to one mailbox.
    pub fn lose_subscriptions_of(&self, mailbox: &str) {
        let state = &mut *self.engine.state.lock();
        if let Some(index) = state.store.index(mailbox) {
            state.subscriptions.clear_of(index);
        }
    }

    /// Moves a mailbox to the next of the [servers](super::Builder::servers). Its subscriptions are lost.
    pub fn move_mailbox(&self, mailbox: &str) {
        let state = &mut *self.engine.state.lock();
        if let Some(index) = state.store.index(mailbox) {
            state.affinity.move_on(index);
            state.subscriptions.clear_of(index);
        }
    }

    /// Puts a message into a mailbox's inbox, as if it had come by mail, and returns its id. None if there is no such
    /// mailbox.
    pub fn deliver(&self, mailbox: &str, subject: &str) -> Option<String> {
        let state = &mut *self.engine.state.lock();
        let index = state.store.find(mailbox)?;
        let mailbox = state.store.get_mut(index)?;
        let inbox = mailbox.distinguished("inbox")?;
        let fields = vec![Element::types("Subject", subject)];
        let key = mailbox.add_item(inbox, "Message".to_owned(), fields);
        Some(mailbox.item_id(key))
    }

    /// The account does not work from now on, or works again.
    pub fn refuse_account(&self, account: &str, refusal: impl Into<Option<AccountRefusal>>) {
        let refused = &mut self.engine.state.lock().refused;
        let account = account.to_lowercase();
        match refusal.into() {
            Some(refusal) => refused.insert(account, refusal),
            None => refused.remove(&account),
        };
    }

    /// Locks a payer out for that long, in policy time, as if it had used its busy budget up. Calls meanwhile do not prolong it.
    pub fn lock_out(&self, payer: &Payer, time: Duration) {
        let until = self.engine.policy_time(self.engine.now()) + time;
        self.engine.state.lock().budgets.lock_out(payer, until);
    }

    /// The policy that it enforces.
    pub fn policy(&self) -> &Policy {
        &self.engine.policy
    }

    /// The next call that has nothing scripted yet suffers this.
    pub fn inject(&self, fault: Fault) {
        self.engine.state.lock().faults.push(fault);
    }

    /// The next call that has nothing scripted yet gets this response.
    pub fn respond_next(&self, status: StatusCode, headers: HeaderMap, body: impl Into<Bytes>) {
        self.inject(Fault::Response {
            status,
            headers,
            body: body.into(),
        });
    }
}
