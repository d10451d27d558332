//! What the floor depends on in one cluster: its version, its guests, what they carry and where they are. From the state
//! where a mesh runs, else from Proxmox with the token that reads.

use crate::{
    cli::rules::read_version,
    command::state,
    exit::{Exit, Failure},
    mesh::Mesh,
};
use nhi_decide::{
    guard::Version,
    policy::{View, names, protection},
};
use nhi_model::{
    guest::{Guest as Record, GuestKind},
    intent::{GuestRef, Reference},
    key::{Key, Section},
    policy::Policy,
};
use nhi_pve::{PveError, Reader};
use std::collections::{BTreeMap, BTreeSet};

/// One cluster, as far as it could be seen.
#[derive(Debug, Default)]
pub(super) struct Lab {
    /// Version of Proxmox VE.
    pub version: Option<Version>,
    /// Guests by number.
    pub guests: BTreeMap<u32, Guest>,
    /// Storages for disks or backups.
    pub storages: BTreeSet<String>,
    /// Tags that are registered; absent when that could not be read.
    pub registered: Option<BTreeSet<String>>,
}

/// One guest.
#[derive(Debug)]
pub(super) struct Guest {
    view: View,
    is_template: bool,
    pool: Option<String>,
}

impl Lab {
    /// As the records of a cluster have it.
    ///
    /// # Errors
    /// The call's failure.
    pub(super) async fn of_state(mesh: &Mesh, cluster: &str) -> Result<Self, Failure> {
        let select = ["vm", "lxc", "node", "storage"].map(|section| format!("{section}.{cluster}")).to_vec();
        let got = state::get_all(mesh, select, None, false).await?;
        let mut lab = Self::default();
        for (key, stored) in &got.records {
            let text = |field: &str| stored.record.get(field).and_then(serde_json::Value::as_str);
            if key.section() == Section::Node {
                let version = text("pve_version").and_then(read_version);
                // The oldest decides: what it does not know, it refuses.
                lab.version = [lab.version, version].into_iter().flatten().min();
            } else if key.section() == Section::Storage {
                lab.storages.extend(text("storage").map(str::to_owned));
            } else if let Ok(guest) = serde_json::from_value::<Record>(stored.record.clone()) {
                let view = View::of_record(key, &guest);
                let seen = Guest { view, is_template: guest.template, pool: guest.pool };
                lab.guests.insert(guest.vmid, seen);
            }
        }
        Ok(lab)
    }

    /// As Proxmox says it now.
    ///
    /// # Errors
    /// [`PveError`] when the version or the index cannot be read.
    pub(super) async fn of_proxmox(reader: &Reader, cluster: &str) -> Result<Self, PveError> {
        let version = read_version(&reader.version().await?.version);
        let resources = reader.cluster_resources().await?;
        let holds = |content: &BTreeSet<String>| {
            ["images", "rootdir", "backup"].iter().any(|kind| content.contains(*kind))
        };
        let storages = resources.storages.into_iter().filter(|storage| holds(&storage.content));
        let mut lab = Self {
            version,
            guests: BTreeMap::new(),
            storages: storages.map(|storage| storage.storage).collect(),
            registered: reader.registered_tags().await.ok(),
        };
        for row in resources.guests {
            let kind = match row.kind {
                nhi_pve::GuestKind::Qemu => GuestKind::Qemu,
                nhi_pve::GuestKind::Lxc => GuestKind::Lxc,
            };
            // A configuration that cannot be read protects: see `policy::protection`.
            let config = reader.guest_config(row.kind, &row.node, row.vmid).await.ok();
            let flag = config.map(|config| config.protection());
            let key = Key::guest(kind, cluster, row.vmid);
            let view = View { key, name: row.name.unwrap_or_default(), tags: row.tags, flag };
            let is_template = row.template.unwrap_or(false);
            lab.guests.insert(row.vmid, Guest { view, is_template, pool: row.pool });
        }
        Ok(lab)
    }

