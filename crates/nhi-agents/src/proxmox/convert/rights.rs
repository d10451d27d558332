//! What the token's rights let us see. Proxmox leaves out what they do not cover, without a word.

use nhi_decide::observation::Rights;
use nhi_pve::cluster::Permissions;
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;

/// What a scan needs: where, which privilege, and what stays invisible without it. All are in `PVEAuditor`.
const NEEDED: [(&str, &str, &str); 4] = [
    ("/vms", "VM.Audit", "guests"),
    ("/storage", "Datastore.Audit", "storages"),
    ("/", "Sys.Audit", "the cluster's quorum, the nodes' versions and high availability"),
    ("/pool", "Pool.Audit", "pools"),
];

/// The rights as the observation tells them.
pub(crate) fn rights(permissions: &Permissions) -> Rights {
    let missing = NEEDED.iter().filter(|(place, privilege, _)| !holds_below(permissions, place, privilege));
    Rights {
        sees_all_guests: holds_below(permissions, "/vms", "VM.Audit"),
        sees_all_storages: holds_below(permissions, "/storage", "Datastore.Audit"),
        missing: missing.map(|(_, privilege, what)| ((*privilege).to_owned(), (*what).to_owned())).collect(),
        digest: digest(&permissions.paths),
    }
}

/// The paths Proxmox always tells where something is held. One that is missing beside others holds nothing: an
/// access list took it away, and empty paths are left out of the answer.
const TOPS: [&str; 6] = ["/access", "/nodes", "/pool", "/sdn", "/storage", "/vms"];

/// Whether a privilege holds on everything below `place`: it spreads down to a path nobody named, and no named
/// path takes it away. A path below that holds nothing at all is not in the answer; its guest answers 403 when
/// it is looked for, and is not taken for gone.
fn holds_below(permissions: &Permissions, place: &str, privilege: &str) -> bool {
    if place == "/" {
        return permissions.allows("/", privilege);
    }
    let below = format!("{place}/");
    let named = permissions.paths.keys().filter(|path| path.starts_with(&below));
    let unnamed = format!("{below}-");
    std::iter::once(&unnamed).chain(named).all(|path| holds(permissions, path, privilege))
}

/// Whether a privilege holds on a path.
fn holds(permissions: &Permissions, path: &str, privilege: &str) -> bool {
    let tells_tops = TOPS.iter().any(|top| permissions.paths.contains_key(*top));
    let mut above = path;
    while above.len() > 1 && !permissions.paths.contains_key(above) {
        above =
            above.rsplit_once('/').map_or("/", |(parent, _)| if parent.is_empty() { "/" } else { parent });
    }
    let inherits_from_root = above == "/" && path != "/";
    !(inherits_from_root && tells_tops) && permissions.allows(path, privilege)
}

fn digest(paths: &BTreeMap<String, BTreeMap<String, bool>>) -> String {
    let text = serde_json::to_vec(paths).expect("paths and privileges are text");
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the token could see the backups of one guest on one storage. The list is filtered without a word.
pub(super) fn sees_backups(permissions: &Permissions, storage: &str, vmid: u32) -> bool {
    let storage = format!("/storage/{storage}");
    holds(permissions, &storage, "Datastore.Allocate")
        || holds(permissions, &storage, "Datastore.AllocateSpace")
            && holds(permissions, &format!("/vms/{vmid}"), "VM.Backup")
}

/// Whether every backup is on a list the token may see, so that nobody has to look for their traces.
pub(crate) fn sees_every_backup(permissions: &Permissions) -> bool {
    holds_below(permissions, "/storage", "Datastore.Audit")
        && (holds_below(permissions, "/storage", "Datastore.Allocate")
            || holds_below(permissions, "/storage", "Datastore.AllocateSpace")
                && holds_below(permissions, "/vms", "VM.Backup"))
}

/// Whether it is worth asking a storage for its backups.
pub(crate) fn may_see_backups(permissions: &Permissions, storage: &str) -> bool {
    let storage = format!("/storage/{storage}");
    ["Datastore.Allocate", "Datastore.AllocateSpace"].iter().any(|name| holds(permissions, &storage, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permissions(paths: &[(&str, &[&str])]) -> Permissions {
        let held = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), true)).collect();
        Permissions { paths: paths.iter().map(|(path, names)| ((*path).to_owned(), held(names))).collect() }
    }

    #[test]
    fn all_guests_means_every_path() {
        let auditor = ["VM.Audit", "Datastore.Audit", "Sys.Audit", "Pool.Audit"];
        let full = rights(&permissions(&[("/", &auditor)]));
        assert!(full.sees_all_guests && full.sees_all_storages && full.missing.is_empty());
        let hole = rights(&permissions(&[("/", &auditor), ("/vms/101", &[])]));
        assert!(!hole.sees_all_guests && hole.sees_all_storages);
        assert_ne!(full.digest, hole.digest);
        let one = rights(&permissions(&[("/vms/101", &["VM.Audit"])]));
        assert!(!one.sees_all_guests);
        assert_eq!(one.missing.len(), 4);
        assert!(rights(&permissions(&[("/vms", &["VM.Audit"])])).sees_all_guests);
        assert!(!rights(&Permissions::default()).sees_all_guests);
        // Lost on /vms alone: Proxmox leaves the path out, beside others that it tells.
        let lost = rights(&permissions(&[("/", &auditor), ("/nodes", &auditor), ("/storage", &auditor)]));
        assert!(!lost.sees_all_guests && lost.sees_all_storages);
        assert_eq!(lost.missing.keys().collect::<Vec<_>>(), ["Pool.Audit", "VM.Audit"]);
    }

    #[test]
    fn an_auditor_sees_no_backups() {
        let auditor = permissions(&[("/", &["VM.Audit", "Datastore.Audit"])]);
        assert!(!sees_backups(&auditor, "nas", 100));
        let viewer = permissions(&[("/", &["Datastore.AllocateSpace", "VM.Backup"])]);
        assert!(sees_backups(&viewer, "nas", 100));
        let owner = permissions(&[("/storage/nas", &["Datastore.Allocate"])]);
        assert!(sees_backups(&owner, "nas", 100) && !sees_backups(&owner, "other", 100));
        let audit = ["Datastore.Audit", "Datastore.AllocateSpace", "VM.Backup"];
        assert!(sees_every_backup(&permissions(&[("/", &audit)])));
        assert!(!sees_every_backup(&viewer), "storages that are not listed may hold some");
        assert!(!sees_every_backup(&permissions(&[("/", &audit), ("/vms/100", &["VM.Audit"])])));
        assert!(!sees_every_backup(&auditor));
    }
}
