//! Who may do what, as nats-server's configuration: rendered from the registry, put in force by a reload.
//!
//! The mesh's own agents and JetStream live in the account HOME, each agent with an allow list. Everybody else has
//! an account of their own, which imports nothing but the calls that carry their own name, discovery and the
//! change feed. So a reply subject that they choose is resolved in their own account, where nobody listens, and
//! what they may not do is refused by the server, whatever program they run.
//!
//! It decides no right: those stand in [`nhi_model::rights`] and [`nhi_model::writers`].

mod conf;
mod probe;

pub use self::probe::{Check, ProbeError, probe};

use crate::{
    private::{self, Lock, PrivateError},
    registry::{self, Identity, Kind, Registry, RegistryError},
    server::{ReloadError, ServerFiles, ServerPlan, reload_running},
};
use conf::{list, quote};
use nhi_model::{
    call::PAYLOAD_BYTES_MAX,
    identity::{self, IdentityName, Role},
    rights::{self, Grant},
    subject, writers,
};
use std::{fmt::Write as _, fs, io, path::Path};

/// The server's part with places to fill in; comments and all, it is what a person reads in `.nhi`.
const TEMPLATE: &str = include_str!("../../../nats/server.conf");

/// Connections of one outside identity: itself, its tools, and the gateway on its behalf.
const CONNECTIONS_MAX: u32 = 64;
/// Subscriptions of one outside account. A client needs one for replies and one for the feed.
const SUBSCRIPTIONS_MAX: u32 = 1024;

/// A whole configuration: the server's part, and the accounts it includes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// `.nhi/nats-server.conf`
    pub server: String,
    /// `.nhi/accounts.conf`
    pub accounts: String,
}

/// The configuration of a server of our own. Equal inputs give equal text.
pub fn render(registry: &Registry, plan: &ServerPlan) -> Rendered {
    Rendered { server: server(plan), accounts: accounts(registry) }
}

/// What a user may publish and subscribe: allow lists, never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permissions {
    /// Subjects it may publish to.
    pub publish: Vec<String>,
    /// Subjects it may subscribe.
    pub subscribe: Vec<String>,
}

/// What an identity may publish and subscribe in its account; nothing for `home`, which is not restricted, and for
/// names that do not exist.
pub fn permissions(registry: &Registry, name: &IdentityName) -> Option<Permissions> {
    let identity = registry.get(name)?;
    let (publish, subscribe) = match identity.kind {
        Kind::Home => return None,
        Kind::Trusted(agent) => (writers::publish_subjects(agent), writers::subscribe_subjects(agent)),
        Kind::Role(Role::Service) => (answers(), listens(name)),
        Kind::Role(role @ (Role::Viewer | Role::Agent | Role::Operator | Role::Owner | Role::Edge)) => {
            let outside = Outside { name, identity, role };
            (outside.publish(&registry.services()), outside.subscribe())
        }
    };
    Some(Permissions { publish, subscribe })
}

/// Writes both files of a configuration, before a start. What is recorded by now beats `registry`, which may have
/// been read before another process added somebody.
///
/// # Errors
/// [`PrivateError`] when they cannot be written.
pub fn write(registry: &Registry, plan: &ServerPlan) -> Result<(), PrivateError> {
    let dir = plan.files.dir();
    private::ensure_dir(dir)?;
    let _lock = registry::lock(dir)?;
    let recorded = Registry::load(dir).ok();
    let rendered = render(recorded.as_ref().unwrap_or(registry), plan);
    private::write(&plan.files.accounts(), rendered.accounts.as_bytes())?;
    private::write(&plan.files.config(), rendered.server.as_bytes())
}

/// What putting a change of identities in force came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The running server has it.
    Now,
    /// No server runs with these files; the next start takes it.
    AtNextStart,
}

/// Why a change of identities is not in force.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The identities cannot be read.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// The configuration cannot be written.
    #[error(transparent)]
    Private(#[from] PrivateError),
    /// The directory has no usable path.
    #[error("cannot use {dir}")]
    Dir {
        /// `.nhi`
        dir: String,
        /// Why.
        source: io::Error,
    },
    /// The server refuses it. What was in force stays in force, on disk too.
    #[error("the change is recorded but not in force")]
    Reload(#[source] ReloadError),
    /// The server did not say that it took it. It is on disk, and what was in force may still be.
    #[error(
        "the change is recorded and written, but nats-server did not confirm it: it takes effect as soon as the server \
         reads its configuration, at the latest when it restarts; give the command again to try again"
    )]
    Unconfirmed(#[source] ReloadError),
}

