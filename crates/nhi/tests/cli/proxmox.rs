//! A Proxmox of one's own in `.env`: what is right works, what is wrong is said in a sentence that helps.

use crate::mesh::Up;
use anyhow::{Result, ensure};
use nhi_sim::{LabOptions, Running, serve};
use serde_json::Value;
use std::fs;

/// A simulated Proxmox for as long as the runtime lives.
pub(crate) fn lab() -> Result<(tokio::runtime::Runtime, Running)> {
    let runtime = tokio::runtime::Runtime::new()?;
    let options = LabOptions { auth_delay_ms: 20, ..LabOptions::demo() };
    let lab = runtime.block_on(serve(options))?;
    Ok((runtime, lab))
}

/// A `.env` as Neural-Home v3 wrote it, with one line changed.
pub(crate) fn env_file(lab: &Running, key: &str, value: &str) -> String {
    let (user, token) = lab.scan_token.id.split_once('!').unwrap_or((&lab.scan_token.id, ""));
    let lines = [
        ("PROXMOX_HOST", lab.url.as_str()),
        ("PROXMOX_USER", user),
        ("PROXMOX_TOKEN_ID", token),
        ("PROXMOX_SECRET_KEY", &lab.scan_token.secret),
        ("PROXMOX_FINGERPRINT", &lab.fingerprint),
    ];
    let line = |(name, told): (&str, &str)| format!("{name}={}\n", if name == key { value } else { told });
    lines.into_iter().map(line).collect()
}

#[test]
fn the_variables_of_version_3_are_enough() -> Result<()> {
    let (_runtime, lab) = lab()?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join(".env"), env_file(&lab, "", ""))?;
    let up = Up::start(dir, &[])?;
    let guests = up.json(&["guest", "list"])?;
    ensure!(guests.as_array().is_some_and(|g| g.len() >= 20), "{guests}");
    ensure!(lab.counts().writes == 0, "scanning wrote to Proxmox");
    Ok(())
}

#[test]
fn what_is_wrong_with_proxmox_is_an_alert_and_the_mesh_runs() -> Result<()> {
    let (_runtime, lab) = lab()?;
    for (key, value, says) in [
        ("PROXMOX_SECRET_KEY", "00000000-0000-0000-0000-000000000000", "PROXMOX_SECRET_KEY"),
        ("PROXMOX_FINGERPRINT", "", lab.fingerprint.as_str()),
        ("PROXMOX_FINGERPRINT", &lab.fingerprint.replace('A', "B").replace('1', "2"), "another certificate"),
        ("PROXMOX_HOST", "127.0.0.1:9", "refused"),
        ("PROXMOX_HOST", "no-such-host.invalid", "no-such-host.invalid"),
    ] {
        let dir = tempfile::tempdir()?;
        fs::write(dir.path().join(".env"), env_file(&lab, key, value))?;
        let up = Up::start(dir, &[])?;
        let status = up.json(&["status"])?;
        let source: &Value = &status["sources"]["proxmox-home"];
        ensure!(source["coverage"]["kind"] == "unseen", "{key}={value}: {status}");
        let told = source["coverage"]["reason"].as_str().unwrap_or_default();
        ensure!(told.contains(says), "{key}={value}: {told}");
        ensure!(!told.contains(&lab.scan_token.secret), "{key}: the secret is in the reason");
        let alerts = status["alerts"].as_object().map_or(0, serde_json::Map::len);
        ensure!(alerts >= 1, "{key}={value}: {status}");
    }
    Ok(())
}
