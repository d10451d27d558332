//! Promises that hold for every input: no answer, however odd, makes anything panic or shows what must not be shown.

use crate::{
    cluster::{
        ClusterNode, ClusterResources, ClusterRow, ClusterStatus, HaResource, HaService, HaStatus,
        NotBackedUp, Permissions, Pool, Version,
    },
    config::GuestConfig,
    endpoint::{Address, ApiToken},
    error::{clean, of_answer},
    guest::{GuestKind, GuestResource, Interface, LxcRow, QemuRow, Snapshot},
    node::{BackupVolume, NodeRow, NodeState, Storage, StorageResource, Task},
    rows::{Row, Unknown, many, one},
    transport::data_of_bytes,
    trust::{Fingerprint, Trust},
};
use proptest::{collection::vec, prelude::*};
use serde_json::{Map, Value};

/// Keys that parsers look for, so that arbitrary values land where they matter.
const KEYS: &[&str] = &[
    "type",
    "id",
    "vmid",
    "node",
    "name",
    "status",
    "qmpstatus",
    "template",
    "tags",
    "lock",
    "pool",
    "cpu",
    "maxcpu",
    "cpus",
    "mem",
    "maxmem",
    "pid",
    "uptime",
    "pressure",
    "pressurecpusome",
    "quorate",
    "local",
    "online",
    "nodes",
    "sid",
    "state",
    "storage",
    "content",
    "shared",
    "active",
    "total",
    "avail",
    "volid",
    "ctime",
    "size",
    "verification",
    "upid",
    "starttime",
    "endtime",
    "version",
    "pveversion",
    "kversion",
    "current-kernel",
    "cpuinfo",
    "memory",
    "loadavg",
    "rootfs",
    "ip-addresses",
    "ip-address",
    "prefix",
    "inet",
    "inet6",
    "hwaddr",
    "hardware-address",
    "snaptime",
    "vmstate",
    "poolid",
    "data",
    "message",
    "errors",
    "result",
    "agent",
    "net0",
    "scsi0",
    "mp0",
    "ide2",
    "smbios1",
    "meta",
    "cores",
    "sockets",
    "vcpus",
    "hostname",
    "protection",
    "onboot",
    "cpulimit",
    "net99999999",
];

const TEXTS: &[&str] = &[
    "",
    "qemu",
    "lxc",
    "node",
    "cluster",
    "service",
    "quorum",
    "pool",
    "storage",
    "running",
    "1",
    "0",
    "-1",
    "1e308",
    "-1e308",
    "1e999",
    "nan",
    "inf",
    "18446744073709551615",
    "18446744073709551616",
    "vm:100",
    "ct:",
    "192.0.2.4/33",
    "fe80::1%",
    "virtio=BC:24:11:00:00:01,bridge=vmbr0",
    "=",
    ",,=,",
    "uuid=,ctime=-1",
    "local:x,size=9999999999T",
    "size=G",
    "é",
    "current=",
    "Linux",
    "pve-manager//",
    "\u{0}\u{1b}[2J\u{202e}",
];

fn scalar() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        Just(Value::from(1e308)),
        any::<String>().prop_map(Value::from),
        prop::sample::select(TEXTS).prop_map(Value::from),
    ]
}

fn json() -> impl Strategy<Value = Value> {
    let key = prop_oneof![9 => prop::sample::select(KEYS).prop_map(str::to_owned), 1 => any::<String>()];
    scalar().prop_recursive(4, 64, 8, move |inner| {
        prop_oneof![
            vec(inner.clone(), 0..6).prop_map(Value::from),
            vec((key.clone(), inner), 0..12)
                .prop_map(|fields| Value::Object(fields.into_iter().collect::<Map<_, _>>())),
        ]
    })
}

fn rows<T: Row>(value: &Value) {
    let unknown = &mut Unknown::default();
    let _ = one::<T>(value.clone(), unknown);
    let _ = many::<T>(value.clone(), unknown);
    let list = Value::Array(vec![value.clone(), value.clone()]);
    let read = many::<T>(list, unknown).unwrap_or_default();
    // Nothing is dropped in silence.
    assert_eq!(read.rows.len() + read.unreadable, 2);
}

