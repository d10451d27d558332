//! What one guest's record may and may not become.

use crate::lab::{
    CLUSTER, Faults, World, address, ct, guest, identity, is_retired, offline, time, truth, vm, whole,
};
use nhi_decide::observation::{Gone, IndexRow, Observation, Part};
use nhi_model::{
    guest::{AddressSource, Backups, GuestKind, GuestStatus, Nic},
    key::Key,
};

/// Takes one proof out of an observation.
type TakeAway<'a> = &'a dyn Fn(&mut Observation);

#[test]
fn deletion_needs_every_proof() {
    let whole_lab = truth();
    let mut truth = whole_lab.clone();
    truth.guests.remove(&vm(101));
    let proven = || {
        let mut seen = truth.seen(time(60), &Faults::default());
        seen.gone.insert(Gone { guest: vm(101), node: "pve2".to_owned() });
        seen
    };
    let row = IndexRow {
        kind: GuestKind::Qemu,
        vmid: 101,
        node: "pve2".to_owned(),
        status: GuestStatus::Unknown,
        name: None,
        tags: Vec::new(),
        pool: None,
        lock: None,
    };
    let mut world = World::of(&whole_lab);
    assert!(is_retired(&world.see(&proven())), "with every proof it is retired");

    let lacks: [(&str, TakeAway<'_>); 9] = [
        ("the configuration's denial", &|seen| seen.gone.clear()),
        ("a denial by its own node", &|seen| {
            seen.gone = [Gone { guest: vm(101), node: "pve1".to_owned() }].into();
        }),
        ("absence from the index", &|seen| seen.index.as_mut().unwrap().push(row.clone())),
        ("the index", &|seen| seen.index = None),
        ("a complete list", &|seen| {
            seen.nodes.get_mut("pve2").unwrap().lists.remove(&nhi_decide::observation::List::Qemu);
        }),
        ("quorum", &|seen| seen.quorate = Some(false)),
        ("knowledge of quorum", &|seen| seen.quorate = None),
        ("rights to see all guests", &|seen| seen.rights.as_mut().unwrap().sees_all_guests = false),
        ("unchanged rights", &|seen| seen.rights.as_mut().unwrap().digest = "other".to_owned()),
    ];
    for (what, take_away) in lacks {
        let mut world = World::of(&whole_lab);
        let mut seen = proven();
        take_away(&mut seen);
        assert!(!is_retired(&world.see(&seen)), "retired without {what}");
        assert!(world.entry(vm(101)).is_some());
    }
}

#[test]
fn a_deleted_guest_is_asked_for_and_retired_in_one_pass() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guests.remove(&vm(101));
    let changes = world.scan(&truth, 60, &Faults::default());
    assert_eq!((changes.len(), world.entry(vm(101))), (1, None));
}

#[test]
fn fresh_clone_is_nameless_at_first_and_then_has_its_name() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    let mut clone = guest(vm(120), "pve1", "");
    clone.status = GuestStatus::Stopped;
    clone.lock = Some("clone".to_owned());
    truth.guests.insert(vm(120), clone);
    world.scan(&truth, 60, &Faults { stuck: true, ..Faults::default() });
    assert_eq!(world.guest(vm(120)).name, "VM 120");
    truth.guest(vm(120)).name = "clone".to_owned();
    truth.guest(vm(120)).lock = None;
    world.scan(&truth, 70, &Faults::default());
    assert_eq!(world.guest(vm(120)).name, "clone");
    // And a name that is not told later does not take it back.
    truth.guest(vm(120)).name = String::new();
    assert_eq!(world.scan(&truth, 80, &Faults::default()), []);
}

#[test]
fn a_number_used_again_is_a_new_guest() {
    for id in [vm(101), ct(201)] {
        let mut truth = truth();
        let mut world = World::of(&truth);
        let mut new = guest(id, "pve1", "newcomer");
        new.identity = identity(id, "second");
        truth.guests.insert(id, new);
        let mut seen = truth.seen(time(60), &Faults::default());
        let sight = seen.nodes.get_mut("pve1").unwrap().guests.iter_mut().find(|s| s.guest.vmid == id.vmid);
        sight.unwrap().read = [Part::List, Part::Config].into();
        let changes = world.see(&seen);
        assert_eq!(changes.len(), 1);
        let guest = world.guest(id);
        assert_eq!((guest.name.as_str(), guest.snapshots), ("newcomer", None), "nothing is inherited");
        assert_eq!((guest.addresses.len(), guest.address_source), (0, AddressSource::NotRead));
        assert_eq!(guest.backups, Backups::NotVisible);
    }
}

