//! [`AccessMemory`]: remembers who was refused access, so that a job does not ask ten thousand times.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashMap;
use http::{Request, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::endpoint::endpoint_of;
use crate::errors::{AccessDenied, AccessScope};
use crate::extensions::Caller;
use crate::retry::denials::{Denial, Denials, Leave};

/// How many mailboxes are refused, without one that is not, before it is taken to be about who asks.
const MAILBOXES: u32 = 3;

/// How many accounts are remembered whose mailboxes were refused.
const MAX_CALLERS: usize = 10_000;

/// Who asks, and for which mailbox.
///
/// ```
/// use tower_ews::server_busy_backoff::Access;
///
/// let access = Access::to(Some("amy@contoso.com"));
/// assert_eq!(access.mailbox.as_deref(), Some("amy@contoso.com"));
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Access {
    /// The mailbox that the request is for. None if it is for several: it is not known then which of them is refused.
    pub mailbox: Option<Box<str>>,
    /// A 403 speaks of the mailbox, or of who asks.
    by_mailbox: bool,
}

impl Access {
    /// Creates the access to one mailbox, or to several.
    pub fn to(mailbox: Option<impl Into<Box<str>>>) -> Self {
        Self {
            mailbox: mailbox.map(Into::into),
            by_mailbox: true,
        }
    }

    /// Creates the access that a credential gives. A 401 speaks of that, and a 403 of what was asked for alone.
    ///
    /// ```
    /// use tower_ews::server_busy_backoff::Access;
    ///
    /// assert_ne!(Access::by_credential(), Access::to(None::<&str>));
    /// ```
    pub fn by_credential() -> Self {
        Self {
            mailbox: None,
            by_mailbox: false,
        }
    }
}

/// What a refusal is remembered for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// One mailbox for one account and program.
    Mailbox(u64),
    /// One account and program.
    Caller(u64),
}

/// The refusals (403) of one layer and all its services.
#[derive(Debug, Default)]
pub(super) struct AccessMemory {
    denials: Denials<Key>,
    /// How many mailboxes each account and program was refused since one was not.
    mailboxes: Mutex<HashMap<u64, u32>>,
    hasher: RandomState,
}

/// One request, as the memory knows it.
#[derive(Debug)]
pub(super) struct Asked {
    caller: u64,
    mailbox: Option<(u64, Box<str>)>,
}

impl AccessMemory {
    pub(super) fn is_used(&self) -> bool {
        self.denials.are_used()
    }

    /// Returns what is remembered of a request, if a 403 speaks of more than what it asks for.
    pub(super) fn asked<B>(&self, request: &Request<B>, access: Access) -> Option<Asked> {
        if !access.by_mailbox {
            return None;
        }
        let program = request.headers().get(http::header::USER_AGENT);
        let account = request.extensions().get::<Caller>().map(Caller::name);
        let caller = self
            .hasher
            .hash_one((endpoint_of(request).as_str(), account, program));
        Some(Asked {
            caller,
            mailbox: access.mailbox.map(|mailbox| {
                let mailbox = mailbox.to_ascii_lowercase().into_boxed_str();
                (self.hasher.hash_one((caller, &mailbox)), mailbox)
            }),
        })
    }

    /// Returns why a request is not sent, if the same was refused a short time ago.
    pub(super) fn check(&self, asked: &Asked, now: Instant) -> Result<Leave, AccessDenied> {
        let mut leave = Leave::Free;
        for key in asked.keys() {
            match self.denials.check(key, now) {
                Ok(Leave::Free) => {}
                Ok(Leave::Probe) => leave = Leave::Probe,
                Err(denial) => return Err(denied(&denial, key, asked, now)),
            }
        }
        Ok(leave)
    }

    /// Remembers a refusal of a request that was sent at `sent`. Returns what the caller is told.
    pub(super) fn refused(&self, asked: &Asked, sent: Instant, now: Instant) -> AccessDenied {
        let status = StatusCode::FORBIDDEN;
        let add = |key| self.denials.add(key, status, false, sent, now);
        let caller = Key::Caller(asked.caller);
        let Some((mailbox, _)) = asked.mailbox else {
            return denied(&Denial::unremembered(status, now), caller, asked, now);
        };
        let (denial, is_first) = add(Key::Mailbox(mailbox));
        if is_first && self.one_more_mailbox(asked.caller) >= MAILBOXES {
            return denied(&add(caller).0, caller, asked, now);
        }
        denied(&denial, Key::Mailbox(mailbox), asked, now)
    }

