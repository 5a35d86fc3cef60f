//! The lists of a response that belong to all members together: where they stand, and what they are
//! like.
use std::ops::Range;

use memchr::memrchr;

use super::elements::{find, first_element};
use super::namespaces::Namespaces;
use super::operation::{Namespace, Operation};
use super::outline_error::OutlineError;
use super::xml::Reader;

/// Where one of a response's lists stands, or where it would stand.
#[derive(Debug)]
pub(crate) struct ListAt {
    /// Local name of its element.
    pub(crate) name: &'static str,
    /// Where the frame breaks off, and what has to be put in there.
    pub(crate) before: usize,
    pub(crate) open: String,
    pub(crate) content: Range<usize>,
    pub(crate) children: Vec<Range<usize>>,
    /// What has to be put in before the frame goes on, and where it does.
    pub(crate) close: String,
    pub(crate) after: usize,
    pub(crate) scope: Namespaces,
}

type Path = &'static [(&'static str, Namespace)];

/// The lists of a response that belong to all members together, by their paths from the response's
/// element on. `*` is any element.
fn paths(operation: Operation) -> &'static [Path] {
    use Namespace::{Messages as M, Types as T};
    match operation.name() {
        "GetServerTimeZones" => &[&[
            ("ResponseMessages", M),
            ("*", M),
            ("TimeZoneDefinitions", M),
        ]],
        "GetSharingMetadata" => &[
            &[("EncryptedSharedFolderDataCollection", M)],
            &[("InvalidRecipients", M)],
        ],
        "GetNonIndexableItemStatistics" => &[&[("NonIndexableItemStatistics", M)]],
        "GetImItems" => &[
            &[("ImItemList", M), ("Groups", T)],
            &[("ImItemList", M), ("Personas", T)],
        ],
        "PerformReminderAction" => &[&[("UpdatedItemIds", M)]],
        "GetAppManifests" => &[APPS],
        _ => &[],
    }
}

/// GetAppManifests responds with one list or the other.
const APPS: Path = &[("Apps", Namespace::Messages)];
const MANIFESTS: Path = &[("Manifests", Namespace::Messages)];

/// The paths of the lists that this response has, where an operation can respond with one or
/// another. None if it has both.
fn paths_in(operation: Operation, body: &[u8]) -> Option<&'static [Path]> {
    let usual = paths(operation);
    if usual != [APPS] {
        return Some(usual);
    }
    let has = |path| Some(matches!(locate(body, path).ok()?, Located::Present(_)));
    match (has(APPS)?, has(MANIFESTS)?) {
        (true, true) => None,
        (false, true) => Some(&[MANIFESTS]),
        _ => Some(usual),
    }
}

/// Whether an operation responds with lists for all members together.
pub(crate) fn responds_with_lists(operation: Operation) -> bool {
    !paths(operation).is_empty()
}

enum Located {
    Present(Present),
    /// The elements of the path from `depth` on are missing; they would stand in place of this
    /// range.
    Missing {
        depth: usize,
        at: Range<usize>,
    },
}

struct Present {
    element: Range<usize>,
    content: Range<usize>,
    children: Vec<Range<usize>>,
    /// The name of an element without an end tag.
    empty: Option<String>,
}

/// Finds the lists of a response. None if it is no response that could have them.
pub(crate) fn lists(operation: Operation, body: &[u8]) -> Option<Vec<ListAt>> {
    let paths = paths_in(operation, body)?;
    let located: Result<Vec<Located>, OutlineError> =
        paths.iter().map(|path| locate(body, path)).collect();
    let mut located = located.ok()?;
    if paths == [APPS] {
        for list in &mut located {
            leave_metadata(body, list)?;
        }
    }
    let mut lists: Vec<ListAt> = Vec::new();
    // The elements that we have opened for the list before, as far as they are not closed yet.
    let mut opened = 0;
    for (index, path) in paths.iter().enumerate() {
        let list = match located.get(index)? {
            Located::Present(list) => present(body, path, list)?,
            Located::Missing { depth, at } => {
                let later = located.get(index + 1..).unwrap_or_default();
                let at = gap(at, later, lists.last().map(|list| list.after));
                let next = paths.get(index + 1).zip(later.first());
                let stays = stays_open(path, *depth, next)?;
                let own = path.get(*depth..)?;
                let list = missing(body, own, opened, stays, at)?;
                opened = stays;
                list
            }
        };
        lists.push(list);
    }
    // The frame goes on where it broke off: lists in another order than ours are not known.
    let ascend = |pair: &[ListAt]| matches!(pair, [one, next] if one.after <= next.before);
    lists.windows(2).all(ascend).then_some(lists)
}

