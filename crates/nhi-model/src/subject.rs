//! Every NATS subject the mesh uses, each built by one function with its pattern above it.
//!
//! `nhi.` carries calls and nothing else; everything that is not a call has its own first token.

use crate::{
    ai::{JobId, USAGE_BUCKET, UsageKey},
    identity::IdentityName,
    jobs::{JOBS_BUCKET, RESULTS_BUCKET},
    key::Key,
    plans::PlansKey,
    run::RunId,
};
use jiff::civil::Date;
use std::fmt;

/// The state bucket.
pub const STATE_BUCKET: &str = "nhi-state";
/// The gauges bucket.
pub const LIVE_BUCKET: &str = "nhi-live";
/// Plans, runs, leases, holds, reserved numbers and the freeze.
pub const PLANS_BUCKET: &str = "nhi-plans";
/// Messages that nats-server delivers later, whoever is alive then.
pub const TIMERS_STREAM: &str = "NHI_TIMERS";
/// Everything in the timers' stream.
pub const TIMERS_ALL: &str = "nhi-timer.>";
/// The audit stream.
pub const AUDIT_STREAM: &str = "NHI_AUDIT";
/// Everything in the audit stream.
pub const AUDIT_ALL: &str = "nhi-audit.*";
/// Everything in the ledger.
pub const LEDGER_ALL: &str = "nhi-ledger.*";
/// Everything the buckets republish: the change feed.
pub const FEED_ALL: &str = "nhi-pub.>";
/// Discovery, all verbs.
pub const DISCOVERY_ALL: &str = "$SRV.>";
/// Replies that crossed an account border.
pub const REPLY_ACROSS: &str = "_R_.>";
/// The queue group all instances of a service share; the micro protocol's own default.
pub const QUEUE: &str = "q";

/// `nhi.<service>.<endpoint>.<caller>`
pub fn call(service: &str, endpoint: &str, caller: &IdentityName) -> String {
    format!("nhi.{service}.{endpoint}.{caller}")
}

/// `nhi.<service>.<endpoint>.*`, what an endpoint subscribes.
pub fn endpoint(service: &str, endpoint: &str) -> String {
    format!("nhi.{service}.{endpoint}.*")
}

/// `nhi.<service>.>`, what somebody else's service may subscribe.
pub fn service_all(service: &IdentityName) -> String {
    format!("nhi.{service}.>")
}

/// `nhi.*.*.<caller>`, all calls one identity can make.
pub fn calls_of(caller: &IdentityName) -> String {
    format!("nhi.*.*.{caller}")
}

/// The caller in the last token of `nhi.<service>.<endpoint>.<caller>`; `None` when the subject is not a
/// call of that very endpoint.
pub fn caller_of(service: &str, endpoint: &str, subject: &str) -> Option<IdentityName> {
    let rest = subject.strip_prefix("nhi.")?.strip_prefix(service)?.strip_prefix('.')?;
    IdentityName::parse(rest.strip_prefix(endpoint)?.strip_prefix('.')?).ok()
}

/// `KV_<bucket>`, the stream behind a bucket.
pub fn bucket_stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

/// `$KV.<bucket>.<key>`
pub fn kv(bucket: &str, key: &Key) -> String {
    format!("$KV.{bucket}.{key}")
}

/// `$KV.<bucket>.>`
pub fn kv_all(bucket: &str) -> String {
    format!("$KV.{bucket}.>")
}

/// The key in `$KV.<bucket>.<key>`; `None` when it is another bucket's or no key of ours.
pub fn key_of(bucket: &str, subject: &str) -> Option<Key> {
    Key::parse(subject.strip_prefix("$KV.")?.strip_prefix(bucket)?.strip_prefix('.')?).ok()
}

/// `nhi-pub.<what>.>` where `<what>` is the bucket without its `nhi-`, and `plan` for the plans: the destination of a
/// republish.
pub fn feed(bucket: &str) -> String {
    let what = if bucket == PLANS_BUCKET { "plan" } else { bucket.strip_prefix("nhi-").unwrap_or(bucket) };
    format!("nhi-pub.{what}.>")
}

/// `nhi-audit.<agent>`
pub fn audit(agent: &IdentityName) -> String {
    format!("nhi-audit.{agent}")
}

/// `nhi-timer.set.<run>`, the message that waits.
pub fn timer_set(run: &RunId) -> String {
    format!("nhi-timer.set.{run}")
}

/// `nhi-timer.due.<run>`, where it is delivered when it is due.
pub fn timer_due(run: &RunId) -> String {
    format!("nhi-timer.due.{run}")
}

/// `nhi-timer.set.*`
pub const TIMERS_SET: &str = "nhi-timer.set.*";
/// `nhi-timer.confirmed.*`
pub const TIMERS_CONFIRMED: &str = "nhi-timer.confirmed.*";
/// `nhi-timer.due.*`
pub const TIMERS_DUE: &str = "nhi-timer.due.*";

/// `nhi-timer.confirmed.<run>`, the message that takes the waiting one away.
pub fn timer_confirmed(run: &RunId) -> String {
    format!("nhi-timer.confirmed.{run}")
}

/// `$JS.API.STREAM.PURGE.KV_nhi-plans`: an old plan is forgotten. Which one stands in the request, where no permission
/// sees it.
pub fn plans_purge() -> String {
    format!("$JS.API.STREAM.PURGE.{}", bucket_stream(PLANS_BUCKET))
}

/// Name of the durable consumer that hands out due timers.
pub const TIMERS_CONSUMER: &str = "act";

/// `$JS.API.CONSUMER.MSG.NEXT.NHI_TIMERS.act`: asks for a due timer.
pub fn timers_next() -> String {
    format!("$JS.API.CONSUMER.MSG.NEXT.{TIMERS_STREAM}.{TIMERS_CONSUMER}")
}

