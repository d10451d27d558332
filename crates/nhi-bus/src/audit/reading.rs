//! The log from a sequence on, delivered by the server in order as fast as it is taken. It judges nothing.
//!
//! Why not direct gets, page by page? The server takes twice as long over them.

use super::AuditError;
use crate::{
    connect::{Bus, Link},
    store::{api::stream_info, written::Written},
    view::follow::{Ended, Session, Start, Step, is_lasting},
};
use nhi_model::subject::{self, AUDIT_STREAM};
use std::time::Duration;

/// How often a delivery that broke down is begun again without one entry in between.
const TRIES_MAX: u32 = 5;
/// How long a lost link is waited for.
const LINK_SECONDS_MAX: u64 = 10;
/// Silence after which the server is asked whether there is more: entries that are gone from the end never come.
const QUIET: Duration = Duration::from_millis(200);
/// Pause before a delivery is begun again.
const PAUSE: Duration = Duration::from_millis(250);

/// A reading up to where the log ended when it began.
pub(super) struct Reading {
    bus: Bus,
    session: Option<Session>,
    /// The last entry that was handed out.
    at: u64,
    end: u64,
    tries: u32,
}

impl Reading {
    /// Begins behind a sequence.
    pub(super) async fn after(bus: &Bus, after: u64) -> Result<Self, AuditError> {
        let end = stream_info(bus, AUDIT_STREAM).await?.state.last_seq;
        Ok(Self { bus: bus.clone(), session: None, at: after, end, tries: 0 })
    }

    /// The last sequence there was.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// The next entry; `None` when there are no more.
    pub(super) async fn next(&mut self) -> Result<Option<Written>, AuditError> {
        while self.at < self.end {
            match self.step().await {
                Ok(Some(written)) => {
                    self.tries = 0;
                    self.at = written.sequence;
                    return Ok((written.sequence <= self.end).then_some(written));
                }
                Ok(None) => self.at = self.end,
                Err(ended) => self.begin_again(ended).await?,
            }
        }
        Ok(None)
    }

    /// `None` when nothing is left to deliver: the last entries are gone.
    async fn step(&mut self) -> Result<Option<Written>, Ended> {
        if self.session.is_none() {
            let start = Start::At(self.at.saturating_add(1));
            self.session = Some(Session::open(&self.bus, AUDIT_STREAM, subject::AUDIT_ALL, start).await?);
        }
        let session = self.session.as_mut().expect("it was opened above when there was none");
        loop {
            let step = match session.next_now() {
                Some(step) => Some(step?),
                None => tokio::time::timeout(QUIET, session.next()).await.ok().transpose()?,
            };
            match step {
                Some(Step::Message(written)) => return Ok(Some(written)),
                Some(Step::Idle) | None if session.is_drained().await? => return Ok(None),
                Some(Step::Idle) | None => {}
            }
        }
    }

    async fn begin_again(&mut self, ended: Ended) -> Result<(), AuditError> {
        self.close().await;
        self.tries += 1;
        let is_lasting = matches!(&ended, Ended::Api(error) if is_lasting(error));
        if is_lasting || self.tries > TRIES_MAX {
            return Err(ended.into());
        }
        tracing::debug!(err = %ended, attempt = self.tries, "the audit log is read on with a new delivery");
        let mut link = self.bus.link();
        let back = link.wait_for(|link| link.is_up() || *link == Link::Closed);
        drop(tokio::time::timeout(Duration::from_secs(LINK_SECONDS_MAX), back).await);
        tokio::time::sleep(PAUSE).await;
        Ok(())
    }

    /// Ends the delivery.
    pub(super) async fn close(&mut self) {
        if let Some(session) = self.session.take() {
            session.close().await;
        }
    }
}