fn everything(value: &Value) {
    rows::<Version>(value);
    rows::<ClusterRow>(value);
    rows::<ClusterNode>(value);
    rows::<HaService>(value);
    rows::<HaResource>(value);
    rows::<Pool>(value);
    rows::<NotBackedUp>(value);
    rows::<GuestResource>(value);
    rows::<QemuRow>(value);
    rows::<LxcRow>(value);
    rows::<Interface>(value);
    rows::<Snapshot>(value);
    rows::<NodeRow>(value);
    rows::<NodeState>(value);
    rows::<Storage>(value);
    rows::<StorageResource>(value);
    rows::<BackupVolume>(value);
    rows::<Task>(value);
    for data in [value.clone(), Value::Array(vec![value.clone()])] {
        let unknown = &mut Unknown::default();
        let _ = ClusterStatus::read(data.clone(), unknown)
            .map(|read| (read.quorate(), read.local().map(str::len)));
        let _ = ClusterResources::read(data.clone(), unknown);
        let _ = HaStatus::read(data.clone(), unknown);
        let _ = Permissions::read(data).map(|rights| rights.allows("/vms/100", "VM.Audit"));
    }
    for kind in [GuestKind::Qemu, GuestKind::Lxc] {
        let Some(config) = GuestConfig::of(kind, value.clone()) else { continue };
        let _ = (config.name(), config.protection(), config.onboot(), config.template(), config.tags());
        let _ =
            (config.cpus(), config.cpulimit(), config.memory_bytes(), config.agent(), config.network_cards());
        let _ = (config.volumes(), config.smbios_uuid(), config.vmgenid(), config.created(), config.ostype());
        let _ = (config.digest(), config.description(), config.lock(), config.parent());
    }
}

fn is_clean(text: &str) -> bool {
    !text.chars().any(char::is_control) && text.chars().count() <= 501
}

fn token() -> ApiToken {
    ApiToken::parse("a@pve!b", "s3cr3t-s3cr3t").unwrap()
}

proptest! {
    #[test]
    fn no_json_makes_a_parser_panic(value in json()) {
        everything(&value);
    }

    #[test]
    fn no_bytes_make_an_answer_panic(status in 200_u16..=999, body in vec(any::<u8>(), 0..200)) {
        if let Err(refused) = data_of_bytes(status, body, &token()) {
            prop_assert!(is_clean(&refused.text), "{}", refused.text);
        }
    }

    #[test]
    fn no_json_body_makes_an_answer_panic_or_shows_control_characters(status in 200_u16..=999, value in json()) {
        match data_of_bytes(status, value.to_string().into_bytes(), &token()) {
            Ok(_) => prop_assert!((200..300).contains(&status)),
            Err(refused) => {
                prop_assert!(is_clean(&refused.text), "{}", refused.text);
                prop_assert!(refused.fields.iter().all(|(field, text)| is_clean(field) && is_clean(text)));
            }
        }
    }

    #[test]
    fn the_secret_is_never_in_an_error(status in 300_u16..=999, before in ".{0,600}", after in any::<String>()) {
        let message = format!("{before}s3cr3t-s3cr3t{after}");
        let body = serde_json::json!({"message": message, "errors": {"s3cr3t-s3cr3t": message}});
        let refused = data_of_bytes(status, body.to_string().into_bytes(), &token()).unwrap_err();
        prop_assert!(!format!("{refused:?}").contains("s3cr3t-"), "{refused:?}");
    }

    #[test]
    fn no_text_makes_the_rest_panic(text in any::<String>(), status in 0_u16..=999) {
        let _ = (text.parse::<Address>(), Address::parse_list(&text), Fingerprint::parse_list(&text));
        let _ = (ApiToken::parse(&text, &text), Trust::ca_pem(text.as_bytes()), of_answer(status, &text, &text));
        prop_assert!(is_clean(&clean(&text)));
    }

    #[test]
    fn an_address_reads_back_as_it_is_shown(host in "[a-z][a-z0-9-]{0,20}[a-z0-9]", port in 1_u16..) {
        // What begins so has to be a name in another script, written as one: most of it is none, and refused.
        prop_assume!(!host.starts_with("xn--"));
        let address: Address = format!("{host}:{port}").parse().unwrap();
        prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
    }

    #[test]
    fn a_fingerprint_reads_back_as_it_is_shown(bytes in any::<[u8; 32]>()) {
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let fingerprint: Fingerprint = hex.parse().unwrap();
        prop_assert_eq!(fingerprint.to_string().parse::<Fingerprint>().unwrap(), fingerprint);
    }
}
