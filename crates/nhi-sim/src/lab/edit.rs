//! Changes made behind the API's back, the way a person at the console, a crash or a second administrator
//! makes them: no task, no check, no lock.

use super::{
    Lab,
    fault::Fault,
    guest::{Agent, Config, Interface, Power},
};
use crate::seed::{Seed, SeedGuest};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A change of one guest.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub enum Edit {
    /// Gives it another name.
    Rename {
        /// The name.
        name: String,
    },
    /// Removes it with its disks.
    Remove {},
    /// Changes what its process does.
    Power {
        /// `running`, `stopped` or `paused`.
        to: PowerWord,
    },
    /// Writes lines into its configuration file and takes others out.
    Config {
        /// Lines to write.
        #[serde(default)]
        set: Config,
        /// Lines to take out.
        #[serde(default)]
        delete: Vec<String>,
    },
    /// Gives its first card other addresses.
    Addresses {
        /// With prefix length.
        addresses: Vec<String>,
    },
    /// Changes what is behind its agent channel.
    Agent {
        /// `running`, `missing` or `silent`.
        agent: Agent,
    },
    /// Moves its configuration file to another node.
    Move {
        /// The node.
        node: String,
    },
    /// Removes it and puts another guest in its place, under the same number: an id that was used again.
    Replace {
        /// The new guest; its `vmid` must be the same.
        guest: Box<SeedGuest>,
    },
    /// Adds a guest.
    Add {
        /// The guest; its `vmid` must be the one of the request.
        guest: Box<SeedGuest>,
    },
}

/// What a process does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PowerWord {
    /// It runs.
    Running,
    /// There is none.
    Stopped,
    /// It stands still.
    Paused,
}

/// Why a change was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EditError {
    /// No such guest.
    #[error("there is no guest {vmid}")]
    NoGuest {
        /// The number.
        vmid: u32,
    },
    /// No such node.
    #[error("there is no node {node:?}")]
    NoNode {
        /// The name.
        node: String,
    },
    /// The number is taken.
    #[error("guest {vmid} is there already; use replace")]
    Taken {
        /// The number.
        vmid: u32,
    },
    /// Two numbers.
    #[error("the guest's own number is {inner}, the request's is {outer}")]
    Number {
        /// In the guest.
        inner: u32,
        /// In the request.
        outer: u32,
    },
}

impl Lab {
    /// Switches a fault on, with what it does at that moment, and returns its number.
    pub fn set_fault(&mut self, fault: Fault) -> u64 {
        let id = self.faults.set(fault.clone());
        if let Fault::NodeOffline { node, power_cut, .. } = fault {
            if power_cut {
                self.cut_power(&node);
            }
            self.watch_node(&node);
        }
        id
    }

    /// Switches a fault off, with what that brings about.
    pub fn clear_fault(&mut self, id: u64) -> Option<Fault> {
        let fault = self.faults.clear(id)?;
        if let Fault::NodeOffline { node, power_cut: true, .. } = &fault {
            self.boot(node);
        }
        if let Fault::TaskHangs { task, .. } = &fault {
            self.release_hung(task);
        }
        Some(fault)
    }

