//! What each test stands in: nats-server, a keeper that knows the identities, a kettle, and the gateway before them.

use futures::StreamExt as _;
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    past::{self, PastError},
    registry::Registry,
    service::{Running as Service, Service as Services, Spec},
    store::{StoreSettings, provision},
};
use nhi_decide::state_query::{self, Moment};
use nhi_gateway::{Options, Running};
use nhi_model::{
    Timestamp,
    call::{At, AuthList, AuthListed, AuthWhoami, Effect, StateDiff, StateGet, StateGot},
    fault::{Fault, FaultCode},
    identity::Role,
};
use nhi_testkit::{Nats, settle};
use serde_json::{Value, json};
use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
    sync::Semaphore,
};

/// Longest that anything here may take.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// A gateway with all that it needs. Close it with [`House::close`].
pub(crate) struct House {
    pub(crate) cx: Cx,
    pub(crate) nats: Nats,
    pub(crate) addr: SocketAddr,
    pub(crate) keeper: Vec<Service>,
    /// The kettle boils once for each permit.
    pub(crate) fire: Arc<Semaphore>,
}

/// An answer.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// In small letters.
    pub(crate) head: String,
    /// As it was sent.
    pub(crate) raw_head: String,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"))
    }

    /// The stable word of an error.
    pub(crate) fn code(&self) -> String {
        self.json()["error"]["code"].as_str().unwrap_or_default().to_owned()
    }
}

impl House {
    pub(crate) async fn open() -> Self {
        Self::open_with(|_| {}).await
    }

    /// A house whose gateway is set up otherwise.
    pub(crate) async fn open_with(change: impl FnOnce(&mut Options)) -> Self {
        let (cx, nats) = (Cx::new(), Nats::start().await);
        let keeper = keep(&cx, &nats).await;
        Self::furnish(cx, nats, keeper, change).await
    }

    /// A house with the mesh's streams, whose keeper reads the state from its bucket. With it the scanner's connection.
    pub(crate) async fn open_with_streams() -> (Self, Bus) {
        let (cx, nats) = (Cx::new(), Nats::start().await);
        let home = nats.connect(&cx, "home").await;
        provision(&home, &StoreSettings { replicas: 1 }).await.unwrap();
        let keeper = keep_streams(&cx, &nats).await;
        let scan = nats.connect(&cx, "scan").await;
        (Self::furnish(cx, nats, keeper, |_| {}).await, scan)
    }

    async fn furnish(cx: Cx, nats: Nats, keeper: Vec<Service>, change: impl FnOnce(&mut Options)) -> Self {
        let fire = Arc::new(Semaphore::new(0));
        let home = nats.connect(&cx, "home").await;
        kettle(fire.clone()).start(&cx, &home).await.unwrap();
        let bus = nats.connect(&cx, "gateway").await;
        let mut options = Options {
            listen: "127.0.0.1:0".parse().unwrap(),
            allowed_hosts: vec!["nhi.lan".to_owned()],
            allowed_origins: vec!["https://pages.example".to_owned()],
            target: nats.target(),
            bus,
            tls: None,
        };
        change(&mut options);
        let Running { addr } = nhi_gateway::run(&cx, options).await.unwrap();
        Self { cx, nats, addr, keeper, fire }
    }

    /// One identity of each role that calls, and the owner.
    pub(crate) async fn everybody(&self) -> [(&'static str, Role); 5] {
        let added =
            [("wall", Role::Viewer), ("aider", Role::Agent), ("anna", Role::Operator), ("pc", Role::Edge)];
        for (who, role) in added {
            self.nats.add(who, role).await;
        }
        let [viewer, agent, operator, edge] = added;
        [viewer, agent, operator, edge, ("owner", Role::Owner)]
    }

    /// A service in another library, with codes of its own: each endpoint fails with its name as the code.
    pub(crate) async fn samovar(&self) {
        let client = self.nats.raw("home").await;
        let mut calls = client.subscribe("nhi.samovar.*.*").await.unwrap();
        settle(&client).await;
        let stop = self.cx.clone();
        self.cx.spawn("samovar", async move {
            loop {
                let call = tokio::select! {
                    call = calls.next() => call.unwrap(),
                    () = stop.cancelled() => return,
                };
                let code = call.subject.split('.').nth(2).unwrap();
                let status = match code {
                    "guarded" => "409",
                    "teapot" => "418",
                    // No number of a failure.
                    _ => "200",
                };
                let headers = [("Nats-Service-Error", "no"), ("Nats-Service-Error-Code", status)];
                let headers = headers.map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()));
                let body = json!({"error": {"code": code, "message": "no"}}).to_string();
                let sent = client.publish_with_headers(
                    call.reply.unwrap(),
                    headers.into_iter().collect(),
                    body.into(),
                );
                sent.await.unwrap();
            }
        });
    }

    /// The seed of an identity, as text.
    pub(crate) fn seed(&self, who: &str) -> String {
        self.nats.seed(who).expose().to_owned()
    }

    /// `POST` of JSON to a path, with the credential of an identity.
    pub(crate) async fn post(&self, who: &str, path: &str, body: &str) -> Answer {
        self.send("POST", path, &[("Authorization", &format!("Bearer {}", self.seed(who)))], body).await
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.send("GET", path, &[], "").await
    }

    /// Any request, from this machine by its usual name.
    pub(crate) async fn send(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: localhost:{}\r\n", self.addr.port());
        if !body.is_empty() {
            head.push_str(&format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len()));
        }
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        self.raw(&format!("{head}Connection: close\r\n\r\n{body}")).await
    }

    /// Exactly these bytes.
    pub(crate) async fn raw(&self, request: &str) -> Answer {
        exchange(TcpStream::connect(self.addr).await.unwrap(), request).await
    }

    /// A number of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = self.get("/metrics").await.body;
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
    }

    pub(crate) async fn close(self) {
        tokio::time::timeout(SOON, self.cx.close()).await.unwrap();
    }
}

