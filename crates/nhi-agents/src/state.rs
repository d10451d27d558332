//! The keeper of the state: answers what the lab is and was, takes what machines report about themselves, and
//! answers for the audit log and the identities.
//!
//! It decides nothing about the lab: what was scanned is the scanner's. It writes hosts' own reports, people's words about
//! their GPUs and its own alerts, and nothing that somebody else wrote.

mod gpu;
mod keep;
mod people;
mod read;
mod report;

use self::{keep::Keeper, people::People, read::Reading};
use nhi_bus::{
    audit::{self, AuditError},
    connect::Bus,
    cx::Cx,
    service::{Running, Service, ServiceError, Spec},
    view::{LiveView, View, ViewError},
};
use nhi_model::{
    call::{
        AuditList, AuditVerify, AuthList, AuthWhoami, Effect, StateDiff, StateGet, StateHistory, StateReport,
    },
    fault::{Fault, FaultCode},
};
use std::{error::Error as _, path::PathBuf};

/// What the keeper needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The directory of `identities.json`, usually `.nhi`.
    pub registry: PathBuf,
}

/// A running keeper.
#[derive(Debug)]
pub struct Handle {
    services: Vec<Running>,
}

impl Handle {
    /// Stops answering; what was asked before is still answered.
    pub async fn stop(self) {
        for service in self.services {
            service.stop().await;
        }
    }
}

/// Why the keeper did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state cannot be followed.
    #[error("follow the state for its keeper")]
    View(#[from] ViewError),
    /// A service cannot be offered.
    #[error("offer the keeper's services")]
    Service(#[from] ServiceError),
}

/// Starts the keeper: the services `state`, `gpu`, `audit` and `auth`. When it returns, they answer.
///
/// # Errors
/// [`Error`] when the state cannot be followed or a service cannot be offered.
pub async fn run(cx: &Cx, bus: Bus, options: Options) -> Result<Handle, Error> {
    let view = View::open(cx, &bus).await?;
    let live = LiveView::open(cx, &bus).await?;
    let people = People { registry: options.registry };
    let keeper = keep::start(cx, &bus, &view, &live, &people);
    let reading = Reading { bus: bus.clone(), view, live };
    let mut services = Vec::new();
    for service in [
        state_service(&reading, &keeper),
        gpu::service(&reading, &keeper),
        audit_service(&bus),
        auth_service(&people),
    ] {
        services.push(service.start(cx, &bus).await?);
    }
    Ok(Handle { services })
}

const VERSION: &str = env!("CARGO_PKG_VERSION");

const fn spec(endpoint: &'static str, effect: Effect, description: &'static str) -> Spec {
    Spec { endpoint, effect, description, stream: false }
}

fn state_service(reading: &Reading, keeper: &Keeper) -> Service {
    let (get, diff, history) = (reading.clone(), reading.clone(), reading.clone());
    let keeper = keeper.clone();
    Service::new("state", VERSION, "What the lab is, was, and what changed.")
        .endpoint(
            spec(
                "get",
                Effect::Read,
                "Records of the lab by key, now or at a revision or time. Start here; select narrows it.",
            ),
            move |_, request: StateGet| {
                let reading = get.clone();
                async move { reading.get(&request).await }
            },
        )
        .endpoint(
            spec("diff", Effect::Read, "What changed between two moments, field by field."),
            move |_, request: StateDiff| {
                let reading = diff.clone();
                async move { reading.diff(request).await }
            },
        )
        .endpoint(
            spec("history", Effect::Read, "The versions of records, newest first."),
            move |_, request: StateHistory| {
                let reading = history.clone();
                async move { reading.history(&request).await }
            },
        )
        .endpoint(
            spec("report", Effect::Write, "What a machine tells about itself; the caller is the machine."),
            move |caller, request: StateReport| {
                let keeper = keeper.clone();
                async move { keeper.report(&caller.name, request).await }
            },
        )
}

fn audit_service(bus: &Bus) -> Service {
    let (list, verify) = (bus.clone(), bus.clone());
    Service::new("audit", VERSION, "Who did what to the mesh, chained so that a missing entry shows.")
        .endpoint(
            spec("list", Effect::Read, "Entries of the audit log, oldest first."),
            move |_, request: AuditList| {
                let bus = list.clone();
                async move { audit::list(&bus, &request).await.map_err(|error| unaudited(&error)) }
            },
        )
        .endpoint(
            spec("verify", Effect::Read, "Whether every entry of the audit log is there and unchanged."),
            move |_, _: AuditVerify| {
                let bus = verify.clone();
                async move { audit::verify(&bus).await.map_err(|error| unaudited(&error)) }
            },
        )
}

fn unaudited(error: &AuditError) -> Fault {
    tracing::warn!(agent = "state", err = %error, source = error.source().map(ToString::to_string), "audit log not read");
    Fault::new(FaultCode::Unavailable, "the audit log cannot be read now", "Ask again in a few seconds.")
}

fn auth_service(people: &People) -> Service {
    let (whoami, list) = (people.clone(), people.clone());
    Service::new("auth", VERSION, "Who is known to the mesh.")
        .endpoint(
            spec("whoami", Effect::Read, "The caller's own name, role and grants."),
            move |caller, _: AuthWhoami| {
                let people = whoami.clone();
                async move { people.whoami(&caller.name).await }
            },
        )
        .endpoint(
            spec("list", Effect::Read, "All identities with role, public key and grants."),
            move |_, _: AuthList| {
                let people = list.clone();
                async move { people.list().await }
            },
        )
}
