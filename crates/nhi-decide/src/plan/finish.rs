//! The finished plan: what is expected, how it is taken back, how long it holds, and its digest.

use super::{
    bounds,
    draft::{Draft, Undoing},
    seal::digest,
    world::Look,
};
use crate::{
    clean,
    fact::{Holds, holds},
    sight::{GuestSight, Sight, seen_of_record},
};
use jiff::SignedDuration;
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    fact::Fact,
    guest::Guest,
    key::Key,
    plan::{OnFailure, Plan, Undo},
    refusal::{Refusal, RefusalCode},
};
use serde::Deserialize;
use std::collections::BTreeMap;

/// Longest reason that is kept, characters.
const REASON_CHARS_MAX: usize = 1000;

impl Draft<'_> {
    pub(super) fn finish(mut self) -> Result<Plan, Refusal> {
        if self.steps.is_empty() {
            let why =
                if self.idle.is_empty() { "Nothing was asked for.".to_owned() } else { self.idle.join(" ") };
            return Err(Refusal::new(
                RefusalCode::NothingToDo,
                format!("there is nothing to do: {}", clean::text(&why, 1000)),
                "It is as it was asked for; look at the guest when you expected otherwise.",
            ));
        }
        let (undo, minutes) = self.undo()?;
        let on_failure = self.on_failure();
        let expects = self.expects();
        let policy = self.scene.policy;
        let minutes_valid = SignedDuration::from_mins(policy.approval.plan_minutes.into());
        let mut plan = Plan {
            v: SCHEMA_VERSION,
            id: self.request.id.clone(),
            cluster: self.cluster.to_owned(),
            intent: self.request.intent.clone(),
            by: self.request.by.clone(),
            reason: self.request.reason.as_deref().map(|text| clean::text(text, REASON_CHARS_MAX)),
            made_at: self.scene.now,
            expires_at: self.scene.now.checked_add(minutes_valid).unwrap_or(Timestamp::MAX),
            revision: self.scene.revision,
            reads: self.reads,
            targets: self.targets,
            requires: self.requires,
            steps: self.steps,
            expects,
            effects: self.effects,
            config_changes: self.changes,
            impacts: self.impacts,
            risk: self.risk,
            undo,
            on_failure,
            undo_unless_confirmed_minutes: minutes,
            digest: None,
        };
        // One wish may take several calls; what is said of a target is what is done to it.
        for target in &mut plan.targets {
            let own = plan.steps.iter().filter(|step| step.guest == target.guest);
            target.operations = own.map(|step| step.operation).collect();
        }
        plan.digest = Some(digest(&plan));
        Ok(plan)
    }

    /// How all of it is taken back, the last deed first; and when by itself.
    fn undo(&mut self) -> Result<(Undo, Option<u32>), Refusal> {
        let parts: Vec<Undoing> = self.undo.drain(..).rev().collect();
        let mut costs: Vec<String> = Vec::new();
        for part in &parts {
            if !costs.contains(&part.cost) {
                costs.push(part.cost.clone());
            }
        }
        let complete = parts.iter().all(|part| part.complete);
        let intents: Vec<_> = parts.into_iter().flat_map(|part| part.intents).collect();
        let undo = Undo { intents, complete, cost: clean::text(&costs.join(" "), 4000) };
        let minutes = self.dead_man(&undo)?;
        Ok((undo, minutes))
    }

    fn dead_man(&mut self, undo: &Undo) -> Result<Option<u32>, Refusal> {
        let asked = self.request.undo_unless_confirmed_minutes;
        if undo.intents.is_empty() {
            if asked.is_some() {
                return Err(Refusal::new(
                    RefusalCode::NotPossible,
                    format!("it could not be taken back unless confirmed: {}", undo.cost),
                    "Ask without undo_unless_confirmed_minutes.",
                ));
            }
            return Ok(None);
        }
        let rules = &self.scene.policy.caution.undo_unless_confirmed_minutes;
        let operations = self.targets.iter().flat_map(|target| &target.operations);
        let ruled = operations.filter_map(|operation| rules.get(operation)).min().copied();
        let minutes =
            asked.into_iter().chain(ruled.filter(|minutes| bounds::undo_minutes(*minutes).is_ok())).min();
        if let Some(minutes) = minutes {
            self.effect(format!(
                "It is taken back {minutes} minutes after it is done, unless somebody confirms it."
            ));
        }
        Ok(minutes)
    }

    fn on_failure(&mut self) -> OnFailure {
        if self.steps.len() == 1 && self.steps[0].compensation.is_none() {
            return OnFailure::Stop;
        }
        if self.steps.iter().any(|step| step.compensation.is_some()) {
            let what =
                "If a step fails, the rest is not done, and what can be taken back of what was done is.";
            self.effect(what.to_owned());
            OnFailure::Compensate
        } else {
            self.effect("If a step fails, the rest is not done, and what was done stays.".to_owned());
            OnFailure::Stop
        }
    }

    /// What the scanner's records must show at the end. Only what they can show is asked of them.
    fn expects(&self) -> Vec<Fact> {
        let mut out = Vec::new();
        for target in &self.targets {
            let guest = &target.guest;
            match self.world.look(guest) {
                Look::Gone => out.push(Fact::Gone { guest: guest.clone() }),
                Look::Seen(seen) => {
                    let mut facts = Vec::new();
                    if self.powered.contains(guest) {
                        facts.push(Fact::Status { guest: guest.clone(), status: seen.status });
                    }
                    facts.extend(self.shows.get(guest).into_iter().flatten().cloned());
                    facts.retain(|fact| self.can_be_shown(guest, fact));
                    if facts.is_empty() {
                        facts.push(Fact::Exists { guest: guest.clone() });
                    }
                    out.extend(facts);
                }
                Look::Unseen(_) | Look::NotLooked => {}
            }
        }
        out
    }

    /// Whether the records tell of such a thing at all: whether the guest's present one does.
    fn can_be_shown(&self, guest: &Key, fact: &Fact) -> bool {
        if self.born.contains(guest) {
            return true;
        }
        let record = self.lab.roster.get(guest).map(|row| Guest::deserialize(&row.known.record));
        let Some(Ok(record)) = record else { return true };
        let seen = GuestSight::Seen(Box::new(seen_of_record(record)));
        let mut sight = Sight::nothing(self.cluster.to_owned(), self.scene.now);
        sight.guests = BTreeMap::from([(guest.clone(), seen)]);
        !matches!(holds(fact, &sight), Holds::Unknown { .. }) || matches!(fact, Fact::BackupSince { .. })
    }
}
