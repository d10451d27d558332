//! Reads an answer that comes in frames: in order, without a hole, up to its end.

use super::{Call, CallError, fault_in, flow};
use crate::connect::{Brief, Bus};
use async_nats::{Message, StatusCode};
use bytes::Bytes;
use futures::{FutureExt as _, future::BoxFuture};
use nhi_model::{call::PAYLOAD_BYTES_MAX, header, subject};
use std::{fmt, future::pending, time::Duration};
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use uuid::Uuid;

/// A stream this quiet is dead: three signs of life were missed.
const QUIET_SECONDS_MAX: u64 = 50;
/// A stream this quiet is asked for one, where its service may hear that.
const NUDGE_AFTER: Duration = Duration::from_secs(2);
/// And again, until it shows some.
const NUDGE_AGAIN: Duration = Duration::from_secs(1);
/// How long it may stay quiet once that has reached the server: its instance answers from memory.
const SILENT_MAX: Duration = Duration::from_secs(3);
/// The same before its first frame. Of an answer in one piece the instance knows nothing any more, while that is still
/// on a slow way from there.
const UNBEGUN_MAX: Duration = Duration::from_secs(12);
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

/// A sign of life was asked for.
struct Nudged {
    /// The last time.
    at: Instant,
    /// Whether the server refuses that to this caller.
    refused: BoxFuture<'static, ()>,
    /// Comes back when the server has it, and has sent whatever it had for this caller; not, when the link stands still.
    echo: BoxFuture<'static, bool>,
    /// When that was.
    arrived_at: Option<Instant>,
}

impl Nudged {
    /// To be made before the question leaves.
    fn of(bus: &Bus, service: &str) -> Self {
        let refused = Box::pin(bus.refused(&subject::call(service, flow::ENDPOINT, bus.me())));
        let bus = bus.clone();
        let echo = Box::pin(async move { bus.ready().await.is_ok() });
        Self { at: Instant::now(), refused, echo, arrived_at: None }
    }
}

/// What came instead of a message.
enum Missed {
    /// The server lets this caller not call that.
    Refused,
    /// The link is gone.
    Loss,
    /// Whether the server has the question for a sign of life.
    Echo(bool),
    /// Nothing, in time.
    Nothing,
}

/// An answer that is being read. Dropping it before its end tells the service that it is no longer wanted, which then
/// drops its handler.
pub struct FrameStream {
    bus: Bus,
    service: String,
    id: String,
    subject: String,
    messages: Brief,
    refused: BoxFuture<'static, ()>,
    losses: watch::Receiver<u64>,
    asked_at: Instant,
    /// The call's own time, which counts until the first frame.
    patience: Duration,
    received: u64,
    hears: Hears,
    heard_at: Instant,
    nudged: Option<Nudged>,
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
    let Some(messages) = bus.listen_briefly(inbox.clone()).await else {
        return Err(CallError::Disconnected { subject: call.subject, sent: false });
    };
    let (mut headers, patience) = (call.headers(), call.timeout.get());
    headers.insert(flow::READS, "1");
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
            let (deadline, due) = (self.deadline(), self.nudge_due());
            let wake = [deadline, due].into_iter().flatten().min();
            let missed = match self.arrival(wake).await {
                Ok(message) => {
                    (self.heard_at, self.nudged) = (Instant::now(), None);
                    return Ok(message);
                }
                Err(missed) => missed,
            };
            let subject = self.subject.clone();
            match missed {
                Missed::Refused => return Err(CallError::Refused { subject }),
                Missed::Loss => return Err(CallError::Disconnected { subject, sent: true }),
                Missed::Echo(true) => self.nudge_arrived(),
                // The link stands still: nobody was asked, and nobody is silent.
                Missed::Echo(false) => (self.heard_at, self.nudged) = (Instant::now(), None),
                Missed::Nothing if deadline.is_some_and(|deadline| deadline <= Instant::now()) => {
                    let seconds = self.patience().as_secs_f64();
                    return Err(CallError::Timeout { subject, seconds });
                }
                Missed::Nothing if self.is_nudge_refused() => (self.hears, self.nudged) = (Hears::No, None),
                Missed::Nothing if !self.is_silent() => self.nudge(),
                Missed::Nothing if self.hears == Hears::Yes || flow::is_always_answered(&self.service) => {
                    return Err(match self.received {
                        0 => CallError::Lost { subject },
                        _ => CallError::Gone { subject },
                    });
                }
                // It does not know of this.
                Missed::Nothing => (self.hears, self.nudged) = (Hears::No, None),
            }
        }
    }

    /// What has come is read before the time is looked at. Cancel safe.
    async fn arrival(&mut self, wake: Option<Instant>) -> Result<Message, Missed> {
        let echo = async {
            match &mut self.nudged {
                Some(nudged) if nudged.arrived_at.is_none() => (&mut nudged.echo).await,
                Some(_) | None => pending().await,
            }
        };
        let nothing = async {
            match wake {
                Some(wake) => sleep_until(wake).await,
                None => pending().await,
            }
        };
        tokio::select! {
            biased;
            message = self.messages.next() => message.ok_or(Missed::Loss),
            () = &mut self.refused, if self.received == 0 => Err(Missed::Refused),
            _ = self.losses.changed() => Err(Missed::Loss),
            came = echo => Err(Missed::Echo(came)),
            () = nothing => Err(Missed::Nothing),
        }
    }

    /// The call's own time until the first frame; then that without a sign of life, of whom cannot be asked for one.
    fn patience(&self) -> Duration {
        if self.received == 0 { self.patience } else { Duration::from_secs(QUIET_SECONDS_MAX) }
    }

    fn deadline(&self) -> Option<Instant> {
        match self.received {
            0 => Some(self.asked_at + self.patience()),
            _ => (self.hears == Hears::No).then(|| self.heard_at + self.patience()),
        }
    }

    /// When a sign of life is asked for, or has not come in time.
    fn nudge_due(&self) -> Option<Instant> {
        match &self.nudged {
            None => (self.hears != Hears::No).then(|| self.heard_at + NUDGE_AFTER),
            Some(nudged) => {
                let again = nudged.at + NUDGE_AGAIN;
                Some(nudged.arrived_at.map_or(again, |arrived_at| again.min(arrived_at + self.silent_max())))
            }
        }
    }

    fn silent_max(&self) -> Duration {
        if self.received == 0 { UNBEGUN_MAX } else { SILENT_MAX }
    }

    /// Whether a sign of life has not come in time.
    fn is_silent(&self) -> bool {
        let arrived_at = self.nudged.as_ref().and_then(|nudged| nudged.arrived_at);
        arrived_at.is_some_and(|arrived_at| arrived_at + self.silent_max() <= Instant::now())
    }

    fn nudge_arrived(&mut self) {
        if let Some(nudged) = &mut self.nudged {
            nudged.arrived_at = Some(Instant::now());
        }
    }

    /// Whether the server lets this caller not ask for signs of life. Within this process that is known a little later
    /// than the echo.
    fn is_nudge_refused(&mut self) -> bool {
        self.nudged.as_mut().is_some_and(|nudged| (&mut nudged.refused).now_or_never().is_some())
    }

    /// Asks for a sign of life, perhaps again.
    fn nudge(&mut self) {
        self.grant(1);
        let nudged = self.nudged.take().unwrap_or_else(|| Nudged::of(&self.bus, &self.service));
        if flow::nudge(&self.bus, &self.service, &self.id) {
            self.nudged = Some(Nudged { at: Instant::now(), ..nudged });
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
