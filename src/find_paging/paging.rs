//! [`Paging`]: what one request wants of its pages.

/// A request extension: whether the pages of this request are followed. Without it the layer's
/// [`default_paging`](super::FindPagingLayer::default_paging) decides.
///
/// ```
/// use tower_ews::find_paging::{NextPage, Paging, PagingError};
///
/// let mut request = http::Request::new(());
/// request.extensions_mut().insert(Paging::all_pages());
///
/// /// Goes on where the pages of a folder broke off.
/// fn rest(error: &PagingError) -> Option<Paging> {
///     match error.next() {
///         NextPage::Offset { offset, .. } => Some(Paging::all_pages().from_offset(*offset)),
///         _ => None,
///     }
/// }
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Paging {
    pub(super) mode: Mode,
    pub(super) offset: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Off,
    OnePage,
    AllPages,
}

impl Paging {
    /// Forwards the request unchanged.
    pub const fn off() -> Self {
        Self::of(Mode::Off)
    }

    /// Adds a view of one page.
    pub const fn one_page() -> Self {
        Self::of(Mode::OnePage)
    }

    /// Adds a view, and follows the pages. Follows the pages of a synchronisation as well.
    pub const fn all_pages() -> Self {
        Self::of(Mode::AllPages)
    }

    const fn of(mode: Mode) -> Self {
        Self { mode, offset: 0 }
    }

    /// Sets the offset of the first page, in each folder that is asked for. 0 by default. It does not concern a
    /// synchronisation, which has a `SyncState`.
    pub const fn from_offset(mut self, offset: u32) -> Self {
        self.offset = offset;
        self
    }
}
