//! Where a page view or a synchronisation state goes in a request, and the requests for single pages.
use std::ops::Range;

use bytes::Bytes;

use super::elements::child;
use super::find::blank;
use super::operation::Operation;
use super::outline::Outline;
use super::outline_error::OutlineError;
use super::space::Space;
use super::xml::{Reader, Start};

/// A request whose response comes in pages. All offsets count bytes of the body that it was read from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageRequest {
    Find(FindRequest),
    Sync(SyncRequest),
}

/// A FindItem or FindFolder without a view of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FindRequest {
    /// Behind the shape: the schema has the view next to it.
    at: usize,
    /// Start of the view's tag, up to its first attribute.
    view: String,
    /// A restriction or a query string narrows it.
    pub(crate) is_restricted: bool,
    /// What stands between the tags of `ParentFolderIds`.
    folders: Range<usize>,
    /// The folders, at least one.
    members: Vec<Range<usize>>,
}

/// A SyncFolderItems or SyncFolderHierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyncRequest {
    /// The element `SyncState`, or where it is missing.
    place: Range<usize>,
    /// What is in it.
    state: Range<usize>,
    /// The name of the element, with the prefix that the request has.
    name: String,
}

impl PageRequest {
    /// Whether the operation is one whose responses come in pages.
    pub(crate) fn may_be(outline: &Outline) -> bool {
        matches!(
            outline.operation(),
            Some(
                Operation::FIND_ITEM
                    | Operation::FIND_FOLDER
                    | Operation::SYNC_FOLDER_ITEMS
                    | Operation::SYNC_FOLDER_HIERARCHY
            )
        )
    }

    /// Reads a request of which the outline is known. None for what has no pages, or would mean something else with a
    /// page view: another operation, a view of its own, groups, and what the schema does not allow.
    pub(crate) fn of(outline: &Outline, body: &[u8]) -> Option<PageRequest> {
        let (shape, view) = match outline.operation()? {
            Operation::FIND_ITEM => ("ItemShape", Some("IndexedPageItemView")),
            Operation::FIND_FOLDER => ("FolderShape", Some("IndexedPageFolderView")),
            Operation::SYNC_FOLDER_ITEMS => ("ItemShape", None),
            Operation::SYNC_FOLDER_HIERARCHY => ("FolderShape", None),
            _ => return None,
        };
        let parts = Parts::read(outline, body, shape).ok()??;
        match view {
            Some(view) => parts.find(outline, view).map(PageRequest::Find),
            None => parts.sync().map(PageRequest::Sync),
        }
    }
}

impl FindRequest {
    /// How many folders it asks for.
    pub(crate) fn folders(&self) -> usize {
        self.members.len()
    }

    /// The request with a page view: for all its folders, or for one of them.
    pub(crate) fn page(
        &self,
        body: &Bytes,
        folder: Option<usize>,
        offset: u32,
        size: u32,
    ) -> Vec<Bytes> {
        let slice = |range: Range<usize>| body.slice(clamped(range, body));
        let view = format!(
            "{} MaxEntriesReturned=\"{size}\" Offset=\"{offset}\" BasePoint=\"Beginning\"/>",
            self.view
        );
        let (head, view) = (slice(0..self.at), view.into());
        let one = folder.filter(|_| self.members.len() > 1);
        match one.and_then(|folder| self.members.get(folder)) {
            None => vec![head, view, slice(self.at..body.len())],
            Some(member) => vec![
                head,
                view,
                slice(self.at..self.folders.start),
                slice(member.clone()),
                slice(self.folders.end..body.len()),
            ],
        }
    }
}

impl SyncRequest {
    /// The synchronisation state of the request, as it is written. Empty if there is none.
    pub(crate) fn state<'a>(&self, body: &'a [u8]) -> &'a [u8] {
        body.get(self.state.clone()).unwrap_or_default()
    }

    /// The request with another synchronisation state, which stands as it was written in a response.
    pub(crate) fn with_state(&self, body: &Bytes, state: &[u8]) -> Vec<Bytes> {
        let slice = |range: Range<usize>| body.slice(clamped(range, body));
        let (begin, end) = (format!("<{}>", self.name), format!("</{}>", self.name));
        let element = [begin.as_bytes(), state, end.as_bytes()].concat();
        vec![
            slice(0..self.place.start),
            element.into(),
            slice(self.place.end..body.len()),
        ]
    }
}

/// With another body than the request's the result means nothing, but it is no panic.
fn clamped(range: Range<usize>, body: &Bytes) -> Range<usize> {
    let end = range.end.min(body.len());
    range.start.min(end)..end
}

/// The children of an operation that matter here.
#[derive(Debug, Default)]
struct Parts {
    /// The operation's prefix with its colon, or nothing. Inside of the operation it always stands for the namespace
    /// of messages.
    prefix: String,
    shape_end: Option<usize>,
    has_view: bool,
    is_grouped: bool,
    is_restricted: bool,
    /// Where the folder that is synchronised ends.
    folder_end: Option<usize>,
    /// The element `SyncState`, and what is in it.
    state: Option<(Range<usize>, Range<usize>)>,
    /// Whether an element stands twice, or one that the schema does not know is there.
    is_odd: bool,
}

