//! Finds the ranges of values in a JSON text. Decodes only what has to be, and copies nothing.

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

/// The properties of one object, in their order.
#[derive(Debug)]
pub(super) struct Object<'a> {
    properties: Vec<Property<'a>>,
}

#[derive(Debug)]
struct Property<'a> {
    /// With its quotes.
    key: &'a RawValue,
    value: &'a RawValue,
}

/// A property occurs twice, or in another case than the one that was asked for. Readers differ in how they treat that.
#[derive(Debug)]
pub(super) struct Ambiguous;

impl<'a> Object<'a> {
    /// Returns `None` if the text is no object.
    pub(super) fn read(text: &'a str) -> Option<Object<'a>> {
        serde_json::from_str(text).ok()
    }

    /// Returns the value of a property as text, without white space around it.
    pub(super) fn get(&self, name: &str) -> Result<Option<&'a str>, Ambiguous> {
        let at = self.position(name)?;
        Ok(at.and_then(|at| Some(self.properties.get(at)?.value.get())))
    }

    /// Returns all properties whose name is Unicode, the values as text.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, &'a str)> {
        self.properties
            .iter()
            .filter_map(|property| Some((string(property.key.get())?, property.value.get())))
    }

    /// Returns what has to be cut out of `whole`, which contains this object, to remove the property and leave valid JSON.
    pub(super) fn cut(&self, whole: &str, name: &str) -> Option<Range<usize>> {
        let at = self.position(name).ok()??;
        let this = self.properties.get(at)?;
        let before = at.checked_sub(1).and_then(|at| self.properties.get(at));
        let from = match before {
            Some(before) => range_of(whole, before.value.get())?.end,
            None => range_of(whole, this.key.get())?.start,
        };
        let to = match (before, self.properties.get(at + 1)) {
            (None, Some(after)) => range_of(whole, after.key.get())?.start,
            _ => range_of(whole, this.value.get())?.end,
        };
        Some(from..to)
    }

    fn position(&self, name: &str) -> Result<Option<usize>, Ambiguous> {
        let mut found = None;
        for (at, property) in self.properties.iter().enumerate() {
            if property.is(name) {
                if found.is_some() || string(property.key.get()).as_deref() != Some(name) {
                    return Err(Ambiguous);
                }
                found = Some(at);
            }
        }
        Ok(found)
    }
}

impl Property<'_> {
    fn is(&self, name: &str) -> bool {
        string(self.key.get()).is_some_and(|key| key.eq_ignore_ascii_case(name))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Properties;

        impl<'de> Visitor<'de> for Properties {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Object<'de>, M::Error> {
                let mut properties = Vec::new();
                while let Some((key, value)) = map.next_entry()? {
                    properties.push(Property { key, value });
                }
                Ok(Object { properties })
            }
        }

        from.deserialize_map(Properties)
    }
}

/// Returns the elements of an array, or `None` if the text is no array.
pub(super) fn array(text: &str) -> Option<Vec<&str>> {
    let elements: Vec<&RawValue> = serde_json::from_str(text).ok()?;
    Some(elements.into_iter().map(RawValue::get).collect())
}

/// Returns the value that a text begins with, whatever follows it.
pub(super) fn first_value(text: &str) -> Option<&str> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.next()?.ok().map(RawValue::get)
}

/// Returns the value of a string, or `None` if the text is no string or is not Unicode.
pub(super) fn string(text: &str) -> Option<Cow<'_, str>> {
    let inside = text.strip_prefix('"')?.strip_suffix('"')?;
    if memchr::memchr2(b'\\', b'"', inside.as_bytes()).is_none() {
        return Some(Cow::Borrowed(inside));
    }
    serde_json::from_str(text).ok().map(Cow::Owned)
}

/// Returns the range of `part` in `whole`, of which it is a slice.
pub(super) fn range_of(whole: &str, part: &str) -> Option<Range<usize>> {
    let start = (part.as_ptr() as usize).checked_sub(whole.as_ptr() as usize)?;
    let end = start.checked_add(part.len())?;
    (end <= whole.len()).then_some(start..end)
}

pub(super) fn is_valid(text: &str) -> bool {
    serde_json::from_str::<&RawValue>(text).is_ok()
}

/// Returns `text` as a JSON string, with its quotes.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_property_is_cut_out_with_its_comma() {
        let cases = [
            (r#"{"x":1,"a":2}"#, r#"{"a":2}"#),
            (r#"{ "x" : [1, 2] , "a" : 2 }"#, r#"{ "a" : 2 }"#),
            ("{\"a\":2\n,\t\"x\":{} }", "{\"a\":2 }"),
            (r#"{"a":2, "x":"}", "b":3}"#, r#"{"a":2, "b":3}"#),
            (r#"{ "x":null }"#, r#"{  }"#),
            (r#"{"a":"\"x\":1","\u0078":0}"#, r#"{"a":"\"x\":1"}"#),
        ];
        for (text, expected) in cases {
            let whole = format!("[0, {text}]");
            let object = Object::read(&whole[4..whole.len() - 1]).unwrap();
            let mut left = whole.clone();
            left.replace_range(object.cut(&whole, "x").unwrap(), "");
            assert_eq!(left, format!("[0, {expected}]"));
            assert!(serde_json::from_str::<serde_json::Value>(&left).is_ok());
        }
    }

    #[test]
    fn what_two_readers_could_read_differently() {
        for text in [
            r#"{"id":1,"id":1}"#,
            r#"{"Id":1}"#,
            r#"{"id":1,"ID":2}"#,
            r#"{"\u0049d":1}"#,
        ] {
            assert!(Object::read(text).unwrap().get("id").is_err(), "{text}");
        }
        let object = Object::read(r#"{"\u0069d": 1 ,"RETRY-after":"5"}"#).unwrap();
        assert_eq!(object.get("id").unwrap(), Some("1"));
        assert_eq!(object.get("idx").unwrap(), None);
        let all: Vec<_> = object.iter().collect();
        assert_eq!(all, [("id".into(), "1"), ("RETRY-after".into(), "\"5\"")]);
        for text in ["", "[]", "1", "{", r#"{"a":}"#, r#"{"a":1}x"#, "\u{feff}{}"] {
            assert!(Object::read(text).is_none(), "{text}");
        }
    }

    #[test]
    fn strings() {
        let cases = [
            (r#""""#, Some("")),
            (r#""a b""#, Some("a b")),
            (r#""\u00e9\n\"""#, Some("é\n\"")),
            (r#""\ud800""#, None),
            ("1", None),
            ("\"", None),
            ("\"\\\"", None),
        ];
        for (text, expected) in cases {
            assert_eq!(string(text).as_deref(), expected, "{text}");
        }
        assert_eq!(
            string(&quoted("\"\\\u{1}\u{2028}é")).as_deref(),
            Some("\"\\\u{1}\u{2028}é")
        );
    }
}
