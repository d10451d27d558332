//! `GET /events`: what changes, as server-sent events, over the caller's own connection and with its rights. It keeps no
//! past: a reader that was away is told what changed meanwhile, or to read everything again.
//!
//! All listeners of one caller share one subscription a bucket, and every event is written out once for all of them. A
//! reader that does not keep up is told so and dropped; nobody waits for it.

mod hub;
mod line;
mod replay;
mod text;

use self::{hub::Hub, line::Ears, replay::Replay};
use crate::{
    App,
    connections::Caller,
    mesh,
    reply::{self, Failure},
    visitor::Visitor,
};
use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, request::Parts},
    response::Response,
};
use bytes::{Bytes, BytesMut};
use futures::stream;
use nhi_bus::cx::Cx;
use nhi_model::fault::{Fault, FaultCode};
use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};
use tokio::sync::broadcast::error::{RecvError, TryRecvError};

/// A quiet stream says that it lives this often: proxies and browsers give up after a minute or less.
const KEEPALIVE: Duration = Duration::from_secs(15);
/// What waits is sent together up to this size.
const PIECE_BYTES_MAX: usize = 64 * 1024;
/// What a slow reader is told last.
const LATE: &str = "this reader did not keep up: it is dropped and should connect again";
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Everybody who listens.
#[derive(Default)]
pub(crate) struct Events {
    /// By public key.
    callers: Mutex<BTreeMap<String, Arc<Seat>>>,
    /// Each listener holds one more.
    listening: Arc<()>,
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}

/// Where the hub of one caller is, while somebody listens. One at a time makes it.
type Seat = tokio::sync::Mutex<Weak<Hub>>;

impl Events {
    /// How many listen.
    pub(crate) fn len(&self) -> usize {
        Arc::strong_count(&self.listening) - 1
    }

    /// The hub of a caller, made when there is none.
    async fn hub(&self, cx: &Cx, caller: &Arc<Caller>) -> Result<Arc<Hub>, Failure> {
        let seat = {
            let mut callers = self.callers.lock().unwrap_or_else(PoisonError::into_inner);
            callers.retain(|_, seat| seat.try_lock().map_or(true, |hub| hub.strong_count() > 0));
            callers.entry(caller.public_key.clone()).or_default().clone()
        };
        let mut seat = seat.lock().await;
        if let Some(hub) = seat.upgrade().filter(|hub| hub.is_of(caller)) {
            return Ok(hub);
        }
        let hub = Hub::open(cx, caller.clone()).await?;
        *seat = Arc::downgrade(&hub);
        Ok(hub)
    }
}

/// What a listener asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Wish {
    live: bool,
    plans: bool,
    /// The revision up to which it knows the state.
    after: Option<u64>,
}

impl Wish {
    fn read(uri: &Uri, headers: &HeaderMap) -> Result<Self, Fault> {
        let bad = || {
            let hint = "send the id of the last event as it came, or leave it out and read everything";
            Fault::new(FaultCode::BadRequest, "Last-Event-ID is not a revision", hint)
        };
        let query = uri.query().unwrap_or_default();
        let value = |name: &str| {
            query.split('&').filter_map(|pair| pair.split_once('=')).find(|(n, _)| *n == name).map(|(_, v)| v)
        };
        let is_on = |name: &str| matches!(value(name), Some("1" | "true"));
        let after = match headers.get(LAST_EVENT_ID).map(|id| id.to_str().map_err(|_| bad())).transpose()? {
            None | Some("") => None,
            Some(id) => Some(id.trim().parse().map_err(|_| bad())?),
        };
        Ok(Self { live: is_on("live"), plans: is_on("plans"), after })
    }
}

/// Answers `GET /events`.
pub(crate) async fn listen(State(app): State<Arc<App>>, request: Request<Body>) -> Response {
    let (parts, _) = request.into_parts();
    open(&app, &parts).await.unwrap_or_else(reply::failure)
}

