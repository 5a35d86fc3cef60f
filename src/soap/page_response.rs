//! One page of a response: what it holds, what it says of the next page, and how pages are made into one response.
use std::ops::Range;

use bytes::Bytes;

use super::elements::{child, find, root, skip};
use super::namespaces::Namespaces;
use super::outline_error::OutlineError;
use super::xml::{Event, Reader, Start, attributes};

/// What a response to a request for a page is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PageResponse<P> {
    Page(P),
    /// The one message in it is an error, or has no page in it. Where its element stands.
    Entry(Range<usize>),
    /// A fault, several messages, or no response message at all.
    Other,
}

/// Where the entries of a page stand. Offsets count bytes of the response.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Entries {
    /// The response message, its tags included.
    pub(crate) message: Range<usize>,
    /// What stands between the tags of the container. None if it has no end tag or is missing.
    pub(crate) content: Option<Range<usize>>,
    pub(crate) members: Vec<Range<usize>>,
}

/// A page of FindItem or FindFolder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FindPage {
    pub(crate) entries: Entries,
    /// `IndexedPagingOffset`.
    pub(crate) next: Option<u32>,
    /// `TotalItemsInView`.
    pub(crate) total: Option<u32>,
    /// `IncludesLastItemInRange`; without it, what the other two say.
    pub(crate) is_last: bool,
    /// The attribute `IndexedPagingOffset`, with the white space before it.
    next_at: Option<Range<usize>>,
    /// The value of `IncludesLastItemInRange`.
    last_at: Option<Range<usize>>,
}

/// A page of SyncFolderItems or SyncFolderHierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyncPage {
    pub(crate) entries: Entries,
    /// What is in `SyncState`. Not blank.
    pub(crate) state: Range<usize>,
    pub(crate) is_last: bool,
    /// What is in `IncludesLastItemInRange` or `IncludesLastFolderInRange`.
    last_at: Range<usize>,
}

/// A range of a response, and what replaces it.
pub(crate) type Edit = (Range<usize>, Bytes);

type Result<T> = std::result::Result<T, OutlineError>;

impl FindPage {
    /// Reads a response to its end.
    ///
    /// # Errors
    ///
    /// What is no complete SOAP envelope.
    pub(crate) fn read(body: &[u8]) -> Result<PageResponse<FindPage>> {
        read(body, |reader| {
            let mut page = None;
            while let Some(part) = child(reader)? {
                match part.local {
                    b"RootFolder" => {
                        page = FindPage::of(body, &part, Entries::inside(reader, &part)?)
                    }
                    _ => skip(reader, &part).map(drop)?,
                }
            }
            Ok(page)
        })
    }

    /// None if the attributes say nothing about pages.
    fn of(body: &[u8], folder: &Start<'_>, entries: Entries) -> Option<FindPage> {
        let number = |name| {
            let text = std::str::from_utf8(folder.attribute(name)?).ok()?;
            // An `xs:int` that is not negative.
            text.trim()
                .parse()
                .ok()
                .filter(|n: &u32| i32::try_from(*n).is_ok())
        };
        let (next, total) = (number("IndexedPagingOffset"), number("TotalItemsInView"));
        let last = folder.attribute("IncludesLastItemInRange");
        let is_last = match (last.and_then(boolean), next, total) {
            (Some(last), ..) => last,
            (None, Some(next), Some(total)) => next >= total,
            (None, Some(_), None) => false,
            (None, None, _) => return None,
        };
        Some(FindPage {
            entries,
            next,
            total,
            is_last,
            next_at: attribute_at(body, folder, "IndexedPagingOffset"),
            last_at: last.map(|last| range_of(body, last)),
        })
    }

    /// What has to change in the start tag of `RootFolder` where it stands for all pages: it includes the last entry, and
    /// no page follows.
    pub(crate) fn edits_of_whole(&self) -> Vec<Edit> {
        let last = self
            .last_at
            .clone()
            .map(|at| (at, Bytes::from_static(b"true")));
        let next = self.next_at.clone().map(|at| (at, Bytes::new()));
        last.into_iter().chain(next).collect()
    }
}

