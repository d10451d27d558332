//! The acting half of the API: a call that changes something is sent once. It decides nothing, follows nothing, and
//! never sends anything again.

use crate::{
    endpoint::Endpoint,
    error::{Kind, PveError},
    node::Task,
    reader::{Reader, TaskNow},
    rows::Rows,
    transport::{Call, Outgoing, Transport, Unsent},
    trust::TrustError,
    upid::Upid,
};
use hyper::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::Value;
use std::{collections::BTreeMap, fmt, sync::Arc};

/// What stands for itself in a form.
const FORM: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~');

/// Acts on one cluster or stand-alone host with the actuator's token. Cheap to clone; clones share connections, limits
/// and pauses with each other and with [`Operator::reader`].
#[derive(Clone, Debug)]
pub struct Operator {
    transport: Arc<Transport>,
    reader: Reader,
    token: Arc<str>,
}

/// How a call changes something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteMethod {
    /// Do it.
    Post,
    /// Change it.
    Put,
    /// Remove it.
    Delete,
}

/// One call that changes something.
#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    /// Method.
    pub method: WriteMethod,
    /// Path below `/api2/json`, every segment encoded. Only what guests need can be asked for: see [`Operator::send`].
    pub path: &'a str,
    /// Parameters, as they are.
    pub params: &'a BTreeMap<String, String>,
    /// The node in the path.
    pub node: &'a str,
}

/// What came of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Proxmox began a task. Nothing is known of its success.
    Task(Upid),
    /// Proxmox did it, or found nothing to do, and began no task.
    Done,
}

/// Why a call is not known to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SendError {
    /// Nothing was sent: nothing happened.
    NotSent(PveError),
    /// Proxmox refused it: nothing happened.
    Refused(PveError),
    /// It was sent, and it may have been taken. The task list and the guest tell.
    Lost(PveError),
}

impl SendError {
    /// What went wrong.
    pub fn error(&self) -> &PveError {
        match self {
            Self::NotSent(error) | Self::Refused(error) | Self::Lost(error) => error,
        }
    }
}

impl fmt::Display for SendError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.error().fmt(formatter)
    }
}

impl std::error::Error for SendError {}

impl Operator {
    /// Connects to nothing yet.
    pub fn new(endpoint: Endpoint) -> Result<Self, TrustError> {
        let token = endpoint.token().id().into();
        let transport = Arc::new(Transport::new(endpoint)?);
        Ok(Self { reader: Reader::over(transport.clone()), transport, token })
    }

    /// Whole id of its token, without the secret: how its tasks are signed ([`Upid::user`]).
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Reads with the same token, connections and limits.
    pub fn reader(&self) -> &Reader {
        &self.reader
    }

    /// Sends one call, once, to one address. Only calls that make, change, switch, move, keep, back up or remove one
    /// guest can be sent; anything else (a whole node's switch, a command inside a guest, access lists) is
    /// [`SendError::NotSent`].
    ///
    /// Not cancel safe: dropping the future leaves open whether it was sent, as after [`SendError::Lost`].
    pub async fn send(&self, write: &Write<'_>) -> Result<Accepted, SendError> {
        let outgoing = outgoing(write);
        if !is_known(write) {
            let text = "it is no call for one guest that an actuator may send".to_owned();
            let error = self.transport.error(&outgoing.call, 0, Kind::InvalidParameter, text);
            return Err(SendError::NotSent(error.of_write(write.method.as_str())));
        }
        let method = write.method.as_str();
        let answered = self.transport.write(&outgoing).await.map_err(|unsent| match unsent {
            Unsent::NotSent(error) => SendError::NotSent(error.of_write(method)),
            Unsent::Refused(error) => SendError::Refused(error.of_write(method)),
            Unsent::Lost(error) => SendError::Lost(error.of_write(method)),
        })?;
        let odd = |text: &str| {
            let error =
                self.transport.error(&outgoing.call, answered.address, Kind::Malformed, text.to_owned());
            SendError::Lost(error.of_write(method))
        };
        match &answered.data {
            Value::Null => Ok(Accepted::Done),
            // What vzdump says when the guest is on another node: it did nothing.
            Value::String(text) if text == "OK" => Ok(Accepted::Done),
            Value::String(text) => {
                text.parse().map(Accepted::Task).map_err(|_| odd("Proxmox answered with what is no task"))
            }
            Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
                Err(odd("Proxmox answered with what is neither a task nor nothing"))
            }
        }
    }

    /// How a task stands. [`Kind::InvalidParameter`] when its node no longer knows it.
    pub async fn task(&self, upid: &Upid) -> Result<TaskNow, PveError> {
        self.reader.task_status(upid).await
    }

    /// Tasks about this guest on this node, running ones too, that began at or after `since_s` by *that node's* clock
    /// ([`Reader::node_clock`]).
    pub async fn tasks_since(&self, node: &str, vmid: u32, since_s: u64) -> Result<Rows<Task>, PveError> {
        self.reader.guest_tasks(node, vmid, since_s).await
    }
}

