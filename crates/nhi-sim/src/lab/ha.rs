//! The HA manager: on its own time it brings the guests it manages nearer to what is wanted, and when a node
//! stays away it fences that node and starts its managed guests elsewhere.

use super::{
    Event, Lab,
    fault::Fault,
    guest::{Kind, Power, volid_of},
    login::Who,
    service_id,
    task::{Build, HaWant, Migration, PowerAct, Work},
};

/// A node that holds managed guests and stays away this long is fenced: its watchdog has reset it by then.
const FENCE_MS: i64 = 120_000;
/// The manager's rounds do not get faster than this with the tasks: its slowness is the point of it.
const ROUND_MS_MIN: i64 = 500;

impl Lab {
    pub(crate) fn file_ha_request(&mut self, vmid: u32, want: &HaWant) {
        let Some(guest) = self.guests.get(&vmid) else { return };
        let sid = service_id(guest.kind, vmid);
        let Some(resource) = self.ha.get_mut(&sid) else { return };
        match want {
            HaWant::Started => "started".clone_into(&mut resource.wanted),
            HaWant::Stopped => "stopped".clone_into(&mut resource.wanted),
            HaWant::Node(node) => resource.state = format!("migrate:{node}"),
        }
        self.wake_ha(vmid);
    }

    /// Lets the HA manager look at a guest in its next round.
    pub(crate) fn wake_ha(&mut self, vmid: u32) {
        let Some(kind) = self.guests.get(&vmid).map(|guest| guest.kind) else { return };
        let sid = service_id(kind, vmid);
        if self.ha.contains_key(&sid) {
            let round_ms = i64::try_from(self.task_ms * 2).unwrap_or(i64::MAX).max(ROUND_MS_MIN);
            self.at(self.now_ms + round_ms, Event::HaAct(sid));
        }
    }

    /// One look of the HA manager at one service: it starts the worker that brings the guest nearer to what
    /// is wanted, as `root@pam`, and looks again when that is over.
    pub(super) fn ha_act(&mut self, sid: &str) {
        let Some(resource) = self.ha.get(sid).cloned() else { return };
        let vmid = sid.split(':').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
        let Some(guest) = self.guests.get(&vmid) else { return };
        let (kind, node, is_up) = (guest.kind, guest.node.clone(), guest.power.is_up());
        if !self.is_online(&node) || !self.is_quorate() || self.lock_files.contains_key(&vmid) {
            if self.is_online(&node) {
                self.wake_ha(vmid);
            }
            return;
        }
        let prefix = kind.task_prefix();
        let root = Who { id: "root@pam".to_owned() };
        let about = vmid.to_string();
        let state = if let Some(target) = resource.state.strip_prefix("migrate:") {
            let migration = Migration {
                vmid,
                target: target.to_owned(),
                online: is_up && kind == Kind::Qemu,
                restart: is_up && kind == Kind::Lxc,
                with_local_disks: false,
                storage: None,
            };
            let task = if kind == Kind::Qemu { "qmigrate" } else { "vzmigrate" };
            self.fork(&node, task, &about, &root, Work::Build(Build::Migrate(migration)));
            "migrate"
        } else {
            match (resource.wanted.as_str(), is_up) {
                ("started", true) => "started",
                ("started", false) if !guest.line("lock").is_empty() => "error",
                ("started", false) => {
                    self.fork(
                        &node,
                        if prefix == "qm" { "qmstart" } else { "vzstart" },
                        &about,
                        &root,
                        Work::Power { vmid, act: PowerAct::Start },
                    );
                    "starting"
                }
                ("stopped" | "disabled", true) => {
                    let work = Work::Power { vmid, act: PowerAct::Shutdown { timeout_s: 60, force: true } };
                    self.fork(
                        &node,
                        if prefix == "qm" { "qmshutdown" } else { "vzshutdown" },
                        &about,
                        &root,
                        work,
                    );
                    "request_stop"
                }
                ("stopped" | "disabled", false) => "stopped",
                _ => "ignored",
            }
        };
        if let Some(resource) = self.ha.get_mut(sid) {
            state.clone_into(&mut resource.state);
        }
    }

    /// Starts the fence timer of a node that went away.
    pub(crate) fn watch_node(&mut self, node: &str) {
        self.at(self.now_ms + FENCE_MS, Event::Fence(node.to_owned()));
    }

    /// The timer ran out. A node without managed guests has no armed watchdog and just stays away.
    pub(super) fn fence(&mut self, node: &str) {
        if self.is_online(node) || !self.is_quorate() {
            return;
        }
        let managed: Vec<u32> = self
            .guests
            .values()
            .filter(|guest| guest.node == node && self.is_ha_managed(guest.vmid))
            .map(|guest| guest.vmid)
            .collect();
        if managed.is_empty() {
            return;
        }
        self.cut_power(node);
        self.faults.mark_power_cut(node);
        for vmid in managed {
            self.recover(vmid);
        }
    }

    /// Gives a managed guest of a fenced node to another one. Its disks do not come along: on local storage the
    /// start there fails, as it does in reality.
    fn recover(&mut self, vmid: u32) {
        let Some(guest) = self.guests.get(&vmid) else { return };
        let reaches = |node: &&String| {
            guest.disks().iter().all(|(_, value)| {
                let storage = volid_of(value).split(':').next().unwrap_or_default();
                self.storages.get(storage).is_some_and(|storage| storage.shared && storage.is_on(node))
            })
        };
        let online: Vec<&String> = self.nodes.keys().filter(|node| self.is_online(node)).collect();
        let target = online.iter().find(|node| reaches(node)).or(online.first()).map(|node| (*node).clone());
        let Some(target) = target else { return };
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.node = target;
            guest.power = Power::Stopped;
            guest.config.remove("lock");
        }
        self.wake_ha(vmid);
    }
}

impl super::fault::Faults {
    /// A node that was only cut off has been reset by its watchdog: when it comes back, it boots.
    fn mark_power_cut(&mut self, node: &str) {
        self.change(|fault| {
            if let Fault::NodeOffline { node: name, power_cut, .. } = fault
                && name == node
            {
                *power_cut = true;
            }
        });
    }
}
