//! How a plan comes about: the guests that matter are looked at live, the planner plans, the linter checks it without
//! trusting the planner, policy says what it needs, and only then is it kept. Nothing is sent that changes anything.

use super::{Desk, put, unavailable, unkept};
use crate::{
    lab::Lab,
    look::{self, Wanted},
    numbers::{self, Denied, Numbers},
    rehearse, turns,
};
use futures::{StreamExt as _, future, stream};
use nhi_bus::{
    plans::{self, PlansChange, PlansSnapshot, Row},
    service::Caller,
};
use nhi_decide::{
    gate::{self, Recent},
    guard, lint,
    plan::{Done, Moment, Needs, Past, PlanNeed, Prepared, Request, Scene},
    sight::Sight,
};
use nhi_model::{
    Timestamp,
    act::{ActPlan, ActPlanned},
    audit::AuditKind,
    call::At,
    envelope::OpId,
    fault::{Fault, FaultCode},
    identity::{IdentityName, Role},
    intent::{Intent, Operation},
    key::Key,
    plan::{Gate, Plan, PlanId, PlanRecord, PlanState, Rehearsal, Target, Verdict},
    plans::PlansKey,
    policy::Policy,
    refusal::{Refusal, RefusalCode},
    run::RunState,
};
use nhi_pve::Reader;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{collections::BTreeSet, pin::pin, sync::Arc};
use uuid::Uuid;

/// Longest reason that is kept, characters.
const REASON_CHARS_MAX: usize = 500;
/// Guests of a plan of which Proxmox is asked at a time what the token may do to them.
const TARGETS_IN_FLIGHT: usize = 8;
/// How long a number stays reserved beyond the plan: its run may begin at the last moment.
const RUN_MINUTES: i64 = 60;

/// What a plan is made of, beside what is seen live.
pub(super) struct Base {
    pub(super) now: Timestamp,
    lab: Arc<Lab>,
    pub(super) policy: Arc<Policy>,
    ourselves: BTreeSet<Key>,
    pub(super) kept: Arc<PlansSnapshot>,
}

/// Who asked for a plan, and how.
struct Asked<'a> {
    by: &'a IdentityName,
    role: Role,
    recent: &'a Recent,
    /// Whether a rehearsal was asked for.
    rehearse: bool,
}

impl Desk {
    /// `act.plan`
    pub(in crate::act) async fn plan(&self, caller: &Caller, request: ActPlan) -> Result<ActPlanned, Fault> {
        let by = &caller.name;
        // The same request has the same id, so that of two that come at once one is kept.
        let id = if caller.gave_id { id_of(by, &caller.request_id) } else { new_id() };
        let key = PlansKey::Plan(id.clone());
        let before = plans::get::<PlanRecord>(&self.bus, &key).await.map_err(|error| unkept(&error))?;
        if let Some(Row { value: record, .. }) = before {
            if record.plan.intent == request.intent {
                return Ok(planned(record));
            }
            let message = format!("this Nhi-Id was given with another intent before ({})", record.plan.id);
            return Err(Fault::new(FaultCode::Conflict, message, "Give each new request an id of its own."));
        }
        let asked = request.intent.as_str();
        match self.make(by, (id, OpId(caller.request_id.clone())), &request).await {
            Ok(record) => Ok(planned(record)),
            Err(Trouble::Refusal(refusal)) => Err(self.refused(by, asked, *refusal).await),
            Err(Trouble::Fault(fault)) => Err(fault),
        }
    }

