//! The task behind a view: session after session, what each yields shown to readers, and the store watched for
//! being exchanged. It is the only writer of the view's channels.

use super::{
    ViewSettings,
    fold::Fold,
    follow::{Ended, Session, Step, is_lasting},
    mark::{Pulse, StoreChange, StoreChangeKind, StoreMark, Vital},
    watched::Whole,
};
use crate::{
    connect::{Bus, Link},
    cx::Cx,
    store::{
        ApiError,
        api::{StreamInfo, message_at, stream_info},
    },
};
use nhi_model::{Timestamp, envelope::Stale, subject};
use std::{future::Future, pin::Pin, sync::Arc, time::Duration};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

/// First pause before a session is tried again.
pub(super) const PAUSE_MS_MIN: u64 = 1_000;
/// Longest pause: hundreds of consumers were left behind elsewhere by a loop without one.
pub(super) const PAUSE_MS_MAX: u64 = 30_000;
/// Longest time that messages which keep coming are taken in before readers see some of them.
const SHOW_EVERY: Duration = Duration::from_millis(20);

/// Pause before an end that lies before what was seen is believed: on a cluster, a new leader may not have taken in
/// yet what it has.
const CONFIRM_PAUSE: Duration = Duration::from_millis(500);
/// How often it is looked at again after a reconnect, when a leader may be new.
const CONFIRM_TIMES: u32 = 3;

/// What readers of a view hold.
pub(super) struct Outputs<W> {
    pub(super) wholes: watch::Receiver<Arc<W>>,
    pub(super) revisions: watch::Receiver<u64>,
    pub(super) events: watch::Receiver<Option<StoreChange>>,
}

pub(super) struct Keeper<W> {
    bus: Bus,
    stream: String,
    settings: ViewSettings,
    wholes: watch::Sender<Arc<W>>,
    revisions: watch::Sender<u64>,
    events: watch::Sender<Option<StoreChange>>,
    /// Who waits for the first state.
    opened: Option<oneshot::Sender<Result<(), ApiError>>>,
    /// The store as it was seen last, with the time of the message at its end.
    seen: Option<(StoreMark, Option<Timestamp>)>,
}

/// How a session went.
enum Outcome {
    /// The view is to stop.
    Stopped,
    /// It ended, before or after the first whole state.
    Ended { ended: Ended, was_filled: bool },
    /// The store is another one. Read all anew at once.
    Changed,
}

/// What one look at the stream tells about the store.
enum Look {
    Same,
    /// It may have been rolled back. Look again soon.
    Suspect,
    Changed(StoreChange),
}

/// A look at the stream on its way, with what had been received when it was asked for: what arrives while the answer
/// is on its way must not look like the future.
type Asked = Pin<Box<dyn Future<Output = (u64, Result<StreamInfo, ApiError>)> + Send>>;

impl<W: Whole> Keeper<W> {
    pub(super) fn new(
        bus: Bus,
        settings: ViewSettings,
        opened: oneshot::Sender<Result<(), ApiError>>,
    ) -> (Self, Outputs<W>) {
        let reason = format!("{} has not been read yet", W::CALLED);
        let mut first = W::default();
        first.set_stale(Some(Stale { reason, since: Timestamp::now() }));
        let (wholes, wholes_out) = watch::channel(Arc::new(first));
        let (revisions, revisions_out) = watch::channel(0);
        let (events, events_out) = watch::channel(None);
        let stream = subject::bucket_stream(W::BUCKET);
        let opened = Some(opened);
        let keeper = Self { bus, stream, settings, wholes, revisions, events, opened, seen: None };
        (keeper, Outputs { wholes: wholes_out, revisions: revisions_out, events: events_out })
    }

    /// Runs until the context stops or the connection is closed.
    pub(super) async fn run(mut self, cx: &Cx) {
        let mut pause_ms = PAUSE_MS_MIN;
        loop {
            tokio::select! {
                () = cx.cancelled() => return,
                is_up = self.wait_for_link() => if !is_up { return },
            }
            let (ended, was_filled) = match self.session(cx).await {
                Outcome::Stopped => return,
                Outcome::Changed => continue,
                Outcome::Ended { ended, was_filled } => (ended, was_filled),
            };
            let Some(ended) = self.give_up(ended) else { return };
            self.mark_stale(&told(&ended));
            if was_filled {
                pause_ms = PAUSE_MS_MIN;
            }
            // A lost link needs no pause of ours: the client waits before it connects again.
            if !matches!(ended, Ended::LinkLost) {
                tokio::select! {
                    () = cx.cancelled() => return,
                    () = pause(pause_ms) => {}
                }
                pause_ms = (pause_ms * 2).min(PAUSE_MS_MAX);
            }
        }
    }

