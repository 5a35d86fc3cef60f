//! The entries of a response, read with a plain XML parser.

use quick_xml::events::Event;
use quick_xml::reader::Reader;

/// One entry of a merged response.
#[derive(Debug)]
pub struct Entry {
    pub class: String,
    pub code: String,
    pub text: String,
    /// All that stands in it.
    pub inside: String,
}

/// The entries of a response, which must be well-formed to its end. None if it has no list of them.
pub fn entries(response: &str) -> Option<Vec<Entry>> {
    let mut reader = Reader::from_str(response);
    let mut entries = None;
    let mut depth = 0;
    loop {
        match reader.read_event().expect("well-formed XML") {
            Event::Start(start) => {
                let name = start.local_name();
                let list = name.as_ref();
                if entries.is_none()
                    && (list == b"ResponseMessages" || list == b"FreeBusyResponseArray")
                {
                    entries = Some(list_of(&mut reader));
                } else {
                    depth += 1;
                }
            }
            Event::End(_) => depth -= 1,
            Event::Eof => break,
            _ => {}
        }
    }
    assert_eq!(depth, 0);
    entries
}

/// Reads up to the end of a list that has begun.
fn list_of(reader: &mut Reader<&[u8]>) -> Vec<Entry> {
    let mut entries = Vec::new();
    loop {
        match reader.read_event().unwrap() {
            Event::Start(start) => {
                let end = start.to_end().into_owned();
                let tag = String::from_utf8_lossy(&start).into_owned();
                let inside = reader.read_text(end.name()).unwrap();
                let inside = inside.decode().unwrap();
                let class = |text: &str| {
                    Some(
                        behind(text, "ResponseClass=\"")?
                            .split('"')
                            .next()?
                            .to_owned(),
                    )
                };
                entries.push(Entry {
                    class: class(&tag).or_else(|| class(&inside)).expect("a class"),
                    code: element(&inside, "ResponseCode"),
                    text: element(&inside, "MessageText"),
                    inside: inside.into_owned(),
                });
            }
            Event::End(_) => return entries,
            Event::Eof => panic!("no end of the list"),
            _ => {}
        }
    }
}

fn behind<'a>(text: &'a str, before: &str) -> Option<&'a str> {
    Some(&text[text.find(before)? + before.len()..])
}

/// The text of the first element of that local name.
fn element(text: &str, name: &str) -> String {
    let text = behind(text, &format!("{name}>")).unwrap_or("");
    text.split('<').next().unwrap_or("").to_owned()
}
