//! Several things at once, ways back, and returns to the past.

use crate::{
    lab::{calls, carried_out, ct, intent, lab, now, vm},
    proxmox,
};
use nhi_decide::plan::{Past, PlanNeed, needs};
use nhi_model::{call::At, guest::GuestStatus, refusal::RefusalCode, run::RunState};
use serde_json::json;

#[test]
fn later_wishes_see_what_earlier_ones_leave() {
    let lab = lab([vm(105, "db")]);
    let all = |of: serde_json::Value| lab.plan(&intent(json!({"do": "all", "of": of})));
    let plan = all(json!([
        {"do": "stop", "guest": "105"},
        {"do": "set", "guest": "105", "settings": {"cores": 4}},
        {"do": "start", "guest": "105"},
        {"do": "snapshot", "guest": "105", "name": "done"},
        {"do": "snapshot-delete", "guest": "105", "name": "done"},
    ]))
    .unwrap();
    assert_eq!(plan.steps.len(), 5);
    // The second stop would do nothing, and the third thing cannot be.
    assert_eq!(
        all(json!([{"do": "stop", "guest": "105"}, {"do": "stop", "guest": "105"}])).unwrap().steps.len(),
        1
    );
    let refused = all(
        json!([{"do": "stop", "guest": "105"}, {"do": "destroy", "guest": "105"}, {"do": "start", "guest": "105"}]),
    );
    assert_eq!(refused.unwrap_err().code, RefusalCode::UnknownGuest);
    let nested = all(json!([{"do": "all", "of": [{"do": "all", "of": [{"do": "stop", "guest": "db"}]}]}]));
    assert_eq!(nested.unwrap().steps.len(), 1);
}

#[test]
fn a_plan_is_taken_back_in_the_reverse_order() {
    let mut lab = lab([vm(105, "db").line("onboot", "0"), ct(106, "web").stopped()]);
    let before = lab.guests.clone();
    let plan = lab
        .plan(&intent(json!({"do": "all", "of": [
            {"do": "shutdown", "guest": "105"},
            {"do": "set", "guest": "105", "settings": {"onboot": true, "tags": ["x"]}},
            {"do": "start", "guest": "106"},
            {"do": "migrate", "guest": "105", "node": "pve2"},
        ]})))
        .unwrap();
    plan.steps.iter().for_each(|step| proxmox::call(&mut lab, &step.call).unwrap());
    let mut done = carried_out(&plan);
    lab.past = Some(Past { done: Some(done.clone()), moment: None });
    let undo = intent(json!({"do": "undo", "plan": plan.id}));
    let back = lab.plan(&undo).unwrap();
    assert_eq!(
        calls(&back),
        [
            "POST /nodes/pve2/qemu/105/migrate target=pve1",
            "POST /nodes/pve1/lxc/106/status/shutdown",
            "PUT /nodes/pve1/qemu/105/config delete=tags onboot=0",
            "POST /nodes/pve1/qemu/105/status/start",
        ]
    );
    back.steps.iter().for_each(|step| proxmox::call(&mut lab, &step.call).unwrap());
    assert_eq!(lab.guests, before);
    assert_eq!(lab.plan(&undo).unwrap_err().code, RefusalCode::NothingToDo);

    // Not while it runs, not what never ran, not what nobody knows.
    for (state, code) in [
        (RunState::Running {}, RefusalCode::Busy),
        (RunState::Verifying {}, RefusalCode::Busy),
        (RunState::Compensated { text: String::new() }, RefusalCode::NothingToDo),
        (RunState::NeedsHuman { text: String::new() }, RefusalCode::NotPossible),
    ] {
        done.run.as_mut().unwrap().state = state;
        lab.past = Some(Past { done: Some(done.clone()), moment: None });
        assert_eq!(lab.plan(&undo).unwrap_err().code, code);
    }
    done.run = None;
    lab.past = Some(Past { done: Some(done), moment: None });
    assert_eq!(lab.plan(&undo).unwrap_err().code, RefusalCode::NothingToDo);
}

#[test]
fn the_way_back_of_a_protected_guest_is_a_persons() {
    let lab = lab([vm(105, "db").stopped().line("protection", "1")]);
    let plan = lab.plan(&intent(json!({"do": "start", "guest": "105"}))).unwrap();
    assert!(plan.undo.intents.is_empty() && !plan.undo.complete, "{:?}", plan.undo);
}

