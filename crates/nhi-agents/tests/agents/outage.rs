//! The bus goes and comes back under the agents: the last state stays and is marked, nothing is decided on it,
//! and afterwards everything is right without a restart.

use crate::house::{House, SOON};
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
    assert_eq!(house.state_json()["meta"]["revision"], revision);

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
    let json = house.state_json();
    let lxcs = json["infrastructure"]["lxcs"].as_array().unwrap();
    assert_eq!(lxcs.iter().find(|row| row["vmid"] == 210).unwrap()["status"], "running");
    house.pass().await;
    house.cx.close().await;
}
