//! Where events of one caller are put in, and where its listeners hear them. State, gauges and plans wait apart, so that
//! a burst of one drops no reader of another. It asks nobody.

use super::text;
use bytes::Bytes;
use nhi_bus::feed::Commit;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::sync::broadcast::{
    Receiver, Sender,
    error::{RecvError, TryRecvError},
};

/// Events of each kind that wait for a slow reader: a minute of a lab that is busy. They are kept once for all readers.
const WAITING_MAX: usize = 1_024;

/// What is followed for those who ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Live,
    Plan,
}

/// Where events go.
pub(super) struct Line(Mutex<End>);

/// The end of the line where events are put in.
struct End {
    /// Of the last commit that was told.
    revision: u64,
    /// Gone when nothing more comes, so that the listeners' ends are closed.
    senders: Option<Senders>,
}

/// Events, written out.
struct Senders {
    /// Also that everything is to be read again.
    state: Sender<Bytes>,
    live: Sender<Bytes>,
    plan: Sender<Bytes>,
}

impl Line {
    pub(super) fn new(revision: u64) -> Arc<Self> {
        let sender = || Sender::new(WAITING_MAX);
        let senders = Senders { state: sender(), live: sender(), plan: sender() };
        Arc::new(Self(Mutex::new(End { revision, senders: Some(senders) })))
    }

    pub(super) fn tell(&self, kind: Kind, text: Bytes) {
        if let Some(senders) = &self.end().senders {
            let sender = match kind {
                Kind::Live => &senders.live,
                Kind::Plan => &senders.plan,
            };
            // An error means that nobody listens right now.
            let _nobody = sender.send(text);
        }
    }

    /// Tells a commit and what was missed before it as one, so that whoever joins hears it or knows it, and never both
    /// or neither.
    pub(super) fn tell_commit(&self, commit: &Commit) {
        let text = text::commit(commit);
        let mut end = self.end();
        if commit.missed > 0 {
            end.tell_state(text::resync(&format!("{} writes were missed", commit.missed)));
        }
        if commit.revision > end.revision {
            end.revision = commit.revision;
            end.tell_state(text);
        }
    }

    /// Tells everybody to read again. What was written up to `revision` is not told any more: whoever reads now reads it.
    pub(super) fn tell_resync(&self, reason: &str, revision: u64) {
        let mut end = self.end();
        end.revision = end.revision.max(revision);
        end.tell_state(text::resync(reason));
    }

    /// Of the last commit that was told.
    pub(super) fn revision(&self) -> u64 {
        self.end().revision
    }

    /// Everything told from here on, and the revision it follows upon; `None` when nothing more comes.
    pub(super) fn join(&self, live: bool, plans: bool) -> Option<(Ears, u64)> {
        let end = self.end();
        let senders = end.senders.as_ref()?;
        let ears = Ears {
            state: senders.state.subscribe(),
            live: live.then(|| senders.live.subscribe()),
            plan: plans.then(|| senders.plan.subscribe()),
        };
        Some((ears, end.revision))
    }

    pub(super) fn close(&self) {
        self.end().senders = None;
    }

    fn end(&self) -> MutexGuard<'_, End> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl End {
    fn tell_state(&self, text: Bytes) {
        if let Some(senders) = &self.senders {
            let _nobody = senders.state.send(text);
        }
    }
}

/// What one listener hears.
pub(super) struct Ears {
    state: Receiver<Bytes>,
    live: Option<Receiver<Bytes>>,
    plan: Option<Receiver<Bytes>>,
}

impl Ears {
    /// The next event. Cancel safe.
    pub(super) async fn hear(&mut self) -> Result<Bytes, RecvError> {
        tokio::select! {
            biased;
            text = self.state.recv() => text,
            text = next(self.plan.as_mut()) => text,
            text = next(self.live.as_mut()) => text,
        }
    }

    /// The next event that is here already.
    pub(super) fn heard(&mut self) -> Result<Bytes, TryRecvError> {
        let mut heard = self.state.try_recv();
        for more in [&mut self.plan, &mut self.live].into_iter().flatten() {
            if heard == Err(TryRecvError::Empty) {
                heard = more.try_recv();
            }
        }
        heard
    }

    pub(super) fn is_quiet(&self) -> bool {
        let is_quiet = |ear: &Option<Receiver<Bytes>>| ear.as_ref().is_none_or(Receiver::is_empty);
        self.state.is_empty() && is_quiet(&self.live) && is_quiet(&self.plan)
    }
}

async fn next(ear: Option<&mut Receiver<Bytes>>) -> Result<Bytes, RecvError> {
    match ear {
        Some(ear) => ear.recv().await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commit(revision: u64, missed: u64) -> Commit {
        Commit { revision, records: Vec::new(), at: None, missed }
    }

    fn is_resync(text: &Bytes) -> bool {
        text.starts_with(b"event: resync\n")
    }

    #[test]
    fn whoever_joins_between_hears_that_writes_were_missed() {
        const COMMITS: u64 = 20_000;
        let line = Line::new(0);
        std::thread::scope(|scope| {
            let teller = scope.spawn(|| (1..=COMMITS).for_each(|n| line.tell_commit(&commit(2 * n, 1))));
            while !teller.is_finished() {
                let (mut ears, base) = line.join(false, false).unwrap();
                let first = loop {
                    match ears.heard() {
                        Err(TryRecvError::Empty) if !teller.is_finished() => std::hint::spin_loop(),
                        heard => break heard,
                    }
                };
                // Every commit here comes after a gap, so that is what is heard first.
                assert!(first.as_ref().map_or(true, is_resync), "{first:?} after {base}");
            }
        });
    }

    #[test]
    fn what_a_resync_covers_is_not_told_again() {
        let line = Line::new(3);
        let (mut ears, base) = line.join(false, false).unwrap();
        line.tell_resync("x", 5);
        line.tell_commit(&commit(5, 0));
        line.tell_resync("y", 0);
        line.tell_commit(&commit(6, 0));
        let told: Vec<bool> = std::iter::from_fn(|| ears.heard().ok()).map(|text| is_resync(&text)).collect();
        assert_eq!((base, told, line.revision()), (3, vec![true, true, false], 6));
    }

    #[tokio::test]
    async fn a_burst_of_one_kind_drops_no_reader_of_another() {
        let line = Line::new(0);
        let (mut state, _) = line.join(false, false).unwrap();
        let (mut all, _) = line.join(true, true).unwrap();
        for _ in 0..2 * WAITING_MAX {
            line.tell(Kind::Live, Bytes::from_static(b"live"));
        }
        line.tell_commit(&commit(1, 0));
        assert!(
            state.hear().await.is_ok_and(|text| text.starts_with(b"event: state")),
            "it asked for no gauges"
        );
        assert_eq!(state.heard(), Err(TryRecvError::Empty));
        assert!(all.hear().await.is_ok(), "the state first");
        assert!(matches!(all.hear().await, Err(RecvError::Lagged(_))), "the control");
    }
}