/// The run in `nhi-timer.due.<run>`.
pub fn run_of_timer(subject: &str) -> Option<RunId> {
    RunId::parse(subject.strip_prefix("nhi-timer.due.")?).ok()
}

/// `$KV.nhi-plans.<key>`
pub fn plans(key: &PlansKey) -> String {
    format!("$KV.{PLANS_BUCKET}.{key}")
}

/// The key in `$KV.nhi-plans.<key>`.
pub fn plans_key_of(subject: &str) -> Option<PlansKey> {
    PlansKey::parse(subject.strip_prefix("$KV.")?.strip_prefix(PLANS_BUCKET)?.strip_prefix('.')?)
}

/// `$KV.nhi-usage.<key>`
pub fn usage(key: &UsageKey) -> String {
    format!("$KV.{USAGE_BUCKET}.{key}")
}

/// The key in `$KV.nhi-usage.<key>`.
pub fn usage_key_of(subject: &str) -> Option<UsageKey> {
    UsageKey::parse(subject.strip_prefix("$KV.")?.strip_prefix(USAGE_BUCKET)?.strip_prefix('.')?)
}

/// `$KV.nhi-jobs.job.<id>`
pub fn job(job: &JobId) -> String {
    format!("$KV.{JOBS_BUCKET}.job.{}", crate::key::encode(&job.0))
}

/// The job in `$KV.nhi-jobs.job.<id>`.
pub fn job_of(subject: &str) -> Option<JobId> {
    let id = subject.strip_prefix("$KV.")?.strip_prefix(JOBS_BUCKET)?.strip_prefix(".job.")?;
    crate::key::decode(id).map(JobId)
}

/// `$KV.nhi-results.request.<id>`
pub fn job_request(job: &JobId) -> String {
    format!("$KV.{RESULTS_BUCKET}.request.{}", crate::key::encode(&job.0))
}

/// `$KV.nhi-results.answer.<id>.<attempt>`: of each try its own, so that two that end together overwrite nothing.
pub fn job_answer(job: &JobId, attempt: u32) -> String {
    format!("$KV.{RESULTS_BUCKET}.answer.{}.{attempt}", crate::key::encode(&job.0))
}

/// `nhi-ledger.<YYYY-MM-DD>`: the ledger of one day, UTC, so that a day can be read alone.
pub fn ledger(day: Date) -> String {
    format!("nhi-ledger.{day}")
}

/// `nhi-cmd.<host>.>`, the commands for one edge machine.
pub fn commands(host: &IdentityName) -> String {
    format!("nhi-cmd.{host}.>")
}

/// `nhi-cmd.<host>.<what>`, one command for an edge machine.
pub fn command(host: &IdentityName, what: &str) -> String {
    format!("nhi-cmd.{host}.{what}")
}

/// The command in `nhi-cmd.<host>.<what>`.
pub fn command_of<'a>(host: &IdentityName, subject: &'a str) -> Option<&'a str> {
    subject.strip_prefix("nhi-cmd.")?.strip_prefix(host.as_str())?.strip_prefix('.')
}

/// `_INBOX_<identity>`, the prefix of all reply subjects of one identity.
pub fn inbox_prefix(identity: &IdentityName) -> String {
    format!("_INBOX_{identity}")
}

/// `_INBOX_<identity>.<token>`, one inbox of an identity.
pub fn inbox(identity: &IdentityName, token: impl fmt::Display) -> String {
    format!("_INBOX_{identity}.{token}")
}

/// `_INBOX_<identity>.>`
pub fn inbox_all(identity: &IdentityName) -> String {
    format!("_INBOX_{identity}.>")
}

/// Whether a reply subject is one a service may answer: a HOME caller's inbox or a rewritten one.
pub fn is_answerable(reply: &str) -> bool {
    reply.starts_with("_INBOX_") || reply.starts_with("_R_.")
}

/// A verb of the micro service protocol (ADR-32).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// Who is there?
    Ping,
    /// What can you do?
    Info,
    /// How has it gone?
    Stats,
}

impl Verb {
    /// All verbs.
    pub const ALL: [Self; 3] = [Self::Ping, Self::Info, Self::Stats];

    /// The token in the subject.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "PING",
            Self::Info => "INFO",
            Self::Stats => "STATS",
        }
    }

    /// `$SRV.<VERB>`, the question to all services.
    pub fn subject(self) -> String {
        format!("$SRV.{}", self.as_str())
    }

    /// `$SRV.<VERB>`, `$SRV.<VERB>.<name>`, `$SRV.<VERB>.<name>.<id>`: what an instance listens on.
    pub fn subjects(self, name: &str, id: &str) -> [String; 3] {
        let verb = self.as_str();
        [format!("$SRV.{verb}"), format!("$SRV.{verb}.{name}"), format!("$SRV.{verb}.{name}.{id}")]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_is_read_only_from_the_own_endpoint() {
        let name = IdentityName::parse("aider").unwrap();
        assert_eq!(caller_of("state", "get", &call("state", "get", &name)), Some(name));
        for bad in [
            "nhi.state.get",
            "nhi.state.get.",
            "nhi.state.get.a.b",
            "nhi.state.diff.aider",
            "$KV.nhi-state.vm.home.100",
            "nhi.stateget.aider",
        ] {
            assert_eq!(caller_of("state", "get", bad), None, "{bad}");
        }
    }

    #[test]
    fn feeds_are_named_after_their_bucket() {
        assert_eq!(feed(STATE_BUCKET), "nhi-pub.state.>");
        assert_eq!(feed(LIVE_BUCKET), "nhi-pub.live.>");
        assert_eq!(feed(PLANS_BUCKET), "nhi-pub.plan.>");
    }
}
