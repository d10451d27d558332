//! What stands against doing anything to a guest: what it is, what protects it, who works on it, and whether it could
//! be seen at all. What stands against one operation alone is with that operation.

use super::{
    draft::Draft,
    wish::{Deed, Guard},
    world::Look,
};
use crate::{
    clean,
    fact::{Holds, label, named, same_guest},
    policy::harms_protected,
    resolve::Row,
    sight::Seen,
};
use nhi_model::{
    fact::Fact,
    guest::{GuestIdentity, GuestStatus},
    identity::Agent,
    intent::{GuestRef, Operation, Reference},
    key::Key,
    refusal::{Refusal, RefusalCode},
};
use serde::Deserialize;
use serde_json::Value;

/// What was found out about a guest a wish is for.
pub(super) enum Sighted {
    /// It is there, and may be thought about.
    There(Box<Seen>),
    /// It is gone, and that is what taking something back wanted.
    Gone,
}

impl Draft<'_> {
    pub(super) fn cluster_is_seen(&mut self) -> Result<(), Refusal> {
        let (cluster, sight) = (self.cluster, self.world.sight());
        let id = format!("quorum-lost_{cluster}");
        let alert = Key::alert(Agent::Scan.identity().as_str(), &id);
        match sight.quorate {
            Some(true) => {
                self.require(Fact::Quorate {});
                Ok(())
            }
            // A token that may not ask is no reason to act on what the scanner saw broken.
            None if !self.lab.known.contains_key(&alert) => {
                self.effect(
                    "Whether the cluster has quorum could not be told; without it Proxmox refuses each step."
                        .to_owned(),
                );
                Ok(())
            }
            Some(false) | None => Err(Refusal::new(
                RefusalCode::NoQuorum,
                format!("cluster {cluster} has no quorum, so nothing in it can be changed"),
                "Bring back enough of its nodes, then plan again.",
            )),
        }
    }

    /// A fact that must hold before the first step, once.
    pub(super) fn require(&mut self, fact: Fact) {
        if !self.requires.contains(&fact) {
            self.requires.push(fact);
        }
    }

    /// The guest of a deed, when nothing about the guest itself stands against the operation.
    pub(super) fn sight_of(&mut self, deed: &Deed, operation: Operation) -> Result<Sighted, Refusal> {
        let guest = &deed.guest;
        if self.scene.ourselves.contains(guest) {
            return Err(ourselves(&self.words(guest), guest));
        }
        if let Some(why) = self.protected_from(guest, operation) {
            return Err(protected(&self.words(guest), &why, guest));
        }
        self.reads(guest);
        let seen = match self.world.look(guest) {
            Look::Seen(seen) => seen,
            Look::Gone if deed.guard.is_some() => return Ok(Sighted::Gone),
            Look::Gone => return Err(gone(guest)),
            Look::Unseen(why) => return Err(self.unseen(guest, why)),
            Look::NotLooked => {
                return Err(not_seen(format!("{} was not looked at", named(guest))).about(guest));
            }
        };
        if !self.born.contains(guest) && !self.world.is_changed(guest) {
            self.is_as_recorded(deed, seen)?;
        }
        Ok(Sighted::There(Box::new(seen.clone())))
    }

    fn is_as_recorded(&self, deed: &Deed, seen: &Seen) -> Result<(), Refusal> {
        let guest = &deed.guest;
        if let Some(guard) = &deed.guard {
            check_guard(guard, seen, guest)?;
        }
        let Some(row) = self.lab.roster.get(guest) else {
            // What a run made may not be scanned yet when it is taken back.
            if deed.guard.is_some() {
                return Ok(());
            }
            return Err(not_seen(format!("{} was not scanned yet", named(guest))).about(guest));
        };
        if let Some(stale) = &row.known.stale {
            let why = clean::text(&stale.reason, 300);
            return Err(
                not_seen(format!("what is known of {} is out of date: {why}", row.label())).about(guest)
            );
        }
        if let Some(identity) = row.known.record.get("identity").map(GuestIdentity::deserialize)
            && let Ok(identity) = identity
            && let Holds::No { found } = same_guest(&identity, seen)
        {
            return Err(other_guest(
                &format!("{} is not the guest that was scanned: {found}", label(seen)),
                guest,
            ));
        }
        renamed(deed.asked.as_ref(), &row, seen)
    }

    fn unseen(&self, guest: &Key, why: &str) -> Refusal {
        let node = self.lab.roster.get(guest).and_then(|row| row.text("node").map(str::to_owned));
        let offline = node.filter(|node| self.world.sight().nodes.get(node).is_some_and(|node| !node.online));
        match offline {
            Some(node) => node_offline(&node).about(guest),
            None => not_seen(format!("{} could not be seen: {}", self.words(guest), clean::text(why, 300)))
                .about(guest),
        }
    }

    /// Whether and why the guest is protected from an operation: as it is seen, or as it was recorded.
    pub(super) fn protected_from(&self, guest: &Key, operation: Operation) -> Option<String> {
        if !harms_protected(operation) || self.born.contains(guest) {
            return None;
        }
        self.marked(guest)
    }

    /// What protects a guest by then: also one that the plan itself makes.
    pub(super) fn marked(&self, guest: &Key) -> Option<String> {
        let recorded = self.lab.roster.get(guest).and_then(|row| {
            let flag = row.known.record.get("protection").and_then(Value::as_bool);
            let tags = row.known.record.get("tags").and_then(Value::as_array);
            let tags: Vec<&str> = tags.into_iter().flatten().filter_map(Value::as_str).collect();
            self.protection(guest, row.name(), &tags, flag == Some(true))
        });
        recorded.or_else(|| {
            let seen = self.world.seen(guest)?;
            let tags = seen.tags();
            let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
            match seen.flag("protection") {
                Some(flag) => self.protection(guest, &seen.name, &tags, flag),
                None => Some("its protection could not be read".to_owned()),
            }
        })
    }

    fn protection(&self, guest: &Key, name: &str, tags: &[&str], flag: bool) -> Option<String> {
        let policy = &self.scene.policy.protected;
        let has = |tag: &str| tags.iter().any(|own| own.eq_ignore_ascii_case(tag));
        let number = guest.tokens().pop().unwrap_or_default();
        let here =
            |cluster: &Option<String>| cluster.as_deref().is_none_or(|cluster| cluster == self.cluster);
        let means = |reference: &&GuestRef| match reference.reference() {
            Reference::Vmid { cluster, vmid } => here(&cluster) && vmid.to_string() == number,
            Reference::Name { cluster, name: wanted } => here(&cluster) && wanted.eq_ignore_ascii_case(name),
            Reference::Tag(tag) => has(&tag),
            Reference::Key(key) => key.tokens() == guest.tokens(),
        };
        if let Some(reference) = policy.guests.iter().find(means) {
            return Some(format!("policy names {reference}"));
        }
        if let Some(tag) = policy.tags.iter().find(|tag| has(tag)) {
            return Some(format!("policy protects what has the tag {tag}"));
        }
        (flag && policy.flag).then(|| "Proxmox's own protection flag is on".to_owned())
    }

    /// Takes the guest among those the plan writes to, when nobody else has it and nothing holds it back now.
    pub(super) fn write_to(&mut self, guest: &Key, seen: &Seen, operation: Operation) -> Result<(), Refusal> {
        self.is_free(guest, seen)?;
        self.node_answers(&seen.node).map_err(|refusal| refusal.about(guest))?;
        let resumes = matches!(operation, Operation::Start | Operation::Resume);
        let suspended = seen.status == GuestStatus::Suspended && resumes;
        if let Some(lock) = seen.lock.as_deref().filter(|lock| !lock.is_empty() && !suspended) {
            return Err(locked(seen, lock).about(guest));
        }
        if let Some(state) = &seen.ha {
            let broken =
                operation == Operation::Start && matches!(state.as_str(), "error" | "fence" | "recovery");
            if fights_ha(operation) || broken {
                return Err(ha_managed(seen, state, operation).about(guest));
            }
        }
        if !self.born.contains(guest) {
            if !self.is_target(guest) {
                self.rely_on(guest, seen);
            }
            if harms_protected(operation) && seen.flag("protection") == Some(false) {
                self.require(Fact::Unprotected { guest: guest.clone() });
            }
        }
        self.target(guest, seen, operation, self.born.contains(guest));
        Ok(())
    }

    /// Whether nobody else has it.
    pub(super) fn is_free(&self, guest: &Key, seen: &Seen) -> Result<(), Refusal> {
        let hold = self.scene.holds.get(guest);
        if let Some(hold) = hold.filter(|hold| hold.by != *self.request.by && hold.until > self.scene.now) {
            let reason = clean::text(&hold.reason, 200);
            let why = if reason.is_empty() { String::new() } else { format!(" ({reason:?})") };
            return Err(Refusal::new(
                RefusalCode::Held,
                format!("{} is held by {} until {}{why}", label(seen), hold.by, hold.until),
                "Wait until then, ask its holder to release it, or let an operator release it.",
            )
            .about(guest)
            .with("by", hold.by.as_str())
            .with("until", hold.until.to_string()));
        }
        if let Some(run) = self.scene.leases.get(guest) {
            return Err(Refusal::new(
                RefusalCode::Busy,
                format!("run {run} works on {}", label(seen)),
                "Follow it with act.run, and plan again when it has ended.",
            )
            .about(guest)
            .with("run", run.as_str()));
        }
        Ok(())
    }

    pub(super) fn node_answers(&mut self, node: &str) -> Result<(), Refusal> {
        match self.world.sight().nodes.get(node) {
            Some(seen) if seen.online => {
                self.reads(&Key::node(self.cluster, node));
                self.require(Fact::NodeOnline { node: node.to_owned() });
                Ok(())
            }
            Some(_) => Err(node_offline(node)),
            None => Err(not_seen(format!("node {} was not looked at", clean::text(node, 64)))),
        }
    }

    /// What the guest must still be before the first step.
    fn rely_on(&mut self, guest: &Key, seen: &Seen) {
        let guest = || guest.clone();
        self.require(Fact::SameGuest { guest: guest(), identity: seen.identity.clone() });
        self.require(Fact::Named { guest: guest(), name: seen.name.clone() });
        self.require(Fact::OnNode { guest: guest(), node: seen.node.clone() });
        self.require(Fact::Status { guest: guest(), status: seen.status });
        self.require(Fact::HaManaged { guest: guest(), managed: seen.ha.is_some() });
        if seen.lock.as_deref().is_none_or(str::is_empty) {
            self.require(Fact::Unlocked { guest: guest() });
        }
        if let Some(digest) = &seen.digest {
            self.require(Fact::ConfigDigest { guest: guest(), digest: digest.clone() });
        }
    }

    /// What must hold right before a step.
    pub(super) fn before(&self, guest: &Key, seen: &Seen, operation: Operation) -> Vec<Fact> {
        let key = || guest.clone();
        let mut facts = if self.born.contains(guest) {
            vec![Fact::Named { guest: key(), name: seen.name.clone() }]
        } else {
            vec![Fact::SameGuest { guest: key(), identity: seen.identity.clone() }]
        };
        facts.push(Fact::OnNode { guest: key(), node: seen.node.clone() });
        facts.push(Fact::Status { guest: key(), status: seen.status });
        if seen.status != GuestStatus::Suspended {
            facts.push(Fact::Unlocked { guest: key() });
        }
        if harms_protected(operation) && seen.flag("protection") == Some(false) {
            facts.push(Fact::Unprotected { guest: key() });
        }
        if fights_ha(operation) {
            facts.push(Fact::HaManaged { guest: key(), managed: false });
        }
        facts
    }

    /// A guest in words, seen or recorded.
    pub(super) fn words(&self, guest: &Key) -> String {
        let recorded = || self.lab.roster.get(guest).map_or_else(|| named(guest), |row| row.label());
        self.world.seen(guest).map_or_else(recorded, label)
    }
}

