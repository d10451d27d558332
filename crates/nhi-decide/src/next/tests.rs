//! One situation after the other, and any journal at all.

use super::*;
use crate::sight::{GuestSight, NodeSight, Seen};
use nhi_model::{
    fact::Fact,
    guest::{GuestIdentity, GuestKind, GuestStatus},
    identity,
    intent::{GuestRef, Intent, Operation},
    plan::{ApiCall, Digest, Ends, Method, OnFailure, PlanId, Repeat, Risk, Step, Undo},
    run::Entry,
};
use proptest::prelude::*;
use std::collections::BTreeMap;

const NODE: &str = "pve1";

fn start() -> Timestamp {
    "2026-03-01T10:00:00Z".parse().unwrap()
}

fn at(seconds: u64) -> Timestamp {
    after(start(), Duration::from_secs(seconds))
}

fn guest(vmid: u32) -> Key {
    Key::guest(GuestKind::Qemu, "home", vmid)
}

fn is(vmid: u32, status: GuestStatus) -> Fact {
    Fact::Status { guest: guest(vmid), status }
}

fn step(vmid: u32, operation: Operation, before: GuestStatus, end: GuestStatus) -> Step {
    Step {
        what: format!("{operation} VM {vmid}"),
        operation,
        guest: guest(vmid),
        node: NODE.to_owned(),
        call: ApiCall {
            method: Method::Post,
            path: format!("/nodes/{NODE}/qemu/{vmid}/status/{operation}"),
            params: BTreeMap::new(),
        },
        ends: Ends::Task { kinds: vec![format!("qm{operation}")], vmid, seconds_max: 60 },
        before: vec![is(vmid, before), Fact::Unlocked { guest: guest(vmid) }],
        after: vec![is(vmid, end)],
        settle_s: 0,
        repeat: Repeat::Harmless,
        compensation: None,
    }
}

fn starts(vmid: u32) -> Step {
    let undo = step(vmid, Operation::Stop, GuestStatus::Running, GuestStatus::Stopped);
    let step = step(vmid, Operation::Start, GuestStatus::Stopped, GuestStatus::Running);
    Step { compensation: Some(Box::new(undo)), ..step }
}

fn reboots(vmid: u32) -> Step {
    let step = step(vmid, Operation::Reboot, GuestStatus::Running, GuestStatus::Running);
    Step { repeat: Repeat::Harmful, ..step }
}

fn plan(steps: Vec<Step>) -> Plan {
    let vmids: BTreeSet<Key> = steps.iter().map(|step| step.guest.clone()).collect();
    Plan {
        v: 1,
        id: PlanId::parse("p-test").unwrap(),
        cluster: "home".to_owned(),
        intent: Intent::Start { guest: GuestRef::parse("100").unwrap() },
        by: identity::owner(),
        reason: None,
        made_at: start(),
        expires_at: at(3600),
        revision: 1,
        reads: BTreeMap::new(),
        targets: Vec::new(),
        requires: vmids.into_iter().map(|guest| Fact::Exists { guest }).chain([Fact::Quorate {}]).collect(),
        expects: steps.iter().flat_map(|step| step.after.clone()).collect(),
        steps,
        effects: Vec::new(),
        config_changes: Vec::new(),
        impacts: Vec::new(),
        risk: Risk::Low,
        undo: Undo { intents: Vec::new(), complete: true, cost: String::new() },
        on_failure: OnFailure::Compensate,
        undo_unless_confirmed_minutes: None,
        digest: Some(Digest::of([7; 32])),
    }
}

fn run(journal: Vec<Entry>) -> Run {
    let plan = PlanId::parse("p-test").unwrap();
    Run {
        v: 1,
        id: plan.run(),
        plan,
        digest: Digest::of([7; 32]),
        by: identity::owner(),
        at: start(),
        holder: None,
        state: RunState::Running {},
        journal,
        dead_man: None,
        made: BTreeMap::new(),
        ended_at: None,
        acknowledged: None,
        unseen: Vec::new(),
    }
}

