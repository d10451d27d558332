//! Subscriptions that served one answer. The server is told of those that are over some at a time: each word to it is a
//! write here and a read there, as dear as the question was.

use crate::cx::Cx;
use async_nats::{Message, Subscriber};
use futures::StreamExt as _;
use std::time::Duration;
use tokio::{sync::mpsc, time::sleep};

/// How long one that is over may wait for others.
const TOGETHER: Duration = Duration::from_millis(20);

/// Where they are given up.
#[derive(Clone, Debug)]
pub(super) struct Leaving(mpsc::UnboundedSender<Subscriber>);

/// A subscription that is given up when this is dropped.
#[derive(Debug)]
pub(crate) struct Brief {
    messages: Option<Subscriber>,
    leaving: Leaving,
}

impl Leaving {
    pub(super) fn open(cx: &Cx) -> Self {
        let (leaving, mut over) = mpsc::unbounded_channel();
        let stop = cx.clone();
        cx.spawn("leave", async move {
            let gathering = async {
                // Nothing more comes when the connection is gone.
                while let Some(first) = over.recv().await {
                    sleep(TOGETHER).await;
                    let others = std::iter::from_fn(|| over.try_recv().ok());
                    drop(std::iter::once(first).chain(others).collect::<Vec<_>>());
                }
            };
            tokio::select! {
                () = gathering => {}
                () = stop.cancelled() => {}
            }
        });
        Self(leaving)
    }

    pub(super) fn brief(&self, messages: Subscriber) -> Brief {
        Brief { messages: Some(messages), leaving: self.clone() }
    }
}

impl Brief {
    /// The next message; `None` when the connection is closed. Cancel safe.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        self.messages.as_mut().expect("it is taken only when it is dropped").next().await
    }
}

impl Drop for Brief {
    fn drop(&mut self) {
        // Where nobody takes it, the subscription ends by itself.
        if let Some(messages) = self.messages.take() {
            drop(self.leaving.0.send(messages));
        }
    }
}