/// Whether HA would work against it. Start, stop and shutdown become requests to HA.
const fn fights_ha(operation: Operation) -> bool {
    matches!(operation, Operation::Suspend | Operation::Migrate | Operation::Destroy | Operation::Rollback)
}

fn check_guard(guard: &Guard, seen: &Seen, guest: &Key) -> Result<(), Refusal> {
    let differs = match guard.identity.as_ref().map(|identity| same_guest(identity, seen)) {
        Some(Holds::No { found }) => Some(found),
        Some(Holds::Yes | Holds::Unknown { .. }) | None => None,
    };
    // A guest may be renamed; of one that a plan made, its number and root volume tell too little.
    let by_name = guard.identity.is_none() || guard.made_since.is_some();
    let differs = differs
        .or_else(|| (by_name && seen.name != guard.name).then(|| format!("it was named {:?}", guard.name)));
    let made = seen.identity.created.zip(guard.made_since);
    let differs = differs.or_else(|| {
        let (created, since) = made.filter(|(created, since)| created < since)?;
        Some(format!("it was made at {created}, before {since}"))
    });
    match differs {
        None => Ok(()),
        Some(found) => {
            Err(other_guest(&format!("{} is not the guest that was meant: {found}", label(seen)), guest))
        }
    }
}

/// A guest named by a name it no longer has may not be the one that is meant.
fn renamed(asked: Option<&GuestRef>, row: &Row<'_>, seen: &Seen) -> Result<(), Refusal> {
    let Some(Reference::Name { .. }) = asked.map(GuestRef::reference) else { return Ok(()) };
    if row.name() == clean::text(&seen.name, clean::NAME_CHARS_MAX) {
        return Ok(());
    }
    Err(other_guest(
        &format!(
            "{} was named {:?} when it was scanned, and is not any more",
            label(seen),
            clean::text(row.name(), 64)
        ),
        row.key,
    ))
}

