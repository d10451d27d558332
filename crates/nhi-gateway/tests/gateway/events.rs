//! What changes, as listeners hear it: whole commits, gauges and plans, what was missed, and who is dropped.

use crate::{
    house::{House, SOON},
    session::sign_in,
};
use nhi_bus::{
    connect::Bus,
    service::{Service, Spec},
    store::{self, Committed},
};
use nhi_decide::change::{Change, What};
use nhi_model::{
    Timestamp,
    call::{Effect, StateGet, StateGot},
    envelope::OpId,
    identity::Role,
    key::Key,
};
use nhi_testkit::wait_for;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader, Lines},
    net::{TcpSocket, TcpStream},
    time::timeout,
};

/// One event.
#[derive(Debug)]
struct Event {
    name: String,
    id: Option<u64>,
    data: Value,
}

impl Event {
    /// Records of a `state` event by key: the value, or nothing where one was retired.
    fn records(&self) -> BTreeMap<String, Option<i64>> {
        assert_eq!((self.name.as_str(), self.id), ("state", self.data["revision"].as_u64()), "{self:?}");
        let rows = self.data["records"].as_array().unwrap().iter();
        rows.map(|row| (row["key"].as_str().unwrap().to_owned(), row["record"]["value"].as_i64())).collect()
    }
}

/// Somebody who listens.
struct Reader {
    lines: Lines<BufReader<TcpStream>>,
    head: String,
}

impl Reader {
    /// Asks, and reads the head of the answer. HTTP/1.0, so that the body is not cut in chunks.
    async fn open(house: &House, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::over(TcpStream::connect(house.addr).await.unwrap(), path, headers).await
    }

    async fn over(mut stream: TcpStream, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut head = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n");
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\n").as_bytes()).await.unwrap();
        let mut reader = Self { lines: BufReader::new(stream).lines(), head: String::new() };
        while let Some(line) = reader.line().await.filter(|line| !line.is_empty()) {
            reader.head.push_str(&line.to_ascii_lowercase());
            reader.head.push('\n');
        }
        reader
    }

    fn status(&self) -> u16 {
        self.head.split(' ').nth(1).unwrap().parse().unwrap()
    }

    async fn line(&mut self) -> Option<String> {
        timeout(SOON, self.lines.next_line()).await.expect("no line came").unwrap_or_default()
    }

    /// The next event; `None` at the end of the stream.
    async fn next(&mut self) -> Option<Event> {
        let (mut name, mut id, mut data) = (String::new(), None, String::new());
        loop {
            let line = self.line().await?;
            match line.split_once(": ") {
                Some(("event", text)) => name = text.to_owned(),
                Some(("id", text)) => id = Some(text.parse().unwrap()),
                Some(("data", text)) => data.push_str(text),
                None if line.is_empty() && !name.is_empty() => {
                    return Some(Event { name, id, data: serde_json::from_str(&data).unwrap() });
                }
                Some(_) | None => {}
            }
        }
    }

    async fn hello(&mut self) -> Event {
        let hello = self.next().await.unwrap();
        assert_eq!(hello.name, "hello", "{hello:?}");
        hello
    }
}

async fn listen(house: &House, who: &str, query: &str, last: Option<u64>) -> Reader {
    let bearer = format!("Bearer {}", house.seed(who));
    let last = last.map(|last| last.to_string());
    let mut headers = vec![("Authorization", bearer.as_str())];
    headers.extend(last.as_deref().map(|last| ("Last-Event-ID", last)));
    Reader::open(house, &format!("/events{query}"), &headers).await
}

/// Writes records in one batch: a value each, or the end of one that stands at a revision.
pub(crate) async fn write(scan: &Bus, changes: &[(&str, u64, Option<i64>)]) -> Committed {
    let changes: Vec<Change> = changes
        .iter()
        .map(|(id, expected, value)| {
            let put = |value: &i64| What::Put { record: json!({ "value": value }), stale: None };
            let what = value.as_ref().map_or(What::Retire, put);
            Change { key: Key::project(id), expected: *expected, what }
        })
        .collect();
    let op = OpId(uuid());
    store::commit(scan, &op, Timestamp::now(), &changes).await.unwrap()
}

