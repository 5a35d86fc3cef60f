//! What is the same for several layers: the accessors of the inner service, the setters of waits, and bodies that wrap another.

/// Adds `get_ref`, `get_mut` and `into_inner` to the `impl` of a service whose field `inner` is an `S`.
macro_rules! inner_accessors {
    () => {
        /// Returns a reference to the inner service.
        pub fn get_ref(&self) -> &S {
            &self.inner
        }

        /// Returns a mutable reference to the inner service.
        pub fn get_mut(&mut self) -> &mut S {
            &mut self.inner
        }

        /// Returns the inner service.
        pub fn into_inner(self) -> S {
            self.inner
        }
    };
}

/// Adds `backoff` and `seed` to the `impl` of a layer whose field `config` has both.
macro_rules! backoff_setters {
    () => {
        /// Sets the waits where the server sets none. The n-th wait of a call since its last progress is drawn evenly from zero to
        /// `base` times 2 to the power of n-1, at most `cap`. Default: 500 ms and 60 s.
        pub fn backoff(mut self, base: Duration, cap: Duration) -> Self {
            self.config.backoff.base = base;
            self.config.backoff.cap = cap;
            self
        }

        /// Seeds the random part of the waits, so that tests can be repeated.
        pub fn seed(mut self, seed: u64) -> Self {
            self.config.seed = Some(seed);
            self
        }
    };
}

/// Implements [`Body`](http_body::Body) for a pinned newtype around a body whose errors are boxed.
macro_rules! body_of_inner {
    ($name:ident, $bound:path) => {
        impl<B: $bound> http_body::Body for $name<B> {
            type Data = bytes::Bytes;
            type Error = tower::BoxError;

            fn poll_frame(
                self: std::pin::Pin<&mut Self>,
                cx: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<http_body::Frame<Self::Data>, Self::Error>>> {
                self.project().0.poll_frame(cx)
            }

            fn is_end_stream(&self) -> bool {
                self.0.is_end_stream()
            }

            fn size_hint(&self) -> http_body::SizeHint {
                self.0.size_hint()
            }
        }
    };
}
