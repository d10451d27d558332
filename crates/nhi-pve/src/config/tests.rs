//! Configurations as nodes answer them.

use super::{AgentSetting, GuestConfig, NetworkCard, Volume, size_bytes};
use crate::guest::GuestKind;
use serde_json::{Value, json};

fn qemu(data: Value) -> GuestConfig {
    GuestConfig::of(GuestKind::Qemu, data).unwrap()
}

fn lxc(data: Value) -> GuestConfig {
    GuestConfig::of(GuestKind::Lxc, data).unwrap()
}

fn volume(source: &str, size_bytes: Option<u64>) -> Volume {
    Volume { source: source.to_owned(), size_bytes, mount_point: None }
}

#[test]
fn a_virtual_machine() {
    let config = qemu(json!({
        "name": "nas", "protection": 1, "onboot": "1", "tags": "storage;critical", "cores": 2, "sockets": "2",
        "memory": "2048", "agent": "1,fstrim_cloned_disks=1", "ostype": "l26", "lock": "backup",
        "digest": "da39a3ee5e6b4b0d3255bfef95601890afd80709", "description": "it's\n# data", "vmgenid": "AB-1",
        "smbios1": "uuid=5A2E0C5D-9f6b-4f7f-8f5e-0c5d9f6b4f7f,base64=1", "meta": "creation-qemu=9.0.2,ctime=1718000000",
        "net0": "virtio=BC:24:11:00:00:01,bridge=vmbr0,tag=20,firewall=1",
        "net1": "e1000,bridge=vmbr1,link_down=1",
        "scsi0": "local-lvm:vm-100-disk-0,iothread=1,size=32G",
        "scsi1": {"odd": true},
        "ide2": "local:iso/debian.iso,media=cdrom,size=600M",
        "ide3": "none,media=cdrom",
        "sata0": "local-lvm:vm-100-cloudinit,media=cdrom",
        "efidisk0": "local-lvm:vm-100-disk-1,efitype=4m,size=528K",
        "virtio1": "file=/dev/sdb,size=1T",
        "unused0": "local-lvm:vm-100-disk-2",
        "scsihw": "virtio-scsi-single", "numa": 0, "parent": "before-upgrade",
    }));
    assert_eq!(config.name().as_deref(), Some("nas"));
    assert!(config.protection() && config.onboot() && !config.template());
    assert_eq!(config.tags().into_iter().collect::<Vec<_>>(), ["critical", "storage"]);
    assert_eq!((config.cores(), config.sockets(), config.cpus()), (Some(2), Some(2), Some(4)));
    assert_eq!(config.memory_bytes(), Some(2 << 30));
    assert_eq!(config.agent(), AgentSetting::On);
    assert_eq!(config.created(), Some(1_718_000_000));
    assert_eq!(config.smbios_uuid().as_deref(), Some("5a2e0c5d-9f6b-4f7f-8f5e-0c5d9f6b4f7f"));
    assert_eq!(config.vmgenid().as_deref(), Some("ab-1"));
    assert_eq!(config.description().as_deref(), Some("it's\n# data"));
    assert_eq!(config.lock().as_deref(), Some("backup"));
    assert_eq!(config.parent().as_deref(), Some("before-upgrade"));

    let cards = config.network_cards();
    let first = NetworkCard {
        model: Some("virtio".to_owned()),
        bridge: Some("vmbr0".to_owned()),
        mac: Some("bc:24:11:00:00:01".to_owned()),
        vlan: Some(20),
        ..NetworkCard::default()
    };
    assert_eq!(cards["net0"], first);
    assert_eq!((cards["net1"].model.as_deref(), cards["net1"].link_down), (Some("e1000"), true));

    let volumes: Vec<(String, Volume)> = config.volumes().into_iter().collect();
    let expected = [
        ("efidisk0", volume("local-lvm:vm-100-disk-1", Some(528 << 10))),
        ("scsi0", volume("local-lvm:vm-100-disk-0", Some(32 << 30))),
        ("unused0", volume("local-lvm:vm-100-disk-2", None)),
        ("virtio1", volume("/dev/sdb", Some(1 << 40))),
    ];
    assert_eq!(volumes, expected.map(|(key, volume)| (key.to_owned(), volume)));
}

