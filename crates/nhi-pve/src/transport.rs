//! How a GET goes out and an answer comes in.

use crate::{
    endpoint::Endpoint,
    error::{Kind, PveError},
    rows::Unknown,
    trust::{TrustError, TrustedAs},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};

/// One GET: what is asked, and who has to work for it.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) node: Option<String>,
    pub(crate) protected: bool,
}

#[derive(Debug)]
pub(crate) struct Transport {
    endpoint: Endpoint,
    requests: AtomicU64,
    unknown: Mutex<Unknown>,
}

impl Transport {
    pub(crate) fn new(endpoint: Endpoint) -> Result<Self, TrustError> {
        Ok(Self { endpoint, requests: AtomicU64::new(0), unknown: Mutex::new(Unknown::default()) })
    }

    pub(crate) async fn get(&self, call: &Call) -> Result<Value, PveError> {
        Err(self.error(call, Kind::Connect, "nothing is connected yet".to_owned()))
    }

    pub(crate) fn error(&self, call: &Call, kind: Kind, text: String) -> PveError {
        let place = self.endpoint.addresses[0].to_string();
        PveError { place, path: call.path.clone(), kind, status: None, text, fields: BTreeMap::new() }
    }

    pub(crate) fn reset(&self) {}

    pub(crate) fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    pub(crate) fn trusted_as(&self) -> TrustedAs {
        TrustedAs::NotYet
    }

    pub(crate) fn unknown(&self) -> std::sync::MutexGuard<'_, Unknown> {
        self.unknown.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }
}
