//! Proxmox's own sentences and what they mean.

use super::{clean, of_answer};
use crate::error::Kind;

fn of(text: &str) -> Kind {
    of_answer(500, text, "pve2")
}

#[test]
fn sentences_tell_the_kind() {
    let locked = |lock: &str| Kind::Locked { lock: lock.to_owned() };
    let unreachable = Kind::NodeUnreachable { node: "pve2".to_owned() };
    let cases = [
        ("Configuration file 'nodes/pve2/qemu-server/100.conf' does not exist", Kind::Gone),
        ("Configuration file 'nodes/pve2/lxc/101.conf' does not exist", Kind::Gone),
        ("VM is locked (backup)", locked("backup")),
        ("CT is locked (snapshot-delete)", locked("snapshot-delete")),
        ("can't lock file '/var/lock/qemu-server/lock-100.conf' - got timeout", Kind::LockTimeout),
        ("cfs-lock 'storage-nas' error: got lock request timeout", Kind::LockTimeout),
        ("No QEMU guest agent configured", Kind::NoAgentConfigured),
        ("QEMU guest agent is not running", Kind::AgentNotRunning),
        ("VM 100 qga command 'guest-ping' failed - got timeout", Kind::AgentNotRunning),
        ("unable to connect to VM 100 qga socket - timeout after 31 retries", Kind::AgentNotRunning),
        ("VM 100 is not running", Kind::NotRunning),
        ("CT 101 not running", Kind::NotRunning),
        ("CT 101 is not running\n", Kind::NotRunning),
        ("cluster not ready - no quorum?", Kind::NoQuorum),
        ("no such cluster node 'pve9'", Kind::NoSuchNode),
        ("hostname lookup 'pve2' failed - failed to get address info for: pve2", unreachable.clone()),
        ("Can't connect to 192.0.2.8:8006 (No route to host)", unreachable),
        ("storage 'nas' is not online", Kind::StorageUnavailable),
        ("storage 'nas' is disabled", Kind::StorageUnavailable),
        ("storage 'nas' is not available on node 'pve2'", Kind::StorageUnavailable),
        ("VM 100 qmp command 'query-status' failed - got timeout", Kind::Busy),
        ("something new", Kind::Other),
        ("", Kind::Other),
    ];
    for (text, expected) in cases {
        assert_eq!(of(text), expected, "{text}");
    }
}

#[test]
fn refusals_tell_the_kind() {
    let cases = [
        ("can't remove VM 105 - protection mode enabled", Kind::Protected),
        ("VM 105 is running - destroy failed", Kind::StillRunning),
        ("unable to destroy CT 201 - container is running", Kind::StillRunning),
        ("can't migrate running VM without --online", Kind::StillRunning),
        ("unable to remove VM 105 - used in HA resources and purge parameter not set.", Kind::HaManaged),
        ("Cannot suspend HA managed VM to disk", Kind::HaManaged),
        ("unable to create VM 105 - VM 105 already exists on node 'pve1'", Kind::AlreadyExists),
        ("snapshot name 'before' already used", Kind::AlreadyExists),
        ("detected modified configuration - file changed by other user? Try again.", Kind::Modified),
        // Older versions, with and without their spelling.
        ("checksum missmatch (file change by other user?)", Kind::Modified),
        ("checksum mismatch (file change by other user?)", Kind::Modified),
        ("VM quit/powerdown failed - got timeout", Kind::ShutdownIgnored),
        ("command 'lxc-stop -n 201 --timeout 60' failed: exit code 1", Kind::ShutdownIgnored),
        ("base volume 'a:base-9000-disk-0' is still in use by linked cloned", Kind::StillInUse),
        ("base volume 'a:base-9000-disk-0' still in use", Kind::StillInUse),
        ("snapshot 'x' does not exist", Kind::NoSuchSnapshot),
        ("snapshot feature is not available", Kind::NotPossible),
        ("can't migrate VM which uses local devices: hostpci0", Kind::NotPossible),
        ("shrinking disks is not supported", Kind::NotPossible),
        ("can't lock file '/var/lock/qemu-server/lock-105.conf' - got timeout", Kind::LockTimeout),
    ];
    for (text, expected) in cases {
        assert_eq!(of(text), expected, "{text}");
        assert_eq!(Kind::of_task_exit(text, "pve2"), expected, "{text}");
    }
    assert_eq!(Kind::of_task_exit("unexpected status", "pve2"), Kind::Other);
}

