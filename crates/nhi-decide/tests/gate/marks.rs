//! Changing what policy says of a guest: its tags and its name decide which services it carries and whether it is
//! protected, so who may change these may not do it by the way.

use crate::{
    lab::{Lab, key, lab},
    lint::of,
    planned::planned,
};
use nhi_decide::gate::{self, Recent};
use nhi_model::{
    identity::Role,
    intent::{Intent, Settings},
    plan::{Gate, Plan, Verdict},
};

/// Agents may set and roll back by themselves; by tag, 107 carries `dns`, which has hours and asks before a restart.
fn automatic() -> Lab {
    let mut lab = lab();
    lab.graph_of(r#"{"services":{"dns":{"restart_safe_hours":[2,3,4]},"idle":{}}}"#);
    lab.policy_of(
        "[services]\ndns = [\"tag:lab\"]\n[protected]\nguests = [\"tag:gold\"]\n\
         [operations]\nautomatic = [\"set\", \"rollback\", \"snapshot\"]",
    );
    lab
}

fn tags(vmid: u32, tags: &[&str]) -> Intent {
    let tags = tags.iter().map(|tag| (*tag).to_owned()).collect();
    Intent::Set { guest: of(vmid), settings: Settings { tags: Some(tags), ..Settings::default() } }
}

fn judge(lab: &Lab, plan: &Plan, role: Role) -> Gate {
    gate::gate(&lab.input(plan, role, &Recent::default())).unwrap()
}

fn check(lab: &Lab, intent: &Intent, expected: Result<(), &str>) {
    let plan = planned(lab, intent);
    assert_eq!(lab.faults(&plan), [""; 0], "{intent:?}");
    let (agent, person) = (judge(lab, &plan, Role::Agent), judge(lab, &plan, Role::Operator));
    assert_eq!(person.verdict, Verdict::Confirm, "a person's own plan stays theirs");
    match expected {
        Ok(()) => assert_eq!(agent.verdict, Verdict::Automatic, "{intent:?}: {agent:?}"),
        Err(why) => {
            assert_eq!((agent.verdict, agent.approvals), (Verdict::Approval, 1), "{intent:?}");
            for gate in [&agent, &person] {
                assert!(gate.reasons.iter().any(|reason| reason.contains(why)), "{intent:?}: {gate:?}");
            }
        }
    }
}

#[test]
fn a_tag_by_which_policy_knows_a_service_is_changed_with_approval() {
    let lab = automatic();
    check(&lab, &tags(107, &["lab", "x"]), Ok(()));
    check(&lab, &tags(107, &["x"]), Err("idle would no longer be a guest that carries dns"));
    check(&lab, &tags(107, &[]), Err("idle would no longer be a guest that carries dns"));
    // One more guest with hours of its own is no longer held to the common ones.
    check(&lab, &tags(105, &["lab"]), Err("web would be a guest that carries dns"));
    check(&lab, &tags(105, &["gold"]), Err("web would be protected (policy protects tag:gold)"));
    check(&lab, &tags(105, &["x"]), Ok(()));
    // In small steps and put back at the end.
    check(&lab, &Intent::All { of: vec![tags(107, &["x"]), tags(107, &["lab"])] }, Err("no longer"));
    // What else can be set says nothing to policy.
    let rest = Settings {
        cores: Some(4),
        memory_mib: Some(4096),
        onboot: Some(true),
        description: Some("dns".to_owned()),
        tags: None,
    };
    check(&lab, &Intent::Set { guest: of(107), settings: rest }, Ok(()));
}

#[test]
fn a_record_that_lags_does_not_hide_what_is_taken_away() {
    let mut lab = automatic();
    lab.seen_mut(105).config.insert("tags".to_owned(), "lab".to_owned());
    check(&lab, &tags(105, &[]), Err("web would no longer be a guest that carries dns"));
}

#[test]
fn going_back_to_another_name_or_other_tags_counts_as_well() {
    let mut lab = automatic();
    let back = Intent::Rollback { guest: of(107), name: "before".to_owned(), start: false };
    let past = |lab: &mut Lab, lines: &[(&str, &str)]| {
        let mut config = lab.seen(107).config.clone();
        config.extend(lines.iter().map(|(line, value)| ((*line).to_owned(), (*value).to_owned())));
        lab.seen_mut(107).snapshots.as_mut().unwrap()[0].config = Some(config);
    };
    lab.seen_mut(107).config.insert("name".to_owned(), "idle".to_owned());
    past(&mut lab, &[("memory", "1024")]);
    check(&lab, &back, Ok(()));
    past(&mut lab, &[("tags", "x")]);
    check(&lab, &back, Err("no longer be a guest that carries dns"));
    // A service nothing is said of is carried by the guest of its name.
    past(&mut lab, &[("name", "other")]);
    check(&lab, &back, Err("no longer be a guest that carries idle"));
}

#[test]
fn what_protects_is_not_set_away() {
    let mut lab = automatic();
    lab.policy_of("[protected]\nguests = [\"tag:gold\", \"web\"]\n[operations]\nautomatic = [\"set\"]");
    lab.add(109, "vault", "pve1", nhi_model::guest::GuestStatus::Stopped, "gold");
    lab.add(111, "flag", "pve1", nhi_model::guest::GuestStatus::Stopped, "");
    lab.seen_mut(111).config.insert("protection".to_owned(), "1".to_owned());
    // By tag, by policy's list of tags, by name, by Proxmox's flag; control: a guest nothing protects.
    for (vmid, protected) in [(109, true), (105, true), (111, true), (107, false)] {
        let refused = crate::planned::try_planned(&lab, &tags(vmid, &["x"]));
        assert_eq!(
            refused.err().map(|refusal| refusal.code),
            protected.then_some(nhi_model::refusal::RefusalCode::Protected),
            "{}",
            key(vmid)
        );
    }
}
