//! Looks whether a server that is not ours has our accounts, by trying what must work and what must not.
//!
//! It tries only what harms nothing where it is let through: subjects of buckets, services and hosts that do not
//! exist. What it cannot see is said in the block to paste: `sync_interval` is visible to the system account alone.

use crate::{
    connect::{Bus, ConnectError, Refusal, Target},
    cx::Cx,
    keys::{self, KeyError, Seed},
    registry::{Kind, Registry, keys_dir},
};
use async_nats::{ConnectOptions, HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::{StreamExt as _, future::try_join_all};
use nhi_model::{
    identity::{self, IdentityName, Role},
    key::Key,
    subject,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};
use serde::Serialize;
use std::{path::Path, sync::Arc, time::Duration};
use tokio::{sync::broadcast, time::timeout};

/// A bucket, and a service, that does not exist.
const BUCKET: &str = "nhi-probe";
/// How long an answer may take; it comes within milliseconds on a healthy server.
const ANSWER_SECONDS_MAX: u64 = 2;
/// How long a refusal may take from the socket to us, on a machine that is busy.
const PASSED_ON_MS_MAX: u64 = 300;

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// As whom; `anybody` is somebody without a key.
    pub identity: String,
    /// What must be so.
    pub what: String,
    /// Whether it is.
    pub holds: bool,
}

/// Why nothing could be tried.
#[derive(Debug, thiserror::Error)]
pub enum ProbeError {
    /// The key of `home`, which listens at the other end, is not here.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// `home` cannot connect.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection was lost.
    #[error("the connection to the server was lost while probing it: try again")]
    Lost,
}

/// Tries the identities whose keys are here. An account that was not pasted, or pasted wrong, shows as a check that
/// does not hold.
///
/// # Errors
/// [`ProbeError`] when not even `home` can connect.
pub async fn probe(dir: &Path, registry: &Registry, target: &Target) -> Result<Vec<Check>, ProbeError> {
    let cx = Cx::new();
    let keys_dir = keys_dir(dir);
    let (me, seed) = (identity::home(), keys::load(&keys_dir, &identity::home())?);
    let home = Bus::connect(&cx, target, &me, &seed).await?;
    let mut checks = vec![
        check("home", "connects with its key and finds JetStream", true),
        check("anybody", "is refused without a key", !lets_anybody_in(target).await),
        check(
            "anybody",
            "is refused with a key the server does not know",
            !lets_stranger_in(&cx, target).await,
        ),
    ];
    for (name, identity) in registry.iter().filter(|(_, identity)| identity.kind != Kind::Home) {
        let seed = match keys::load(&keys_dir, name) {
            Ok(seed) => seed,
            // Its key was given away, so it cannot be tried from here.
            Err(KeyError::Missing { .. }) => continue,
            Err(error) => return Err(error.into()),
        };
        match Bus::connect(&cx, target, name, &seed).await {
            Ok(bus) => {
                checks.push(check(name.as_str(), "connects with its key", true));
                checks.extend(of_identity(&home, &bus, identity.kind).await?);
                bus.close().await;
            }
            Err(error) => {
                checks.push(check(name.as_str(), &format!("connects with its key ({error})"), false))
            }
        }
    }
    home.close().await;
    cx.close().await;
    Ok(checks)
}

fn check(identity: &str, what: &str, holds: bool) -> Check {
    Check { identity: identity.to_owned(), what: what.to_owned(), holds }
}

async fn lets_stranger_in(cx: &Cx, target: &Target) -> bool {
    Bus::connect(cx, target, &nobody(), &Seed::generate()).await.is_ok()
}

fn nobody() -> IdentityName {
    IdentityName::parse("nobody").expect("the word has only letters")
}

/// Without any credential, as `no_auth_user` permits it.
async fn lets_anybody_in(target: &Target) -> bool {
    let mut options = ConnectOptions::new().connection_timeout(Duration::from_secs(ANSWER_SECONDS_MAX));
    if let Some(path) = &target.ca_file {
        let mut roots = rustls::RootCertStore::empty();
        let Ok(certificates) = CertificateDer::pem_file_iter(path) else { return false };
        roots.add_parsable_certificates(certificates.flatten());
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("the ring provider supports the default protocol versions");
        options = options
            .require_tls(true)
            .tls_client_config(tls.with_root_certificates(roots).with_no_client_auth());
    }
    options.connect(target.urls.as_slice()).await.is_ok()
}

