//! What can be read of guests: lists, status, configuration, interfaces. These are live, unlike
//! `/cluster/resources`.

use super::{
    ApiError, Call, Outcome,
    route::{
        Check::{All, Anyone},
        Route, get,
    },
};
use crate::lab::{
    Lab, PveVersion,
    guest::{Guest, Kind, Power, config_json},
    service_id, stats,
};
use serde_json::{Map, Value, json};

const AUDIT: super::route::Check = All("/vms/{vmid}", &["VM.Audit"]);

pub(super) const ROUTES: &[Route] = &[
    get("/nodes/{node}/qemu", Anyone, "full:b", |lab, call| list(lab, call, Kind::Qemu)).protected(),
    get("/nodes/{node}/lxc", Anyone, "", |lab, call| list(lab, call, Kind::Lxc)).protected(),
    get("/nodes/{node}/qemu/{vmid}", Anyone, "", |_, _| {
        index(&["config", "pending", "status", "agent", "snapshot", "rrddata", "migrate", "firewall"])
    }),
    get("/nodes/{node}/lxc/{vmid}", Anyone, "", |_, _| {
        index(&["config", "pending", "status", "snapshot", "rrddata", "migrate", "interfaces", "firewall"])
    }),
    get("/nodes/{node}/qemu/{vmid}/status", Anyone, "", |_, _| {
        index(&["current", "start", "stop", "shutdown", "reset", "suspend", "resume", "reboot"])
    }),
    get("/nodes/{node}/lxc/{vmid}/status", Anyone, "", |_, _| {
        index(&["current", "start", "stop", "shutdown", "suspend", "resume", "reboot"])
    }),
    get("/nodes/{node}/qemu/{vmid}/status/current", AUDIT, "", |lab, call| current(lab, call, Kind::Qemu))
        .protected(),
    get("/nodes/{node}/lxc/{vmid}/status/current", AUDIT, "", |lab, call| current(lab, call, Kind::Lxc))
        .protected(),
    get("/nodes/{node}/qemu/{vmid}/config", AUDIT, "current:b snapshot:c", |lab, call| {
        config(lab, call, Kind::Qemu)
    }),
    get("/nodes/{node}/lxc/{vmid}/config", AUDIT, "current:b snapshot:c", |lab, call| {
        config(lab, call, Kind::Lxc)
    }),
    get("/nodes/{node}/qemu/{vmid}/pending", AUDIT, "", |lab, call| pending(lab, call, Kind::Qemu)),
    get("/nodes/{node}/lxc/{vmid}/pending", AUDIT, "", |lab, call| pending(lab, call, Kind::Lxc)),
    get("/nodes/{node}/lxc/{vmid}/interfaces", AUDIT, "", interfaces).protected(),
    get(
        "/nodes/{node}/qemu/{vmid}/feature",
        AUDIT,
        "feature:e(snapshot|clone|copy)! snapname:c",
        |lab, call| feature(lab, call, Kind::Qemu),
    )
    .protected(),
    get(
        "/nodes/{node}/lxc/{vmid}/feature",
        AUDIT,
        "feature:e(snapshot|clone|copy)! snapname:c",
        |lab, call| feature(lab, call, Kind::Lxc),
    )
    .protected(),
    get(
        "/nodes/{node}/qemu/{vmid}/rrddata",
        AUDIT,
        "timeframe:e(hour|day|week|month|year|decade)! cf:e(AVERAGE|MAX)",
        |lab, call| rrd(lab, call, Kind::Qemu),
    )
    .protected()
    .local(),
    get(
        "/nodes/{node}/lxc/{vmid}/rrddata",
        AUDIT,
        "timeframe:e(hour|day|week|month|year|decade)! cf:e(AVERAGE|MAX)",
        |lab, call| rrd(lab, call, Kind::Lxc),
    )
    .protected()
    .local(),
    get("/nodes/{node}/qemu/{vmid}/firewall/options", AUDIT, "", firewall),
    get("/nodes/{node}/lxc/{vmid}/firewall/options", AUDIT, "", firewall),
];

fn index(names: &[&str]) -> Outcome {
    Ok(Value::Array(names.iter().map(|name| json!({"subdir": name})).collect()).into())
}

