//! Asks Proxmox: one pass over one cluster, in the order that costs it least. It keeps nothing between passes
//! and makes nothing of the answers.

use super::{
    answers::{AddressAnswer, Answer, Answers, GuestAnswers, NodeAnswers},
    backup_log::{BackupLog, LINES_MAX},
    connection, convert,
    schedule::Work,
};
use futures::{StreamExt, future::join_all, stream};
use nhi_decide::observation::{Gone, GuestRef, Scope};
use nhi_model::{Timestamp, guest::GuestKind};
use nhi_pve::{
    Kind, Reader, Rows,
    cluster::{ClusterResources, ClusterStatus},
    config::AgentSetting,
    guest::NodeGuest,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

/// Configurations asked for at a time, shared by the nodes (at least one each): they cost the answering node no
/// privileged worker.
const CONFIGS_IN_FLIGHT: usize = 16;
/// Guests of one node asked at a time for addresses and snapshots. The reader lets two through; the others
/// queue, so that the next is there when one is done.
const GUESTS_IN_FLIGHT: usize = 4;
/// How long a pass may spend on guests one by one: many silent agents at five seconds each must not keep it
/// from looking at the rest. Whoever was not asked is asked by the next pass.
const GUESTS_SECONDS_MAX: u64 = 45;
/// Guests whose absence is looked into in one pass. Were all gone at once, it would be for another reason.
const MISSING_MAX: usize = 64;

/// Whom a pass asks, and in whose name it tells.
#[derive(Clone, Debug)]
pub(crate) struct Asker {
    pub(crate) reader: Reader,
    pub(crate) cluster: String,
    pub(crate) place: String,
}

/// What an index pass reads.
#[derive(Debug)]
pub(crate) struct Index {
    pub(crate) resources: Answer<ClusterResources>,
    pub(crate) status: Answer<ClusterStatus>,
}

/// What is remembered about a guest when it is asked by itself.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    /// Digest of the configuration as the state has it.
    pub(crate) digest: Option<String>,
    /// Whether its snapshots were counted lately.
    pub(crate) snapshots_fresh: bool,
    /// Whether its configuration is known to have no agent.
    pub(crate) no_agent: bool,
}

/// One guest to ask.
struct Errand {
    guest: GuestRef,
    node: String,
    config: bool,
    addresses: bool,
    memory: Memory,
}

impl Asker {
    /// The cheap look: two calls.
    pub(crate) async fn index(&self) -> Index {
        let (resources, status) = tokio::join!(self.reader.cluster_resources(), self.status());
        Index { resources, status }
    }

    /// The cluster's state. A member that was separated from the majority speaks for nobody: the next calls begin with
    /// another address.
    async fn status(&self) -> Answer<ClusterStatus> {
        let status = self.reader.cluster_status().await;
        if status.as_ref().is_ok_and(|status| status.quorate() == Some(false)) {
            self.reader.demote();
        }
        status
    }

    /// The lists of the whole cluster and of each node that is there.
    pub(crate) async fn lists(&self, at: Timestamp) -> Answers {
        let (resources, status, permissions, node_rows, ha_resources) = tokio::join!(
            self.reader.cluster_resources(),
            self.status(),
            self.reader.access_permissions(),
            self.reader.nodes(),
            self.reader.ha_resources(),
        );
        let mut answers = Answers {
            at,
            cluster: self.cluster.clone(),
            place: self.place.clone(),
            scope: Scope::Full,
            resources,
            status,
            permissions,
            node_rows: Some(node_rows),
            ha_resources: Some(ha_resources),
            nodes: BTreeMap::new(),
            guests: BTreeMap::new(),
            backups: None,
            backup_log: None,
            certificates: connection::certificates(&self.reader),
            detour: connection::detour(&self.reader),
        };
        let names = convert::askable(&answers);
        let asked = names.into_iter().map(async |name| {
            let (state, qemu, lxc, storage) = tokio::join!(
                self.reader.node_status(&name),
                self.qemu(&name),
                self.reader.node_lxc(&name),
                self.reader.node_storage(&name),
            );
            let answers = lxc.is_ok() || state.is_ok();
            let qemu = self.plain_instead(&name, qemu, answers).await;
            (name, NodeAnswers { state: Some(state), qemu, lxc, storage: Some(storage) })
        });
        answers.nodes = join_all(asked).await.into_iter().collect();
        answers
    }

