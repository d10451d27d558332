//! Saying yes, and applying: who, to what, once, and not for ever.

use crate::{
    lab::{Lab, intent, lab, name, now, plan, power_plan, record_of},
    steps::destroy,
};
use jiff::SignedDuration;
use nhi_decide::gate::{self, Apply, Approve, Input, Recent};
use nhi_model::{
    Timestamp,
    identity::Role,
    intent::{Intent, Operation},
    plan::{Approval, Digest, Gate, PlanRecord, PlanState, Rehearsal, Verdict},
    refusal::{Refusal, RefusalCode},
    run::{Freeze, RunId},
};

/// A stop that an agent asked for, waiting for one approval.
fn waiting(lab: &Lab) -> PlanRecord {
    record_of(power_plan(lab, Operation::Stop, 105), Verdict::Approval, 1)
}

fn ask(
    lab: &Lab,
    record: &PlanRecord,
    by: &str,
    role: Role,
    change: impl FnOnce(&mut Approve<'_>),
) -> Result<Approval, Refusal> {
    let by = name(by);
    let digest = record.plan.digest().clone();
    let mut wish =
        Approve { now: now(), record, by: &by, role, digest: &digest, name: None, policy: &lab.policy };
    change(&mut wish);
    gate::approve(&wish)
}

fn approved(lab: &Lab, mut record: PlanRecord, by: &str) -> PlanRecord {
    let approval = ask(lab, &record, by, Role::Operator, |wish| wish.name = Some("idle")).unwrap();
    record.approvals.push(approval);
    record
}

fn code<T>(answer: Result<T, Refusal>) -> RefusalCode {
    match answer {
        Ok(_) => panic!("it was allowed"),
        Err(refusal) => {
            assert!(!refusal.hint.is_empty(), "{refusal:?}");
            refusal.code
        }
    }
}

fn minutes(count: i64) -> SignedDuration {
    SignedDuration::from_mins(count)
}

#[test]
fn an_operator_says_yes_for_a_while() {
    let lab = lab();
    let record = waiting(&lab);
    let approval = ask(&lab, &record, "ada", Role::Operator, |_| {}).unwrap();
    assert_eq!((&approval.by, approval.at), (&name("ada"), now()));
    assert_eq!(approval.expires_at, now() + minutes(10));
    // It does not outlive the plan.
    let late = ask(&lab, &record, "ada", Role::Owner, |wish| wish.now = now() + minutes(55)).unwrap();
    assert_eq!(late.expires_at, record.plan.expires_at);
}

#[test]
fn not_everybody_can_say_yes_and_not_to_everything() {
    let lab = lab();
    let record = waiting(&lab);
    assert_eq!(code(ask(&lab, &record, "aider", Role::Agent, |_| {})), RefusalCode::SelfApproval);
    assert_eq!(code(ask(&lab, &record, "aider", Role::Operator, |_| {})), RefusalCode::SelfApproval);
    assert_eq!(code(ask(&lab, &record, "other", Role::Agent, |_| {})), RefusalCode::Never);
    assert_eq!(code(ask(&lab, &record, "watch", Role::Viewer, |_| {})), RefusalCode::Never);
    let other = Digest::of([8; 32]);
    let wrong = |record: &PlanRecord| {
        let by = name("ada");
        let (now, role) = (now(), Role::Operator);
        gate::approve(&Approve {
            now,
            record,
            by: &by,
            role,
            digest: &other,
            name: None,
            policy: &lab.policy,
        })
    };
    assert_eq!(code(wrong(&record)), RefusalCode::WrongDigest);
    let expiry =
        |after| ask(&lab, &record, "ada", Role::Operator, |wish| wish.now = now() + minutes(60) + after);
    assert!(expiry(SignedDuration::from_nanos(-1)).is_ok());
    assert_eq!(code(expiry(SignedDuration::ZERO)), RefusalCode::Expired);
    let second = approved(&lab, record.clone(), "ada");
    assert_eq!(code(ask(&lab, &second, "ada", Role::Operator, |_| {})), RefusalCode::Used);
    assert!(
        ask(&lab, &second, "ada", Role::Operator, |wish| wish.now = now() + minutes(10)).is_ok(),
        "it has expired"
    );
    for verdict in [Verdict::Automatic, Verdict::Confirm] {
        let record = record_of(record.plan.clone(), verdict, 0);
        assert_eq!(code(ask(&lab, &record, "ada", Role::Operator, |_| {})), RefusalCode::NothingToDo);
    }
}

fn over(record: &PlanRecord, state: PlanState) -> PlanRecord {
    PlanRecord { state, ..record.clone() }
}

fn all_over(record: &PlanRecord) -> Vec<(PlanRecord, RefusalCode)> {
    let (by, at) = (name("ada"), now());
    let run = RunId::parse("r-abcd1234").unwrap();
    vec![
        (over(record, PlanState::Applied { run, by: by.clone(), at }), RefusalCode::Used),
        (
            over(record, PlanState::Rejected { by: by.clone(), reason: "no".to_owned(), at }),
            RefusalCode::Used,
        ),
        (over(record, PlanState::Rejected { by: by.clone(), reason: String::new(), at }), RefusalCode::Used),
        (over(record, PlanState::Cancelled { by, at }), RefusalCode::Used),
        (
            over(record, PlanState::Void { changes: vec!["web was stopped".to_owned()], at }),
            RefusalCode::Stale,
        ),
    ]
}

#[test]
fn what_is_over_is_neither_approved_nor_applied() {
    let lab = lab();
    for (record, expected) in all_over(&approved(&lab, waiting(&lab), "ada")) {
        assert_eq!(code(ask(&lab, &record, "eve", Role::Operator, |_| {})), expected);
        assert_eq!(code(apply(&lab, &record, "aider", Role::Agent, |_| {})), expected);
    }
}

/// An agent's plan is applied.
fn apply(
    lab: &Lab,
    record: &PlanRecord,
    by: &str,
    role: Role,
    change: impl FnOnce(&mut Apply<'_>),
) -> Result<Gate, Refusal> {
    of_author(lab, record, by, role, Role::Agent, change)
}

fn of_author(
    lab: &Lab,
    record: &PlanRecord,
    by: &str,
    role: Role,
    author: Role,
    change: impl FnOnce(&mut Apply<'_>),
) -> Result<Gate, Refusal> {
    let (by, recent) = (name(by), Recent::default());
    let digest = record.plan.digest().clone();
    let input = lab.input(&record.plan, author, &recent);
    let mut wish = Apply { record, by: &by, role, digest: &digest, name: None, input };
    change(&mut wish);
    gate::may_apply(&wish)
}

#[test]
fn an_approved_plan_is_applied_by_its_agent_or_an_operator() {
    let lab = lab();
    let record = waiting(&lab);
    assert_eq!(code(apply(&lab, &record, "aider", Role::Agent, |_| {})), RefusalCode::NeedsApproval);
    assert_eq!(code(apply(&lab, &record, "ada", Role::Owner, |_| {})), RefusalCode::NeedsApproval);
    let record = approved(&lab, record, "ada");
    assert_eq!(apply(&lab, &record, "aider", Role::Agent, |_| {}).unwrap().verdict, Verdict::Approval);
    assert!(apply(&lab, &record, "ada", Role::Operator, |_| {}).is_ok());
    assert_eq!(code(apply(&lab, &record, "other", Role::Agent, |_| {})), RefusalCode::Never);
    assert_eq!(code(apply(&lab, &record, "watch", Role::Viewer, |_| {})), RefusalCode::Never);
    let wrong = Digest::of([8; 32]);
    let (by, recent) = (name("aider"), Recent::default());
    let input = lab.input(&record.plan, Role::Agent, &recent);
    let wish = Apply { record: &record, by: &by, role: Role::Agent, digest: &wrong, name: None, input };
    assert_eq!(code(gate::may_apply(&wish)), RefusalCode::WrongDigest);
}

#[test]
fn an_approval_ends_is_bound_to_its_digest_and_never_ones_own() {
    let lab = lab();
    let record = approved(&lab, waiting(&lab), "ada");
    let at = |time: Timestamp| apply(&lab, &record, "aider", Role::Agent, |wish| wish.input.now = time);
    assert!(at(now() + minutes(10) - SignedDuration::from_nanos(1)).is_ok());
    assert_eq!(code(at(now() + minutes(10))), RefusalCode::Expired);
    assert_eq!(
        code(at(now() - minutes(1))),
        RefusalCode::NeedsApproval,
        "an approval of the future counts for nothing"
    );
    let mut other = record.clone();
    other.approvals[0].digest = Digest::of([8; 32]);
    assert_eq!(code(apply(&lab, &other, "aider", Role::Agent, |_| {})), RefusalCode::NeedsApproval);
    let mut own = record.clone();
    own.approvals[0].by = name("aider");
    assert_eq!(code(apply(&lab, &own, "aider", Role::Agent, |_| {})), RefusalCode::NeedsApproval);
    let mut twice = record.clone();
    twice.gate.approvals = 2;
    twice.approvals.push(twice.approvals[0].clone());
    assert_eq!(code(apply(&lab, &twice, "aider", Role::Agent, |_| {})), RefusalCode::NeedsApproval);
    let both = approved(&lab, PlanRecord { approvals: record.approvals.clone(), ..twice }, "eve");
    assert!(apply(&lab, &both, "aider", Role::Agent, |_| {}).is_ok());
}

#[test]
fn a_persons_plan_is_that_persons() {
    let lab = lab();
    let mut plan = power_plan(&lab, Operation::Stop, 105);
    plan.by = name("ada");
    let record = record_of(plan, Verdict::Confirm, 0);
    let by = |by: &str, role| of_author(&lab, &record, by, role, Role::Operator, |_| {});
    assert_eq!(by("ada", Role::Operator).unwrap().verdict, Verdict::Confirm);
    assert_eq!(code(by("eve", Role::Owner)), RefusalCode::Never);
    assert_eq!(code(by("aider", Role::Agent)), RefusalCode::Never);
}

#[test]
fn who_destroys_types_the_name() {
    let lab = lab();
    let gone = |steps| plan(&lab, intent(Operation::Destroy, 107), steps);
    let mut own = gone(vec![destroy(107, "pve2")]);
    own.by = name("ada");
    let record = record_of(own, Verdict::Confirm, 0);
    let typed = |name: Option<&'static str>| {
        of_author(&lab, &record, "ada", Role::Owner, Role::Owner, |wish| wish.name = name)
    };
    assert_eq!(code(typed(None)), RefusalCode::NameNotTyped);
    for wrong in ["", "IDLE", "idl", "107", "idle,web"] {
        assert_eq!(code(typed(Some(wrong))), RefusalCode::NameNotTyped, "{wrong}");
    }
    assert!(typed(Some("idle")).is_ok());

    let agents = record_of(gone(vec![destroy(107, "pve2")]), Verdict::Approval, 1);
    let asked =
        |name: Option<&'static str>| ask(&lab, &agents, "ada", Role::Operator, |wish| wish.name = name);
    assert_eq!(code(asked(None)), RefusalCode::NameNotTyped);
    assert!(asked(Some("idle")).is_ok());
    let agents = approved(&lab, agents, "ada");
    assert!(apply(&lab, &agents, "aider", Role::Agent, |_| {}).is_ok(), "the approver typed it");
    assert_eq!(code(apply(&lab, &agents, "ada", Role::Operator, |_| {})), RefusalCode::NameNotTyped);

    let mut two = gone(vec![destroy(107, "pve2"), destroy(110, "pve1")]);
    two.by = name("ada");
    let two = record_of(two, Verdict::Confirm, 0);
    let typed = |name: &'static str| {
        of_author(&lab, &two, "ada", Role::Owner, Role::Owner, |wish| wish.name = Some(name))
    };
    assert_eq!(code(typed("idle")), RefusalCode::NameNotTyped);
    assert!(typed("linked, idle").is_ok());
}

#[test]
fn policy_of_now_counts_when_it_is_applied() {
    let mut lab = lab();
    let start = record_of(power_plan(&lab, Operation::Start, 107), Verdict::Automatic, 0);
    assert!(apply(&lab, &start, "aider", Role::Agent, |_| {}).is_ok());
    let freeze: &'static Freeze =
        Box::leak(Box::new(Freeze { by: name("ada"), reason: String::new(), since: now() }));
    let frozen = apply(&lab, &start, "aider", Role::Agent, |wish| wish.input.frozen = Some(freeze));
    assert_eq!(code(frozen), RefusalCode::Frozen);
    lab.policy_of("[roles.agent]\nnever = [\"start\"]");
    assert_eq!(code(apply(&lab, &start, "aider", Role::Agent, |_| {})), RefusalCode::Never);
    lab.policy_of("[operations]\nautomatic = []");
    assert_eq!(code(apply(&lab, &start, "aider", Role::Agent, |_| {})), RefusalCode::NeedsApproval);
    // What was told to need approval still does when policy grew milder.
    lab.policy_of("[operations]\nautomatic = [\"stop\"]");
    assert_eq!(code(apply(&lab, &waiting(&lab), "aider", Role::Agent, |_| {})), RefusalCode::NeedsApproval);
    lab.policy_of("[hours]\nquiet = [13]");
    let gate = apply(&lab, &start, "aider", Role::Agent, |_| {}).unwrap();
    assert_eq!(gate.not_before, Some("2026-06-15T14:00:00Z".parse().unwrap()));
}

#[test]
fn agents_have_rates_and_people_have_none() {
    let lab = lab();
    let start = record_of(power_plan(&lab, Operation::Start, 107), Verdict::Automatic, 0);
    let with = |recent: Recent, by: &str, role| {
        let (by, digest) = (name(by), start.plan.digest().clone());
        let input = Input { recent: &recent, ..lab.input(&start.plan, Role::Agent, &recent) };
        gate::may_apply(&Apply { record: &start, by: &by, role, digest: &digest, name: None, input })
    };
    let recent = Recent::default();
    assert!(with(Recent { applies_last_hour: 29, running: 2, ..recent }, "aider", Role::Agent).is_ok());
    assert_eq!(
        code(with(Recent { applies_last_hour: 30, ..recent }, "aider", Role::Agent)),
        RefusalCode::Quota
    );
    assert_eq!(code(with(Recent { running: 3, ..recent }, "aider", Role::Agent)), RefusalCode::Quota);
    assert!(with(Recent { applies_last_hour: 30, running: 3, ..recent }, "ada", Role::Operator).is_ok());
}

#[test]
fn a_rehearsal_that_differs_ends_it() {
    let mut lab = lab();
    let mut start = record_of(power_plan(&lab, Operation::Start, 107), Verdict::Automatic, 0);
    let rehearsal = |as_expected| Rehearsal {
        at: now(),
        as_expected,
        changes: Vec::new(),
        differences: if as_expected { Vec::new() } else { vec!["idle did not start".to_owned()] },
    };
    start.rehearsal = Some(rehearsal(false));
    let refusal = apply(&lab, &start, "aider", Role::Agent, |_| {}).unwrap_err();
    assert_eq!(refusal.code, RefusalCode::RehearsalDiffers);
    assert!(refusal.message.contains("idle did not start"), "{refusal}");
    start.rehearsal = None;
    assert!(apply(&lab, &start, "aider", Role::Agent, |_| {}).is_ok());
    lab.policy_of("[caution]\nrehearse = [\"start\"]");
    assert_eq!(code(apply(&lab, &start, "aider", Role::Agent, |_| {})), RefusalCode::RehearsalDiffers);
    start.rehearsal = Some(rehearsal(true));
    let done = apply(&lab, &start, "aider", Role::Agent, |wish| wish.input.rehearsed = true);
    assert!(!done.unwrap().rehearse);
    let told = Intent::LabDown {};
    assert_ne!(start.plan.intent, told);
}
