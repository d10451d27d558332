//! A store that refuses what the scanner saw: the lab is not loaded for it, people are told, and afterwards
//! everything is right.

use crate::house::{House, SOON};
use nhi_bus::call::{CallError, call};
use nhi_model::{
    call::{ScanDone, ScanNow},
    guest::Guest,
    source::Coverage,
};
use nhi_sim::Fault;
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::time::Duration;

/// Lets the server take only values up to a length; -1 is any.
async fn limit_values(house: &House, bytes: i64) {
    let raw = house.nats.raw("home").await;
    let info = raw.request("$JS.API.STREAM.INFO.KV_nhi-state", "".into()).await.unwrap();
    let info: Value = serde_json::from_slice(&info.payload).unwrap();
    let mut config = info["config"].clone();
    config["max_msg_size"] = json!(bytes);
    let subject = "$JS.API.STREAM.UPDATE.KV_nhi-state";
    let done = raw.request(subject, config.to_string().into()).await.unwrap();
    let done: Value = serde_json::from_slice(&done.payload).unwrap();
    assert_eq!(done["config"]["max_msg_size"], bytes, "{done}");
}

fn retag(house: &House, tags: &str) {
    house.lab.with_lab(|lab| {
        lab.guests.get_mut(&100).unwrap().config.insert("tags".to_owned(), tags.to_owned());
    });
}

async fn refused(house: &House) {
    let error = call::<_, ScanDone>(&house.home, "scan", "now", &ScanNow {}).await.unwrap_err();
    assert!(matches!(&error, CallError::Fault { fault, .. } if fault.status() == 503), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_pass_costs_the_lab_no_first_pass_again() {
    let mut house = House::empty().await;
    let mut options = house.scan_options();
    // Cheap looks stay out of the count.
    (options.index_s, options.full_s) = (60, 60);
    house.start_scan(options).await;
    house.ready().await;
    let requests = || house.lab.counts().requests;
    let first = requests();
    house.pass().await;

    // An alert of 600 bytes still fits, a guest with such tags does not.
    limit_values(&house, 900).await;
    let tags: Vec<_> = (0..50).map(|n| format!("changed{n}")).collect();
    retag(&house, &tags.join(";"));
    refused(&house).await;
    assert_eq!(house.status().await.refused.len(), 0, "one refusal alone is no problem");
    let before = requests();
    refused(&house).await;
    let again = requests() - before;
    assert!(
        again * 3 < first * 2,
        "{again} requests for a pass after a refused one, {first} for a first one"
    );

    let told = house.status().await.refused;
    assert_eq!(told.keys().collect::<Vec<_>>(), ["proxmox-home"], "{told:?}");
    let alert = "alert.scan.not-written_proxmox-home".to_owned();
    wait_for("the alert", SOON, async || house.alerts().contains(&alert)).await;
    let revision = house.view.read().revision;
    refused(&house).await;
    assert_eq!(house.view.read().revision, revision, "one alert an outage");

    limit_values(&house, -1).await;
    house.pass().await;
    wait_for("the alert to go", SOON, async || house.alerts().is_empty()).await;
    assert!(house.status().await.refused.is_empty());
    let guest: Guest = house.record("vm.home.100");
    assert!(guest.tags.contains(&"changed0".to_owned()), "{:?}", guest.tags);
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_left_the_configuration_is_not_current() {
    let mut house = House::scanned().await;
    house.pass().await;
    house.scan.take().unwrap().stop().await;
    let mut options = house.scan_options();
    options.clusters.clear();
    house.start_scan(options).await;
    wait_for("the mark", SOON, async || house.stored("vm.home.100")?.stale.clone()).await;
    assert!(house.alerts().contains(&"alert.scan.unconfigured_home".to_owned()), "{:?}", house.alerts());
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_corrected_token_is_tried_when_somebody_asks() {
    let house = House::scanned().await;
    let fault = Fault::TokenExpired { token: house.lab.scan_token.id.clone() };
    let fault = house.lab.set_fault(fault).unwrap();
    // Only the scanner's own looks until here: they begin the pause after a refused login.
    let alert = "alert.scan.unreachable_home".to_owned();
    wait_for("the alert", SOON, async || house.alerts().contains(&alert)).await;
    house.lab.clear_fault(fault).unwrap();
    // A pass that ran already is joined and still knows the refusal, and the reader is set back every 10 s at most; by
    // itself it would not ask again for 60 s.
    let well_before_the_pause_ends = Duration::from_secs(30);
    wait_for("a pass that sees the cluster", well_before_the_pause_ends, async || {
        house.pass().await.sources["proxmox-home"] == Coverage::Complete
    })
    .await;
    house.cx.close().await;
}
