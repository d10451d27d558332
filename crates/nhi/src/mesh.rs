//! The mesh as a command sees it: where it is, a connection as the chosen identity, and the typed calls.

use crate::{
    cli::Global,
    config::Config,
    exit::{Ending, Exit, Failure},
    layout::Layout,
};
use anyhow::Context;
use nhi_bus::{
    call::{self, Call, CallError, Timeout},
    connect::{Bus, ConnectError, Target},
    cx::Cx,
    discover::DiscoverError,
    keys::{self, Seed},
    private::Lock,
    server::{self, ServerFiles},
    tls,
};
use nhi_model::{identity::IdentityName, refusal::RefusalCode};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{
    fs, io,
    path::PathBuf,
    sync::{Mutex, PoisonError},
};

/// `.nhi/run/endpoints.json`: where a running mesh is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Endpoints {
    /// URL of nats-server.
    pub nats: String,
    /// URL of the gateway.
    pub http: String,
    /// Process id of `nhi up`.
    pub pid: u32,
}

impl Endpoints {
    /// Reads the file; `None` when nothing runs here, also when a `nhi up` that was killed left it behind.
    ///
    /// # Errors
    /// [`Exit::Config`] when the file is there and cannot be understood.
    pub(crate) fn read(layout: &Layout) -> Result<Option<Self>, Failure> {
        Ok(Self::look(layout)?.filter(|_| is_held(layout)))
    }

    /// Reads the file.
    fn look(layout: &Layout) -> Result<Option<Self>, Failure> {
        let path = layout.endpoints();
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => {
                return Err(error).context(format!("cannot read {}", path.display())).ending(Exit::Config);
            }
        };
        serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} is not what nhi up writes; restart nhi up", path.display()))
            .ending(Exit::Config)
    }

    /// Writes the file whole or not at all.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(crate) fn write(&self, layout: &Layout) -> io::Result<()> {
        let path = layout.endpoints();
        let next = path.with_extension("json.next");
        fs::write(&next, serde_json::to_vec(self).map_err(io::Error::other)?)?;
        fs::rename(&next, &path)
    }
}

/// An identity's connection.
#[derive(Debug)]
pub(crate) struct Mesh {
    /// Its tasks.
    pub cx: Cx,
    /// The connection.
    pub bus: Bus,
    /// What goes on when the command is interrupted, one sentence.
    goes_on: Mutex<Option<String>>,
}

/// Where the mesh of this directory is.
///
/// # Errors
/// [`Exit::Unreachable`] when nothing runs here.
pub(crate) fn target(
    layout: &Layout,
    joined: &[String],
    ca_file: Option<&std::path::Path>,
) -> Result<Target, Failure> {
    if !joined.is_empty() {
        let ca_file = ca_file.map(std::path::Path::to_owned).or_else(|| enrolled_in(layout));
        return Ok(Target { urls: joined.to_vec(), ca_file });
    }
    let endpoints = running(layout)?;
    Ok(own_target(layout, endpoints.nats))
}

/// The authority of the mesh this machine was enrolled in. One with its key beside it is our own, made for the
/// gateway: the servers we join are somebody else's, and know nothing of it.
fn enrolled_in(layout: &Layout) -> Option<PathBuf> {
    let authority = tls::ca_file(&layout.tls());
    (authority.exists() && !tls::is_own(&layout.tls())).then_some(authority)
}

/// Where the `nhi up` of this directory is, or why it is not there.
fn running(layout: &Layout) -> Result<Endpoints, Failure> {
    let root = layout.root().display();
    let sentence = match (Endpoints::look(layout)?, is_held(layout)) {
        (Some(endpoints), true) => return Ok(endpoints),
        (Some(gone), false) => {
            format!("the `nhi up` of {root} (process {}) is gone: start it again", gone.pid)
        }
        (None, true) => {
            let holder = fs::read_to_string(layout.holder("up")).unwrap_or_default();
            format!(
                "`nhi up` is still starting in {root}, or stopping (process {}): try again in a moment",
                holder.trim()
            )
        }
        (None, false) => {
            format!("no mesh runs in {root}: start it with `nhi up`, or name its directory with --dir")
        }
    };
    Err(Failure::new(Exit::Unreachable, sentence))
}

