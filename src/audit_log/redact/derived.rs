//! [`Derived`]: a text that was made of another one.

/// A text that was made of another one, and where its bytes come from.
#[derive(Debug, Default)]
pub(super) struct Derived {
    pub(super) text: Vec<u8>,
    /// From a place in this text on, where its bytes stand in the other one.
    origins: Vec<(usize, usize)>,
}

impl Derived {
    /// Appends bytes that stand in the other text, or for what stands there, from `origin` on.
    pub(super) fn copy(&mut self, bytes: &[u8], origin: usize) {
        if !bytes.is_empty() {
            self.origins.push((self.text.len(), origin));
            self.text.extend_from_slice(bytes);
        }
    }

    /// Ends the text, where the other one ends too.
    pub(super) fn end(&mut self, origin: usize) {
        self.origins.push((self.text.len(), origin));
    }

    /// Returns the place in the other text.
    pub(super) fn origin(&self, at: usize) -> usize {
        let after = self.origins.partition_point(|(from, _)| *from <= at);
        let Some((from, origin)) = after
            .checked_sub(1)
            .and_then(|known| self.origins.get(known))
        else {
            return at;
        };
        let exact = origin + (at - from);
        // Inside of what stands for something shorter.
        let next = self.origins.get(after).map_or(exact, |(_, next)| *next);
        exact.min(next)
    }
}
