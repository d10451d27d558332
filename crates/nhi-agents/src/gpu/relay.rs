//! The door to this machine's models: HTTP for the mesh's routers. It looks at the light and at the pass, gives each
//! request a place, and passes it on as it is; it reads no conversation.

use super::{Error, RelayOptions, auth::Passes, backend::Backend, book::Book, forward, listen, slots::Slots};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited, combinators::UnsyncBoxBody};
use hyper::{
    HeaderMap, Method, Request, Response, StatusCode,
    body::Incoming,
    header::{self as names, HeaderName, HeaderValue},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use nhi_bus::cx::Cx;
use nhi_model::{
    Timestamp,
    gpu::{Light, Relay},
    header,
};
use serde_json::json;
use sha2::{Digest as _, Sha256};
use std::{
    convert::Infallible,
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{Arc, Weak},
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::ring,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _},
    },
};

/// Connections at once: each router keeps a few.
const CONNECTIONS_MAX: usize = 256;
/// How long a handshake, or the head of the next request, may take.
const HEAD_MAX: Duration = Duration::from_secs(20);
/// Largest request: a conversation with images.
const REQUEST_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Pause after an accept that failed for want of something (open files): the cause does not go at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long a cut answer may take to reach whoever asked, before the connection to them is dropped.
const CUT_PAUSE: Duration = Duration::from_millis(200);
/// What routers ask: which models there are and what is in memory, of Ollama, llama.cpp, llama-swap and vLLM.
const ASKED: &[&str] = &[
    "/api/ps",
    "/api/tags",
    "/api/version",
    "/health",
    "/models",
    "/props",
    "/running",
    "/slots",
    "/v1/models",
    "/v1beta/models",
];
/// What they send: conversations and texts. Nothing of it changes the models on the disk.
const SENT: &[&str] = &[
    "/api/chat",
    "/api/embed",
    "/api/embeddings",
    "/api/generate",
    "/api/show",
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/embeddings",
    "/v1/messages",
    "/v1/responses",
];
/// What Gemini's way of asking is sent to: `/v1beta/models/MODEL:VERB`.
const GEMINI: &str = "/v1beta/models/";
const GEMINI_VERBS: &[&str] =
    &["batchEmbedContents", "countTokens", "embedContent", "generateContent", "streamGenerateContent"];
/// Headers that belong to one connection.
const OF_A_CONNECTION: &[HeaderName] = &[
    names::CONNECTION,
    names::PROXY_AUTHENTICATE,
    names::PROXY_AUTHORIZATION,
    names::TE,
    names::TRAILER,
    names::TRANSFER_ENCODING,
    names::UPGRADE,
];

type Answer = Response<UnsyncBoxBody<Bytes, io::Error>>;

/// A door that is open.
pub(super) struct Door {
    pub(super) address: SocketAddr,
    pub(super) told: Relay,
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    desk: Arc<Desk>,
}

/// What each request needs.
struct Desk {
    /// The machine passes are for.
    host: String,
    backend: Backend,
    book: Book,
    passes: Passes,
    slots: Slots,
}

impl Door {
    /// Listens.
    pub(super) async fn open(host: &str, options: &RelayOptions, book: &Book) -> Result<Self, Error> {
        if options.tls.is_none() && !options.listen.ip().is_loopback() {
            return Err(Error::Open { listen: options.listen });
        }
        let (tls, fingerprint) = match &options.tls {
            Some(files) => {
                let path = &files.cert_file;
                let bad = |reason: String| Error::Certificate { path: path.clone(), reason };
                let (acceptor, fingerprint) = certificate(path, &files.key_file).map_err(bad)?;
                (Some(acceptor), Some(fingerprint))
            }
            None => (None, None),
        };
        let listener = listen(options.listen).await?;
        let address =
            listener.local_addr().map_err(|source| Error::Listen { listen: options.listen, source })?;
        let scheme = if tls.is_some() { "https" } else { "http" };
        let reached = SocketAddr::new(options.address.unwrap_or(address.ip()), address.port());
        let url = options.url.clone().unwrap_or_else(|| format!("{scheme}://{reached}"));
        let desk = Desk {
            host: host.to_owned(),
            backend: options.backend.clone(),
            book: book.clone(),
            passes: Passes::default(),
            slots: Slots::new(options.parallel, book.counts.clone()),
        };
        Ok(Self { address, told: Relay { url, fingerprint }, listener, tls, desk: Arc::new(desk) })
    }
}

