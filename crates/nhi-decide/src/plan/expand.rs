//! From an intent to primitive wishes: guests found, several put in order, compound intents taken apart. It looks at
//! the records and the past alone; what is so live is judged wish by wish.

use super::{
    Needs, Past, Request, Scene, bounds,
    draft::Draft,
    needs,
    refuse::not_seen,
    undo,
    wish::{Act, Birth, Copy, Deed, Wish},
};
use crate::{
    clean,
    observe::Known,
    records::{Once, Records},
    resolve::Roster,
    services::{Links, Services},
};
use nhi_model::{
    guest::GuestKind,
    intent::{BadReference, GuestRef, INTENTS_MAX, Intent, NewGuest, Operation, Reference},
    key::Key,
    plan::Plan,
    policy::Policy,
    refusal::{Refusal, RefusalCode},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
};

/// The records and the policy, with what is found out about all of them. It is asked for as many plans as there are of
/// one state; whatever takes a look at each guest is done when it is first needed. Of [`Records`] it is kept with them,
/// for the next state too, as far as that is no other.
#[derive(Debug)]
pub struct Prepared<'a> {
    known: &'a BTreeMap<Key, Known>,
    policy: &'a Policy,
    roster: Roster<'a>,
    links: Once<'a, Links>,
    services: OnceLock<Services<'a>>,
}

impl<'a> Prepared<'a> {
    /// A state and a policy.
    pub const fn new(known: &'a BTreeMap<Key, Known>, policy: &'a Policy) -> Self {
        Self { known, policy, roster: Roster::new(known), links: Once::here(), services: OnceLock::new() }
    }

    /// The same, with what was found out about the records before.
    pub fn of(records: &'a Records, policy: &'a Policy) -> Self {
        let (roster, links) = (Roster::of(records), Once::Kept(&records.links));
        Self { known: records, policy, roster, links, services: OnceLock::new() }
    }

    /// As [`super::needs`].
    ///
    /// # Errors
    /// As there.
    pub fn needs(&'a self, intent: &Intent, past: Option<&'a Past>) -> Result<Needs, Refusal> {
        needs::of(&Lab::new(self, past), intent)
    }

    /// As [`super::plan`]; the scene has the same records and policy.
    ///
    /// # Errors
    /// As there.
    pub fn plan(&'a self, request: &'a Request<'a>, scene: &'a Scene<'a>) -> Result<Plan, Refusal> {
        let lab = Lab::new(self, scene.past);
        let wishes = expand(&lab, request.intent)?;
        let cluster = cluster(&lab, &wishes)?;
        if scene.sight.cluster != cluster {
            return Err(not_seen(format!("cluster {} was not looked at", clean::text(&cluster, 64))));
        }
        let mut draft = Draft::new(request, scene, lab, &scene.sight.cluster)?;
        for wish in &wishes {
            draft.take(wish)?;
        }
        draft.finish()
    }
}

/// A prepared state, and what was.
#[derive(Clone, Copy, Debug)]
pub(super) struct Lab<'a> {
    pub(super) known: &'a BTreeMap<Key, Known>,
    pub(super) policy: &'a Policy,
    pub(super) past: Option<&'a Past>,
    pub(super) roster: &'a Roster<'a>,
    prepared: &'a Prepared<'a>,
}

impl<'a> Lab<'a> {
    const fn new(prepared: &'a Prepared<'a>, past: Option<&'a Past>) -> Self {
        let Prepared { known, policy, roster, .. } = prepared;
        Self { known, policy, past, roster, prepared }
    }

    pub(super) fn services(&self) -> &'a Services<'a> {
        self.prepared.services.get_or_init(|| {
            let links = self.prepared.links.get_or_find(|| Links::of(self.known));
            Services::new(links, self.known, self.policy)
        })
    }

    /// The clusters there are records of.
    pub(super) fn clusters(&self) -> BTreeSet<String> {
        let nodes = self.known.keys().filter(|key| key.as_str().starts_with("node."));
        let named = nodes.filter_map(|key| key.tokens().into_iter().next());
        self.roster.clusters().iter().cloned().chain(named).collect()
    }