    /// Guests of the cluster that may not be touched, and why. Where none can be seen, those that are named by number.
    pub(super) fn protected(
        &self,
        cluster: &str,
        policy: &Policy,
        ourselves: &[GuestRef],
    ) -> BTreeMap<u32, String> {
        if self.guests.is_empty() {
            return numbers(cluster, policy, ourselves);
        }
        let why = |guest: &Guest| {
            let is_us = ourselves.iter().any(|reference| names(reference, &guest.view));
            let ours = is_us.then(|| "the mesh runs on it".to_owned());
            ours.or_else(|| protection(&guest.view, policy))
        };
        self.guests.iter().filter_map(|(vmid, guest)| Some((*vmid, why(guest)?))).collect()
    }

    /// Templates.
    pub(super) fn templates(&self) -> BTreeSet<u32> {
        self.guests.iter().filter(|(_, guest)| guest.is_template).map(|(vmid, _)| *vmid).collect()
    }

    /// Members of each pool.
    pub(super) fn pools(&self) -> BTreeMap<String, BTreeSet<u32>> {
        let mut out: BTreeMap<String, BTreeSet<u32>> = BTreeMap::new();
        for (vmid, guest) in &self.guests {
            if let Some(pool) = &guest.pool {
                out.entry(pool.clone()).or_default().insert(*vmid);
            }
        }
        out
    }

    /// A guest's name.
    pub(super) fn name(&self, vmid: u32) -> &str {
        self.guests.get(&vmid).map_or("", |guest| guest.view.name.as_str())
    }
}

/// Numbers in the cluster that policy and settings name, where no guest can be seen. Of two reasons the mesh's own is
/// told, as where guests are seen.
fn numbers(cluster: &str, policy: &Policy, ourselves: &[GuestRef]) -> BTreeMap<u32, String> {
    let number = |reference: &GuestRef| match reference.reference() {
        Reference::Vmid { cluster: named, vmid } => {
            named.is_none_or(|named| named == cluster).then_some(vmid)
        }
        Reference::Key(key) => match &key.tokens()[..] {
            [named, vmid] if named == cluster => vmid.parse().ok(),
            _ => None,
        },
        Reference::Name { .. } | Reference::Tag(_) => None,
    };
    let protected = policy.protected.guests.iter().map(|guest| (guest, format!("policy protects {guest}")));
    let ours = ourselves.iter().map(|guest| (guest, "the mesh runs on it".to_owned()));
    protected.chain(ours).filter_map(|(guest, why)| Some((number(guest)?, why))).collect()
}

/// Clusters the records speak of.
///
/// # Errors
/// [`Exit::Unreachable`] when nothing was seen yet.
pub(super) async fn clusters(mesh: &Mesh) -> Result<BTreeSet<String>, Failure> {
    let got = state::get_all(mesh, vec!["node".to_owned()], None, false).await?;
    let names: BTreeSet<String> =
        got.records.keys().filter_map(|key| key.tokens().first().cloned()).collect();
    if names.is_empty() {
        return Err(Failure::new(Exit::Unreachable, "no cluster was seen yet: look at `nhi status`"));
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn where_no_guest_is_seen_those_named_by_number_are_protected_in_their_own_cluster() {
        let guests = ["101", "home/102", "attic/103", "vm.home.104", "lxc.attic.105", "nas", "tag:prod"];
        let policy: Policy = serde_json::from_value(json!({ "protected": { "guests": guests } })).unwrap();
        let ourselves = [GuestRef::parse("vm.home.104").unwrap(), GuestRef::parse("attic/106").unwrap()];
        let of = |cluster: &str| Lab::default().protected(cluster, &policy, &ourselves);
        let (home, attic) = (of("home"), of("attic"));
        assert_eq!(home.keys().collect::<Vec<_>>(), [&101, &102, &104], "{home:?}");
        assert_eq!(
            (home[&102].as_str(), home[&104].as_str()),
            ("policy protects home/102", "the mesh runs on it")
        );
        // The control: the same references in the cluster they mean.
        assert_eq!(attic.keys().collect::<Vec<_>>(), [&101, &103, &105, &106], "{attic:?}");
        assert_eq!(attic[&105], "policy protects lxc.attic.105");
    }
}