    /// The lists of some nodes, after an index pass found something new there.
    pub(crate) async fn some_lists(
        &self,
        at: Timestamp,
        index: Index,
        nodes: BTreeSet<String>,
        guests: BTreeSet<GuestRef>,
    ) -> Answers {
        let mut answers = Answers {
            at,
            cluster: self.cluster.clone(),
            place: self.place.clone(),
            scope: Scope::Only { nodes, guests },
            resources: index.resources,
            status: index.status,
            permissions: self.reader.access_permissions().await,
            node_rows: None,
            ha_resources: None,
            nodes: BTreeMap::new(),
            guests: BTreeMap::new(),
            backups: None,
            backup_log: None,
            certificates: connection::certificates(&self.reader),
            detour: connection::detour(&self.reader),
        };
        let asked = convert::askable(&answers).into_iter().map(async |name| {
            let (qemu, lxc) = tokio::join!(self.qemu(&name), self.reader.node_lxc(&name));
            let qemu = self.plain_instead(&name, qemu, lxc.is_ok()).await;
            (name, NodeAnswers { state: None, qemu, lxc, storage: None })
        });
        answers.nodes = join_all(asked).await.into_iter().collect();
        answers
    }

    /// The full list tells a paused machine from a running one. One machine whose monitor hangs delays it for
    /// all; then the plain list is better than none.
    async fn qemu(&self, node: &str) -> Answer<Rows<NodeGuest>> {
        match self.reader.node_qemu_full(node).await {
            Err(error) if matches!(error.kind(), Kind::Timeout | Kind::NotImplemented | Kind::Malformed) => {
                self.reader.node_qemu(node).await
            }
            answer => answer,
        }
    }

    /// The plain list in place of a full one that the proxy before the node gave up on, which looks as if the node
    /// were away; only where another call shows that it `answers`.
    async fn plain_instead(
        &self,
        node: &str,
        full: Answer<Rows<NodeGuest>>,
        answers: bool,
    ) -> Answer<Rows<NodeGuest>> {
        match full {
            Err(error) if answers && matches!(error.kind(), Kind::NodeUnreachable { .. }) => {
                self.reader.node_qemu(node).await
            }
            full => full,
        }
    }

    /// Asks guests one by one and puts the answers to the others. `remember` is asked once for each.
    pub(crate) async fn guests(
        &self,
        answers: &mut Answers,
        work: &Work,
        places: &BTreeMap<GuestRef, String>,
        remember: impl Fn(GuestRef) -> Memory,
    ) {
        let until = Instant::now() + Duration::from_secs(GUESTS_SECONDS_MAX);
        let wanted: BTreeSet<_> = work.configs.union(&work.addresses).copied().collect();
        let errands = wanted.into_iter().filter_map(|guest| {
            Some(Errand {
                guest,
                node: places.get(&guest)?.clone(),
                config: work.configs.contains(&guest),
                addresses: work.addresses.contains(&guest),
                memory: remember(guest),
            })
        });
        let mut by_node: BTreeMap<String, Vec<Errand>> = BTreeMap::new();
        for errand in errands {
            by_node.entry(errand.node.clone()).or_default().push(errand);
        }
        // What a guest costs its node begins as soon as its own configuration is there. Were all configurations read
        // first, every node would stand still meanwhile.
        let configs = CONFIGS_IN_FLIGHT.div_ceil(by_node.len().max(1));
        let nodes = by_node.into_values().map(async |of_node| {
            stream::iter(of_node)
                .map(async |errand| {
                    let config = self.config(&errand).await;
                    (errand, config)
                })
                .buffer_unordered(configs)
                .map(async |(errand, mut answer)| {
                    if Instant::now() < until {
                        self.details(&errand, &mut answer).await;
                    }
                    (errand.guest, answer)
                })
                .buffer_unordered(GUESTS_IN_FLIGHT)
                .collect::<Vec<_>>()
                .await
        });
        answers.guests.extend(join_all(nodes).await.into_iter().flatten());
    }

    async fn config(&self, errand: &Errand) -> GuestAnswers {
        let Errand { guest, node, .. } = errand;
        let config = if errand.config {
            Some(self.reader.guest_config(convert::pve_kind(guest.kind), node, guest.vmid).await)
        } else {
            None
        };
        GuestAnswers { node: node.clone(), config, snapshots: None, addresses: None }
    }

