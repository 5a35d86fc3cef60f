//! [`AffinityGroup`]: subscriptions that have to stay with one server, and the cookie that keeps them there.

use std::sync::Arc;

use http::header::{COOKIE, Entry, HeaderMap, HeaderName, HeaderValue, SET_COOKIE};
use parking_lot::Mutex;

use crate::address::is_bare_address;

const X_ANCHOR_MAILBOX: HeaderName = HeaderName::from_static("x-anchormailbox");
const X_PREFER_SERVER_AFFINITY: HeaderName = HeaderName::from_static("x-preferserveraffinity");
/// It is a cookie, not a header ("How to: Maintain affinity between a group of subscriptions and the Mailbox server").
const OVERRIDE: &str = "X-BackEndOverrideCookie";

/// A request extension: the group of subscriptions that a call belongs to. Clones are the same group.
///
/// All calls of a group, Subscribe first, have one `X-AnchorMailbox`, `X-PreferServerAffinity`, and the
/// `X-BackEndOverrideCookie` that the response to the first one has set. No call of another group has that cookie.
/// [`AnchorHeaders`](crate::anchor_headers) sets the headers of a call that has this extension. Whoever reads the response calls
/// [`learn`](Self::learn). [`streaming`](crate::streaming) does both.
///
/// A client with a jar of cookies must not send the cookie of one group with another's call: most of them, reqwest among them,
/// leave a `Cookie` header alone that is there, so a call without a cookie of its own has one that means nothing to Exchange.
///
/// ```
/// use http::{HeaderMap, HeaderValue};
/// use tower_ews::anchor_headers::AffinityGroup;
///
/// let group = AffinityGroup::new("alfred@contoso.com");
/// let mut first = HeaderMap::new();
/// group.set_headers(&mut first);
/// assert_eq!(first["x-anchormailbox"], "alfred@contoso.com");
///
/// let mut response = HeaderMap::new();
/// response.insert("set-cookie", HeaderValue::from_static("X-BackEndOverrideCookie=be1~7; path=/"));
/// group.learn(&response);
/// let mut second = HeaderMap::new();
/// group.set_headers(&mut second);
/// assert_eq!(second["cookie"], "X-BackEndOverrideCookie=be1~7");
/// assert_eq!(second["x-preferserveraffinity"], "true");
/// ```
#[derive(Clone)]
pub struct AffinityGroup(Arc<Inner>);

struct Inner {
    anchor: Option<HeaderValue>,
    cookie: Mutex<Option<HeaderValue>>,
}

impl AffinityGroup {
    /// Creates a group whose anchor is the mailbox with that address. One that is no bare SMTP address in ASCII is sent without
    /// `X-AnchorMailbox`.
    pub fn new(anchor: &str) -> Self {
        let anchor = is_bare_address(anchor).then(|| HeaderValue::from_str(anchor));
        Self(Arc::new(Inner {
            anchor: anchor.and_then(Result::ok),
            cookie: Mutex::new(None),
        }))
    }

    /// Sets the headers of a call. `X-AnchorMailbox` and a cookie of that name stay where the caller has set them.
    pub fn set_headers(&self, headers: &mut HeaderMap) {
        if let (Entry::Vacant(entry), Some(anchor)) =
            (headers.entry(X_ANCHOR_MAILBOX), &self.0.anchor)
        {
            entry.insert(anchor.clone());
        }
        headers.insert(X_PREFER_SERVER_AFFINITY, HeaderValue::from_static("true"));
        let cookie = self.0.cookie.lock().clone();
        let mut there = headers.get_all(COOKIE).iter();
        if there.any(|line| line.to_str().is_ok_and(|line| line.contains(OVERRIDE))) {
            return;
        }
        let cookie = match (cookie, headers.get(COOKIE)) {
            (Some(cookie), None) => cookie,
            // A request has one line of them.
            (Some(cookie), Some(others)) => {
                let line = [others.as_bytes(), b"; ", cookie.as_bytes()].concat();
                let Ok(mut line) = HeaderValue::from_bytes(&line) else {
                    return;
                };
                line.set_sensitive(true);
                line
            }
            // Exchange ignores this one since 2013. With it a client's jar adds nothing.
            (None, None) => HeaderValue::from_static("exchangecookie=none"),
            (None, Some(_)) => return,
        };
        headers.insert(COOKIE, cookie);
    }

    /// Keeps the cookie that a response sets, if it does.
    pub fn learn(&self, response: &HeaderMap) {
        for line in response.get_all(SET_COOKIE) {
            let pair = line.as_bytes().split(|byte| *byte == b';').next();
            let pair = pair.unwrap_or_default().trim_ascii();
            let name = pair.split(|byte| *byte == b'=').next().unwrap_or_default();
            if name.trim_ascii().eq_ignore_ascii_case(OVERRIDE.as_bytes()) {
                if let Ok(mut cookie) = HeaderValue::from_bytes(pair) {
                    cookie.set_sensitive(true);
                    *self.0.cookie.lock() = Some(cookie);
                }
            }
        }
    }
}

impl std::fmt::Debug for AffinityGroup {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AffinityGroup")
            .field("anchor", &self.0.anchor)
            .field("has_cookie", &self.0.cookie.lock().is_some())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
        let lines = lines.iter().map(|&(name, value)| {
            (
                HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )
        });
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    }

    fn cookies(group: &AffinityGroup, mut headers: HeaderMap) -> Vec<String> {
        group.set_headers(&mut headers);
        let lines = headers.get_all(COOKIE).iter();
        lines
            .map(|line| line.to_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn only_its_own_cookie_is_kept_and_what_the_caller_sets_stays() {
        let group = AffinityGroup::new("alfred@contoso.com");
        assert_eq!(cookies(&group, HeaderMap::new()), ["exchangecookie=none"]);
        assert_eq!(cookies(&group, headers(&[("cookie", "a=b")])), ["a=b"]);
        group.learn(&headers(&[
            ("set-cookie", "exchangecookie=7"),
            ("set-cookie", " x-backendoverridecookie=S~1 ; secure"),
            ("set-cookie", "X-BackEndCookie=no"),
        ]));
        group.learn(&HeaderMap::new());
        let own = "x-backendoverridecookie=S~1";
        assert_eq!(cookies(&group, HeaderMap::new()), [own]);
        assert_eq!(
            cookies(&group, headers(&[("cookie", "a=b")])),
            [format!("a=b; {own}")]
        );
        let set = headers(&[
            ("cookie", "X-BackEndOverrideCookie=mine"),
            ("x-anchormailbox", "me"),
        ]);
        assert_eq!(
            cookies(&group, set.clone()),
            ["X-BackEndOverrideCookie=mine"]
        );
        let mut kept = set;
        group.set_headers(&mut kept);
        assert_eq!(kept["x-anchormailbox"], "me");
        assert!(!format!("{group:?}").contains("S~1"));
        let mut none = HeaderMap::new();
        AffinityGroup::new("/o=Contoso/cn=amy").set_headers(&mut none);
        assert!(!none.contains_key("x-anchormailbox"));
    }
}
