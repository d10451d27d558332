//! One copy of each thing in a directory: two would write the same files and records against each other.

use crate::{
    exit::{Ending, Exit, Failure},
    layout::Layout,
};
use anyhow::Context;
use nhi_bus::private::Lock;
use std::{fs, time::Duration};
use tokio::time::{Instant, sleep};

/// A command that looks whether we live holds the lock for an instant.
const LOOKED_AT: Duration = Duration::from_millis(500);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(20);

/// Takes the lock of `up`, or of a part, and says who has it.
///
/// # Errors
/// [`Exit::AlreadyRuns`] with the process that holds it: `what` names it in the sentence.
pub(super) async fn hold(layout: &Layout, part: &str, what: &str) -> Result<Lock, Failure> {
    let holder = layout.holder(part);
    let until = Instant::now() + LOOKED_AT;
    loop {
        if let Some(lock) = Lock::try_acquire(&layout.lock(part)).ending(Exit::Config)? {
            fs::write(&holder, std::process::id().to_string())
                .with_context(|| format!("cannot write {}", holder.display()))
                .ending(Exit::Config)?;
            return Ok(lock);
        }
        if Instant::now() >= until {
            break;
        }
        sleep(PAUSE).await;
    }
    let process = fs::read_to_string(&holder).unwrap_or_default();
    let sentence = format!(
        "{what} already runs in {} (process {}): stop it, or use another --dir",
        layout.root().display(),
        process.trim()
    );
    Err(Failure::new(Exit::AlreadyRuns, sentence))
}