fn line(step: usize, mark: Mark) -> Entry {
    Entry { at: start(), step, leg: Leg::Forward, mark }
}

fn begun(step: usize) -> Entry {
    line(step, Mark::Begun { attempt: 1 })
}

fn sent(step: usize) -> Entry {
    line(step, Mark::Sent { upid: Some(format!("UPID:{step}")) })
}

fn ended(step: usize, text: &str) -> Entry {
    line(step, Mark::Ended { exit: exit(text) })
}

fn sight(now: Timestamp, guests: &[(u32, GuestStatus)]) -> Sight {
    let mut sight = Sight::nothing("home".to_owned(), now);
    sight.quorate = Some(true);
    sight.nodes.insert(NODE.to_owned(), NodeSight { online: true, memory_free_bytes: None });
    for (vmid, status) in guests {
        let seen = Seen {
            kind: GuestKind::Qemu,
            vmid: *vmid,
            node: NODE.to_owned(),
            name: format!("guest-{vmid}"),
            status: *status,
            lock: None,
            template: false,
            ha: None,
            identity: GuestIdentity::default(),
            config: BTreeMap::new(),
            config_whole: true,
            digest: None,
            snapshots: None,
            snapshot_count: None,
            processors: None,
            can_snapshot: None,
            newest_backup: None,
            migrate: None,
            pool: None,
        };
        sight.guests.insert(guest(*vmid), GuestSight::Seen(Box::new(seen)));
    }
    sight
}

const RUNNING: GuestStatus = GuestStatus::Running;
const STOPPED: GuestStatus = GuestStatus::Stopped;

/// What comes next at a moment, when the guests were seen so and the task list had these rows.
fn seen(plan: &Plan, journal: &[Entry], now: u64, guests: &[(u32, GuestStatus)], rows: &[TaskRow]) -> Next {
    let sight = sight(at(now), guests);
    let tasks = Asked { at: at(now), answer: Ok(rows.to_vec()) };
    let found = Found { sight: Some(&sight), tasks: Some(&tasks), ..Found::nothing(start()) };
    next(plan, &run(journal.to_vec()), &found, &Pace::REAL, at(now))
}

fn blind(plan: &Plan, journal: &[Entry]) -> Next {
    next(plan, &run(journal.to_vec()), &Found::nothing(start()), &Pace::REAL, start())
}

fn row(kind: &str, vmid: u32, ours: bool, started: Timestamp) -> TaskRow {
    TaskRow { upid: format!("UPID:{kind}:{vmid}"), kind: kind.to_owned(), vmid: Some(vmid), started, ours }
}

fn marked(next: Next) -> Mark {
    match next {
        Next::Journal { mark, .. } => mark,
        other => panic!("{other:?}"),
    }
}

fn failed_with(next: Next) -> String {
    match marked(next) {
        Mark::Failed { code, .. } => code,
        other => panic!("{other:?}"),
    }
}

fn is_unknown(next: Next) -> bool {
    matches!(marked(next), Mark::Unknown { text } if text.contains("look at"))
}

#[test]
fn a_step_goes_from_look_to_seen() {
    let plan = plan(vec![starts(100), starts(101)]);
    let guests = [(100, STOPPED), (101, STOPPED)];
    assert_eq!(blind(&plan, &[]), Next::Look([guest(100), guest(101)].into()));
    let send = Next::Send { leg: Leg::Forward, step: 0, attempt: 1 };
    assert_eq!(seen(&plan, &[], 0, &guests, &[]), send);
    let mut journal = vec![begun(0), sent(0)];
    assert_eq!(blind(&plan, &journal), Next::Follow { upid: "UPID:0".to_owned() });
    journal.push(ended(0, "WARNINGS: 2"));
    assert_eq!(blind(&plan, &journal), Next::Look([guest(100)].into()), "the others are not looked at");
    assert_eq!(marked(seen(&plan, &journal, 0, &[(100, RUNNING)], &[])), Mark::Seen {});
    journal.push(line(0, Mark::Seen {}));
    assert_eq!(blind(&plan, &journal), Next::Look([guest(101)].into()));
    assert_eq!(marked(seen(&plan, &journal, 0, &[(101, RUNNING)], &[])), Mark::AlreadySo {});
    journal.push(line(1, Mark::AlreadySo {}));
    assert_eq!(blind(&plan, &journal), Next::Verify);
    assert_eq!(phase(&plan, &journal), RunState::Verifying {});
}

