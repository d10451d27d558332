//! Requests to JetStream in its own JSON, with errors that say what is known about the outcome. It decides nothing.
//!
//! Why not the library's typed calls? They drop fields of a newer server when they write a configuration back, have
//! no direct get of many keys and no atomic batch, and a refused request looks like a time-out to them.

use super::written::{BadMessage, StoredMessage, Written, number};
use crate::connect::{Bus, PublishError};
use async_nats::{HeaderMap, Message, StatusCode};
use bytes::Bytes;
use futures::StreamExt;
use nhi_model::{Timestamp, subject};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, time::Duration};
use uuid::Uuid;

/// How long the server may take to answer: on a loaded machine with a slow disk a sync takes seconds.
pub(crate) const ANSWER_SECONDS_MAX: u64 = 5;
/// `no message found`
pub(crate) const ERR_NO_MESSAGE: u64 = 10037;
/// `stream not found`
pub(crate) const ERR_NO_STREAM: u64 = 10059;
/// `wrong last sequence`
pub(crate) const ERR_WRONG_LAST: u64 = 10071;
/// Most messages one direct get answers with; the server refuses to name more (413).
pub(crate) const DIRECT_RESULTS_MAX: usize = 1024;
/// How often those who answer direct gets are asked again when there are none.
const ABSENT_TRIES_MAX: u32 = 20;
const ABSENT_PAUSE: Duration = Duration::from_millis(250);

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum AskError {
    /// It was not sent.
    #[error(transparent)]
    NotSent(PublishError),
    /// The server refuses this identity the subject.
    #[error("use {subject}: the server refuses it; this identity has no right to it")]
    Refused {
        /// The subject.
        subject: String,
    },
    /// Nobody listens: no such stream, or no leader yet.
    #[error("reach {subject}: nobody answers there; is the stream provisioned?")]
    NobodyAnswers {
        /// The subject.
        subject: String,
    },
    /// It may have been done.
    #[error("hear from {subject} within {seconds} s; it may have been done")]
    TimedOut {
        /// The subject.
        subject: String,
        /// The limit.
        seconds: u64,
    },
    /// It may have been done.
    #[error("hear from {subject}: the link was lost; it may have been done")]
    Lost {
        /// The subject.
        subject: String,
    },
}

/// Why JetStream did not do it.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// There is no answer.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// It answered with an error.
    #[error("{verb}: {description} (JetStream error {code})")]
    Answer {
        /// What was asked.
        verb: String,
        /// JetStream's own number.
        code: u64,
        /// JetStream's own words.
        description: String,
    },
    /// The answer is not what the protocol says.
    #[error("{verb}: understand the server's answer: {reason}")]
    NotUnderstood {
        /// What was asked.
        verb: String,
        /// What is wrong with it.
        reason: String,
    },
}

impl ApiError {
    /// JetStream's own error number, when it gave one.
    pub(crate) fn code(&self) -> Option<u64> {
        match self {
            Self::Answer { code, .. } => Some(*code),
            Self::Ask(_) | Self::NotUnderstood { .. } => None,
        }
    }
}

/// Asks, and waits for one answer. Cancel safe in that nothing waits on, but the server may act all the same.
pub(crate) async fn ask(
    bus: &Bus,
    subject: &str,
    headers: HeaderMap,
    payload: Bytes,
) -> Result<Message, AskError> {
    let owned = || subject.to_owned();
    let (place, answer) = bus.inbox().expect();
    let refused = bus.refused(subject);
    let mut losses = bus.losses();
    bus.send(subject, Some(place.subject()), headers, payload).await.map_err(AskError::NotSent)?;
    let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
    let message = tokio::select! {
        answer = tokio::time::timeout(limit, answer) => match answer {
            Ok(Ok(message)) => message,
            Ok(Err(_)) => return Err(AskError::Lost { subject: owned() }),
            Err(_) => return Err(AskError::TimedOut { subject: owned(), seconds: ANSWER_SECONDS_MAX }),
        },
        () = refused => return Err(AskError::Refused { subject: owned() }),
        _ = losses.changed() => return Err(AskError::Lost { subject: owned() }),
    };
    if message.status == Some(StatusCode::NO_RESPONDERS) {
        return Err(AskError::NobodyAnswers { subject: owned() });
    }
    Ok(message)
}

/// Asks `$JS.API.<verb>`.
pub(crate) async fn api<T: DeserializeOwned>(
    bus: &Bus,
    verb: &str,
    body: &impl Serialize,
) -> Result<T, ApiError> {
    let payload = serde_json::to_vec(body).expect("a request of plain JSON types serialises");
    let message = ask(bus, &format!("$JS.API.{verb}"), HeaderMap::new(), payload.into()).await?;
    parse_answer(verb, &message.payload)
}

