//! Who acts: of all actuators that run, one holds the post. It is a row that is moved by compare-and-swap.
//!
//! Whether the post is still held counts by this process's own monotonic clock, from before each renewal left: the
//! others cannot think it free earlier. It is no fence: that is the compare-and-swap on each run's record.

use nhi_bus::{
    connect::Bus,
    plans::{self, PlansChange, PlansError, Row},
};
use nhi_model::{Timestamp, envelope::OpId, plans::PlansKey, run::Holder};
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::watch;
use uuid::Uuid;

/// Pause after a renewal that failed without telling whether the post is lost.
const PAUSE: Duration = Duration::from_millis(200);

/// What an actuator needs to become the one that acts.
#[derive(Debug)]
pub(super) struct Post {
    bus: Bus,
    instance: String,
    lease: Duration,
    /// The revision that stood there last, and since when it has stood there as far as we know.
    observed: Option<(u64, Instant)>,
}

/// The post, while it is held.
#[derive(Clone, Debug)]
pub(super) struct Term {
    instance: String,
    generation: u64,
    until: Arc<watch::Sender<Instant>>,
    /// What must be left of the lease for a call to leave.
    margin: Duration,
}

impl Term {
    /// As it stands on what this actuator works on.
    pub(super) fn holder(&self, now: Timestamp) -> Holder {
        let left = self.until.borrow().saturating_duration_since(Instant::now());
        Holder { actuator: self.instance.clone(), generation: self.generation, until: now + left }
    }

    /// Whether a holder is this one.
    pub(super) fn is(&self, holder: Option<&Holder>) -> bool {
        holder.is_some_and(|one| one.actuator == self.instance && one.generation == self.generation)
    }

    /// Whether enough of the lease is left for a call to leave.
    pub(super) fn may_send(&self) -> bool {
        Instant::now() + self.margin < *self.until.borrow()
    }

    /// Waits until it is. Never returns when the post is lost. Cancel safe.
    pub(super) async fn renewed(&self) {
        let mut until = self.until.subscribe();
        // The sender lives in `self`.
        drop(until.wait_for(|until| Instant::now() + self.margin < *until).await);
    }
}

impl Post {
    pub(super) fn new(bus: Bus, instance: String, lease: Duration) -> Self {
        Self { bus, instance, lease, observed: None }
    }

    /// How often to ask for the post, and to renew it.
    pub(super) fn beat(&self) -> Duration {
        self.lease / 3
    }

    /// Takes the post when it is free.
    pub(super) async fn take(&mut self) -> Result<Option<Term>, PlansError> {
        let row = plans::get::<Holder>(&self.bus, &PlansKey::Actuator).await?;
        if let Some(row) = &row
            && !self.is_free(row)
        {
            return Ok(None);
        }
        let (expected, last) = row.map_or((0, 0), |row| (row.revision, row.value.generation));
        let before = Instant::now();
        match self.put(expected, last + 1, Timestamp::now() + self.lease).await {
            Ok(revision) => {
                self.observed = Some((revision, before));
                Ok(Some(Term {
                    instance: self.instance.clone(),
                    generation: last + 1,
                    until: Arc::new(watch::Sender::new(before + self.lease)),
                    margin: self.beat(),
                }))
            }
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// It was left, or its holder has not moved it for as long as it may. The clocks of two machines are compared only
    /// where they differ by more than clocks do.
    fn is_free(&mut self, row: &Row<Holder>) -> bool {
        let since = match self.observed {
            Some((revision, since)) if revision == row.revision => since,
            Some(_) | None => Instant::now(),
        };
        self.observed = Some((row.revision, since));
        let long_ago = Timestamp::now().checked_sub(self.lease * 4).unwrap_or(Timestamp::MIN);
        row.value.actuator == self.instance || row.value.until < long_ago || since.elapsed() >= self.lease
    }

    async fn put(&self, expected: u64, generation: u64, until: Timestamp) -> Result<u64, PlansError> {
        let holder = Holder { actuator: self.instance.clone(), generation, until };
        let change = PlansChange::put(PlansKey::Actuator, expected, &holder);
        plans::commit(&self.bus, &OpId(Uuid::now_v7().to_string()), Timestamp::now(), &[change]).await
    }

    /// Renews the post until it is lost. Cancel safe: a renewal that was not heard of is found again.
    pub(super) async fn keep(&mut self, term: &Term) {
        loop {
            tokio::time::sleep(self.beat()).await;
            let last = *term.until.borrow();
            loop {
                let renewal = tokio::time::timeout_at(last.into(), self.renew(term)).await;
                match renewal {
                    Ok(Ok(true)) => break,
                    Ok(Ok(false)) | Err(_) => return,
                    Ok(Err(error)) => {
                        tracing::debug!(agent = "act", err = %error, "actuator's lease not renewed, again");
                    }
                }
                tokio::time::sleep(PAUSE.min(self.beat())).await;
            }
        }
    }

    /// False when somebody else has the post.
    async fn renew(&mut self, term: &Term) -> Result<bool, PlansError> {
        let before = Instant::now();
        let expected = match self.observed {
            Some((revision, _)) => revision,
            None => return Ok(false),
        };
        match self.put(expected, term.generation, Timestamp::now() + self.lease).await {
            Ok(revision) => self.observed = Some((revision, before)),
            Err(error) if error.is_conflict() => {
                let row = plans::get::<Holder>(&self.bus, &PlansKey::Actuator).await?;
                let Some(row) = row.filter(|row| term.is(Some(&row.value))) else { return Ok(false) };
                // A renewal of our own whose answer was lost.
                self.observed = Some((row.revision, before));
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        term.until.send_replace(before + self.lease);
        Ok(true)
    }

    /// Leaves the post, so that the next one need not wait.
    pub(super) async fn leave(&self, term: &Term) {
        let Some((revision, _)) = self.observed else { return };
        let left = self.put(revision, term.generation, Timestamp::UNIX_EPOCH);
        match tokio::time::timeout(self.lease, left).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::debug!(agent = "act", err = %error, "actuator's post not left"),
            Err(_) => tracing::debug!(agent = "act", "actuator's post not left in time"),
        }
    }
}
