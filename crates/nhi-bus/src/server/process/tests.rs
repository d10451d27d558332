//! The real nats-server with small configurations.

use super::*;
use crate::{
    cx::Cx,
    server::{Listen, Locate, Supervisor, locate, supervise::ServerState},
};
use std::fmt::Write as _;

const DEADLINE: Duration = Duration::from_secs(20);

struct Bench {
    dir: tempfile::TempDir,
    binary: ServerBinary,
}

impl Bench {
    async fn new() -> Self {
        let binary = locate(&Locate::from_environment()).await.unwrap();
        Self { dir: tempfile::tempdir().unwrap(), binary }
    }

    fn plan(&self, port: u16) -> ServerPlan {
        ServerPlan::new(self.dir.path(), Listen::loopback(port)).unwrap()
    }

    fn configure(&self, more: &str) {
        self.configure_at("127.0.0.1:-1", more);
    }

    /// Said once: of `listen` and `host` together the server takes now one and now the other.
    fn configure_at(&self, listen: &str, more: &str) {
        let plan = self.plan(0);
        let mut text = format!("listen: \"{listen}\"\n");
        writeln!(text, "{more}").unwrap();
        private::write(&plan.files.config(), text.as_bytes()).unwrap();
    }
}

#[tokio::test]
async fn a_server_starts_reloads_and_ends() {
    let bench = Bench::new().await;
    bench.configure("");
    let server = ServerProcess::start(&bench.binary, &bench.plan(0)).await.unwrap();
    let port = server.port();
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    server.reload().await.unwrap();
    bench.configure("max_payload: 2MB");
    server.reload().await.unwrap();
    bench.configure("max_payload: {");
    let error = server.reload().await.unwrap_err();
    assert!(matches!(&error, ReloadError::Refused { said } if said.contains("arse error")), "{error}");
    bench.configure("");
    server.reload().await.unwrap();
    server.stop().await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
    assert!(!bench.plan(0).files.pid().exists());
}

#[tokio::test]
async fn what_hinders_the_start_is_said() {
    let bench = Bench::new().await;
    bench.configure("");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let error = ServerProcess::start(&bench.binary, &bench.plan(port)).await.unwrap_err();
    assert!(
        matches!(&error, StartError::PortInUse { address } if address.ends_with(&port.to_string())),
        "{error}"
    );
    // An address for documentation, which no machine has.
    bench.configure_at("192.0.2.1:-1", "");
    let error = ServerProcess::start(&bench.binary, &bench.plan(0)).await.unwrap_err();
    assert!(matches!(&error, StartError::NotOurAddress { .. }), "{error}");
    bench.configure("nonsense: true");
    let error = ServerProcess::start(&bench.binary, &bench.plan(0)).await.unwrap_err();
    assert!(matches!(&error, StartError::Ended { said, .. } if said.contains("nonsense")), "{error}");
    let binary = ServerBinary { path: "/nonexistent/nats-server".into(), ..bench.binary.clone() };
    let error = ServerProcess::start(&binary, &bench.plan(0)).await.unwrap_err();
    assert!(matches!(error, StartError::Spawn { .. }), "{error}");
}

#[tokio::test]
async fn an_orphan_is_ended_first() {
    let bench = Bench::new().await;
    bench.configure("");
    let plan = bench.plan(0);
    // What is left when we are killed: a server that nobody owns any more, with its pid file.
    private::ensure_dir(&plan.files.run()).unwrap();
    private::ensure_dir(plan.files.log().parent().unwrap()).unwrap();
    let log = open_log(&plan.files.log()).unwrap().0;
    let mut orphan = spawn(&bench.binary, &plan, 0, log).unwrap();
    let pid = orphan.id().unwrap();
    let port = ready(&mut orphan, pid, &plan).await.unwrap();
    let server = ServerProcess::start_at(&bench.binary, &plan, port).await.unwrap();
    assert_eq!(server.port(), port, "the port is free again");
    assert!(orphan.wait().await.unwrap().code().is_some(), "it ended in good order");
    server.stop().await;
}

#[tokio::test]
async fn a_dead_server_comes_back_at_its_port() {
    let bench = Bench::new().await;
    bench.configure("");
    let cx = Cx::new();
    let supervisor = Supervisor::start(&cx, bench.binary.clone(), bench.plan(0)).await.unwrap();
    let error = Supervisor::start(&cx, bench.binary.clone(), bench.plan(0)).await.unwrap_err();
    assert!(matches!(error, StartError::AlreadySupervised { .. }), "{error}");
    let (url, ServerState::Up { pid: first }) = (supervisor.url(), supervisor.state()) else {
        panic!("it runs")
    };
    signal::send(first, Signal::Kill).unwrap();
    let back = supervisor.wait_until(|state| matches!(state, ServerState::Up { pid } if pid != first));
    timeout(DEADLINE, back).await.unwrap();
    assert_eq!((supervisor.restarts(), supervisor.url()), (1, url));
    supervisor.reload().await.unwrap();
    supervisor.stop().await;
    assert!(std::net::TcpStream::connect(("127.0.0.1", supervisor.port())).is_err());
    cx.close().await;
}

/// An identity that is refused again and again fills the log; the disk is not its.
#[tokio::test]
async fn the_log_is_limited_and_reloads_are_still_seen() {
    let bench = Bench::new().await;
    bench.configure("logfile_size_limit: 16KB\nlogfile_max_num: 3\ndebug: true");
    let server = ServerProcess::start(&bench.binary, &bench.plan(0)).await.unwrap();
    for _ in 0..150 {
        server.reload().await.unwrap();
    }
    let logs = || fs::read_dir(bench.dir.path().join("logs")).unwrap().map(|entry| entry.unwrap());
    let total: u64 = logs().map(|entry| entry.metadata().unwrap().len()).sum();
    assert!(logs().count() > 1, "it was put aside");
    assert!(total < 5 * 16 * 1024, "{total} bytes in all");
    server.stop().await;
}
