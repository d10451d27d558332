//! Rows of `state.json`: Proxmox's own field names, gauges joined in, our additions beside them. What is not known
//! is left out, never filled in.

use super::MirrorInput;
use nhi_model::{
    alert::Alert,
    envelope::Stored,
    guest::{Address, AddressSource, Backups, Guest, GuestKind, GuestStatus},
    key::{Key, Section},
    lab::{Node, Storage},
    live::{Gauges, StorageGauges},
    project::Project,
};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};
use std::{collections::BTreeMap, net::IpAddr};

/// One object; its fields in the order of their names, whatever map `serde_json` was built with.
pub(super) type Row = BTreeMap<String, Value>;

/// A row that starts with what every row has.
fn row(key: &Key, stored: &Stored) -> Row {
    let mut row = Row::new();
    row.insert("nhi_key".to_owned(), json!(key));
    if let Some(stale) = &stored.stale {
        row.insert("stale".to_owned(), json!(stale));
    }
    row
}

/// Adds fields; what is null is unknown and left out.
fn add<const N: usize>(row: &mut Row, fields: [(&str, Value); N]) {
    let known = fields.into_iter().filter(|(_, value)| !value.is_null());
    row.extend(known.map(|(name, value)| (name.to_owned(), value)));
}

/// Joins the valid gauges of a key, as far as their section knows them.
fn join<T: DeserializeOwned + Serialize>(row: &mut Row, input: &MirrorInput<'_>, key: &Key) {
    let gauges = input.live(key).and_then(|live| T::deserialize(&live.record).ok());
    if let Some(Ok(Value::Object(gauges))) = gauges.map(serde_json::to_value) {
        for (name, value) in gauges.into_iter().filter(|(_, value)| !value.is_null()) {
            match value {
                Value::Object(figures) if name == "pressure" => flatten(row, &name, figures),
                value => {
                    row.insert(name, value);
                }
            }
        }
    }
}

/// Pressure figures as Proxmox names them in a list (`pressurecpusome`), however they were nested on the way.
fn flatten(row: &mut Row, name: &str, figures: Map<String, Value>) {
    for (inner, value) in figures {
        let name = if inner.starts_with(name) { inner } else { format!("{name}{inner}") };
        match value {
            Value::Object(figures) => flatten(row, &name, figures),
            value => {
                row.insert(name, value);
            }
        }
    }
}

pub(super) fn nodes(input: &MirrorInput<'_>) -> Vec<Row> {
    let node = |(key, stored, node): (&Key, &Stored, Node)| {
        let mut row = row(key, stored);
        join::<Gauges>(&mut row, input, key);
        add(
            &mut row,
            [
                ("type", json!("node")),
                ("id", json!(format!("node/{}", node.node))),
                ("node", json!(node.node)),
                ("cluster", json!(node.cluster)),
                ("status", json!(node.status)),
                ("level", json!(node.level)),
                ("ssl_fingerprint", json!(node.ssl_fingerprint)),
                ("maxcpu", json!(node.cpus)),
                ("maxmem", json!(node.memory_bytes)),
                ("maxdisk", json!(node.disk_bytes)),
                ("ip", json!(node.address)),
                ("pveversion", json!(node.pve_version)),
                ("kernel", json!(node.kernel)),
            ],
        );
        row
    };
    input.typed(Section::Node).map(node).collect()
}

/// The guests of one kind by cluster and number.
pub(super) fn guests<'a>(input: &MirrorInput<'a>, kind: GuestKind) -> Vec<(&'a Key, &'a Stored, Guest)> {
    let mut guests: Vec<_> = input.typed::<Guest>(kind.section()).collect();
    guests.sort_by(|(_, _, a), (_, _, b)| (&a.cluster, a.vmid).cmp(&(&b.cluster, b.vmid)));
    guests
}

pub(super) fn guest_rows(input: &MirrorInput<'_>, kind: GuestKind) -> Vec<Row> {
    guests(input, kind)
        .into_iter()
        .map(|(key, stored, guest)| guest_row(input, key, stored, &guest))
        .collect()
}