    /// Returns how many mailboxes in a row the caller was refused, with this one.
    fn one_more_mailbox(&self, caller: u64) -> u32 {
        let known = &mut *self.mailboxes.lock();
        if known.len() >= MAX_CALLERS {
            known.clear();
        }
        let mailboxes = known.entry(caller).or_default();
        *mailboxes = mailboxes.saturating_add(1);
        *mailboxes
    }

    /// Forgets refusals, since access was granted.
    pub(super) fn granted(&self, asked: &Asked) {
        self.mailboxes.lock().remove(&asked.caller);
        asked.keys().for_each(|key| self.denials.remove(key));
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.denials.len()
    }
}

impl Asked {
    fn keys(&self) -> impl Iterator<Item = Key> {
        let mailbox = self.mailbox.as_ref().map(|(key, _)| Key::Mailbox(*key));
        [Some(Key::Caller(self.caller)), mailbox]
            .into_iter()
            .flatten()
    }
}

fn denied(denial: &Denial, key: Key, asked: &Asked, now: Instant) -> AccessDenied {
    let scope = match key {
        Key::Mailbox(_) => {
            let mailbox = asked.mailbox.as_ref().map(|(_, mailbox)| mailbox.clone());
            AccessScope::Mailbox(mailbox.unwrap_or_default())
        }
        Key::Caller(_) => AccessScope::Caller,
    };
    AccessDenied::new(denial.status, scope, denial.again_in(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn request() -> Request<()> {
        let request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx");
        request.body(()).unwrap()
    }

    fn asked(memory: &AccessMemory, mailbox: &str) -> Asked {
        memory.asked(&request(), Access::to(Some(mailbox))).unwrap()
    }

    fn forbidden(memory: &AccessMemory, mailbox: &str, now: Instant) -> AccessScope {
        let denied = memory.refused(&asked(memory, mailbox), now, now);
        denied.scope().clone()
    }

    fn is_refused(memory: &AccessMemory, mailbox: &str, now: Instant) -> bool {
        memory.check(&asked(memory, mailbox), now).is_err()
    }

    #[test]
    fn one_mailbox_speaks_for_no_other_and_three_speak_for_all() {
        let (memory, now) = (AccessMemory::default(), Instant::now());
        assert!(!memory.is_used() && !is_refused(&memory, "amy", now));
        let scope = forbidden(&memory, "Amy", now);
        assert_eq!(scope, AccessScope::Mailbox("amy".into()));
        assert!(is_refused(&memory, "amy", now) && !is_refused(&memory, "bob", now));
        // Again the same one.
        forbidden(&memory, "amy", now);
        forbidden(&memory, "bob", now);
        assert!(!is_refused(&memory, "carl", now));
        assert_eq!(forbidden(&memory, "carl", now), AccessScope::Caller);
        assert!(is_refused(&memory, "dora", now));
        // Another account, or another program, is not meant.
        let mut other = request();
        other.extensions_mut().insert(Caller::new("other"));
        let asked = memory.asked(&other, Access::to(Some("dora"))).unwrap();
        assert!(memory.check(&asked, now).is_ok());
        // What has a credential alone is neither refused nor granted with it.
        assert!(memory.asked(&request(), Access::by_credential()).is_none());
    }

    #[test]
    fn one_that_is_granted_says_that_the_others_are_refused_by_themselves() {
        let (memory, now) = (AccessMemory::default(), Instant::now());
        for round in 0..10 {
            let kiosk = format!("kiosk{round}");
            let scope = forbidden(&memory, &kiosk, now);
            assert_eq!(scope, AccessScope::Mailbox((&*kiosk).into()));
            memory.granted(&asked(&memory, "amy"));
        }
        assert!(is_refused(&memory, "kiosk9", now) && !is_refused(&memory, "amy", now));
    }

    #[test]
    fn one_request_asks_again_after_growing_pauses() {
        let (memory, now) = (AccessMemory::default(), Instant::now());
        forbidden(&memory, "amy", now);
        let mut sent = 0;
        for second in 0..24 * 60 * 60 {
            let now = now + Duration::from_secs(second);
            for _ in 0..2 {
                if !is_refused(&memory, "amy", now) {
                    sent += 1;
                    forbidden(&memory, "amy", now);
                }
            }
        }
        // After 1, 2, 4, .. 32 minutes, then every hour.
        assert_eq!(sent, 6 + 22);
        let later = now + Duration::from_secs(25 * 60 * 60);
        assert!(!is_refused(&memory, "amy", later));
        memory.granted(&asked(&memory, "amy"));
        assert_eq!(memory.known(), 0);
    }
}
