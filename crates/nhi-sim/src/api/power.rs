//! Power commands. Each answers with a UPID at once; whether anything happened is the task's business, and
//! for a guest under the HA manager not even that: its task only files a request.

use super::{
    ApiError, Call, Outcome,
    route::{Check, Route, post},
};
use crate::lab::{
    Lab,
    guest::{Kind, Power},
    task::{HaWant, PowerAct, Stage, Work},
};
use serde_json::json;
use std::collections::BTreeMap;

const MAY: Check = Check::All("/vms/{vmid}", &["VM.PowerMgmt"]);
const START: &str = "skiplock:b timeout:i machine force-cpu migratedfrom migration_type migration_network stateuri \
    targetstorage nets-host-mtu with-conntrack-state:b";
const STOP: &str = "skiplock:b timeout:i keepActive:b migratedfrom overrule-shutdown:b";
const SHUTDOWN: &str = "skiplock:b timeout:i forceStop:b keepActive:b";

pub(super) const ROUTES: &[Route] = &[
    post("/nodes/{node}/qemu/{vmid}/status/start", MAY, START, |lab, call| start(lab, call, Kind::Qemu)),
    post("/nodes/{node}/lxc/{vmid}/status/start", MAY, "skiplock:b debug:b", |lab, call| {
        start(lab, call, Kind::Lxc)
    }),
    post("/nodes/{node}/qemu/{vmid}/status/stop", MAY, STOP, |lab, call| stop(lab, call, Kind::Qemu)),
    post("/nodes/{node}/lxc/{vmid}/status/stop", MAY, "skiplock:b overrule-shutdown:b", |lab, call| {
        stop(lab, call, Kind::Lxc)
    }),
    post("/nodes/{node}/qemu/{vmid}/status/shutdown", MAY, SHUTDOWN, |lab, call| {
        shutdown(lab, call, Kind::Qemu)
    }),
    post("/nodes/{node}/lxc/{vmid}/status/shutdown", MAY, "timeout:i forceStop:b", |lab, call| {
        shutdown(lab, call, Kind::Lxc)
    }),
    post("/nodes/{node}/qemu/{vmid}/status/reboot", MAY, "timeout:i", |lab, call| {
        reboot(lab, call, Kind::Qemu)
    }),
    post("/nodes/{node}/lxc/{vmid}/status/reboot", MAY, "timeout:i", |lab, call| {
        reboot(lab, call, Kind::Lxc)
    }),
    post("/nodes/{node}/qemu/{vmid}/status/reset", MAY, "skiplock:b", reset),
    post("/nodes/{node}/qemu/{vmid}/status/suspend", MAY, "todisk:b statestorage skiplock:b", |lab, call| {
        suspend(lab, call, Kind::Qemu)
    }),
    post("/nodes/{node}/lxc/{vmid}/status/suspend", MAY, "", |lab, call| suspend(lab, call, Kind::Lxc)),
    post("/nodes/{node}/qemu/{vmid}/status/resume", MAY, "skiplock:b nocheck:b", |lab, call| {
        resume(lab, call, Kind::Qemu)
    }),
    post("/nodes/{node}/lxc/{vmid}/status/resume", MAY, "", |lab, call| resume(lab, call, Kind::Lxc)),
];

/// Parameters that only `root@pam` itself may give; a token never is.
fn refuse_root_only(call: &Call<'_>) -> Result<(), ApiError> {
    let names = [
        "skiplock",
        "keepActive",
        "migratedfrom",
        "migration_type",
        "migration_network",
        "stateuri",
        "force-cpu",
    ];
    let given: BTreeMap<String, String> = names
        .iter()
        .filter(|name| call.params.contains_key(**name))
        .map(|name| ((*name).to_owned(), "Only root may use this option.".to_owned()))
        .collect();
    if given.is_empty() || call.who.is_root() { Ok(()) } else { Err(ApiError::parameters(given)) }
}

fn act(lab: &mut Lab, call: &Call<'_>, kind: &'static str, act: PowerAct) -> Outcome {
    let vmid = call.vmid();
    let upid = lab.fork(call.node(), kind, &vmid.to_string(), &call.who, Work::Power { vmid, act });
    Ok(json!(upid).into())
}

const fn named(kind: Kind, qemu: &'static str, lxc: &'static str) -> &'static str {
    match kind {
        Kind::Qemu => qemu,
        Kind::Lxc => lxc,
    }
}

