//! [`Rules`]: the settings of a redaction.

use super::names::Names;

/// The settings of a redaction.
#[derive(Clone, Default)]
pub(super) struct Rules {
    pub(super) names: Names,
    pub(super) mask: bool,
    pub(super) key: Option<[u8; 16]>,
}
