//! The bounds of every value a caller gives: names that can be nothing but names, and numbers a home has a use for.

use crate::clean;
use nhi_model::{
    act::UNDO_MINUTES_MAX,
    intent::{NewGuest, Settings},
    refusal::{Refusal, RefusalCode},
};
use std::{collections::BTreeSet, net::IpAddr};

/// Most processor cores of a guest; more than any machine of a home has.
const CORES_MAX: u32 = 1024;
/// Least memory of a guest, MiB: Proxmox's own bound.
const MEMORY_MIB_MIN: u64 = 16;
/// Most memory, MiB: 4 TiB.
const MEMORY_MIB_MAX: u64 = 4 * 1024 * 1024;
/// Largest disk, GiB: 64 TiB.
const DISK_GIB_MAX: u64 = 64 * 1024;
/// Longest notes, bytes: Proxmox's own bound.
const DESCRIPTION_BYTES_MAX: usize = 8 * 1024;
/// Most tags of a guest.
const TAGS_MAX: usize = 64;
/// Longest wait for a shutdown, seconds.
const SHUTDOWN_SECONDS_MAX: u32 = 3600;
/// Least and most number of a guest: Proxmox's own bounds.
const VMID_MIN: u32 = 100;
const VMID_MAX: u32 = 999_999_999;
/// Operating system types of virtual machines.
const OS_TYPES: [&str; 13] = [
    "l24", "l26", "other", "solaris", "w2k", "w2k3", "w2k8", "win10", "win11", "win7", "win8", "wvista",
    "wxp",
];

fn bad(what: &str, found: &str, hint: &str) -> Refusal {
    let found = clean::text(found, 80);
    Refusal::new(RefusalCode::BadValue, format!("{what} {found:?} is not possible"), hint)
        .with("value", found)
}

fn number(what: &str, found: u64, least: u64, most: u64, unit: &str) -> Result<(), Refusal> {
    if (least..=most).contains(&found) {
        return Ok(());
    }
    let message = format!("{found}{unit} {what} is out of bounds: {least} to {most}{unit}");
    Err(Refusal::new(RefusalCode::BadValue, message, "Give a number between the two.").with("value", found))
}

/// What a new guest may be.
pub(super) fn new_guest(new: &NewGuest) -> Result<(), Refusal> {
    dns_name(&new.name)?;
    if let Some(vmid) = new.vmid {
        number("as a guest's number", vmid.into(), VMID_MIN.into(), VMID_MAX.into(), "")?;
    }
    new.node.as_deref().map_or(Ok(()), node)?;
    new.storage.as_deref().map_or(Ok(()), storage)?;
    new.pool.as_deref().map_or(Ok(()), pool)?;
    new.bridge.as_deref().map_or(Ok(()), bridge)?;
    new.cores.map_or(Ok(()), cores)?;
    new.memory_mib.map_or(Ok(()), memory_mib)?;
    new.disk_gib.map_or(Ok(()), disk_gib)?;
    new.description.as_deref().map_or(Ok(()), description)?;
    tags(&new.tags)
}

/// What a configuration may be set to.
pub(super) fn settings(settings: &Settings) -> Result<(), Refusal> {
    if *settings == Settings::default() {
        return Err(Refusal::new(
            RefusalCode::BadValue,
            "nothing is said about what to change",
            "Give at least one of cores, memory_mib, tags, onboot and description.",
        ));
    }
    settings.cores.map_or(Ok(()), cores)?;
    settings.memory_mib.map_or(Ok(()), memory_mib)?;
    settings.description.as_deref().map_or(Ok(()), description)?;
    settings.tags.as_ref().map_or(Ok(()), tags)
}

fn cores(cores: u32) -> Result<(), Refusal> {
    number("of processor cores", cores.into(), 1, CORES_MAX.into(), "")
}

fn memory_mib(memory: u64) -> Result<(), Refusal> {
    number("of memory", memory, MEMORY_MIB_MIN, MEMORY_MIB_MAX, " MiB")
}

