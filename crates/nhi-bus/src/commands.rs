//! What is said to one edge machine at once, beside what it is told when it reports. Nobody acknowledges it: a machine
//! that sleeps hears it with its next report, or not at all.

use crate::connect::{Bus, PublishError};
use async_nats::Subscriber;
use bytes::Bytes;
use futures::StreamExt as _;
use nhi_model::{identity::IdentityName, subject};
use serde::Serialize;

/// A machine's subscription to its own commands.
#[derive(Debug)]
pub struct Commands {
    me: IdentityName,
    messages: Subscriber,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Its name, `lock`.
    pub what: String,
    /// What comes with it.
    pub payload: Bytes,
}

/// Why commands cannot be heard.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for commands")]
pub struct CommandsError(#[source] async_nats::SubscribeError);

impl Commands {
    /// Listens for what is said to the identity of the connection.
    ///
    /// # Errors
    /// [`CommandsError`] when the connection is closed.
    pub async fn open(bus: &Bus) -> Result<Self, CommandsError> {
        let me = bus.me().clone();
        let messages = bus.client().subscribe(subject::commands(&me)).await.map_err(CommandsError)?;
        Ok(Self { me, messages })
    }

    /// The next command; `None` when the connection was closed. Cancel safe.
    pub async fn next(&mut self) -> Option<Command> {
        loop {
            let message = self.messages.next().await?;
            if let Some(what) = subject::command_of(&self.me, &message.subject) {
                return Some(Command { what: what.to_owned(), payload: message.payload });
            }
        }
    }
}

/// Says something to an edge machine. That it was sent does not mean that it was heard.
///
/// # Errors
/// [`PublishError`], at once while the link is down.
///
/// # Panics
/// When the payload cannot be written as JSON: our own types can.
pub async fn say(
    bus: &Bus,
    host: &IdentityName,
    what: &str,
    payload: &(impl Serialize + Sync),
) -> Result<(), PublishError> {
    let payload = serde_json::to_vec(payload).expect("our own types are JSON");
    bus.publish_plain(&subject::command(host, what), payload.into()).await
}
