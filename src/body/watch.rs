//! [`BodyWatch`]: tells a layer further out what the buffered request body is.

use std::fmt;
use std::sync::Arc;

use http::Extensions;

use super::replay::ReplayBody;

/// A request extension: whoever buffers the body of the request shows it.
#[derive(Clone)]
pub(crate) struct BodyWatch(Arc<dyn Fn(&ReplayBody) + Send + Sync>);

impl BodyWatch {
    /// Creates a watch that calls `see` with each body that it is shown.
    pub(crate) fn new(see: impl Fn(&ReplayBody) + Send + Sync + 'static) -> Self {
        Self(Arc::new(see))
    }

    /// Shows the body.
    pub(crate) fn see(&self, body: &ReplayBody) {
        (self.0)(body);
    }

    /// Puts the watch into the extensions of a request, beside one that is there already.
    pub(crate) fn insert(self, extensions: &mut Extensions) {
        let watch = match extensions.remove::<Self>() {
            Some(outer) => Self::new(move |body| {
                outer.see(body);
                self.see(body);
            }),
            None => self,
        };
        extensions.insert(watch);
    }

    /// Takes the watch out of the extensions of a request whose body is `body`, and shows it.
    pub(crate) fn show(extensions: &mut Extensions, body: &ReplayBody) {
        if let Some(watch) = extensions.remove::<Self>() {
            watch.see(body);
        }
    }
}

impl fmt::Debug for BodyWatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BodyWatch").finish_non_exhaustive()
    }
}
