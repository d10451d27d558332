//! How guests are named, and how intents are written.

use super::*;

#[test]
fn guests_are_named_as_people_do() {
    let vmid = |cluster: Option<&str>, vmid| Reference::Vmid { cluster: cluster.map(str::to_owned), vmid };
    let name = |cluster: Option<&str>, name: &str| Reference::Name {
        cluster: cluster.map(str::to_owned),
        name: name.to_owned(),
    };
    for (text, meaning) in [
        ("105", vmid(None, 105)),
        ("home/105", vmid(Some("home"), 105)),
        ("mongodb", name(None, "mongodb")),
        ("home/mongodb", name(Some("home"), "mongodb")),
        ("name:105", name(None, "105")),
        ("home/name:105", name(Some("home"), "105")),
        ("tag:media", Reference::Tag("media".to_owned())),
        ("vm.home.105", Reference::Key(Key::guest(GuestKind::Qemu, "home", 105))),
        ("db.example.org", name(None, "db.example.org")),
    ] {
        assert_eq!(GuestRef::parse(text).unwrap().reference(), meaning, "{text}");
    }
    for bad in ["", "a b", "a\n", "tag:", "/x", "x/", "a/b/c", "../../etc", "99999999999", "name:"] {
        assert!(GuestRef::parse(bad).is_err(), "{bad:?}");
    }
}

#[test]
fn an_intent_reads_as_an_agent_would_write_it() {
    let text = r#"{"do":"create-vm","template":"debian-12","new":{"name":"mongodb","start":true}}"#;
    let intent: Intent = serde_json::from_str(text).unwrap();
    assert_eq!(intent.as_str(), "create-vm");
    for bad in [
        r#"{"do":"explode","guest":"105"}"#,
        r#"{"do":"start","guest":"105","force":true}"#,
        r#"{"do":"start"}"#,
        r#"{"do":"set","guest":"105","settings":{"memory_mib":-1}}"#,
    ] {
        assert!(serde_json::from_str::<Intent>(bad).is_err(), "{bad}");
    }
}
