//! Our simulated lab against proxmoxer, a client that somebody else wrote: a guest's whole life, told by its facts.

use crate::peer;
use nhi_sim::{LabOptions, serve};
use std::{process::Stdio, time::Duration};
use tokio::process::Command;

/// Longest that the whole life may take.
const LIFE_MAX: Duration = Duration::from_secs(240);
/// Length of a task: long enough to be caught in the middle, short enough for a test.
const TASK_MS: u64 = 60;

#[tokio::test]
async fn proxmoxer_leads_a_guest_through_its_life() {
    let options = LabOptions { task_ms: TASK_MS, auth_delay_ms: 10, ..LabOptions::demo() };
    let lab = serve(options).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let authority = folder.path().join("ca.pem");
    std::fs::write(&authority, &lab.ca_pem).unwrap();
    let (user, password) = &lab.admin;
    let mut command =
        Command::from(peer::python(peer::PACKAGES).await.script(&peer::scripts().join("proxmoxer_life.py")));
    command.env("NHI_SIM_URL", &lab.url).env("NHI_SIM_CA", &authority);
    command.env("NHI_SIM_USER", user).env("NHI_SIM_PASSWORD", &password.0);
    command.stdin(Stdio::null()).kill_on_drop(true);
    let ended =
        tokio::time::timeout(LIFE_MAX, command.output()).await.expect("the life ends in time").unwrap();
    let told = String::from_utf8_lossy(&ended.stdout);
    let wrong: Vec<&str> = told.lines().filter(|line| line.starts_with("not ok")).collect();
    assert!(
        ended.status.success() && told.contains("facts hold"),
        "{wrong:#?}\n{}",
        String::from_utf8_lossy(&ended.stderr)
    );
    lab.stop().await;
}
