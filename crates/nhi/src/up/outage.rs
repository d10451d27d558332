//! Says on the terminal when nats-server is lost and when it is back: one line each. It repairs nothing; the
//! supervisor and the connections do that by themselves.

use crate::board;
use nhi_bus::{
    connect::{Bus, Link},
    server::Supervisor,
};
use std::time::Instant;

/// Tells of outages for as long as it is polled; it never returns.
pub(super) async fn tell(home: &Bus, server: Option<&Supervisor>) {
    let mut link = home.link();
    loop {
        // A loss so short that it is over by now is told as well.
        let Ok(()) = link.changed().await else { return std::future::pending().await };
        let began = Instant::now();
        let now = *link.borrow_and_update();
        if now == Link::Closed {
            return std::future::pending().await;
        }
        board::note(&lost(now, home, server));
        if link.wait_for(|link| link.is_up()).await.is_err() {
            return std::future::pending().await;
        }
        let seconds = began.elapsed().as_secs_f64();
        board::note(&format!("{} is back after {seconds:.1} s", name(home, server)));
    }
}

fn name(home: &Bus, server: Option<&Supervisor>) -> String {
    match server {
        Some(_) => "nats-server".to_owned(),
        None => format!("the connection to {}", home.urls()),
    }
}

fn lost(link: Link, home: &Bus, server: Option<&Supervisor>) -> String {
    let name = name(home, server);
    match link {
        Link::Revoked { .. } => {
            format!("{name} refuses the keys of this directory: give it the accounts of `nhi auth block`")
        }
        Link::Up | Link::Down { .. } | Link::Closed if server.is_some() => {
            format!("{name} is lost: starting it again; its log is .nhi/logs/nats-server.log")
        }
        Link::Up | Link::Down { .. } | Link::Closed => format!("{name} is lost: trying again"),
    }
}
