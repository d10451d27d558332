//! What needs a guest: the check that nothing that runs is cut off, the impacts, and the shutdown of the whole lab.

use super::{
    draft::{Draft, Undoing},
    expand::cluster_of,
    refuse,
    wish::{Act, Deed},
    world::Look,
};
use crate::{
    clean,
    services::{Dependent, Dependents},
};
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    intent::{Intent, Operation},
    key::Key,
    plan::{Impact, ImpactCause},
    refusal::{Refusal, RefusalCode},
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Impacts a plan lists; beyond this only their number is said.
const IMPACTS_MAX: usize = 200;
/// Services a way to a guest names.
const CHAIN_MAX: usize = 8;

/// Whether something that needs a guest runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stand {
    /// It runs, or nobody can say that it does not.
    Up,
    /// It does not.
    Down(Option<GuestStatus>),
}

impl Draft<'_> {
    /// Refuses when something that runs needs the guest; else notes what is touched.
    pub(super) fn nothing_needs(&mut self, guest: &Key, operation: Operation) -> Result<(), Refusal> {
        let dependents = self.lab.services().dependents(guest, self.lab.roster);
        if dependents.rows.is_empty() {
            return Ok(());
        }
        self.graph_is_read();
        let mut running: BTreeSet<&Key> = BTreeSet::new();
        for key in dependents.guests() {
            self.reads(key);
            match self.stand(key) {
                Stand::Up => drop(running.insert(key)),
                Stand::Down(Some(status)) if !self.world.is_changed(key) => {
                    self.require(Fact::Status { guest: key.clone(), status });
                }
                Stand::Down(_) => {}
            }
        }
        if let Some(us) = running.iter().find(|key| self.scene.ourselves.contains(**key)) {
            let words = self.words(guest);
            let mut refusal = refuse::ourselves(&self.words(us), us);
            refusal.message = format!("{} needs {words}, and the mesh itself runs on it", self.words(us));
            return Err(refusal.about(guest));
        }
        if !running.is_empty() {
            return Err(self.dependents_run(guest, operation, &running, &dependents));
        }
        self.touches(guest, &dependents);
        Ok(())
    }

    /// Notes what needs the guest, where nothing of it is cut off.
    pub(super) fn is_noticed(&mut self, guest: &Key) {
        let dependents = self.lab.services().dependents(guest, self.lab.roster);
        if !dependents.rows.is_empty() {
            self.graph_is_read();
            self.touches(guest, &dependents);
        }
    }

    /// Notes that the plan relies on the dependency graph.
    fn graph_is_read(&mut self) {
        self.reads(&Key::graph());
        if let Some(why) = self.lab.services().stale {
            let why = clean::text(why, 300);
            self.effect(format!(
                "The dependency graph may be out of date, the last good one was used: {why}."
            ));
        }
    }

    fn stand(&self, guest: &Key) -> Stand {
        let of = |status| match status {
            GuestStatus::Running | GuestStatus::Paused | GuestStatus::Unknown => Stand::Up,
            GuestStatus::Stopped | GuestStatus::Suspended => Stand::Down(Some(status)),
        };
        match self.world.look(guest) {
            Look::Seen(seen) => of(seen.status),
            Look::Gone => Stand::Down(None),
            Look::Unseen(_) => Stand::Up,
            // A guest of another cluster, or one that nobody asked for: the record says what it can.
            Look::NotLooked => match self.lab.roster.get(guest) {
                Some(row) if row.known.stale.is_none() => match row.text("status") {
                    Some("stopped" | "suspended") => Stand::Down(None),
                    Some(_) | None => Stand::Up,
                },
                Some(_) => Stand::Up,
                None => Stand::Down(None),
            },
        }
    }

    fn dependents_run(
        &self,
        guest: &Key,
        operation: Operation,
        running: &BTreeSet<&Key>,
        dependents: &Dependents<'_, '_>,
    ) -> Refusal {
        let words: Vec<String> = running.iter().take(20).map(|key| self.words(key)).collect();
        let keys: Vec<Value> = running.iter().map(|key| key.as_str().into()).collect();
        let running_here =
            |dependent: &&Dependent<'_>| dependent.guests.iter().any(|key| running.contains(key));
        let shown = dependents.rows.iter().filter(running_here).take(50);
        let ways: Vec<Value> = shown.map(|it| way(dependents, it).into()).collect();
        let away = running.iter().any(|key| cluster_of(key) != self.cluster);
        let hint = match operation {
            Operation::Stop | Operation::Shutdown | Operation::Reboot if !away => {
                "Shut those down first, or ask with `with_dependents`, which does it in order."
            }
            Operation::Stop
            | Operation::Shutdown
            | Operation::Reboot
            | Operation::Start
            | Operation::Reset
            | Operation::Suspend
            | Operation::Resume
            | Operation::CreateVm
            | Operation::CreateLxc
            | Operation::Clone
            | Operation::Destroy
            | Operation::Snapshot
            | Operation::SnapshotDelete
            | Operation::Rollback
            | Operation::Migrate
            | Operation::Resize
            | Operation::Set
            | Operation::Backup => "Shut those down first, in a plan of its own or in the same `all`.",
        };
        let more = running.len().saturating_sub(words.len());
        let more = if more > 0 { format!(" and {more} more") } else { String::new() };
        let message = format!("{} is needed by {}{more}, which run", self.words(guest), words.join(", "));
        Refusal::new(RefusalCode::DependentsRunning, message, hint)
            .about(guest)
            .with("dependents", keys)
            .with("ways", ways)
    }

    fn touches(&mut self, guest: &Key, dependents: &Dependents<'_, '_>) {
        let words = self.words(guest);
        for dependent in &dependents.rows {
            // What is not listed is counted by nobody.
            if self.impacts.len() >= IMPACTS_MAX {
                self.many_are_touched();
                break;
            }
            let how = format!("{}, which {words} carries", way(dependents, dependent));
            if dependent.guests.is_empty() {
                let name = clean::text(dependent.service, 80);
                self.impact(Impact { name, guest: None, cause: ImpactCause::DependsOn, how: how.clone() });
            }
            for key in &dependent.guests {
                let name = self.words(key);
                let guest = Some((*key).clone());
                self.impact(Impact { name, guest, cause: ImpactCause::DependsOn, how: how.clone() });
            }
        }
    }

    /// Something that is touched, once; what the plan itself writes to is no impact.
    pub(super) fn impact(&mut self, impact: Impact) {
        let twice = |other: &Impact| other.name == impact.name && other.cause == impact.cause;
        if self.impacts.iter().any(twice) {
            return;
        }
        if self.impacts.len() < IMPACTS_MAX {
            self.impacts.push(impact);
        } else {
            self.many_are_touched();
        }
    }

    fn many_are_touched(&mut self) {
        self.effect(format!("More than {IMPACTS_MAX} services and guests are touched; not all are listed."));
    }

    /// Shuts the lab down, what needs others first. What has to stay stays, with all it needs.
    pub(super) fn lab_down(&mut self, order: &[Key]) -> Result<(), Refusal> {
        let up: Vec<&Key> = order.iter().filter(|key| self.stand(key) == Stand::Up).collect();
        let mut stays: BTreeSet<&Key> = BTreeSet::new();
        for key in &up {
            let why = if self.scene.ourselves.contains(*key) {
                Some("the mesh itself runs on it".to_owned())
            } else if let Some(why) = self.protected_from(key, Operation::Shutdown) {
                Some(format!("it is protected: {why}"))
            } else {
                match self.world.look(key) {
                    Look::Seen(seen) if seen.status == GuestStatus::Paused => {
                        Some("it is paused and would not hear it".to_owned())
                    }
                    Look::Seen(_) => None,
                    Look::Gone | Look::Unseen(_) | Look::NotLooked => Some("it could not be seen".to_owned()),
                }
            };
            if let Some(why) = why {
                self.effect(format!("{} stays: {why}.", self.words(key)));
                self.reads(key);
                stays.insert(key);
            }
        }
        self.graph_is_read();
        // Whoever stays and runs keeps what it needs, also where it is of another cluster.
        let services = self.lab.services();
        let members: BTreeSet<&Key> = order.iter().collect();
        let others = self.lab.roster.rows().iter().map(|row| row.key).filter(|key| !members.contains(key));
        let outside: Vec<&Key> = others.filter(|key| self.stand(key) == Stand::Up).collect();
        let mut needed: BTreeSet<Key> = BTreeSet::new();
        for key in stays.iter().copied().chain(outside) {
            let names = services.needed_by_guest(key, self.lab.roster).into_iter();
            needed.extend(
                names.flat_map(|name| services.carriers(name, self.lab.roster)).map(|key| (*key).clone()),
            );
        }
        let go = up.into_iter().filter(|key| !stays.contains(key));
        self.shut_down_all(&go.collect::<Vec<_>>(), &needed)
    }

    fn shut_down_all(&mut self, guests: &[&Key], needed: &BTreeSet<Key>) -> Result<(), Refusal> {
        let before = self.undo.len();
        for key in guests {
            if needed.contains(*key) {
                self.effect(format!("{} stays: something that stays needs it.", self.words(key)));
                self.reads(key);
                continue;
            }
            self.deed(&Deed { quiet: true, ..Deed::new((*key).clone(), Act::Shutdown { timeout_s: None }) })?;
        }
        if self.undo.len() == before {
            self.idle.push("Nothing runs that may be shut down.".to_owned());
            return Ok(());
        }
        // Among other things each shutdown has its own way back.
        if *self.request.intent != (Intent::LabDown {}) {
            return Ok(());
        }
        // Alone it has one: it starts what was really stopped, not what was to be.
        self.undo.truncate(before);
        self.undo.push(Undoing {
            intents: vec![Intent::LabUp { plan: Some(self.request.id.clone()) }],
            complete: true,
            cost: "Every guest that was shut down boots anew, in the reverse order.".to_owned(),
        });
        Ok(())
    }
}

/// How a service hangs on the guest: `web needs api, which needs db`.
fn way(dependents: &Dependents<'_, '_>, dependent: &Dependent<'_>) -> String {
    let mut text = clean::text(dependent.service, 80);
    for (at, name) in dependents.chain(dependent).enumerate() {
        if at == CHAIN_MAX {
            text.push_str(", and so on");
            break;
        }
        let joint = if at == 0 { " needs " } else { ", which needs " };
        text.push_str(joint);
        text.push_str(&clean::text(name, 80));
    }
    text
}