    async fn make(
        &self,
        by: &IdentityName,
        (id, request_id): (PlanId, OpId),
        request: &ActPlan,
    ) -> Result<PlanRecord, Trouble> {
        let base = self.base()?;
        let role = self.role(by).await?;
        let recent = self.recent(&base.kept, by, base.now);
        // Before anything is asked of Proxmox, and for what is refused as well.
        let limit = base.policy.limits.plans_per_minute;
        if role == Role::Agent && recent.plans_last_minute >= limit {
            let message = format!("{by} asked for {limit} plans within a minute");
            return Err(Refusal::new(RefusalCode::Quota, message, "Wait a minute.").into());
        }
        self.note_asked(by);
        let (plan, sight) = self.make_with(by, id, request, &base).await?;
        let asked = Asked { by, role, recent: &recent, rehearse: request.rehearse };
        let (gate, rehearsal) = match self.judged(&plan, &sight, &asked, &base).await {
            Ok(judged) => judged,
            Err(trouble) => {
                self.let_go(&plan).await;
                return Err(trouble);
            }
        };
        let state = PlanState::Open {};
        let record =
            PlanRecord { plan, gate, state, approvals: Vec::new(), rehearsal, request: Some(request_id) };
        self.keep(by, &record, &[]).await?;
        Ok(record)
    }

    /// What policy, the linter and, where it is wanted, a rehearsal say of a plan.
    async fn judged(
        &self,
        plan: &Plan,
        sight: &Sight,
        asked: &Asked<'_>,
        base: &Base,
    ) -> Result<(Gate, Option<Rehearsal>), Trouble> {
        let mut input = gate::Input {
            now: base.now,
            plan,
            policy: &base.policy,
            graph: base.lab.graph(),
            known: &base.lab.known,
            role: asked.role,
            frozen: base.kept.freeze.as_ref().map(|row| &row.value),
            recent: asked.recent,
            rehearsed: false,
        };
        let gate = gate::gate(&input)?;
        self.check(plan, sight, asked.role, base)?;
        if let Some(refusal) = self.lacks_rights(plan).await {
            return Err(refusal.into());
        }
        if !asked.rehearse && !gate.rehearse {
            return Ok((gate, None));
        }
        let done = rehearse::rehearse(&self.options.program, plan, sight, &base.lab.known, base.now).await;
        let done = done.map_err(|error| {
            tracing::warn!(agent = "act", err = %error, "rehearsal failed");
            unavailable(format!("the plan could not be rehearsed: {error}"))
        })?;
        let id = plan.id.as_str();
        let details = [("plan", id.into()), ("as_expected", done.as_expected.into())];
        self.audit(AuditKind::PlanRehearsed, asked.by, &details).await?;
        if !done.as_expected {
            let message = format!("the rehearsal of {id} differs: {}", done.differences.join("; "));
            let hint = "Nothing was done. The differences say what the plan does not foresee.";
            let refusal = Refusal::new(RefusalCode::RehearsalDiffers, message, hint);
            return Err(refusal.with("differences", json!(done.differences)).into());
        }
        input.rehearsed = true;
        Ok((gate::gate(&input)?, Some(done)))
    }

    pub(super) fn base(&self) -> Result<Base, Fault> {
        let lab = self.lab()?;
        let ourselves = lab.ourselves(&self.marks).clone();
        let (policy, kept, now) = (self.rules.now()?, self.kept()?, Timestamp::now());
        Ok(Base { now, lab, policy, ourselves, kept })
    }

