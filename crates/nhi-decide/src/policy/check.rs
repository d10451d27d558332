//! What a policy of the right shape must keep besides. It does not look at the lab: that a protected guest exists is
//! nobody's promise.

use jiff::tz::{TimeZone, TimeZoneDatabase};
use nhi_model::{
    act::UNDO_MINUTES_MAX,
    identity::Role,
    intent::Operation,
    plan::STEPS_MAX,
    policy::{Policy, Rules},
};
use std::collections::BTreeSet;

/// Longest life of a plan, minutes: a week. The lab is another one afterwards.
const PLAN_MINUTES_MAX: u32 = 7 * 24 * 60;
/// Longest life of an approval, minutes: a day.
const APPROVAL_MINUTES_MAX: u32 = 24 * 60;

/// A mistake, and the key it is in.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Problem {
    pub(super) key: String,
    pub(super) what: String,
}

fn problem(key: impl Into<String>, what: impl Into<String>) -> Option<Problem> {
    Some(Problem { key: key.into(), what: what.into() })
}

/// The first mistake.
pub(super) fn first(policy: &Policy) -> Option<Problem> {
    time(policy)
        .or_else(|| hours(policy))
        .or_else(|| protected(policy))
        .or_else(|| services(policy))
        .or_else(|| tables(policy))
        .or_else(|| approval(policy))
        .or_else(|| limits(policy))
        .or_else(|| caution(policy))
}

/// The zone all hours are in.
///
/// # Errors
/// The name that is no zone's, with the nearest one that is. A policy that [`super::parse`] read has none.
pub fn zone(policy: &Policy) -> Result<TimeZone, String> {
    let Some(name) = &policy.time_zone else {
        return Ok(TimeZone::UTC);
    };
    let zones = TimeZoneDatabase::bundled();
    // `Etc/Unknown` behaves as UTC and means that somebody did not know.
    if let Ok(zone) = zones.get(name)
        && !zone.is_unknown()
    {
        return Ok(zone);
    }
    let name: String = name.chars().take(80).collect();
    let alike = |known: &str| strsim::jaro_winkler(&name, known);
    let known = zones.available().map(|zone| zone.as_str().to_owned());
    let nearest = known.max_by(|a, b| alike(a).total_cmp(&alike(b)));
    Err(match nearest {
        Some(known) => format!("there is no time zone `{name}`: did you mean `{known}`?"),
        None => format!("there is no time zone `{name}`: use an IANA name such as `Europe/Rome`"),
    })
}

fn time(policy: &Policy) -> Option<Problem> {
    zone(policy).err().and_then(|what| problem("time_zone", what))
}

fn hours(policy: &Policy) -> Option<Problem> {
    let hours = &policy.hours;
    for (key, set) in [("restart_safe", &hours.restart_safe), ("quiet", &hours.quiet)] {
        if let Some(hour) = set.iter().find(|hour| **hour > 23) {
            return problem(format!("hours.{key}"), format!("{hour} is no hour: hours are 0 to 23"));
        }
    }
    if hours.quiet.len() == 24 {
        return problem(
            "hours.quiet",
            "all 24 hours are quiet, so nothing an agent asks for would ever start: \
             put what agents may not do into `never` of [roles.agent]",
        );
    }
    let left = hours.restart_safe.difference(&hours.quiet).next();
    if left.is_none() && !hours.restart_safe.is_empty() {
        return problem(
            "hours.restart_safe",
            "every restart-safe hour is a quiet one, so agents could never interrupt a guest: leave one out of `quiet`",
        );
    }
    None
}

fn protected(policy: &Policy) -> Option<Problem> {
    for tag in &policy.protected.tags {
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-+.".contains(&b);
        let first = tag.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
        if !first || !tag.bytes().all(plain) {
            return problem(
                "protected.tags",
                format!(
                    "{tag:?} is no tag of Proxmox: letters, digits, `_`, `-`, `+` and `.`, without `tag:`"
                ),
            );
        }
    }
    None
}

fn services(policy: &Policy) -> Option<Problem> {
    let empty = policy.services.iter().find(|(_, guests)| guests.is_empty());
    empty.and_then(|(service, _)| {
        problem(
            format!("services.{service}"),
            format!(
                "service `{service}` has no guest: name one, or remove the line when the guest has its name"
            ),
        )
    })
}

fn tables(policy: &Policy) -> Option<Problem> {
    for role in policy.roles.keys() {
        match role {
            Role::Agent | Role::Operator | Role::Owner => {}
            Role::Viewer | Role::Edge | Role::Service => {
                return problem(
                    format!("roles.{role}"),
                    format!("role `{role}` never acts: remove its table"),
                );
            }
        }
    }
    None
}

fn approval(policy: &Policy) -> Option<Problem> {
    let rules = &policy.approval;
    let bounded = [
        ("plan_minutes", rules.plan_minutes, PLAN_MINUTES_MAX),
        ("approval_minutes", rules.approval_minutes, APPROVAL_MINUTES_MAX),
    ];
    for (key, minutes, max) in bounded {
        if !(1..=max).contains(&minutes) {
            return problem(format!("approval.{key}"), format!("{minutes} minutes: use 1 to {max}"));
        }
    }
    for operation in &rules.two_people {
        if let Some((table, _)) = all_tables(policy).into_iter().find(|(_, rules)| lists(rules, *operation)) {
            return problem(
                "approval.two_people",
                format!(
                    "`{operation}` needs two people here and is automatic in [{table}]: take it out of one of them"
                ),
            );
        }
        if policy.operations.automatic.is_none() && super::automatic(policy).contains(operation) {
            return problem(
                "approval.two_people",
                format!(
                    "`{operation}` needs two people here and is automatic by default: \
                     set `automatic` in [operations] without it"
                ),
            );
        }
    }
    None
}

