//! Whether the process lives and whether it can serve. It needs no credential and tells no facts of the lab.

use crate::reply;
use axum::{http::StatusCode, response::Response};
use nhi_bus::{
    call::{CallError, Timeout, call_within},
    connect::{Bus, Link},
};
use nhi_model::call::{StateGet, StateGot};
use serde::Serialize;
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// How long an answer is repeated: anybody may ask, and asking costs the mesh a call.
const REPEATED: Duration = Duration::from_secs(1);
/// How long the state service may take: its answers take milliseconds.
const ANSWER_MAX: Duration = Duration::from_secs(2);

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Readiness {
    /// Whether requests can be served.
    ready: bool,
    /// The link to the mesh.
    bus: Check,
    /// The keeper of the state.
    state: Check,
}

/// One thing that readiness needs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    ok: bool,
    /// Why not, or what is noteworthy although it is.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl Check {
    const fn good() -> Self {
        Self { ok: true, reason: None }
    }

    fn bad(reason: impl Into<String>) -> Self {
        Self { ok: false, reason: Some(reason.into()) }
    }
}

/// Looks whether the mesh can serve, at most once a second.
#[derive(Debug)]
pub(crate) struct Health {
    own: Bus,
    last: Mutex<Option<(Instant, Readiness)>>,
    looking: Semaphore,
}

impl Health {
    pub(crate) fn new(own: Bus) -> Self {
        Self { own, last: Mutex::new(None), looking: Semaphore::new(1) }
    }

    /// The gateway's own connection.
    pub(crate) const fn bus(&self) -> &Bus {
        &self.own
    }

    /// Whether the own link is up.
    pub(crate) fn is_linked(&self) -> bool {
        self.own.is_up()
    }

    /// The answer of `/readyz`.
    pub(crate) async fn ready(&self) -> Response {
        let readiness = self.look().await;
        let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        reply::json(status, serde_json::to_vec(&readiness).expect("it is two flags and two texts"))
    }

    async fn look(&self) -> Readiness {
        if let Some(readiness) = self.remembered() {
            return readiness;
        }
        let _turn = self.looking.acquire().await.expect("the semaphore is never closed");
        if let Some(readiness) = self.remembered() {
            return readiness;
        }
        let at = Instant::now();
        let (bus, state) = (self.check_bus(), self.check_state().await);
        let readiness = Readiness { ready: bus.ok && state.ok, bus, state };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((at, readiness.clone()));
        readiness
    }

    fn remembered(&self) -> Option<Readiness> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().filter(|(at, _)| at.elapsed() < REPEATED).map(|(_, readiness)| readiness.clone())
    }

    fn check_bus(&self) -> Check {
        match *self.own.link().borrow() {
            Link::Up => Check::good(),
            Link::Down { since } => Check::bad(format!("not connected to nats-server since {since}")),
            Link::Revoked { since } => {
                Check::bad(format!("nats-server refuses the gateway's key since {since}"))
            }
            Link::Closed => Check::bad("the connection is closed: the gateway stops"),
        }
    }

    async fn check_state(&self) -> Check {
        if !self.own.is_up() {
            return Check::bad("cannot be asked without the bus");
        }
        match keeper(&self.own, ANSWER_MAX).await {
            Ok(got) => Check { ok: true, reason: got.stale.map(|stale| stale.reason) },
            Err(error) => Check::bad(error.to_string()),
        }
    }
}

/// What the keeper of the state says of itself, with as little of the state as can be asked for.
pub(crate) async fn keeper(bus: &Bus, within: Duration) -> Result<StateGot, CallError> {
    let question = StateGet { select: vec!["source".to_owned()], limit: Some(1), ..StateGet::default() };
    call_within(bus, "state", "get", &question, Timeout::of(within)).await
}