    /// Looks, plans and checks.
    pub(super) async fn make_with(
        &self,
        by: &IdentityName,
        id: PlanId,
        request: &ActPlan,
        base: &Base,
    ) -> Result<(Plan, Sight), Trouble> {
        let mut past = None;
        // What is found out about the whole lab stays with its records.
        let prepared = Prepared::of(&base.lab.known, &base.policy);
        let mut needs = prepared.needs(&request.intent, None)?;
        if needs.history.is_some() || needs.plan.is_some() {
            past = Some(self.past(&needs, base).await?);
            needs = prepared.needs(&request.intent, past.as_ref())?;
        }
        let vmids = self.reserve(&id, by, &needs, base).await?;
        let sight = match self.look(&needs, &vmids, base).await {
            Ok(sight) => sight,
            Err(trouble) => {
                numbers::let_go(&self.bus, &needs.cluster, &id, &vmids).await;
                return Err(trouble);
            }
        };
        let reason = request.reason.as_ref().map(|text| text.chars().take(REASON_CHARS_MAX).collect());
        let wanted = Request {
            id: id.clone(),
            by,
            intent: &request.intent,
            reason,
            vmids: &vmids,
            undo_unless_confirmed_minutes: request.undo_unless_confirmed_minutes,
        };
        let holds = turns::holds(&base.kept, &base.lab.known, base.now);
        let leases = turns::leases(&base.kept, &base.lab.known);
        let scene = Scene {
            now: base.now,
            revision: base.lab.revision,
            known: &base.lab.known,
            sight: &sight,
            policy: &base.policy,
            ourselves: &base.ourselves,
            holds: &holds,
            leases: &leases,
            past: past.as_ref(),
        };
        let made = prepared.plan(&wanted, &scene);
        let plan = match made {
            Ok(plan) => plan,
            Err(refusal) => {
                numbers::let_go(&self.bus, &needs.cluster, &id, &vmids).await;
                return Err(refusal.into());
            }
        };
        Ok((plan, sight))
    }

    /// The independent check. It comes after policy's verdict, which it derives again: a plan that policy refuses is no
    /// fault of the planner.
    pub(super) fn check(&self, plan: &Plan, sight: &Sight, role: Role, base: &Base) -> Result<(), Trouble> {
        let checked = lint::Scene {
            now: base.now,
            revision: base.lab.revision,
            known: &base.lab.known,
            sight,
            policy: &base.policy,
            ourselves: &base.ourselves,
            role,
        };
        let findings = lint::lint(plan, &checked);
        if findings.is_empty() {
            return Ok(());
        }
        tracing::error!(
            agent = "act",
            plan = plan.id.as_str(),
            err = findings.join("; "),
            "plan does not pass the linter"
        );
        let message = format!("the plan does not pass the independent check: {}", findings.join("; "));
        let hint = "Nothing was done. This is a mistake in Neural-Home: please report it with this message.";
        Err(Refusal::new(RefusalCode::Lint, message, hint).into())
    }

    /// Whether the actuator's token has no privilege at all for something the plan does to a guest that is there:
    /// Proxmox would refuse it after the first steps were done. What it has in part, Proxmox judges.
    async fn lacks_rights(&self, plan: &Plan) -> Option<Refusal> {
        let reader = self.operators.get(&plan.cluster)?.reader();
        let there = plan.targets.iter().filter(|target| target.identity.is_some());
        // The futures are made before they are streamed: made by the stream, they could not move between threads.
        let asked: Vec<_> = there.map(|target| lacks_rights_on(reader, target)).collect();
        let lacking = stream::iter(asked).buffered(TARGETS_IN_FLIGHT).filter_map(future::ready);
        pin!(lacking).next().await
    }

    /// What has to be remembered for a plan.
    async fn past(&self, needs: &Needs, base: &Base) -> Result<Past, Trouble> {
        let mut past = Past::default();
        if let Some(at) = needs.history {
            past.moment = Some(self.moment(at).await?);
        }
        if let Some(wanted) = &needs.plan {
            past.done = Some(done(wanted, &base.kept)?);
        }
        Ok(past)
    }

    async fn moment(&self, at: At) -> Result<Moment, Trouble> {
        let past = nhi_bus::past::state_at(&self.bus, at, &[]).await.map_err(|error| {
            Refusal::new(
                RefusalCode::Unknown,
                format!("the lab at that moment cannot be told: {error}"),
                "state.history shows how far back the records reach.",
            )
        })?;
        let records = past.records.iter().map(|(key, entry)| (key.clone(), entry.stored.record.clone()));
        let unknown = past.unknown.iter().cloned().collect();
        Ok(Moment { at, revision: past.revision, records: records.collect(), unknown })
    }

