//! What a running mesh says about itself: its state, its sources and alerts, how the scanner reads Proxmox.

use super::Check;
use crate::{
    cli::Global,
    config::Config,
    exit::{Exit, Failure},
    layout::Layout,
    mesh::{self, Endpoints, Mesh, call_failure},
};
use nhi_bus::call::{self, Timeout};
use nhi_model::{
    Timestamp,
    alert::{Alert, Severity},
    call::{StateGet, StateGot},
    key::Section,
};
use serde_json::Value;

/// Unknown fields named in one line; the answer of `scan.status` has all.
const FIELDS_MAX: usize = 5;
const LOGS: &str = "look at what nhi up says, and at .nhi/logs";

/// Everything that a running mesh can be asked.
pub(super) async fn checks(layout: &Layout, config: &Config, global: &Global) -> Vec<Check> {
    let lost =
        |failure: &Failure, remedy: &str| vec![Check::bad("mesh", crate::chain(&failure.error), remedy)];
    let endpoints = match Endpoints::read(layout) {
        Ok(endpoints) => endpoints,
        Err(failure) => return lost(&failure, "restart nhi up"),
    };
    if config.nats_join.is_empty() && endpoints.is_none() {
        return vec![not_here(layout)];
    }
    let mesh = match mesh::target(layout, &config.nats_join, config.nats_ca_file.as_deref()) {
        Ok(target) => Mesh::open(layout, &target, global.identity()).await,
        Err(failure) => Err(failure),
    };
    let remedy = if config.nats_join.is_empty() {
        "restart nhi up"
    } else {
        "check that the servers run and have the accounts of nhi auth block"
    };
    let mesh = match mesh {
        Ok(mesh) => mesh,
        Err(failure) if failure.exit == Exit::Refused => {
            return lost(
                &failure,
                "name with --as an identity that `nhi auth list` shows and whose key is here",
            );
        }
        Err(failure) => return lost(&failure, remedy),
    };
    let request = StateGet { select: vec!["source".to_owned(), "alert".to_owned()], ..StateGet::default() };
    let got: Result<StateGot, Failure> = mesh.call("state", "get", &request).await;
    let mut checks = match got {
        Err(failure) => lost(&failure, LOGS),
        Ok(got) => told(&got),
    };
    checks.extend(scanner(&mesh).await);
    checks.extend(super::acting::waiting(&mesh).await);
    mesh.close().await;
    checks
}

fn not_here(layout: &Layout) -> Check {
    match mesh::server_here(layout) {
        _ if mesh::is_held(layout) => {
            Check::warn("mesh", "nhi up is starting, or stopping", "ask again in a moment")
        }
        Some(server) => Check::warn(
            "mesh",
            format!("nhi up was killed and left its nats-server behind at {}", server.urls.join(", ")),
            "start nhi up again: it takes its place",
        ),
        None => Check::warn("mesh", "not running here", "nhi up starts it"),
    }
}

fn told(got: &StateGot) -> Vec<Check> {
    let mut checks = vec![match &got.stale {
        None => Check::fine("mesh", format!("revision {}", got.revision)),
        Some(stale) => Check::bad("mesh", stale.reason.clone(), LOGS),
    }];
    let seconds = |at: Timestamp| got.as_of.duration_since(at).as_secs();
    for (name, source) in &got.sources {
        checks.push(match (&source.stale, source.last_success) {
            (None, Some(at)) => Check::fine("source", format!("{name}: complete {} s ago", seconds(at))),
            (None, None) => Check::fine("source", name.clone()),
            (Some(reason), _) => Check::warn("source", format!("{name}: {reason}"), "nhi status tells more"),
        });
    }
    let alerts = got.records.iter().filter(|(key, _)| key.section() == Section::Alert);
    checks.extend(alerts.filter_map(|(_, record)| {
        let Alert { severity, summary, hint, .. } = serde_json::from_value(record.record.clone()).ok()?;
        let remedy = if hint.is_empty() { "nhi status tells more".to_owned() } else { hint };
        match severity {
            Severity::Info => None,
            Severity::Warning => Some(Check::warn("alert", summary, remedy)),
            Severity::Critical => Some(Check::bad("alert", summary, remedy)),
        }
    }));
    checks
}

/// What the scanner says of its connections. Read leniently: it may be older or newer than this program.
async fn scanner(mesh: &Mesh) -> Vec<Check> {
    let asked = call::call_raw(&mesh.bus, "scan", "status", "{}".into(), Timeout::DEFAULT).await;
    let status: Value = match asked {
        Ok(answer) => serde_json::from_slice(&answer).unwrap_or_default(),
        Err(error) => {
            let found = crate::chain(&call_failure(error).error);
            return vec![Check::warn("scanner", found, "nhi up runs it, or nhi agent scan")];
        }
    };
    connections(&status)
}

