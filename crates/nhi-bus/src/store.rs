//! The streams behind the mesh's memory: made, checked at each start, and written.
//!
//! Provisioning needs the `home` identity; [`commit`] and [`put_live`] need only the writer's own rights. Nothing
//! here decides what to write, and nothing here reads for others: see [`crate::view`] and [`crate::past`].
//!
//! Not checked here: `sync_interval: always`. It is a setting of the server, visible only to its system account,
//! which no identity of the mesh has; whoever starts the server renders it, see [`crate::server`].

pub(crate) mod api;
pub(crate) mod batch;
mod commit;
mod live;
mod streams;
pub(crate) mod written;

pub(crate) use self::batch::BATCH_MESSAGES_MAX;
pub use self::{
    api::{ApiError, AskError},
    batch::COMMIT_SECONDS_MAX,
    commit::{CommitError, Committed, VALUE_BYTES_MAX, commit},
    live::{LiveError, put_live},
    streams::Correction,
};

use self::{
    api::{ERR_NO_STREAM, StreamInfo, stream_info},
    streams::{Spec, Verdict},
};
use crate::{audit, connect::Bus, cx::Cx};
use nhi_model::{audit::AuditKind, subject};
use std::time::Duration;
use tokio::time::MissedTickBehavior;

/// Most copies nats-server makes of a stream.
const REPLICAS_MAX: u8 = 5;
const ERR_NOT_CLUSTERED: u64 = 10074;
const ERR_NO_PEERS: u64 = 10005;
/// How often the streams are looked at while nothing happens: three small questions.
const KEEP_SECONDS: u64 = 30;
/// First pause before provisioning is tried again after a reconnect.
const KEEP_RETRY_SECONDS_MIN: u64 = 1;
/// Longest pause between tries.
const KEEP_RETRY_SECONDS_MAX: u64 = 30;

/// What a mesh may choose about its streams.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreSettings {
    /// Copies of each stream: 1, or 3 on a cluster of three servers on three machines.
    pub replicas: u8,
}

/// What provisioning found or did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Provisioned {
    /// The stream.
    pub stream: String,
    /// What happened to it.
    pub outcome: Outcome,
}

/// What happened to a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there.
    Created,
    /// It was as it must be.
    Kept,
    /// Some of its settings were wrong and are right now.
    Corrected(Vec<Correction>),
}

/// Why a stream is not as it must be.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// No cluster has so many copies.
    #[error(
        "keep {replicas} copies of each stream: it must be 1 to 5; one server keeps 1, a cluster of three 3"
    )]
    BadReplicas {
        /// As given.
        replicas: u8,
    },
    /// There are fewer servers than copies.
    #[error(
        "keep {replicas} copies of stream {stream}: that needs a cluster of as many servers with JetStream, all up; \
         set replicas to 1 for a single server"
    )]
    TooFewServers {
        /// The stream.
        stream: String,
        /// As given.
        replicas: u8,
        /// What it answered.
        source: ApiError,
    },
    /// JetStream did not answer, or not as it should.
    #[error("provision stream {stream}")]
    Api {
        /// The stream.
        stream: String,
        /// What it answered.
        source: ApiError,
    },
    /// It exists and can never be what it must be.
    #[error(
        "use stream {stream}: its {field} is {found} and must be {wanted}, otherwise {meaning}; nothing was changed. \
         Save what it holds, remove it with `nats stream rm {stream}` as `home`, and start again"
    )]
    Wrong {
        /// The stream.
        stream: String,
        /// The setting.
        field: &'static str,
        /// What it is.
        found: String,
        /// What it must be.
        wanted: String,
        /// What goes wrong with it as it is.
        meaning: &'static str,
    },
    /// The server said yes, and did something else.
    #[error(
        "set {field} of stream {stream}: the server took {wanted} and kept {found}; it is too old or limits this \
         account: use nats-server 2.14.3 or newer"
    )]
    Ignored {
        /// The stream.
        stream: String,
        /// The setting.
        field: &'static str,
        /// What was asked for.
        wanted: String,
        /// What it is.
        found: String,
    },
}

/// Makes what is missing, corrects what can be corrected, refuses the rest. Idempotent. Needs the `home` identity.
///
/// # Errors
/// [`ProvisionError`]; streams before the failing one stay provisioned.
pub async fn provision(bus: &Bus, settings: &StoreSettings) -> Result<Vec<Provisioned>, ProvisionError> {
    let replicas = settings.replicas;
    if !(1..=REPLICAS_MAX).contains(&replicas) {
        return Err(ProvisionError::BadReplicas { replicas });
    }
    let mut done = Vec::new();
    for spec in streams::all(replicas) {
        let outcome = provision_one(bus, &spec).await.map_err(|error| match error {
            ProvisionError::Api { stream, source } if source.code().is_some_and(is_too_few) => {
                ProvisionError::TooFewServers { stream, replicas, source }
            }
            error => error,
        })?;
        match &outcome {
            Outcome::Kept => tracing::debug!(stream = spec.name, "stream is as it must be"),
            Outcome::Created => tracing::info!(stream = spec.name, "stream created"),
            Outcome::Corrected(corrections) => {
                for Correction { field, was, is } in corrections {
                    tracing::warn!(stream = spec.name, field, was, is, "stream setting corrected");
                }
            }
        }
        done.push(Provisioned { stream: spec.name, outcome });
    }
    Ok(done)
}