    /// Makes a change at once.
    pub fn edit(&mut self, vmid: u32, edit: Edit) -> Result<(), EditError> {
        if let Edit::Add { guest } = edit {
            if self.guests.contains_key(&vmid) {
                return Err(EditError::Taken { vmid });
            }
            return self.put_guest(vmid, &guest);
        }
        let (now_ms, pid) = (self.now_ms, self.next_pid());
        let node_exists = |node: &str| {
            if self.nodes.contains_key(node) {
                Ok(())
            } else {
                Err(EditError::NoNode { node: node.to_owned() })
            }
        };
        if let Edit::Move { node } = &edit {
            node_exists(node)?;
        }
        let guest = self.guests.get_mut(&vmid).ok_or(EditError::NoGuest { vmid })?;
        match edit {
            Edit::Add { .. } => {}
            Edit::Rename { name } => drop(guest.config.insert(guest.kind.name_key().to_owned(), name)),
            Edit::Remove {} => self.wipe(vmid),
            Edit::Power { to } => {
                guest.power = match to {
                    PowerWord::Running => Power::Running { since_ms: now_ms, pid },
                    PowerWord::Stopped => Power::Stopped,
                    PowerWord::Paused => Power::Paused { since_ms: now_ms, pid },
                };
                self.wake_ha(vmid);
            }
            Edit::Config { set, delete } => {
                for key in delete {
                    guest.config.remove(&key);
                }
                guest.config.extend(set);
            }
            Edit::Addresses { addresses } => match guest.interfaces.iter_mut().find(|card| card.name != "lo")
            {
                Some(card) => card.addresses = addresses,
                None => guest.interfaces.push(Interface {
                    name: "eth0".to_owned(),
                    mac: String::new(),
                    addresses,
                }),
            },
            Edit::Agent { agent } => guest.agent = agent,
            Edit::Move { node } => {
                let old = std::mem::replace(&mut guest.node, node.clone());
                let local: Vec<(String, String)> =
                    self.volumes.keys().filter(|(at, _)| *at == old).cloned().collect();
                for key in local {
                    if let Some(mut volume) = self.volumes.remove(&key) {
                        let moves = volume.vmid == Some(vmid) && volume.content != "backup";
                        if moves {
                            volume.node = Some(node.clone());
                        }
                        self.volumes.insert((if moves { node.clone() } else { key.0 }, key.1), volume);
                    }
                }
            }
            Edit::Replace { guest } => {
                self.wipe(vmid);
                return self.put_guest(vmid, &guest);
            }
        }
        Ok(())
    }

    fn wipe(&mut self, vmid: u32) {
        self.guests.remove(&vmid);
        self.pool_of_guest.remove(&vmid);
        self.statistics.guests.remove(&vmid);
        self.volumes.retain(|_, volume| volume.vmid != Some(vmid) || volume.content == "backup");
    }

    fn put_guest(&mut self, vmid: u32, guest: &SeedGuest) -> Result<(), EditError> {
        if guest.vmid != vmid {
            return Err(EditError::Number { inner: guest.vmid, outer: vmid });
        }
        if !self.nodes.contains_key(&guest.node) {
            return Err(EditError::NoNode { node: guest.node.clone() });
        }
        self.add_guest(guest);
        Ok(())
    }

    /// The whole lab for a person or a test: what *is*, not what the API would tell whom. No secrets.
    pub fn to_json(&self) -> Value {
        let tasks: Vec<Value> = self
            .task_order
            .iter()
            .filter_map(|upid| self.tasks.get(upid))
            .map(|task| {
                let (state, status) = match &task.stage {
                    super::task::Stage::Waiting => ("waiting", None),
                    super::task::Stage::Running => ("running", None),
                    super::task::Stage::Ended { status, .. } => ("ended", Some(status)),
                };
                json!({"upid": task.upid, "node": task.node, "type": task.kind, "id": task.id, "user": task.user, "state": state, "status": status})
            })
            .collect();
        let lists: Vec<Value> = self
            .access
            .lists
            .iter()
            .flat_map(|(path, entries)| {
                entries.iter().flat_map(move |(principal, roles)| {
                    roles.keys().map(
                        move |role| json!({"path": path, "principal": principal.parts().1, "role": role}),
                    )
                })
            })
            .collect();
        json!({
            "now_ms": self.now_ms, "version": self.version, "cluster": self.cluster, "quorate": self.is_quorate(),
            "nodes": self.nodes, "guests": self.guests, "storages": self.storages,
            "volumes": self.volumes.values().collect::<Vec<_>>(), "pools": self.pools, "pool_of_guest": self.pool_of_guest,
            "ha": self.ha, "backup_jobs": self.backup_jobs, "replication_jobs": self.replication_jobs,
            "options": self.options, "access": lists, "tasks": tasks,
            "faults": self.faults.iter().map(|(id, fault)| json!({"id": id, "fault": fault})).collect::<Vec<_>>(),
        })
    }
}

impl Seed {
    /// One guest of the seed, to be put back or somewhere else.
    pub fn guest(&self, vmid: u32) -> Option<&SeedGuest> {
        self.guests.iter().find(|guest| guest.vmid == vmid)
    }
}
