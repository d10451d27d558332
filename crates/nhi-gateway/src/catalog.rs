//! What the mesh offers, as last seen: one entry for each service and version, kept up to date in the background. It
//! calls nobody's endpoint, and what stands here is what services say of themselves.
//!
//! Every two seconds all are asked who is there; when the answers differ from those before, each is asked by its own
//! name what it offers. So a quiet mesh costs a few small messages, and a new service is offered within seconds; one that
//! changes on and on is looked at, and told of, less often.

mod merge;
mod pace;
mod page;
mod version;

pub(crate) use self::page::page;

use self::pace::{News, Pace};
use nhi_bus::{
    connect::Bus,
    cx::Cx,
    discover::{self, EndpointInfo, Survey, Turns},
};
use serde::Serialize;
use std::{
    collections::BTreeMap,
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

/// Endpoints by service and endpoint, as they are called, each with the version that describes it.
pub(crate) type Newest<'o> = BTreeMap<(&'o str, &'o str), (&'o Offered, &'o EndpointInfo)>;

/// The endpoints of these services, each of the newest version that has it: a call may reach any version, and what only
/// an older one has can be called. Versions of one service stand in order, the newest last.
pub(crate) fn newest<'o>(services: impl IntoIterator<Item = &'o Offered>) -> Newest<'o> {
    let mut all = Newest::new();
    for offered in services {
        // Of two in one version that are called by the same name the first counts.
        for info in offered.endpoints.iter().rev() {
            all.extend(info.route().map(|route| (route, (offered, info))));
        }
    }
    all
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

    /// A number that rises when what can be called changes, though not on and on; 0 before the first look.
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
        let found = newest(services.iter().filter(|offered| offered.name == service));
        found.get(&(service, endpoint)).map(|(offered, info)| ((*offered).clone(), (*info).clone()))
    }

    /// Somebody saw that things are not as they stand here.
    pub(crate) fn look_soon(&self) {
        self.wake.notify_one();
    }

    fn seen(&self) -> Seen {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    async fn look_on(&self) {
        let now = Instant::now();
        let (mut pace, mut news, mut has_looked) = (Pace::new(now), News::new(now), false);
        let mut turns = Turns::default();
        loop {
            let began = Instant::now();
            match discover::roll_call(&self.own, WAIT).await {
                Ok(present) => {
                    // Nothing is taken for known before it was looked at.
                    if pace.is_due(&present, began) && self.look(&mut turns).await {
                        pace.looked(present, began);
                        if !turns.is_empty() {
                            pace.wish();
                        }
                        has_looked = true;
                    }
                }
                // What was offered stays: it was not seen to be gone.
                Err(error) => tracing::debug!(err = %error, "services are not known"),
            }
            if has_looked {
                self.tell(&mut news);
            }
            tokio::time::sleep_until(began + PACE_MIN).await;
            tokio::select! {
                () = tokio::time::sleep_until(began + PACE) => {}
                () = self.wake.notified() => pace.wish(),
            }
        }
    }

    /// Asks all what they offer. False when that was not possible.
    async fn look(&self, turns: &mut Turns) -> bool {
        let before = self.seen();
        let known = before.services.iter().map(|offered| offered.name.clone()).collect();
        match discover::survey_again(&self.own, WAIT, &known, turns).await {
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
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = after;
    }

    /// Tells what is new since it was last told.
    fn tell(&self, news: &mut News) {
        if news.is_due(&self.services(), Instant::now()) {
            self.number.send_modify(|number| *number += 1);
        }
    }
}