impl WriteMethod {
    /// As on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }
}

fn outgoing(write: &Write<'_>) -> Outgoing {
    let form = form(write.params);
    let method = match write.method {
        WriteMethod::Post => Method::POST,
        WriteMethod::Put => Method::PUT,
        WriteMethod::Delete => Method::DELETE,
    };
    // "Unexpected content for method 'DELETE'".
    let (query, body) = match write.method {
        WriteMethod::Delete if form.is_empty() => (String::new(), None),
        WriteMethod::Delete => (format!("?{form}"), None),
        WriteMethod::Post | WriteMethod::Put => (String::new(), Some(form)),
    };
    let call =
        Call { path: write.path.to_owned(), query, node: Some(write.node.to_owned()), protected: true };
    Outgoing { method, call, body }
}

fn form(params: &BTreeMap<String, String>) -> String {
    let pair = |(name, value): (&String, &String)| {
        format!("{}={}", utf8_percent_encode(name, FORM), utf8_percent_encode(value, FORM))
    };
    params.iter().map(pair).collect::<Vec<_>>().join("&")
}

/// Whether it is one of the calls that plans are made of. Whoever wants another one has to add it here first.
fn is_known(write: &Write<'_>) -> bool {
    let Some(path) = write.path.strip_prefix("/nodes/") else { return false };
    let segments: Vec<&str> = path.split('/').collect();
    let [node, rest @ ..] = &segments[..] else { return false };
    if !segments.iter().all(|segment| is_segment(segment)) || *node != write.node {
        return false;
    }
    let is_number = |text: &str| {
        text.parse::<u32>().is_ok_and(|vmid| (100..=999_999_999).contains(&vmid) && vmid.to_string() == text)
    };
    match (write.method, rest) {
        (WriteMethod::Post, ["vzdump"] | ["qemu" | "lxc"]) => true,
        (method, ["qemu" | "lxc", vmid, tail @ ..]) if is_number(vmid) => match (method, tail) {
            (WriteMethod::Post, ["status", switch]) => {
                matches!(*switch, "start" | "stop" | "shutdown" | "reboot" | "reset" | "suspend" | "resume")
            }
            (WriteMethod::Post, ["clone" | "snapshot" | "migrate" | "config"])
            | (WriteMethod::Post, ["snapshot", _, "rollback"])
            | (WriteMethod::Put, ["config" | "resize"])
            | (WriteMethod::Delete, [] | ["snapshot", _]) => true,
            _ => false,
        },
        _ => false,
    }
}

/// Names that leave their place in a path (`..`, a slash) are none.
fn is_segment(text: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    !text.is_empty() && text != "." && text != ".." && text.bytes().all(is_plain)
}

#[cfg(test)]
mod tests;