    /// Looks at what the plan depends on, and at the numbers of the guests it makes: nothing may be there.
    async fn look(&self, needs: &Needs, vmids: &[u32], base: &Base) -> Result<Sight, Trouble> {
        let Some(operator) = self.operators.get(&needs.cluster) else {
            let message = format!("no token that may act is configured for cluster {}", needs.cluster);
            let hint = "Set act_token_id and act_token_secret_env in nhi.toml; `nhi guard plan` prints how to make one.";
            return Err(Refusal::new(RefusalCode::NoRights, message, hint).into());
        };
        let node = |key: &Key| base.lab.known.get(key)?.record.get("node")?.as_str().map(str::to_owned);
        let made = needs.new_guests.iter().zip(vmids);
        let made = made.map(|(new, vmid)| Key::guest(new.kind, &needs.cluster, *vmid));
        let guests = needs.guests.iter().cloned().chain(made).map(|key| (key.clone(), node(&key)));
        let wanted = Wanted {
            guests: guests.collect(),
            snapshot_configs: needs.snapshot_configs.clone(),
            migrate: needs.migrate.clone(),
            // Only a destroy under that rule asks for them, and listing them is slow.
            backups: match base.policy.caution.backup_before_destroy_hours {
                Some(_) => needs.guests.clone(),
                None => BTreeSet::new(),
            },
            storages: needs.storages,
        };
        Ok(look::look(operator.reader(), &needs.cluster, &wanted, base.now).await)
    }

    /// Numbers for the guests a plan makes.
    async fn reserve(
        &self,
        id: &PlanId,
        by: &IdentityName,
        needs: &Needs,
        base: &Base,
    ) -> Result<Vec<u32>, Trouble> {
        let minutes = i64::from(base.policy.approval.plan_minutes) + RUN_MINUTES;
        let numbers = Numbers {
            bus: &self.bus,
            cluster: &needs.cluster,
            kept: &base.kept,
            known: &base.lab.known,
            range: self.options.vmid_range,
            now: base.now,
            until: base.now + jiff::SignedDuration::from_mins(minutes),
        };
        numbers.reserve(id, by, &needs.new_guests).await.map_err(|denied| match denied {
            Denied::Refusal(refusal) => refusal.into(),
            Denied::Plans(error) => Trouble::Fault(unkept(&error)),
        })
    }

    /// A plan that is not kept gives its numbers back. The same request, asked twice, may have kept it.
    pub(super) async fn let_go(&self, plan: &Plan) {
        numbers::let_go(&self.bus, &plan.cluster, &plan.id, &made(plan)).await;
    }

    /// Gives the numbers of the guests a plan would have made back.
    pub(super) async fn free_numbers(&self, plan: &Plan) {
        numbers::give_back(&self.bus, &plan.cluster, &plan.id, &made(plan)).await;
    }

    /// Writes a plan down, with what belongs to it.
    pub(super) async fn keep(
        &self,
        by: &IdentityName,
        record: &PlanRecord,
        more: &[PlansChange],
    ) -> Result<(), Fault> {
        let plan = &record.plan;
        let digest = plan.digest().as_str();
        let details = [
            ("plan", plan.id.as_str().into()),
            ("digest", digest.into()),
            ("intent", plan.intent.as_str().into()),
            ("guests", json!(plan.targets.iter().map(|target| target.guest.as_str()).collect::<Vec<_>>())),
            ("steps", plan.steps.len().into()),
        ];
        if let Err(fault) = self.audit(AuditKind::PlanMade, by, &details).await {
            self.let_go(plan).await;
            return Err(fault);
        }
        // What could not be written may be there all the same: its numbers stay, for the same request asked again.
        let mut changes = vec![put(PlansKey::Plan(plan.id.clone()), 0, record)];
        changes.extend_from_slice(more);
        self.write(&changes).await.map(drop)
    }
}

