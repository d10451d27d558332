//! The tools made of built-in endpoints: which belong together, and what they are called. What they take and give is
//! read from discovery all the same. Endpoints of others are never grouped.
//!
//! Why groups? Each tool costs whoever lists it some hundred tokens, in every conversation. docs/mcp.md has the figures.

/// A tool of one or more built-in endpoints of one service.
#[derive(Debug)]
pub(crate) struct Group {
    pub(crate) tool: &'static str,
    pub(crate) title: &'static str,
    /// One or two sentences, for a model.
    pub(crate) description: &'static str,
    pub(crate) service: &'static str,
    /// Endpoints. Several: the field `action` says which is meant.
    pub(crate) endpoints: &'static [&'static str],
    pub(crate) way: Way,
}

/// How a call of the tool is carried out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// The arguments are the request, the answer is the result.
    Plain,
    /// The same, for records of the lab: without a limit of the caller's own, one is set.
    State,
    /// The answer holds a plan, which is told in short.
    Plan,
    /// `apply`, and then the run is followed.
    Apply,
    /// The run is followed.
    Follow,
    /// A conversation with a model.
    Chat,
}

/// Never tools, and never called through one: what a person decides, and who is who. `flow` speaks to streams, and
/// `state.report` is for machines that tell about themselves.
const NEVER: &[(&str, &str)] = &[
    ("act", "approve"),
    ("act", "reject"),
    ("act", "confirm"),
    ("act", "freeze"),
    ("act", "thaw"),
    ("act", "flow"),
    ("ai", "flow"),
    ("state", "report"),
];

/// Whether an endpoint is no tool, whoever asks.
pub(crate) fn is_never(service: &str, endpoint: &str) -> bool {
    service == "auth" || NEVER.contains(&(service, endpoint))
}

/// All groups, in the order in which they are listed.
pub(crate) const GROUPS: &[Group] = &[
    Group {
        tool: "lab_state",
        title: "Look at the lab",
        description: "Records of the lab by key, now or at a moment. `select` narrows: sections (node, vm, lxc, storage, \
                      source, host, gpu, docker, project, provider, graph, alert) or keys such as vm.home.105. Start here.",
        service: "state",
        endpoints: &["get"],
        way: Way::State,
    },
    Group {
        tool: "lab_changes",
        title: "What changed in the lab",
        description: "What changed between two moments (diff), or the versions of records (history).",
        service: "state",
        endpoints: &["diff", "history"],
        way: Way::Plain,
    },
    Group {
        tool: "lab_scan",
        title: "Scan the lab",
        description: "Look at everything now and wait for it (now), or how scanning goes (status).",
        service: "scan",
        endpoints: &["now", "status"],
        way: Way::Plain,
    },
    Group {
        tool: "guest_plan",
        title: "Plan a change",
        description: "Plan a change of guests or services: gives steps, side effects, impact, risk, undo and a digest. \
                      Changes nothing; plan_apply carries it out.",
        service: "act",
        endpoints: &["plan"],
        way: Way::Plan,
    },
    Group {
        tool: "plan_status",
        title: "Plans and their runs",
        description: "One plan with its run (get), or plans, newest first, with freeze and holds (list).",
        service: "act",
        endpoints: &["get", "list"],
        way: Way::Plan,
    },
    Group {
        tool: "plan_apply",
        title: "Carry out a plan",
        description: "Carry out a plan by its digest, once, and follow the run to its end with progress. A plan that needs \
                      approval waits until a person gives it elsewhere.",
        service: "act",
        endpoints: &["apply"],
        way: Way::Apply,
    },
    Group {
        tool: "plan_follow",
        title: "Follow a run",
        description: "Follow a run that is under way until it ends, with progress.",
        service: "act",
        endpoints: &["run"],
        way: Way::Follow,
    },
    Group {
        tool: "plan_cancel",
        title: "Take a plan back",
        description: "Take a plan back before it starts.",
        service: "act",
        endpoints: &["cancel"],
        way: Way::Plan,
    },
    Group {
        tool: "guest_hold",
        title: "Hold a guest",
        description: "Keep a guest for yourself for a while, so that others' plans for it are refused (hold), or end that \
                      (release).",
        service: "act",
        endpoints: &["hold", "release"],
        way: Way::Plain,
    },
    Group {
        tool: "gpu",
        title: "GPUs",
        description: "Each machine's GPU and whether it may be used now (get); keep one for its owner (lock, unlock).",
        service: "gpu",
        endpoints: &["get", "lock", "unlock"],
        way: Way::Plain,
    },
    Group {
        tool: "audit_log",
        title: "Audit log",
        description: "Entries of the audit log (list), or whether it is whole and unchanged (verify).",
        service: "audit",
        endpoints: &["list", "verify"],
        way: Way::Plain,
    },
    Group {
        tool: "ai_chat",
        title: "Ask a model",
        description: "Ask a model of the lab: an OpenAI chat.completions body; model `auto` lets the router choose.",
        service: "ai",
        endpoints: &["chat"],
        way: Way::Chat,
    },
    Group {
        tool: "ai_info",
        title: "Models and their use",
        description: "Models (models), who would answer a body of ai_chat and why (route), use and quotas (usage).",
        service: "ai",
        endpoints: &["models", "route", "usage"],
        way: Way::Plain,
    },
    Group {
        tool: "ai_jobs",
        title: "Jobs for models",
        description: "Leave a body of ai_chat to be answered later (submit), fetch an answer (result), list jobs (jobs).",
        service: "ai",
        endpoints: &["submit", "result", "jobs"],
        way: Way::Plain,
    },
];

/// The group an endpoint belongs to.
pub(crate) fn is_grouped(service: &str, endpoint: &str) -> bool {
    GROUPS.iter().any(|group| group.service == service && group.endpoints.contains(&endpoint))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nhi_model::rights;

    #[test]
    fn groups_name_endpoints_that_exist_and_none_that_must_not_be_tools() {
        for group in GROUPS {
            for endpoint in group.endpoints {
                assert!(!is_never(group.service, endpoint), "{} {endpoint}", group.tool);
                let known =
                    rights::ENDPOINTS.iter().any(|e| e.service == group.service && e.endpoint == *endpoint);
                assert!(known, "{} {endpoint}", group.tool);
            }
        }
        for word in ["approve", "reject", "confirm", "freeze", "thaw"] {
            assert!(is_never("act", word), "{word}");
        }
        assert!(is_never("auth", "whoami") && is_never("auth", "whatever-comes"));
        // The control: the same word of somebody else's service is his own.
        assert!(!is_never("kettle", "approve"));
    }
}
