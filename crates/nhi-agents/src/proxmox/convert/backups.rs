//! Where backups may be, and whether all of those places can be asked. It reads no backup.

use super::NodeFacts;
use crate::proxmox::answers::Answers;
use std::collections::{BTreeMap, BTreeSet};

/// The places that may hold backups.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct BackupPlaces {
    /// By storage: the nodes to ask, one for a shared storage.
    pub(crate) ask: BTreeMap<String, Vec<String>>,
    /// Whether these are all. A storage that is not active, a node whose storages were not listed and one that
    /// was not asked may hold the newest backup, or the only one.
    pub(crate) all: bool,
    /// Storages that may hold some, those that cannot be asked now among them.
    pub(crate) storages: BTreeSet<String>,
}

/// Where to look for backups. A storage that is switched off is meant to be left alone.
pub(crate) fn backup_places(answers: &Answers) -> BackupPlaces {
    let mut ask: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut idle = BTreeSet::new();
    let mut storages = BTreeSet::new();
    let mut shared = BTreeSet::new();
    let facts = NodeFacts::of(answers);
    let mut all = facts.names(answers).iter().all(|node| answers.nodes.contains_key(node));
    for (node, asked) in &answers.nodes {
        let Some(Ok(rows)) = &asked.storage else {
            all = false;
            continue;
        };
        all &= rows.unreadable == 0;
        let rows =
            rows.rows.iter().filter(|row| row.content.contains("backup") && row.enabled != Some(false));
        for row in rows {
            storages.insert(row.storage.clone());
            if row.shared {
                shared.insert(row.storage.clone());
            }
            if row.active == Some(false) {
                idle.insert(row.storage.clone());
                continue;
            }
            let nodes = ask.entry(row.storage.clone()).or_default();
            if nodes.is_empty() || !row.shared {
                nodes.push(node.clone());
            }
        }
    }
    // What one node cannot reach of a shared storage, another can.
    all &= idle.iter().all(|storage| shared.contains(storage) && ask.contains_key(storage));
    BackupPlaces { ask, all, storages }
}
