//! Nodes: list, status, certificates, network, and the few node-wide reads a scanner makes. The dangerous
//! node-wide writes of PVE (stopall, reboot) are not here: nothing rehearsed on this lab may use them.

use super::{
    Call, Outcome,
    route::{
        Check::{All, Anyone},
        Route, get,
    },
};
use crate::lab::{Lab, PveVersion};
use serde_json::{Value, json};

pub(super) const ROUTES: &[Route] = &[
    get("/nodes", Anyone, "", list),
    get("/nodes/{node}", Anyone, "", index),
    get("/nodes/{node}/status", All("/nodes/{node}", &["Sys.Audit"]), "", status),
    get("/nodes/{node}/version", Anyone, "", version),
    get("/nodes/{node}/time", All("/nodes/{node}", &["Sys.Audit"]), "", time),
    get("/nodes/{node}/subscription", Anyone, "", subscription),
    get("/nodes/{node}/certificates/info", Anyone, "", certificates),
    get("/nodes/{node}/network", Anyone, "type", network),
    get("/nodes/{node}/services", All("/nodes/{node}", &["Sys.Audit"]), "", services).protected(),
    get(
        "/nodes/{node}/disks/list",
        All("/nodes/{node}", &["Sys.Audit"]),
        "include-partitions:b skipsmart:b type",
        disks,
    )
    .protected(),
    get("/nodes/{node}/replication", Anyone, "guest:v", replication).protected(),
    get(
        "/nodes/{node}/rrddata",
        All("/nodes/{node}", &["Sys.Audit"]),
        "timeframe:e(hour|day|week|month|year|decade)! cf:e(AVERAGE|MAX)",
        rrd,
    )
    .protected()
    .local(),
    get("/nodes/{node}/config", All("/", &["Sys.Audit"]), "property", config),
];

fn list(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let rows: Vec<Value> = lab
        .nodes
        .values()
        .map(|node| {
            let mut row = super::resources::node_row(lab, &call.who, &node.name);
            // The fingerprint is told to everybody who is logged in.
            row["ssl_fingerprint"] = json!(node.fingerprint);
            if let Some(row) = row.as_object_mut() {
                row.remove("cgroup-mode");
            }
            row
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn index(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    if !lab.nodes.contains_key(call.node()) {
        return Err(super::ApiError::die(format!("no such cluster node '{}'", call.node())));
    }
    let names =
        ["qemu", "lxc", "status", "storage", "tasks", "network", "version", "vzdump", "certificates", "time"];
    Ok(Value::Array(names.iter().map(|name| json!({"name": name})).collect()).into())
}

fn status(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let row = lab.node_row(call.node(), lab.now_ms());
    let Some(node) = lab.nodes.get(call.node()) else { return Ok(Value::Null.into()) };
    let (kernel, package) = match lab.version {
        PveVersion::V8_2 => ("6.8.12-1-pve", "pve-manager/8.2.4/faa83925c9641325"),
        PveVersion::V9_1 => ("6.17.2-1-pve", "pve-manager/9.1.1/42db4a6cf33dac83"),
    };
    let load = row.cpu * f64::from(node.cpus);
    Ok(json!({
        "uptime": row.uptime_s, "cpu": row.cpu, "wait": 0.0004, "idle": 0,
        // Three strings, as PVE sends them.
        "loadavg": [format!("{load:.2}"), format!("{:.2}", load * 0.9), format!("{:.2}", load * 0.8)],
        "memory": {"total": node.memory_bytes, "used": row.memory_used, "free": node.memory_bytes - row.memory_used, "available": node.memory_bytes - row.memory_used},
        "swap": {"total": 8_589_930_496_u64, "used": 0, "free": 8_589_930_496_u64},
        "rootfs": {"total": node.disk_bytes, "used": row.disk_used, "free": node.disk_bytes - row.disk_used, "avail": node.disk_bytes - row.disk_used},
        "cpuinfo": {"cores": (node.cpus / 2).max(1), "cpus": node.cpus, "sockets": 1, "model": node.processor, "mhz": "2300.000", "hvm": "1", "user_hz": 100, "flags": "vmx aes"},
        "ksm": {"shared": 0},
        "boot-info": {"mode": "efi", "secureboot": 0},
        "current-kernel": {"sysname": "Linux", "release": kernel, "machine": "x86_64", "version": "#1 SMP PREEMPT_DYNAMIC PMX"},
        "kversion": format!("Linux {kernel} #1 SMP PREEMPT_DYNAMIC PMX"), "pveversion": package,
    })
    .into())
}

fn version(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!({"version": lab.version.full(), "release": lab.version.release(), "repoid": "42db4a6cf33dac83"})
        .into())
}

fn time(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!({"timezone": "UTC", "time": lab.now_s(), "localtime": lab.now_s()}).into())
}

fn subscription(_: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!({"status": "notfound", "message": "There is no subscription key", "serverid": "0", "url": "https://www.proxmox.com/proxmox-ve/pricing"}).into())
}

