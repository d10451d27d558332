//! Reads an answer that comes in frames: in order, without a hole, up to its end.

use super::{Call, CallError, fault_in, flow};
use crate::connect::Bus;
use async_nats::{Message, StatusCode, Subscriber};
use bytes::Bytes;
use futures::{FutureExt as _, StreamExt, future::BoxFuture};
use nhi_model::{call::PAYLOAD_BYTES_MAX, header, subject};
use std::{fmt, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};
use uuid::Uuid;

/// A stream this quiet is dead: three signs of life were missed.
const QUIET_SECONDS_MAX: u64 = 50;
/// A stream this quiet is asked for one, where its service may hear that.
const NUDGE_AFTER: Duration = Duration::from_secs(2);
/// How long it may then stay quiet: its instance answers from memory.
const NUDGED_MAX: Duration = Duration::from_secs(3);
/// Bytes of frames that are read before more are allowed to come.
const GRANT_BYTES: usize = flow::CREDIT_BYTES / 4;

/// A piece of the answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// One frame of several.
    Part(Bytes),
    /// The endpoint answered plainly; nothing follows.
    Whole(Bytes),
}

/// What an answer turned out to be, known with its first message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The endpoint answered plainly; nothing follows.
    Whole(Bytes),
    /// Frames follow, or the end.
    Stream,
}

/// Whether a service hears what is said about a stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hears {
    Yes,
    /// It has said nothing yet.
    Perhaps,
    No,
}

/// An answer that is being read. Dropping it before its end tells the service that it is no longer wanted, which then
/// drops its handler.
pub struct FrameStream {
    bus: Bus,
    service: String,
    id: String,
    subject: String,
    messages: Subscriber,
    refused: BoxFuture<'static, ()>,
    losses: watch::Receiver<u64>,
    asked_at: Instant,
    /// The call's own time, which counts until the first frame.
    patience: Duration,
    received: u64,
    hears: Hears,
    heard_at: Instant,
    /// When a sign of life was asked for, and whether the server refuses that to this caller.
    nudged: Option<(Instant, BoxFuture<'static, ()>)>,
    /// Bytes that were read, and not allowed anew yet.
    read_bytes: usize,
    /// A frame that [`FrameStream::opened`] had to read.
    first: Option<Frame>,
    over: bool,
}

/// Calls an endpoint that may answer in frames. The call's time limit counts until the first of them.
///
/// # Errors
/// [`CallError`] for what is known before the first frame; the rest comes from [`FrameStream::next`].
pub async fn stream(bus: &Bus, call: Call) -> Result<FrameStream, CallError> {
    let size = call.body.len();
    if size > PAYLOAD_BYTES_MAX {
        return Err(CallError::TooLarge { subject: call.subject, size, limit: PAYLOAD_BYTES_MAX });
    }
    // A subscription of its own, so that a slow reader of one stream does not hold up other answers.
    let inbox = subject::inbox(bus.me(), Uuid::new_v4().simple());
    let losses = bus.losses();
    let refused = Box::pin(bus.refused(&call.subject));
    if !bus.is_up() {
        return Err(CallError::Disconnected { subject: call.subject, sent: false });
    }
    let Ok(messages) = bus.client().subscribe(inbox.clone()).await else {
        return Err(CallError::Disconnected { subject: call.subject, sent: false });
    };
    let (headers, patience) = (call.headers(), call.timeout.get());
    let Call { service, subject, body, id, .. } = call;
    let hears = if flow::is_spoken(&service) { Hears::Perhaps } else { Hears::No };
    bus.send(&subject, Some(&inbox), headers, body).await?;
    Ok(FrameStream {
        bus: bus.clone(),
        service,
        id,
        subject,
        messages,
        refused,
        losses,
        asked_at: Instant::now(),
        patience,
        received: 0,
        hears,
        heard_at: Instant::now(),
        nudged: None,
        read_bytes: 0,
        first: None,
        over: false,
    })
}

impl FrameStream {
    /// Waits for the first message, which tells what the answer is. To be called before [`FrameStream::next`], or not
    /// at all. Cancel safe.
    ///
    /// # Errors
    /// [`CallError`], when the answer is a fault or does not come. There is nothing more then.
    pub async fn opened(&mut self) -> Result<Opened, CallError> {
        while self.received == 0 && !self.over {
            self.first = self.step().await?;
        }
        match self.first.take() {
            Some(Frame::Whole(body)) => Ok(Opened::Whole(body)),
            first => {
                self.first = first;
                Ok(Opened::Stream)
            }
        }
    }

    /// The next frame; `None` after the last. After an error there is nothing more. Cancel safe.
    pub async fn next(&mut self) -> Option<Result<Frame, CallError>> {
        if let Some(first) = self.first.take() {
            return Some(Ok(first));
        }
        while !self.over {
            if let Some(step) = self.step().await.transpose() {
                return Some(step);
            }
        }
        None
    }

