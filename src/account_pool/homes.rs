//! [`Homes`]: which accounts have which mailboxes open, and who is looking for an account for one.

use std::collections::HashMap;
use std::time::Duration;

use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::extensions::Priority;
use crate::principal::Principal;

/// The numbers of accounts.
pub(super) type Numbers = SmallVec<[usize; 4]>;

/// Fewer are not worth a look for those that can be forgotten.
const FIRST_SWEEP: usize = 1024;

/// Where the mailboxes are open, by the values of charges.
#[derive(Debug)]
pub(super) struct Homes {
    homes: HashMap<Principal, Home>,
    sweep_at: usize,
}

#[derive(Debug)]
struct Home {
    /// Those that have opened it, the last one last.
    accounts: Numbers,
    /// Calls under way.
    in_use: usize,
    last_used: Instant,
    /// A call that looks for an account.
    seeker: Option<(Priority, watch::Receiver<Found>)>,
}

/// The ticket with which a call has found an account. Those that wait for what it finds stand where it stood in the queue.
pub(super) type Found = Option<u64>;

/// Where a call is to go.
#[derive(Debug)]
pub(super) enum HomeLookup {
    /// To one of these accounts, which have the mailbox open.
    Home(Numbers),
    /// Where another call finds room that looks for it. It has done so when the sender is gone, or has sent.
    Sought(watch::Receiver<Found>),
    /// Wherever there is room. Others wait until this is dropped.
    Anywhere(Seeker),
}

/// Held by the call that looks for an account.
#[derive(Debug)]
pub(super) struct Seeker(watch::Sender<Found>);

impl Seeker {
    /// Tells with which ticket an account was found.
    pub(super) fn found(self, ticket: u64) {
        self.0.send_replace(Some(ticket));
    }
}

impl Home {
    fn is_sought(&self) -> bool {
        let seeker = self.seeker.as_ref();
        seeker.is_some_and(|(_, done)| done.has_changed().is_ok())
    }

    fn is_open(&self, stay: Duration, now: Instant) -> bool {
        self.in_use > 0 || !self.accounts.is_empty() && now < self.last_used + stay
    }
}

impl Homes {
    pub(super) fn new() -> Self {
        Self {
            homes: HashMap::new(),
            sweep_at: FIRST_SWEEP,
        }
    }

    /// Says where a call for `value` is to go.
    pub(super) fn look_up(
        &mut self,
        value: &Principal,
        priority: Priority,
        is_available: impl Fn(usize) -> bool,
        stay: Duration,
        now: Instant,
    ) -> HomeLookup {
        self.sweep(stay, now);
        let home = self.homes.entry(value.clone()).or_insert_with(|| Home {
            accounts: Numbers::new(),
            in_use: 0,
            last_used: now,
            seeker: None,
        });
        if !home.is_open(stay, now) {
            home.accounts.clear();
        }
        let accounts = home.accounts.iter().copied();
        let accounts: Numbers = accounts.filter(|account| is_available(*account)).collect();
        if !accounts.is_empty() {
            return HomeLookup::Home(accounts);
        }
        let sought = home.is_sought();
        match &home.seeker {
            // One that is more urgent does not wait for the turn of a less urgent one.
            Some((seeker, done)) if sought && *seeker <= priority => {
                HomeLookup::Sought(done.clone())
            }
            _ => {
                let (sender, done) = watch::channel(None);
                home.seeker = Some((priority, done));
                HomeLookup::Anywhere(Seeker(sender))
            }
        }
    }

    /// A call for `value` was admitted on an account. The others do not have it open if they have `refused` the call.
    pub(super) fn enter(&mut self, value: &Principal, account: usize, refused: bool, now: Instant) {
        let home = self.homes.entry(value.clone()).or_insert_with(|| Home {
            accounts: Numbers::new(),
            in_use: 0,
            last_used: now,
            seeker: None,
        });
        home.accounts.retain(|known| !refused && *known != account);
        home.accounts.push(account);
        home.in_use += 1;
        home.last_used = now;
    }

    /// A call for `value` has ended.
    pub(super) fn leave(&mut self, value: &Principal, now: Instant) {
        if let Some(home) = self.homes.get_mut(value) {
            home.in_use = home.in_use.saturating_sub(1);
            home.last_used = now;
        }
    }

