//! Backups: vzdump, backup jobs, and which guests no job covers.

use super::{
    ApiError, Call, Outcome,
    route::{
        Check::{All, Anyone},
        Route, delete, get, post, put,
    },
};
use crate::lab::{
    Lab,
    guest::Guest,
    task::{Backup, Build, Work},
};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

const RUN: &str = "vmid:l all:b storage mode:e(snapshot|suspend|stop) compress:e(0|1|gzip|lzo|zstd) notes-template \
    protected:b remove:b stop:b pool exclude:l bwlimit:i ionice:i lockwait:i stopwait:i mailto mailnotification \
    notification-mode prune-backups quiet:b stdout:b zstd:i pigz:i node:n performance fleecing job-id \
    pbs-change-detection-mode exclude-path:l stdexcludes:b tmpdir dumpdir script";
const JOB: &str = "vmid:l all:b storage mode:e(snapshot|suspend|stop) compress:e(0|1|gzip|lzo|zstd) notes-template \
    protected:b remove:b pool exclude:l schedule enabled:b comment prune-backups node:n mailto mailnotification \
    notification-mode repeat-missed:b delete bwlimit:i fleecing";

pub(super) const ROUTES: &[Route] = &[
    post("/nodes/{node}/vzdump", Anyone, RUN, run),
    get("/nodes/{node}/vzdump/defaults", Anyone, "storage", defaults),
    get("/cluster/backup", All("/", &["Sys.Audit"]), "", jobs),
    get("/cluster/backup/{id}", All("/", &["Sys.Audit"]), "", job),
    post(
        "/cluster/backup",
        All("/", &["Sys.Modify"]),
        "id starttime dow + vmid:l all:b storage mode compress notes-template protected:b pool exclude:l schedule enabled:b comment prune-backups node:n mailto notification-mode repeat-missed:b",
        make_job,
    ),
    put("/cluster/backup/{id}", All("/", &["Sys.Modify"]), JOB, change_job),
    delete("/cluster/backup/{id}", All("/", &["Sys.Modify"]), "", remove_job),
    get("/cluster/backup-info/not-backed-up", All("/", &["Sys.Audit"]), "", not_backed_up).protected(),
];

fn run(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    if call.flag("stop") {
        lab.require_any(&call.who, "/", &["Sys.Modify"])?;
    }
    let storage = call.text("storage").unwrap_or("local").to_owned();
    let Some(definition) = lab.storages.get(&storage) else {
        return Err(ApiError::parameter("storage", format!("storage '{storage}' does not exist")));
    };
    if definition.disabled || !lab.storage_is_active(&storage, call.node()) {
        return Err(ApiError::die(format!(
            "could not activate storage '{storage}': storage '{storage}' is not online"
        )));
    }
    if !definition.holds("backup") {
        return Err(ApiError::die(format!("storage '{storage}' does not support backups")));
    }
    lab.require_any(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    let excluded = call.list("exclude");
    let asked: Vec<u32> = if call.flag("all") {
        lab.guests.keys().copied().filter(|vmid| !excluded.contains(&vmid.to_string())).collect()
    } else if let Some(pool) = call.text("pool") {
        lab.pool_of_guest.iter().filter(|(_, name)| *name == pool).map(|(vmid, _)| *vmid).collect()
    } else {
        call.list("vmid").iter().filter_map(|text| text.parse().ok()).collect()
    };
    if asked.is_empty() {
        return Err(ApiError::parameter("vmid", "property is missing and it is not optional"));
    }
    let all = call.flag("all");
    let mut here = Vec::new();
    for vmid in asked {
        match lab.guests.get(&vmid) {
            Some(guest) if guest.node == call.node() => {
                let may = lab.may(&call.who.id, &format!("/vms/{vmid}"), &["VM.Backup"]);
                if !may && !all {
                    return Err(ApiError::permission(&format!("/vms/{vmid}"), &["VM.Backup"]));
                }
                if may {
                    here.push(vmid);
                }
            }
            Some(_) => {}
            None if all => {}
            None => return Err(ApiError::die(format!("unable to find VM '{vmid}'"))),
        }
    }
    if here.is_empty() {
        // Guests of other nodes are left out without a word: no task, just OK.
        return Ok(json!("OK").into());
    }
    let id = if here.len() == 1 { here[0].to_string() } else { String::new() };
    let backup = Backup {
        vmids: here,
        storage,
        mode: call.text("mode").unwrap_or("snapshot").to_owned(),
        compress: call.text("compress").unwrap_or("0").to_owned(),
        notes: call.text("notes-template").unwrap_or_default().to_owned(),
        protected: call.flag("protected"),
        holds_lock: false,
        failed: false,
    };
    Ok(json!(lab.fork(call.node(), "vzdump", &id, &call.who, Work::Build(Build::Backup(backup)))).into())
}

fn defaults(_: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!({"mode": "snapshot", "compress": "0", "storage": "local", "remove": 1, "bwlimit": 0, "ionice": 7}).into())
}