pub(super) fn not_seen(message: String) -> Refusal {
    Refusal::new(
        RefusalCode::NotSeen,
        message,
        "Run `nhi scan` and look at `nhi status`; plan again when it is seen.",
    )
}

fn node_offline(node: &str) -> Refusal {
    let node = clean::text(node, 64);
    Refusal::new(
        RefusalCode::NodeOffline,
        format!("node {node} does not answer"),
        "Bring the node back, then plan again.",
    )
    .with("node", node)
}

fn gone(guest: &Key) -> Refusal {
    let message = format!("{} is no longer there", named(guest));
    let hint = "Run `nhi scan`; only a backup brings back a guest that was destroyed.";
    Refusal::new(RefusalCode::UnknownGuest, message, hint).about(guest)
}

fn other_guest(message: &str, guest: &Key) -> Refusal {
    let hint = "Look at the guest, run `nhi scan`, and plan again with its present name or number.";
    Refusal::new(RefusalCode::OtherGuest, message, hint).about(guest)
}

pub(super) fn ourselves(words: &str, guest: &Key) -> Refusal {
    Refusal::new(
        RefusalCode::Ourselves,
        format!("the mesh itself runs on {words}, and does not act on that"),
        "A person does this in Proxmox, knowing that the mesh is away meanwhile.",
    )
    .about(guest)
}

pub(super) fn protected(words: &str, why: &str, guest: &Key) -> Refusal {
    Refusal::new(
        RefusalCode::Protected,
        format!("{words} is protected: {why}"),
        "Leave it, or let a person do this in Proxmox; what protects is said in infrastructure/policy.toml.",
    )
    .about(guest)
}

fn locked(seen: &Seen, lock: &str) -> Refusal {
    let lock = clean::text(lock, 40);
    Refusal::new(
        RefusalCode::Locked,
        format!("{} is locked ({lock})", label(seen)),
        "Wait until what holds the lock has ended; one that was left behind a person removes in Proxmox.",
    )
    .with("lock", lock)
}

fn ha_managed(seen: &Seen, state: &str, operation: Operation) -> Refusal {
    let state = clean::text(state, 40);
    Refusal::new(
        RefusalCode::HaManaged,
        format!("HA manages {} (state {state}) and would work against {operation}", label(seen)),
        "Take it out of HA in Proxmox first, or let HA do it.",
    )
    .with("state", state)
}