#[test]
fn guests_return_to_how_they_were() {
    let at = At::Revision(7);
    let mut lab = lab([
        vm(105, "db").line("tags", "a").line("onboot", "1").line("description", "notes"),
        ct(106, "web").on("pve2").stopped(),
        vm(107, "same"),
        vm(108, "dozing").status(GuestStatus::Paused),
    ]);
    let before = lab.guests.clone();
    lab.past = Some(Past { moment: Some(lab.moment(at)), done: None });
    let later = |guest: crate::lab::Inmate| {
        guest.line("tags", "b").line("cores", "8").line("memory", "9000").without("onboot")
    };
    lab.guests.insert(105, later(before[&105].clone()).without("description").stopped());
    lab.guests.insert(106, ct(106, "web").on("pve1"));
    lab.guests.insert(108, vm(108, "dozing"));
    let back = intent(json!({"do": "return", "guests": ["105", "web", "107", "108"], "to": {"revision": 7}}));
    let plan = lab.plan(&back).unwrap();
    plan.steps.iter().for_each(|step| proxmox::call(&mut lab, &step.call).unwrap());
    for vmid in [105, 106, 107, 108] {
        assert_eq!(lab.guests[&vmid], before[&vmid]);
    }
    assert_eq!(lab.plan(&back).unwrap_err().code, RefusalCode::NothingToDo);

    let code = |lab: &crate::lab::Lab, guest: &str| {
        let asked = json!({"do": "return", "guests": [guest], "to": {"revision": 7}});
        lab.plan(&intent(asked)).unwrap_err().code
    };
    lab.guests.insert(200, vm(200, "new"));
    assert_eq!(code(&lab, "200"), RefusalCode::NotPossible);
    let moment = lab.past.as_mut().unwrap().moment.as_mut().unwrap();
    moment.unknown.insert(before[&105].key());
    assert_eq!(code(&lab, "105"), RefusalCode::Unknown);
    let mut other = vm(107, "same").stopped();
    other.uuid = Some("77777777-0000-4000-8000-000000000000".to_owned());
    lab.guests.insert(107, other);
    assert_eq!(code(&lab, "107"), RefusalCode::OtherGuest);
}

#[test]
fn the_past_is_asked_for_before_the_guests() {
    let lab = lab([vm(105, "db")]);
    let ask = |value| needs(&intent(value), &lab.known(), &lab.policy, None);
    let wanted = ask(json!({"do": "undo", "plan": "p-0k3x9a"})).unwrap();
    assert_eq!((wanted.plan, wanted.again), (Some(PlanNeed::Id(crate::lab::id())), true));
    assert_eq!(ask(json!({"do": "lab-up"})).unwrap().plan, Some(PlanNeed::LastLabDown));
    let wanted = ask(json!({"do": "return", "guests": ["105"], "to": {"time": now()}})).unwrap();
    assert_eq!((wanted.history, wanted.again), (Some(At::Time(now())), true));
    let two =
        json!({"do": "all", "of": [{"do": "undo", "plan": "p-aaaa"}, {"do": "undo", "plan": "p-bbbb"}]});
    assert_eq!(ask(two).unwrap_err().code, RefusalCode::BadValue);
    let wanted = needs(
        &intent(json!({"do": "undo", "plan": "p-0k3x9a"})),
        &lab.known(),
        &lab.policy,
        Some(&Past::default()),
    );
    assert_eq!(wanted.unwrap_err().code, RefusalCode::Unknown);
}

#[test]
fn a_dead_mans_switch_is_asked_for_or_ruled() {
    let mut lab = lab([vm(105, "db")]);
    let stop = intent(json!({"do": "stop", "guest": "105"}));
    assert_eq!(lab.plan(&stop).unwrap().undo_unless_confirmed_minutes, None);
    assert_eq!(lab.plan_with(&stop, Some(9)).unwrap().undo_unless_confirmed_minutes, Some(9));
    lab.policy.caution.undo_unless_confirmed_minutes = [(nhi_model::intent::Operation::Stop, 5)].into();
    assert_eq!(lab.plan_with(&stop, Some(9)).unwrap().undo_unless_confirmed_minutes, Some(5));
    assert_eq!(
        lab.plan(&intent(json!({"do": "reboot", "guest": "105"}))).unwrap().undo_unless_confirmed_minutes,
        None
    );
}
