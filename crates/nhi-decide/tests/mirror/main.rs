//! The mirror's files: the whole output of a small lab as checked-in text, and what holds of any lab. It needs no
//! server and writes no file.

use jiff::{SignedDuration, tz::Offset};
use nhi_decide::render::{self, MirrorInput, Rendered};
use nhi_model::{
    SCHEMA_VERSION, Timestamp,
    envelope::{Live, OpId, Stale, Stored},
    guest::GuestKind,
    key::Key,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeMap, fmt::Write};

/// A lab, as the mirror reads it.
#[derive(Clone, Debug, Default)]
struct Lab {
    records: BTreeMap<Key, Stored>,
    live: BTreeMap<Key, Live>,
    stale: Option<Stale>,
}

fn now() -> Timestamp {
    "2026-07-18T12:30:05.000123Z".parse().expect("a time")
}

impl Lab {
    fn put(&mut self, key: Key, record: Value) -> &mut Stored {
        let stored = Stored { v: SCHEMA_VERSION, op: OpId("op".to_owned()), at: now(), stale: None, record };
        self.records.insert(key.clone(), stored);
        self.records.get_mut(&key).expect("it was just put")
    }

    fn gauge(&mut self, key: Key, record: Value) {
        let valid_until = now() + SignedDuration::from_mins(1);
        self.live.insert(key, Live { v: SCHEMA_VERSION, at: now(), valid_until, record });
    }

    fn render(&self) -> Rendered {
        render::render(&MirrorInput {
            now: now(),
            offset: Offset::constant(2),
            revision: 42,
            scan_duration_ms: 812,
            generator: "neural-home 0.1.0",
            records: self.records.iter().collect(),
            stale: self.stale.as_ref(),
            live: &self.live,
        })
    }

    fn state(&self) -> Value {
        serde_json::from_slice(&self.render().state_json).expect("the state file is JSON")
    }
}

fn vm(vmid: u32, name: &str) -> Value {
    json!({"kind": "qemu", "cluster": "home", "vmid": vmid, "name": name, "node": "pve1", "status": "running",
        "template": false, "tags": ["ai", "prod"], "protection": true, "onboot": true, "cpus": 4,
        "memory_bytes": 8_589_934_592u64, "disk_bytes": 34_359_738_368u64,
        "nics": {"net0": {"mac": "bc:24:11:00:00:01", "bridge": "vmbr0"}},
        "addresses": [
            {"interface": "docker0", "address": "172.17.0.1"},
            {"interface": "ens18", "address": "192.0.2.20", "prefix": 24, "mac": "BC:24:11:00:00:01"},
            {"interface": "ens18", "address": "2001:db8::20", "mac": "bc:24:11:00:00:01"},
            {"interface": "lo", "address": "127.0.0.1"}],
        "address_source": {"kind": "guest-agent"}, "snapshots": 2,
        "backups": {"kind": "newest", "at": "2026-07-18T02:00:00Z", "storage": "nas"}})
}

fn ct(vmid: u32, name: &str) -> Value {
    json!({"kind": "lxc", "cluster": "home", "vmid": vmid, "name": name, "node": "pve2", "status": "stopped",
        "template": false, "address_source": {"kind": "not-running"}, "backups": {"kind": "not-visible"}})
}

fn project(name: &str, manifest: &str) -> Value {
    json!({"id": "media", "name": name, "path": "/opt/media", "status": "Attivo", "description": "Film",
        "port": 8096, "base_url": null, "shape": "markdown-italian", "raw_manifest": manifest})
}

