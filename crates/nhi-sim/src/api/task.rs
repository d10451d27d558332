//! Tasks as the API shows them: lists, status, log, and stopping one.

use super::{
    ApiError, Call, Outcome, Reply,
    route::{Check::Anyone, Route, delete, get},
};
use crate::lab::{
    Lab,
    login::Who,
    task::{Stage, Task, is_upid},
};
use serde_json::{Value, json};

pub(super) const ROUTES: &[Route] = &[
    get("/cluster/tasks", Anyone, "", of_cluster),
    get(
        "/nodes/{node}/tasks",
        Anyone,
        "vmid:v typefilter userfilter statusfilter errors:b source:e(archive|active|all) since:i until:i start:i limit:i",
        of_node,
    ),
    get("/nodes/{node}/tasks/{upid}", Anyone, "", index).local(),
    get("/nodes/{node}/tasks/{upid}/status", Anyone, "", status).protected(),
    get("/nodes/{node}/tasks/{upid}/log", Anyone, "start:i limit:i download:b", log).protected(),
    delete("/nodes/{node}/tasks/{upid}", Anyone, "", stop).without_quorum(),
];

/// Finished tasks per node that `/cluster/tasks` carries.
const FINISHED_PER_NODE_MAX: usize = 25;

fn row(task: &Task) -> Value {
    let mut row = json!({
        "upid": task.upid, "node": task.node, "pid": task.pid, "pstart": task.process_start,
        "starttime": task.started_s, "type": task.kind, "id": task.id, "user": task.user,
    });
    if let Some((user, token)) = task.user.split_once('!') {
        row["user"] = json!(user);
        row["tokenid"] = json!(token);
    }
    row
}

/// Running tasks have neither `status` nor `endtime` here, and `saved` is a string.
fn of_cluster(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let sees_all = lab.may(&call.who.id, "/", &["Sys.Audit"]);
    let mut rows = Vec::new();
    for node in lab.nodes.keys() {
        let mut finished = 0;
        for task in lab
            .task_order
            .iter()
            .rev()
            .filter_map(|upid| lab.tasks.get(upid))
            .filter(|task| task.node == *node)
        {
            // Compared with the bare user: a token does not even see its own.
            let mut row = json!({
                "upid": task.upid, "node": task.node, "pid": task.pid, "pstart": task.process_start,
                "starttime": task.started_s, "type": task.kind, "id": task.id, "user": task.user,
            });
            match &task.stage {
                Stage::Ended { status, at_s } => {
                    finished += 1;
                    if finished > FINISHED_PER_NODE_MAX {
                        continue;
                    }
                    row["endtime"] = json!(at_s);
                    row["status"] = json!(status);
                    row["saved"] = json!("1");
                }
                Stage::Waiting | Stage::Running => row["saved"] = json!("0"),
            }
            if sees_all || (!call.who.is_token() && task.user == call.who.id) {
                rows.push(row);
            }
        }
    }
    Ok(Value::Array(rows).into())
}

