//! A server that follows a script, connection by connection, and writes down what it was sent.

use rustls::ServerConfig;
use std::{net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpSocket, TcpStream},
    sync::{Semaphore, watch},
    task::JoinSet,
    time::timeout,
};
use tokio_rustls::TlsAcceptor;

/// What the server does with the next request of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Answers.
    Answer(Vec<u8>),
    /// Answers once [`Server::release`] lets it.
    Hold(Vec<u8>),
    /// Sends this (or nothing) and closes.
    Close(Vec<u8>),
    /// Never answers.
    Silent,
}

/// What was seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Log {
    /// Connection and head of each request, and its body behind it, in order of arrival.
    pub(crate) requests: Vec<(usize, String)>,
    /// Connections accepted.
    pub(crate) connections: usize,
    /// Requests that wait for their answer.
    pub(crate) held: usize,
    /// The most that ever did.
    pub(crate) held_max: usize,
    /// What ALPN agreed on, per TLS connection.
    pub(crate) alpn: Vec<Option<Vec<u8>>>,
}

impl Log {
    /// Paths of the requests.
    pub(crate) fn paths(&self) -> Vec<&str> {
        self.requests.iter().map(|(_, head)| head.split(' ').nth(1).unwrap_or("")).collect()
    }
}

pub(crate) struct Server {
    address: SocketAddr,
    scheme: &'static str,
    log: watch::Receiver<Log>,
    releases: Arc<Semaphore>,
    _tasks: JoinSet<()>,
}

/// An address where nothing listens, and nothing else can while this lives.
pub(crate) struct Nobody(TcpSocket);

impl Nobody {
    pub(crate) fn new() -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).unwrap();
        Self(socket)
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.0.local_addr().unwrap())
    }
}

#[derive(Clone)]
struct Desk {
    log: watch::Sender<Log>,
    releases: Arc<Semaphore>,
}

impl Server {
    /// Plain http; `script` gives each connection's steps.
    pub(crate) async fn plain(script: impl Fn(usize) -> Vec<Step> + Send + 'static) -> Self {
        Self::start(None, script).await
    }

    pub(crate) async fn tls(
        config: ServerConfig,
        script: impl Fn(usize) -> Vec<Step> + Send + 'static,
    ) -> Self {
        Self::start(Some(TlsAcceptor::from(Arc::new(config))), script).await
    }

    /// The same, at one of this machine's own addresses.
    pub(crate) async fn tls_at(
        listener: TcpListener,
        config: ServerConfig,
        script: impl Fn(usize) -> Vec<Step> + Send + 'static,
    ) -> Self {
        Self::listen(listener, Some(TlsAcceptor::from(Arc::new(config))), script)
    }

    async fn start(tls: Option<TlsAcceptor>, script: impl Fn(usize) -> Vec<Step> + Send + 'static) -> Self {
        Self::listen(TcpListener::bind("127.0.0.1:0").await.unwrap(), tls, script)
    }

    fn listen(
        listener: TcpListener,
        tls: Option<TlsAcceptor>,
        script: impl Fn(usize) -> Vec<Step> + Send + 'static,
    ) -> Self {
        let address = listener.local_addr().unwrap();
        let (sender, log) = watch::channel(Log::default());
        let releases = Arc::new(Semaphore::new(0));
        let desk = Desk { log: sender, releases: releases.clone() };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            let mut connections = JoinSet::new();
            for number in 0.. {
                let (tcp, _) = listener.accept().await.unwrap();
                desk.log.send_modify(|log| log.connections += 1);
                connections.spawn(serve(tcp, tls.clone(), number, script(number), desk.clone()));
            }
        });
        Self { address, scheme, log, releases, _tasks: tasks }
    }

    pub(crate) fn url(&self) -> String {
        format!("{}://{}", self.scheme, self.address)
    }

    pub(crate) fn port(&self) -> u16 {
        self.address.port()
    }

    /// Lets one held request be answered.
    pub(crate) fn release(&self) {
        self.releases.add_permits(1);
    }

    pub(crate) fn log(&self) -> Log {
        self.log.borrow().clone()
    }

    /// Waits until the log says so.
    pub(crate) async fn wait_for(&self, what: &str, state: impl Fn(&Log) -> bool) {
        let mut log = self.log.clone();
        let reached = timeout(Duration::from_secs(20), log.wait_for(|log| state(log))).await.is_ok();
        assert!(reached, "waited for {what}, last seen {:?}", self.log());
    }
}

async fn serve(tcp: TcpStream, tls: Option<TlsAcceptor>, number: usize, steps: Vec<Step>, desk: Desk) {
    let Some(tls) = tls else {
        return follow(tcp, number, steps, desk).await;
    };
    // A client that refuses the certificate ends here.
    if let Ok(stream) = tls.accept(tcp).await {
        let alpn = stream.get_ref().1.alpn_protocol().map(<[u8]>::to_vec);
        desk.log.send_modify(|log| log.alpn.push(alpn));
        follow(stream, number, steps, desk).await;
    }
}

async fn follow(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    number: usize,
    steps: Vec<Step>,
    desk: Desk,
) {
    for step in steps {
        let Some(head) = read_request(&mut stream).await else { return };
        desk.log.send_modify(|log| log.requests.push((number, head)));
        let (bytes, closes) = match step {
            Step::Answer(bytes) => (bytes, false),
            Step::Close(bytes) => (bytes, true),
            Step::Hold(bytes) => {
                desk.log.send_modify(|log| {
                    log.held += 1;
                    log.held_max = log.held_max.max(log.held);
                });
                desk.releases.acquire().await.unwrap().forget();
                desk.log.send_modify(|log| log.held -= 1);
                (bytes, false)
            }
            Step::Silent => std::future::pending().await,
        };
        if stream.write_all(&bytes).await.is_err() || stream.flush().await.is_err() {
            return;
        }
        if closes {
            let _ = stream.shutdown().await;
            return;
        }
    }
    // The script is over: whatever else comes is written down and not answered.
    while let Some(head) = read_request(&mut stream).await {
        desk.log.send_modify(|log| log.requests.push((number, head)));
    }
}

/// Up to and with the empty line, and the body where a length is told; `None` at the end of the connection.
async fn read_request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(bytes.clone()).unwrap();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.ok()?;
    Some(head + &String::from_utf8(body).unwrap())
}