    /// Returns how many mailboxes an account has open.
    pub(super) fn of_account(&self, account: usize, stay: Duration, now: Instant) -> usize {
        let homes = self.homes.values();
        let open = homes.filter(|home| home.is_open(stay, now) && home.accounts.contains(&account));
        open.count()
    }

    /// Forgets what is not open, once there is twice as much as there was after the last time.
    fn sweep(&mut self, stay: Duration, now: Instant) {
        if self.homes.len() < self.sweep_at {
            return;
        }
        self.homes
            .retain(|_, home| home.is_open(stay, now) || home.is_sought());
        self.homes.shrink_to(FIRST_SWEEP);
        self.sweep_at = FIRST_SWEEP.max(2 * self.homes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAY: Duration = Duration::from_secs(300);

    fn look_up(homes: &mut Homes, name: &str, priority: Priority, now: Instant) -> HomeLookup {
        homes.look_up(&Principal::mailbox(name), priority, |_| true, STAY, now)
    }

    #[test]
    fn one_looks_and_the_others_wait_for_what_it_finds() {
        let (mut homes, now) = (Homes::new(), Instant::now());
        let amy = Principal::mailbox("amy");
        let HomeLookup::Anywhere(seeker) = look_up(&mut homes, "amy", Priority::Normal, now) else {
            panic!("nobody has it")
        };
        let HomeLookup::Sought(done) = look_up(&mut homes, "amy", Priority::Bulk, now) else {
            panic!("it is sought")
        };
        let urgent = look_up(&mut homes, "amy", Priority::Interactive, now);
        assert!(matches!(urgent, HomeLookup::Anywhere(_)), "{urgent:?}");
        homes.enter(&amy, 2, false, now);
        assert!(done.has_changed().is_ok());
        seeker.found(7);
        drop(urgent);
        assert!(done.has_changed().is_err());
        assert_eq!(*done.borrow(), Some(7));
        let found = look_up(&mut homes, "amy", Priority::Normal, now);
        assert!(
            matches!(&found, HomeLookup::Home(home) if home[..] == [2]),
            "{found:?}"
        );
        assert_eq!(homes.of_account(2, STAY, now), 1);
        // Left out: another one is sought.
        let elsewhere = homes.look_up(&amy, Priority::Normal, |at| at != 2, STAY, now);
        assert!(matches!(elsewhere, HomeLookup::Anywhere(_)));
    }

    #[test]
    fn a_seeker_that_gives_up_is_followed_by_the_next() {
        let (mut homes, now) = (Homes::new(), Instant::now());
        drop(look_up(&mut homes, "amy", Priority::Normal, now));
        let next = look_up(&mut homes, "amy", Priority::Normal, now);
        assert!(matches!(next, HomeLookup::Anywhere(_)));
    }

    #[test]
    fn a_mailbox_stays_until_it_was_idle_and_a_refusal_moves_it() {
        let (mut homes, start) = (Homes::new(), Instant::now());
        let amy = Principal::mailbox("amy");
        homes.enter(&amy, 0, false, start);
        homes.enter(&amy, 1, false, start);
        let home = |homes: &mut Homes, now| match look_up(homes, "amy", Priority::Normal, now) {
            HomeLookup::Home(home) => home.to_vec(),
            _ => Vec::new(),
        };
        assert_eq!(home(&mut homes, start), [0, 1]);
        homes.enter(&amy, 2, true, start);
        let long = start + 2 * STAY;
        assert_eq!(home(&mut homes, long), [2], "in use");
        for _ in 0..3 {
            homes.leave(&amy, long);
        }
        assert_eq!(home(&mut homes, long + STAY / 2), [2]);
        assert!(home(&mut homes, long + STAY).is_empty());
    }

    #[test]
    fn many_mailboxes_leave_nothing() {
        let (mut homes, start) = (Homes::new(), Instant::now());
        for number in 0..100_000_u64 {
            let mailbox = Principal::mailbox(&number.to_string());
            let now = start + Duration::from_secs(number);
            drop(homes.look_up(&mailbox, Priority::Normal, |_| true, STAY, now));
            homes.enter(&mailbox, 0, false, now);
            homes.leave(&mailbox, now);
        }
        assert!(
            homes.homes.len() <= 2 * FIRST_SWEEP,
            "{}",
            homes.homes.len()
        );
        assert!(homes.homes.capacity() <= 8 * FIRST_SWEEP);
    }
}