fn uuid() -> String {
    nhi_bus::keys::Seed::generate().public_key()
}

fn values<const N: usize>(rows: [(&str, Option<i64>); N]) -> BTreeMap<String, Option<i64>> {
    rows.into_iter().map(|(id, value)| (Key::project(id).to_string(), value)).collect()
}

#[tokio::test]
async fn a_commit_is_one_event_for_every_listener() {
    let (house, scan) = House::open_with_streams().await;
    house.nats.add("wall", Role::Viewer).await;
    let mut readers = Vec::new();
    for who in ["owner", "owner", "wall"] {
        let mut reader = listen(&house, who, "", None).await;
        assert_eq!(
            (reader.status(), reader.head.contains("text/event-stream")),
            (200, true),
            "{}",
            reader.head
        );
        assert_eq!(reader.hello().await.data["revision"], 0);
        readers.push(reader);
    }
    let done = write(&scan, &[("a", 0, Some(1)), ("b", 0, Some(2)), ("c", 0, Some(3))]).await;
    for reader in &mut readers {
        let event = reader.next().await.unwrap();
        assert_eq!(event.records(), values([("a", Some(1)), ("b", Some(2)), ("c", Some(3))]));
        assert_eq!(event.id, Some(done.revision));
        assert!(event.data["records"][0]["at"].is_string(), "{event:?}");
    }
    let done = write(&scan, &[("b", 2, None)]).await;
    for reader in &mut readers {
        let event = reader.next().await.unwrap();
        assert_eq!((event.records(), event.id), (values([("b", None)]), Some(done.revision)));
        assert!(event.data["records"][0]["at"].is_string(), "when it was retired: {event:?}");
    }
    house.close().await;
}

#[tokio::test]
async fn who_comes_back_is_told_what_changed_meanwhile() {
    let (house, scan) = House::open_with_streams().await;
    let first = write(&scan, &[("a", 0, Some(1)), ("b", 0, Some(2)), ("c", 0, Some(3))]).await.revision;
    let second = write(&scan, &[("a", 1, Some(10)), ("b", 2, None), ("d", 0, Some(4))]).await.revision;
    let third = write(&scan, &[("c", 3, Some(30))]).await.revision;
    let all = values([("a", Some(10)), ("b", None), ("c", Some(30)), ("d", Some(4))]);
    let whole = values([("a", Some(10)), ("c", Some(30)), ("d", Some(4))]);
    for (last, expected) in [
        (first, all),
        // In the middle of the second batch, which nobody ever saw half: it comes whole.
        (second - 1, values([("a", Some(10)), ("b", None), ("c", Some(30)), ("d", Some(4))])),
        (second, values([("c", Some(30))])),
        (0, whole),
    ] {
        let mut reader = listen(&house, "owner", "", Some(last)).await;
        let hello = reader.hello().await;
        assert_eq!(
            (hello.id, &hello.data["revision"]),
            (Some(last), &json!(third)),
            "nothing is skipped yet"
        );
        let event = reader.next().await.unwrap();
        assert_eq!((event.records(), event.id), (expected, Some(third)), "after {last}");
    }
    // The controls: who knows all, or does not say what it knows, is told only what is new.
    let mut stands = third;
    for knows in [true, false] {
        let mut reader = listen(&house, "owner", "", knows.then_some(stands)).await;
        assert_eq!(reader.hello().await.id, Some(stands));
        let done = write(&scan, &[("c", stands, Some(31))]).await;
        let event = reader.next().await.unwrap();
        assert_eq!((event.records(), event.id), (values([("c", Some(31))]), Some(done.revision)));
        stands = done.revision;
    }
    house.close().await;
}