impl Parts {
    fn read(outline: &Outline, body: &[u8], shape: &str) -> Result<Option<Parts>, OutlineError> {
        let mut reader = Reader::within(body, outline.operation_element(), outline.scope());
        let Some(operation) = child(&mut reader)?.filter(|operation| !operation.empty) else {
            return Ok(None);
        };
        let mut parts = Parts {
            prefix: prefix(body, &operation),
            ..Parts::default()
        };
        while let Some(start) = child(&mut reader)? {
            let inner = match start.empty {
                true => start.end..start.end,
                false => start.end..reader.skip()?.start,
            };
            parts.take(&start, inner, reader.position(), shape);
        }
        Ok(Some(parts))
    }

    fn take(&mut self, start: &Start<'_>, inner: Range<usize>, end: usize, shape: &str) {
        if start.space != Space::Messages {
            self.is_odd = true;
            return;
        }
        match start.local {
            local if local == shape.as_bytes() => {
                self.is_odd |= self.shape_end.replace(end).is_some();
            }
            b"GroupBy" | b"DistinguishedGroupBy" => self.is_grouped = true,
            b"Restriction" | b"QueryString" => self.is_restricted = true,
            b"SyncFolderId" => self.folder_end = Some(end),
            b"SyncState" => self.is_odd |= self.state.replace((start.at..end, inner)).is_some(),
            local if local.ends_with(b"View") => self.has_view = true,
            _ => {}
        }
    }

    fn find(self, outline: &Outline, view: &str) -> Option<FindRequest> {
        let folders = outline.array()?;
        let is_plain = !(self.has_view || self.is_grouped || self.is_odd);
        if !is_plain || folders.members().is_empty() {
            return None;
        }
        Some(FindRequest {
            at: self.shape_end?,
            view: format!("<{}{view}", self.prefix),
            is_restricted: self.is_restricted,
            folders: folders.content(),
            members: folders.members().to_vec(),
        })
    }

    fn sync(self) -> Option<SyncRequest> {
        let shape_end = self.shape_end.filter(|_| !self.is_odd)?;
        let missing_at = self.folder_end.unwrap_or(shape_end);
        let missing = missing_at..missing_at;
        let (place, state) = self.state.unwrap_or((missing.clone(), missing));
        Some(SyncRequest {
            place,
            state,
            name: format!("{}SyncState", self.prefix),
        })
    }
}

/// The prefix of an element as it is written, with its colon.
fn prefix(body: &[u8], start: &Start<'_>) -> String {
    let tag = body.get(start.at + 1..start.end).unwrap_or_default();
    let name = tag.split_at(blank(tag).unwrap_or(tag.len())).0;
    let colon = name.iter().position(|byte| *byte == b':');
    let prefix = colon.and_then(|colon| name.get(..=colon));
    String::from_utf8_lossy(prefix.unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIND: &str = "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\" xmlns:m=\"http://schemas.microsoft.com/exchange/services/2006/messages\" xmlns:t=\"http://schemas.microsoft.com/exchange/services/2006/types\"><s:Body><m:FindItem><m:ItemShape/><m:ParentFolderIds><t:FolderId Id=\"a\"/> <t:FolderId Id=\"b\"/></m:ParentFolderIds></m:FindItem></s:Body></s:Envelope>";

    fn read(body: &[u8]) -> Option<PageRequest> {
        PageRequest::of(&Outline::parse(body).ok()?, body)
    }

    #[test]
    fn one_of_several_folders() {
        let Some(PageRequest::Find(find)) = read(FIND.as_bytes()) else {
            panic!();
        };
        assert_eq!(find.folders(), 2);
        let page =
            |folder| String::from_utf8(find.page(&FIND.into(), folder, 7, 9).concat()).unwrap();
        let view = "<m:ItemShape/><m:IndexedPageItemView MaxEntriesReturned=\"9\" Offset=\"7\" BasePoint=\"Beginning\"/>";
        let both = FIND.replace("<m:ItemShape/>", view);
        assert_eq!(page(None), both);
        assert_eq!(page(Some(0)), both.replace(" <t:FolderId Id=\"b\"/>", ""));
        assert_eq!(page(Some(1)), both.replace("<t:FolderId Id=\"a\"/> ", ""));
        // There is no such folder.
        assert_eq!(page(Some(2)), both);
    }

    /// Anything may be sent. What is read makes a request that is read as one with a view.
    #[test]
    fn no_request_makes_it_panic() {
        let mut random = fastrand::Rng::with_seed(5);
        let mut found = 0;
        for _ in 0..20_000 {
            let mut text = FIND.to_owned().into_bytes();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..text.len());
                match random.u8(..3) {
                    0 => text[at] = b"<>/'\" =:m\xff"[random.usize(..10)],
                    1 => drop(text.remove(at)),
                    _ => text.insert(at, b"<>/'\" =:m\xff"[random.usize(..10)]),
                }
            }
            let Some(PageRequest::Find(find)) = read(&text) else {
                continue;
            };
            found += 1;
            let paged = find.page(&Bytes::from(text), Some(0), 0, 1).concat();
            let outline = Outline::parse(&paged).unwrap();
            assert_eq!(outline.targets(&paged).page_size, Some(1));
            assert_eq!(outline.array().unwrap().members().len(), 1);
            assert_eq!(read(&paged), None);
            // Another body than the one that was read.
            find.page(&Bytes::from_static(b"<a/>"), Some(1), 0, 1);
        }
        assert!(found > 5_000, "{found}");
    }
}
