//! The bus goes and comes back under the agents: the last state stays and is marked, nothing is decided on it,
//! and afterwards everything is right without a restart.

use crate::house::{House, SOON};
use nhi_bus::store::{self, StoreSettings};
use nhi_model::guest::{Guest, GuestStatus};
use nhi_sim::Power;
use nhi_testkit::wait_for;

#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_survived_and_caught_up_with() {
    let mut house = House::scanned().await;
    let mirror = house.start_mirror().await;
    let revision = house.view.read().revision;
    wait_for("the files", SOON, async || mirror.progress().borrow().revision >= Some(revision)).await;
    house.nats.kill9().await;
    wait_for("the view to be stale", SOON, async || house.view.read().stale.is_some()).await;
    assert!(house.stored("vm.home.100").is_some(), "the last state stays");
    let now = house.lab.with_lab(|lab| lab.now_ms());
    house.lab.with_lab(|lab| {
        lab.guests.get_mut(&210).unwrap().power = Power::Running { since_ms: now, pid: 4711 };
    });
    house.lab.advance_ms(11_000);
    let marked = wait_for("the files to be marked", SOON, async || {
        let meta = house.state_json()["meta"].clone();
        meta.get("stale").is_some().then_some(meta)
    })
    .await;
    assert_eq!(marked["revision"], revision);
    // Written after state.json.
    let context = house.infrastructure().join("GLOBAL_CONTEXT.md");
    let says = async || std::fs::read_to_string(&context).unwrap().contains("OUT OF DATE since");
    wait_for("the context to say so", SOON, says).await;
    let mut looks = tokio::time::interval(std::time::Duration::from_millis(600));
    for _ in 0..4 {
        looks.tick().await;
    }
    assert_eq!(house.state_json()["meta"], marked, "told once");

    house.nats.restart().await;
    house
        .until("what happened meanwhile", |state| {
            let key = nhi_model::key::Key::parse("lxc.home.210").unwrap();
            let guest: Guest = state.records.get(&key)?.stored.typed(&key).ok()?;
            (guest.status == GuestStatus::Running).then_some(())
        })
        .await;
    let revision = house.view.read().revision;
    wait_for("the files", SOON, async || mirror.progress().borrow().revision >= Some(revision)).await;
    wait_for("the mark to go", SOON, async || house.state_json()["meta"].get("stale").is_none()).await;
    let json = house.state_json();
    let lxcs = json["infrastructure"]["lxcs"].as_array().unwrap();
    assert_eq!(lxcs.iter().find(|row| row["vmid"] == 210).unwrap()["status"], "running");
    house.pass().await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_made_anew_is_filled_again() {
    let mut house = House::scanned().await;
    house.pass().await;
    house.nats.stop().await;
    std::fs::remove_dir_all(house.nats.store_dir()).unwrap();
    house.nats.restart().await;
    wait_for("the streams", SOON, async || {
        store::provision(&house.home, &StoreSettings { replicas: 1 }).await.map_err(|error| error.to_string())
    })
    .await;
    // Revisions begin at 1 again; what was known of the old ones must not stand in the way.
    house
        .until("the lab to be known again", |state| {
            let key = nhi_model::key::Key::parse("vm.home.100").unwrap();
            let entry = state.records.get(&key)?;
            let guest: Guest = entry.stored.typed(&key).ok()?;
            let whole =
                guest.protection.is_some() && !guest.addresses.is_empty() && guest.snapshots.is_some();
            (state.stale.is_none() && entry.stored.stale.is_none() && whole).then_some(())
        })
        .await;
    house.cx.close().await;
}
