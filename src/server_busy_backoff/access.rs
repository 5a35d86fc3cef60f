//! [`AccessMemory`]: remembers who was refused access, so that a job does not ask ten thousand times.

use std::hash::{BuildHasher, RandomState};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use hashbrown::HashMap;
use http::{Request, StatusCode};
use parking_lot::Mutex;
use tokio::time::Instant;

use super::endpoint::endpoint_of;
use crate::errors::{AccessDenied, AccessScope};
use crate::extensions::Caller;

/// How long nobody asks again after the first refusal, and at most. The wait doubles with each refusal in between. A change
/// of Exchange Online's settings takes up to a day to become effective, so asking more often would not help.
const FIRST_PAUSE: Duration = Duration::from_secs(60);
const LONGEST_PAUSE: Duration = Duration::from_secs(60 * 60);

/// How many mailboxes are refused, without one that is not, before it is taken to be about who asks.
const MAILBOXES: u32 = 3;

/// How many refusals are remembered.
const MAX_KNOWN: usize = 10_000;

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
}

impl Access {
    /// Creates the access to one mailbox, or to several.
    pub fn to(mailbox: Option<impl Into<Box<str>>>) -> Self {
        Self {
            mailbox: mailbox.map(Into::into),
        }
    }
}

/// What a refusal is remembered for. Hashes, since credentials are not to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Key {
    /// One mailbox for one account and program.
    Mailbox(u64),
    /// One account and program.
    Caller(u64),
    /// One account and program with one credential.
    Credential(u64),
}

#[derive(Clone, Copy, Debug)]
struct Denial {
    status: StatusCode,
    pause: Duration,
    /// One request is sent then, to see whether it still is refused.
    ask_again_at: Instant,
}

#[derive(Debug, Default)]
struct Table {
    denials: HashMap<Key, Denial>,
    /// How many mailboxes each account and program was refused since one was not.
    mailboxes: HashMap<u64, u32>,
}

/// The refusals of one layer and all its services.
#[derive(Debug, Default)]
pub(super) struct AccessMemory {
    table: Mutex<Table>,
    /// Whether anybody was ever refused. Until then no call pays for it.
    used: AtomicBool,
    hasher: RandomState,
}

/// One request, as the memory knows it.
#[derive(Debug)]
pub(super) struct Asked {
    caller: u64,
    credential: Option<u64>,
    mailbox: Option<(u64, Box<str>)>,
}

impl AccessMemory {
    pub(super) fn is_used(&self) -> bool {
        self.used.load(Ordering::Relaxed)
    }

    pub(super) fn asked<B>(&self, request: &Request<B>, access: Access) -> Asked {
        let headers = request.headers();
        let program = headers.get(http::header::USER_AGENT);
        let account = request.extensions().get::<Caller>().map(Caller::name);
        let caller = self
            .hasher
            .hash_one((endpoint_of(request).as_str(), account, program));
        // Negotiate and NTLM authenticate connections, with other bytes each time.
        let credential = headers.get(http::header::AUTHORIZATION).filter(|value| {
            let scheme = value.as_bytes().split(|byte| *byte == b' ').next();
            scheme.is_some_and(|scheme| {
                scheme.eq_ignore_ascii_case(b"basic") || scheme.eq_ignore_ascii_case(b"bearer")
            })
        });
        Asked {
            caller,
            credential: credential.map(|value| self.hasher.hash_one((caller, value))),
            mailbox: access.mailbox.map(|mailbox| {
                let mailbox = mailbox.to_ascii_lowercase().into_boxed_str();
                (self.hasher.hash_one((caller, &mailbox)), mailbox)
            }),
        }
    }

    /// Returns why a request is not sent, if the same was refused a short time ago.
    pub(super) fn check(&self, asked: &Asked, now: Instant) -> Result<(), AccessDenied> {
        let table = &mut *self.table.lock();
        for key in asked.keys() {
            let Some(denial) = table.denials.get_mut(&key) else {
                continue;
            };
            if now < denial.ask_again_at {
                return Err(denied(denial, key, asked, now));
            }
            // This one asks. Others wait for what it hears.
            denial.ask_again_at = now + denial.pause;
        }
        Ok(())
    }

    /// Remembers a refusal. Returns what the caller is told.
    pub(super) fn refused(&self, asked: &Asked, status: StatusCode, now: Instant) -> AccessDenied {
        self.used.store(true, Ordering::Relaxed);
        let table = &mut *self.table.lock();
        table.forget(now);
        let mut key = asked.narrowest(status);
        if let Some(known) = key {
            let is_new = !table.denials.contains_key(&known);
            table.deny(known, status, now);
            if let (Key::Mailbox(_), true) = (known, is_new) {
                let mailboxes = table.mailboxes.entry(asked.caller).or_default();
                *mailboxes += 1;
                if *mailboxes >= MAILBOXES {
                    key = Some(Key::Caller(asked.caller));
                    table.deny(Key::Caller(asked.caller), status, now);
                }
            }
        }
        let unknown = Denial {
            status,
            pause: Duration::ZERO,
            ask_again_at: now,
        };
        let denial = key.and_then(|key| table.denials.get(&key)).copied();
        let key = key.unwrap_or(Key::Caller(asked.caller));
        denied(&denial.unwrap_or(unknown), key, asked, now)
    }

    /// Forgets refusals, since access was granted.
    pub(super) fn granted(&self, asked: &Asked) {
        let table = &mut *self.table.lock();
        table.mailboxes.remove(&asked.caller);
        for key in asked.keys() {
            table.denials.remove(&key);
        }
    }

