//! What acting remembers: plans, runs, leases, holds, reserved numbers, the freeze and who acts, in a bucket of its
//! own. Everything that is to be true together is written together, bound to the revisions it was decided on.
//!
//! It knows how a row is stored, not what one means. Only the actuator may write here; others follow the feed.

mod commit;
mod snapshot;
mod value;
mod view;

pub use self::{
    commit::{PlansChange, VALUE_BYTES_MAX, commit},
    snapshot::PlansSnapshot,
    view::PlansView,
};

use crate::{
    connect::Bus,
    store::{
        ApiError, AskError,
        api::{api, last_of},
    },
    view::watched::{OPEN_SECONDS_MAX, OpenError},
};
use nhi_model::{
    Timestamp,
    envelope::OpId,
    plans::PlansKey,
    subject::{self, PLANS_BUCKET},
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, IgnoredAny},
};
use serde_json::json;
use uuid::Uuid;

/// One row as it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row<T> {
    /// Revision of its last write: what a change of it must expect.
    pub revision: u64,
    /// When that was, UTC, as the writer has it.
    pub at: Timestamp,
    /// The row itself.
    pub value: T,
}

/// Why plans could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum PlansError {
    /// The row moved since the decision. Nothing was written; look again.
    #[error("write {key}: it was expected at revision {expected} and stands at {found}; decide again")]
    Conflict {
        /// The first such row.
        key: PlansKey,
        /// The revision the decision was made on.
        expected: u64,
        /// The revision that stands there; 0 when there is nothing.
        found: u64,
    },
    /// Our own fault. Nothing was written.
    #[error("write {key}: it is changed twice in one commit")]
    Twice {
        /// The row.
        key: PlansKey,
    },
    /// Our own fault. Nothing was written.
    #[error("write {key}: it is to be removed and expected not to be there")]
    RemovesNothing {
        /// The row.
        key: PlansKey,
    },
    /// Our own fault: what is bound together must fit in one atomic batch. Nothing was written.
    #[error("write {rows} rows with {bytes} bytes at once: one commit takes 1000 rows and 16 MB")]
    TooMany {
        /// How many.
        rows: usize,
        /// Of how many bytes together.
        bytes: usize,
    },
    /// Nothing was written.
    #[error("write {key}: its value takes {bytes} bytes, {VALUE_BYTES_MAX} are allowed")]
    TooLarge {
        /// The row.
        key: PlansKey,
        /// Its size.
        bytes: usize,
    },
    /// This identity is not the actuator. Nothing was written.
    #[error("write to {subject}: the server refuses it; only the actuator may")]
    Refused {
        /// The subject.
        subject: String,
    },
    /// The link was down before anything was sent. Nothing was written.
    #[error("write to {PLANS_BUCKET}: the mesh is not connected; nothing is acted on until it is")]
    Disconnected,
    /// The server says no for a reason of its own (disk full, limits). Nothing was written.
    #[error("write to {PLANS_BUCKET}")]
    Store(#[source] ApiError),
    /// It may have been written, and may still be. Reading the rows afterwards tells.
    #[error("learn whether write {} to {PLANS_BUCKET} was done; look again when the mesh answers", op.0)]
    Unknown {
        /// Id of the write.
        op: OpId,
        /// What went wrong last.
        source: ApiError,
    },
    /// What stands there is foreign or was written by a newer program.
    #[error("read {key}: {reason}")]
    Unreadable {
        /// The row.
        key: PlansKey,
        /// What is wrong with it.
        reason: String,
    },
    /// The server does not answer, or not as it should.
    #[error("read {PLANS_BUCKET}")]
    Api(#[from] ApiError),
    /// Nothing whole arrived in time.
    #[error("read {PLANS_BUCKET} within {OPEN_SECONDS_MAX} s: {reason}")]
    TimedOut {
        /// What went wrong last.
        reason: String,
    },
}

impl PlansError {
    /// Whether somebody else was faster: look again, decide again.
    pub const fn is_conflict(&self) -> bool {
        matches!(self, Self::Conflict { .. })
    }

    /// Whether what was to be written may be there all the same.
    pub const fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown { .. })
    }
}

impl From<OpenError> for PlansError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::Api(error) => Self::Api(error),
            OpenError::TimedOut { reason } => Self::TimedOut { reason },
        }
    }
}

/// The stream behind the bucket.
fn stream() -> String {
    subject::bucket_stream(PLANS_BUCKET)
}

/// One row as the leader has it: what a decision may rely on. `None` when there is none, or it was removed.
///
/// # Errors
/// [`PlansError`], also when what stands there cannot be read.
pub async fn get<T: DeserializeOwned>(bus: &Bus, key: &PlansKey) -> Result<Option<Row<T>>, PlansError> {
    match last_of(bus, &stream(), &subject::plans(key)).await? {
        Some(written) if !written.is_delete() => value::read(&written)
            .map(Some)
            .map_err(|reason| PlansError::Unreadable { key: key.clone(), reason }),
        Some(_) | None => Ok(None),
    }
}

/// Forgets a row that is over: it is removed, so that everybody who follows hears of it, and then everything it ever
/// was is purged. What stays is its delete marker. The audit log keeps what happened.
///
/// # Errors
/// [`PlansError`], a conflict too when somebody writes it at the same time.
pub async fn forget(bus: &Bus, key: &PlansKey) -> Result<(), PlansError> {
    let subject = subject::plans(key);
    let last = last_of(bus, &stream(), &subject).await?;
    let Some(last) = last else { return Ok(()) };
    if !last.is_delete() {
        let op = OpId(Uuid::new_v4().simple().to_string());
        let remove = PlansChange::remove(key.clone(), last.sequence);
        commit(bus, &op, Timestamp::now(), &[remove]).await?;
    }
    let verb = format!("STREAM.PURGE.{}", stream());
    let purged: Result<Purged, ApiError> = api(bus, &verb, &json!({ "filter": subject, "keep": 1 })).await;
    match purged {
        Ok(Purged { .. }) => Ok(()),
        Err(ApiError::Ask(AskError::Refused { subject })) => Err(PlansError::Refused { subject }),
        Err(error) => Err(PlansError::Api(error)),
    }
}

#[derive(Deserialize)]
struct Purged {
    #[serde(rename = "success")]
    _success: IgnoredAny,
}