/// The size of a disk.
pub(super) fn disk_gib(size: u64) -> Result<(), Refusal> {
    number("as a disk's size", size, 1, DISK_GIB_MAX, " GiB")
}

/// A wait for a shutdown.
pub(super) fn shutdown_seconds(seconds: u32) -> Result<(), Refusal> {
    number("to wait for a shutdown", seconds.into(), 1, SHUTDOWN_SECONDS_MAX.into(), " s")
}

/// A dead man's switch.
pub(super) fn undo_minutes(minutes: u32) -> Result<(), Refusal> {
    number("until it is taken back", minutes.into(), 1, UNDO_MINUTES_MAX.into(), " minutes")
}

/// Notes.
pub(super) fn description(text: &str) -> Result<(), Refusal> {
    let odd = text.chars().any(|c| c.is_control() && c != '\n' && c != '\t');
    if odd || text.len() > DESCRIPTION_BYTES_MAX {
        return Err(bad(
            "the description",
            text,
            "Notes are at most 8 KiB of text without control characters.",
        ));
    }
    Ok(())
}

fn tags(tags: &BTreeSet<String>) -> Result<(), Refusal> {
    if tags.len() > TAGS_MAX {
        return number("tags", tags.len() as u64, 0, TAGS_MAX as u64, "");
    }
    let first = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_';
    let rest = |b: u8| first(b) || b"-+.".contains(&b);
    match tags.iter().find(|tag| !is_of(tag, 64, first, rest)) {
        None => Ok(()),
        Some(tag) => {
            Err(bad("the tag", tag, "Tags are [a-z0-9_][a-z0-9_.+-]*, lower case as Proxmox keeps them."))
        }
    }
}

/// Whether a text has one first character, then others, and no more than so many.
fn is_of(text: &str, bytes_max: usize, first: impl Fn(u8) -> bool, rest: impl Fn(u8) -> bool) -> bool {
    let mut bytes = text.bytes();
    text.len() <= bytes_max && bytes.next().is_some_and(first) && bytes.all(rest)
}

/// A guest's name: a DNS name.
fn dns_name(name: &str) -> Result<(), Refusal> {
    let label = |label: &str| {
        let ends = !label.starts_with('-') && !label.ends_with('-');
        ends && is_of(label, 63, |b| b.is_ascii_alphanumeric(), |b| b.is_ascii_alphanumeric() || b == b'-')
    };
    // A name that is a number could not be told from a guest's number.
    let digits = name.bytes().all(|b| b.is_ascii_digit());
    if name.len() <= 253 && !digits && name.split('.').all(label) {
        return Ok(());
    }
    let hint = "Guests have DNS names: letters, digits and -, at most 63 in a part, not a number alone.";
    Err(bad("the name", name, hint))
}

/// A snapshot's name.
pub(super) fn snapshot(name: &str) -> Result<(), Refusal> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    let reserved = ["current", "pending"].iter().any(|word| name.eq_ignore_ascii_case(word));
    if name.len() >= 2 && !reserved && is_of(name, 40, |b| b.is_ascii_alphabetic(), rest) {
        return Ok(());
    }
    let hint = "Snapshots are named [A-Za-z][A-Za-z0-9_-]{1,39}, and neither current nor pending.";
    Err(bad("the snapshot's name", name, hint))
}

/// A node's name.
pub(super) fn node(name: &str) -> Result<(), Refusal> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    if is_of(name, 63, |b| b.is_ascii_alphanumeric(), rest) && !name.ends_with('-') {
        return Ok(());
    }
    Err(bad("the node's name", name, "Nodes have names of letters, digits and -."))
}

/// A storage's name.
pub(super) fn storage(name: &str) -> Result<(), Refusal> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let ends = name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if ends && is_of(name, 100, |b| b.is_ascii_alphabetic(), rest) {
        return Ok(());
    }
    Err(bad("the storage's name", name, "Storages are named [A-Za-z][A-Za-z0-9_.-]*[A-Za-z0-9]."))
}