/// A list that is there.
fn present(body: &[u8], path: Path, list: &Present) -> Option<ListAt> {
    let name = path.last().map(|(name, _)| *name)?;
    let Some(tag) = &list.empty else {
        return Some(ListAt {
            name,
            before: list.content.start,
            open: String::new(),
            content: list.content.clone(),
            children: list.children.clone(),
            close: String::new(),
            after: list.content.end,
            scope: Namespaces::behind(body.get(..list.content.start)?)?,
        });
    };
    let end = list.element.end;
    let inside = end.checked_sub(2)?;
    Some(ListAt {
        name,
        before: inside,
        open: ">".to_owned(),
        content: end..end,
        children: Vec::new(),
        close: format!("</{tag}>"),
        after: end,
        scope: Namespaces::behind(&[body.get(..inside)?, b">"].concat())?,
    })
}

/// Where a missing list would stand: before the next one that is there, and behind the one before.
fn gap(at: &Range<usize>, later: &[Located], behind: Option<usize>) -> Range<usize> {
    let next = later.iter().find_map(|list| match list {
        Located::Present(list) => Some(list.element.start..list.element.start),
        Located::Missing { .. } => None,
    });
    let at = next.unwrap_or_else(|| at.clone());
    let behind = behind.unwrap_or_default();
    at.start.max(behind)..at.end.max(behind)
}

/// How many of the elements around a missing list stay open, because the next one is missing in
/// them too.
fn stays_open(path: Path, depth: usize, next: Option<(&Path, &Located)>) -> Option<usize> {
    let own = path.get(depth..)?;
    match next {
        Some((next, Located::Missing { depth: other, .. })) if *other == depth => {
            let pairs = own.iter().zip(next.get(depth..)?);
            let alike = pairs.take_while(|(own, next)| own == next).count();
            Some(alike.min(own.len() - 1))
        }
        _ => Some(0),
    }
}

/// A list that is not there. `own` are the elements that are missing, of which `opened` are open
/// already and `stays` are left open.
fn missing(
    body: &[u8],
    own: Path,
    opened: usize,
    stays: usize,
    at: Range<usize>,
) -> Option<ListAt> {
    let shared = own.len().saturating_sub(1).min(opened);
    let mut open = String::new();
    for (name, namespace) in own.get(shared..)? {
        open.push_str(&format!("<ews:{name} xmlns:ews=\"{}\">", namespace.uri()));
    }
    let mut close = String::new();
    for (name, _) in own.get(stays..)?.iter().rev() {
        close.push_str(&format!("</ews:{name}>"));
    }
    Some(ListAt {
        name: own.last().map(|(name, _)| *name)?,
        before: at.start,
        open,
        content: at.start..at.start,
        children: Vec::new(),
        close,
        after: at.end,
        scope: Namespaces::behind(body.get(..at.start)?)?,
    })
}

/// Leaves `Metadata` behind the last App, which speaks of the mailbox, to the frame. None if it
/// stands elsewhere.
fn leave_metadata(body: &[u8], list: &mut Located) -> Option<()> {
    let Located::Present(Present {
        content, children, ..
    }) = list
    else {
        return Some(());
    };
    let is_metadata = |child: &Range<usize>| {
        let start = body.get(child.clone()).and_then(first_element);
        start.is_some_and(|start| start.local == b"Metadata")
    };
    if children.last().is_some_and(is_metadata) {
        content.end = children.pop()?.start;
    }
    (!children.iter().any(is_metadata)).then_some(())
}

/// Goes down a path from the response's element.
fn locate(body: &[u8], path: Path) -> Result<Located, OutlineError> {
    let missing = || OutlineError::NotSoap {
        expected: "a response",
        at: 0,
    };
    let mut reader = Reader::new(body)?;
    for name in ["Envelope", "Body", "*"] {
        let found = find(&mut reader, name)?.filter(|found| !found.empty);
        found.ok_or_else(missing)?;
    }
    for (depth, (name, _)) in path.iter().enumerate() {
        let Some(found) = find(&mut reader, name)? else {
            // Behind the end tag, in which there is no other `<`.
            let end = body.get(..reader.position()).unwrap_or(body);
            let at = memrchr(b'<', end).ok_or_else(missing)?;
            return Ok(Located::Missing { depth, at: at..at });
        };
        let last = depth + 1 == path.len();
        if found.empty && !last {
            return Ok(Located::Missing {
                depth,
                at: found.at..found.end,
            });
        }
        if found.empty {
            let name = body.get(found.at + 1..found.end - 2 - found.attributes.len());
            let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
            return Ok(Located::Present(Present {
                element: found.at..found.end,
                content: found.end..found.end,
                children: Vec::new(),
                empty: Some(name),
            }));
        }
        if last {
            let (end, children, _) = reader.members()?;
            return Ok(Located::Present(Present {
                element: found.at..end.end,
                content: found.end..end.start,
                children: children.into_vec(),
                empty: None,
            }));
        }
    }
    Err(missing())
}
