//! Lines of the guests' configurations as the steps so far leave them: what is shown of a change is so, from before it to
//! after it, and what takes it back writes what was there just before. What a line means, it does not know.

use super::{Call, Now, Replay, Verb, kind_of};
use crate::{fact::normal, lint::Faults};
use nhi_model::{
    fact::Fact,
    guest::{GuestKind, GuestStatus},
    key::Key,
    plan::{ConfigChange, Step},
};
use std::collections::BTreeMap;

/// Lines that decide what policy says of a guest, and what it may use: going back brings them as they were then.
const RETURNED: [&str; 8] =
    ["cores", "hostname", "memory", "name", "onboot", "protection", "sockets", "tags"];

/// Lines of one guest that the steps so far changed; the others are as they were seen.
#[derive(Clone, Debug, Default)]
pub(super) struct Lines {
    /// In force; `None` for one that is not there.
    now: BTreeMap<String, Option<String>>,
    /// Written while the machine runs, and in force when it has stopped.
    waiting: BTreeMap<String, Option<String>>,
    /// It went back to a snapshot nobody has read: nothing else is known.
    unknown: bool,
}

impl Lines {
    fn write(&mut self, kind: GuestKind, status: Option<GuestStatus>, step: &Step) {
        let runs = matches!(status, Some(GuestStatus::Running | GuestStatus::Paused));
        for (field, value) in written(step) {
            let waits = runs && kind == GuestKind::Qemu && matches!(field, "cores" | "memory");
            let lines = if waits { &mut self.waiting } else { &mut self.now };
            lines.insert(field.to_owned(), value.cloned());
        }
    }

    fn take_over(&mut self) {
        self.now.append(&mut self.waiting);
    }

    fn go_back(&mut self, past: Option<&BTreeMap<String, String>>) {
        *self = Self::default();
        match past {
            None => self.unknown = true,
            Some(past) => {
                self.now =
                    RETURNED.iter().map(|line| ((*line).to_owned(), past.get(*line).cloned())).collect()
            }
        }
    }
}

/// The lines a call writes; `None` for those it removes.
pub(in crate::lint) fn written(step: &Step) -> BTreeMap<&str, Option<&String>> {
    let params = &step.call.params;
    let removed = params.get("delete").map(String::as_str).unwrap_or_default();
    let removed = removed.split(',').filter(|line| !line.is_empty()).map(|line| (line, None));
    let set = params.iter().filter(|(field, _)| !matches!(field.as_str(), "delete" | "digest"));
    removed.chain(set.map(|(field, value)| (field.as_str(), Some(value)))).collect()
}

fn is_same(field: &str, one: Option<&String>, other: Option<&String>) -> bool {
    // Without a line Proxmox's own default counts.
    let text = |value: Option<&String>| match (field, value) {
        ("cores", None) => Some("1".to_owned()),
        ("memory", None) => Some("512".to_owned()),
        (_, value) => normal(field, value.map(String::as_str)),
    };
    text(one) == text(other)
}

impl<'a> Replay<'a> {
    /// What a step writes, before it is done.
    pub(super) fn lines(&mut self, at: usize, step: &Step, call: &Call, faults: &mut Faults) {
        if let Verb::Config { .. } = call.verb {
            self.config(at, step, faults);
        }
        if let Verb::Rollback { name, .. } = &call.verb {
            self.returned(at, step, name, faults);
        }
    }

    /// The lines of a guest after a step.
    pub(super) fn leave(&self, step: &Step, call: &Call, now: &mut Now) {
        if let Verb::Config { .. } = call.verb {
            now.lines.write(kind_of(step), now.status, step);
        }
        if let Verb::Rollback { name, .. } = &call.verb {
            now.lines.go_back(self.past(&step.guest, name));
        }
        if matches!(call.verb, Verb::Start | Verb::Stop | Verb::Shutdown | Verb::Reboot) {
            now.lines.take_over();
        }
    }

