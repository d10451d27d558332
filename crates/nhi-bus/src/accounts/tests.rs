//! The rendered text, and the real server taking changes of it while others work.

use super::*;
use crate::{
    connect::Target,
    cx::Cx,
    keys::{self, Seed},
    registry::{SeedPlace, keys_dir},
    server::{Listen, Locate, ServerProcess, ServerState, ServerTls, Supervisor, locate},
};
use async_nats::{Client, ConnectOptions};
use futures::StreamExt as _;
use jiff::Timestamp;
use std::{collections::BTreeSet, path::PathBuf, process::Command, time::Duration};
use tokio::time::{Instant, timeout};

const DEADLINE: Duration = Duration::from_secs(10);

fn name(text: &str) -> IdentityName {
    IdentityName::parse(text).unwrap()
}

fn add(dir: &Path, who: &str, role: Role) -> Seed {
    registry::add(dir, &name(who), role, &SeedPlace::Keys, Timestamp::UNIX_EPOCH).unwrap().0
}

/// One identity of each role beside the mesh's own, with keys that say who they are.
fn example(dir: &Path) -> Registry {
    Registry::create_if_missing(dir, Timestamp::UNIX_EPOCH).unwrap();
    for (who, role) in [
        ("aider", Role::Agent),
        ("anna", Role::Operator),
        ("gaming-pc", Role::Edge),
        ("kettle", Role::Service),
        ("wallboard", Role::Viewer),
    ] {
        add(dir, who, role);
    }
    registry::grant(dir, &name("aider"), Grant::parse("kettle.boil").unwrap()).unwrap()
}

/// `nats/accounts.example.conf` is what is rendered, with the keys replaced by words. After a change of rights,
/// copy what this test prints there, and look at the difference: it is what the change means.
#[test]
fn the_example_shows_what_is_rendered() {
    let dir = tempfile::tempdir().unwrap();
    let registry = example(dir.path());
    let mut text = accounts(&registry);
    for (name, identity) in registry.iter() {
        text = text.replace(&identity.public_key, &format!("public key of {name}"));
    }
    let example = include_str!("../../../../nats/accounts.example.conf");
    let body: String =
        example.split_inclusive('\n').skip_while(|line| !line.starts_with("# Rendered")).collect();
    assert!(body == text, "nats/accounts.example.conf differs from what is rendered:\n{text}");
    assert_eq!(accounts(&registry), accounts(&registry), "equal input gives equal text");
}

/// Grants that `nhi auth grant` refuses today and that stand in a file of before.
#[test]
fn a_recorded_grant_of_what_only_a_person_says_opens_nothing() {
    let dir = tempfile::tempdir().unwrap();
    example(dir.path());
    registry::grant(dir.path(), &name("anna"), Grant::parse("act.confirm").unwrap()).unwrap();
    let file = registry::file(dir.path());
    let text = fs::read_to_string(&file).unwrap();
    let opened = |grants: &str| {
        let old = text.replace("\"kettle.boil\"", grants);
        fs::write(&file, &old).unwrap();
        let registry = Registry::load(dir.path()).unwrap();
        let of = |who: &str| permissions(&registry, &name(who)).unwrap().publish;
        let peoples =
            ["approve", "reject", "confirm"].map(|endpoint| subject::call("act", endpoint, &name("aider")));
        let is_open = |subject: &String| peoples.contains(subject) || subject == "nhi.act.*.aider";
        assert!(of("anna").contains(&"nhi.act.confirm.anna".to_owned()));
        (of("aider").iter().any(is_open), of("aider").contains(&"nhi.act.freeze.aider".to_owned()))
    };
    assert_eq!(opened("\"act\""), (false, false));
    assert_eq!(opened("\"act.confirm\", \"act.approve\", \"act.reject\", \"act.freeze\""), (false, true));
}

