//! A thread of its own for a part that others wait for: what stands between a question and its answer is woken on the
//! thread that reads the connection, and never waits behind a scan or a plan. It knows nothing of what runs on it.

use crate::exit::Failure;
use anyhow::Context;
use std::future::Future;
use tokio::{
    runtime::{Builder, Handle, Runtime},
    task::JoinSet,
};

/// The thread; what was started on it ends with it.
#[derive(Debug)]
pub(super) struct Lane(Option<Runtime>);

/// The way onto a lane. It keeps none alive.
#[derive(Clone, Debug)]
pub(super) struct Way(Handle);

impl Lane {
    pub(super) fn open(name: &str) -> Result<(Self, Way), Failure> {
        // One worker: a second one would be woken for each step of a request, which takes longer than the step.
        let runtime = Builder::new_multi_thread().worker_threads(1).thread_name(name).enable_all().build();
        let runtime = runtime.with_context(|| format!("start a thread for {name}"))?;
        let way = Way(runtime.handle().clone());
        Ok((Self(Some(runtime)), way))
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        // Whoever drops it is a task itself, and may not wait.
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

impl Way {
    /// Runs something there, and with it whatever tasks it starts. Dropping the future drops the work.
    pub(super) async fn run<T: Send + 'static>(
        &self,
        work: impl Future<Output = Result<T, Failure>> + Send + 'static,
    ) -> Result<T, Failure> {
        let mut working = JoinSet::new();
        working.spawn_on(work, &self.0);
        let worked = working.join_next().await.expect("it was just given its work");
        worked.context("a part panicked while it started")?
    }
}
