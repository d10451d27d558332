//! Every fault on the way of a write: one arrival, and the truth about whether it was taken.

use crate::Lab;
use nhi_pve::{Accepted, Kind, Limits, SendError};
use nhi_sim::{Breakage, Fault, LabOptions, Match};
use std::time::Duration;

const START: &str = "/nodes/pve3/qemu/104/status/start";
const ARRIVAL: [&str; 1] = ["POST /nodes/pve3/qemu/104/status/start"];

/// What is said of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    Taken,
    Refused,
    Lost,
    NotSent,
}

fn said(outcome: &Result<Accepted, SendError>) -> Said {
    match outcome {
        Ok(_) => Said::Taken,
        Err(SendError::Refused(_)) => Said::Refused,
        Err(SendError::Lost(_)) => Said::Lost,
        Err(SendError::NotSent(_)) => Said::NotSent,
    }
}

fn breaks(answer: Breakage) -> Fault {
    Fault::Http { on: Match { method: Some("POST".to_owned()), ..Match::default() }, answer }
}

fn status(code: u16, message: &str) -> Breakage {
    Breakage::Status { code, message: message.to_owned() }
}

/// Sends one start of a stopped machine under a fault: what is said, how often it arrived, whether it was done.
async fn start_under(fault: Fault) -> (Said, usize, usize) {
    let options = LabOptions { task_ms: 20, auth_delay_ms: 0, ..LabOptions::demo() };
    let lab = Lab::with(options, |limits| {
        limits.deadline = Duration::from_secs(2);
        limits.body_bytes_max = 64 * 1024;
    })
    .await;
    let fault = lab.fault(fault);
    let outcome = lab.post(START, &[]).await;
    let arrivals = lab.arrivals();
    assert!(arrivals.is_empty() || arrivals == ARRIVAL, "{arrivals:?}");
    lab.sim.clear_fault(fault).unwrap();
    lab.sim.with_lab(|lab| lab.advance_by(10_000));
    let done = lab.starts("pve3", 104).await;
    assert_eq!(lab.running(104), done > 0);
    assert_eq!(lab.arrivals(), arrivals, "nothing is sent behind the caller's back");
    (said(&outcome), arrivals.len(), done)
}

#[tokio::test]
async fn a_write_arrives_once_under_every_fault() {
    let cases = [
        // The control: without a fault it is taken and done.
        (Fault::Slow { on: Match::default(), ms: 0 }, (Said::Taken, 1, 1)),
        (breaks(Breakage::SwapTypes {}), (Said::Taken, 1, 1)),
        // Lost, and done all the same.
        (breaks(Breakage::DropAfter {}), (Said::Lost, 1, 1)),
        (breaks(Breakage::Truncate {}), (Said::Lost, 1, 1)),
        (breaks(Breakage::Huge { bytes: 1 << 20 }), (Said::Lost, 1, 1)),
        (breaks(Breakage::GiveUp { code: 596 }), (Said::Lost, 1, 1)),
        (breaks(Breakage::GiveUp { code: 504 }), (Said::Lost, 1, 1)),
        (Fault::Slow { on: Match::default(), ms: 60_000 }, (Said::Lost, 1, 1)),
        // Lost, and not done.
        (breaks(Breakage::DropBefore {}), (Said::Lost, 1, 0)),
        (breaks(Breakage::Garbage {}), (Said::Lost, 1, 0)),
        (breaks(Breakage::Html { status: 200 }), (Said::Lost, 1, 0)),
        (breaks(Breakage::Html { status: 502 }), (Said::Lost, 1, 0)),
        (breaks(status(595, "No route to host")), (Said::Lost, 1, 0)),
        (breaks(status(597, "Broken pipe")), (Said::Lost, 1, 0)),
        (Fault::NodeOffline { node: "pve3".to_owned(), code: 596, power_cut: false }, (Said::Lost, 1, 0)),
        // Refused by Proxmox.
        (breaks(status(500, "VM is locked (backup)")), (Said::Refused, 1, 0)),
        (Fault::QuorumLost {}, (Said::Refused, 1, 0)),
        (
            Fault::RightsLost {
                principal: "nh-act@pve!mesh".to_owned(),
                path: Some("/vms/104".to_owned()),
                privilege: Some("VM.PowerMgmt".to_owned()),
            },
            (Said::Refused, 1, 0),
        ),
        // No connection.
        (Fault::NodeOffline { node: "pve1".to_owned(), code: 595, power_cut: false }, (Said::NotSent, 0, 0)),
        (Fault::CertificateRotated { node: "pve1".to_owned(), foreign: true }, (Said::NotSent, 0, 0)),
    ];
    for (fault, expected) in cases {
        assert_eq!(start_under(fault.clone()).await, expected, "{fault:?}");
    }
}

