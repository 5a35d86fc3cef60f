//! [`FindPages`]: follows the pages of a FindItem or FindFolder, folder by folder.

use std::ops::Range;

use bytes::Bytes;
use futures_util::stream;
use http::Response;
use tower::BoxError;

use super::body::{Chunk, Pages};
use super::calls::{Calls, Fetched};
use super::errors::{NextPage, PageFailure, PagingError};
use crate::body::ReplayBody;
use crate::retry::MAX_LOSS_RETRIES;
use crate::soap::namespaces::Namespaces;
use crate::soap::page_request::FindRequest;
use crate::soap::page_response::{Edit, FindPage, PageResponse, splice};

/// One request, and how far its response has come.
pub(super) struct FindPages {
    calls: Calls,
    request: FindRequest,
    size: u32,
    /// The offset of the first page of each folder.
    first: u32,
    /// The next page.
    at: Position,
    /// The folder whose pages are followed.
    open: Option<OpenFolder>,
    /// What stands around the messages, once the first of them is there.
    envelope: Option<Envelope>,
}

#[derive(Clone, Copy, Debug)]
struct Position {
    folder: usize,
    offset: u32,
}

/// A folder whose first page was handed out.
struct OpenFolder {
    /// The namespaces that hold between the tags of its container.
    scope: Namespaces,
    /// What stands behind its entries, up to the end of its message.
    close: Bytes,
    total: Option<u32>,
}

struct Envelope {
    /// The namespaces that hold between its messages.
    scope: Namespaces,
    /// What stands behind the messages.
    close: Bytes,
}

impl FindPages {
    pub(super) fn new(calls: Calls, request: FindRequest, size: u32, first: u32) -> Self {
        Self {
            calls,
            request,
            size,
            first,
            at: Position {
                folder: 0,
                offset: first,
            },
            open: None,
            envelope: None,
        }
    }

    /// Follows the pages until the response begins. The body follows them to their end.
    pub(super) async fn respond(mut self) -> Result<Response<Pages>, BoxError> {
        let fetched = match self.page().await {
            Ok(fetched) => fetched,
            // Nothing came, so it is the call that failed.
            Err(PageFailure::Call(error)) => return Err(error),
            Err(cause) => return Err(self.error(cause).into()),
        };
        let is_whole = match &fetched.page {
            PageResponse::Page(page) => page.is_last && self.request.folders() == 1,
            PageResponse::Entry(_) => self.request.folders() == 1,
            PageResponse::Other => true,
        };
        let report = self.calls.report.clone();
        if is_whole {
            if let PageResponse::Page(page) = &fetched.page {
                report.page(page.entries.members.len());
            }
            return Ok(Pages::one(fetched, report));
        }
        let head = fetched.head.clone();
        let opening = match self.message(&fetched) {
            Ok(opening) => opening,
            Err(cause) => return Err(self.error(cause).into()),
        };
        let more = stream::unfold(self, async |mut pages| {
            let chunk = pages.next().await;
            Some((chunk, pages))
        });
        Ok(Pages::followed(head, opening, Box::pin(more), report))
    }

    /// The next piece of the body.
    async fn next(&mut self) -> Result<Chunk, BoxError> {
        let pieces = match self.follow().await {
            Ok(pieces) => pieces,
            Err(cause) => return Err(self.error(cause).into()),
        };
        Ok(self.closed(pieces))
    }

    /// Puts the end of the envelope behind the last message.
    fn closed(&mut self, mut pieces: Vec<Bytes>) -> Chunk {
        let is_last = self.open.is_none() && self.at.folder >= self.request.folders();
        if let Some(envelope) = self.envelope.take_if(|_| is_last) {
            pieces.push(envelope.close);
        }
        Chunk { pieces, is_last }
    }

    async fn follow(&mut self) -> Result<Vec<Bytes>, PageFailure> {
        if self.open.is_none() && self.at.folder >= self.request.folders() {
            return Ok(Vec::new());
        }
        let fetched = self.page().await?;
        match (&self.open, &fetched.page) {
            (Some(folder), PageResponse::Page(page)) => {
                let pieces = page.entries.moved_to(&fetched.bytes, &folder.scope);
                let mut pieces = pieces.ok_or(PageFailure::Namespaces)?;
                if folder.total != page.total {
                    self.calls.report.set_view_changed();
                }
                self.advance(page);
                if page.is_last {
                    pieces.extend(self.open.take().map(|folder| folder.close));
                }
                Ok(pieces)
            }
            (None, PageResponse::Page(_) | PageResponse::Entry(_)) => self.message(&fetched),
            _ => Err(fetched.failure()),
        }
    }

