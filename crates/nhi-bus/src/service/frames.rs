//! What a handler that answers in frames is given. The frames are numbered and sent by the one task that answers the
//! request, so they keep their order and the last is the last.

use super::work::encode;
use bytes::Bytes;
use nhi_model::fault::Fault;
use serde::Serialize;
use tokio::sync::mpsc;

/// Frames a handler may be ahead of the connection.
const PENDING_MAX: usize = 32;

/// How a streaming handler ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All frames were given.
    Done,
    /// No frame was given: this is the plain answer.
    Whole(Bytes),
}

impl Ending {
    /// A plain answer.
    ///
    /// # Errors
    /// An `internal` fault when it cannot be written as JSON.
    pub fn whole(answer: &impl Serialize) -> Result<Self, Fault> {
        encode(answer).map(Self::Whole)
    }
}

/// Why a frame was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The caller cannot be reached any more; the handler is about to be dropped.
    #[error("send a frame: the stream is over")]
    Over,
    /// The frame does not fit into a message.
    #[error("send a frame of {size} bytes: {limit} fit into a message")]
    TooLarge {
        /// Its size, bytes.
        size: usize,
        /// What fits, bytes.
        limit: usize,
    },
    /// The frame cannot be written as JSON.
    #[error("write a frame as JSON")]
    NotJson,
}

/// The sink of one stream. Clones are the same stream.
#[derive(Clone, Debug)]
pub struct Frames {
    pieces: mpsc::Sender<Piece>,
    limit: usize,
}

#[derive(Debug)]
pub(super) enum Piece {
    /// Tell the caller that a stream begins.
    Open,
    Payload(Bytes),
}

impl Piece {
    pub(super) fn bytes(&self) -> usize {
        match self {
            Self::Open => 0,
            Self::Payload(payload) => payload.len(),
        }
    }
}

impl Frames {
    pub(super) fn new(limit: usize) -> (Self, mpsc::Receiver<Piece>) {
        let (pieces, receiver) = mpsc::channel(PENDING_MAX);
        (Self { pieces, limit }, receiver)
    }

    /// Opens the stream before there is a frame, so that the caller's deadline no longer counts.
    ///
    /// # Errors
    /// [`FrameError::Over`]
    pub async fn open(&self) -> Result<(), FrameError> {
        self.pieces.send(Piece::Open).await.map_err(|_| FrameError::Over)
    }

    /// Gives a frame; waits while the connection is behind. Cancel safe: a frame is given whole or not at all.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn send(&self, payload: impl Into<Bytes>) -> Result<(), FrameError> {
        let payload = payload.into();
        let (size, limit) = (payload.len(), self.limit);
        if size > limit {
            return Err(FrameError::TooLarge { size, limit });
        }
        self.pieces.send(Piece::Payload(payload)).await.map_err(|_| FrameError::Over)
    }

    /// Gives a frame as JSON.
    ///
    /// # Errors
    /// [`FrameError`]
    pub async fn send_json(&self, value: &impl Serialize) -> Result<(), FrameError> {
        let payload = serde_json::to_vec(value).map_err(|_| FrameError::NotJson)?;
        self.send(payload).await
    }
}
