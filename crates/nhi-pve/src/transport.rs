//! How a GET goes out and an answer comes in: one address after the other, reuse of connections, the one
//! retry, turns at privileged workers. It does not know what an answer means.

mod answer;
mod connection;
mod gate;
mod places;
mod refusals;
mod route;
mod write;

use crate::{
    cluster::ClusterStatus,
    endpoint::{Address, Endpoint},
    error::{Kind, Parts, PveError, clean},
    node::NodeRow,
    rows::Unknown,
    trust::{Fingerprint, Identity, TrustError, TrustedAs},
};
use answer::{Answer, Refused};
use connection::{Connection, Failure};
use gate::{Gate, Ticket};
use hyper::header::HeaderValue;
use places::{Place, Places};
use refusals::Refusals;
use route::{Doubt, Route};
use serde_json::Value;
use std::{
    collections::{BTreeMap, VecDeque},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::{Semaphore, SemaphorePermit},
    time::{Instant, timeout},
};

pub(crate) use write::{Outgoing, Unsent};

/// Proxmox closes the connection at a header line of 8 KiB. Only a name that is none makes a path this long.
const PATH_BYTES_MAX: usize = 7000;

/// What tells the cluster's quorum and nodes.
pub(crate) const STATUS: &str = "/cluster/status";

/// One GET: what is asked, and who has to work for it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    /// Path below `/api2/json`, encoded.
    pub(crate) path: String,
    /// `?…`, encoded, or "".
    pub(crate) query: String,
    /// The node that answers in the end; `None` is the one that is asked.
    pub(crate) node: Option<String>,
    /// Whether one of that node's three privileged workers has to answer.
    pub(crate) protected: bool,
}

/// The data of an answer, and which address gave it.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) data: Value,
    pub(crate) address: usize,
}

/// The right to send a call.
#[derive(Debug)]
struct Turn<'a> {
    /// At a node's privileged worker, where one has to answer.
    worker: Option<Ticket<'a>>,
    _slot: SemaphorePermit<'a>,
}

/// Why the certificates of the addresses are believed.
#[derive(Debug)]
struct Trusted {
    newest: TrustedAs,
    by_address: BTreeMap<usize, TrustedAs>,
}

/// One address a reader knows, and how it stands with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressState {
    /// The address.
    pub address: Address,
    /// The node the cluster told this address of; `None` when it stands in the settings.
    pub learned_from: Option<String>,
    /// Whether calls begin with it now.
    pub is_first: bool,
    /// Why its certificate is believed, as of its newest connection.
    pub trusted_as: TrustedAs,
    /// Why it did not answer when it was last asked, or why it is left alone; `None` when all is well.
    pub trouble: Option<String>,
}

#[derive(Debug)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    authorization: HeaderValue,
    identity: Identity,
    places: Places,
    gate: Gate,
    slots: Semaphore,
    /// Index of the address that is asked first.
    preferred: AtomicUsize,
    /// Index of the address that gave the newest `/cluster/status`.
    status_from: AtomicUsize,
    idle: Mutex<VecDeque<Connection>>,
    refusals: Refusals,
    trusted_as: Mutex<Trusted>,
    /// Names of the nodes behind the addresses, as far as they told.
    local_nodes: Mutex<BTreeMap<usize, String>>,
    unknown: Mutex<Unknown>,
    requests: AtomicU64,
}

impl Transport {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, TrustError> {
        let identity = Identity::new(&endpoint.trust)?;
        let authorization = HeaderValue::from_str(&endpoint.token.authorization());
        let mut authorization = authorization.expect("a token is visible ASCII, checked when it was parsed");
        authorization.set_sensitive(true);
        Ok(Self {
            authorization,
            identity,
            places: Places::new(endpoint.addresses.clone(), endpoint.node_port),
            gate: Gate::new(endpoint.limits.protected_max),
            slots: Semaphore::new(endpoint.limits.in_flight_max.max(1)),
            preferred: AtomicUsize::new(0),
            status_from: AtomicUsize::new(0),
            idle: Mutex::default(),
            refusals: Refusals::default(),
            trusted_as: Mutex::new(Trusted { newest: TrustedAs::NotYet, by_address: BTreeMap::new() }),
            local_nodes: Mutex::default(),
            unknown: Mutex::default(),
            requests: AtomicU64::new(0),
            endpoint,
        })
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn trusted_as(&self) -> TrustedAs {
        lock(&self.trusted_as).newest.clone()
    }

    /// Every address in use, in the order of asking.
    pub(crate) fn addresses(&self) -> Vec<AddressState> {
        let first = Route::new(self.places.open(), self.endpoint.addresses.len()).next(self.preferred());
        let trusted = lock(&self.trusted_as);
        let state = |number: usize| {
            let Place { address, learned, trouble } = self.places.get(number);
            AddressState {
                address,
                is_first: first == Some(number),
                trusted_as: trusted.by_address.get(&number).cloned().unwrap_or(TrustedAs::NotYet),
                trouble,
                learned_from: learned.map(|from| from.node),
            }
        };
        self.places.all().into_iter().map(state).collect()
    }

