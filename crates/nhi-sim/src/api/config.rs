//! Changing a guest's configuration: options, their rights, tags, disks, what waits for a restart; resizing,
//! moving and detaching disks; templates.

use super::{
    ApiError, Call, Outcome,
    route::{Check, Route, post, put},
};
use crate::lab::{
    Lab,
    guest::{Config, Guest, Kind, is_disk_key, parse_size, size_of_disk, volid_of},
    login::Who,
    task::{Build, ConfigChange, Work},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

/// Options of a virtual machine's configuration.
pub(super) const OPTIONS_QEMU: &str = "acpi:b affinity agent amd-sev arch args audio0 autostart:b balloon:i bios \
    boot bootdisk cdrom cicustom cipassword citype ciupgrade:b ciuser cores:i cpu cpulimit cpuunits:i description \
    efidisk[] force:b freeze:b hookscript hostpci[] hotplug hugepages ide[] intel-tdx ipconfig[] ivshmem keephugepages:b \
    keyboard kvm:b localtime:b lock machine memory migrate_downtime migrate_speed:i name nameserver net[] numa:b \
    onboot:b ostype parallel[] protection:b reboot:b rng[] sata[] scsi[] scsihw searchdomain serial[] shares:i smbios1 \
    smp sockets:i spice_enhancements sshkeys startdate startup tablet:b tags tdf:b template:b tpmstate[] unused[] usb[] \
    vcpus:i vga virtio[] virtiofs[] vmgenid vmstatestorage watchdog";
/// Options of a container's configuration.
pub(super) const OPTIONS_LXC: &str = "arch cmode console:b cores:i cpulimit cpuunits:i debug:b description dev[] \
    entrypoint env features hookscript hostname lock memory:i mp[] nameserver net[] onboot:b ostype protection:b rootfs \
    searchdomain startup swap:i tags template:b timezone tty:i unprivileged:b unused[]";

const ANY_QEMU: Check = Check::AnyOf(
    "/vms/{vmid}",
    &[
        "VM.Config.Disk",
        "VM.Config.CDROM",
        "VM.Config.CPU",
        "VM.Config.Memory",
        "VM.Config.Network",
        "VM.Config.HWType",
        "VM.Config.Options",
        "VM.Config.Cloudinit",
    ],
);
const ANY_LXC: Check = Check::AnyOf(
    "/vms/{vmid}",
    &["VM.Config.Disk", "VM.Config.CPU", "VM.Config.Memory", "VM.Config.Network", "VM.Config.Options"],
);
const DISK: Check = Check::All("/vms/{vmid}", &["VM.Config.Disk"]);
const ALLOCATE: Check = Check::All("/vms/{vmid}", &["VM.Allocate"]);
const RESIZE: &str = "disk:s! size:s! digest skiplock:b";

pub(super) const ROUTES: &[Route] = &[
    put(
        "/nodes/{node}/qemu/{vmid}/config",
        ANY_QEMU,
        "@qemu + delete revert digest skiplock:b",
        |lab, call| change(lab, call, Kind::Qemu),
    ),
    put("/nodes/{node}/lxc/{vmid}/config", ANY_LXC, "@lxc + delete revert digest", |lab, call| {
        change(lab, call, Kind::Lxc)
    }),
    post(
        "/nodes/{node}/qemu/{vmid}/config",
        ANY_QEMU,
        "@qemu + delete revert digest skiplock:b background_delay:i import-working-storage",
        change_later,
    ),
    put("/nodes/{node}/qemu/{vmid}/resize", DISK, RESIZE, |lab, call| resize(lab, call, Kind::Qemu)),
    put("/nodes/{node}/lxc/{vmid}/resize", DISK, RESIZE, |lab, call| resize(lab, call, Kind::Lxc)),
    put("/nodes/{node}/qemu/{vmid}/unlink", DISK, "idlist:s! force:b", unlink),
    post(
        "/nodes/{node}/qemu/{vmid}/move_disk",
        DISK,
        "disk:s! storage delete:b digest format bwlimit:i target-vmid:v target-disk target-digest",
        |lab, call| move_disk(lab, call, Kind::Qemu),
    ),
    post(
        "/nodes/{node}/lxc/{vmid}/move_volume",
        DISK,
        "volume:s! storage delete:b digest bwlimit:i target-vmid:v target-volume target-digest",
        |lab, call| move_disk(lab, call, Kind::Lxc),
    ),
    post("/nodes/{node}/qemu/{vmid}/template", ALLOCATE, "disk", |lab, call| template(lab, call, Kind::Qemu)),
    post("/nodes/{node}/lxc/{vmid}/template", ALLOCATE, "", |lab, call| template(lab, call, Kind::Lxc)),
];

/// Options of a virtual machine that a running one takes over at once; the others wait for its next start.
const AT_ONCE: &[&str] = &[
    "description",
    "hookscript",
    "hotplug",
    "lock",
    "name",
    "onboot",
    "protection",
    "shares",
    "startup",
    "tags",
    "vmstatestorage",
];

/// The privilege an option needs.
fn privilege_of(kind: Kind, key: &str, value: &str) -> Need {
    let stem = key.trim_end_matches(|c: char| c.is_ascii_digit());
    if is_disk_key(kind, key) || stem == "unused" {
        return if value.contains("media=cdrom") || value == "none" {
            Need::One("VM.Config.CDROM")
        } else {
            Need::One("VM.Config.Disk")
        };
    }
    match stem {
        "args" | "lock" | "hookscript" | "parallel" | "affinity" | "ivshmem" | "virtiofs" | "dev" => {
            Need::Root
        }
        "hostpci" | "usb" if !value.contains("mapping=") && value != "spice" => Need::Root,
        "serial" if value != "socket" => Need::Root,
        "hostpci" | "usb" | "serial" | "acpi" | "audio" | "hotplug" | "kvm" | "machine" | "scsihw"
        | "smbios" | "tablet" | "vga" | "vmgenid" | "watchdog" | "rng" => Need::One("VM.Config.HWType"),
        "cores" | "cpu" | "cpulimit" | "cpuunits" | "numa" | "smp" | "sockets" | "vcpus" => {
            Need::One("VM.Config.CPU")
        }
        "balloon" | "memory" | "shares" | "swap" | "hugepages" | "keephugepages" => {
            Need::One("VM.Config.Memory")
        }
        "net" | "nameserver" | "searchdomain" | "ipconfig" | "hostname" => Need::One("VM.Config.Network"),
        "boot" | "bootdisk" | "vmstatestorage" => Need::One("VM.Config.Disk"),
        "cdrom" => Need::One("VM.Config.CDROM"),
        "cicustom" | "cipassword" | "citype" | "ciupgrade" | "ciuser" | "sshkeys" => {
            Need::One("VM.Config.Cloudinit")
        }
        _ => Need::One("VM.Config.Options"),
    }
}

enum Need {
    One(&'static str),
    Root,
}

/// Checks the rights for each option that is set or removed.
pub(super) fn check_option_rights(
    lab: &Lab,
    who: &Who,
    kind: Kind,
    vmid: u32,
    pool: Option<&str>,
    options: &Config,
) -> Result<(), ApiError> {
    for (key, value) in options {
        match privilege_of(kind, key, value) {
            Need::Root if who.is_root() => {}
            // The two kinds of guest say it differently.
            Need::Root => {
                return Err(match kind {
                    Kind::Qemu => ApiError::die(format!("only root can set '{key}' config")),
                    Kind::Lxc => ApiError::status(
                        403,
                        format!("Permission check failed (changing '{key}' is only allowed for root@pam)"),
                    ),
                });
            }
            Need::One(privilege) => {
                let path = format!("/vms/{vmid}");
                let by_pool =
                    pool.is_some_and(|pool| lab.may(&who.id, &format!("/pool/{pool}"), &[privilege]));
                if !by_pool {
                    lab.require_any(who, &path, &[privilege])?;
                }
            }
        }
        if let Some(bridge) =
            value.split(',').find_map(|part| part.strip_prefix("bridge=")).filter(|_| key.starts_with("net"))
        {
            lab.require_any(who, &format!("/sdn/zones/localnetwork/{bridge}"), &["SDN.Use"])?;
        }
        if is_disk_key(kind, key) && !value.contains("media=cdrom") {
            check_disk_line(lab, who, key, value)?;
        }
    }
    Ok(())
}

/// A disk to be made needs space on an existing storage.
fn check_disk_line(lab: &Lab, who: &Who, key: &str, value: &str) -> Result<(), ApiError> {
    let volid = volid_of(value);
    let Some((storage, rest)) = volid.split_once(':') else {
        if volid.starts_with('/') && !who.is_root() {
            return Err(ApiError::status(
                403,
                "Permission check failed (mount point type bind is only allowed for root@pam)",
            ));
        }
        return Ok(());
    };
    if rest.parse::<f64>().is_ok() {
        if !lab.storages.contains_key(storage) {
            return Err(ApiError::die(format!("storage '{storage}' does not exist")));
        }
        lab.require_any(who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    } else if !lab.volumes.keys().any(|(_, known)| known == volid) {
        return Err(ApiError::parameter(key, format!("volume '{volid}' does not exist")));
    }
    Ok(())
}

/// Tags as PVE stores them: lower case, `;` between, none twice.
pub(super) fn normal_tags(text: &str) -> Result<String, ApiError> {
    let mut seen = Vec::new();
    for tag in text.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).map(str::to_ascii_lowercase) {
        let first_is_good = tag.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
        let rest_is_good = tag.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-+.".contains(&byte));
        if !first_is_good || !rest_is_good {
            return Err(ApiError::parameter("tags", "invalid format - invalid characters in tag\n"));
        }
        if !seen.contains(&tag) {
            seen.push(tag);
        }
    }
    Ok(seen.join(";"))
}

/// A registered tag may only be added or taken away with Sys.Modify on `/`.
pub(super) fn check_tag_rights(lab: &Lab, who: &Who, before: &str, after: &str) -> Result<(), ApiError> {
    let set = |text: &str| -> BTreeSet<String> {
        text.split([';', ',', ' ']).filter(|tag| !tag.is_empty()).map(str::to_owned).collect()
    };
    let registered = set(lab.options.get("registered-tags").map_or("", String::as_str));
    let (before, after) = (set(before), set(after));
    if before.symmetric_difference(&after).any(|tag| registered.contains(tag)) {
        lab.require_any(who, "/", &["Sys.Modify"])?;
    }
    Ok(())
}

/// The options among the parameters of a call.
pub(super) fn options_of(call: &Call<'_>, not_options: &[&str]) -> Result<Config, ApiError> {
    let mut options = Config::new();
    for (key, value) in &call.params {
        if !not_options.contains(&key.as_str())
            && let Some(text) = value.as_str()
        {
            options.insert(key.clone(), text.to_owned());
        }
    }
    if let Some(tags) = options.get("tags") {
        let tags = normal_tags(tags)?;
        options.insert("tags".to_owned(), tags);
    }
    Ok(options)
}

fn read_change(lab: &Lab, call: &Call<'_>, kind: Kind) -> Result<ConfigChange, ApiError> {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let not_options =
        ["delete", "revert", "digest", "skiplock", "force", "background_delay", "import-working-storage"];
    let set = options_of(call, &not_options)?;
    let delete = call.list("delete");
    if set.is_empty() && delete.is_empty() && call.list("revert").is_empty() {
        return Err(ApiError::die("no options specified"));
    }
    let mut errors = BTreeMap::new();
    for key in &delete {
        if set.contains_key(key) {
            errors.insert(
                "delete".to_owned(),
                format!("you can't use '-{key}' and -delete {key}' at the same time"),
            );
        } else if key == "digest" || key == "lock" && !call.who.is_root() {
            errors.insert("delete".to_owned(), format!("unknown option '{key}'"));
        }
    }
    if !errors.is_empty() {
        return Err(ApiError::parameters(errors));
    }
    let mut touched = set.clone();
    touched.extend(delete.iter().map(|key| (key.clone(), guest.line(key).to_owned())));
    if let Some(digest) = call.text("digest")
        && digest != guest.digest()
    {
        return Err(ApiError::die(
            "detected modified configuration - file changed by other user? Try again.",
        ));
    }
    check_option_rights(lab, &call.who, kind, guest.vmid, None, &set)?;
    let removed: Config = touched
        .iter()
        .filter(|(key, _)| !set.contains_key(*key))
        .map(|(key, _)| (key.clone(), String::new()))
        .collect();
    check_option_rights(lab, &call.who, kind, guest.vmid, None, &removed)?;
    if touched.contains_key("tags") {
        check_tag_rights(lab, &call.who, guest.line("tags"), set.get("tags").map_or("", String::as_str))?;
    }
    Ok(ConfigChange { set, delete, revert: call.list("revert") })
}

/// What stands against a change of an existing guest: its lock, and protection where disks go away.
fn check_guest(guest: &Guest, change: &ConfigChange) -> Result<(), ApiError> {
    if !guest.line("lock").is_empty() && !change.delete.iter().any(|key| key == "lock") {
        return Err(ApiError::die(format!("{} is locked ({})", guest.kind.noun(), guest.line("lock"))));
    }
    let removes = |key: &String| is_disk_key(guest.kind, key) || key.starts_with("unused");
    if guest.flag("protection") && !change.delete.iter().any(|key| key == "protection") {
        let replaced = change.set.iter().find(|(key, value)| {
            removes(key) && guest.config.get(*key).is_some_and(|old| volid_of(old) != volid_of(value))
        });
        let gone = change.delete.iter().find(|key| removes(key) && guest.config.contains_key(*key));
        if let Some(key) = gone.or(replaced.map(|(key, _)| key)) {
            return Err(ApiError::die(format!("can't remove drive '{key}' - protection mode enabled")));
        }
    }
    Ok(())
}

fn change(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let change = read_change(lab, call, kind)?;
    check_guest(lab.guest_at(call.node(), kind, call.vmid())?, &change)?;
    lab.apply_change(call.vmid(), &change);
    Ok(Value::Null.into())
}

fn change_later(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let change = read_change(lab, call, Kind::Qemu)?;
    check_guest(lab.guest_at(call.node(), Kind::Qemu, call.vmid())?, &change)?;
    let vmid = call.vmid();
    let work = Work::Build(Build::Configure { vmid, change });
    Ok(json!(lab.fork(call.node(), "qmconfig", &vmid.to_string(), &call.who, work)).into())
}

impl Lab {
    /// Writes a checked change into the configuration. On a running virtual machine most of it waits.
    pub(crate) fn apply_change(&mut self, vmid: u32, change: &ConfigChange) {
        let Some(guest) = self.guests.get(&vmid).cloned() else { return };
        let made_s = self.now_s();
        let mut set = change.set.clone();
        self.complete_network(guest.kind, &mut set);
        let (set, volumes) = self.allocate(vmid, guest.kind, &guest.node, &set, made_s);
        for volume in volumes {
            let key = self.volume_key(&guest.node, &volume.volid);
            self.volumes.insert(key, volume);
        }
        let mut guest = guest;
        for key in &change.revert {
            guest.pending.remove(key);
        }
        let waits = |guest: &Guest, key: &str| {
            guest.kind == Kind::Qemu
                && guest.power.is_up()
                && !AT_ONCE.contains(&key)
                && !is_disk_key(Kind::Qemu, key)
                && !key.starts_with("net")
                && !key.starts_with("unused")
        };
        for (key, value) in set {
            if waits(&guest, &key) {
                if guest.config.get(&key) == Some(&value) {
                    guest.pending.remove(&key);
                } else {
                    guest.pending.insert(key, Some(value));
                }
            } else if key == "tags" && value.is_empty() {
                guest.config.remove(&key);
            } else {
                guest.config.insert(key, value);
            }
        }
        for key in &change.delete {
            if waits(&guest, key) {
                if guest.config.contains_key(key) {
                    guest.pending.insert(key.clone(), None);
                } else {
                    guest.pending.remove(key);
                }
            } else if let Some(old) = guest.config.remove(key) {
                self.detach(&mut guest, key, &old);
            }
        }
        self.guests.insert(vmid, guest);
    }

    /// A disk that leaves the configuration becomes `unusedN`; an `unusedN` that leaves is destroyed.
    fn detach(&mut self, guest: &mut Guest, key: &str, old: &str) {
        let volid = volid_of(old).to_owned();
        let volume_key = self.volume_key(&guest.node, &volid);
        if !self.volumes.contains_key(&volume_key) || old.contains("media=cdrom") {
            return;
        }
        if key.starts_with("unused") {
            self.volumes.remove(&volume_key);
        } else if is_disk_key(guest.kind, key) {
            let free =
                (0..).map(|number| format!("unused{number}")).find(|key| !guest.config.contains_key(key));
            guest.config.extend(free.map(|key| (key, volid)));
        }
    }
}

fn resize(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let disk = call.text("disk").unwrap_or_default();
    let wanted = call.text("size").unwrap_or_default();
    if let Some(digest) = call.text("digest")
        && digest != guest.digest()
    {
        return Err(ApiError::die(
            "detected modified configuration - file changed by other user? Try again.",
        ));
    }
    if !is_disk_key(kind, disk) {
        return Err(ApiError::parameter(
            "disk",
            format!(
                "value '{disk}' does not have a value in the enumeration 'ide0, scsi0, virtio0, sata0, efidisk0, tpmstate0, rootfs, mp0'"
            ),
        ));
    }
    let Some(value) = guest.config.get(disk) else {
        return Err(ApiError::die(format!("disk '{disk}' does not exist")));
    };
    let before = size_of_disk(value).unwrap_or(0);
    let (is_relative, digits) = wanted.strip_prefix('+').map_or((false, wanted), |digits| (true, digits));
    let Some(amount) = parse_size(digits) else {
        return Err(ApiError::parameter("size", "value does not match the regex pattern"));
    };
    let size_bytes = if is_relative { before + amount } else { amount };
    if size_bytes < before {
        return Err(ApiError::die("shrinking disks is not supported"));
    }
    let (vmid, disk) = (guest.vmid, disk.to_owned());
    let work = Work::Build(Build::Resize { vmid, disk, size_bytes });
    Ok(json!(lab.fork(call.node(), "resize", &vmid.to_string(), &call.who, work)).into())
}

fn unlink(lab: &mut Lab, call: &Call<'_>) -> Outcome {
    let guest = lab.guest_at(call.node(), Kind::Qemu, call.vmid())?;
    let change = ConfigChange { delete: call.list("idlist"), ..ConfigChange::default() };
    check_guest(guest, &change)?;
    lab.apply_change(call.vmid(), &change);
    Ok(Value::Null.into())
}

fn move_disk(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let disk = call.text("disk").or_else(|| call.text("volume")).unwrap_or_default().to_owned();
    let Some(storage) = call.text("storage") else {
        return Err(ApiError::parameter("storage", "either set storage or target-vmid, but not both"));
    };
    let Some(value) = guest.config.get(&disk) else {
        return Err(ApiError::die(format!("disk '{disk}' does not exist")));
    };
    if volid_of(value).split(':').next() == Some(storage) {
        return Err(ApiError::die("you can't move to the same storage with same format"));
    }
    if !lab.storages.get(storage).is_some_and(|definition| definition.is_on(call.node())) {
        return Err(ApiError::die(format!("storage '{storage}' is not available on node '{}'", call.node())));
    }
    lab.require_any(&call.who, &format!("/storage/{storage}"), &["Datastore.AllocateSpace"])?;
    let vmid = guest.vmid;
    let work =
        Work::Build(Build::MoveDisk { vmid, disk, storage: storage.to_owned(), delete: call.flag("delete") });
    let name = if kind == Kind::Qemu { "qmmove" } else { "move_volume" };
    Ok(json!(lab.fork(call.node(), name, &vmid.to_string(), &call.who, work)).into())
}

fn template(lab: &mut Lab, call: &Call<'_>, kind: Kind) -> Outcome {
    let guest = lab.guest_at(call.node(), kind, call.vmid())?;
    let noun = kind.noun();
    if guest.is_template() {
        return Err(ApiError::die("you can't convert a template to a template"));
    }
    if !guest.snapshots.is_empty() {
        return Err(ApiError::die(format!("unable to create template, because {noun} contains snapshots")));
    }
    if guest.power.is_up() {
        return Err(ApiError::die(format!("you can't convert a {noun} to template if {noun} is running")));
    }
    let vmid = guest.vmid;
    match kind {
        Kind::Qemu => {
            let work = Work::Build(Build::Template { vmid });
            Ok(json!(lab.fork(call.node(), "qmtemplate", &vmid.to_string(), &call.who, work)).into())
        }
        // A container is converted while one waits.
        Kind::Lxc => {
            if !guest.line("lock").is_empty() {
                return Err(ApiError::die(format!("CT is locked ({})", guest.line("lock"))));
            }
            lab.make_template(vmid);
            Ok(Value::Null.into())
        }
    }
}