/// What the token lacks for what is done to one guest.
async fn lacks_rights_on(reader: &Reader, target: &Target) -> Option<Refusal> {
    // Not told is not missing.
    let path = format!("/vms/{}", target.vmid);
    let told = reader.permissions_on(&path).await.ok()?;
    let held = told.on(&path);
    let is_missing = |operation: &&Operation| {
        let taken = guard::privileges(**operation);
        !held.keys().any(|one| taken.iter().any(|taken| one.starts_with(taken)))
    };
    let operation = target.operations.iter().find(is_missing)?;
    let (name, needed) = (&target.name, guard::privileges(*operation).join(" or "));
    let message = format!("the actuator's token may not {operation} {name}: it lacks {needed}");
    let hint = "`nhi guard check` says what is missing, `nhi guard plan` how to grant it.";
    Some(Refusal::new(RefusalCode::NoRights, message, hint).about(&target.guest))
}

/// The numbers of the guests a plan makes.
fn made(plan: &Plan) -> Vec<u32> {
    plan.targets.iter().filter(|target| target.identity.is_none()).map(|target| target.vmid).collect()
}

/// The plan that is to be taken back, or whose shutdown is to be reversed.
fn done(wanted: &PlanNeed, kept: &PlansSnapshot) -> Result<Done, Refusal> {
    let run = |id: &PlanId| kept.runs.get(&id.run()).map(|row| &row.value);
    let is_done = |id: &PlanId| run(id).is_some_and(|run| matches!(run.state, RunState::Done { .. }));
    let found = match wanted {
        PlanNeed::Id(id) => kept.plans.get(id).map(|row| &row.value.plan),
        PlanNeed::LastLabDown => kept
            .plans
            .values()
            .map(|row| &row.value.plan)
            .filter(|plan| plan.intent == (Intent::LabDown {}) && is_done(&plan.id))
            .max_by_key(|plan| plan.made_at),
    };
    let plan = found.ok_or_else(|| {
        let message = match wanted {
            PlanNeed::Id(id) => format!("there is no plan {id}"),
            PlanNeed::LastLabDown => "no plan that shut the lab down was carried out".to_owned(),
        };
        Refusal::new(RefusalCode::Unknown, message, "act.list shows the plans.")
    })?;
    Ok(Done { plan: plan.clone(), run: run(&plan.id).cloned() })
}

/// Why there is no plan.
pub(super) enum Trouble {
    /// It must not or cannot be.
    Refusal(Box<Refusal>),
    /// Something needed for it is missing now.
    Fault(Fault),
}

impl From<Refusal> for Trouble {
    fn from(refusal: Refusal) -> Self {
        Self::Refusal(Box::new(refusal))
    }
}

impl From<Fault> for Trouble {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// A fresh id.
pub(super) fn new_id() -> PlanId {
    id_from(Uuid::new_v4().as_u128())
}

/// The id of one identity's request: the same for the same.
fn id_of(by: &IdentityName, request: &str) -> PlanId {
    let hash = Sha256::digest(format!("{by}/{request}"));
    let bytes = hash.first_chunk().expect("SHA-256 has 32 bytes");
    id_from(u128::from_be_bytes(*bytes))
}

/// Twelve of `[a-z0-9]`, 62 bits.
fn id_from(mut number: u128) -> PlanId {
    const DIGITS: &[u8; 36] = b"0123456789abcdefghijklmnopqrstuvwxyz";
    let mut text = "p-".to_owned();
    for _ in 0..12 {
        let digit = usize::try_from(number % 36).expect("less than 36");
        text.push(char::from(DIGITS[digit]));
        number /= 36;
    }
    PlanId::parse(&text).expect("twelve of the alphabet are an id")
}

fn planned(record: PlanRecord) -> ActPlanned {
    let plan = &record.plan;
    let (id, digest) = (&plan.id, plan.digest());
    let next = match record.gate.verdict {
        Verdict::Automatic => format!("apply it: act.apply with plan {id} and digest {digest}"),
        Verdict::Confirm => {
            format!("read it and apply it yourself: nhi plan apply {id} --digest {digest}")
        }
        Verdict::Approval => format!(
            "an operator has to approve it: nhi plan approve {id} --digest {digest}; then apply it with act.apply"
        ),
    };
    ActPlanned { record, next }
}
