//! One session of following a stream: for a bucket the last message of each key, for a log everything from a sequence on,
//! then everything that comes, in order and without a gap, or an error. It does not recover: whoever follows starts a new session and reads all anew.
//!
//! Why not the library's ordered consumer? It recovers by itself, from the sequence it had, which is deaf when the
//! store was rolled back; and before its first message it recovers by reading all messages there ever were.

use crate::{
    connect::{Bus, Link},
    store::{
        api::{ApiError, AskError, api},
        written::{Written, number, text},
    },
};
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use nhi_model::{Timestamp, subject};
use serde::{Deserialize, de::IgnoredAny};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{sync::watch, time::Instant};
use uuid::Uuid;

/// How often the server says that there is nothing new.
const HEARTBEAT_SECONDS: u64 = 5;
/// Silence after which the consumer counts as gone: two heartbeats missed.
const SILENCE_SECONDS_MAX: u64 = 12;
/// How long the server keeps a consumer nobody listens to.
const ABANDONED_SECONDS: u64 = 30;
const NANOS: u64 = 1_000_000_000;

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Ended {
    #[error("the link to the server was lost")]
    LinkLost,
    #[error("the server has been silent for {SILENCE_SECONDS_MAX} s")]
    Silent,
    #[error("the server has stopped delivering")]
    Deaf,
    #[error("messages were lost on the way")]
    Gap,
    #[error("the server ended the delivery: {0}")]
    Stopped(String),
    #[error("the server does not deliver the bucket")]
    Api(#[from] ApiError),
}

/// What a session yields.
#[derive(Debug)]
pub(crate) enum Step {
    Message(Written),
    /// Nothing has come for a while.
    Idle,
}

/// Where a delivery begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Start {
    /// With the last message of each subject.
    LastOfEach,
    /// With the first message that has at least this sequence.
    At(u64),
}

/// A running delivery.
pub(crate) struct Session {
    bus: Bus,
    stream: String,
    consumer: String,
    messages: Subscriber,
    /// Number of the last message delivered.
    delivered: u64,
    /// Where the server wants an empty message before it sends more. Kept here, so that dropping
    /// [`Session::next`] half way does not forget it.
    owed: Option<String>,
    losses: watch::Receiver<u64>,
    deadline: Instant,
    /// Something came since the deadline was set.
    has_heard: bool,
}

impl Session {
    /// Starts the delivery of a bucket: the last message of each key, then everything that comes.
    pub(crate) async fn of_bucket(bus: &Bus, bucket: &str) -> Result<Self, Ended> {
        Self::open(bus, &subject::bucket_stream(bucket), &subject::kv_all(bucket), Start::LastOfEach).await
    }

    /// Starts the delivery of what a stream holds under a filter.
    pub(crate) async fn open(bus: &Bus, stream: &str, filter: &str, start: Start) -> Result<Self, Ended> {
        // Before anything else, so that no loss after this goes unnoticed.
        let losses = bus.losses();
        let stream = stream.to_owned();
        let consumer = format!("view-{}", Uuid::new_v4().simple());
        let inbox = format!("{}.{consumer}", subject::inbox_prefix(bus.me()));
        let messages = bus.client().subscribe(inbox.clone()).await.map_err(|_| Ended::LinkLost)?;
        let mut request = json!({
            "stream_name": stream,
            "config": {
                "name": consumer,
                "deliver_subject": inbox,
                "deliver_policy": "last_per_subject",
                "filter_subject": filter,
                "ack_policy": "none",
                "replay_policy": "instant",
                "flow_control": true,
                "idle_heartbeat": HEARTBEAT_SECONDS * NANOS,
                "inactive_threshold": ABANDONED_SECONDS * NANOS,
                "mem_storage": true,
                "num_replicas": 1,
            },
        });
        if let Start::At(sequence) = start {
            request["config"]["deliver_policy"] = json!("by_start_sequence");
            request["config"]["opt_start_seq"] = json!(sequence);
        }
        let _created: IgnoredAny =
            api(bus, &format!("CONSUMER.CREATE.{stream}.{consumer}"), &request).await?;
        let deadline = Instant::now() + Duration::from_secs(SILENCE_SECONDS_MAX);
        let bus = bus.clone();
        Ok(Self {
            bus,
            stream,
            consumer,
            messages,
            delivered: 0,
            owed: None,
            losses,
            deadline,
            has_heard: false,
        })
    }

    /// The next step. Cancel safe.
    pub(crate) async fn next(&mut self) -> Result<Step, Ended> {
        if std::mem::take(&mut self.has_heard) {
            self.deadline = Instant::now() + Duration::from_secs(SILENCE_SECONDS_MAX);
        }
        loop {
            if let Some(owed) = &self.owed {
                self.bus
                    .send(owed, None, HeaderMap::new(), Bytes::new())
                    .await
                    .map_err(|_| Ended::LinkLost)?;
                self.owed = None;
            }
            let message = tokio::select! {
                biased;
                _ = self.losses.changed() => return Err(Ended::LinkLost),
                message = tokio::time::timeout_at(self.deadline, self.messages.next()) => message,
            };
            let message = message.map_err(|_| Ended::Silent)?.ok_or(Ended::LinkLost)?;
            self.deadline = Instant::now() + Duration::from_secs(SILENCE_SECONDS_MAX);
            if let Some(step) = self.take(message)? {
                return Ok(step);
            }
        }
    }