fn certificates(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let Some(node) = lab.nodes.get(call.node()) else { return Ok(Value::Null.into()) };
    let (from_s, to_s) = node.certificate_valid_s;
    Ok(json!([{
        "filename": "pve-ssl.pem", "fingerprint": node.fingerprint, "pem": node.certificate_pem,
        "issuer": "/CN=Proxmox Virtual Environment/OU=simulated/O=PVE Cluster Manager CA",
        "subject": format!("/OU=PVE Cluster Node/O=Proxmox Virtual Environment/CN={}", node.name),
        "san": ["127.0.0.1", "localhost", node.address, node.name], "notbefore": from_s, "notafter": to_s,
        "public-key-bits": 256, "public-key-type": "id-ecPublicKey",
    }])
    .into())
}

fn network(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let Some(node) = lab.nodes.get(call.node()) else { return Ok(Value::Null.into()) };
    let bridge = json!({
        "iface": "vmbr0", "type": "bridge", "active": 1, "autostart": 1, "method": "static", "method6": "manual",
        "address": node.address, "netmask": "24", "cidr": format!("{}/24", node.address), "gateway": "192.168.10.1",
        "bridge_ports": "eno1", "bridge_stp": "off", "bridge_fd": "0", "families": ["inet"], "priority": 4,
    });
    let card = json!({"iface": "eno1", "type": "eth", "active": 1, "exists": 1, "method": "manual", "method6": "manual", "families": ["inet"], "priority": 3});
    let mut rows = Vec::new();
    if lab.may(&call.who.id, "/sdn/zones/localnetwork/vmbr0", &["SDN.Audit", "SDN.Use"]) {
        rows.push(bridge);
    }
    if lab.may(&call.who.id, &format!("/nodes/{}", call.node()), &["Sys.Audit"]) {
        rows.push(card);
    }
    if let Some(wanted) = call.text("type") {
        rows.retain(|row| row["type"] == wanted || (wanted == "any_bridge" && row["type"] == "bridge"));
    }
    Ok(Value::Array(rows).into())
}

fn services(_: &mut Lab, _: &Call<'_>) -> Outcome {
    let row = |name: &str, text: &str| json!({"name": name, "service": name, "desc": text, "state": "running", "active-state": "active", "unit-state": "enabled"});
    Ok(json!([
        row("pveproxy", "PVE API Proxy Server"),
        row("pvedaemon", "PVE API Daemon"),
        row("pvestatd", "PVE Status Daemon"),
        row("pve-cluster", "The Proxmox VE cluster filesystem"),
        row("corosync", "Corosync Cluster Engine"),
    ])
    .into())
}

fn disks(_: &mut Lab, call: &Call<'_>) -> Outcome {
    Ok(json!([{
        "devpath": "/dev/nvme0n1", "type": "nvme", "size": 1_000_204_886_016_u64, "model": "Samsung SSD 980 PRO 1TB",
        "serial": format!("S5GX{}", call.node()), "health": "PASSED", "wearout": 96, "used": "LVM", "gpt": 1, "vendor": "unknown", "rpm": 0,
    }])
    .into())
}

fn replication(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let here = call.node();
    let rows: Vec<Value> = lab
        .replication_jobs
        .iter()
        .filter(|(_, job)| job.get("source").and_then(Value::as_str) == Some(here))
        .filter(|(id, _)| {
            let guest = id.split('-').next().unwrap_or_default();
            lab.may(&call.who.id, &format!("/vms/{guest}"), &["VM.Audit"])
                && call.text("guest").is_none_or(|wanted| wanted == guest)
        })
        .map(|(id, job)| {
            let last_s = lab.now_s() / 900 * 900;
            json!({
                "id": id, "guest": id.split('-').next().unwrap_or_default(), "jobnum": "0", "type": "local", "source": here,
                "target": job.get("target"), "schedule": job.get("schedule"), "last_sync": last_s, "last_try": last_s,
                "next_sync": last_s + 900, "duration": 3.2, "fail_count": 0, "vmtype": "lxc",
            })
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn rrd(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let now_s = lab.now_s() / 60 * 60;
    let Some(node) = lab.nodes.get(call.node()) else { return Ok(json!([]).into()) };
    let rows: Vec<Value> = (0..70)
        .map(|back| {
            let at_s = now_s - (69 - back) * 60;
            // Absent samples have no keys.
            if at_s * 1000 < node.booted_ms {
                return json!({"time": at_s});
            }
            let row = lab.node_row(&node.name, at_s * 1000);
            json!({"time": at_s, "cpu": row.cpu, "memused": row.memory_used as f64, "memtotal": node.memory_bytes as f64, "maxcpu": node.cpus})
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn config(_: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!({"digest": "da39a3ee5e6b4b0d3255bfef95601890afd80709"}).into())
}
