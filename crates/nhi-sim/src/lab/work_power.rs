//! Power work: start, stop, shutdown, reboot, suspend, resume, and the HA manager that does these on its own
//! time for the guests it manages.

use super::{
    Lab,
    guest::{Guest, Kind, Power},
    task::{HaWant, PowerAct},
    work::Begun,
};

impl Lab {
    pub(super) fn begin_power(&mut self, upid: &str, vmid: u32, act: &PowerAct) -> Result<Begun, String> {
        match act {
            PowerAct::Start => {
                let guest = self.guest_of(upid, vmid)?;
                let suspended = guest.line("lock") == "suspended";
                let guest = if suspended { guest } else { self.unlocked_guest(upid, vmid)? };
                self.can_start(guest)?;
                Ok(Begun::Usual)
            }
            PowerAct::Stop | PowerAct::Reset => {
                self.unlocked_guest(upid, vmid)?;
                Ok(Begun::Usual)
            }
            PowerAct::Shutdown { timeout_s, .. } | PowerAct::Reboot { timeout_s } => {
                let guest = self.unlocked_guest(upid, vmid)?;
                if guest.power.is_up() && self.ignores_shutdown(guest) {
                    return Ok(Begun::Takes(timeout_s * 1000));
                }
                Ok(Begun::Usual)
            }
            PowerAct::Suspend { to_disk } => {
                self.unlocked_guest(upid, vmid)?;
                if *to_disk {
                    self.set_lock(vmid, "suspending");
                }
                Ok(Begun::Usual)
            }
            PowerAct::Resume => {
                let guest = self.guest_of(upid, vmid)?;
                if guest.line("lock") != "suspended" {
                    self.unlocked_guest(upid, vmid)?;
                }
                Ok(Begun::Usual)
            }
            PowerAct::HaRequest(want) => {
                let line = match want {
                    HaWant::Started => format!("Requesting HA start for {}", self.service_of(vmid)),
                    HaWant::Stopped => format!("Requesting HA stop for {}", self.service_of(vmid)),
                    HaWant::Node(node) => {
                        format!("Requesting HA migration for {} to node {node}", self.service_of(vmid))
                    }
                };
                self.log(upid, &line);
                Ok(Begun::Usual)
            }
        }
    }

    fn can_start(&self, guest: &Guest) -> Result<(), String> {
        if guest.is_template() {
            return Err(match guest.kind {
                Kind::Qemu => "you can't start a vm if it's a template".to_owned(),
                Kind::Lxc => "you can't start a CT if it's a template".to_owned(),
            });
        }
        if guest.power.is_up() {
            return Err(format!("{} {} already running", guest.kind.noun(), guest.vmid));
        }
        for (_, value) in guest.disks() {
            let storage = value.split(':').next().unwrap_or_default();
            match self.storages.get(storage) {
                None => return Err(format!("storage '{storage}' does not exist")),
                Some(definition) if definition.disabled => {
                    return Err(format!("storage '{storage}' is disabled"));
                }
                Some(_) if !self.storage_is_active(storage, &guest.node) => {
                    return Err(format!("storage '{storage}' is not online"));
                }
                Some(_) => {}
            }
        }
        if !self.is_quorate() {
            return Err("cluster not ready - no quorum?".to_owned());
        }
        Ok(())
    }

    fn ignores_shutdown(&self, guest: &Guest) -> bool {
        guest.ignores_shutdown
            || self.faults.any(
                |fault| matches!(fault, super::fault::Fault::IgnoresShutdown { vmid } if *vmid == guest.vmid),
            )
    }

    fn service_of(&self, vmid: u32) -> String {
        let kind = self.guests.get(&vmid).map_or(Kind::Qemu, |guest| guest.kind);
        match kind {
            Kind::Qemu => format!("VM {vmid}"),
            Kind::Lxc => format!("CT {vmid}"),
        }
    }

    pub(super) fn finish_power(&mut self, upid: &str, vmid: u32, act: &PowerAct) -> Result<(), String> {
        match act {
            PowerAct::Start => self.power_on(upid, vmid),
            PowerAct::Stop => self.power_off(upid, vmid),
            PowerAct::Reset => self.guest_of(upid, vmid).map(|_| ()),
            PowerAct::Shutdown { timeout_s, force } => {
                let guest = self.guest_of(upid, vmid)?;
                if guest.power.is_up() && self.ignores_shutdown(guest) && !force {
                    return Err(ignored(guest, *timeout_s));
                }
                self.power_off(upid, vmid)
            }
            PowerAct::Reboot { timeout_s } => {
                let guest = self.guest_of(upid, vmid)?;
                if self.ignores_shutdown(guest) {
                    return Err(ignored(guest, *timeout_s));
                }
                self.power_off(upid, vmid)?;
                self.power_on(upid, vmid)
            }
            PowerAct::Suspend { to_disk } => {
                self.guest_of(upid, vmid)?;
                if *to_disk {
                    self.power_off(upid, vmid)?;
                    self.set_lock(vmid, "suspended");
                } else if let Some(guest) = self.guests.get_mut(&vmid)
                    && let Power::Running { since_ms, pid } = guest.power
                {
                    guest.power = Power::Paused { since_ms, pid };
                }
                Ok(())
            }
            PowerAct::Resume => {
                let was_on_disk = self.guest_of(upid, vmid)?.line("lock") == "suspended";
                if was_on_disk {
                    return self.power_on(upid, vmid);
                }
                if let Some(guest) = self.guests.get_mut(&vmid)
                    && let Power::Paused { since_ms, pid } = guest.power
                {
                    guest.power = Power::Running { since_ms, pid };
                }
                Ok(())
            }
            PowerAct::HaRequest(want) => {
                self.file_ha_request(vmid, want);
                Ok(())
            }
        }
    }

    pub(super) fn power_on(&mut self, upid: &str, vmid: u32) -> Result<(), String> {
        self.guest_of(upid, vmid)?;
        let (pid, since_ms) = (self.next_pid(), self.now_ms);
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.settle_pending();
            if guest.line("lock") == "suspended" {
                guest.config.remove("lock");
            }
            guest.power = Power::Running { since_ms, pid };
        }
        self.wake_ha(vmid);
        Ok(())
    }

    pub(super) fn power_off(&mut self, upid: &str, vmid: u32) -> Result<(), String> {
        self.guest_of(upid, vmid)?;
        if let Some(guest) = self.guests.get_mut(&vmid) {
            guest.settle_pending();
            guest.power = Power::Stopped;
        }
        self.wake_ha(vmid);
        Ok(())
    }
}

fn ignored(guest: &Guest, timeout_s: u64) -> String {
    match guest.kind {
        Kind::Qemu => "VM quit/powerdown failed - got timeout".to_owned(),
        Kind::Lxc => {
            format!("command 'lxc-stop -n {} --timeout {timeout_s}' failed: exit code 1", guest.vmid)
        }
    }
}