    /// Whether there are records of a cluster.
    fn has_cluster(&self, name: &str) -> bool {
        // The least key its guests could have, and what follows it.
        let has_guest = |kind| {
            let least = Key::guest(kind, name, 0);
            let prefix = least.as_str().trim_end_matches('0');
            self.known.range(&least..).next().is_some_and(|(key, _)| key.as_str().starts_with(prefix))
        };
        has_guest(GuestKind::Qemu) || has_guest(GuestKind::Lxc) || self.clusters().contains(name)
    }
}

/// The cluster a guest is in.
pub(super) fn cluster_of(guest: &Key) -> String {
    guest.tokens().into_iter().next().unwrap_or_default()
}

/// All intents of one, those within [`Intent::All`] in their order.
pub(super) fn flat(intent: &Intent) -> Result<Vec<&Intent>, Refusal> {
    let mut out = Vec::new();
    let mut todo = vec![intent];
    let mut count = 0;
    while let Some(next) = todo.pop() {
        count += 1;
        if count > INTENTS_MAX {
            return Err(too_many(format!("the intent holds more than {INTENTS_MAX} others")));
        }
        match next {
            Intent::All { of } => todo.extend(of.iter().rev()),
            leaf => out.push(leaf),
        }
        // What waits is part of the count, so that a wide intent is refused before it is walked.
        if todo.len() > INTENTS_MAX {
            return Err(too_many(format!("the intent holds more than {INTENTS_MAX} others")));
        }
    }
    Ok(out)
}

pub(super) fn too_many(message: String) -> Refusal {
    Refusal::new(RefusalCode::TooManySteps, message, "Divide it into several plans.")
}

/// The wishes an intent comes down to.
pub(super) fn expand(lab: &Lab<'_>, intent: &Intent) -> Result<Vec<Wish>, Refusal> {
    let mut out = Vec::new();
    for leaf in flat(intent)? {
        out.extend(one(lab, leaf)?);
        if out.len() > nhi_model::plan::STEPS_MAX {
            return Err(too_many(format!(
                "it comes down to more than {} things",
                nhi_model::plan::STEPS_MAX
            )));
        }
    }
    Ok(out)
}

