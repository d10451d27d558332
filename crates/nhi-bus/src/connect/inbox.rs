//! One subscription for all single answers of a connection.
//!
//! The client's own request multiplexer keeps an entry for ever for each request that is refused, times out or is
//! dropped; here the waiting side takes its entry with it. Streams of frames have subscriptions of their own.

use crate::cx::Cx;
use async_nats::{Client, Message, SubscribeError};
use futures::StreamExt;
use nhi_model::{identity::IdentityName, subject};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::oneshot;
use uuid::Uuid;

/// Who waits for an answer, by the number in the last token of the reply subject.
type Waiting = Mutex<State>;

#[derive(Default)]
struct State {
    next: u64,
    senders: BTreeMap<u64, oneshot::Sender<Message>>,
}

pub(crate) struct Inbox {
    /// `_INBOX_<me>.<random>`: nobody else may subscribe it, and no other connection of mine uses it.
    prefix: String,
    waiting: Arc<Waiting>,
}

/// A place in the inbox; dropping it gives the place up.
pub(crate) struct Place {
    subject: String,
    number: u64,
    waiting: Arc<Waiting>,
}

impl Place {
    pub(crate) fn subject(&self) -> &str {
        &self.subject
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut state = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        state.senders.remove(&self.number);
    }
}

impl Inbox {
    pub(crate) async fn open(cx: &Cx, client: &Client, me: &IdentityName) -> Result<Self, SubscribeError> {
        let prefix = subject::inbox(me, Uuid::new_v4().simple());
        let inbox = Self { prefix, waiting: Arc::new(Waiting::default()) };
        let mut answers = client.subscribe(inbox.listens_to()).await?;
        let (waiting, stop) = (inbox.waiting.clone(), cx.clone());
        cx.spawn("inbox", async move {
            loop {
                let answer = tokio::select! {
                    answer = answers.next() => answer,
                    () = stop.cancelled() => None,
                };
                let Some(answer) = answer else { break };
                deliver(&waiting, answer);
            }
            // Whoever still waits learns that no answer will come.
            waiting.lock().unwrap_or_else(PoisonError::into_inner).senders.clear();
        });
        Ok(inbox)
    }

    /// What the server lets only the identity of this name listen to.
    pub(crate) fn listens_to(&self) -> String {
        format!("{}.*", self.prefix)
    }

    /// A reply subject, and what arrives there first.
    pub(crate) fn expect(&self) -> (Place, oneshot::Receiver<Message>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
        let number = state.next;
        state.next += 1;
        state.senders.insert(number, sender);
        let subject = format!("{}.{number}", self.prefix);
        (Place { subject, number, waiting: self.waiting.clone() }, receiver)
    }
}

fn deliver(waiting: &Waiting, answer: Message) {
    let number = answer.subject.rsplit('.').next().and_then(|token| token.parse().ok());
    let sender = number.and_then(|number: u64| {
        waiting.lock().unwrap_or_else(PoisonError::into_inner).senders.remove(&number)
    });
    match sender {
        // The waiting side may have gone this very moment.
        Some(sender) => drop(sender.send(answer)),
        None => tracing::trace!(key = %answer.subject, "answer for nobody"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_that_is_given_up_leaves_nothing_behind() {
        let inbox = Inbox { prefix: "_INBOX_me.x".to_owned(), waiting: Arc::default() };
        let (first, _receiver) = inbox.expect();
        let (second, _receiver) = inbox.expect();
        assert_ne!(first.subject(), second.subject());
        drop((first, second));
        assert!(inbox.waiting.lock().unwrap().senders.is_empty());
    }
}