    fn config(&mut self, at: usize, step: &Step, faults: &mut Faults) {
        let lines = written(step);
        if lines.is_empty() {
            faults.step(at, step, "it changes no line");
        }
        for fact in &step.after {
            if let Fact::Config { field, value, .. } = fact
                && lines.get(field.as_str()) != Some(&value.as_ref())
            {
                faults.step(at, step, format!("it says of {field} what it does not write"));
            }
        }
        let back = step.compensation.as_deref().map(written);
        for (field, value) in lines {
            let had = self.line(&step.guest, field);
            let shown = self.shown(step, field, |change| is_same(field, change.after.as_ref(), value));
            // Writing what is there changes nothing, but takes back what waits for a restart.
            if shown.is_none() && !had.as_ref().is_some_and(|had| is_same(field, had.as_ref(), value)) {
                faults.step(at, step, format!("the change of {field} is not among those that are shown"));
            }
            let had = had.or_else(|| shown.map(|change| change.before.clone()));
            self.is_shown_from(at, step, shown, had.as_ref(), faults);
            if let (Some(back), Some(had)) = (back.as_ref().and_then(|back| back.get(field)), &had)
                && !is_same(field, *back, had.as_ref())
            {
                faults.step(at, step, format!("what takes it back: {field} would not be what it was"));
            }
        }
    }

    /// Going back writes lines as well, and nobody sees that in the call.
    fn returned(&mut self, at: usize, step: &Step, name: &str, faults: &mut Faults) {
        let Some(past) = self.past(&step.guest, name) else { return };
        for field in RETURNED {
            let Some(had) = self.line(&step.guest, field) else { continue };
            let then = past.get(field);
            let text = |value: Option<&String>| normal(field, value.map(String::as_str));
            if text(had.as_ref()) == text(then) {
                continue;
            }
            let shown = self.shown(step, field, |change| text(change.after.as_ref()) == text(then));
            if shown.is_none() {
                faults.step(at, step, format!("the change of {field} is not among those that are shown"));
            }
            self.is_shown_from(at, step, shown, Some(&had), faults);
        }
    }

    fn is_shown_from(
        &self,
        at: usize,
        step: &Step,
        shown: Option<&ConfigChange>,
        had: Option<&Option<String>>,
        faults: &mut Faults,
    ) {
        if let (Some(change), Some(had)) = (shown, had)
            && !is_same(&change.field, change.before.as_ref(), had.as_ref())
        {
            faults.step(at, step, format!("{} is shown to be another one before it", change.field));
        }
    }

    /// The change that is shown of a line: of several, each step's own, in their order.
    fn shown(
        &mut self,
        step: &Step,
        field: &str,
        is: impl Fn(&ConfigChange) -> bool,
    ) -> Option<&'a ConfigChange> {
        let read = self.shown.entry((step.guest.clone(), field.to_owned())).or_default();
        let own = |change: &ConfigChange| change.guest == step.guest && change.field == field;
        let mut unread = self.view.plan.config_changes.iter().enumerate().skip(*read);
        let (place, change) = unread.find(|(_, change)| own(change) && is(change))?;
        *read = place + 1;
        self.found.insert(place);
        Some(change)
    }

    /// Nothing is shown that no step does. What a snapshot nobody read brings back is left out of account.
    pub(super) fn all_found(&self, faults: &mut Faults) {
        let known = |change: &ConfigChange| {
            let lines = self.guests.get(&change.guest).and_then(Option::as_ref).map(|now| &now.lines);
            RETURNED.contains(&change.field.as_str()) && lines.is_some_and(|lines| !lines.unknown)
        };
        let changes = self.view.plan.config_changes.iter().enumerate();
        for (_, change) in changes.filter(|(place, change)| known(change) && !self.found.contains(place)) {
            faults.add(format!(
                "{}: a change of {} is shown, and no step makes it",
                change.guest, change.field
            ));
        }
    }

    /// A line as it is before a step; `None` when nobody knows.
    fn line(&self, guest: &Key, field: &str) -> Option<Option<String>> {
        let now = self.now(guest)?;
        if let Some(line) = now.lines.now.get(field) {
            return Some(line.clone());
        }
        let seen = self.seen(guest).filter(|_| !now.lines.unknown && !now.made)?;
        let line = seen.config.get(field).cloned();
        (line.is_some() || seen.config_whole).then_some(line)
    }

    /// The configuration a snapshot keeps, where it was read.
    pub(super) fn past(&self, guest: &Key, name: &str) -> Option<&'a BTreeMap<String, String>> {
        let list = self.seen(guest).and_then(|seen| seen.snapshots.as_ref()).into_iter().flatten();
        list.filter(|snapshot| snapshot.name == name).find_map(|snapshot| snapshot.config.as_ref())
    }
}
