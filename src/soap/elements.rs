//! Steps through the elements of a document: the envelope, the children of an element, and the way
//! around one.
use super::outline_error::OutlineError;
use super::space::Space;
use super::xml::{Event, Reader, Start, is_blank};

/// Reads up to the envelope's start tag.
pub(super) fn root<'a>(reader: &mut Reader<'a>) -> Result<Start<'a>, OutlineError> {
    loop {
        let at = reader.position();
        match reader.next()? {
            Event::Start(start) if start.is(Space::Soap, "Envelope") => return Ok(start),
            Event::Text(range) if is_blank(reader.bytes(&range)) => {}
            _ => {
                return Err(OutlineError::NotSoap {
                    expected: "a SOAP envelope",
                    at,
                });
            }
        }
    }
}

/// The next child element of the innermost open element, or none behind its end tag.
pub(super) fn child<'a>(reader: &mut Reader<'a>) -> Result<Option<Start<'a>>, OutlineError> {
    loop {
        match reader.next()? {
            Event::Start(start) => return Ok(Some(start)),
            Event::End | Event::Eof => return Ok(None),
            Event::Text(_) | Event::CData(_) => {}
        }
    }
}

/// Goes behind an element whose start tag was just read, and returns where that is.
pub(super) fn skip(reader: &mut Reader<'_>, start: &Start<'_>) -> Result<usize, OutlineError> {
    if start.empty {
        Ok(start.end)
    } else {
        reader.skip().map(|end| end.end)
    }
}

/// Goes to the next child of the innermost open element that has this local name; `*` is any.
pub(super) fn find<'a>(
    reader: &mut Reader<'a>,
    name: &str,
) -> Result<Option<Start<'a>>, OutlineError> {
    while let Some(start) = child(reader)? {
        if name == "*" || start.local == name.as_bytes() {
            return Ok(Some(start));
        }
        if !start.empty {
            reader.skip()?;
        }
    }
    Ok(None)
}

/// The first start tag of a text.
pub(super) fn first_element(text: &[u8]) -> Option<Start<'_>> {
    let mut reader = Reader::new(text).ok()?;
    loop {
        match reader.next().ok()? {
            Event::Start(start) => return Some(start),
            Event::End | Event::Eof => return None,
            _ => {}
        }
    }
}