    pub(crate) fn unknown(&self) -> MutexGuard<'_, Unknown> {
        lock(&self.unknown)
    }

    pub(crate) fn reset(&self) {
        self.refusals.clear();
    }

    /// An address told the state of the cluster: its nodes' addresses, and the name of the one behind this address
    /// where it is known.
    pub(crate) fn learn_status(&self, address: usize, status: &ClusterStatus) {
        self.status_from.store(address, Ordering::Relaxed);
        {
            let mut local = lock(&self.local_nodes);
            for (number, place) in self.endpoint.addresses.iter().enumerate() {
                let is_its = |ip: &String| place.port == self.endpoint.node_port && *ip == place.host();
                let of_place = status.nodes.rows.iter().find(|row| row.ip.as_ref().is_some_and(is_its));
                local.extend(of_place.map(|row| (number, row.name.clone())));
            }
            local.extend(status.local().map(|node| (address, node.to_owned())));
        }
        self.places.learn(address, status);
        if status.quorate() != Some(false) {
            self.come_home(address);
        }
    }

    /// An address told the cluster's nodes, and which certificates they show.
    pub(crate) fn learn_nodes(&self, address: usize, nodes: &[NodeRow]) {
        self.places.learn_certificates(address, nodes);
    }

    /// The address the newest `/cluster/status` came from turned out to be on the losing side.
    pub(crate) fn demote_source_of_status(&self) {
        let address = self.status_from.load(Ordering::Relaxed);
        self.places.blame(address, "it belongs to a part of the cluster without quorum");
        self.demote(address);
    }

    /// Sends one GET and reads its data. Cancel safe: the connection in use is closed.
    pub(crate) async fn get(&self, call: &Call) -> Result<Answered, PveError> {
        let route = self.route(call);
        if route.next(self.preferred()).is_none() {
            return Err(route.together());
        }
        if call.path.len() + call.query.len() > PATH_BYTES_MAX {
            let text = "the name is too long to ask for".to_owned();
            return Err(self.error(call, self.preferred(), Kind::InvalidParameter, text));
        }
        let mut turn = self.turn(call).await?;
        // Again: another call may have been refused while this one waited.
        let mut route = self.route(call);
        let mut asked = self.preferred();
        let deadline = self.endpoint.limits.deadline;
        let walked = timeout(deadline, self.walk(call, &mut turn, &mut route, &mut asked)).await;
        match walked {
            Ok(Some(outcome)) => outcome,
            Ok(None) => Err(route.together()),
            Err(_) => {
                let text = format!("no answer within {}", seconds(deadline));
                self.places.failed(asked, &text);
                self.demote(asked);
                route.fail(asked, self.error(call, asked, Kind::Timeout, text));
                Err(route.together())
            }
        }
    }

    fn preferred(&self) -> usize {
        self.preferred.load(Ordering::Relaxed)
    }

    /// The way through the addresses, without those that refused the token a short while ago.
    fn route(&self, call: &Call) -> Route {
        let open = self.places.open();
        let mut route = Route::new(open.clone(), self.endpoint.addresses.len());
        for address in open {
            if let Err(error) = self.check_pause(call, address) {
                route.fail(address, error);
            }
        }
        route
    }

    pub(crate) fn error(&self, call: &Call, address: usize, kind: Kind, text: String) -> PveError {
        self.parts(call, address, kind, text).into()
    }

    fn parts(&self, call: &Call, address: usize, kind: Kind, text: String) -> Parts {
        let place = self.places.get(address).address.to_string();
        let path = clean(&call.path);
        Parts {
            writes: None,
            place,
            path,
            kind,
            status: None,
            text,
            fields: BTreeMap::new(),
            certificate: None,
        }
    }

