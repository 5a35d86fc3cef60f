//! [`SyncPages`]: follows the pages of a synchronisation, and makes one response of them.

use std::collections::HashSet;
use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;

use bytes::Bytes;
use http::{Response, response};
use tower::BoxError;

use super::body::Pages;
use super::calls::{Calls, Fetched};
use super::errors::{NextPage, PageFailure};
use super::report::PagingReport;
use crate::body::ReplayBody;
use crate::body::collected::remove_body_headers;
use crate::retry::MAX_LOSS_RETRIES;
use crate::soap::namespaces::Namespaces;
use crate::soap::page_request::SyncRequest;
use crate::soap::page_response::{PageResponse, SyncPage, splice};

/// One request, and what has come so far. The state comes before the changes, so that nothing can be handed out before the
/// last page is there.
pub(super) struct SyncPages {
    calls: Calls,
    request: SyncRequest,
}

/// How many pages in a row may have no change. Each of them brings a new state.
const MAX_EMPTY: u32 = 100;

impl SyncPages {
    pub(super) fn new(calls: Calls, request: SyncRequest) -> Self {
        Self { calls, request }
    }

    pub(super) async fn respond(mut self) -> Result<Response<Pages>, BoxError> {
        let report = self.calls.report.clone();
        let body = ReplayBody::new(self.calls.body.clone());
        let first = match self.calls.fetch(body, SyncPage::read).await {
            Ok(fetched) => fetched,
            Err(PageFailure::Call(error)) => return Err(error),
            // Nothing came: it goes on where it would have begun.
            Err(cause) => {
                let next = NextPage::SyncState(text(self.request.state(&self.calls.body)));
                return Err(self.calls.error(next, cause).into());
            }
        };
        let mut collected = match GoodPage::of(first) {
            Ok(page) => Collected::new(page, self.request.state(&self.calls.body)),
            Err(fetched) => return Ok(Pages::one(*fetched, report)),
        };
        report.page(collected.last.entries());
        while !collected.last.page.is_last && collected.bytes < self.calls.max_sync() {
            if let Err(cause) = self.follow(&mut collected).await {
                let state = text(collected.last.state());
                let error = self.calls.error(NextPage::SyncState(state), cause);
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "handing out the pages so far"
                );
                self.calls.report.set_error(error);
                break;
            }
        }
        Ok(collected.into_response(report))
    }

    /// Asks for the next page.
    async fn follow(&mut self, collected: &mut Collected) -> Result<(), PageFailure> {
        let state = collected.last.state().to_vec();
        let mut tries = 0;
        loop {
            let body = self.request.with_state(&self.calls.body, &state);
            let body = ReplayBody::from_pieces(body);
            let fetched = self.calls.fetch(body, SyncPage::read).await?;
            let page = GoodPage::of(fetched).map_err(|fetched| fetched.failure())?;
            // With a state that was there before the same changes would come again.
            if page.page.is_last || page.state() != state {
                if !page.page.is_last && collected.states.knows(page.state()) {
                    let pages = u32::try_from(collected.pages).unwrap_or(u32::MAX);
                    return Err(PageFailure::NoProgress { pages });
                }
                let entries = page.entries();
                collected.take(page)?;
                self.calls.report.page(entries);
                return Ok(());
            }
            tries += 1;
            if tries > MAX_LOSS_RETRIES {
                return Err(PageFailure::NoProgress { pages: tries });
            }
            self.calls.wait(tries - 1).await;
        }
    }
}

fn text(state: &[u8]) -> Box<str> {
    String::from_utf8_lossy(state).trim().into()
}

/// A page that came.
#[derive(Clone)]
struct GoodPage {
    head: response::Parts,
    bytes: Bytes,
    page: SyncPage,
}

impl GoodPage {
    /// What is no page is given back.
    fn of(fetched: Fetched<SyncPage>) -> Result<GoodPage, Box<Fetched<SyncPage>>> {
        match fetched.page {
            PageResponse::Page(page) => Ok(GoodPage {
                head: fetched.head,
                bytes: fetched.bytes,
                page,
            }),
            _ => Err(Box::new(fetched)),
        }
    }

    fn state(&self) -> &[u8] {
        self.bytes.get(self.page.state.clone()).unwrap_or_default()
    }

    fn entries(&self) -> usize {
        self.page.entries.members.len()
    }
}

/// The states that have been there, by their hashes: a server that goes round in a circle would be followed for ever.
#[derive(Default)]
struct States {
    hashes: HashSet<u64>,
    hasher: RandomState,
}

impl States {
    fn add(&mut self, state: &[u8]) {
        self.hashes.insert(self.hasher.hash_one(state));
    }

    fn knows(&self, state: &[u8]) -> bool {
        self.hashes.contains(&self.hasher.hash_one(state))
    }
}

/// The pages so far.
struct Collected {
    /// The first one with room for changes, and the namespaces that hold there.
    frame: Option<(GoodPage, Namespaces)>,
    /// The changes of later ones.
    changes: Vec<Bytes>,
    bytes: u64,
    pages: u64,
    last: GoodPage,
    /// How many pages in a row had no change.
    empty: u32,
    states: States,
}

impl Collected {
    /// The first page, which was asked for with the state `asked`.
    fn new(page: GoodPage, asked: &[u8]) -> Collected {
        let mut states = States::default();
        states.add(asked);
        states.add(page.state());
        Collected {
            states,
            frame: frame(&page),
            changes: Vec::new(),
            bytes: page.bytes.len() as u64,
            pages: 1,
            empty: u32::from(page.entries() == 0),
            last: page,
        }
    }

    fn take(&mut self, page: GoodPage) -> Result<(), PageFailure> {
        match &self.frame {
            Some((_, scope)) => {
                let moved = page.page.entries.moved_to(&page.bytes, scope);
                self.changes.extend(moved.ok_or(PageFailure::Namespaces)?);
            }
            None => self.frame = frame(&page),
        }
        self.bytes += page.bytes.len() as u64;
        self.pages += 1;
        self.empty = if page.entries() == 0 {
            self.empty + 1
        } else {
            0
        };
        let is_last = page.page.is_last;
        self.states.add(page.state());
        self.last = page;
        match self.empty {
            pages if pages > MAX_EMPTY && !is_last => Err(PageFailure::NoProgress { pages }),
            _ => Ok(()),
        }
    }

    /// The one response: with the last state, and complete or not as the last page was.
    fn into_response(self, report: PagingReport) -> Response<Pages> {
        let is_last = self.last.page.is_last;
        let state = self.last.bytes.slice(self.last.page.state.clone());
        let frame = self.frame.filter(|_| self.pages > 1);
        let Some((frame, _)) = frame else {
            // One page, or several without any change.
            return Pages::whole(self.last.head, vec![self.last.bytes], report);
        };
        let content = frame.page.entries.content.clone().unwrap_or_default();
        let edits = frame.page.edits_of_whole(state, is_last);
        let mut pieces = splice(&frame.bytes, 0..content.end, edits.clone());
        pieces.extend(self.changes);
        pieces.extend(splice(&frame.bytes, content.end..frame.bytes.len(), edits));
        let mut head = frame.head;
        remove_body_headers(&mut head.headers);
        Pages::whole(head, pieces, report)
    }
}

fn frame(page: &GoodPage) -> Option<(GoodPage, Namespaces)> {
    let content = page.page.entries.content.clone()?;
    let scope = Namespaces::behind(page.bytes.get(..content.start)?)?;
    Some((page.clone(), scope))
}
