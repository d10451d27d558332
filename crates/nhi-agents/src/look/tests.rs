//! Looking at the simulated lab: what is there is seen as the scanner sees it, and nothing is called gone that is not.

use super::{Wanted, look, look_for};
use crate::proxmox::{
    convert,
    pass::{Asker, Memory},
    schedule::Work,
};
use nhi_decide::{
    fact::{Holds, holds},
    sight::{GuestSight, Seen, Sight, seen_of_record},
};
use nhi_model::{
    Timestamp,
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    key::Key,
};
use nhi_pve::{Address, ApiToken, Endpoint, Reader, Trust};
use nhi_sim::{Breakage, Edit, Fault, LabOptions, Match, PowerWord, PveVersion, Running, Seed};
use std::{collections::BTreeMap, time::Duration};

struct Lab {
    sim: Running,
    reader: Reader,
}

impl Lab {
    async fn start() -> Self {
        Self::with(LabOptions::demo()).await
    }

    async fn with(options: LabOptions) -> Self {
        let sim = nhi_sim::serve(LabOptions { auth_delay_ms: 0, ..options }).await.unwrap();
        let token = ApiToken::parse(&sim.act_token.id, &sim.act_token.secret).unwrap();
        let trust = Trust::ca_pem(sim.ca_pem.as_bytes()).unwrap();
        let urls: Vec<Address> = sim.node_urls.values().map(|url| url.parse().unwrap()).collect();
        let reader = Reader::new(Endpoint::new(urls, token, trust).unwrap()).unwrap();
        Self { sim, reader }
    }

    async fn look(&self, wanted: &Wanted) -> Sight {
        look(&self.reader, "home", wanted, Timestamp::UNIX_EPOCH).await
    }

    /// Looks at one guest.
    async fn one(&self, key: &Key, last: Option<&str>) -> GuestSight {
        let wanted = guests([(key.clone(), last)]);
        self.look(&wanted).await.guests.remove(key).unwrap()
    }

    /// Why a guest was not seen.
    async fn why(&self, key: &Key, last: Option<&str>) -> String {
        match self.one(key, last).await {
            GuestSight::Unseen { why } => why,
            other => panic!("{other:?}"),
        }
    }

    fn breaks(&self, path: &str, answer: Breakage) -> u64 {
        let on = Match { path: Some(path.to_owned()), ..Match::default() };
        self.sim.set_fault(Fault::Http { on, answer }).unwrap()
    }

    fn offline(&self, node: &str) {
        let fault = Fault::NodeOffline { node: node.to_owned(), code: 595, power_cut: false };
        self.sim.set_fault(fault).unwrap();
    }

    fn edit(&self, vmid: u32, edit: Edit) {
        self.sim.with_lab(|lab| lab.edit(vmid, edit)).unwrap();
    }
}

fn guests<'a>(guests: impl IntoIterator<Item = (Key, Option<&'a str>)>) -> Wanted {
    let guests = guests.into_iter().map(|(key, last)| (key, last.map(str::to_owned))).collect();
    Wanted { guests, ..Wanted::default() }
}

fn vm(vmid: u32) -> Key {
    Key::guest(GuestKind::Qemu, "home", vmid)
}

fn ct(vmid: u32) -> Key {
    Key::guest(GuestKind::Lxc, "home", vmid)
}

fn seen(sight: GuestSight) -> Seen {
    match sight {
        GuestSight::Seen(seen) => *seen,
        other => panic!("{other:?}"),
    }
}

