//! The scanner and the simulated lab: everything is seen, nothing is lost for the wrong reason, and a quiet lab
//! costs no message.

use crate::house::{House, SOON};
use nhi_agents::scan::{Cluster, FirstPass};
use nhi_model::{
    guest::{AddressSource, Backups, Guest, GuestStatus},
    lab::{Node, NodeStatus},
    source::{Coverage, Source},
};
use nhi_pve::{Address, ApiToken, Endpoint, Trust};
use nhi_sim::{Fault, Power};
use nhi_testkit::wait_for;

#[tokio::test(flavor = "multi_thread")]
async fn the_whole_path_from_scan_to_file() {
    let mut house = House::empty().await;
    let mirror = house.start_mirror().await;
    let options = house.scan_options();
    house.start_scan(options).await;
    let progress = house.ready().await;
    let FirstPass::Done { revision } = progress.sources["proxmox-home"].first_pass else {
        panic!("{progress:?}");
    };
    house.shown(revision).await;

    let guest: Guest = house.record("vm.home.100");
    assert_eq!((guest.name.as_str(), guest.node.as_str()), ("neural-home", "pve1"));
    assert_eq!(guest.status, GuestStatus::Running);
    assert_eq!(guest.tags, ["core", "nh-critical"]);
    assert_eq!((guest.protection, guest.onboot), (Some(true), Some(true)));
    assert_eq!(guest.pool.as_deref(), Some("core"));
    assert_eq!(guest.address_source, AddressSource::GuestAgent);
    assert!(guest.addresses.iter().any(|found| found.address.to_string() == "192.168.10.100"));
    assert_eq!(guest.snapshots, Some(0));
    assert!(guest.identity.uuid.is_some() && guest.config_digest.is_some());
    assert_eq!(guest.backups, Backups::NotVisible, "an auditor's token sees no backups");

    let truenas: Guest = house.record("vm.home.101");
    assert_eq!(truenas.snapshots, Some(1));
    let managed: Guest = house.record("vm.home.102");
    assert!(managed.ha.is_some());
    let template: Guest = house.record("vm.home.9000");
    assert!(template.template);
    let silent: Guest = house.record("vm.home.108");
    assert_eq!(silent.address_source, AddressSource::AgentSilent);
    let without: Guest = house.record("vm.home.105");
    assert_eq!(without.address_source, AddressSource::NoAgent);
    let container: Guest = house.record("lxc.home.204");
    assert_eq!(container.address_source, AddressSource::Interfaces);
    assert!(container.addresses.iter().any(|found| found.address.to_string() == "192.168.10.50"));
    assert!(container.addresses.iter().all(|found| !found.address.is_loopback()));
    let stopped: Guest = house.record("lxc.home.210");
    assert_eq!(stopped.address_source, AddressSource::NotRunning);
    let node: Node = house.record("node.home.pve2");
    assert_eq!((node.status, node.pve_version.as_deref()), (NodeStatus::Online, Some("9.1.1")));
    let source: Source = house.record("source.proxmox-home");
    assert_eq!((source.coverage, source.missing_rights.len()), (Coverage::Complete, 0));

    let first = progress.sources["proxmox-home"].last.as_ref().unwrap();
    assert!(first.duration_ms < 10_000, "the whole home takes {} ms", first.duration_ms);

    let mut mirrored = mirror.progress();
    let shown = mirrored.wait_for(|progress| progress.revision.is_some_and(|shown| shown >= revision));
    tokio::time::timeout(SOON, shown).await.unwrap().unwrap();
    let json = house.state_json();
    let vms = json["infrastructure"]["vms"].as_array().unwrap();
    let row = vms.iter().find(|row| row["vmid"] == 100).unwrap();
    assert_eq!(row["status"], "running");
    assert_eq!(row["ip_addresses"][0], "192.168.10.100");
    assert_eq!(json["infrastructure"]["lxcs"].as_array().unwrap().len(), 12);
    assert!(house.infrastructure().join("GLOBAL_CONTEXT.md").exists());
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pass_that_finds_nothing_new_writes_nothing() {
    let house = House::scanned().await;
    // The first pass learns the rights; from the second on they are known not to have changed.
    house.pass().await;
    let before = house.view.read().revision;
    for _ in 0..3 {
        let done = house.pass().await;
        assert_eq!((done.writes, done.revision), (0, before));
    }
    let counts = house.lab.counts();
    assert_eq!(counts.writes, 0, "a scanner only reads");
    assert!(
        counts.protected_in_flight_max.values().all(|most| *most <= 2),
        "{:?}",
        counts.protected_in_flight_max
    );
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_for_a_pass_join_the_one_that_runs() {
    let house = House::scanned().await;
    house.lab.set_latency_ms(20);
    let (one, two, three) = tokio::join!(house.pass(), house.pass(), house.pass());
    let passes = house.scan.as_ref().unwrap().progress().borrow().sources["proxmox-home"].passes;
    assert!(passes <= 3, "{passes} passes for three calls and the first");
    assert_eq!((one.revision, two.revision), (two.revision, three.revision));
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_goes_and_comes_back() {
    let house = House::scanned().await;
    let fault = Fault::NodeOffline { node: "pve2".to_owned(), code: 595, power_cut: false };
    let fault = house.lab.set_fault(fault).unwrap();
    // Nobody asks for a pass: the cheap look notices.
    house
        .until("the node's guests to be stale", |state| {
            let key = "vm.home.101".parse_key();
            state.records.get(&key).filter(|entry| entry.stored.stale.is_some()).map(drop)
        })
        .await;
    let guest: Guest = house.record("vm.home.101");
    assert_eq!(guest.status, GuestStatus::Running, "it is shown as last seen, not called stopped");
    assert!(!guest.addresses.is_empty());
    let node: Node = house.record("node.home.pve2");
    assert_eq!(node.status, NodeStatus::Offline);
    assert!(house.alerts().contains(&"alert.scan.node-offline_home_pve2".to_owned()), "{:?}", house.alerts());
    let passed = house.pass().await;
    assert!(matches!(passed.sources["proxmox-home"], Coverage::Partial { .. }));
    assert!(house.stored("vm.home.100").unwrap().stale.is_none());

    house.lab.clear_fault(fault).unwrap();
    house
        .until("the node's guests to be fresh", |state| {
            let key = "vm.home.101".parse_key();
            state.records.get(&key).filter(|entry| entry.stored.stale.is_none()).map(drop)
        })
        .await;
    house.pass().await;
    assert_eq!(house.alerts(), Vec::<String>::new());
    assert_eq!(house.record::<Source>("source.proxmox-home").coverage, Coverage::Complete);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_rights_are_not_lost_guests() {
    let house = House::scanned().await;
    house.pass().await;
    let before = house.view.read();
    let fault = Fault::RightsLost {
        principal: house.lab.scan_token.id.clone(),
        path: Some("/vms".to_owned()),
        privilege: None,
    };
    let fault = house.lab.set_fault(fault).unwrap();
    for _ in 0..3 {
        house.pass().await;
    }
    let after = house.view.read();
    for key in before.records.keys() {
        assert!(after.records.contains_key(key), "{key} was retired");
    }
    let stored = house.stored("vm.home.100").unwrap();
    assert!(stored.stale.is_some());
    assert!(house.alerts().contains(&"alert.scan.rights-missing_home".to_owned()), "{:?}", house.alerts());

    house.lab.clear_fault(fault).unwrap();
    house.pass().await;
    house.pass().await;
    assert!(house.stored("vm.home.100").unwrap().stale.is_none());
    assert_eq!(house.alerts(), Vec::<String>::new());
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_goes_and_its_number_comes_again() {
    let house = House::scanned().await;
    house.pass().await;
    let old: Guest = house.record("vm.home.107");
    let mut taken = house.lab.with_lab(|lab| lab.guests.remove(&107)).unwrap();
    house.lab.advance_ms(11_000);
    house
        .until("the guest to be retired", |state| {
            (!state.records.contains_key(&"vm.home.107".parse_key())).then_some(())
        })
        .await;

    taken.config.insert("name".to_owned(), "successor".to_owned());
    taken.config.insert("smbios1".to_owned(), "uuid=11111111-2222-3333-4444-555555555555".to_owned());
    taken.config.insert("meta".to_owned(), "creation-qemu=10.0.2,ctime=1790000000".to_owned());
    taken.power = Power::Stopped;
    house.lab.with_lab(|lab| lab.guests.insert(107, taken.clone()));
    house.lab.advance_ms(11_000);
    let seen = house
        .until("its successor", |state| {
            let entry = state.records.get(&"vm.home.107".parse_key())?;
            let guest: Guest = entry.stored.typed(&"vm.home.107".parse_key()).ok()?;
            (guest.name == "successor" && guest.identity.uuid.is_some()).then_some(guest)
        })
        .await;
    assert_ne!(seen.identity, old.identity);
    assert!(seen.addresses.is_empty());

    // And without a pass that saw it gone.
    let mut again = taken;
    again.config.insert("smbios1".to_owned(), "uuid=aaaaaaaa-2222-3333-4444-555555555555".to_owned());
    again.config.insert("meta".to_owned(), "creation-qemu=10.0.2,ctime=1790000999".to_owned());
    again.config.insert("name".to_owned(), "third".to_owned());
    again.snapshots.clear();
    house.lab.with_lab(|lab| lab.guests.insert(107, again));
    house.lab.advance_ms(11_000);
    house.pass().await;
    let third: Guest = house.record("vm.home.107");
    assert_eq!(third.name, "third");
    assert!(third.identity.uuid.unwrap().starts_with("aaaaaaaa"));
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn statistics_that_stand_still_stop_no_guest() {
    let house = House::scanned().await;
    house.pass().await;
    let before = house.view.read().revision;
    let fault = Fault::StatsStuck { node: "pve3".to_owned(), expired: true };
    house.lab.set_fault(fault).unwrap();
    let done = house.pass().await;
    assert_eq!((done.writes, done.revision), (0, before), "the nodes' own lists are the truth");
    assert_eq!(house.record::<Guest>("vm.home.103").status, GuestStatus::Running);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_started_guest_is_seen_without_being_asked_for() {
    let house = House::scanned().await;
    let now = house.lab.with_lab(|lab| lab.now_ms());
    house.lab.with_lab(|lab| {
        lab.guests.get_mut(&210).unwrap().power = Power::Running { since_ms: now, pid: 4711 };
    });
    house.lab.advance_ms(11_000);
    let guest = house
        .until("the guest to run", |state| {
            let key = "lxc.home.210".parse_key();
            let guest: Guest = state.records.get(&key)?.stored.typed(&key).ok()?;
            (guest.status == GuestStatus::Running && guest.address_source == AddressSource::Interfaces)
                .then_some(guest)
        })
        .await;
    assert_eq!(guest.node, "pve3");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_does_not_answer_hinders_no_other() {
    let mut house = House::empty().await;
    let mut options = house.scan_options();
    let token = ApiToken::parse("nobody@pve!nothing", "00000000-0000-0000-0000-000000000000").unwrap();
    let trust = Trust::ca_pem(house.lab.ca_pem.as_bytes()).unwrap();
    let nowhere = Endpoint::new(Address::parse_list("127.0.0.1:9").unwrap(), token.clone(), trust.clone());
    options.clusters.push(Cluster { name: "nowhere".to_owned(), endpoint: nowhere.unwrap() });
    let wrong = Endpoint::new(Address::parse_list(&house.lab.url).unwrap(), token, trust).unwrap();
    options.clusters.push(Cluster { name: "wrong".to_owned(), endpoint: wrong });
    house.start_scan(options).await;
    let progress = house.ready().await;
    assert!(matches!(progress.sources["proxmox-home"].first_pass, FirstPass::Done { .. }), "{progress:?}");
    for broken in ["proxmox-nowhere", "proxmox-wrong"] {
        let FirstPass::Failed { reason } = &progress.sources[broken].first_pass else {
            panic!("{progress:?}")
        };
        assert!(!reason.is_empty());
    }
    wait_for("the alerts", SOON, async || {
        let alerts = house.alerts();
        ["alert.scan.unreachable_nowhere", "alert.scan.unreachable_wrong"]
            .iter()
            .all(|wanted| alerts.iter().any(|alert| alert == wanted))
    })
    .await;
    assert!(house.stored("vm.home.100").unwrap().stale.is_none());
    let reason = format!("{:?}", house.record::<Source>("source.proxmox-wrong"));
    assert!(!reason.contains("00000000-0000"), "{reason}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_answers_html_takes_nothing_away() {
    let house = House::scanned().await;
    house.pass().await;
    let before = house.view.read();
    let answer = nhi_sim::Breakage::Html { status: 200 };
    let fault = house.lab.set_fault(Fault::Http { on: Default::default(), answer }).unwrap();
    let done = house.pass().await;
    assert!(matches!(done.sources["proxmox-home"], Coverage::Unseen { .. }), "{done:?}");
    let after = house.view.read();
    assert!(before.records.keys().all(|key| after.records.contains_key(key)));
    house.lab.clear_fault(fault).unwrap();
    house.pass().await;
    assert_eq!(house.alerts(), Vec::<String>::new());
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn backups_are_told_where_they_can_be_seen() {
    let mut house = House::empty().await;
    let mut options = house.scan_options();
    options.clusters[0].endpoint = house.endpoint_of(&house.lab.act_token);
    house.start_scan(options).await;
    house.ready().await;
    house.pass().await;
    let guest: Guest = house.record("vm.home.100");
    let Backups::Newest { storage, .. } = guest.backups else { panic!("{:?}", guest.backups) };
    assert_eq!(storage.as_deref(), Some("pbs"));
    let tasks = |route: &&String| route.ends_with("/tasks");
    assert_eq!(house.lab.counts().by_route.keys().find(tasks), None, "nobody needs the task logs");
    house.cx.close().await;
}

/// Makes guest 107 anew: the same number, the same name, another machine.
fn make_again(
    house: &House,
    first_uuid_digit: char,
    change: impl FnOnce(&mut nhi_sim::Guest, i64),
) -> String {
    let uuid = format!("{first_uuid_digit}1111111-2222-3333-4444-555555555555");
    house.lab.with_lab(|lab| {
        let now_ms = lab.now_ms();
        let guest = lab.guests.get_mut(&107).unwrap();
        guest.config.insert("smbios1".to_owned(), format!("uuid={uuid}"));
        guest
            .config
            .insert("meta".to_owned(), format!("creation-qemu=10.0.2,ctime=179000000{first_uuid_digit}"));
        change(guest, now_ms);
    });
    house.lab.advance_ms(11_000);
    uuid
}

#[tokio::test(flavor = "multi_thread")]
async fn a_number_used_again_with_the_same_name_is_seen_by_the_cheap_look() {
    let house = House::scanned().await;
    house.pass().await;
    let shows = async |uuid: &str| {
        house
            .until("the successor", |state| {
                let key = "vm.home.107".parse_key();
                let guest: Guest = state.records.get(&key)?.stored.typed(&key).ok()?;
                (guest.identity.uuid.as_deref() == Some(uuid)).then_some(guest)
            })
            .await
    };
    // Nobody asks for a pass, and the next one is minutes away.
    let uuid = make_again(&house, '1', |guest, now_ms| {
        assert!(matches!(guest.power, Power::Running { .. }));
        guest.power = Power::Running { since_ms: now_ms, pid: 4711 };
    });
    let seen = shows(&uuid).await;
    assert!(seen.identity.first_seen.is_some(), "what a log said of its number before is not about it");
    let uuid = make_again(&house, '2', |guest, _| guest.power = Power::Stopped);
    shows(&uuid).await;
    let uuid =
        make_again(&house, '3', |guest, _| drop(guest.config.insert("memory".to_owned(), "1024".to_owned())));
    shows(&uuid).await;

    // The control, and the limit of it: one that looks the same in every way waits for its turn.
    make_again(&house, '4', |_, _| {});
    let looks = || house.lab.counts().by_route["GET /cluster/resources"];
    let until = looks() + 3;
    wait_for("three looks", SOON, async || looks() >= until).await;
    assert_eq!(house.record::<Guest>("vm.home.107").identity.uuid, Some(uuid));
    assert_eq!(house.scan.as_ref().unwrap().progress().borrow().sources["proxmox-home"].passes, 2);
    house.cx.close().await;
}

/// Keys in tests are written as people read them.
trait ParseKey {
    fn parse_key(&self) -> nhi_model::key::Key;
}

impl ParseKey for str {
    fn parse_key(&self) -> nhi_model::key::Key {
        nhi_model::key::Key::parse(self).unwrap()
    }
}
