//! Each reason to refuse, with its code; and beside each the same thing where the reason is not there.

use crate::lab::{Lab, ct, intent, lab, now, vm, who};
use nhi_decide::{plan::needs, sight::MigrateSight};
use nhi_model::{
    identity::IdentityName,
    intent::{GuestRef, Intent},
    key::Key,
    plan::PlanId,
    refusal::{Refusal, RefusalCode},
    run::Hold,
};
use serde_json::{Value, json};

fn refused(lab: &Lab, asked: &Value) -> Refusal {
    let refusal = lab.plan(&intent(asked.clone())).expect_err(&asked.to_string());
    assert!(!refusal.message.is_empty() && !refusal.hint.is_empty(), "{refusal:?}");
    refusal
}

fn check(lab: &Lab, asked: Value, code: RefusalCode) {
    assert_eq!(refused(lab, &asked).code, code, "{asked}");
}

/// Everything protection forbids, on guest 105.
fn harmful() -> Vec<Value> {
    vec![
        json!({"do": "stop", "guest": "105"}),
        json!({"do": "shutdown", "guest": "105"}),
        json!({"do": "reboot", "guest": "105"}),
        json!({"do": "reset", "guest": "105"}),
        json!({"do": "suspend", "guest": "105"}),
        json!({"do": "destroy", "guest": "105"}),
        json!({"do": "snapshot-delete", "guest": "105", "name": "good"}),
        json!({"do": "rollback", "guest": "105", "name": "good"}),
        json!({"do": "migrate", "guest": "105", "node": "pve2"}),
        json!({"do": "resize", "guest": "105", "disk": "scsi0", "size_gib": 64}),
        json!({"do": "set", "guest": "105", "settings": {"cores": 4}}),
    ]
}

#[test]
fn protected_guests_are_left_alone_however_they_are_protected() {
    let plain = || vm(105, "NAS").snapshot("good", 1, &[]);
    let tagged = plain().line("tags", "Critical").snapshot("good", 1, &[]);
    let named = |text: &str| {
        let mut lab = lab([plain()]);
        lab.policy.protected.guests = vec![GuestRef::parse(text).unwrap()];
        lab
    };
    let mut labs = vec![lab([tagged]), lab([plain().line("protection", "1").snapshot("good", 1, &[])])];
    labs.extend(["105", "nas", "home/105", "tag:x", "lxc.home.105"].map(named));
    labs[5].guests.insert(105, plain().line("tags", "x").snapshot("good", 1, &[]));
    for lab in &mut labs {
        // The later snapshot of the same name would be refused for other reasons.
        lab.guests.get_mut(&105).unwrap().snapshots.truncate(1);
        let config = lab.guests[&105].config.clone();
        lab.guests.get_mut(&105).unwrap().snapshots[0].config = Some(config);
        for asked in harmful() {
            check(lab, asked, RefusalCode::Protected);
        }
        for asked in [
            json!({"do": "snapshot", "guest": "105", "name": "now"}),
            json!({"do": "backup", "guest": "105"}),
            json!({"do": "clone", "guest": "105", "new": {"name": "copy"}}),
        ] {
            lab.plan(&intent(asked.clone())).unwrap_or_else(|refusal| panic!("{asked}: {refusal:?}"));
        }
    }
    // The control: the same guest, not protected.
    let free = lab([plain()]);
    for asked in harmful() {
        match free.plan(&intent(asked.clone())) {
            Ok(_) => {}
            Err(refusal) => assert_eq!(refusal.code, RefusalCode::Running, "{asked}: {refusal:?}"),
        }
    }
    let mut off = lab([plain().line("protection", "1")]);
    off.policy.protected.flag = false;
    assert!(off.plan(&intent(json!({"do": "stop", "guest": "105"}))).is_ok());
}

#[test]
fn the_flag_counts_as_it_is_now_not_as_it_was_scanned() {
    let mut lab = lab([vm(105, "db")]);
    lab.live.insert(105, vm(105, "db").line("protection", "1"));
    check(&lab, json!({"do": "stop", "guest": "105"}), RefusalCode::Protected);
    // And the other way round the record still protects: a flag that was just cleared is no reason to hurry.
    lab.guests.insert(105, vm(105, "db").line("protection", "1"));
    lab.live.insert(105, vm(105, "db"));
    check(&lab, json!({"do": "stop", "guest": "105"}), RefusalCode::Protected);
}

