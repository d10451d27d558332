//! Switching on and off: the calls, what needs what, the whole lab and single services.

use crate::lab::{calls, carried_out, ct, id, intent, lab, statuses, vm};
use nhi_decide::plan::summary;
use nhi_model::{
    fact::Fact,
    guest::GuestStatus,
    intent::Operation,
    plan::{Ends, OnFailure, Repeat, Risk},
    refusal::RefusalCode,
};
use serde_json::json;

#[test]
fn a_start_is_one_call_bound_to_the_guest_as_it_was_seen() {
    let lab = lab([vm(105, "mongodb").stopped()]);
    let plan = lab.plan(&intent(json!({"do": "start", "guest": "mongodb"}))).unwrap();
    assert_eq!(calls(&plan), ["POST /nodes/pve1/qemu/105/status/start"]);
    let (key, step) = (lab.guests[&105].key(), &plan.steps[0]);
    assert!(matches!(&step.ends, Ends::Task { kinds, vmid: 105, .. } if *kinds == ["qmstart", "hastart"]));
    assert_eq!((step.repeat, step.compensation.clone()), (Repeat::Harmless, None));
    assert_eq!(statuses(&step.before), [(key.clone(), GuestStatus::Stopped)]);
    assert_eq!(statuses(&plan.expects), [(key.clone(), GuestStatus::Running)]);
    assert!(
        plan.requires
            .iter()
            .any(|fact| matches!(fact, Fact::SameGuest { identity, .. } if identity.uuid.is_some()))
    );
    assert!(plan.requires.iter().any(|fact| matches!(fact, Fact::ConfigDigest { .. })));
    assert!(plan.requires.contains(&Fact::Quorate {}));
    assert_eq!((plan.risk, plan.on_failure, plan.reads[&key]), (Risk::Low, OnFailure::Stop, 7));
    assert_eq!(
        plan.undo.intents,
        [intent(json!({"do": "shutdown", "guest": "vm.home.105", "with_dependents": false}))]
    );
    assert_eq!(summary(&plan), "Start VM 105 (mongodb)");
    assert_eq!(plan.reason.as_deref(), Some("because"));
}

#[test]
fn the_words_become_the_calls() {
    let lab = lab([vm(105, "db"), ct(106, "web"), vm(107, "asleep").status(GuestStatus::Paused)]);
    for (asked, call) in [
        (json!({"do": "stop", "guest": "105"}), "POST /nodes/pve1/qemu/105/status/stop"),
        (
            json!({"do": "shutdown", "guest": "web", "timeout_s": 90}),
            "POST /nodes/pve1/lxc/106/status/shutdown timeout=90",
        ),
        (json!({"do": "shutdown", "guest": "web"}), "POST /nodes/pve1/lxc/106/status/shutdown"),
        (json!({"do": "reboot", "guest": "web"}), "POST /nodes/pve1/lxc/106/status/reboot"),
        (json!({"do": "reset", "guest": "105"}), "POST /nodes/pve1/qemu/105/status/reset"),
        (json!({"do": "suspend", "guest": "105"}), "POST /nodes/pve1/qemu/105/status/suspend"),
        (
            json!({"do": "suspend", "guest": "105", "to_disk": true}),
            "POST /nodes/pve1/qemu/105/status/suspend todisk=1",
        ),
        (json!({"do": "resume", "guest": "107"}), "POST /nodes/pve1/qemu/107/status/resume"),
        (json!({"do": "start", "guest": "107"}), "POST /nodes/pve1/qemu/107/status/resume"),
    ] {
        assert_eq!(calls(&lab.plan(&intent(asked.clone())).unwrap()), [call], "{asked}");
    }
}