#[tokio::test]
async fn the_server_takes_what_is_rendered_whatever_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path().join("a \"b\" \\ $HOME ä\t#");
    let registry = example(&dir);
    let binary = locate(&Locate::from_environment()).await.unwrap();
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let tls = ServerTls { cert_file: dir.join("server.pem"), key_file: dir.join("server.key") };
    private::write(&tls.cert_file, certified.cert.pem().as_bytes()).unwrap();
    private::write(&tls.key_file, certified.signing_key.serialize_pem().as_bytes()).unwrap();
    for listen in [
        Listen::loopback(0),
        Listen::plain("[::1]:4222".parse().unwrap()).unwrap(),
        Listen::with_tls("0.0.0.0:4222".parse().unwrap(), tls),
    ] {
        let plan = ServerPlan::new(&dir, listen).unwrap();
        write(&registry, &plan).unwrap();
        let output =
            Command::new(&binary.path).arg("-t").arg("-c").arg(plan.files.config()).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(!said.to_lowercase().contains("warn"), "{said}");
    }
}

#[test]
fn nobody_is_let_in_without_a_key() {
    let dir = tempfile::tempdir().unwrap();
    let registry = example(dir.path());
    let plan = ServerPlan::new(dir.path(), Listen::loopback(0)).unwrap();
    let rendered = render(&registry, &plan);
    let lines = rendered.server.lines().chain(rendered.accounts.lines());
    let code: Vec<&str> = lines.filter(|line| !line.trim_start().starts_with('#')).collect();
    for word in
        ["no_auth_user", "password", "token", "mqtt", "websocket", "leafnodes", "cluster", "http", "@"]
    {
        assert!(!code.iter().any(|line| line.contains(word)), "{word}");
    }
    assert!(code.iter().any(|line| line.trim() == "sync_interval: always"));
    let users = rendered.accounts.matches("{ nkey: ").count();
    assert_eq!(users, registry.iter().count(), "each identity is one user");
}

#[test]
fn a_block_to_paste_says_what_else_is_needed() {
    let dir = tempfile::tempdir().unwrap();
    let text = block(&example(dir.path()));
    for needed in ["sync_interval: always", "max_payload", "accounts {", "ID_GAMING_PC"] {
        assert!(text.contains(needed), "{needed}");
    }
}

/// One reload is not enough, see [`reload_twice`]. When this fails, nats-server has learned better.
#[tokio::test]
async fn a_new_account_is_linked_by_the_second_reload() {
    let mesh = Mesh::start().await;
    let home = mesh.connect("home").await.unwrap();
    let mut calls = home.subscribe("nhi.auth.whoami.*").await.unwrap();
    let mut echo = home.subscribe("echo").await.unwrap();
    home.publish("echo", "".into()).await.unwrap();
    timeout(DEADLINE, echo.next()).await.unwrap();
    add(&mesh.path(), "aider", Role::Agent);
    let registry = Registry::load(&mesh.path()).unwrap();
    let files = ServerFiles::new(&mesh.path()).unwrap();
    private::write(&files.accounts(), accounts(&registry).as_bytes()).unwrap();
    for (reloads, arrives) in [(1, false), (2, true)] {
        reload_running(&files).await.unwrap();
        let aider = mesh.connect("aider").await.unwrap();
        aider.publish("nhi.auth.whoami.aider", "".into()).await.unwrap();
        let arrived = timeout(Duration::from_millis(300), calls.next()).await.is_ok();
        assert_eq!(arrived, arrives, "after {reloads} reloads");
    }
    mesh.server.stop().await;
}

/// A running server with the identities of a directory.
struct Mesh {
    dir: tempfile::TempDir,
    server: ServerProcess,
}

impl Mesh {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (registry, _) = Registry::create_if_missing(dir.path(), Timestamp::UNIX_EPOCH).unwrap();
        let plan = ServerPlan::new(dir.path(), Listen::loopback(0)).unwrap();
        write(&registry, &plan).unwrap();
        let binary = locate(&Locate::from_environment()).await.unwrap();
        let server = ServerProcess::start(&binary, &plan).await.unwrap();
        Self { dir, server }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().to_owned()
    }

    async fn connect(&self, who: &str) -> Result<Client, async_nats::ConnectError> {
        let seed = keys::load(&keys_dir(self.dir.path()), &name(who)).unwrap();
        self.connect_with(who, &seed).await
    }

    async fn connect_with(&self, who: &str, seed: &Seed) -> Result<Client, async_nats::ConnectError> {
        let options = ConnectOptions::with_nkey(seed.expose().to_owned());
        options.custom_inbox_prefix(subject::inbox_prefix(&name(who))).connect(self.server.url()).await
    }
}