#[test]
fn nothing_is_done_to_ourselves() {
    let mut lab = lab([vm(105, "mesh").snapshot("good", 1, &[]), ct(106, "db")]);
    lab.ourselves = [lab.guests[&105].key()].into();
    let more = [
        json!({"do": "snapshot", "guest": "105", "name": "now"}),
        json!({"do": "backup", "guest": "105"}),
        json!({"do": "start", "guest": "105"}),
        json!({"do": "clone", "guest": "105", "new": {"name": "copy"}}),
    ];
    for asked in harmful().into_iter().chain(more) {
        check(&lab, asked, RefusalCode::Ourselves);
    }
    // Nor to what we need, also when everything that needs it would be shut down first.
    lab.graph = json!({"mesh": {"depends_on": ["db"]}});
    check(&lab, json!({"do": "stop", "guest": "db"}), RefusalCode::Ourselves);
    check(&lab, json!({"do": "stop", "guest": "db", "with_dependents": true}), RefusalCode::Ourselves);
}

#[test]
fn what_needs_it_is_found_in_every_way() {
    let mut lab = lab([vm(101, "db"), ct(102, "WEB"), vm(103, "x"), ct(104, "y")]);
    let code = |lab: &Lab| {
        lab.plan(&intent(json!({"do": "stop", "guest": "101"}))).map(|_| ()).map_err(|it| it.code)
    };
    assert_eq!(code(&lab), Ok(()));
    for graph in [
        json!({"web": {"depends_on": ["db"]}, "db": {}}),
        json!({"db": {"required_by": ["web"]}}),
        json!({"db": {"required_by": ["a"]}, "a": {"required_by": ["b"]}, "web": {"depends_on": ["b"]}}),
    ] {
        lab.graph = graph;
        assert_eq!(code(&lab), Err(RefusalCode::DependentsRunning));
    }
    // Not when what needs it does not run; but when nobody can tell.
    lab.guests.insert(102, ct(102, "WEB").stopped());
    assert_eq!(code(&lab), Ok(()));
    lab.guests.insert(102, ct(102, "WEB").stopped().on("pve2"));
    lab.offline = ["pve2".to_owned()].into();
    assert_eq!(code(&lab), Err(RefusalCode::DependentsRunning));
    // Policy says who carries what.
    let mut lab = self::lab([vm(101, "db"), vm(103, "x"), ct(104, "y")]);
    lab.graph = json!({"web": {"depends_on": ["store"]}});
    let carries = |texts: &[&str]| texts.iter().map(|text| GuestRef::parse(text).unwrap()).collect();
    lab.policy.services =
        [("store".to_owned(), carries(&["101"])), ("web".to_owned(), carries(&["104"]))].into();
    assert_eq!(code(&lab), Err(RefusalCode::DependentsRunning));
    for asked in ["shutdown", "reboot", "reset", "suspend"] {
        check(&lab, json!({"do": asked, "guest": "101"}), RefusalCode::DependentsRunning);
    }
    // A destroy of what is stopped would make the harm last.
    lab.guests.insert(101, vm(101, "db").stopped());
    check(&lab, json!({"do": "destroy", "guest": "101"}), RefusalCode::DependentsRunning);
}

#[test]
fn the_cluster_and_the_guest_must_be_seen() {
    let start = json!({"do": "start", "guest": "105"});
    let fresh = || lab([vm(105, "db").stopped()]);
    assert!(fresh().plan(&intent(start.clone())).is_ok());

    let mut lab = fresh();
    lab.offline = ["pve1".to_owned()].into();
    check(&lab, start.clone(), RefusalCode::NodeOffline);
    let mut lab = fresh();
    lab.quorate = Some(false);
    check(&lab, start.clone(), RefusalCode::NoQuorum);
    let mut lab = fresh();
    lab.stale = [105].into();
    check(&lab, start.clone(), RefusalCode::NotSeen);
    let mut lab = fresh();
    let mut other = vm(105, "db").stopped();
    other.uuid = Some("99999999-0000-4000-8000-000000000000".to_owned());
    lab.live.insert(105, other);
    check(&lab, start.clone(), RefusalCode::OtherGuest);
    let mut lab = fresh();
    lab.live.insert(105, vm(105, "renamed").stopped());
    check(&lab, json!({"do": "start", "guest": "db"}), RefusalCode::OtherGuest);
    assert!(lab.plan(&intent(start)).is_ok(), "who names the number means the guest of any name");
}