async fn of_identity(home: &Bus, bus: &Bus, kind: Kind) -> Result<Vec<Check>, ProbeError> {
    let me = bus.me();
    let call = |caller: &IdentityName| subject::call("probe", "nothing", caller);
    let feed = subject::feed(BUCKET).replace('>', "x");
    let mut forbidden = vec![
        ("write to a bucket", subject::kv(BUCKET, &Key::graph())),
        ("change a stream", "$JS.API.STREAM.UPDATE.nhi-probe".to_owned()),
        ("call under another name", call(&nobody())),
        ("speak in the change feed", feed),
    ];
    match kind {
        Kind::Home | Kind::Trusted(_) => {}
        Kind::Role(Role::Edge) => forbidden.push(("ask for discovery", "$SRV.PING".to_owned())),
        Kind::Role(Role::Service) => forbidden.push(("call", call(me))),
        Kind::Role(Role::Viewer | Role::Agent | Role::Operator | Role::Owner) => {
            forbidden.push(("read through JetStream", "$JS.API.STREAM.INFO.nhi-probe".to_owned()));
        }
    }
    let publishing = try_join_all(forbidden.iter().map(|(_, subject)| is_refused(bus, subject)));
    let inbox = subject::inbox_all(&identity::home());
    let (refused, deaf) = tokio::try_join!(publishing, subscribing_is_refused(bus, &inbox))?;
    let tried = forbidden.iter().zip(refused);
    let mut checks: Vec<Check> =
        tried.map(|((what, _), refused)| check(me.as_str(), &format!("may not {what}"), refused)).collect();
    checks.push(check(me.as_str(), "may not read others' replies", deaf));
    if kind.role().is_some_and(|role| role.has_own_account() && role != Role::Edge) {
        let holds = crosses_border(home, bus).await?;
        checks.push(check(
            me.as_str(),
            "reaches HOME through a border that replaces its reply subject",
            holds,
        ));
    }
    Ok(checks)
}

async fn is_refused(bus: &Bus, subject: &str) -> Result<bool, ProbeError> {
    let refused = bus.refused(subject);
    bus.publish(subject, HeaderMap::new(), Bytes::new()).await.map_err(|_| ProbeError::Lost)?;
    came_before_echo(bus, refused).await
}

/// The server deals with one connection's messages in order: with the echo a refusal has come too.
async fn came_before_echo(bus: &Bus, refused: impl Future<Output = ()>) -> Result<bool, ProbeError> {
    tokio::pin!(refused);
    tokio::select! {
        () = &mut refused => return Ok(true),
        ready = bus.ready() => ready?,
    }
    // It still has to pass from the client's reader to us.
    Ok(timeout(Duration::from_millis(PASSED_ON_MS_MAX), refused).await.is_ok())
}

async fn subscribing_is_refused(bus: &Bus, subject: &str) -> Result<bool, ProbeError> {
    let mut refusals = bus.refusals();
    let wanted = Refusal::Subscribe(subject.to_owned());
    let _subscription = bus.client().subscribe(subject.to_owned()).await.map_err(|_| ProbeError::Lost)?;
    let refused = async {
        loop {
            match refusals.recv().await {
                Ok(refusal) if refusal == wanted => return,
                Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    };
    came_before_echo(bus, refused).await
}

/// Asks for a service that only we pretend to be, and looks at what arrives in HOME.
async fn crosses_border(home: &Bus, bus: &Bus) -> Result<bool, ProbeError> {
    let id = uuid::Uuid::new_v4().simple().to_string();
    let [_, _, question] = subject::Verb::Ping.subjects(BUCKET, &id);
    let mut asked: Subscriber =
        home.client().subscribe(question.clone()).await.map_err(|_| ProbeError::Lost)?;
    home.ready().await?;
    let answer = bus.client().request(question, Bytes::new());
    let serve = async {
        let Message { reply: Some(reply), .. } = asked.next().await? else { return None };
        let replaced = reply.starts_with("_R_.");
        home.client().publish(reply, Bytes::from_static(b"probe")).await.ok()?;
        Some(replaced)
    };
    let both = async { tokio::join!(serve, answer) };
    match timeout(Duration::from_secs(ANSWER_SECONDS_MAX), both).await {
        Ok((replaced, answer)) => Ok(replaced == Some(true) && answer.is_ok()),
        Err(_) => Ok(false),
    }
}