    /// Tells whoever opens the view that there will be none, when no number of tries would change that. Otherwise
    /// gives back why the session ended.
    fn give_up(&mut self, ended: Ended) -> Option<Ended> {
        match ended {
            Ended::Api(error) if is_lasting(&error) && self.opened.is_some() => {
                let opened = self.opened.take().expect("the guard has seen it");
                // Whoever opens it may have gone; then nobody needs to know.
                drop(opened.send(Err(error)));
                None
            }
            ended => Some(ended),
        }
    }

    /// False when the connection was closed for good.
    async fn wait_for_link(&self) -> bool {
        let mut link = self.bus.link();
        if !link.borrow().is_up() {
            self.mark_stale("the mesh is not connected");
        }
        match link.wait_for(|link| link.is_up() || *link == Link::Closed).await {
            Ok(link) => link.is_up(),
            Err(_) => false,
        }
    }

    /// Reads all anew and follows, as long as it goes well.
    async fn session(&mut self, cx: &Cx) -> Outcome {
        let mut fold = None;
        let mut session = None;
        let ended = tokio::select! {
            () = cx.cancelled() => None,
            ended = self.follow(&mut session, &mut fold) => Some(ended),
        };
        if let Some(session) = session {
            session.close().await;
        }
        match ended {
            None => Outcome::Stopped,
            Some(Ok(change)) => {
                self.announce(change);
                Outcome::Changed
            }
            Some(Err(ended)) => {
                Outcome::Ended { ended, was_filled: fold.is_some_and(|fold| fold.is_filled()) }
            }
        }
    }

    /// Ends with how the store changed, or with what went wrong.
    async fn follow(
        &mut self,
        session: &mut Option<Session>,
        fold: &mut Option<Fold<W>>,
    ) -> Result<StoreChange, Ended> {
        let before = stream_info(&self.bus, &self.stream).await?;
        if let Some(change) = self.recognise(&before).await? {
            return Ok(change);
        }
        let session = session.insert(Session::of_bucket(&self.bus, W::BUCKET).await?);
        // Asked for after the delivery was set up: see `fold` for why.
        let after = stream_info(&self.bus, &self.stream).await?;
        let created = before.created;
        let fold = fold.insert(Fold::new(after.state.last_seq));
        if after.state.messages == 0 && fold.idle() {
            self.show(fold, created);
        }
        let mut pulse = Pulse::default();
        let mut wait = Box::pin(tokio::time::sleep(self.settings.check_every));
        let mut asked: Option<Asked> = None;
        loop {
            tokio::select! {
                step = session.next() => {
                    let is_idle = matches!(step, Ok(Step::Idle));
                    self.take_in(step?, session, fold, created)?;
                    if is_idle && !fold.is_filled() && session.is_drained().await? && fold.idle() {
                        self.show(fold, created);
                    }
                }
                () = &mut wait, if asked.is_none() => asked = Some(self.ask(fold.position().0)),
                (position, info) = answer(&mut asked) => {
                    asked = None;
                    let now = self.look(position, info, &mut pulse, fold, created)?;
                    let pause = match now {
                        Look::Changed(change) => return Ok(change),
                        Look::Suspect => CONFIRM_PAUSE.min(self.settings.check_every),
                        Look::Same => self.settings.check_every,
                    };
                    wait.as_mut().reset(Instant::now() + pause);
                }
            }
        }
    }

    /// Takes a step and those that are here already, and shows the result once.
    fn take_in(
        &mut self,
        step: Step,
        session: &mut Session,
        fold: &mut Fold<W>,
        created: Timestamp,
    ) -> Result<(), Ended> {
        let deadline = Instant::now() + SHOW_EVERY;
        let mut is_news = false;
        let mut next = Some(Ok(step));
        let mut outcome = Ok(());
        while let Some(step) = next {
            match step {
                Ok(Step::Message(written)) => is_news |= fold.take(written),
                Ok(Step::Idle) => {}
                Err(ended) => {
                    outcome = Err(ended);
                    break;
                }
            }
            next = if Instant::now() < deadline { session.next_now() } else { None };
        }
        if is_news && fold.is_filled() {
            self.show(fold, created);
        }
        outcome
    }