/// Provisions again after each reconnect and every 30 s, until `cx` stops: the gauges live in memory, and a server
/// that restarts comes back without their stream; and anybody with the `home` identity can delete any. Needs the
/// `home` identity; [`provision`] must have succeeded before.
pub fn keep(cx: &Cx, bus: &Bus, settings: StoreSettings) {
    keep_every(cx, bus, settings, Duration::from_secs(KEEP_SECONDS));
}

/// The same with another time between two looks.
pub fn keep_every(cx: &Cx, bus: &Bus, settings: StoreSettings, every: Duration) {
    let (stop, bus) = (cx.clone(), bus.clone());
    cx.spawn("streams", async move {
        let mut losses = bus.losses();
        let mut looks = tokio::time::interval(every);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut told = None;
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                lost = losses.changed() => if lost.is_err() { return },
                _ = looks.tick() => {}
            }
            tokio::select! {
                () = stop.cancelled() => return,
                () = provision_until_done(&bus, &settings, &mut told) => {}
            }
        }
    });
}

/// A failure is told once, until it is another one or over.
async fn provision_until_done(bus: &Bus, settings: &StoreSettings, told: &mut Option<String>) {
    let mut link = bus.link();
    let mut pause = KEEP_RETRY_SECONDS_MIN;
    loop {
        if link.wait_for(|link| link.is_up()).await.is_err() {
            return;
        }
        match provision(bus, settings).await {
            Ok(done) => {
                *told = None;
                return tell_of_lost(bus, &done).await;
            }
            Err(error) => {
                let text = error.to_string();
                if told.as_ref() != Some(&text) {
                    let source = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::warn!(err = text, source, "streams could not be checked");
                    *told = Some(text);
                }
            }
        }
        tokio::time::sleep(Duration::from_secs(pause)).await;
        pause = (pause * 2).min(KEEP_RETRY_SECONDS_MAX);
    }
}

/// A stream on disk that was gone took everything it held with it. The gauges' stream goes with every restart.
async fn tell_of_lost(bus: &Bus, done: &[Provisioned]) {
    let live = subject::bucket_stream(subject::LIVE_BUCKET);
    let lost = done.iter().filter(|one| one.outcome == Outcome::Created && one.stream != live);
    for Provisioned { stream, .. } in lost {
        tracing::error!(stream, "stream was gone with all it held, and was made anew");
        let details = [("stream".to_owned(), stream.as_str().into())].into();
        if let Err(error) = audit::append(bus, AuditKind::StoreChanged, None, details).await {
            tracing::warn!(err = %error, stream, "loss of the stream not written to the audit log");
        }
    }
}

/// The server's words for copies it has no place for: it is alone, or too few others are up.
const fn is_too_few(code: u64) -> bool {
    matches!(code, ERR_NOT_CLUSTERED | ERR_NO_PEERS)
}

async fn provision_one(bus: &Bus, spec: &Spec) -> Result<Outcome, ProvisionError> {
    let failed = |source| ProvisionError::Api { stream: spec.name.clone(), source };
    let info = match stream_info(bus, &spec.name).await {
        Ok(info) => info,
        Err(error) if error.code() == Some(ERR_NO_STREAM) => {
            let verb = format!("STREAM.CREATE.{}", spec.name);
            let created: StreamInfo = api::api(bus, &verb, &spec.config()).await.map_err(failed)?;
            accept(spec, &created)?;
            return Ok(Outcome::Created);
        }
        Err(error) => return Err(failed(error)),
    };
    match spec.judge(&info.config) {
        Verdict::Fine => Ok(Outcome::Kept),
        Verdict::Refuse { field, found, wanted, meaning } => {
            Err(ProvisionError::Wrong { stream: spec.name.clone(), field, found, wanted, meaning })
        }
        Verdict::Correct { config, corrections } => {
            let verb = format!("STREAM.UPDATE.{}", spec.name);
            let _updated: StreamInfo = api::api(bus, &verb, &config).await.map_err(failed)?;
            accept(spec, &stream_info(bus, &spec.name).await.map_err(failed)?)?;
            Ok(Outcome::Corrected(corrections))
        }
    }
}

/// Servers have accepted settings and silently dropped them; what counts is what they say afterwards.
fn accept(spec: &Spec, info: &StreamInfo) -> Result<(), ProvisionError> {
    let (field, found, wanted) = match spec.judge(&info.config) {
        Verdict::Fine => return Ok(()),
        Verdict::Refuse { field, found, wanted, .. } => (field, found, wanted),
        Verdict::Correct { corrections, .. } => {
            let first = corrections.into_iter().next().expect("a verdict to correct names a correction");
            (first.field, first.was, first.is)
        }
    };
    Err(ProvisionError::Ignored { stream: spec.name.clone(), field, wanted, found })
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_server_that_drops_a_setting_is_found_out() {
        let spec = &streams::all(1)[0];
        let mut config = spec.config();
        // nats-server 2.9 takes `allow_atomic`, and forgets it.
        config.remove("allow_atomic");
        let answer = json!({
            "config": config, "created": "2026-01-02T03:04:05Z",
            "state": { "messages": 0, "first_seq": 0, "last_seq": 0 },
        });
        let info: StreamInfo = serde_json::from_value(answer).unwrap();
        let refused = accept(spec, &info);
        assert!(matches!(refused, Err(ProvisionError::Ignored { field: "allow_atomic", .. })), "{refused:?}");
    }
}