#[tokio::test]
async fn changes_take_effect_within_a_second_and_drop_nobody() {
    let mesh = Mesh::start().await;
    let (home, owner) = (mesh.connect("home").await.unwrap(), mesh.connect("owner").await.unwrap());
    let mut calls = home.subscribe("nhi.kettle.*.*").await.unwrap();
    // An echo: flushing only empties the socket's buffer.
    let mut echo = home.subscribe("echo").await.unwrap();
    home.publish("echo", "".into()).await.unwrap();
    timeout(DEADLINE, echo.next()).await.unwrap();
    let cx = Cx::new();
    cx.spawn("echo", async move {
        while let Some(call) = calls.next().await {
            home.publish(call.reply.unwrap(), call.payload).await.unwrap();
        }
    });
    let before = Instant::now();
    let seed = add(&mesh.path(), "aider", Role::Agent);
    assert_eq!(apply(&mesh.path()).await.unwrap(), Applied::Now);
    let aider = mesh.connect_with("aider", &seed).await.unwrap();
    let added = before.elapsed();
    assert!(added < Duration::from_secs(1), "{added:?}");

    let boil = "nhi.kettle.boil.aider";
    let refused = timeout(Duration::from_millis(200), aider.request(boil, "".into())).await;
    assert!(refused.is_err(), "a refused request gets no answer: {refused:?}");
    let before = Instant::now();
    registry::grant(&mesh.path(), &name("aider"), Grant::parse("kettle.boil").unwrap()).unwrap();
    apply(&mesh.path()).await.unwrap();
    let answer = timeout(DEADLINE, aider.request(boil, "tea".into())).await.unwrap().unwrap();
    assert_eq!((&*answer.payload, before.elapsed() < Duration::from_secs(1)), (&b"tea"[..], true));

    let before = Instant::now();
    registry::revoke(&mesh.path(), &name("aider")).unwrap();
    apply(&mesh.path()).await.unwrap();
    let error = mesh.connect_with("aider", &seed).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::ConnectErrorKind::AuthorizationViolation);
    assert!(before.elapsed() < Duration::from_secs(1));

    let statistics = owner.statistics();
    assert_eq!(
        statistics.connects.load(std::sync::atomic::Ordering::Relaxed),
        1,
        "the owner was never dropped"
    );
    timeout(DEADLINE, owner.request("nhi.kettle.boil.owner", "".into())).await.unwrap().unwrap();
    let dir = mesh.path();
    let Mesh { dir: _kept, server } = mesh;
    server.stop().await;
    assert_eq!(apply(&dir).await.unwrap(), Applied::AtNextStart);
}

#[tokio::test]
async fn a_refused_change_leaves_what_worked() {
    let mesh = Mesh::start().await;
    let files = ServerFiles::new(&mesh.path()).unwrap();
    let (config, before) = (files.config(), fs::read(files.accounts()).unwrap());
    let good = fs::read_to_string(&config).unwrap();
    private::write(&config, format!("{good}\nnonsense: true\n").as_bytes()).unwrap();
    add(&mesh.path(), "aider", Role::Agent);
    let error = apply(&mesh.path()).await.unwrap_err();
    assert!(matches!(&error, ApplyError::Reload(ReloadError::Refused { .. })), "{error}");
    assert_eq!(fs::read(files.accounts()).unwrap(), before);
    private::write(&config, good.as_bytes()).unwrap();
    assert_eq!(apply(&mesh.path()).await.unwrap(), Applied::Now);
    mesh.server.stop().await;
}

fn signal(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success());
}

#[tokio::test]
async fn a_revocation_the_server_did_not_answer_stands() {
    let mesh = Mesh::start().await;
    let seed = add(&mesh.path(), "aider", Role::Agent);
    apply(&mesh.path()).await.unwrap();
    mesh.connect_with("aider", &seed).await.unwrap();
    registry::revoke(&mesh.path(), &name("aider")).unwrap();
    signal(mesh.server.pid(), "-STOP");
    let error = apply(&mesh.path()).await.unwrap_err();
    assert!(matches!(&error, ApplyError::Unconfirmed(ReloadError::NoAnswer { .. })), "{error}");
    assert!(error.to_string().contains("again"), "{error}");
    let text = fs::read_to_string(ServerFiles::new(&mesh.path()).unwrap().accounts()).unwrap();
    assert!(!text.contains(&seed.public_key()), "the revoked key stays out");
    signal(mesh.server.pid(), "-CONT");
    assert_eq!(apply(&mesh.path()).await.unwrap(), Applied::Now);
    let error = mesh.connect_with("aider", &seed).await.unwrap_err();
    assert_eq!(error.kind(), async_nats::ConnectErrorKind::AuthorizationViolation);
    mesh.server.stop().await;
}

