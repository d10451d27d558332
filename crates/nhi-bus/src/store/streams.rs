//! What each stream must be, and what differs in one that exists. Pure: it asks no server.

use nhi_model::{
    ai::{LEDGER_STREAM, USAGE_BUCKET},
    jobs::{JOBS_BUCKET, RESULTS_BUCKET},
    subject::{self, AUDIT_STREAM, LIVE_BUCKET, PLANS_BUCKET, STATE_BUCKET, TIMERS_STREAM},
};
use serde_json::{Map, Value, json};

/// Versions kept of each record. Facts change rarely, so this reaches back years.
const VERSIONS_MAX: u64 = 1000;
/// Versions kept of each plan and run: enough to see how it came about. The audit log has all of it.
const PLAN_VERSIONS_MAX: u64 = 64;
/// How long the server keeps gauges nobody renews. Readers go by `valid_until`, which is shorter.
const LIVE_AGE_NANOS: u64 = 600 * NANOS;
/// How long the ledger keeps an entry: a year and a month, so that a month can be held against last year's.
const LEDGER_AGE_NANOS: u64 = 400 * 24 * 3600 * NANOS;
/// A job's row is written again within 8 days of the last time: it waits 7 days at most, and is told of for one more.
/// What gets older is the marker of one that is gone.
const JOBS_AGE_NANOS: u64 = 30 * 24 * 3600 * NANOS;
/// What was asked is needed for 7 days and the last try, what was answered for one. Texts that nobody took away, because
/// a router died between two writes, go by themselves.
const RESULTS_AGE_NANOS: u64 = 10 * 24 * 3600 * NANOS;
/// How long a message id is remembered; JetStream's own default.
const DUPLICATES_NANOS: u64 = 120 * NANOS;
const NANOS: u64 = 1_000_000_000;

/// One stream of the mesh.
#[derive(Clone, Debug)]
pub(crate) struct Spec {
    pub(crate) name: String,
    rules: Vec<Rule>,
}

/// What one field of a stream's configuration must be.
#[derive(Clone, Debug)]
struct Rule {
    field: &'static str,
    want: Value,
    /// What a server means that leaves the field out.
    absent: Value,
    kind: Kind,
}

#[derive(Clone, Copy, Debug)]
enum Kind {
    /// Can be set on an existing stream.
    Correctable,
    /// Cannot be changed later, or what the stream holds cannot be believed any more. Says what that means.
    Fixed(&'static str),
}

/// A field that is not as it must be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Correction {
    /// The field of the stream's configuration.
    pub field: &'static str,
    /// What it was.
    pub was: String,
    /// What it is now.
    pub is: String,
}

/// What is to be done about an existing stream.
#[derive(Debug, PartialEq)]
pub(crate) enum Verdict {
    Fine,
    /// Write this configuration.
    Correct {
        config: Map<String, Value>,
        corrections: Vec<Correction>,
    },
    /// It cannot become what it must be.
    Refuse {
        field: &'static str,
        found: String,
        wanted: String,
        meaning: &'static str,
    },
}

/// The streams of this version of the mesh.
pub(crate) fn all(replicas: u8) -> Vec<Spec> {
    vec![
        state(replicas),
        live(replicas),
        plans(replicas),
        timers(replicas),
        audit(replicas),
        usage(replicas),
        ledger(replicas),
        jobs(replicas, JOBS_BUCKET, JOBS_AGE_NANOS),
        jobs(replicas, RESULTS_BUCKET, RESULTS_AGE_NANOS),
    ]
}

fn state(replicas: u8) -> Spec {
    let mut rules = common(&subject::kv_all(STATE_BUCKET), "file", replicas);
    rules.extend([
        correctable("max_msgs_per_subject", json!(VERSIONS_MAX), json!(-1)),
        correctable("max_age", json!(0), json!(0)),
        correctable("allow_atomic", json!(true), json!(false)),
        correctable("republish", republish(STATE_BUCKET), Value::Null),
        correctable("deny_delete", json!(true), json!(false)),
        correctable("deny_purge", json!(true), json!(false)),
    ]);
    Spec { name: subject::bucket_stream(STATE_BUCKET), rules }
}

fn live(replicas: u8) -> Spec {
    let mut rules = common(&subject::kv_all(LIVE_BUCKET), "memory", replicas);
    rules.extend([
        correctable("max_msgs_per_subject", json!(1), json!(-1)),
        correctable("max_age", json!(LIVE_AGE_NANOS), json!(0)),
        correctable("allow_atomic", json!(true), json!(false)),
        correctable("republish", republish(LIVE_BUCKET), Value::Null),
    ]);
    Spec { name: subject::bucket_stream(LIVE_BUCKET), rules }
}

