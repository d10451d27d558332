//! What the facts are checked with: a lab without sockets whose time is moved by hand.

use nhi_sim::{Credentials, Fault, Identities, Lab, Params, PveVersion, Request, Secret, Seed, TokenSecret};
use serde_json::{Value, json};

/// 2026-11-22 20:00:00 UTC.
pub(crate) const START_MS: i64 = 1_795_377_600_000;

pub(crate) struct Home {
    pub(crate) lab: Lab,
    pub(crate) who: Credentials,
}

/// Who asks.
#[derive(Clone, Copy)]
pub(crate) enum As {
    Scan,
    Act,
    Root,
}

pub(crate) fn identities() -> Identities {
    let token = |id: &str, secret: &str| TokenSecret { id: id.to_owned(), secret: secret.to_owned() };
    Identities {
        scan: token("nh-scan@pve!mesh", "aaaaaaaa-0000-4000-8000-000000000001"),
        act: token("nh-act@pve!mesh", "aaaaaaaa-0000-4000-8000-000000000002"),
        admin: ("root@pam".to_owned(), Secret("correct horse".to_owned())),
    }
}

pub(crate) fn home() -> Home {
    Home::of(&Seed::demo(), PveVersion::V9_1)
}

/// The demo home of an older release.
pub(crate) fn old_home() -> Home {
    Home::of(&Seed::demo(), PveVersion::V8_2)
}

impl Home {
    pub(crate) fn of(seed: &Seed, version: PveVersion) -> Self {
        let lab = Lab::new(seed, version, &identities(), 7, START_MS);
        let mut home = Self { lab, who: Credentials::default() };
        home.become_(As::Root);
        home
    }

    /// Asks as somebody else from now on.
    pub(crate) fn become_(&mut self, who: As) {
        let token = |token: &TokenSecret| Credentials {
            authorization: Some(format!("PVEAPIToken={}={}", token.id, token.secret)),
            ..Credentials::default()
        };
        self.who = match who {
            As::Scan => token(&identities().scan),
            As::Act => token(&identities().act),
            As::Root => {
                self.who = Credentials::default();
                let login = json!({"username": "root@pam", "password": "correct horse"});
                let data = self.ok("POST", "/access/ticket", login);
                Credentials {
                    authorization: None,
                    ticket: Some(text(&data["ticket"])),
                    csrf: Some(text(&data["CSRFPreventionToken"])),
                }
            }
        };
    }

    /// Asks with a token of one's own.
    pub(crate) fn become_token(&mut self, id: &str, secret: &str) {
        self.who = Credentials {
            authorization: Some(format!("PVEAPIToken={id}={secret}")),
            ..Credentials::default()
        };
    }

    /// Status and body.
    pub(crate) fn call(&mut self, method: &str, path: &str, params: Value) -> (u16, Value) {
        let params: Params = match params {
            Value::Object(map) => map.into_iter().collect(),
            _ => Params::new(),
        };
        let answer =
            self.lab.serve(Request { method, path, params, credentials: &self.who.clone(), via: "pve1" });
        let mut body = answer.body.unwrap_or(Value::Null);
        if body.is_object() {
            body["reason"] = json!(answer.reason);
        } else {
            body = json!({"reason": answer.reason});
        }
        (answer.status, body)
    }

    /// The data of a call that must succeed.
    #[track_caller]
    pub(crate) fn ok(&mut self, method: &str, path: &str, params: Value) -> Value {
        let (status, mut body) = self.call(method, path, params);
        assert_eq!(status, 200, "{method} {path}: {body}");
        body["data"].take()
    }

    #[track_caller]
    pub(crate) fn get(&mut self, path: &str) -> Value {
        self.ok("GET", path, Value::Null)
    }

    /// Checks status and reason phrase of a call that must fail.
    #[track_caller]
    pub(crate) fn refused(&mut self, method: &str, path: &str, params: Value, status: u16, reason: &str) {
        let (seen, body) = self.call(method, path, params);
        assert!(seen == status && text(&body["reason"]).contains(reason), "{method} {path}: {seen} {body}");
    }

    /// Starts a task and lets it run to its end; gives its exit status.
    #[track_caller]
    pub(crate) fn task(&mut self, method: &str, path: &str, params: Value) -> String {
        let upid = text(&self.ok(method, path, params));
        self.exit_of(&upid)
    }

    /// Lets time pass until a task has ended.
    #[track_caller]
    pub(crate) fn exit_of(&mut self, upid: &str) -> String {
        let node = upid.split(':').nth(1).expect("a UPID names its node").to_owned();
        for _ in 0..2000 {
            let status = self.get(&format!("/nodes/{node}/tasks/{upid}/status"));
            if status["status"] == "stopped" {
                return text(&status["exitstatus"]);
            }
            self.lab.advance_by(100);
        }
        panic!("{upid} does not end");
    }

    pub(crate) fn pass_s(&mut self, seconds: u64) {
        self.lab.advance_by(seconds * 1000);
    }

    pub(crate) fn fault(&mut self, fault: Value) -> u64 {
        let fault: Fault = serde_json::from_value(fault).expect("a fault of the documented form");
        self.lab.set_fault(fault)
    }

    /// The row of a guest in `/cluster/resources`.
    pub(crate) fn row(&mut self, vmid: u32) -> Option<Value> {
        let rows = self.get("/cluster/resources");
        rows.as_array().expect("a list").iter().find(|row| row["vmid"] == vmid).cloned()
    }

    #[track_caller]
    pub(crate) fn config(&mut self, node: &str, kind: &str, vmid: u32) -> Value {
        self.get(&format!("/nodes/{node}/{kind}/{vmid}/config"))
    }
}

pub(crate) fn text(value: &Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}

/// A field of every row.
pub(crate) fn all<'a>(rows: &'a Value, key: &str) -> Vec<&'a Value> {
    rows.as_array().expect("a list").iter().map(|row| &row[key]).collect()
}

pub(crate) fn none() -> Value {
    Value::Null
}
