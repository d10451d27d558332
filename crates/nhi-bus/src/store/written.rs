//! A message as a bucket's stream keeps it, however it was read: by the leader's get, by direct get, or by a
//! consumer. It knows headers, not records.

use async_nats::{HeaderMap, HeaderValue};
use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use nhi_model::{
    Timestamp,
    envelope::OpId,
    header::{AT, BATCH_COUNT, OP},
};
use serde::Deserialize;

/// Says that a key was deleted (`DEL`), by the KV convention.
pub(crate) const OPERATION: &str = "KV-Operation";
/// The revision a write was bound to.
pub(crate) const EXPECTED_LAST: &str = "Nats-Expected-Last-Subject-Sequence";
/// Which atomic batch a message belongs to.
pub(crate) const BATCH_ID: &str = "Nats-Batch-Id";
/// Its place in the batch, from 1.
pub(crate) const BATCH_SEQUENCE: &str = "Nats-Batch-Sequence";
/// Marks the last message of a batch.
pub(crate) const BATCH_COMMIT: &str = "Nats-Batch-Commit";
/// One message of a stream.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) subject: String,
    pub(crate) sequence: u64,
    /// When the server stored it.
    pub(crate) time: Timestamp,
    pub(crate) headers: HeaderMap,
    pub(crate) payload: Bytes,
}

/// Where a message stands in its batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct InBatch {
    pub(crate) id: String,
    /// From 1.
    pub(crate) place: u64,
    pub(crate) is_last: bool,
    /// Of how many, where the writer said so.
    pub(crate) count: Option<u64>,
}

impl Written {
    /// Reads the answer of `STREAM.MSG.GET`.
    pub(crate) fn from_api(stored: StoredMessage) -> Result<Self, BadMessage> {
        let bad = |what| BadMessage { what };
        let decode = |text: &str| BASE64_STANDARD.decode(text).map_err(|_| bad("its base64"));
        let headers = match stored.hdrs {
            Some(text) => parse_headers(&decode(&text)?).ok_or_else(|| bad("its headers"))?,
            None => HeaderMap::new(),
        };
        let payload = stored.data.map_or(Ok(Vec::new()), |text| decode(&text))?;
        Ok(Self {
            subject: stored.subject,
            sequence: stored.seq,
            time: stored.time,
            headers,
            payload: payload.into(),
        })
    }

    /// Reads one message of a direct get's answer; the server adds where it came from as headers.
    pub(crate) fn from_direct(message: async_nats::Message) -> Result<Self, BadMessage> {
        let bad = |what| BadMessage { what };
        let headers = message.headers.unwrap_or_default();
        Ok(Self {
            subject: text(&headers, "Nats-Subject").ok_or_else(|| bad("Nats-Subject"))?.to_owned(),
            sequence: number(&headers, "Nats-Sequence").ok_or_else(|| bad("Nats-Sequence"))?,
            time: text(&headers, "Nats-Time-Stamp")
                .and_then(|t| t.parse().ok())
                .ok_or_else(|| bad("Nats-Time-Stamp"))?,
            headers,
            payload: message.payload,
        })
    }

    /// Whether it says that the key was deleted: by `KV-Operation`, or by a marker the server made.
    pub(crate) fn is_delete(&self) -> bool {
        let operation = text(&self.headers, OPERATION);
        matches!(operation, Some("DEL" | "PURGE")) || text(&self.headers, "Nats-Marker-Reason").is_some()
    }

    /// Its place in an atomic batch, when it came in one.
    pub(crate) fn in_batch(&self) -> Option<InBatch> {
        Some(InBatch {
            id: text(&self.headers, BATCH_ID)?.to_owned(),
            place: number(&self.headers, BATCH_SEQUENCE)?,
            is_last: text(&self.headers, BATCH_COMMIT).is_some(),
            count: number(&self.headers, BATCH_COUNT),
        })
    }

    /// Whether no message of the same commit follows it.
    pub(crate) fn ends_commit(&self) -> bool {
        self.in_batch().is_none_or(|batch| batch.is_last)
    }