/// Purge is left to the actuator, so that it can forget a plan that is long over.
fn plans(replicas: u8) -> Spec {
    let mut rules = common(&subject::kv_all(PLANS_BUCKET), "file", replicas);
    rules.extend([
        correctable("max_msgs_per_subject", json!(PLAN_VERSIONS_MAX), json!(-1)),
        correctable("max_age", json!(0), json!(0)),
        correctable("allow_atomic", json!(true), json!(false)),
        correctable("republish", republish(PLANS_BUCKET), Value::Null),
        correctable("deny_delete", json!(true), json!(false)),
        fixed_off("deny_purge", "a plan that is over can never be forgotten"),
    ]);
    Spec { name: subject::bucket_stream(PLANS_BUCKET), rules }
}

/// The server wants rollup for schedules, and no `discard: new`: that is why they are alone here. A message that is
/// due waits as long as it takes, for an actuator to come back.
fn timers(replicas: u8) -> Spec {
    let mut rules = common(subject::TIMERS_ALL, "file", replicas);
    let differs = ["allow_msg_schedules", "allow_rollup_hdrs", "discard"];
    rules.retain(|rule| !differs.contains(&rule.field));
    rules.extend([
        correctable("allow_msg_schedules", json!(true), json!(false)),
        correctable("allow_rollup_hdrs", json!(true), json!(false)),
        correctable("discard", json!("old"), json!("old")),
        correctable("max_msgs_per_subject", json!(1), json!(-1)),
        correctable("max_age", json!(0), json!(0)),
        correctable("deny_delete", json!(true), json!(false)),
        fixed_off("deny_purge", "the server cannot take back a timer that was confirmed"),
        correctable("republish", Value::Null, Value::Null),
    ]);
    Spec { name: TIMERS_STREAM.to_owned(), rules }
}

fn audit(replicas: u8) -> Spec {
    let mut rules = common(subject::AUDIT_ALL, "file", replicas);
    rules.extend([
        correctable("max_msgs_per_subject", json!(-1), json!(-1)),
        correctable("max_age", json!(0), json!(0)),
        correctable("deny_delete", json!(true), json!(false)),
        correctable("deny_purge", json!(true), json!(false)),
        correctable("republish", Value::Null, Value::Null),
    ]);
    Spec { name: AUDIT_STREAM.to_owned(), rules }
}

/// Counters say nothing once they moved, so only the last of each is kept.
fn usage(replicas: u8) -> Spec {
    let mut rules = common(&subject::kv_all(USAGE_BUCKET), "file", replicas);
    rules.extend([
        correctable("max_msgs_per_subject", json!(1), json!(-1)),
        correctable("max_age", json!(0), json!(0)),
        correctable("deny_delete", json!(true), json!(false)),
        correctable("deny_purge", json!(true), json!(false)),
        correctable("republish", Value::Null, Value::Null),
    ]);
    Spec { name: subject::bucket_stream(USAGE_BUCKET), rules }
}

fn ledger(replicas: u8) -> Spec {
    let mut rules = common(subject::LEDGER_ALL, "file", replicas);
    rules.extend([
        correctable("max_msgs_per_subject", json!(-1), json!(-1)),
        correctable("max_age", json!(LEDGER_AGE_NANOS), json!(0)),
        correctable("deny_delete", json!(true), json!(false)),
        correctable("deny_purge", json!(true), json!(false)),
        correctable("republish", Value::Null, Value::Null),
    ]);
    Spec { name: LEDGER_STREAM.to_owned(), rules }
}

/// Of rows and texts only the last is kept, so that a marker takes a text away at once.
fn jobs(replicas: u8, bucket: &str, age_nanos: u64) -> Spec {
    let mut rules = common(&subject::kv_all(bucket), "file", replicas);
    rules.extend([
        correctable("max_msgs_per_subject", json!(1), json!(-1)),
        correctable("max_age", json!(age_nanos), json!(0)),
        correctable("deny_delete", json!(true), json!(false)),
        correctable("deny_purge", json!(true), json!(false)),
        correctable("republish", Value::Null, Value::Null),
    ]);
    Spec { name: subject::bucket_stream(bucket), rules }
}

/// What holds for every stream: nothing is dropped, hidden, rewritten or erased behind our back.
fn common(subjects: &str, storage: &str, replicas: u8) -> Vec<Rule> {
    let off = |field| correctable(field, json!(false), json!(false));
    vec![
        fixed("storage", json!(storage), "what it keeps would live elsewhere than it must"),
        fixed("subjects", json!([subjects]), "it holds what is not ours, or lacks what is"),
        fixed("retention", json!("limits"), "it has dropped messages once they were read"),
        fixed_off("sealed", "nothing can be written to it"),
        Rule { absent: Value::Null, ..fixed("mirror", Value::Null, "it is a copy of another stream") },
        Rule {
            absent: Value::Null,
            ..fixed("sources", Value::Null, "it takes in another stream's messages")
        },
        fixed_off("allow_msg_ttl", "records can vanish from it without a trace"),
        fixed_off("allow_msg_counter", "it counts instead of keeping records"),
        fixed_off("allow_msg_schedules", "it needs rollup, which erases the bucket"),
        Rule {
            absent: json!("default"),
            ..fixed("persist_mode", json!("default"), "it acknowledges before it has written")
        },
        off("allow_rollup_hdrs"),
        off("no_ack"),
        off("discard_new_per_subject"),
        off("mirror_direct"),
        correctable("allow_direct", json!(true), json!(false)),
        correctable("discard", json!("new"), json!("old")),
        correctable("max_msgs", json!(-1), json!(-1)),
        correctable("max_bytes", json!(-1), json!(-1)),
        correctable("max_msg_size", json!(-1), json!(-1)),
        correctable("max_consumers", json!(-1), json!(-1)),
        correctable("consumer_limits", json!({}), json!({})),
        correctable("subject_transform", Value::Null, Value::Null),
        correctable("duplicate_window", json!(DUPLICATES_NANOS), json!(0)),
        correctable("num_replicas", json!(replicas), json!(1)),
    ]
}