#[test]
fn what_a_plan_requires_is_seen_before_the_first_call() {
    let plan = plan(vec![starts(100), starts(101)]);
    let guests = [(100, STOPPED), (101, STOPPED)];
    let look = |plan: &Plan, journal: &[Entry], sight: &Sight, now: u64| {
        let found = Found { sight: Some(sight), ..Found::nothing(start()) };
        next(plan, &run(journal.to_vec()), &found, &Pace::REAL, at(now))
    };
    let mut without_quorum = sight(start(), &guests);
    without_quorum.quorate = Some(false);
    assert_eq!(failed_with(look(&plan, &[], &without_quorum, 0)), place::PRECONDITION);
    // What cannot be told is asked again for a while, and never taken for a yes.
    without_quorum.quorate = None;
    assert!(matches!(look(&plan, &[], &without_quorum, 1), Next::Wait { .. }));
    assert_eq!(failed_with(look(&plan, &[], &without_quorum, 181)), place::PRECONDITION);
    let refused = [line(0, Mark::Failed { code: place::PRECONDITION.to_owned(), text: "no".to_owned() })];
    assert!(matches!(blind(&plan, &refused), Next::End(RunState::Failed { .. })));
    assert_eq!(effects(&plan, &refused), Effects::None);
    // A try that is known not to have left is none. After one it may have come late: it is not said that nothing was done.
    let tried = [begun(0), line(0, Mark::NotTaken {})];
    assert!(is_untouched(&tried) && !is_untouched(&tried[..1]));
    without_quorum.quorate = Some(false);
    assert!(is_unknown(look(&plan, &tried, &without_quorum, 0)));
    let mut changed = sight(start(), &guests);
    changed.seen_mut(&guest(100)).unwrap().lock = Some("create".to_owned());
    assert!(is_unknown(look(&plan, &tried, &changed, 0)));
    assert_eq!(failed_with(look(&plan, &[], &changed, 0)), place::PRECONDITION);
    let send = Next::Send { leg: Leg::Forward, step: 0, attempt: 2 };
    assert_eq!(look(&plan, &tried, &sight(start(), &guests), 0), send);
    // Between steps a lock may be on its way out.
    let mut locked = sight(start(), &guests);
    locked.seen_mut(&guest(101)).unwrap().lock = Some("snapshot".to_owned());
    let journal = [begun(0), sent(0), ended(0, "OK"), line(0, Mark::Seen {})];
    assert!(matches!(look(&plan, &journal, &locked, 1), Next::Wait { .. }));
    assert_eq!(failed_with(look(&plan, &journal, &locked, 11)), place::PRECONDITION);
}

