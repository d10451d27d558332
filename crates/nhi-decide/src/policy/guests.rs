//! What a policy says of one guest: whether it is named, protected, and which services it carries. It does not look
//! guests up.

use crate::sight::Seen;
use nhi_model::{
    guest::Guest,
    intent::{GuestRef, Operation, Reference},
    key::Key,
    policy::Policy,
};
use std::collections::BTreeSet;

/// A guest as far as policy knows guests.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    /// Its key.
    pub key: Key,
    /// Its name.
    pub name: String,
    /// Its tags.
    pub tags: BTreeSet<String>,
    /// Proxmox's protection flag; `None` when its configuration was not read.
    pub flag: Option<bool>,
}

impl View {
    /// A guest as it was seen.
    pub fn of_seen(key: &Key, seen: &Seen) -> Self {
        Self { key: key.clone(), name: seen.name.clone(), tags: seen.tags(), flag: seen.flag("protection") }
    }

    /// A guest as its record has it.
    pub fn of_record(key: &Key, guest: &Guest) -> Self {
        let tags = guest.tags.iter().cloned().collect();
        Self { key: key.clone(), name: guest.name.clone(), tags, flag: guest.protection }
    }

    /// Its cluster and number, as its key has them.
    fn place(&self) -> (String, Option<u32>) {
        let mut tokens = self.key.tokens().into_iter();
        let cluster = tokens.next().unwrap_or_default();
        (cluster, tokens.next().and_then(|vmid| vmid.parse().ok()))
    }
}

/// Whether a reference means a guest. Names and tags are compared without regard to case: who protects `NAS` means
/// `nas`, and in doubt a guest is the one that is protected.
pub fn names(reference: &GuestRef, view: &View) -> bool {
    let (cluster, vmid) = view.place();
    let here = |named: &Option<String>| named.as_ref().is_none_or(|named| *named == cluster);
    match reference.reference() {
        Reference::Vmid { cluster, vmid: number } => here(&cluster) && vmid == Some(number),
        Reference::Name { cluster, name } => here(&cluster) && name.eq_ignore_ascii_case(&view.name),
        Reference::Tag(tag) => has_tag(view, &tag),
        // A number is one guest's, whatever its kind.
        Reference::Key(key) => key.tokens() == view.key.tokens(),
    }
}

fn has_tag(view: &View, tag: &str) -> bool {
    view.tags.iter().any(|own| own.eq_ignore_ascii_case(tag))
}

/// Why a guest is protected; `None` when it is not. One whose flag is not known is, where the flag counts.
pub fn protection(view: &View, policy: &Policy) -> Option<String> {
    let rules = &policy.protected;
    if let Some(reference) = rules.guests.iter().find(|reference| names(reference, view)) {
        return Some(format!("policy protects {reference}"));
    }
    if let Some(tag) = rules.tags.iter().find(|tag| has_tag(view, tag)) {
        return Some(format!("policy protects what has the tag {tag}"));
    }
    match view.flag {
        Some(true) if rules.flag => Some("its protection is switched on in Proxmox".to_owned()),
        None if rules.flag => Some("its protection in Proxmox could not be read".to_owned()),
        Some(_) | None => None,
    }
}

/// Whether protection forbids an operation.
pub const fn harms_protected(operation: Operation) -> bool {
    match operation {
        Operation::Stop
        | Operation::Shutdown
        | Operation::Reboot
        | Operation::Reset
        | Operation::Suspend
        | Operation::Destroy
        | Operation::SnapshotDelete
        | Operation::Rollback
        | Operation::Migrate
        | Operation::Resize
        | Operation::Set => true,
        // A clone is made of it and leaves it as it is; what is created is another guest.
        Operation::Start
        | Operation::Resume
        | Operation::CreateVm
        | Operation::CreateLxc
        | Operation::Clone
        | Operation::Snapshot
        | Operation::Backup => false,
    }
}

/// Whether a guest carries a service of the dependency graph.
pub fn carries(view: &View, service: &str, policy: &Policy) -> bool {
    match policy.services.get(service) {
        Some(guests) => guests.iter().any(|reference| names(reference, view)),
        None => service.eq_ignore_ascii_case(&view.name),
    }
}
