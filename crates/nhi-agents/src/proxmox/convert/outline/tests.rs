//! What makes a cheap look lead to a closer one.

use super::*;
use nhi_pve::guest::{GuestKind as PveKind, GuestStatus as PveStatus, GuestUsage};
use serde_json::Map;

fn row(kind: PveKind, change: impl FnOnce(&mut GuestResource)) -> GuestResource {
    let mut row = GuestResource {
        kind,
        vmid: 107,
        node: "pve1".to_owned(),
        name: Some("web".to_owned()),
        status: PveStatus::Running,
        template: Some(false),
        tags: BTreeSet::new(),
        pool: None,
        lock: None,
        hastate: None,
        usage: GuestUsage {
            maxcpu: Some(2.0),
            maxmem: Some(4 << 30),
            maxdisk: Some(32 << 30),
            uptime: Some(1000),
            cpu: Some(0.5),
            netin: Some(7),
            ..GuestUsage::default()
        },
        rest: Map::new(),
    };
    change(&mut row);
    row
}

fn outline(rows: Vec<GuestResource>) -> Outline {
    let resources = Ok(ClusterResources { guests: rows, ..ClusterResources::default() });
    let status = Ok(ClusterStatus { cluster: None, nodes: nhi_pve::Rows::default() });
    Outline::of(&resources, &status)
}

/// Whether the guest is read at once after its row became this.
fn is_news(kind: PveKind, change: impl FnOnce(&mut GuestResource)) -> bool {
    let before = outline(vec![row(kind, |_| {})]);
    let (guests, nodes) = outline(vec![row(kind, change)]).news(&before);
    assert_eq!(guests.is_empty(), nodes.is_empty());
    !guests.is_empty()
}

#[test]
fn what_another_guest_under_the_number_would_show_is_news() {
    for kind in [PveKind::Qemu, PveKind::Lxc] {
        assert!(is_news(kind, |row| row.usage.uptime = Some(999)), "it was started again");
        assert!(is_news(kind, |row| row.usage.maxdisk = Some(8 << 30)));
        assert!(is_news(kind, |row| row.usage.maxmem = Some(2 << 30)));
        assert!(is_news(kind, |row| row.usage.maxcpu = Some(4.0)));
        assert!(is_news(kind, |row| row.template = Some(true)));
        assert!(is_news(kind, |row| row.lock = Some("create".to_owned())));
        assert!(is_news(kind, |row| row.status = PveStatus::Stopped));
    }
    assert!(is_news(PveKind::Qemu, |row| row.usage.maxdisk = Some((32 << 30) + 1)));
}

#[test]
fn what_moves_by_itself_is_no_news() {
    for kind in [PveKind::Qemu, PveKind::Lxc] {
        assert!(!is_news(kind, |row| {
            row.usage.uptime = Some(1005);
            row.usage.cpu = Some(0.9);
            row.usage.netin = Some(8);
        }));
    }
    assert!(!is_news(PveKind::Lxc, |row| row.usage.maxdisk = Some((32 << 30) - (1 << 30))), "ZFS moves it");
}

#[test]
fn statistics_that_tell_less_are_no_other_guest() {
    assert!(!is_news(PveKind::Qemu, |row| {
        row.template = None;
        row.usage = GuestUsage::default();
    }));
    // A stopped guest's time since start is 0, or what it was.
    let stopped = |uptime| {
        row(PveKind::Qemu, |row| {
            row.status = PveStatus::Stopped;
            row.usage.uptime = Some(uptime);
        })
    };
    assert!(outline(vec![stopped(0)]).news(&outline(vec![stopped(9)])).0.is_empty());
}

#[test]
fn a_row_that_was_gone_for_a_look_is_news_when_it_is_back() {
    let (there, gone) = (outline(vec![row(PveKind::Qemu, |_| {})]), outline(Vec::new()));
    let (guests, nodes) = gone.news(&there);
    assert_eq!((guests.len(), nodes.len()), (0, 1), "its node is read");
    assert_eq!(there.news(&gone).0.len(), 1);
}

#[test]
fn a_guest_that_moves_and_a_node_that_goes_are_news() {
    let at = |vmid, node: &str| {
        let mut row = row(PveKind::Qemu, |row| row.vmid = vmid);
        node.clone_into(&mut row.node);
        row
    };
    let with = |rows, online| Outline {
        nodes: BTreeMap::from([("pve3".to_owned(), Some(online))]),
        ..outline(rows)
    };
    let before = with(vec![at(1, "pve1"), at(2, "pve1"), at(3, "pve1")], true);
    assert_eq!(before.news(&before), (BTreeSet::new(), BTreeSet::new()));
    let (guests, nodes) = with(vec![at(1, "pve1"), at(2, "pve2")], false).news(&before);
    let moved = GuestRef { kind: GuestKind::Qemu, vmid: 2 };
    assert_eq!(guests, BTreeSet::from([moved]), "one that is gone is looked for on its node");
    assert_eq!(nodes.into_iter().collect::<Vec<_>>(), ["pve1", "pve2", "pve3"]);
}
