//! Wakes machines that sleep when a request would go there: the router's, which runs all day and stands on the same
//! network. It decides nothing (`nhi_decide::semaphore::Wake` does), and asks nobody whether the machine woke: that shows
//! when it tells of its light.

use nhi_decide::{
    route::{Ask, BackendWorld, Settings},
    semaphore::Wake,
};
use nhi_host::Mac;
use nhi_model::{
    Timestamp,
    ai::{LostWhy, Routed},
};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

/// When each machine was to be woken last, by this router. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Waker {
    settings: Arc<Settings>,
    last: Arc<Mutex<BTreeMap<String, Try>>>,
}

#[derive(Clone, Copy, Debug)]
struct Try {
    at: Timestamp,
    was_sent: bool,
}

impl Waker {
    pub(crate) fn new(settings: &Arc<Settings>) -> Self {
        Self { settings: settings.clone(), last: Arc::default() }
    }

    /// Backends at a machine that was just woken are worth waiting for.
    pub(crate) fn mark(&self, now: Timestamp, backends: &mut BTreeMap<String, BackendWorld>) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for (host, one) in last.iter().filter(|(_, one)| one.was_sent) {
            let Some(wake) = self.settings.wake.get(host) else { continue };
            let there = self.settings.backends.iter().filter(|backend| backend.gpu.as_ref() == Some(host));
            for backend in there {
                let light = backends.get_mut(&backend.name).and_then(|world| world.light.as_mut());
                if let Some(Err(no)) = light
                    && let Some(coming) = wake.coming(now, one.at, no)
                {
                    *no = coming;
                }
            }
        }
    }

    /// Wakes the machines a request was lost for because they are silent, where that is allowed and due; whether it woke
    /// one.
    pub(crate) fn wake(&self, now: Timestamp, ask: &Ask, routed: &Routed) -> bool {
        let silent = routed.lost.iter().filter(|lost| lost.why == LostWhy::GpuUnknown);
        let backends = &self.settings.backends;
        let hosts = silent
            .filter_map(|lost| backends.iter().find(|backend| backend.name == lost.provider)?.gpu.as_ref());
        let mut woke = false;
        for host in hosts {
            let Some(wake) = self.settings.wake.get(host) else { continue };
            let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
            if wake.is_due(now, ask.priority, !routed.order.is_empty(), last.get(host).map(|one| one.at)) {
                // Also where it cannot be sent it is not tried with each request: the next would not fare better.
                let was_sent = send(host, wake);
                last.insert(host.clone(), Try { at: now, was_sent });
                woke |= was_sent;
            }
        }
        woke
    }
}

fn send(host: &str, wake: &Wake) -> bool {
    let sent = wake.mac.parse::<Mac>().map_err(|error| error.to_string()).and_then(|mac| {
        nhi_host::wake(mac, wake.towards).map_err(|error| format!("the packet is not sent: {error}"))
    });
    match &sent {
        Ok(()) => tracing::info!(agent = "route", host, "machine woken"),
        Err(reason) => tracing::warn!(agent = "route", host, err = reason, "machine not woken"),
    }
    sent.is_ok()
}
