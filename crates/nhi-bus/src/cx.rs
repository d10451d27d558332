//! The context every long-lived thing of the mesh runs in: it starts tasks, tells them to stop, waits for them,
//! and says when one has panicked.
//!
//! It does not restart anything: a task that dies takes the process with it, and the supervisor restarts us from
//! a known state. This is the one place where `tokio::spawn` is permitted.

use crate::trace::Tracer;
use futures::FutureExt;
use std::{
    collections::BTreeMap,
    fmt,
    future::{Future, pending},
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};
use tokio::{
    runtime::{Handle, RuntimeFlavor},
    sync::watch,
};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

/// How long [`Cx::close`] waits for tasks that were told to stop before it drops them: longer than a service
/// takes to stop, shorter than the 90 s systemd grants.
const CLOSE_SECONDS_MAX: u64 = 30;

/// More bytes of JSON than these are worked on where they hold up nobody: that takes a millisecond and more.
const LONG_BYTES: usize = 128 * 1024;

/// Does work on so many bytes; when they are many, the other tasks of this thread go on elsewhere meanwhile.
pub fn at_length<R>(bytes: usize, work: impl FnOnce() -> R) -> R {
    let flavor = Handle::try_current().map(|runtime| runtime.runtime_flavor());
    match flavor {
        Ok(RuntimeFlavor::MultiThread) if bytes > LONG_BYTES => tokio::task::block_in_place(work),
        _ => work(),
    }
}

/// A context. Clones are the same context; [`Cx::child`] makes one that can be stopped alone.
#[derive(Clone)]
pub struct Cx {
    scope: Arc<Scope>,
    died: Arc<watch::Sender<Option<&'static str>>>,
    tracer: Arc<OnceLock<Tracer>>,
}

struct Scope {
    stop: CancellationToken,
    /// Cancelled when waiting has taken too long; tasks are dropped at their next `await`.
    abandon: CancellationToken,
    tasks: TaskTracker,
    running: Mutex<BTreeMap<u64, &'static str>>,
    parent: Option<Arc<Scope>>,
}

impl Scope {
    fn below(parent: Option<&Arc<Self>>) -> Arc<Self> {
        let child_of = |token: fn(&Self) -> &CancellationToken| match parent {
            Some(parent) => token(parent).child_token(),
            None => CancellationToken::new(),
        };
        Arc::new(Self {
            stop: child_of(|scope| &scope.stop),
            abandon: child_of(|scope| &scope.abandon),
            tasks: TaskTracker::new(),
            running: Mutex::new(BTreeMap::new()),
            parent: parent.cloned(),
        })
    }

    fn enter(&self, name: &'static str) -> u64 {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let id = running.last_key_value().map_or(0, |(id, _)| id + 1);
        running.insert(id, name);
        id
    }

    fn leave(&self, id: u64) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    fn names(&self) -> Vec<&'static str> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).values().copied().collect()
    }
}

/// Keeps a task known to its context and to all above it, for as long as it lives.
struct Presence(Vec<(Arc<Scope>, u64, TaskTrackerToken)>);

impl Presence {
    fn new(scope: &Arc<Scope>, name: &'static str) -> Self {
        let lineage = std::iter::successors(Some(scope), |scope| scope.parent.as_ref());
        Self(lineage.map(|scope| (scope.clone(), scope.enter(name), scope.tasks.token())).collect())
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        for (scope, id, _) in &self.0 {
            scope.leave(*id);
        }
    }
}

impl Cx {
    /// A context of its own.
    #[expect(clippy::new_without_default, reason = "a context is made once, on purpose, at the top")]
    pub fn new() -> Self {
        Self { scope: Scope::below(None), died: Arc::new(watch::Sender::new(None)), tracer: Arc::default() }
    }

