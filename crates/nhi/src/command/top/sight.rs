//! What `nhi top` shows, as it was told: records, gauges, plans, services. Nothing is made up: what is not known is `—`.

use crate::{command::state::get_all, mesh::Mesh, out};
use nhi_bus::{discover::discover, feed::Commit};
use nhi_model::{
    Timestamp,
    act::{ActList, ActListed},
    alert::{Alert, Severity},
    call::StateGot,
    gpu::{GpuGet, GpuGot, Light},
    guest::{Guest, GuestStatus},
    key::{Key, Section},
    lab::{Node, NodeStatus},
    live::Gauges,
};
use serde::de::DeserializeOwned;
use std::time::Duration;

/// What stands where nothing is known.
pub(super) const UNKNOWN: &str = "—";
/// How long services may take to answer who they are.
const SERVICES_MAX: Duration = Duration::from_millis(400);

/// How a thing stands, for its colour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mood {
    Good,
    Plain,
    Warn,
    Bad,
}

/// A row of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row<const N: usize> {
    pub(super) cells: [String; N],
    pub(super) mood: Mood,
}

/// Everything at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sight {
    pub(super) head: String,
    /// Why what is shown may be out of date.
    pub(super) stale: Option<String>,
    pub(super) nodes: Vec<Row<5>>,
    pub(super) guests: Vec<Row<7>>,
    pub(super) gpus: Vec<Row<3>>,
    pub(super) alerts: Vec<Row<3>>,
    pub(super) plans: Vec<Row<4>>,
    pub(super) agents: Vec<Row<3>>,
    /// What the identity was refused, by what would have shown it.
    pub(super) refused: Vec<(&'static str, String)>,
}

/// Something that was committed.
#[derive(Clone, Debug)]
pub(super) struct Happened {
    pub(super) at: String,
    pub(super) text: String,
}

impl Happened {
    pub(super) fn of(commit: &Commit) -> Vec<Self> {
        let tell = |(key, stored): &(Key, Option<nhi_model::envelope::Stored>)| {
            let at = stored.as_ref().map_or_else(Timestamp::now, |stored| stored.at);
            let what = match stored {
                None => "is gone".to_owned(),
                Some(stored) => stored.record.get("status").and_then(|status| status.as_str()).map_or_else(
                    || "changed".to_owned(),
                    |status| {
                        let name = stored.record.get("name").and_then(|name| name.as_str());
                        format!("{} is {status}", name.unwrap_or_default()).trim().to_owned()
                    },
                ),
            };
            Self { at: clock(at), text: format!("{key}  {}", out::safe(&what)) }
        };
        commit.records.iter().map(tell).collect()
    }
}

impl Sight {
    /// Asks for everything. What the identity may not ask is noted, the rest is shown.
    ///
    /// # Errors
    /// When not even the state can be read.
    pub(super) async fn look(mesh: &Mesh) -> Result<Self, String> {
        let state = get_all(mesh, Vec::new(), None, true);
        let (list, gpu) = (ActList { open: true, by: None, limit: Some(50) }, GpuGet::default());
        let (got, plans, gpus, services) = tokio::join!(
            state,
            mesh.call::<_, ActListed>("act", "list", &list),
            mesh.call::<_, GpuGot>("gpu", "get", &gpu),
            discover(&mesh.bus, SERVICES_MAX),
        );
        let got = got.map_err(|failure| crate::chain(&failure.error))?;
        let mut sight = Self::of(&got);
        match plans {
            Ok(plans) => sight.take_plans(&plans),
            Err(failure) => sight.refused.push(("plans", crate::chain(&failure.error))),
        }
        match gpus {
            Ok(gpus) => sight.take_gpus(&gpus),
            Err(failure) => sight.refused.push(("GPUs", crate::chain(&failure.error))),
        }
        match services {
            Ok(services) => {
                let row = |service: &nhi_bus::discover::ServiceInfo| {
                    let endpoints = format!("{} endpoints", service.endpoints.len());
                    row([service.name.clone(), service.version.clone(), endpoints], Mood::Plain)
                };
                sight.agents = services.iter().map(row).collect();
            }
            Err(error) => sight.refused.push(("agents", error.to_string())),
        }
        Ok(sight)
    }

    /// What the state alone tells.
    pub(super) fn of(got: &StateGot) -> Self {
        let sources: Vec<String> = got
            .sources
            .iter()
            .map(|(name, source)| {
                let age = source
                    .age_s
                    .map_or_else(|| "never seen whole".to_owned(), |s| format!("{} ago", out::age(s)));
                format!("{name} {age}")
            })
            .collect();
        let stale = got.stale.as_ref().map(|stale| stale.reason.clone());
        let stale = stale.or_else(|| got.sources.values().find_map(|source| source.stale.clone()));
        let sources = if sources.is_empty() { "no source".to_owned() } else { sources.join(", ") };
        let mut sight = Self {
            head: format!("revision {} · {} UTC · {sources}", got.revision, clock(got.as_of)),
            stale: stale.map(|reason| out::safe(&reason)),
            ..Self::default()
        };
        let mut alerts: Vec<(Severity, Row<3>)> = Vec::new();
        for (key, record) in &got.records {
            let gauges =
                record.live.as_ref().and_then(|live| read::<Gauges>(&live.record)).unwrap_or_default();
            let is_stale = record.stale.is_some();
            match key.section() {
                Section::Node => {
                    sight.nodes.extend(read(&record.record).map(|node| of_node(&node, &gauges, is_stale)))
                }
                Section::Vm | Section::Lxc => {
                    sight
                        .guests
                        .extend(read(&record.record).map(|guest| of_guest(&guest, &gauges, is_stale)));
                }
                Section::Alert => alerts.extend(
                    read::<Alert>(&record.record).map(|alert| (alert.severity, of_alert(key, &alert))),
                ),
                _ => {}
            }
        }
        // By their number, whatever they are.
        sight.guests.sort_by_key(|guest| guest.cells[0].parse::<u32>().unwrap_or(u32::MAX));
        alerts.sort_by_key(|(severity, _)| std::cmp::Reverse(*severity));
        sight.alerts = alerts.into_iter().map(|(_, row)| row).collect();
        sight
    }