#[test]
fn only_the_one_sentence_says_gone() {
    let nearly = [
        "storage 'local' does not exist",
        "volume 'local-lvm:vm-100-disk-0' does not exist",
        "Configuration file 'nodes/pve2/qemu-server/100.conf' is broken",
        "VM 100 does not exist",
        "Not Found",
        "no such VM ('100')",
        "got no configuration file",
    ];
    for text in nearly {
        assert_eq!(of(text), Kind::Other, "{text}");
    }
    let gone = "Configuration file 'nodes/pve2/qemu-server/100.conf' does not exist";
    for status in [400, 401, 403, 501, 503, 595, 596, 597, 598, 599] {
        assert_ne!(of_answer(status, gone, "pve2"), Kind::Gone, "{status}");
    }
}

#[test]
fn a_guest_named_like_a_sentence_is_no_sentence() {
    assert_eq!(of("VM quit/powerdown failed"), Kind::Other);
    assert_eq!(of("VM 100 runs, CT 101 not found"), Kind::Other);
    assert_eq!(of("is locked ()"), Kind::Other);
    assert_eq!(of("is locked (never closed"), Kind::Other);
}

#[test]
fn a_missing_right_is_parsed_as_far_as_it_is_told() {
    let denied = |path: Option<&str>, privilege: Option<&str>| Kind::PermissionDenied {
        path: path.map(str::to_owned),
        privilege: privilege.map(str::to_owned),
    };
    let cases = [
        ("Permission check failed (/vms/103, VM.Audit)", denied(Some("/vms/103"), Some("VM.Audit"))),
        (
            "Permission check failed (/vms/103, VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted)",
            denied(Some("/vms/103"), Some("VM.GuestAgent.Audit|VM.GuestAgent.Unrestricted")),
        ),
        ("Permission check failed (user != root@pam)", denied(None, None)),
        ("Permission check failed", denied(None, None)),
        ("only root@pam can do this", denied(None, None)),
        ("", denied(None, None)),
    ];
    for (text, expected) in cases {
        assert_eq!(of_answer(403, text, ""), expected, "{text}");
    }
}

#[test]
fn statuses_tell_the_kind() {
    assert_eq!(of_answer(401, "VM is locked (backup)", ""), Kind::Unauthorized);
    assert_eq!(of_answer(400, "Parameter verification failed.", ""), Kind::InvalidParameter);
    assert_eq!(of_answer(501, "x", ""), Kind::NotImplemented);
    assert_eq!(of_answer(503, "x", ""), Kind::Busy);
    assert_eq!(of_answer(429, "x", ""), Kind::Busy);
    assert_eq!(of_answer(594, "x", ""), Kind::Other);
    for status in 595..=599 {
        assert_eq!(of_answer(status, "", "a"), Kind::NodeUnreachable { node: "a".to_owned() });
    }
}

#[test]
fn text_is_cleaned_and_capped() {
    assert_eq!(clean("  a\n\tb\u{0}\u{1b}[31mc\u{202e}d\u{9b}e \u{1f600} "), "a b [31mc d e \u{1f600}");
    assert_eq!(clean(&"é".repeat(800)), "é".repeat(800));
    assert_eq!(clean(&"é".repeat(801)), format!("{}…", "é".repeat(800)));
    assert_eq!(clean(&" x".repeat(100_000)).chars().count(), 801);
}
