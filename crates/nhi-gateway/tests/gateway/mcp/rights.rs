//! Through MCP an identity may do exactly what nats-server lets it, short of what is never a tool: the same table of rights
//! that the tests of nats-server's permissions use, each endpoint called through its tool.

use super::{client::Client, names_until, spec};
use crate::house::House;
use nhi_bus::service::Service;
use nhi_model::{
    identity::Role,
    rights::{ENDPOINTS, SERVICES, may_call},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

/// What the house itself answers, and what speaks to streams.
fn is_left_out(service: &str, endpoint: &str) -> bool {
    matches!((service, endpoint), ("auth", _) | ("state", "get") | (_, "flow"))
}

/// What a person decides, and what machines tell about themselves.
fn is_never(service: &str, endpoint: &str) -> bool {
    let decides = service == "act" && ["approve", "reject", "confirm", "freeze", "thaw"].contains(&endpoint);
    decides || (service, endpoint) == ("state", "report")
}

/// Services that answer every endpoint of the table, and who called what.
async fn naive_services(house: &House) -> Arc<Mutex<BTreeSet<String>>> {
    let arrived = Arc::new(Mutex::new(BTreeSet::new()));
    let home = house.nats.connect(&house.cx, "home").await;
    for name in SERVICES.iter().filter(|name| **name != "auth") {
        let mut service = Service::new(*name, "1.0.0", "");
        for known in ENDPOINTS.iter().filter(|e| e.service == *name && !is_left_out(e.service, e.endpoint)) {
            let heard = arrived.clone();
            service = service.endpoint(spec(known.endpoint, known.effect, false), move |caller, _: Value| {
                heard.lock().unwrap().insert(format!("{}.{}.{}", known.service, known.endpoint, caller.name));
                async { Ok(json!({})) }
            });
        }
        service.start(&house.cx, &home).await.unwrap();
    }
    arrived
}

#[tokio::test]
async fn a_caller_may_through_tools_what_nats_server_lets_it() {
    let house = House::open().await;
    let arrived = naive_services(&house).await;
    let everybody = house.everybody().await;
    let owner = Client::open(&house, "owner").await;
    names_until(&owner, "all tools", |names| {
        ["ai_jobs", "audit_log", "gpu"].iter().all(|n| names.iter().any(|m| m == n))
    })
    .await;
    // The house's own kettle takes its time.
    let is_ours = |tool: &Value| !tool["name"].as_str().unwrap().starts_with("kettle_");
    let all: Vec<Value> = owner.tools().await.into_iter().filter(is_ours).collect();
    for (who, role) in everybody {
        let client = Client::open(&house, who).await;
        for tool in &all {
            let actions = &tool["inputSchema"]["properties"]["action"]["enum"];
            let actions = actions.as_array().cloned().unwrap_or_else(|| vec![Value::Null]);
            for action in actions {
                let mut arguments = json!({"messages": []});
                if !action.is_null() {
                    arguments["action"] = action;
                }
                client.call(tool["name"].as_str().unwrap(), arguments).await;
            }
        }
        let table = ENDPOINTS
            .iter()
            .filter(|e| !is_left_out(e.service, e.endpoint) && !is_never(e.service, e.endpoint));
        let may = table.filter(|e| may_call(role, &[], e.service, e.endpoint));
        let may: BTreeSet<String> = may.map(|e| format!("{}.{}.{who}", e.service, e.endpoint)).collect();
        let end = format!(".{who}");
        let heard = arrived.lock().unwrap().iter().filter(|call| call.ends_with(&end)).cloned().collect();
        assert_eq!(may, heard, "{who}");
        // The control: no list of the table is empty or whole by mistake.
        match role {
            Role::Edge => assert!(may.is_empty()),
            Role::Owner => assert!(may.len() > 20, "{may:?}"),
            Role::Viewer | Role::Agent | Role::Operator | Role::Service => {
                assert!((8..26).contains(&may.len()), "{may:?}")
            }
        }
        // Whoever may not ask who it is sees no list at all.
        let listed = client.request("tools/list", json!({})).await;
        assert_eq!(listed.answer.get("error").is_some(), role == Role::Edge, "{listed:?}");
    }
    house.close().await;
}
