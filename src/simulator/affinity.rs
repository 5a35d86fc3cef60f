//! [`Affinity`]: which server has which mailbox, and the cookies that keep a client with one.

use std::collections::HashMap;

use http::header::{COOKIE, HeaderMap, HeaderValue};

use super::report::Counters;

const COOKIE_NAME: &str = "X-BackEndOverrideCookie";

/// The servers, and the cookies that they have set.
#[derive(Debug)]
pub(super) struct Affinity {
    servers: usize,
    /// Mailboxes that are not where they were at first.
    moved: HashMap<usize, usize>,
    cookies: Vec<Cookie>,
}

#[derive(Debug)]
struct Cookie {
    server: usize,
    /// The anchor of the call that it was set for.
    anchor: String,
}

/// Where a call is executed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Route {
    pub(super) server: usize,
    /// The cookie that it came with, or that its response sets.
    pub(super) cookie: Option<usize>,
    sets: bool,
}

impl Affinity {
    pub(super) fn new(servers: usize) -> Self {
        Self {
            servers: servers.max(1),
            moved: HashMap::new(),
            cookies: Vec::new(),
        }
    }

    /// The server that has a mailbox.
    pub(super) fn server_of(&self, mailbox: usize) -> usize {
        let at_first = mailbox % self.servers;
        self.moved.get(&mailbox).copied().unwrap_or(at_first)
    }

    /// Moves a mailbox to the next server.
    pub(super) fn move_on(&mut self, mailbox: usize) {
        let next = (self.server_of(mailbox) + 1) % self.servers;
        self.moved.insert(mailbox, next);
    }

    /// What Autodiscover says of a mailbox's server.
    pub(super) fn grouping(&self, mailbox: usize) -> String {
        format!("site{:02}", self.server_of(mailbox) + 1)
    }

    /// Where a call goes: to its cookie's server, if it is one on subscriptions, else to that of its
    /// anchor, else to that of its own mailbox. `find` finds a mailbox by its address.
    pub(super) fn route(
        &mut self,
        headers: &HeaderMap,
        of_subscriptions: bool,
        find: impl Fn(&str) -> Option<usize>,
        effective: Option<usize>,
        counters: &mut Counters,
    ) -> Route {
        let anchor = headers.get("x-anchormailbox").map(HeaderValue::to_str);
        let anchor = anchor.and_then(Result::ok).map(str::to_lowercase);
        let mailbox = anchor.as_deref().and_then(find).or(effective);
        let home = mailbox.map_or(0, |mailbox| self.server_of(mailbox));
        if !of_subscriptions || !prefers(headers) {
            return Route {
                server: home,
                ..Route::default()
            };
        }
        let number = cookie(headers).and_then(|value| value.rsplit_once('~')?.1.parse().ok());
        let known = number.and_then(|number: usize| Some((number, self.cookies.get(number)?)));
        if let Some((number, cookie)) = known {
            if anchor
                .as_ref()
                .is_some_and(|anchor| *anchor != cookie.anchor)
            {
                counters.report.foreign_cookies += 1;
            }
            return Route {
                server: cookie.server,
                cookie: Some(number),
                sets: false,
            };
        }
        self.cookies.push(Cookie {
            server: home,
            anchor: anchor.unwrap_or_default(),
        });
        Route {
            server: home,
            cookie: Some(self.cookies.len() - 1),
            sets: true,
        }
    }

    /// The cookie that the response of a call sets.
    pub(super) fn set_cookie(&self, route: &Route) -> Option<HeaderValue> {
        let number = route.cookie.filter(|_| route.sets)?;
        let server = route.server + 1;
        let value = format!(
            "{COOKIE_NAME}=simbe{server:02}.simulator.invalid~{number}; path=/; secure; HttpOnly"
        );
        HeaderValue::try_from(value).ok()
    }
}

/// Whether the call asks to stay with one server.
pub(super) fn prefers(headers: &HeaderMap) -> bool {
    let header = headers.get("x-preferserveraffinity");
    header.is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"true"))
}

fn cookie(headers: &HeaderMap) -> Option<&str> {
    let lines = headers.get_all(COOKIE).iter();
    let mut cookies = lines
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(|cookie| cookie.trim().split_once('='));
    cookies
        .find(|(name, _)| name.eq_ignore_ascii_case(COOKIE_NAME))
        .map(|(_, value)| value)
}
