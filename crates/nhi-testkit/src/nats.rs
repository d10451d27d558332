//! A real nats-server for one test: identities, accounts and streams as the product makes them.

use anyhow::{Context as _, Result};
use async_nats::{Client, ConnectOptions, RequestErrorKind};
use futures::StreamExt as _;
use nhi_bus::{
    accounts,
    connect::{Bus, Target},
    cx::Cx,
    keys::{self, Seed},
    registry::{self, Kind, Registry, SeedPlace, keys_dir},
    server::{Listen, Locate, ServerBinary, ServerPlan, ServerProcess, locate},
};
use nhi_model::{
    Timestamp,
    identity::{IdentityName, Role},
    rights::Grant,
    subject,
};
use std::{
    fmt::Write as _,
    fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use tempfile::TempDir;

/// What a control does wrong on purpose. A safety test whose control passes proves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Controls {
    /// All identities are users of HOME, with the allow lists they have in their own accounts.
    pub one_shared_account: bool,
    /// Somebody else's services hear all questions of discovery, those to others by name too.
    pub wide_discovery: bool,
    /// Streams take rollup headers. It is applied by whoever makes the streams: [`Nats::controls`].
    pub rollup_allowed: bool,
    /// The server syncs every two minutes, as it does by default.
    pub default_sync_interval: bool,
}

/// Returns when the server has taken in everything this client sent before: subscriptions are active.
/// `Client::flush` only empties the socket's buffer.
///
/// # Panics
/// When nothing comes back: the identity may neither write to its inbox nor ask `$SRV.PING`.
pub async fn settle(client: &Client) {
    let inbox = client.new_inbox();
    let echo = async {
        let mut echo = must(client.subscribe(inbox.clone()).await);
        must(client.publish(inbox.clone(), "".into()).await);
        echo.next().await
    };
    // For those who may not write to an inbox. Nobody has that name, so the server itself answers that nobody does.
    let asked = client.request("$SRV.PING.nobody.nobody", "".into());
    let both = async {
        tokio::select! {
            Some(_) = echo => {}
            answer = asked => {
                let kind = answer.err().map(|error| error.kind());
                assert!(matches!(kind, None | Some(RequestErrorKind::NoResponders)), "{kind:?}");
            }
        }
    };
    let settled = tokio::time::timeout(SETTLE_MAX, both).await;
    assert!(settled.is_ok(), "nothing came back within {SETTLE_MAX:?}");
}

/// How long one round trip on the loopback may take on a busy machine.
const SETTLE_MAX: Duration = Duration::from_secs(10);

/// A running nats-server in a directory of its own. It dies with this value.
#[derive(Debug)]
pub struct Nats {
    dir: TempDir,
    plan: ServerPlan,
    binary: ServerBinary,
    controls: Controls,
    port: u16,
    server: Option<ServerProcess>,
}

impl Nats {
    /// A server with the mesh's own identities (owner, gateway, home, the trusted agents).
    ///
    /// # Panics
    /// When nats-server is missing or does not start; the message says what to do.
    pub async fn start() -> Self {
        Self::start_with(Controls::default()).await
    }

    /// The same with something wrong on purpose.
    ///
    /// # Panics
    /// As [`Nats::start`].
    pub async fn start_with(controls: Controls) -> Self {
        match Self::try_start(controls).await {
            Ok(nats) => nats,
            Err(error) => panic!("nats-server for the test: {error:#}"),
        }
    }

    async fn try_start(controls: Controls) -> Result<Self> {
        let binary = locate(&Locate::from_environment()).await?;
        let dir = tempfile::tempdir().context("make a directory")?;
        let home = dir.path().join(".nhi");
        let plan = ServerPlan::new(&home, Listen::loopback(0))?;
        let (registry, _) = Registry::create_if_missing(&home, Timestamp::now())?;
        accounts::write(&registry, &plan)?;
        let mut nats = Self { dir, plan, binary, controls, port: 0, server: None };
        nats.misconfigure(&registry)?;
        let server = ServerProcess::start(&nats.binary, &nats.plan).await?;
        nats.port = server.port();
        nats.server = Some(server);
        Ok(nats)
    }

    /// What was asked to be wrong.
    pub const fn controls(&self) -> Controls {
        self.controls
    }

