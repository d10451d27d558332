//! The QEMU guest agent, as far as it can be read. Running commands in guests is not simulated: it is refused
//! as if no agent had been configured.

use super::{
    ApiError, Call, Outcome, Reply,
    route::{Check, Check::Anyone, Route, get, post},
};
use crate::lab::{
    Lab, PveVersion,
    fault::Fault,
    guest::{Agent, Guest, Kind},
};
use serde_json::{Value, json};

const PATH: &str = "/vms/{vmid}";
/// Either release's privilege; which one counts is decided per version in [`permitted`].
const MONITOR: Check =
    Check::AnyOf(PATH, &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted", "VM.Monitor"]);

pub(super) const ROUTES: &[Route] = &[
    get("/nodes/{node}/qemu/{vmid}/agent", Anyone, "", index),
    get("/nodes/{node}/qemu/{vmid}/agent/network-get-interfaces", Anyone, "", interfaces).protected(),
    get("/nodes/{node}/qemu/{vmid}/agent/get-osinfo", Anyone, "", os_info).protected(),
    get("/nodes/{node}/qemu/{vmid}/agent/get-host-name", Anyone, "", host_name).protected(),
    get("/nodes/{node}/qemu/{vmid}/agent/info", Anyone, "", info).protected(),
    post("/nodes/{node}/qemu/{vmid}/agent/ping", MONITOR, "", ping).without_quorum(),
];

/// How long QMP waits for an agent that hangs.
const QMP_DEADLINE_MS: u64 = 5000;

fn index(_: &mut Lab, _: &Call<'_>) -> Outcome {
    let names = ["network-get-interfaces", "get-osinfo", "get-host-name", "info", "ping"];
    Ok(Value::Array(names.iter().map(|name| json!({"name": name})).collect()).into())
}

fn permitted(lab: &Lab, call: &Call<'_>) -> Result<(), ApiError> {
    let any_of: &[&str] = match lab.version {
        // Release 8 asks for a privilege that also allows to run commands inside.
        PveVersion::V8_2 => &["VM.Monitor"],
        PveVersion::V9_1 => &["VM.GuestAgent.Audit", "VM.GuestAgent.Unrestricted"],
    };
    lab.require_any(&call.who, &format!("/vms/{}", call.vmid()), any_of)
}

/// The guest, if its agent answers.
fn answering<'a>(lab: &'a Lab, call: &Call<'_>) -> Result<&'a Guest, ApiError> {
    permitted(lab, call)?;
    let guest = lab.guest_at(call.node(), Kind::Qemu, call.vmid())?;
    if !guest.has_agent_configured() {
        return Err(ApiError::die("No QEMU guest agent configured"));
    }
    if !guest.power.is_up() {
        return Err(ApiError::die(format!("VM {} is not running", guest.vmid)));
    }
    let vmid = guest.vmid;
    let agent = if lab.faults.any(|fault| matches!(fault, Fault::AgentSilent { vmid: id } if *id == vmid)) {
        Agent::Silent
    } else if lab.faults.any(|fault| matches!(fault, Fault::AgentMissing { vmid: id } if *id == vmid)) {
        Agent::Missing
    } else {
        guest.agent
    };
    match agent {
        Agent::Running => Ok(guest),
        Agent::Missing => Err(ApiError::die("QEMU guest agent is not running")),
        Agent::Silent => Err(ApiError {
            delay_ms: QMP_DEADLINE_MS,
            ..ApiError::die(format!(
                "VM {vmid} qmp command 'guest-network-get-interfaces' failed - got timeout"
            ))
        }),
    }
}

fn result(value: Value) -> Outcome {
    Ok(Reply { data: json!({"result": value}), total: None, delay_ms: 2 })
}

fn interfaces(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let guest = answering(lab, call)?;
    let rows: Vec<Value> = guest
        .interfaces
        .iter()
        .map(|interface| {
            let addresses: Vec<Value> = interface
                .addresses
                .iter()
                .map(|address| {
                    let (ip, prefix) = address.split_once('/').unwrap_or((address, "32"));
                    let family = if ip.contains(':') { "ipv6" } else { "ipv4" };
                    json!({"ip-address": ip, "ip-address-type": family, "prefix": prefix.parse::<u8>().unwrap_or(32)})
                })
                .collect();
            json!({
                "name": interface.name, "hardware-address": interface.mac, "ip-addresses": addresses,
                "statistics": {"rx-bytes": 81_920, "tx-bytes": 30_720, "rx-packets": 100, "tx-packets": 80, "rx-errs": 0, "tx-errs": 0, "rx-dropped": 0, "tx-dropped": 0},
            })
        })
        .collect();
    result(Value::Array(rows))
}

fn os_info(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let guest = answering(lab, call)?;
    let windows = guest.line("ostype").starts_with("win");
    result(if windows {
        json!({"id": "mswindows", "name": "Microsoft Windows", "pretty-name": "Windows 11 Pro", "version": "Microsoft Windows 11", "machine": "x86_64"})
    } else {
        json!({"id": "debian", "name": "Debian GNU/Linux", "pretty-name": "Debian GNU/Linux 13 (trixie)", "version-id": "13", "machine": "x86_64", "kernel-release": "6.12.48+deb13-amd64"})
    })
}

fn host_name(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let name = answering(lab, call)?.name();
    result(json!({"host-name": name}))
}

fn info(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    answering(lab, call)?;
    result(
        json!({"version": "10.0.3", "supported_commands": [{"name": "guest-network-get-interfaces", "enabled": true, "success-response": true}]}),
    )
}

fn ping(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    answering(lab, call)?;
    result(json!({}))
}
