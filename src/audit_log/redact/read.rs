//! The order in which a text is read, in all its layers.

use std::borrow::Cow;

use memchr::{memchr, memchr2, memchr3};

use super::edit::Edits;
use super::escape::Escape;
use super::format::Format;
use super::layers::{Layers, ROUNDS};
use super::rules::Rules;
use super::text::Context;
use super::{form, json, loose, xml};

/// Returns the text without its secrets: those that it shows as it stands, and those that show
/// once its escapes are undone.
pub(super) fn redacted<'a>(
    rules: &Rules,
    text: &'a [u8],
    format: Format,
    cut: bool,
) -> Cow<'a, [u8]> {
    // Most texts of a record: `benches/audit`, `summary`.
    if format == Format::Text && !cut && loose::is_bare(text) {
        return Cow::Borrowed(text);
    }
    read_all(rules, text, format, cut).finish()
}

/// Whether there is any secret in the text.
fn has_secret(rules: &Rules, text: &[u8], cut: bool) -> bool {
    !read_all(rules, text, Format::Text, cut)
        .into_edits()
        .is_empty()
}

fn read_all<'a>(rules: &Rules, text: &'a [u8], format: Format, cut: bool) -> Layers<'a> {
    let mut layers = Layers::new(text);
    read(rules, &mut layers, format, cut);
    if memchr3(b'&', b'\\', b'%', text).is_some() {
        layers.apply(escaped(rules, layers.text(), format, cut));
    }
    layers
}

/// Finds what the text shows as it stands.
fn read(rules: &Rules, layers: &mut Layers<'_>, format: Format, cut: bool) {
    if format == Format::Form {
        layers.apply(form::find(rules, layers.text(), cut, has_secret));
        return;
    }
    let is_json = format == Format::Json;
    if is_json {
        layers.apply(json::find(rules, layers.text(), cut, true));
    }
    if memchr(b'<', layers.text()).is_some() {
        layers.apply(xml::find(rules, layers.text(), cut));
    }
    if !is_json && memchr(b'{', layers.text()).is_some() {
        layers.apply(json::find(rules, layers.text(), cut, false));
    }
    let markup = format == Format::Xml;
    let context = Context { cut, markup };
    layers.apply(loose::find(&rules.names, layers.text(), context));
}

/// Finds what the text shows once its escapes are undone, one kind after the other. What is
/// escaped in one string or behind one tag has nothing to do with the rest.
fn escaped(rules: &Rules, text: &[u8], format: Format, cut: bool) -> Edits {
    let mut found = Edits::default();
    if format == Format::Form {
        return found;
    }
    for (start, leaf) in leaves(text, format) {
        let cut = cut && start + leaf.len() == text.len();
        let mut layers = Layers::new(leaf);
        for _ in 0..ROUNDS {
            let mut any = false;
            for escape in Escape::ALL {
                if layers.decode(escape, cut) {
                    any = true;
                    read(rules, &mut layers, Format::Text, cut);
                }
            }
            if !any {
                break;
            }
        }
        found.extend(layers.into_edits(), start);
    }
    found
}

/// The parts of a text that have nothing escaped around them, and where each begins.
fn leaves(text: &[u8], format: Format) -> impl Iterator<Item = (usize, &[u8])> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let rest = text.get(done..).filter(|rest| !rest.is_empty())?;
        let length = match format {
            Format::Xml => memchr(b'<', rest),
            Format::Json => quote(rest),
            _ => None,
        };
        let length = length.unwrap_or(rest.len());
        let start = done;
        done = start + length + 1;
        Some((start, rest.get(..length)?))
    })
}

/// The next quote that is not escaped.
fn quote(text: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += memchr2(b'"', b'\\', text.get(at..)?)?;
        if text.get(at) == Some(&b'"') {
            return Some(at);
        }
        at += 2;
    }
}
