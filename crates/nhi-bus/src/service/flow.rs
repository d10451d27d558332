//! Hears what callers say about their streams: which they no longer want, how much more of them may come, of which they
//! want a sign of life. That is given here, of any request of a service with streams, whether it waits or is worked on.
//! It is told by [`crate::call::flow`]; whoever is killed says nothing, and its stream runs to its end or to the end of
//! what may come.

use super::request::Caller;
use crate::{
    call::flow::{CANCEL, CREDIT, CREDIT_BYTES, ENDPOINT, NUDGE},
    connect::Bus,
    cx::Cx,
};
use async_nats::{HeaderMap, Message, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt};
use nhi_model::{header, identity::IdentityName, subject};
use std::{
    collections::BTreeMap,
    future::pending,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{sync::watch, time::timeout};
use tokio_util::sync::CancellationToken;

/// Caller, id and a number: a retry with the same id may run beside the first try.
type Key = (IdentityName, String, u64);

/// How long a caller may leave a stream without credit before the work on it is dropped.
pub(super) const STARVED_SECONDS_MAX: u64 = 30;
/// Credit that may add up: more would be no bound.
const CREDIT_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// The requests that are here and not answered, above all the streams.
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
    streams: BTreeMap<Key, Stream>,
}

/// What was heard of one stream. Clones are the same.
#[derive(Clone)]
struct Stream {
    /// Nothing for what is answered once: that is done to its end.
    cancelled: Option<CancellationToken>,
    /// Where its frames go.
    reply: String,
    /// Bytes that may be sent; less than none when the last frame was larger.
    credit: watch::Sender<i64>,
}

/// On what terms a caller asks for a stream.
pub(super) struct Terms<'a> {
    /// What may be sent at first, as the caller has written it.
    pub(super) credit: Option<&'a str>,
    /// Whether it can say anything later.
    pub(super) is_heard: bool,
}

/// Whether, and how much of, one stream is still wanted.
pub(super) struct Wanted {
    flow: Flow,
    key: Key,
    stream: Stream,
    /// Whether its caller can say anything.
    pub(super) is_heard: bool,
}

impl Wanted {
    /// Returns when it is wanted no longer; never for what cannot be cancelled.
    pub(super) async fn no_longer(wanted: Option<&Self>) {
        match wanted.and_then(|wanted| wanted.stream.cancelled.as_ref()) {
            Some(cancelled) => cancelled.cancelled().await,
            None => pending().await,
        }
    }

    /// Whether more may be sent; always, where nobody can say so.
    pub(super) fn may_send(wanted: Option<&Self>) -> bool {
        wanted.is_none_or(|wanted| !wanted.is_heard || *wanted.stream.credit.borrow() > 0)
    }

    /// Counts what is sent.
    pub(super) fn spend(wanted: Option<&Self>, bytes: usize) {
        if let Some(wanted) = wanted {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            wanted.stream.credit.send_modify(|left| *left = left.saturating_sub(bytes));
        }
    }

    /// Returns when more may be sent. Cancel safe.
    pub(super) async fn credited(wanted: Option<&Self>) {
        let Some(wanted) = wanted else { return };
        let mut credit = wanted.stream.credit.subscribe();
        // The sender is in what is borrowed here.
        drop(credit.wait_for(|left| *left > 0).await);
    }

    /// Returns when nothing may have been sent for too long.
    pub(super) async fn starved(wanted: Option<&Self>) {
        let Some(wanted) = wanted.filter(|wanted| wanted.is_heard) else { return pending().await };
        let mut credit = wanted.stream.credit.subscribe();
        loop {
            drop(credit.wait_for(|left| *left <= 0).await);
            let patience = Duration::from_secs(STARVED_SECONDS_MAX);
            if timeout(patience, Self::credited(Some(wanted))).await.is_err() {
                return;
            }
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

    /// Counts a request among the streams until what is returned is dropped; without terms it is answered once.
    pub(super) fn open(&self, caller: &Caller, reply: &str, terms: Option<&Terms<'_>>) -> Wanted {
        let credit = bytes(terms.and_then(|terms| terms.credit));
        let credit = credit.unwrap_or(i64::try_from(CREDIT_BYTES).expect("four megabytes fit"));
        let (cancelled, is_heard) =
            (terms.map(|_| CancellationToken::new()), terms.is_some_and(|terms| terms.is_heard));
        let stream = Stream { cancelled, reply: reply.to_owned(), credit: watch::Sender::new(credit) };
        let key = self.with(|open| {
            let key = (caller.name.clone(), caller.request_id.clone(), open.next);
            open.next += 1;
            open.streams.insert(key.clone(), stream.clone());
            key
        });
        Wanted { flow: self.clone(), key, stream, is_heard }
    }

    /// Listens until `cx` stops, and then until the last stream has ended: stopping waits for them.
    pub(super) async fn serve(self, bus: Bus, service: String, mut words: Subscriber, cx: Cx) {
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
            for reply in self.hear(&service, &word) {
                show_life(&bus, reply);
            }
        }
    }

    /// nats-server lets an identity say this only with its own name, so nobody cancels what is another's. Returns where
    /// a sign of life is wanted.
    fn hear(&self, service: &str, word: &Message) -> Vec<String> {
        let header = |name: &str| word.headers.as_ref()?.get(name).map(|value| value.as_str());
        let Some(caller) = subject::caller_of(service, ENDPOINT, &word.subject) else { return Vec::new() };
        let each = |id: &str, tell: &mut dyn FnMut(&Stream)| {
            let (first, last) =
                ((caller.clone(), id.to_owned(), 0), (caller.clone(), id.to_owned(), u64::MAX));
            self.with(|open| open.streams.range(first..=last).for_each(|(_, stream)| tell(stream)));
        };
        if let Some(id) = header(CANCEL) {
            each(id, &mut |stream| {
                if let Some(cancelled) = &stream.cancelled {
                    tracing::debug!(req = id, "stream cancelled by its caller");
                    cancelled.cancel();
                }
            });
        }
        if let (Some(id), Some(more)) = (header(header::ID), bytes(header(CREDIT))) {
            let add = |left: &mut i64| *left = left.saturating_add(more).min(CREDIT_BYTES_MAX);
            each(id, &mut |stream| stream.credit.send_modify(add));
        }
        let mut replies = Vec::new();
        if let Some(id) = header(NUDGE) {
            each(id, &mut |stream| replies.push(stream.reply.clone()));
        }
        replies
    }

    fn with<R>(&self, work: impl FnOnce(&mut Open) -> R) -> R {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut open);
        self.0.count.send_replace(open.streams.len());
        done
    }
}

