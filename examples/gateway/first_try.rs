//! Keeps a wrong password from locking its account out.
//!
//! Some clients take a 401 for "later", and ask again and again (exchangelib). So a credential that the server has refused is
//! not sent again for a minute; another one, of the same account too, is sent at once. And a credential that is new goes to the
//! server in one request first: the twenty 401s of a client that begins with twenty calls would lock the account out, too.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::StatusCode;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, timeout};

/// A server says 401 at once, so a call that takes longer is let in: the others need not wait for it.
const LONGEST_WAIT: Duration = Duration::from_secs(2);

/// How long a refused credential is not sent.
const REFUSED_FOR: Duration = Duration::from_secs(60);

/// How many credentials are remembered. When there are more, all are forgotten.
const MAX_KNOWN: usize = 10_000;

/// What the server has said of credentials, by their hashes.
#[derive(Debug, Default)]
pub(crate) struct FirstTries {
    known: Mutex<HashMap<u64, Arc<Try>>>,
}

#[derive(Debug)]
struct Try {
    word: Mutex<Word>,
    alone: Arc<Semaphore>,
}

#[derive(Clone, Copy, Debug)]
enum Word {
    None,
    LetIn,
    RefusedUntil(Instant),
}

/// The turn of one call.
#[derive(Debug)]
pub(crate) struct Turn {
    tried: Arc<Try>,
    /// None if the credential is known to be good, or if the call has waited long enough.
    _alone: Option<OwnedSemaphorePermit>,
}

/// The server has refused the credential, and nothing is sent with it for so long.
#[derive(Debug, thiserror::Error)]
#[error(
    "the server refused these credentials a short time ago, and they are not sent again for {} s, so that the account is not \
     locked out: other ones are tried at once",
    .0.as_secs() + 1
)]
pub(crate) struct Refused(pub(crate) Duration);

impl FirstTries {
    /// Waits while another call tries the same credential for the first time, two seconds at most.
    pub(crate) async fn turn(&self, credential: u64) -> Result<Turn, Refused> {
        let tried = self.tried(credential);
        let alone = match tried.is_let_in()? {
            true => None,
            false => {
                let alone = timeout(LONGEST_WAIT, Arc::clone(&tried.alone).acquire_owned()).await;
                let is_let_in = tried.is_let_in()?;
                alone.ok().and_then(Result::ok).filter(|_| !is_let_in)
            }
        };
        Ok(Turn {
            tried,
            _alone: alone,
        })
    }

    fn tried(&self, credential: u64) -> Arc<Try> {
        let known = &mut *self.known.lock();
        if known.len() >= MAX_KNOWN && !known.contains_key(&credential) {
            known.clear();
        }
        let new = || {
            Arc::new(Try {
                word: Mutex::new(Word::None),
                alone: Arc::new(Semaphore::new(1)),
            })
        };
        Arc::clone(known.entry(credential).or_insert_with(new))
    }
}

impl Try {
    fn is_let_in(&self) -> Result<bool, Refused> {
        let word = &mut *self.word.lock();
        match *word {
            Word::None => Ok(false),
            Word::LetIn => Ok(true),
            Word::RefusedUntil(until) => {
                let left = until.saturating_duration_since(Instant::now());
                if !left.is_zero() {
                    return Err(Refused(left));
                }
                *word = Word::None;
                Ok(false)
            }
        }
    }
}

impl Turn {
    /// Takes note of the server's response.
    pub(crate) fn responded(self, status: StatusCode) {
        *self.tried.word.lock() = match status {
            StatusCode::UNAUTHORIZED => Word::RefusedUntil(Instant::now() + REFUSED_FOR),
            _ => Word::LetIn,
        };
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[derive(Default)]
    struct Server {
        now: AtomicUsize,
        most: AtomicUsize,
        asked: AtomicUsize,
    }

    async fn call(tries: Arc<FirstTries>, server: Arc<Server>, status: StatusCode) -> bool {
        let Ok(turn) = tries.turn(7).await else {
            return false;
        };
        server.asked.fetch_add(1, Ordering::Relaxed);
        let now = server.now.fetch_add(1, Ordering::Relaxed) + 1;
        server.most.fetch_max(now, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(10)).await;
        server.now.fetch_sub(1, Ordering::Relaxed);
        turn.responded(status);
        true
    }

    async fn twenty(tries: &Arc<FirstTries>, status: StatusCode) -> (usize, usize) {
        let server = Arc::new(Server::default());
        let calls = (0..20).map(|_| tokio::spawn(call(tries.clone(), server.clone(), status)));
        for task in calls.collect::<Vec<_>>() {
            task.await.unwrap();
        }
        (
            server.asked.load(Ordering::Relaxed),
            server.most.load(Ordering::Relaxed),
        )
    }

    #[tokio::test(start_paused = true)]
    async fn a_wrong_password_is_asked_for_once_a_minute() {
        let tries = Arc::new(FirstTries::default());
        assert_eq!(twenty(&tries, StatusCode::UNAUTHORIZED).await, (1, 1));
        tokio::time::sleep(REFUSED_FOR / 2).await;
        assert_eq!(twenty(&tries, StatusCode::UNAUTHORIZED).await, (0, 0));
        assert!(tries.turn(8).await.is_ok(), "another credential");
        tokio::time::sleep(REFUSED_FOR).await;
        assert_eq!(twenty(&tries, StatusCode::UNAUTHORIZED).await, (1, 1));
    }

    #[tokio::test(start_paused = true)]
    async fn a_good_credential_goes_alone_only_once() {
        let tries = Arc::new(FirstTries::default());
        let (asked, most) = twenty(&tries, StatusCode::OK).await;
        assert_eq!((asked, most), (20, 19));
        assert_eq!(
            twenty(&tries, StatusCode::SERVICE_UNAVAILABLE).await,
            (20, 20)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_first_call_does_not_hold_up_the_others() {
        let tries = FirstTries::default();
        let _first = tries.turn(7).await;
        let begun = Instant::now();
        let _second = tries.turn(7).await;
        assert_eq!(begun.elapsed(), LONGEST_WAIT);
        let _other = tries.turn(8).await;
        assert_eq!(begun.elapsed(), LONGEST_WAIT);
    }

    #[tokio::test]
    async fn what_is_remembered_is_bounded() {
        let tries = FirstTries::default();
        for credential in 0..30_000 {
            drop(tries.turn(credential).await);
        }
        assert!(tries.known.lock().len() <= MAX_KNOWN);
    }
}
