//! A mesh whose state is as large as a bench asks for, filled through the store in batches. No agent runs in it until the
//! bench starts one.

use nhi_bus::{
    connect::Bus,
    cx::Cx,
    store::{self, Committed, StoreSettings},
};
use nhi_decide::change::{Change, What};
use nhi_model::{Timestamp, envelope::OpId, guest::Guest, key::Key, source::Source};
use nhi_testkit::Nats;
use serde::Deserialize as _;
use serde_json::{Value, json};

/// Records of one commit while filling: a full batch.
const BATCH: usize = 1000;
/// The first guest's number.
const VMID_FIRST: usize = 100;

pub(crate) struct Filled {
    pub(crate) cx: Cx,
    pub(crate) nats: Nats,
    pub(crate) home: Bus,
    /// Each guest's key and the revision it stands at.
    guests: Vec<(Key, u64)>,
    commits: u64,
}

impl Filled {
    /// So many guests, and the source they come from.
    pub(crate) async fn with(guests: usize) -> Self {
        let (cx, nats) = (Cx::new(), Nats::start().await);
        let home = nats.connect(&cx, "home").await;
        store::provision(&home, &StoreSettings { replicas: 1 }).await.expect("streams can be made");
        let key = |text: String| Key::parse(&text).expect("it follows the grammar of keys");
        let source = json!({ "kind": "proxmox", "place": "https://192.0.2.1:8006", "coverage": { "kind": "complete" } });
        Source::deserialize(&source).expect("a source");
        let source = Change { key: key("source.proxmox-home".to_owned()), expected: 0, what: put(source) };
        let op = OpId("source".to_owned());
        store::commit(&home, &op, Timestamp::now(), &[source]).await.expect("the source is written");
        let guests = (0..guests).map(|place| (key(format!("vm.home.{}", VMID_FIRST + place)), 0)).collect();
        let mut filled = Self { cx, nats, home, guests, commits: 0 };
        filled.change_all().await;
        filled
    }

    /// A new version of every guest.
    pub(crate) async fn change_all(&mut self) -> Committed {
        let mut last = Committed { revision: 0, messages: 0 };
        for start in (0..self.guests.len()).step_by(BATCH) {
            last = self.change(start, BATCH.min(self.guests.len() - start)).await;
        }
        last
    }

    /// A new version of so many guests, in one commit.
    pub(crate) async fn change(&mut self, start: usize, count: usize) -> Committed {
        self.commits += 1;
        let op = OpId(format!("bench-{}", self.commits));
        let changes: Vec<Change> = (start..start + count)
            .map(|place| {
                let (key, expected) = self.guests[place].clone();
                Change { key, expected, what: put(guest(place, self.commits)) }
            })
            .collect();
        let done = store::commit(&self.home, &op, Timestamp::now(), &changes).await;
        let done = done.expect("nobody else writes here");
        // A batch's messages stand one after the other.
        for (back, place) in (start..start + count).rev().enumerate() {
            self.guests[place].1 = done.revision - back as u64;
        }
        done
    }
}

const fn put(record: Value) -> What {
    What::Put { record, stale: None }
}

/// A guest as the scanner tells one, about 1 kB.
fn guest(place: usize, version: u64) -> Value {
    let vmid = VMID_FIRST + place;
    let record = json!({
        "kind": "qemu", "cluster": "home", "vmid": vmid, "name": format!("guest-{vmid}"), "node": format!("pve{}", place % 10),
        "status": if (place as u64 + version).is_multiple_of(10) { "stopped" } else { "running" },
        "template": false, "tags": ["lab", format!("version-{version}")], "pool": "core", "protection": false, "onboot": true,
        "cpus": 4, "memory_bytes": 8_589_934_592_u64, "disk_bytes": 68_719_476_736_u64, "os": "l26",
        "notes": "Runs what somebody wanted to run.", "snapshots": 2, "config_digest": format!("{version:040x}"),
        "addresses": [
            { "interface": "ens18", "address": format!("10.0.{}.{}", place / 250, place % 250), "prefix": 16, "mac": "bc:24:11:80:02:15" },
            { "interface": "ens18", "address": format!("fd00:10::{place:x}"), "prefix": 64, "mac": "bc:24:11:80:02:15" },
        ],
        "address_source": { "kind": "guest-agent" }, "backups": { "kind": "not-visible" },
        "identity": { "uuid": format!("e099ec6c-d736-4ca5-85e7-{vmid:012}"), "created": "2025-10-21T00:38:55Z" },
        "nics": { "net0": { "bridge": "vmbr0", "mac": "bc:24:11:80:02:15" } },
        "volumes": { "scsi0": format!("local-lvm:vm-{vmid}-disk-0") },
    });
    debug_assert!(Guest::deserialize(&record).is_ok(), "the model has another shape: {record}");
    record
}
