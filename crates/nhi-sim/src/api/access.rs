//! Tickets, permissions, roles, access lists, tokens.

use super::{
    ApiError, Call, Outcome, Params,
    route::{
        Check::{All, Anyone, World},
        Route, delete, get, post, put,
    },
};
use crate::lab::{
    Lab,
    access::{Principal, Secret, Token},
    login::Who,
};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const ROUTES: &[Route] = &[
    get("/access/ticket", World, "", |_, _| Ok(Value::Null.into())),
    post(
        "/access/ticket",
        World,
        "username:s! password:s! realm otp path privs new-format:b tfa-challenge",
        log_in,
    )
    .ticket_only()
    .without_quorum(),
    get("/access/permissions", Anyone, "path userid", permissions),
    get("/access/roles", Anyone, "", roles),
    get("/access/roles/{roleid}", Anyone, "", role),
    post("/access/roles", All("/access", &["Sys.Modify"]), "roleid:s! privs", make_role),
    put("/access/roles/{roleid}", All("/access", &["Sys.Modify"]), "privs append:b", change_role),
    delete("/access/roles/{roleid}", All("/access", &["Sys.Modify"]), "", remove_role),
    get("/access/acl", Anyone, "", lists),
    put("/access/acl", Anyone, "path:s! roles:s! users groups tokens propagate:b delete:b", change_lists),
    get("/access/users", Anyone, "enabled:b full:b", users),
    get("/access/users/{userid}/token", Anyone, "", tokens),
    get("/access/users/{userid}/token/{tokenid}", Anyone, "", token),
    post("/access/users/{userid}/token/{tokenid}", Anyone, "comment expire:i privsep:b", make_token)
        .ticket_only(),
    put("/access/users/{userid}/token/{tokenid}", Anyone, "comment expire:i privsep:b delete", change_token)
        .ticket_only(),
    delete("/access/users/{userid}/token/{tokenid}", Anyone, "", remove_token).ticket_only(),
];

fn log_in(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let name = call.text("username").unwrap_or_default();
    let user = match call.text("realm") {
        Some(realm) if !name.contains('@') => format!("{name}@{realm}"),
        _ => name.to_owned(),
    };
    let password = call.text("password").unwrap_or_default().to_owned();
    let Some((ticket, csrf)) = lab.log_in(&user, &password) else {
        return Err(ApiError::status(401, "authentication failure"));
    };
    let mut capabilities = Map::new();
    for (name, path) in [
        ("access", "/access"),
        ("dc", "/"),
        ("nodes", "/nodes"),
        ("storage", "/storage"),
        ("vms", "/vms"),
        ("sdn", "/sdn"),
        ("mapping", "/mapping"),
    ] {
        let held: Map<String, Value> =
            lab.privileges(&user, path).keys().map(|name| (name.clone(), json!(1))).collect();
        capabilities.insert(name.to_owned(), Value::Object(held));
    }
    let mut answer =
        json!({"username": user, "ticket": ticket, "CSRFPreventionToken": csrf, "cap": capabilities});
    if let Some(cluster) = &lab.cluster {
        answer["clustername"] = json!(cluster);
    }
    Ok(answer.into())
}

/// Everybody may see the own rights; others' need Sys.Audit on /access.
fn permissions(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let id = match call.text("userid") {
        Some(id) if id != call.who.id && id.split('!').next() != Some(&call.who.id) => {
            lab.require_any(&call.who, "/access", &["Sys.Audit"])?;
            id.to_owned()
        }
        Some(id) => id.to_owned(),
        None => call.who.id.clone(),
    };
    let paths: BTreeSet<String> = match call.text("path") {
        Some(path) => BTreeSet::from([path.to_owned()]),
        None => interesting_paths(lab),
    };
    let mut answer = Map::new();
    for path in paths {
        let held = lab.privileges(&id, &path);
        if !held.is_empty() || call.text("path").is_some() {
            let held: Map<String, Value> =
                held.into_iter().map(|(name, propagate)| (name, json!(u8::from(propagate)))).collect();
            answer.insert(path, Value::Object(held));
        }
    }
    Ok(Value::Object(answer).into())
}

/// The top of each tree, every path of a list, every member of a pool.
fn interesting_paths(lab: &Lab) -> BTreeSet<String> {
    let top = [
        "/",
        "/access",
        "/access/groups",
        "/access/realm",
        "/mapping",
        "/nodes",
        "/pool",
        "/sdn",
        "/storage",
        "/vms",
    ];
    top.iter()
        .map(|path| (*path).to_owned())
        .chain(lab.access.lists.keys().cloned())
        .chain(lab.pools.keys().map(|pool| format!("/pool/{pool}")))
        .chain(lab.pool_of_guest.keys().map(|vmid| format!("/vms/{vmid}")))
        .chain(lab.pool_of_storage.keys().map(|storage| format!("/storage/{storage}")))
        .collect()
}

