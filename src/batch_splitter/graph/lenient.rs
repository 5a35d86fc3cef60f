//! Reads the array of a response that is not valid JSON as a whole: each element that can be read counts.

use std::borrow::Cow;
use std::str;

use super::json::{self, Object};

/// How many elements that cannot be read are looked behind: each look can go to the end of the text.
const MAX_BROKEN: usize = 64;

/// Returns a response as a text of the same length. JSON has no place for what stands for bytes that are no UTF-8, so that
/// nothing with such a byte can be read.
pub(super) fn text(bytes: &[u8]) -> Cow<'_, str> {
    if let Ok(text) = str::from_utf8(bytes) {
        return Cow::Borrowed(text);
    }
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(chunk.invalid().iter().map(|_| '\0'));
    }
    Cow::Owned(text)
}

/// What can be read of a broken response.
#[derive(Debug)]
pub(super) struct Readable<'a> {
    /// The end of the bracket that opens the array.
    pub(super) begin: usize,
    /// The elements that can be read.
    pub(super) elements: Vec<&'a str>,
    /// Where the bracket that closes the array stands, if what follows can be read.
    pub(super) end: Option<usize>,
}

/// Reads the array `name` of the object that `whole` begins with. Returns `None` if there is none.
pub(super) fn array<'a>(whole: &'a str, name: &str) -> Option<Readable<'a>> {
    let begin = begin(whole, name)?;
    let mut elements = Vec::new();
    let mut looks = MAX_BROKEN;
    let mut at = begin;
    let end = loop {
        at = skip_space(whole, at);
        if byte(whole, at) == Some(b']') {
            break Some(at);
        }
        if let Some((element, behind)) = element(whole, at) {
            elements.push(element);
            at = behind + usize::from(byte(whole, behind) == Some(b','));
            continue;
        }
        match next_response(whole, at, &mut looks) {
            Some(next) => at = next,
            // Behind the last one that cannot be read.
            None => break whole.rfind(']').filter(|end| *end >= at),
        }
    };
    // The frame has to be valid, whatever was in it.
    let end = end.filter(|end| json::is_valid(&format!("{{\"a\":[{}", rest(whole, *end))));
    Some(Readable {
        begin,
        elements,
        end,
    })
}

/// Returns the end of the bracket that opens the array `name`.
fn begin(whole: &str, name: &str) -> Option<usize> {
    let bom = whole
        .strip_prefix('\u{feff}')
        .map_or(0, |_| '\u{feff}'.len_utf8());
    let mut at = skip_space(whole, bom);
    (byte(whole, at)? == b'{').then_some(())?;
    loop {
        at = skip_space(whole, at + 1);
        let key = json::first_value(rest(whole, at))?;
        at = skip_space(whole, at + key.len());
        (byte(whole, at)? == b':').then_some(())?;
        at = skip_space(whole, at + 1);
        if json::string(key)? == name {
            return (byte(whole, at)? == b'[').then_some(at + 1);
        }
        at += json::first_value(rest(whole, at))?.len();
        at = skip_space(whole, at);
        (byte(whole, at)? == b',').then_some(())?;
    }
}

/// Returns the element that begins here, and where the comma or the bracket behind it stands.
fn element(whole: &str, at: usize) -> Option<(&str, usize)> {
    let element = json::first_value(rest(whole, at))?;
    let behind = skip_space(whole, at + element.len());
    matches!(byte(whole, behind), Some(b',' | b']')).then_some((element, behind))
}

/// Returns where the next response begins behind one that cannot be read: an object behind the end of another one, with an id
/// and a status. A page has no such thing in it.
fn next_response(whole: &str, from: usize, looks: &mut usize) -> Option<usize> {
    let mut from = from + 1;
    loop {
        let at = from + memchr::memchr(b'{', rest(whole, from).as_bytes())?;
        from = at + 1;
        let before = whole.get(..at)?.trim_end();
        let before = before.strip_suffix(',').map(str::trim_end);
        if !before.is_some_and(|before| before.ends_with('}')) {
            continue;
        }
        match element(whole, at) {
            Some((element, _)) if is_response(element) => return Some(at),
            Some((element, _)) => from = at + element.len(),
            None => *looks = looks.checked_sub(1)?,
        }
    }
}