/// The server that runs with the files of this directory, also while `nhi up` starts, and when it was killed and left
/// the server behind.
pub(crate) fn server_here(layout: &Layout) -> Option<Target> {
    let files = ServerFiles::new(&layout.data()).ok()?;
    Some(own_target(layout, server::running_url(&files)?))
}

/// Whether a `nhi up` lives in the directory. A lock that cannot be looked at belongs to somebody who runs it.
pub(crate) fn is_held(layout: &Layout) -> bool {
    let lock = layout.lock("up");
    lock.exists() && !matches!(Lock::try_acquire(&lock), Ok(Some(_)))
}

/// The server `nhi up` started here. It has TLS when its URL says so: the authority may be there for the gateway
/// alone, or from a time when the server listened beyond loopback.
pub(crate) fn own_target(layout: &Layout, url: String) -> Target {
    let ca_file = url.starts_with("tls://").then(|| layout.tls().join("ca.pem"));
    Target { urls: vec![url], ca_file }
}

impl Mesh {
    /// Connects as an identity whose key is in `.nhi/keys`.
    ///
    /// # Errors
    /// [`Exit::Unreachable`] or [`Exit::Refused`], with what to do.
    pub(crate) async fn open(layout: &Layout, target: &Target, name: &str) -> Result<Self, Failure> {
        let me = IdentityName::parse(name).ending(Exit::Usage)?;
        let seed = keys::load(&layout.keys(), &me).ending(Exit::Refused)?;
        Self::open_with(target, &me, &seed).await
    }

    /// The mesh that runs here, for those who can do without; `None` when none does, or it does not let us in.
    pub(crate) async fn here(layout: &Layout, config: &Config, global: &Global) -> Option<Self> {
        if config.nats_join.is_empty() && !matches!(Endpoints::read(layout), Ok(Some(_))) {
            return None;
        }
        let target = target(layout, &config.nats_join, config.nats_ca_file.as_deref()).ok()?;
        Self::open(layout, &target, global.identity()).await.ok()
    }

    /// Connects with a key at hand.
    ///
    /// # Errors
    /// As [`Mesh::open`].
    pub(crate) async fn open_with(target: &Target, me: &IdentityName, seed: &Seed) -> Result<Self, Failure> {
        let cx = Cx::new();
        let bus = Bus::connect(&cx, target, me, seed).await.map_err(connect_failure)?;
        Ok(Self { cx, bus, goes_on: Mutex::new(None) })
    }

    /// From now on an interruption ends only the command: this is what a person is told then.
    pub(crate) fn goes_on(&self, sentence: String) {
        *self.goes_on.lock().unwrap_or_else(PoisonError::into_inner) = Some(sentence);
    }

    /// What an interruption ends, or does not.
    pub(crate) fn interrupted(&self) -> Failure {
        let told = self.goes_on.lock().unwrap_or_else(PoisonError::into_inner).take();
        Failure::new(Exit::Interrupted, told.unwrap_or_else(|| "interrupted".to_owned()))
    }

    /// Calls an endpoint.
    ///
    /// # Errors
    /// The call's failure with its exit code.
    pub(crate) async fn call<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        service: &str,
        endpoint: &str,
        request: &Q,
    ) -> Result<A, Failure> {
        call::call(&self.bus, service, endpoint, request).await.map_err(call_failure)
    }

    /// Calls an endpoint that looks at the lab first, which may take as long as a call may.
    ///
    /// # Errors
    /// As [`Mesh::call`].
    pub(crate) async fn call_long<Q: Serialize + Sync, A: DeserializeOwned>(
        &self,
        service: &str,
        endpoint: &str,
        request: &Q,
    ) -> Result<A, Failure> {
        let body = serde_json::to_vec(request).context("serialise the request")?;
        let asked = Call::new(&self.bus, service, endpoint, body.into()).map_err(call_failure)?;
        let answer = asked.timeout(Timeout::LONGEST).send(&self.bus).await.map_err(call_failure)?;
        serde_json::from_slice(&answer)
            .with_context(|| format!("the answer of {service}.{endpoint} is not readable"))
            .ending(Exit::Failed)
    }

    /// Closes the connection.
    pub(crate) async fn close(self) {
        self.bus.close().await;
        self.cx.close().await;
    }
}

