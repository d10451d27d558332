//! Hears which streams their callers no longer want, and drops the work on them. It is told by
//! [`crate::call::flow`]; whoever is killed says nothing, and its stream runs to its end.

use super::request::Caller;
use crate::{call::flow::CANCEL, cx::Cx};
use async_nats::{Message, Subscriber};
use futures::StreamExt;
use nhi_model::{identity::IdentityName, subject};
use std::{
    collections::BTreeMap,
    future::pending,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Caller, id and a number: a retry with the same id may run beside the first try.
type Key = (IdentityName, String, u64);

/// The streams that are asked for and not ended.
#[derive(Clone)]
pub(super) struct Flow(Arc<Shared>);

struct Shared {
    open: Mutex<Open>,
    /// How many there are, for who waits until there is none.
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Open {
    next: u64,
    streams: BTreeMap<Key, CancellationToken>,
}

/// Whether one stream is still wanted.
pub(super) struct Wanted {
    flow: Flow,
    key: Key,
    token: CancellationToken,
}

impl Wanted {
    /// Returns when it is wanted no longer; never for what cannot be cancelled.
    pub(super) async fn no_longer(wanted: Option<&Self>) {
        match wanted {
            Some(wanted) => wanted.token.cancelled().await,
            None => pending().await,
        }
    }
}

impl Drop for Wanted {
    fn drop(&mut self) {
        self.flow.with(|open| open.streams.remove(&self.key));
    }
}

impl Flow {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared { open: Mutex::default(), count: watch::Sender::new(0) }))
    }

    /// Counts a request among the streams until what is returned is dropped.
    pub(super) fn open(&self, caller: &Caller) -> Wanted {
        let token = CancellationToken::new();
        let key = self.with(|open| {
            let key = (caller.name.clone(), caller.request_id.clone(), open.next);
            open.next += 1;
            open.streams.insert(key.clone(), token.clone());
            key
        });
        Wanted { flow: self.clone(), key, token }
    }

    /// Listens until `cx` stops, and then until the last stream has ended: stopping waits for them.
    pub(super) async fn serve(self, service: String, endpoint: &'static str, mut words: Subscriber, cx: Cx) {
        let mut count = self.0.count.subscribe();
        let ended = async {
            cx.cancelled().await;
            // An error means that nobody counts any more.
            let _ended = count.wait_for(|count| *count == 0).await;
        };
        let mut ended = pin!(ended);
        loop {
            let word = tokio::select! {
                word = words.next() => word,
                () = &mut ended => None,
            };
            let Some(word) = word else { return };
            self.hear(&service, endpoint, &word);
        }
    }

    /// nats-server lets an identity say this only with its own name, so nobody cancels what is another's.
    fn hear(&self, service: &str, endpoint: &str, word: &Message) {
        let id = word.headers.as_ref().and_then(|headers| headers.get(CANCEL));
        let (Some(caller), Some(id)) = (subject::caller_of(service, endpoint, &word.subject), id) else {
            return;
        };
        let first = (caller.clone(), id.to_string(), 0);
        let last = (caller, id.to_string(), u64::MAX);
        self.with(|open| {
            for (key, token) in open.streams.range(first..=last) {
                tracing::debug!(req = key.1, "stream cancelled by its caller");
                token.cancel();
            }
        });
    }

    fn with<R>(&self, work: impl FnOnce(&mut Open) -> R) -> R {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut open);
        self.0.count.send_replace(open.streams.len());
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;
    use jiff::Timestamp;

    fn caller(name: &str, id: &str) -> Caller {
        Caller {
            name: IdentityName::parse(name).unwrap(),
            request_id: id.to_owned(),
            expires: Timestamp::UNIX_EPOCH,
            gave_id: true,
            gave_expiry: false,
            trace: None,
        }
    }

    #[test]
    fn a_caller_cancels_its_own_and_no_other() {
        let flow = Flow::new();
        let [mine, again, other, theirs] = [("ann", "1"), ("ann", "1"), ("ann", "10"), ("bob", "1")]
            .map(|(n, id)| flow.open(&caller(n, id)));
        let mut headers = HeaderMap::new();
        headers.insert(CANCEL, "1");
        let word = Message {
            subject: "nhi.kettle.flow.ann".into(),
            reply: None,
            payload: "".into(),
            headers: Some(headers),
            status: None,
            description: None,
            length: 0,
        };
        flow.hear("toaster", "flow", &word);
        assert!(!mine.token.is_cancelled(), "it is another service's");
        flow.hear("kettle", "flow", &word);
        let cancelled = [&mine, &again, &other, &theirs].map(|wanted| wanted.token.is_cancelled());
        assert_eq!(cancelled, [true, true, false, false]);
        drop((mine, again, other, theirs));
        assert!(flow.with(|open| open.streams.is_empty()), "nothing is left behind");
    }
}
