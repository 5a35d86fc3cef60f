//! [`LazyOutline`]: a body's outline, its mailboxes and what it sends, computed on first use.
use std::sync::OnceLock;

use bytes::Bytes;

use crate::soap::sent::Sent;
use crate::soap::{Outline, OutlineError, Targets};

#[derive(Default)]
pub(super) struct LazyOutline {
    outline: OnceLock<Result<Outline, OutlineError>>,
    targets: OnceLock<Targets>,
    sent: OnceLock<Sent>,
}

impl LazyOutline {
    pub(super) fn known(outline: Outline) -> LazyOutline {
        LazyOutline {
            outline: OnceLock::from(Ok(outline)),
            targets: OnceLock::new(),
            sent: OnceLock::new(),
        }
    }

    pub(super) fn outline(&self, body: impl FnOnce() -> Bytes) -> Result<&Outline, &OutlineError> {
        self.outline
            .get_or_init(|| Outline::parse(&body()))
            .as_ref()
    }

    pub(super) fn targets(&self, body: impl Fn() -> Bytes) -> Option<&Targets> {
        let outline = self.outline(&body).ok()?;
        Some(self.targets.get_or_init(|| outline.targets(&body())))
    }

    pub(super) fn sent(&self, body: impl Fn() -> Bytes) -> Option<Sent> {
        let outline = self.outline(&body).ok()?;
        Some(*self.sent.get_or_init(|| outline.sent(&body)))
    }
}
