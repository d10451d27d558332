//! Switching guests on and off.

use super::{
    call::{self, Params, by_kind, params, task},
    config::fields,
    draft::{Draft, Undoing},
    refuse::Sighted,
    wish::Deed,
};
use crate::{fact::label, sight::Seen, switch::STATUS};
use nhi_model::{
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    intent::{GuestRef, Intent, Operation},
    key::Key,
    plan::{ApiCall, Impact, ImpactCause, Method, Repeat, Risk, Step},
    refusal::{Refusal, RefusalCode},
};

/// How long an effect may take to show after its task's end: locks and lists lag for seconds.
pub(super) const SETTLE_S: u32 = 15;
/// HA acts minutes after its task has filed the request.
const SETTLE_HA_S: u32 = 300;

/// What a power call needs beyond the guest.
struct Power<'a> {
    operation: Operation,
    /// The last segment of its path.
    word: &'static str,
    params: Params,
    /// Task types, and how long it may take.
    kinds: Vec<&'static str>,
    seconds_max: u32,
    /// What the guest does afterwards.
    status: GuestStatus,
    what: &'a str,
    repeat: Repeat,
    compensation: Option<Box<Step>>,
}

impl Draft<'_> {
    fn power_step(&mut self, guest: &Key, seen: &Seen, power: Power<'_>) {
        let ha = seen.ha.is_some();
        let key = || guest.clone();
        let after = vec![
            Fact::Status { guest: key(), status: power.status },
            Fact::OnNode { guest: key(), node: seen.node.clone() },
        ];
        // HA may start it on another node.
        let after = if ha { after.into_iter().take(1).collect() } else { after };
        self.steps.push(Step {
            what: format!("{} {}", power.what, label(seen)),
            operation: power.operation,
            guest: key(),
            node: seen.node.clone(),
            call: status_call(seen, power.word, power.params),
            ends: task(&power.kinds, seen.vmid, power.seconds_max),
            before: self.before(guest, seen, power.operation),
            after,
            settle_s: if ha { SETTLE_HA_S } else { SETTLE_S },
            repeat: power.repeat,
            compensation: power.compensation,
        });
        if ha {
            self.effect(format!(
                "HA manages {}: the call only files a request, and HA acts on it later.",
                label(seen)
            ));
            let how = format!("HA manages {} and carries out the request", label(seen));
            self.impact(Impact { name: label(seen), guest: Some(key()), cause: ImpactCause::Ha, how });
        }
        let status = power.status;
        self.world.change(guest, |seen| {
            seen.status = status;
            seen.lock = None;
        });
        // Proxmox applies what waits for that whenever the machine has stopped.
        if matches!(power.operation, Operation::Stop | Operation::Shutdown | Operation::Reboot) {
            let lines = self.world.take_over(guest);
            self.shows_lines(guest, seen, &lines);
            if !lines.is_empty() {
                let cost = format!(
                    "{} of {} goes back when it is stopped and started once more.",
                    fields(&lines),
                    label(seen)
                );
                self.undo.push(Undoing { intents: Vec::new(), complete: false, cost });
            }
        }
        self.powered.insert(key());
    }

    pub(super) fn start(&mut self, deed: &Deed) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Start)? else { return Ok(()) };
        let guest = &deed.guest;
        match seen.status {
            GuestStatus::Running => {
                self.already(deed, format!("{} runs already.", label(&seen)));
                return Ok(());
            }
            GuestStatus::Paused => return self.resume(deed),
            GuestStatus::Stopped | GuestStatus::Suspended => {}
            GuestStatus::Unknown => return Err(unknown_status(&seen, guest)),
        }
        if seen.template {
            return Err(not_possible(
                &seen,
                guest,
                "is a template and cannot run",
                "Clone it, and start the copy.",
            ));
        }
        self.keep_first(deed, &seen, Operation::Start)?;
        self.write_to(guest, &seen, Operation::Start)?;
        let born = self.born.contains(guest);
        let compensation = born.then(|| Box::new(self.stop_again(guest, &seen)));
        self.power_step(
            guest,
            &seen,
            Power {
                operation: Operation::Start,
                word: "start",
                params: Params::new(),
                kinds: vec![by_kind(seen.kind, "qmstart", "vzstart"), "hastart"],
                seconds_max: 300,
                status: GuestStatus::Running,
                what: "start",
                repeat: Repeat::Harmless,
                compensation,
            },
        );
        if !born {
            let back = match seen.status {
                GuestStatus::Suspended => Intent::Suspend { guest: GuestRef::key(guest), to_disk: true },
                GuestStatus::Running | GuestStatus::Stopped | GuestStatus::Paused | GuestStatus::Unknown => {
                    Intent::Shutdown { guest: GuestRef::key(guest), with_dependents: false, timeout_s: None }
                }
            };
            let cost = format!("What runs in {} by then ends.", label(&seen));
            let by = [Operation::Shutdown];
            self.undone_by(guest, &by, Undoing { intents: vec![back], complete: true, cost });
        }
        Ok(())
    }

    /// Pulls the plug of a guest this plan made, so that it can be removed again.
    fn stop_again(&self, guest: &Key, seen: &Seen) -> Step {
        Step {
            what: format!("stop {} again", label(seen)),
            operation: Operation::Stop,
            guest: guest.clone(),
            node: seen.node.clone(),
            call: status_call(seen, "stop", Params::new()),
            ends: task(&[by_kind(seen.kind, "qmstop", "vzstop")], seen.vmid, 120),
            before: vec![
                Fact::Named { guest: guest.clone(), name: seen.name.clone() },
                Fact::Unlocked { guest: guest.clone() },
            ],
            after: vec![Fact::Status { guest: guest.clone(), status: GuestStatus::Stopped }],
            settle_s: SETTLE_S,
            repeat: Repeat::Harmless,
            compensation: None,
        }
    }

    pub(super) fn stop(&mut self, deed: &Deed) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Stop)? else { return Ok(()) };
        let guest = &deed.guest;
        if self.is_off(deed, &seen)? {
            return Ok(());
        }
        self.nothing_needs(guest, Operation::Stop)?;
        self.keep_first(deed, &seen, Operation::Stop)?;
        self.write_to(guest, &seen, Operation::Stop)?;
        self.power_step(
            guest,
            &seen,
            Power {
                operation: Operation::Stop,
                word: "stop",
                params: Params::new(),
                kinds: vec![by_kind(seen.kind, "qmstop", "vzstop"), "hastop"],
                seconds_max: 120,
                status: GuestStatus::Stopped,
                what: "pull the plug of",
                repeat: Repeat::Harmless,
                compensation: None,
            },
        );
        self.stopped.insert(guest.clone());
        self.risk(Risk::High);
        self.effect(format!("{} is cut off: what it has not written to disk is lost.", label(&seen)));
        let cost = format!("{} boots anew; what it had not written to disk stays lost.", label(&seen));
        let intents = self.start_again(guest, &seen);
        self.undo.push(Undoing { intents, complete: false, cost });
        Ok(())
    }

    pub(super) fn shutdown(&mut self, deed: &Deed, timeout_s: Option<u32>) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Shutdown)? else { return Ok(()) };
        let guest = &deed.guest;
        if self.is_off(deed, &seen)? {
            return Ok(());
        }
        if seen.status == GuestStatus::Paused {
            let hint = "Resume it first, or pull the plug with stop.";
            return Err(not_possible(&seen, guest, "is paused and would not hear it", hint));
        }
        self.nothing_needs(guest, Operation::Shutdown)?;
        self.keep_first(deed, &seen, Operation::Shutdown)?;
        self.write_to(guest, &seen, Operation::Shutdown)?;
        let waits_s = timeout_s.unwrap_or_else(|| own_timeout_s(&seen));
        let params = timeout_s.map_or_else(Params::new, |seconds| params([("timeout", seconds.to_string())]));
        self.power_step(
            guest,
            &seen,
            Power {
                operation: Operation::Shutdown,
                word: "shutdown",
                params,
                kinds: vec![by_kind(seen.kind, "qmshutdown", "vzshutdown"), "hashutdown", "hastop"],
                seconds_max: waits_s.saturating_add(60),
                status: GuestStatus::Stopped,
                what: "shut down",
                repeat: Repeat::Harmless,
                compensation: None,
            },
        );
        self.stopped.insert(guest.clone());
        self.risk(Risk::Medium);
        self.effect(format!("{} does not serve until it is started again.", label(&seen)));
        self.effect(format!(
            "{} has {waits_s} s to shut down; one that does not hear it keeps running and the step fails.",
            label(&seen)
        ));
        let cost = format!("{} boots anew.", label(&seen));
        let intents = self.start_again(guest, &seen);
        self.undo.push(Undoing { intents, complete: true, cost });
        Ok(())
    }

    pub(super) fn reboot(&mut self, deed: &Deed) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Reboot)? else { return Ok(()) };
        self.must_run(&deed.guest, &seen)?;
        self.nothing_needs(&deed.guest, Operation::Reboot)?;
        self.keep_first(deed, &seen, Operation::Reboot)?;
        self.write_to(&deed.guest, &seen, Operation::Reboot)?;
        self.power_step(
            &deed.guest,
            &seen,
            Power {
                operation: Operation::Reboot,
                word: "reboot",
                params: Params::new(),
                kinds: vec![by_kind(seen.kind, "qmreboot", "vzreboot")],
                seconds_max: own_timeout_s(&seen).saturating_add(300),
                status: GuestStatus::Running,
                what: "reboot",
                repeat: Repeat::Harmful,
                compensation: None,
            },
        );
        self.risk(Risk::Medium);
        self.effect(format!(
            "{} does not serve while it boots; what waits for a restart is applied.",
            label(&seen)
        ));
        self.ends_as_it_was("A reboot leaves nothing to take back; the interruption stays one.");
        Ok(())
    }

    pub(super) fn reset(&mut self, deed: &Deed) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Reset)? else { return Ok(()) };
        if seen.kind == GuestKind::Lxc {
            return Err(not_possible(
                &seen,
                &deed.guest,
                "is a container and has no reset",
                "Stop and start it.",
            ));
        }
        self.must_run(&deed.guest, &seen)?;
        self.nothing_needs(&deed.guest, Operation::Reset)?;
        self.keep_first(deed, &seen, Operation::Reset)?;
        self.write_to(&deed.guest, &seen, Operation::Reset)?;
        self.power_step(
            &deed.guest,
            &seen,
            Power {
                operation: Operation::Reset,
                word: "reset",
                params: Params::new(),
                kinds: vec!["qmreset"],
                seconds_max: 120,
                status: GuestStatus::Running,
                what: "reset",
                repeat: Repeat::Harmful,
                compensation: None,
            },
        );
        self.risk(Risk::High);
        self.effect(format!("{} is cut off: what it has not written to disk is lost.", label(&seen)));
        self.ends_as_it_was("A reset leaves nothing to take back; what was not written to disk stays lost.");
        Ok(())
    }

    pub(super) fn suspend(&mut self, deed: &Deed, to_disk: bool) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Suspend)? else { return Ok(()) };
        let guest = &deed.guest;
        if seen.kind == GuestKind::Lxc {
            return Err(not_possible(
                &seen,
                guest,
                "is a container and cannot be suspended",
                "Shut it down instead.",
            ));
        }
        let wanted = if to_disk { GuestStatus::Suspended } else { GuestStatus::Paused };
        if seen.status == wanted {
            self.already(deed, format!("{} is {} already.", label(&seen), wanted.as_str()));
            return Ok(());
        }
        self.must_run(guest, &seen)?;
        self.nothing_needs(guest, Operation::Suspend)?;
        self.keep_first(deed, &seen, Operation::Suspend)?;
        self.write_to(guest, &seen, Operation::Suspend)?;
        self.power_step(
            guest,
            &seen,
            Power {
                operation: Operation::Suspend,
                word: "suspend",
                params: if to_disk { params([("todisk", "1".to_owned())]) } else { Params::new() },
                kinds: vec![if to_disk { "qmsuspend" } else { "qmpause" }],
                seconds_max: if to_disk { 3600 } else { 120 },
                status: wanted,
                what: if to_disk { "suspend to disk" } else { "pause" },
                repeat: Repeat::Harmless,
                compensation: None,
            },
        );
        if to_disk {
            self.world.change(guest, |seen| seen.lock = Some("suspended".to_owned()));
        }
        self.stopped.insert(guest.clone());
        self.risk(Risk::Medium);
        self.effect(format!(
            "{} does not serve until it is resumed; its connections will have died.",
            label(&seen)
        ));
        let intents = vec![Intent::Resume { guest: GuestRef::key(guest) }];
        let cost = format!("{} goes on where it was, with a clock that lags.", label(&seen));
        self.undo.push(Undoing { intents, complete: true, cost });
        Ok(())
    }

    pub(super) fn resume(&mut self, deed: &Deed) -> Result<(), Refusal> {
        let Some(seen) = self.found(deed, Operation::Resume)? else { return Ok(()) };
        let guest = &deed.guest;
        let to_disk = match seen.status {
            GuestStatus::Running => {
                self.already(deed, format!("{} runs already.", label(&seen)));
                return Ok(());
            }
            GuestStatus::Paused => false,
            GuestStatus::Suspended => true,
            GuestStatus::Stopped => {
                return Err(not_possible(&seen, guest, "is stopped, not suspended", "Start it."));
            }
            GuestStatus::Unknown => return Err(unknown_status(&seen, guest)),
        };
        self.keep_first(deed, &seen, Operation::Resume)?;
        self.write_to(guest, &seen, Operation::Resume)?;
        self.power_step(
            guest,
            &seen,
            Power {
                operation: Operation::Resume,
                word: "resume",
                params: Params::new(),
                kinds: vec![by_kind(seen.kind, "qmresume", "vzresume")],
                seconds_max: 300,
                status: GuestStatus::Running,
                what: "resume",
                repeat: Repeat::Harmless,
                compensation: None,
            },
        );
        let intents = vec![Intent::Suspend { guest: GuestRef::key(guest), to_disk }];
        let cost = format!("{} is suspended as it is then, not as it was.", label(&seen));
        self.undone_by(guest, &[Operation::Suspend], Undoing { intents, complete: true, cost });
        Ok(())
    }

    /// The guest of a deed; `None` when it is gone and that is well, which is noted.
    pub(super) fn found(&mut self, deed: &Deed, operation: Operation) -> Result<Option<Seen>, Refusal> {
        match self.sight_of(deed, operation)? {
            Sighted::There(seen) => Ok(Some(*seen)),
            Sighted::Gone => {
                self.already(deed, format!("{} is not there any more.", crate::fact::named(&deed.guest)));
                Ok(None)
            }
        }
    }

    /// Whether it is off already, which is noted.
    fn is_off(&mut self, deed: &Deed, seen: &Seen) -> Result<bool, Refusal> {
        match seen.status {
            GuestStatus::Running | GuestStatus::Paused => Ok(false),
            GuestStatus::Stopped | GuestStatus::Suspended => {
                self.already(deed, format!("{} does not run.", label(seen)));
                Ok(true)
            }
            GuestStatus::Unknown => Err(unknown_status(seen, &deed.guest)),
        }
    }

    fn must_run(&self, guest: &Key, seen: &Seen) -> Result<(), Refusal> {
        match seen.status {
            GuestStatus::Running => Ok(()),
            GuestStatus::Unknown => Err(unknown_status(seen, guest)),
            GuestStatus::Stopped | GuestStatus::Paused | GuestStatus::Suspended => {
                let what = format!("is {} and does not run", seen.status.as_str());
                Err(not_possible(seen, guest, &what, "Start or resume it first."))
            }
        }
    }

    fn start_again(&self, guest: &Key, seen: &Seen) -> Vec<Intent> {
        match seen.status {
            GuestStatus::Running | GuestStatus::Paused => vec![Intent::Start { guest: GuestRef::key(guest) }],
            GuestStatus::Stopped | GuestStatus::Suspended | GuestStatus::Unknown => Vec::new(),
        }
    }

    fn ends_as_it_was(&mut self, cost: &str) {
        self.undo.push(Undoing { intents: Vec::new(), complete: true, cost: cost.to_owned() });
    }
}

fn status_call(seen: &Seen, word: &str, params: Params) -> ApiCall {
    call::guest(Method::Post, &seen.node, seen.kind, seen.vmid, &["status", word], params)
}

/// How long Proxmox itself waits for a shutdown: a virtual machine's own setting, else a minute.
fn own_timeout_s(seen: &Seen) -> u32 {
    let startup = seen.config.get("startup").filter(|_| seen.kind == GuestKind::Qemu);
    let down = startup.and_then(|line| line.split(',').find_map(|part| part.strip_prefix("down=")));
    down.and_then(|seconds| seconds.parse().ok()).unwrap_or(60).min(86_400)
}

pub(super) fn unknown_status(seen: &Seen, guest: &Key) -> Refusal {
    super::refuse::not_seen(format!("what {} is doing could not be told", label(seen))).about(guest)
}

pub(super) fn not_possible(seen: &Seen, guest: &Key, what: &str, hint: &str) -> Refusal {
    let refusal = Refusal::new(RefusalCode::NotPossible, format!("{} {what}", label(seen)), hint);
    refusal.about(guest).with(STATUS, seen.status.as_str())
}
