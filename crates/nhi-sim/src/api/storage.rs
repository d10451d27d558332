//! Storages and what is on them. Backups are listed only for those who could make or read them, which is why
//! an auditor's list is empty without an error.

use super::{
    ApiError, Call, Outcome,
    route::{
        Check::{All, AnyOf, Anyone},
        Route, delete, get, put,
    },
};
use crate::lab::{
    Lab,
    login::Who,
    storage::{Storage, Volume},
    task::{Build, Work},
};
use serde_json::{Value, json};

const SEES: super::route::Check =
    AnyOf("/storage/{storage}", &["Datastore.Audit", "Datastore.AllocateSpace"]);

pub(super) const ROUTES: &[Route] = &[
    get("/storage", Anyone, "type", definitions),
    get("/storage/{storage}", All("/storage/{storage}", &["Datastore.Allocate"]), "", definition),
    get("/nodes/{node}/storage", Anyone, "content:l enabled:b format:b storage target:n", list).protected(),
    get("/nodes/{node}/storage/{storage}/status", SEES, "", status).protected(),
    get("/nodes/{node}/storage/{storage}/content", SEES, "content vmid:v", content).protected(),
    get("/nodes/{node}/storage/{storage}/content/{volume*}", Anyone, "", volume).protected(),
    put("/nodes/{node}/storage/{storage}/content/{volume*}", Anyone, "notes protected:b", change_volume)
        .without_quorum(),
    delete("/nodes/{node}/storage/{storage}/content/{volume*}", Anyone, "delay:i", remove_volume)
        .without_quorum(),
];

fn definition_row(storage: &Storage) -> Value {
    let mut row = json!({
        "storage": storage.id, "type": storage.kind, "content": storage.content,
        "digest": "5d8c0f3d6c8a1a6ed2f8b4b2c9a4c1ac8d0e1f22",
    });
    if storage.shared {
        row["shared"] = json!(1);
    }
    if storage.disabled {
        row["disable"] = json!(1);
    }
    if !storage.nodes.is_empty() {
        row["nodes"] = json!(storage.nodes.join(","));
    }
    let (key, other) = match storage.kind.as_str() {
        "zfspool" => ("pool", None),
        "lvmthin" => ("thinpool", Some(("vgname", "pve"))),
        "pbs" => ("server", Some(("datastore", "home"))),
        "nfs" => ("export", Some(("server", "192.168.10.20"))),
        _ => ("path", None),
    };
    row[key] = json!(storage.location);
    if let Some((key, value)) = other {
        row[key] = json!(value);
    }
    row
}

fn definitions(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let rows: Vec<Value> = lab
        .storages
        .values()
        .filter(|storage| {
            lab.may(
                &call.who.id,
                &format!("/storage/{}", storage.id),
                &["Datastore.Audit", "Datastore.AllocateSpace"],
            )
        })
        .filter(|storage| call.text("type").is_none_or(|kind| kind == storage.kind))
        .map(definition_row)
        .collect();
    Ok(Value::Array(rows).into())
}

fn definition(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let id = call.var("storage");
    match lab.storages.get(id) {
        Some(storage) => Ok(definition_row(storage).into()),
        None => Err(missing(id)),
    }
}

fn missing(id: &str) -> ApiError {
    ApiError::die(format!("storage '{id}' does not exist"))
}

fn status_row(lab: &Lab, storage: &Storage, node: &str) -> Value {
    let active = !storage.disabled && lab.storage_is_active(&storage.id, node);
    let mut row = json!({
        "storage": storage.id, "type": storage.kind, "content": storage.content, "shared": u8::from(storage.shared),
        "enabled": u8::from(!storage.disabled), "active": u8::from(active),
    });
    if active {
        let (used, total) = lab.space_of(&storage.id, node);
        row["total"] = json!(total);
        row["used"] = json!(used);
        row["avail"] = json!(total - used);
        row["used_fraction"] = json!(used as f64 / total.max(1) as f64);
    } else if !storage.disabled {
        row["total"] = json!(0);
        row["used"] = json!(0);
        row["avail"] = json!(0);
    }
    row
}

fn list(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let contents = call.list("content");
    let rows: Vec<Value> = lab
        .storages
        .values()
        .filter(|storage| storage.is_on(call.node()))
        .filter(|storage| {
            lab.may(
                &call.who.id,
                &format!("/storage/{}", storage.id),
                &["Datastore.Audit", "Datastore.AllocateSpace"],
            )
        })
        .filter(|storage| contents.is_empty() || contents.iter().any(|content| storage.holds(content)))
        .filter(|storage| !call.flag("enabled") || !storage.disabled)
        .filter(|storage| call.text("storage").is_none_or(|id| id == storage.id))
        .filter(|storage| call.text("target").is_none_or(|target| storage.is_on(target)))
        .map(|storage| status_row(lab, storage, call.node()))
        .collect();
    Ok(Value::Array(rows).into())
}

/// The storage in the path, if this node can use it now.
fn usable<'a>(lab: &'a Lab, call: &Call<'_>) -> Result<&'a Storage, ApiError> {
    let id = call.var("storage");
    let storage = lab.storages.get(id).ok_or_else(|| missing(id))?;
    if storage.disabled {
        return Err(ApiError::die(format!("storage '{id}' is disabled")));
    }
    if !storage.is_on(call.node()) {
        return Err(ApiError::die(format!("storage '{id}' is not available on node '{}'", call.node())));
    }
    if !lab.storage_is_active(id, call.node()) {
        return Err(ApiError::die(format!("storage '{id}' is not online")));
    }
    Ok(storage)
}