/// Sends a request and reads the answer up to its end.
pub(crate) async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    // A server that refuses by the head may close before all is sent.
    let _sent = stream.write_all(request.as_bytes()).await;
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut bytes)).await;
    let read = read.unwrap_or_else(|_| panic!("no end of the answer to {}", request.lines().next().unwrap()));
    assert!(read.is_ok() || !bytes.is_empty(), "{read:?}");
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head in {text:?}"));
    let status = head.split(' ').nth(1).and_then(|s| s.parse().ok()).unwrap_or_else(|| panic!("{head}"));
    Answer { status, head: head.to_ascii_lowercase(), raw_head: head.to_owned(), body: body.to_owned() }
}

/// What the keeper of the state serves, as far as a gateway needs it.
pub(crate) async fn keep(cx: &Cx, nats: &Nats) -> Vec<Service> {
    let bus = nats.connect(cx, "state").await;
    let list = identities(nats);
    let get = Services::new("state", "1.0.0", "state").endpoint(read("get"), |_, _: StateGet| async {
        Ok(StateGot {
            revision: 7,
            as_of: Timestamp::UNIX_EPOCH,
            sources: BTreeMap::new(),
            records: BTreeMap::new(),
            unknown: Vec::new(),
            next: None,
            stale: None,
        })
    });
    start(cx, &bus, [list, get]).await
}

fn identities(nats: &Nats) -> Services {
    let (dir, who) = (nats.dir(), nats.dir());
    Services::new("auth", "1.0.0", "identities")
        .endpoint(read("list"), move |_, _: AuthList| {
            let dir: PathBuf = dir.clone();
            async move { Ok(AuthListed { identities: Registry::load(&dir).unwrap().infos() }) }
        })
        .endpoint(read("whoami"), move |caller, _: AuthWhoami| {
            let dir: PathBuf = who.clone();
            async move {
                let infos = Registry::load(&dir).unwrap().infos();
                Ok(infos.into_iter().find(|info| info.name == caller.name).unwrap())
            }
        })
}

/// The same with the state as it stands in its bucket, read as the keeper reads the past.
async fn keep_streams(cx: &Cx, nats: &Nats) -> Vec<Service> {
    let bus = nats.connect(cx, "state").await;
    let (get, diff) = (bus.clone(), bus.clone());
    let state = Services::new("state", "1.0.0", "state")
        .endpoint(read("get"), move |_, request: StateGet| {
            let bus = get.clone();
            async move {
                let at = request.at.unwrap_or(At::Revision(u64::MAX));
                let past = past::state_at(&bus, at, &request.select).await.map_err(|error| gone(&error))?;
                let records = past.records.iter();
                let moment = Moment {
                    revision: past.revision,
                    now: Timestamp::now(),
                    records: records.map(|(key, entry)| (key, entry.revision, &*entry.stored)),
                    unknown: &past.unknown,
                    live: &BTreeMap::new(),
                    stale: None,
                };
                state_query::get(moment, &request)
            }
        })
        .endpoint(read("diff"), move |_, request: StateDiff| {
            let bus = diff.clone();
            async move { past::diff(&bus, request.from, request.to).await.map_err(|error| gone(&error)) }
        });
    start(cx, &bus, [identities(nats), state]).await
}

fn gone(error: &PastError) -> Fault {
    let code = match error {
        PastError::Expired { .. } => FaultCode::Expired,
        PastError::BadSelect { .. } | PastError::Api(_) => FaultCode::Internal,
    };
    Fault::new(code, error.to_string(), "")
}

async fn start<const N: usize>(cx: &Cx, bus: &Bus, services: [Services; N]) -> Vec<Service> {
    let mut running = Vec::new();
    for service in services {
        running.push(service.start(cx, bus).await.unwrap());
    }
    running
}

fn read(endpoint: &'static str) -> Spec {
    Spec { endpoint, effect: Effect::Read, description: "", stream: false }
}

/// Somebody's own service: it tells what it was asked, refuses, or takes its time.
fn kettle(fire: Arc<Semaphore>) -> Services {
    Services::new("kettle", "1.0.0", "a kettle")
        .endpoint(read("tell"), |caller, asked: Value| async move {
            Ok(json!({"caller": caller.name, "id": caller.request_id, "expires": caller.expires, "asked": asked}))
        })
        .endpoint(read("refuse"), |_, _: Value| async {
            Err::<Value, _>(Fault::new(FaultCode::Conflict, "it boils", "wait").with("celsius", 99))
        })
        .endpoint(read("boil"), move |_, _: Value| {
            let fire = fire.clone();
            async move {
                fire.acquire().await.unwrap().forget();
                Ok(json!({"celsius": 100}))
            }
        })
}