/// Every guest as the scanner would write it down.
async fn scanned(lab: &Lab) -> BTreeMap<Key, Seen> {
    let token = ApiToken::parse(&lab.sim.scan_token.id, &lab.sim.scan_token.secret).unwrap();
    let trust = Trust::ca_pem(lab.sim.ca_pem.as_bytes()).unwrap();
    let endpoint = Endpoint::new(vec![lab.sim.url.parse().unwrap()], token, trust).unwrap();
    let reader = Reader::new(endpoint).unwrap();
    let asker = Asker { reader, cluster: "home".to_owned(), place: "lab".to_owned() };
    let mut answers = asker.lists(Timestamp::UNIX_EPOCH).await;
    let listed = convert::listed(&answers.nodes);
    let work = Work { configs: listed.keys().copied().collect(), addresses: [].into() };
    let places = listed.into_iter().map(|(guest, (node, _))| (guest, node)).collect();
    asker.guests(&mut answers, &work, &places, |_| Memory::default()).await;
    let guests = convert::observation(&answers).nodes.into_values().flat_map(|node| node.guests);
    guests
        .map(|sight| {
            let guest = sight.guest;
            (Key::guest(guest.kind, "home", guest.vmid), seen_of_record(guest))
        })
        .collect()
}

#[tokio::test]
async fn a_live_look_agrees_with_what_the_scanner_records() {
    let lab = Lab::start().await;
    lab.edit(105, Edit::Power { to: PowerWord::Paused });
    lab.edit(205, Edit::Config { set: [("lock".to_owned(), "backup".to_owned())].into(), delete: vec![] });
    let records = scanned(&lab).await;
    assert_eq!(records.len(), 22);
    let sight =
        lab.look(&guests(records.iter().map(|(key, seen)| (key.clone(), Some(seen.node.as_str()))))).await;
    assert_eq!((sight.quorate, sight.guests.len()), (Some(true), 22));
    assert!(
        sight.nodes.values().all(|node| node.online && node.memory_free_bytes.is_some()),
        "{:?}",
        sight.nodes
    );
    for (key, record) in &records {
        let live = sight.seen(key).unwrap_or_else(|| panic!("{key}: {:?}", sight.guests[key]));
        assert_eq!(
            (&live.node, &live.name, live.status, &live.lock, live.template, &live.pool, live.ha.is_some()),
            (
                &record.node,
                &record.name,
                record.status,
                &record.lock,
                record.template,
                &record.pool,
                record.ha.is_some()
            ),
            "{key}"
        );
        assert_eq!(live.identity, record.identity, "{key}");
        assert!(live.config_whole && live.digest.as_ref().is_some_and(|digest| !digest.is_empty()), "{key}");
        assert!(!live.config.contains_key("digest"));
        for (field, value) in &record.config {
            // The record has a volume's name alone.
            let is_volume = value.contains(':') || value.starts_with('/');
            let fact = Fact::Config { guest: key.clone(), field: field.clone(), value: Some(value.clone()) };
            assert!(is_volume || holds(&fact, &sight).is_yes(), "{fact:?}: {:?}", live.config.get(field));
        }
    }
    assert_eq!(sight.seen(&vm(105)).unwrap().status, GuestStatus::Paused);
    assert_eq!(sight.seen(&ct(205)).unwrap().lock.as_deref(), Some("backup"));
    let counts = lab.sim.counts();
    assert_eq!(counts.writes, 0);
    assert!(counts.protected_in_flight_max.values().all(|most| *most <= 2), "{counts:?}");
}

