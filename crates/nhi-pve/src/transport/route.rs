//! Which addresses a call has asked, which is next, and what is said when none could answer. No I/O.

use crate::{
    error::{Kind, Parts, PveError, clean},
    transport::Call,
};

/// The way of one call through the addresses; each is on it at most once.
#[derive(Debug)]
pub(crate) struct Route {
    /// Numbers of the addresses, in order.
    open: Vec<usize>,
    /// The first number that does not stand in the settings.
    learned: usize,
    failures: Vec<(usize, PveError)>,
}

/// Why another address may be asked for the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Doubt {
    /// The address speaks for the cluster: what it said counts.
    None,
    /// It cannot answer this call, and others as ever.
    Call,
    /// It cannot speak for the cluster, so later calls begin elsewhere too.
    Address,
}

impl Doubt {
    /// What an answer that carries no data makes of the address that gave it. `local` is its own node, if known.
    pub(crate) fn about(call: &Call, local: Option<&str>, kind: &Kind, status: u16) -> Self {
        match kind {
            // An answer that ended in the middle is a broken connection that only its text shows.
            Kind::Unauthorized | Kind::NotProxmox | Kind::Connect => Self::Address,
            // Of the web server itself. The same kind in a 500 is a worker that is late with this one answer.
            Kind::Busy if matches!(status, 429 | 503) => Self::Address,
            Kind::NodeUnreachable { .. }
                if matches!(status, 595..=599) && call.node.is_some() && call.node.as_deref() != local =>
            {
                Self::Call
            }
            Kind::Busy
            | Kind::NodeUnreachable { .. }
            | Kind::Gone
            | Kind::Locked { .. }
            | Kind::LockTimeout
            | Kind::NoAgentConfigured
            | Kind::AgentNotRunning
            | Kind::NotRunning
            | Kind::NoQuorum
            | Kind::StorageUnavailable
            | Kind::NoSuchNode
            | Kind::PermissionDenied { .. }
            | Kind::InvalidParameter
            | Kind::Protected
            | Kind::StillRunning
            | Kind::HaManaged
            | Kind::AlreadyExists
            | Kind::Modified
            | Kind::ShutdownIgnored
            | Kind::StillInUse
            | Kind::NoSuchSnapshot
            | Kind::NotPossible
            | Kind::Timeout
            | Kind::Tls
            | Kind::TooLarge
            | Kind::NotImplemented
            | Kind::Malformed
            | Kind::Other => Self::None,
        }
    }
}

impl Route {
    /// Through these addresses; those from `learned` on were told by the cluster.
    pub(crate) fn new(open: Vec<usize>, learned: usize) -> Self {
        Self { open, learned, failures: Vec::new() }
    }

    /// The address to ask now: the preferred one or the first behind it that is not done with.
    pub(crate) fn next(&self, preferred: usize) -> Option<usize> {
        let is_new = |address: &&usize| self.failures.iter().all(|(failed, _)| failed != *address);
        let first = self.open.partition_point(|address| *address < preferred);
        let (before, from) = self.open.split_at(first);
        from.iter().chain(before).find(is_new).copied()
    }

    /// Whether this address is on the way and not done with.
    pub(crate) fn has(&self, address: usize) -> bool {
        self.open.contains(&address) && self.failures.iter().all(|(failed, _)| *failed != address)
    }

    /// The address could not answer.
    pub(crate) fn fail(&mut self, address: usize, error: PveError) {
        // A token is good on all nodes or on none, mostly, and each refusal costs one of them three seconds.
        if *error.kind() == Kind::Unauthorized {
            self.open.retain(|open| *open < self.learned);
        }
        self.failures.push((address, error));
    }

    /// One error for all addresses: the most telling cause, and behind it what the others said. In the order of the
    /// settings, not of asking, so that a lab that stays as it is has the same words every time.
    pub(crate) fn together(mut self) -> PveError {
        // Addresses that were learned are tried beyond what the settings ask for, and not each time: that one does
        // not answer is no news. What it said as Proxmox is.
        if self.failures.iter().any(|(address, _)| *address < self.learned) {
            self.failures.retain(|(address, error)| *address < self.learned || rank(error.kind()) <= 1);
        }
        self.failures.sort_by_key(|(address, error)| (rank(error.kind()), *address));
        let mut failures = self.failures.into_iter().map(|(_, error)| error);
        let mut telling = failures.next().expect("a call that failed has asked an address");
        let mut others: Vec<(String, Vec<String>)> = Vec::new();
        let mut same: Vec<String> = Vec::new();
        for error in failures {
            let Parts { place, text, certificate, .. } = *error.parts;
            // It needs a person, whatever else went wrong.
            telling.parts.certificate = telling.parts.certificate.or(certificate);
            if text == telling.text() {
                same.push(place);
                continue;
            }
            match others.iter_mut().find(|(said, _)| *said == text) {
                Some((_, places)) => places.push(place),
                None => others.push((text, vec![place])),
            }
        }
        if !same.is_empty() {
            telling.parts.text.push_str(&format!("; the same from {}", same.join(" and ")));
        }
        for (said, places) in others {
            telling.parts.text.push_str(&format!("; {}: {said}", places.join(" and ")));
        }
        telling.parts.text = clean(&telling.parts.text);
        telling
    }
}

/// What tells most, first: Proxmox's own word about the question (one that is not asked itself must not turn an
/// unreachable node into anything else), what needs a person, what passes.
fn rank(kind: &Kind) -> u8 {
    match kind {
        Kind::NodeUnreachable { .. } => 0,
        Kind::Unauthorized => 1,
        Kind::Tls => 2,
        Kind::NotProxmox => 3,
        Kind::Busy => 4,
        Kind::Timeout => 5,
        Kind::Connect => 6,
        Kind::Gone
        | Kind::Locked { .. }
        | Kind::LockTimeout
        | Kind::NoAgentConfigured
        | Kind::AgentNotRunning
        | Kind::NotRunning
        | Kind::NoQuorum
        | Kind::StorageUnavailable
        | Kind::NoSuchNode
        | Kind::PermissionDenied { .. }
        | Kind::InvalidParameter
        | Kind::Protected
        | Kind::StillRunning
        | Kind::HaManaged
        | Kind::AlreadyExists
        | Kind::Modified
        | Kind::ShutdownIgnored
        | Kind::StillInUse
        | Kind::NoSuchSnapshot
        | Kind::NotPossible
        | Kind::TooLarge
        | Kind::NotImplemented
        | Kind::Malformed
        | Kind::Other => 7,
    }
}