/// What TLS is made of, and the certificate's SHA-256 in lower-case hex.
fn certificate(cert: &Path, key: &Path) -> Result<(TlsAcceptor, String), String> {
    let read = |path: &Path| fs::read(path).map_err(|error| error.to_string());
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(&read(cert)?)
        .collect::<Result<_, _>>()
        .map_err(|error| error.to_string())?;
    let first = chain.first().ok_or("it holds none")?;
    let fingerprint = Sha256::digest(first).iter().map(|byte| format!("{byte:02x}")).collect();
    let key = PrivateKeyDer::from_pem_slice(&read(key)?).map_err(|error| error.to_string())?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|error| error.to_string())?;
    Ok((TlsAcceptor::from(Arc::new(config)), fingerprint))
}

/// Serves until the context stops; then everything is cut, and those who asked go on elsewhere.
pub(super) async fn serve(cx: Cx, door: Door) {
    let Door { listener, tls, desk, .. } = door;
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
                    let (tls, desk) = (tls.clone(), desk.clone());
                    connections.spawn(async move {
                        if let Err(error) = converse(stream, tls, desk).await {
                            tracing::debug!(agent = "gpu", err = %error, "connection ended early");
                        }
                        drop(place);
                    });
                }
                Err(error) => {
                    tracing::warn!(agent = "gpu", err = %error, "accepting a connection failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    connections.shutdown().await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(agent = "gpu", err = %error, "connection panicked");
    }
}

async fn converse(stream: TcpStream, tls: Option<TlsAcceptor>, desk: Arc<Desk>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let Some(tls) = tls else { return speak(stream, desk).await };
    let handshake = tokio::time::timeout(HEAD_MAX, tls.accept(stream)).await;
    speak(handshake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??, desk).await
}

async fn speak<S>(stream: S, desk: Arc<Desk>) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (through, book) = (Arc::new(()), desk.book.clone());
    let mark = Arc::downgrade(&through);
    let service = service_fn(move |request| {
        let (desk, mark) = (desk.clone(), mark.clone());
        async move { Ok::<_, Infallible>(answer(&desk, request, mark).await) }
    });
    let spoken = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_MAX)
        .serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        spoken = spoken => spoken.map_err(io::Error::other),
        () = stuck(&book, &through) => Err(io::Error::other("a cut answer is not read")),
    }
}

