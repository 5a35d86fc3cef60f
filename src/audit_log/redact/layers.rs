//! [`Layers`]: a text, and the texts that are escaped in it, in which secrets are found one after another.

use std::borrow::Cow;

use super::derived::Derived;
use super::edit::{Edit, Edits};
use super::escape::{Escape, decode};

/// How often text is taken out of each kind of escape.
pub(super) const ROUNDS: usize = 4;

/// A text, what it says without some of its escapes, and what has been found so far.
///
/// What was found is `REDACTED` in the texts that are derived later, so that no reader is confused
/// by what is inside of a secret, unless it may go on there.
#[derive(Debug)]
pub(super) struct Layers<'a> {
    base: &'a [u8],
    derived: Vec<Derived>,
    found: Edits,
}

impl<'a> Layers<'a> {
    pub(super) fn new(base: &'a [u8]) -> Self {
        Self {
            base,
            derived: Vec::new(),
            found: Edits::default(),
        }
    }

    /// Returns the text as it stands now.
    pub(super) fn text(&self) -> &[u8] {
        self.derived
            .last()
            .map_or(self.base, |derived| &derived.text)
    }

    /// Undoes one round of these escapes in a text that may be cut off. Returns whether there were any.
    pub(super) fn decode(&mut self, escape: Escape, cut: bool) -> bool {
        let decoded = decode(escape, self.text(), cut);
        let any = decoded.is_some();
        self.derived.extend(decoded);
        any
    }

    /// Notes what was found in the present text.
    pub(super) fn apply(&mut self, edits: Edits) {
        let text = self.text();
        let edits = edits.settle(text);
        if edits.is_empty() {
            return;
        }
        let mut next = Derived::default();
        let mut done = 0;
        for Edit { range, with, .. } in edits.iter().filter(|edit| !edit.is_open) {
            next.copy(text.get(done..range.start).unwrap_or_default(), done);
            next.copy(with, range.start);
            done = range.end;
        }
        next.copy(text.get(done..).unwrap_or_default(), done);
        next.end(text.len());
        let base = |at| {
            self.derived
                .iter()
                .rev()
                .fold(at, |at, layer| layer.origin(at))
        };
        for Edit { range, with, .. } in edits {
            let range = base(range.start)..base(range.end);
            self.found.replace(range, with);
        }
        self.derived.push(next);
    }

    /// Returns what was found, in the places of the text that was there first.
    pub(super) fn into_edits(self) -> Edits {
        self.found
    }

    /// Returns the text that was there first, without what was found.
    pub(super) fn finish(self) -> Cow<'a, [u8]> {
        self.found.apply(self.base)
    }
}

/// Returns the text without its escapes, up to [`ROUNDS`] of each.
pub(super) fn plain(text: &[u8]) -> Cow<'_, [u8]> {
    let mut layers = Layers::new(text);
    for _ in 0..ROUNDS {
        if !Escape::ALL
            .map(|escape| layers.decode(escape, false))
            .contains(&true)
        {
            break;
        }
    }
    match layers.derived.pop() {
        Some(derived) => Cow::Owned(derived.text),
        None => Cow::Borrowed(text),
    }
}
