//! The actuator: plans what is asked for, has it approved, carries it out once, and proves what it did.
//!
//! What may be done and how is decided in `nhi-decide`; the calls of Proxmox go through `nhi_pve::Operator`, the only
//! holder of the token that may write. Two actuators may run: both answer, one acts.

mod desk;

use self::desk::{Desk, Parts};
use crate::{
    judge::Bench,
    lab::Labs,
    rules::Rules,
    runner::{self, Runner},
    sweep,
};
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    plans::{PlansError, PlansView},
    service::{Limits, Running, Service, ServiceError, Spec},
    view::{View, ViewError},
};
pub use nhi_decide::next::Pace;

use nhi_model::{
    act::{
        ActApply, ActApprove, ActCancel, ActConfirm, ActFreeze, ActGet, ActHold, ActList, ActPlan, ActReject,
        ActRelease, ActRun, ActThaw, RunFrame,
    },
    call::Effect,
    fault::{Fault, FaultCode},
    intent::GuestRef,
};
use nhi_pve::{Endpoint, Operator, TrustError};
use std::{collections::BTreeMap, path::PathBuf, sync::Arc};
use tokio::sync::oneshot;
use uuid::Uuid;

/// One cluster or stand-alone host, with the token that may write.
#[derive(Clone, Debug)]
pub struct Cluster {
    /// Its name in the configuration and in keys.
    pub name: String,
    /// Where it is and with what token.
    pub endpoint: Endpoint,
}

/// What the actuator needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// The clusters it may act on.
    pub clusters: Vec<Cluster>,
    /// The directory of `identities.json`, usually `.nhi`.
    pub registry: PathBuf,
    /// `infrastructure/policy.toml`
    pub policy: PathBuf,
    /// Guests the mesh itself runs on, beside those it recognises.
    pub self_guests: Vec<GuestRef>,
    /// Numbers of new guests: the first and the last.
    pub vmid_range: (u32, u32),
    /// The `nhi` program, for rehearsals.
    pub program: PathBuf,
    /// How long things may take; [`Pace::REAL`] but in tests.
    pub pace: Pace,
}

/// A running actuator.
#[derive(Debug)]
pub struct Handle {
    service: Running,
}

impl Handle {
    /// Stops answering; what was asked before is still answered. Runs stop with their context, and go on with the
    /// next actuator.
    pub async fn stop(self) {
        self.service.stop().await;
    }
}

/// Why the actuator did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The state cannot be followed.
    #[error("follow the state for the actuator")]
    View(#[from] ViewError),
    /// Plans and runs cannot be followed.
    #[error("follow plans and runs")]
    Plans(#[from] PlansError),
    /// A cluster's certificates cannot be used.
    #[error("prepare to act on cluster {cluster}")]
    Trust {
        /// Which cluster.
        cluster: String,
        /// Why.
        source: TrustError,
    },
    /// The service cannot be offered.
    #[error("offer the actuator's service")]
    Service(#[from] ServiceError),
}

/// Starts the actuator: the service `act` and the loop that carries runs out.
///
/// # Errors
/// [`Error`]; what a cluster answers is never one.
pub async fn run(cx: &Cx, bus: Bus, options: Options) -> Result<Handle, Error> {
    let view = View::open(cx, &bus).await?;
    let plans = PlansView::open(cx, &bus).await?;
    let mut operators = BTreeMap::new();
    for Cluster { name, endpoint } in options.clusters.clone() {
        let operator =
            Operator::new(endpoint).map_err(|source| Error::Trust { cluster: name.clone(), source })?;
        operators.insert(name, operator);
    }
    let rules = Rules::follow(cx, &bus, view.clone(), options.policy.clone()).await;
    let operators = Arc::new(operators);
    let (pace, instance) = (options.pace, Uuid::new_v4().simple().to_string());
    let carrying = runner::Options { pace, ..runner::Options::real(instance) };
    let labs = Arc::new(Labs::new(view.clone()));
    let registry = options.registry.clone();
    let judge = Bench { labs: labs.clone(), plans: plans.clone(), rules: rules.clone(), registry }.judge();
    let runner =
        Runner::start(cx, bus.clone(), plans.clone(), view.clone(), operators.clone(), carrying, judge);
    sweep::start(cx, &bus, &plans);
    let parts = Parts { bus: bus.clone(), view, labs, plans, operators, rules, runner };
    let desk = Desk::open(cx, parts, options).await;
    let service = service(cx, &desk).start(cx, &bus).await?;
    Ok(Handle { service })
}

const fn spec(endpoint: &'static str, effect: Effect, description: &'static str) -> Spec {
    Spec { endpoint, effect, description, stream: false }
}

/// Adds endpoints whose handlers are the desk's methods of the same name. Each works in a task of its own: what was
/// begun is ended, also when the caller's deadline comes first.
macro_rules! endpoints {
    ($service:expr, $cx:expr, $desk:expr,
     $($name:literal $effect:ident $method:ident($request:ty) $text:literal),+ $(,)?) => {
        $service$(.endpoint(spec($name, Effect::$effect, $text), {
            let (cx, desk) = ($cx.clone(), $desk.clone());
            move |caller, request: $request| {
                let (cx, desk) = (cx.clone(), desk.clone());
                async move {
                    let (answer, answered) = oneshot::channel();
                    cx.spawn("act call", async move {
                        // Nobody waits for it any more when the deadline came first.
                        drop(answer.send(desk.$method(&caller, request).await));
                    });
                    answered.await.unwrap_or_else(|_| Err(stopping()))
                }
            }
        }))+
    };
}

fn stopping() -> Fault {
    Fault::new(FaultCode::Unavailable, "the actuator is stopping", "Look what became of it with act.list.")
}

fn service(cx: &Cx, desk: &Arc<Desk>) -> Service {
    let following = desk.clone();
    let service =
        Service::new("act", env!("CARGO_PKG_VERSION"), "Changes the lab: plan, approve, apply, undo.");
    let service = endpoints!(service, cx, desk,
        "plan" Write plan(ActPlan)
            "Say what is wanted and get a plan: steps, side effects, impact, undo, digest. Changes nothing. Start here.",
        "get" Read get(ActGet) "One plan and its run.",
        "list" Read list(ActList) "Plans, newest first, the freeze, and who holds which guest.",
        "apply" Danger apply(ActApply)
            "Carry out a plan by its digest, once. Returns the run at once; follow it with run.",
        "confirm" Danger confirm(ActConfirm) "Keep what a run did that would be taken back otherwise.",
        "cancel" Write cancel(ActCancel) "Take a plan back before it starts.",
        "hold" Write hold(ActHold) "Keep a guest for yourself for a while: others' plans for it are refused.",
        "release" Write release(ActRelease) "End a hold.",
        "approve" Danger approve(ActApprove) "Say yes to somebody else's plan, by its digest.",
        "reject" Write reject(ActReject) "Say no to a plan.",
        "freeze" Write freeze(ActFreeze) "Stop everything that has not started.",
        "thaw" Danger thaw(ActThaw) "End a freeze.",
    );
    let follow = Spec {
        endpoint: "run",
        effect: Effect::Write,
        description: "Follow a run: a frame for each thing that happens, until it ends.",
        stream: true,
    };
    service.limits(Limits::ORDINARY).streaming::<ActRun, RunFrame, _>(follow, move |_, request, frames| {
        let desk = following.clone();
        async move { desk.follow(request, frames).await }
    })
}
