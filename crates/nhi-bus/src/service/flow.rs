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
use futures::StreamExt;
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
/// How long a sign of life may take to be handed to the connection.
const SHOWN_WITHIN: Duration = Duration::from_secs(1);
/// Credit that may add up: more would be no bound.
const CREDIT_BYTES_MAX: i64 = 64 * 1024 * 1024;

/// The requests that are here and not answered, above all the streams.
#[derive(Clone)]
pub(super) struct Flow(Arc<Shared>);

struct Shared {
    open: Mutex<Open>,
    /// How many there are, and who may take more, for who waits until there is none.
    count: watch::Sender<usize>,
}

#[derive(Default)]
struct Open {
    next: u64,
    asked: BTreeMap<Key, Asked>,
    /// Endpoints that take requests still.
    taking: usize,
}

/// What was heard of one request. Clones are the same.
#[derive(Clone)]
struct Asked {
    /// Nothing for what is answered once: that is done to its end.
    cancelled: Option<CancellationToken>,
    /// Where a sign of life goes, when its caller does not take it for the answer.
    life: Option<String>,
    /// Bytes that may be sent; less than none when the last frame was larger.
    credit: watch::Sender<i64>,
}

/// Whether, and how much of, one stream is still wanted.
pub(super) struct Wanted {
    flow: Flow,
    key: Key,
    asked: Asked,
    /// Whether its caller can say anything.
    pub(super) is_heard: bool,
}

impl Wanted {
    /// Returns when it is wanted no longer; never for what cannot be cancelled.
    pub(super) async fn no_longer(wanted: Option<&Self>) {
        match wanted.and_then(|wanted| wanted.asked.cancelled.as_ref()) {
            Some(cancelled) => cancelled.cancelled().await,
            None => pending().await,
        }
    }

    /// Whether more may be sent; always, where nobody can say so.
    pub(super) fn may_send(wanted: Option<&Self>) -> bool {
        wanted.is_none_or(|wanted| !wanted.is_heard || *wanted.asked.credit.borrow() > 0)
    }

    /// Counts what is sent.
    pub(super) fn spend(wanted: Option<&Self>, bytes: usize) {
        if let Some(wanted) = wanted {
            let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
            wanted.asked.credit.send_modify(|left| *left = left.saturating_sub(bytes));
        }
    }

    /// Returns when more may be sent. Cancel safe.
    pub(super) async fn credited(wanted: Option<&Self>) {
        let Some(wanted) = wanted else { return };
        let mut credit = wanted.asked.credit.subscribe();
        // The sender is in what is borrowed here.
        drop(credit.wait_for(|left| *left > 0).await);
    }

    /// Returns when nothing may have been sent for too long.
    pub(super) async fn starved(wanted: Option<&Self>) {
        let Some(wanted) = wanted.filter(|wanted| wanted.is_heard) else { return pending().await };
        let mut credit = wanted.asked.credit.subscribe();
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
        self.flow.with(|open| open.asked.remove(&self.key));
    }
}

/// While there is one, more requests may come.
pub(super) struct Taking(Flow);

impl Drop for Taking {
    fn drop(&mut self) {
        self.0.with(|open| open.taking -= 1);
    }
}

impl Flow {
    /// None yet.
    pub(super) fn new() -> Self {
        Self(Arc::new(Shared { open: Mutex::default(), count: watch::Sender::new(0) }))
    }

    /// A request that may be answered in frames, until what is returned is dropped: where its signs of life go, how much
    /// may be sent at first, as its caller has written it, and whether that can say anything later.
    pub(super) fn stream(
        &self,
        caller: &Caller,
        life: Option<&str>,
        credit: Option<&str>,
        is_heard: bool,
    ) -> Wanted {
        let credit = bytes(credit).unwrap_or(i64::try_from(CREDIT_BYTES).expect("four megabytes fit"));
        let (cancelled, credit) = (Some(CancellationToken::new()), watch::Sender::new(credit));
        self.open(caller, Asked { cancelled, life: life.map(str::to_owned), credit }, is_heard)
    }

