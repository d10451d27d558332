//! The audit log: an append-only stream in which each entry carries the hash of the one before.
//!
//! The chain shows that an entry was changed, is missing or came from elsewhere. It does not show that entries were
//! cut off at the end: whoever wants that keeps the head [`verify`] tells. The stream refuses deletion and purge, and
//! the expected last sequence on every append makes forks impossible. No payloads, no secrets in `details`.

mod append;
mod chain;
mod read;
mod reading;

pub(crate) use self::append::End;
pub use self::{
    append::append,
    read::{Progress, export, list, show, verify, verify_with},
};

use crate::{
    store::{ApiError, api::DirectError},
    view::follow::Ended,
};
use nhi_model::audit::AuditKind;
use std::io;

/// How long one append goes on losing races against other writers.
const APPEND_SECONDS_MAX: u64 = 15;
/// Largest entry, bytes: ids and sizes need no more.
const ENTRY_BYTES_MAX: usize = 16 * 1024;

/// Why the audit log could not be written or read.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// Our own fault.
    #[error(
        "audit {kind:?}: the entry takes {bytes} bytes, {ENTRY_BYTES_MAX} are allowed; name ids, not contents"
    )]
    TooLarge {
        /// What happened.
        kind: AuditKind,
        /// Its size.
        bytes: usize,
    },
    /// Too many write at the same time.
    #[error("audit {kind:?}: others were faster for {APPEND_SECONDS_MAX} s")]
    Crowded {
        /// What happened.
        kind: AuditKind,
    },
    /// The entries could not be handed on.
    #[error("write the audit log out")]
    Output(#[source] io::Error),
    /// The delivery broke down time and again.
    #[error("read the audit log: {reason}")]
    Broken {
        /// What went wrong last.
        reason: String,
    },
    /// The server did not answer, or not as it should. An append may have been done.
    #[error("use the audit log")]
    Api(#[from] ApiError),
}

impl From<DirectError> for AuditError {
    fn from(error: DirectError) -> Self {
        match error {
            DirectError::Api(error) => Self::Api(error),
            DirectError::TooMany => Self::Api(ApiError::NotUnderstood {
                verb: "DIRECT.GET".to_owned(),
                reason: "it refuses a page of entries".to_owned(),
            }),
        }
    }
}

impl From<Ended> for AuditError {
    fn from(ended: Ended) -> Self {
        match ended {
            Ended::Api(error) => Self::Api(error),
            ended => Self::Broken { reason: ended.to_string() },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_and_why() {
        let error = AuditError::from(Ended::Silent);
        assert!(error.to_string().starts_with("read the audit log: the server has been silent"), "{error}");
    }
}
