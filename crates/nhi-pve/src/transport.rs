//! How a GET goes out and an answer comes in: addresses, reuse of connections, the one retry, the pause after a
//! 401, turns at privileged workers. It does not know what an answer means.

mod answer;
mod connection;
mod gate;

use crate::{
    endpoint::{Address, Endpoint},
    error::{Kind, Parts, PveError, clean},
    rows::Unknown,
    trust::{Fingerprint, Identity, TrustError, TrustedAs},
};
use answer::{Answer, Refused};
use connection::{Connection, Failure};
use gate::{Gate, Ticket};
use hyper::header::HeaderValue;
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
    time::{Instant, timeout, timeout_at},
};

/// Proxmox closes the connection at a header line of 8 KiB. Only a name that is none makes a path this long.
const PATH_BYTES_MAX: usize = 7000;

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

/// The token was refused.
#[derive(Clone, Debug)]
struct Pause {
    until: Instant,
    text: String,
}

#[derive(Debug)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    authorization: HeaderValue,
    identity: Identity,
    gate: Gate,
    slots: Semaphore,
    /// Index of the address that is asked first.
    preferred: AtomicUsize,
    idle: Mutex<VecDeque<Connection>>,
    pause: Mutex<Option<Pause>>,
    trusted_as: Mutex<TrustedAs>,
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
            gate: Gate::new(endpoint.limits.protected_max),
            slots: Semaphore::new(endpoint.limits.in_flight_max.max(1)),
            preferred: AtomicUsize::new(0),
            idle: Mutex::default(),
            pause: Mutex::default(),
            trusted_as: Mutex::new(TrustedAs::NotYet),
            local_nodes: Mutex::default(),
            unknown: Mutex::default(),
            requests: AtomicU64::new(0),
            endpoint,
        })
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn trusted_as(&self) -> TrustedAs {
        lock(&self.trusted_as).clone()
    }

    pub(crate) fn unknown(&self) -> MutexGuard<'_, Unknown> {
        lock(&self.unknown)
    }

    pub(crate) fn reset(&self) {
        *lock(&self.pause) = None;
    }

    /// The node behind an address told its name.
    pub(crate) fn learn_local_node(&self, address: usize, node: &str) {
        lock(&self.local_nodes).insert(address, node.to_owned());
    }

    /// Sends one GET and reads its data. Cancel safe: the connection in use is closed.
    pub(crate) async fn get(&self, call: &Call) -> Result<Answered, PveError> {
        self.check_pause(call)?;
        if call.path.len() + call.query.len() > PATH_BYTES_MAX {
            let asked = self.preferred.load(Ordering::Relaxed);
            return Err(self.error(
                call,
                asked,
                Kind::InvalidParameter,
                "the name is too long to ask for".to_owned(),
            ));
        }
        let _turn = self.turn(call).await?;
        let deadline = self.endpoint.limits.deadline;
        match timeout_at(Instant::now() + deadline, self.attempt(call)).await {
            Ok(answered) => answered,
            Err(_) => {
                let asked = self.preferred.load(Ordering::Relaxed);
                self.demote(asked);
                Err(self.error(call, asked, Kind::Timeout, format!("no answer within {}", seconds(deadline))))
            }
        }
    }

    pub(crate) fn error(&self, call: &Call, address: usize, kind: Kind, text: String) -> PveError {
        self.parts(call, address, kind, text).into()
    }

    fn parts(&self, call: &Call, address: usize, kind: Kind, text: String) -> Parts {
        let place = self.endpoint.addresses[address].to_string();
        let path = clean(&call.path);
        Parts { place, path, kind, status: None, text, fields: BTreeMap::new(), certificate: None }
    }

    /// Waits until the call may go: first for the node's privileged worker, then for a slot among all calls, so
    /// that who waits for one node holds nobody back elsewhere.
    async fn turn(&self, call: &Call) -> Result<(Option<Ticket<'_>>, SemaphorePermit<'_>), PveError> {
        let preferred = self.preferred.load(Ordering::Relaxed);
        let admission = async {
            let ticket = if call.protected {
                let local = || lock(&self.local_nodes).get(&preferred).cloned();
                Some(self.gate.enter(call.node.clone().or_else(local)).await)
            } else {
                None
            };
            let slot = self.slots.acquire().await.expect("the semaphore is never closed");
            (ticket, slot)
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

    async fn attempt(&self, call: &Call) -> Result<Answered, PveError> {
        let (mut connection, mut address) = match self.idle_connection().await {
            Some(connection) => {
                let address = connection.address;
                (connection, address)
            }
            None => self.connect(call).await?,
        };
        let mut outcome = self.exchange(call, &mut connection).await?;
        // The server may close an idle connection while a request is under way. That is nobody's fault, and
        // repeating a GET changes nothing; a connection that breaks at its first request is another matter.
        if let Err(Failure::Broken { .. }) = &outcome
            && connection.is_reused()
        {
            (connection, address) = self.connect(call).await?;
            outcome = self.exchange(call, &mut connection).await?;
        }
        match outcome {
            Ok(answer) => self.read(call, connection, answer),
            Err(failure) => {
                self.demote(address);
                Err(self.failed(call, address, failure))
            }
        }
    }

    /// One request on one connection.
    async fn exchange(
        &self,
        call: &Call,
        connection: &mut Connection,
    ) -> Result<Result<Answer, Failure>, PveError> {
        // Again, at the last moment: another call may have been refused while this one waited or connected.
        self.check_pause(call)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let address = &self.endpoint.addresses[connection.address];
        let request = answer::request(address, call, &self.authorization);
        Ok(connection.exchange(request, self.endpoint.limits.body_bytes_max).await)
    }

    fn read(&self, call: &Call, connection: Connection, answer: Answer) -> Result<Answered, PveError> {
        let address = connection.address;
        // Proxmox closes after every answer of 400 and above.
        if answer.status < 400 {
            self.keep(connection);
        }
        let node = call.node.as_deref().unwrap_or("");
        let Refused { kind, status, text, fields } = match answer::data(answer, node, &self.endpoint.token) {
            Ok(data) => return Ok(Answered { data, address }),
            Err(refused) => refused,
        };
        let text = if kind == Kind::Unauthorized { self.pause(&text) } else { text };
        Err(Parts { status: Some(status), fields, ..self.parts(call, address, kind, text) }.into())
    }

    fn pause(&self, reason: &str) -> String {
        let id = self.endpoint.token.id();
        let pause = self.endpoint.limits.unauthorized;
        // The same words for the whole pause: what changes with the clock would look like news each time.
        let text = format!(
            "token {id} was refused ({reason}): check PROXMOX_TOKEN_ID and PROXMOX_SECRET_KEY; the next try comes \
             after a pause of {}",
            seconds(pause)
        );
        *lock(&self.pause) = Some(Pause { until: Instant::now() + pause, text: text.clone() });
        text
    }

    fn check_pause(&self, call: &Call) -> Result<(), PveError> {
        let mut pause = lock(&self.pause);
        match &*pause {
            Some(refused) if Instant::now() < refused.until => {
                let preferred = self.preferred.load(Ordering::Relaxed);
                Err(self.error(call, preferred, Kind::Unauthorized, refused.text.clone()))
            }
            Some(_) => {
                *pause = None;
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// A connection that was used less than the idle time ago and is still open as far as we can see.
    async fn idle_connection(&self) -> Option<Connection> {
        loop {
            let preferred = self.preferred.load(Ordering::Relaxed);
            let mut connection = {
                let mut idle = lock(&self.idle);
                let limit = self.endpoint.limits.pool_idle;
                idle.retain(|connection| connection.idle_since.elapsed() < limit);
                let newest = idle.iter().rposition(|connection| connection.address == preferred)?;
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

    /// Connects to the preferred address, else to the next that can be connected to, which is preferred from then.
    async fn connect(&self, call: &Call) -> Result<(Connection, usize), PveError> {
        let count = self.endpoint.addresses.len();
        let first = self.preferred.load(Ordering::Relaxed);
        let mut failures: Vec<PveError> = Vec::new();
        for address in (0..count).map(|step| (first + step) % count) {
            match self.connect_to(call, address).await {
                Ok(connection) => {
                    self.preferred.store(address, Ordering::Relaxed);
                    return Ok((connection, address));
                }
                Err(error) => failures.push(error),
            }
        }
        Err(together(failures))
    }

    async fn connect_to(&self, call: &Call, address: usize) -> Result<Connection, PveError> {
        let place = &self.endpoint.addresses[address];
        let limit = self.endpoint.limits.connect;
        match connection::connect(place, address, &self.identity, limit).await {
            Ok((connection, trusted_as)) => {
                self.trusted(place, trusted_as);
                Ok(connection)
            }
            Err(failure) => Err(self.failed(call, address, failure)),
        }
    }

    fn trusted(&self, place: &Address, now: TrustedAs) {
        let mut before = lock(&self.trusted_as);
        if *before == now {
            return;
        }
        if let TrustedAs::Rotated { fingerprint, .. } = &now {
            tracing::warn!(
                key = %place,
                %fingerprint,
                "certificate is not the pinned one but signed by the pinned authority"
            );
        }
        *before = now;
    }

    /// The next call begins with another address, where there is one.
    fn demote(&self, address: usize) {
        let next = (address + 1) % self.endpoint.addresses.len();
        let _ = self.preferred.compare_exchange(address, next, Ordering::Relaxed, Ordering::Relaxed);
    }

    fn failed(&self, call: &Call, address: usize, failure: Failure) -> PveError {
        let (kind, text, certificate) = match failure {
            Failure::NoConnection { reason } => (Kind::Connect, reason, None),
            Failure::Broken { reason } => {
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

/// One error for all addresses: a refused certificate first, because that needs a person.
fn together(mut failures: Vec<PveError>) -> PveError {
    let worst = failures.iter().position(|error| *error.kind() == Kind::Tls).unwrap_or(0);
    let mut error = failures.remove(worst);
    for other in failures {
        error.parts.text.push_str(&format!("; {}: {}", other.place(), other.text()));
    }
    error
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
