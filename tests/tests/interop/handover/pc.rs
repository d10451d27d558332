//! The gaming PC of the test: the publisher and the relay of a machine made of an empty directory, in front of a model server
//! that runs elsewhere. Who wants the card for himself locks it, over the mesh.

use crate::models::House;
use nhi_agents::gpu::{self, Backend, OnRed, Options, RelayOptions, Server};
use nhi_bus::{call::call, connect::Bus};
use nhi_decide::semaphore::Thresholds;
use nhi_model::{
    ai::Routed,
    gpu::{GpuLock, GpuLocked, GpuUnlock},
    identity::{IdentityName, Role},
};
use nhi_testkit::wait_for;
use serde_json::json;
use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};
use tempfile::TempDir;

pub(super) const HOST: &str = "gaming-pc";
/// How long anything but an answer may take on a busy machine.
const SOON: Duration = Duration::from_secs(60);

pub(super) struct Pc {
    owner: Bus,
    /// Who asks.
    caller: Bus,
    _publisher: gpu::Handle,
    _place: TempDir,
}

impl Pc {
    /// In front of a model server, in the house's mesh.
    pub(super) async fn open(house: &House, server: SocketAddr) -> Self {
        let place = TempDir::new().unwrap();
        house.nats.add(HOST, Role::Edge).await;
        let relay = RelayOptions {
            listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            tls: None,
            url: None,
            address: None,
            routers: BTreeSet::new(),
            backend: Backend::new(Server::Other, &format!("http://{server}")).unwrap(),
            on_red: OnRed::Cut,
            parallel: 2,
        };
        let mut options = Options {
            host: IdentityName::parse(HOST).unwrap(),
            sensor: Default::default(),
            // Nothing but the lock counts, and who unlocks it is believed at once.
            thresholds: Thresholds { card_needed: false, settle_ms: 0, ..Thresholds::default() },
            look: gpu::LOOK,
            report: gpu::REPORT,
            relay: Some(relay),
            run_dir: place.path().to_owned(),
        };
        let seen = &mut options.sensor.places;
        for seen in [&mut seen.proc, &mut seen.sys, &mut seen.run] {
            place.path().clone_into(seen);
        }
        options.sensor.nvml = Some(place.path().join("no-library"));
        let publisher = gpu::run(&house.cx, options).await.unwrap();
        publisher.join(&house.cx, house.nats.connect(&house.cx, HOST).await);
        let owner = house.nats.connect(&house.cx, "owner").await;
        let caller = house.nats.connect(&house.cx, "aider").await;
        Self { owner, caller, _publisher: publisher, _place: place }
    }

    /// Somebody wants the card: the light turns red.
    pub(super) async fn lock(&self) {
        let lock = GpuLock { host: HOST.to_owned(), minutes: None };
        let _locked: GpuLocked = call(&self.owner, "gpu", "lock", &lock).await.unwrap();
    }

    /// Nobody does; waits until the router would ask it for `alias`.
    pub(super) async fn unlock(&self, alias: &str) {
        let unlock = GpuUnlock { host: HOST.to_owned() };
        let ask = json!({"model": alias, "messages": [{"role": "user", "content": "?"}]});
        wait_for("the router to hear of the machine's light", SOON, async || {
            // Before the machine's first report nobody knows it.
            let unlocked = call::<_, GpuLocked>(&self.owner, "gpu", "unlock", &unlock).await;
            let routed: Routed = call(&self.caller, "ai", "route", &ask).await.unwrap();
            if routed.order.first().is_some_and(|choice| choice.provider == HOST) {
                Ok(())
            } else {
                Err((unlocked, routed))
            }
        })
        .await;
    }
}
