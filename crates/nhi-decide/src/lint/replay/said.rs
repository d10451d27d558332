//! What the steps of a plan say of the lab: that they look at what they have to, and that nothing they say is untrue by
//! then.

use super::{Call, Now, Replay, Verb};
use crate::lint::Faults;
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    key::Key,
    plan::{Step, Target},
};

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
