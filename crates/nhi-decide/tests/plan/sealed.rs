//! What a plan is bound to: its digest, and the records it relies on.

use crate::lab::{Lab, ct, id, intent, lab, vm};
use nhi_decide::{plan::digest, stale};
use nhi_model::{
    key::Key,
    plan::{Plan, PlanId},
};
use serde_json::{Value, json};

fn small() -> (Lab, Plan) {
    let mut lab = lab([vm(105, "db"), ct(106, "web").stopped(), ct(107, "other")]);
    lab.graph = json!({"web": {"depends_on": ["db"]}});
    let asked = json!({"do": "all", "of": [
        {"do": "set", "guest": "105", "settings": {"tags": ["x"]}}, {"do": "shutdown", "guest": "105"},
    ]});
    let plan = lab.plan(&intent(asked)).unwrap();
    (lab, plan)
}

/// Every value of a document, changed one at a time.
fn changed(value: &Value) -> Vec<Value> {
    match value {
        Value::Null => vec![json!("something")],
        Value::Bool(on) => vec![json!(!on)],
        Value::Number(number) => vec![json!(number.as_u64().unwrap_or(0) + 1)],
        Value::String(text) => vec![json!(format!("{text}x"))],
        Value::Array(items) => {
            let mut out: Vec<Value> = Vec::new();
            for (at, item) in items.iter().enumerate() {
                for other in changed(item) {
                    let mut items = items.clone();
                    items[at] = other;
                    out.push(Value::Array(items));
                }
                let mut fewer = items.clone();
                fewer.remove(at);
                out.push(Value::Array(fewer));
            }
            out
        }
        Value::Object(fields) => {
            let mut out = Vec::new();
            for (name, field) in fields {
                for other in changed(field) {
                    let mut fields = fields.clone();
                    fields.insert(name.clone(), other);
                    out.push(Value::Object(fields));
                }
            }
            out
        }
    }
}

#[test]
fn the_digest_binds_every_value() {
    let (lab, plan) = small();
    assert_eq!(plan.digest(), &digest(&plan), "the digest is of all but itself");
    let document = serde_json::to_value(Plan { digest: None, ..plan.clone() }).unwrap();
    let mut tried = 0;
    for other in changed(&document) {
        // What is no plan any more has no digest either.
        let Ok(other) = serde_json::from_value::<Plan>(other) else { continue };
        assert_ne!(digest(&other), digest(&plan), "{other:?}");
        tried += 1;
    }
    assert!(tried > 100, "only {tried} changes gave a plan");
    // Its way through a store changes nothing.
    let text = serde_json::to_string(&plan).unwrap();
    let read: Plan = serde_json::from_str(&text).unwrap();
    assert_eq!((&read, digest(&read)), (&plan, digest(&plan)));
    // The same question gives the same plan.
    assert_eq!(lab.plan(&plan.intent).unwrap(), plan);
}

#[test]
fn only_what_matters_makes_a_plan_stale() {
    let (lab, plan) = small();
    let then = lab.known();
    let key = |vmid: u32| lab.guests[&vmid].key();
    let with = |at: &Key, change: &dyn Fn(&mut Value)| {
        let mut now = then.clone();
        let known = now.get_mut(at).unwrap();
        known.revision += 1;
        change(&mut known.record);
        stale::changes(&plan, &then, &now)
    };
    assert_eq!(stale::changes(&plan, &then, &then), Vec::<String>::new());
    for (vmid, change) in [
        (105, json!({"addresses": [{"interface": "e", "address": "192.0.2.1"}]})),
        (105, json!({"backups": {"kind": "not-visible"}})),
        (106, json!({"notes": "theirs", "onboot": true})),
        (107, json!({"status": "stopped"})),
    ] {
        let found = with(&key(vmid), &|record| {
            record.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        });
        assert_eq!(found, Vec::<String>::new(), "{change}");
    }
    for (vmid, change, said) in [
        (105, json!({"status": "stopped"}), "status of VM 105 (db) was \"running\" and is \"stopped\""),
        (105, json!({"notes": "new"}), "notes of VM 105 (db)"),
        (105, json!({"config_digest": "other"}), "the configuration of VM 105 (db) changed"),
        (106, json!({"status": "running"}), "status of CT 106 (web)"),
    ] {
        let found = with(&key(vmid), &|record| {
            record.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
        });
        assert_eq!(found.len(), 1, "{change}");
        assert!(found[0].contains(said), "{found:?}");
    }
    let found =
        with(&Key::graph(), &|record| record["services"] = json!({"web": {}, "x": {"depends_on": ["db"]}}));
    assert_eq!(
        found,
        ["in the dependency graph x now needs db", "in the dependency graph web no longer needs db"]
    );
    let found = with(&Key::graph(), &|record| record["services"]["web"]["restart_safe_hours"] = json!([3]));
    assert_eq!(found, Vec::<String>::new());
    let mut now = then.clone();
    now.remove(&key(105));
    assert_eq!(stale::changes(&plan, &then, &now), ["VM 105 (db) is gone"]);
}

#[test]
fn a_number_that_was_taken_meanwhile_is_noticed() {
    let mut lab = lab([vm(9000, "t").template()]);
    let plan =
        lab.plan(&intent(json!({"do": "create-vm", "template": "9000", "new": {"name": "a"}}))).unwrap();
    let then = lab.known();
    lab.guests.insert(500, vm(500, "taken"));
    assert_eq!(stale::changes(&plan, &then, &lab.known()), ["VM 500 (taken) came into being"]);
    assert_eq!(plan.id, id());
    assert!(PlanId::parse(plan.id.as_str()).is_ok());
}
