//! [`Envelopes`]: the envelopes of a response that is made of several, one behind the other, in whatever frames they come.

use bytes::{Buf, Bytes, BytesMut};
use memchr::memmem;

/// The most bytes of one envelope. 200 subscriptions with 50 events each, of some 1.2 KB each, are 12 MB.
const MAX_ENVELOPE: usize = 16 * 1024 * 1024;
/// The most bytes of a prefix, and of white space in an end tag.
const MAX_AROUND: usize = 64;
const NAME: &[u8] = b"Envelope";

/// Collects bytes, and hands out whole envelopes.
#[derive(Debug, Default)]
pub(crate) struct Envelopes {
    bytes: BytesMut,
    /// No end tag begins before.
    searched: usize,
}

/// An envelope is longer than any that Exchange sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an envelope of a stream is longer than {MAX_ENVELOPE} bytes")]
pub(crate) struct EnvelopeTooLong;

impl Envelopes {
    /// Adds a frame.
    pub(crate) fn push(&mut self, frame: &[u8]) -> Result<(), EnvelopeTooLong> {
        self.bytes.extend_from_slice(frame);
        // What is whole may still have to be taken out.
        match self.bytes.len() > 2 * MAX_ENVELOPE {
            true => Err(EnvelopeTooLong),
            false => Ok(()),
        }
    }

    /// Returns the next whole envelope.
    pub(crate) fn next(&mut self) -> Result<Option<Bytes>, EnvelopeTooLong> {
        if self.searched == 0 {
            let blank = self
                .bytes
                .iter()
                .take_while(|byte| byte.is_ascii_whitespace());
            let blank = blank.count();
            self.bytes.advance(blank);
        }
        while let Some(found) =
            memmem::find(self.bytes.get(self.searched..).unwrap_or_default(), NAME)
        {
            let name = self.searched + found;
            let end = name + NAME.len();
            if ends_tag(self.bytes.get(..name).unwrap_or_default()) {
                let rest = self.bytes.get(end..).unwrap_or_default();
                let blank = rest
                    .iter()
                    .take_while(|byte| byte.is_ascii_whitespace())
                    .count();
                match rest.get(blank) {
                    Some(b'>') => {
                        self.searched = 0;
                        return Ok(Some(self.bytes.split_to(end + blank + 1).freeze()));
                    }
                    // The rest of the tag is still to come.
                    None if blank <= MAX_AROUND => {
                        self.searched = name;
                        return Ok(None);
                    }
                    _ => {}
                }
            }
            self.searched = end;
        }
        self.searched = self
            .bytes
            .len()
            .saturating_sub(NAME.len())
            .max(self.searched);
        match self.bytes.len() > MAX_ENVELOPE {
            true => Err(EnvelopeTooLong),
            false => Ok(None),
        }
    }
}

/// Whether what stands before a name makes it the name of an end tag: `</`, and perhaps a prefix.
fn ends_tag(before: &[u8]) -> bool {
    let before = before.strip_suffix(b":").map_or(before, |before| {
        let prefix = before.iter().rev().take(MAX_AROUND);
        let length = prefix
            .take_while(|byte| !matches!(byte, b'/' | b'<' | b'>'))
            .count();
        before.get(..before.len() - length).unwrap_or_default()
    });
    before.ends_with(b"</")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(text: &str, frame: usize) -> Vec<String> {
        let mut envelopes = Envelopes::default();
        let mut found = Vec::new();
        for frame in text.as_bytes().chunks(frame) {
            envelopes.push(frame).unwrap();
            while let Some(envelope) = envelopes.next().unwrap() {
                found.push(String::from_utf8(envelope.to_vec()).unwrap());
            }
        }
        found
    }

    #[test]
    fn whole_envelopes_in_any_frames() {
        let one = "<?xml version='1.0'?><s:Envelope><a>Envelope</a></s:Envelope>";
        let two = "<Envelope><b x='Envelope>'/></Envelope \n>";
        let three = "<soap11:Envelope/x></soap11:Envelope>";
        for frame in 1..200 {
            let found = split(&format!("\n {one}\r\n{two}{three} "), frame);
            assert_eq!(found, [one, two, three], "{frame}");
            assert_eq!(split(&format!("{one}<half>"), frame), [one]);
        }
    }

    #[test]
    fn bounded() {
        let mut envelopes = Envelopes::default();
        envelopes.push(b"<s:Envelope>").unwrap();
        let frame = vec![b'x'; 1024 * 1024];
        let refused = (0..40).any(|_| envelopes.push(&frame).is_err() || envelopes.next().is_err());
        assert!(refused && envelopes.bytes.len() <= 17 * 1024 * 1024);
    }
}