fn list(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let rows: Vec<Value> = lab
        .guests
        .values()
        .filter(|guest| guest.kind == kind && guest.node == call.node())
        .filter(|guest| lab.may(&call.who.id, &format!("/vms/{}", guest.vmid), &["VM.Audit"]))
        .map(|guest| Value::Object(live_row(lab, guest, call.flag("full"))))
        .collect();
    Ok(Value::Array(rows).into())
}

/// A guest as its process and configuration have it. `full` asks QEMU itself.
fn live_row(lab: &Lab, guest: &Guest, full: bool) -> Map<String, Value> {
    let gauges = stats::gauges(guest, lab.now_ms());
    let up = guest.power.is_up();
    let old_container = guest.kind == Kind::Lxc && lab.version < PveVersion::V9_1;
    // Perl decides by how a value was last used: containers' numbers were strings for years.
    let loose = |number: u64| if old_container { json!(number.to_string()) } else { json!(number) };
    let mut row = Map::from_iter([
        ("vmid".to_owned(), loose(u64::from(guest.vmid))),
        ("name".to_owned(), json!(guest.name())),
        ("status".to_owned(), json!(if up { "running" } else { "stopped" })),
        ("cpus".to_owned(), json!(guest.cpus())),
        ("cpu".to_owned(), if up { json!(gauges.cpu) } else { json!(0) }),
        ("mem".to_owned(), json!(gauges.memory_used)),
        ("maxmem".to_owned(), json!(guest.memory_bytes())),
        ("disk".to_owned(), loose(gauges.disk_used)),
        ("maxdisk".to_owned(), loose(guest.disk_bytes())),
        ("uptime".to_owned(), json!(gauges.uptime_s)),
        ("netin".to_owned(), json!(gauges.net_in)),
        ("netout".to_owned(), json!(gauges.net_out)),
        ("diskread".to_owned(), json!(gauges.disk_read)),
        ("diskwrite".to_owned(), json!(gauges.disk_written)),
    ]);
    let mut set = |key: &str, value: Value| drop(row.insert(key.to_owned(), value));
    if let Some((_, pid)) = guest.power.process() {
        set("pid", loose(u64::from(pid)));
    }
    for key in ["lock", "tags"] {
        if !guest.line(key).is_empty() {
            set(key, json!(guest.line(key)));
        }
    }
    if guest.is_template() {
        set("template", json!(1));
    } else if old_container {
        set("template", json!(""));
    }
    match guest.kind {
        Kind::Lxc => {
            set("type", json!("lxc"));
            set("swap", json!(0));
            set("maxswap", json!(guest.number("swap").unwrap_or(0) << 20));
        }
        Kind::Qemu => {
            if full {
                set("qmpstatus", json!(qmp_status(guest)));
            }
            if guest.config.keys().any(|key| key.starts_with("serial")) {
                set("serial", json!(1));
            }
            if lab.version >= PveVersion::V9_1 {
                set("memhost", json!(gauges.memory_used + gauges.memory_used / 20));
            }
        }
    }
    if lab.version >= PveVersion::V9_1 {
        for key in [
            "pressurecpusome",
            "pressurecpufull",
            "pressureiosome",
            "pressureiofull",
            "pressurememorysome",
            "pressurememoryfull",
        ] {
            // A container's come from text files, and text they stay.
            set(key, if guest.kind == Kind::Lxc { json!("0.00") } else { json!(0) });
        }
    }
    row
}

fn qmp_status(guest: &Guest) -> &'static str {
    match guest.power {
        Power::Stopped => "stopped",
        Power::Running { .. } => "running",
        Power::Paused { .. } => "paused",
    }
}

fn current(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let mut row = live_row(lab, guest, true);
    // Here it is a number on every version.
    row.insert("vmid".to_owned(), json!(guest.vmid));
    let managed = lab.ha.get(&service_id(kind, guest.vmid));
    let ha = match managed {
        Some(resource) => json!({"managed": 1, "state": resource.state.split(':').next()}),
        None => json!({"managed": 0}),
    };
    row.insert("ha".to_owned(), ha);
    if kind == Kind::Qemu {
        if guest.has_agent_configured() {
            row.insert("agent".to_owned(), json!(1));
        }
        row.insert("clipboard".to_owned(), Value::Null);
        if guest.power.is_up() {
            let machine =
                guest.config.get("machine").cloned().unwrap_or_else(|| "pc-i440fx-10.1+pve0".to_owned());
            row.insert("running-machine".to_owned(), json!(machine));
            row.insert("running-qemu".to_owned(), json!("10.1.2"));
        }
    }
    Ok(Value::Object(row).into())
}