/// Says that a stream is worked on, or waits for its turn. It has no number, for it comes between frames or before them.
fn show_life(bus: &Bus, reply: String) {
    let mut headers = HeaderMap::new();
    headers.insert(header::KEEPALIVE, "1");
    // When the connection is behind, what is before it says as much.
    let _said = bus.client().publish_with_headers(reply, headers, Bytes::new()).now_or_never();
}

/// Credit as it is written; a text that is none says nothing.
fn bytes(text: Option<&str>) -> Option<i64> {
    let bytes = text?.parse::<u64>().ok()?;
    Some(i64::try_from(bytes).unwrap_or(i64::MAX).min(CREDIT_BYTES_MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::HeaderMap;
    use jiff::Timestamp;

    fn word(headers: &[(&str, &str)]) -> Message {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.insert(*name, *value);
        }
        Message {
            subject: "nhi.kettle.flow.ann".into(),
            reply: None,
            payload: "".into(),
            headers: Some(map),
            status: None,
            description: None,
            length: 0,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_nobody_reads_is_given_up_after_a_while() {
        let flow = Flow::new();
        let wanted =
            flow.open(&caller("ann", "1"), "_R_.1", Some(&Terms { credit: Some("1000"), is_heard: true }));
        let may_send = || Wanted::may_send(Some(&wanted));
        let starves = async |seconds: u64| {
            timeout(Duration::from_secs(seconds), Wanted::starved(Some(&wanted))).await.is_ok()
        };
        assert!(!starves(3_600).await, "there is credit");
        Wanted::spend(Some(&wanted), 1_200);
        assert!(!may_send() && !starves(29).await);
        assert!(starves(31).await);
        flow.hear("kettle", &word(&[("Nhi-Id", "1"), ("Nhi-Credit", "200")]));
        assert!(!may_send(), "that was for what is sent already");
        flow.hear("kettle", &word(&[("Nhi-Id", "2"), ("Nhi-Credit", "900")]));
        flow.hear("kettle", &word(&[("Nhi-Id", "1"), ("Nhi-Credit", "much")]));
        assert!(!may_send(), "another one's, and no number");
        flow.hear("kettle", &word(&[("Nhi-Id", "1"), ("Nhi-Credit", "1")]));
        assert!(may_send() && !starves(3_600).await);
        // Whom nobody can tell has no limit.
        let mute = flow.open(&caller("ann", "3"), "_R_.3", Some(&Terms { credit: None, is_heard: false }));
        Wanted::spend(Some(&mute), usize::MAX);
        assert!(Wanted::may_send(Some(&mute)));
    }

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
        let (flow, terms) = (Flow::new(), Terms { credit: None, is_heard: true });
        // What is answered once shows life as well, and is done to its end.
        let once = flow.open(&caller("ann", "1"), "once", None);
        let [mine, again, other, theirs] =
            [("ann", "1", "a"), ("ann", "1", "b"), ("ann", "10", "c"), ("bob", "1", "d")]
                .map(|(name, id, reply)| flow.open(&caller(name, id), reply, Some(&terms)));
        assert_eq!(
            flow.hear("kettle", &word(&[(NUDGE, "1")])),
            ["once", "a", "b"],
            "who is asked for a sign of life"
        );
        let is_cancelled = |wanted: &Wanted| {
            let cancelled = wanted.stream.cancelled.as_ref();
            cancelled.is_some_and(CancellationToken::is_cancelled)
        };
        let word = word(&[(CANCEL, "1")]);
        flow.hear("toaster", &word);
        assert!(!is_cancelled(&mine), "it is another service's");
        flow.hear("kettle", &word);
        let cancelled = [&mine, &again, &other, &theirs].map(is_cancelled);
        assert_eq!(cancelled, [true, true, false, false]);
        assert!(!is_cancelled(&once) && Wanted::may_send(Some(&once)));
        drop((once, mine, again, other, theirs));
        assert!(flow.with(|open| open.streams.is_empty()), "nothing is left behind");
    }
}
