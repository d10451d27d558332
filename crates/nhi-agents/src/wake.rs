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

/// When each machine was to be woken last, and was, by this router. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Waker {
    settings: Arc<Settings>,
    last: Arc<Mutex<BTreeMap<String, Try>>>,
}

#[derive(Clone, Copy, Debug)]
struct Try {
    at: Timestamp,
    /// When a packet left last: in this try, or in one before.
    sent: Option<Timestamp>,
}

impl Try {
    /// One that cannot be sent takes nothing back: the machine may still come up from the one before.
    fn after(before: Option<&Self>, now: Timestamp, was_sent: bool) -> Self {
        let sent = if was_sent { Some(now) } else { before.and_then(|one| one.sent) };
        Self { at: now, sent }
    }
}

impl Waker {
    pub(crate) fn new(settings: &Arc<Settings>) -> Self {
        Self { settings: settings.clone(), last: Arc::default() }
    }

    /// Backends at a machine that was just woken are worth waiting for.
    pub(crate) fn mark(&self, now: Timestamp, backends: &mut BTreeMap<String, BackendWorld>) {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        for (host, sent) in last.iter().filter_map(|(host, one)| Some((host, one.sent?))) {
            let Some(wake) = self.settings.wake.get(host) else { continue };
            let there = self.settings.backends.iter().filter(|backend| backend.gpu.as_ref() == Some(host));
            for backend in there {
                let light = backends.get_mut(&backend.name).and_then(|world| world.light.as_mut());
                if let Some(Err(no)) = light
                    && let Some(coming) = wake.coming(now, sent, no)
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
            let before = last.get(host);
            if wake.is_due(now, ask.priority, !routed.order.is_empty(), before.map(|one| one.at)) {
                // Also where it cannot be sent it is not tried with each request: the next would not fare better.
                let was_sent = send(host, wake);
                let one = Try::after(before, now, was_sent);
                last.insert(host.clone(), one);
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

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::SignedDuration;
    use nhi_decide::semaphore::Unavailable;
    use serde_json::json;

    #[test]
    fn a_wake_that_cannot_be_sent_does_not_undo_one_that_was() {
        let settings: Settings = serde_json::from_value(json!({
            "backend": [{ "name": "pc", "kind": "ollama", "url": "http://127.0.0.1:9", "gpu": "pc" }],
            "wake": { "pc": { "mac": "3c:7c:3f:12:34:56", "every_s": 10, "up_s": 60 } },
        }))
        .unwrap();
        let waker = Waker::new(&Arc::new(settings));
        let at = |seconds| Timestamp::UNIX_EPOCH + SignedDuration::from_secs(seconds);
        // Until when the machine is waited for.
        let waited = |now| {
            let no = Unavailable { why: LostWhy::GpuUnknown, text: "silent".to_owned(), until: None };
            let world = BackendWorld { light: Some(Err(no)), ..BackendWorld::default() };
            let mut backends = BTreeMap::from([("pc".to_owned(), world)]);
            waker.mark(now, &mut backends);
            backends["pc"].light.as_ref().and_then(|light| light.as_ref().err()).and_then(|no| no.until)
        };
        let mut before: Option<Try> = None;
        for (seconds, was_sent, until) in
            [(0, false, None), (20, true, Some(at(80))), (40, false, Some(at(80))), (50, true, Some(at(110)))]
        {
            let one = Try::after(before.as_ref(), at(seconds), was_sent);
            assert_eq!(one.at, at(seconds), "no try is made sooner for one that was not sent");
            waker.last.lock().unwrap().insert("pc".to_owned(), one);
            assert_eq!(waited(at(seconds + 5)), until, "{seconds} s");
            before = Some(one);
        }
    }
}
