//! Accepts connections and speaks HTTP/1.1 on them, with TLS where it was configured. It reads no request.
//!
//! Each connection runs in a task of this module's own set and not in the context's: a request that makes a handler
//! panic ends its connection, not the process.

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

/// Connections at once; more wait in the system's queue.
const CONNECTIONS_MAX: usize = 512;
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
        .serve_connection(TokioIo::new(stream), service);
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