/// Resolves when an answer was cut and is still there: nobody reads it, so it is not asked for its next bytes either,
/// and would keep the server at work.
async fn stuck(book: &Book, through: &Arc<()>) {
    let mut is_cut = book.cut.subscribe();
    loop {
        cut(book).await;
        tokio::time::sleep(CUT_PAUSE).await;
        if *is_cut.borrow_and_update() && Arc::strong_count(through) > 1 {
            return;
        }
        if is_cut.wait_for(|is_cut| !is_cut).await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// Answers one request. Dropping the future, because whoever asked went away, ends it at the server too. While its answer
/// is on its way `mark` counts it.
async fn answer(desk: &Desk, request: Request<Incoming>, mark: Weak<()>) -> Answer {
    let (head, body) = request.into_parts();
    let now = Timestamp::now();
    if let Err(error) = desk.passes.admit(&desk.host, &desk.book, &head.method, &head.uri, &head.headers, now)
    {
        tracing::debug!(agent = "gpu", err = %error, "request without entry");
        return refusal(StatusCode::UNAUTHORIZED, "no_entry", &error.to_string());
    }
    if !is_allowed(&head.method, head.uri.path()) {
        let text = format!("{} {} is not for routers", head.method, head.uri.path());
        return refusal(StatusCode::FORBIDDEN, "forbidden", &text);
    }
    let body = match Limited::new(body, REQUEST_BYTES_MAX).collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => {
            let text = format!("the request has more than {REQUEST_BYTES_MAX} bytes");
            return refusal(StatusCode::PAYLOAD_TOO_LARGE, "too_large", &text);
        }
        Err(_) => return refusal(StatusCode::BAD_REQUEST, "bad_request", "the request breaks off"),
    };
    let taken = red(desk);
    tokio::pin!(taken);
    let slot = tokio::select! {
        biased;
        () = &mut taken => return red_light(desk),
        slot = desk.slots.take() => slot,
    };
    let Some(slot) = slot else {
        return refusal(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many requests wait for this GPU");
    };
    let request = match outgoing(desk, &head, body) {
        Ok(request) => request,
        Err(error) => return refusal(StatusCode::BAD_REQUEST, "bad_request", &error.to_string()),
    };
    tokio::select! {
        biased;
        () = cut(&desk.book) => red_light(desk),
        opened = forward::open(desk.backend.authority(), request) => match opened {
            Ok(opened) => {
                let (mut head, through) = opened.into_parts(cut(&desk.book), Some((slot, mark.upgrade())));
                strip(&mut head.headers);
                Response::from_parts(head, through.boxed_unsync())
            }
            Err(error) => {
                tracing::debug!(agent = "gpu", backend = %desk.backend, err = %error, "model server does not answer");
                refusal(StatusCode::BAD_GATEWAY, "no_backend", "the model server of this machine does not answer")
            }
        },
    }
}

/// Resolves when the light is red. Cancel safe.
fn red(desk: &Desk) -> impl Future<Output = ()> + Send + 'static {
    let mut shown = desk.book.shown.subscribe();
    async move {
        if shown.wait_for(|shown| shown.memory.light == Light::Red).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Resolves when what runs is to be cut. Cancel safe.
fn cut(book: &Book) -> impl Future<Output = ()> + Send + 'static {
    let mut cut = book.cut.subscribe();
    async move {
        if cut.wait_for(|cut| *cut).await.is_err() {
            std::future::pending().await
        }
    }
}

/// Whether a router may ask that. What is not known is refused, and so is whatever a server might read otherwise than
/// we do.
fn is_allowed(method: &Method, path: &str) -> bool {
    if path.contains('%') || path.contains("//") || path.contains("..") {
        return false;
    }
    if *method == Method::GET {
        return ASKED.contains(&path);
    }
    let is_gemini = || {
        let (model, verb) = path.strip_prefix(GEMINI)?.split_once(':')?;
        Some(!model.is_empty() && !model.contains('/') && GEMINI_VERBS.contains(&verb))
    };
    *method == Method::POST && (SENT.contains(&path) || is_gemini() == Some(true))
}

/// The request as the server gets it.
fn outgoing(
    desk: &Desk,
    head: &hyper::http::request::Parts,
    body: Bytes,
) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
    let mut request = Request::builder().method(&head.method).uri(path).body(Full::new(body))?;
    let mut headers = head.headers.clone();
    strip(&mut headers);
    headers.remove(header::RELAY);
    headers.remove(names::CONTENT_LENGTH);
    headers.insert(names::HOST, HeaderValue::from_str(desk.backend.authority())?);
    *request.headers_mut() = headers;
    Ok(request)
}

fn strip(headers: &mut HeaderMap) {
    for name in OF_A_CONNECTION {
        headers.remove(name);
    }
}

fn red_light(desk: &Desk) -> Answer {
    let text = format!("the GPU is taken: {}", desk.book.shown.borrow().memory.text);
    let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "gpu_taken", &text);
    answer.headers_mut().insert(header::LIGHT, HeaderValue::from_static(Light::Red.as_str()));
    answer
}

fn refusal(status: StatusCode, code: &str, text: &str) -> Answer {
    let body = json!({ "error": { "message": text, "type": code, "code": code } }).to_string();
    let body = Full::new(Bytes::from(body)).map_err(|never| match never {}).boxed_unsync();
    let mut answer = Response::new(body);
    *answer.status_mut() = status;
    answer.headers_mut().insert(names::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_talks_to_models_is_allowed_and_nothing_else() {
        let (get, post) = (Method::GET, Method::POST);
        for path in ASKED {
            assert!(is_allowed(&get, path) && !is_allowed(&post, path), "{path}");
        }
        for path in SENT.iter().chain(&["/v1beta/models/gemma-3:streamGenerateContent"]) {
            assert!(is_allowed(&post, path) && !is_allowed(&get, path), "{path}");
        }
        for path in [
            "/api/pull",
            "/api/%70ull",
            "/api/chat/../pull",
            "/api//pull",
            "//api/chat",
            "/api/chat/",
            "/API/chat",
            "/api/chat%2f",
            "/api/blobs/sha256:0",
            "/models/unload",
            "/models/load",
            "/unload",
            "/api/models/unload/x",
            "/upstream/x/v1/chat/completions",
            "/v1beta/models/:generateContent",
            "/v1beta/models/a/b:generateContent",
            "/v1beta/models/a:delete",
            "/",
            "",
        ] {
            assert!(!is_allowed(&post, path) && !is_allowed(&get, path), "{path}");
        }
        assert!(!is_allowed(&Method::DELETE, "/api/chat"));
    }
}