#[tokio::test]
async fn what_is_wanted_beyond_is_read_too() {
    let lab = Lab::start().await;
    let mut wanted = guests([(vm(103), None), (vm(102), None), (ct(203), None), (ct(204), None)]);
    wanted.snapshot_configs = [(vm(103), "clean".to_owned())].into();
    wanted.migrate = [vm(102), vm(103), ct(203)].into();
    wanted.backups = [vm(103)].into();
    wanted.storages = true;
    let sight = lab.look(&wanted).await;

    let docker = sight.seen(&vm(103)).unwrap();
    let snapshots = docker.snapshots.as_ref().unwrap();
    let names: Vec<&str> = snapshots.iter().map(|snapshot| snapshot.name.as_str()).collect();
    assert_eq!(names, ["before-compose-v2", "clean"]);
    assert_eq!((snapshots[0].parent.as_deref(), snapshots[0].config.as_ref()), (Some("clean"), None));
    assert_eq!(snapshots[1].config.as_ref().unwrap()["tags"], "docker");
    assert_eq!((docker.snapshot_count, docker.can_snapshot), (Some(2), Some(true)));
    assert!(docker.newest_backup.is_some() && sight.seen(&vm(102)).unwrap().newest_backup.is_none());
    let moves = docker.migrate.as_ref().unwrap();
    assert!(moves.local_disks && moves.local_resources.is_empty());

    assert!(!sight.seen(&vm(102)).unwrap().migrate.as_ref().unwrap().local_disks, "its disk is on the NAS");
    let proxy = sight.seen(&ct(203)).unwrap().migrate.as_ref().unwrap();
    assert!(proxy.local_disks && proxy.allowed.is_some(), "{proxy:?}");
    assert_eq!(sight.seen(&ct(204)).unwrap().can_snapshot, Some(false), "it has a bind mount");

    let zfs = &sight.storages[&("pve2".to_owned(), "local-zfs".to_owned())];
    assert!(zfs.active && !zfs.shared && zfs.content.contains("images") && zfs.free_bytes.is_some());
    assert!(sight.storages[&("pve3".to_owned(), "nas".to_owned())].shared);
    assert!(!sight.storages.contains_key(&("pve1".to_owned(), "local-zfs".to_owned())));
}

#[tokio::test]
async fn an_older_proxmox_does_not_say_where_containers_may_go() {
    let lab = Lab::with(LabOptions { version: PveVersion::V8_2, ..LabOptions::demo() }).await;
    let mut wanted = guests([(ct(203), None), (ct(210), None)]);
    wanted.migrate = [ct(203), ct(210)].into();
    let sight = lab.look(&wanted).await;
    let of = |key: &Key| sight.seen(key).unwrap().migrate.clone().unwrap();
    assert_eq!((of(&ct(203)).allowed, of(&ct(203)).local_disks), (None, true));
    assert!(!of(&ct(210)).local_disks, "its root is on the NAS");
}

#[tokio::test]
async fn a_guest_that_moved_is_found() {
    let lab = Lab::start().await;
    lab.edit(105, Edit::Move { node: "pve3".to_owned() });
    assert_eq!(seen(lab.one(&vm(105), Some("pve2")).await).node, "pve3");
    assert_eq!(seen(lab.one(&vm(105), None).await).node, "pve3");
    // Without the index every node is asked.
    lab.breaks("/cluster/resources", Breakage::Html { status: 200 });
    assert_eq!(seen(lab.one(&vm(105), Some("pve2")).await).node, "pve3");
    assert_eq!(seen(lab.one(&vm(105), None).await).node, "pve3");
    assert_eq!(seen(lab.one(&vm(105), Some("no-such-node")).await).node, "pve3");
}

#[tokio::test]
async fn gone_is_what_every_node_and_the_cluster_say() {
    let lab = Lab::start().await;
    assert_eq!(lab.one(&vm(999), None).await, GuestSight::Gone);
    lab.edit(105, Edit::Remove {});
    assert_eq!(lab.one(&vm(105), Some("pve2")).await, GuestSight::Gone);
    // The cluster's own file system knows the guests of nodes that are away.
    lab.offline("pve3");
    assert_eq!(lab.one(&vm(105), Some("pve2")).await, GuestSight::Gone);
    assert_eq!(lab.one(&vm(999), Some("pve3")).await, GuestSight::Gone);
    let sight = lab.look(&guests([(vm(104), Some("pve3"))])).await;
    assert!(
        matches!(&sight.guests[&vm(104)], GuestSight::Unseen { why } if why.contains("pve3")),
        "{sight:?}"
    );
    assert!(!sight.nodes["pve3"].online && sight.nodes["pve1"].online);
}

