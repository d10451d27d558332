//! Where calls may go: the addresses of the settings, and behind them those the cluster tells of its nodes. It opens
//! nothing and believes no certificate.

use super::lock;
use crate::{
    cluster::ClusterStatus,
    endpoint::{Address, Scheme},
    node::NodeRow,
    trust::Fingerprint,
};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Mutex, MutexGuard},
    time::Duration,
};
use tokio::time::Instant;
use url::Host;

/// Addresses that are learned: Proxmox's own limit of nodes is about 32.
const LEARNED_MAX: usize = 32;
/// How long a learned address that did not answer is left alone: this machine may have no way to the cluster's
/// own network, and every try costs a call its time.
const REST_MIN: Duration = Duration::from_secs(30);
/// The longest such rest.
const REST_MAX: Duration = Duration::from_secs(600);
/// How often an address of the settings is tried again while calls begin with a learned one. One that leads nowhere
/// costs the call that tries it five seconds.
const HOME_EVERY: Duration = Duration::from_secs(120);

/// All addresses, by number. A number never changes its address.
#[derive(Debug)]
pub(crate) struct Places {
    configured: Vec<Address>,
    node_port: u16,
    learned: Mutex<Learned>,
}

#[derive(Debug, Default)]
struct Learned {
    nodes: Vec<LearnedNode>,
    /// Why addresses of the settings did not answer when they were last asked.
    troubles: BTreeMap<usize, String>,
    home: Home,
    /// By node: the certificate it shows, as the cluster told.
    told: BTreeMap<String, Fingerprint>,
}

/// The next try to go back from a learned address to one of the settings.
#[derive(Debug, Default)]
struct Home {
    next: usize,
    at: Option<Instant>,
}

#[derive(Debug)]
struct LearnedNode {
    address: Address,
    node: String,
    /// Whether the cluster still tells it.
    is_current: bool,
    failures: u32,
    rest: Option<Rest>,
}

/// Why a learned address is left alone, and until when.
#[derive(Clone, Debug)]
struct Rest {
    until: Instant,
    reason: String,
}

/// One address, and in whose name it is asked.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) address: Address,
    /// What the cluster told about it; `None` when it stands in the settings.
    pub(crate) learned: Option<LearnedFrom>,
    /// Why it did not answer when it was last asked, or why it is left alone.
    pub(crate) trouble: Option<String>,
}

/// What the cluster told about an address.
#[derive(Clone, Debug)]
pub(crate) struct LearnedFrom {
    /// The node behind it.
    pub(crate) node: String,
    /// The certificate that node shows; `None` when it was not told.
    pub(crate) certificate: Option<Fingerprint>,
}

impl Places {
    pub(crate) fn new(configured: Vec<Address>, node_port: u16) -> Self {
        Self { configured, node_port, learned: Mutex::default() }
    }

    /// The address with this number.
    pub(crate) fn get(&self, number: usize) -> Place {
        let learned = self.learned();
        if let Some(address) = self.configured.get(number) {
            let trouble = learned.troubles.get(&number).cloned();
            return Place { address: address.clone(), learned: None, trouble };
        }
        let node = &learned.nodes[number - self.configured.len()];
        let certificate = learned.told.get(&node.node).copied();
        let trouble = node.rest.as_ref().map(|rest| rest.reason.clone());
        let from = LearnedFrom { node: node.node.clone(), certificate };
        Place { address: node.address.clone(), learned: Some(from), trouble }
    }

    /// Numbers of the addresses that may be asked now, in order.
    pub(crate) fn open(&self) -> Vec<usize> {
        let now = Instant::now();
        let rests = |node: &LearnedNode| node.rest.as_ref().is_some_and(|rest| rest.until > now);
        self.numbers(|node| node.is_current && !rests(node))
    }

    /// Numbers of all addresses that are in use, those that rest among them.
    pub(crate) fn all(&self) -> Vec<usize> {
        self.numbers(|node| node.is_current)
    }

    fn numbers(&self, takes: impl Fn(&LearnedNode) -> bool) -> Vec<usize> {
        let learned = self.learned();
        let taken = learned.nodes.iter().enumerate().filter(|(_, node)| takes(node));
        (0..self.configured.len()).chain(taken.map(|(place, _)| self.configured.len() + place)).collect()
    }

