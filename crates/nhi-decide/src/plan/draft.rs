//! A plan under construction: the steps so far, what they rely on, bring and touch, and the lab as they leave it.

use super::{
    Request, Scene, bounds,
    expand::{Lab, too_many},
    wish::{Act, Birth, Deed, Wish},
    world::World,
};
use crate::{clean, policy::harms_protected, sight::Seen};
use nhi_model::{
    fact::Fact,
    guest::GuestKind,
    intent::{Intent, Operation},
    key::Key,
    plan::{ConfigChange, Impact, Risk, STEPS_MAX, Step, Target},
    refusal::Refusal,
};
use std::collections::{BTreeMap, BTreeSet};

/// How one deed is taken back.
#[derive(Clone, Debug)]
pub(super) struct Undoing {
    pub(super) intents: Vec<Intent>,
    pub(super) complete: bool,
    pub(super) cost: String,
}

/// A plan under construction.
#[derive(Debug)]
pub(super) struct Draft<'a> {
    pub(super) request: &'a Request<'a>,
    pub(super) scene: &'a Scene<'a>,
    pub(super) lab: Lab<'a>,
    pub(super) cluster: &'a str,
    pub(super) world: World<'a>,
    pub(super) targets: Vec<Target>,
    pub(super) requires: Vec<Fact>,
    pub(super) steps: Vec<Step>,
    /// What the records will show of each guest, beyond where it is and what it does.
    pub(super) shows: BTreeMap<Key, Vec<Fact>>,
    /// Guests whose power the plan changes.
    pub(super) powered: BTreeSet<Key>,
    pub(super) effects: Vec<String>,
    pub(super) changes: Vec<ConfigChange>,
    pub(super) impacts: Vec<Impact>,
    pub(super) undo: Vec<Undoing>,
    pub(super) risk: Risk,
    pub(super) reads: BTreeMap<Key, u64>,
    /// What was asked for and is so already.
    pub(super) idle: Vec<String>,
    /// Guests this plan shuts down.
    pub(super) stopped: BTreeSet<Key>,
    /// Guests of which this plan made a snapshot before acting.
    pub(super) kept: BTreeMap<Key, String>,
    /// Guests this plan makes.
    pub(super) born: BTreeSet<Key>,
    /// How many of the reserved numbers are used.
    pub(super) births: usize,
    /// Guests this plan makes as linked copies, and of what.
    pub(super) links: Vec<(Key, Key)>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(
        request: &'a Request<'a>,
        scene: &'a Scene<'a>,
        lab: Lab<'a>,
        cluster: &'a str,
    ) -> Result<Self, Refusal> {
        request.undo_unless_confirmed_minutes.map_or(Ok(()), bounds::undo_minutes)?;
        let mut draft = Self {
            request,
            scene,
            lab,
            cluster,
            world: World::new(scene.sight),
            targets: Vec::new(),
            requires: Vec::new(),
            steps: Vec::new(),
            shows: BTreeMap::new(),
            powered: BTreeSet::new(),
            effects: Vec::new(),
            changes: Vec::new(),
            impacts: Vec::new(),
            undo: Vec::new(),
            risk: Risk::Low,
            reads: BTreeMap::new(),
            idle: Vec::new(),
            stopped: BTreeSet::new(),
            kept: BTreeMap::new(),
            born: BTreeSet::new(),
            births: 0,
            links: Vec::new(),
        };
        draft.cluster_is_seen()?;
        Ok(draft)
    }

    /// Plans one wish.
    pub(super) fn take(&mut self, wish: &Wish) -> Result<(), Refusal> {
        match wish {
            Wish::Deed(deed) => self.deed(deed)?,
            Wish::Birth(Birth::Vm { new, iso, os }) => self.create_vm(new, iso.as_deref(), os.as_deref())?,
            Wish::Birth(Birth::Lxc { new, image, ip, gateway }) => {
                self.create_lxc(new, image, ip.as_deref(), gateway.as_deref())?;
            }
            Wish::Birth(Birth::Copy(copy)) => self.copy(copy)?,
            Wish::Down(guests) => self.lab_down(guests)?,
            Wish::Note(text) => self.effect(text.clone()),
        }
        // Whether who asks may have the whole lab at once, or back, the gate knows.
        let whole =
            matches!(self.request.intent, Intent::LabDown {} | Intent::LabUp { .. } | Intent::Undo { .. });
        let allowed = if whole { STEPS_MAX } else { self.scene.policy.limits.steps_per_plan as usize };
        let most = STEPS_MAX.min(allowed);
        if self.steps.len() > most {
            return Err(too_many(format!(
                "it takes {} steps, at most {most} are done in one plan",
                self.steps.len()
            )));
        }
        Ok(())
    }

    pub(super) fn deed(&mut self, deed: &Deed) -> Result<(), Refusal> {
        match &deed.act {
            Act::Start => self.start(deed),
            Act::StartAgain => {
                if self.stopped.contains(&deed.guest) {
                    self.start(deed)
                } else {
                    Ok(())
                }
            }
            Act::Stop => self.stop(deed),
            Act::Shutdown { timeout_s } => self.shutdown(deed, *timeout_s),
            Act::Reboot => self.reboot(deed),
            Act::Reset => self.reset(deed),
            Act::Suspend { to_disk } => self.suspend(deed, *to_disk),
            Act::Resume => self.resume(deed),
            Act::Destroy { purge } => self.destroy(deed, *purge),
            Act::Snapshot { name, description, memory } => {
                self.snapshot(deed, name, description.as_deref(), *memory)
            }
            Act::SnapshotDelete { name } => self.snapshot_delete(deed, name),
            Act::Rollback { name, start } => self.rollback(deed, name, *start),
            Act::Migrate { node } => self.migrate(deed, node),
            Act::Resize { disk, size_gib } => self.resize(deed, disk, *size_gib),
            Act::Set { settings, processors } => self.set(deed, settings, *processors),
            Act::Backup { storage } => self.backup(deed, storage.as_deref()),
        }
    }

    /// Notes what a wish asked for and is so already.
    pub(super) fn already(&mut self, deed: &Deed, what: String) {
        if deed.quiet {
            // Said only when the whole plan would do nothing.
            self.idle.push(what);
        } else {
            self.idle.push(what.clone());
            self.effect(what);
        }
    }

    /// A side effect, said once.
    pub(super) fn effect(&mut self, sentence: String) {
        if !self.effects.contains(&sentence) {
            self.effects.push(sentence);
        }
    }

    /// At least so much can go wrong.
    pub(super) fn risk(&mut self, risk: Risk) {
        self.risk = self.risk.max(risk);
    }

    /// Notes that the plan relies on a record, or on there being none.
    pub(super) fn reads(&mut self, key: &Key) {
        if !self.reads.contains_key(key) {
            self.reads.insert(key.clone(), self.lab.known.get(key).map_or(0, |known| known.revision));
        }
    }

    /// What the records are to show of a guest; a later word about the same thing takes the place of an earlier one.
    pub(super) fn shows(&mut self, guest: &Key, fact: Fact) {
        let facts = self.shows.entry(guest.clone()).or_default();
        facts.retain(|other| !is_about_the_same(other, &fact));
        facts.push(fact);
    }

    /// Notes an operation on a guest the plan writes to.
    pub(super) fn target(&mut self, guest: &Key, seen: &Seen, operation: Operation, born: bool) {
        match self.targets.iter_mut().find(|target| target.guest == *guest) {
            Some(target) => target.operations.push(operation),
            None => self.targets.push(Target {
                guest: guest.clone(),
                kind: seen.kind,
                vmid: seen.vmid,
                name: clean::text(&seen.name, clean::NAME_CHARS_MAX),
                node: seen.node.clone(),
                identity: (!born).then(|| seen.identity.clone()),
                operations: vec![operation],
            }),
        }
    }

    pub(super) fn is_target(&self, guest: &Key) -> bool {
        self.targets.iter().any(|target| target.guest == *guest)
    }

    /// How the deed is taken back. What protection forbids is left to a person.
    pub(super) fn undone_by(&mut self, guest: &Key, by: &[Operation], undoing: Undoing) {
        let forbidden = by.iter().copied().any(harms_protected) && self.marked(guest).is_some();
        self.undo.push(if forbidden && !undoing.intents.is_empty() {
            let name = crate::fact::named(guest);
            let cost = format!("{name} is protected: a person takes this back in Proxmox.");
            Undoing { intents: Vec::new(), complete: false, cost }
        } else {
            undoing
        });
    }

    /// A parameter's word for a kind of guest.
    pub(super) const fn name_field(kind: GuestKind) -> &'static str {
        match kind {
            GuestKind::Qemu => "name",
            GuestKind::Lxc => "hostname",
        }
    }
}

/// Whether two facts speak of one thing of a guest, so that the later one replaces the earlier.
fn is_about_the_same(one: &Fact, other: &Fact) -> bool {
    match (one, other) {
        (Fact::Config { field, .. }, Fact::Config { field: same, .. }) => field == same,
        (Fact::DiskAtLeast { disk, .. }, Fact::DiskAtLeast { disk: same, .. }) => disk == same,
        (one, other) => std::mem::discriminant(one) == std::mem::discriminant(other),
    }
}