#[tokio::test]
async fn what_may_be_hidden_is_not_gone() {
    let free = vm(999);
    // Every row is a lab of its own in which one of the proofs is missing; the control is the lab itself.
    let lost = |path: &str| Fault::RightsLost {
        principal: "nh-act@pve!mesh".to_owned(),
        path: Some(path.to_owned()),
        privilege: None,
    };
    let html = |path: &str| Fault::Http {
        on: Match { path: Some(path.to_owned()), ..Match::default() },
        answer: Breakage::Html { status: 200 },
    };
    let cases = [
        (Fault::QuorumLost {}, "without quorum that proves nothing"),
        (lost("/vms/999"), "could not be read from node"),
        (lost("/"), ""),
        (html("/nodes/pve2/qemu/999/config"), "could not be read from node pve2"),
        (html("/cluster/nextid"), "whether number 999 is in use"),
        (html("/cluster/status"), "nobody told all nodes"),
    ];
    for (fault, expected) in cases {
        let lab = Lab::start().await;
        assert_eq!(lab.one(&free, None).await, GuestSight::Gone);
        lab.sim.set_fault(fault.clone()).unwrap();
        let why = lab.why(&free, None).await;
        assert!(why.contains(expected), "{fault:?}: {why}");
    }
    let lab = Lab::start().await;
    let why = lab.why(&vm(205), None).await;
    assert!(why.contains("a container on node pve2"), "{why}");
    // Its rows are hidden, its number is not.
    lab.sim.set_fault(lost("/vms/205")).unwrap();
    lab.why(&ct(205), Some("pve2")).await;
}

#[tokio::test]
async fn a_host_that_stands_alone_does_not_speak_for_a_cluster() {
    let mut seed = Seed::demo();
    seed.cluster = None;
    seed.nodes.truncate(1);
    seed.guests.retain(|guest| guest.node == "pve1");
    seed.replication_jobs.clear();
    let lab = Lab::with(LabOptions::local(seed)).await;
    assert_eq!(lab.one(&vm(105), Some("pve1")).await, GuestSight::Gone);
    let why = lab.why(&vm(105), Some("pve2")).await;
    assert!(why.contains("stands alone"), "{why}");
}

#[tokio::test]
async fn a_lab_that_does_not_answer_is_said_for_every_guest() {
    let lab = Lab::start().await;
    let broken = lab.breaks("/", Breakage::DropBefore {});
    let sight = lab.look(&guests([(vm(100), Some("pve1")), (vm(999), None)])).await;
    for guest in sight.guests.values() {
        assert!(
            matches!(guest, GuestSight::Unseen { why } if why.starts_with("home does not answer: ")),
            "{guest:?}"
        );
    }
    assert_eq!((sight.quorate, sight.nodes.len()), (None, 0));
    let fact = Fact::Exists { guest: vm(100) };
    assert!(matches!(holds(&fact, &sight), Holds::Unknown { .. }));
    lab.sim.clear_fault(broken).unwrap();
    lab.breaks("/status/current", Breakage::Html { status: 502 });
    let why = lab.why(&vm(100), Some("pve1")).await;
    assert!(why.starts_with("its status could not be read from node pve1: "), "{why}");
}

#[tokio::test]
async fn a_look_has_an_end() {
    let lab = Lab::start().await;
    let wanted = guests([(vm(100), None), (vm(104), None)]);
    let on = Match { path: Some("/nodes/pve3/".to_owned()), ..Match::default() };
    lab.sim.set_fault(Fault::Slow { on, ms: 60_000 }).unwrap();
    let limit = Duration::from_secs(1);
    let sight = look_for(&lab.reader, "home", &wanted, Timestamp::UNIX_EPOCH, limit).await;
    assert!(sight.seen(&vm(100)).is_some());
    assert_eq!(sight.guests[&vm(104)], GuestSight::Unseen { why: "no answer within 1 s".to_owned() });
}
