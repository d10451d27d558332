//! A body that arrives in pieces, in time and within its size. It does not know what the bytes mean.

use bytes::Bytes;
use reqwest::Response;
use tokio::time::{Instant, timeout_at};

/// What is left of a body. Dropping it before its end closes the connection.
#[derive(Debug)]
pub(crate) struct Body {
    response: Response,
    bytes_left: usize,
}

/// Why a body did not come to its end.
#[derive(Debug)]
pub(crate) enum BodyError {
    Late,
    TooLarge,
    Broken(reqwest::Error),
}

impl Body {
    pub(crate) fn new(response: Response, bytes_max: usize) -> Self {
        Self { response, bytes_left: bytes_max }
    }

    /// The next piece; `None` at the end. Cancel safe.
    pub(crate) async fn next(&mut self, deadline: Instant) -> Result<Option<Bytes>, BodyError> {
        let announced = self.response.content_length().unwrap_or(0);
        if usize::try_from(announced).unwrap_or(usize::MAX) > self.bytes_left {
            return Err(BodyError::TooLarge);
        }
        let Ok(piece) = timeout_at(deadline, self.response.chunk()).await else {
            return Err(BodyError::Late);
        };
        let Some(bytes) = piece.map_err(BodyError::Broken)? else { return Ok(None) };
        self.bytes_left = self.bytes_left.checked_sub(bytes.len()).ok_or(BodyError::TooLarge)?;
        Ok(Some(bytes))
    }

    /// All of it.
    pub(crate) async fn whole(mut self, deadline: Instant) -> Result<Vec<u8>, BodyError> {
        let mut whole = Vec::new();
        while let Some(bytes) = self.next(deadline).await? {
            whole.extend_from_slice(&bytes);
        }
        Ok(whole)
    }

    /// What can be had of it: a refusal's body is worth reading even when it breaks off.
    pub(crate) async fn what_comes(mut self, deadline: Instant) -> Vec<u8> {
        let mut whole = Vec::new();
        while let Ok(Some(bytes)) = self.next(deadline).await {
            whole.extend_from_slice(&bytes);
        }
        whole
    }
}
