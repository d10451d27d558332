//! The cluster as a whole: version, status, next free number, options, join information, log.

use super::{
    ApiError, Call, Outcome, resources,
    route::{
        Check::{All, Anyone},
        Route, get, put,
    },
};
use crate::lab::{Lab, PveVersion};
use serde_json::{Map, Value, json};

pub(super) const ROUTES: &[Route] = &[
    get("/version", Anyone, "", version),
    get("/cluster/resources", Anyone, "type:e(vm|storage|node|sdn|network)", resources::list),
    get("/cluster/status", All("/", &["Sys.Audit"]), "", status).protected(),
    get("/cluster/nextid", Anyone, "vmid:v", next_id),
    get("/cluster/options", All("/", &["Sys.Audit"]), "", options),
    put(
        "/cluster/options",
        All("/", &["Sys.Modify"]),
        "registered-tags keyboard description delete mac_prefix migration tag-style user-tag-access next-id console language ha",
        set_options,
    ),
    get("/cluster/config/join", All("/", &["Sys.Audit"]), "node:n", join_information),
    get("/cluster/config/nodes", All("/", &["Sys.Audit"]), "", config_nodes),
    get("/cluster/config/apiversion", All("/", &["Sys.Audit"]), "", api_version),
    get("/cluster/log", Anyone, "max:i", log),
    get("/cluster/replication", Anyone, "", replication),
    get("/cluster/ceph/status", All("/", &["Sys.Audit"]), "", ceph_status).protected(),
];

fn version(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    let repository = match lab.version {
        PveVersion::V8_2 => "faa83925c9641325",
        PveVersion::V9_1 => "42db4a6cf33dac83",
    };
    Ok(json!({"version": lab.version.full(), "release": lab.version.release(), "repoid": repository}).into())
}

fn status(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let mut rows = Vec::new();
    if let Some(cluster) = &lab.cluster {
        rows.push(json!({
            "type": "cluster", "id": "cluster", "name": cluster, "version": lab.nodes.len() + 2,
            "nodes": lab.nodes.len(), "quorate": u8::from(lab.is_quorate()),
        }));
    }
    for node in lab.nodes.values() {
        rows.push(json!({
            "type": "node", "id": format!("node/{}", node.name), "name": node.name, "ip": node.address,
            "online": u8::from(node.name == call.via || lab.is_online(&node.name)), "level": "",
            "local": u8::from(node.name == call.via),
            "nodeid": if lab.cluster.is_some() { node.number } else { 0 },
        }));
    }
    Ok(Value::Array(rows).into())
}

fn next_id(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    // A string, though the schema says integer: Perl decides.
    match call.text("vmid").and_then(|text| text.parse().ok()) {
        None => {
            let free = (100..).find(|vmid| !lab.guests.contains_key(vmid)).unwrap_or(100);
            Ok(json!(free.to_string()).into())
        }
        Some(vmid) => match lab.guests.get(&vmid) {
            None => Ok(json!(vmid.to_string()).into()),
            Some(guest) => {
                Err(ApiError::parameter("vmid", format!("{} {vmid} already exists", guest.kind.noun())))
            }
        },
    }
}

fn options(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    let mut rows: Map<String, Value> =
        lab.options.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    if let Some(tags) = lab.options.get("registered-tags") {
        rows.insert("registered-tags".to_owned(), json!(tags.split(';').collect::<Vec<_>>()));
        rows.insert("allowed-tags".to_owned(), json!(tags.split(';').collect::<Vec<_>>()));
    }
    Ok(Value::Object(rows).into())
}

fn set_options(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    for key in call.list("delete") {
        lab.options.remove(&key);
    }
    for (key, value) in &call.params {
        if let (false, Some(text)) = (key == "delete", value.as_str()) {
            lab.options.insert(key.clone(), text.to_owned());
        }
    }
    Ok(Value::Null.into())
}

fn join_information(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let Some(cluster) = lab.cluster.clone() else {
        return Err(ApiError::die("node is not in a cluster, no join info available!"));
    };
    let nodes: Vec<Value> = lab
        .nodes
        .values()
        .map(|node| {
            json!({
                "name": node.name, "nodeid": node.number.to_string(), "pve_addr": node.address,
                "pve_fp": node.fingerprint, "quorum_votes": "1", "ring0_addr": node.address,
            })
        })
        .collect();
    Ok(json!({
        "config_digest": "0d2cb8f2dc1a3f5e9c77a1b6d5e8a4c3f0b9e7d6",
        "nodelist": nodes,
        "preferred_node": call.via,
        "totem": {"cluster_name": cluster, "config_version": "3", "interface": {"0": {"linknumber": "0"}}, "ip_version": "ipv4-6", "link_mode": "passive", "secauth": "on", "version": "2"},
    })
    .into())
}

fn config_nodes(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    let rows: Vec<Value> = lab
        .nodes
        .values()
        .map(|node| {
            json!({"node": node.name, "name": node.name, "nodeid": node.number.to_string(), "quorum_votes": "1", "ring0_addr": node.address})
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn api_version(_: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!(1).into())
}

fn log(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let most = usize::try_from(call.number("max").unwrap_or(50)).unwrap_or(50);
    let may_all = lab.may(&call.who.id, "/", &["Sys.Syslog"]);
    let rows: Vec<Value> = lab
        .task_order
        .iter()
        .rev()
        .filter_map(|upid| lab.tasks.get(upid))
        .filter(|task| may_all || task.user == call.who.id)
        .take(most)
        .enumerate()
        .map(|(place, task)| {
            json!({"uid": place + 1, "time": task.started_s, "pri": 6, "tag": "pvedaemon", "pid": task.pid, "node": task.node,
                "user": task.user, "id": format!("{}:{}", place + 1, task.node), "msg": format!("starting task {}", task.upid)})
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn replication(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let rows: Vec<Value> = lab
        .replication_jobs
        .iter()
        .filter(|(id, _)| {
            let guest = id.split('-').next().unwrap_or_default();
            lab.may(&call.who.id, &format!("/vms/{guest}"), &["VM.Audit"])
        })
        .map(|(id, job)| {
            let mut row: Map<String, Value> = job.clone().into_iter().collect();
            row.insert("id".to_owned(), json!(id));
            Value::Object(row)
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn ceph_status(_: &mut Lab, _: &Call<'_>) -> Outcome {
    Err(ApiError::die("binary not installed: /usr/bin/ceph-mon"))
}
