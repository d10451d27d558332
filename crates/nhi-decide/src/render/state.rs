//! The document `state.json`: Neural-Home v3's layout, in its order, with additions that never rename.

use super::{
    LAYOUT_VERSION, MirrorInput,
    rows::{self, Row},
};
use crate::state_query;
use nhi_model::{Timestamp, call::SourceAge, envelope::Stale, guest::GuestKind, key::Section};
use serde::Serialize;
use std::collections::BTreeMap;

#[derive(Serialize)]
pub(super) struct Document<'a> {
    meta: Meta<'a>,
    infrastructure: Infrastructure,
    projects: Vec<Row>,
    api_providers: BTreeMap<String, Row>,
    alerts: Vec<Row>,
}

#[derive(Serialize)]
struct Meta<'a> {
    /// Local time, microseconds, no zone.
    generated_at: String,
    generated_by: &'a str,
    checksum_validation: &'static str,
    scan_duration_ms: u64,
    generated_at_utc: Timestamp,
    revision: u64,
    schema_version: u32,
    sources: BTreeMap<String, SourceAge>,
    /// Only while the state cannot be followed.
    #[serde(skip_serializing_if = "Option::is_none")]
    stale: Option<&'a Stale>,
}

#[derive(Serialize)]
struct Infrastructure {
    nodes: Vec<Row>,
    vms: Vec<Row>,
    lxcs: Vec<Row>,
    endpoints: Row,
    health_checks: Row,
    storages: Vec<Row>,
    gpus: Vec<Row>,
    hosts: Vec<Row>,
    docker: Vec<Row>,
}

pub(super) fn document<'a>(input: &MirrorInput<'a>) -> Document<'a> {
    Document {
        meta: Meta {
            generated_at: local(input),
            generated_by: input.generator,
            checksum_validation: "See state.json.checksum",
            scan_duration_ms: input.scan_duration_ms,
            generated_at_utc: input.now,
            revision: input.revision,
            schema_version: LAYOUT_VERSION,
            sources: sources(input),
            stale: input.stale,
        },
        infrastructure: Infrastructure {
            nodes: rows::nodes(input),
            vms: rows::guest_rows(input, GuestKind::Qemu),
            lxcs: rows::guest_rows(input, GuestKind::Lxc),
            endpoints: Row::new(),
            health_checks: Row::new(),
            storages: rows::storages(input),
            gpus: rows::plain(input, Section::Gpu),
            hosts: rows::plain(input, Section::Host),
            docker: rows::plain(input, Section::Docker),
        },
        projects: rows::projects(input),
        api_providers: rows::providers(input),
        alerts: rows::alerts(input),
    }
}

/// `2026-07-18T14:30:05.000123`, as Python's `datetime.now().isoformat()` writes it.
fn local(input: &MirrorInput<'_>) -> String {
    input.offset.to_datetime(input.now).strftime("%Y-%m-%dT%H:%M:%S.%6f").to_string()
}

pub(super) fn sources(input: &MirrorInput<'_>) -> BTreeMap<String, SourceAge> {
    let source = |(key, stored): (&nhi_model::key::Key, &nhi_model::envelope::Stored)| {
        let id = key.tokens().pop().expect("a source's key ends with its id");
        let age = state_query::source_age(key, stored, input.live.get(key), input.now, true);
        // An age in a file grows wrong; the time does not.
        (id, SourceAge { age_s: None, ..age })
    };
    input.section(Section::Source).map(source).collect()
}