#[test]
fn a_lost_answer_is_looked_for_and_never_guessed() {
    let plan = plan(vec![starts(100)]);
    let journal = [begun(0), line(0, Mark::AnswerLost { why: "cut".to_owned() })];
    assert!(matches!(blind(&plan, &journal), Next::Search { since, .. } if since < start()));
    let found = row("qmstart", 100, true, start());
    let adopted = Mark::Adopted { upid: found.upid.clone() };
    assert_eq!(marked(seen(&plan, &journal, 1, &[], std::slice::from_ref(&found))), adopted);
    // Somebody else's, another guest's, another kind, an older one.
    for other in [
        row("qmstart", 100, false, start()),
        row("qmstart", 101, true, start()),
        row("qmstop", 100, true, start()),
        row("qmstart", 100, true, start().checked_sub(Duration::from_secs(90)).unwrap()),
    ] {
        assert!(matches!(
            seen(&plan, &journal, 1, &[(100, STOPPED)], std::slice::from_ref(&other)),
            Next::Wait { .. }
        ));
        assert_eq!(marked(seen(&plan, &journal, 6, &[(100, STOPPED)], &[other])), Mark::NotTaken {});
    }
    assert_eq!(marked(seen(&plan, &journal, 6, &[(100, RUNNING)], &[])), Mark::Seen {}, "it is as wanted");
    assert!(is_unknown(seen(&plan, &journal, 6, &[(100, GuestStatus::Paused)], &[])));
    assert!(matches!(seen(&plan, &journal, 6, &[], &[]), Next::Wait { .. }));
    assert!(is_unknown(seen(&plan, &journal, 600, &[], &[])));
}

#[test]
fn a_harmful_call_waits_longer_and_is_proved_by_the_task_list() {
    let plan = plan(vec![reboots(100)]);
    let journal = [begun(0)];
    assert!(matches!(seen(&plan, &journal, 6, &[(100, RUNNING)], &[]), Next::Wait { .. }));
    assert_eq!(marked(seen(&plan, &journal, 36, &[(100, RUNNING)], &[])), Mark::NotTaken {});
    let journal = [begun(0), line(0, Mark::NotTaken {})];
    let again = Next::Send { leg: Leg::Forward, step: 0, attempt: 2 };
    assert_eq!(seen(&plan, &journal, 36, &[(100, RUNNING)], &[]), again);
    let journal = [&journal[..], &[line(0, Mark::Begun { attempt: 2 }), line(0, Mark::NotTaken {})]].concat();
    assert_eq!(failed_with(seen(&plan, &journal, 80, &[(100, RUNNING)], &[])), place::NOT_TAKEN);
    let without_a_task = Step { ends: Ends::Answer {}, ..reboots(100) };
    let plan = self::plan(vec![without_a_task]);
    assert!(is_unknown(seen(&plan, &[begun(0)], 36, &[(100, RUNNING)], &[])), "nothing proves it");
}

#[test]
fn a_task_that_failed_may_have_done_it_after_all() {
    let both = plan(vec![starts(100)]);
    let journal = [begun(0), sent(0), ended(0, "start failed")];
    assert_eq!(marked(seen(&both, &journal, 0, &[(100, RUNNING)], &[])), Mark::Seen {});
    assert_eq!(failed_with(seen(&both, &journal, 0, &[(100, STOPPED)], &[])), place::TASK_FAILED);
    let partly = [(100, GuestStatus::Paused)];
    assert!(matches!(seen(&both, &journal, 1, &partly, &[]), Next::Wait { .. }));
    assert_eq!(failed_with(seen(&both, &journal, 11, &partly, &[])), place::TASK_FAILED);
    // A reboot that failed leaves the guest running, as one that did not.
    let reboot = plan(vec![reboots(100)]);
    assert_eq!(failed_with(seen(&reboot, &journal, 0, &[(100, RUNNING)], &[])), place::TASK_FAILED);
    let killed = [begun(0), sent(0), ended(0, "unexpected status")];
    assert!(is_unknown(seen(&reboot, &killed, 11, &[(100, RUNNING)], &[])));
    assert_eq!(marked(seen(&both, &killed, 0, &[(100, RUNNING)], &[])), Mark::Seen {});
    assert_eq!(failed_with(seen(&both, &killed, 11, &[(100, STOPPED)], &[])), place::TASK_FAILED);
    let endless = [begun(0), sent(0), line(0, Mark::Ended { exit: TaskExit::Endless {} })];
    assert!(is_unknown(blind(&both, &endless)));
    let fine = [begun(0), sent(0), ended(0, "OK")];
    assert!(matches!(seen(&both, &fine, 1, &[(100, STOPPED)], &[]), Next::Wait { .. }));
    assert_eq!(failed_with(seen(&both, &fine, 11, &[(100, STOPPED)], &[])), place::NOT_AS_EXPECTED);
}