#[test]
fn a_quorum_that_was_seen_lost_counts_when_nobody_can_tell_now() {
    let mut lab = lab([vm(105, "db").stopped()]);
    lab.quorate = None;
    let plan = lab.plan(&intent(json!({"do": "start", "guest": "105"}))).unwrap();
    assert!(plan.effects.iter().any(|effect| effect.contains("quorum")));
    assert!(!plan.requires.contains(&nhi_model::fact::Fact::Quorate {}));
    let mut known = lab.known();
    let alert = nhi_decide::observe::Known { revision: 3, record: json!({}), stale: None };
    known.insert(Key::alert("scan", "quorum-lost_home"), alert);
    let asked = intent(json!({"do": "start", "guest": "105"}));
    assert_eq!(lab.plan_knowing(&asked, &known, &lab.sight()).unwrap_err().code, RefusalCode::NoQuorum);
}

#[test]
fn locks_claims_and_runs_of_others_stand_against_it() {
    let stop = json!({"do": "stop", "guest": "105"});
    let mut lab = lab([vm(105, "db").line("lock", "backup")]);
    let refusal = refused(&lab, &stop);
    assert_eq!((refusal.code, refusal.details["lock"].as_str()), (RefusalCode::Locked, Some("backup")));

    lab.guests.insert(105, vm(105, "db"));
    let key = lab.guests[&105].key();
    let hold = |by: IdentityName, hours: i64| Hold {
        by,
        reason: "mine\u{1b}[31m".to_owned(),
        until: now() + jiff::SignedDuration::from_hours(hours),
    };
    lab.holds = [(key.clone(), hold(IdentityName::parse("chat").unwrap(), 1))].into();
    let refusal = refused(&lab, &stop);
    assert_eq!(refusal.code, RefusalCode::Held);
    assert!(!refusal.message.contains('\u{1b}'), "{}", refusal.message);
    for hold in [hold(who(), 1), hold(IdentityName::parse("chat").unwrap(), -1)] {
        lab.holds = [(key.clone(), hold)].into();
        assert!(lab.plan(&intent(stop.clone())).is_ok());
    }
    lab.leases = [(key, PlanId::parse("p-other1").unwrap().run())].into();
    check(&lab, stop, RefusalCode::Busy);
}

#[test]
fn ha_would_fight_these() {
    let lab = lab([vm(105, "db").managed().snapshot("good", 1, &[]), vm(106, "off").managed().stopped()]);
    for asked in [
        json!({"do": "suspend", "guest": "105"}),
        json!({"do": "migrate", "guest": "105", "node": "pve2"}),
        json!({"do": "rollback", "guest": "105", "name": "good"}),
        json!({"do": "destroy", "guest": "106"}),
    ] {
        check(&lab, asked, RefusalCode::HaManaged);
    }
    for asked in [json!({"do": "shutdown", "guest": "105"}), json!({"do": "start", "guest": "106"})] {
        assert!(lab.plan(&intent(asked)).is_ok());
    }
}

