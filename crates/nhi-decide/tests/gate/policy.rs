//! The file: what is read, what is refused and where, and that nothing bad about it makes it less strict.

use crate::lab::{key, lab};
use nhi_decide::policy::{self, FileRead, PolicyError, Standing, View};
use nhi_model::{
    identity::{IdentityName, Role},
    intent::{GuestRef, Operation},
    policy::{AUTOMATIC_DEFAULT, Policy},
    refusal::RefusalCode,
};
use proptest::prelude::*;
use std::collections::BTreeSet;

fn error(text: &str) -> PolicyError {
    match policy::parse(text) {
        Ok(policy) => panic!("{text} was read as {policy:?}"),
        Err(error) => error,
    }
}

#[test]
fn an_empty_file_is_the_safe_default() {
    assert_eq!(policy::parse(""), Ok(Policy::default()));
    assert_eq!(policy::parse("\u{feff}# only a comment\r\n"), Ok(Policy::default()));
    assert_eq!(policy::parse(&policy::default_text()), Ok(Policy::default()));
    assert_eq!(policy::automatic(&Policy::default()), AUTOMATIC_DEFAULT);
}

#[test]
fn the_comments_of_the_default_file_say_the_defaults() {
    let without =
        |line: &str| line.strip_prefix('#').filter(|rest| !rest.starts_with([' ', '#'])).map(str::to_owned);
    let text: Vec<String> = policy::default_text().lines().filter_map(without).collect();
    assert!(text.len() > 20, "the file shows {} lines", text.len());
    let mut told = policy::parse(&text.join("\n")).unwrap();
    let list = |operations: &[Operation]| Some(operations.iter().copied().collect::<BTreeSet<_>>());
    assert_eq!(told.operations.automatic, list(AUTOMATIC_DEFAULT));
    assert_eq!((&told.operations.approval, &told.operations.never), (&list(&[]), &list(&[])));
    told.operations = Default::default();
    assert_eq!(told, Policy::default());
    // The examples are of the right shape as well.
    let example =
        |line: &str| line.strip_prefix("##").filter(|rest| !rest.starts_with(' ')).map(str::to_owned);
    for line in policy::default_text().lines().filter_map(example).filter(|line| line.contains('=')) {
        let table = match line.split(['=', ' ']).next().unwrap() {
            "time_zone" => "",
            "postgres" | "dns" => "[services]\n",
            "backup_before_destroy_hours" => "[caution]\n",
            _ => "[roles.agent]\n",
        };
        policy::parse(&format!("{table}{line}")).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn a_whole_file_is_read() {
    let policy = policy::parse(
        r#"
time_zone = "Europe/Rome"
[protected]
guests = [101, "nas"]
"#,
    );
    // A bare number is what people write, and it is told how it is written here.
    let error = policy.unwrap_err();
    assert_eq!((error.line, error.column, error.key.as_str()), (4, 11, "protected.guests[0]"));
    let policy = policy::parse(
        r#"
time_zone = "Europe/Rome"
protected = { guests = ["101", "home/nas", "tag:core"], tags = ["gold"], flag = false }
services.dns = ["104", "lxc.home.204"]
[operations]
automatic = ["start"]
[roles.agent]
never = ["destroy"]
[identities.aider]
automatic = ["create-lxc"]
[approval]
two_people = ["destroy"]
[limits]
guests_per_plan = 1
[hours]
restart_safe = [2, 3, 4]
quiet = [22, 23]
[caution]
backup_before_destroy_hours = 24
undo_unless_confirmed_minutes = { set = 10 }
"#,
    )
    .unwrap();
    assert_eq!(policy.protected.guests.len(), 3);
    assert_eq!(policy.roles[&Role::Agent].never, Some([Operation::Destroy].into()));
    assert_eq!(
        policy.identities[&IdentityName::parse("aider").unwrap()].automatic,
        Some([Operation::CreateLxc].into())
    );
    assert_eq!(policy.caution.undo_unless_confirmed_minutes[&Operation::Set], 10);
    assert_eq!(policy.limits.steps_per_plan, 100, "what is not there is the default");
    assert_eq!(policy::zone(&policy).unwrap().iana_name(), Some("Europe/Rome"));
}

/// A mistaken file, where it is told to be, in which key, and what is said.
type Mistake = (&'static str, (usize, usize), &'static str, &'static str);

fn told(mistakes: &[Mistake]) {
    for (text, place, key, says) in mistakes {
        let error = error(text);
        assert_eq!((error.line, error.column), *place, "{text:?}: {error}");
        assert_eq!(error.key, *key, "{text:?}: {error}");
        assert!(error.what.contains(says), "{text:?}: {error}");
        assert!(error.to_string().starts_with(&format!("line {}, column {}", place.0, place.1)), "{error}");
    }
}

#[test]
fn every_mistake_is_told_with_its_place() {
    told(&[
        ("x =", (1, 4), "", ""),
        ("\n[limit]\n", (2, 2), "limit", "unknown key `limit`: did you mean `limits`?"),
        ("[limits]\nguest_per_plan = 1", (2, 1), "limits.guest_per_plan", "did you mean `guests_per_plan`?"),
        (
            "[operations]\nnever = [\"start\", \"destory\"]",
            (2, 19),
            "operations.never[1]",
            "did you mean `destroy`?",
        ),
        ("[roles.agnet]\n", (1, 8), "roles.agnet", "did you mean `agent`?"),
        ("[roles.viewer]\nnever = []", (1, 1), "roles.viewer", "never acts"),
        ("[identities.\"A b\"]", (1, 13), "identities.\"A b\"", "does not match"),
        ("[hours]\nquiet = [1,\n  24]", (2, 9), "hours.quiet", "24 is no hour: hours are 0 to 23"),
        ("[hours]\nquiet = [300]", (2, 10), "hours.quiet[0]", "expected a whole number from 0 to 255"),
        ("[hours]\nrestart_safe = [2]\nquiet = [2]", (2, 16), "hours.restart_safe", "leave one out"),
        ("time_zone = \"Europe/Roma\"", (1, 13), "time_zone", "did you mean `Europe/Rom"),
        ("time_zone = \"Etc/Unknown\"", (1, 13), "time_zone", "there is no time zone"),
        ("time_zone = \"../../etc/passwd\"", (1, 13), "time_zone", "there is no time zone"),
    ]);
    assert!(error(&"#".repeat(policy::FILE_BYTES_MAX + 1)).what.contains("right file"));
}

#[test]
fn what_is_out_of_bounds_is_told_with_its_place() {
    told(&[
        ("[limits]\nruns_at_once = 0", (2, 16), "limits.runs_at_once", "at least 1"),
        ("[limits]\nruns_at_once = -1", (2, 16), "limits.runs_at_once", "from 0 to 4294967295"),
        ("[limits]\nsteps_per_plan = 501", (2, 18), "limits.steps_per_plan", "use 1 to 500"),
        ("[limits]\nsteps_per_plan = \"5\"", (2, 18), "limits.steps_per_plan", "invalid type: string"),
        ("[approval]\nplan_minutes = 0", (2, 16), "approval.plan_minutes", "use 1 to 10080"),
        ("[approval]\napproval_minutes = 1441", (2, 20), "approval.approval_minutes", "use 1 to 1440"),
        ("[approval]\ntwo_people = [\"start\"]", (2, 14), "approval.two_people", "automatic by default"),
        (
            "[approval]\ntwo_people = [\"set\"]\n[roles.agent]\nautomatic = [\"set\"]",
            (2, 14),
            "approval.two_people",
            "automatic in [roles.agent]",
        ),
        ("[protected]\nguests = [\"a b\"]", (2, 10), "protected.guests", "names no guest"),
        ("[protected]\ntags = [\"tag:x\"]", (2, 8), "protected.tags", "is no tag of Proxmox"),
        ("[protected]\ntags = [\"\"]", (2, 8), "protected.tags", "is no tag of Proxmox"),
        ("[services]\ndns = []", (2, 7), "services.dns", "name one"),
        ("[services]\ndns = \"104\"", (2, 7), "services.dns", "invalid type"),
        (
            "[caution]\nbackup_before_destroy_hours = 0",
            (2, 31),
            "caution.backup_before_destroy_hours",
            "or `never`",
        ),
        (
            "[caution]\nsnapshot_before = [\"destroy\"]",
            (2, 19),
            "caution.snapshot_before",
            "bring nothing back",
        ),
        (
            "[caution.undo_unless_confirmed_minutes]\ndestroy = 5",
            (2, 11),
            "caution.undo_unless_confirmed_minutes.destroy",
            "cannot be taken back",
        ),
        (
            "[caution.undo_unless_confirmed_minutes]\nset = 1441",
            (2, 7),
            "caution.undo_unless_confirmed_minutes.set",
            "use 1 to 1440",
        ),
        ("[limits]\nruns_at_once = 1\nruns_at_once = 2", (3, 1), "", "duplicate key"),
    ]);
}

#[test]
fn borders_are_inside() {
    for text in [
        "[hours]\nrestart_safe = [0, 23]\nquiet = [0]",
        "[limits]\nsteps_per_plan = 500\nguests_per_plan = 1",
        "[approval]\nplan_minutes = 10080\napproval_minutes = 1440",
        "[caution]\nbackup_before_destroy_hours = 1\nundo_unless_confirmed_minutes = { set = 1440 }",
        "time_zone = \"UTC\"",
        "time_zone = \"America/Argentina/ComodRivadavia\"",
    ] {
        policy::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"));
    }
}

#[test]
fn what_is_odd_is_told() {
    let warned = |text: &str| policy::warnings(&policy::parse(text).unwrap());
    assert_eq!(warned(""), [""; 0]);
    assert_eq!(warned("time_zone = \"UTC\"\n[hours]\nquiet = [1]"), [""; 0]);
    assert!(warned("[hours]\nquiet = [1]")[0].contains("UTC"));
    assert!(
        warned("[operations]\nautomatic = [\"set\"]\nnever = [\"set\"]")[0].contains("the stricter counts")
    );
    assert!(warned("[identities.ci]\nautomatic = [\"destroy\"]")[0].contains("[identities.ci]"));
    assert!(warned("[protected]\nflag = false")[0].contains("does not protect"));
}

#[test]
fn a_bad_file_is_never_less_strict() {
    let text = |text: &str| FileRead::Text(text.to_owned());
    let strict = text("[operations]\nnever = [\"start\"]");
    let never = |standing: &Standing| standing.policy().map(|policy| policy.operations.never.clone());
    let refused = |standing: &Standing| standing.policy().unwrap_err().code;
    let held = Ok(Some(BTreeSet::from([Operation::Start])));

    assert_eq!(never(&Standing::start(&FileRead::Absent)), Ok(None), "control: the default");
    let start = Standing::start(&strict);
    assert_eq!((never(&start), &start.trouble), (held.clone(), &None));
    let bad = [
        text("never = "),
        text(""),
        text(" \n"),
        FileRead::Absent,
        FileRead::Unreadable("no right".to_owned()),
    ];
    for bad in bad {
        let after = start.next(&bad);
        assert_eq!(never(&after), held, "{bad:?}");
        assert!(after.trouble.as_ref().unwrap().contains("last good policy holds"), "{after:?}");
        assert_eq!(never(&after.next(&FileRead::Absent)), held, "{bad:?}, then gone");
        assert_eq!(never(&after.next(&text("# none"))), Ok(None), "{bad:?}, then corrected");
    }
    // Nothing good was ever read.
    let broken = Standing::start(&text("[limit]"));
    assert_eq!(refused(&broken), RefusalCode::NotSeen);
    assert!(broken.policy().unwrap_err().message.contains("line 1, column 2"), "{broken:?}");
    assert_eq!(refused(&broken.next(&FileRead::Absent)), RefusalCode::NotSeen);
    assert_eq!(refused(&broken.next(&text(""))), RefusalCode::NotSeen);
    assert_eq!(never(&broken.next(&strict)), held);
    // A first file is taken, and an absent one stays the default.
    let none = Standing::start(&FileRead::Absent);
    assert_eq!(never(&none.next(&strict)), held);
    assert_eq!(never(&none.next(&FileRead::Absent)), Ok(None));
    assert_eq!(never(&none.next(&text("x"))), Ok(None), "the default holds, with its trouble told");
}

#[test]
fn protection_is_by_number_name_tag_and_flag() {
    let lab = lab();
    let view = View::of_seen(&key(105), lab.seen(105));
    let tagged = View { tags: ["Core".to_owned()].into(), ..view.clone() };
    let flagged = View { flag: Some(true), ..view.clone() };
    let unread = View { flag: None, ..view.clone() };
    let why = |text: &str, view: &View| policy::protection(view, &policy::parse(text).unwrap());
    assert_eq!(why("", &view), None);
    for reference in ["105", "home/105", "web", "WEB", "home/web", "vm.home.105", "lxc.home.105"] {
        let text = format!("[protected]\nguests = [\"{reference}\"]");
        assert_eq!(why(&text, &view), Some(format!("policy protects {reference}")));
    }
    for reference in ["106", "attic/105", "name:105", "tag:web", "vm.attic.105"] {
        assert_eq!(why(&format!("[protected]\nguests = [\"{reference}\"]"), &view), None, "{reference}");
    }
    assert_eq!(
        why("[protected]\nguests = [\"tag:core\"]", &tagged),
        Some("policy protects tag:core".to_owned())
    );
    assert_eq!(
        why("[protected]\ntags = [\"core\"]", &tagged),
        Some("policy protects what has the tag core".to_owned())
    );
    assert_eq!(why("", &tagged), None);
    assert!(why("", &flagged).unwrap().contains("switched on in Proxmox"));
    assert!(why("", &unread).unwrap().contains("could not be read"));
    assert_eq!(why("[protected]\nflag = false", &flagged), None);
    assert_eq!(why("[protected]\nflag = false", &unread), None);
    let nas = View::of_seen(&key(101), lab.seen(101));
    assert!(why("", &nas).unwrap().contains("critical"), "the default tags protect");
}

#[test]
fn services_are_carried_by_name_or_by_the_table() {
    let lab = lab();
    let carries = |text: &str, vmid, service: &str| {
        policy::carries(&View::of_seen(&key(vmid), lab.seen(vmid)), service, &policy::parse(text).unwrap())
    };
    assert!(carries("", 106, "db") && carries("", 106, "DB") && !carries("", 105, "db"));
    assert!(carries("services.db = [\"105\"]", 105, "db") && !carries("services.db = [\"105\"]", 106, "db"));
    assert!(carries("services.db = [\"1\", \"tag:lab\"]", 107, "db"));
}

#[test]
fn the_schema_that_is_checked_in_is_this_programs() {
    let text = include_str!("../../../../docs/policy.schema.json");
    let checked_in: serde_json::Value = serde_json::from_str(text).unwrap();
    let ours = policy::schema();
    let pretty = serde_json::to_string_pretty(&ours).unwrap();
    assert!(checked_in == ours, "docs/policy.schema.json is to be:\n{pretty}");
    assert_eq!(ours["$defs"]["Hours"]["properties"]["quiet"]["items"]["maximum"], 23);
    assert_eq!(ours["$defs"]["Limits"]["properties"]["runs_at_once"]["minimum"], 1);
}

#[test]
fn the_document_shows_the_default_file() {
    let text = include_str!("../../../../docs/policy.md");
    assert!(
        text.contains(&policy::default_text()),
        "docs/policy.md shows another file than policy/default.toml"
    );
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused_inside_the_file(text in "\\PC*|([a-z_]{1,9}|[\\[\\]\"={},\\. \n#0-9])*") {
        if let Err(error) = policy::parse(&text) {
            let lines = text.split('\n').count();
            prop_assert!((1..=lines).contains(&error.line), "{error} of {lines} lines");
            prop_assert!(error.column >= 1 && !error.what.is_empty());
        }
    }

    #[test]
    fn references_never_mean_two_guests_of_one_number(vmid in 1u32..1000, other in 1u32..1000) {
        let lab = lab();
        let view = View { key: key(vmid), name: "x".to_owned(), ..View::of_seen(&key(105), lab.seen(105)) };
        let reference = GuestRef::parse(&other.to_string()).unwrap();
        prop_assert_eq!(policy::names(&reference, &view), vmid == other);
    }
}