    /// What a look at the stream tells.
    fn look(
        &mut self,
        position: u64,
        info: Result<StreamInfo, ApiError>,
        pulse: &mut Pulse,
        fold: &mut Fold<W>,
        created: Timestamp,
    ) -> Result<Look, Ended> {
        let info = match info {
            Ok(info) => info,
            Err(error) if is_lasting(&error) => return Err(Ended::Api(error)),
            // The heartbeats and the link tell soon enough whether this lasts.
            Err(error) => {
                tracing::debug!(err = %error, "stream could not be looked at");
                return Ok(Look::Same);
            }
        };
        let seen = StoreMark { created, last_seq: position };
        let now = StoreMark::of(&info);
        match (pulse.look(position, info.state.last_seq, Instant::now()), seen.compare(now)) {
            (_, Some(StoreChangeKind::RolledBack)) if !pulse.is_confirmed() => {
                return Ok(Look::Suspect);
            }
            (_, Some(kind)) => return Ok(Look::Changed(change(kind, seen, now))),
            (Vital::Deaf, None) => return Err(Ended::Deaf),
            (Vital::Still, None) if fold.is_open() && fold.position().0 == position => {
                tracing::warn!(rev = position, "a batch has no end, its messages are taken as they are");
                if fold.settle() {
                    self.show(fold, created);
                }
            }
            (Vital::Still | Vital::Well, None) => {}
        }
        Ok(Look::Same)
    }

    /// Whether this is the store that was followed before.
    async fn recognise(&mut self, info: &StreamInfo) -> Result<Option<StoreChange>, Ended> {
        let Some((seen, time)) = self.seen else { return Ok(None) };
        let mut now = StoreMark::of(info);
        let mut kind = seen.compare(now);
        for _ in 0..CONFIRM_TIMES {
            if kind != Some(StoreChangeKind::RolledBack) {
                break;
            }
            tokio::time::sleep(CONFIRM_PAUSE).await;
            now = StoreMark::of(&stream_info(&self.bus, &self.stream).await?);
            kind = seen.compare(now);
        }
        if let (None, Some(time)) = (kind, time) {
            // A message that is gone proves nothing: newer versions of its record push it out.
            let there = message_at(&self.bus, &self.stream, seen.last_seq).await?;
            if there.is_some_and(|message| message.time != time) {
                kind = Some(StoreChangeKind::Rewritten);
            }
        }
        Ok(kind.map(|kind| change(kind, seen, now)))
    }

    fn ask(&self, position: u64) -> Asked {
        let (bus, stream) = (self.bus.clone(), self.stream.clone());
        Box::pin(async move { (position, stream_info(&bus, &stream).await) })
    }

    fn show(&mut self, fold: &Fold<W>, created: Timestamp) {
        let (last_seq, time) = fold.position();
        self.seen = Some((StoreMark { created, last_seq }, time));
        self.wholes.send_replace(Arc::new(fold.whole.clone()));
        self.revisions.send_replace(fold.whole.revision());
        if let Some(opened) = self.opened.take() {
            // Whoever opens it may have gone; the context ends this task then.
            drop(opened.send(Ok(())));
        }
        tracing::trace!(stream = self.stream, rev = fold.whole.revision(), "state shown");
    }

    fn announce(&mut self, change: StoreChange) {
        let StoreChange { kind, before, after, .. } = change;
        let (was, rev) = (before.last_seq, after.last_seq);
        tracing::error!(stream = self.stream, %kind, was, rev, "store behind the state was changed");
        self.seen = None;
        self.mark_stale(&kind.to_string());
        self.events.send_replace(Some(change));
    }

    /// The state stays, and says why it may be out of date, and since when.
    fn mark_stale(&self, reason: &str) {
        let current = self.wholes.borrow().clone();
        let since = match current.stale() {
            Some(stale) if stale.reason == reason => return,
            Some(stale) => stale.since,
            None => Timestamp::now(),
        };
        let revision = current.revision();
        tracing::warn!(stream = self.stream, rev = revision, err = reason, "state may be out of date");
        let mut marked = (*current).clone();
        marked.set_stale(Some(Stale { reason: reason.to_owned(), since }));
        self.wholes.send_replace(Arc::new(marked));
        self.revisions.send_replace(revision);
    }
}

/// The answer to what was asked; never, when nothing was.
async fn answer(asked: &mut Option<Asked>) -> (u64, Result<StreamInfo, ApiError>) {
    match asked {
        Some(asked) => asked.await,
        None => std::future::pending().await,
    }
}

/// Waits up to so long. The jitter keeps a whole mesh from asking in one instant.
pub(super) async fn pause(ms_max: u64) {
    tokio::time::sleep(Duration::from_millis(rand::random_range(ms_max / 2..=ms_max))).await;
}

/// Why a session ended, with its cause, in one sentence.
pub(super) fn told(ended: &Ended) -> String {
    match std::error::Error::source(ended) {
        Some(source) => format!("{ended}: {source}"),
        None => ended.to_string(),
    }
}

fn change(kind: StoreChangeKind, before: StoreMark, after: StoreMark) -> StoreChange {
    StoreChange { kind, noticed: Timestamp::now(), before, after }
}