    /// A context that stops when this one does, and can be stopped alone. This one waits for its tasks too.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { scope: Scope::below(Some(&self.scope)), died: self.died.clone(), tracer: self.tracer.clone() }
    }

    /// A context that neither stops nor is waited for with this one, but reports its dead here: a connection has
    /// to outlive the services that drain over it.
    #[must_use]
    pub(crate) fn detached(&self) -> Self {
        Self { scope: Scope::below(None), died: self.died.clone(), tracer: self.tracer.clone() }
    }

    /// Starts a task. It should end soon after [`Cx::cancelled`]; if it panics, [`Cx::died`] returns its name.
    pub fn spawn(&self, name: &'static str, future: impl Future<Output = ()> + Send + 'static) {
        let presence = Presence::new(&self.scope, name);
        let (died, abandon) = (self.died.clone(), self.scope.abandon.clone());
        let task = async move {
            let _presence = presence;
            let outcome = tokio::select! {
                outcome = AssertUnwindSafe(future).catch_unwind() => outcome,
                () = abandon.cancelled() => Ok(()),
            };
            if outcome.is_err() {
                tracing::error!(agent = name, "task panicked");
                died.send_modify(|first| {
                    first.get_or_insert(name);
                });
            }
        };
        #[expect(clippy::disallowed_methods, reason = "the one place: tracked, cancelled and named here")]
        tokio::spawn(task);
    }

    /// Lets everything in this context, and in those related to it, be traced. The first tracer stays.
    pub fn trace_with(&self, tracer: Tracer) {
        let _first = self.tracer.set(tracer);
    }

    /// Who takes finished spans; nobody, unless somebody asked for it.
    pub fn tracer(&self) -> Option<&Tracer> {
        self.tracer.get()
    }

    /// Returns when the context is told to stop. Cancel safe.
    pub async fn cancelled(&self) {
        self.scope.stop.cancelled().await;
    }

    /// Whether the context was told to stop.
    pub fn is_cancelled(&self) -> bool {
        self.scope.stop.is_cancelled()
    }

    /// Tells all tasks to stop, those of children included.
    pub fn cancel(&self) {
        self.scope.stop.cancel();
    }

    /// Tells all tasks to stop and waits until they have; those that take longer than 30 s are dropped.
    /// Not to be called from a task of this context: it would wait for itself.
    pub async fn close(&self) {
        self.cancel();
        self.scope.tasks.close();
        let limit = Duration::from_secs(CLOSE_SECONDS_MAX);
        if tokio::time::timeout(limit, self.scope.tasks.wait()).await.is_err() {
            tracing::warn!(agent = ?self.scope.names(), "tasks did not stop in time and were dropped");
            self.scope.abandon.cancel();
            self.scope.tasks.wait().await;
        }
    }

    /// Returns the name of the first task that panicked, here or in any context related to this one; never
    /// returns while all are well. Cancel safe.
    pub async fn died(&self) -> &'static str {
        let mut died = self.died.subscribe();
        match died.wait_for(Option::is_some).await.map(|name| *name) {
            Ok(Some(name)) => name,
            // The sender lives in `self`, and the condition asked for `Some`.
            Ok(None) | Err(_) => pending().await,
        }
    }
}

impl fmt::Debug for Cx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cx")
            .field("cancelled", &self.is_cancelled())
            .field("running", &self.scope.names())
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicBool, Ordering};

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn close_waits_for_tasks_of_children_too() {
        let cx = Cx::new();
        let done = Arc::new(AtomicBool::new(false));
        let (child, flag) = (cx.child(), done.clone());
        let inner = child.clone();
        child.spawn("slow", async move {
            inner.cancelled().await;
            tokio::task::yield_now().await;
            flag.store(true, Ordering::SeqCst);
        });
        assert_eq!(cx.scope.names(), ["slow"]);
        tokio::time::timeout(SOON, cx.close()).await.unwrap();
        assert!(done.load(Ordering::SeqCst) && cx.scope.names().is_empty());
    }

    #[tokio::test]
    async fn a_child_stops_alone() {
        let cx = Cx::new();
        let child = cx.child();
        tokio::time::timeout(SOON, child.close()).await.unwrap();
        assert!(child.is_cancelled() && !cx.is_cancelled());
    }

    #[tokio::test]
    async fn a_panic_is_reported_by_name_and_hangs_nothing() {
        let cx = Cx::new();
        let child = cx.child();
        child.spawn("fine", async {});
        child.spawn("broken", async { panic!("on purpose") });
        assert_eq!(tokio::time::timeout(SOON, cx.died()).await.unwrap(), "broken");
        tokio::time::timeout(SOON, cx.close()).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_ignores_the_stop_is_dropped() {
        let cx = Cx::new();
        cx.spawn("deaf", pending());
        cx.close().await;
        assert!(cx.scope.names().is_empty());
    }
}
