//! Pools and their members.

use super::{
    ApiError, Call, Outcome,
    route::{
        Check::{All, Anyone},
        Route, delete, get, post, put,
    },
};
use crate::lab::Lab;
use serde_json::{Value, json};

const ALLOCATE: super::route::Check = All("/pool/{poolid}", &["Pool.Allocate"]);
const CHANGE: &str = "comment vms:l storage:l delete:b allow-move:b";

pub(super) const ROUTES: &[Route] = &[
    get("/pools", Anyone, "poolid type:e(qemu|lxc|storage)", list),
    post("/pools", ALLOCATE, "poolid:s! comment", make),
    put("/pools", ALLOCATE, "poolid:s! comment vms:l storage:l delete:b allow-move:b", change),
    delete("/pools", ALLOCATE, "poolid:s!", remove),
    get("/pools/{poolid}", All("/pool/{poolid}", &["Pool.Audit"]), "type:e(qemu|lxc|storage)", show),
    put("/pools/{poolid}", ALLOCATE, CHANGE, change),
    delete("/pools/{poolid}", ALLOCATE, "", remove),
];

fn id<'a>(call: &'a Call<'_>) -> &'a str {
    match call.var("poolid") {
        "" => call.text("poolid").unwrap_or_default(),
        id => id,
    }
}

fn missing(id: &str) -> ApiError {
    ApiError::die(format!("pool '{id}' does not exist"))
}

fn list(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    if let Some(pool) = call.text("poolid") {
        let comment = lab.pools.get(pool).ok_or_else(|| missing(pool))?;
        lab.require_any(&call.who, &format!("/pool/{pool}"), &["Pool.Audit"])?;
        return Ok(
            json!([{"poolid": pool, "comment": comment, "members": members(lab, pool, call.text("type"))}])
                .into(),
        );
    }
    let rows: Vec<Value> = lab
        .pools
        .iter()
        .filter(|(pool, _)| lab.may(&call.who.id, &format!("/pool/{pool}"), &["Pool.Audit"]))
        .map(|(pool, comment)| {
            if comment.is_empty() {
                json!({"poolid": pool})
            } else {
                json!({"poolid": pool, "comment": comment})
            }
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn members(lab: &Lab, pool: &str, kind: Option<&str>) -> Vec<Value> {
    let takes = |word: &str| kind.is_none_or(|kind| kind == word);
    let guests = lab
        .pool_of_guest
        .iter()
        .filter(|(_, name)| *name == pool)
        .filter_map(|(vmid, _)| lab.guests.get(vmid))
        .filter(|guest| takes(guest.kind.word()))
        .map(|guest| {
            let mut row = json!({"id": format!("{}/{}", guest.kind.word(), guest.vmid), "vmid": guest.vmid, "node": guest.node,
                "type": guest.kind.word(), "status": "unknown"});
            if let Some(told) = lab.believed_guest(guest.vmid) {
                row["name"] = json!(told.name);
                row["status"] = json!(if told.running { "running" } else { "stopped" });
                row["template"] = json!(u8::from(told.template));
            }
            row
        });
    let storages = lab.pool_of_storage.iter().filter(|(_, name)| *name == pool && takes("storage")).flat_map(|(storage, _)| {
        lab.nodes
            .keys()
            .map(move |node| json!({"id": format!("storage/{node}/{storage}"), "storage": storage, "node": node, "type": "storage"}))
    });
    guests.chain(storages).collect()
}

fn show(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let pool = id(call);
    let comment = lab.pools.get(pool).ok_or_else(|| missing(pool))?;
    let mut row = json!({"members": members(lab, pool, call.text("type"))});
    if !comment.is_empty() {
        row["comment"] = json!(comment);
    }
    Ok(row.into())
}

fn make(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let pool = id(call).to_owned();
    if lab.pools.contains_key(&pool) {
        return Err(ApiError::die(format!("create pool failed: pool '{pool}' already exists")));
    }
    lab.pools.insert(pool, call.text("comment").unwrap_or_default().to_owned());
    Ok(Value::Null.into())
}

fn change(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let pool = id(call).to_owned();
    if !lab.pools.contains_key(&pool) {
        return Err(missing(&pool));
    }
    if let Some(comment) = call.text("comment") {
        lab.pools.insert(pool.clone(), comment.to_owned());
    }
    let remove = call.flag("delete");
    for text in call.list("vms") {
        let vmid: u32 = text.parse().map_err(|_| {
            ApiError::parameter("vms", format!("invalid format - value '{text}' is not a guest number\n"))
        })?;
        if !lab.guests.contains_key(&vmid) {
            return Err(ApiError::die(format!("VM {vmid} does not exist")));
        }
        let old = lab.pool_of_guest.get(&vmid).cloned();
        match (remove, old.as_deref()) {
            (true, Some(old)) if old == pool => drop(lab.pool_of_guest.remove(&vmid)),
            (true, _) => return Err(ApiError::die(format!("VM {vmid} is not a pool member"))),
            (false, Some(old)) if old == pool => {
                return Err(ApiError::die(format!("VM {vmid} is already a pool member")));
            }
            (false, Some(old)) if !call.flag("allow-move") => {
                return Err(ApiError::die(format!(
                    "VM {vmid} belongs already to pool '{old}' and 'allow-move' is not set"
                )));
            }
            (false, _) => drop(lab.pool_of_guest.insert(vmid, pool.clone())),
        }
    }
    for storage in call.list("storage") {
        if !lab.storages.contains_key(&storage) {
            return Err(ApiError::die(format!("storage '{storage}' does not exist")));
        }
        if remove {
            lab.pool_of_storage.remove(&storage);
        } else {
            lab.pool_of_storage.insert(storage, pool.clone());
        }
    }
    Ok(Value::Null.into())
}

fn remove(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let pool = id(call).to_owned();
    if !lab.pools.contains_key(&pool) {
        return Err(missing(&pool));
    }
    if let Some((vmid, _)) = lab.pool_of_guest.iter().find(|(_, name)| **name == pool) {
        return Err(ApiError::die(format!(
            "delete pool failed: pool '{pool}' is not empty (contains VM {vmid})"
        )));
    }
    if let Some((storage, _)) = lab.pool_of_storage.iter().find(|(_, name)| **name == pool) {
        return Err(ApiError::die(format!(
            "delete pool failed: pool '{pool}' is not empty (contains storage '{storage}')"
        )));
    }
    lab.pools.remove(&pool);
    Ok(Value::Null.into())
}