#[test]
fn what_is_linked_or_runs_is_not_destroyed() {
    let link =
        |vmid| vm(vmid, "copy").line("scsi0", &format!("tank:base-9000-disk-0/vm-{vmid}-disk-0,size=32G"));
    let mut lab = lab([vm(9000, "template").template(), link(106), vm(105, "db").on("pve2")]);
    let refusal = refused(&lab, &json!({"do": "destroy", "guest": "9000"}));
    assert_eq!(
        (refusal.code, &refusal.details["clones"]),
        (RefusalCode::LinkedClones, &json!(["vm.home.106"]))
    );
    // Also when only the live look shows it; and not when its number only begins alike.
    lab.guests.insert(106, vm(106, "copy"));
    lab.live.insert(106, link(106));
    check(&lab, json!({"do": "destroy", "guest": "9000"}), RefusalCode::LinkedClones);
    lab.live.clear();
    let other = "tank:base-90001-disk-0/vm-106-disk-0,size=32G";
    lab.guests.insert(106, vm(106, "copy").line("scsi0", other));
    assert!(lab.plan(&intent(json!({"do": "destroy", "guest": "9000"}))).is_ok());

    let refusal = refused(&lab, &json!({"do": "destroy", "guest": "105"}));
    assert_eq!(refusal.code, RefusalCode::Running);
    assert!(refusal.hint.contains("all"), "{}", refusal.hint);
    let both =
        json!({"do": "all", "of": [{"do": "shutdown", "guest": "105"}, {"do": "destroy", "guest": "105"}]});
    assert_eq!(lab.plan(&intent(both)).unwrap().steps.len(), 2);
    lab.policy.protected.flag = false;
    lab.guests.insert(105, vm(105, "db").stopped().line("protection", "1"));
    check(&lab, json!({"do": "destroy", "guest": "105"}), RefusalCode::Protected);
}

#[test]
fn a_rollback_that_drops_what_protects_is_refused_as_that() {
    let lab_with = |differs: &[(&str, Option<&str>)]| {
        lab([vm(105, "db").line("protection", "1").line("tags", "a;critical").snapshot("old", 9, differs)])
    };
    let asked = json!({"do": "rollback", "guest": "105", "name": "old"});
    check(&lab_with(&[("protection", None)]), asked.clone(), RefusalCode::DropsProtection);
    check(&lab_with(&[("tags", Some("a"))]), asked.clone(), RefusalCode::DropsProtection);
    check(&lab_with(&[("tags", None)]), asked.clone(), RefusalCode::DropsProtection);
    // Where nothing is lost it is still protected.
    check(&lab_with(&[("cores", Some("1"))]), asked.clone(), RefusalCode::Protected);
    // A flag policy does not count is kept all the same.
    let mut lab = lab([vm(105, "db").line("protection", "1").snapshot("old", 9, &[("protection", None)])]);
    lab.policy.protected.flag = false;
    check(&lab, asked, RefusalCode::DropsProtection);
}

#[test]
fn names_of_guests_are_known_and_clear() {
    let lab =
        lab([vm(105, "web"), ct(106, "web"), ct(107, "a").line("tags", "t"), ct(108, "b").line("tags", "t")]);
    let refusal = refused(&lab, &json!({"do": "start", "guest": "web"}));
    assert_eq!(refusal.code, RefusalCode::AmbiguousGuest);
    assert_eq!(refusal.details["candidates"], json!(["lxc.home.106", "vm.home.105"]));
    check(&lab, json!({"do": "start", "guest": "999"}), RefusalCode::UnknownGuest);
    check(&lab, json!({"do": "start", "guest": "tag:none"}), RefusalCode::UnknownGuest);
    // Exactly one is destroyed, rolled back or resized.
    for asked in [
        json!({"do": "destroy", "guest": "tag:t"}),
        json!({"do": "rollback", "guest": "tag:t", "name": "good"}),
        json!({"do": "resize", "guest": "tag:t", "disk": "rootfs", "size_gib": 64}),
    ] {
        check(&lab, asked, RefusalCode::AmbiguousGuest);
    }
    let needs = needs(&intent(json!({"do": "start", "guest": "web"})), &lab.known(), &lab.policy, None);
    assert_eq!(needs.unwrap_err().code, RefusalCode::AmbiguousGuest);
}

