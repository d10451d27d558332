//! A machine that sleeps: the router wakes it where that is allowed, once, and what requests do meanwhile. The packet
//! goes to the loopback.

use crate::{
    home::{Pc, at_pc},
    house::{House, Json, SOON, backend, ordered, question, quick},
};
use nhi_decide::{
    route::{BackendSettings, Guard, Settings},
    semaphore::Wake,
};
use nhi_model::gpu::Light;
use nhi_sim::models::Running;
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr, pin::pin};
use tokio::{net::UdpSocket, time::timeout};

const MAC: [u8; 6] = [0x3c, 0x7c, 0x3f, 0x12, 0x34, 0x56];

/// Whoever hears the packet.
struct Ear(UdpSocket);

impl Ear {
    async fn open() -> Self {
        Self(UdpSocket::bind("127.0.0.1:0").await.unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    async fn heard(&self) -> Vec<u8> {
        let mut bytes = [0; 256];
        let length = timeout(SOON, self.0.recv(&mut bytes)).await.expect("a packet comes").unwrap();
        bytes[..length].to_vec()
    }

    async fn hears_a_wake(&self) {
        let packet = self.heard().await;
        assert_eq!((&packet[..6], &packet[6..]), (&[0xff; 6][..], &MAC.repeat(16)[..]));
    }

    /// What is sent last is heard first: nothing was there before.
    async fn heard_nothing(&self) {
        self.0.send_to(b"nothing", self.address()).await.unwrap();
        assert_eq!(self.heard().await, b"nothing");
    }
}

/// A house with a machine that sleeps.
async fn asleep(relay: &Running, more: Vec<BackendSettings>, wake: Option<Wake>) -> (House, Pc) {
    let mut settings = ordered([vec![at_pc(relay)], more].concat());
    settings.wake = wake.map(|wake| ("pc".to_owned(), wake)).into_iter().collect::<BTreeMap<_, _>>();
    let guard = Guard { wait_s: 20, ..Guard::default() };
    let house = House::new(Settings { guard, ..settings }).await;
    house.start().await;
    let pc = Pc::new(&house, relay).await;
    (house, pc)
}

fn wake(ear: &Ear) -> Option<Wake> {
    towards(ear.address())
}

fn towards(address: SocketAddr) -> Option<Wake> {
    let wake = json!({ "mac": "3c:7c:3f:12:34:56", "towards": address.to_string() });
    serde_json::from_value(wake).unwrap()
}

fn private(priority: &str) -> Value {
    let mut body = question("My diary says?", false);
    (body["model"], body["nhi"]) = (json!("private"), json!({ "priority": priority }));
    body
}

fn provider(answer: &Json) -> &str {
    answer["nhi"]["provider"].as_str().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_sleeps_is_woken_once_and_another_answers_meanwhile() {
    let (relay, cloud, ear) = (quick("m").await, quick("m").await, Ear::open().await);
    let away = BackendSettings { home: false, ..backend("cloud", &cloud, "m") };
    let (house, pc) = asleep(&relay, vec![away], wake(&ear)).await;
    for _ in 0..5 {
        assert_eq!(provider(&house.ask(question("?", false)).await.unwrap()), "cloud");
    }
    ear.hears_a_wake().await;
    ear.heard_nothing().await;
    // One that is awake is not woken.
    pc.show(Light::Red).await;
    crate::home::seen(&house, Some("cloud")).await;
    assert_eq!(provider(&house.ask(question("?", false)).await.unwrap()), "cloud");
    ear.heard_nothing().await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_may_not_leave_home_waits_for_it_to_come_up() {
    let (relay, ear) = (quick("m").await, Ear::open().await);
    let (house, pc) = asleep(&relay, Vec::new(), wake(&ear)).await;
    let fault = house.ask(private("bulk")).await.unwrap_err();
    assert!(fault.message.contains("nothing was heard of the GPU"), "{fault}");
    ear.heard_nothing().await;
    let mut waiting = pin!(house.ask(private("chat")));
    tokio::select! {
        answer = &mut waiting => panic!("nobody could answer that: {answer:?}"),
        () = ear.hears_a_wake() => {}
    }
    pc.show(Light::Green).await;
    assert_eq!(provider(&waiting.await.unwrap()), "pc");
    ear.heard_nothing().await;
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_leave_nobody_is_woken_and_nobody_waits() {
    let relay = quick("m").await;
    let (house, _pc) = asleep(&relay, Vec::new(), None).await;
    let fault = timeout(SOON / 2, house.ask(private("chat"))).await.expect("it does not wait").unwrap_err();
    assert!(fault.message.contains("nothing was heard of the GPU"), "{fault}");
    house.cx.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn for_one_that_could_not_be_woken_nobody_waits() {
    let relay = quick("m").await;
    // The packet leaves by a socket of the other kind of addresses.
    let (house, _pc) = asleep(&relay, Vec::new(), towards("[::1]:9".parse().unwrap())).await;
    // Neither the one that tried to wake it, nor the next, which does not try again.
    for _ in 0..2 {
        let asked = timeout(SOON / 2, house.ask(private("chat")));
        let fault = asked.await.expect("it does not wait").unwrap_err();
        assert!(fault.message.contains("nothing was heard of the GPU"), "{fault}");
    }
    house.cx.close().await;
}