#[test]
fn a_container() {
    let config = lxc(json!({
        "hostname": "dns", "name": "not this", "cores": 1, "memory": 512, "swap": 512, "unprivileged": 1,
        "net0": "name=eth0,bridge=vmbr0,hwaddr=BC:24:11:00:00:02,ip=192.0.2.53/24,gw=192.0.2.1,ip6=auto,type=veth",
        "net1": "name=eth1,bridge=vmbr0,hwaddr=BC:24:11:00:00:03,ip=dhcp",
        "rootfs": "local-zfs:subvol-101-disk-0,size=8G",
        "mp0": "/srv/media,mp=/media,ro=1", "mp1": "volume=nas:101/vm-101-disk-1.raw,mp=/data,size=1.5G",
        "lxc": [["lxc.apparmor.profile", "unconfined"]],
    }));
    assert_eq!(config.name().as_deref(), Some("dns"));
    assert_eq!((config.cpus(), config.memory_bytes()), (Some(1), Some(512 << 20)));
    assert!(!config.protection() && config.agent() == AgentSetting::Off && config.smbios_uuid().is_none());
    let cards = config.network_cards();
    assert_eq!(
        (cards["net0"].ip.as_deref(), cards["net0"].ip6.as_deref()),
        (Some("192.0.2.53/24"), Some("auto"))
    );
    assert_eq!((cards["net1"].ip.as_deref(), cards["net1"].name.as_deref()), (Some("dhcp"), Some("eth1")));
    assert_eq!((cards["net0"].mac.as_deref(), &cards["net0"].model), (Some("bc:24:11:00:00:02"), &None));
    let volumes = config.volumes();
    assert_eq!(volumes.keys().collect::<Vec<_>>(), ["mp0", "mp1", "rootfs"]);
    assert_eq!(
        (volumes["mp0"].source.as_str(), volumes["mp0"].mount_point.as_deref()),
        ("/srv/media", Some("/media"))
    );
    assert_eq!(volumes["mp1"].size_bytes, Some(3 << 29));
    assert_eq!(volumes["rootfs"].source, "local-zfs:subvol-101-disk-0");
}

#[test]
fn the_agents_setting_in_all_its_forms() {
    let on = [
        json!(1),
        json!("1"),
        json!("enabled=1"),
        json!("1,fstrim_cloned_disks=1"),
        json!("type=isa,enabled=1"),
    ];
    let off =
        [json!(0), json!("0"), json!("enabled=0"), json!(""), json!(null), json!("type=virtio"), json!([1])];
    for value in on {
        assert_eq!(qemu(json!({ "agent": value })).agent(), AgentSetting::On, "{value}");
    }
    for value in off {
        assert_eq!(qemu(json!({ "agent": value })).agent(), AgentSetting::Off, "{value}");
    }
    assert_eq!(qemu(json!({})).agent(), AgentSetting::Off);
}

#[test]
fn nothing_is_invented() {
    let config = qemu(json!({}));
    assert_eq!(
        (config.name(), config.cores(), config.memory_bytes(), config.created()),
        (None, None, None, None)
    );
    assert_eq!(config.cpus(), Some(1), "Proxmox's own default for a virtual machine");
    assert_eq!(lxc(json!({})).cpus(), None);
    assert!(GuestConfig::of(GuestKind::Qemu, json!(null)).is_none());
}

#[test]
fn memory_and_sizes_in_all_their_forms() {
    assert_eq!(qemu(json!({ "memory": "current=4096" })).memory_bytes(), Some(4 << 30));
    assert_eq!(qemu(json!({ "memory": 1e308 })).memory_bytes(), None);
    assert_eq!(qemu(json!({ "memory": u64::MAX })).memory_bytes(), None);
    let cases =
        [("32G", Some(32 << 30)), ("1024", Some(1024)), ("x", None), ("", None), ("99999999999T", None)];
    for (text, expected) in cases {
        assert_eq!(size_bytes(text), expected, "{text}");
    }
}

#[test]
fn many_cores_do_not_overflow() {
    assert_eq!(qemu(json!({ "cores": u32::MAX, "sockets": 4 })).cpus(), Some(u32::MAX));
    assert_eq!(qemu(json!({ "cores": 4, "sockets": 2, "vcpus": 3 })).cpus(), Some(3));
}