fn small_lab() -> Lab {
    let mut lab = Lab::default();
    let node = |name: &str, status: &str| {
        json!({"cluster": "home", "node": name, "status": status, "cpus": 8, "memory_bytes": 34_359_738_368u64,
            "level": "", "ssl_fingerprint": "AA:BB"})
    };
    let stale = |reason: &str| {
        Some(Stale { reason: reason.to_owned(), since: "2026-07-18T12:00:00Z".parse().expect("a time") })
    };
    lab.put(Key::node("home", "pve1"), node("pve1", "online"));
    lab.gauge(Key::node("home", "pve1"), json!({"cpu": 0.125, "mem": 10_737_418_240u64, "uptime": 86400}));
    lab.put(Key::node("home", "pve2"), node("pve2", "offline"));
    lab.put(Key::guest(GuestKind::Qemu, "home", 1000), vm(1000, "late")).record["status"] = json!("paused");
    lab.put(Key::guest(GuestKind::Qemu, "home", 100), vm(100, "caffè 🏠"));
    lab.gauge(
        Key::guest(GuestKind::Qemu, "home", 100),
        json!({"cpu": 0.05, "mem": 4_294_967_296u64, "pid": 1234, "uptime": 3600, "pressure": {"cpu": {"some": 0.1}}}),
    );
    lab.put(Key::guest(GuestKind::Lxc, "home", 200), ct(200, "dns")).stale =
        stale("node pve2 does not answer (595)");
    lab.put(
        Key::storage("home", "pve1", "local"),
        json!({"cluster": "home", "node": "pve1", "storage": "local", "kind": "dir", "content": ["images", "iso"],
            "shared": false, "active": true, "enabled": true}),
    );
    lab.gauge(Key::storage("home", "pve1", "local"), json!({"total": 100, "used": 40, "avail": 60}));
    lab.put(
        Key::source("proxmox-home"),
        json!({"kind": "proxmox", "place": "https://pve1.test:8006",
            "coverage": {"kind": "partial", "reason": "pve2: node pve2 does not answer (595)"}}),
    );
    lab.gauge(
        Key::source("proxmox-home"),
        json!({"last_attempt": "2026-07-18T12:30:00Z", "last_success": "2026-07-18T11:59:00Z", "duration_ms": 812,
            "requests": 25}),
    );
    lab.put(Key::project("media"), project("Media", "# PROGETTO: Media\n**Stato:** Attivo\n"));
    lab.put(
        Key::provider("groq"),
        json!({"kind": "openai", "name": "Groq", "url": "https://ai.test/v1", "models": ["llama"], "api_key": "SECRET"}),
    );
    lab.put(
        Key::provider("flash"),
        json!({"kind": "gemini", "url": "https://g.test", "models": [{"name": "flash"}]}),
    );
    lab.put(
        Key::alert("scan", "node-offline_home_pve2"),
        json!({"severity": "critical", "summary": "node pve2 is offline", "hint": "Start the node.",
            "since": "2026-07-18T12:00:00Z", "about": "node.home.pve2"}),
    );
    lab.put(Key::host("gaming-pc"), json!({"host": "gaming-pc", "os": "Windows 11", "nhi_key": "forged"}));
    lab.gauge(Key::host("gaming-pc"), json!({"uptime": 60}));
    lab
}

#[test]
fn the_small_lab_as_files() {
    let rendered = small_lab().render();
    let state = String::from_utf8(rendered.state_json).unwrap();
    assert_eq!(state, include_str!("state.json").trim_end_matches('\n'));
    assert_eq!(rendered.global_context, include_str!("GLOBAL_CONTEXT.md"));
    assert_eq!(rendered.checksum, render::checksum(state.as_bytes()));
    assert_eq!(rendered.sha256, format!("{}  state.json\n", rendered.checksum));
}

#[test]
fn checksum_is_sha256_in_lower_case_hex() {
    let empty = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(render::checksum(b""), empty);
}

#[test]
fn neural_home_v3_reads_what_it_read() {
    let state = small_lab().state();
    let generated_at = state["meta"]["generated_at"].as_str().unwrap();
    assert_eq!(generated_at, "2026-07-18T14:30:05.000123");
    let vm = &state["infrastructure"]["vms"][0];
    assert_eq!((vm["vmid"].as_u64(), vm["name"].as_str()), (Some(100), Some("caffè 🏠")));
    assert_eq!(
        vm["ip_addresses"],
        json!(["192.0.2.20", "172.17.0.1"]),
        "its own card first, v4 alone, no loopback"
    );
    assert_eq!(
        state["infrastructure"]["vms"][1]["status"], "running",
        "paused is running, with a word beside"
    );
    assert_eq!(state["infrastructure"]["endpoints"], json!({}));
    assert_eq!(state["projects"][0]["interfaces"], json!({"port": 8096, "base_url": null}));
    assert_eq!(state["api_providers"]["flash"]["type"], "google");
    assert_eq!(state["infrastructure"]["hosts"][0]["nhi_key"], "host.gaming-pc");
    assert!(!state.to_string().contains("SECRET"));
}

#[test]
fn a_state_that_cannot_be_followed_is_marked_and_only_while_it_cannot() {
    let mut lab = small_lab();
    assert_eq!(lab.state()["meta"].get("stale"), None);
    let since = "2026-07-18T12:29:00Z".parse().expect("a time");
    lab.stale = Some(Stale { reason: "the mesh is not connected".to_owned(), since });
    let expected = json!({"reason": "the mesh is not connected", "since": "2026-07-18T12:29:00Z"});
    assert_eq!(lab.state()["meta"]["stale"], expected);
    let context = lab.render().global_context;
    assert!(
        context.contains("OUT OF DATE since 2026-07-18T12:29:00Z: `the mesh is not connected`"),
        "{context}"
    );
}

