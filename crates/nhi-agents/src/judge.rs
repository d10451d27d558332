//! What is said of a run that waits, at the moment at which it could start: by today's policy, today's identities, today's
//! approvals and today's clock. It starts, ends and writes nothing; the runner does.

use crate::{
    lab::Labs,
    rules::Rules,
    runner::{Judge, Word},
};
use jiff::SignedDuration;
use nhi_bus::{
    plans::{PlansSnapshot, PlansView},
    registry,
};
use nhi_decide::gate::{self, Recent, Start};
use nhi_model::{
    Timestamp,
    fault::{Fault, FaultCode},
    identity::{IdentityName, Role},
    intent::Operation,
    plan::{Approval, PlanRecord},
    refusal::{Refusal, RefusalCode},
    run::{Run, RunId},
};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

/// What it is judged by.
pub(crate) struct Bench {
    pub(crate) labs: Arc<Labs>,
    pub(crate) plans: PlansView,
    pub(crate) rules: Rules,
    /// The directory of `identities.json`.
    pub(crate) registry: PathBuf,
}

impl Bench {
    /// As the runner asks it.
    pub(crate) fn judge(self) -> Judge {
        let bench = Arc::new(self);
        Arc::new(move |record, run| {
            let bench = bench.clone();
            Box::pin(async move { bench.word(record, &run).await })
        })
    }

    async fn word(&self, mut record: PlanRecord, run: &Run) -> Result<Word, Fault> {
        // What nobody called off is taken back whoever is there still: it was said yes to with the run it belongs to.
        let is_take_back = record.request.is_none();
        let (mut roles, mut lost) = ([Role::Owner; 2], Vec::new());
        if !is_take_back {
            for (place, name) in roles.iter_mut().zip([&run.by, &record.plan.by]) {
                match role(&self.registry, name).await? {
                    Some(role) => *place = role,
                    None => return Ok(Word::Never(nobody(name))),
                }
            }
            (record.approvals, lost) = standing(&self.registry, record.approvals).await?;
        }
        let [role, asker] = roles;
        let (kept, policy) = (self.plans.read(), self.rules.now()?);
        if let Some(stale) = &kept.stale {
            return Err(unavailable(format!("plans and runs are not current: {}", stale.reason)));
        }
        let lab = self.labs.now();
        let lab = lab.map_err(|why| unavailable(format!("the state of the lab is not current: {why}")))?;
        let now = Timestamp::now();
        let recent = recent(&kept, &record.plan.by, now, Some(&run.id));
        let input = gate::Input {
            now,
            plan: &record.plan,
            policy: &policy,
            graph: lab.graph(),
            known: &lab.known,
            role: asker,
            // What is stopped waits; it does not end.
            frozen: None,
            recent: &recent,
            rehearsed: record.rehearsal.is_some(),
        };
        if is_take_back {
            return Ok(gate::harmless(&input).map_or_else(Word::Never, |()| Word::Start));
        }
        let wish = Start { record: &record, by: &run.by, role, applied_at: run.at, input };
        Ok(match gate::may_start(&wish) {
            Ok(gate) => match gate.not_before.filter(|moment| *moment > now) {
                Some(moment) => Word::NotBefore(moment),
                None => Word::Start,
            },
            Err(refusal) => Word::Never(told(refusal, &lost)),
        })
    }
}

fn nobody(name: &IdentityName) -> Refusal {
    let message = format!("{name} is no longer among the identities of this mesh");
    Refusal::new(RefusalCode::Never, message, "Ask again as somebody who is.")
}

/// With who said yes and may not any more.
fn told(mut refusal: Refusal, lost: &[IdentityName]) -> Refusal {
    if refusal.code == RefusalCode::NeedsApproval && !lost.is_empty() {
        let lost: Vec<&str> = lost.iter().map(IdentityName::as_str).collect();
        refusal.message = format!("{} ({} may not approve any more)", refusal.message, lost.join(", "));
    }
    refusal
}

/// Who somebody is now; `None` when nobody of that name is among the identities of this mesh.
///
/// # Errors
/// When that cannot be read.
pub(crate) async fn role(dir: &Path, name: &IdentityName) -> Result<Option<Role>, Fault> {
    let (dir, asked) = (dir.to_owned(), name.clone());
    match tokio::task::spawn_blocking(move || registry::role_of(&dir, &asked)).await {
        Ok(Ok(role)) => Ok(role),
        Ok(Err(error)) => {
            tracing::warn!(agent = "act", err = %error, "identities not read");
            Err(unavailable("the identities of this mesh cannot be read now".to_owned()))
        }
        Err(error) => {
            tracing::error!(agent = "act", err = %error, "identities not read");
            Err(Fault::new(FaultCode::Internal, "the identities cannot be read", "See the log of nhi."))
        }
    }
}

/// The approvals of those who may still give one, and who of the others did: a yes counts as long as who said it may
/// say it.
///
/// # Errors
/// When that cannot be read.
pub(crate) async fn standing(
    dir: &Path,
    approvals: Vec<Approval>,
) -> Result<(Vec<Approval>, Vec<IdentityName>), Fault> {
    let (mut standing, mut lost) = (Vec::new(), Vec::new());
    for approval in approvals {
        match role(dir, &approval.by).await? {
            Some(Role::Operator | Role::Owner) => standing.push(approval),
            Some(Role::Viewer | Role::Agent | Role::Edge | Role::Service) | None => lost.push(approval.by),
        }
    }
    Ok((standing, lost))
}

/// What somebody's runs, and everybody's, did lately, but for one. How many plans somebody asked for the desk knows.
pub(crate) fn recent(
    kept: &PlansSnapshot,
    by: &IdentityName,
    now: Timestamp,
    except: Option<&RunId>,
) -> Recent {
    let since = |hours: i64| now - SignedDuration::from_hours(hours);
    let runs = || kept.runs.values().map(|row| &row.value).filter(|run| except != Some(&run.id));
    let mine = || runs().filter(|run| run.by == *by);
    let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    // What waited was destroyed when its run ended, not when that was applied.
    let counts = |run: &&Run| run.ended_at.unwrap_or(run.at) > since(24) || !run.state.is_over();
    let destroys = runs().filter(counts).map(|run| {
        let plan = kept.plans.get(&run.plan);
        plan.map_or(0, |row| {
            row.value.plan.steps.iter().filter(|step| step.operation == Operation::Destroy).count()
        })
    });
    Recent {
        plans_last_minute: 0,
        applies_last_hour: count(mine().filter(|run| run.at > since(1)).count()),
        running: count(mine().filter(|run| !run.state.is_over()).count()),
        destroys_last_day: count(destroys.sum()),
    }
}

/// Something that is needed is missing now.
pub(crate) fn unavailable(message: String) -> Fault {
    Fault::new(
        FaultCode::Unavailable,
        message,
        "Ask again in a few seconds; `nhi status` shows what is missing.",
    )
}