    fn take_plans(&mut self, listed: &ActListed) {
        if let Some(freeze) = &listed.frozen {
            let text = format!("everything is frozen by {}", freeze.by);
            self.plans
                .push(row(["frozen".to_owned(), freeze.by.to_string(), text, String::new()], Mood::Bad));
        }
        self.plans.extend(listed.plans.iter().map(|plan| {
            let state = plan.run.as_ref().map_or_else(|| word(&plan.state), word);
            let mood = if plan.needs_human { Mood::Bad } else { Mood::Plain };
            row([state, plan.by.to_string(), plan.summary.clone(), plan.plan.to_string()], mood)
        }));
    }

    fn take_gpus(&mut self, got: &GpuGot) {
        self.gpus = got
            .gpus
            .iter()
            .map(|(host, seen)| {
                let light = seen.gauges.as_ref().map(|gauges| gauges.light);
                let mood = match light {
                    Some(Light::Green) if seen.available => Mood::Good,
                    Some(Light::Green | Light::Yellow) => Mood::Warn,
                    Some(Light::Red) => Mood::Bad,
                    None => Mood::Plain,
                };
                let light = light.map_or(UNKNOWN, Light::as_str);
                row([host.clone(), light.to_owned(), seen.text.clone()], mood)
            })
            .collect();
    }
}

fn row<const N: usize>(cells: [String; N], mood: Mood) -> Row<N> {
    Row { cells: cells.map(|cell| out::safe(&cell)), mood }
}

/// A record of this version; one of a newer version is left out here, and `nhi state get` shows it.
fn read<T: DeserializeOwned>(value: &serde_json::Value) -> Option<T> {
    T::deserialize(value).ok()
}

/// The word a value has on the wire.
fn word(value: &impl serde::Serialize) -> String {
    match serde_json::to_value(value) {
        Ok(serde_json::Value::String(word)) => word,
        Ok(serde_json::Value::Object(fields)) => fields.keys().next().cloned().unwrap_or_default(),
        _ => UNKNOWN.to_owned(),
    }
}

fn of_node(node: &Node, gauges: &Gauges, is_stale: bool) -> Row<5> {
    let mood = match node.status {
        _ if is_stale => Mood::Warn,
        NodeStatus::Online => Mood::Good,
        _ => Mood::Bad,
    };
    let uptime = gauges.uptime.map_or_else(|| UNKNOWN.to_owned(), out::age);
    let cells = [
        node.node.clone(),
        word(&node.status),
        load(gauges.cpu),
        part(gauges.mem, node.memory_bytes),
        uptime,
    ];
    row(cells, mood)
}

fn of_guest(guest: &Guest, gauges: &Gauges, is_stale: bool) -> Row<7> {
    let mood = match guest.status {
        _ if is_stale => Mood::Warn,
        GuestStatus::Running => Mood::Good,
        _ => Mood::Plain,
    };
    let address =
        guest.addresses.first().map_or_else(|| UNKNOWN.to_owned(), |address| address.address.to_string());
    let status = if guest.template { "template".to_owned() } else { word(&guest.status) };
    let cells = [
        guest.vmid.to_string(),
        guest.name.clone(),
        guest.node.clone(),
        status,
        load(gauges.cpu),
        part(gauges.mem, guest.memory_bytes),
        address,
    ];
    row(cells, mood)
}

fn of_alert(key: &Key, alert: &Alert) -> Row<3> {
    let mood = match alert.severity {
        Severity::Info => Mood::Plain,
        Severity::Warning => Mood::Warn,
        Severity::Critical => Mood::Bad,
    };
    row([word(&alert.severity), alert.summary.clone(), format!("{} ({key})", alert.hint)], mood)
}

fn load(cpu: Option<f64>) -> String {
    cpu.map_or_else(|| UNKNOWN.to_owned(), |cpu| format!("{:.0} %", cpu * 100.0))
}

fn part(used: Option<u64>, of: Option<u64>) -> String {
    match (used, of) {
        (Some(used), Some(of)) if of > 0 => format!("{} %", u128::from(used) * 100 / u128::from(of)),
        _ => UNKNOWN.to_owned(),
    }
}

fn clock(at: Timestamp) -> String {
    at.strftime("%H:%M:%S").to_string()
}
