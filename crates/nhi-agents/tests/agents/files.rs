//! Manifests and the dependency graph on disk, and a mirror whose directory is refused.

use crate::house::{House, SOON};
use nhi_agents::mirror::files::Files;
use nhi_model::{graph::Graph, project::Project};
use nhi_testkit::wait_for;
use std::fs;

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_manifest_is_an_alert_and_not_a_failed_scan() {
    let mut house = House::empty().await;
    let put = |project: &str, text: &str| {
        let dir = house.projects().join(project);
        fs::create_dir_all(&dir).unwrap();
        fs::write(dir.join("project_manifest.yaml"), text).unwrap();
    };
    put("good", "name: Good\n");
    put("bad", "name: [unclosed\n");
    let options = house.scan_options();
    house.start_scan(options).await;
    house.ready().await;
    house.pass().await;
    assert_eq!(house.record::<Project>("project.good").name, "Good");
    assert!(house.alerts().contains(&"alert.scan.project-broken_bad".to_owned()), "{:?}", house.alerts());
    assert!(house.stored("vm.home.100").is_some());

    let put = |project: &str, text: &str| {
        fs::write(house.projects().join(project).join("project_manifest.yaml"), text).unwrap();
    };
    put("bad", "name: Now good\n");
    wait_for("the alert to go", SOON, async || house.alerts().is_empty()).await;
    assert_eq!(house.record::<Project>("project.bad").name, "Now good");
    fs::remove_dir_all(house.projects().join("bad")).unwrap();
    wait_for("the project to go", SOON, async || house.stored("project.bad").is_none()).await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_graph_with_a_cycle_keeps_the_last_good_one() {
    let house = House::scanned().await;
    fs::create_dir_all(house.infrastructure()).unwrap();
    let good = r#"{"services":{"nas":{"required_by":["media"]},"media":{"depends_on":["nas"]}}}"#;
    fs::write(house.graph(), good).unwrap();
    wait_for("the graph", SOON, async || house.stored("graph").is_some()).await;
    let bad = r#"{"services":{"nas":{"depends_on":["media"]},"media":{"depends_on":["nas"]}}}"#;
    fs::write(house.graph(), bad).unwrap();
    let stale = wait_for("the graph to be stale", SOON, async || house.stored("graph")?.stale.clone()).await;
    assert!(stale.reason.contains("cycle"), "{}", stale.reason);
    assert_eq!(house.record::<Graph>("graph").services.len(), 2);
    assert!(house.alerts().contains(&"alert.scan.graph-broken".to_owned()));
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mirror_that_cannot_write_says_so_and_heals() {
    let house = House::scanned().await;
    let (taken, _) = Files::open(&house.infrastructure()).unwrap();
    let mirror = house.start_mirror().await;
    wait_for("the alert", SOON, async || house.alerts().contains(&"alert.mirror.files".to_owned())).await;
    assert!(mirror.progress().borrow().trouble.as_ref().unwrap().contains("another mirror"));
    drop(taken);
    wait_for("the alert to go", SOON, async || house.alerts().is_empty()).await;
    assert!(mirror.progress().borrow().trouble.is_none());
    assert!(house.state_json()["infrastructure"]["vms"].as_array().unwrap().len() > 5);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_revision_and_every_pass_is_mirrored() {
    let house = House::scanned().await;
    let mirror = house.start_mirror().await;
    let shown = || mirror.progress().borrow().revision;
    let revision = house.view.read().revision;
    wait_for("the first files", SOON, async || shown() >= Some(revision)).await;
    let before = house.state_json()["meta"]["generated_at_utc"].clone();
    let done = house.pass().await;
    assert_eq!(done.writes, 0);
    wait_for("new times after a quiet pass", SOON, async || {
        house.state_json()["meta"]["generated_at_utc"] != before
    })
    .await;
    let history = fs::read_dir(house.infrastructure().join("state_history")).unwrap().count();
    assert_eq!(history, 1, "the revision did not change");
    house.cx.close().await;
}
