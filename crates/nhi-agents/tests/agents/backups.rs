//! Backups of a token that may not list them: the nodes' task logs tell that there are some, and nothing ever says
//! that there are none.

use crate::house::House;
use nhi_model::{
    Timestamp,
    guest::{Backups, Guest},
};
use nhi_sim::{Fault, Lab, Stage, Task, lab::task::Work};

/// Puts a backup task that is over into a node's log; the time it began.
fn log(lab: &mut Lab, node: &str, id: &str, ago_s: i64, status: &str, lines: &[&str]) -> Timestamp {
    let started_s = lab.now_s() - ago_s;
    let upid = format!("UPID:{node}:0000{ago_s:04}:00000001:{started_s:08X}:vzdump:{id}:root@pam:");
    let task = Task {
        upid: upid.clone(),
        node: node.to_owned(),
        pid: 1,
        process_start: 1,
        started_s,
        kind: "vzdump",
        id: id.to_owned(),
        user: "root@pam".to_owned(),
        work: Work::Idle,
        stage: Stage::Ended { status: status.to_owned(), at_s: started_s + 60 },
        log: lines.iter().map(|line| (*line).to_owned()).collect(),
        failure: None,
        verdict: None,
    };
    lab.tasks.insert(upid.clone(), task);
    lab.task_order.push(upid);
    Timestamp::from_second(started_s).unwrap()
}

fn backups(house: &House, key: &str) -> Backups {
    house.record::<Guest>(key).backups
}

fn newest(at: Timestamp) -> Backups {
    Backups::Newest { at, storage: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_task_logs_tell_an_auditor_of_backups() {
    let mut house = House::empty().await;
    let (single, job) = house.lab.with_lab(|lab| {
        let single = log(lab, "pve1", "100", 7200, "OK", &[]);
        log(lab, "pve1", "100", 600, "command 'vzdump' failed: exit code 1", &[]);
        let lines = ["INFO: Finished Backup of VM 101 (00:05:12)", "ERROR: Backup of VM 204 failed - x"];
        (single, log(lab, "pve2", "", 3000, "job errors", &lines))
    });
    let options = house.scan_options();
    house.start_scan(options).await;
    house.ready().await;
    house.pass().await;
    assert_eq!(backups(&house, "vm.home.100"), newest(single), "a failed one is none");
    assert_eq!(backups(&house, "vm.home.101"), newest(job));
    for hidden in ["lxc.home.204", "vm.home.102"] {
        assert_eq!(backups(&house, hidden), Backups::NotVisible, "{hidden}: never that there are none");
    }

    // A quiet lab costs one question a node and pass, and no message.
    let asked = || {
        let routes = house.lab.counts().by_route;
        let of = |part: &str| routes.iter().filter(|(route, _)| route.ends_with(part)).map(|(_, n)| n).sum();
        let counts: (u64, u64) = (of("/tasks"), of("/log"));
        counts
    };
    let before = asked();
    let done = house.pass().await;
    assert_eq!((done.writes, asked()), (0, (before.0 + 3, before.1)), "{:?}", house.lab.counts().by_route);
    assert_eq!(before.1, 1, "the job's log was read once");

    // The log is rotated: what was seen was seen.
    house.lab.with_lab(|lab| lab.tasks.clear());
    assert_eq!(house.pass().await.writes, 0);
    // A newer one is news, of its guest alone.
    let newer = house.lab.with_lab(|lab| log(lab, "pve1", "100", 5, "WARNINGS: 1", &[]));
    assert_eq!(house.pass().await.writes, 1);
    assert_eq!(backups(&house, "vm.home.100"), newest(newer));
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_sight_of_the_logs_nothing_is_claimed() {
    let mut house = House::empty().await;
    house.lab.with_lab(|lab| log(lab, "pve1", "100", 7200, "OK", &[]));
    // The log is filtered without a word; the storages' lists are as before.
    let principal = house.lab.scan_token.id.clone();
    let fault = Fault::RightsLost { principal, path: None, privilege: Some("Sys.Audit".to_owned()) };
    let fault = house.lab.set_fault(fault).unwrap();
    let options = house.scan_options();
    house.start_scan(options).await;
    house.ready().await;
    house.pass().await;
    assert_eq!(backups(&house, "vm.home.100"), Backups::NotVisible);
    // The control: with the right it is there.
    house.lab.clear_fault(fault).unwrap();
    house.pass().await;
    assert!(matches!(backups(&house, "vm.home.100"), Backups::Newest { .. }));
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn storages_that_are_not_listed_are_not_called_empty() {
    let mut house = House::empty().await;
    // It may list every backup, and no storage: which there are stays invisible.
    let principal = house.lab.act_token.id.clone();
    let fault = Fault::RightsLost { principal, path: None, privilege: Some("Datastore.Audit".to_owned()) };
    house.lab.set_fault(fault.clone()).unwrap();
    let allocates = Fault::RightsLost {
        principal: house.lab.act_token.id.clone(),
        path: Some("/storage".to_owned()),
        privilege: None,
    };
    house.lab.set_fault(allocates).unwrap();
    let mut options = house.scan_options();
    options.clusters[0].endpoint = house.endpoint_of(&house.lab.act_token);
    house.start_scan(options).await;
    house.ready().await;
    house.pass().await;
    assert_eq!(backups(&house, "vm.home.100"), Backups::NotVisible);
    house.cx.close().await;
}
