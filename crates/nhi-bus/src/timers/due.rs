//! Timers that are due, handed out one at a time by a durable consumer of the server: one that nobody acknowledges comes
//! again, to this actuator or to the next.
//!
//! Why not the library's pull consumer? It holds questions open that nobody listens to any more, so that a timer goes to
//! somebody who has left and comes again only after half a minute; and its errors do not tell a refusal from a time-out.

use super::TimerError;
use crate::{
    connect::{Bus, Link},
    cx::Cx,
    store::{
        ApiError, AskError,
        api::{api, ask},
    },
};
use async_nats::{HeaderMap, Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use nhi_model::{
    run::RunId,
    subject::{self, TIMERS_CONSUMER, TIMERS_DUE, TIMERS_STREAM},
};
use serde::de::IgnoredAny;
use serde_json::json;
use std::{fmt, pin::Pin, time::Duration};
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

/// How long the server waits for an acknowledgement before it delivers a due timer again: making a plan and starting
/// it takes a second or two.
const ACK_SECONDS_MAX: u64 = 30;
/// How long the server holds one question open.
const PULL_SECONDS: u64 = 20;
/// How often the server says that it still holds it.
const HEARTBEAT_SECONDS: u64 = 5;
/// Silence after which the question counts as lost: two heartbeats missed.
const SILENCE_SECONDS_MAX: u64 = 12;
/// Pause before asking again after something went wrong.
const PULL_PAUSE: Duration = Duration::from_secs(1);
const NANOS: u64 = 1_000_000_000;

/// Timers as they become due. Only the actuator that acts should hold this: what it takes nobody else gets.
pub struct DueTimers {
    cx: Cx,
    bus: Bus,
    pull: Option<Pull>,
    /// The trouble that was told last, so that a lasting one is told once.
    told: Option<String>,
}

/// One question, held open by the server.
struct Pull {
    answers: Subscriber,
    refused: Pin<Box<dyn Future<Output = ()> + Send>>,
    losses: watch::Receiver<u64>,
    deadline: Instant,
}

/// A timer that is due. Dropped without [`DueTimer::ack`] it comes again.
pub struct DueTimer {
    /// Whose.
    pub run: RunId,
    /// How often it was handed out, from 1.
    pub delivery: u64,
    bus: Bus,
    ack: String,
}

/// Waits for timers, from now on. What became due before is handed out as well.
///
/// # Errors
/// [`TimerError`] when the server does not keep timers, or not for this identity.
pub async fn due(cx: &Cx, bus: &Bus) -> Result<DueTimers, TimerError> {
    make_consumer(bus).await?;
    Ok(DueTimers { cx: cx.clone(), bus: bus.clone(), pull: None, told: None })
}

/// Idempotent.
async fn make_consumer(bus: &Bus) -> Result<(), ApiError> {
    let request = json!({
        "stream_name": TIMERS_STREAM,
        "config": {
            "durable_name": TIMERS_CONSUMER,
            "filter_subject": TIMERS_DUE,
            "deliver_policy": "all",
            "replay_policy": "instant",
            "ack_policy": "explicit",
            "ack_wait": ACK_SECONDS_MAX * NANOS,
        },
    });
    let verb = format!("CONSUMER.CREATE.{TIMERS_STREAM}.{TIMERS_CONSUMER}");
    let _made: IgnoredAny = api(bus, &verb, &request).await?;
    Ok(())
}

impl DueTimers {
    /// The next timer that is due; `None` when the context stops or the connection was closed. Outages are waited
    /// through. Cancel safe.
    pub async fn next(&mut self) -> Option<DueTimer> {
        let cx = self.cx.clone();
        tokio::select! {
            () = cx.cancelled() => None,
            due = self.wait() => due,
        }
    }

    async fn wait(&mut self) -> Option<DueTimer> {
        let mut link = self.bus.link();
        loop {
            match link.wait_for(|link| link.is_up() || *link == Link::Closed).await {
                Ok(link) if link.is_up() => {}
                Ok(_) | Err(_) => return None,
            }
            match self.ask().await {
                Ok(Some(timer)) => {
                    self.told = None;
                    return Some(timer);
                }
                Ok(None) => self.told = None,
                Err(trouble) => {
                    self.pull = None;
                    self.tell(&trouble);
                    tokio::time::sleep(PULL_PAUSE).await;
                }
            }
        }
    }

    fn tell(&mut self, trouble: &TimerError) {
        let source = std::error::Error::source(trouble).map(ToString::to_string);
        if self.told != source {
            tracing::warn!(stream = TIMERS_STREAM, err = %trouble, source, "due timers could not be asked for");
            self.told = source;
        }
    }

    /// Goes on with the question that is open, or asks. `None` when that brought nothing and may be done again at once.
    async fn ask(&mut self) -> Result<Option<DueTimer>, TimerError> {
        if self.pull.is_none() {
            self.pull = Some(Pull::open(&self.bus).await?);
        }
        let pull = self.pull.as_mut().expect("it was made above when there was none");
        let Some(message) = pull.next().await? else {
            self.pull = None;
            return Ok(None);
        };
        match message.status.map(|status| status.as_u16()) {
            Some(100) => return Ok(None),
            // Held open long enough, or nothing there.
            Some(404 | 408) => self.pull = None,
            // The consumer or the stream is gone, or was for a moment.
            Some(code) => {
                self.pull = None;
                let words = message.description.unwrap_or_default();
                tracing::debug!(stream = TIMERS_STREAM, err = words, code, "due timers are asked for anew");
                make_consumer(&self.bus).await?;
            }
            None => {
                self.pull = None;
                return take(&self.bus, &message).await;
            }
        }
        Ok(None)
    }
}

/// A free function: a question held open is no reason that nobody else may look at the timers meanwhile.
async fn take(bus: &Bus, message: &Message) -> Result<Option<DueTimer>, TimerError> {
    let Some(ack) = message.reply.as_ref().filter(|reply| reply.starts_with("$JS.ACK.")) else {
        tracing::warn!(stream = TIMERS_STREAM, "a message that is no due timer was left out");
        return Ok(None);
    };
    let ack = ack.to_string();
    let Some(run) = subject::run_of_timer(&message.subject) else {
        tracing::warn!(stream = TIMERS_STREAM, "a due timer of no run was left out");
        acknowledge(bus, &ack, "+TERM").await?;
        return Ok(None);
    };
    Ok(Some(DueTimer { run, delivery: deliveries(&ack), bus: bus.clone(), ack }))
}

impl Pull {
    async fn open(bus: &Bus) -> Result<Self, TimerError> {
        let losses = bus.losses();
        let inbox = subject::inbox(bus.me(), Uuid::new_v4().simple());
        let next = subject::timers_next();
        let lost = |_| ApiError::Ask(AskError::Lost { subject: next.clone() });
        let answers = bus.client().subscribe(inbox.clone()).await.map_err(lost)?;
        let refused = Box::pin(bus.refused(&next));
        let question = json!({
            "batch": 1, "expires": PULL_SECONDS * NANOS, "idle_heartbeat": HEARTBEAT_SECONDS * NANOS,
        });
        let question = serde_json::to_vec(&question).expect("a request of plain JSON types serialises");
        bus.send(&next, Some(&inbox), HeaderMap::new(), question.into())
            .await
            .map_err(|error| ApiError::Ask(AskError::NotSent(error)))?;
        Ok(Self { answers, refused, losses, deadline: silence() })
    }

    /// What comes next; `None` when nothing will. Cancel safe.
    async fn next(&mut self) -> Result<Option<Message>, TimerError> {
        let message = tokio::select! {
            biased;
            _ = self.losses.changed() => return Ok(None),
            () = &mut self.refused => {
                return Err(ApiError::Ask(AskError::Refused { subject: subject::timers_next() }).into());
            }
            message = tokio::time::timeout_at(self.deadline, self.answers.next()) => message,
        };
        self.deadline = silence();
        Ok(message.ok().flatten())
    }
}

fn silence() -> Instant {
    Instant::now() + Duration::from_secs(SILENCE_SECONDS_MAX)
}

impl DueTimer {
    /// Says that it was dealt with, so that it does not come again. When the answer is lost it may come again: what it
    /// leads to must be harmless a second time.
    ///
    /// # Errors
    /// [`TimerError`] when the server did not hear of it, or is not known to have.
    pub async fn ack(self) -> Result<(), TimerError> {
        Ok(acknowledge(&self.bus, &self.ack, "+ACK").await?)
    }

    /// Says that it is being dealt with, which keeps it from being handed out again for another 30 s.
    ///
    /// # Errors
    /// [`TimerError`].
    pub async fn working(&self) -> Result<(), TimerError> {
        Ok(acknowledge(&self.bus, &self.ack, "+WPI").await?)
    }
}

/// Waits for the server to have taken it in.
async fn acknowledge(bus: &Bus, ack: &str, word: &'static str) -> Result<(), ApiError> {
    let answer = ask(bus, ack, HeaderMap::new(), Bytes::from_static(word.as_bytes())).await?;
    match answer.status {
        Some(status) if status != StatusCode::OK => {
            let description = answer.description.unwrap_or_default();
            Err(ApiError::Answer { verb: word.to_owned(), code: status.as_u16().into(), description })
        }
        Some(_) | None => Ok(()),
    }
}

/// How often a message was delivered: `$JS.ACK.<stream>.<consumer>.<deliveries>.…`, on newer servers with domain and
/// account before the stream.
fn deliveries(ack: &str) -> u64 {
    let tokens: Vec<&str> = ack.split('.').collect();
    let place = if tokens.len() >= 11 { 6 } else { 4 };
    tokens.get(place).and_then(|token| token.parse().ok()).unwrap_or(1)
}

impl fmt::Debug for DueTimers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DueTimers").field("asking", &self.pull.is_some()).finish_non_exhaustive()
    }
}

impl fmt::Debug for DueTimer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DueTimer")
            .field("run", &self.run)
            .field("delivery", &self.delivery)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deliveries_are_read_from_both_forms() {
        let tail = "NHI_TIMERS.act.3.4.2.1795382720455281135.2";
        assert_eq!(deliveries(&format!("$JS.ACK.{tail}")), 3);
        assert_eq!(deliveries(&format!("$JS.ACK._.hash.{tail}")), 3);
        assert_eq!(deliveries(&format!("$JS.ACK.hub.hash.{tail}.random")), 3);
        assert_eq!(deliveries("$JS.ACK"), 1);
    }
}
