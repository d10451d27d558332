//! A plain client with an identity's seed, that knows of each try whether the server refused it.

use crate::{
    attacks::Attack,
    stage::{DEADLINE, Stage},
};
use async_nats::{Client, Event, Message, ServerError};
use futures::StreamExt as _;
use tokio::{sync::mpsc, time::timeout};

pub(crate) struct Intruder {
    client: Client,
    who: String,
    refusals: mpsc::UnboundedReceiver<String>,
    barriers: u64,
}

/// A subscription the server did not refuse.
pub(crate) struct Heard(async_nats::Subscriber);

impl Heard {
    pub(crate) async fn next(&mut self) -> Message {
        timeout(DEADLINE, self.0.next()).await.expect("something arrives").expect("it stays open")
    }
}

impl Intruder {
    pub(crate) async fn enter(stage: &Stage, who: &str) -> Self {
        let (told, refusals) = mpsc::unbounded_channel();
        let options = stage.nats.raw_options(who).event_callback(move |event| {
            if let Event::ServerError(ServerError::Other(words)) = event {
                // Nobody listens any more when the test is over.
                drop(told.send(words));
            }
            std::future::ready(())
        });
        let client = options.connect(stage.nats.url()).await.unwrap();
        Self { client, who: who.to_owned(), refusals, barriers: 0 }
    }

    /// The server deals with one connection's messages in order, and nobody but `home` may publish to this
    /// subject: with its refusal, every refusal before it has come too. Returns those.
    async fn barrier(&mut self) -> Vec<String> {
        self.barriers += 1;
        let subject = format!("barrier.{}", self.barriers);
        self.client.publish(subject.clone(), "".into()).await.unwrap();
        let quoted = format!("\"{subject}\"");
        let mut before = Vec::new();
        loop {
            let refusal = timeout(DEADLINE, self.refusals.recv()).await.expect("a refusal comes").unwrap();
            if refusal.contains(&quoted) {
                return before;
            }
            before.push(refusal);
        }
    }

    /// Publishes, and says whether that was refused.
    pub(crate) async fn publish(&mut self, attack: &Attack) -> bool {
        let headers = attack.headers(&self.who);
        let payload = attack.payload(&self.who).into();
        let subject = attack.subject.clone();
        let sent = match attack.reply.clone() {
            Some(reply) => self.client.publish_with_reply_and_headers(subject, reply, headers, payload).await,
            None => self.client.publish_with_headers(subject, headers, payload).await,
        };
        sent.unwrap();
        !self.barrier().await.is_empty()
    }

    pub(crate) async fn is_refused_to_publish(&mut self, subject: &str) -> bool {
        self.publish(&Attack::publish(subject)).await
    }

    /// Asks as a good client does.
    pub(crate) async fn ask(&mut self, subject: &str) -> Result<(), String> {
        let asked = self.client.request(subject.to_owned(), "".into());
        match timeout(DEADLINE, asked).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err(format!("no answer; refusals: {:?}", self.barrier().await)),
        }
    }

    /// Subscribes; nothing when that was refused.
    pub(crate) async fn subscribe(&mut self, subject: &str) -> Option<Heard> {
        let subscriber = self.client.subscribe(subject.to_owned()).await.unwrap();
        self.unless_refused(subscriber, subject).await
    }

    /// Subscribes in a queue group, a way round deny lists in older servers.
    pub(crate) async fn subscribe_queue(&mut self, subject: &str) -> Option<Heard> {
        let subscriber = self.client.queue_subscribe(subject.to_owned(), "q".to_owned()).await.unwrap();
        self.unless_refused(subscriber, subject).await
    }

    async fn unless_refused(&mut self, subscriber: async_nats::Subscriber, subject: &str) -> Option<Heard> {
        let quoted = format!("Subscription to \"{subject}\"");
        let refused = self.barrier().await.iter().any(|words| words.contains(&quoted));
        (!refused).then_some(Heard(subscriber))
    }
}
