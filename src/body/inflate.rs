//! [`Inflate`]: reads what a server has compressed, though nobody asked it to.

use std::io::{self, Write};

use flate2::write::{DeflateDecoder, MultiGzDecoder, ZlibDecoder};
use http::HeaderMap;

use super::encoding;

/// Compressed bytes that are read at a time: a hostile body makes at most a thousand times as much of them.
pub(super) const STEP: usize = 4 * 1024;

/// Decompresses a body as it comes, in pieces of bounded size.
pub(crate) struct Inflate {
    decoder: Decoder,
    /// Bytes that may still come out.
    left: u64,
}

enum Decoder {
    Gzip(MultiGzDecoder<Vec<u8>>),
    /// "deflate" is zlib's format (RFC 9110, section 8.4.1.2), but many servers send the bare stream of RFC 1951. The first two
    /// bytes tell; here is the first one, if it has come.
    Unclear(Option<u8>),
    Zlib(ZlibDecoder<Vec<u8>>),
    Deflate(DeflateDecoder<Vec<u8>>),
}

impl Inflate {
    /// Creates the decoder for a body with these headers, of which at most `max` bytes are to come out. `None` if it has no
    /// encoding, or one that is not known.
    pub(crate) fn of(headers: &HeaderMap, max: u64) -> Option<Self> {
        let mut codings = headers.get_all(http::header::CONTENT_ENCODING).iter();
        let only = codings.next().filter(|_| codings.next().is_none());
        let coding = encoding(headers).and(only)?.as_bytes().trim_ascii();
        let is = |name: &str| coding.eq_ignore_ascii_case(name.as_bytes());
        let decoder = if is("gzip") || is("x-gzip") {
            Decoder::Gzip(MultiGzDecoder::new(Vec::new()))
        } else if is("deflate") {
            Decoder::Unclear(None)
        } else {
            return None;
        };
        Some(Self { decoder, left: max })
    }

    /// Decompresses the next bytes, and hands the result to `read` in pieces.
    ///
    /// # Errors
    ///
    /// [`io::ErrorKind::FileTooLarge`] if more came out than may, and the decoder's errors.
    pub(crate) fn push(&mut self, bytes: &[u8], mut read: impl FnMut(&[u8])) -> io::Result<()> {
        for step in bytes.chunks(STEP) {
            self.decoder.write(step)?;
            self.hand_out(&mut read)?;
        }
        Ok(())
    }

    /// Hands out the rest.
    ///
    /// # Errors
    ///
    /// As [`push`](Self::push), and an error if the body is not complete.
    pub(crate) fn finish(&mut self, mut read: impl FnMut(&[u8])) -> io::Result<()> {
        match &mut self.decoder {
            Decoder::Gzip(decoder) => decoder.try_finish()?,
            Decoder::Zlib(decoder) => decoder.try_finish()?,
            Decoder::Deflate(decoder) => decoder.try_finish()?,
            Decoder::Unclear(_) => return Err(io::ErrorKind::UnexpectedEof.into()),
        }
        self.hand_out(&mut read)
    }

    fn hand_out(&mut self, read: &mut impl FnMut(&[u8])) -> io::Result<()> {
        let out = match &mut self.decoder {
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zlib(decoder) => decoder.get_mut(),
            Decoder::Deflate(decoder) => decoder.get_mut(),
            Decoder::Unclear(_) => return Ok(()),
        };
        self.left = self
            .left
            .checked_sub(out.len() as u64)
            .ok_or(io::ErrorKind::FileTooLarge)?;
        if !out.is_empty() {
            read(out);
            out.clear();
        }
        Ok(())
    }
}

