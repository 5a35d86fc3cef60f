//! [`Edits`]: pieces of a text to be replaced.

use std::borrow::Cow;
use std::ops::Range;

/// What stands for a secret. OpenTelemetry's conventions for URLs use the same word, and it needs no
/// escaping in XML, JSON or a URL.
pub(super) const REDACTED: &[u8] = b"REDACTED";

/// One piece, and what replaces it.
#[derive(Clone, Debug)]
pub(super) struct Edit {
    pub(super) range: Range<usize>,
    pub(super) with: Cow<'static, [u8]>,
    /// Where the piece ends may look different once escapes in it are undone.
    pub(super) is_open: bool,
}

/// Pieces of a text that are replaced, in any order. Where they overlap, the first one by place
/// stands for all.
#[derive(Clone, Debug, Default)]
pub(super) struct Edits(Vec<Edit>);

impl Edits {
    pub(super) fn redact(&mut self, range: Range<usize>) {
        self.replace(range, REDACTED);
    }

    pub(super) fn replace(&mut self, range: Range<usize>, with: impl Into<Cow<'static, [u8]>>) {
        // Nothing is in an empty range.
        if !range.is_empty() {
            self.0.push(Edit {
                range,
                with: with.into(),
                is_open: false,
            });
        }
    }

    /// Redacts what may go on once escapes in it are undone.
    pub(super) fn redact_open(&mut self, range: Range<usize>) {
        let before = self.0.len();
        self.redact(range);
        if let Some(edit) = self.0.get_mut(before) {
            edit.is_open = true;
        }
    }

    /// Adds the edits of the part of the text that begins at `start`.
    pub(super) fn extend(&mut self, part: Edits, start: usize) {
        self.0.extend(part.0.into_iter().map(|edit| Edit {
            range: edit.range.start + start..edit.range.end + start,
            ..edit
        }));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns the edits that change `text`, in order and without overlaps.
    pub(super) fn settle(mut self, text: &[u8]) -> Vec<Edit> {
        self.0.sort_by_key(|edit| edit.range.start);
        let mut settled: Vec<Edit> = Vec::with_capacity(self.0.len());
        for edit in self.0 {
            match settled.last_mut() {
                Some(last) if edit.range.start < last.range.end => {
                    last.range.end = last.range.end.max(edit.range.end);
                    last.is_open &= edit.is_open;
                }
                _ => settled.push(edit),
            }
        }
        settled.retain(|edit| {
            text.get(edit.range.clone())
                .is_some_and(|old| *old != *edit.with)
        });
        settled
    }

    /// Makes the edits, without a copy if there are none.
    pub(super) fn apply(self, text: &[u8]) -> Cow<'_, [u8]> {
        if self.0.is_empty() {
            return Cow::Borrowed(text);
        }
        let settled = self.settle(text);
        if settled.is_empty() {
            return Cow::Borrowed(text);
        }
        let mut changed = Vec::with_capacity(text.len());
        let mut done = 0;
        for Edit { range, with, .. } in settled {
            changed.extend_from_slice(text.get(done..range.start).unwrap_or_default());
            changed.extend_from_slice(&with);
            done = range.end;
        }
        changed.extend_from_slice(text.get(done..).unwrap_or_default());
        Cow::Owned(changed)
    }
}
