//! The desk: takes what is asked of the actuator, writes down what was decided, and tells what became of it. It sends
//! nothing to Proxmox that changes anything; the runner does.

mod deciding;
mod making;
mod telling;
mod undoing;

use super::Options;
use crate::{
    judge::{self, unavailable},
    lab::{Lab, Labs},
    ourselves::Marks,
    rules::Rules,
    runner::Runner,
};
use nhi_bus::{
    audit,
    connect::Bus,
    cx::Cx,
    plans::{self, PlansChange, PlansError, PlansSnapshot, PlansView, Row},
    view::View,
};
use nhi_decide::{gate::Recent, resolve::Roster};
use nhi_model::{
    Timestamp,
    audit::AuditKind,
    envelope::OpId,
    fault::{Fault, FaultCode},
    identity::{IdentityName, Role},
    intent::GuestRef,
    key::Key,
    plan::{PlanId, PlanRecord},
    plans::PlansKey,
    refusal::{Refusal, RefusalCode},
    run::RunState,
};
use nhi_pve::Operator;
use serde::Serialize;
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};
use uuid::Uuid;

const MINUTE: Duration = Duration::from_secs(60);
/// How long an own write may take to come back through the view.
const SEEN_WITHIN: Duration = Duration::from_secs(2);

/// What the endpoints of `act` work with.
pub(super) struct Desk {
    bus: Bus,
    view: View,
    labs: Arc<Labs>,
    plans: PlansView,
    operators: Arc<BTreeMap<String, Operator>>,
    rules: Rules,
    runner: Runner,
    marks: Marks,
    options: Options,
    /// One plan is applied at a time: the next one counts it.
    applying: tokio::sync::Mutex<()>,
    /// When each caller asked for plans in the last minute, refused ones among them.
    asked: Mutex<BTreeMap<IdentityName, VecDeque<Instant>>>,
}

/// What the desk is made of.
pub(super) struct Parts {
    pub(super) bus: Bus,
    pub(super) view: View,
    pub(super) labs: Arc<Labs>,
    pub(super) plans: PlansView,
    pub(super) operators: Arc<BTreeMap<String, Operator>>,
    pub(super) rules: Rules,
    pub(super) runner: Runner,
}

impl Desk {
    /// Opens the desk, and starts taking back what is due.
    pub(super) async fn open(cx: &Cx, parts: Parts, options: Options) -> Arc<Self> {
        let Parts { bus, view, labs, plans, operators, rules, runner } = parts;
        let (configured, servers) = (options.self_guests.clone(), bus.urls().to_owned());
        let marks = tokio::task::spawn_blocking(move || Marks::read(configured, &servers)).await;
        let marks = marks.expect("reading what the system tells does not panic");
        let due = runner.due();
        let (applying, asked) = (tokio::sync::Mutex::default(), Mutex::default());
        let desk = Self { bus, view, labs, plans, operators, rules, runner, marks, options, applying, asked };
        let desk = Arc::new(desk);
        let (undoing, stop) = (desk.clone(), cx.clone());
        cx.spawn("undo", async move { undoing.take_back_what_is_due(due, &stop).await });
        desk
    }

    /// Everything that is known, as the planner takes it.
    fn lab(&self) -> Result<Arc<Lab>, Fault> {
        self.labs.now().map_err(|why| unavailable(format!("the state of the lab is not current: {why}")))
    }

    /// Plans and runs, when they are current.
    fn kept(&self) -> Result<Arc<PlansSnapshot>, Fault> {
        let kept = self.plans.read();
        match &kept.stale {
            Some(stale) => Err(unavailable(format!("plans and runs are not current: {}", stale.reason))),
            None => Ok(kept),
        }
    }

    /// A plan as it is now, from the leader.
    async fn record(&self, plan: &PlanId) -> Result<Row<PlanRecord>, Fault> {
        let found = plans::get::<PlanRecord>(&self.bus, &PlansKey::Plan(plan.clone())).await;
        found.map_err(|error| unkept(&error))?.ok_or_else(|| {
            let message = format!("there is no plan {plan}");
            Refusal::new(RefusalCode::Unknown, message, "act.list (nhi plan list) shows the plans.").fault()
        })
    }

    /// Who somebody is.
    async fn role(&self, name: &IdentityName) -> Result<Role, Fault> {
        let role = judge::role(&self.options.registry, name).await?;
        role.ok_or_else(|| {
            Fault::new(
                FaultCode::Forbidden,
                format!("{name} is not among the identities of this mesh"),
                "The owner adds identities with `nhi auth add`.",
            )
        })
    }