fn republish(bucket: &str) -> Value {
    json!({ "src": subject::kv_all(bucket), "dest": subject::feed(bucket) })
}

fn correctable(field: &'static str, want: Value, absent: Value) -> Rule {
    Rule { field, want, absent, kind: Kind::Correctable }
}

fn fixed(field: &'static str, want: Value, meaning: &'static str) -> Rule {
    Rule { field, want, absent: Value::Null, kind: Kind::Fixed(meaning) }
}

fn fixed_off(field: &'static str, meaning: &'static str) -> Rule {
    Rule { absent: json!(false), ..fixed(field, json!(false), meaning) }
}

impl Rule {
    fn found(&self, config: &Map<String, Value>) -> Value {
        let mut found = config.get(self.field).filter(|v| !v.is_null()).unwrap_or(&self.absent).clone();
        // A server says `"headers_only": false` or leaves it out; both mean the same.
        if let Value::Object(fields) = &mut found {
            fields.retain(|_, value| *value != Value::Bool(false));
        }
        found
    }

    /// What the field must be, as the server expects it: nothing where nothing is meant, because the strict API
    /// of an older server refuses names it does not know.
    fn write_to(&self, config: &mut Map<String, Value>) {
        if self.want == self.absent {
            config.remove(self.field);
        } else {
            config.insert(self.field.to_owned(), self.want.clone());
        }
    }
}

impl Spec {
    /// The configuration of a new stream.
    pub(crate) fn config(&self) -> Map<String, Value> {
        let mut config = Map::new();
        config.insert("name".to_owned(), json!(self.name));
        for rule in &self.rules {
            rule.write_to(&mut config);
        }
        config
    }

    /// What to do about the stream as it is.
    pub(crate) fn judge(&self, actual: &Map<String, Value>) -> Verdict {
        let mut config = actual.clone();
        let mut corrections = Vec::new();
        for rule in &self.rules {
            let found = rule.found(actual);
            if found == rule.want {
                continue;
            }
            match rule.kind {
                Kind::Fixed(meaning) => {
                    return Verdict::Refuse {
                        field: rule.field,
                        found: found.to_string(),
                        wanted: rule.want.to_string(),
                        meaning,
                    };
                }
                Kind::Correctable => {
                    rule.write_to(&mut config);
                    corrections.push(Correction {
                        field: rule.field,
                        was: found.to_string(),
                        is: rule.want.to_string(),
                    });
                }
            }
        }
        if corrections.is_empty() { Verdict::Fine } else { Verdict::Correct { config, corrections } }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_stream_is_fine() {
        for spec in all(1) {
            assert_eq!(spec.judge(&spec.config()), Verdict::Fine, "{}", spec.name);
        }
    }

    #[test]
    fn every_field_that_differs_is_corrected_or_refused() {
        for spec in all(1) {
            for rule in &spec.rules {
                let mut config = spec.config();
                config.insert(rule.field.to_owned(), json!("something else"));
                match (rule.kind, spec.judge(&config)) {
                    (Kind::Fixed(_), Verdict::Refuse { field, .. }) => assert_eq!(field, rule.field),
                    (Kind::Correctable, Verdict::Correct { config, corrections }) => {
                        assert_eq!(corrections.len(), 1, "{}", rule.field);
                        assert_eq!(spec.judge(&config), Verdict::Fine, "{}", rule.field);
                    }
                    (_, verdict) => panic!("{} of {}: {verdict:?}", rule.field, spec.name),
                }
            }
        }
    }

    #[test]
    fn what_we_do_not_know_survives() {
        let spec = &all(1)[0];
        let mut config = spec.config();
        config.insert("allow_rollup_hdrs".to_owned(), json!(true));
        config.insert("placement".to_owned(), json!({ "cluster": "rack" }));
        let Verdict::Correct { config, .. } = spec.judge(&config) else { panic!("rollup must be corrected") };
        assert_eq!(config["placement"], json!({ "cluster": "rack" }));
        assert!(!config.contains_key("allow_rollup_hdrs"));
    }
}
