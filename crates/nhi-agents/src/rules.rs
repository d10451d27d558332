//! The policy in force: read from its file, and again whenever that changes. A broken file never means a wider
//! policy: the last good one stays, and where there never was one, nothing is done.

use crate::alerts::{self, Problem};
use nhi_bus::{audit, connect::Bus, cx::Cx, store, view::View};
use nhi_decide::policy;
use nhi_model::{
    Timestamp,
    alert::Severity,
    audit::AuditKind,
    envelope::OpId,
    fault::{Fault, FaultCode},
    identity::Agent,
    policy::Policy,
};
use std::{collections::BTreeMap, io, path::PathBuf, sync::Arc, time::Duration};
use tokio::sync::watch;
use uuid::Uuid;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Id of the alert about a broken file.
const BROKEN: &str = "policy-broken";

/// What the file said last.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    /// The policy in force; absent when no good one was ever read.
    good: Option<Arc<Policy>>,
    /// What is wrong with the file now.
    wrong: Option<String>,
}

/// The policy, followed. Clones are the same.
#[derive(Clone, Debug)]
pub(super) struct Rules {
    rule: watch::Receiver<Rule>,
}

impl Rules {
    /// Reads the file and goes on looking at it.
    pub(super) async fn follow(cx: &Cx, bus: &Bus, view: View, path: PathBuf) -> Self {
        let mut text = read(&path).await;
        let (sender, rule) = watch::channel(judge(None, &text));
        let (stop, bus) = (cx.clone(), bus.clone());
        cx.spawn("policy", async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let wrong = sender.borrow().wrong.clone();
                tell(&bus, &view, wrong.as_deref()).await;
                let now = read(&path).await;
                if now == text {
                    continue;
                }
                let before = sender.borrow().clone();
                let after = judge(before.good.clone(), &now);
                text = now;
                record(&bus, &before, &after).await;
                sender.send_replace(after);
            }
        });
        Self { rule }
    }

    /// The policy in force.
    ///
    /// # Errors
    /// When the file is broken and no good one was ever read.
    pub(super) fn now(&self) -> Result<Arc<Policy>, Fault> {
        let rule = self.rule.borrow();
        rule.good.clone().ok_or_else(|| {
            let wrong = rule.wrong.clone().unwrap_or_default();
            Fault::new(
                FaultCode::Unavailable,
                format!("nothing is done, because the policy cannot be read: {wrong}"),
                "Correct infrastructure/policy.toml; it is read again within seconds.",
            )
        })
    }
}

/// The file's text; absent when there is none.
async fn read(path: &std::path::Path) -> Result<Option<String>, String> {
    let unreadable = |error: &io::Error| format!("{} cannot be read: {error}", path.display());
    match tokio::fs::metadata(path).await {
        Ok(file) if file.len() > FILE_BYTES_MAX => {
            return Err(format!(
                "{} has {} bytes; a policy has at most {FILE_BYTES_MAX}",
                path.display(),
                file.len()
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(unreadable(&error)),
    }
    match tokio::fs::read_to_string(path).await {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unreadable(&error)),
    }
}

fn judge(good: Option<Arc<Policy>>, text: &Result<Option<String>, String>) -> Rule {
    let parsed = match text {
        Ok(None) => Ok(Policy::default()),
        Ok(Some(text)) => policy::parse(text).map_err(|error| format!("policy.toml, {error}")),
        Err(wrong) => Err(wrong.clone()),
    };
    match parsed {
        Ok(policy) => Rule { good: Some(Arc::new(policy)), wrong: None },
        Err(wrong) => Rule { good, wrong: Some(wrong) },
    }
}

/// A change of what is allowed belongs into the audit log.
async fn record(bus: &Bus, before: &Rule, after: &Rule) {
    match &after.wrong {
        Some(wrong) => {
            tracing::error!(agent = "act", err = wrong, "policy not readable, the last good one stays")
        }
        None => tracing::info!(agent = "act", "policy read"),
    }
    if before.good != after.good {
        let digest = serde_json::to_value(after.good.as_deref()).unwrap_or_default();
        let details = BTreeMap::from([("policy".to_owned(), digest)]);
        if let Err(error) = audit::append(bus, AuditKind::PolicyChanged, None, details).await {
            tracing::warn!(agent = "act", err = %error, "change of policy not written to the audit log");
        }
    }
}

/// The alert is there exactly while the file is broken. What fails is tried at the next look.
async fn tell(bus: &Bus, view: &View, wrong: Option<&str>) {
    let problem = |summary: &str| Problem {
        severity: Severity::Critical,
        summary: summary.to_owned(),
        hint:
            "Correct infrastructure/policy.toml; until then the last good policy holds, or nothing is done."
                .to_owned(),
        about: None,
    };
    let wanted = wrong.map(|wrong| (BROKEN.to_owned(), problem(wrong))).into_iter().collect();
    let now = Timestamp::now();
    let changes = alerts::changes(&view.read(), Agent::Act, |id| id == BROKEN, &wanted, now);
    if changes.is_empty() {
        return;
    }
    let op = OpId(Uuid::now_v7().to_string());
    if let Err(error) = store::commit(bus, &op, now, &changes).await {
        tracing::debug!(agent = "act", err = %error, "alert about the policy not written");
    }
}
