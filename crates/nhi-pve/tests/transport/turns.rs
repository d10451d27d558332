//! At most two calls that need a privileged worker are in flight per node.

use crate::{
    answer, endpoint, list, reader_with,
    server::{Server, Step},
};
use futures::future::join_all;
use nhi_pve::{GuestKind, Kind, Limits, Reader, Trust};
use std::time::Duration;

fn held_list() -> Step {
    Step::Hold(answer("200 OK", r#"{"data":[]}"#))
}

/// Runs all protected calls there are against one node and says how many were in flight at most.
async fn most_in_flight(protected_max: usize) -> usize {
    let server = Server::plain(|_| vec![held_list(); 20]).await;
    let reader = reader_with(&server, |limits| limits.protected_max = protected_max);
    let calls = async {
        tokio::join!(
            async { reader.node_qemu("pve1").await.map(drop) },
            async { reader.node_qemu_full("pve1").await.map(drop) },
            async { reader.node_lxc("pve1").await.map(drop) },
            async { reader.node_storage("pve1").await.map(drop) },
            async { reader.storage_content_backups("pve1", "local").await.map(drop) },
            async { reader.snapshots(GuestKind::Qemu, "pve1", 100).await.map(drop) },
            async { reader.snapshots(GuestKind::Lxc, "pve1", 101).await.map(drop) },
            async { reader.lxc_interfaces("pve1", 101).await.map(drop) },
            async { reader.cluster_status().await.map(drop) },
            async { reader.cluster_backup_not_backed_up().await.map(drop) },
            async { reader.task_log("pve1", "UPID:pve1:1:", 9).await.map(drop) },
        )
    };
    let release = async {
        for done in 1..=11 {
            server.wait_for("as many as may", |log| log.held == protected_max.min(12 - done)).await;
            server.release();
            server.wait_for("the release", |log| log.requests.len() >= (protected_max + done).min(11)).await;
        }
    };
    let (outcomes, ()) = tokio::join!(calls, release);
    assert!(outcomes.0.is_ok() && outcomes.10.is_ok(), "{outcomes:?}");
    server.log().held_max
}

#[tokio::test]
async fn two_protected_calls_are_in_flight_and_no_more() {
    assert_eq!(most_in_flight(2).await, 2);
}

#[tokio::test]
async fn without_the_limit_they_all_are() {
    assert_eq!(most_in_flight(10).await, 10, "the control: else the test above proves nothing");
}

#[tokio::test]
async fn the_agent_waits_for_its_turn() {
    let interfaces = answer("200 OK", r#"{"data":{"result":[]}}"#);
    let server = Server::plain(move |_| vec![Step::Hold(interfaces.clone()); 20]).await;
    let reader = reader_with(&server, |_| {});
    let calls = join_all((100..106).map(|vmid| reader.qemu_agent_interfaces("pve1", vmid)));
    let release = async {
        for done in 1..=6 {
            server.wait_for("another call", |log| log.requests.len() >= done).await;
            server.release();
        }
    };
    let (outcomes, ()) = tokio::join!(calls, release);
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    assert_eq!(server.log().held_max, 2);
}

#[tokio::test]
async fn unprotected_calls_and_other_nodes_do_not_wait() {
    let server = Server::plain(|_| vec![held_list(); 20]).await;
    let reader = reader_with(&server, |_| {});
    let one_node = join_all((0..3).map(|_| reader.node_qemu("pve1")));
    let other_node = join_all((0..2).map(|_| reader.node_qemu("pve2")));
    let unprotected = join_all((0..5).map(|_| reader.nodes()));
    let release = async {
        server.wait_for("2 + 2 + 5 calls", |log| log.held == 9).await;
        (0..10).for_each(|_| server.release());
    };
    let (first, second, third, ()) = tokio::join!(one_node, other_node, unprotected, release);
    assert!(first.iter().chain(&second).all(Result::is_ok) && third.iter().all(Result::is_ok));
}

#[tokio::test]
async fn all_calls_together_have_a_limit() {
    for (limit, expected) in [(3, 3), (10, 10)] {
        let server = Server::plain(|_| vec![held_list(); 20]).await;
        let reader = reader_with(&server, |limits| limits.in_flight_max = limit);
        let calls = join_all((0..10).map(|_| reader.nodes()));
        let release = async {
            for done in 1..=10 {
                server.wait_for("as many as may", |log| log.held == expected.min(11 - done)).await;
                server.release();
                server.wait_for("the release", |log| log.requests.len() >= (expected + done).min(10)).await;
            }
        };
        let (outcomes, ()) = tokio::join!(calls, release);
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(server.log().held_max, expected);
    }
}

#[tokio::test]
async fn once_the_local_node_is_known_its_own_calls_do_not_wait_for_other_nodes() {
    let status =
        answer("200 OK", r#"{"data":[{"type":"node","name":"pve1","local":1,"online":1,"id":"node/pve1"}]}"#);
    let server = Server::plain(move |connection| match connection {
        0 => vec![Step::Answer(status.clone()), held_list(), held_list()],
        _ => vec![held_list(), held_list()],
    })
    .await;
    let reader = reader_with(&server, |_| {});
    reader.cluster_status().await.unwrap();
    let elsewhere = join_all((0..2).map(|_| reader.node_qemu("pve2")));
    let here = reader.cluster_backup_not_backed_up();
    let release = async {
        server.wait_for("all three", |log| log.held == 3).await;
        (0..3).for_each(|_| server.release());
    };
    let (elsewhere, here, ()) = tokio::join!(elsewhere, here, release);
    assert!(elsewhere.iter().all(Result::is_ok) && here.is_ok());
}

#[tokio::test]
async fn a_turn_that_does_not_come_is_a_time_out() {
    let server = Server::plain(|_| vec![Step::Silent]).await;
    let mut endpoint = endpoint(&[server.url()], Trust::System);
    endpoint.limits = Limits { protected_max: 1, turn: Duration::from_millis(50), ..Limits::STANDARD };
    let reader = Reader::new(endpoint).unwrap();
    let first = std::pin::pin!(reader.node_qemu("pve1"));
    let second = async {
        server.wait_for("the first call", |log| log.requests.len() == 1).await;
        reader.node_qemu("pve1").await.unwrap_err()
    };
    match futures::future::select(first, std::pin::pin!(second)).await {
        futures::future::Either::Right((error, _)) => {
            assert_eq!(*error.kind(), Kind::Timeout);
            assert_eq!(error.text(), "no turn among the other calls within 0.05 s");
        }
        futures::future::Either::Left((outcome, _)) => panic!("the silent call ended: {outcome:?}"),
    }
    assert_eq!(server.log().requests.len(), 1);
}

#[tokio::test]
async fn a_dropped_call_gives_its_turn_back() {
    let server =
        Server::plain(|connection| if connection == 0 { vec![Step::Silent] } else { vec![list()] }).await;
    let reader = reader_with(&server, |limits| limits.protected_max = 1);
    {
        let first = std::pin::pin!(reader.node_qemu("pve1"));
        let asked = std::pin::pin!(server.wait_for("the first call", |log| log.requests.len() == 1));
        assert!(matches!(futures::future::select(first, asked).await, futures::future::Either::Right(_)));
    }
    reader.node_qemu("pve1").await.unwrap();
}