/// Reads an answer that may be an error.
pub(crate) fn parse_answer<T: DeserializeOwned>(verb: &str, payload: &[u8]) -> Result<T, ApiError> {
    #[derive(Deserialize)]
    struct Problem {
        error: Option<Detail>,
    }
    #[derive(Deserialize)]
    struct Detail {
        #[serde(default)]
        code: u64,
        #[serde(default)]
        err_code: u64,
        #[serde(default)]
        description: String,
    }
    let not_understood = |error: serde_json::Error| ApiError::NotUnderstood {
        verb: verb.to_owned(),
        reason: error.to_string(),
    };
    let problem: Problem = serde_json::from_slice(payload).map_err(not_understood)?;
    if let Some(Detail { code, err_code, description }) = problem.error {
        let code = if err_code == 0 { code } else { err_code };
        return Err(ApiError::Answer { verb: verb.to_owned(), code, description });
    }
    serde_json::from_slice(payload).map_err(not_understood)
}

/// What `STREAM.INFO` tells, as far as we use it. The configuration stays JSON, so that what we do not know
/// survives an update.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StreamInfo {
    pub(crate) config: Map<String, Value>,
    pub(crate) created: Timestamp,
    pub(crate) state: StreamState,
}

/// How full a stream is.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct StreamState {
    pub(crate) messages: u64,
    pub(crate) first_seq: u64,
    pub(crate) last_seq: u64,
    /// Messages gone from between the first and the last.
    #[serde(default)]
    pub(crate) num_deleted: u64,
    /// Messages by subject, when asked for.
    #[serde(default)]
    pub(crate) subjects: Option<BTreeMap<String, u64>>,
}

impl StreamInfo {
    /// Versions kept of each key.
    pub(crate) fn versions_max(&self) -> u64 {
        self.config.get("max_msgs_per_subject").and_then(Value::as_u64).unwrap_or(u64::MAX)
    }

    /// Copies of the stream.
    pub(crate) fn replicas(&self) -> u64 {
        self.config.get("num_replicas").and_then(Value::as_u64).unwrap_or(1)
    }
}

/// `STREAM.INFO`, from the leader.
pub(crate) async fn stream_info(bus: &Bus, stream: &str) -> Result<StreamInfo, ApiError> {
    api(bus, &format!("STREAM.INFO.{stream}"), &json!({})).await
}

/// The subjects a stream holds that match a filter, with the number of messages each.
pub(crate) async fn subjects(
    bus: &Bus,
    stream: &str,
    filter: &str,
) -> Result<BTreeMap<String, u64>, ApiError> {
    #[derive(Deserialize)]
    struct Page {
        state: StreamState,
        #[serde(default)]
        total: usize,
    }
    let mut all = BTreeMap::new();
    loop {
        let body = json!({ "subjects_filter": filter, "offset": all.len() });
        let page: Page = api(bus, &format!("STREAM.INFO.{stream}"), &body).await?;
        let subjects = page.state.subjects.unwrap_or_default();
        let is_last = subjects.is_empty();
        all.extend(subjects);
        if is_last || all.len() >= page.total {
            return Ok(all);
        }
    }
}

/// The last message of a subject, from the leader: what a decision may rely on.
pub(crate) async fn last_of(bus: &Bus, stream: &str, subject: &str) -> Result<Option<Written>, ApiError> {
    message(bus, stream, &json!({ "last_by_subj": subject })).await
}

/// The message with a sequence, from the leader.
pub(crate) async fn message_at(bus: &Bus, stream: &str, sequence: u64) -> Result<Option<Written>, ApiError> {
    message(bus, stream, &json!({ "seq": sequence })).await
}

/// The first message of a subject (or pattern) from a sequence on, from the leader.
pub(crate) async fn message_from(
    bus: &Bus,
    stream: &str,
    filter: &str,
    sequence: u64,
) -> Result<Option<Written>, ApiError> {
    message(bus, stream, &json!({ "seq": sequence, "next_by_subj": filter })).await
}

async fn message(bus: &Bus, stream: &str, body: &Value) -> Result<Option<Written>, ApiError> {
    #[derive(Deserialize)]
    struct Answer {
        message: StoredMessage,
    }
    let verb = format!("STREAM.MSG.GET.{stream}");
    match api::<Answer>(bus, &verb, body).await {
        Ok(answer) => Written::from_api(answer.message)
            .map(Some)
            .map_err(|error| ApiError::NotUnderstood { verb, reason: error.to_string() }),
        Err(error) if error.code() == Some(ERR_NO_MESSAGE) => Ok(None),
        Err(error) => Err(error),
    }
}

