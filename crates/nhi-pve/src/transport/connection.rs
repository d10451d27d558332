//! One connection: opened, checked, used for one request after the other. It retries nothing and keeps no list.

use super::{Certificate, answer::Answer, seconds};
use crate::{
    endpoint::{Address, Scheme},
    error::clean,
    trust::{Fingerprint, Identity, TrustedAs},
};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::{
    Request, Response,
    body::{Body, Incoming},
    client::conn::http1,
};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{
    fmt, io,
    net::SocketAddr,
    pin::{Pin, pin},
    task::{Context, Poll},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpStream, lookup_host},
    time::{Instant, timeout},
};
use tokio_rustls::TlsConnector;
use url::Host;

/// A host with more addresses than this is no Proxmox node.
const SOCKET_ADDRESSES_MAX: usize = 4;

/// Plain or TLS.
trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

type Driver = http1::Connection<TokioIo<Box<dyn Stream>>, Full<Bytes>>;

/// An open connection. Nothing runs behind it: it moves only while a request is awaited, so there is no task to
/// track, and dropping it closes it.
pub(crate) struct Connection {
    /// Index of the address it leads to.
    pub(crate) address: usize,
    /// When its last answer was complete.
    pub(crate) idle_since: Instant,
    requests: u32,
    sender: http1::SendRequest<Full<Bytes>>,
    /// `None` once the connection has ended.
    driver: Option<Pin<Box<Driver>>>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Failure {
    /// There was no connection to ask on.
    NoConnection { reason: String },
    /// The connection ended before the answer was whole. `unsent`: no byte of the request had left.
    Broken { reason: String, unsent: bool },
    /// TLS failed, or the certificate was refused.
    Tls { reason: String, certificate: Certificate },
    /// The answer is too large.
    TooLarge { limit: usize },
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = formatter.debug_struct("Connection");
        shown.field("address", &self.address).field("requests", &self.requests).finish_non_exhaustive()
    }
}

impl Connection {
    /// Whether it carried a request before the newest one.
    pub(crate) fn is_reused(&self) -> bool {
        self.requests > 1
    }

    /// Whether the other side has not closed it, as far as can be seen without sending.
    pub(crate) async fn is_open(&mut self) -> bool {
        let Self { sender, driver, .. } = self;
        let ready = pin!(sender.ready());
        drive(driver, ready).await.is_ok() && driver.is_some()
    }

    /// Sends one request and reads the whole answer. Cancel safe only in that dropping the future spoils the
    /// connection, which must then be dropped too.
    pub(crate) async fn exchange(
        &mut self,
        request: Request<Full<Bytes>>,
        body_bytes_max: usize,
    ) -> Result<Answer, Failure> {
        self.requests += 1;
        let Self { sender, driver, .. } = self;
        let work = pin!(async {
            let response = sender.try_send_request(request).await.map_err(|mut error| {
                let unsent = error.take_message().is_some();
                Failure::Broken { reason: clean(&chain(error.error())), unsent }
            })?;
            read(response, body_bytes_max).await
        });
        drive(driver, work).await
    }
}

/// Awaits `work` while the connection under it moves.
async fn drive<T>(driver: &mut Option<Pin<Box<Driver>>>, mut work: Pin<&mut impl Future<Output = T>>) -> T {
    std::future::poll_fn(move |context: &mut Context<'_>| {
        // The connection first: what it has to tell (an answer, its end) is what the work waits for.
        if let Some(running) = driver
            && running.as_mut().poll(context).is_ready()
        {
            *driver = None;
        }
        match work.as_mut().poll(context) {
            Poll::Ready(done) => Poll::Ready(done),
            Poll::Pending => {
                // The work may have handed something to the connection just now; whoever it was woken by, look again.
                if let Some(running) = driver
                    && running.as_mut().poll(context).is_ready()
                {
                    *driver = None;
                    context.waker().wake_by_ref();
                }
                Poll::Pending
            }
        }
    })
    .await
}

async fn read(response: Response<Incoming>, body_bytes_max: usize) -> Result<Answer, Failure> {
    let (head, mut body) = response.into_parts();
    let too_large = || Failure::TooLarge { limit: body_bytes_max };
    if body.size_hint().lower() > u64::try_from(body_bytes_max).unwrap_or(u64::MAX) {
        return Err(too_large());
    }
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.map_err(broken)?.into_data() {
            if bytes.len() + data.len() > body_bytes_max {
                return Err(too_large());
            }
            bytes.extend_from_slice(&data);
        }
    }
    Ok(Answer::new(&head, bytes))
}