fn row(id: &str, job: &BTreeMap<String, Value>) -> Value {
    let mut row: Map<String, Value> = job.clone().into_iter().collect();
    row.insert("id".to_owned(), json!(id));
    row.insert("type".to_owned(), json!("vzdump"));
    Value::Object(row)
}

fn jobs(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    let next_s = (lab.now_s() / 86_400 + 1) * 86_400 + 9000;
    let rows: Vec<Value> = lab
        .backup_jobs
        .iter()
        .map(|(id, job)| {
            let mut row = row(id, job);
            row["next-run"] = json!(next_s);
            row
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn missing(id: &str) -> ApiError {
    ApiError::parameter("id", format!("No such job '{id}'"))
}

fn job(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let id = call.var("id");
    lab.backup_jobs.get(id).map(|job| row(id, job).into()).ok_or_else(|| missing(id))
}

fn fields(call: &Call<'_>) -> BTreeMap<String, Value> {
    call.params
        .iter()
        .filter(|(key, _)| !matches!(key.as_str(), "id" | "delete"))
        .map(|(key, value)| {
            let value = match value {
                Value::Array(_) => json!(call.list(key).join(",")),
                Value::String(text)
                    if matches!(
                        key.as_str(),
                        "all" | "enabled" | "protected" | "remove" | "repeat-missed"
                    ) =>
                {
                    json!(u8::from(super::schema::is_true(text)))
                }
                other => other.clone(),
            };
            (key.clone(), value)
        })
        .collect()
}

fn make_job(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let id = match call.text("id") {
        Some(id) => id.to_owned(),
        None => format!("backup-{:08x}-{:04x}", lab.next_random() & 0xffff_ffff, lab.next_random() & 0xffff),
    };
    if lab.backup_jobs.contains_key(&id) {
        return Err(ApiError::parameter("id", format!("job '{id}' already exists")));
    }
    lab.backup_jobs.insert(id, fields(call));
    Ok(Value::Null.into())
}

fn change_job(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let id = call.var("id");
    let job = lab.backup_jobs.get_mut(id).ok_or_else(|| missing(id))?;
    for key in call.list("delete") {
        job.remove(&key);
    }
    job.extend(fields(call));
    Ok(Value::Null.into())
}

fn remove_job(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let id = call.var("id");
    lab.backup_jobs.remove(id).map(|_| Value::Null.into()).ok_or_else(|| missing(id))
}

fn covers(lab: &Lab, job: &BTreeMap<String, Value>, guest: &Guest) -> bool {
    let text =
        |key: &str| job.get(key).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned));
    let lists =
        |key: &str| text(key).is_some_and(|list| list.split(',').any(|one| one == guest.vmid.to_string()));
    if text("enabled").as_deref() == Some("0") || lists("exclude") {
        return false;
    }
    if text("node").is_some_and(|node| node != guest.node) {
        return false;
    }
    let in_pool = text("pool").is_some_and(|pool| lab.pool_of_guest.get(&guest.vmid) == Some(&pool));
    text("all").as_deref() == Some("1") || lists("vmid") || in_pool
}

fn not_backed_up(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let rows: Vec<Value> = lab
        .guests
        .values()
        .filter(|guest| !lab.backup_jobs.values().any(|job| covers(lab, job, guest)))
        .filter(|guest| lab.may(&call.who.id, &format!("/vms/{}", guest.vmid), &["VM.Audit"]))
        .map(|guest| json!({"vmid": guest.vmid, "name": guest.name(), "type": guest.kind.word()}))
        .collect();
    Ok(Value::Array(rows).into())
}
