//! One round of questions to services and the answers to it. It does not read what an answer says.
//!
//! Each question has a reply subject of its own that cannot be guessed: who answers one cannot answer another.

use crate::connect::{Bus, PublishError};
use async_nats::{HeaderMap, StatusCode, Subscriber};
use bytes::Bytes;
use futures::{StreamExt as _, future::BoxFuture};
use nhi_model::subject::{self, Verb};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use uuid::Uuid;

/// Answers come together; when none has come for this long, the rest is not coming.
const QUIET_MS: u64 = 150;
/// Questions of one round at most: more than a mesh has services.
pub(super) const QUESTIONS_MAX: usize = 1_024;

/// Why nobody could be asked.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// The link is down.
    #[error("ask for services: the mesh is not connected; try again when it is")]
    Disconnected,
    /// The identity may not ask.
    #[error("ask for services: the server refuses it to this identity; machines of the edge only report")]
    Refused,
}

/// The questions of one round, and where their answers come.
pub(super) struct Round<'b> {
    bus: &'b Bus,
    verb: Verb,
    prefix: String,
    answers: Subscriber,
    losses: watch::Receiver<u64>,
    refused: Option<BoxFuture<'static, ()>>,
    /// By reply subject: the service that was asked, nothing for all.
    asked: BTreeMap<String, Option<String>>,
    /// The services that were asked.
    names: BTreeSet<String>,
    /// Those of them that somebody may still answer.
    open: BTreeSet<String>,
    /// Those of them that somebody answered.
    answered: BTreeSet<String>,
    deadline: Instant,
    until: Instant,
}

impl<'b> Round<'b> {
    pub(super) async fn open(bus: &'b Bus, verb: Verb, wait: Duration) -> Result<Self, DiscoverError> {
        if !bus.is_up() {
            return Err(DiscoverError::Disconnected);
        }
        let losses = bus.losses();
        let prefix = subject::inbox(bus.me(), Uuid::new_v4().simple());
        let listening = bus.client().subscribe(format!("{prefix}.*")).await;
        let answers = listening.map_err(|_| DiscoverError::Disconnected)?;
        let deadline = Instant::now() + wait;
        Ok(Self {
            bus,
            verb,
            prefix,
            answers,
            losses,
            refused: None,
            asked: BTreeMap::new(),
            names: BTreeSet::new(),
            open: BTreeSet::new(),
            answered: BTreeSet::new(),
            deadline,
            until: deadline,
        })
    }

    /// Asks one service by its name, or all. Only the service itself hears what is asked by its name, so only that
    /// answer is believed; from the answers of all, just the names are taken.
    pub(super) async fn ask(&mut self, name: Option<&str>) -> Result<(), DiscoverError> {
        let all = self.verb.subject();
        let question = name.map_or_else(|| all.clone(), |name| format!("{all}.{name}"));
        if self.refused.is_none() {
            // Who may not ask the first may not ask any.
            self.refused = Some(Box::pin(self.bus.refused(&question)));
        }
        let reply = format!("{}.{}", self.prefix, Uuid::new_v4().simple());
        let sent = self.bus.send(&question, Some(&reply), HeaderMap::new(), Bytes::new()).await;
        sent.map_err(|error| match error {
            PublishError::Disconnected { .. }
            | PublishError::TooLarge { .. }
            | PublishError::BadSubject { .. } => DiscoverError::Disconnected,
        })?;
        self.names.extend(name.map(str::to_owned));
        self.open.insert(reply.clone());
        self.asked.insert(reply, name.map(str::to_owned));
        Ok(())
    }

    /// Whether this service was not asked yet, and may be.
    pub(super) fn is_new(&self, name: &str) -> bool {
        self.questions() < QUESTIONS_MAX && !self.was_asked(name)
    }

    /// Whether this service was asked.
    pub(super) fn was_asked(&self, name: &str) -> bool {
        self.names.contains(name)
    }

    /// How many questions were asked.
    pub(super) fn questions(&self) -> usize {
        self.asked.len()
    }

    /// The next answer, with the service that was asked; `None` when no more are to be expected.
    pub(super) async fn next(&mut self) -> Result<Option<(Option<String>, Bytes)>, DiscoverError> {
        loop {
            let refused = self.refused.get_or_insert_with(|| Box::pin(std::future::pending()));
            let answer = tokio::select! {
                biased;
                answer = timeout_at(self.until, self.answers.next()) => answer,
                () = refused => return Err(DiscoverError::Refused),
                _ = self.losses.changed() => return Err(DiscoverError::Disconnected),
            };
            let Ok(Some(message)) = answer else { return Ok(None) };
            let place = message.subject.as_str();
            if message.status == Some(StatusCode::NO_RESPONDERS) {
                self.open.remove(place);
                if self.open.is_empty() {
                    return Ok(None);
                }
                continue;
            }
            let Some(asked) = self.asked.get(place) else { continue };
            self.answered.insert(place.to_owned());
            self.until = self.deadline.min(Instant::now() + Duration::from_millis(QUIET_MS));
            return Ok(Some((asked.clone(), message.payload)));
        }
    }

    /// Services that were asked by their name and neither answered nor are known to be gone.
    pub(super) fn silent(&self) -> BTreeSet<String> {
        let waiting = self.open.iter().filter(|place| !self.answered.contains(*place));
        waiting.filter_map(|place| self.asked.get(place)?.clone()).collect()
    }
}