#[test]
fn what_is_so_already_is_nothing_to_do_and_what_cannot_be_is_refused() {
    let lab = lab([vm(105, "db"), ct(106, "web").stopped(), vm(9000, "template").template()]);
    for (asked, code) in [
        (json!({"do": "start", "guest": "105"}), RefusalCode::NothingToDo),
        (json!({"do": "stop", "guest": "106"}), RefusalCode::NothingToDo),
        (json!({"do": "shutdown", "guest": "106"}), RefusalCode::NothingToDo),
        (json!({"do": "resume", "guest": "105"}), RefusalCode::NothingToDo),
        (json!({"do": "reboot", "guest": "106"}), RefusalCode::NotPossible),
        (json!({"do": "reset", "guest": "106"}), RefusalCode::NotPossible),
        (json!({"do": "suspend", "guest": "106"}), RefusalCode::NotPossible),
        (json!({"do": "start", "guest": "9000"}), RefusalCode::NotPossible),
        (json!({"do": "shutdown", "guest": "105", "timeout_s": 0}), RefusalCode::BadValue),
        (json!({"do": "all", "of": []}), RefusalCode::NothingToDo),
    ] {
        assert_eq!(lab.plan(&intent(asked.clone())).unwrap_err().code, code, "{asked}");
    }
}

#[test]
fn ha_only_gets_a_request_and_time_to_act_on_it() {
    let lab = lab([vm(105, "db").stopped().managed()]);
    let plan = lab.plan(&intent(json!({"do": "start", "guest": "105"}))).unwrap();
    assert!(plan.steps[0].settle_s >= 120);
    assert!(plan.effects.iter().any(|effect| effect.contains("HA")), "{:?}", plan.effects);
    assert!(!plan.steps[0].after.iter().any(|fact| matches!(fact, Fact::OnNode { .. })));
    assert_eq!(plan.impacts.len(), 1);
}

#[test]
fn what_runs_and_needs_it_goes_first_when_asked() {
    let mut lab =
        lab([vm(101, "db"), ct(102, "api"), ct(103, "web"), ct(104, "spare").stopped(), ct(105, "other")]);
    lab.graph = json!({
        "db": {"required_by": ["api"]}, "api": {}, "web": {"depends_on": ["api"]}, "spare": {"depends_on": ["db"]},
        "cron": {"depends_on": ["web"]},
    });
    let refused = lab.plan(&intent(json!({"do": "shutdown", "guest": "db"}))).unwrap_err();
    assert_eq!(refused.code, RefusalCode::DependentsRunning);
    assert_eq!(refused.details["dependents"], json!(["lxc.home.102", "lxc.home.103"]));
    assert!(
        refused.message.contains("CT 103 (web)") && refused.hint.contains("with_dependents"),
        "{refused:?}"
    );

    let plan = lab.plan(&intent(json!({"do": "shutdown", "guest": "db", "with_dependents": true}))).unwrap();
    let order: Vec<u32> = plan.targets.iter().map(|target| target.vmid).collect();
    assert_eq!(order, [103, 102, 101]);
    assert!(
        plan.impacts.iter().any(|impact| impact.name == "cron" && impact.guest.is_none()),
        "{:?}",
        plan.impacts
    );
    let spare = lab.guests[&104].key();
    assert!(plan.requires.contains(&Fact::Status { guest: spare, status: GuestStatus::Stopped }));
    assert!(plan.reads.contains_key(&nhi_model::key::Key::graph()));

    let plan = lab.plan(&intent(json!({"do": "reboot", "guest": "db", "with_dependents": true}))).unwrap();
    let said: Vec<(Operation, u32)> =
        plan.steps.iter().map(|step| (step.operation, step.guest.tokens()[1].parse().unwrap())).collect();
    assert_eq!(
        said,
        [
            (Operation::Shutdown, 103),
            (Operation::Shutdown, 102),
            (Operation::Reboot, 101),
            (Operation::Start, 102),
            (Operation::Start, 103),
        ]
    );
    assert_eq!(
        statuses(&plan.expects).into_iter().filter(|(_, status)| *status == GuestStatus::Running).count(),
        3
    );
}