    /// Refuses to everybody else what an operator or the owner says. nats-server lets nobody else ask for it, unless its
    /// accounts are not those that are rendered now.
    async fn demand_person(&self, by: &IdentityName, asked: &str, plan: &PlanId) -> Result<(), Fault> {
        if matches!(self.role(by).await?, Role::Operator | Role::Owner) {
            return Ok(());
        }
        let message = format!("{by} is neither an operator nor the owner, and nobody else says that");
        let refusal = Refusal::new(RefusalCode::NoRights, message, "Ask one of them.");
        Err(self.refused(by, asked, about(plan, refusal)).await)
    }

    /// What somebody, and everybody, did lately.
    fn recent(&self, kept: &PlansSnapshot, by: &IdentityName, now: Timestamp) -> Recent {
        Recent { plans_last_minute: self.asked_lately(by), ..judge::recent(kept, by, now, None) }
    }

    fn asked_lately(&self, by: &IdentityName) -> u32 {
        let asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let count = asked.get(by).map_or(0, |times| times.iter().filter(|at| at.elapsed() < MINUTE).count());
        u32::try_from(count).unwrap_or(u32::MAX)
    }

    /// Notes that somebody asked for a plan; forgets what is older than a minute.
    fn note_asked(&self, by: &IdentityName) {
        let mut asked = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        for times in asked.values_mut() {
            times.retain(|at| at.elapsed() < MINUTE);
        }
        asked.retain(|_, times| !times.is_empty());
        asked.entry(by.clone()).or_default().push_back(Instant::now());
    }

    /// Writes down what happened. What cannot be written down does not happen: callers do this before the deed.
    async fn audit(
        &self,
        kind: AuditKind,
        by: &IdentityName,
        details: &[(&str, Value)],
    ) -> Result<(), Fault> {
        let details = details.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        match audit::append(&self.bus, kind, Some(by), details).await {
            Ok(_) => Ok(()),
            Err(error) => {
                tracing::error!(agent = "act", err = %error, "audit log not written, nothing is done");
                Err(unavailable("the audit log cannot be written, so nothing is done".to_owned()))
            }
        }
    }

    /// A refusal is an event too. It is told even when it cannot be written down.
    async fn refused(&self, by: &IdentityName, asked: &str, refusal: Refusal) -> Fault {
        let mut details = vec![("asked", asked.into()), ("code", refusal.code.as_str().into())];
        details.push(("message", refusal.message.chars().take(500).collect::<String>().into()));
        if let Some(guest) = &refusal.guest {
            details.push(("guest", guest.as_str().into()));
        }
        if let Some(plan) = refusal.details.get("plan") {
            details.push(("plan", plan.clone()));
        }
        tracing::info!(agent = "act", req = asked, err = refusal.code.as_str(), "refused");
        // One identity must not fill the log with what is refused anyway.
        if refusal.code != RefusalCode::Quota {
            let _told_in_the_log = self.audit(AuditKind::PlanRefused, by, &details).await;
        }
        refusal.fault()
    }

    /// One atomic write of records; a lost race is the caller's to try again. What is asked next sees it.
    async fn write(&self, changes: &[PlansChange]) -> Result<u64, Fault> {
        let op = OpId(Uuid::now_v7().to_string());
        let written = plans::commit(&self.bus, &op, Timestamp::now(), changes).await;
        let revision = written.map_err(|error| unkept(&error))?;
        // A view that lags is marked stale by itself, and says so to whoever asks.
        let _seen = tokio::time::timeout(SEEN_WITHIN, self.plans.reached(revision)).await;
        Ok(revision)
    }

    /// The one guest that is meant.
    fn guest(&self, reference: &GuestRef) -> Result<Key, Fault> {
        let lab = self.lab()?;
        Roster::of(&lab.known).one(reference).cloned().map_err(Refusal::fault)
    }
}

/// A refusal to do something with a plan names it, to the caller and in the audit log.
fn about(plan: &PlanId, refusal: Refusal) -> Refusal {
    refusal.with("plan", plan.as_str())
}

/// Puts a record, expecting a revision.
fn put(key: PlansKey, expected: u64, value: &impl Serialize) -> PlansChange {
    let value = serde_json::to_value(value).expect("our own records have text keys and serialise");
    PlansChange { key, expected, value: Some(value) }
}

fn unkept(error: &PlansError) -> Fault {
    match error {
        PlansError::Conflict { key, .. } => Fault::new(
            FaultCode::Conflict,
            format!("{key} was changed by somebody else at the same time"),
            "Look again, and repeat what you still want.",
        ),
        other => {
            tracing::warn!(agent = "act", err = %other, "plans not read or written");
            unavailable("plans and runs cannot be read or written now".to_owned())
        }
    }
}

/// Whether a run may still be taken back before anything happens.
const fn has_not_started(state: &RunState) -> bool {
    matches!(state, RunState::Waiting { .. })
}
