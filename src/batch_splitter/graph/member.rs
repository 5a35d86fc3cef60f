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
    pub(super) idempotency: Idempotency,
    depends_on: Option<Box<DependsOn>>,
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
    /// Reads a request; `earlier` has the members before it. Returns `None` if the server has to say what is wrong with it, or
    /// if parts cannot keep its meaning.
    pub(super) fn read(
        whole: &str,
        text: &str,
        earlier: &HashMap<Box<str>, usize>,
    ) -> Option<(Box<str>, Member)> {
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
                let depends_on = DependsOn::read(whole, &object, array, earlier)?;
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
        let member = Member {
            range: json::range_of(whole, text)?,
            id: json::range_of(whole, id)?,
            idempotency,
            depends_on,
        };
        Some((json::string(id)?.to_lowercase().into(), member))
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
    fn read(
        whole: &str,
        object: &Object<'_>,
        array: &str,
        earlier: &HashMap<Box<str>, usize>,
    ) -> Option<DependsOn> {
        let mut entries = Vec::new();
        for entry in json::array(array)? {
            let id = json::string(entry)?.to_lowercase();
            entries.push((json::range_of(whole, entry)?, *earlier.get(&*id)?));
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