    /// `.nhi`
    pub fn dir(&self) -> PathBuf {
        self.dir.path().join(".nhi")
    }

    /// Where it listens. The port stays the same over restarts.
    pub fn address(&self) -> SocketAddr {
        SocketAddr::new(self.plan.listen.address().ip(), self.port)
    }

    /// Its URL.
    pub fn url(&self) -> String {
        self.plan.listen.url(self.port)
    }

    /// Where to connect, for [`Bus::connect`].
    pub fn target(&self) -> Target {
        Target::plain(self.url())
    }

    /// The seed of an identity.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn seed(&self, who: &str) -> Seed {
        must(keys::load(&keys_dir(&self.dir()), &name(who)))
    }

    /// A connection of the product, as an identity.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn connect(&self, cx: &Cx, who: &str) -> Bus {
        must(Bus::connect(cx, &self.target(), &name(who), &self.seed(who)).await)
    }

    /// A plain client of the library, as an identity, with its inbox prefix: what anybody can write who has a seed.
    ///
    /// # Panics
    /// When it cannot be made.
    pub async fn raw(&self, who: &str) -> Client {
        must(self.raw_options(who).connect(self.url()).await)
    }

    /// What [`Nats::raw`] connects with, to be changed.
    ///
    /// # Panics
    /// When there is no identity of that name.
    pub fn raw_options(&self, who: &str) -> ConnectOptions {
        let options = ConnectOptions::with_nkey(self.seed(who).expose().to_owned());
        options.custom_inbox_prefix(subject::inbox_prefix(&name(who)))
    }

    /// Adds an identity, in force when this returns.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn add(&self, who: &str, role: Role) -> Seed {
        let added = registry::add(&self.dir(), &name(who), role, &SeedPlace::Keys, Timestamp::now());
        let (seed, _) = must(added);
        self.reload().await;
        seed
    }

    /// Removes an identity, in force when this returns.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn revoke(&self, who: &str) {
        must(registry::revoke(&self.dir(), &name(who)));
        self.reload().await;
    }

    /// Grants `SERVICE` or `SERVICE.ENDPOINT`, in force when this returns.
    ///
    /// # Panics
    /// When it is refused.
    pub async fn grant(&self, who: &str, what: &str) {
        let grant = Grant::parse(what).unwrap_or_else(|why| panic!("{why}"));
        must(registry::grant(&self.dir(), &name(who), grant));
        self.reload().await;
    }

    /// Puts the identities as they are recorded in force.
    ///
    /// # Panics
    /// When the server refuses.
    pub async fn reload(&self) {
        if self.controls.one_shared_account || self.controls.wide_discovery {
            must(self.misconfigure(&must(Registry::load(&self.dir()))));
            // Twice, as `accounts::apply` does.
            must(nhi_bus::server::reload_running(&self.plan.files).await);
            must(nhi_bus::server::reload_running(&self.plan.files).await);
        } else {
            must(accounts::apply(&self.dir()).await);
        }
    }

    /// Kills the server as a crash would. Restart it with [`Nats::restart`].
    pub async fn kill9(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().await;
        }
    }

    /// Ends the server in good order.
    pub async fn stop(&mut self) {
        if let Some(server) = self.server.take() {
            server.stop().await;
        }
    }

    /// Starts the server again with the same store, at the same port; ends it before if it runs.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn restart(&mut self) {
        self.stop().await;
        self.server = Some(must(ServerProcess::start_at(&self.binary, &self.plan, self.port).await));
    }

    /// The server's process id, when it runs.
    pub fn pid(&self) -> Option<u32> {
        self.server.as_ref().map(ServerProcess::pid)
    }

    /// Where its store is, to be copied or put back while it does not run.
    pub fn store_dir(&self) -> PathBuf {
        self.plan.files.store()
    }

    /// Makes what was rendered as wrong as the controls say.
    fn misconfigure(&self, registry: &Registry) -> Result<()> {
        if self.controls.one_shared_account {
            fs::write(self.plan.files.accounts(), shared_account(registry))?;
        }
        if self.controls.wide_discovery {
            let text = accounts::render(registry, &self.plan).accounts;
            fs::write(
                self.plan.files.accounts(),
                text.replace(
                    "\"$SRV.INFO\",\n          \"$SRV.PING\",\n          \"$SRV.STATS\",\n          \"nhi.",
                    "\"$SRV.>\",\n          \"nhi.",
                ),
            )?;
        }
        if self.controls.default_sync_interval {
            leave_out(&self.plan.files.config(), "  sync_interval: always\n")?;
        }
        Ok(())
    }
}

