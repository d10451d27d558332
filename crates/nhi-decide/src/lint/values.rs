//! What a parameter's value may look like. Each rule is an allow list of characters and shapes, so that no value can
//! mean a path, an option or another guest's disk.

/// Whether a text has between one and `bytes_max` bytes, all of them allowed.
fn of(text: &str, bytes_max: usize, allowed: impl Fn(u8) -> bool) -> bool {
    !text.is_empty() && text.len() <= bytes_max && text.bytes().all(allowed)
}

fn word(b: u8) -> bool {
    b.is_ascii_alphanumeric() || b == b'-' || b == b'_'
}

/// Not what Proxmox's options and paths are made of at their start.
fn starts_plain(text: &str) -> bool {
    text.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_')
}

pub(super) fn flag(text: &str) -> bool {
    matches!(text, "0" | "1")
}

pub(super) fn off(text: &str) -> bool {
    text == "0"
}

pub(super) fn on(text: &str) -> bool {
    text == "1"
}

/// A whole number as it is written: no sign, no leading zero.
pub(super) fn number(text: &str) -> Option<u64> {
    let plain = of(text, 12, |b| b.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
    plain.then(|| text.parse().ok()).flatten()
}

fn within(text: &str, least: u64, most: u64) -> bool {
    number(text).is_some_and(|number| (least..=most).contains(&number))
}

/// A guest's number.
pub(super) fn vmid(text: &str) -> bool {
    within(text, 100, 999_999_999)
}

pub(super) fn cores(text: &str) -> bool {
    within(text, 1, 8192)
}

pub(super) fn memory_mib(text: &str) -> bool {
    within(text, 16, 64 * 1024 * 1024)
}

/// A wait: at most a day.
pub(super) fn seconds(text: &str) -> bool {
    within(text, 1, 24 * 60 * 60)
}

pub(super) fn node(text: &str) -> bool {
    of(text, 63, |b| b.is_ascii_alphanumeric() || b == b'-') && starts_plain(text) && !text.ends_with('-')
}

pub(super) fn snapshot(text: &str) -> bool {
    let reserved = ["current", "pending"].iter().any(|word| word.eq_ignore_ascii_case(text));
    text.len() >= 2 && of(text, 40, word) && text.starts_with(|c: char| c.is_ascii_alphabetic()) && !reserved
}

/// A storage's or pool's own name.
pub(super) fn storage(text: &str) -> bool {
    of(text, 100, |b| word(b) || b == b'.') && starts_plain(text)
}

/// A pool, perhaps inside another.
pub(super) fn pool(text: &str) -> bool {
    let parts: Vec<&str> = text.split('/').collect();
    parts.len() <= 3 && parts.into_iter().all(storage)
}

/// A DNS name that cannot be taken for a number.
pub(super) fn dns_name(text: &str) -> bool {
    let label = |part: &str| {
        of(part, 63, |b| b.is_ascii_alphanumeric() || b == b'-') && starts_plain(part) && !part.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label) && !text.bytes().all(|b| b.is_ascii_digit())
}

/// Tags with semicolons between them; none at all is the empty text.
pub(super) fn tags(text: &str) -> bool {
    let tag = |tag: &str| of(tag, 64, |b| word(b) || b == b'.' || b == b'+') && starts_plain(tag);
    text.is_empty() || (text.len() <= 8192 && text.split(';').all(tag))
}

/// Notes: text of several lines.
pub(super) fn notes(text: &str) -> bool {
    text.len() <= 8 * 1024 && !text.chars().any(|c| c.is_control() && c != '\n' && c != '\t')
}

/// A digest as Proxmox writes them.
pub(super) fn digest(text: &str) -> bool {
    of(text, 64, word)
}

/// A line of the configuration that is a disk.
pub(super) fn disk(text: &str) -> bool {
    let numbered = |bus: &str| text.strip_prefix(bus).is_some_and(|n| within(n, 0, 255));
    text == "rootfs" || ["scsi", "virtio", "sata", "ide", "mp"].into_iter().any(numbered)
}

/// A disk's size, all of it: `32G`. A difference could be applied twice.
pub(super) fn size(text: &str) -> bool {
    size_bytes(text).is_some_and(|bytes| bytes > 0)
}

/// A size in bytes.
pub(super) fn size_bytes(text: &str) -> Option<u64> {
    let shift = match text.bytes().last()? {
        b'K' => 10,
        b'M' => 20,
        b'G' => 30,
        b'T' => 40,
        b if b.is_ascii_digit() => return number(text),
        _other => return None,
    };
    let count = number(&text[..text.len() - 1])?;
    count.checked_mul(1 << shift)
}

/// A disk that is made: `STORAGE:GIB`, perhaps with options. A volume's name there would be somebody's disk.
pub(super) fn new_disk(text: &str) -> bool {
    let mut parts = text.split(',');
    let place = parts.next().unwrap_or_default();
    let made = place.split_once(':').is_some_and(|(on, gib)| storage(on) && within(gib, 1, 65536));
    made && parts.all(option)
}

/// `name=value` of plain characters. A value that begins with a slash would be a path of the host.
fn option(text: &str) -> bool {
    let value = |b: u8| word(b) || b".:/;".contains(&b);
    text.split_once('=')
        .is_some_and(|(name, text)| of(name, 32, word) && of(text, 64, value) && starts_plain(text))
}

/// A network card: a model or options.
pub(super) fn card(text: &str) -> bool {
    let model = |text: &str| of(text, 32, word);
    text.len() <= 512 && text.split(',').all(|part| option(part) || model(part))
}

/// A file on a storage in its own folder.
fn file(text: &str, folder: &str) -> bool {
    let Some((on, rest)) = text.split_once(':') else { return false };
    let name = rest.strip_prefix(folder).and_then(|rest| rest.strip_prefix('/'));
    let plain = |b: u8| word(b) || b".+".contains(&b);
    storage(on) && name.is_some_and(|name| of(name, 250, plain) && starts_plain(name))
}

/// An image in a drive.
pub(super) fn image(text: &str) -> bool {
    text.strip_suffix(",media=cdrom").is_some_and(|text| file(text, "iso") || text == "none")
}

/// A container's template.
pub(super) fn container_template(text: &str) -> bool {
    file(text, "vztmpl")
}

/// An operating system type, a controller, a mode: one word.
pub(super) fn one_word(text: &str) -> bool {
    of(text, 32, word)
}

/// `order=scsi0;ide2`
pub(super) fn boot(text: &str) -> bool {
    let devices = text.strip_prefix("order=");
    devices
        .is_some_and(|devices| devices.split(';').all(|device| of(device, 16, |b| b.is_ascii_alphanumeric())))
}

/// A backup that does not interrupt the guest.
pub(super) fn gentle_backup(text: &str) -> bool {
    text == "snapshot"
}

/// Lines that a change of the configuration may remove: those it may set.
pub(super) fn removable(text: &str) -> bool {
    let known = ["cores", "description", "memory", "net0", "onboot", "protection", "tags"];
    text.split(',').all(|line| known.contains(&line))
}

/// Whether a list of lines to be removed has protection in it.
pub(super) fn unprotects(text: &str) -> bool {
    text.split(',').any(|line| line == "protection")
}

/// What a container may be let do: nothing but containers of its own.
pub(super) fn nesting(text: &str) -> bool {
    text == "nesting=1"
}

/// A template for a backup's notes, one line.
pub(super) fn notes_template(text: &str) -> bool {
    text.len() <= 1024 && !text.chars().any(char::is_control)
}