fn status(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let id = call.var("storage");
    let storage = lab.storages.get(id).ok_or_else(|| missing(id))?;
    let mut row = status_row(lab, storage, call.node());
    if let Some(row) = row.as_object_mut() {
        row.remove("storage");
        row.remove("used_fraction");
    }
    Ok(row.into())
}

/// PVE's rule for one volume.
pub(super) fn may_see(lab: &Lab, who: &Who, volume: &Volume) -> bool {
    let storage = format!("/storage/{}", volume.storage());
    if lab.may(&who.id, &storage, &["Datastore.Allocate"]) {
        return true;
    }
    match (volume.content.as_str(), volume.vmid) {
        ("iso" | "vztmpl" | "import", _) => lab.may(
            &who.id,
            &storage,
            &["Datastore.Audit", "Datastore.AllocateSpace", "Datastore.AllocateTemplate"],
        ),
        ("backup", Some(vmid)) => {
            lab.may(&who.id, &storage, &["Datastore.AllocateSpace"])
                && lab.may(&who.id, &format!("/vms/{vmid}"), &["VM.Backup"])
        }
        (_, Some(vmid)) => {
            lab.may(&who.id, &storage, &["Datastore.Audit"])
                || lab.may(&who.id, &format!("/vms/{vmid}"), &["VM.Config.Disk"])
        }
        _ => false,
    }
}

fn volume_row(volume: &Volume) -> Value {
    let mut row = json!({
        "volid": volume.volid, "content": volume.content, "format": volume.format, "size": volume.size_bytes, "ctime": volume.made_s,
    });
    if let Some(vmid) = volume.vmid {
        // A string where the name was parsed, a number where the server said it.
        row["vmid"] = if volume.content == "backup" { json!(vmid) } else { json!(vmid.to_string()) };
    }
    if volume.content == "backup" {
        row["subtype"] =
            json!(if volume.format.starts_with("vma") || volume.format == "pbs-vm" { "qemu" } else { "lxc" });
        row["notes"] = json!(volume.notes);
        if volume.protected {
            row["protected"] = json!(1);
        }
        if volume.format.starts_with("pbs") {
            row["verification"] = json!({"state": "ok", "upid": "UPID:pbs:000002DE:00000A1B:00000003:65F00000:verificationjob::root@pam:"});
        }
    }
    if let Some(parent) = &volume.parent {
        row["parent"] = json!(parent);
    }
    row
}

fn content(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let id = usable(lab, call)?.id.clone();
    let rows: Vec<Value> = lab
        .volumes
        .values()
        .filter(|volume| {
            volume.storage() == id && volume.node.as_deref().is_none_or(|node| node == call.node())
        })
        .filter(|volume| call.text("content").is_none_or(|content| content == volume.content))
        .filter(|volume| {
            call.text("vmid").is_none_or(|vmid| volume.vmid.is_some_and(|id| id.to_string() == vmid))
        })
        .filter(|volume| may_see(lab, &call.who, volume))
        .map(volume_row)
        .collect();
    Ok(Value::Array(rows).into())
}

fn key_of(lab: &Lab, call: &Call<'_>) -> Result<(String, String), ApiError> {
    let id = usable(lab, call)?.id.clone();
    let name = call.var("volume");
    let volid = if name.contains(':') && name.split(':').next() == Some(&id) {
        name.to_owned()
    } else {
        format!("{id}:{name}")
    };
    Ok(lab.volume_key(call.node(), &volid))
}

fn volume(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let key = key_of(lab, call)?;
    let volume =
        lab.volumes.get(&key).ok_or_else(|| ApiError::die(format!("volume '{}' does not exist", key.1)))?;
    if !may_see(lab, &call.who, volume) {
        return Err(ApiError::permission(
            &format!("/storage/{}", volume.storage()),
            &["Datastore.AllocateSpace"],
        ));
    }
    let mut row = volume_row(volume);
    row["used"] = json!(volume.size_bytes / 3);
    row["path"] = json!(format!("/dev/{}", volume.name()));
    Ok(row.into())
}

fn change_volume(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let key = key_of(lab, call)?;
    require_space(lab, call, &key)?;
    let Some(volume) = lab.volumes.get_mut(&key) else {
        return Err(ApiError::die(format!("volume '{}' does not exist", key.1)));
    };
    if volume.content != "backup" {
        return Err(ApiError::die("attribute only supported for backups"));
    }
    if let Some(notes) = call.text("notes") {
        notes.clone_into(&mut volume.notes);
    }
    if let Some(protected) = call.text("protected") {
        volume.protected = super::schema::is_true(protected);
    }
    Ok(Value::Null.into())
}

fn require_space(lab: &Lab, call: &Call<'_>, key: &(String, String)) -> Result<(), ApiError> {
    let path = format!("/storage/{}", key.1.split(':').next().unwrap_or_default());
    lab.require_any(&call.who, &path, &["Datastore.Allocate", "Datastore.AllocateSpace"])
}

fn remove_volume(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let key = key_of(lab, call)?;
    require_space(lab, call, &key)?;
    let Some(volume) = lab.volumes.get(&key) else {
        return Err(ApiError::die(format!("volume '{}' does not exist", key.1)));
    };
    if let (Some(vmid), "backup") = (volume.vmid, volume.content.as_str())
        && !lab.may(&call.who.id, &format!("/storage/{}", volume.storage()), &["Datastore.Allocate"])
    {
        lab.require_any(&call.who, &format!("/vms/{vmid}"), &["VM.Backup"])?;
    }
    let id = volume.volid.replace([':', '/'], "-");
    let upid = lab.fork(call.node(), "imgdel", &id, &call.who, Work::Build(Build::RemoveVolume { key }));
    Ok(json!(upid).into())
}