fn of_node(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let node = call.node();
    let sees_all = lab.may(&call.who.id, &format!("/nodes/{node}"), &["Sys.Audit"]);
    let source = call.text("source").unwrap_or("archive");
    let kinds = call.list("typefilter");
    let statuses = call.list("statusfilter");
    let time = |name: &str| call.text(name).and_then(|text| text.parse::<i64>().ok());
    let (since, until) = (time("since"), time("until"));
    let mut found: Vec<Value> = Vec::new();
    for task in lab.task_order.iter().rev().filter_map(|upid| lab.tasks.get(upid)) {
        let ended = matches!(task.stage, Stage::Ended { .. });
        let fits = task.node == node
            && (sees_all || task.user == call.who.id)
            && match source {
                "active" => !ended,
                "all" => true,
                _ => ended,
            }
            && call.text("vmid").is_none_or(|vmid| task.id == vmid)
            && (kinds.is_empty() || kinds.iter().any(|kind| kind == task.kind))
            && call.text("userfilter").is_none_or(|part| task.user.contains(part))
            && since.is_none_or(|since| task.started_s >= since)
            && until.is_none_or(|until| task.started_s <= until)
            && (!call.flag("errors") || is_error(task))
            && (statuses.is_empty() || statuses.iter().any(|status| *status == status_class(task)));
        if !fits {
            continue;
        }
        let mut shown = row(task);
        match &task.stage {
            Stage::Ended { status, at_s } => {
                shown["endtime"] = json!(at_s);
                shown["status"] = json!(status);
            }
            Stage::Waiting | Stage::Running => shown["status"] = json!("RUNNING"),
        }
        found.push(shown);
    }
    let total = found.len() as u64;
    let start = usize::try_from(call.number("start").unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = usize::try_from(call.number("limit").unwrap_or(50)).unwrap_or(usize::MAX);
    let limit = if limit == 0 { usize::MAX } else { limit };
    let page: Vec<Value> = found.into_iter().skip(start).take(limit).collect();
    Ok(Reply { data: Value::Array(page), total: Some(total), delay_ms: 0 })
}

fn is_error(task: &Task) -> bool {
    matches!(&task.stage, Stage::Ended { status, .. } if status != "OK" && !status.starts_with("WARNINGS: "))
}

fn status_class(task: &Task) -> &'static str {
    match &task.stage {
        Stage::Ended { status, .. } if status == "OK" => "ok",
        Stage::Ended { status, .. } if status.starts_with("WARNINGS: ") => "warning",
        Stage::Ended { status, .. } if status == "unexpected status" => "unknown",
        Stage::Ended { .. } => "error",
        Stage::Waiting | Stage::Running => "running",
    }
}

/// The task in the path, if the caller may see it: one's own, or Sys.Audit on the node.
fn visible<'a>(lab: &'a Lab, call: &Call<'_>, otherwise: &str) -> Result<&'a Task, ApiError> {
    let upid = call.var("upid");
    if !is_upid(upid) {
        return Err(ApiError::parameter("upid", format!("unable to parse worker upid '{upid}'")));
    }
    if upid.split(':').nth(1) != Some(call.node()) {
        return Err(ApiError::parameter("upid", "no such task"));
    }
    let Some(task) = lab.tasks.get(upid) else {
        return Err(ApiError::parameter("upid", "no such task"));
    };
    if !is_own(&call.who, task) {
        lab.require_any(&call.who, &format!("/nodes/{}", call.node()), &[otherwise])?;
    }
    Ok(task)
}

/// A user's tokens' tasks are the user's own too, not the other way round.
fn is_own(who: &Who, task: &Task) -> bool {
    task.user == who.id || (!who.is_token() && task.user.split('!').next() == Some(&who.id))
}

fn index(_: &mut Lab, _: &Call<'_>) -> Outcome {
    Ok(json!([{"name": "log"}, {"name": "status"}]).into())
}

fn status(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let task = visible(lab, call, "Sys.Audit")?;
    let mut shown = row(task);
    match &task.stage {
        Stage::Ended { status, .. } => {
            shown["status"] = json!("stopped");
            shown["exitstatus"] = json!(status);
        }
        Stage::Waiting | Stage::Running => shown["status"] = json!("running"),
    }
    Ok(shown.into())
}

fn log(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let task = visible(lab, call, "Sys.Audit")?;
    let start = usize::try_from(call.number("start").unwrap_or(0)).unwrap_or(usize::MAX);
    let limit = usize::try_from(call.number("limit").unwrap_or(50)).unwrap_or(usize::MAX);
    let limit = if limit == 0 { usize::MAX } else { limit };
    let mut lines: Vec<Value> = task
        .log
        .iter()
        .enumerate()
        .skip(start)
        .take(limit)
        .map(|(place, line)| json!({"n": place + 1, "t": line}))
        .collect();
    if lines.is_empty() {
        lines.push(json!({"n": 1, "t": "no content"}));
    }
    Ok(Reply { data: Value::Array(lines), total: Some(task.log.len() as u64), delay_ms: 0 })
}

fn stop(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let upid = visible(lab, call, "Sys.Modify")?.upid.clone();
    lab.abort_task(&upid, "received interrupt");
    Ok(Value::Null.into())
}