fn connections(status: &Value) -> Vec<Check> {
    let each = |name: &str| status.get(name).and_then(Value::as_object).into_iter().flatten();
    let mut checks: Vec<Check> = each("refused")
        .map(|(source, reason)| {
            let found = format!("{source}: what was seen is not written: {}", text(reason));
            Check::warn("scanner", found, LOGS)
        })
        .collect();
    for (source, connection) in each("connections") {
        let addresses = connection.get("addresses").and_then(Value::as_array).into_iter().flatten();
        checks.extend(addresses.flat_map(|address| address_checks(source, address)));
        let unknown: Vec<&str> = connection
            .get("unknown_fields")
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .map(|(f, _)| f.as_str())
            .collect();
        if !unknown.is_empty() {
            let more = if unknown.len() > FIELDS_MAX { ", …" } else { "" };
            let named = unknown[..unknown.len().min(FIELDS_MAX)].join(", ");
            let found =
                format!("{source}: {} fields of Proxmox are not known here: {named}{more}", unknown.len());
            // Nothing is lost by them, and nobody can do anything about them.
            checks.push(Check::fine("scanner", found));
        }
    }
    checks
}

fn address_checks(source: &str, address: &Value) -> Vec<Check> {
    let url = address.get("url").map(text).unwrap_or_default();
    let trust = address.get("trust").unwrap_or(&Value::Null);
    let fingerprint = trust.get("fingerprint").map(text).unwrap_or_default();
    let mut checks = Vec::new();
    if trust.get("kind").and_then(Value::as_str) == Some("rotated") {
        let cluster = source.strip_prefix("proxmox-").unwrap_or(source);
        let found = format!(
            "{source}: {url} shows another certificate than the pinned one; the pinned authority signed it"
        );
        let remedy = format!(
            "pin the new one: PROXMOX_FINGERPRINT={fingerprint} in .env, or fingerprint = \"{fingerprint}\" in \
             [proxmox.{cluster}] of nhi.toml"
        );
        checks.push(Check::warn("certificate", found, remedy));
    }
    if let Some(trouble) = address.get("trouble").filter(|trouble| !trouble.is_null()) {
        let found = format!("{source}: {url} is left alone: {}", text(trouble));
        checks.push(Check::warn("scanner", found, "check that machine; the others are asked meanwhile"));
    }
    checks
}

fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Verdict;
    use serde_json::json;

    #[test]
    fn a_renewed_certificate_is_told_with_what_to_pin() {
        let address = |trust: Value| json!({"url": "https://pve1:8006", "first": true, "trust": trust});
        let status = json!({"connections": {"proxmox-lab": {
            "addresses": [
                address(json!({"kind": "rotated", "fingerprint": "AB:CD", "pinned": ["11:22"]})),
                address(json!({"kind": "pinned", "fingerprint": "11:22"})),
                address(json!({"kind": "of a newer version"})),
            ],
            "unknown_fields": {"vm.a": 1, "vm.b": 1, "vm.c": 1, "vm.d": 1, "vm.e": 1, "vm.f": 1},
        }}});
        let checks = connections(&status);
        let [certificate, fields] = &checks[..] else { panic!("{checks:?}") };
        assert_eq!((certificate.what, certificate.verdict), ("certificate", Verdict::Warn));
        assert!(certificate.found.contains("https://pve1:8006"), "{certificate:?}");
        for word in ["PROXMOX_FINGERPRINT=AB:CD", "fingerprint = \"AB:CD\"", "[proxmox.lab]"] {
            assert!(certificate.remedy.contains(word), "{word}: {certificate:?}");
        }
        assert!(fields.found.contains("6 fields") && fields.found.contains("vm.e, …"), "{fields:?}");
        assert_eq!(fields.verdict, Verdict::Fine);
    }

    #[test]
    fn what_an_older_or_a_newer_scanner_says_does_no_harm() {
        for status in [
            json!(null),
            json!({"running": false}),
            json!({"connections": [], "refused": 1}),
            json!({"connections": {"a": {"addresses": {}, "unknown_fields": []}, "b": null}}),
            json!({"connections": {"a": {"addresses": [null, 7, {"trust": "pinned"}]}}}),
        ] {
            assert!(connections(&status).is_empty(), "{status}");
        }
        let told = connections(&json!({
            "refused": {"projects": "too large"},
            "connections": {"proxmox-a": {"addresses": [{"url": "https://b", "trouble": "it does not answer"}]}},
        }));
        let found: Vec<&str> = told.iter().map(|check| check.found.as_str()).collect();
        assert!(found[0].contains("too large") && found[1].contains("https://b is left alone"), "{found:?}");
        assert!(told.iter().all(|check| !check.remedy.is_empty()));
    }
}
