//! What can be wrong with acting: the policy, the rights of both tokens, what waits for a person.

use super::{Check, PROXMOX_MAX};
use crate::{
    cli::rules::Floor,
    command::{
        guard::{self, About, Examined, Meant},
        policy,
    },
    config::Config,
    exit::{Exit, Failure},
    layout::Layout,
    mesh::Mesh,
};
use nhi_model::{
    act::{ActList, ActListed},
    alert::Severity,
    policy::Policy,
    run::RunState,
};

/// Open plans that are looked through for runs a person has to look at.
const PLANS_MAX: u32 = 500;

/// What is written in `infrastructure/policy.toml`.
pub(super) fn rules(layout: &Layout) -> Check {
    match policy::read(&layout.policy()) {
        Ok(None) => Check::fine("policy", "no policy.toml, so the defaults hold"),
        Ok(Some(read)) => match nhi_decide::policy::warnings(&read) {
            warnings if warnings.is_empty() => Check::fine("policy", "readable"),
            warnings => Check::warn(
                "policy",
                warnings.join("; "),
                format!("correct {} where that is not meant", layout.policy().display()),
            ),
        },
        Err(failure) => Check::bad(
            "policy",
            crate::chain(&failure.error),
            "correct the named place; until then the last good policy holds, or nothing is done",
        ),
    }
}

/// What the tokens may do, for each configured cluster.
pub(super) async fn rights(layout: &Layout, config: &Config) -> Vec<Check> {
    let policy: Policy = policy::read(&layout.policy()).ok().flatten().unwrap_or_default();
    let told = Floor::default();
    let meant =
        Meant { policy: &policy, ourselves: &config.self_guests, settings: &config.guard, told: &told };
    let mut checks = Vec::new();
    for cluster in &config.clusters {
        match tokio::time::timeout(PROXMOX_MAX, guard::examine(cluster, &meant)).await {
            Ok(Ok(examined)) => checks.extend(of(&examined)),
            // What does not answer was told above.
            Ok(Err(failure)) if failure.exit == Exit::Unreachable => {}
            Ok(Err(failure)) => checks.push(Check::warn(
                "rights",
                crate::chain(&failure.error),
                "correct the token's id or secret; docs/proxmox.md shows how to make one",
            )),
            Err(_) => checks.push(Check::warn(
                "rights",
                format!("{}: not all was told in {} s", cluster.name, PROXMOX_MAX.as_secs()),
                "nhi guard check has no limit",
            )),
        }
    }
    checks
}

/// Holes one by one; what is missing, or too much without being dangerous, in one line.
fn of(examined: &Examined) -> Vec<Check> {
    let cluster = &examined.cluster;
    let mut checks = Vec::new();
    let mut lesser = 0;
    for row in &examined.findings {
        let found = format!("{cluster}: {}", row.what);
        match row.severity {
            Severity::Critical => checks.push(Check::bad("rights", found, row.remedy.replace('\n', "; "))),
            Severity::Warning => match row.about {
                About::Tokens => checks.push(Check::warn("rights", found, row.remedy.clone())),
                About::Rights => lesser += 1,
            },
            Severity::Info => checks.push(Check::fine("rights", found)),
        }
    }
    if lesser > 0 {
        let found = format!(
            "{cluster}: {} from what both tokens should have",
            crate::out::count(lesser, "difference")
        );
        checks.push(Check::warn("rights", found, "nhi guard check tells them, each with its command"));
    }
    if checks.is_empty() {
        let found = format!("{cluster}: both tokens may do what they should, and no more");
        checks.push(Check::fine("rights", found));
    }
    checks
}

/// What the actuator knows that waits for a person.
pub(super) async fn waiting(mesh: &Mesh) -> Vec<Check> {
    let request = ActList { open: true, limit: Some(PLANS_MAX), ..ActList::default() };
    let listed: ActListed = match mesh.call("act", "list", &request).await {
        Ok(listed) => listed,
        Err(Failure { exit: Exit::Refused, .. }) => return Vec::new(),
        Err(failure) => {
            let found = crate::chain(&failure.error);
            return vec![Check::warn("actuator", found, "nhi up runs it, or nhi agent act")];
        }
    };
    of_plans(&listed)
}