fn is_response(element: &str) -> bool {
    let Some(object) = Object::read(element) else {
        return false;
    };
    let has = |name| object.get(name).is_ok_and(|value| value.is_some());
    has("id") && has("status")
}

fn byte(whole: &str, at: usize) -> Option<u8> {
    whole.as_bytes().get(at).copied()
}

fn rest(whole: &str, at: usize) -> &str {
    whole.get(at..).unwrap_or_default()
}

fn skip_space(whole: &str, at: usize) -> usize {
    let is_space = |byte: &&u8| matches!(byte, b' ' | b'\t' | b'\r' | b'\n');
    let bytes = whole.as_bytes().get(at..).unwrap_or_default();
    at + bytes.iter().take_while(is_space).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Option<(Vec<&str>, Option<&str>)> {
        let readable = array(text, "responses")?;
        let end = readable.end.map(|end| &text[end..]);
        Some((readable.elements, end))
    }

    const ONE: &str = r#"{"id":"1","status":201}"#;
    const THREE: &str = r#"{"id":"3","status":200,"body":{"a":[{},{"id":"9"}]}}"#;

    #[test]
    fn what_surrounds_a_page_can_be_read() {
        let page = "<!DOCTYPE html><a href=\"{},{'}\">]</a>{\"id\":\"7\",\"status\":200}";
        for broken in [
            format!(r#"{{"id":"2","status":503,"body":{page}}}"#),
            String::from(r#"{"id":"2","status":200,"body":Sorry, {"x": }}"#),
            String::from(r#"{"id":"2","body":{"a":[{},{"b":[{},}}"#),
        ] {
            for space in ["", " \n"] {
                for before in ["{", "\u{feff} {\"a\" : [1,{}] , \"b\":{\"responses\":[]},"] {
                    let text = format!(
                        "{before}\"responses\" : [{space}{ONE}{space},{space}{broken},{space}{THREE}] ,\"c\":1}}"
                    );
                    let expected = Some((vec![ONE, THREE], Some("] ,\"c\":1}")));
                    assert_eq!(read(&text), expected, "{text}");
                    let last = format!("{before}\"responses\":[{ONE},{broken}{space}]}}");
                    assert_eq!(read(&last), Some((vec![ONE], Some("]}"))), "{last}");
                    let first = format!("{before}\"responses\":[{broken},{ONE},{THREE}]}}");
                    assert_eq!(
                        read(&first),
                        Some((vec![ONE, THREE], Some("]}"))),
                        "{first}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_breaks_off_has_no_end() {
        let whole = format!(r#"{{"responses":[{ONE},{THREE}]}}"#);
        for cut in 0..whole.len() {
            let found = read(&whole[..cut]);
            let Some((elements, end)) = found else {
                assert!(cut < r#"{"responses":["#.len());
                continue;
            };
            assert!(matches!(end, None | Some("]}")), "{cut}: {end:?}");
            // Only what is followed by a comma or a bracket is known to be whole.
            let complete = [ONE.len() + 15, whole.len() - 1];
            let count = complete.iter().filter(|complete| cut >= **complete).count();
            assert_eq!(elements.len(), count, "{cut}");
        }
        let behind = whole.clone() + "<html>";
        assert_eq!(read(&behind), Some((vec![ONE, THREE], None)));
    }

    #[test]
    fn what_has_no_responses() {
        for text in [
            "",
            "<html>{\"responses\":[]}",
            "[",
            "{",
            "{}",
            "{\"a\":1}",
            "{\"responses\":7,",
            "{\"responses\"",
            "{\"a\":{\"responses\":[]},",
            "{\"a\":<html>,\"responses\":[]}",
        ] {
            assert!(read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn the_work_is_bounded() {
        // Each of these begins something that does not end.
        let nested = r#"{"a":[{},"#.repeat(100_000);
        let text = format!("{{\"responses\":[{ONE},{nested}");
        let found = read(&text).unwrap();
        assert_eq!(found, (vec![ONE], None));
    }
}
