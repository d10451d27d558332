//! Accepts connections and speaks HTTP/1.1 on them, with TLS where it was configured. Of a request it reads the path
//! alone, and that only when there is no room for more than questions about health.
//!
//! Each connection runs in a task of this module's own set and not in the context's: a request that makes a handler
//! panic ends its connection, not the process.

mod impatient;
mod places;

use self::{
    impatient::Impatient,
    places::{Limits, Place, Places},
};
use crate::{reply, tls::Certificate};
use axum::{Router, http::Request, response::Response};
use hyper::{body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nhi_bus::cx::Cx;
use nhi_model::fault::{Fault, FaultCode};
use std::{io, net::IpAddr, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// 2,560 connections at once in all.
const LIMITS: Limits = Limits { usual: 2_304, each: 1_536, hurried: 256 };
/// What is answered to those in a hurry: how the gateway is.
const HEALTH: [&str; 3] = ["/healthz", "/readyz", "/metrics"];
/// Files the process wants to be able to open: one for each connection, and the rest of the program.
#[cfg(unix)]
const FILES_WANTED: u64 = 4_096;
/// How long a handshake, or the head of the next request, may take.
const HEAD_MAX: Duration = Duration::from_secs(20);
/// The same when most places are taken.
const HEAD_MAX_CROWDED: Duration = Duration::from_secs(5);
/// The same for those in a hurry.
const HEAD_MAX_HURRIED: Duration = Duration::from_secs(2);
/// When to come again, for who came when there was no room.
const RETRY_SECONDS: u64 = 2;
/// Largest head: a few headers, and a credential among them.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long requests may go on after the stop.
const STOP_SECONDS_MAX: u64 = 10;
/// Pause after an accept that failed for want of something (open files): the cause does not go at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of ours a connection came in on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local(pub(crate) IpAddr);

/// How one connection is served.
#[derive(Clone, Copy, Debug)]
struct Manner {
    head_max: Duration,
    is_hurried: bool,
}

/// Serves until the context stops, then lets requests end.
pub(crate) async fn serve(cx: Cx, listener: TcpListener, router: Router, certificate: Option<Certificate>) {
    #[cfg(unix)]
    allow_files();
    serve_within(LIMITS, cx, listener, router, certificate).await;
}

async fn serve_within(
    limits: Limits,
    cx: Cx,
    listener: TcpListener,
    router: Router,
    certificate: Option<Certificate>,
) {
    let mut places = Places::new(limits);
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = cx.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) => {
                    let (cx, router, certificate) = (cx.clone(), router.clone(), certificate.clone());
                    let place = places.take(peer.ip());
                    let is_hurried = matches!(place, Place::Hurried);
                    let head_max = match place {
                        Place::Hurried => HEAD_MAX_HURRIED,
                        Place::Usual(_) if places.is_crowded() => HEAD_MAX_CROWDED,
                        Place::Usual(_) => HEAD_MAX,
                    };
                    let manner = Manner { head_max, is_hurried };
                    let connection = connections.spawn(async move {
                        if let Err(error) = converse(&cx, stream, manner, router, certificate).await {
                            tracing::debug!(err = %error, "connection ended early");
                        }
                        drop(place);
                    });
                    if is_hurried {
                        places.hurry(connection);
                    }
                }
                Err(error) => {
                    tracing::warn!(err = %error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    let ending = async {
        while let Some(ended) = connections.join_next().await {
            report(ended);
        }
    };
    if tokio::time::timeout(Duration::from_secs(STOP_SECONDS_MAX), ending).await.is_err() {
        tracing::debug!("requests did not end in time and were dropped");
        connections.shutdown().await;
    }
}

/// Asks the system for enough open files. It often grants only 1,024 to begin with, and more on request; without that,
/// connections beyond it wait.
#[cfg(unix)]
fn allow_files() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let is_enough = |files: Option<u64>| files.is_none_or(|files| files >= FILES_WANTED);
    if !is_enough(limit.current) {
        let granted = limit.maximum.map_or(FILES_WANTED, |files| files.min(FILES_WANTED));
        let wanted = Rlimit { current: Some(granted), maximum: limit.maximum };
        if let Err(error) = setrlimit(Resource::Nofile, wanted) {
            tracing::debug!(err = %error, "no more open files than before");
        }
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    // Those that were pushed out are cancelled, and nothing is wrong.
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(err = %error, "connection panicked");
    }
}

async fn converse(
    cx: &Cx,
    stream: TcpStream,
    manner: Manner,
    router: Router,
    certificate: Option<Certificate>,
) -> io::Result<()> {
    let local = stream.local_addr()?.ip().to_canonical();
    stream.set_nodelay(true)?;
    let Some(certificate) = certificate else { return speak(cx, stream, local, manner, router).await };
    let handshake = tokio::time::timeout(manner.head_max, certificate.acceptor().accept(stream));
    let stream = tokio::select! {
        () = cx.cancelled() => return Ok(()),
        stream = handshake => stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
    };
    speak(cx, stream, local, manner, router).await
}

async fn speak<S>(cx: &Cx, stream: S, local: IpAddr, manner: Manner, router: Router) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Local(local));
        let has_room = !manner.is_hurried || HEALTH.contains(&request.uri().path());
        let answer = has_room.then(|| router.call(request));
        async move {
            match answer {
                Some(answer) => answer.await,
                None => Ok(full()),
            }
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(manner.head_max)
        .keep_alive(!manner.is_hurried)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Impatient::new(stream)), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = cx.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}

