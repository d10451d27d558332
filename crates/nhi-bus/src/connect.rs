//! One connection to the mesh, made with the identity's own key.
//!
//! It says plainly why a connection could not be made, tells everybody when the link goes and comes, and turns the
//! server's remarks about refused messages into errors somebody waits for. It knows no service and no bucket, and
//! never publishes into the void: while the link is down, publishing is an error.

mod address;
mod error;
mod inbox;
mod leave;
mod signals;

pub use self::{
    address::Target,
    error::{ConnectError, PublishError},
    signals::{Link, Refusal},
};

pub(crate) use self::leave::Brief;

use self::{error::explain, inbox::Inbox, leave::Leaving, signals::Signals};
use crate::{audit, cx::Cx, keys::Seed, trace::Tracer};
use async_nats::{Auth, AuthError, Client, ConnectOptions, HeaderMap};
use bytes::Bytes;
use nhi_model::{
    identity::{self, Agent, IdentityName},
    subject,
};
use serde::Deserialize;
use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};
use tokio::{
    sync::{Mutex, broadcast, watch},
    time::Instant,
};
use uuid::Uuid;

/// Lowest nats-server we talk to: older ones lack security fixes (`docs/design.md`, section 6).
const SERVER_FLOOR: (i64, i64, i64) = (2, 14, 3);
/// Lowest JetStream API level, which a server may be told to keep low: atomic batches came with level 2.
const JETSTREAM_LEVEL_MIN: u64 = 2;
/// A connection and its handshake take milliseconds; a host that drops packets takes this.
const CONNECT_SECONDS_MAX: u64 = 5;
/// An idle connection is found dead after two missed pings.
const PING_SECONDS: u64 = 10;
/// How long the client waits for answers we do not wait for ourselves (JetStream).
const REQUEST_SECONDS_MAX: u64 = 5;
/// How long an echo through the server may take before the connection counts as not ready.
const READY_SECONDS_MAX: u64 = 5;
/// How long JetStream may take to find its leader after the server has started.
const JETSTREAM_SECONDS_MAX: u64 = 10;
/// How long closing may take before the connection is dropped.
const CLOSE_SECONDS_MAX: u64 = 5;

/// A connection with the identity's own key. Clones are the same connection.
#[derive(Clone)]
pub struct Bus {
    inner: Arc<Inner>,
}

struct Inner {
    me: IdentityName,
    urls: String,
    client: Arc<Client>,
    signals: Arc<Signals>,
    inbox: Inbox,
    leaving: Leaving,
    echo: OnceLock<Echo>,
    /// Where the audit log ends as far as this connection knows; held while it appends.
    audit_end: Mutex<Option<audit::End>>,
    /// Only the tasks of the inbox and of what is given up: it lives as long as the connection, beyond the context that made it.
    cx: Cx,
}

/// How an identity learns that the server has taken in what it sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Echo {
    /// It hears itself.
    Comes,
    /// Somebody else's service has no inbox: the server refuses it.
    Refused,
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.cx.cancel();
    }
}

impl Bus {
    /// Connects, and returns when an echo came back through the server, so that everything works.
    ///
    /// The connection is not closed when `cx` stops, because services drain over it then: see [`Bus::close`].
    ///
    /// # Errors
    /// One sentence with the remedy, a variant for each cause.
    pub async fn connect(
        cx: &Cx,
        target: &Target,
        me: &IdentityName,
        seed: &Seed,
    ) -> Result<Self, ConnectError> {
        let addresses = target.addresses()?;
        let urls = target.display();
        let signals = Arc::new(Signals::new());
        let options = options(me, seed, &signals)
            .tls_client_config(target.tls().await?)
            .require_tls(target.ca_file.is_some());
        let client = options.connect(addresses).await.map_err(|error| explain(&error, &urls, me))?;
        let client = Arc::new(client);
        signals.watch_client(&client);
        let version = client.server_info().version;
        let (major, minor, patch) = SERVER_FLOOR;
        if !client.is_server_compatible(major, minor, patch) {
            return Err(ConnectError::TooOld { urls, version });
        }
        let cx = cx.detached();
        let mut refusals = signals.refusals();
        let inbox = Inbox::open(&cx, &client, me)
            .await
            .map_err(|error| ConnectError::Other { urls: urls.clone(), reason: error.to_string() })?;
        let (me, echo, audit_end) = (me.clone(), OnceLock::new(), Mutex::new(None));
        let leaving = Leaving::open(&cx);
        let inner = Inner { me, urls, client, signals, inbox, leaving, echo, audit_end, cx };
        let bus = Self { inner: Arc::new(inner) };
        bus.prove(&mut refusals).await?;
        if bus.is_trusted() {
            bus.check_jetstream().await?;
        }
        Ok(bus)
    }

