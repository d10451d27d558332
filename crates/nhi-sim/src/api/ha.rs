//! The HA manager's side: which guests it manages, what it wants of them, rules or groups.

use super::{
    ApiError, Call, Outcome,
    route::{
        Check::{All, AnyOf},
        Route, delete, get, post, put,
    },
};
use crate::lab::{HaResource, Lab, PveVersion, service_id, task::HaWant};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const AUDIT: super::route::Check = All("/", &["Sys.Audit"]);
const CHANGE: super::route::Check = All("/", &["Sys.Console"]);
const STATE: &str = "state:e(started|stopped|enabled|disabled|ignored)";

pub(super) const ROUTES: &[Route] = &[
    get("/cluster/ha/resources", AUDIT, "type", list),
    get("/cluster/ha/resources/{sid}", AUDIT, "", show),
    post(
        "/cluster/ha/resources",
        CHANGE,
        "sid:s! state group comment max_relocate:i max_restart:i failback:b type",
        add,
    ),
    put(
        "/cluster/ha/resources/{sid}",
        CHANGE,
        "state group comment max_relocate:i max_restart:i failback:b delete digest",
        change,
    ),
    delete("/cluster/ha/resources/{sid}", CHANGE, "purge:b", remove),
    post("/cluster/ha/resources/{sid}/migrate", CHANGE, "node:n!", migrate),
    post("/cluster/ha/resources/{sid}/relocate", CHANGE, "node:n!", migrate),
    get("/cluster/ha/status/current", AUDIT, "", current),
    get("/cluster/ha/status/manager_status", AUDIT, "", manager_status),
    get("/cluster/ha/rules", AnyOf("/", &["Sys.Audit"]), "resource type", rules),
    get("/cluster/ha/groups", AUDIT, "", groups),
];

/// Accepts `vm:100`, `ct:201` and the bare number.
fn parse_sid(lab: &Lab, text: &str) -> Result<(String, u32), ApiError> {
    let (prefix, digits) = text.split_once(':').unwrap_or(("", text));
    let vmid: u32 = digits
        .parse()
        .map_err(|_| ApiError::parameter("sid", format!("invalid format - unable to parse '{text}'\n")))?;
    match lab.guests.get(&vmid) {
        Some(guest) if prefix.is_empty() || prefix == guest.kind.service_prefix() => {
            Ok((service_id(guest.kind, vmid), vmid))
        }
        _ if prefix.is_empty() => Err(ApiError::die(format!("unable to find guest '{vmid}'"))),
        _ => Ok((text.to_owned(), vmid)),
    }
}

fn row(resource: &HaResource) -> Value {
    let mut row: Map<String, Value> =
        resource.fields.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    let kind = resource.sid.split(':').next().unwrap_or_default();
    row.insert("sid".to_owned(), json!(resource.sid));
    row.insert("type".to_owned(), json!(kind));
    row.insert("state".to_owned(), json!(resource.wanted));
    row.insert("digest".to_owned(), json!("2fd4e1c67a2d28fced849ee1bb76e7391b93eb12"));
    Value::Object(row)
}

fn list(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let fits = |resource: &&HaResource| {
        call.text("type").is_none_or(|kind| resource.sid.starts_with(&format!("{kind}:")))
    };
    Ok(Value::Array(lab.ha.values().filter(fits).map(row).collect()).into())
}

fn missing(sid: &str) -> ApiError {
    ApiError::die(format!("no such resource '{sid}'"))
}

fn show(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let (sid, _) = parse_sid(lab, call.var("sid"))?;
    lab.ha.get(&sid).map(|resource| row(resource).into()).ok_or_else(|| missing(&sid))
}

fn wanted(text: Option<&str>) -> Result<String, ApiError> {
    match text {
        None | Some("enabled") => Ok("started".to_owned()),
        Some(state @ ("started" | "stopped" | "disabled" | "ignored")) => Ok(state.to_owned()),
        Some(other) => {
            let words = STATE.trim_start_matches("state:e(").trim_end_matches(')').replace('|', ", ");
            Err(ApiError::parameter(
                "state",
                format!("value '{other}' does not have a value in the enumeration '{words}'"),
            ))
        }
    }
}

fn fields(call: &Call<'_>) -> BTreeMap<String, String> {
    ["group", "comment", "max_relocate", "max_restart", "failback"]
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), call.text(name)?.to_owned())))
        .collect()
}

fn add(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let (sid, vmid) = parse_sid(lab, call.text("sid").unwrap_or_default())?;
    if call.text("group").is_some() && lab.version >= PveVersion::V9_1 {
        return Err(ApiError::die("invalid parameter 'group': ha groups have been migrated to rules"));
    }
    let Some(guest) = lab.guests.get(&vmid) else {
        return Err(ApiError::die(format!("unable to find guest '{vmid}'")));
    };
    if guest.is_template() {
        return Err(ApiError::die(format!("unable to add template '{sid}' to HA")));
    }
    if lab.ha.contains_key(&sid) {
        return Err(ApiError::die(format!("resource ID '{sid}' already defined")));
    }
    let resource = HaResource {
        sid: sid.clone(),
        wanted: wanted(call.text("state"))?,
        state: "queued".to_owned(),
        fields: fields(call),
    };
    lab.ha.insert(sid, resource);
    lab.wake_ha(vmid);
    Ok(Value::Null.into())
}