#[test]
fn a_failure_takes_back_what_was_done_in_reverse() {
    let two = plan(vec![starts(100), starts(101)]);
    let failed = |code: &str| line(1, Mark::Failed { code: code.to_owned(), text: "no".to_owned() });
    let first = [begun(0), sent(0), ended(0, "OK"), line(0, Mark::Seen {})];
    let journal = [&first[..], &[begun(1), failed(place::TASK_FAILED)]].concat();
    assert_eq!(phase(&two, &journal), RunState::Compensating {});
    // The step that failed half way goes first, and had left nothing.
    assert_eq!(blind(&two, &journal), Next::Look([guest(101)].into()));
    let nothing_left = seen(&two, &journal, 0, &[(101, STOPPED)], &[]);
    assert_eq!(nothing_left, Next::Journal { leg: Leg::Back, step: 1, mark: Mark::AlreadySo {} });
    let stop = Next::Send { leg: Leg::Back, step: 1, attempt: 1 };
    assert_eq!(seen(&two, &journal, 0, &[(101, RUNNING)], &[]), stop);
    // One that was refused has nothing to take back.
    let journal = [&first[..], &[begun(1), failed(place::REFUSED)]].concat();
    let stop = Next::Send { leg: Leg::Back, step: 0, attempt: 1 };
    assert_eq!(seen(&two, &journal, 0, &[(100, RUNNING)], &[]), stop);
    let back = |mark| [&journal[..], &[Entry { leg: Leg::Back, ..line(0, mark) }]].concat();
    let undone = back(Mark::Seen {});
    assert!(matches!(blind(&two, &undone), Next::End(RunState::Compensated { .. })));
    assert_eq!(effects(&two, &undone), Effects::TakenBack);
    let stuck = back(Mark::Failed { code: place::REFUSED.to_owned(), text: "locked".to_owned() });
    assert!(matches!(blind(&two, &stuck), Next::End(RunState::NeedsHuman { .. })));
    assert_eq!(effects(&two, &stuck), Effects::Some);
    let stop = Plan { on_failure: OnFailure::Stop, ..two };
    assert!(matches!(blind(&stop, &journal), Next::End(RunState::Failed { .. })));
}

#[test]
fn the_scanner_has_the_last_word() {
    let plan = plan(vec![starts(100)]);
    let run = run(vec![line(0, Mark::AlreadySo {})]);
    let ask = |verified: &Verified, seconds: u64| {
        let found = Found { verified: Some((verified, 9)), ..Found::nothing(start()) };
        next(&plan, &run, &found, &Pace::REAL, at(seconds))
    };
    assert_eq!(ask(&Verified::Done, 1), Next::End(RunState::Done { revision: 9 }));
    let unseen = Verified::NotYet { unseen: plan.expects.clone() };
    let otherwise = Verified::Diverged { differences: vec!["no".to_owned()], unseen: plan.expects.clone() };
    assert!(matches!(ask(&unseen, 1), Next::Wait { .. }));
    assert!(matches!(ask(&otherwise, 1), Next::Wait { .. }));
    assert!(matches!(ask(&unseen, 301), Next::End(RunState::NeedsHuman { .. })));
    assert!(matches!(ask(&otherwise, 301), Next::End(RunState::Failed { .. })));
}