/// One answer of a direct get: messages, and how many more match beyond what fits in one.
#[derive(Debug, Default)]
pub(crate) struct Direct {
    pub(crate) messages: Vec<Written>,
    pub(crate) pending: u64,
}

/// Why a direct get gave nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DirectError {
    /// More keys match than the server names at once: ask for fewer.
    #[error("read more than {DIRECT_RESULTS_MAX} keys at once")]
    TooMany,
    /// Anything else.
    #[error(transparent)]
    Api(#[from] ApiError),
}

impl From<BadMessage> for DirectError {
    fn from(bad: BadMessage) -> Self {
        Self::Api(ApiError::NotUnderstood { verb: "DIRECT.GET".to_owned(), reason: bad.to_string() })
    }
}

/// A direct get whose answer is many messages. It may be answered by a replica that is behind: never to be
/// used for a decision about what stands now.
pub(crate) async fn direct(bus: &Bus, stream: &str, body: &Value) -> Result<Direct, DirectError> {
    let mut tries = 0;
    loop {
        match direct_once(bus, stream, body).await {
            // On a cluster nobody may answer for a moment: after the stream was made, and while it elects a leader.
            Err(DirectError::Api(ApiError::Ask(AskError::NobodyAnswers { .. })))
                if tries < ABSENT_TRIES_MAX =>
            {
                tries += 1;
                tokio::time::sleep(ABSENT_PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

async fn direct_once(bus: &Bus, stream: &str, body: &Value) -> Result<Direct, DirectError> {
    let subject = format!("$JS.API.DIRECT.GET.{stream}");
    let inbox = format!("{}.{}", subject::inbox_prefix(bus.me()), Uuid::new_v4().simple());
    let lost = || ApiError::Ask(AskError::Lost { subject: subject.clone() });
    let mut answers = bus.client().subscribe(inbox.clone()).await.map_err(|_| lost())?;
    let refused = bus.refused(&subject);
    tokio::pin!(refused);
    let mut losses = bus.losses();
    let payload = serde_json::to_vec(body).expect("a request of plain JSON types serialises");
    bus.send(&subject, Some(&inbox), HeaderMap::new(), payload.into())
        .await
        .map_err(|error| ApiError::Ask(AskError::NotSent(error)))?;
    let mut got = Direct::default();
    let limit = Duration::from_secs(ANSWER_SECONDS_MAX);
    loop {
        let message = tokio::select! {
            message = tokio::time::timeout(limit, answers.next()) => match message {
                Ok(message) => message.ok_or_else(lost)?,
                Err(_) => return Err(ApiError::Ask(AskError::TimedOut { subject, seconds: ANSWER_SECONDS_MAX }).into()),
            },
            () = &mut refused => return Err(ApiError::Ask(AskError::Refused { subject }).into()),
            _ = losses.changed() => return Err(lost().into()),
        };
        match message.status.map(|status| status.as_u16()) {
            None => got.messages.push(Written::from_direct(message)?),
            Some(204) => {
                let headers = message.headers.unwrap_or_default();
                got.pending = number(&headers, "Nats-Num-Pending").unwrap_or(0);
                return Ok(got);
            }
            Some(404) => return Ok(got),
            Some(413) => return Err(DirectError::TooMany),
            Some(503) => return Err(ApiError::Ask(AskError::NobodyAnswers { subject }).into()),
            Some(code) => {
                let description = message.description.unwrap_or_default();
                let verb = format!("DIRECT.GET.{stream}");
                return Err(ApiError::Answer { verb, code: code.into(), description }.into());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_in_an_answer_is_an_error() {
        let answer = br#"{"error":{"code":400,"err_code":10071,"description":"wrong last sequence: 7"}}"#;
        let error = parse_answer::<Value>("X", answer).unwrap_err();
        assert_eq!(error.code(), Some(ERR_WRONG_LAST));
        assert_eq!(error.to_string(), "X: wrong last sequence: 7 (JetStream error 10071)");
        assert!(matches!(parse_answer::<Value>("X", b"-ERR"), Err(ApiError::NotUnderstood { .. })));
        assert_eq!(parse_answer::<Value>("X", br#"{"seq":1}"#).unwrap(), json!({ "seq": 1 }));
    }
}