fn leave_out(file: &Path, line: &str) -> Result<()> {
    let text = fs::read_to_string(file)?;
    if let Some((before, after)) = text.split_once(line) {
        fs::write(file, format!("{before}{after}"))?;
    }
    Ok(())
}

/// All identities in HOME, each with the allow lists it has.
fn shared_account(registry: &Registry) -> String {
    let mut out = String::from("accounts {\n  HOME {\n    jetstream: enabled\n    users: [\n");
    for (name, identity) in registry.iter() {
        let nkey = &identity.public_key;
        match accounts::permissions(registry, name) {
            Some(allowed) => {
                assert_ne!(identity.kind, Kind::Home, "home is not restricted");
                // Debug of a list of plain subjects is a list in nats-server's language too.
                let (publish, subscribe) = (allowed.publish, allowed.subscribe);
                let _ = writeln!(
                    out,
                    "      {{ nkey: {nkey}, permissions: {{ publish: {{ allow: {publish:?} }}, \
                     subscribe: {{ allow: {subscribe:?} }} }} }}"
                );
            }
            None => {
                let _ = writeln!(out, "      {{ nkey: {nkey} }}");
            }
        }
    }
    out.push_str("    ]\n  }\n  SYS {}\n}\n");
    out
}

fn name(text: &str) -> IdentityName {
    must(IdentityName::parse(text))
}

/// The value, or the whole chain of errors as the test's failure.
fn must<T, E>(outcome: Result<T, E>) -> T
where
    anyhow::Error: From<E>,
{
    match outcome {
        Ok(value) => value,
        Err(error) => panic!("{:#}", anyhow::Error::from(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait_for;
    use std::time::Instant;

    #[tokio::test]
    async fn a_server_is_there_at_once_and_comes_back() {
        let mut nats = Nats::start().await;
        let before = Instant::now();
        let second = Nats::start().await;
        assert!(before.elapsed() < Duration::from_secs(2), "{:?}", before.elapsed());
        drop(second);
        let owner = nats.raw("owner").await;
        owner.flush().await.unwrap();
        let url = nats.url();
        nats.kill9().await;
        nats.restart().await;
        assert_eq!(nats.url(), url);
        wait_for("the client to come back", Duration::from_secs(10), async || {
            owner.connection_state() == async_nats::connection::State::Connected
        })
        .await;
    }

    #[tokio::test]
    async fn identities_come_and_go() {
        let nats = Nats::start().await;
        nats.add("aider", Role::Agent).await;
        nats.raw("aider").await;
        nats.grant("aider", "kettle").await;
        let options = nats.raw_options("aider");
        nats.revoke("aider").await;
        assert!(options.connect(nats.url()).await.is_err());
    }

    #[tokio::test]
    async fn controls_are_as_wrong_as_asked() {
        let controls =
            Controls { one_shared_account: true, default_sync_interval: true, ..Controls::default() };
        let nats = Nats::start_with(controls).await;
        nats.add("aider", Role::Agent).await;
        let text = fs::read_to_string(nats.plan.files.accounts()).unwrap();
        assert!(!text.contains("ID_") && text.contains("nhi.state.get.aider"), "{text}");
        let text = fs::read_to_string(nats.plan.files.config()).unwrap();
        assert!(!text.lines().any(|line| line.trim() == "sync_interval: always"), "{text}");
        let (aider, home) = (nats.raw("aider").await, nats.raw("home").await);
        let mut heard = home.subscribe("nhi.state.get.aider").await.unwrap();
        settle(&home).await;
        let heard = async { heard.next().await.unwrap() };
        aider.publish_with_reply("nhi.state.get.aider", "$KV.x", "".into()).await.unwrap();
        let message = tokio::time::timeout(Duration::from_secs(5), heard).await.unwrap();
        assert_eq!(message.reply.as_deref(), Some("$KV.x"), "the border is gone");
    }
}
