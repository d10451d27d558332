//! The messages of a bucket, folded into a state that is only ever shown whole. Pure.
//!
//! Two moments could show half a batch. While following, a batch's messages arrive one by one: they are held back
//! until the one that commits it. At the start, the server delivers the last message of each key and then goes on,
//! but the list of those may have been made while a batch (or several) was being written: then keys whose newest
//! value is in it lack the one before. So the first state is shown only when everything up to a sequence has arrived
//! that was the stream's last *after* the list had been made, and the message there ends its batch.

use super::watched::Whole;
use crate::store::{BATCH_MESSAGES_MAX, written::Written};
use nhi_model::Timestamp;
use std::collections::BTreeMap;

/// The state while it is followed.
#[derive(Debug)]
pub(crate) struct Fold<W> {
    /// Whole up to its revision.
    pub(crate) whole: W,
    /// Highest sequence received.
    position: u64,
    /// When the server stored it.
    position_time: Option<Timestamp>,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Filling {
        /// The state may be shown when everything up to here has arrived.
        target: u64,
        /// What has been taken of each key, because the list may be followed by messages older than its newest.
        taken: BTreeMap<String, u64>,
        /// Whether the message at `position` belongs to a batch that goes on.
        is_open: bool,
    },
    Following {
        /// Messages of a batch whose end has not come.
        held: Vec<Written>,
    },
}

impl<W: Whole> Fold<W> {
    /// Starts with nothing. `target` is the last sequence of the stream, asked for after the delivery had begun.
    pub(crate) fn new(target: u64) -> Self {
        Self {
            whole: W::default(),
            position: 0,
            position_time: None,
            phase: Phase::Filling { target, taken: BTreeMap::new(), is_open: false },
        }
    }

    /// Takes a message. True when there is a new whole state.
    pub(crate) fn take(&mut self, written: Written) -> bool {
        if let Phase::Filling { taken, is_open, .. } = &mut self.phase {
            let newest = taken.entry(written.subject.clone()).or_default();
            let is_news = written.sequence > *newest;
            *newest = written.sequence.max(*newest);
            if written.sequence > self.position {
                self.position = written.sequence;
                self.position_time = Some(written.time);
                *is_open = !written.ends_commit();
            }
            if is_news {
                self.whole.apply(&written);
            }
            return self.finish_filling();
        }
        if written.sequence <= self.position {
            return false;
        }
        self.position = written.sequence;
        self.position_time = Some(written.time);
        self.follow(written)
    }

    fn follow(&mut self, written: Written) -> bool {
        let Phase::Following { held } = &mut self.phase else { return false };
        let batch = written.in_batch().map(|batch| batch.id);
        let mut ready = Vec::new();
        if held.last().is_some_and(|last| last.in_batch().map(|b| b.id) != batch) {
            tracing::warn!(rev = written.sequence, "a batch has no end, its messages are taken as they are");
            ready.append(held);
        }
        let ends = written.ends_commit();
        held.push(written);
        // More than the largest batch means that its end was never written.
        if ends || held.len() > BATCH_MESSAGES_MAX {
            ready.append(held);
        }
        let Some(last) = ready.last() else { return false };
        self.whole.set_revision(last.sequence);
        for written in &ready {
            self.whole.apply(written);
        }
        true
    }

    /// The server has nothing more to deliver. True when there is a new whole state.
    pub(crate) fn idle(&mut self) -> bool {
        if let Phase::Filling { target, .. } = &self.phase {
            // The last messages may have been removed from the stream; nothing will come for them.
            self.position = self.position.max(*target);
        }
        self.finish_filling()
    }

    /// The end of an open batch will not come: the stream stands still in the middle of it. True when there is a
    /// new whole state.
    pub(crate) fn settle(&mut self) -> bool {
        match &mut self.phase {
            Phase::Filling { is_open, .. } => {
                *is_open = false;
                self.finish_filling()
            }
            Phase::Following { held } => {
                let held = std::mem::take(held);
                for written in &held {
                    self.whole.apply(written);
                }
                self.whole.set_revision(self.position);
                !held.is_empty()
            }
        }
    }

    /// Whether a batch has begun and not ended.
    pub(crate) fn is_open(&self) -> bool {
        match &self.phase {
            Phase::Filling { is_open, .. } => *is_open,
            Phase::Following { held } => !held.is_empty(),
        }
    }

    pub(crate) fn is_filled(&self) -> bool {
        matches!(self.phase, Phase::Following { .. })
    }

    /// Highest sequence received, and when the server stored that message.
    pub(crate) fn position(&self) -> (u64, Option<Timestamp>) {
        (self.position, self.position_time)
    }

    /// True at the moment filling ends.
    pub(crate) fn finish_filling(&mut self) -> bool {
        let Phase::Filling { target, is_open: false, .. } = &self.phase else { return false };
        if self.position < *target {
            return false;
        }
        self.whole.set_revision(self.position);
        self.phase = Phase::Following { held: Vec::new() };
        true
    }
}

#[cfg(test)]
mod tests;