#[test]
fn configurations_that_fail_for_all_leave_a_trace() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guest(vm(100)).status = GuestStatus::Paused;
    let faults = Faults { no_configs: true, ..Faults::default() };
    world.scan(&truth, 60, &faults);
    for id in [vm(100), vm(101), ct(200), ct(201)] {
        let why = world.why(id).expect("it is not fresh");
        assert!(why.starts_with("its configuration could not be read: the answer is HTML"), "{why}");
        assert_eq!(world.guest(id).protection, Some(id.vmid.is_multiple_of(2)));
    }
    assert_eq!(world.guest(vm(100)).status, GuestStatus::Paused, "what was read is taken");
    assert!(!world.source().coverage.is_complete());
    assert_eq!(world.alert_ids(), ["node-unseen_home_pve1", "node-unseen_home_pve2"]);
    assert_eq!(world.scan(&truth, 120, &faults), []);
    // A pass that does not ask for it does not make it fresh, nor are storages that it does not ask for missing.
    let mut seen = truth.seen(time(180), &faults);
    seen.scope = nhi_decide::observation::Scope::Only { nodes: truth.nodes.clone(), guests: [].into() };
    for node in seen.nodes.values_mut() {
        node.lists.remove(&nhi_decide::observation::List::Storage);
        node.storages.clear();
        node.guests.iter_mut().for_each(|sight| sight.unread_config = None);
    }
    assert_eq!(world.see(&seen), []);
    assert!(world.why(vm(100)).is_some());
    world.scan(&truth, 240, &Faults::default());
    assert_eq!((world.why(vm(100)), world.alert_ids().len()), (None, 0));
}

#[test]
fn a_new_name_is_not_put_beside_an_old_identity() {
    for asked in [true, false] {
        let mut truth = truth();
        let mut world = World::of(&truth);
        let before = world.guest(vm(100));
        // Number 100 was destroyed and made again, without protection.
        let mut new = guest(vm(100), "pve1", "newcomer");
        new.identity = identity(vm(100), "second");
        new.protection = Some(false);
        truth.guests.insert(vm(100), new.clone());
        let mut seen = truth.seen(time(60), &Faults { no_configs: true, ..Faults::default() });
        if !asked {
            for sight in &mut seen.nodes.get_mut("pve1").unwrap().guests {
                sight.unread_config = None;
            }
        }
        world.see(&seen);
        assert_eq!(world.guest(vm(100)), before);
        assert_eq!(
            world.why(vm(100)).unwrap(),
            "it has another name, and its configuration was not read since"
        );
        world.scan(&truth, 120, &Faults::default());
        assert_eq!((world.guest(vm(100)), world.why(vm(100))), (new, None));
    }
}

#[test]
fn a_container_made_again_with_the_same_volume_name_is_a_new_guest() {
    let mut truth = truth();
    truth.guest(ct(200)).nics.insert("net0".to_owned(), card("aa:bb:cc:00:00:01"));
    let mut world = World::of(&truth);
    truth.guest(ct(200)).nics.insert("net0".to_owned(), card("aa:bb:cc:00:00:02"));
    let mut seen = truth.seen(time(60), &Faults::default());
    for sight in &mut seen.nodes.get_mut("pve1").unwrap().guests {
        sight.read = [Part::List, Part::Config].into();
    }
    world.see(&seen);
    assert_eq!(world.guest(ct(200)).snapshots, None, "nothing is inherited");
    assert_eq!(world.guest(vm(100)).snapshots, Some(1));
}

fn card(mac: &str) -> Nic {
    Nic { bridge: None, mac: Some(mac.to_owned()), vlan: None, ip_config: None }
}

#[test]
fn a_number_used_again_by_the_other_kind_retires_the_first() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guests.remove(&vm(101));
    truth.guests.insert(ct(101), guest(ct(101), "pve2", "container"));
    world.scan(&truth, 60, &Faults::default());
    assert_eq!(world.entry(vm(101)), None);
    assert_eq!(world.guest(ct(101)).name, "container");
}