    /// One that is answered once, and done to its end: it only shows life.
    pub(super) fn once(&self, caller: &Caller, life: &str) -> Wanted {
        let asked = Asked { cancelled: None, life: Some(life.to_owned()), credit: watch::Sender::new(0) };
        self.open(caller, asked, false)
    }

    fn open(&self, caller: &Caller, asked: Asked, is_heard: bool) -> Wanted {
        let key = self.with(|open| {
            let key = (caller.name.clone(), caller.request_id.clone(), open.next);
            open.next += 1;
            open.asked.insert(key.clone(), asked.clone());
            key
        });
        Wanted { flow: self.clone(), key, asked, is_heard }
    }

    /// An endpoint takes requests until what is returned is dropped.
    pub(super) fn taking(&self) -> Taking {
        self.with(|open| open.taking += 1);
        Taking(self.clone())
    }

    /// Listens until `cx` stops, and then until nobody takes requests and the last has ended: stopping waits for them.
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
                show_life(&bus, &reply).await;
            }
        }
    }

    /// nats-server lets an identity say this only with its own name, so nobody cancels what is another's. Returns where
    /// a sign of life is wanted.
    fn hear(&self, service: &str, word: &Message) -> Vec<String> {
        let header = |name: &str| word.headers.as_ref()?.get(name).map(|value| value.as_str());
        let Some(caller) = subject::caller_of(service, ENDPOINT, &word.subject) else { return Vec::new() };
        let each = |id: &str, tell: &mut dyn FnMut(&Asked)| {
            let (first, last) =
                ((caller.clone(), id.to_owned(), 0), (caller.clone(), id.to_owned(), u64::MAX));
            self.with(|open| open.asked.range(first..=last).for_each(|(_, asked)| tell(asked)));
        };
        if let Some(id) = header(CANCEL) {
            each(id, &mut |asked| {
                if let Some(cancelled) = &asked.cancelled {
                    tracing::debug!(req = id, "stream cancelled by its caller");
                    cancelled.cancel();
                }
            });
        }
        if let (Some(id), Some(more)) = (header(header::ID), bytes(header(CREDIT))) {
            let add = |left: &mut i64| *left = left.saturating_add(more).min(CREDIT_BYTES_MAX);
            each(id, &mut |asked| asked.credit.send_modify(add));
        }
        let mut replies = Vec::new();
        if let Some(id) = header(NUDGE) {
            each(id, &mut |asked| replies.extend(asked.life.clone()));
        }
        replies
    }

    fn with<R>(&self, work: impl FnOnce(&mut Open) -> R) -> R {
        let mut open = self.0.open.lock().unwrap_or_else(PoisonError::into_inner);
        let done = work(&mut open);
        self.0.count.send_replace(open.asked.len() + open.taking);
        done
    }
}

/// Says that a request is worked on, or waits for its turn. It has no number, for it comes between frames or before them.
async fn show_life(bus: &Bus, reply: &str) {
    let mut headers = HeaderMap::new();
    headers.insert(header::KEEPALIVE, "1");
    // Who gets none asks again; nobody else's words wait longer than that.
    let said = timeout(SHOWN_WITHIN, bus.publish(reply, headers, Bytes::new())).await;
    if !matches!(said, Ok(Ok(()))) {
        tracing::debug!(key = reply, "no sign of life was sent");
    }
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
        let wanted = flow.stream(&caller("ann", "1"), None, Some("1000"), true);
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
        let mute = flow.stream(&caller("ann", "3"), None, None, false);
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
        let flow = Flow::new();
        // What is answered once shows life as well, and is done to its end.
        let once = flow.once(&caller("ann", "1"), "once");
        let [mine, again, other, theirs] =
            [("ann", "1", Some("a")), ("ann", "1", None), ("ann", "10", Some("c")), ("bob", "1", Some("d"))]
                .map(|(name, id, life)| flow.stream(&caller(name, id), life, None, true));
        assert_eq!(
            flow.hear("kettle", &word(&[(NUDGE, "1")])),
            ["once", "a"],
            "who is asked for a sign of life"
        );
        let is_cancelled = |wanted: &Wanted| {
            let cancelled = wanted.asked.cancelled.as_ref();
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
        assert!(flow.with(|open| open.asked.is_empty()), "nothing is left behind");
    }
}
