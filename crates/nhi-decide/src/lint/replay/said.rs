//! What the steps of a plan say of the lab: that they look at what they have to, and that nothing they say is untrue by
//! then.

use super::{Call, Now, Replay, Verb};
use crate::{fact::holds, lint::Faults};
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    key::Key,
    plan::{Step, Target},
};
use std::collections::BTreeMap;

impl<'a> Replay<'a> {
    /// What a step says before it: enough to be sure of the guest, and nothing that is not so by then.
    pub(super) fn said_before(&self, at: usize, step: &Step, call: &Call, faults: &mut Faults) {
        let mut fault = |text: &str| faults.step(at, step, text);
        let before = &step.before;
        let guest = &step.guest;
        if call.verb.makes() {
            if !before.contains(&Fact::Gone { guest: guest.clone() }) {
                fault("it does not look whether the number is free");
            }
            return;
        }
        let Some(now) = self.now(guest) else { return };
        if !before.iter().any(|fact| is_sure(fact, self.target(guest), now.made)) {
            fault("it does not look whether it is the guest that is meant");
        }
        if !before.contains(&Fact::OnNode { guest: guest.clone(), node: call.node.clone() }) {
            fault("it does not look whether the guest is on its node");
        }
        for lack in self.lacks(step, call, &now) {
            fault(lack);
        }
        self.contradicts(before, guest, &now, &mut fault);
    }