#[tokio::test]
async fn what_is_no_longer_kept_is_to_be_read_again() {
    let (house, scan) = House::open_with_streams().await;
    let mut revision = 0;
    // The bucket keeps 1,000 versions of a record, and there is no other.
    for value in 0..1_010 {
        revision = write(&scan, &[("a", revision, Some(value))]).await.revision;
    }
    for (last, why) in [(3, "no longer kept"), (revision + 5, "not there yet")] {
        let mut reader = listen(&house, "owner", "", Some(last)).await;
        let hello = reader.hello().await;
        assert_eq!(hello.id, None, "a reader that breaks off here asks again");
        let event = reader.next().await.unwrap();
        assert_eq!((event.name.as_str(), event.id), ("resync", Some(revision)), "{event:?}");
        assert!(event.data["reason"].as_str().unwrap().contains(why), "{event:?}");
        // It goes on from there.
        revision = write(&scan, &[("a", revision, Some(7))]).await.revision;
        assert_eq!(reader.next().await.unwrap().id, Some(revision));
    }
    // The control: what is kept is told.
    let mut reader = listen(&house, "owner", "", Some(revision - 500)).await;
    reader.hello().await;
    assert_eq!(reader.next().await.unwrap().records(), values([("a", Some(7))]));
    let bearer = format!("Bearer {}", house.seed("owner"));
    let bad = [("Authorization", bearer.as_str()), ("Last-Event-ID", "yesterday")];
    let bad = house.send("GET", "/events", &bad, "").await;
    assert_eq!((bad.status, bad.code().as_str()), (400, "bad-request"), "{bad:?}");
    house.close().await;
}

#[tokio::test]
async fn what_the_keeper_had_not_seen_when_somebody_began_is_not_lost() {
    let (mut house, scan) = House::open_with_streams().await;
    // A keeper that is behind: it says where it is, and no more.
    let keeper = house.keeper.pop().unwrap();
    keeper.stop().await;
    let seen = Arc::new(AtomicU64::new(0));
    let told = seen.clone();
    let spec = Spec { endpoint: "get", effect: Effect::Read, description: "", stream: false };
    let behind = Service::new("state", "1.0.0", "state").endpoint(spec, move |_, _: StateGet| {
        let revision = told.load(Ordering::SeqCst);
        async move { Ok(StateGot { revision, ..at_revision() }) }
    });
    behind.start(&house.cx, &house.nats.connect(&house.cx, "state").await).await.unwrap();
    let done = write(&scan, &[("a", 0, Some(1))]).await;
    let mut reader = listen(&house, "owner", "", None).await;
    assert_eq!(reader.hello().await.data["revision"], 0, "as far as the keeper knows");
    seen.store(done.revision, Ordering::SeqCst);
    // Nothing else is written: without another look nobody would hear of it.
    let event = timeout(SOON, reader.next()).await.expect("nobody looked again").unwrap();
    assert_eq!(event.name, "resync", "{event:?}");
    // The control: from here on it is told as it comes, and once.
    let done = write(&scan, &[("a", done.revision, Some(2))]).await;
    seen.store(done.revision, Ordering::SeqCst);
    assert_eq!(reader.next().await.unwrap().records(), values([("a", Some(2))]));
    let done = write(&scan, &[("a", done.revision, Some(3))]).await;
    assert_eq!(reader.next().await.unwrap().id, Some(done.revision));
    house.close().await;
}

fn at_revision() -> StateGot {
    StateGot {
        revision: 0,
        as_of: Timestamp::UNIX_EPOCH,
        sources: BTreeMap::new(),
        records: BTreeMap::new(),
        unknown: Vec::new(),
        next: None,
        stale: None,
    }
}

