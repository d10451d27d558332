//! Plans and runs as tools, where the actuator is not as one would wish: it goes away while its run is followed, refuses to
//! tell of it, or says that a yes is missing when none is.

use super::{client::Client, names_until, spec};
use crate::house::House;
use nhi_bus::service::{Caller, Ending, Frames, Service};
use nhi_model::{
    act::{ActApplied, ActApply, ActGet, ActRun, RunFrame},
    call::Effect,
    fault::{Fault, FaultCode},
    plan::Digest,
    refusal::{Refusal, RefusalCode},
    run::RunId,
};
use serde_json::{Value, json};
use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

const AT: &str = "2026-01-01T00:00:00Z";
const LATER: &str = "9999-01-01T00:00:00Z";

fn frame(run: &RunId, said: &str, state: Value) -> RunFrame {
    let run = json!({
        "v": 1, "id": run, "plan": run.plan(), "digest": Digest::of([7; 32]), "by": "owner", "at": AT, "state": state,
    });
    serde_json::from_value(json!({ "run": run, "said": said })).unwrap()
}

/// A plan that needs one approval, and has so many.
fn got(plan: &str, approvals: usize) -> Value {
    let digest = Digest::of([7; 32]);
    let yes = json!({"by": "anna", "digest": digest, "at": AT, "expires_at": LATER});
    json!({"record": {
        "plan": {
            "v": 1, "id": plan, "cluster": "home", "by": "aider", "intent": {"do": "destroy", "guest": "105"},
            "made_at": AT, "expires_at": LATER, "revision": 1, "reads": {}, "targets": [], "requires": [],
            "steps": [], "expects": [], "effects": [], "config_changes": [], "impacts": [], "risk": "destructive",
            "undo": {"intents": [], "complete": true, "cost": "nothing"}, "on_failure": "stop", "digest": digest,
        },
        "gate": {"verdict": "approval", "reasons": [], "approvals": 1, "rehearse": false},
        "state": {"is": "open"}, "approvals": vec![yes; approvals],
    }})
}

/// An actuator whose run `r-0001` is told of by three, one after the other, the last of them busy at first; and how many
/// times it was asked for frames.
async fn actuator(house: &House) -> Arc<AtomicU32> {
    let asked = Arc::new(AtomicU32::new(0));
    let count = asked.clone();
    let follow = move |_: Caller, request: ActRun, frames: Frames| {
        let count = count.clone();
        async move {
            let run = request.run;
            match (run.as_str(), count.fetch_add(1, Ordering::Relaxed)) {
                ("r-0001", 0) => {
                    frames.send_json(&frame(&run, "step 1", json!({"is": "running"}))).await.unwrap();
                    Err(Fault::new(FaultCode::Unavailable, "it is gone", "ask again"))
                }
                ("r-0001", 1) => {
                    frames.send_json(&frame(&run, "step 2", json!({"is": "running"}))).await.unwrap();
                    Ok(Ending::Done)
                }
                ("r-0001", 2) => Err(Fault::new(FaultCode::TooMany, "too much is asked at once", "wait")),
                ("r-0001", _) => {
                    let done = json!({"is": "done", "revision": 3});
                    frames.send_json(&frame(&run, "all done", done)).await.unwrap();
                    Ok(Ending::Done)
                }
                _ => Err(Fault::new(FaultCode::Forbidden, "it is not told to you", "")),
            }
        }
    };
    let act = Service::new("act", "1.0.0", "acting")
        .endpoint(spec("apply", Effect::Danger, false), |_, asked: ActApply| async move {
            if asked.plan.as_str() > "p-0002" {
                let refusal =
                    Refusal::new(RefusalCode::NeedsApproval, "it needs an approval", "ask an operator");
                return Err(refusal.fault());
            }
            let state = serde_json::from_value(json!({"is": "running"})).unwrap();
            Ok(ActApplied { run: asked.plan.run(), state })
        })
        .endpoint(spec("get", Effect::Read, false), |_, asked: ActGet| async move {
            let plan = asked.plan.as_str();
            Ok::<Value, Fault>(got(plan, usize::from(plan == "p-0004")))
        })
        .streaming::<ActRun, RunFrame, _>(spec("run", Effect::Write, true), follow);
    act.start(&house.cx, &house.nats.connect(&house.cx, "act").await).await.unwrap();
    asked
}

fn arguments(plan: &str) -> Value {
    json!({"plan": plan, "digest": Digest::of([7; 32])})
}

#[tokio::test]
async fn a_run_is_followed_over_the_end_of_its_actuator() {
    let house = House::open().await;
    let asked = actuator(&house).await;
    let owner = Client::open(&house, "owner").await;
    names_until(&owner, "the tools", |names| names.contains(&"plan_follow".to_owned())).await;
    let params =
        json!({"name": "plan_apply", "arguments": arguments("p-0001"), "_meta": {"progressToken": 1}});
    let applied = owner.request("tools/call", params).await;
    let result = &applied.answer["result"];
    assert_eq!(result["isError"], false, "{applied:?}");
    let told = &result["structuredContent"];
    assert_eq!((&told["run"], &told["state"]["is"]), (&json!("r-0001"), &json!("done")), "{told}");
    assert_eq!((told.get("next"), told.get("broken")), (None, None), "{told}");
    let said: Vec<&str> =
        applied.notes.iter().filter_map(|note| note["params"]["message"].as_str()).collect();
    assert_eq!(said, ["run r-0001 running", "step 1", "step 2", "all done"]);
    assert_eq!(asked.load(Ordering::Relaxed), 4);

    // What nobody tells does not make the run fail: its id is known, and what to do.
    let told = owner.call("plan_apply", arguments("p-0002")).await;
    assert_eq!(told["isError"], false, "{told}");
    let told = &told["structuredContent"];
    assert_eq!((&told["run"], &told["state"]["is"]), (&json!("r-0002"), &json!("running")), "{told}");
    assert!(told["broken"].as_str().unwrap().contains("it is not told to you"), "{told}");
    assert!(told["next"].as_str().unwrap().contains("plan_follow"), "{told}");
    // The control: of a run of which nothing was heard at all there is nothing to tell.
    let told = owner.failed("plan_follow", json!({"run": "r-0002"})).await;
    assert!(told.contains("[forbidden]"), "{told}");
    house.close().await;
}

#[tokio::test]
async fn only_what_is_missing_is_waited_for() {
    let house = House::open().await;
    actuator(&house).await;
    let owner = Client::open(&house, "owner").await;
    names_until(&owner, "the tools", |names| names.contains(&"plan_apply".to_owned())).await;
    for (plan, is_missing) in [("p-0003", true), ("p-0004", false)] {
        let told = owner.call("plan_apply", arguments(plan)).await;
        let text = told["content"].to_string();
        assert!(told["isError"] == true && text.contains("[needs-approval]"), "{told}");
        assert_eq!(text.contains("waiting_for"), is_missing, "{told}");
    }
    house.close().await;
}