#[test]
fn values_keep_their_bounds() {
    let mut lab = lab([vm(105, "db").snapshot("good", 1, &[]), vm(9000, "template").template()]);
    let create = |new: Value| json!({"do": "create-vm", "template": "9000", "new": new});
    for asked in [
        create(json!({"name": "a b"})),
        create(json!({"name": "../etc"})),
        create(json!({"name": "x;reboot"})),
        create(json!({"name": "105"})),
        create(json!({"name": "a", "vmid": 5})),
        create(json!({"name": "a", "node": "pve1/../x"})),
        create(json!({"name": "a", "storage": "x:y"})),
        create(json!({"name": "a", "pool": "a/../b"})),
        create(json!({"name": "a", "bridge": "vmbr0,tag=1"})),
        create(json!({"name": "a", "cores": 0})),
        create(json!({"name": "a", "memory_mib": u64::MAX})),
        create(json!({"name": "a", "tags": ["x;protected"]})),
        create(json!({"name": "a", "disk_gib": 1})),
        create(json!({"name": "a", "description": "\u{1b}[2J"})),
        json!({"do": "create-vm", "new": {"name": "a"}, "iso": "local:iso/../../x.iso"}),
        json!({"do": "create-vm", "new": {"name": "a"}, "os": "beos"}),
        json!({"do": "create-vm", "new": {"name": "a"}, "template": "9000", "os": "l26"}),
        json!({"do": "create-lxc", "new": {"name": "a"}, "template": "local:vztmpl/x.sh"}),
        json!({"do": "create-lxc", "new": {"name": "a"}, "template": "local:vztmpl/x.tar.gz", "ip": "1.2.3.4"}),
        json!({"do": "snapshot", "guest": "105", "name": "1x"}),
        json!({"do": "snapshot", "guest": "105", "name": "../x"}),
        json!({"do": "rollback", "guest": "105", "name": "a/b"}),
        json!({"do": "migrate", "guest": "105", "node": "a b"}),
        json!({"do": "resize", "guest": "105", "disk": "net0", "size_gib": 64}),
        json!({"do": "resize", "guest": "105", "disk": "scsi0", "size_gib": 0}),
        json!({"do": "resize", "guest": "105", "disk": "scsi0", "size_gib": 31}),
        json!({"do": "set", "guest": "105", "settings": {}}),
        json!({"do": "set", "guest": "105", "settings": {"memory_mib": 1}}),
        json!({"do": "backup", "guest": "105", "storage": "a;b"}),
    ] {
        check(&lab, asked, RefusalCode::BadValue);
    }
    for asked in [
        json!({"do": "migrate", "guest": "105", "node": "pve9"}),
        json!({"do": "resize", "guest": "105", "disk": "scsi1", "size_gib": 64}),
        json!({"do": "rollback", "guest": "105", "name": "nosuch"}),
        json!({"do": "snapshot-delete", "guest": "105", "name": "nosuch"}),
        json!({"do": "backup", "guest": "105", "storage": "tank"}),
        json!({"do": "create-vm", "new": {"name": "a", "storage": "nosuch"}}),
        json!({"do": "create-vm", "new": {"name": "a", "node": "pve9"}}),
        json!({"do": "create-vm", "new": {"name": "a", "cluster": "away"}}),
        json!({"do": "undo", "plan": "p-nosuch"}),
        json!({"do": "lab-up"}),
        json!({"do": "return", "guests": ["105"], "to": {"revision": 3}}),
    ] {
        check(&lab, asked, RefusalCode::Unknown);
    }
    let minutes = lab.plan_with(&intent(json!({"do": "stop", "guest": "105"})), Some(0));
    assert_eq!(minutes.unwrap_err().code, RefusalCode::BadValue);
    let never =
        lab.plan_with(&intent(json!({"do": "snapshot-delete", "guest": "105", "name": "good"})), Some(5));
    assert_eq!(never.unwrap_err().code, RefusalCode::NotPossible);
    lab.vmids.clear();
    check(&lab, create(json!({"name": "a"})), RefusalCode::NoRoom);
}