/// Puts the identities as they are recorded now in force, without dropping anybody who stays. Any process of this
/// user may call it; they take turns. Twice is as good as once, and takes some milliseconds, so call it whenever it
/// may not have worked before.
///
/// Not cancel safe in the sense that the server may then have the change unseen.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply(dir: &Path) -> Result<Applied, ApplyError> {
    let unusable = |source| ApplyError::Dir { dir: dir.display().to_string(), source };
    let files = ServerFiles::new(dir).map_err(unusable)?;
    let _lock = lock(dir).await?;
    let path = files.accounts();
    let before = fs::read(&path).ok();
    write_accounts(&files, &Registry::load(dir)?)?;
    match reload_twice(&files).await {
        Ok(()) => Ok(Applied::Now),
        Err(ReloadError::NotRunning) => Ok(Applied::AtNextStart),
        Err(error @ ReloadError::Refused { .. }) => {
            // A server that refuses it while running would not start with it either.
            if let Some(before) = before {
                private::write(&path, &before)?;
            }
            Err(ApplyError::Reload(error))
        }
        // It may take it yet. Putting the old text back would let somebody in again who was revoked.
        Err(error @ (ReloadError::NoAnswer { .. } | ReloadError::Io(_))) => {
            Err(ApplyError::Unconfirmed(error))
        }
    }
}

