//! Snapshots: list, take, remove, return to, and their descriptions.

use super::{
    ApiError, Call, Outcome,
    route::{Check, Route, delete, get, post, put},
};
use crate::lab::{
    Lab,
    guest::{Kind, config_json},
    task::{Build, Work},
};
use serde_json::{Value, json};

const AUDIT: Check = Check::All("/vms/{vmid}", &["VM.Audit"]);
const TAKE: Check = Check::All("/vms/{vmid}", &["VM.Snapshot"]);
const ROLL_BACK: Check = Check::AnyOf("/vms/{vmid}", &["VM.Snapshot", "VM.Snapshot.Rollback"]);
const SEE: Check = Check::AnyOf("/vms/{vmid}", &["VM.Snapshot", "VM.Snapshot.Rollback", "VM.Audit"]);

pub(super) const ROUTES: &[Route] = &[
    get("/nodes/{node}/qemu/{vmid}/snapshot", AUDIT, "", |lab, call| list(lab, call, Kind::Qemu)).protected(),
    get("/nodes/{node}/lxc/{vmid}/snapshot", AUDIT, "", |lab, call| list(lab, call, Kind::Lxc)).protected(),
    post("/nodes/{node}/qemu/{vmid}/snapshot", TAKE, "snapname:c! description vmstate:b", |lab, call| {
        take(lab, call, Kind::Qemu)
    }),
    post("/nodes/{node}/lxc/{vmid}/snapshot", TAKE, "snapname:c! description", |lab, call| {
        take(lab, call, Kind::Lxc)
    }),
    get("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}", Check::Anyone, "", index).local(),
    get("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}", Check::Anyone, "", index).local(),
    delete("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}", TAKE, "force:b", |lab, call| {
        remove(lab, call, Kind::Qemu)
    }),
    delete("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}", TAKE, "force:b", |lab, call| {
        remove(lab, call, Kind::Lxc)
    }),
    post("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/rollback", ROLL_BACK, "start:b", |lab, call| {
        roll_back(lab, call, Kind::Qemu)
    }),
    post("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/rollback", ROLL_BACK, "start:b", |lab, call| {
        roll_back(lab, call, Kind::Lxc)
    }),
    get("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config", SEE, "", |lab, call| {
        config(lab, call, Kind::Qemu)
    }),
    get("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/config", SEE, "", |lab, call| {
        config(lab, call, Kind::Lxc)
    }),
    put("/nodes/{node}/qemu/{vmid}/snapshot/{snapname}/config", TAKE, "description", |lab, call| {
        describe(lab, call, Kind::Qemu)
    }),
    put("/nodes/{node}/lxc/{vmid}/snapshot/{snapname}/config", TAKE, "description", |lab, call| {
        describe(lab, call, Kind::Lxc)
    }),
];

fn index(_: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!([{"cmd": "rollback"}, {"cmd": "config"}]).into())
}

fn list(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let mut rows: Vec<Value> = guest
        .snapshots
        .iter()
        .map(|(name, snapshot)| {
            let mut row =
                json!({"name": name, "snaptime": snapshot.taken_s, "description": snapshot.description});
            if kind == Kind::Qemu {
                row["vmstate"] = json!(u8::from(snapshot.with_memory));
            }
            if let Some(parent) = &snapshot.parent {
                row["parent"] = json!(parent);
            }
            row
        })
        .collect();
    // Not a snapshot: the present, and therefore without a time.
    let mut now = json!({
        "name": "current", "description": "You are here!", "digest": guest.digest(), "running": u8::from(guest.power.is_up()),
    });
    if !guest.line("parent").is_empty() {
        now["parent"] = json!(guest.line("parent"));
    }
    rows.push(now);
    Ok(Value::Array(rows).into())
}

fn work(
    lab: &mut Lab,
    call: &Call<'_>,
    kind: Kind,
    name: (&'static str, &'static str),
    build: Build,
) -> Outcome {
    lab.guest_at(call.node(), kind, call.vmid())?;
    let task = if kind == Kind::Qemu { name.0 } else { name.1 };
    Ok(json!(lab.fork(call.node(), task, &call.vmid().to_string(), &call.who, Work::Build(build))).into())
}

fn take(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let name = call.text("snapname").unwrap_or_default().to_owned();
    if matches!(name.to_ascii_lowercase().as_str(), "current" | "pending") {
        return Err(ApiError::die(format!("unable to use snapshot name '{name}' (reserved name)")));
    }
    let description = call.text("description").unwrap_or_default().to_owned();
    let build = Build::Snapshot { vmid: call.vmid(), name, description, with_memory: call.flag("vmstate") };
    work(lab, call, kind, ("qmsnapshot", "vzsnapshot"), build)
}

fn remove(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let build = Build::DeleteSnapshot { vmid: call.vmid(), name: call.var("snapname").to_owned() };
    work(lab, call, kind, ("qmdelsnapshot", "vzdelsnapshot"), build)
}

fn roll_back(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let build = Build::Rollback {
        vmid: call.vmid(),
        name: call.var("snapname").to_owned(),
        start: call.flag("start"),
    };
    work(lab, call, kind, ("qmrollback", "vzrollback"), build)
}

fn missing(name: &str) -> ApiError {
    ApiError::die(format!("snapshot '{name}' does not exist"))
}

fn config(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let name = call.var("snapname");
    let snapshot = guest.snapshots.get(name).ok_or_else(|| missing(name))?;
    let mut shown = config_json(kind, &snapshot.config);
    shown.insert("snaptime".to_owned(), json!(snapshot.taken_s));
    if !snapshot.description.is_empty() {
        shown.insert("description".to_owned(), json!(snapshot.description));
    }
    Ok(Value::Object(shown).into())
}

fn describe(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    lab.guest_at(call.node(), kind, call.vmid())?;
    let name = call.var("snapname");
    let snapshot = lab.guests.get_mut(&call.vmid()).and_then(|guest| guest.snapshots.get_mut(name));
    call.text("description")
        .unwrap_or_default()
        .clone_into(&mut snapshot.ok_or_else(|| missing(name))?.description);
    Ok(Value::Null.into())
}