impl Decoder {
    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Gzip(decoder) => decoder.write_all(bytes),
            Self::Zlib(decoder) => decoder.write_all(bytes),
            Self::Deflate(decoder) => decoder.write_all(bytes),
            Self::Unclear(first) => match (*first, bytes) {
                (_, []) => Ok(()),
                (None, [only]) => {
                    *first = Some(*only);
                    Ok(())
                }
                (None, [one, two, ..]) => self.decide([*one, *two], &[], bytes),
                (Some(one), [two, ..]) => self.decide([one, *two], &[one], bytes),
            },
        }
    }

    /// Chooses the format by the first two bytes, and reads `held` and `bytes`.
    fn decide(&mut self, beginning: [u8; 2], held: &[u8], bytes: &[u8]) -> io::Result<()> {
        *self = match is_zlib(beginning) {
            true => Self::Zlib(ZlibDecoder::new(Vec::new())),
            false => Self::Deflate(DeflateDecoder::new(Vec::new())),
        };
        self.write(held)?;
        self.write(bytes)
    }
}

/// Whether these bytes are the header of zlib's format (RFC 1950, section 2.2).
fn is_zlib([method, flags]: [u8; 2]) -> bool {
    let sum = u16::from_be_bytes([method, flags]);
    method & 0x0f == 8 && method >> 4 <= 7 && sum % 31 == 0
}

#[cfg(test)]
mod tests {
    use flate2::Compression;
    use flate2::write::{DeflateEncoder, GzEncoder, ZlibEncoder};

    use super::*;

    fn headers(coding: &'static str) -> HeaderMap {
        let value = http::HeaderValue::from_static(coding);
        [(http::header::CONTENT_ENCODING, value)]
            .into_iter()
            .collect()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn zlib(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = ZlibEncoder::new(Vec::new(), Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn deflate(bytes: &[u8], level: Compression) -> Vec<u8> {
        let mut encoder = DeflateEncoder::new(Vec::new(), level);
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn inflated(coding: &'static str, bytes: &[u8], piece: usize) -> io::Result<Vec<u8>> {
        let mut inflate = Inflate::of(&headers(coding), 1 << 20).unwrap();
        let mut all = Vec::new();
        for piece in bytes.chunks(piece) {
            inflate.push(piece, |bytes| all.extend_from_slice(bytes))?;
        }
        inflate.finish(|bytes| all.extend_from_slice(bytes))?;
        Ok(all)
    }

    #[test]
    fn what_was_compressed_comes_out_in_pieces_of_any_size() {
        let text = "<s:Envelope/>".repeat(1_000).into_bytes();
        for piece in [1, 7, 4096, 1 << 20] {
            for coding in ["gzip", "x-gzip", " GZIP "] {
                assert_eq!(inflated(coding, &gzip(&text), piece).unwrap(), text);
            }
            assert_eq!(inflated("deflate", &zlib(&text), piece).unwrap(), text);
            for level in [0, 1, 6, 9].map(Compression::new) {
                let bare = deflate(&text, level);
                assert_eq!(inflated("deflate", &bare, piece).unwrap(), text);
            }
            let twice = [gzip(&text), gzip(b"more")].concat();
            assert!(inflated("gzip", &twice, piece).unwrap().ends_with(b"more"));
        }
    }

    #[test]
    fn what_is_broken_or_too_much_is_an_error() {
        let whole = gzip(&b"<s:Envelope/>".repeat(100));
        assert!(inflated("gzip", &whole[..whole.len() / 2], 10).is_err());
        assert!(inflated("gzip", b"<s:Envelope/>", 10).is_err());
        let bare = deflate(&b"<s:Envelope/>".repeat(100), Compression::default());
        for cut in [0, 1, 2, bare.len() / 2] {
            assert!(inflated("deflate", &bare[..cut], 1).is_err(), "{cut}");
        }
        assert!(inflated("deflate", b"<s:Envelope/>", 3).is_err());
        let bomb = gzip(&vec![0; 2 << 20]);
        let error = inflated("gzip", &bomb, 4096).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::FileTooLarge);
    }

    #[test]
    fn other_encodings_are_not_known() {
        for coding in ["identity", "", "br", "gzip, br"] {
            assert!(Inflate::of(&headers(coding), 1).is_none(), "{coding}");
        }
        assert!(Inflate::of(&HeaderMap::new(), 1).is_none());
        let mut two = headers("gzip");
        two.append("content-encoding", http::HeaderValue::from_static("gzip"));
        assert!(Inflate::of(&two, 1).is_none());
    }
}
