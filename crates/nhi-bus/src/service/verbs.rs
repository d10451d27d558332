//! `$SRV.PING`, `$SRV.INFO` and `$SRV.STATS`: how a service says that it is there, what it offers and how it goes, in
//! exactly the JSON of the NATS micro service protocol (ADR-32).
//!
//! Only answerable replies are answered: the library's handlers write their JSON to any subject a question names.

use super::{
    Offer,
    drops::{DropReason, Drops},
    endpoint::Endpoint,
};
use crate::{connect::Bus, cx::Cx};
use async_nats::{HeaderMap, Message, SubscribeError, Subscriber};
use bytes::Bytes;
use futures::{StreamExt, stream::select_all};
use jiff::Timestamp;
use nhi_model::subject::{self, QUEUE, Verb};
use serde::Serialize;
use serde_json::json;
use std::{collections::BTreeMap, sync::Arc};

/// What all three answers begin with.
#[derive(Clone, Serialize)]
pub(super) struct Identity {
    pub(super) name: String,
    pub(super) id: String,
    pub(super) version: String,
    pub(super) metadata: BTreeMap<String, String>,
}

/// One endpoint in the answer to INFO.
#[derive(Serialize)]
pub(super) struct Described {
    name: &'static str,
    subject: String,
    queue_group: &'static str,
    metadata: BTreeMap<&'static str, String>,
}

pub(super) fn describe(service: &str, offer: &Offer) -> Described {
    let mut metadata = BTreeMap::from([
        ("effect", offer.spec.effect.as_str().to_owned()),
        ("description", offer.spec.description.to_owned()),
        ("request_schema", offer.request_schema.clone()),
        ("response_schema", offer.response_schema.clone()),
    ]);
    if offer.streams {
        metadata.insert("stream", "true".to_owned());
    }
    Described {
        name: offer.spec.endpoint,
        subject: subject::endpoint(service, offer.spec.endpoint),
        queue_group: QUEUE,
        metadata,
    }
}

/// The part of a service that answers questions about it.
pub(super) struct Verbs {
    identity: Identity,
    started: Timestamp,
    ping: Bytes,
    info: Bytes,
    endpoints: Vec<Arc<Endpoint>>,
    drops: Drops,
}

/// The subscription and the verb it stands for.
pub(super) type Questions = Vec<(Verb, String, Subscriber)>;

impl Verbs {
    pub(super) fn new(
        identity: Identity,
        description: &str,
        described: &[Described],
        endpoints: Vec<Arc<Endpoint>>,
        drops: Drops,
    ) -> Self {
        let Identity { name, id, version, metadata } = &identity;
        let ping = json!({
            "type": "io.nats.micro.v1.ping_response",
            "name": name, "id": id, "version": version, "metadata": metadata,
        });
        let info = json!({
            "type": "io.nats.micro.v1.info_response",
            "name": name, "id": id, "version": version, "metadata": metadata,
            "description": description, "endpoints": described,
        });
        Self {
            ping: ping.to_string().into(),
            info: info.to_string().into(),
            started: Timestamp::now(),
            identity,
            endpoints,
            drops,
        }
    }

    /// The answer to INFO must fit into one message.
    pub(super) fn info_bytes(&self) -> usize {
        self.info.len()
    }

    fn stats(&self) -> Bytes {
        let Identity { name, id, version, metadata } = &self.identity;
        let endpoints: Vec<_> = self
            .endpoints
            .iter()
            .map(|endpoint| {
                let counts = endpoint.counts();
                json!({
                    "name": endpoint.name(), "subject": endpoint.subject(), "queue_group": QUEUE,
                    "num_requests": counts.num_requests, "num_errors": counts.num_errors,
                    "last_error": counts.last_error, "processing_time": counts.processing_time,
                    "average_processing_time": counts.average_processing_time,
                    "data": { "dropped": counts.dropped },
                })
            })
            .collect();
        let stats = json!({
            "type": "io.nats.micro.v1.stats_response",
            "name": name, "id": id, "version": version, "metadata": metadata,
            "started": self.started.to_string(), "endpoints": endpoints,
        });
        stats.to_string().into()
    }

    /// Each instance answers for itself, so there is no queue group.
    pub(super) async fn subscribe(&self, bus: &Bus) -> Result<Questions, SubscribeError> {
        let mut questions = Vec::new();
        for verb in Verb::ALL {
            for subject in verb.subjects(&self.identity.name, &self.identity.id) {
                let subscriber = bus.client().subscribe(subject.clone()).await?;
                questions.push((verb, subject, subscriber));
            }
        }
        Ok(questions)
    }

    pub(super) async fn serve(self, questions: Questions, bus: Bus, cx: Cx) {
        let streams = questions.into_iter().map(|(verb, subject, subscriber)| {
            subscriber.map(move |message| (verb, subject.clone(), message)).boxed()
        });
        let mut questions = select_all(streams);
        loop {
            let question = tokio::select! {
                question = questions.next() => question,
                () = cx.cancelled() => None,
            };
            let Some((verb, subject, message)) = question else { return };
            self.answer(&bus, verb, &subject, &message).await;
        }
    }

    async fn answer(&self, bus: &Bus, verb: Verb, subject: &str, message: &Message) {
        let reply = match &message.reply {
            _ if message.subject.as_str() != subject => Err(DropReason::ForeignSubject),
            None => Err(DropReason::NoReply),
            Some(reply) if !subject::is_answerable(reply) => Err(DropReason::UnanswerableReply),
            Some(reply) => Ok(reply),
        };
        let reply = match reply {
            Ok(reply) => reply,
            Err(reason) => return self.drops.report(verb.as_str(), message, reason),
        };
        let body = match verb {
            Verb::Ping => self.ping.clone(),
            Verb::Info => self.info.clone(),
            Verb::Stats => self.stats(),
        };
        if let Err(error) = bus.publish(reply, HeaderMap::new(), body).await {
            tracing::debug!(err = %error, "question about the service not answered");
        }
    }
}