fn full() -> Response {
    let message = "the gateway has no room for another connection";
    let fault = Fault::new(FaultCode::Unavailable, message, format!("try again in {RETRY_SECONDS} s"));
    reply::failure(fault.with("retry_after_s", RETRY_SECONDS))
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

    fn talk(cx: &Cx) -> DuplexStream {
        let (ours, theirs) = tokio::io::duplex(1_024);
        let (cx, router) = (cx.clone(), Router::new().route("/", get(async || "here")));
        let local = IpAddr::from([127, 0, 0, 1]);
        cx.clone().spawn("speak", async move {
            let manner = Manner { head_max: HEAD_MAX, is_hurried: false };
            let _ended = speak(&cx, ours, local, manner, router).await;
        });
        theirs
    }

    /// Sends a head byte by byte, and returns what came back until the end.
    async fn trickle(cx: &Cx, pause: Duration) -> String {
        let (mut read, mut write) = tokio::io::split(talk(cx));
        let sending = async {
            for byte in b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n" {
                let _ = tokio::time::timeout(pause, std::future::pending::<()>()).await;
                if write.write_all(&[*byte]).await.is_err() {
                    return;
                }
            }
        };
        let mut answer = String::new();
        let (_, read) = tokio::join!(sending, read.read_to_string(&mut answer));
        read.unwrap();
        answer
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_in_is_not_waited_for() {
        let cx = Cx::new();
        assert!(!trickle(&cx, Duration::from_secs(1)).await.contains("200 OK"), "55 s for a head");
        assert!(trickle(&cx, Duration::from_millis(100)).await.contains("200 OK"), "6 s for a head");
        cx.close().await;
    }

    #[tokio::test]
    async fn health_is_told_however_many_hold_on() {
        let cx = Cx::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let here = || get(async || "here");
        let router = Router::new().route("/", here()).route("/healthz", here());
        let limits = Limits { usual: 3, each: 3, hurried: 2 };
        let serving = cx.clone();
        cx.spawn("serve", async move { serve_within(limits, serving, listener, router, None).await });
        let ask = async |path: &str| {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
            stream.write_all(head.as_bytes()).await.unwrap();
            let mut answer = vec![0; 1_024];
            let count = stream.read(&mut answer).await.unwrap();
            answer.truncate(count);
            (String::from_utf8(answer).unwrap(), stream)
        };
        let (answer, first) = ask("/").await;
        assert!(answer.contains("200 OK"), "the control: {answer}");
        // Two that say nothing, then one that keeps its connection open.
        let silent = [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
        for _ in 0..20 {
            let (answer, kept) = ask("/").await;
            assert!(answer.contains("503 ") && answer.contains("retry-after: 2"), "{answer}");
            // More than there are places for.
            let pushing =
                [TcpStream::connect(address).await.unwrap(), TcpStream::connect(address).await.unwrap()];
            let (answer, _) = ask("/healthz").await;
            assert!(answer.contains("200 OK") && answer.contains("connection: close"), "{answer}");
            drop((kept, pushing));
        }
        drop((first, silent));
        let free = async || ask("/").await.0.contains("200 OK");
        nhi_testkit::wait_for("a usual place", Duration::from_secs(10), free).await;
        cx.close().await;
    }
}