/// Writes the accounts as they are recorded, before a server is started again: what it never took while it ran, it
/// takes now. Where nothing is recorded, what is written stays.
///
/// # Errors
/// [`ApplyError`], when the identities cannot be read or the file not be written.
pub(crate) async fn refresh(files: &ServerFiles) -> Result<(), ApplyError> {
    let _lock = lock(files.dir()).await?;
    match Registry::load(files.dir()) {
        Ok(registry) => Ok(write_accounts(files, &registry)?),
        Err(RegistryError::Missing { .. }) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// A text that stands there already is not written again.
fn write_accounts(files: &ServerFiles, registry: &Registry) -> Result<(), PrivateError> {
    let (path, text) = (files.accounts(), accounts(registry));
    if fs::read(&path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    private::write(&path, text.as_bytes())
}

/// A reload makes nats-server (2.15.1) subscribe the service imports of accounts that were there before it, and not
/// those of a new one (`configureAccounts` in its `server.go`): the new identity connects, and each of its calls is
/// lost without a word. To the second reload the account is not new any more.
async fn reload_twice(files: &ServerFiles) -> Result<(), ReloadError> {
    reload_running(files).await?;
    reload_running(files).await
}

async fn lock(dir: &Path) -> Result<Lock, PrivateError> {
    let dir = dir.to_owned();
    let waiting = tokio::task::spawn_blocking(move || registry::lock(&dir));
    waiting.await.expect("taking a lock does not panic")
}

/// What to paste into the configuration of a server that is not ours, with what else it must have.
pub fn block(registry: &Registry) -> String {
    let mut out = String::from(
        "# Neural-Home's accounts. Paste this at the top level of nats-server's configuration, or save it beside it\n\
         # and write: include \"accounts.conf\". Then reload, twice: the first makes new accounts, the second links\n\
         # their calls. nats-server --signal reload && sleep 1 && nats-server --signal reload\n\
         # The server must be 2.14.3 or newer and must also say:\n",
    );
    let _ = writeln!(out, "#   max_payload: {PAYLOAD_BYTES_MAX}");
    out.push_str("#   jetstream { sync_interval: always }   # else a power cut loses acknowledged writes\n");
    out.push_str("# It must not set no_auth_user, and must not carry MQTT into these accounts.\n\n");
    out.push_str(&accounts(registry));
    out
}

fn server(plan: &ServerPlan) -> String {
    let address = plan.listen.address();
    // nats-server's word for any free port is -1.
    let port = if address.port() == 0 { "-1".to_owned() } else { address.port().to_string() };
    let listen = if address.is_ipv6() {
        format!("[{}]:{port}", address.ip())
    } else {
        format!("{}:{port}", address.ip())
    };
    let tls = plan.listen.tls().map_or_else(
        || "# Loopback only, so without TLS.".to_owned(),
        |tls| {
            let (cert, key) = (tls.cert_file.to_string_lossy(), tls.key_file.to_string_lossy());
            format!("tls {{\n  cert_file: {}\n  key_file: {}\n}}", quote(&cert), quote(&key))
        },
    );
    let mut text = TEMPLATE.to_owned();
    for (place, value) in [
        ("@LISTEN@", quote(&listen)),
        ("@TLS@", tls),
        ("@PAYLOAD_BYTES_MAX@", PAYLOAD_BYTES_MAX.to_string()),
        ("@STORE_DIR@", quote(&plan.files.store().to_string_lossy())),
        ("@MEMORY_BYTES_MAX@", plan.memory_bytes_max.to_string()),
        ("@STORE_BYTES_MAX@", plan.store_bytes_max.to_string()),
    ] {
        assert_eq!(text.matches(place).count(), 1, "the template has one place for {place}");
        text = text.replace(place, &value);
    }
    text
}

fn accounts(registry: &Registry) -> String {
    let outside: Vec<Outside<'_>> =
        registry.iter().filter_map(|(name, one)| Outside::of(name, one)).collect();
    let mut out =
        String::from("# Rendered from identities.json; change identities with `nhi auth`, not here.\n");
    out.push_str("accounts {\n  HOME {\n    jetstream: enabled\n    users: [\n");
    for (name, identity) in registry.iter() {
        home_user(&mut out, registry, name, identity);
    }
    out.push_str("    ]\n    exports: [\n");
    exports(&mut out, &outside);
    out.push_str("    ]\n  }\n");
    for one in &outside {
        one.account(&mut out, registry);
    }
    out.push_str("  SYS {}\n}\n");
    out
}

/// A user of HOME; nothing for those who have an account of their own.
fn home_user(out: &mut String, registry: &Registry, name: &IdentityName, identity: &Identity) {
    let what = match identity.kind {
        Kind::Home => "the break-glass identity, unrestricted inside HOME",
        Kind::Trusted(_) => "a trusted agent",
        Kind::Role(Role::Service) => "somebody else's service, answers only",
        Kind::Role(Role::Viewer | Role::Agent | Role::Operator | Role::Owner | Role::Edge) => return,
    };
    let _ = writeln!(out, "      # {name}: {what}");
    user(out, registry, name, identity);
}

/// One user with its key and, but for `home`, its allow lists.
fn user(out: &mut String, registry: &Registry, name: &IdentityName, identity: &Identity) {
    let nkey = quote(&identity.public_key);
    let Some(Permissions { publish, subscribe }) = permissions(registry, name) else {
        let _ = writeln!(out, "      {{ nkey: {nkey} }}");
        return;
    };
    // To nats-server an empty allow list is no list, and that permits everything.
    assert!(!publish.is_empty() && !subscribe.is_empty(), "an allow list names something");
    let _ = writeln!(out, "      {{ nkey: {nkey}, permissions: {{");
    let _ = writeln!(out, "        publish: {{ allow: {} }}", list(&publish, "        "));
    let _ = writeln!(out, "        subscribe: {{ allow: {} }}", list(&subscribe, "        "));
    out.push_str("      } }\n");
}

/// What somebody else's service publishes: answers to callers across the border, and to `home`, the only caller
/// inside HOME that calls services which are not built in.
fn answers() -> Vec<String> {
    vec![subject::inbox_all(&identity::home()), subject::REPLY_ACROSS.to_owned()]
}

/// What somebody else's service listens to. Not an inbox of its own: it sends no request, so nothing comes there,
/// and its readiness shows by the refusal of the echo.
fn listens(name: &IdentityName) -> Vec<String> {
    let mut out: Vec<String> = subject::Verb::ALL.map(subject::Verb::subject).into();
    // Not the questions to others by name: whoever hears one can answer in the other's name.
    out.extend([format!("$SRV.*.{name}"), format!("$SRV.*.{name}.*"), subject::service_all(name)]);
    out
}

/// What crosses the border, each to the one account it is for.
fn exports(out: &mut String, outside: &[Outside<'_>]) {
    let accounts = |of: &dyn Fn(&&Outside<'_>) -> bool| {
        outside.iter().filter(of).map(|one| one.name.account()).collect::<Vec<_>>().join(", ")
    };
    for one in outside {
        let (calls, account) = (quote(&one.calls()), one.name.account());
        let how = if one.is_edge() { "" } else { ", response_type: stream" };
        let _ = writeln!(out, "      {{ service: {calls}, accounts: [{account}]{how} }}");
        if one.is_edge() {
            let commands = quote(&subject::commands(one.name));
            let _ = writeln!(out, "      {{ stream: {commands}, accounts: [{account}] }}");
        }
    }
    let readers = accounts(&|one| !one.is_edge());
    if !readers.is_empty() {
        let (discovery, feed) = (quote(subject::DISCOVERY_ALL), quote(subject::FEED_ALL));
        let _ =
            writeln!(out, "      {{ service: {discovery}, accounts: [{readers}], response_type: stream }}");
        let _ = writeln!(out, "      {{ stream: {feed}, accounts: [{readers}] }}");
    }
}

/// An identity with an account of its own.
#[derive(Clone, Copy)]
struct Outside<'a> {
    name: &'a IdentityName,
    identity: &'a Identity,
    role: Role,
}

impl<'a> Outside<'a> {
    fn of(name: &'a IdentityName, identity: &'a Identity) -> Option<Self> {
        let role = identity.kind.role().filter(|role| role.has_own_account())?;
        Some(Self { name, identity, role })
    }

    const fn is_edge(self) -> bool {
        match self.role {
            Role::Edge => true,
            Role::Viewer | Role::Agent | Role::Operator | Role::Owner | Role::Service => false,
        }
    }

    /// The calls its account imports: an edge machine's one, else all that carry its name.
    fn calls(self) -> String {
        if self.is_edge() {
            subject::call("state", "report", self.name)
        } else {
            subject::calls_of(self.name)
        }
    }

    fn publish(self, services: &[IdentityName]) -> Vec<String> {
        let grants: Vec<Grant> = self.identity.grants_of_use().cloned().collect();
        let mut allowed = rights::call_subjects(self.role, &grants, services, self.name);
        if !self.is_edge() {
            for verb in subject::Verb::ALL {
                let verb = verb.as_str();
                allowed.extend([format!("$SRV.{verb}"), format!("$SRV.{verb}.>")]);
            }
        }
        // To itself: the echo that shows that its connection is ready, and that its key is its own.
        allowed.push(subject::inbox_all(self.name));
        allowed
    }

    fn subscribe(self) -> Vec<String> {
        let other = if self.is_edge() { subject::commands(self.name) } else { subject::FEED_ALL.to_owned() };
        vec![subject::inbox_all(self.name), other]
    }

    fn account(self, out: &mut String, registry: &Registry) {
        let _ = writeln!(out, "  # {}: {}", self.name, self.role);
        let _ = writeln!(out, "  {} {{", self.name.account());
        let (connections, subscriptions) = (CONNECTIONS_MAX, SUBSCRIPTIONS_MAX);
        let _ = writeln!(
            out,
            "    limits: {{ max_connections: {connections}, max_subscriptions: {subscriptions} }}"
        );
        out.push_str("    users: [\n");
        user(out, registry, self.name, self.identity);
        out.push_str("    ]\n    imports: [\n");
        let calls = quote(&self.calls());
        let _ = writeln!(out, "      {{ service: {{ account: HOME, subject: {calls} }} }}");
        if self.is_edge() {
            let commands = quote(&subject::commands(self.name));
            let _ = writeln!(out, "      {{ stream: {{ account: HOME, subject: {commands} }} }}");
        } else {
            let (discovery, feed) = (quote(subject::DISCOVERY_ALL), quote(subject::FEED_ALL));
            let _ = writeln!(out, "      {{ service: {{ account: HOME, subject: {discovery} }} }}");
            let _ = writeln!(out, "      {{ stream: {{ account: HOME, subject: {feed} }} }}");
        }
        out.push_str("    ]\n  }\n");
    }
}

#[cfg(test)]
#[cfg(unix)]
mod tests;
