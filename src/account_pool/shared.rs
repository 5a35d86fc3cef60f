//! [`Shared`]: what the services of one layer share: the accounts, and where mailboxes are open.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::account::Account;
use super::homes::{Homes, Numbers};
use super::member::{AccountSnapshot, Member};
use super::refusal::Api;
use crate::ledger::Ledger;
use crate::principal::Principal;

/// How long Exchange keeps a mailbox open for an account after its last call (observed; Microsoft gives no number).
const STAY: Duration = Duration::from_secs(5 * 60);

const SPILL_OVER: Duration = Duration::from_secs(30);

/// The settings of a pool, and its accounts.
#[derive(Clone, Debug)]
pub(super) struct Shared<M> {
    pub(super) ledger: Arc<dyn Ledger>,
    pub(super) make_charges: M,
    /// Those that are reserved come last.
    pub(super) members: Vec<Arc<Member>>,
    /// How many are not reserved.
    pub(super) shared_members: usize,
    pub(super) state: Arc<State>,
    /// How long a mailbox stays with an account after its last call.
    pub(super) stay: Duration,
    /// How long a call waits for its mailbox's account alone.
    pub(super) spill_over: Duration,
    pub(super) api: Api,
}

/// What changes.
#[derive(Debug)]
pub(super) struct State {
    pub(super) homes: Mutex<Homes>,
    turn: AtomicUsize,
}

impl State {
    fn new() -> Self {
        Self {
            homes: Mutex::new(Homes::new()),
            turn: AtomicUsize::new(0),
        }
    }
}

impl<M> Shared<M> {
    pub(super) fn new(ledger: Arc<dyn Ledger>, make_charges: M, api: Api) -> Self {
        Self {
            ledger,
            make_charges,
            members: Vec::new(),
            shared_members: 0,
            state: Arc::new(State::new()),
            stay: STAY,
            spill_over: SPILL_OVER,
            api,
        }
    }

    /// Adds an account. Services that were made before do not have it.
    pub(super) fn add(&mut self, account: Account) {
        let at = match account.is_reserved() {
            true => self.members.len(),
            false => self.shared_members,
        };
        self.shared_members += usize::from(!account.is_reserved());
        self.members.insert(at, Arc::new(Member::new(account)));
        self.state = Arc::new(State::new());
    }

    /// Returns the accounts, of those, that may be waited for.
    pub(super) fn available(&self, among: impl Iterator<Item = usize>, now: Instant) -> Numbers {
        let is_available = |number: &usize| {
            let member = self.members.get(*number);
            member.is_some_and(|member| member.is_available(now))
        };
        among.filter(is_available).collect()
    }

    /// Puts those with the fewest calls under way first, and each of those that are equal once in turn.
    pub(super) fn order(&self, numbers: &mut [usize]) {
        if numbers.len() < 2 {
            return;
        }
        let turn = self.state.turn.fetch_add(1, Ordering::Relaxed);
        numbers.rotate_left(turn % numbers.len());
        numbers.sort_by_key(|number| self.members.get(*number).map(|member| member.in_flight()));
    }

    pub(super) fn snapshot(&self) -> Vec<AccountSnapshot> {
        let now = Instant::now();
        let known = self.ledger.snapshot().principals;
        let of_ledger = |name: &str| {
            let mut known = known.iter();
            let account = Principal::account(name);
            let other = Principal::new(name);
            let is_it = |principal: &Principal| *principal == account || *principal == other;
            known.find(|known| is_it(&known.principal)).cloned()
        };
        let homes = self.state.homes.lock();
        let members = self.members.iter().enumerate();
        members
            .map(|(number, member)| AccountSnapshot {
                caller: member.caller().clone(),
                in_flight: member.in_flight(),
                mailboxes: homes.of_account(number, self.stay, now),
                left_out: member.left_out(now),
                ledger: of_ledger(member.caller().name()),
            })
            .collect()
    }
}

/// A call that uses a mailbox.
#[derive(Debug)]
pub(super) struct Visit {
    state: Arc<State>,
    value: Principal,
}

impl Visit {
    /// Begins when a call is admitted on an account. `refused` says that the accounts before it did not let it in.
    pub(super) fn begin(
        state: &Arc<State>,
        value: Principal,
        account: usize,
        refused: bool,
    ) -> Self {
        let mut homes = state.homes.lock();
        homes.enter(&value, account, refused, Instant::now());
        drop(homes);
        Self {
            state: Arc::clone(state),
            value,
        }
    }
}

impl Visit {
    /// Returns the mailbox.
    pub(super) fn value(&self) -> &Principal {
        &self.value
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let mut homes = self.state.homes.lock();
        homes.leave(&self.value, Instant::now());
    }
}