    /// Waits until the call may go: first for the node's privileged worker, then for a slot among all calls, so
    /// that who waits for one node holds nobody back elsewhere.
    async fn turn(&self, call: &Call) -> Result<Turn<'_>, PveError> {
        let preferred = self.preferred();
        let admission = async {
            let worker = if call.protected {
                Some(self.gate.enter(self.worker_node(call, preferred)).await)
            } else {
                None
            };
            let slot = self.slots.acquire().await.expect("the semaphore is never closed");
            Turn { worker, _slot: slot }
        };
        let limit = self.endpoint.limits.turn;
        match timeout(limit, admission).await {
            Ok(turn) => Ok(turn),
            Err(_) => {
                let text = format!("no turn among the other calls within {}", seconds(limit));
                Err(self.error(call, preferred, Kind::Timeout, text))
            }
        }
    }

    /// The node whose worker has to answer when this address is asked; `None` when its name is not known.
    fn worker_node(&self, call: &Call, address: usize) -> Option<String> {
        call.node.clone().or_else(|| self.local_node(address))
    }

    fn local_node(&self, address: usize) -> Option<String> {
        let told = lock(&self.local_nodes).get(&address).cloned();
        told.or_else(|| self.places.node(address))
    }

    /// Asks one address after the other until one speaks for the cluster; `None` when none did. `asked` is the one
    /// being asked.
    async fn walk<'a>(
        &'a self,
        call: &Call,
        turn: &mut Turn<'a>,
        route: &mut Route,
        asked: &mut usize,
    ) -> Option<Result<Answered, PveError>> {
        // Only a call that tells whether who answers belongs to the majority.
        let mut home = if call.path == STATUS { self.places.way_home(self.preferred()) } else { None };
        while let Some(address) = route.next(home.take().unwrap_or_else(|| self.preferred())) {
            *asked = address;
            // Another address may mean another node's worker. The turn is given back first: two calls that change
            // places would else wait for each other.
            let node = self.worker_node(call, address);
            if turn.worker.as_ref().is_some_and(|worker| !worker.counts_for(node.as_deref())) {
                turn.worker = None;
                turn.worker = Some(self.gate.enter(node).await);
            }
            match self.ask(call, address).await {
                Ok(answered) => return Some(Ok(answered)),
                Err((Doubt::None, error)) => return Some(Err(error)),
                Err((Doubt::Call, error)) => route.fail(address, error),
                Err((Doubt::Address, error)) => {
                    // A refused token has its own pause.
                    if *error.kind() != Kind::Unauthorized {
                        self.places.failed(address, error.text());
                    }
                    self.demote(address);
                    route.fail(address, error);
                }
            }
        }
        None
    }

    /// Asks one address.
    async fn ask(&self, call: &Call, address: usize) -> Result<Answered, (Doubt, PveError)> {
        let alone = self.refusals.probe(address).await;
        let elsewhere = |error| (Doubt::Address, error);
        self.check_pause(call, address).map_err(elsewhere)?;
        let mut connection = match self.idle_connection(address).await {
            Some(connection) => connection,
            None => self.connect(call, address).await.map_err(elsewhere)?,
        };
        let mut outcome = self.exchange(call, &mut connection).await.map_err(elsewhere)?;
        // The server may close an idle connection while a request is under way. That is nobody's fault, and
        // repeating a GET changes nothing; a connection that breaks at its first request is another matter.
        if let Err(Failure::Broken { .. }) = &outcome
            && connection.is_reused()
        {
            connection = self.connect(call, address).await.map_err(elsewhere)?;
            outcome = self.exchange(call, &mut connection).await.map_err(elsewhere)?;
        }
        let read = match outcome {
            Ok(answer) => self.read(call, connection, answer),
            Err(failure @ Failure::TooLarge { .. }) => {
                Err((Doubt::None, self.failed(call, address, failure)))
            }
            Err(failure) => Err((Doubt::Address, self.failed(call, address, failure))),
        };
        drop(alone);
        read
    }

    /// One request on one connection.
    async fn exchange(
        &self,
        call: &Call,
        connection: &mut Connection,
    ) -> Result<Result<Answer, Failure>, PveError> {
        // Again, at the last moment: another call may have been refused while this one waited or connected.
        self.check_pause(call, connection.address)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let Place { address, .. } = self.places.get(connection.address);
        let request = answer::request(&address, call, &self.authorization);
        Ok(connection.exchange(request, self.endpoint.limits.body_bytes_max).await)
    }

    fn read(
        &self,
        call: &Call,
        connection: Connection,
        answer: Answer,
    ) -> Result<Answered, (Doubt, PveError)> {
        let address = connection.address;
        // Proxmox closes after every answer of 400 and above.
        if answer.status < 400 {
            self.keep(connection);
        }
        let node = call.node.as_deref().unwrap_or("");
        let answered = answer::data(answer, node, &self.endpoint.token);
        let Refused { kind, status, text, fields, .. } = match answered {
            Ok(data) => {
                self.answered(address);
                return Ok(Answered { data, address });
            }
            Err(refused) => refused,
        };
        let text = if kind == Kind::Unauthorized { self.pause(address, &text) } else { text };
        let doubt = Doubt::about(call, self.local_node(address).as_deref(), &kind, status);
        if doubt != Doubt::Address {
            self.places.answered(address);
        }
        if kind != Kind::Unauthorized {
            self.refusals.answered(address);
        }
        Err((doubt, Parts { status: Some(status), fields, ..self.parts(call, address, kind, text) }.into()))
    }

    fn answered(&self, address: usize) {
        self.refusals.answered(address);
        self.places.answered(address);
    }

    fn pause(&self, address: usize, reason: &str) -> String {
        let id = self.endpoint.token.id();
        let pause = self.endpoint.limits.unauthorized;
        // The same words for the whole pause: what changes with the clock would look like news each time.
        let text = format!(
            "token {id} was refused ({reason}): check PROXMOX_TOKEN_ID and PROXMOX_SECRET_KEY; the next try comes \
             after a pause of {}",
            seconds(pause)
        );
        self.refusals.refuse(address, &text, pause);
        text
    }

    fn check_pause(&self, call: &Call, address: usize) -> Result<(), PveError> {
        match self.refusals.refusal(address) {
            Some(text) => Err(self.error(call, address, Kind::Unauthorized, text)),
            None => Ok(()),
        }
    }

    /// A connection that was used less than the idle time ago and is still open as far as we can see.
    async fn idle_connection(&self, address: usize) -> Option<Connection> {
        loop {
            let mut connection = {
                let mut idle = lock(&self.idle);
                let limit = self.endpoint.limits.pool_idle;
                idle.retain(|connection| connection.idle_since.elapsed() < limit);
                let newest = idle.iter().rposition(|connection| connection.address == address)?;
                idle.remove(newest)?
            };
            if connection.is_open().await {
                return Some(connection);
            }
        }
    }

    fn keep(&self, mut connection: Connection) {
        connection.idle_since = Instant::now();
        let mut idle = lock(&self.idle);
        idle.push_back(connection);
        while idle.len() > self.endpoint.limits.pool_connections_max {
            idle.pop_front();
        }
    }

    async fn connect(&self, call: &Call, address: usize) -> Result<Connection, PveError> {
        let Place { address: place, learned, .. } = self.places.get(address);
        let limits = &self.endpoint.limits;
        let opened = match learned {
            None => connection::connect(&place, address, &self.identity, limits.connect).await,
            Some(from) => {
                let identity = self.identity.for_learned(&from.node, from.certificate);
                let limit = limits.connect.min(limits.connect_learned);
                connection::connect(&place, address, &identity, limit).await
            }
        };
        match opened {
            Ok((connection, trusted_as)) => {
                self.trusted(&place, address, trusted_as);
                Ok(connection)
            }
            Err(failure) => Err(self.failed(call, address, failure)),
        }
    }

    fn trusted(&self, place: &Address, address: usize, now: TrustedAs) {
        let mut trusted = lock(&self.trusted_as);
        trusted.newest = now.clone();
        if trusted.by_address.get(&address) == Some(&now) {
            return;
        }
        if let TrustedAs::Rotated { fingerprint, .. } = &now {
            tracing::warn!(
                key = %place,
                %fingerprint,
                "certificate is not the pinned one but signed by the pinned authority"
            );
        }
        trusted.by_address.insert(address, now);
    }

    /// An address of the settings answers: later calls begin with it, where they began with a learned one.
    fn come_home(&self, address: usize) {
        let preferred = self.preferred();
        if self.places.is_configured(address) && !self.places.is_configured(preferred) {
            let _ = self.preferred.compare_exchange(preferred, address, Ordering::Relaxed, Ordering::Relaxed);
        }
    }

    /// The next call begins with another address, where there is one. An address that is not preferred stays where
    /// it is, so a late word about one that was given up already changes nothing.
    fn demote(&self, address: usize) {
        let Some(next) = Route::new(self.places.open(), self.endpoint.addresses.len()).next(address + 1)
        else {
            return;
        };
        let _ = self.preferred.compare_exchange(address, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn failed(&self, call: &Call, address: usize, failure: Failure) -> PveError {
        let (kind, text, certificate) = match failure {
            Failure::NoConnection { reason } => (Kind::Connect, reason, None),
            Failure::Broken { reason, .. } => {
                (Kind::Connect, format!("the connection broke before the answer was whole: {reason}"), None)
            }
            Failure::Tls { reason, certificate } => (Kind::Tls, reason, certificate),
            Failure::TooLarge { limit } => {
                (Kind::TooLarge, format!("the answer is larger than {limit} bytes"), None)
            }
        };
        Parts { certificate, ..self.parts(call, address, kind, text) }.into()
    }
}

/// `35 s`, `0.5 s`.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{} s", duration.as_secs_f64())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No code that holds one of these locks can panic half-way through a change.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A certificate as an error tells it.
pub(crate) type Certificate = Option<Fingerprint>;

/// What an answer of these bytes comes to.
#[cfg(test)]
pub(crate) fn data_of_bytes(status: u16, body: Vec<u8>, token: &crate::ApiToken) -> Result<Value, Refused> {
    let response = hyper::Response::builder().status(status).body(()).expect("a status of three digits");
    answer::data(Answer::new(&response.into_parts().0, body), "pve2", token)
}