    /// What costs the node a privileged worker: snapshots, where the configuration changed, and addresses.
    async fn details(&self, errand: &Errand, answer: &mut GuestAnswers) {
        let Errand { guest, node, memory, .. } = errand;
        let mut no_agent = memory.no_agent;
        if let Some(Ok(config)) = &answer.config {
            no_agent = guest.kind == GuestKind::Qemu && config.agent() == AgentSetting::Off;
            // The digest covers the whole file, snapshots too; the clock is for a Proxmox that thinks otherwise.
            let same = memory.digest.is_some() && memory.digest == config.digest();
            if !(same && memory.snapshots_fresh) {
                let kind = convert::pve_kind(guest.kind);
                answer.snapshots = Some(self.reader.snapshots(kind, node, guest.vmid).await);
            }
        }
        if errand.addresses {
            answer.addresses = Some(match guest.kind {
                GuestKind::Qemu if no_agent => AddressAnswer::NoAgent,
                GuestKind::Qemu => {
                    AddressAnswer::Agent(self.reader.qemu_agent_interfaces(node, guest.vmid).await)
                }
                GuestKind::Lxc => {
                    AddressAnswer::Container(self.reader.lxc_interfaces(node, guest.vmid).await)
                }
            });
        }
    }

    /// The backups on every storage that may hold some; a shared storage is asked once, and none that would
    /// tell this token nothing.
    pub(crate) async fn backups(&self, answers: &mut Answers) {
        let permissions = answers.permissions.as_ref().ok();
        let places = convert::backup_places(answers).ask;
        let asked = places.into_iter().map(async |(storage, nodes)| {
            let mut all = Rows::default();
            if !permissions.is_some_and(|held| convert::may_see_backups(held, &storage)) {
                return (storage, Ok(all));
            }
            for node in nodes {
                match self.reader.storage_content_backups(&node, &storage).await {
                    Ok(rows) => {
                        all.unreadable += rows.unreadable;
                        all.rows.extend(rows.rows);
                    }
                    Err(error) => return (storage, Err(error)),
                }
            }
            (storage, Ok(all))
        });
        let backups = join_all(asked).await.into_iter().collect();
        answers.backups = Some(backups);
    }

    /// What the nodes' task logs tell of backups, where the token may not list all of them: one call a node, and the
    /// log of one job over several guests where one is new.
    pub(crate) async fn backup_log(&self, answers: &mut Answers, log: &mut BackupLog) {
        if answers.permissions.as_ref().map_or(true, convert::sees_every_backup) {
            return;
        }
        let now_s = u64::try_from(answers.at.as_second()).unwrap_or(0);
        let nodes: Vec<&String> = answers.nodes.keys().collect();
        let asked = nodes.iter().map(|node| {
            let query = log.query(node);
            async move { self.reader.node_tasks(node, &query).await }
        });
        for (node, tasks) in nodes.iter().zip(join_all(asked).await) {
            if let Ok(tasks) = tasks {
                log.take(node, &tasks, now_s);
            }
        }
        let jobs: Vec<_> = nodes.iter().filter_map(|node| Some((*node, log.next_job(node)?))).collect();
        let asked = jobs.iter().map(|(node, upid)| self.reader.task_log(node, upid, LINES_MAX));
        for ((node, upid), lines) in jobs.iter().zip(join_all(asked).await) {
            match lines {
                Ok(lines) => log.take_job(node, upid, &lines),
                Err(_) => log.job_failed(node, upid),
            }
        }
        answers.backup_log = Some(log.newest());
    }

    /// Asks for the configuration of guests that should be there: only a node's own "does not exist" proves
    /// that one is not.
    pub(crate) async fn gone(&self, missing: Vec<(GuestRef, String)>) -> BTreeSet<Gone> {
        let asked = stream::iter(turn(missing, rand::random())).map(async |(guest, node)| {
            let answer = self.reader.guest_config(convert::pve_kind(guest.kind), &node, guest.vmid).await;
            let gone = answer.is_err_and(|error| matches!(error.kind(), Kind::Gone));
            gone.then_some(Gone { guest, node })
        });
        asked.buffer_unordered(CONFIGS_IN_FLIGHT).filter_map(async |gone| gone).collect().await
    }
}

/// As many as one pass looks into, beginning anywhere: were it always at the first, those that stay missing
/// without proof would keep the rest from ever being asked.
fn turn<T>(mut missing: Vec<T>, anywhere: u32) -> Vec<T> {
    if missing.len() > MISSING_MAX {
        let start = usize::try_from(anywhere).unwrap_or(0) % missing.len();
        missing.rotate_left(start);
        missing.truncate(MISSING_MAX);
    }
    missing
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everyone_missing_has_a_turn() {
        let missing: Vec<usize> = (0..150).collect();
        let mut asked = BTreeSet::new();
        for anywhere in [0, 64, 128, u32::MAX] {
            let of_pass = turn(missing.clone(), anywhere);
            assert_eq!(of_pass.len(), MISSING_MAX);
            asked.extend(of_pass);
        }
        assert_eq!(asked.len(), 150);
        assert_eq!(turn(vec![1, 2, 3], 7), [1, 2, 3]);
    }
}