    /// Takes the addresses of the cluster's nodes from what this address said of its status. What came without a
    /// certificate proves nothing. Only a majority knows who left.
    pub(crate) fn learn(&self, from: usize, status: &ClusterStatus) {
        if status.cluster.is_none() || self.get(from).address.scheme == Scheme::Http {
            return;
        }
        let here = self.configured.iter().all(Address::is_loopback);
        let mut found: Vec<(bool, &str, Address)> = status
            .nodes
            .rows
            .iter()
            .filter_map(|row| {
                let address = self.address_of(row.ip.as_deref()?, here)?;
                Some((row.local, row.name.as_str(), address))
            })
            .collect();
        // Whoever answered is already asked by another name, mostly: its own address comes last.
        found.sort();
        let is_majority = status.quorate() == Some(true) && status.nodes.unreadable == 0;
        let mut learned = self.learned();
        if is_majority {
            for node in &mut learned.nodes {
                node.is_current =
                    found.iter().any(|(_, name, address)| node.node == *name && node.address == *address);
            }
        }
        for (_, name, address) in found {
            learned.add(name, address);
        }
    }

    /// The address of a node, unless it is none that could be asked or stands in the settings.
    fn address_of(&self, ip: &str, here: bool) -> Option<Address> {
        let ip: IpAddr = ip.parse().ok()?;
        // Behind a tunnel, or in a simulated lab, the others' addresses lead to somebody else; and elsewhere this
        // machine itself is no node.
        if ip.is_unspecified() || ip.is_multicast() || ip.is_loopback() != here {
            return None;
        }
        let host = match ip {
            IpAddr::V4(ip) => Host::Ipv4(ip),
            IpAddr::V6(ip) => Host::Ipv6(ip),
        };
        let address = Address { scheme: Scheme::Https, host, port: self.node_port };
        (!self.configured.contains(&address)).then_some(address)
    }

    /// Takes the certificates of the cluster's nodes from what this address said of them.
    pub(crate) fn learn_certificates(&self, from: usize, nodes: &[NodeRow]) {
        if self.get(from).address.scheme == Scheme::Http {
            return;
        }
        let told = nodes.iter().filter_map(|row| {
            let print = row.ssl_fingerprint.as_deref()?.parse().ok()?;
            Some((row.node.clone(), print))
        });
        self.learned().told = told.take(2 * LEARNED_MAX).collect();
    }

    /// The name of the node behind an address that was learned.
    pub(crate) fn node(&self, number: usize) -> Option<String> {
        let place = number.checked_sub(self.configured.len())?;
        self.learned().nodes.get(place).map(|node| node.node.clone())
    }

    /// The address did not answer as Proxmox does: a learned one is left alone for a while.
    pub(crate) fn failed(&self, number: usize, reason: &str) {
        self.blame(number, reason);
        self.note(number, |node| {
            let rest = REST_MIN.saturating_mul(1 << node.failures.min(10)).min(REST_MAX);
            node.failures = node.failures.saturating_add(1);
            node.rest = Some(Rest { until: Instant::now() + rest, reason: reason.to_owned() });
        });
    }

    /// The address of the settings is not asked first for this reason.
    pub(crate) fn blame(&self, number: usize, reason: &str) {
        if number < self.configured.len() {
            let mut learned = self.learned();
            learned.troubles.insert(number, reason.to_owned());
            learned.home.at = Some(Instant::now() + HOME_EVERY);
        }
    }

    /// The address of the settings that one call is to try now, though calls begin with a learned one: the settings
    /// say what people mean, so nobody stays away from it for good.
    pub(crate) fn way_home(&self, preferred: usize) -> Option<usize> {
        if preferred < self.configured.len() {
            return None;
        }
        let mut learned = self.learned();
        let now = Instant::now();
        if learned.home.at.is_some_and(|at| at > now) {
            return None;
        }
        learned.home.at = Some(now + HOME_EVERY);
        let number = learned.home.next % self.configured.len();
        learned.home.next = number + 1;
        Some(number)
    }

    /// Whether the address stands in the settings.
    pub(crate) fn is_configured(&self, number: usize) -> bool {
        number < self.configured.len()
    }

    /// The address answered.
    pub(crate) fn answered(&self, number: usize) {
        if self.is_configured(number) {
            self.learned().troubles.remove(&number);
            return;
        }
        self.note(number, |node| {
            node.failures = 0;
            node.rest = None;
        });
    }

    fn note(&self, number: usize, change: impl FnOnce(&mut LearnedNode)) {
        if let Some(place) = number.checked_sub(self.configured.len())
            && let Some(node) = self.learned().nodes.get_mut(place)
        {
            change(node);
        }
    }

    fn learned(&self) -> MutexGuard<'_, Learned> {
        lock(&self.learned)
    }
}

impl Learned {
    fn add(&mut self, name: &str, address: Address) {
        let same = |node: &&mut LearnedNode| node.node == name && node.address == address;
        if let Some(node) = self.nodes.iter_mut().find(same) {
            node.is_current = true;
        } else if self.nodes.len() < LEARNED_MAX {
            self.nodes.push(LearnedNode {
                address,
                node: name.to_owned(),
                is_current: true,
                failures: 0,
                rest: None,
            });
        }
    }
}

#[cfg(test)]
mod tests;