impl SyncPage {
    /// Reads a response to its end.
    ///
    /// # Errors
    ///
    /// What is no complete SOAP envelope.
    pub(crate) fn read(body: &[u8]) -> Result<PageResponse<SyncPage>> {
        read(body, |reader| {
            let (mut state, mut last, mut entries) = (None, None, Entries::default());
            while let Some(part) = child(reader)? {
                match part.local {
                    b"SyncState" => state = content(reader, &part)?,
                    b"IncludesLastItemInRange" | b"IncludesLastFolderInRange" => {
                        last = content(reader, &part)?;
                    }
                    b"Changes" => entries.read(reader, &part)?,
                    _ => skip(reader, &part).map(drop)?,
                }
            }
            // A state that is empty is no state: a refusal can have one.
            let bytes = |range: &Range<usize>| body.get(range.clone()).unwrap_or_default();
            let state = state.filter(|state| !bytes(state).trim_ascii().is_empty());
            let is_last = last.as_ref().and_then(|last| boolean(bytes(last)));
            let (Some(state), Some(last_at), Some(is_last)) = (state, last, is_last) else {
                return Ok(None);
            };
            Ok(Some(SyncPage {
                entries,
                state,
                is_last,
                last_at,
            }))
        })
    }

    /// What has to change where the response stands for all pages up to one with this state.
    pub(crate) fn edits_of_whole(&self, state: Bytes, is_last: bool) -> Vec<Edit> {
        let last: &[u8] = if is_last { b"true" } else { b"false" };
        vec![
            (self.state.clone(), state),
            (self.last_at.clone(), Bytes::from_static(last)),
        ]
    }
}

impl AsMut<Entries> for FindPage {
    fn as_mut(&mut self) -> &mut Entries {
        &mut self.entries
    }
}

impl AsMut<Entries> for SyncPage {
    fn as_mut(&mut self) -> &mut Entries {
        &mut self.entries
    }
}

impl Entries {
    /// The entries of a folder that was found. Groups are none.
    fn inside(reader: &mut Reader<'_>, folder: &Start<'_>) -> Result<Entries> {
        let mut entries = Entries::default();
        if folder.empty {
            return Ok(entries);
        }
        while let Some(container) = child(reader)? {
            match container.local {
                b"Items" | b"Folders" => entries.read(reader, &container)?,
                _ => skip(reader, &container).map(drop)?,
            }
        }
        Ok(entries)
    }

    fn read(&mut self, reader: &mut Reader<'_>, container: &Start<'_>) -> Result<()> {
        if container.empty {
            return Ok(());
        }
        let (end, members, _) = reader.members()?;
        self.content = Some(container.end..end.start);
        self.members = members.to_vec();
        Ok(())
    }

    /// The entries as they stand in `body`, to be put where `scope` holds. None if more namespaces hold than are looked
    /// after.
    pub(crate) fn moved_to(&self, body: &Bytes, scope: &Namespaces) -> Option<Vec<Bytes>> {
        let Some(content) = self.content.clone() else {
            return Some(Vec::new());
        };
        let head = body.get(..content.start).unwrap_or_default();
        let missing = Namespaces::behind(head)?.moved_to(scope);
        if missing.is_empty() {
            return Some(vec![body.slice(content)]);
        }
        let mut edits = Vec::new();
        for member in &self.members {
            let (at, text) = missing.declaration(body.get(member.clone())?)?;
            edits.push((member.start + at..member.start + at, text));
        }
        Some(splice(body, content, edits))
    }
}

/// The part `range` of `body`, in which each range of `edits` is replaced. Those outside of it are left out.
pub(crate) fn splice(body: &Bytes, range: Range<usize>, mut edits: Vec<Edit>) -> Vec<Bytes> {
    edits.sort_by_key(|(at, _)| at.start);
    let end = range.end.min(body.len());
    let mut from = range.start.min(end);
    let mut pieces = Vec::with_capacity(2 * edits.len() + 1);
    for (at, text) in edits {
        if at.start < from || at.end > end || at.end < at.start {
            continue;
        }
        pieces.push(body.slice(from..at.start));
        pieces.push(text);
        from = at.end;
    }
    pieces.push(body.slice(from..end));
    pieces
}