#[test]
fn an_edited_guest_is_still_the_same() {
    let mut truth = truth();
    truth.guest(vm(100)).identity.created = Some(time(-5000));
    truth.guest(ct(200)).nics.insert("net0".to_owned(), card("aa:bb:cc:dd:ee:ff"));
    let mut world = World::of(&truth);
    // The SMBIOS uuid was edited; the root disk moved to another storage; a rollback made a new vmgenid.
    truth.guest(vm(100)).identity.uuid = Some("edited".to_owned());
    truth.guest(vm(100)).identity.vmgenid = Some("rolled back".to_owned());
    truth.guest(ct(200)).identity.rootfs = Some("other:subvol".to_owned());
    truth.guest(ct(200)).nics.insert("net0".to_owned(), card("AA:BB:CC:DD:EE:FF"));
    let mut seen = truth.seen(time(60), &Faults::default());
    for sight in &mut seen.nodes.get_mut("pve1").unwrap().guests {
        sight.read = [Part::List, Part::Config].into();
    }
    world.see(&seen);
    for id in [vm(100), ct(200)] {
        assert_eq!(world.guest(id).snapshots, Some(1), "what was known of {id:?} stays known");
    }
}

#[test]
fn lock_tags_pool_and_high_availability_follow() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    let guest = truth.guest(vm(100));
    guest.lock = Some("backup".to_owned());
    guest.tags = vec!["b".to_owned(), "new".to_owned()];
    guest.pool = None;
    guest.ha = Some(nhi_model::guest::Ha { state: "started".to_owned(), group: None });
    world.scan(&truth, 60, &Faults::default());
    assert_eq!(&world.guest(vm(100)), truth.guest(vm(100)));
    truth.guest(vm(100)).lock = None;
    truth.guest(vm(100)).ha = None;
    world.scan(&truth, 120, &Faults::default());
    assert_eq!(&world.guest(vm(100)), truth.guest(vm(100)));
}

#[test]
fn a_paused_machine_is_paused() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guest(vm(100)).status = GuestStatus::Paused;
    truth.guest(vm(100)).address_source = AddressSource::AgentSilent;
    truth.guest(vm(100)).addresses.clear();
    world.scan(&truth, 60, &Faults::default());
    let guest = world.guest(vm(100));
    assert_eq!((guest.status, guest.addresses.len()), (GuestStatus::Paused, 1));
    assert_eq!(guest.address_source, AddressSource::AgentSilent);
}

#[test]
fn a_list_that_cannot_tell_a_pause_does_not_end_it() {
    let mut truth = truth();
    truth.guest(vm(100)).status = GuestStatus::Paused;
    let mut world = World::of(&truth);
    let told = |status, tells_pause, second| {
        let mut seen = truth.seen(time(second), &Faults::default());
        let on_node = &mut seen.nodes.get_mut("pve1").unwrap().guests;
        let sight = on_node.iter_mut().find(|sight| sight.guest.vmid == 100).unwrap();
        sight.guest.status = status;
        sight.tells_pause = tells_pause;
        seen
    };
    assert_eq!(world.see(&told(GuestStatus::Running, false, 60)), []);
    world.see(&told(GuestStatus::Running, true, 120));
    assert_eq!(world.guest(vm(100)).status, GuestStatus::Running);
    world.see(&told(GuestStatus::Paused, true, 180));
    world.see(&told(GuestStatus::Stopped, false, 240));
    assert_eq!(world.guest(vm(100)).status, GuestStatus::Stopped);
}

#[test]
fn silent_agent_keeps_the_last_addresses_and_says_so() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    for source in [AddressSource::AgentSilent, AddressSource::NoRight { privilege: "VM.Monitor".to_owned() }]
    {
        truth.guest(vm(100)).addresses.clear();
        truth.guest(vm(100)).address_source = source.clone();
        world.scan(&truth, 60, &Faults::default());
        assert_eq!(world.guest(vm(100)).addresses, [address(100)]);
        assert_eq!(world.guest(vm(100)).address_source, source);
    }
    // A stopped guest has none, whatever was known; started again they are "not read", not "none".
    truth.guest(vm(100)).status = GuestStatus::Stopped;
    world.scan(&truth, 120, &Faults::default());
    assert_eq!(world.guest(vm(100)).addresses, []);
    assert_eq!(world.guest(vm(100)).address_source, AddressSource::NotRunning);
    truth.guest(vm(100)).status = GuestStatus::Running;
    let mut seen = truth.seen(time(180), &Faults::default());
    seen.nodes.get_mut("pve1").unwrap().guests[0].read = [Part::List].into();
    world.see(&seen);
    assert_eq!(world.guest(vm(100)).address_source, AddressSource::NotRead);
}

#[test]
fn interfaces_null_of_a_stopped_container_is_not_an_error() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    let guest = truth.guest(ct(200));
    guest.status = GuestStatus::Stopped;
    guest.addresses.clear();
    guest.address_source = AddressSource::NotRunning;
    let changes = world.scan(&truth, 60, &Faults::default());
    assert_eq!(changes.len(), 1);
    assert_eq!(world.guest(ct(200)).address_source, AddressSource::NotRunning);
    assert_eq!(world.why(ct(200)), None);
}