#[tokio::test]
async fn a_refused_token_is_told_once_and_then_nothing_is_sent() {
    let lab = Lab::start().await;
    lab.fault(Fault::TokenGone { token: "nh-act@pve!mesh".to_owned() });
    let outcome = lab.post(START, &[]).await;
    assert!(matches!(&outcome, Err(SendError::Refused(error)) if *error.kind() == Kind::Unauthorized));
    for _ in 0..3 {
        assert_eq!(said(&lab.post(START, &[]).await), Said::NotSent);
    }
    assert_eq!(lab.arrivals(), ARRIVAL);
}

#[tokio::test]
async fn the_next_address_is_taken_only_while_connecting() {
    let options = LabOptions { all_nodes: true, task_ms: 20, auth_delay_ms: 0, ..LabOptions::demo() };
    let lab = Lab::with(options.clone(), |_| {}).await;
    lab.fault(Fault::NodeOffline { node: "pve1".to_owned(), code: 595, power_cut: false });
    assert_eq!(said(&lab.post(START, &[]).await), Said::Taken);
    assert_eq!(lab.arrivals(), ARRIVAL);

    let lab = Lab::with(options, |_| {}).await;
    lab.fault(breaks(Breakage::DropAfter {}));
    assert_eq!(said(&lab.post(START, &[]).await), Said::Lost);
    assert_eq!(lab.arrivals(), ARRIVAL, "two addresses are left, and none of them is asked");
}

#[tokio::test]
async fn a_lost_write_is_found_in_the_task_list() {
    let lab = Lab::start().await;
    let before = lab.operator.reader().node_clock("pve3").await.unwrap();
    let fault = lab.fault(breaks(Breakage::DropAfter {}));
    assert_eq!(said(&lab.post(START, &[]).await), Said::Lost);
    lab.sim.clear_fault(fault).unwrap();
    let found = lab.operator.tasks_since("pve3", 104, before).await.unwrap();
    let [task] = &found.rows[..] else { panic!("{found:?}") };
    assert_eq!((task.kind.as_str(), task.id.as_deref()), ("qmstart", Some("104")));
    let upid = task.upid.parse().unwrap();
    assert_eq!(lab.exit(&upid).await, "OK");
    // One that was not taken is not there; neither is what was begun before.
    let later = lab.operator.reader().node_clock("pve3").await.unwrap() + 1;
    assert!(lab.operator.tasks_since("pve3", 104, later).await.unwrap().rows.is_empty());
    assert!(lab.operator.tasks_since("pve3", 108, before).await.unwrap().rows.is_empty());
}

#[tokio::test]
async fn many_writes_at_once_arrive_once_each() {
    let options = LabOptions { task_ms: 20, latency_ms: 2, ..LabOptions::demo() };
    let lab = Lab::with(options, |limits| limits.turn = Limits::STANDARD.turn).await;
    lab.fault(Fault::Http {
        on: Match { method: Some("POST".to_owned()), times: Some(10), ..Match::default() },
        answer: Breakage::DropAfter {},
    });
    let sends = (0..40).map(|_| lab.post(START, &[]));
    let outcomes = futures::future::join_all(sends).await;
    let lost = outcomes.iter().filter(|outcome| said(outcome) == Said::Lost).count();
    assert_eq!((lost, lab.arrivals().len()), (10, 40));
    let counts = lab.sim.counts();
    assert!(counts.protected_in_flight_max["pve3"] <= 2, "{:?}", counts.protected_in_flight_max);
}