/// Reads an envelope. Of its one message, if that is a success, `page` reads the children, all of them.
fn read<'a, P>(
    body: &'a [u8],
    page: impl FnOnce(&mut Reader<'a>) -> Result<Option<P>>,
) -> Result<PageResponse<P>>
where
    P: AsMut<Entries>,
{
    let mut reader = Reader::new(body)?;
    root(&mut reader)?;
    let Some(message) = first_message(&mut reader)? else {
        to_the_end(&mut reader)?;
        return Ok(PageResponse::Other);
    };
    let is_success = message
        .attribute("ResponseClass")
        .is_some_and(|class| class.trim_ascii() == b"Success");
    let page = match is_success && !message.empty {
        true => page(&mut reader)?,
        false => {
            skip(&mut reader, &message)?;
            None
        }
    };
    let range = message.at..reader.position();
    let is_alone = child(&mut reader)?.is_none();
    to_the_end(&mut reader)?;
    Ok(match page {
        _ if !is_alone => PageResponse::Other,
        None => PageResponse::Entry(range),
        Some(mut page) => {
            page.as_mut().message = range;
            PageResponse::Page(page)
        }
    })
}

/// Goes into the list of messages, to the first one.
fn first_message<'a>(reader: &mut Reader<'a>) -> Result<Option<Start<'a>>> {
    for name in ["Body", "*", "ResponseMessages"] {
        match find(reader, name)? {
            Some(start) if !start.empty && start.local != b"Fault" => {}
            _ => return Ok(None),
        }
    }
    child(reader)
}

fn to_the_end(reader: &mut Reader<'_>) -> Result<()> {
    loop {
        if let Event::Eof = reader.next()? {
            return Ok(());
        }
    }
}

/// The range of what is in an element whose start tag was just read. None if it has no end tag.
fn content(reader: &mut Reader<'_>, start: &Start<'_>) -> Result<Option<Range<usize>>> {
    if start.empty {
        return Ok(None);
    }
    let end = reader.skip()?;
    Ok(Some(start.end..end.start))
}

fn boolean(text: &[u8]) -> Option<bool> {
    match text.trim_ascii() {
        b"true" | b"1" => Some(true),
        b"false" | b"0" => Some(false),
        _ => None,
    }
}

/// Where a part of `body` stands in it.
fn range_of(body: &[u8], part: &[u8]) -> Range<usize> {
    let start = part.as_ptr().addr().saturating_sub(body.as_ptr().addr());
    start..start + part.len()
}