#[expect(clippy::needless_pass_by_value, reason = "the shape of map_err")]
fn broken(error: hyper::Error) -> Failure {
    Failure::Broken { reason: clean(&chain(&error)), unsent: false }
}

/// An error with its sources in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(&format!(": {inner}"));
        source = inner.source();
    }
    text
}

/// Opens a connection within `limit`, TLS and the check of the certificate included.
pub(crate) async fn connect(
    place: &Address,
    address: usize,
    identity: &Identity,
    limit: Duration,
) -> Result<(Connection, TrustedAs), Failure> {
    let opening = async {
        let tcp = open_tcp(place, limit).await?;
        let (stream, trusted_as) = secure(place, tcp, identity).await?;
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let driver = Some(Box::pin(driver));
        Ok((Connection { address, idle_since: Instant::now(), requests: 0, sender, driver }, trusted_as))
    };
    match timeout(limit, opening).await {
        Ok(connected) => connected,
        Err(_) => Err(Failure::NoConnection { reason: format!("no connection within {}", seconds(limit)) }),
    }
}

async fn open_tcp(place: &Address, limit: Duration) -> Result<TcpStream, Failure> {
    let sockets: Vec<SocketAddr> = match &place.host {
        Host::Ipv4(address) => vec![(*address, place.port).into()],
        Host::Ipv6(address) => vec![(*address, place.port).into()],
        Host::Domain(name) => lookup_host((name.as_str(), place.port))
            .await
            .map_err(|error| {
                no_connection(format!("the name {name} cannot be resolved ({})", clean(&error.to_string())))
            })?
            .take(SOCKET_ADDRESSES_MAX)
            .collect(),
    };
    let mut last = no_connection(format!("the name {} has no address", place.host()));
    // A name often has an IPv6 address that leads nowhere: none may eat the time of the others.
    let slice = limit / u32::try_from(sockets.len().max(1)).unwrap_or(1);
    for socket in sockets {
        match timeout(slice, TcpStream::connect(socket)).await {
            Ok(Ok(tcp)) => {
                // One small request at a time: waiting for more to send only delays it.
                if let Err(error) = tcp.set_nodelay(true) {
                    tracing::debug!(err = %error, "small packets cannot be sent at once");
                }
                return Ok(tcp);
            }
            Ok(Err(error)) => last = no_connection(explain(&error)),
            Err(_) => last = no_connection(format!("no connection within {}", seconds(slice))),
        }
    }
    Err(last)
}

fn no_connection(reason: String) -> Failure {
    Failure::NoConnection { reason }
}

fn explain(error: &io::Error) -> String {
    let hint = match error.kind() {
        io::ErrorKind::ConnectionRefused => " (nothing listens there: is the port right, does pveproxy run?)",
        io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => " (is the machine on?)",
        _ => "",
    };
    format!("{}{hint}", clean(&error.to_string()))
}

async fn secure(
    place: &Address,
    tcp: TcpStream,
    identity: &Identity,
) -> Result<(Box<dyn Stream>, TrustedAs), Failure> {
    if place.scheme == Scheme::Http {
        return Ok((Box::new(tcp), TrustedAs::Plain));
    }
    let name = ServerName::try_from(place.host());
    let name = name.map_err(|_| no_connection(format!("{} cannot be a certificate's name", place.host())))?;
    match TlsConnector::from(identity.config()).connect(name, tcp).await {
        Ok(stream) => {
            let leaf =
                stream.get_ref().1.peer_certificates().and_then(|chain| chain.first()).map(Fingerprint::of);
            let leaf = leaf.ok_or_else(|| Failure::Tls {
                reason: "the server presented no certificate".to_owned(),
                certificate: None,
            })?;
            Ok((Box::new(stream), identity.trusted_as(leaf)))
        }
        Err(error) => Err(tls_failure(place, identity, &error)),
    }
}

fn tls_failure(place: &Address, identity: &Identity, error: &io::Error) -> Failure {
    let Some(tls) = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) else {
        let reason = format!("the connection broke while TLS was set up: {}", clean(&error.to_string()));
        return no_connection(reason);
    };
    if let Some((reason, certificate)) = identity.refusal(place, tls) {
        return Failure::Tls { reason, certificate };
    }
    let reason = match tls {
        rustls::Error::InvalidMessage(_) => "the server does not speak TLS: is the port right?".to_owned(),
        other => format!("TLS failed: {}", clean(&other.to_string())),
    };
    Failure::Tls { reason, certificate: None }
}