#[tokio::test]
async fn a_restart_takes_what_is_recorded() {
    let Mesh { dir, server } = Mesh::start().await;
    server.stop().await;
    let plan = ServerPlan::new(dir.path(), Listen::loopback(0)).unwrap();
    let binary = locate(&Locate::from_environment()).await.unwrap();
    let cx = Cx::new();
    let supervisor = Supervisor::start(&cx, binary, plan).await.unwrap();
    let ServerState::Up { pid } = supervisor.state() else { panic!("{:?}", supervisor.state()) };
    // Recorded, and not put in force.
    let seed = add(dir.path(), "aider", Role::Agent);
    signal(pid, "-KILL");
    supervisor.wait_until(|state| matches!(state, ServerState::Up { pid: now } if now != pid)).await;
    let options = ConnectOptions::with_nkey(seed.expose().to_owned());
    options.connect(supervisor.url()).await.unwrap();
    supervisor.stop().await;
}

#[tokio::test]
async fn one_identity_cannot_take_all_connections() {
    let mesh = Mesh::start().await;
    let mut held = BTreeSet::new();
    let mut clients = Vec::new();
    for n in 0..=CONNECTIONS_MAX {
        match mesh.connect("owner").await {
            Ok(client) => {
                held.insert(n);
                clients.push(client);
            }
            Err(_) => break,
        }
    }
    assert_eq!(held.len(), CONNECTIONS_MAX as usize);
    assert!(mesh.connect("home").await.is_ok(), "others still come in");
    mesh.server.stop().await;
}

#[tokio::test]
async fn a_probe_tells_a_right_server_from_a_wrong_one() {
    let mesh = Mesh::start().await;
    for (who, role) in [("aider", Role::Agent), ("pc", Role::Edge), ("kettle", Role::Service)] {
        add(&mesh.path(), who, role);
    }
    apply(&mesh.path()).await.unwrap();
    let registry = Registry::load(&mesh.path()).unwrap();
    let target = Target::plain(mesh.server.url());
    let checks = probe(&mesh.path(), &registry, &target).await.unwrap();
    let broken: Vec<_> = checks.iter().filter(|check| !check.holds).collect();
    assert!(broken.is_empty(), "{broken:#?}");
    for who in ["aider", "pc", "kettle", "scan", "owner", "anybody"] {
        assert!(checks.iter().any(|check| check.identity == who), "{who}");
    }

    // The controls: everybody in HOME and unrestricted, and a door for those without a key.
    let users = registry.iter().map(|(_, identity)| format!("{{ nkey: {} }}", identity.public_key));
    let users = users.collect::<Vec<_>>().join("\n");
    let open = format!(
        "accounts {{ HOME {{ jetstream: enabled, users: [ {users}\n {{ user: anyone, password: x }} ] }}\n SYS {{}} }}\n\
         no_auth_user: anyone\n"
    );
    let Mesh { dir, server } = mesh;
    server.stop().await;
    let plan = ServerPlan::new(dir.path(), Listen::loopback(0)).unwrap();
    fs::write(plan.files.accounts(), open).unwrap();
    let binary = locate(&Locate::from_environment()).await.unwrap();
    let server = ServerProcess::start(&binary, &plan).await.unwrap();
    let checks = probe(dir.path(), &registry, &Target::plain(server.url())).await.unwrap();
    let holds = |who: &str, what: &str| {
        checks.iter().find(|c| c.identity == who && c.what.contains(what)).is_some_and(|c| c.holds)
    };
    for (who, what) in [
        ("anybody", "without a key"),
        ("aider", "border"),
        ("aider", "write to a bucket"),
        ("aider", "others' replies"),
        ("scan", "change a stream"),
        ("kettle", "call"),
        ("pc", "discovery"),
    ] {
        assert!(!holds(who, what), "{who} {what}: {checks:#?}");
    }
    server.stop().await;
}
