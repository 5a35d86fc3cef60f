//! One request of a batch: its facts, and its bytes in a part.

use std::ops::Range;

use bytes::Bytes;
use hashbrown::HashMap;
use memchr::memmem;

use super::json::{self, Object};
use crate::batch_splitter::format::Idempotency;
use crate::body::rope::Rope;

#[derive(Debug)]
pub(super) struct Member {
    pub(super) range: Range<usize>,
    /// With its quotes.
    pub(super) id: Range<usize>,
    /// In lower case, as Graph compares it.
    pub(super) folded_id: Box<str>,
    /// The first request whose id is this one but for its case: two of them cannot be in one part.
    pub(super) exclusive: u64,
    pub(super) idempotency: Idempotency,
    depends_on: Option<Box<DependsOn>>,
}

/// The ids of the requests that were read so far.
#[derive(Debug, Default)]
pub(super) struct Ids {
    exact: HashMap<Box<str>, usize>,
    /// In lower case, with the first request of that id and whether there are several.
    folded: HashMap<Box<str>, (usize, bool)>,
}

impl Ids {
    /// Returns whose id that is: as it is written, or in another case if that is clear.
    fn find(&self, id: &str) -> Option<usize> {
        let exact = self.exact.get(id).copied();
        let folded = || self.folded.get(&*id.to_lowercase()).copied();
        exact.or_else(|| folded().filter(|(_, several)| !several).map(|(at, _)| at))
    }
}

#[derive(Debug)]
struct DependsOn {
    /// The whole property, with the comma that is removed with it.
    property: Range<usize>,
    /// With its brackets.
    array: Range<usize>,
    /// With their quotes, and the members that they name.
    entries: Vec<(Range<usize>, usize)>,
    /// The members that they name, each once.
    needs: Vec<usize>,
}

impl Member {
    /// Reads the request number `at`; `ids` has those before it. Returns `None` if the server has to say what is wrong with it,
    /// or if parts cannot keep its meaning.
    pub(super) fn read(whole: &str, text: &str, at: usize, ids: &mut Ids) -> Option<Member> {
        let object = Object::read(text)?;
        let id = object.get("id").ok()??;
        let method = json::string(object.get("method").ok()??)?;
        json::string(object.get("url").ok()??)?;
        // Ties between requests that OData knows and Graph does not.
        for tie in ["atomicityGroup", "if"] {
            if object.get(tie).ok()?.is_some() {
                return None;
            }
        }
        let depends_on = match object.get("dependsOn").ok()? {
            None | Some("null") => None,
            Some(array) => {
                let depends_on = DependsOn::read(whole, &object, array, ids)?;
                let refers = |name: &(Range<usize>, usize)| {
                    let name = whole.get(name.0.clone()).and_then(json::string);
                    name.is_none_or(|name| refers_to(text, &name))
                };
                if depends_on.entries.iter().any(refers) {
                    return None;
                }
                (!depends_on.needs.is_empty()).then(|| Box::new(depends_on))
            }
        };
        let idempotency = match method.to_ascii_uppercase().as_str() {
            "GET" => Idempotency::Safe,
            "PUT" | "DELETE" => Idempotency::Idempotent,
            _ => Idempotency::NonIdempotent,
        };
        let name = json::string(id)?;
        let folded_id: Box<str> = name.to_lowercase().into();
        if ids.exact.insert((&*name).into(), at).is_some() {
            return None;
        }
        let others = ids.folded.entry(folded_id.clone());
        let (first, _) = *others
            .and_modify(|(_, several)| *several = true)
            .or_insert((at, false));
        Some(Member {
            range: json::range_of(whole, text)?,
            id: json::range_of(whole, id)?,
            folded_id,
            exclusive: first as u64,
            idempotency,
            depends_on,
        })
    }

    /// Returns the members that it depends on, each once.
    pub(super) fn needs(&self) -> &[usize] {
        self.depends_on
            .as_deref()
            .map_or(&[], |depends_on| &depends_on.needs)
    }

    /// Adds it to a part of these `members`, without the ids of others in its `dependsOn`. `body` is the whole batch.
    pub(super) fn push_to(&self, rope: &mut Rope, body: &Bytes, members: &[usize]) {
        let Range { start, end } = self.range;
        let is_here = |need: &usize| members.contains(need);
        let Some(depends_on) = &self.depends_on else {
            return rope.push(body.slice(start..end));
        };
        if depends_on.needs.iter().all(is_here) {
            return rope.push(body.slice(start..end));
        }
        let DependsOn {
            property, array, ..
        } = &**depends_on;
        let mut here = depends_on
            .entries
            .iter()
            .filter(|(_, need)| is_here(need))
            .peekable();
        if here.peek().is_none() {
            rope.push(body.slice(start..property.start));
            rope.push(body.slice(property.end..end));
            return;
        }
        rope.push(body.slice(start..array.start + 1));
        while let Some((entry, _)) = here.next() {
            rope.push(body.slice(entry.clone()));
            if here.peek().is_some() {
                rope.push(Bytes::from_static(b","));
            }
        }
        rope.push(body.slice(array.end - 1..end));
    }
}

impl DependsOn {
    fn read(whole: &str, object: &Object<'_>, array: &str, ids: &Ids) -> Option<DependsOn> {
        let mut entries = Vec::new();
        for entry in json::array(array)? {
            let need = ids.find(&json::string(entry)?)?;
            entries.push((json::range_of(whole, entry)?, need));
        }
        let mut needs: Vec<usize> = entries.iter().map(|(_, need)| *need).collect();
        needs.sort_unstable();
        needs.dedup();
        Some(DependsOn {
            property: object.cut(whole, "dependsOn")?,
            array: json::range_of(whole, array)?,
            entries,
            needs,
        })
    }
}

/// Whether a request refers to the result of another one, as in `"url":"$id/contacts"`.
fn refers_to(request: &str, id: &str) -> bool {
    let request = request.as_bytes();
    let reference = format!("${id}");
    memmem::find_iter(request, &reference).any(|at| {
        let before = at.checked_sub(1).and_then(|before| request.get(before));
        let after = request.get(at + reference.len());
        matches!(before, Some(b'"' | b'/')) && matches!(after, Some(b'"' | b'/' | b'\\' | b'?'))
    })
}
