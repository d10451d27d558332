//! Our actuator on fakepve, what somebody else believes Proxmox to be: what is refused costs no write, counted there;
//! what is accepted is done, and it shows there.
//!
//! Where fakepve is not like Proxmox the same case is shown on our simulator, in the actuator's own tests: it answers a
//! lock at once instead of in the task, it moves no machine, it makes no backups, and it says of every guest that there
//! can be no snapshot (its `feature` is a sample), although it makes them. That an approval expires takes minutes, and is
//! shown where time is an argument: in the gate's tests.

use crate::{
    house::{House, Place},
    proxmox::{ACT_SECRET, ACT_TOKEN, ACTUATOR, Pve},
};
use nhi_model::{
    act::{ActFreeze, ActFrozen, ActThaw},
    identity::Role,
    plan::{Digest, PlanRecord},
};
use nhi_pve::ApiToken;
use nhi_testkit::Person;
use serde_json::{Value, json};
use std::path::PathBuf;

const POLICY: &str = "
[protected]
guests = [\"101\", \"by-name\"]
[operations]
automatic = [\"start\", \"snapshot\", \"clone\", \"set\", \"shutdown\"]
[limits]
guests_per_plan = 3
destroys_per_day = 1
";

/// A lab on fakepve with an actuator.
struct Lab {
    pve: Pve,
    house: House,
}

fn guest(kind: &str, vmid: u32, name: &str, status: &str, more: Value) -> Value {
    let mut config = match kind {
        "lxc" => {
            json!({"hostname": name, "memory": "512", "rootfs": format!("local-lvm:vm-{vmid}-disk-0,size=8G")})
        }
        _ => {
            json!({"name": name, "memory": "2048", "cores": 2, "scsi0": format!("local-lvm:vm-{vmid}-disk-0,size=32G"),
                    "smbios1": format!("uuid=00000000-0000-4000-8000-{vmid:012}")})
        }
    };
    config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    json!({"kind": kind, "vmid": vmid, "name": name, "node": "pve1", "status": status, "config": config})
}

fn guests() -> Vec<Value> {
    let mut far = guest("qemu", 113, "far", "stopped", json!({}));
    far["node"] = "pve2".into();
    let mut template =
        guest("qemu", 900, "template", "stopped", json!({"scsi0": "local-lvm:base-900-disk-0,size=8G"}));
    template["template"] = true.into();
    template["config"]["template"] = 1.into();
    vec![
        guest("qemu", 100, "mesh", "running", json!({})),
        guest("qemu", 101, "by-id", "running", json!({})),
        guest("qemu", 102, "by-name", "running", json!({})),
        guest("qemu", 103, "by-tag", "running", json!({"tags": "lab;nh-critical"})),
        guest("qemu", 104, "by-flag", "running", json!({"protection": 1})),
        guest("qemu", 105, "db", "running", json!({})),
        guest("qemu", 106, "shop", "running", json!({})),
        guest("lxc", 107, "front", "running", json!({})),
        guest("qemu", 108, "spare", "stopped", json!({})),
        guest("lxc", 109, "box", "running", json!({})),
        guest("qemu", 110, "twin", "stopped", json!({})),
        guest("qemu", 111, "twin", "stopped", json!({})),
        guest("qemu", 112, "other", "stopped", json!({})),
        far,
        template,
        guest(
            "qemu",
            901,
            "linked",
            "stopped",
            json!({"scsi0": "local-lvm:base-900-disk-0/vm-901-disk-0,size=8G"}),
        ),
    ]
}

impl Lab {
    async fn open() -> Self {
        let mut pve = Pve::start(&["pve1", "pve2"], guests()).await;
        pve.tokens(&[(ACT_TOKEN, ACT_SECRET)]).await;
        pve.rights(&[(ACT_TOKEN, ACTUATOR)]).await;
        let house = House::open(Place {
            scan: pve.endpoint(),
            act: pve.endpoint_of(ApiToken::parse(ACT_TOKEN, ACT_SECRET).unwrap()),
            graph: json!({ "services": {
                "db": { "required_by": ["shop"] },
                "shop": { "depends_on": ["db"], "required_by": ["front"] },
                "front": { "depends_on": ["shop"] },
            }}),
            policy: POLICY,
            ourselves: "home/100",
            program: PathBuf::from("nhi"),
        })
        .await;
        pve.requests().await;
        Self { pve, house }
    }

    /// Writes that arrived since the last question, refused ones among them.
    async fn writes(&mut self) -> Vec<(String, String)> {
        self.pve.requests().await.into_iter().filter(|(method, _)| method != "GET").collect()
    }

    /// Asks for what must be refused with this code, and costs nothing.
    async fn refused(&mut self, by: &Person, intent: Value, code: &str) {
        let fault = by.plan(intent.clone()).await.expect_err(&format!("{intent} must be refused"));
        assert_eq!(fault.code, code, "{intent}: {fault}");
        assert!(!fault.hint.is_empty(), "{intent}: {fault}");
        let writes = self.writes().await;
        assert!(writes.is_empty(), "{intent} was refused and wrote {writes:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_must_not_be_costs_no_write_there() {
    let mut lab = Lab::open().await;
    let agent = lab.house.person("aider", Role::Agent).await;
    for (intent, code) in [
        (json!({"do": "stop", "guest": "101"}), "protected"),
        (json!({"do": "shutdown", "guest": "by-name"}), "protected"),
        (json!({"do": "reboot", "guest": "by-tag"}), "protected"),
        (json!({"do": "destroy", "guest": "by-flag"}), "protected"),
        (json!({"do": "set", "guest": "by-flag", "settings": {"cores": 1}}), "protected"),
        (json!({"do": "stop", "guest": "mesh"}), "ourselves"),
        (json!({"do": "shutdown", "guest": "shop"}), "dependents-running"),
        (json!({"do": "shutdown", "guest": "db"}), "dependents-running"),
        (json!({"do": "destroy", "guest": "900"}), "linked-clones"),
        // Proxmox would stop it with `force`, which is never sent unasked.
        (json!({"do": "destroy", "guest": "109"}), "running"),
        (json!({"do": "start", "guest": "twin"}), "ambiguous-guest"),
        (json!({"do": "start", "guest": "nobody"}), "unknown-guest"),
        (json!({"do": "resize", "guest": "108", "disk": "scsi0", "size_gib": 1}), "bad-value"),
        (
            json!({"do": "all", "of": (110..=113).map(|vmid| json!({"do": "start", "guest": vmid.to_string()}))
            .collect::<Vec<_>>()}),
            "quota",
        ),
    ] {
        lab.refused(&agent, intent, code).await;
    }
    // What it is like now counts, and not what was scanned.
    let start = || json!({"do": "start", "guest": "108"});
    lab.pve.act(json!({"do": "lock", "vmid": 108, "lock": "backup"})).await;
    lab.refused(&agent, start(), "locked").await;
    lab.pve.act(json!({"do": "lock", "vmid": 108, "lock": null})).await;
    lab.pve.act(json!({"do": "ha", "vmid": 112, "state": "started"})).await;
    lab.refused(&agent, json!({"do": "destroy", "guest": "112"}), "ha-managed").await;
    lab.pve.act(json!({"do": "quorum", "quorate": false})).await;
    lab.refused(&agent, start(), "no-quorum").await;
    lab.pve.act(json!({"do": "quorum", "quorate": true})).await;
    lab.pve.act(json!({"do": "offline", "node": "pve2", "offline": true})).await;
    lab.refused(&agent, json!({"do": "start", "guest": "113"}), "node-offline").await;
    lab.pve.act(json!({"do": "offline", "node": "pve2", "offline": false})).await;
    // The control: the same intents pass when nothing is in the way.
    agent.plan(start()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_takes_no_protection_away_there() {
    let mut lab = Lab::open().await;
    let agent = lab.house.person("aider", Role::Agent).await;
    // A container: of a machine, fakepve shows the present configuration when it is asked for a snapshot's.
    lab.pve.act(json!({"do": "snapshot", "vmid": 109, "name": "bare"})).await;
    lab.pve.act(json!({"do": "config", "vmid": 109, "config": {"tags": "critical"}})).await;
    lab.refused(&agent, json!({"do": "rollback", "guest": "109", "name": "bare"}), "drops-protection").await;
    // The control: going back there loses nothing else, so without the mark it is planned.
    lab.pve.act(json!({"do": "config", "vmid": 109, "config": {"tags": "plain"}})).await;
    agent.plan(json!({"do": "rollback", "guest": "109", "name": "bare"})).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_yes_counts_once_and_for_what_it_was_said_to() {
    let mut lab = Lab::open().await;
    let agent = lab.house.person("aider", Role::Agent).await;
    let (anna, otto) =
        (lab.house.person("anna", Role::Operator).await, lab.house.person("otto", Role::Operator).await);
    let destroy = || json!({"do": "destroy", "guest": "other"});
    let own = anna.plan(destroy()).await.unwrap();
    assert_eq!(anna.approve(&own, Some("other")).await.unwrap_err().code, "self-approval");
    let plan = agent.plan(destroy()).await.unwrap();
    assert_eq!(agent.apply(&plan, None).await.unwrap_err().code, "needs-approval");
    let wrong = wrong(&plan);
    assert_eq!(otto.approve(&wrong, Some("other")).await.unwrap_err().code, "wrong-digest");
    anna.call::<ActFrozen>("freeze", &ActFreeze { reason: "holiday".to_owned() }).await.unwrap();
    assert_eq!(anna.apply(&own, Some("other")).await.unwrap_err().code, "frozen");
    anna.call::<ActFrozen>("thaw", &ActThaw {}).await.unwrap();
    assert_eq!(lab.writes().await.len(), 0);
    // Said once, it counts once.
    otto.approve(&plan, Some("other")).await.unwrap();
    let run = agent.end(&agent.apply(&plan, None).await.unwrap()).await;
    assert_eq!(run.state.as_str(), "done", "{run:?}");
    assert_eq!(otto.approve(&plan, Some("other")).await.unwrap_err().code, "used");
    assert_eq!(otto.apply(&plan, Some("other")).await.unwrap_err().code, "used");
    let writes = lab.writes().await;
    assert_eq!(writes.len(), 1, "{writes:?}");
    // And one destroy a day is what policy allows an agent.
    lab.refused(&agent, json!({"do": "destroy", "guest": "spare"}), "quota").await;
}

/// The plan with a digest of something else.
fn wrong(record: &PlanRecord) -> PlanRecord {
    let mut wrong = record.clone();
    wrong.plan.digest = Some(Digest::of([7; 32]));
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changed_since_voids_the_plan_there() {
    let mut lab = Lab::open().await;
    let anna = lab.house.person("anna", Role::Operator).await;
    let stale = anna.plan(json!({"do": "set", "guest": "spare", "settings": {"cores": 4}})).await.unwrap();
    lab.pve.act(json!({"do": "status", "vmid": 108, "status": "running"})).await;
    lab.house.shows("vm.home.108", "status", "running".into()).await;
    assert_eq!(anna.apply(&stale, None).await.unwrap_err().code, "stale");
    // Another guest with the number: the records may not show it yet, the look before the first call does.
    let plan = anna.plan(json!({"do": "destroy", "guest": "other"})).await.unwrap();
    lab.pve.act(json!({"do": "remove", "vmid": 112})).await;
    let mut stranger = guest("qemu", 112, "other", "stopped", json!({}));
    stranger["config"]["smbios1"] = "uuid=00000000-0000-4000-8000-0000000000ff".into();
    lab.pve.act(json!({"do": "add", "guest": stranger})).await;
    match anna.apply(&plan, Some("other")).await {
        Err(fault) => assert!(["stale", "other-guest"].contains(&fault.code.as_str()), "{fault}"),
        Ok(applied) => assert_eq!(anna.end(&applied).await.state.as_str(), "failed"),
    }
    // No rights: Proxmox itself refuses the one call, it is not repeated, and the run says so.
    let plan = anna.plan(json!({"do": "start", "guest": "110"})).await.unwrap();
    assert!(lab.writes().await.is_empty());
    lab.pve.rights(&[(ACT_TOKEN, &["VM.Audit", "Sys.Audit", "Datastore.Audit"])]).await;
    let run = anna.end(&anna.apply(&plan, None).await.unwrap()).await;
    assert_eq!(run.state.as_str(), "failed", "{run:?}");
    assert_eq!(lab.writes().await.len(), 1);
    assert_eq!(lab.house.field("vm.home.110", "status"), "stopped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_allowed_is_done_and_shows_there() {
    let mut lab = Lab::open().await;
    let anna = lab.house.person("anna", Role::Operator).await;
    lab.house.done(&anna, json!({"do": "start", "guest": "spare"}), None).await;
    lab.house.shows("vm.home.108", "status", "running".into()).await;
    lab.house
        .done(
            &anna,
            json!({"do": "set", "guest": "spare", "settings": {"description": "mine", "tags": ["lab"]}}),
            None,
        )
        .await;
    lab.house.shows("vm.home.108", "tags", json!(["lab"])).await;
    lab.house.done(&anna, json!({"do": "clone", "guest": "110", "new": {"name": "copy"}}), None).await;
    lab.house.shows("vm.home.700", "name", "copy".into()).await;
    lab.house.done(&anna, json!({"do": "shutdown", "guest": "box"}), None).await;
    lab.house.shows("lxc.home.109", "status", "stopped".into()).await;
    lab.house.done(&anna, json!({"do": "destroy", "guest": "box"}), Some("box")).await;
    lab.house.shows("lxc.home.109", "name", Value::Null).await;
    let writes: Vec<String> =
        lab.writes().await.into_iter().map(|(method, path)| format!("{method} {path}")).collect();
    let expected = [
        "POST /nodes/pve1/qemu/108/status/start",
        "PUT /nodes/pve1/qemu/108/config",
        "POST /nodes/pve1/qemu/110/clone",
        "POST /nodes/pve1/lxc/109/status/shutdown",
        "DELETE /nodes/pve1/lxc/109",
    ];
    for (write, expected) in writes.iter().zip(expected) {
        let (method, path) = expected.split_once(' ').unwrap();
        assert!(write.starts_with(method) && write.contains(path), "{writes:#?}");
    }
    assert_eq!((writes.len(), lab.house.leases()), (expected.len(), 0), "{writes:#?}");
}
