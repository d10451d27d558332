//! Who has which public key, asked through the gateway's own identity and kept for five seconds. It decides nothing
//! about rights: those are nats-server's.

use nhi_bus::{
    call::{CallError, Timeout, call_within},
    connect::Bus,
};
use nhi_model::{
    call::{AuthList, AuthListed},
    identity::{IdentityName, Role},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::Semaphore, time::Instant};

/// How long an answer is believed. A revoked connection is closed by nats-server at once, whatever stands here.
const BELIEVED: Duration = Duration::from_secs(5);
/// A key that is not in the answer may have been added since; it is asked for again, but at most so often, because
/// anybody can send unknown keys.
const ASKED_AGAIN: Duration = Duration::from_millis(250);
/// How long the answer may take: it is a list in the keeper's memory.
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// The names and roles of all identities by public key.
type Names = BTreeMap<String, (IdentityName, Option<Role>)>;

/// The list of identities, as last seen.
#[derive(Debug)]
pub(crate) struct Directory {
    own: Bus,
    seen: Mutex<Option<Seen>>,
    /// One question at a time; whoever waited finds the answer there.
    asking: Semaphore,
}

#[derive(Clone, Debug)]
struct Seen {
    at: Instant,
    names: Arc<Names>,
}

impl Directory {
    pub(crate) fn new(own: Bus) -> Self {
        Self { own, seen: Mutex::new(None), asking: Semaphore::new(1) }
    }

    /// The identity of a public key; `None` when there is none, or no longer.
    pub(crate) async fn name_of(&self, public_key: &str) -> Result<Option<IdentityName>, CallError> {
        let now = Instant::now();
        let name = name_in(&*self.names_since(now.checked_sub(BELIEVED)).await?, public_key);
        if name.is_some() {
            return Ok(name);
        }
        Ok(name_in(&*self.names_since(now.checked_sub(ASKED_AGAIN)).await?, public_key))
    }

    /// The role of a public key's identity as last seen, for people to read.
    pub(crate) fn role_of(&self, public_key: &str) -> Option<Role> {
        self.remembered(None)?.get(public_key)?.1
    }

    /// The same from an answer that was asked for now: after a connection broke.
    pub(crate) async fn name_now(&self, public_key: &str) -> Result<Option<IdentityName>, CallError> {
        Ok(name_in(&*self.names_since(Some(Instant::now())).await?, public_key))
    }

    /// An answer that was asked for at that time or later. Without one the clock has only begun, and any will do.
    async fn names_since(&self, oldest: Option<Instant>) -> Result<Arc<Names>, CallError> {
        if let Some(names) = self.remembered(oldest) {
            return Ok(names);
        }
        let _turn = self.asking.acquire().await.expect("the semaphore is never closed");
        if let Some(names) = self.remembered(oldest) {
            return Ok(names);
        }
        let at = Instant::now();
        let within = Timeout::of(ANSWER_MAX);
        let listed: AuthListed = call_within(&self.own, "auth", "list", &AuthList {}, within).await?;
        let names = listed.identities.into_iter();
        let names = names.map(|identity| (identity.public_key, (identity.name, identity.role)));
        let names: Arc<Names> = Arc::new(names.collect());
        let seen = Seen { at, names: names.clone() };
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some(seen);
        Ok(names)
    }

    fn remembered(&self, oldest: Option<Instant>) -> Option<Arc<Names>> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.as_ref()
            .filter(|seen| oldest.is_none_or(|oldest| seen.at >= oldest))
            .map(|seen| seen.names.clone())
    }
}

fn name_in(names: &Names, public_key: &str) -> Option<IdentityName> {
    names.get(public_key).map(|(name, _)| name.clone())
}