fn one(lab: &Lab<'_>, intent: &Intent) -> Result<Vec<Wish>, Refusal> {
    match intent {
        Intent::Start { guest } => each(lab, guest, Order::Start, &Act::Start),
        Intent::Stop { guest, with_dependents } => down(lab, guest, *with_dependents, &Act::Stop),
        Intent::Shutdown { guest, with_dependents, timeout_s } => {
            timeout_s.map_or(Ok(()), bounds::shutdown_seconds)?;
            down(lab, guest, *with_dependents, &Act::Shutdown { timeout_s: *timeout_s })
        }
        Intent::Reboot { guest, with_dependents } => down(lab, guest, *with_dependents, &Act::Reboot),
        Intent::Reset { guest } => each(lab, guest, Order::Stop, &Act::Reset),
        Intent::Suspend { guest, to_disk } => {
            each(lab, guest, Order::Stop, &Act::Suspend { to_disk: *to_disk })
        }
        Intent::Resume { guest } => each(lab, guest, Order::Start, &Act::Resume),
        Intent::CreateVm { new, template, full, iso, os } => match template {
            Some(template) => vm_of_template(lab, new, template, *full, iso.is_some() || os.is_some()),
            None => birth(Birth::Vm { new: new.clone(), iso: iso.clone(), os: os.clone() }),
        },
        Intent::CreateLxc { new, template, ip, gateway } => {
            lxc(lab, new, template, ip.as_ref(), gateway.as_ref())
        }
        Intent::Clone { guest, new, full, snapshot } => {
            snapshot.as_deref().map_or(Ok(()), bounds::snapshot)?;
            let copy = copy(lab, guest, new, *full, Operation::Clone)?;
            birth(Birth::Copy(Copy { snapshot: snapshot.clone(), ..copy }))
        }
        Intent::Destroy { guest, purge } => single(lab, guest, Act::Destroy { purge: *purge }),
        Intent::Snapshot { guest, name, description, memory } => {
            bounds::snapshot(name)?;
            description.as_deref().map_or(Ok(()), bounds::description)?;
            let act = Act::Snapshot { name: name.clone(), description: description.clone(), memory: *memory };
            each(lab, guest, Order::Any, &act)
        }
        Intent::SnapshotDelete { guest, name } => {
            bounds::snapshot(name)?;
            each(lab, guest, Order::Any, &Act::SnapshotDelete { name: name.clone() })
        }
        Intent::Rollback { guest, name, start } => {
            bounds::snapshot(name)?;
            single(lab, guest, Act::Rollback { name: name.clone(), start: *start })
        }
        Intent::Migrate { guest, node } => {
            bounds::node(node)?;
            each(lab, guest, Order::Any, &Act::Migrate { node: node.clone() })
        }
        Intent::Resize { guest, disk, size_gib } => {
            bounds::disk(disk)?;
            bounds::disk_gib(*size_gib)?;
            single(lab, guest, Act::Resize { disk: disk.clone(), size_gib: *size_gib })
        }
        Intent::Set { guest, settings } => {
            bounds::settings(settings)?;
            each(lab, guest, Order::Any, &Act::Set { settings: settings.clone(), processors: None })
        }
        Intent::Backup { guest, storage } => {
            storage.as_deref().map_or(Ok(()), bounds::storage)?;
            each(lab, guest, Order::Any, &Act::Backup { storage: storage.clone() })
        }
        Intent::ServiceUp { service } => service_up(lab, service),
        Intent::LabDown {} => lab_down(lab),
        Intent::LabUp { plan } => undo::lab_up(lab, plan.as_ref()),
        Intent::Return { guests, to } => undo::return_to(lab, guests, *to),
        Intent::Undo { plan } => undo::undo(lab, plan),
        // `flat` took it apart.
        Intent::All { .. } => Ok(Vec::new()),
    }
}

/// Several guests stop in their order, and start in the reverse.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Any,
    Stop,
    Start,
}

fn birth(birth: Birth) -> Result<Vec<Wish>, Refusal> {
    bounds::new_guest(birth.new_guest())?;
    Ok(vec![Wish::Birth(birth)])
}

fn vm_of_template(
    lab: &Lab<'_>,
    new: &NewGuest,
    template: &GuestRef,
    full: bool,
    media: bool,
) -> Result<Vec<Wish>, Refusal> {
    if media {
        return Err(Refusal::new(
            RefusalCode::BadValue,
            "an ISO image or an operating system type was given beside a template, which has its own",
            "Leave out iso and os, or leave out the template to make the guest from scratch.",
        ));
    }
    birth(Birth::Copy(copy(lab, template, new, full, Operation::CreateVm)?))
}

fn lxc(
    lab: &Lab<'_>,
    new: &NewGuest,
    template: &str,
    ip: Option<&String>,
    gateway: Option<&String>,
) -> Result<Vec<Wish>, Refusal> {
    let (ip, gateway) = (ip.cloned(), gateway.cloned());
    if template.contains(":vztmpl/") {
        return birth(Birth::Lxc { new: new.clone(), image: template.to_owned(), ip, gateway });
    }
    let bad = |error: BadReference| {
        let hint = "Name a container that is a template, or a file as STORAGE:vztmpl/FILE.";
        Refusal::new(RefusalCode::BadValue, error.to_string(), hint)
    };
    let template = GuestRef::parse(template).map_err(bad)?;
    let copy = copy(lab, &template, new, false, Operation::CreateLxc)?;
    birth(Birth::Copy(Copy { ip, gateway, ..copy }))
}