fn pool(name: &str) -> Result<(), Refusal> {
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"-_.".contains(&b);
    let part = |part: &str| is_of(part, 64, |b| b.is_ascii_alphanumeric(), rest);
    // Pools lie in one another, three deep.
    if name.split('/').count() <= 3 && name.split('/').all(part) {
        return Ok(());
    }
    Err(bad("the pool's name", name, "Pools are named [A-Za-z0-9][A-Za-z0-9_.-]*."))
}

fn bridge(name: &str) -> Result<(), Refusal> {
    // The kernel's bound for names of interfaces.
    if is_of(name, 15, |b| b.is_ascii_alphabetic(), |b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-') {
        return Ok(());
    }
    Err(bad("the bridge", name, "Bridges have names of letters, digits, - and _, such as vmbr0."))
}

/// A file on a storage, `STORAGE:iso/FILE`: which storage.
pub(super) fn file<'a>(text: &'a str, content: &str, endings: &[&str]) -> Result<&'a str, Refusal> {
    let hint = format!("Name it as STORAGE:{content}/FILE, the file ending in {}.", endings.join(", "));
    let refused = || bad("the file", text, &hint);
    let (on, rest) = text.split_once(':').ok_or_else(refused)?;
    storage(on)?;
    let name = rest.strip_prefix(content).and_then(|rest| rest.strip_prefix('/')).ok_or_else(refused)?;
    let rest = |b: u8| b.is_ascii_alphanumeric() || b"-_.+".contains(&b);
    let ending = endings.iter().any(|ending| name.to_ascii_lowercase().ends_with(ending));
    if ending && is_of(name, 200, |b| b.is_ascii_alphanumeric(), rest) { Ok(on) } else { Err(refused()) }
}

/// An operating system type.
pub(super) fn os(name: &str) -> Result<(), Refusal> {
    if OS_TYPES.contains(&name) {
        return Ok(());
    }
    Err(bad(
        "the operating system type",
        name,
        "Use l26 for Linux, win11 for Windows 11, other for anything else.",
    ))
}

/// The key of a disk: a bus and a number.
pub(super) fn disk(name: &str) -> Result<(), Refusal> {
    let numbered = |bus: &str| {
        name.strip_prefix(bus)
            .is_some_and(|n| (1..=3).contains(&n.len()) && n.bytes().all(|b| b.is_ascii_digit()))
    };
    let buses = ["scsi", "virtio", "sata", "ide", "mp"];
    if name == "rootfs" || buses.into_iter().any(numbered) {
        return Ok(());
    }
    Err(bad(
        "the disk",
        name,
        "Name its line of the configuration: scsi0, virtio0, sata0, ide0, rootfs or mp0.",
    ))
}

