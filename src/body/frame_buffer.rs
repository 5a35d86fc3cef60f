//! [`FrameBuffer`]: the data of a body that comes in frames, in few pieces.

use std::mem;

use bytes::Bytes;

use super::rope::Rope;

/// Frames of fewer bytes are copied together. A piece costs some 32 bytes of its own, and holds the
/// buffer that it was cut from.
const SMALL: usize = 4 * 1024;

/// So much is copied together at most.
const CHUNK: usize = 64 * 1024;

/// Collects the data frames of a body into a [`Rope`].
///
/// A large frame, and a body of one frame, are taken without a copy. Small frames are put together,
/// so that memory follows the bytes, however a peer cuts them: sixteen million frames of one byte
/// are some 256 pieces. Empty frames leave nothing behind.
#[derive(Default)]
pub(crate) struct FrameBuffer {
    rope: Rope,
    /// A small frame, as long as no other one followed it.
    single: Bytes,
    /// Small frames that came one behind the other.
    joined: Vec<u8>,
}

impl FrameBuffer {
    /// Returns the number of bytes in it.
    pub(crate) fn len(&self) -> u64 {
        self.rope.len() + self.single.len() as u64 + self.joined.len() as u64
    }

    /// Appends a frame.
    pub(crate) fn push(&mut self, frame: Bytes) {
        if frame.len() >= SMALL {
            self.settle();
            self.rope.push(frame);
        } else if self.single.is_empty() && self.joined.is_empty() {
            self.single = frame;
        } else if !frame.is_empty() {
            let single = mem::take(&mut self.single);
            self.join(&single);
            self.join(&frame);
        }
    }

    fn join(&mut self, frame: &[u8]) {
        if self.joined.len() + frame.len() > CHUNK {
            self.settle();
        }
        let (len, capacity) = (self.joined.len(), self.joined.capacity());
        let needed = len + frame.len();
        if needed > capacity {
            // Doubled, but never beyond a chunk.
            let capacity = needed.max((2 * capacity).min(CHUNK));
            self.joined.reserve_exact(capacity - len);
        }
        self.joined.extend_from_slice(frame);
    }

    /// Makes a piece of the small frames that came last.
    fn settle(&mut self) {
        self.rope.push(mem::take(&mut self.single));
        self.rope.push(mem::take(&mut self.joined).into());
    }

    /// Returns all that came.
    pub(crate) fn into_rope(mut self) -> Rope {
        self.settle();
        self.rope
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn collect(frames: impl IntoIterator<Item = Bytes>) -> Rope {
        let mut buffer = FrameBuffer::default();
        let mut len = 0;
        for frame in frames {
            len += frame.len() as u64;
            buffer.push(frame);
            assert_eq!(buffer.len(), len);
        }
        buffer.into_rope()
    }

    #[test]
    fn frames_of_any_size_keep_their_order() {
        let text: Bytes = (0..200_000_u32).map(|at| (at % 251) as u8).collect();
        for sizes in [
            &[1][..],
            &[0, 1, 0],
            &[4095],
            &[4096],
            &[1, 4096],
            &[5000, 1, 1, 0, 70_000],
            &[70_000, 3],
            &[200_000],
        ] {
            let mut rest = text.clone();
            let mut frames = Vec::new();
            for size in sizes.iter().cycle() {
                frames.push(rest.split_to(rest.len().min(*size)));
                if rest.is_empty() {
                    break;
                }
            }
            let rope = collect(frames);
            assert_eq!(rope.to_bytes(), text, "{sizes:?}");
            // Two for each large one, and for each chunk of small ones.
            assert!(rope.pieces().len() <= 2 * (text.len() / SMALL + 1));
        }
        assert!(collect([Bytes::new(), Bytes::new()]).is_empty());
    }

    #[test]
    fn large_frames_and_a_single_one_are_not_copied() {
        let small = Bytes::from(vec![1; 10]);
        let large = Bytes::from(vec![2; SMALL]);
        for frames in [
            vec![small.clone()],
            vec![Bytes::new(), small.clone(), Bytes::new()],
            vec![large.clone(), large.clone()],
            vec![large, small],
        ] {
            let frames = frames.iter();
            let expected: Vec<_> = frames.clone().filter(|frame| !frame.is_empty()).collect();
            let rope = collect(frames.cloned());
            for (piece, frame) in rope.pieces().iter().zip(&expected) {
                assert_eq!(piece.as_ptr(), frame.as_ptr());
            }
            assert_eq!(rope.pieces().len(), expected.len());
        }
    }

    /// The same bytes, in frames of any size: memory is linear in the bytes.
    #[test]
    fn memory_follows_the_bytes() {
        for (bytes, size) in [(1 << 20, 1), (1 << 22, 1), (1 << 20, 100), (1 << 20, 5000)] {
            let frame = Bytes::from(vec![b'x'; size]);
            let info = allocation_counter::measure(|| {
                let rope = collect(std::iter::repeat_n(frame.clone(), bytes / size));
                assert!(rope.pieces().len() <= 2 * (bytes / SMALL + 1));
            });
            let limit = bytes as u64 * 5 / 4 + 4 * CHUNK as u64;
            assert!(info.bytes_max <= limit, "{bytes} in {size}: {info:?}");
        }
        let info = allocation_counter::measure(|| {
            assert!(collect(std::iter::repeat_n(Bytes::new(), 5_000_000)).is_empty());
        });
        assert_eq!(info.bytes_total, 0);
    }
}
