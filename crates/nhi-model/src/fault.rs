//! The error body of a call: `{"error":{"code","message","hint","details"}}`.

use crate::refusal::RefusalCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{collections::BTreeMap, fmt};

/// Stable error codes. Programs branch on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum FaultCode {
    /// The request does not have the endpoint's shape.
    BadRequest,
    /// The credential is unknown.
    Unauthorized,
    /// The caller may not do this.
    Forbidden,
    /// There is no such thing.
    NotFound,
    /// No backend has a model of this name.
    UnknownModel,
    /// The conversation fits into no model.
    ContextTooLong,
    /// The world moved; look again.
    Conflict,
    /// Older than what is kept.
    Expired,
    /// The request or the answer is larger than allowed.
    TooLarge,
    /// Too many requests.
    TooMany,
    /// Our own failure; the log has more.
    Internal,
    /// Something this needs is not reachable now.
    Unavailable,
    /// It took too long.
    Timeout,
}

impl FaultCode {
    /// The HTTP-like number in `Nats-Service-Error-Code`.
    pub const fn status(self) -> u16 {
        match self {
            Self::BadRequest | Self::ContextTooLong => 400,
            Self::Unauthorized => 401,
            Self::Forbidden => 403,
            Self::NotFound | Self::UnknownModel => 404,
            Self::Conflict => 409,
            Self::Expired => 410,
            Self::TooLarge => 413,
            Self::TooMany => 429,
            Self::Internal => 500,
            Self::Unavailable => 503,
            Self::Timeout => 504,
        }
    }

    /// The stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadRequest => "bad-request",
            Self::Unauthorized => "unauthorized",
            Self::Forbidden => "forbidden",
            Self::NotFound => "not-found",
            Self::UnknownModel => "unknown-model",
            Self::ContextTooLong => "context-too-long",
            Self::Conflict => "conflict",
            Self::Expired => "expired",
            Self::TooLarge => "too-large",
            Self::TooMany => "too-many",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::Timeout => "timeout",
        }
    }
}

/// What a caller is told when a call fails.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct Fault {
    /// Stable word. Kept as text, so that a caller can pass on codes it does not know.
    pub code: String,
    /// What went wrong, one sentence.
    pub message: String,
    /// What to do next, one sentence.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hint: String,
    /// Identifying values.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub details: BTreeMap<String, Value>,
}

/// The body around a [`Fault`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
pub struct FaultBody {
    /// The fault.
    pub error: Fault,
}

impl Fault {
    /// A fault with a message and a hint.
    pub fn new(code: FaultCode, message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            code: code.as_str().to_owned(),
            message: message.into(),
            hint: hint.into(),
            details: BTreeMap::new(),
        }
    }

    /// The same with one identifying value more.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.details.insert(name.to_owned(), value.into());
        self
    }

    /// The HTTP-like number of the code; 500 for a code this program does not know.
    pub fn status(&self) -> u16 {
        let code = Value::String(self.code.clone());
        match FaultCode::deserialize(&code) {
            Ok(known) => known.status(),
            Err(_) => RefusalCode::deserialize(&code).map_or(500, RefusalCode::status),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.hint.is_empty() {
            write!(f, " ({})", self.hint)?;
        }
        Ok(())
    }
}

impl std::error::Error for Fault {}