fn copy(
    lab: &Lab<'_>,
    of: &GuestRef,
    new: &NewGuest,
    full: bool,
    operation: Operation,
) -> Result<Copy, Refusal> {
    let source = lab.roster.one(of)?.clone();
    let wanted = if operation == Operation::CreateLxc { GuestKind::Lxc } else { GuestKind::Qemu };
    if operation != Operation::Clone && source.section() != wanted.section() {
        let hint = "Use create-vm with a virtual machine's template, create-lxc with a container's.";
        let message = format!("{} is no template of that kind of guest", crate::fact::named(&source));
        return Err(Refusal::new(RefusalCode::NotPossible, message, hint).about(&source));
    }
    Ok(Copy {
        source,
        asked: Some(of.clone()),
        new: new.clone(),
        full,
        snapshot: None,
        ip: None,
        gateway: None,
        operation,
    })
}

/// A wish for exactly one guest.
fn single(lab: &Lab<'_>, guest: &GuestRef, act: Act) -> Result<Vec<Wish>, Refusal> {
    let key = lab.roster.one(guest)?.clone();
    Ok(vec![Wish::Deed(Deed { asked: Some(guest.clone()), ..Deed::new(key, act) })])
}

/// A wish for each guest that is meant.
fn each(lab: &Lab<'_>, guest: &GuestRef, order: Order, act: &Act) -> Result<Vec<Wish>, Refusal> {
    let found = lab.roster.some(guest)?;
    let keys: Vec<Key> = if found.len() == 1 || order == Order::Any {
        found.into_iter().cloned().collect()
    } else {
        let mut keys = lab.services().stop_order(&found.into_iter().cloned().collect(), lab.roster);
        if order == Order::Start {
            keys.reverse();
        }
        keys
    };
    // One of many that is so already is no news.
    let quiet = matches!(guest.reference(), Reference::Tag(_));
    let wish = |key| Wish::Deed(Deed { asked: Some(guest.clone()), quiet, ..Deed::new(key, act.clone()) });
    Ok(keys.into_iter().map(wish).collect())
}

fn down(lab: &Lab<'_>, guest: &GuestRef, with_dependents: bool, act: &Act) -> Result<Vec<Wish>, Refusal> {
    if with_dependents {
        with_those_that_need_it(lab, guest, act)
    } else {
        each(lab, guest, Order::Stop, act)
    }
}

/// The wish for the guests, and before it the shutdown of whatever needs them; a reboot starts those again.
fn with_those_that_need_it(lab: &Lab<'_>, guest: &GuestRef, act: &Act) -> Result<Vec<Wish>, Refusal> {
    let targets: BTreeSet<Key> = lab.roster.some(guest)?.into_iter().cloned().collect();
    let services = lab.services();
    let mut all = targets.clone();
    for target in &targets {
        let dependents = services.dependents(target, lab.roster);
        all.extend(dependents.guests().filter(|key| cluster_of(key) == cluster_of(target)).cloned());
    }
    let order = services.stop_order(&all, lab.roster);
    let mut wishes = Vec::new();
    for key in &order {
        let deed = if targets.contains(key) {
            Deed { asked: Some(guest.clone()), ..Deed::new(key.clone(), act.clone()) }
        } else {
            Deed { quiet: true, ..Deed::new(key.clone(), Act::Shutdown { timeout_s: None }) }
        };
        wishes.push(Wish::Deed(deed));
    }
    if matches!(act, Act::Reboot) {
        let again = order.iter().rev().filter(|key| !targets.contains(*key));
        wishes.extend(
            again.map(|key| Wish::Deed(Deed { quiet: true, ..Deed::new(key.clone(), Act::StartAgain) })),
        );
    }
    Ok(wishes)
}