#[test]
fn a_move_must_be_possible() {
    let mut lab = lab([vm(105, "db"), ct(106, "web")]);
    lab.graph = json!({"site": {"depends_on": ["web"]}});
    lab.guests.insert(107, ct(107, "site"));
    // A container is shut down for its move, a virtual machine is not.
    check(&lab, json!({"do": "migrate", "guest": "106", "node": "pve2"}), RefusalCode::DependentsRunning);
    check(&lab, json!({"do": "migrate", "guest": "105", "node": "pve1"}), RefusalCode::NothingToDo);
    lab.offline = ["pve2".to_owned()].into();
    check(&lab, json!({"do": "migrate", "guest": "105", "node": "pve2"}), RefusalCode::NodeOffline);
    let mut sight = lab.sight();
    let key = lab.guests[&105].key();
    sight.seen_mut(&key).unwrap().migrate =
        Some(MigrateSight { local_resources: vec!["hostpci0".to_owned()], ..MigrateSight::default() });
    let asked = intent(json!({"do": "migrate", "guest": "105", "node": "pve3"}));
    assert_eq!(lab.plan_on(&asked, &sight).unwrap_err().code, RefusalCode::NotPossible);
    sight.seen_mut(&key).unwrap().migrate = None;
    assert_eq!(lab.plan_on(&asked, &sight).unwrap_err().code, RefusalCode::NotSeen);
}

#[test]
fn plans_have_a_size() {
    let mut lab = lab((200..420).map(|vmid| ct(vmid, &format!("g{vmid}")).stopped().line("tags", "many")));
    check(&lab, json!({"do": "start", "guest": "tag:many"}), RefusalCode::TooManySteps);
    lab.policy.limits.steps_per_plan = 1000;
    lab.policy.limits.guests_per_plan = 1000;
    assert_eq!(lab.plan(&intent(json!({"do": "start", "guest": "tag:many"}))).unwrap().steps.len(), 220);
    let one = Intent::Start { guest: GuestRef::parse("200").unwrap() };
    let wide = Intent::All { of: vec![one.clone(); 10_000] };
    assert_eq!(lab.plan(&wide).unwrap_err().code, RefusalCode::TooManySteps);
    let deep = (0..600).fold(one, |inner, _| Intent::All { of: vec![inner] });
    assert_eq!(lab.plan(&deep).unwrap_err().code, RefusalCode::TooManySteps);
}

#[test]
fn a_destroy_may_need_a_backup() {
    let mut lab = lab([vm(105, "db").stopped()]);
    lab.policy.caution.backup_before_destroy_hours = Some(24);
    let asked = json!({"do": "destroy", "guest": "105"});
    check(&lab, asked.clone(), RefusalCode::NotPossible);
    lab.guests.get_mut(&105).unwrap().backup = Some(now() - jiff::SignedDuration::from_hours(30));
    check(&lab, asked.clone(), RefusalCode::NotPossible);
    lab.guests.get_mut(&105).unwrap().backup = Some(now() - jiff::SignedDuration::from_hours(3));
    let plan = lab.plan(&intent(asked)).unwrap();
    assert!(
        plan.steps[0].before.iter().any(|fact| matches!(fact, nhi_model::fact::Fact::BackupSince { .. }))
    );
    assert!(plan.undo.cost.contains("restore"), "{}", plan.undo.cost);
}

#[test]
fn a_guest_of_another_cluster_that_needs_it_counts() {
    let lab = lab([vm(101, "db")]);
    let mut known = lab.known();
    let far = Key::parse("lxc.away.7").unwrap();
    let record = json!({"cluster": "away", "name": "web", "status": "running", "node": "x"});
    known.insert(far, nhi_decide::observe::Known { revision: 1, record, stale: None });
    let graph = json!({"services": {"web": {"depends_on": ["db"]}}});
    known.get_mut(&Key::graph()).unwrap().record = graph;
    let asked = intent(json!({"do": "stop", "guest": "101", "with_dependents": true}));
    let refusal = lab.plan_knowing(&asked, &known, &lab.sight()).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::DependentsRunning);
    assert!(!refusal.hint.contains("with_dependents"), "{}", refusal.hint);
    let both = intent(
        json!({"do": "all", "of": [{"do": "start", "guest": "101"}, {"do": "start", "guest": "away/7"}]}),
    );
    assert_eq!(lab.plan_knowing(&both, &known, &lab.sight()).unwrap_err().code, RefusalCode::AmbiguousGuest);
}