    /// Whose connection this is.
    pub fn me(&self) -> &IdentityName {
        &self.inner.me
    }

    /// Whether this is one of the mesh's own agents or the break-glass identity: those who use the buckets and write
    /// to the audit log. Identities outside HOME have no `$JS` at all.
    pub(crate) fn is_trusted(&self) -> bool {
        let me = self.me();
        *me == identity::home() || Agent::ALL.into_iter().any(|agent| agent.identity() == *me)
    }

    /// Who takes finished spans of what is done over this connection.
    pub(crate) fn tracer(&self) -> Option<&Tracer> {
        self.inner.cx.tracer()
    }

    /// Where it leads, for messages to people.
    pub fn urls(&self) -> &str {
        &self.inner.urls
    }

    /// The state of the link, now and from now on.
    pub fn link(&self) -> watch::Receiver<Link> {
        self.inner.signals.link()
    }

    /// Whether the link is up.
    pub fn is_up(&self) -> bool {
        self.inner.signals.is_up()
    }

    /// Returns when the link is lost, even if it is back by the time the caller looks; the receiver must have
    /// been made before the work that must not outlive the link. Cancel safe.
    pub(crate) fn losses(&self) -> watch::Receiver<u64> {
        self.inner.signals.losses()
    }

    /// Everything the server refuses on this connection, from now on. The client drops some in a burst of more
    /// than a hundred, so a time limit is needed besides.
    pub fn refusals(&self) -> broadcast::Receiver<Refusal> {
        self.inner.signals.refusals()
    }

    /// A future that ends when the server refuses to publish to `subject`. Refusals count from this call on, not
    /// from the first poll, so make it before publishing. Cancel safe.
    pub fn refused(&self, subject: &str) -> impl Future<Output = ()> + Send + use<> {
        self.inner.signals.refused(Refusal::Publish(subject.to_owned()))
    }

    /// Largest message the server takes, bytes, headers included.
    pub fn payload_bytes_max(&self) -> usize {
        self.inner.client.max_payload()
    }

    /// Returns when the server has taken in everything sent before: subscriptions are active, publishes have
    /// arrived. `Client::flush` only empties the socket's buffer.
    ///
    /// # Errors
    /// [`ConnectError::NotReady`] when nothing came back in time.
    pub async fn ready(&self) -> Result<(), ConnectError> {
        match (self.echo().await?, self.inner.echo.get()) {
            (Echo::Comes, _) | (Echo::Refused, Some(Echo::Refused)) => Ok(()),
            (Echo::Refused, Some(Echo::Comes) | None) => Err(self.wrong_name()),
        }
    }

    /// The first echo also shows whose key this is: the server lets nobody else listen to an inbox of this name.
    /// `refusals` were collected since before the inbox was opened.
    async fn prove(&self, refusals: &mut broadcast::Receiver<Refusal>) -> Result<(), ConnectError> {
        let inner = &self.inner;
        let inbox = Refusal::Subscribe(inner.inbox.listens_to());
        let echo = tokio::select! {
            biased;
            () = signals::until(refusals, &inbox) => Echo::Refused,
            // The server handles a connection's messages in their order, so this comes after a refusal of the inbox.
            echo = self.echo() => echo?,
        };
        if echo == Echo::Refused {
            // One of somebody else's services has no inbox, and may listen to calls of its own name, as nobody else.
            let own = subject::call(inner.me.as_str(), &Uuid::new_v4().simple().to_string(), &inner.me);
            let (mut refusals, refused) = (self.refusals(), Refusal::Subscribe(own.clone()));
            let listening = inner.client.subscribe(own).await;
            let is_refused = tokio::select! {
                biased;
                () = signals::until(&mut refusals, &refused) => true,
                echo = self.echo() => echo? == Echo::Comes,
            };
            drop(listening);
            if is_refused || inner.me.is_reserved() {
                return Err(self.wrong_name());
            }
        }
        inner.echo.set(echo).expect("a connection is proved once");
        Ok(())
    }

    fn wrong_name(&self) -> ConnectError {
        ConnectError::WrongName { urls: self.inner.urls.clone(), me: self.inner.me.clone() }
    }