    #[cfg(test)]
    fn known(&self) -> usize {
        self.table.lock().denials.len()
    }
}

impl Asked {
    fn keys(&self) -> impl Iterator<Item = Key> {
        let credential = self.credential.map(Key::Credential);
        let mailbox = self.mailbox.as_ref().map(|(key, _)| Key::Mailbox(*key));
        let caller = Some(Key::Caller(self.caller));
        [credential, caller, mailbox].into_iter().flatten()
    }

    /// What a refusal is about, as far as one of them can tell. A 401 without a credential only asks for one.
    fn narrowest(&self, status: StatusCode) -> Option<Key> {
        match status {
            StatusCode::UNAUTHORIZED => self.credential.map(Key::Credential),
            _ => self.mailbox.as_ref().map(|(key, _)| Key::Mailbox(*key)),
        }
    }
}

impl Table {
    fn deny(&mut self, key: Key, status: StatusCode, now: Instant) {
        let pause = match self.denials.get(&key) {
            Some(known) => (known.pause * 2).min(LONGEST_PAUSE),
            None => FIRST_PAUSE,
        };
        let denial = Denial {
            status,
            pause,
            ask_again_at: now + pause,
        };
        self.denials.insert(key, denial);
    }

    /// Forgets what nobody has asked about for long, or everything, when there is too much of it.
    fn forget(&mut self, now: Instant) {
        if self.denials.len() + 2 <= self.denials.capacity() {
            return;
        }
        self.denials
            .retain(|_, denial| denial.ask_again_at + LONGEST_PAUSE > now);
        if self.denials.len() >= MAX_KNOWN {
            self.denials.clear();
        }
        if self.mailboxes.len() >= MAX_KNOWN {
            self.mailboxes.clear();
        }
    }
}

fn denied(denial: &Denial, key: Key, asked: &Asked, now: Instant) -> AccessDenied {
    let scope = match key {
        Key::Mailbox(_) => {
            let mailbox = asked.mailbox.as_ref().map(|(_, mailbox)| mailbox.clone());
            AccessScope::Mailbox(mailbox.unwrap_or_default())
        }
        Key::Caller(_) => AccessScope::Caller,
        Key::Credential(_) => AccessScope::Credential,
    };
    let again_in = denial.ask_again_at.saturating_duration_since(now);
    AccessDenied::new(denial.status, scope, again_in)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(authorization: Option<&str>) -> Request<()> {
        let mut request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx");
        if let Some(authorization) = authorization {
            request = request.header("authorization", authorization);
        }
        request.body(()).unwrap()
    }

    fn forbidden(memory: &AccessMemory, mailbox: &str, now: Instant) -> AccessScope {
        let asked = memory.asked(&request(None), Access::to(Some(mailbox)));
        let denied = memory.refused(&asked, StatusCode::FORBIDDEN, now);
        denied.scope().clone()
    }

    fn is_refused(memory: &AccessMemory, mailbox: &str, now: Instant) -> bool {
        let asked = memory.asked(&request(None), Access::to(Some(mailbox)));
        memory.check(&asked, now).is_err()
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
        let mut other = request(None);
        other.extensions_mut().insert(Caller::new("other"));
        let asked = memory.asked(&other, Access::to(Some("dora")));
        assert!(memory.check(&asked, now).is_ok());
    }

    #[test]
    fn one_that_is_granted_says_that_the_others_are_refused_by_themselves() {
        let (memory, now) = (AccessMemory::default(), Instant::now());
        for round in 0..10 {
            let kiosk = format!("kiosk{round}");
            let scope = forbidden(&memory, &kiosk, now);
            assert_eq!(scope, AccessScope::Mailbox((&*kiosk).into()));
            let good = memory.asked(&request(None), Access::to(Some("amy")));
            memory.granted(&good);
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
        let asked = memory.asked(&request(None), Access::to(Some("amy")));
        memory.granted(&asked);
        assert_eq!(memory.known(), 0);
    }

    #[test]
    fn another_credential_is_tried_at_once() {
        let (memory, now) = (AccessMemory::default(), Instant::now());
        let asked = |authorization: Option<&str>| {
            memory.asked(&request(authorization), Access::to(Some("amy")))
        };
        let wrong = asked(Some("Basic d3Jvbmc="));
        let denied = memory.refused(&wrong, StatusCode::UNAUTHORIZED, now);
        assert_eq!(*denied.scope(), AccessScope::Credential);
        assert!(memory.check(&wrong, now).is_err());
        assert!(memory.check(&asked(Some("basic cmlnaHQ=")), now).is_ok());
        assert!(memory.check(&asked(None), now).is_ok());
        // These only ask for credentials, or authenticate a connection.
        for authorization in [None, Some("NTLM TlRMTQ=="), Some("Negotiate YII=")] {
            let asked = asked(authorization);
            let denied = memory.refused(&asked, StatusCode::UNAUTHORIZED, now);
            assert!(denied.again_in().is_zero());
            assert!(memory.check(&asked, now).is_ok());
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (memory, now) = (AccessMemory::default(), Instant::now());
        for number in 0..50_000 {
            let host = format!("https://host{number}.contoso.com/EWS/Exchange.asmx");
            let request = Request::post(host).body(()).unwrap();
            let asked = memory.asked(&request, Access::to(Some("amy")));
            memory.refused(&asked, StatusCode::FORBIDDEN, now);
        }
        assert!(memory.known() <= 2 * MAX_KNOWN, "{}", memory.known());
    }
}