fn config(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let mut shown = match call.text("snapshot") {
        Some(name) => {
            let snapshot = guest
                .snapshots
                .get(name)
                .ok_or_else(|| ApiError::die(format!("snapshot '{name}' does not exist")))?;
            let mut shown = config_json(kind, &snapshot.config);
            shown.insert("snaptime".to_owned(), json!(snapshot.taken_s));
            if let Some(parent) = &snapshot.parent {
                shown.insert("parent".to_owned(), json!(parent));
            }
            shown
        }
        // What waits for the next start is shown as if it were there, unless `current` is asked for.
        None if call.flag("current") => config_json(kind, &guest.config),
        None => config_json(kind, &guest.config_after_restart()),
    };
    shown.insert("digest".to_owned(), json!(guest.digest()));
    if lab.version < PveVersion::V9_1 && kind == Kind::Qemu {
        shown.entry("boot".to_owned()).or_insert(json!(" "));
    }
    Ok(Value::Object(shown).into())
}

fn pending(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let mut rows = Vec::new();
    for (key, value) in config_json(kind, &guest.config) {
        let mut row = json!({"key": key, "value": value});
        match guest.pending.get(&key) {
            Some(Some(new)) => row["pending"] = json!(new),
            Some(None) => row["delete"] = json!(1),
            None => {}
        }
        rows.push(row);
    }
    for (key, value) in &guest.pending {
        if let (Some(value), false) = (value, guest.config.contains_key(key)) {
            rows.push(json!({"key": key, "pending": value}));
        }
    }
    rows.push(json!({"key": "digest", "value": guest.digest()}));
    Ok(Value::Array(rows).into())
}

fn interfaces(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let guest = lab.guest_at(call.node(), Kind::Lxc, call.vmid())?;
    if !guest.power.is_up() {
        // Not an error: null.
        return Ok(Value::Null.into());
    }
    let rows: Vec<Value> = guest
        .interfaces
        .iter()
        .map(|interface| {
            let mut row = json!({"name": interface.name, "hwaddr": interface.mac, "hardware-address": interface.mac});
            let mut addresses = Vec::new();
            for address in &interface.addresses {
                let (ip, prefix) = address.split_once('/').unwrap_or((address, "32"));
                let family = if ip.contains(':') { "inet6" } else { "inet" };
                row[family] = json!(address);
                addresses.push(json!({"ip-address": ip, "ip-address-type": family, "prefix": prefix.parse::<u8>().unwrap_or(32)}));
            }
            row["ip-addresses"] = Value::Array(addresses);
            row
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn feature(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let has = match call.text("feature") {
        Some("snapshot") => lab.snapshot_obstacle(guest).is_none(),
        Some("clone") => guest.is_template(),
        _ => true,
    };
    let mut answer = json!({"hasFeature": u8::from(has)});
    if kind == Kind::Qemu {
        answer["nodes"] = json!([guest.node]);
    }
    Ok(answer.into())
}

fn rrd(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guests.get(&call.vmid()).filter(|guest| guest.kind == kind);
    let guest = guest.ok_or_else(|| ApiError::die(format!("no such {} '{}'", kind.noun(), call.vmid())))?;
    let now_s = lab.now_s() / 60 * 60;
    let rows: Vec<Value> = (0..70)
        .map(|back| {
            let at_s = now_s - (69 - back) * 60;
            match guest.power.process() {
                Some((since_ms, _)) if at_s * 1000 >= since_ms => {
                    let gauges = stats::gauges(guest, at_s * 1000);
                    // Averages: floats even where whole numbers are meant.
                    json!({"time": at_s, "cpu": gauges.cpu, "mem": gauges.memory_used as f64 + 0.5, "maxmem": guest.memory_bytes() as f64, "maxcpu": guest.cpus(), "maxdisk": guest.disk_bytes() as f64})
                }
                _ => json!({"time": at_s}),
            }
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn firewall(_: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!({"enable": 0, "digest": "da39a3ee5e6b4b0d3255bfef95601890afd80709"}).into())
}