    async fn echo(&self) -> Result<Echo, ConnectError> {
        let (token, echo) = self.inner.inbox.expect();
        let subject = token.subject();
        // The server handles a connection's messages in their order, so a refusal of this very subject shows as
        // much as the echo that everything before it has arrived.
        let refused = self.refused(subject);
        let limit = Duration::from_secs(READY_SECONDS_MAX);
        let sent = self.inner.client.publish(subject.to_owned(), Bytes::new()).await;
        let outcome = match sent {
            Ok(()) => tokio::time::timeout(limit, async {
                tokio::select! {
                    echo = echo => echo.map(|_| Echo::Comes).map_err(|_| "the connection was closed".to_owned()),
                    () = refused => Ok(Echo::Refused),
                }
            })
            .await
            .unwrap_or_else(|_| Err(format!("nothing came back within {READY_SECONDS_MAX} s"))),
            Err(error) => Err(error.to_string()),
        };
        let inner = &self.inner;
        outcome.map_err(|reason| ConnectError::NotReady {
            urls: inner.urls.clone(),
            me: inner.me.clone(),
            reason,
        })
    }

    /// Publishes a message without headers, or says why not. That it was published does not mean that it was allowed
    /// or received.
    ///
    /// # Errors
    /// [`PublishError`], at once while the link is down.
    pub async fn publish_plain(&self, subject: &str, payload: Bytes) -> Result<(), PublishError> {
        self.send(subject, None, HeaderMap::new(), payload).await
    }

    /// The same with headers.
    pub(crate) async fn publish(
        &self,
        subject: &str,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        self.send(subject, None, headers, payload).await
    }

    /// The same with a reply subject.
    pub(crate) async fn send(
        &self,
        subject: &str,
        reply: Option<&str>,
        headers: HeaderMap,
        payload: Bytes,
    ) -> Result<(), PublishError> {
        let limit = self.payload_bytes_max();
        let size = headers_bytes(&headers) + payload.len();
        if size > limit {
            return Err(PublishError::TooLarge { subject: subject.to_owned(), size, limit });
        }
        let mut losses = self.losses();
        if !self.is_up() {
            return Err(PublishError::Disconnected { subject: subject.to_owned() });
        }
        let client = &self.inner.client;
        let publish = async {
            match reply {
                Some(reply) => {
                    let (subject, reply) = (subject.to_owned(), reply.to_owned());
                    client.publish_with_reply_and_headers(subject, reply, headers, payload).await
                }
                None => client.publish_with_headers(subject.to_owned(), headers, payload).await,
            }
        };
        // The client's queue of commands stands still while the link is down; do not stand with it.
        tokio::select! {
            sent = publish => sent.map_err(|error| match error.kind() {
                async_nats::PublishErrorKind::MaxPayloadExceeded => {
                    PublishError::TooLarge { subject: subject.to_owned(), size, limit }
                }
                async_nats::PublishErrorKind::InvalidSubject => {
                    PublishError::BadSubject { subject: subject.to_owned() }
                }
                async_nats::PublishErrorKind::Send => {
                    PublishError::Disconnected { subject: subject.to_owned() }
                }
            }),
            _ = losses.changed() => Err(PublishError::Disconnected { subject: subject.to_owned() }),
        }
    }

    /// Sends everything that waits to be sent, and closes the connection. Services are stopped before.
    pub async fn close(&self) {
        let inner = &self.inner;
        let mut link = self.link();
        let closing = async {
            if self.is_up()
                && let Err(error) = self.ready().await
            {
                tracing::debug!(err = %error, "connection closed without a last echo");
            }
            if inner.client.drain().await.is_ok() && self.is_up() {
                // An error means that the sender is gone, hence the connection too.
                let _closed = link.wait_for(|link| matches!(link, Link::Closed)).await;
            }
        };
        if tokio::time::timeout(Duration::from_secs(CLOSE_SECONDS_MAX), closing).await.is_err() {
            tracing::debug!("connection did not close in time and was dropped");
        }
        inner.signals.close();
        inner.cx.close().await;
    }

    pub(crate) fn client(&self) -> &Client {
        &self.inner.client
    }

    /// Listens to a subject for one answer; nothing when the connection is closed.
    pub(crate) async fn listen_briefly(&self, subject: String) -> Option<Brief> {
        let messages = self.inner.client.subscribe(subject).await.ok()?;
        Some(self.inner.leaving.brief(messages))
    }

    pub(crate) fn audit_end(&self) -> &Mutex<Option<audit::End>> {
        &self.inner.audit_end
    }