    /// Asks for the page at the present place. A page that leads no further and is not the last one either is asked for
    /// again: other searches of the same account can use up the rows that the server allows.
    async fn page(&mut self) -> Result<Fetched<FindPage>, PageFailure> {
        let mut pages = 0;
        loop {
            let Position { folder, offset } = self.at;
            let body = self
                .request
                .page(&self.calls.body, Some(folder), offset, self.size);
            let body = ReplayBody::from_pieces(body);
            let fetched = self.calls.fetch(body, FindPage::read).await?;
            match &fetched.page {
                PageResponse::Page(page) if is_stuck(page, offset) => {
                    self.at.offset = offset.max(page.next.unwrap_or(0));
                }
                _ => return Ok(fetched),
            }
            pages += 1;
            if pages > MAX_LOSS_RETRIES {
                return Err(PageFailure::NoProgress { pages });
            }
            self.calls.wait(pages - 1).await;
        }
    }

    /// Goes behind a page.
    fn advance(&mut self, page: &FindPage) {
        let entries = page.entries.members.len();
        self.calls.report.page(entries);
        if page.is_last {
            return self.next_folder();
        }
        let counted = u32::try_from(entries).unwrap_or(u32::MAX);
        let counted = self.at.offset.saturating_add(counted);
        // The server's word, except that nothing is asked for twice.
        self.at.offset = counted.max(page.next.unwrap_or(0));
    }

    /// Returns the message of a folder: all of it, or up to the end of the entries on its first page. With the beginning
    /// of the envelope, if it is the first message.
    fn message(&mut self, fetched: &Fetched<FindPage>) -> Result<Vec<Bytes>, PageFailure> {
        let bytes = &fetched.bytes;
        match &fetched.page {
            PageResponse::Other => Err(fetched.failure()),
            PageResponse::Entry(message) => {
                let (start, edits) = self.place(bytes, message)?;
                self.next_folder();
                Ok(splice(bytes, start..message.end, edits))
            }
            PageResponse::Page(page) => {
                let message = &page.entries.message;
                let (start, mut edits) = self.place(bytes, message)?;
                let end = match &page.entries.content {
                    Some(content) if !page.is_last => {
                        edits.extend(page.edits_of_whole());
                        self.open = Some(OpenFolder {
                            scope: behind(bytes, content.start)?,
                            close: copied(bytes, content.end..message.end),
                            total: page.total,
                        });
                        content.end
                    }
                    _ => message.end,
                };
                self.advance(page);
                Ok(splice(bytes, start..end, edits))
            }
        }
    }

    /// Returns from where on a response with this message is handed out, and what has to be declared anew in its start tag.
    fn place(
        &mut self,
        bytes: &Bytes,
        message: &Range<usize>,
    ) -> Result<(usize, Vec<Edit>), PageFailure> {
        let scope = behind(bytes, message.start)?;
        let Some(envelope) = &self.envelope else {
            let close = copied(bytes, message.end..bytes.len());
            self.envelope = Some(Envelope { scope, close });
            return Ok((0, Vec::new()));
        };
        let missing = scope.moved_to(&envelope.scope);
        let element = bytes.get(message.clone()).unwrap_or_default();
        let declaration = missing.declaration(element).filter(|_| !missing.is_empty());
        let edit = declaration.map(|(at, text)| {
            let at = message.start + at;
            (at..at, text)
        });
        Ok((message.start, edit.into_iter().collect()))
    }

    fn next_folder(&mut self) {
        self.at = Position {
            folder: self.at.folder + 1,
            offset: self.first,
        };
    }

    fn error(&self, cause: PageFailure) -> PagingError {
        let Position { folder, offset } = self.at;
        self.calls.error(NextPage::Offset { folder, offset }, cause)
    }
}

/// Whether a page leads no further: it has no entry, or ends where it was to begin. A server that forgets the offset would
/// give the same page for ever.
fn is_stuck(page: &FindPage, offset: u32) -> bool {
    let is_behind = match (page.next, page.total) {
        // None, or a server that does not count.
        (None | Some(0), total) => total.is_some_and(|total| total <= offset),
        (Some(next), _) => next <= offset,
    };
    !page.is_last && (page.entries.members.is_empty() || is_behind)
}

/// The namespaces that hold at a place.
fn behind(bytes: &Bytes, place: usize) -> Result<Namespaces, PageFailure> {
    let head = bytes.get(..place).unwrap_or_default();
    Namespaces::behind(head).ok_or(PageFailure::Namespaces)
}

/// A copy, so that the end of a page does not keep all of it in memory.
fn copied(bytes: &Bytes, range: Range<usize>) -> Bytes {
    Bytes::copy_from_slice(bytes.get(range).unwrap_or_default())
}
