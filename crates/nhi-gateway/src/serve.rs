//! Accepts connections and speaks HTTP/1.1 on them, with TLS where it was configured. It reads no request.
//!
//! Each connection runs in a task of this module's own set and not in the context's: a request that makes a handler
//! panic ends its connection, not the process.

mod impatient;

use self::impatient::Impatient;
use crate::tls::Certificate;
use axum::{Router, http::Request};
use hyper::{body::Incoming, server::conn::http1, service::Service as _};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use nhi_bus::cx::Cx;
use std::{io, net::IpAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

/// Connections at once; more wait in the system's queue. Most of them are listeners to events, which have a limit below
/// this one, so that they leave room for everybody else.
const CONNECTIONS_MAX: usize = 2_560;
/// Files the process wants to be able to open: one for each connection, and the rest of the program.
#[cfg(unix)]
const FILES_WANTED: u64 = 4_096;
/// How long a handshake, or the head of the next request, may take.
const HEAD_SECONDS_MAX: u64 = 20;
/// Largest head: a few headers, and a credential among them.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// How long requests may go on after the stop.
const STOP_SECONDS_MAX: u64 = 10;
/// Pause after an accept that failed for want of something (open files): the cause does not go at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The address of ours a connection came in on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Local(pub(crate) IpAddr);

/// Serves until the context stops, then lets requests end.
pub(crate) async fn serve(cx: Cx, listener: TcpListener, router: Router, certificate: Option<Certificate>) {
    #[cfg(unix)]
    allow_files();
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = async {
            let place = room.clone().acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        tokio::select! {
            () = cx.cancelled() => break,
            Some(ended) = connections.join_next() => report(ended),
            (place, accepted) = accepted => match accepted {
                Ok((stream, _)) => {
                    let (cx, router, certificate) = (cx.clone(), router.clone(), certificate.clone());
                    connections.spawn(async move {
                        if let Err(error) = converse(&cx, stream, router, certificate).await {
                            tracing::debug!(err = %error, "connection ended early");
                        }
                        drop(place);
                    });
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
    if let Err(error) = ended {
        tracing::error!(err = %error, "connection panicked");
    }
}

async fn converse(
    cx: &Cx,
    stream: TcpStream,
    router: Router,
    certificate: Option<Certificate>,
) -> io::Result<()> {
    let local = stream.local_addr()?.ip().to_canonical();
    stream.set_nodelay(true)?;
    let Some(certificate) = certificate else { return speak(cx, stream, local, router).await };
    let handshake =
        tokio::time::timeout(Duration::from_secs(HEAD_SECONDS_MAX), certificate.acceptor().accept(stream));
    let stream = tokio::select! {
        () = cx.cancelled() => return Ok(()),
        stream = handshake => stream.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??,
    };
    speak(cx, stream, local, router).await
}

async fn speak<S>(cx: &Cx, stream: S, local: IpAddr, router: Router) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = TowerToHyperService::new(router);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(Local(local));
        router.call(request)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_SECONDS_MAX))
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
            let _ended = speak(&cx, ours, local, router).await;
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
}