/// The exit code of a connection that did not come about.
pub(crate) fn connect_failure(error: ConnectError) -> Failure {
    let exit = match &error {
        ConnectError::WrongKey { .. } | ConnectError::WrongName { .. } | ConnectError::BadSeed { .. } => {
            Exit::Refused
        }
        ConnectError::BadAddress { .. } => Exit::Usage,
        ConnectError::BadCa { .. } => Exit::Config,
        _ => Exit::Unreachable,
    };
    Failure { exit, error: error.into() }
}

/// The exit code of discovery that failed.
pub(crate) fn discover_failure(error: DiscoverError) -> Failure {
    let exit = match &error {
        DiscoverError::Refused => Exit::Refused,
        DiscoverError::Disconnected => Exit::Unreachable,
    };
    Failure { exit, error: error.into() }
}

/// The exit code of a call that failed.
pub(crate) fn call_failure(error: CallError) -> Failure {
    let exit = match &error {
        CallError::Fault { subject, fault, status } => match (refusal(subject, &fault.code), status) {
            (Some(refusal), _) => Exit::of(refusal),
            (None, 400 | 413) => Exit::Usage,
            (None, 401 | 403) => Exit::Refused,
            (None, 404 | 410) => Exit::NotFound,
            (None, 409) => Exit::Conflict,
            (None, 503) => Exit::Unreachable,
            (None, 504) => Exit::Timeout,
            (None, _) => Exit::Failed,
        },
        CallError::Refused { .. } => Exit::Refused,
        CallError::Timeout { .. } => Exit::Timeout,
        CallError::NobodyAnswers { .. }
        | CallError::Disconnected { .. }
        | CallError::Lost { .. }
        | CallError::Gone { .. } => Exit::Unreachable,
        CallError::TooLarge { .. } | CallError::BadName { .. } | CallError::BadId => Exit::Usage,
        CallError::Gap { .. } | CallError::Malformed { .. } | CallError::NotJson { .. } => Exit::Failed,
    };
    Failure { exit, error: error.into() }
}

/// The refusal a fault is. The words are those of the service `act`; others say `expired` and mean something else.
fn refusal(subject: &str, code: &str) -> Option<RefusalCode> {
    let is_act = subject.split('.').nth(1) == Some("act");
    RefusalCode::ALL.into_iter().find(|known| is_act && known.as_str() == code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::refusal::Refusal;

    fn exit(subject: &str, code: RefusalCode) -> Exit {
        let fault = Refusal::new(code, "no", "do not").fault();
        let status = fault.status();
        call_failure(CallError::Fault { subject: subject.to_owned(), fault: Box::new(fault), status }).exit
    }

    #[test]
    fn a_refusal_ends_with_what_can_be_done_about_it() {
        let act = |code| exit("nhi.act.plan.owner", code);
        for (code, exit) in [
            (RefusalCode::Frozen, Exit::Refused),
            (RefusalCode::Protected, Exit::Refused),
            (RefusalCode::Quota, Exit::Refused),
            (RefusalCode::UnknownGuest, Exit::NotFound),
            (RefusalCode::Busy, Exit::Conflict),
            (RefusalCode::Expired, Exit::Conflict),
            (RefusalCode::NodeOffline, Exit::Unreachable),
            (RefusalCode::NeedsApproval, Exit::NeedsApproval),
            (RefusalCode::AmbiguousGuest, Exit::Usage),
        ] {
            assert_eq!(act(code), exit, "{}", code.as_str());
        }
        // The control: the same word of another service means something else there.
        assert_eq!(exit("nhi.state.get.owner", RefusalCode::Expired), Exit::NotFound);
        assert_eq!(exit("nhi.state.get.owner", RefusalCode::Frozen), Exit::Unreachable);
    }
}