/// A container's address and gateway, as Proxmox writes them: `ip=…,gw=…`.
pub(super) fn address(ip: Option<&str>, gateway: Option<&str>) -> Result<String, Refusal> {
    let ip = ip.unwrap_or("dhcp");
    let hint =
        "Give dhcp, or an address with its prefix such as 192.0.2.4/24, and a gateway's plain address.";
    if ip == "dhcp" {
        return match gateway {
            None => Ok("ip=dhcp".to_owned()),
            Some(gateway) => Err(bad("a gateway beside dhcp", gateway, hint)),
        };
    }
    let (address, prefix) = ip.split_once('/').ok_or_else(|| bad("the address", ip, hint))?;
    let parsed: IpAddr = address.parse().map_err(|_| bad("the address", ip, hint))?;
    let IpAddr::V4(address) = parsed else {
        return Err(bad("the address", ip, "Only IPv4 can be set here."));
    };
    let length =
        prefix.parse::<u8>().ok().filter(|bits| (1..=32).contains(bits) && prefix == bits.to_string());
    let bits = length.ok_or_else(|| bad("the prefix of the address", ip, hint))?;
    match gateway.map(|text| (text, text.parse::<IpAddr>())) {
        None => Ok(format!("ip={address}/{bits}")),
        Some((_, Ok(IpAddr::V4(gateway)))) => Ok(format!("gw={gateway},ip={address}/{bits}")),
        Some((text, Ok(IpAddr::V6(_)) | Err(_))) => Err(bad("the gateway", text, hint)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(judge: impl Fn(&str) -> Result<(), Refusal>, good: &[&str], wrong: &[&str]) {
        for text in good {
            assert_eq!(judge(text), Ok(()), "{text:?}");
        }
        for text in wrong {
            assert_eq!(judge(text).unwrap_err().code, RefusalCode::BadValue, "{text:?}");
        }
    }

    #[test]
    fn names_are_nothing_but_names() {
        let tricks =
            ["", "../x", "a b", "a;rm", "$(x)", "a\n", "a,force=1", "-a", "a/b/../c", "ä", "a%2Fb", "`x`"];
        let long = "a".repeat(300);
        for judge in [dns_name, snapshot, node, storage, pool, bridge, disk, os] {
            check(judge, &[], &tricks);
            check(judge, &[], &[&long]);
        }
        check(dns_name, &["a", "db-1", "db.example.org", "7zip"], &["105", "a.", ".a", "a..b", "a-", "a_b"]);
        check(snapshot, &["ab", "Before_1-x"], &["a", "1a", "current", "PENDING", "a.b"]);
        check(node, &["pve1", "a-b"], &["pve1-", "a.b"]);
        check(storage, &["local-lvm", "a.b_c"], &["1a", "a-"]);
        check(pool, &["lab", "lab/inner"], &["lab/", "a/b/c/d", ".."]);
        check(disk, &["scsi0", "rootfs", "mp255"], &["scsi", "net0", "unused0", "efidisk0", "scsi0000"]);
        let tag = |text: &str| tags(&[text.to_owned()].into());
        check(tag, &["a", "a-b.c+d", "_x", "1"], &["A", "a b", "a;b", "", "-a", "a/b"]);
    }

    #[test]
    fn files_lie_on_a_storage_and_nowhere_else() {
        let iso = |text: &str| file(text, "iso", &[".iso", ".img"]).map(|_| ());
        check(
            iso,
            &["local:iso/debian-13.1.0.iso", "nas:iso/x.IMG"],
            &[
                "debian.iso",
                "local:iso/../../etc/x.iso",
                "local:vztmpl/x.iso",
                "local:iso/x.iso,media=disk",
                "local:iso/a/b.iso",
                "local:iso/.iso",
                "/dev/sda",
                "local:iso/x.qcow2",
            ],
        );
    }

    #[test]
    fn addresses_are_parsed_and_written_anew() {
        assert_eq!(address(None, None).unwrap(), "ip=dhcp");
        let fixed = address(Some("192.0.2.4/24"), Some("192.0.2.1"));
        assert_eq!(fixed.unwrap(), "gw=192.0.2.1,ip=192.0.2.4/24");
        for (ip, gateway) in [
            ("192.0.2.4", None),
            ("192.0.2.4/33", None),
            ("192.0.2.4/024", None),
            ("192.0.2.400/24", None),
            ("192.0.2.4/24,gw=1", None),
            ("2001:db8::1/64", None),
            ("dhcp", Some("192.0.2.1")),
            ("192.0.2.4/24", Some("gw")),
        ] {
            assert!(address(Some(ip), gateway).is_err(), "{ip}");
        }
    }

    #[test]
    fn numbers_are_those_of_a_home() {
        for wrong in [0, 15, u64::MAX] {
            assert!(memory_mib(wrong).is_err(), "{wrong}");
        }
        assert!(cores(0).is_err() && cores(u32::MAX).is_err() && disk_gib(0).is_err());
        assert!(settings(&Settings::default()).is_err());
        assert!(shutdown_seconds(0).is_err() && undo_minutes(0).is_err() && undo_minutes(60).is_ok());
    }
}