    /// The revision the write was bound to.
    pub(crate) fn expected(&self) -> Option<u64> {
        number(&self.headers, EXPECTED_LAST)
    }

    /// Id of the write and commit time of a delete marker of ours.
    pub(crate) fn marker(&self) -> Option<(OpId, Timestamp)> {
        let op = OpId(text(&self.headers, OP)?.to_owned());
        Some((op, text(&self.headers, AT)?.parse().ok()?))
    }

    /// Id of the write, whether it wrote a record or retired one.
    pub(crate) fn op(&self) -> Option<OpId> {
        #[derive(Deserialize)]
        struct Envelope {
            op: OpId,
        }
        if self.is_delete() {
            return self.marker().map(|(op, _)| op);
        }
        serde_json::from_slice::<Envelope>(&self.payload).ok().map(|envelope| envelope.op)
    }

    /// Commit time as its writer wrote it, or else the server's.
    pub(crate) fn at(&self) -> Timestamp {
        #[derive(Deserialize)]
        struct Envelope {
            at: Timestamp,
        }
        let own = if self.is_delete() {
            self.marker().map(|(_, at)| at)
        } else {
            serde_json::from_slice::<Envelope>(&self.payload).ok().map(|envelope| envelope.at)
        };
        own.unwrap_or(self.time)
    }
}

/// A message as `STREAM.MSG.GET` answers it.
#[derive(Debug, Deserialize)]
pub(crate) struct StoredMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: Option<String>,
    #[serde(default)]
    data: Option<String>,
    time: Timestamp,
}

/// The server's answer lacks what the protocol promises.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a stored message came back without {what} in order; the server may be too old")]
pub(crate) struct BadMessage {
    pub(crate) what: &'static str,
}

/// A header's text.
pub(crate) fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).map(HeaderValue::as_str)
}

/// A header's number.
pub(crate) fn number(headers: &HeaderMap, name: &str) -> Option<u64> {
    text(headers, name)?.parse().ok()
}

/// Headers as they stand on the wire: a version line, then `Name: value` lines.
fn parse_headers(raw: &[u8]) -> Option<HeaderMap> {
    let mut lines = std::str::from_utf8(raw).ok()?.split("\r\n");
    lines.next().filter(|version| version.starts_with("NATS/1.0"))?;
    let mut headers = HeaderMap::new();
    for line in lines.filter(|line| !line.is_empty()) {
        let (name, value) = line.split_once(':')?;
        headers.append(name, value.trim_start());
    }
    Some(headers)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_read_from_the_wire_form() {
        let headers =
            parse_headers(b"NATS/1.0\r\nNats-Batch-Id: b1\r\nNats-Batch-Sequence:2\r\n\r\n").unwrap();
        assert_eq!(text(&headers, BATCH_ID), Some("b1"));
        assert_eq!(number(&headers, BATCH_SEQUENCE), Some(2));
        for bad in [&b"HTTP/1.1\r\n\r\n"[..], b"NATS/1.0\r\nno colon\r\n\r\n", b"\xff"] {
            assert!(parse_headers(bad).is_none(), "{bad:?}");
        }
    }

    #[test]
    fn op_and_time_come_from_the_value_or_the_marker() {
        let at: Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let server: Timestamp = "2027-01-01T00:00:00Z".parse().unwrap();
        let mut written = Written {
            subject: String::new(),
            sequence: 1,
            time: server,
            headers: HeaderMap::new(),
            payload: Bytes::from(format!(r#"{{"v":1,"op":"a","at":"{at}","record":1}}"#)),
        };
        assert_eq!((written.op(), written.at()), (Some(OpId("a".to_owned())), at));
        written.payload = Bytes::from_static(b"not json");
        assert_eq!((written.op(), written.at()), (None, server));
        for (name, value) in [(OPERATION, "DEL".to_owned()), (OP, "b".to_owned()), (AT, at.to_string())] {
            written.headers.insert(name, value);
        }
        assert_eq!((written.op(), written.at()), (Some(OpId("b".to_owned())), at));
    }
}