fn guest_row(input: &MirrorInput<'_>, key: &Key, stored: &Stored, guest: &Guest) -> Row {
    let mut row = row(key, stored);
    join::<Gauges>(&mut row, input, key);
    let flag = |yes: bool| json!(u8::from(yes));
    let (status, qmpstatus) = proxmox_status(guest.status);
    add(
        &mut row,
        [
            ("vmid", json!(guest.vmid)),
            ("type", json!(guest.kind)),
            ("name", json!(guest.name)),
            ("node", json!(guest.node)),
            ("cluster", json!(guest.cluster)),
            ("status", json!(status)),
            ("qmpstatus", json!(qmpstatus)),
            ("template", guest.template.then(|| json!(1)).into()),
            ("tags", (!guest.tags.is_empty()).then(|| guest.tags.join(";")).into()),
            ("pool", json!(guest.pool)),
            ("lock", json!(guest.lock)),
            ("hastate", json!(guest.ha.as_ref().map(|ha| &ha.state))),
            ("protection", guest.protection.map(flag).into()),
            ("onboot", guest.onboot.map(flag).into()),
            ("cpus", json!(guest.cpus)),
            ("maxmem", json!(guest.memory_bytes)),
            ("maxdisk", json!(guest.disk_bytes)),
            ("ostype", json!(guest.os)),
            ("ip_addresses", json!(ipv4(guest))),
            ("ip6_addresses", json!(ipv6(guest))),
            ("address_source", address_source(&guest.address_source)),
            ("snapshots", json!(guest.snapshots)),
            ("backup", backup(&guest.backups)),
        ],
    );
    row
}

/// Proxmox knows running and stopped; a paused machine is running with a word beside it, a suspended one stopped
/// with a lock.
const fn proxmox_status(status: GuestStatus) -> (&'static str, Option<&'static str>) {
    match status {
        GuestStatus::Running => ("running", None),
        GuestStatus::Paused => ("running", Some("paused")),
        GuestStatus::Stopped | GuestStatus::Suspended => ("stopped", None),
        GuestStatus::Unknown => ("unknown", None),
    }
}

fn address_source(source: &AddressSource) -> Value {
    match source {
        AddressSource::GuestAgent => json!("guest-agent"),
        AddressSource::Interfaces => json!("interfaces"),
        AddressSource::NotRunning => json!("not-running"),
        AddressSource::NoAgent => json!("no-agent"),
        AddressSource::AgentSilent => json!("agent-silent"),
        AddressSource::NoRight { .. } => json!("no-right"),
        AddressSource::NotRead => json!("not-read"),
    }
}

fn backup(backups: &Backups) -> Value {
    match backups {
        Backups::Newest { at, storage } => json!({"visible": true, "newest": at, "storage": storage}),
        Backups::None => json!({"visible": true, "newest": null}),
        Backups::NotVisible => json!({"visible": false}),
    }
}

/// The IPv4 addresses as Neural-Home v3 listed them, the guest's own cards before bridges inside it, because its
/// readers take the first.
pub(super) fn ipv4(guest: &Guest) -> Vec<String> {
    addresses(guest).filter(|address| address.is_ipv4()).map(|address| address.to_string()).collect()
}

fn ipv6(guest: &Guest) -> Vec<String> {
    addresses(guest).filter(|address| address.is_ipv6()).map(|address| address.to_string()).collect()
}

fn addresses(guest: &Guest) -> impl Iterator<Item = IpAddr> {
    let own = |address: &Address| {
        let mac = address.mac.as_ref()?;
        guest.nics.values().position(|nic| nic.mac.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(mac)))
    };
    let mut ranked: Vec<_> = guest
        .addresses
        .iter()
        .filter(|address| !address.address.is_loopback())
        .map(|address| (own(address).unwrap_or(usize::MAX), address.address))
        .collect();
    ranked.sort_by_key(|(rank, _)| *rank);
    ranked.into_iter().map(|(_, address)| address)
}