/// Where an attribute stands, with the white space before it and its quotes.
fn attribute_at(body: &[u8], start: &Start<'_>, name: &str) -> Option<Range<usize>> {
    let (name, value) = attributes(start.attributes).find(|(key, _)| *key == name.as_bytes())?;
    let begin = range_of(body, name).start;
    let before = body.get(..begin)?.trim_ascii_end().len();
    Some(before..range_of(body, value).end + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(message: &str) -> String {
        format!(
            "<s:Envelope xmlns:s=\"http://schemas.xmlsoap.org/soap/envelope/\"><s:Header><h/></s:Header><s:Body><R><ResponseMessages>{message}</ResponseMessages></R></s:Body></s:Envelope>"
        )
    }

    fn success(inside: &str) -> String {
        found(&format!(
            "<M ResponseClass='Success'><ResponseCode>NoError</ResponseCode>{inside}</M>"
        ))
    }

    /// The next offset, the total and whether it is the last page, of these attributes.
    fn says(attributes: &str) -> Option<(Option<u32>, Option<u32>, bool)> {
        let text = success(&format!(
            "<RootFolder {attributes}><Items><a/></Items></RootFolder>"
        ));
        match FindPage::read(text.as_bytes()).unwrap() {
            PageResponse::Page(page) => Some((page.next, page.total, page.is_last)),
            PageResponse::Entry(_) => None,
            PageResponse::Other => panic!("{text}"),
        }
    }

    #[test]
    fn what_a_page_says_of_the_next_one() {
        for (attributes, expected) in [
            ("IncludesLastItemInRange='true'", Some((None, None, true))),
            ("IncludesLastItemInRange=' 1 '", Some((None, None, true))),
            (
                "IndexedPagingOffset=\"5\" IncludesLastItemInRange = \"false\" TotalItemsInView='9'",
                Some((Some(5), Some(9), false)),
            ),
            ("IncludesLastItemInRange='0'", Some((None, None, false))),
            // Without it, the numbers.
            (
                "IndexedPagingOffset='9' TotalItemsInView='9'",
                Some((Some(9), Some(9), true)),
            ),
            (
                "IndexedPagingOffset='8' TotalItemsInView='9'",
                Some((Some(8), Some(9), false)),
            ),
            ("IndexedPagingOffset='8'", Some((Some(8), None, false))),
            (
                "IncludesLastItemInRange='maybe' IndexedPagingOffset='8'",
                Some((Some(8), None, false)),
            ),
            // Numbers that are none.
            (
                "IndexedPagingOffset='-1' IncludesLastItemInRange='false'",
                Some((None, None, false)),
            ),
            (
                "IndexedPagingOffset='2147483648' TotalItemsInView='2147483647' IncludesLastItemInRange='false'",
                Some((None, Some(2_147_483_647), false)),
            ),
            ("TotalItemsInView='9'", None),
            ("", None),
        ] {
            assert_eq!(says(attributes), expected, "{attributes}");
        }
    }

    #[test]
    fn what_is_no_page() {
        let error =
            found("<M ResponseClass='Error'><ResponseCode>ErrorFolderNotFound</ResponseCode></M>");
        let entry = FindPage::read(error.as_bytes()).unwrap();
        let PageResponse::Entry(range) = entry else {
            panic!("{entry:?}");
        };
        assert!(error[range.clone()].starts_with("<M ") && error[range].ends_with("</M>"));
        let warning =
            found("<M ResponseClass='Warning'><RootFolder IncludesLastItemInRange='true'/></M>");
        assert!(matches!(
            FindPage::read(warning.as_bytes()),
            Ok(PageResponse::Entry(_))
        ));
        let root = "<M ResponseClass='Success'><RootFolder IncludesLastItemInRange='true'/></M>";
        for other in [
            found(&root.repeat(2)),
            found(""),
            found(root).replace("ResponseMessages", "Other"),
            found(root).replace("R>", "Fault>"),
            found(root).replace("s:Body", "s:Head"),
        ] {
            assert_eq!(
                FindPage::read(other.as_bytes()),
                Ok(PageResponse::Other),
                "{other}"
            );
            assert_eq!(
                SyncPage::read(other.as_bytes()),
                Ok(PageResponse::Other),
                "{other}"
            );
        }
        // It is read to its end.
        for end in 0..found(root).len() {
            assert!(
                FindPage::read(&found(root).as_bytes()[..end]).is_err(),
                "{end}"
            );
        }
        assert!(matches!(
            FindPage::read(found(root).as_bytes()),
            Ok(PageResponse::Page(_))
        ));
    }

    #[test]
    fn a_state_that_is_blank_is_none() {
        let sync = |state: &str, last: &str| {
            let text = success(&format!(
                "{state}<IncludesLastItemInRange>{last}</IncludesLastItemInRange><Changes/>"
            ));
            match SyncPage::read(text.as_bytes()).unwrap() {
                PageResponse::Page(page) => Some((text[page.state].to_owned(), page.is_last)),
                _ => None,
            }
        };
        assert_eq!(
            sync("<SyncState> s </SyncState>", " false\n"),
            Some((" s ".to_owned(), false))
        );
        assert_eq!(
            sync("<SyncState>s</SyncState>", "1"),
            Some(("s".to_owned(), true))
        );
        for state in ["<SyncState/>", "<SyncState> \n</SyncState>", ""] {
            assert_eq!(sync(state, "true"), None, "{state}");
        }
        assert_eq!(sync("<SyncState>s</SyncState>", ""), None);
    }

    #[test]
    fn the_start_tag_of_the_whole() {
        for (attributes, expected) in [
            (
                " IndexedPagingOffset=\"5\" TotalItemsInView=\"9\" IncludesLastItemInRange=\"false\"",
                " TotalItemsInView=\"9\" IncludesLastItemInRange=\"true\"",
            ),
            (
                "\n  IncludesLastItemInRange = 'false'\n  IndexedPagingOffset\t= '5' TotalItemsInView='9'",
                "\n  IncludesLastItemInRange = 'true' TotalItemsInView='9'",
            ),
            (
                " x='>' IncludesLastItemInRange='0'",
                " x='>' IncludesLastItemInRange='true'",
            ),
        ] {
            let page = |attributes| {
                success(&format!(
                    "<RootFolder{attributes}><Items>\n<a/><!-- --> </Items></RootFolder>"
                ))
            };
            let text = page(attributes);
            let Ok(PageResponse::Page(found)) = FindPage::read(text.as_bytes()) else {
                panic!("{text}");
            };
            assert_eq!(found.entries.members.len(), 1);
            assert_eq!(
                &text[found.entries.content.clone().unwrap()],
                "\n<a/><!-- --> "
            );
            let bytes = Bytes::from(text.clone());
            let pieces = splice(&bytes, 0..bytes.len(), found.edits_of_whole());
            assert_eq!(pieces.concat(), page(expected).as_bytes());
        }
    }

    #[test]
    fn edits_outside_of_a_part_or_over_each_other_are_left_out() {
        let body = Bytes::from_static(b"0123456789");
        let edit = |range: Range<usize>| (range, Bytes::from_static(b"-"));
        for (range, edits, expected) in [
            (0..10, vec![], "0123456789"),
            (2..20, vec![edit(5..6), edit(2..2)], "-234-6789"),
            (2..8, vec![edit(0..1), edit(8..9), edit(7..9)], "234567"),
            (2..8, vec![edit(3..6), edit(4..5), edit(6..8)], "2--"),
            (10..10, vec![], ""),
        ] {
            assert_eq!(splice(&body, range, edits).concat(), expected.as_bytes());
        }
    }

    /// Anything may come: it is read or refused, and every range lies in it.
    #[test]
    fn no_response_makes_it_panic() {
        let whole = success(
            "<SyncState>s</SyncState><IncludesLastItemInRange>false</IncludesLastItemInRange><Changes><c/></Changes>\
             <RootFolder IndexedPagingOffset='1' IncludesLastItemInRange='false'><Items><a/></Items></RootFolder>",
        );
        let mut random = fastrand::Rng::with_seed(11);
        let mut pages = 0;
        for _ in 0..20_000 {
            let mut text = whole.clone().into_bytes();
            for _ in 0..random.usize(..4) {
                let at = random.usize(..text.len());
                match random.u8(..3) {
                    0 => text[at] = b"<>/'\" =a0\xff"[random.usize(..10)],
                    1 => drop(text.remove(at)),
                    _ => text.insert(at, b"<>/'\" =a0\xff"[random.usize(..10)]),
                }
            }
            let bytes = Bytes::from(text);
            let scope = Namespaces::behind(b"<a xmlns='b'>").unwrap();
            if let Ok(PageResponse::Page(page)) = FindPage::read(&bytes) {
                pages += 1;
                splice(&bytes, page.entries.message.clone(), page.edits_of_whole());
                page.entries.moved_to(&bytes, &scope);
            }
            if let Ok(PageResponse::Page(page)) = SyncPage::read(&bytes) {
                pages += 1;
                let edits = page.edits_of_whole(Bytes::new(), true);
                splice(&bytes, page.entries.message.clone(), edits);
                page.entries.moved_to(&bytes, &scope);
            }
        }
        assert!(pages > 5_000, "{pages}");
    }
}
