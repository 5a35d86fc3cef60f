//! The layer, with its settings.

use std::sync::Arc;
use std::time::Duration;

use tower_layer::Layer;

use super::config::{Config, Shared};
use super::paging::Paging;
use super::service::FindPaging;

/// Applies [`FindPaging`] to a service.
///
/// ```
/// use tower_ews::find_paging::{FindPagingLayer, Paging};
///
/// let layer = FindPagingLayer::new()
///     .default_paging(Paging::all_pages())
///     .page_size(500)
///     .restricted_page_size(100);
/// # let _ = layer;
/// ```
#[derive(Clone, Debug, Default)]
#[must_use = "layers do nothing until they are applied to a service"]
pub struct FindPagingLayer {
    config: Config,
}

impl FindPagingLayer {
    /// Creates a new layer that adds page views, and follows no pages.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets what is done with requests that have no [`Paging`] in their extensions. [`Paging::one_page`] by default.
    pub fn default_paging(mut self, paging: Paging) -> Self {
        self.config.paging = paging;
        self
    }

    /// Sets how many entries a page has. 1,000 by default, the most that Exchange gives ("EWS throttling in Exchange",
    /// `EWSFindCountLimit`); at least 1.
    pub fn page_size(mut self, entries: u32) -> Self {
        self.config.page_size = entries.clamp(1, i32::MAX as u32);
        self
    }

    /// Sets how many entries a page of a search with a restriction or a query string has. 250 by default, the most that
    /// Exchange gives then (as above); at least 1.
    pub fn restricted_page_size(mut self, entries: u32) -> Self {
        self.config.restricted_page_size = entries.clamp(1, i32::MAX as u32);
        self
    }

    /// Sets how many bytes a page may have that is followed. 256 MiB by default. One page is kept in memory.
    pub fn max_page(mut self, bytes: u64) -> Self {
        self.config.max_page = bytes;
        self
    }

    /// Sets how many bytes of a synchronisation are collected. 64 MiB by default. A response that reaches it ends with a
    /// page that is not the last one, and has the `SyncState` to go on with.
    pub fn max_sync(mut self, bytes: u64) -> Self {
        self.config.max_sync = bytes;
        self
    }

    /// Sets how long a page may take, with all waits and attempts of the layers further in. 15 minutes by default. The
    /// request extension [`Deadline`](crate::extensions::Deadline) bounds all pages together besides.
    pub fn stall_timeout(mut self, time: Duration) -> Self {
        self.config.stall_timeout = time;
        self
    }

    backoff_setters!();
}

impl<S> Layer<S> for FindPagingLayer {
    type Service = FindPaging<S>;

    fn layer(&self, inner: S) -> Self::Service {
        let shared = Shared::new(self.config.clone());
        FindPaging::with_shared(inner, Arc::new(shared))
    }
}