fn roles(lab: &mut Lab, _: &Call<'_>) -> Outcome {
    let rows: Vec<Value> = lab
        .access
        .roles
        .iter()
        .map(|(name, privileges)| {
            let joined = privileges.iter().cloned().collect::<Vec<_>>().join(",");
            json!({"roleid": name, "privs": joined, "special": u8::from(lab.access.built_in.contains(name))})
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn role(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let name = call.var("roleid");
    let Some(privileges) = lab.access.roles.get(name) else {
        return Err(ApiError::die(format!("role '{name}' does not exist")));
    };
    let rows: Map<String, Value> = privileges.iter().map(|name| (name.clone(), json!(1))).collect();
    Ok(Value::Object(rows).into())
}

fn privileges_of(lab: &Lab, call: &Call<'_>) -> Result<BTreeSet<String>, ApiError> {
    let known = lab.access.every_privilege();
    let wanted: BTreeSet<String> = call.list("privs").into_iter().collect();
    match wanted.iter().find(|name| !known.contains_key(*name)) {
        Some(name) => {
            Err(ApiError::parameter("privs", format!("invalid format - invalid privilege '{name}'\n")))
        }
        None => Ok(wanted),
    }
}

fn make_role(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let name = call.text("roleid").unwrap_or_default().to_owned();
    let privileges = privileges_of(lab, call)?;
    if lab.access.roles.contains_key(&name) {
        return Err(ApiError::die(format!("create role failed: role '{name}' already exists")));
    }
    lab.access.roles.insert(name, privileges);
    Ok(Value::Null.into())
}

fn own_role<'a>(lab: &'a mut Lab, name: &str) -> Result<&'a mut BTreeSet<String>, ApiError> {
    if lab.access.built_in.contains(name) {
        return Err(ApiError::die(format!("auto-generated role '{name}' cannot be modified")));
    }
    lab.access.roles.get_mut(name).ok_or_else(|| ApiError::die(format!("role '{name}' does not exist")))
}

fn change_role(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let privileges = privileges_of(lab, call)?;
    let append = call.flag("append");
    let role = own_role(lab, call.var("roleid"))?;
    if !append {
        role.clear();
    }
    role.extend(privileges);
    Ok(Value::Null.into())
}

fn remove_role(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let name = call.var("roleid").to_owned();
    own_role(lab, &name)?;
    lab.access.roles.remove(&name);
    Ok(Value::Null.into())
}

fn may_modify(lab: &Lab, who: &Who, path: &str) -> bool {
    let extra = match path.split('/').nth(1) {
        Some("storage") => "Datastore.Allocate",
        Some("vms") => "VM.Allocate",
        Some("pool") => "Pool.Allocate",
        _ => "Permissions.Modify",
    };
    lab.may(&who.id, path, &["Permissions.Modify", extra])
}

fn lists(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let sees_all = lab.may(&call.who.id, "/access", &["Sys.Audit"]);
    let mut rows = Vec::new();
    for (path, entries) in &lab.access.lists {
        if !sees_all && !may_modify(lab, &call.who, path) {
            continue;
        }
        for (principal, roles) in entries {
            let (kind, name) = principal.parts();
            for (role, propagate) in roles {
                rows.push(json!({"path": path, "type": kind, "ugid": name, "roleid": role, "propagate": u8::from(*propagate)}));
            }
        }
    }
    Ok(Value::Array(rows).into())
}

fn change_lists(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let path = call.text("path").unwrap_or_default().to_owned();
    if !path.starts_with('/') {
        return Err(ApiError::parameter("path", format!("invalid ACL path '{path}'")));
    }
    if !may_modify(lab, &call.who, &path) {
        return Err(ApiError::permission(&path, &["Permissions.Modify"]));
    }
    let mut principals: Vec<Principal> = Vec::new();
    principals.extend(call.list("users").into_iter().map(Principal::User));
    principals.extend(call.list("groups").into_iter().map(Principal::Group));
    principals.extend(call.list("tokens").into_iter().map(Principal::Token));
    if principals.is_empty() {
        let errors = ["users", "groups", "tokens"]
            .map(|name| (name.to_owned(), "either 'users', 'groups' or 'tokens' is required.".to_owned()));
        return Err(ApiError::parameters(BTreeMap::from(errors)));
    }
    let propagate = call.text("propagate").is_none_or(super::schema::is_true);
    for role in call.list("roles") {
        if !lab.access.roles.contains_key(&role) {
            return Err(ApiError::die(format!("role '{role}' does not exist")));
        }
        for principal in &principals {
            let exists = match principal {
                Principal::User(name) => lab.access.users.contains_key(name),
                Principal::Group(name) => lab.access.groups.contains_key(name),
                Principal::Token(name) => lab.access.token(name).is_some(),
            };
            if call.flag("delete") {
                lab.access.revoke(&path, principal, Some(&role));
            } else if exists {
                lab.access.grant(&path, principal.clone(), &role, propagate);
            } else {
                let (kind, name) = principal.parts();
                return Err(ApiError::die(format!("{kind} '{name}' does not exist")));
            }
        }
    }
    Ok(Value::Null.into())
}

fn users(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let sees_all = lab.may(&call.who.id, "/access", &["Sys.Audit"])
        || lab.may(&call.who.id, "/access/groups", &["Sys.Audit", "User.Modify"]);
    let rows: Vec<Value> = lab
        .access
        .users
        .iter()
        .filter(|(name, _)| sees_all || name.as_str() == call.who.user())
        .map(|(name, user)| {
            let mut row = json!({"userid": name, "enable": u8::from(user.enabled), "expire": user.expires_s, "realm-type": name.split('@').nth(1)});
            if !user.comment.is_empty() {
                row["comment"] = json!(user.comment);
            }
            if call.flag("full") {
                row["tokens"] = user.tokens.iter().map(|(id, token)| token_row(id, token)).collect();
            }
            row
        })
        .collect();
    Ok(Value::Array(rows).into())
}

fn token_row(id: &str, token: &Token) -> Value {
    let mut row = json!({"tokenid": id, "privsep": u8::from(token.separated), "expire": token.expires_s});
    if !token.comment.is_empty() {
        row["comment"] = json!(token.comment);
    }
    row
}

/// A user itself, or somebody with User.Modify.
fn may_manage(lab: &Lab, call: &Call<'_>) -> Result<String, ApiError> {
    let user = call.var("userid").to_owned();
    if call.who.id == user || lab.may(&call.who.id, "/access/groups", &["User.Modify"]) {
        return Ok(user);
    }
    Err(ApiError::permission("/access/groups", &["User.Modify"]))
}

fn tokens(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let name = may_manage(lab, call)?;
    let Some(user) = lab.access.users.get(&name) else {
        return Err(ApiError::die(format!("no such user ('{name}')")));
    };
    Ok(user.tokens.iter().map(|(id, token)| token_row(id, token)).collect::<Value>().into())
}

fn token(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let user = may_manage(lab, call)?;
    match lab.access.token(&format!("{user}!{}", call.var("tokenid"))) {
        Some(token) => Ok(token_row(call.var("tokenid"), token).into()),
        None => Err(ApiError::die(format!("no such token '{}' for user '{user}'", call.var("tokenid")))),
    }
}

fn fill_token(token: &mut Token, params: &Params) {
    let text = |name: &str| params.get(name).and_then(Value::as_str);
    if let Some(comment) = text("comment") {
        comment.clone_into(&mut token.comment);
    }
    if let Some(expires_s) = text("expire").and_then(|text| text.parse().ok()) {
        token.expires_s = expires_s;
    }
    if let Some(separated) = text("privsep") {
        token.separated = super::schema::is_true(separated);
    }
}

fn make_token(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let user = may_manage(lab, call)?;
    let id = format!("{user}!{}", call.var("tokenid"));
    if lab.access.token(&id).is_some() {
        return Err(ApiError::parameter("tokenid", "Token already exists."));
    }
    let secret = lab.next_uuid();
    let mut token =
        Token { secret: Secret(secret.clone()), separated: true, expires_s: 0, comment: String::new() };
    fill_token(&mut token, &call.params);
    let info =
        json!({"privsep": u8::from(token.separated).to_string(), "expire": token.expires_s.to_string()});
    let Some(owner) = lab.access.users.get_mut(&user) else {
        return Err(ApiError::die(format!("no such user ('{user}')")));
    };
    owner.tokens.insert(call.var("tokenid").to_owned(), token);
    Ok(json!({"full-tokenid": id, "value": secret, "info": info}).into())
}

fn managed_token<'a>(lab: &'a mut Lab, call: &Call<'_>) -> Result<&'a mut Token, ApiError> {
    let user = may_manage(lab, call)?;
    let name = call.var("tokenid");
    let missing = || ApiError::die(format!("no such token '{name}' for user '{user}'"));
    lab.access.users.get_mut(&user).and_then(|user| user.tokens.get_mut(name)).ok_or_else(missing)
}

fn change_token(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let name = call.var("tokenid").to_owned();
    let token = managed_token(lab, call)?;
    fill_token(token, &call.params);
    Ok(token_row(&name, token).into())
}

fn remove_token(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    managed_token(lab, call)?;
    let user = may_manage(lab, call)?;
    let name = call.var("tokenid");
    if let Some(user) = lab.access.users.get_mut(&user) {
        user.tokens.remove(name);
    }
    let id = Principal::Token(format!("{user}!{name}"));
    for entries in lab.access.lists.values_mut() {
        entries.remove(&id);
    }
    lab.access.lists.retain(|_, entries| !entries.is_empty());
    Ok(Value::Null.into())
}
