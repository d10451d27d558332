//! Thousands of calls in random order: nothing panics, and what must always hold of a cluster holds at the end.
//! The sequence is fixed by its number, so that a failure can be looked at.

use crate::support::{Home, home, text};
use nhi_sim::{Guest, lab::guest::Kind};
use serde_json::{Value, json};

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from((self.0 >> 33) % sides as u64).expect("small")
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        &of[self.roll(of.len())]
    }
}

fn call(dice: &mut Dice, guest: &Guest, nodes: &[&str]) -> (&'static str, String, Value) {
    // Mostly the right node and kind, sometimes not.
    let node = if dice.roll(20) == 0 { (*dice.pick(nodes)).to_owned() } else { guest.node.clone() };
    let path = format!("/nodes/{node}/{}/{}", guest.kind.word(), guest.vmid);
    let power = ["start", "stop", "shutdown", "reboot", "suspend", "resume", "reset"];
    let names = ["one", "two", "three"];
    let newid = 100 + dice.roll(160);
    match dice.roll(14) {
        0..=3 => ("POST", format!("{path}/status/{}", dice.pick(&power)), json!({})),
        4 => ("POST", format!("{path}/snapshot"), json!({"snapname": dice.pick(&names)})),
        5 => ("DELETE", format!("{path}/snapshot/{}", dice.pick(&names)), json!({})),
        6 => (
            "POST",
            format!("{path}/snapshot/{}/rollback", dice.pick(&names)),
            json!({"start": dice.roll(2)}),
        ),
        7 => ("POST", format!("{path}/clone"), json!({"newid": newid, "full": dice.roll(2)})),
        8 => ("DELETE", path, json!({"purge": dice.roll(2)})),
        9 => {
            let online = if guest.kind == Kind::Qemu { "with-local-disks" } else { "restart" };
            ("POST", format!("{path}/migrate"), json!({"target": dice.pick(nodes), "online": 1, online: 1}))
        }
        10 => (
            "POST",
            format!("/nodes/{node}/vzdump"),
            json!({"vmid": guest.vmid.to_string(), "storage": "nas"}),
        ),
        11 => ("PUT", format!("{path}/config"), json!({"onboot": dice.roll(2), "cores": 1 + dice.roll(4)})),
        12 => ("POST", format!("{path}/template"), json!({})),
        _ => (
            "POST",
            format!("/nodes/{node}/qemu"),
            json!({"vmid": newid, "scsi0": "local-lvm:4", "name": "made"}),
        ),
    }
}

/// Every disk of a configuration has its volume, on the node where the guest is.
fn check_disks(home: &Home) {
    for guest in home.lab.guests.values() {
        for (key, value) in guest.disks() {
            let volid = value.split(',').next().expect("a volume").to_owned();
            let there = home.lab.volumes.values().any(|volume| {
                volume.volid == volid && volume.node.as_deref().is_none_or(|node| node == guest.node)
            });
            assert!(there, "{} has no {key} ({volid}) on {}", guest.vmid, guest.node);
        }
    }
}

fn run(number: u64, calls: usize) {
    let mut home = home();
    let mut dice = Dice(number);
    let nodes = ["pve1", "pve2", "pve3"];
    let mut accepted = 0;
    for _ in 0..calls {
        let guests: Vec<Guest> = home.lab.guests.values().cloned().collect();
        let guest = dice.pick(&guests).clone();
        let (method, path, params) = call(&mut dice, &guest, &nodes);
        let (status, body) = home.call(method, &path, params);
        assert!(matches!(status, 200 | 400 | 403 | 500 | 501), "{method} {path}: {status} {body}");
        accepted += usize::from(status == 200);
        home.lab.advance_by(dice.roll(1500) as u64);
        if dice.roll(60) == 0 {
            let fault =
                home.fault(json!({"kind": "node_offline", "node": "pve3", "power_cut": dice.roll(2) == 0}));
            home.lab.advance_by(dice.roll(200_000) as u64);
            home.lab.clear_fault(fault);
            // A power cut leaves lock lines behind; somebody has to take them away.
            for guest in home.lab.guests.values_mut() {
                guest.config.remove("lock");
            }
        }
        // A ticket does not live for ever.
        home.become_(crate::support::As::Root);
    }
    home.pass_s(3600);
    home.become_(crate::support::As::Root);
    assert!(accepted * 4 > calls, "the calls are not all nonsense: {accepted} of {calls}");
    let running = home.ok("GET", "/nodes/pve1/tasks", json!({"source": "active"}));
    assert_eq!(running, json!([]), "every task has ended");
    for guest in home.lab.guests.values() {
        let lock = guest.line("lock");
        assert!(matches!(lock, "" | "suspended"), "{} is still locked ({lock})", guest.vmid);
        let name = guest.line("parent");
        assert!(name.is_empty() || guest.snapshots.contains_key(name), "{} comes from {name}", guest.vmid);
    }
    check_disks(&home);
    let listed = home.ok("GET", "/cluster/resources", json!({"type": "vm"}));
    assert_eq!(listed.as_array().expect("a list").len(), home.lab.guests.len());
    assert!(listed.as_array().expect("a list").iter().all(|row| text(&row["status"]) != "unknown"));
}

#[test]
fn random_calls_never_break_the_lab() {
    for number in 0..4 {
        run(number, 400);
    }
}