    fn target(&self, guest: &Key) -> Option<&'a Target> {
        self.view.plan.targets.iter().find(|target| target.guest == *guest)
    }

    /// What a call of its kind has to look at right before.
    fn lacks(&self, step: &Step, call: &Call, now: &Now) -> Vec<&'static str> {
        let has = |is: &dyn Fn(&Fact) -> bool| {
            step.before.iter().any(|fact| fact.guest() == Some(&step.guest) && is(fact))
        };
        let mut out = Vec::new();
        let status = matches!(
            call.verb,
            Verb::Start
                | Verb::Stop
                | Verb::Shutdown
                | Verb::Reboot
                | Verb::Reset
                | Verb::Suspend { .. }
                | Verb::Resume
                | Verb::Destroy { .. }
                | Verb::Rollback { .. }
                | Verb::Migrate { .. }
        );
        if status && !has(&|fact| matches!(fact, Fact::Status { .. })) {
            out.push("it does not look what the guest is doing");
        }
        let asleep = now.status == Some(GuestStatus::Suspended);
        if !asleep && !has(&|fact| matches!(fact, Fact::Unlocked { .. })) {
            out.push("it does not look whether a lock is held");
        }
        let open = self.seen(&step.guest).is_some_and(|seen| seen.flag("protection") == Some(false));
        let harms = crate::policy::harms_protected(step.operation) && !now.made;
        if harms && open && !has(&|fact| matches!(fact, Fact::Unprotected { .. })) {
            out.push("it does not look whether Proxmox protects the guest");
        }
        let ha = |fact: &Fact| matches!(fact, Fact::HaManaged { managed: false, .. });
        if call.verb.fights_ha() && !now.made && !has(&ha) {
            out.push("it does not look whether HA manages the guest");
        }
        let there = |wanted: &str, is: bool| {
            has(
                &|fact| matches!(fact, Fact::Snapshot { name, present, .. } if name == wanted && *present == is),
            )
        };
        let made = matches!(&call.verb, Verb::Snapshot { name, .. } if !there(name, false));
        let gone = matches!(
            &call.verb, Verb::SnapshotDelete { name } | Verb::Rollback { name, .. } if !there(name, true)
        );
        if made || gone {
            out.push("it does not look whether the snapshot is there");
        }
        out
    }

    /// Facts that the steps so far make untrue.
    fn contradicts(&self, facts: &[Fact], guest: &Key, now: &Now, fault: &mut dyn FnMut(&str)) {
        for fact in facts.iter().filter(|fact| fact.guest() == Some(guest)) {
            let wrong = match fact {
                Fact::Status { status, .. } => !now.is(&[*status]),
                Fact::OnNode { node, .. } => *node != now.node,
                Fact::Gone { .. } => true,
                Fact::Snapshot { name, present, .. } => {
                    now.snapshots.as_ref().is_some_and(|names| names.contains(name) != *present)
                }
                // What a replay of calls does not tell.
                Fact::Quorate {}
                | Fact::NodeOnline { .. }
                | Fact::Exists { .. }
                | Fact::SameGuest { .. }
                | Fact::Named { .. }
                | Fact::Unlocked { .. }
                | Fact::Unprotected { .. }
                | Fact::ConfigDigest { .. }
                | Fact::Config { .. }
                | Fact::DiskAtLeast { .. }
                | Fact::SnapshotCount { .. }
                | Fact::Processors { .. }
                | Fact::Template { .. }
                | Fact::HaManaged { .. }
                | Fact::BackupSince { .. } => false,
            };
            if wrong {
                fault(&format!("it says what is not so by then: {fact:?}"));
            }
        }
    }

    /// What a step says after it: what its call brings, and nothing that it does not.
    pub(super) fn said_after(&self, at: usize, step: &Step, call: &Call, faults: &mut Faults) {
        let guest = &step.guest;
        let has = |is: &dyn Fn(&Fact) -> bool| {
            step.after.iter().any(|fact| fact.guest() == Some(guest) && is(fact))
        };
        let status = |fact: &Fact| matches!(fact, Fact::Status { .. });
        let told = match &call.verb {
            Verb::Start
            | Verb::Stop
            | Verb::Shutdown
            | Verb::Reboot
            | Verb::Reset
            | Verb::Suspend { .. }
            | Verb::Resume
            | Verb::Rollback { .. } => has(&status),
            Verb::Create | Verb::Clone { .. } => {
                has(&|fact| matches!(fact, Fact::Named { .. }) && is_sure(fact, self.target(guest), true))
            }
            Verb::Destroy { .. } => has(&|fact| matches!(fact, Fact::Gone { .. })),
            Verb::Snapshot { name, .. } => {
                has(&|fact| matches!(fact, Fact::Snapshot { name: told, present: true, .. } if told == name))
            }
            Verb::SnapshotDelete { name } => {
                has(&|fact| matches!(fact, Fact::Snapshot { name: told, present: false, .. } if told == name))
            }
            Verb::Migrate { to, .. } => has(&|fact| matches!(fact, Fact::OnNode { node, .. } if node == to)),
            Verb::Resize { disk, bytes } => has(
                &|fact| matches!(fact, Fact::DiskAtLeast { disk: told, bytes: least, .. } if told == disk && least == bytes),
            ),
            // Lines that wait for a restart show nothing; who may not see backups sees that the lock is gone.
            Verb::Config { .. } => true,
            Verb::Backup => has(&|fact| matches!(fact, Fact::BackupSince { .. } | Fact::Unlocked { .. })),
        };
        let mut fault = |text: &str| faults.step(at, step, text);
        if !told {
            fault("nothing it says of afterwards shows that it was done");
        }
        match self.now(guest) {
            Some(now) => self.contradicts(&step.after, guest, &now, &mut fault),
            None if has(&|fact| !matches!(fact, Fact::Gone { .. })) => {
                fault("it says more of a guest that is gone by then");
            }
            None => {}
        }
        if let Verb::Config { .. } = call.verb {
            self.lines(step, &mut fault);
        }
    }

    /// Lines that are written are those that are shown: to who approves, and when they are read back.
    fn lines(&self, step: &Step, fault: &mut dyn FnMut(&str)) {
        let params = &step.call.params;
        let removed = params.get("delete").map(String::as_str).unwrap_or_default();
        let mut lines: BTreeMap<&str, Option<&String>> =
            removed.split(',').filter(|line| !line.is_empty()).map(|line| (line, None)).collect();
        for (field, value) in
            params.iter().filter(|(field, _)| !matches!(field.as_str(), "delete" | "digest"))
        {
            if lines.insert(field, Some(value)).is_some() {
                fault(&format!("{field} is set and removed in one call"));
            }
        }
        if lines.is_empty() {
            fault("it changes no line");
        }
        for fact in &step.after {
            if let Fact::Config { field, value, .. } = fact
                && lines.get(field.as_str()) != Some(&value.as_ref())
            {
                fault(&format!("it says of {field} what it does not write"));
            }
        }
        for (field, value) in lines {
            let told = self.view.plan.config_changes.iter().any(|change| {
                change.guest == step.guest && change.field == field && change.after.as_ref() == value
            });
            if !told && !self.is_so(&step.guest, field, value) {
                fault(&format!("the change of {field} is not among those that are shown"));
            }
        }
    }

    /// Whether a line has the value already: writing it changes nothing, but takes back what waits for a restart. Without
    /// a line Proxmox's own default counts.
    fn is_so(&self, guest: &Key, field: &str, value: Option<&String>) -> bool {
        let config = Fact::Config { guest: guest.clone(), field: field.to_owned(), value: value.cloned() };
        let absent =
            self.seen(guest).is_some_and(|seen| seen.config_whole && !seen.config.contains_key(field));
        let default = match field {
            "cores" => Some("1"),
            "memory" => Some("512"),
            _other => None,
        };
        let by_default = absent && default.is_some() && default == value.map(String::as_str);
        by_default || holds(&config, self.view.scene.sight).is_yes()
    }

    /// What the scanner is to see is what the steps leave.
    pub(super) fn expected(&self, faults: &mut Faults) {
        let expects = &self.view.plan.expects;
        for (guest, now) in &self.guests {
            let told = expects.iter().any(|fact| fact.guest() == Some(guest));
            if !told {
                faults.add(format!("{guest}: nothing is expected of it"));
            }
            match now {
                Some(now) => {
                    self.contradicts(expects, guest, now, &mut |text| faults.add(format!("{guest}: {text}")));
                }
                None => {
                    if !expects.contains(&Fact::Gone { guest: guest.clone() }) {
                        faults.add(format!("{guest}: it is not expected to be gone"));
                    }
                }
            }
        }
    }
}

/// Whether a fact makes sure of the guest: by identity, or by name where the plan itself makes it.
pub(in crate::lint) fn is_sure(fact: &Fact, target: Option<&Target>, made: bool) -> bool {
    let Some(target) = target else { return false };
    match fact {
        Fact::SameGuest { guest, identity } => {
            *guest == target.guest && Some(identity) == target.identity.as_ref()
        }
        Fact::Named { guest, name } => made && *guest == target.guest && *name == target.name,
        Fact::Quorate {}
        | Fact::NodeOnline { .. }
        | Fact::Exists { .. }
        | Fact::Gone { .. }
        | Fact::OnNode { .. }
        | Fact::Status { .. }
        | Fact::Unlocked { .. }
        | Fact::Unprotected { .. }
        | Fact::ConfigDigest { .. }
        | Fact::Config { .. }
        | Fact::DiskAtLeast { .. }
        | Fact::Snapshot { .. }
        | Fact::SnapshotCount { .. }
        | Fact::Processors { .. }
        | Fact::Template { .. }
        | Fact::HaManaged { .. }
        | Fact::BackupSince { .. } => false,
    }
}