    /// The next step when it is here already. Cheap: a million messages pass here.
    pub(crate) fn next_now(&mut self) -> Option<Result<Step, Ended>> {
        loop {
            if self.owed.is_some() {
                return self.next().now_or_never();
            }
            if self.losses.has_changed().unwrap_or(true) {
                return Some(Err(Ended::LinkLost));
            }
            let message = self.messages.next().now_or_never()?;
            self.has_heard = true;
            let step = match message {
                Some(message) => self.take(message),
                None => Err(Ended::LinkLost),
            };
            if let Some(step) = step.transpose() {
                return Some(step);
            }
        }
    }

    fn take(&mut self, message: Message) -> Result<Option<Step>, Ended> {
        match message.status.map(|status| status.as_u16()) {
            None => {
                let place = message.reply.as_deref().and_then(Place::parse).ok_or(Ended::Gap)?;
                if place.delivered != self.delivered + 1 {
                    return Err(Ended::Gap);
                }
                self.delivered = place.delivered;
                Ok(Some(Step::Message(Written {
                    subject: message.subject.to_string(),
                    sequence: place.sequence,
                    time: place.time,
                    headers: message.headers.unwrap_or_default(),
                    payload: message.payload,
                })))
            }
            Some(100) => {
                if let Some(reply) = message.reply {
                    self.owed = Some(reply.to_string());
                    return Ok(None);
                }
                let headers = message.headers.unwrap_or_default();
                if number(&headers, "Nats-Last-Consumer").is_some_and(|last| last != self.delivered) {
                    return Err(Ended::Gap);
                }
                // Our answer to a request for flow control got lost; the server waits for it.
                if let Some(stalled) = text(&headers, "Nats-Consumer-Stalled") {
                    self.owed = Some(stalled.to_owned());
                    return Ok(None);
                }
                Ok(Some(Step::Idle))
            }
            Some(code) => {
                let words = message.description.unwrap_or_default();
                Err(Ended::Stopped(format!("{code} {words}")))
            }
        }
    }

    /// Whether nothing is left to deliver. A heartbeat alone does not say so: a slow server sends one as well.
    pub(crate) async fn is_drained(&self) -> Result<bool, ApiError> {
        #[derive(Deserialize)]
        struct Info {
            num_pending: u64,
            delivered: Delivered,
        }
        #[derive(Deserialize)]
        struct Delivered {
            consumer_seq: u64,
        }
        let verb = format!("CONSUMER.INFO.{}.{}", self.stream, self.consumer);
        let info: Info = api(&self.bus, &verb, &json!({})).await?;
        Ok(info.num_pending == 0 && info.delivered.consumer_seq == self.delivered)
    }

    /// Ends the delivery. When it fails the server does so by itself, after a while.
    pub(crate) async fn close(mut self) {
        // An error means that the connection is gone, and the subscription with it.
        drop(self.messages.unsubscribe().await);
        if *self.bus.link().borrow() == Link::Up {
            let verb = format!("CONSUMER.DELETE.{}.{}", self.stream, self.consumer);
            if let Err(error) = api::<Value>(&self.bus, &verb, &json!({})).await {
                tracing::debug!(err = %error, "consumer left to the server");
            }
        }
    }
}

/// Whether an error will still be there after any number of tries.
pub(crate) fn is_lasting(error: &ApiError) -> bool {
    matches!(error, ApiError::Ask(AskError::Refused { .. }))
        || error.code() == Some(crate::store::api::ERR_NO_STREAM)
}

/// What the reply subject of a delivered message tells:
/// `$JS.ACK.<stream>.<consumer>.<tries>.<sequence>.<delivered>.<nanos>.<pending>`, on newer servers with domain
/// and account before the stream.
#[derive(Debug, PartialEq)]
struct Place {
    sequence: u64,
    delivered: u64,
    time: Timestamp,
}

impl Place {
    fn parse(reply: &str) -> Option<Self> {
        let reply = reply.strip_prefix("$JS.ACK.")?;
        let skipped = if reply.bytes().filter(|byte| *byte == b'.').count() >= 8 { 5 } else { 3 };
        let mut tokens = reply.split('.').skip(skipped);
        let mut number = || tokens.next()?.parse::<u64>().ok();
        let (sequence, delivered, nanos) = (number()?, number()?, number()?);
        // The number of those that are left.
        tokens.next()?;
        let (seconds, rest) = (i64::try_from(nanos / NANOS).ok()?, i32::try_from(nanos % NANOS).ok()?);
        Some(Self { sequence, delivered, time: Timestamp::new(seconds, rest).ok()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_forms_of_the_reply_are_read() {
        let place = Place {
            sequence: 4,
            delivered: 2,
            time: Timestamp::from_nanosecond(1_795_382_720_455_281_135).unwrap(),
        };
        let tail = "KV_nhi-state.view-x.1.4.2.1795382720455281135.2";
        assert_eq!(Place::parse(&format!("$JS.ACK.{tail}")).as_ref(), Some(&place));
        assert_eq!(Place::parse(&format!("$JS.ACK._.hash.{tail}")).as_ref(), Some(&place));
        assert_eq!(Place::parse(&format!("$JS.ACK.hub.hash.{tail}.random")).as_ref(), Some(&place));
        for bad in ["", "_INBOX_x.1", "$JS.ACK.a.b.1.x.2.3.4", "$JS.ACK.a.b.1"] {
            assert_eq!(Place::parse(bad), None, "{bad:?}");
        }
    }
}