    pub(crate) fn inbox(&self) -> &Inbox {
        &self.inner.inbox
    }

    /// Waits while JetStream looks for its leader, and checks what it can.
    async fn check_jetstream(&self) -> Result<(), ConnectError> {
        let deadline = Instant::now() + Duration::from_secs(JETSTREAM_SECONDS_MAX);
        let mut pause = tokio::time::interval(Duration::from_millis(250));
        loop {
            pause.tick().await;
            let reason = match self.jetstream_level().await {
                Ok(level) if level >= JETSTREAM_LEVEL_MIN => return Ok(()),
                Ok(level) => format!("its API level is {level}, {JETSTREAM_LEVEL_MIN} is needed"),
                Err(Problem { err_code: ERR_NO_LEADER, description }) if Instant::now() < deadline => {
                    tracing::debug!(err = description, "jetstream does not answer yet");
                    continue;
                }
                Err(problem) => problem.description,
            };
            let inner = &self.inner;
            return Err(ConnectError::NoJetStream { urls: inner.urls.clone(), me: inner.me.clone(), reason });
        }
    }

    async fn jetstream_level(&self) -> Result<u64, Problem> {
        let problem = |description: String| Problem { err_code: 0, description };
        let refused = self.refused(JETSTREAM_INFO);
        let asked = self.inner.client.request(JETSTREAM_INFO, Bytes::new());
        let message = tokio::select! {
            answer = asked => answer.map_err(|error| problem(error.to_string()))?,
            () = refused => return Err(problem(format!("the server refuses {JETSTREAM_INFO}"))),
        };
        let answer: JetStreamInfo =
            serde_json::from_slice(&message.payload).map_err(|error| problem(error.to_string()))?;
        answer.error.map_or(Ok(answer.api.level), Err)
    }
}

/// The part of the answer to `$JS.API.INFO` that is looked at.
#[derive(Deserialize)]
struct JetStreamInfo {
    #[serde(default)]
    api: JetStreamApi,
    error: Option<Problem>,
}

#[derive(Default, Deserialize)]
struct JetStreamApi {
    #[serde(default)]
    level: u64,
}

#[derive(Deserialize)]
struct Problem {
    #[serde(default)]
    err_code: u64,
    #[serde(default)]
    description: String,
}

/// A cluster that has no leader yet, as after a start.
const ERR_NO_LEADER: u64 = 10008;
const JETSTREAM_INFO: &str = "$JS.API.INFO";

impl fmt::Debug for Bus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bus")
            .field("me", &self.inner.me)
            .field("urls", &self.inner.urls)
            .field("link", &*self.link().borrow())
            .finish_non_exhaustive()
    }
}

/// Bytes the headers take on the wire: the server counts them as payload.
fn headers_bytes(headers: &HeaderMap) -> usize {
    const FRAME: usize = "NATS/1.0\r\n\r\n".len();
    let line = |name: &str, value: &str| name.len() + value.len() + ": \r\n".len();
    if headers.is_empty() {
        return 0;
    }
    let lines = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    FRAME + lines.map(|(name, value)| line(name.as_ref(), value.as_str())).sum::<usize>()
}

fn options(me: &IdentityName, seed: &Seed, signals: &Arc<Signals>) -> ConnectOptions {
    // `with_nkey` would keep the seed as a plain string for as long as the connection lives.
    let seed = seed.clone();
    let sign = move |nonce: Vec<u8>| {
        let signed = nkeys::KeyPair::from_seed(seed.expose())
            .and_then(|keys| Ok((keys.public_key(), keys.sign(&nonce)?)))
            .map_err(AuthError::new);
        async move {
            let (public, signature) = signed?;
            let mut auth = Auth::new();
            auth.nkey = Some(public);
            auth.signature = Some(signature);
            Ok(auth)
        }
    };
    let (events, delays) = (signals.clone(), signals.clone());
    ConnectOptions::with_auth_callback(sign)
        .name(me)
        .custom_inbox_prefix(subject::inbox_prefix(me))
        .connection_timeout(Duration::from_secs(CONNECT_SECONDS_MAX))
        .request_timeout(Some(Duration::from_secs(REQUEST_SECONDS_MAX)))
        .ping_interval(Duration::from_secs(PING_SECONDS))
        .max_reconnects(None)
        .reconnect_delay_callback(move |attempt| delays.reconnect_delay(attempt))
        .event_callback(move |event| {
            events.handle(&event);
            std::future::ready(())
        })
}