fn change(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let (sid, vmid) = parse_sid(lab, call.var("sid"))?;
    let state = call.text("state").map(|text| wanted(Some(text))).transpose()?;
    let (removed, added) = (call.list("delete"), fields(call));
    let resource = lab.ha.get_mut(&sid).ok_or_else(|| missing(&sid))?;
    for key in removed {
        resource.fields.remove(&key);
    }
    resource.fields.extend(added);
    if let Some(state) = state {
        resource.wanted = state;
    }
    lab.wake_ha(vmid);
    Ok(Value::Null.into())
}

fn remove(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let (sid, _) = parse_sid(lab, call.var("sid"))?;
    match lab.ha.remove(&sid) {
        Some(_) => Ok(Value::Null.into()),
        None => Err(ApiError::die(format!("cannot delete service '{sid}', not HA managed!"))),
    }
}

fn migrate(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let (sid, vmid) = parse_sid(lab, call.var("sid"))?;
    let node = call.text("node").unwrap_or_default().to_owned();
    if !lab.nodes.contains_key(&node) {
        return Err(ApiError::die(format!("no such cluster node '{node}'")));
    }
    if !lab.ha.contains_key(&sid) {
        return Err(missing(&sid));
    }
    lab.file_ha_request(vmid, &HaWant::Node(node.clone()));
    Ok(json!({"sid": sid, "requested-node": node}).into())
}

fn current(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let now_s = lab.now_s();
    let stamp = jiff::Timestamp::from_second(now_s)
        .map(|at| at.strftime("%a %b %e %H:%M:%S %Y").to_string())
        .unwrap_or_default();
    let mut rows = vec![json!({
        "id": "quorum", "type": "quorum", "node": call.via, "quorate": u8::from(lab.is_quorate()),
        "status": if lab.is_quorate() { "OK" } else { "No quorum on node!" },
    })];
    if let Some(master) = lab.nodes.keys().find(|node| lab.is_online(node)) {
        rows.push(json!({"id": "master", "type": "master", "node": master, "status": format!("{master} (active, {stamp})"), "timestamp": now_s}));
    }
    for node in lab.nodes.keys() {
        let has_services =
            lab.ha.keys().any(|sid| lab.guests.get(&vmid_of(sid)).is_some_and(|guest| guest.node == *node));
        let mode = if !lab.is_online(node) {
            "old timestamp - dead?"
        } else if has_services {
            "active"
        } else {
            "idle"
        };
        rows.push(json!({"id": format!("lrm:{node}"), "type": "lrm", "node": node, "status": format!("{node} ({mode}, {stamp})"), "timestamp": now_s}));
    }
    for resource in lab.ha.values() {
        let Some(guest) = lab.guests.get(&vmid_of(&resource.sid)) else { continue };
        let state = resource.state.split(':').next().unwrap_or_default();
        rows.push(json!({
            "id": format!("service:{}", resource.sid), "sid": resource.sid, "type": "service", "node": guest.node, "state": state,
            "crm_state": state, "request_state": resource.wanted, "status": format!("{} ({}, {state})", resource.sid, guest.node),
        }));
    }
    Ok(Value::Array(rows).into())
}

fn vmid_of(sid: &str) -> u32 {
    sid.split(':').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn manager_status(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let services: Map<String, Value> = lab
        .ha
        .values()
        .filter_map(|resource| {
            let guest = lab.guests.get(&vmid_of(&resource.sid))?;
            Some((resource.sid.clone(), json!({"node": guest.node, "state": resource.state, "running": u8::from(guest.power.is_up())})))
        })
        .collect();
    let nodes: Map<String, Value> = lab
        .nodes
        .keys()
        .map(|node| (node.clone(), json!(if lab.is_online(node) { "online" } else { "unknown" })))
        .collect();
    Ok(json!({"manager_status": {"master_node": call.via, "node_status": nodes, "service_status": services, "timestamp": lab.now_s()},
        "quorum": {"node": call.via, "quorate": u8::from(lab.is_quorate()).to_string()}})
    .into())
}

fn rules(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    if lab.version < PveVersion::V9_1 {
        return Err(ApiError::status(501, "Method 'GET /cluster/ha/rules' not implemented"));
    }
    let rows: Vec<Value> = lab
        .ha_rules
        .iter()
        .map(|(name, rule)| {
            let mut row: Map<String, Value> = rule.clone().into_iter().collect();
            row.insert("rule".to_owned(), json!(name));
            Value::Object(row)
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn groups(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    if lab.version >= PveVersion::V9_1 {
        return Err(ApiError::die("cannot index groups: ha groups have been migrated to rules"));
    }
    let rows: Vec<Value> = lab.ha_rules.keys().map(|name| json!({"group": name, "type": "group"})).collect();
    Ok(Value::Array(rows).into())
}
