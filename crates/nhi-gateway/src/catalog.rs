//! What the mesh offers, as last seen: one entry for each service and version, kept up to date in the background. It
//! calls nobody's endpoint, and what stands here is what services say of themselves.
//!
//! Every two seconds all are asked who is there; when the answers differ from those before, each is asked by its own
//! name what it offers. So a quiet mesh costs a few small messages, and a new service is offered within seconds.

mod merge;
mod page;
mod version;

pub(crate) use self::page::page;

use nhi_bus::{
    connect::Bus,
    cx::Cx,
    discover::{self, EndpointInfo, Presence, Survey},
};
use serde::Serialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

/// How often it is asked who is there.
const PACE: Duration = Duration::from_secs(2);
/// How often at most when somebody wants to know at once.
const PACE_MIN: Duration = Duration::from_millis(300);
/// How often all is asked although the same are there: a service may add an endpoint later.
const FULL: Duration = Duration::from_secs(30);
/// How long after a change all is asked each time: services add their endpoints one after the other.
const SETTLING: Duration = Duration::from_secs(10);
/// How long answers are waited for.
const WAIT: Duration = Duration::from_secs(2);
/// A service that is late so many times is gone.
const LATE_MAX: u32 = 3;
/// How long whoever asks right after the start waits for the first look.
const FIRST_MAX: Duration = Duration::from_secs(3);

/// One service in one version.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Offered {
    pub(crate) name: String,
    pub(crate) version: String,
    pub(crate) description: String,
    /// Ids.
    pub(crate) instances: Vec<String>,
    /// By name.
    pub(crate) endpoints: Vec<EndpointInfo>,
    /// What of its description was left out, and what else to know about it.
    pub(crate) problems: Vec<String>,
}

/// What is offered.
#[derive(Debug)]
pub(crate) struct Catalog {
    own: Bus,
    seen: Mutex<Seen>,
    /// 0 before the first look.
    number: watch::Sender<u64>,
    wake: Notify,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    services: Arc<Vec<Offered>>,
    problems: Arc<Vec<String>>,
    /// How many times in a row each service was late.
    late: BTreeMap<String, u32>,
}

impl Catalog {
    /// Begins to look, until `cx` stops.
    pub(crate) fn start(cx: &Cx, own: Bus) -> Arc<Self> {
        let (seen, number) = (Mutex::default(), watch::Sender::new(0));
        let this = Arc::new(Self { own, seen, number, wake: Notify::new() });
        let (looker, stop) = (this.clone(), cx.clone());
        cx.spawn("gateway.catalog", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = looker.look_on() => {}
            }
        });
        this
    }

    /// What is offered, as last seen, by name and version.
    pub(crate) fn services(&self) -> Arc<Vec<Offered>> {
        self.seen().services
    }

    /// What is odd about the mesh as a whole.
    pub(crate) fn problems(&self) -> Arc<Vec<String>> {
        self.seen().problems
    }

    /// A number that rises when the offer changes; 0 before the first look.
    pub(crate) fn changed(&self) -> watch::Receiver<u64> {
        self.number.subscribe()
    }

    /// Returns when there was a first look, or it takes too long.
    pub(crate) async fn looked(&self) {
        let mut number = self.changed();
        let _late = tokio::time::timeout(FIRST_MAX, number.wait_for(|number| *number > 0)).await;
    }

    /// An endpoint by the names it is called by, of the newest version that has it.
    pub(crate) fn endpoint(&self, service: &str, endpoint: &str) -> Option<(Offered, EndpointInfo)> {
        let services = self.services();
        let of_name = services.iter().rev().filter(|offered| offered.name == service);
        let mut found = of_name.filter_map(|offered| {
            let info = offered.endpoints.iter().find(|info| info.route() == Some((service, endpoint)));
            Some((offered, info?))
        });
        found.next().map(|(offered, info)| (offered.clone(), info.clone()))
    }

    /// Somebody saw that things are not as they stand here.
    pub(crate) fn look_soon(&self) {
        self.wake.notify_one();
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn look_on(&self) {
        let mut present: Option<BTreeSet<Presence>> = None;
        let (mut full_at, mut settled_at) = (Instant::now(), Instant::now());
        loop {
            let began = Instant::now();
            match discover::roll_call(&self.own, WAIT).await {
                Ok(now) => {
                    if present.as_ref() != Some(&now) {
                        settled_at = began + SETTLING;
                        full_at = began;
                    }
                    // Nothing is taken for known before it was looked at.
                    if (began >= full_at || began < settled_at) && self.look().await {
                        full_at = began + FULL;
                        present = Some(now);
                    }
                }
                // What was offered stays: it was not seen to be gone.
                Err(error) => tracing::debug!(err = %error, "services are not known"),
            }
            tokio::time::sleep_until(began + PACE_MIN).await;
            tokio::select! {
                () = tokio::time::sleep_until(began + PACE) => {}
                () = self.wake.notified() => full_at = began,
            }
        }
    }

    /// Asks all what they offer. False when that was not possible.
    async fn look(&self) -> bool {
        let before = self.seen();
        let known = before.services.iter().map(|offered| offered.name.clone()).collect();
        match discover::survey_again(&self.own, WAIT, &known).await {
            Ok(survey) => {
                self.take(&before, survey);
                true
            }
            Err(error) => {
                tracing::debug!(err = %error, "services are not known");
                false
            }
        }
    }

    fn take(&self, before: &Seen, survey: Survey) {
        let after = merge::merge(before, survey);
        let is_other = after.services != before.services || after.problems != before.problems;
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = after;
        self.number.send_if_modified(|number| {
            let is_news = is_other || *number == 0;
            *number += u64::from(is_news);
            is_news
        });
    }
}
