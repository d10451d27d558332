//! What happens to messages a service must not answer: they are counted and told to the audit log, a bounded number a
//! second, never answered.

use crate::{audit, connect::Bus, cx::Cx};
use async_nats::Message;
use nhi_model::{audit::AuditKind, subject};
use std::{collections::BTreeMap, sync::Arc, time::Duration};
use tokio::{sync::mpsc, time::Instant};

/// Longest subject in a report.
const SUBJECT_CHARS_MAX: usize = 256;
/// Drops that wait to be written; more are only counted.
const PENDING_MAX: usize = 64;
/// Between two entries of the same kind: whoever floods a service must not flood the audit log through it.
const ENTRY_SECONDS: u64 = 10;

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum DropReason {
    /// Its subject is not a call of the endpoint it arrived at.
    ForeignSubject,
    /// Its reply is neither an inbox nor a reply across accounts: the answer would be written somewhere.
    UnanswerableReply,
    /// It has no reply.
    NoReply,
}

impl DropReason {
    /// A stable word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ForeignSubject => "foreign-subject",
            Self::UnanswerableReply => "unanswerable-reply",
            Self::NoReply => "no-reply",
        }
    }
}

/// A message that was dropped. It does not carry the payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dropped {
    /// The service.
    pub service: String,
    /// The endpoint, or the verb of the micro service protocol.
    pub endpoint: String,
    /// Why.
    pub reason: DropReason,
    /// Its subject, cut to 256 characters.
    pub subject: String,
    /// Its reply, cut to 256 characters.
    pub reply: Option<String>,
    /// Size of its payload, bytes.
    pub bytes: usize,
}

/// Takes reports from all tasks of one service.
#[derive(Clone)]
pub(super) struct Drops {
    service: Arc<str>,
    reports: mpsc::Sender<Dropped>,
    hook: Option<Arc<dyn Fn(Dropped) + Send + Sync>>,
}

impl Drops {
    pub(super) fn new(
        cx: &Cx,
        bus: &Bus,
        service: &str,
        hook: Option<Arc<dyn Fn(Dropped) + Send + Sync>>,
    ) -> Self {
        let (reports, receiver) = mpsc::channel(PENDING_MAX);
        cx.spawn("drops", write(receiver, bus.clone()));
        Self { service: service.into(), reports, hook }
    }

    pub(super) fn report(&self, endpoint: &str, message: &Message, reason: DropReason) {
        let cut = |text: &str| text.chars().take(SUBJECT_CHARS_MAX).collect::<String>();
        let dropped = Dropped {
            service: self.service.to_string(),
            endpoint: endpoint.to_owned(),
            reason,
            subject: cut(&message.subject),
            reply: message.reply.as_deref().map(cut),
            bytes: message.payload.len(),
        };
        if let Some(hook) = &self.hook {
            hook(dropped.clone());
        }
        // When the channel is full the entries written are already late; the statistics have the number.
        if self.reports.try_send(dropped).is_err() {
            tracing::debug!("dropped message not audited, too many at once");
        }
    }
}

/// Ends when the last task that could report has ended.
async fn write(mut reports: mpsc::Receiver<Dropped>, bus: Bus) {
    let mut written: BTreeMap<(String, DropReason), (Instant, u64)> = BTreeMap::new();
    let pause = Duration::from_secs(ENTRY_SECONDS);
    while let Some(dropped) = reports.recv().await {
        let kind = (dropped.endpoint.clone(), dropped.reason);
        let now = Instant::now();
        let unwritten = match written.get_mut(&kind) {
            Some((last, unwritten)) if now.duration_since(*last) < pause => {
                *unwritten += 1;
                continue;
            }
            Some((_, unwritten)) => *unwritten,
            None => 0,
        };
        written.insert(kind, (now, 0));
        entry(&bus, dropped, unwritten).await;
    }
}

async fn entry(bus: &Bus, dropped: Dropped, unwritten: u64) {
    let Dropped { service, endpoint, reason, subject, reply, bytes } = dropped;
    tracing::warn!(agent = service, key = subject, err = reason.as_str(), "message dropped");
    if !bus.is_trusted() {
        // Somebody else's service may not write to the audit log.
        return;
    }
    let actor = subject::caller_of(&service, &endpoint, &subject);
    let details = BTreeMap::from([
        ("service".to_owned(), service.into()),
        ("endpoint".to_owned(), endpoint.into()),
        ("reason".to_owned(), reason.as_str().into()),
        ("subject".to_owned(), subject.into()),
        ("reply".to_owned(), reply.into()),
        ("bytes".to_owned(), bytes.into()),
        ("more".to_owned(), unwritten.into()),
    ]);
    if let Err(error) = audit::append(bus, AuditKind::MessageDropped, actor.as_ref(), details).await {
        tracing::warn!(err = %error, "dropped message not audited");
    }
}