#[test]
fn no_agent_is_told_apart_from_a_silent_one() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guest(vm(100)).addresses.clear();
    truth.guest(vm(100)).address_source = AddressSource::NoAgent;
    world.scan(&truth, 60, &Faults::default());
    assert_eq!(world.guest(vm(100)).addresses, [], "nothing stands behind them any more");
    assert_eq!(world.guest(vm(100)).address_source, AddressSource::NoAgent);
}

#[test]
fn backups_that_cannot_be_seen_are_not_called_none() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    let mut seen = truth.seen(time(60), &Faults::default());
    for sight in &mut seen.nodes.get_mut("pve1").unwrap().guests {
        sight.guest.backups = Backups::None;
        sight.read.remove(&Part::Backups);
    }
    assert_eq!(world.see(&seen), [], "a part that was not read keeps what is known");
    truth.guest(vm(100)).backups = Backups::NotVisible;
    truth.guest(ct(200)).backups = Backups::None;
    world.scan(&truth, 120, &Faults::default());
    assert_eq!(world.guest(vm(100)).backups, Backups::NotVisible);
    assert_eq!(world.guest(ct(200)).backups, Backups::None);
}

#[test]
fn parts_that_were_not_read_keep_what_is_known() {
    let truth = truth();
    let mut world = World::of(&truth);
    for part in Part::ALL {
        let mut seen = truth.seen(time(60), &Faults::default());
        for node in seen.nodes.values_mut() {
            for sight in &mut node.guests {
                sight.read = [Part::List, part].into();
                let told = sight.guest.clone();
                sight.guest = guest(vm(1), "", "");
                sight.guest.kind = told.kind;
                sight.guest.vmid = told.vmid;
                overwrite(&mut sight.guest, &told, part);
                overwrite(&mut sight.guest, &told, Part::List);
            }
        }
        assert_eq!(world.see(&seen), [], "{part:?}");
    }
}

/// Copies the fields of one part.
fn overwrite(into: &mut nhi_model::guest::Guest, from: &nhi_model::guest::Guest, part: Part) {
    let kept = into.clone();
    let from = from.clone();
    match part {
        Part::List => {
            *into = nhi_model::guest::Guest {
                name: from.name,
                status: from.status,
                template: from.template,
                tags: from.tags,
                lock: from.lock,
                ..kept
            }
        }
        Part::Membership => *into = nhi_model::guest::Guest { pool: from.pool, ha: from.ha, ..kept },
        Part::Config => {
            *into = nhi_model::guest::Guest {
                protection: from.protection,
                onboot: from.onboot,
                os: from.os,
                nics: from.nics,
                volumes: from.volumes,
                notes: from.notes,
                config_digest: from.config_digest,
                identity: from.identity,
                ..kept
            }
        }
        Part::Addresses => {
            *into = nhi_model::guest::Guest {
                addresses: from.addresses,
                address_source: from.address_source,
                ..kept
            }
        }
        Part::Snapshots => into.snapshots = from.snapshots,
        Part::Backups | Part::BackupTraces => into.backups = from.backups,
    }
}

#[test]
fn protection_that_was_seen_is_not_forgotten() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    truth.guest(vm(100)).protection = None;
    assert_eq!(world.scan(&truth, 60, &Faults::default()), []);
    assert_eq!(world.guest(vm(100)).protection, Some(true));
}

#[test]
fn names_are_cleaned_and_cut() {
    let mut truth = truth();
    truth.guest(vm(100)).name = format!("\u{1b}[31mroot\u{202e}{}", "x".repeat(4096));
    truth.guest(vm(101)).name = "\u{0}\u{7}".to_owned();
    truth.guest(ct(200)).name = "🏠 home".to_owned();
    let world = World::of(&truth);
    assert_eq!(world.guest(vm(100)).name.len(), 255);
    assert!(world.guest(vm(100)).name.starts_with("rootx"));
    assert_eq!(world.guest(vm(101)).name, "VM 101");
    assert_eq!(world.guest(ct(200)).name, "🏠 home");
}