#[tokio::test]
async fn whoever_was_cut_off_is_told_to_read_again() {
    let (mut house, scan) = House::open_with_streams().await;
    let mut reader = listen(&house, "owner", "", None).await;
    reader.hello().await;
    let done = write(&scan, &[("a", 0, Some(1))]).await;
    assert_eq!(reader.next().await.unwrap().id, Some(done.revision), "the control: no word of resync before");
    house.nats.kill9().await;
    house.nats.restart().await;
    let event = timeout(SOON, reader.next()).await.expect("no word of it").unwrap();
    assert_eq!(event.name, "resync", "{event:?}");
    wait_for("the scanner to be back", SOON, async || scan.is_up()).await;
    let done = write(&scan, &[("a", done.revision, Some(2))]).await;
    let mut last = reader.next().await.unwrap();
    while last.name == "resync" {
        last = reader.next().await.unwrap();
    }
    assert_eq!((last.records(), last.id), (values([("a", Some(2))]), Some(done.revision)));
    house.close().await;
}

#[tokio::test]
async fn gauges_and_plans_are_for_who_asks_for_them() {
    let (house, scan) = House::open_with_streams().await;
    let home = house.nats.raw("home").await;
    let mut all = listen(&house, "owner", "?live=1&plans=1", None).await;
    let mut plans = listen(&house, "owner", "?plans=1", None).await;
    let mut state = listen(&house, "owner", "", None).await;
    for reader in [&mut all, &mut plans, &mut state] {
        reader.hello().await;
    }
    let put = async |key: &'static str, value: Value| {
        home.request(format!("$KV.{key}"), value.to_string().into()).await.unwrap();
    };
    put("nhi-live.vm.home.100", json!({"cpu": 0.5})).await;
    let live = all.next().await.unwrap();
    assert_eq!((live.name.as_str(), live.id), ("live", None));
    assert_eq!(live.data, json!({"key": "vm.home.100", "value": {"cpu": 0.5}}));
    put("nhi-plans.plan.p-1", json!({"n": 1})).await;
    for reader in [&mut all, &mut plans] {
        let plan = reader.next().await.unwrap();
        assert_eq!((plan.name.as_str(), plan.id), ("plan", None), "{plan:?}");
        assert_eq!(plan.data, json!({"key": "plan.p-1", "value": {"n": 1}}));
    }
    write(&scan, &[("a", 0, Some(1))]).await;
    for reader in [&mut all, &mut plans, &mut state] {
        assert_eq!(
            reader.next().await.unwrap().records(),
            values([("a", Some(1))]),
            "nothing else came before"
        );
    }
    house.close().await;
}

#[tokio::test]
async fn who_may_not_read_may_not_listen_and_who_may_no_longer_hears_no_more() {
    let (house, scan) = House::open_with_streams().await;
    house.nats.add("pc", Role::Edge).await;
    house.nats.add("aider", Role::Agent).await;
    let edge = listen(&house, "pc", "", None).await;
    assert_eq!(edge.status(), 403, "{}", edge.head);
    assert_eq!(Reader::open(&house, "/events", &[]).await.status(), 401);
    let mut aider = listen(&house, "aider", "", None).await;
    let browsers = [sign_in(&house, "owner").await, sign_in(&house, "owner").await];
    let mut pages = Vec::new();
    for browser in &browsers {
        pages.push(Reader::open(&house, "/events", &[("Cookie", &browser.cookie)]).await);
    }
    for reader in pages.iter_mut().chain([&mut aider]) {
        reader.hello().await;
    }
    house.nats.revoke("aider").await;
    assert!(aider.next().await.is_none(), "the stream of a revoked identity ends");
    let out = [("Cookie", browsers[0].cookie.as_str()), ("x-nhi-csrf", browsers[0].csrf.as_str())];
    assert_eq!(house.send("DELETE", "/session", &out, "").await.status, 204);
    assert!(pages[0].next().await.is_none(), "the stream of a session ends with it");
    // The control: the other session's goes on.
    write(&scan, &[("a", 0, Some(1))]).await;
    assert_eq!(pages[1].next().await.unwrap().records(), values([("a", Some(1))]));
    house.close().await;
}