async fn open(app: &Arc<App>, parts: &Parts) -> Result<Response, Failure> {
    let visitor = mesh::authenticate(app, parts).await?;
    let wish = Wish::read(&parts.uri, &parts.headers)?;
    visitor.may_listen()?;
    let hub = app.events.hub(&app.stop, &visitor.caller).await?;
    hub.follow(wish.live, wish.plans).await?;
    let (ears, revision) = hub.join(wish.live, wish.plans)?;
    let replay = match wish.after {
        None => Replay::Nothing,
        Some(after) => hub.replay(after, revision).await,
    };
    let first = Some(text::greeting(revision, wish.after, &replay));
    let (stop, listening) = (app.stop.clone(), app.events.listening.clone());
    let listener = Listener { first, ears, visitor, stop, over: false, hub, listening };
    let body = Body::from_stream(stream::unfold(listener, Listener::next));
    Ok(reply::stream(HeaderValue::from_static("text/event-stream"), body))
}

/// One stream of events on its way to its reader.
struct Listener {
    first: Option<Bytes>,
    ears: Ears,
    visitor: Visitor,
    stop: Cx,
    over: bool,
    /// Kept, so that it lives while somebody listens.
    #[expect(dead_code, reason = "held for its end")]
    hub: Arc<Hub>,
    #[expect(dead_code, reason = "held for its end")]
    listening: Arc<()>,
}

impl Listener {
    async fn next(mut self) -> Option<(Result<Bytes, Infallible>, Self)> {
        if self.over {
            return None;
        }
        if let Some(first) = self.first.take() {
            return Some((Ok(first), self));
        }
        let piece = self.piece().await?;
        Some((Ok(piece), self))
    }

    /// The next text to send; `None` when the stream is over.
    async fn piece(&mut self) -> Option<Bytes> {
        let news = tokio::select! {
            news = self.ears.hear() => news,
            () = tokio::time::sleep(KEEPALIVE) => return Some(Bytes::from_static(b": alive\n\n")),
            () = self.visitor.over() => return None,
            () = self.stop.cancelled() => return None,
        };
        match news {
            Err(RecvError::Closed) => None,
            Ok(text) => Some(self.gather(text)),
            Err(RecvError::Lagged(_)) => {
                self.over = true;
                Some(text::resync(LATE))
            }
        }
    }

    /// What waits behind the first, in one piece. Whatever else waits, the next turn finds.
    fn gather(&mut self, first: Bytes) -> Bytes {
        if self.ears.is_quiet() {
            return first;
        }
        let mut piece = BytesMut::from(&first[..]);
        while piece.len() < PIECE_BYTES_MAX {
            match self.ears.heard() {
                Err(TryRecvError::Closed) => {
                    self.over = true;
                    break;
                }
                Ok(text) => piece.extend_from_slice(&text),
                Err(TryRecvError::Empty) => break,
                Err(TryRecvError::Lagged(_)) => {
                    self.over = true;
                    piece.extend_from_slice(&text::resync(LATE));
                    break;
                }
            }
        }
        piece.freeze()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wish_is_read_from_query_and_header() {
        let check = |uri: &'static str, id: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            headers.extend(id.map(|id| (LAST_EVENT_ID, HeaderValue::from_static(id))));
            Wish::read(&Uri::from_static(uri), &headers).map_err(|fault| fault.message)
        };
        let wish = |live, plans, after| Ok(Wish { live, plans, after });
        assert_eq!(check("/events", None), wish(false, false, None));
        assert_eq!(check("/events?live=1&plans=1", Some("7")), wish(true, true, Some(7)));
        assert_eq!(check("/events?live=0", Some(" 9 ")), wish(false, false, Some(9)));
        assert_eq!(check("/events", Some("")), wish(false, false, None));
        for bad in ["x", "-1", "1.5", "99999999999999999999999"] {
            assert!(check("/events", Some(bad)).is_err(), "{bad}");
        }
    }
}
