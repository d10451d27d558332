//! One request to the model server over a connection of its own, so that dropping it is the end of it: the server
//! notices and stops. It adds nothing and waits for nobody.

use super::slots::Slot;
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::{Body, Frame, Incoming, SizeHint},
    client::conn::http1,
    http::response::Parts,
};
use hyper_util::rt::TokioIo;
use std::{
    fmt, io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};
use tokio::net::TcpStream;

/// How long connecting may take: the server is on the same machine, and it runs or it does not.
const CONNECT_MAX: Duration = Duration::from_secs(3);

/// What an answer keeps as long as it lives: its place at the server, and its mark at the connection it goes to.
pub(super) type Kept = (Slot, Option<Arc<()>>);

/// An answer that has begun.
pub(super) struct Opened {
    response: Response<Incoming>,
    /// What carries the bytes, until it is done.
    connection: Option<BoxFuture<'static, ()>>,
}

/// Sends a request and waits for the head of its answer. Dropping the future closes the connection.
pub(super) async fn open(authority: &str, request: Request<Full<Bytes>>) -> io::Result<Opened> {
    let connecting = tokio::time::timeout(CONNECT_MAX, TcpStream::connect(authority));
    let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    stream.set_nodelay(true)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(io::Error::other)?;
    let mut connection = Some(connection.map(drop).boxed());
    let mut sending = std::pin::pin!(sender.send_request(request));
    let response = loop {
        let carried = async {
            match &mut connection {
                Some(connection) => connection.await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            response = &mut sending => break response.map_err(io::Error::other)?,
            // The last bytes may be there already: the answer is asked for once more.
            () = carried => connection = None,
        }
    };
    Ok(Opened { response, connection })
}

impl Opened {
    /// The answer's head and body. The body breaks off when `cut` resolves, and keeps a place at the server as long as
    /// it lives.
    pub(super) fn into_parts(
        self,
        cut: impl Future<Output = ()> + Send + 'static,
        kept: Option<Kept>,
    ) -> (Parts, Through) {
        let (head, incoming) = self.response.into_parts();
        (head, Through { incoming, connection: self.connection, cut: cut.boxed(), _kept: kept })
    }
}

/// The body of an answer on its way through.
pub(super) struct Through {
    incoming: Incoming,
    connection: Option<BoxFuture<'static, ()>>,
    cut: BoxFuture<'static, ()>,
    _kept: Option<Kept>,
}

impl fmt::Debug for Through {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Through").finish_non_exhaustive()
    }
}

impl Body for Through {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        if self.cut.poll_unpin(cx).is_ready() {
            self.connection = None;
            let cut = io::Error::new(io::ErrorKind::ConnectionAborted, "the gpu is taken");
            return Poll::Ready(Some(Err(cut)));
        }
        if let Some(connection) = &mut self.connection
            && connection.poll_unpin(cx).is_ready()
        {
            self.connection = None;
        }
        Pin::new(&mut self.incoming).poll_frame(cx).map_err(io::Error::other)
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