fn lists(rules: &Rules, operation: Operation) -> bool {
    rules.automatic.as_ref().is_some_and(|set| set.contains(&operation))
}

/// All tables of rules, with their names in the file.
fn all_tables(policy: &Policy) -> Vec<(String, &Rules)> {
    let mut tables = vec![("operations".to_owned(), &policy.operations)];
    tables.extend(policy.roles.iter().map(|(role, rules)| (format!("roles.{role}"), rules)));
    tables.extend(policy.identities.iter().map(|(name, rules)| (format!("identities.{name}"), rules)));
    tables
}

fn limits(policy: &Policy) -> Option<Problem> {
    let limits = &policy.limits;
    let rows = [
        ("guests_per_plan", limits.guests_per_plan),
        ("steps_per_plan", limits.steps_per_plan),
        ("destroys_per_day", limits.destroys_per_day),
        ("plans_per_minute", limits.plans_per_minute),
        ("applies_per_hour", limits.applies_per_hour),
        ("runs_at_once", limits.runs_at_once),
    ];
    for (key, limit) in rows {
        if limit == 0 {
            return problem(
                format!("limits.{key}"),
                "a limit is at least 1: to forbid an operation, put it into `never`",
            );
        }
    }
    if usize::try_from(limits.steps_per_plan).is_ok_and(|steps| steps > STEPS_MAX) {
        return problem(
            "limits.steps_per_plan",
            format!("no plan has more than {STEPS_MAX} steps: use 1 to {STEPS_MAX}"),
        );
    }
    None
}

fn caution(policy: &Policy) -> Option<Problem> {
    let caution = &policy.caution;
    if caution.backup_before_destroy_hours == Some(0) {
        return problem(
            "caution.backup_before_destroy_hours",
            "0 hours would refuse every destroy: use 1 or more, or `never`",
        );
    }
    if let Some(operation) = caution.snapshot_before.iter().find(|operation| !snapshot_helps(**operation)) {
        return problem(
            "caution.snapshot_before",
            format!("a snapshot before `{operation}` would bring nothing back: remove the word"),
        );
    }
    for (operation, minutes) in &caution.undo_unless_confirmed_minutes {
        let key = format!("caution.undo_unless_confirmed_minutes.{operation}");
        if !can_be_undone(*operation) {
            return problem(key, format!("`{operation}` cannot be taken back: remove the line"));
        }
        if !(1..=UNDO_MINUTES_MAX).contains(minutes) {
            return problem(key, format!("{minutes} minutes: use 1 to {UNDO_MINUTES_MAX}"));
        }
    }
    None
}

/// Whether a snapshot made before an operation brings something back.
pub const fn snapshot_helps(operation: Operation) -> bool {
    match operation {
        Operation::Stop
        | Operation::Shutdown
        | Operation::Reboot
        | Operation::Reset
        | Operation::Suspend
        | Operation::Rollback
        | Operation::Migrate
        | Operation::Resize
        | Operation::Set => true,
        // Nothing is lost by a start, a destroy takes the snapshots along, and a new guest has no past.
        Operation::Start
        | Operation::Resume
        | Operation::SnapshotDelete
        | Operation::CreateVm
        | Operation::CreateLxc
        | Operation::Clone
        | Operation::Destroy
        | Operation::Snapshot
        | Operation::Backup => false,
    }
}

const fn can_be_undone(operation: Operation) -> bool {
    match operation {
        Operation::Start
        | Operation::Stop
        | Operation::Shutdown
        | Operation::Suspend
        | Operation::Resume
        | Operation::CreateVm
        | Operation::CreateLxc
        | Operation::Clone
        | Operation::Snapshot
        | Operation::Rollback
        | Operation::Migrate
        | Operation::Set => true,
        Operation::Reboot
        | Operation::Reset
        | Operation::Destroy
        | Operation::SnapshotDelete
        | Operation::Resize
        | Operation::Backup => false,
    }
}

/// What is odd about a policy but does not spoil it, a sentence each.
pub fn warnings(policy: &Policy) -> Vec<String> {
    let mut out = Vec::new();
    let hours = &policy.hours;
    if policy.time_zone.is_none() && !(hours.restart_safe.is_empty() && hours.quiet.is_empty()) {
        out.push("hours are given and no time_zone: they are taken as UTC".to_owned());
    }
    for (table, rules) in all_tables(policy) {
        let empty = BTreeSet::new();
        let [automatic, approval, never] =
            [&rules.automatic, &rules.approval, &rules.never].map(|list| list.as_ref().unwrap_or(&empty));
        for operation in automatic.iter().filter(|o| approval.contains(o) || never.contains(o)) {
            out.push(format!(
                "`{operation}` is automatic in [{table}] and stricter in the same table: the stricter counts"
            ));
        }
        if automatic.contains(&Operation::Destroy) && !never.contains(&Operation::Destroy) {
            out.push(format!("[{table}] lets guests be destroyed without anybody's approval"));
        }
    }
    if !policy.protected.flag {
        out.push("Proxmox's protection flag does not protect here: [protected] flag is false".to_owned());
    }
    out
}
