//! The policy in force: read from its file, and again whenever that changes. A broken file never means a wider
//! policy: the last good one stays, and where there never was one, nothing is done.

use crate::alerts::{self, Problem};
use nhi_bus::{audit, connect::Bus, cx::Cx, store, view::View};
use nhi_decide::policy::{FileRead, Standing};
use nhi_model::{
    Timestamp, alert::Severity, audit::AuditKind, envelope::OpId, fault::Fault, identity::Agent,
    plan::Digest, policy::Policy,
};
use sha2::{Digest as _, Sha256};
use std::{
    collections::BTreeMap,
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};
use tokio::sync::watch;
use uuid::Uuid;

/// How often the file is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Largest file that is read, bytes.
const FILE_BYTES_MAX: u64 = 1024 * 1024;
/// Id of the alert about a broken file.
const BROKEN: &str = "policy-broken";

/// What holds after the last look.
#[derive(Clone, Debug, PartialEq)]
struct Rule {
    standing: Standing,
    /// The policy of it, to be shared.
    policy: Option<Arc<Policy>>,
}

impl Rule {
    fn new(standing: Standing) -> Self {
        let policy = standing.policy().ok().cloned().map(Arc::new);
        Self { standing, policy }
    }
}

/// The policy, followed. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Rules {
    rule: watch::Receiver<Rule>,
}

impl Rules {
    /// Reads the file and goes on looking at it.
    pub(crate) async fn follow(cx: &Cx, bus: &Bus, view: View, path: PathBuf) -> Self {
        let mut read = look(&path).await;
        let (sender, rule) = watch::channel(Rule::new(Standing::start(&read)));
        let (stop, bus) = (cx.clone(), bus.clone());
        cx.spawn("policy", async move {
            let mut ticks = tokio::time::interval(LOOK_EVERY);
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    _ = ticks.tick() => {}
                }
                let trouble = sender.borrow().standing.trouble.clone();
                tell(&bus, &view, trouble.as_deref()).await;
                let now = look(&path).await;
                if now == read {
                    continue;
                }
                let before = sender.borrow().clone();
                let after = Rule::new(before.standing.next(&now));
                // A change of what is allowed is written down before it holds; else it is tried at the next look.
                if before.policy == after.policy || record(&bus, &after).await {
                    read = now;
                    sender.send_replace(after);
                }
            }
        });
        Self { rule }
    }

    /// The policy in force.
    ///
    /// # Errors
    /// When the file is broken and no good one was ever read.
    pub(crate) fn now(&self) -> Result<Arc<Policy>, Fault> {
        let rule = self.rule.borrow();
        match (&rule.policy, rule.standing.policy()) {
            (Some(policy), _) => Ok(policy.clone()),
            (None, Err(refusal)) => Err(refusal.fault()),
            (None, Ok(policy)) => Ok(Arc::new(policy.clone())),
        }
    }
}

async fn look(path: &Path) -> FileRead {
    match tokio::fs::metadata(path).await {
        Ok(file) if file.len() > FILE_BYTES_MAX => {
            let bytes = file.len();
            return FileRead::Unreadable(format!(
                "it has {bytes} bytes, a policy has at most {FILE_BYTES_MAX}"
            ));
        }
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return FileRead::Absent,
        Err(error) => return FileRead::Unreadable(error.to_string()),
    }
    match tokio::fs::read_to_string(path).await {
        Ok(text) => FileRead::Text(text),
        Err(error) if error.kind() == io::ErrorKind::NotFound => FileRead::Absent,
        Err(error) => FileRead::Unreadable(error.to_string()),
    }
}

/// Writes down that another policy is to hold, by its digest; false when that could not be.
async fn record(bus: &Bus, after: &Rule) -> bool {
    let text = serde_json::to_vec(&after.policy.as_deref()).expect("a policy has text keys and serialises");
    let digest = Digest::of(Sha256::digest(text).into());
    let details = BTreeMap::from([("policy".to_owned(), digest.as_str().into())]);
    match audit::append(bus, AuditKind::PolicyChanged, None, details).await {
        Ok(_) => {
            tracing::info!(agent = "act", "another policy holds");
            true
        }
        Err(error) => {
            tracing::warn!(agent = "act", err = %error, "change of policy not written to the audit log");
            false
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