#[test]
fn guests_of_a_tag_stop_and_start_in_their_order() {
    let mut lab = lab([vm(101, "db").line("tags", "app"), ct(102, "api").line("tags", "app;x")]);
    lab.graph = json!({"db": {"required_by": ["api"]}, "api": {}});
    let down = lab.plan(&intent(json!({"do": "shutdown", "guest": "tag:app"}))).unwrap();
    assert_eq!(down.targets.iter().map(|target| target.vmid).collect::<Vec<_>>(), [102, 101]);
    for guest in lab.guests.values_mut() {
        *guest = guest.clone().stopped();
    }
    let up = lab.plan(&intent(json!({"do": "start", "guest": "tag:APP"}))).unwrap();
    assert_eq!(up.targets.iter().map(|target| target.vmid).collect::<Vec<_>>(), [101, 102]);
}

#[test]
fn the_lab_goes_down_in_order_and_comes_back_as_it_was() {
    let mut lab = lab([
        vm(100, "mesh"),
        vm(101, "nas").line("tags", "nh-critical"),
        ct(102, "db"),
        ct(103, "web"),
        ct(104, "off").stopped(),
        vm(105, "switchboard"),
        vm(9000, "template").template(),
    ]);
    lab.ourselves = [lab.guests[&100].key()].into();
    lab.graph = json!({
        "web": {"depends_on": ["db", "nas"]}, "db": {}, "nas": {"depends_on": ["switchboard"]}, "switchboard": {},
    });
    let down = lab.plan(&intent(json!({"do": "lab-down"}))).unwrap();
    assert_eq!(down.targets.iter().map(|target| target.vmid).collect::<Vec<_>>(), [103, 102]);
    let said = down.effects.join("\n");
    for part in [
        "VM 100 (mesh) stays: the mesh",
        "VM 101 (nas) stays: it is protected",
        "VM 105 (switchboard) stays: something",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    assert_eq!(down.undo.intents, [intent(json!({"do": "lab-up", "plan": id()}))]);

    for step in &down.steps {
        crate::proxmox::call(&mut lab, &step.call).unwrap();
    }
    let mut done = carried_out(&down);
    lab.past = Some(nhi_decide::plan::Past { done: Some(done.clone()), moment: None });
    for asked in [json!({"do": "lab-up"}), json!({"do": "undo", "plan": id()})] {
        let up = lab.plan(&intent(asked)).unwrap();
        assert_eq!(up.targets.iter().map(|target| target.vmid).collect::<Vec<_>>(), [102, 103]);
    }
    // A guest whose step the journal does not show as done by us is not ours to start.
    done.run.as_mut().unwrap().journal.retain(|entry| entry.step != 0);
    lab.past = Some(nhi_decide::plan::Past { done: Some(done), moment: None });
    let up = lab.plan(&intent(json!({"do": "lab-up"}))).unwrap();
    assert_eq!(up.targets.iter().map(|target| target.vmid).collect::<Vec<_>>(), [102]);
}

#[test]
fn a_service_comes_up_with_what_it_needs() {
    let mut lab = lab([vm(101, "db").stopped(), ct(102, "api").stopped(), ct(103, "web")]);
    lab.graph = json!({"web": {"depends_on": ["api", "internet"]}, "api": {"depends_on": ["db"]}});
    lab.guests.insert(103, lab.guests[&103].clone().stopped());
    let plan = lab.plan(&intent(json!({"do": "service-up", "service": "Web"}))).unwrap();
    assert_eq!(plan.targets.iter().map(|target| target.vmid).collect::<Vec<_>>(), [101, 102, 103]);
    assert!(plan.effects.iter().any(|effect| effect.contains("internet")), "{:?}", plan.effects);
    let refused = lab.plan(&intent(json!({"do": "service-up", "service": "nosuch"}))).unwrap_err();
    assert_eq!(refused.code, RefusalCode::Unknown);
}
