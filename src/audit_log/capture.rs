//! [`Capture`]: the first bytes of a body.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, HeaderValue};

use crate::body::{ReplayBody, encoding};

/// The first bytes of a body, and how many there were.
pub(super) struct Capture {
    pub(super) content_type: Option<HeaderValue>,
    /// The encoding that the body still has. An encoded body is not kept.
    pub(super) encoding: Option<HeaderValue>,
    pub(super) pieces: Vec<Bytes>,
    pub(super) total: u64,
    room: usize,
}

impl Capture {
    /// Creates a capture of at most `limit` bytes of the body that has these headers.
    pub(super) fn new(headers: &HeaderMap, limit: usize) -> Self {
        let encoding = encoding(headers).cloned();
        Self {
            content_type: headers.get(CONTENT_TYPE).cloned(),
            room: if encoding.is_some() { 0 } else { limit },
            encoding,
            pieces: Vec::new(),
            total: 0,
        }
    }

    /// Keeps `bytes`, or as much of them as there is room for. What fits is cloned from `frame`.
    pub(super) fn keep(&mut self, bytes: &[u8], frame: Option<&Bytes>) {
        self.total = self.total.saturating_add(bytes.len() as u64);
        let kept = bytes.get(..self.room).unwrap_or(bytes);
        if kept.is_empty() {
            return;
        }
        self.room -= kept.len();
        self.pieces.push(match frame {
            Some(frame) if frame.len() == kept.len() => frame.clone(),
            // A clone of a piece would hold all of a large frame.
            _ => Bytes::copy_from_slice(kept),
        });
    }

    /// Keeps the beginning of a body that is there as a whole.
    pub(super) fn keep_all(&mut self, body: &ReplayBody) {
        for piece in body.pieces() {
            self.keep(piece, Some(piece));
        }
    }

    /// Counts bytes that cannot be looked at. Nothing that follows them is kept.
    pub(super) fn skip(&mut self, bytes: u64) {
        self.total = self.total.saturating_add(bytes);
        self.room = 0;
    }

    pub(super) fn is_cut(&self) -> bool {
        let kept: usize = self.pieces.iter().map(Bytes::len).sum();
        (kept as u64) < self.total
    }
}
