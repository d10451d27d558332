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
pub(in crate::scan) fn rights(permissions: &Permissions) -> Rights {
    let missing = NEEDED.iter().filter(|(place, privilege, _)| !holds_below(permissions, place, privilege));
    Rights {
        sees_all_guests: holds_below(permissions, "/vms", "VM.Audit"),
        sees_all_storages: holds_below(permissions, "/storage", "Datastore.Audit"),
        missing: missing.map(|(_, privilege, what)| ((*privilege).to_owned(), (*what).to_owned())).collect(),
        digest: digest(&permissions.paths),
    }
}

/// Whether a privilege holds on everything below `place`: it spreads down to a path nobody named, and no named
/// path takes it away.
fn holds_below(permissions: &Permissions, place: &str, privilege: &str) -> bool {
    if place == "/" {
        return permissions.allows("/", privilege);
    }
    let below = format!("{place}/");
    let named = permissions.paths.keys().filter(|path| path.starts_with(&below));
    let unnamed = format!("{below}-");
    std::iter::once(&unnamed).chain(named).all(|path| permissions.allows(path, privilege))
}

fn digest(paths: &BTreeMap<String, BTreeMap<String, bool>>) -> String {
    let text = serde_json::to_vec(paths).expect("paths and privileges are text");
    Sha256::digest(text).iter().take(16).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether the token could see the backups of one guest on one storage. The list is filtered without a word.
pub(super) fn sees_backups(permissions: &Permissions, storage: &str, vmid: u32) -> bool {
    let storage = format!("/storage/{storage}");
    permissions.allows(&storage, "Datastore.Allocate")
        || permissions.allows(&storage, "Datastore.AllocateSpace")
            && permissions.allows(&format!("/vms/{vmid}"), "VM.Backup")
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
    }

    #[test]
    fn an_auditor_sees_no_backups() {
        let auditor = permissions(&[("/", &["VM.Audit", "Datastore.Audit"])]);
        assert!(!sees_backups(&auditor, "nas", 100));
        let viewer = permissions(&[("/", &["Datastore.AllocateSpace", "VM.Backup"])]);
        assert!(sees_backups(&viewer, "nas", 100));
        let owner = permissions(&[("/storage/nas", &["Datastore.Allocate"])]);
        assert!(sees_backups(&owner, "nas", 100) && !sees_backups(&owner, "other", 100));
    }
}
