//! Why there is no connection, and why nothing was published: each cause with its remedy.

use super::{CONNECT_SECONDS_MAX, SERVER_FLOOR};
use async_nats::ConnectErrorKind;
use nhi_model::identity::IdentityName;
use std::{error::Error, io, path::PathBuf};

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be one.
    #[error("use server address {url:?}: {reason}; write it as nats://HOST:4222")]
    BadAddress {
        /// As given, without credentials.
        url: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The file with the authority's certificate cannot be used.
    #[error("read the mesh's CA certificate {}: {reason}; copy ca.pem from the machine that runs the mesh", path.display())]
    BadCa {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// The seed is not one.
    #[error("use the key of {me}: it is not an nkey user seed; make a new one with `nhi auth renew {me}`")]
    BadSeed {
        /// Whose.
        me: IdentityName,
    },
    /// Nobody listens.
    #[error(
        "connect to {urls}: nothing listens there; start the mesh with `nhi up` or give --nats another address"
    )]
    Refused {
        /// Where.
        urls: String,
    },
    /// The host has no address.
    #[error("connect to {urls}: the host name is not known; check it, or use an IP address")]
    UnknownHost {
        /// Where.
        urls: String,
    },
    /// The server did not answer.
    #[error(
        "connect to {urls}: no answer within {CONNECT_SECONDS_MAX} s; check that a firewall lets the port through"
    )]
    TimedOut {
        /// Where.
        urls: String,
    },
    /// The server does not know the key, or knows it no longer.
    #[error(
        "connect to {urls} as {me}: the server refuses this key; `nhi auth list` shows the keys it knows"
    )]
    WrongKey {
        /// Where.
        urls: String,
        /// As whom.
        me: IdentityName,
    },
    /// The server knows the key, as somebody else's.
    #[error(
        "connect to {urls} as {me}: this key is not {me}'s; use the name that belongs to the key, `nhi auth list` \
         shows whose it is"
    )]
    WrongName {
        /// Where.
        urls: String,
        /// As whom.
        me: IdentityName,
    },
    /// The encrypted connection failed.
    #[error("connect to {urls} with TLS: {reason}; check that the CA file is the one of this mesh")]
    Tls {
        /// Where.
        urls: String,
        /// What failed.
        reason: String,
    },
    /// The server is too old.
    #[error(
        "use nats-server {version} at {urls}: the mesh needs {}.{}.{} or newer; upgrade it, or let `nhi up` start its own",
        SERVER_FLOOR.0, SERVER_FLOOR.1, SERVER_FLOOR.2
    )]
    TooOld {
        /// Where.
        urls: String,
        /// What it says it is.
        version: String,
    },
    /// The server keeps nothing.
    #[error(
        "use JetStream at {urls} as {me}: {reason}; enable `jetstream` with a store_dir in the account HOME"
    )]
    NoJetStream {
        /// Where.
        urls: String,
        /// As whom.
        me: IdentityName,
        /// What it answered.
        reason: String,
    },
    /// The connection stands, but nothing comes back through it.
    #[error("hear an echo through {urls} as {me}: {reason}; check the permissions with `nhi doctor`")]
    NotReady {
        /// Where.
        urls: String,
        /// As whom.
        me: IdentityName,
        /// What happened instead.
        reason: String,
    },
    /// Anything else the network can do.
    #[error("connect to {urls}: {reason}")]
    Other {
        /// Where.
        urls: String,
        /// What failed.
        reason: String,
    },
}

/// Why nothing was published.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum PublishError {
    /// The link is down, so the message would be lost or delivered late.
    #[error("publish to {subject}: the mesh is not connected; try again when it is")]
    Disconnected {
        /// Where to.
        subject: String,
    },
    /// The message is larger than the server takes.
    #[error("publish to {subject}: {size} bytes are more than the {limit} the server takes")]
    TooLarge {
        /// Where to.
        subject: String,
        /// Size of headers and payload, bytes.
        size: usize,
        /// The server's limit, bytes.
        limit: usize,
    },
    /// The subject is none.
    #[error("publish to {subject:?}: it is not a subject")]
    BadSubject {
        /// Where to.
        subject: String,
    },
}

/// Finds the cause among the library's kinds and the causes below them.
pub(super) fn explain(error: &async_nats::ConnectError, urls: &str, me: &IdentityName) -> ConnectError {
    let urls = urls.to_owned();
    let causes = || std::iter::successors(error.source(), |cause: &&(dyn Error + 'static)| (*cause).source());
    let tls = causes().find_map(|cause| {
        let io = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        io.and_then(|inner| inner.downcast_ref::<rustls::Error>()).or_else(|| cause.downcast_ref())
    });
    if let Some(reason) = tls {
        return ConnectError::Tls { urls, reason: reason.to_string() };
    }
    let io_kind = causes().find_map(|cause| cause.downcast_ref::<io::Error>()).map(io::Error::kind);
    match (error.kind(), io_kind) {
        (ConnectErrorKind::AuthorizationViolation, _) => ConnectError::WrongKey { urls, me: me.clone() },
        (ConnectErrorKind::Authentication, _) => ConnectError::BadSeed { me: me.clone() },
        (ConnectErrorKind::Dns, _) => ConnectError::UnknownHost { urls },
        (ConnectErrorKind::TimedOut, _) | (_, Some(io::ErrorKind::TimedOut)) => {
            ConnectError::TimedOut { urls }
        }
        (_, Some(io::ErrorKind::ConnectionRefused)) => ConnectError::Refused { urls },
        (ConnectErrorKind::Tls, _) => ConnectError::Tls { urls, reason: error.to_string() },
        _ => ConnectError::Other { urls, reason: error.to_string() },
    }
}
