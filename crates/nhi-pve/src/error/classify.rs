//! Tells the kind of a failure from status and text: almost everything is a 500, so the text has to say it. It
//! works on what was answered and does no I/O.

use super::Kind;

/// Long enough for Proxmox's longest sentence, short enough for an alert.
const TEXT_CHARS_MAX: usize = 800;

/// Text from outside as it may be shown: no control characters, single spaces, capped.
pub(crate) fn clean(text: &str) -> String {
    let visible = text.chars().map(|char| if is_hidden(char) { ' ' } else { char });
    let visible: String = visible.take(TEXT_CHARS_MAX * 4).collect();
    let mut clean = String::new();
    for word in visible.split_whitespace() {
        if !clean.is_empty() {
            clean.push(' ');
        }
        clean.push_str(word);
    }
    match clean.char_indices().nth(TEXT_CHARS_MAX) {
        Some((at, _)) => format!("{}…", &clean[..at]),
        None => clean,
    }
}

/// Control characters, and those that turn or hide text on a terminal.
fn is_hidden(char: char) -> bool {
    char.is_control()
        || matches!(char, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// The kind of an answer with a status of 400 or more.
pub(crate) fn of_answer(status: u16, text: &str, node: &str) -> Kind {
    match status {
        401 => Kind::Unauthorized,
        403 => permission_denied(text),
        400 => Kind::InvalidParameter,
        429 | 503 => Kind::Busy,
        501 => Kind::NotImplemented,
        595..=599 => Kind::NodeUnreachable { node: node.to_owned() },
        _ => of_text(text, node),
    }
}

fn permission_denied(text: &str) -> Kind {
    let inside =
        text.split_once("Permission check failed (").and_then(|(_, behind)| Some(behind.rsplit_once(')')?.0));
    let (path, privilege) = match inside.and_then(|inside| inside.split_once(", ")) {
        Some((path, privilege)) => (Some(path.to_owned()), Some(privilege.to_owned())),
        None => (None, None),
    };
    Kind::PermissionDenied { path, privilege }
}

pub(super) fn of_text(text: &str, node: &str) -> Kind {
    let lower = text.to_ascii_lowercase();
    let has = |part: &str| lower.contains(part);
    // The one sentence that says "gone from that node". Nothing vaguer may: absence needs proof.
    if has("configuration file '") && has("' does not exist") {
        Kind::Gone
    } else if has("got timeout") && (has("can't lock file") || has("can't acquire lock"))
        || has("got lock request timeout")
    {
        Kind::LockTimeout
    } else if let Some(lock) = lock_name(text) {
        Kind::Locked { lock }
    } else if has("no qemu guest agent configured") {
        Kind::NoAgentConfigured
    } else if has("guest agent is not running") || has("qga socket") || has("'guest-") && has("got timeout") {
        Kind::AgentNotRunning
    } else if is_not_running(&lower) {
        Kind::NotRunning
    } else if has("no quorum") {
        Kind::NoQuorum
    } else if has("no such cluster node") {
        Kind::NoSuchNode
    } else if has("hostname lookup '") || has("can't connect to ") {
        Kind::NodeUnreachable { node: node.to_owned() }
    } else if has("storage '") && (has("is not online") || has("is disabled") || has("is not available")) {
        Kind::StorageUnavailable
    } else if let Some(kind) = of_refusal(&lower) {
        kind
    } else if has("got timeout") {
        Kind::Busy
    } else {
        Kind::Other
    }
}

/// What Proxmox says to those who want to change something.
fn of_refusal(lower: &str) -> Option<Kind> {
    let has = |part: &str| lower.contains(part);
    if has("protection mode enabled") {
        Some(Kind::Protected)
    } else if has("is running - destroy failed")
        || has("container is running")
        || has("running vm without")
        || has("running container without")
    {
        Some(Kind::StillRunning)
    } else if has("used in ha resources") || has("ha managed") {
        Some(Kind::HaManaged)
    } else if has("already exists") || has("' already used") {
        Some(Kind::AlreadyExists)
    } else if has("detected modified configuration") || has("checksum mis") {
        Some(Kind::Modified)
    } else if has("quit/powerdown failed - got timeout") || has("lxc-stop") && has("--timeout") {
        Some(Kind::ShutdownIgnored)
    } else if has("still in use by") || has("base volume '") && has("in use") {
        Some(Kind::StillInUse)
    } else if has("snapshot '") && has("' does not exist") {
        Some(Kind::NoSuchSnapshot)
    } else if has("feature is not available") || has("uses local devices") || has("shrinking disks") {
        Some(Kind::NotPossible)
    } else {
        None
    }
}

/// `VM is locked (backup)`.
fn lock_name(text: &str) -> Option<String> {
    let (_, behind) = text.split_once("is locked (")?;
    let (name, _) = behind.split_once(')')?;
    (!name.is_empty()).then(|| name.to_owned())
}

/// `VM 100 is not running`, `CT 101 not running`.
fn is_not_running(lower: &str) -> bool {
    let mut words = lower.split_whitespace().skip_while(|word| !matches!(*word, "vm" | "ct"));
    let _ = words.next();
    let is_number = words.next().is_some_and(|word| word.bytes().all(|byte| byte.is_ascii_digit()));
    let behind: Vec<&str> =
        words.take(3).map(|word| word.trim_matches(|char: char| !char.is_alphanumeric())).collect();
    is_number && (behind.starts_with(&["not", "running"]) || behind.starts_with(&["is", "not", "running"]))
}

#[cfg(test)]
mod tests;
