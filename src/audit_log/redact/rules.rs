//! [`Rules`]: the settings of a redaction.

use std::borrow::Cow;

use super::loose;
use super::mailbox;
use super::names::Names;
use super::text::Context;

/// The settings of a redaction.
#[derive(Clone, Default)]
pub(super) struct Rules {
    pub(super) names: Names,
    pub(super) mask: bool,
    pub(super) key: Option<[u8; 16]>,
}

impl Rules {
    pub(super) fn loosely<'a>(&self, text: &'a [u8], cut: bool) -> Cow<'a, [u8]> {
        loose::redact(&self.names, text, Context { cut, markup: false })
    }

    pub(super) fn pseudonymous<'a>(&self, text: &'a [u8], cut: bool) -> Cow<'a, [u8]> {
        match &self.key {
            Some(key) => mailbox::redact(key, text, cut),
            None => Cow::Borrowed(text),
        }
    }
}
