//! The lists of an answer that belong to all members together: where they stand, and what they are like.
use std::ops::Range;

use memchr::memrchr;

use super::elements::{find, first_element};
use super::namespaces::Namespaces;
use super::operation::{Namespace, Operation};
use super::outline_error::OutlineError;
use super::xml::Reader;

/// Where one of an answer's lists stands, or where it would stand.
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

/// The lists of an answer that belong to all members together, by their paths from the answer's element on. `*` is any element.
fn paths(operation: Operation) -> &'static [Path] {
    use Namespace::{Messages as M, Types as T};
    match operation.name() {
        "GetServerTimeZones" => &[&[
            ("ResponseMessages", M),
            ("*", M),
            ("TimeZoneDefinitions", M),
        ]],
        // That its entries match the names one by one is not proven.
        "GetServiceConfiguration" => &[&[("ResponseMessages", M)]],
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

/// GetAppManifests answers with one list or the other.
const APPS: Path = &[("Apps", Namespace::Messages)];
const MANIFESTS: Path = &[("Manifests", Namespace::Messages)];

/// The paths of the lists that this answer has, where an operation can answer with one or another. None if it has both.
fn paths_in(operation: Operation, body: &[u8]) -> Option<&'static [Path]> {
    let usual = paths(operation);
    if usual != [APPS] {
        return Some(usual);
    }
    let has = |path| Some(matches!(place(body, path).ok()?, Place::Found { .. }));
    match (has(APPS)?, has(MANIFESTS)?) {
        (true, true) => None,
        (false, true) => Some(&[MANIFESTS]),
        _ => Some(usual),
    }
}

/// Whether an operation answers with lists for all members together.
pub(crate) fn answers_with_lists(operation: Operation) -> bool {
    !paths(operation).is_empty()
}

enum Place {
    Found {
        element: Range<usize>,
        content: Range<usize>,
        children: Vec<Range<usize>>,
        /// The name of an element without an end tag.
        empty: Option<String>,
    },
    /// The elements of the path from `depth` on are missing; they would stand in place of this range.
    Missing { depth: usize, at: Range<usize> },
}

/// Finds the lists of an answer. None if it is no answer that could have them.
pub(crate) fn lists(operation: Operation, body: &[u8]) -> Option<Vec<ListAt>> {
    let paths = paths_in(operation, body)?;
    let places: Result<Vec<Place>, OutlineError> =
        paths.iter().map(|path| place(body, path)).collect();
    let mut places = places.ok()?;
    if paths == [APPS] {
        for place in &mut places {
            leave_metadata(body, place)?;
        }
    }
    let mut lists: Vec<ListAt> = Vec::new();
    // The path of the list before, as far as it was opened by us and is not closed yet.
    let mut opened: &[(&str, Namespace)] = &[];
    for (index, (path, place)) in paths.iter().zip(&places).enumerate() {
        let name = path.last().map(|(name, _)| *name)?;
        let (depth, at) = match place {
            Place::Found {
                element,
                content,
                children,
                empty,
            } => {
                let list = match empty {
                    None => ListAt {
                        name,
                        before: content.start,
                        open: String::new(),
                        content: content.clone(),
                        children: children.clone(),
                        close: String::new(),
                        after: content.end,
                        scope: body.get(..content.start).map(Namespaces::behind)?,
                    },
                    Some(tag) => ListAt {
                        name,
                        before: element.end.checked_sub(2)?,
                        open: ">".to_owned(),
                        content: element.end..element.end,
                        children: Vec::new(),
                        close: format!("</{tag}>"),
                        after: element.end,
                        scope: Namespaces::behind(&[body.get(..element.end - 2)?, b">"].concat()),
                    },
                };
                lists.push(list);
                continue;
            }
            Place::Missing { depth, at } => (*depth, at.clone()),
        };
        let later =
            places
                .get(index + 1..)
                .unwrap_or_default()
                .iter()
                .find_map(|place| match place {
                    Place::Found { element, .. } => Some(element.start..element.start),
                    Place::Missing { .. } => None,
                });
        let at = later.unwrap_or(at);
        let at = match lists.last() {
            Some(before) => at.start.max(before.after)..at.end.max(before.after),
            None => at,
        };
        let own = path.get(depth..)?;
        let shared = own.len().saturating_sub(1).min(opened.len());
        let mut open = String::new();
        for (name, namespace) in own.get(shared..)? {
            open.push_str(&format!("<ews:{name} xmlns:ews=\"{}\">", namespace.uri()));
        }
        // The elements around it stay open if the next list is missing in them too.
        let next = paths.get(index + 1).zip(places.get(index + 1));
        let stays = match next {
            Some((next, Place::Missing { depth: other, .. })) if *other == depth => {
                let next = next.get(depth..)?;
                let pairs = own.iter().zip(next);
                pairs
                    .take_while(|(own, next)| own == next)
                    .count()
                    .min(own.len() - 1)
            }
            _ => 0,
        };
        let mut close = String::new();
        for (name, _) in own.get(stays..)?.iter().rev() {
            close.push_str(&format!("</ews:{name}>"));
        }
        opened = own.get(..stays)?;
        lists.push(ListAt {
            name,
            before: at.start,
            open,
            content: at.start..at.start,
            children: Vec::new(),
            close,
            after: at.end,
            scope: body.get(..at.start).map(Namespaces::behind)?,
        });
    }
    // The frame goes on where it broke off: lists in another order than ours are not known.
    let ascend = |pair: &[ListAt]| matches!(pair, [one, next] if one.after <= next.before);
    lists.windows(2).all(ascend).then_some(lists)
}

/// Leaves `Metadata` behind the last App, which speaks of the mailbox, to the frame. None if it stands elsewhere.
fn leave_metadata(body: &[u8], place: &mut Place) -> Option<()> {
    let Place::Found {
        content, children, ..
    } = place
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

/// Goes down a path from the answer's element.
fn place(body: &[u8], path: Path) -> Result<Place, OutlineError> {
    let missing = || OutlineError::NotSoap {
        expected: "an answer",
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
            return Ok(Place::Missing { depth, at: at..at });
        };
        let last = depth + 1 == path.len();
        if found.empty && !last {
            return Ok(Place::Missing {
                depth,
                at: found.at..found.end,
            });
        }
        if found.empty {
            let name = body.get(found.at + 1..found.end - 2 - found.attributes.len());
            let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
            return Ok(Place::Found {
                element: found.at..found.end,
                content: found.end..found.end,
                children: Vec::new(),
                empty: Some(name),
            });
        }
        if last {
            let (end, children, _) = reader.members()?;
            return Ok(Place::Found {
                element: found.at..end.end,
                content: found.end..end.start,
                children: children.into_vec(),
                empty: None,
            });
        }
    }
    Err(missing())
}
