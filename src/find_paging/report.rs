//! [`PagingReport`]: what it took to get a response that is made of pages.

use std::sync::Arc;

use parking_lot::Mutex;

use super::errors::PagingError;

/// A response extension: the pages of this response are followed. Clones share the same numbers, which grow while the
/// body is read.
///
/// ```
/// use tower_ews::find_paging::PagingReport;
///
/// fn is_whole<B>(response: &http::Response<B>) -> bool {
///     let report = response.extensions().get::<PagingReport>();
///     report.is_none_or(|report| report.error().is_none() && !report.view_changed())
/// }
///
/// assert!(is_whole(&http::Response::new(())));
/// ```
#[derive(Clone, Debug, Default)]
pub struct PagingReport(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    pages: u32,
    entries: u64,
    view_changed: bool,
    error: Option<Arc<PagingError>>,
}

impl PagingReport {
    /// Returns how many pages came.
    pub fn pages(&self) -> u32 {
        self.0.lock().pages
    }

    /// Returns how many items, folders or changes came with them.
    pub fn entries(&self) -> u64 {
        self.0.lock().entries
    }

    /// Returns whether `TotalItemsInView` of a folder has changed between its pages. The entries behind one that came or
    /// went have moved then: one may be missing or stand twice.
    pub fn view_changed(&self) -> bool {
        self.0.lock().view_changed
    }

    /// Returns why a synchronisation ends before its last page. Its response is complete in itself: it says so, and has
    /// the `SyncState` to go on with.
    pub fn error(&self) -> Option<Arc<PagingError>> {
        self.0.lock().error.clone()
    }

    pub(super) fn page(&self, entries: usize) {
        let mut inner = self.0.lock();
        inner.pages = inner.pages.saturating_add(1);
        inner.entries += entries as u64;
    }

    pub(super) fn set_view_changed(&self) {
        self.0.lock().view_changed = true;
    }

    pub(super) fn set_error(&self, error: PagingError) {
        self.0.lock().error = Some(Arc::new(error));
    }
}
