//! A text in which pieces are replaced from left to right; what is not replaced is not copied twice, and not at all if nothing is.
use std::borrow::Cow;
use std::ops::Range;

/// What stands for a secret. OpenTelemetry's conventions for URLs use the same word, and it needs no escaping in XML, JSON or a URL.
pub(super) const REDACTED: &[u8] = b"REDACTED";

#[derive(Debug)]
pub(super) struct Edit<'a> {
    input: &'a [u8],
    out: Vec<u8>,
    /// Up to here the input is in `out`, or was left out of it.
    done: usize,
}

impl<'a> Edit<'a> {
    pub(super) fn new(input: &'a [u8]) -> Self {
        Edit {
            input,
            out: Vec::new(),
            done: 0,
        }
    }

    /// What was already replaced stays so. An empty range needs no replacement: nothing is in it.
    pub(super) fn replace(&mut self, range: Range<usize>, with: &[u8]) {
        let start = range.start.max(self.done);
        let Some(old) = self.input.get(start..range.end) else {
            return;
        };
        if old.is_empty() || old == with {
            return;
        }
        self.out
            .extend_from_slice(self.input.get(self.done..start).unwrap_or_default());
        self.out.extend_from_slice(with);
        self.done = range.end;
    }

    pub(super) fn redact(&mut self, range: Range<usize>) {
        self.replace(range, REDACTED);
    }

    pub(super) fn finish(mut self) -> Cow<'a, [u8]> {
        if self.done == 0 {
            return Cow::Borrowed(self.input);
        }
        self.out
            .extend_from_slice(self.input.get(self.done..).unwrap_or_default());
        Cow::Owned(self.out)
    }
}

/// One step after another over the same text, without a copy for a step that changes nothing.
pub(super) fn then<'a>(
    text: Cow<'a, [u8]>,
    step: impl for<'b> FnOnce(&'b [u8]) -> Cow<'b, [u8]>,
) -> Cow<'a, [u8]> {
    match text {
        Cow::Borrowed(text) => step(text),
        Cow::Owned(text) => match step(&text) {
            Cow::Borrowed(_) => Cow::Owned(text),
            Cow::Owned(text) => Cow::Owned(text),
        },
    }
}