    /// Reads one message; nothing when it is only a sign of life, or the end. Cancel safe.
    async fn step(&mut self) -> Result<Option<Frame>, CallError> {
        let step = match self.message().await {
            Ok(message) => self.read(message),
            Err(error) => Err(error),
        };
        self.over |= matches!(step, Ok(Some(Frame::Whole(_))) | Err(_));
        step
    }

    /// Waits for a message; where it does not come, asks whether anybody is still there. Cancel safe.
    async fn message(&mut self) -> Result<Message, CallError> {
        loop {
            let (since, patience) = match self.received {
                0 => (self.asked_at, self.patience),
                _ => (self.heard_at, Duration::from_secs(QUIET_SECONDS_MAX)),
            };
            let deadline = since + patience;
            let until = match &self.nudged {
                Some((at, _)) => *at + NUDGED_MAX,
                None if self.hears == Hears::No => deadline,
                None => self.heard_at + NUDGE_AFTER,
            };
            // A stream that has begun ends where its service is gone, and no call lasts longer than it may.
            let until = if self.received == 0 { until.min(deadline) } else { until };
            // What has come is read before the time is looked at.
            if let Ok(message) = timeout_at(until, self.arrival()).await {
                (self.heard_at, self.nudged) = (Instant::now(), None);
                return message;
            }
            let subject = self.subject.clone();
            if until == deadline {
                return Err(CallError::Timeout { subject, seconds: patience.as_secs_f64() });
            }
            match self.nudged.take().map(|(_, refused)| refused.now_or_never()) {
                None => self.nudge(),
                Some(None) if self.hears == Hears::Yes || flow::is_always_answered(&self.service) => {
                    return Err(CallError::Gone { subject });
                }
                // It does not know of this, or this caller may not say it.
                Some(_) => self.hears = Hears::No,
            }
        }
    }

    async fn arrival(&mut self) -> Result<Message, CallError> {
        let subject = || self.subject.clone();
        tokio::select! {
            biased;
            message = self.messages.next() => message,
            () = &mut self.refused, if self.received == 0 => return Err(CallError::Refused { subject: subject() }),
            _ = self.losses.changed() => None,
        }
        .ok_or_else(|| CallError::Disconnected { subject: subject(), sent: true })
    }

    fn nudge(&mut self) {
        let words = subject::call(&self.service, flow::ENDPOINT, self.bus.me());
        let refused = Box::pin(self.bus.refused(&words));
        self.grant(1);
        if flow::nudge(&self.bus, &self.service, &self.id) {
            self.nudged = Some((Instant::now(), refused));
        } else {
            // The connection is behind: what comes of it is seen then.
            self.heard_at = Instant::now();
        }
    }

    /// Lets as much more come as was read, when that is enough.
    fn grant(&mut self, least: usize) {
        let is_due = self.hears == Hears::Yes && self.read_bytes >= least;
        if is_due && flow::grant(&self.bus, &self.service, &self.id, self.read_bytes) {
            self.read_bytes = 0;
        }
    }

    /// What a message means; `None` when it is only a sign of life, or the end.
    fn read(&mut self, message: Message) -> Result<Option<Frame>, CallError> {
        let subject = || self.subject.clone();
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return Err(CallError::NobodyAnswers { subject: subject() });
        }
        let header = |name: &str| message.headers.as_ref()?.get(name).map(|value| value.as_str());
        let number = header(header::SEQ).map(|text| text.parse::<u64>().unwrap_or(0));
        let fault = fault_in(&message);
        let is_quiet = header(header::KEEPALIVE).is_some();
        let Some(number) = number else {
            return match fault {
                None if is_quiet => {
                    self.hears = Hears::Yes;
                    Ok(None)
                }
                Some((fault, status)) => {
                    Err(CallError::Fault { subject: subject(), fault: Box::new(fault), status })
                }
                None if self.received == 0 => Ok(Some(Frame::Whole(message.payload))),
                None => Err(CallError::Gap { subject: subject(), expected: self.received + 1, got: 0 }),
            };
        };
        if number != self.received + 1 {
            return Err(CallError::Gap { subject: subject(), expected: self.received + 1, got: number });
        }
        if let Some((fault, status)) = fault {
            return Err(CallError::Fault { subject: subject(), fault: Box::new(fault), status });
        }
        let is_end = header(header::END).is_some();
        if header(flow::HEARS).is_some() && flow::is_spoken(&self.service) {
            self.hears = Hears::Yes;
        }
        self.received = number;
        self.read_bytes += message.payload.len();
        self.grant(GRANT_BYTES);
        self.over = is_end;
        Ok((!is_end && !is_quiet).then_some(Frame::Part(message.payload)))
    }
}

impl Drop for FrameStream {
    fn drop(&mut self) {
        if !self.over {
            flow::cancel(&self.bus, &self.service, &self.id);
        }
    }
}

impl fmt::Debug for FrameStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FrameStream")
            .field("subject", &self.subject)
            .field("received", &self.received)
            .field("over", &self.over)
            .finish_non_exhaustive()
    }
}