pub(super) fn storages(input: &MirrorInput<'_>) -> Vec<Row> {
    let storage = |(key, stored, storage): (&Key, &Stored, Storage)| {
        let mut row = row(key, stored);
        join::<StorageGauges>(&mut row, input, key);
        add(
            &mut row,
            [
                ("storage", json!(storage.storage)),
                ("node", json!(storage.node)),
                ("cluster", json!(storage.cluster)),
                ("type", json!(storage.kind)),
                ("content", json!(storage.content.join(","))),
                ("shared", json!(u8::from(storage.shared))),
                ("active", json!(storage.active.map(u8::from))),
                ("enabled", json!(storage.enabled.map(u8::from))),
            ],
        );
        row
    };
    input.typed(Section::Storage).map(storage).collect()
}

/// Records that machines report about themselves, as they are.
pub(super) fn plain(input: &MirrorInput<'_>, section: Section) -> Vec<Row> {
    let plain = |(key, stored): (&Key, &Stored)| {
        let mut out = row(key, stored);
        let gauges = input.live(key).map(|live| &live.record);
        for object in [gauges, Some(&stored.record)].into_iter().flatten().filter_map(Value::as_object) {
            out.extend(object.iter().map(|(name, value)| (name.clone(), value.clone())));
        }
        // Ours win over what a machine calls the same.
        out.extend(row(key, stored));
        out
    };
    input.section(section).map(plain).collect()
}

pub(super) fn projects(input: &MirrorInput<'_>) -> Vec<Row> {
    let project = |(key, stored, project): (&Key, &Stored, Project)| {
        let mut row = row(key, stored);
        add(
            &mut row,
            [
                ("id", json!(project.id)),
                ("name", json!(project.name)),
                ("path", json!(project.path)),
                ("status", json!(project.status)),
                ("description", json!(project.description)),
                ("raw_manifest", json!(project.raw_manifest)),
                ("interfaces", json!({"port": project.port, "base_url": project.base_url})),
                ("shape", json!(project.shape)),
            ],
        );
        row
    };
    input.typed(Section::Project).map(project).collect()
}

/// Providers by id, in the words of Neural-Home v3. Only these fields leave the record, so no key ever can.
pub(super) fn providers(input: &MirrorInput<'_>) -> BTreeMap<String, Row> {
    let provider = |(key, stored): (&Key, &Stored)| {
        let id = key.tokens().pop().expect("a provider's key ends with its id");
        let text = |name: &str| stored.record.get(name).and_then(Value::as_str);
        let models: Vec<&str> = stored
            .record
            .get("models")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|model| model.as_str().or_else(|| model.get("name").and_then(Value::as_str)))
            .collect();
        // v3 knew two types: Google's own, and everything that speaks OpenAI's.
        let kind = match text("kind") {
            Some("gemini") => Some("google"),
            Some("ollama") => Some("openai"),
            other => other,
        };
        let mut row = row(key, stored);
        add(
            &mut row,
            [
                ("id", json!(id)),
                ("name", json!(text("name").unwrap_or(&id))),
                ("model", json!(text("model").or(models.first().copied()))),
                ("models", json!(models)),
                ("type", json!(kind)),
                ("url", json!(text("url").filter(|_| kind == Some("openai")))),
            ],
        );
        (id, row)
    };
    input.section(Section::Provider).map(provider).collect()
}

pub(super) fn alerts(input: &MirrorInput<'_>) -> Vec<Row> {
    let alert = |(key, stored, alert): (&Key, &Stored, Alert)| {
        let mut row = row(key, stored);
        let [agent, id] = key.tokens().try_into().expect("an alert's key has two tokens");
        add(
            &mut row,
            [
                ("id", json!(id)),
                ("agent", json!(agent)),
                ("severity", json!(alert.severity)),
                ("message", json!(alert.summary)),
                ("hint", json!(alert.hint)),
                ("since", json!(alert.since)),
                ("about", json!(alert.about)),
            ],
        );
        row
    };
    input.typed(Section::Alert).map(alert).collect()
}
