//! Counts the connections a client opens: what went out while none was opened went out on one that was kept. It opens and
//! closes none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};
use tower_layer::Layer;
use tower_service::Service;

/// How many were begun. Clones are the same.
#[derive(Clone, Debug, Default)]
pub(super) struct Opened(Arc<AtomicU64>);

impl Opened {
    pub(super) fn count(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }
}

impl<S> Layer<S> for Opened {
    type Service = Counted<S>;

    fn layer(&self, inner: S) -> Counted<S> {
        Counted { inner, opened: self.clone() }
    }
}

/// What opens them.
#[derive(Clone, Debug)]
pub(super) struct Counted<S> {
    inner: S,
    opened: Opened,
}

impl<S: Service<R>, R> Service<R> for Counted<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> S::Future {
        self.opened.0.fetch_add(1, Ordering::SeqCst);
        self.inner.call(request)
    }
}
