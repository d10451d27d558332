//! The change feed as an identity outside HOME may follow it: republished commits of the state bucket, whole
//! batches at a time, with gaps noticed. It reads nothing back; [`crate::view`] is for agents inside HOME.

use crate::connect::Bus;
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::StreamExt;
use nhi_model::{
    Timestamp,
    envelope::{BadValue, Stored},
    header,
    key::Key,
    subject::{self, STATE_BUCKET},
};

/// Most records held back for a batch that has not ended; a batch has at most 1000.
const BATCH_MESSAGES_MAX: usize = 1000;

/// One commit.
#[derive(Clone, Debug)]
pub struct Commit {
    /// Revision of its last write.
    pub revision: u64,
    /// What it wrote: a record, or `None` where one was retired.
    pub records: Vec<(Key, Option<Stored>)>,
    /// When it was written, UTC, as its records say.
    pub at: Option<Timestamp>,
    /// How many writes between the commit before and this one were not received. More than 0 means: read the
    /// state again.
    pub missed: u64,
}

/// Why the feed has nothing to tell.
#[derive(Debug, thiserror::Error)]
pub enum FeedError {
    /// The subscription was not possible.
    #[error("cannot follow the change feed")]
    Subscribe(#[source] async_nats::SubscribeError),
    /// A record cannot be understood. The feed goes on.
    #[error(transparent)]
    Value(#[from] BadValue),
}

/// A subscription to the feed.
#[derive(Debug)]
pub struct Feed {
    messages: Subscriber,
    held: Vec<(Key, Option<Stored>)>,
    held_batch: Option<String>,
    at: Option<Timestamp>,
    last: Option<u64>,
    missed: u64,
}

impl Feed {
    /// Starts to follow.
    ///
    /// # Errors
    /// [`FeedError::Subscribe`] when the connection is gone.
    pub async fn open(bus: &Bus) -> Result<Self, FeedError> {
        let messages =
            bus.client().subscribe(subject::feed(STATE_BUCKET)).await.map_err(FeedError::Subscribe)?;
        Ok(Self { messages, held: Vec::new(), held_batch: None, at: None, last: None, missed: 0 })
    }

    /// The reader knows the state up to this revision: whatever is written after it and does not come is missed.
    pub fn known(&mut self, revision: u64) {
        self.last = self.last.max(Some(revision));
    }

    /// The next commit; `None` when the connection was closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Commit, FeedError>> {
        loop {
            let message = self.messages.next().await?;
            match self.take(&message) {
                Ok(None) => {}
                Ok(Some(commit)) => return Some(Ok(commit)),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Takes one message; a commit when it completes one.
    fn take(&mut self, message: &Message) -> Result<Option<Commit>, FeedError> {
        let headers = message.headers.as_ref();
        let Some(sequence) = number(headers, "Nats-Sequence") else { return Ok(None) };
        self.missed += self.last.map_or(0, |last| sequence.saturating_sub(last + 1));
        self.last = self.last.max(Some(sequence));
        let batch = text(headers, "Nats-Batch-Id").map(str::to_owned);
        if batch != self.held_batch {
            // A batch whose end was missed: what was held is part of something not seen whole.
            self.missed += self.held.len() as u64;
            self.held.clear();
            self.held_batch.clone_from(&batch);
        }
        if let Some(key) = key_of(headers) {
            let retired = text(headers, "KV-Operation").is_some();
            let value = if retired { None } else { Some(Stored::parse(&key, &message.payload)?) };
            let marked = || text(headers, header::AT)?.parse().ok();
            self.at = value.as_ref().map(|stored| stored.at).or_else(marked).or(self.at);
            self.held.push((key, value));
        }
        let ends = batch.is_none() || text(headers, "Nats-Batch-Commit").is_some();
        if !ends && self.held.len() < BATCH_MESSAGES_MAX {
            return Ok(None);
        }
        self.held_batch = None;
        let records = std::mem::take(&mut self.held);
        let (at, missed) = (self.at.take(), std::mem::take(&mut self.missed));
        Ok(Some(Commit { revision: sequence, records, at, missed }))
    }
}

/// A subscription to what another bucket republishes, message by message: plans and runs, or gauges. There are no batches
/// to keep together there, and a gap is for the reader to heal by looking now and then.
#[derive(Debug)]
pub struct Changes {
    messages: Subscriber,
    prefix: String,
}

impl Changes {
    /// Starts to follow a bucket.
    ///
    /// # Errors
    /// [`FeedError::Subscribe`] when the connection is gone.
    pub async fn open(bus: &Bus, bucket: &str) -> Result<Self, FeedError> {
        let subject = subject::feed(bucket);
        let prefix = subject.trim_end_matches('>').to_owned();
        let messages = bus.client().subscribe(subject).await.map_err(FeedError::Subscribe)?;
        Ok(Self { messages, prefix })
    }

    /// The next key that was written, with its value as it stands there; no value where it was removed. `None` when the
    /// connection was closed. Cancel safe.
    pub async fn next(&mut self) -> Option<(String, Option<Bytes>)> {
        loop {
            let message = self.messages.next().await?;
            let Some(key) = message.subject.as_str().strip_prefix(&self.prefix) else { continue };
            let is_removed = text(message.headers.as_ref(), "KV-Operation").is_some();
            return Some((key.to_owned(), (!is_removed).then_some(message.payload)));
        }
    }
}

/// The key under its own name in the bucket, which the server gives in a header.
fn key_of(headers: Option<&HeaderMap>) -> Option<Key> {
    subject::key_of(STATE_BUCKET, text(headers, "Nats-Subject")?)
}

fn text<'a>(headers: Option<&'a HeaderMap>, name: &str) -> Option<&'a str> {
    headers.and_then(|h| h.get(name)).map(async_nats::HeaderValue::as_str)
}

fn number(headers: Option<&HeaderMap>, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}