fn service_up(lab: &Lab<'_>, service: &str) -> Result<Vec<Wish>, Refusal> {
    let services = lab.services();
    let shown = clean::text(service, 80);
    let Some(name) = services.find(service) else {
        return Err(Refusal::new(
            RefusalCode::Unknown,
            format!("the dependency graph has no service {shown:?}"),
            "Use a name of infrastructure/dependency_graph.json, or start the guest itself.",
        ));
    };
    let mut notes = Vec::new();
    let mut guests = BTreeSet::new();
    for needed in services.needed(name) {
        let carriers = services.carriers(needed, lab.roster);
        if carriers.is_empty() {
            notes.push(Wish::Note(format!(
                "No known guest carries the service {}: whether it is up was not looked at.",
                clean::text(needed, 80)
            )));
        }
        if carriers.len() > 1 && !lab.policy.services.contains_key(needed) {
            let keys: Vec<&str> = carriers.iter().map(|key| key.as_str()).collect();
            return Err(Refusal::new(
                RefusalCode::AmbiguousGuest,
                format!("{} guests are named like the service {:?}", keys.len(), clean::text(needed, 80)),
                "Say in policy.toml, under [services], which guests carry it.",
            )
            .with("candidates", keys));
        }
        guests.extend(carriers.iter().map(|key| (*key).clone()));
    }
    let mut order = services.stop_order(&guests, lab.roster);
    order.reverse();
    let starts = order.into_iter().map(|key| Wish::Deed(Deed { quiet: true, ..Deed::new(key, Act::Start) }));
    let mut wishes: Vec<Wish> = starts.collect();
    if wishes.is_empty() {
        return Err(Refusal::new(
            RefusalCode::Unknown,
            format!("no known guest carries the service {shown:?} or what it needs"),
            "Say in policy.toml, under [services], which guests carry it.",
        ));
    }
    wishes.extend(notes);
    Ok(wishes)
}

fn lab_down(lab: &Lab<'_>) -> Result<Vec<Wish>, Refusal> {
    let clusters = lab.roster.clusters();
    if clusters.len() > 1 {
        return Err(Refusal::new(
            RefusalCode::NotPossible,
            format!("there are guests in {} clusters, and a plan happens in one", clusters.len()),
            "Shut down the guests of one cluster by a tag they have.",
        ));
    }
    let rows = lab.roster.rows().iter();
    let guests: BTreeSet<Key> = rows
        .filter(|row| row.known.record.get("template").and_then(serde_json::Value::as_bool) != Some(true))
        .map(|row| row.key.clone())
        .collect();
    if guests.len() > nhi_model::plan::STEPS_MAX {
        return Err(too_many(format!("the lab has {} guests", guests.len())));
    }
    Ok(vec![Wish::Down(lab.services().stop_order(&guests, lab.roster))])
}

/// The one cluster all of it happens in.
pub(super) fn cluster(lab: &Lab<'_>, wishes: &[Wish]) -> Result<String, Refusal> {
    let mut found = BTreeSet::new();
    for wish in wishes {
        match wish {
            Wish::Deed(deed) => drop(found.insert(cluster_of(&deed.guest))),
            Wish::Down(guests) => found.extend(guests.iter().map(cluster_of)),
            Wish::Note(_) => {}
            Wish::Birth(birth) => {
                found.extend(birth.new_guest().cluster.clone());
                if let Birth::Copy(copy) = birth {
                    found.insert(cluster_of(&copy.source));
                }
            }
        }
    }
    if found.is_empty() {
        found = lab.clusters();
    }
    let names: Vec<String> = found.iter().map(|name| clean::text(name, 64)).collect();
    match names.as_slice() {
        [_] if found.iter().all(|name| lab.has_cluster(name)) => {
            Ok(found.into_iter().next().unwrap_or_default())
        }
        [one] => Err(Refusal::new(
            RefusalCode::Unknown,
            format!("there is no cluster {one:?}"),
            "Use the name of a cluster of nhi.toml that was scanned.",
        )),
        [] => Err(Refusal::new(
            RefusalCode::NotSeen,
            "no cluster was scanned yet",
            "Run `nhi scan`, and look at `nhi status` when that shows no cluster.",
        )),
        several => Err(Refusal::new(
            RefusalCode::AmbiguousGuest,
            format!("a plan happens in one cluster, and this one would in {}", several.join(" and ")),
            "Make a plan for each cluster: name guests as CLUSTER/NUMBER, new ones with `cluster`.",
        )
        .with("candidates", several.to_vec())),
    }
}