#[test]
fn one_guest_cannot_fill_the_state() {
    let mut truth = truth();
    let modest = truth.guest(vm(100)).clone();
    let long = |n: usize| format!("{n:04}{}", "\"\\\u{1}é".repeat(500));
    let big = truth.guest(vm(100));
    big.tags = (0..500).map(long).collect();
    big.nics = (0..500)
        .map(|n| {
            let text = || Some(long(n));
            (long(n), Nic { bridge: text(), mac: text(), vlan: None, ip_config: text() })
        })
        .collect();
    big.volumes = (0..5000).map(|n| (long(n), long(n))).collect();
    big.addresses = (0..5000u32)
        .map(|n| nhi_model::guest::Address {
            interface: long(0),
            address: std::net::Ipv6Addr::from(u128::MAX - u128::from(n)).into(),
            prefix: Some(128),
            mac: Some(long(0)),
        })
        .collect();
    (big.pool, big.lock, big.os) = (Some(long(1)), Some(long(2)), Some(long(3)));
    big.notes = Some("\n".repeat(100) + &"x".repeat(100_000));
    big.name = long(4);
    big.identity.uuid = Some(long(5));
    let mut world = World::of(&truth);
    let bytes = world.entry(vm(100)).unwrap().record.to_string().len();
    assert!((16 * 1024..64 * 1024).contains(&bytes), "{bytes} bytes");
    assert_eq!(world.alert_ids(), ["record-cut_home_100"]);
    assert_eq!(world.scan(&truth, 60, &Faults::default()), [], "and it stays the same guest");
    truth.guests.insert(vm(100), modest.clone());
    world.scan(&truth, 120, &Faults::default());
    assert_eq!((world.guest(vm(100)), world.alert_ids().len()), (modest, 0));
}

#[test]
fn a_name_or_notes_that_are_cut_are_told() {
    let long = ["x".repeat(256), "é".repeat(4097)];
    for (name, notes) in [(&long[0], "short"), (&"short".to_owned(), long[1].as_str())] {
        let mut truth = truth();
        let modest = truth.guest(vm(100)).clone();
        let guest = truth.guest(vm(100));
        guest.name.clone_from(name);
        guest.notes = Some(notes.to_owned());
        let mut world = World::of(&truth);
        assert_eq!(world.alert_ids(), ["record-cut_home_100"]);
        truth.guests.insert(vm(100), modest);
        world.scan(&truth, 60, &Faults::default());
        assert_eq!(world.alert_ids(), Vec::<String>::new());
    }
    // The control: as long as may be, and longer only by what is not seen.
    let mut truth = truth();
    truth.guest(vm(100)).name = format!("\u{1b}[31m{}\u{200b}\u{0}  ", "x".repeat(255));
    truth.guest(vm(100)).notes = Some(format!("{}\u{202e}\r\n\n", "é".repeat(4096)));
    let world = World::of(&truth);
    assert_eq!(world.guest(vm(100)).notes.unwrap().len(), 8192);
    assert_eq!(world.alert_ids(), Vec::<String>::new());
}

#[test]
fn snapshots_that_could_not_be_counted_again_are_not_known() {
    let mut truth = truth();
    let mut world = World::of(&truth);
    let uncounted = |truth: &crate::lab::Truth, second| {
        let mut seen = truth.seen(time(second), &Faults::default());
        for sight in seen.nodes.values_mut().flat_map(|node| &mut node.guests) {
            sight.read.remove(&Part::Snapshots);
        }
        seen
    };
    assert_eq!(world.see(&uncounted(&truth, 60)), [], "the same configuration has the same snapshots");
    truth.guest(vm(100)).snapshots = Some(2);
    truth.guest(vm(100)).config_digest = Some("d2".to_owned());
    world.see(&uncounted(&truth, 120));
    assert_eq!((world.guest(vm(100)).snapshots, world.guest(vm(101)).snapshots), (None, Some(1)));
    world.scan(&truth, 180, &Faults::default());
    assert_eq!(world.guest(vm(100)).snapshots, Some(2));
}

#[test]
fn a_record_of_another_shape_is_replaced_not_trusted() {
    let truth = truth();
    let mut world = World::of(&truth);
    let key = Key::guest(GuestKind::Qemu, CLUSTER, 101);
    world.known.get_mut(&key).unwrap().record = serde_json::json!({"node": "pve2", "name": 7});
    world.scan(&truth, 60, &offline("pve2"));
    assert!(world.why(vm(101)).is_some(), "it goes stale like any other");
    world.scan(&truth, 120, &Faults::default());
    assert_eq!(world.guest(vm(101)).name, "media");
}

#[test]
fn rows_named_twice_are_one_guest() {
    let truth = truth();
    let mut world = World::default();
    let mut seen = truth.seen(time(0), &offline("pve2"));
    let rows = seen.index.as_mut().unwrap();
    rows.extend(rows.clone());
    let twin = whole(&truth.guests[&vm(100)]);
    seen.nodes.get_mut("pve1").unwrap().guests.push(twin);
    world.see(&seen);
    assert_eq!(world.guests().len(), 4);
}
