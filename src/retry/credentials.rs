//! [`CredentialMemory`]: which credentials a server has refused, so that nobody repeats a wrong password until the account is
//! locked.

use http::header::AUTHORIZATION;
use http::{Request, StatusCode};
use tokio::time::Instant;

use super::denials::{Denial, Denials, Leave};
use super::recent::Recent;
use crate::errors::{AccessDenied, AccessScope};
use crate::extensions::Caller;

/// One credential of one account for one server. A hash, since credentials are not to be kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Credential(u64);

/// A response extension of a 401: there are other credentials now than those that were refused.
#[cfg(feature = "ews")]
#[derive(Clone, Copy, Debug)]
pub(crate) struct CredentialsChanged;

/// The credentials that a server has refused (401), and those that it took before: a stray refusal of one of these is looked
/// into at once, by one request more.
#[derive(Debug, Default)]
pub(crate) struct CredentialMemory {
    refused: Denials<Credential>,
    good: Recent,
}

impl CredentialMemory {
    pub(crate) fn is_used(&self) -> bool {
        self.refused.are_used()
    }

    /// Returns the credential of a request. Negotiate and NTLM have none: they authenticate connections, with other bytes each
    /// time.
    pub(crate) fn of<B>(&self, request: &Request<B>) -> Option<Credential> {
        let value = request.headers().get(AUTHORIZATION)?.as_bytes();
        let scheme = value.split(|byte| *byte == b' ').next()?;
        let is_kept =
            scheme.eq_ignore_ascii_case(b"basic") || scheme.eq_ignore_ascii_case(b"bearer");
        let account = request.extensions().get::<Caller>().map(Caller::name);
        let server = request.uri().authority().map(|server| server.as_str());
        is_kept.then(|| Credential(self.good.key((server, account, value))))
    }

    /// Fails if the server has refused the credential a short time ago.
    pub(crate) fn check(
        &self,
        credential: Credential,
        now: Instant,
    ) -> Result<Leave, AccessDenied> {
        let checked = self.refused.check(credential, now);
        checked.map_err(|denial| denied(&denial, now))
    }

    /// Remembers a refusal of a request that was sent at `sent`. Returns what its caller is told. Without a credential it only
    /// asks for one.
    pub(crate) fn refused(
        &self,
        credential: Option<Credential>,
        sent: Instant,
        now: Instant,
    ) -> AccessDenied {
        let status = StatusCode::UNAUTHORIZED;
        let denial = match credential {
            Some(credential) => {
                let is_good = self.good.knows(credential.0);
                self.refused.add(credential, status, is_good, sent, now).0
            }
            None => Denial::unremembered(status, now),
        };
        denied(&denial, now)
    }

    /// The server has taken the credential.
    pub(crate) fn granted(&self, credential: Credential) {
        self.good.note(credential.0);
        if self.is_used() {
            self.refused.remove(credential);
        }
    }
}

fn denied(denial: &Denial, now: Instant) -> AccessDenied {
    AccessDenied::new(denial.status, AccessScope::Credential, denial.again_in(now))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn request(authorization: Option<&str>) -> Request<()> {
        let mut request = Request::post("https://mail.contoso.com/EWS/Exchange.asmx");
        if let Some(authorization) = authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(()).unwrap()
    }

    #[test]
    fn another_credential_is_tried_at_once() {
        let (memory, now) = (CredentialMemory::default(), Instant::now());
        let of = |authorization: &str| memory.of(&request(Some(authorization)));
        let wrong = of("Basic d3Jvbmc=");
        let denied = memory.refused(wrong, now, now);
        assert_eq!(*denied.scope(), AccessScope::Credential);
        assert!(memory.check(wrong.unwrap(), now).is_err());
        let right = of("basic cmlnaHQ=").unwrap();
        assert_eq!(memory.check(right, now), Ok(Leave::Free));
        // Another account, or another server, may have the same one.
        let mut other = request(Some("Basic d3Jvbmc="));
        other.extensions_mut().insert(Caller::new("other"));
        assert_ne!(memory.of(&other), wrong);
        let elsewhere =
            Request::get("https://b.contoso.com/").header(AUTHORIZATION, "Basic d3Jvbmc=");
        assert_ne!(memory.of(&elsewhere.body(()).unwrap()), wrong);
        // These only ask for credentials, or authenticate a connection.
        for authorization in [None, Some("NTLM TlRMTQ=="), Some("Negotiate YII=")] {
            let none = memory.of(&request(authorization));
            assert_eq!(none, None);
            assert!(memory.refused(none, now, now).again_in().is_zero());
        }
    }

    #[test]
    fn one_that_was_good_is_asked_once_more() {
        let (memory, now) = (CredentialMemory::default(), Instant::now());
        let credential = memory.of(&request(Some("Bearer x"))).unwrap();
        memory.granted(credential);
        let refused = |after: u64| {
            let at = now + Duration::from_secs(after);
            memory.refused(Some(credential), at, at).again_in()
        };
        assert!(refused(1).is_zero());
        // It was a mishap.
        memory.granted(credential);
        assert!(refused(2).is_zero());
        // This one was none.
        assert_eq!(refused(3), Duration::from_secs(60));
        let later = now + Duration::from_secs(4);
        assert!(memory.check(credential, later).is_err());
    }
}
