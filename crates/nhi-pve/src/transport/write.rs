//! How a call that changes something goes out: once, to one address, on a connection of its own. It does not know what
//! is changed.

use super::{Answered, Call, Connection, Failure, PATH_BYTES_MAX, Transport, answer, lock, seconds};
use crate::error::{Kind, Parts, PveError};
use answer::{Answer, Refused};
use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Method, Request,
    header::{CONTENT_LENGTH, CONTENT_TYPE},
};
use std::sync::atomic::Ordering;
use tokio::time::timeout;

/// Proxmox refuses a body above 64 KiB before pve-http-server 5.2.1, above 512 KiB since.
const BODY_BYTES_MAX: usize = 60 * 1024;

/// One call that changes something.
#[derive(Clone, Debug)]
pub(crate) struct Outgoing {
    pub(crate) method: Method,
    /// Where to; a DELETE's parameters are in the query.
    pub(crate) call: Call,
    /// Form-encoded parameters; `None` for a DELETE, which may have no body.
    pub(crate) body: Option<String>,
}

/// Why it is not known to be done.
#[derive(Debug)]
pub(crate) enum Unsent {
    /// No byte of it has left: nothing happened.
    NotSent(PveError),
    /// Proxmox said no.
    Refused(PveError),
    /// It left, and what became of it is not known.
    Lost(PveError),
}

impl Transport {
    /// Sends a call once: to the address of the node it is about where there is one, else to the preferred one. Another
    /// address is taken only while no connection was made. Not cancel safe: dropping the future leaves open whether
    /// it was sent.
    pub(crate) async fn write(&self, write: &Outgoing) -> Result<Answered, Unsent> {
        let call = &write.call;
        let too_long = call.path.len() + call.query.len() > PATH_BYTES_MAX
            || write.body.as_ref().is_some_and(|body| body.len() > BODY_BYTES_MAX);
        if too_long {
            let text = "the parameters are too long to send".to_owned();
            return Err(Unsent::NotSent(self.error(call, self.preferred(), Kind::InvalidParameter, text)));
        }
        let _turn = self.turn(call).await.map_err(Unsent::NotSent)?;
        let connection = self.fresh_connection(call).await.map_err(Unsent::NotSent)?;
        self.send_on(write, connection).await
    }

    /// A connection that nothing was sent on: one that was used before may be closing just now, and then nobody could
    /// tell whether the call was taken.
    async fn fresh_connection(&self, call: &Call) -> Result<Connection, PveError> {
        let mut route = self.route(call);
        let own = self.address_of(call);
        while let Some(address) = own.filter(|own| route.has(*own)).or_else(|| route.next(self.preferred())) {
            let alone = self.refusals.probe(address).await;
            let opened = match self.check_pause(call, address) {
                Ok(()) => self.connect(call, address).await,
                Err(error) => Err(error),
            };
            drop(alone);
            match opened {
                Ok(connection) => return Ok(connection),
                Err(error) => {
                    if *error.kind() != Kind::Unauthorized {
                        self.places.failed(address, error.text());
                    }
                    self.demote(address);
                    route.fail(address, error);
                }
            }
        }
        Err(route.together())
    }

    /// The address in the settings that is the node's own, where it is known: then no other node stands in between.
    fn address_of(&self, call: &Call) -> Option<usize> {
        let node = call.node.as_ref()?;
        let local = lock(&self.local_nodes);
        local
            .iter()
            .find(|(address, name)| **address < self.endpoint.addresses.len() && *name == node)
            .map(|(a, _)| *a)
    }

    async fn send_on(&self, write: &Outgoing, mut connection: Connection) -> Result<Answered, Unsent> {
        let (call, address) = (&write.call, connection.address);
        // At the last moment: another call may have been refused while this one connected.
        self.check_pause(call, address).map_err(Unsent::NotSent)?;
        self.requests.fetch_add(1, Ordering::Relaxed);
        let place = self.places.get(address).address;
        let head = answer::head(write.method.clone(), &place, call, &self.authorization);
        let request = request(head, write.body.as_ref());
        let deadline = self.endpoint.limits.deadline;
        let limit = self.endpoint.limits.body_bytes_max;
        match timeout(deadline, connection.exchange(request, limit)).await {
            Ok(Ok(answer)) => self.read_written(call, connection, answer),
            Ok(Err(failure)) => {
                let unsent = matches!(failure, Failure::Broken { unsent: true, .. });
                let error = self.failed(call, address, failure);
                Err(if unsent { Unsent::NotSent(error) } else { Unsent::Lost(error) })
            }
            Err(_) => {
                let text = format!("no answer within {}", seconds(deadline));
                self.places.failed(address, &text);
                self.demote(address);
                Err(Unsent::Lost(self.error(call, address, Kind::Timeout, text)))
            }
        }
    }

    fn read_written(&self, call: &Call, connection: Connection, answer: Answer) -> Result<Answered, Unsent> {
        let address = connection.address;
        if answer.status < 400 {
            self.keep(connection);
        }
        let node = call.node.as_deref().unwrap_or("");
        let Refused { kind, status, text, fields, is_said } =
            match answer::data(answer, node, &self.endpoint.token) {
                Ok(data) => {
                    self.answered(address);
                    return Ok(Answered { data, address });
                }
                Err(refused) => refused,
            };
        let text = if kind == Kind::Unauthorized { self.pause(address, &text) } else { text };
        self.places.answered(address);
        if kind != Kind::Unauthorized {
            self.refusals.answered(address);
        }
        let is_refused = is_refusal(status, &kind, &text, is_said);
        let parts = Parts { status: Some(status), fields, ..self.parts(call, address, kind, text) };
        Err(if is_refused { Unsent::Refused(parts.into()) } else { Unsent::Lost(parts.into()) })
    }
}

/// Whether this answer says that nothing was done. Everything else may come from somebody in between who gave up on
/// a call that Proxmox has taken.
fn is_refusal(status: u16, kind: &Kind, text: &str, is_said: bool) -> bool {
    match (status, kind) {
        (_, Kind::NotProxmox) => false,
        (400..=499, _) => true,
        // Inside a call that does its work at once, part of it may be done.
        (500, Kind::Busy) => false,
        (500, Kind::NodeUnreachable { .. }) => is_said && text.contains("hostname lookup '"),
        (500 | 501, _) => is_said,
        _ => false,
    }
}

fn request(head: hyper::http::request::Builder, body: Option<&String>) -> Request<Full<Bytes>> {
    let request = match body {
        None => head.body(Full::default()),
        Some(body) => head
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(CONTENT_LENGTH, body.len())
            .body(Full::from(body.clone())),
    };
    request.expect("host and path are encoded ASCII, and the path is short")
}