#[test]
fn gauges_past_their_time_are_left_out() {
    let mut lab = small_lab();
    lab.live.values_mut().for_each(|live| live.valid_until = now());
    let state = lab.state();
    assert_eq!(state["infrastructure"]["nodes"][0].get("cpu"), None);
    assert_eq!(state["infrastructure"]["vms"][0].get("uptime"), None);
    assert_eq!(state["meta"]["sources"]["proxmox-home"]["stale"], "the scanner does not report");
}

#[test]
fn an_empty_lab_says_that_nothing_is_known() {
    let rendered = Lab::default().render();
    assert!(rendered.global_context.contains("nothing below is known"));
    let state: Value = serde_json::from_slice(&rendered.state_json).unwrap();
    assert_eq!(state["infrastructure"]["vms"], json!([]));
}

#[test]
fn rule_files_carry_the_rules_and_the_protected() {
    let context = small_lab().render().context;
    let names: Vec<_> = context.keys().copied().collect();
    assert_eq!(names, [".aider/rules.md", ".antigravity/context.md", ".cursorrules", "profile.yaml"]);
    for text in context.values() {
        for word in ["Never invent an address", "snapshot", "Secrets", "100 `caffè 🏠`"] {
            assert!(text.contains(word), "{word} is missing in {text}");
        }
    }
}

#[test]
fn a_broken_record_hides_only_itself() {
    let mut lab = small_lab();
    lab.put(Key::guest(GuestKind::Qemu, "home", 101), json!({"vmid": "x"}));
    lab.put(Key::project("odd"), json!(7));
    lab.put(Key::host("odd"), json!(7));
    let state = lab.state();
    assert_eq!(state["infrastructure"]["vms"].as_array().unwrap().len(), 2);
}

/// What stands neither in a code span nor in a fenced block.
fn own_words(markdown: &str) -> String {
    let mut out = String::new();
    let mut fence: Option<&str> = None;
    for line in markdown.lines() {
        match fence {
            Some(open) if line == open => fence = None,
            Some(_) => {}
            None if line.starts_with("```") => fence = Some(line.trim_end_matches("text")),
            None => {
                let spans = line.split('`').step_by(2);
                writeln!(out, "{}", spans.collect::<String>()).expect("writing to a String never fails");
            }
        }
    }
    assert_eq!(fence, None, "every block is closed");
    out
}

/// Texts that try to get out of wherever they are put.
fn hostile() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("INJECTED"),
        Just("\n"),
        Just("`"),
        Just("```"),
        Just("````text"),
        Just("~~~"),
        Just("\u{1b}[2J"),
        Just("\u{202e}"),
        Just("# "),
        Just("\r"),
        Just("\u{2028}"),
        Just(" "),
        Just("é"),
        Just("\""),
        Just("\\"),
        Just("|"),
        Just("-->"),
    ];
    prop::collection::vec(piece, 0..24).prop_map(|pieces| pieces.concat())
}

proptest! {
    /// No text of the lab is ever seen outside quotation, in any of the files; and nothing is lost in the JSON.
    #[test]
    fn text_of_the_lab_stays_quoted(name in hostile(), manifest in hostile(), summary in hostile()) {
        let mut lab = small_lab();
        let mut guest = vm(100, &name);
        guest["tags"] = json!([name]);
        guest["lock"] = json!(name);
        lab.put(Key::guest(GuestKind::Qemu, "home", 100), guest);
        lab.put(Key::project("media"), project(&name, &manifest));
        lab.put(Key::alert("scan", &name), json!({"severity": "info", "summary": summary, "hint": summary,
            "since": "2026-07-18T12:00:00Z"})).stale =
            Some(Stale { reason: summary.clone(), since: now() });
        lab.put(Key::source(&name), json!({"kind": "x", "place": name, "coverage": {"kind": "unseen", "reason": summary}}));
        let rendered = lab.render();
        for text in rendered.context.values().chain([&rendered.global_context]) {
            prop_assert!(!own_words(text).contains("INJECTED"), "{}", text);
            let hidden = ['\u{1b}', '\u{202e}', '\u{2028}'];
            prop_assert!(!text.contains(hidden));
        }
        let state: Value = serde_json::from_slice(&rendered.state_json).expect("the state file is JSON");
        prop_assert_eq!(&state["infrastructure"]["vms"][0]["name"], &json!(name));
        prop_assert_eq!(&state["projects"][0]["raw_manifest"], &json!(manifest));
    }

    /// The same input gives the same bytes, in ASCII, with no newline at the end.
    #[test]
    fn rendering_is_stable(name in any::<String>(), record in "[a-z]{1,3}", other in any::<u32>()) {
        let mut lab = small_lab();
        lab.put(Key::host(&name), json!({"host": name, record: other, "é": name}));
        let rendered = lab.render();
        prop_assert_eq!(&rendered, &lab.clone().render());
        prop_assert!(rendered.state_json.is_ascii());
        prop_assert_eq!(rendered.state_json.last(), Some(&b'}'));
    }
}