fn start(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    refuse_root_only(call)?;
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    // A container is looked at before the worker starts, a virtual machine by the worker.
    if kind == Kind::Lxc && guest.power.is_up() {
        return Err(ApiError::die(format!("CT {} already running", guest.vmid)));
    }
    if lab.is_ha_managed(call.vmid()) {
        return act(lab, call, "hastart", PowerAct::HaRequest(HaWant::Started));
    }
    act(lab, call, named(kind, "qmstart", "vzstart"), PowerAct::Start)
}

fn require_running_container(lab: &Lab, call: &Call<'_>, kind: Kind) -> Result<(), ApiError> {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    if kind == Kind::Lxc && !guest.power.is_up() {
        return Err(ApiError::die(format!("CT {} not running", guest.vmid)));
    }
    Ok(())
}

fn stop(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    refuse_root_only(call)?;
    require_running_container(lab, call, kind)?;
    let managed = lab.is_ha_managed(call.vmid());
    if call.flag("overrule-shutdown") {
        if managed {
            return Err(ApiError::parameter(
                "overrule-shutdown",
                "cannot overrule shutdown of an HA managed guest",
            ));
        }
        let pending: Vec<String> = lab
            .tasks
            .values()
            .filter(|task| task.id == call.vmid().to_string() && !matches!(task.stage, Stage::Ended { .. }))
            .filter(|task| matches!(task.kind, "qmshutdown" | "vzshutdown"))
            .map(|task| task.upid.clone())
            .collect();
        for upid in pending {
            lab.abort_task(&upid, "received interrupt");
        }
    }
    if managed {
        return act(lab, call, "hastop", PowerAct::HaRequest(HaWant::Stopped));
    }
    act(lab, call, named(kind, "qmstop", "vzstop"), PowerAct::Stop)
}

fn shutdown(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    refuse_root_only(call)?;
    require_running_container(lab, call, kind)?;
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let force = call.flag("forceStop");
    let is_paused = matches!(guest.power, Power::Paused { .. });
    if kind == Kind::Qemu && is_paused && !force {
        return Err(ApiError::die("VM is paused - cannot shutdown"));
    }
    let own_timeout =
        guest.line("startup").split(',').find_map(|part| part.strip_prefix("down=")?.parse().ok());
    let own_timeout = own_timeout.filter(|_| kind == Kind::Qemu);
    let timeout_s = call.number("timeout").or(own_timeout).unwrap_or(60);
    if lab.is_ha_managed(call.vmid()) {
        return act(lab, call, "hashutdown", PowerAct::HaRequest(HaWant::Stopped));
    }
    // A paused guest cannot hear: forced, it is stopped.
    let wanted = if is_paused { PowerAct::Stop } else { PowerAct::Shutdown { timeout_s, force } };
    act(lab, call, named(kind, "qmshutdown", "vzshutdown"), wanted)
}

fn require_up(lab: &Lab, call: &Call<'_>, kind: Kind) -> Result<(), ApiError> {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    if guest.power.is_up() {
        Ok(())
    } else {
        Err(ApiError::die(format!("{} {} not running", kind.noun(), guest.vmid)))
    }
}

fn reboot(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    require_up(lab, call, kind)?;
    let timeout_s = call.number("timeout").unwrap_or(60);
    act(lab, call, named(kind, "qmreboot", "vzreboot"), PowerAct::Reboot { timeout_s })
}

fn reset(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    refuse_root_only(call)?;
    require_up(lab, call, Kind::Qemu)?;
    act(lab, call, "qmreset", PowerAct::Reset)
}

fn suspend(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    refuse_root_only(call)?;
    require_up(lab, call, kind)?;
    let to_disk = call.flag("todisk");
    if to_disk && lab.is_ha_managed(call.vmid()) {
        return Err(ApiError::die("Cannot suspend HA managed VM to disk"));
    }
    let name = if to_disk { "qmsuspend" } else { named(kind, "qmpause", "vzsuspend") };
    act(lab, call, name, PowerAct::Suspend { to_disk })
}

fn resume(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    refuse_root_only(call)?;
    let is_on_disk = lab.guest_at(call.node(), kind, call.vmid())?.line("lock") == "suspended";
    if !is_on_disk {
        require_up(lab, call, kind)?;
    }
    act(lab, call, named(kind, "qmresume", "vzresume"), PowerAct::Resume)
}