/// Any mark, also where none of ours would stand.
fn marks() -> impl Strategy<Value = Mark> {
    let text = || "why".to_owned();
    let upid = || "UPID:x".to_owned();
    prop_oneof![
        (1_u32..3).prop_map(|attempt| Mark::Begun { attempt }),
        Just(Mark::Sent { upid: Some(upid()) }),
        Just(Mark::Sent { upid: None }),
        Just(Mark::Refused { status: 500, text: text() }),
        Just(Mark::AnswerLost { why: text() }),
        Just(Mark::Adopted { upid: upid() }),
        Just(Mark::NotTaken {}),
        prop_oneof![Just("OK"), Just("no"), Just("unexpected status")]
            .prop_map(|end| Mark::Ended { exit: exit(end) }),
        Just(Mark::Ended { exit: TaskExit::Endless {} }),
        Just(Mark::Seen {}),
        Just(Mark::AlreadySo {}),
        prop_oneof![Just("precondition"), Just("task-failed"), Just("refused")]
            .prop_map(move |code| Mark::Failed { code: code.to_owned(), text: text() }),
        Just(Mark::Unknown { text: text() }),
    ]
}

fn journals() -> impl Strategy<Value = Vec<Entry>> {
    let leg = prop_oneof![3 => Just(Leg::Forward), 1 => Just(Leg::Back)];
    let entry =
        (0_usize..3, leg, marks()).prop_map(|(step, leg, mark)| Entry { at: start(), step, leg, mark });
    prop::collection::vec(entry, 0..14)
}

fn closes(mark: &Mark) -> bool {
    matches!(mark, Mark::Seen {} | Mark::AlreadySo {} | Mark::Failed { .. } | Mark::Unknown { .. })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4096))]

    #[test]
    fn no_prefix_of_any_journal_repeats_a_step(
        journal in journals(),
        statuses in prop::array::uniform3(0_usize..4),
        seconds in prop_oneof![Just(0_u64), Just(7), Just(40), Just(4000)],
        listed in any::<bool>(),
    ) {
        let plan = plan(vec![starts(100), reboots(101), starts(102)]);
        let words = [RUNNING, STOPPED, GuestStatus::Paused];
        let guests: Vec<(u32, GuestStatus)> = (100..).zip(statuses)
            .filter_map(|(vmid, word)| words.get(word).map(|status| (vmid, *status))).collect();
        let rows = [row("qmstart", 100, true, start()), row("qmreboot", 101, true, start())];
        for length in 0..=journal.len() {
            let journal = &journal[..length];
            let told = seen(&plan, journal, seconds, &guests, if listed { &rows } else { &[] });
            let of = |leg: Leg, step: usize| journal.iter().filter(move |e| e.leg == leg && e.step == step);
            match &told {
                Next::Send { leg, step, attempt } => {
                    prop_assert!(!of(*leg, *step).any(|entry| closes(&entry.mark)));
                    let tries = of(*leg, *step).filter(|e| matches!(e.mark, Mark::Begun { .. })).count();
                    prop_assert!(*attempt <= 2 && (*attempt == 1 || tries > 0));
                    let last = of(*leg, *step).next_back();
                    let is_open = last.is_some_and(|entry| entry.mark != Mark::NotTaken {});
                    prop_assert!(!is_open, "sent again while it is open");
                    if *leg == Leg::Back {
                        let failed = journal.iter().any(|e| matches!(e.mark, Mark::Failed { .. }));
                        prop_assert!(failed, "taken back without a failure");
                    } else {
                        prop_assert!((0..*step).all(|earlier| of(*leg, earlier).any(|e| closes(&e.mark))));
                    }
                }
                Next::Journal { leg, step, .. } => {
                    prop_assert!(!of(*leg, *step).any(|entry| closes(&entry.mark)));
                }
                // What is over stays so, whatever is seen.
                Next::End(state) => {
                    prop_assert!(state.is_over());
                    prop_assert_eq!(&blind(&plan, journal), &told);
                    let over = Run { state: state.clone(), ..run(journal.to_vec()) };
                    let after = next(&plan, &over, &Found::nothing(start()), &Pace::REAL, start());
                    prop_assert_eq!(after, Next::Over);
                }
                Next::Look(_) | Next::Follow { .. } | Next::Search { .. } | Next::Wait { .. } | Next::Verify => {}
                Next::Over => prop_assert!(false, "it is not over"),
            }
        }
    }
}