#[tokio::test]
async fn a_slow_reader_is_dropped_and_nobody_waits_for_it() {
    const EVENTS: usize = 3_000;
    let (house, _scan) = House::open_with_streams().await;
    let home = house.nats.raw("home").await;
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(8 * 1_024).unwrap();
    let stream = socket.connect(house.addr).await.unwrap();
    let bearer = format!("Bearer {}", house.seed("owner"));
    let mut slow = Reader::over(stream, "/events?plans=1", &[("Authorization", &bearer)]).await;
    let mut fast = listen(&house, "owner", "?plans=1", None).await;
    slow.hello().await;
    fast.hello().await;
    let payload = json!({"text": "x".repeat(8 * 1_024)}).to_string();
    for n in 0..EVENTS {
        home.publish(format!("nhi-pub.plan.plan.p-{n}"), payload.clone().into()).await.unwrap();
        // The fast one is never far behind: it hears all, in order, and no word of resync.
        let event = fast.next().await.unwrap();
        assert_eq!((event.name.as_str(), &event.data["key"]), ("plan", &json!(format!("plan.p-{n}"))));
    }
    let (mut heard, mut last) = (0, None);
    while let Some(event) = slow.next().await {
        heard += usize::from(event.name == "plan");
        last = Some(event);
    }
    let last = last.unwrap();
    assert_eq!(last.name, "resync", "{last:?}");
    assert!(heard < EVENTS, "it missed some");
    house.close().await;
}

/// Opens listeners of one caller, until that many are there.
async fn crowd(addr: SocketAddr, bearer: &str, count: usize) -> Vec<Reader> {
    let mut readers = Vec::new();
    for _ in 0..count {
        let stream = TcpStream::connect(addr).await.unwrap();
        let mut reader = Reader::over(stream, "/events", &[("Authorization", bearer)]).await;
        assert_eq!(reader.status(), 200, "{}", reader.head);
        reader.hello().await;
        readers.push(reader);
    }
    readers
}

/// Memory of this process, kB: the gateway's and that of all these clients.
fn resident_kb() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.split_whitespace().next().unwrap().parse().unwrap()
}

#[tokio::test]
async fn a_thousand_listeners_are_cheap_and_there_is_a_limit() {
    let (house, scan) = House::open_with_streams().await;
    let bearer = format!("Bearer {}", house.seed("owner"));
    let mut readers = crowd(house.addr, &bearer, 10).await;
    let before_kb = resident_kb();
    readers.extend(crowd(house.addr, &bearer, 1_000).await);
    let grown_kb = resident_kb().saturating_sub(before_kb);
    // Other tests run in this process at the same time; alone it is less than a third of this.
    assert!(grown_kb < 256 * 1_024, "{grown_kb} kB for 1,000 listeners and their clients");
    assert_eq!(house.metric("nhi_gateway_connections").await, 1, "all over one connection of the caller");
    write(&scan, &[("a", 0, Some(1))]).await;
    for reader in &mut readers {
        assert_eq!(reader.next().await.unwrap().records(), values([("a", Some(1))]));
    }
    readers.extend(crowd(house.addr, &bearer, 190).await);
    let full = listen(&house, "owner", "", None).await;
    assert_eq!((full.status(), full.head.contains("retry-after: 5")), (429, true), "{}", full.head);
    // Others are served meanwhile, and whoever goes makes room.
    assert_eq!(house.post("owner", "/mesh/kettle/tell", "{}").await.status, 200);
    house.nats.add("wall", Role::Viewer).await;
    assert_eq!(listen(&house, "wall", "", None).await.status(), 200);
    drop(readers.pop());
    wait_for("a place", SOON, async || listen(&house, "owner", "", None).await.status() == 200).await;
    drop(readers);
    timeout(SOON + Duration::from_secs(10), house.close()).await.unwrap();
}
