//! Which guests the mesh itself runs on: those that are configured, and those this machine recognises itself in.

use nhi_decide::observe::Known;
use nhi_model::{
    guest::Guest,
    intent::{GuestRef, Reference},
    key::{Key, Section},
};
use serde::Deserialize as _;
use std::{collections::BTreeSet, fs, net::IpAddr, path::Path};

/// What tells this machine, and the servers of the bus, from others.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    uuid: Option<String>,
    macs: BTreeSet<String>,
    addresses: BTreeSet<IpAddr>,
    configured: Vec<GuestRef>,
}

impl Marks {
    /// Reads what the system tells without privileges. `servers` are the addresses of nats-server.
    pub(crate) fn read(configured: Vec<GuestRef>, servers: &str) -> Self {
        let line = |path: &Path| {
            fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_ascii_lowercase())
                .filter(|t| !t.is_empty())
        };
        let cards = fs::read_dir("/sys/class/net").into_iter().flatten().flatten();
        let macs = cards
            .filter_map(|card| line(&card.path().join("address")))
            .filter(|mac| mac != "00:00:00:00:00:00")
            .collect();
        let addresses =
            servers.split(',').filter_map(host).filter(|address| !address.is_loopback()).collect();
        Self { uuid: line(Path::new("/sys/class/dmi/id/product_uuid")), macs, addresses, configured }
    }

    /// The guests among the records that are ourselves.
    pub(crate) fn among<'a>(&self, known: impl IntoIterator<Item = (&'a Key, &'a Known)>) -> BTreeSet<Key> {
        let known = known.into_iter();
        let guests = known.filter(|(key, _)| matches!(key.section(), Section::Vm | Section::Lxc));
        guests
            .filter_map(|(key, known)| Some((key, Guest::deserialize(&known.record).ok()?)))
            .filter(|(key, guest)| self.is_me(key, guest))
            .map(|(key, _)| key.clone())
            .collect()
    }

    fn is_me(&self, key: &Key, guest: &Guest) -> bool {
        let same = |a: &Option<String>, b: &Option<String>| {
            a.as_ref().zip(b.as_ref()).is_some_and(|(a, b)| a.eq_ignore_ascii_case(b))
        };
        same(&self.uuid, &guest.identity.uuid)
            || guest.nics.values().filter_map(|nic| nic.mac.as_ref()).any(|mac| self.macs.contains(mac))
            || guest.addresses.iter().any(|address| self.addresses.contains(&address.address))
            || self.configured.iter().any(|reference| means(&reference.reference(), key, guest))
    }
}

fn means(reference: &Reference, key: &Key, guest: &Guest) -> bool {
    let there = |cluster: &Option<String>| cluster.as_ref().is_none_or(|cluster| *cluster == guest.cluster);
    match reference {
        Reference::Vmid { cluster, vmid } => there(cluster) && *vmid == guest.vmid,
        Reference::Name { cluster, name } => there(cluster) && name.eq_ignore_ascii_case(&guest.name),
        Reference::Tag(tag) => guest.tags.contains(tag),
        Reference::Key(named) => named == key,
    }
}

/// The address in `nats://ADDRESS:PORT`; a name is not looked up.
fn host(url: &str) -> Option<IpAddr> {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.rsplit_once('@').map_or(rest, |(_, rest)| rest);
    let host = rest.rsplit_once(':').map_or(rest, |(host, _)| host);
    host.trim_start_matches('[').trim_end_matches(']').parse().ok()
}