fn of_plans(listed: &ActListed) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Some(freeze) = &listed.frozen {
        let why = if freeze.reason.is_empty() { String::new() } else { format!(": {}", freeze.reason) };
        let found = format!("frozen by {} since {:.0}{why}", freeze.by, freeze.since);
        checks.push(Check::warn("actuator", found, "nhi thaw, when that is over"));
    }
    for row in &listed.plans {
        if row.needs_human
            && let Some(RunState::NeedsHuman { text }) = &row.run
        {
            let remedy =
                format!("look there, then nhi plan cancel {0}; nhi plan show {0} has it all", row.plan);
            checks.push(Check::bad("actuator", format!("{}: {text}", row.plan), remedy));
        }
    }
    if checks.is_empty() {
        checks.push(Check::fine("actuator", "nothing waits for a person to look"));
    }
    checks
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::command::doctor::Verdict;
    use serde_json::{Value, json};

    /// Rows as the actuator tells them; whoever `looked` did so at all runs.
    fn listed(runs: &[Value], looked: bool, frozen: Value) -> ActListed {
        let row = |(number, run): (usize, &Value)| {
            let needs_human = run["is"] == "needs-human" && !looked;
            json!({
                "needs_human": needs_human,
                "plan": format!("p-000{number}"), "by": "aider", "made_at": "2026-01-01T00:00:00Z",
                "expires_at": "2026-01-01T01:00:00Z", "summary": "Stop VM 107", "risk": "high", "verdict": "approval",
                "approvals": 1, "approvals_needed": 1, "state": {"is": "open"}, "run": run,
            })
        };
        let plans: Vec<Value> = runs.iter().enumerate().map(row).collect();
        serde_json::from_value(json!({ "plans": plans, "more": false, "frozen": frozen })).unwrap()
    }

    #[test]
    fn a_run_that_nobody_knows_the_end_of_is_told_with_where_to_look() {
        let lost = json!({"is": "needs-human", "text": "look at VM 107 on pve1"});
        let done = json!({"is": "done", "revision": 7});
        let checks = of_plans(&listed(&[done.clone(), lost.clone()], false, Value::Null));
        let [check] = &checks[..] else { panic!("{checks:?}") };
        assert_eq!((check.verdict, check.found.as_str()), (Verdict::Bad, "p-0001: look at VM 107 on pve1"));
        assert!(check.remedy.contains("nhi plan cancel p-0001"), "{check:?}");
        // The controls: a run that ended well is nothing to look at, nor is one that somebody looked at; a freeze is.
        let well = |run: &Value, looked| of_plans(&listed(std::slice::from_ref(run), looked, Value::Null));
        assert_eq!(well(&done, false)[0].verdict, Verdict::Fine);
        assert_eq!(well(&lost, true)[0].verdict, Verdict::Fine);
        let freeze = json!({"by": "owner", "reason": "storm", "since": "2026-01-01T00:00:00Z"});
        let checks = of_plans(&listed(&[done], false, freeze));
        assert_eq!(checks[0].verdict, Verdict::Warn);
        assert!(checks[0].found.contains("storm") && checks[0].remedy.contains("nhi thaw"), "{checks:?}");
    }

    #[test]
    fn what_is_so_of_the_tokens_is_told_by_itself_and_rights_are_counted() {
        let row = |about, what: &str| guard::Row {
            severity: Severity::Warning,
            about,
            what: what.to_owned(),
            remedy: "mend it".to_owned(),
        };
        let examined = Examined {
            cluster: "home".to_owned(),
            version: (9, 0),
            scanner: "nhi@pve!one".to_owned(),
            actuator: Some("nhi@pve!one".to_owned()),
            protected: std::collections::BTreeMap::new(),
            findings: vec![row(About::Tokens, "both are the same"), row(About::Rights, "one token has less")],
        };
        let found: Vec<String> = of(&examined).into_iter().map(|check| check.found).collect();
        assert_eq!(
            found,
            ["home: both are the same", "home: 1 difference from what both tokens should have"]
        );
    }
}
