//! What holds in a sight, and how lines, sizes and identities are compared.

use super::*;
use nhi_model::{Timestamp, guest::GuestStatus};
use std::collections::BTreeMap;

const AT: Timestamp = Timestamp::UNIX_EPOCH;

fn key() -> Key {
    Key::guest(GuestKind::Qemu, "home", 105)
}

fn sight(lines: &[(&str, &str)], whole: bool) -> Sight {
    let mut sight = Sight::nothing("home".to_owned(), AT);
    let config = lines.iter().map(|(field, value)| ((*field).to_owned(), (*value).to_owned())).collect();
    let seen = Seen {
        kind: GuestKind::Qemu,
        vmid: 105,
        node: "pve1".to_owned(),
        name: "db".to_owned(),
        status: GuestStatus::Running,
        lock: None,
        template: false,
        ha: None,
        identity: GuestIdentity { uuid: Some("AB".to_owned()), ..GuestIdentity::default() },
        config,
        config_whole: whole,
        digest: None,
        snapshots: None,
        snapshot_count: Some(1),
        processors: None,
        can_snapshot: None,
        newest_backup: None,
        migrate: None,
        pool: None,
    };
    sight.guests = BTreeMap::from([(key(), GuestSight::Seen(Box::new(seen)))]);
    sight
}

fn config(field: &str, value: Option<&str>) -> Fact {
    Fact::Config { guest: key(), field: field.to_owned(), value: value.map(str::to_owned) }
}

#[test]
fn what_was_not_seen_neither_holds_nor_fails() {
    let live = sight(&[], true);
    let other = Key::guest(GuestKind::Lxc, "home", 7);
    assert!(matches!(holds(&Fact::Gone { guest: other.clone() }, &live), Holds::Unknown { .. }));
    let mut records = sight(&[], false);
    records.absent_is_gone = true;
    assert_eq!(holds(&Fact::Gone { guest: other }, &records), Holds::Yes);
    assert!(matches!(holds(&config("cores", Some("2")), &records), Holds::Unknown { .. }));
    assert!(matches!(holds(&Fact::Quorate {}, &records), Holds::Unknown { .. }));
    assert!(matches!(holds(&Fact::Unprotected { guest: key() }, &records), Holds::Unknown { .. }));
    assert_eq!(holds(&Fact::Unprotected { guest: key() }, &live), Holds::Yes);
}

#[test]
fn lines_are_compared_by_what_they_mean() {
    let live = sight(&[("tags", "b;a"), ("onboot", "0"), ("cores", "2"), ("description", "hi\n")], true);
    for yes in [
        config("tags", Some("a,b")),
        config("onboot", None),
        config("cores", Some("2")),
        config("description", Some("hi")),
        config("memory", None),
        config("protection", Some("0")),
    ] {
        assert_eq!(holds(&yes, &live), Holds::Yes, "{yes:?}");
    }
    for wrong in [config("tags", Some("a")), config("cores", None), config("memory", Some("1"))] {
        assert!(matches!(holds(&wrong, &live), Holds::No { .. }), "{wrong:?}");
    }
}

#[test]
fn a_later_guest_with_the_number_is_another() {
    let live = sight(&[], true);
    let is = |identity| holds(&Fact::SameGuest { guest: key(), identity }, &live);
    let uuid = |uuid: &str| GuestIdentity { uuid: Some(uuid.to_owned()), ..GuestIdentity::default() };
    assert_eq!(is(uuid("ab")), Holds::Yes);
    assert_eq!(is(GuestIdentity { vmgenid: Some("x".to_owned()), ..uuid("ab") }), Holds::Yes);
    assert!(matches!(is(uuid("cd")), Holds::No { .. }));
    assert!(matches!(is(GuestIdentity { created: Some(AT), ..uuid("ab") }), Holds::No { .. }));
}

#[test]
fn sizes_are_read_as_proxmox_writes_them() {
    for (line, bytes) in [
        ("local:vm-1-disk-0,size=32G", Some(32 << 30)),
        ("local:vm-1-disk-0,iothread=1,size=512M", Some(512 << 20)),
        ("x,size=1", Some(1)),
        ("x", None),
        ("x,size=", None),
        ("x,size=99999999999999T", None),
        ("x,size=3X", None),
    ] {
        assert_eq!(size_bytes(line), bytes, "{line}");
    }
}
