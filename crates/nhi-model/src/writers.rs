//! Who writes which key. One writer per key; NATS permissions keep every other identity away.

use crate::{
    ai::USAGE_BUCKET,
    identity::{self, Agent},
    jobs::{JOBS_BUCKET, RESULTS_BUCKET},
    key::Section,
    subject,
};

/// The sections of `nhi-state` an agent writes whole. Alerts are shared by prefix, see [`publish_subjects`].
pub const fn sections(agent: Agent) -> &'static [Section] {
    match agent {
        Agent::State => &[Section::Host, Section::Gpu, Section::Docker],
        Agent::Scan => &[
            Section::Node,
            Section::Vm,
            Section::Lxc,
            Section::Storage,
            Section::Source,
            Section::Project,
            Section::Graph,
        ],
        Agent::Route => &[Section::Provider],
        Agent::Act | Agent::Mirror => &[],
    }
}

/// The services an agent answers for.
pub const fn services(agent: Agent) -> &'static [&'static str] {
    match agent {
        Agent::State => &["state", "gpu", "audit", "auth"],
        Agent::Scan => &["scan"],
        Agent::Act => &["act"],
        Agent::Route => &["ai"],
        Agent::Mirror => &[],
    }
}

/// JetStream requests every trusted agent needs: to read and to follow, never to change a stream.
const JETSTREAM: &[&str] = &[
    "$JS.API.INFO",
    "$JS.API.STREAM.INFO.*",
    "$JS.API.STREAM.MSG.GET.*",
    "$JS.API.DIRECT.GET.>",
    "$JS.API.CONSUMER.CREATE.>",
    "$JS.API.CONSUMER.INFO.>",
    "$JS.API.CONSUMER.DELETE.>",
    "$JS.ACK.>",
    "$JS.FC.>",
];

/// What a trusted agent may publish.
pub fn publish_subjects(agent: Agent) -> Vec<String> {
    let me = agent.identity();
    let mut out: Vec<String> = JETSTREAM.iter().map(|s| (*s).to_owned()).collect();
    for bucket in [subject::STATE_BUCKET, subject::LIVE_BUCKET] {
        for section in sections(agent) {
            let tail = if section.tokens() == 0 { "" } else { ".>" };
            out.push(format!("$KV.{bucket}.{}{tail}", section.as_str()));
        }
    }
    out.push(format!("$KV.{}.alert.{me}.>", subject::STATE_BUCKET));
    out.push(subject::audit(&me));
    out.push(subject::REPLY_ACROSS.to_owned());
    for other in Agent::ALL.into_iter().map(Agent::identity).chain([identity::home()]) {
        out.push(subject::inbox_all(&other));
    }
    for called in calls(agent) {
        out.push(format!("nhi.{called}.*.{me}"));
    }
    match agent {
        Agent::State => out.push("nhi-cmd.>".to_owned()),
        Agent::Act => out.extend(acting()),
        Agent::Route => {
            out.extend([USAGE_BUCKET, JOBS_BUCKET, RESULTS_BUCKET].map(subject::kv_all));
            out.push(subject::LEDGER_ALL.to_owned());
        }
        Agent::Scan | Agent::Mirror => {}
    }
    out
}

/// What only the actuator writes: plans and what belongs to them, and timers. A due timer is written by the server.
fn acting() -> [String; 5] {
    [
        subject::kv_all(subject::PLANS_BUCKET),
        subject::TIMERS_SET.to_owned(),
        subject::TIMERS_CONFIRMED.to_owned(),
        subject::plans_purge(),
        subject::timers_next(),
    ]
}

/// The services an agent calls, as itself.
const fn calls(agent: Agent) -> &'static [&'static str] {
    match agent {
        Agent::Act => &["state", "scan"],
        Agent::Route | Agent::Mirror => &["state"],
        Agent::State | Agent::Scan => &[],
    }
}

/// What a trusted agent may subscribe.
pub fn subscribe_subjects(agent: Agent) -> Vec<String> {
    let mut out: Vec<String> = services(agent).iter().map(|s| format!("nhi.{s}.*.*")).collect();
    if !out.is_empty() {
        out.push(subject::DISCOVERY_ALL.to_owned());
    }
    out.push(subject::inbox_all(&agent.identity()));
    out.push(subject::FEED_ALL.to_owned());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_section_has_two_writers() {
        for section in Section::ALL {
            let writers = Agent::ALL.into_iter().filter(|a| sections(*a).contains(&section)).count();
            assert!(writers == 1 || section == Section::Alert, "{section:?} has {writers} writers");
        }
    }

    #[test]
    fn every_service_has_one_agent() {
        for service in crate::rights::SERVICES {
            assert_eq!(
                Agent::ALL.into_iter().filter(|a| services(*a).contains(service)).count(),
                1,
                "{service}"
            );
        }
    }
}
