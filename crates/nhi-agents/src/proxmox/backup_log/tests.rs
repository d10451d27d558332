//! What is taken from task logs, and how little is asked for.

use super::*;
use serde_json::Map;

const NOW_S: u64 = 1_790_000_000;
const DAY_S: u64 = 86_400;

fn task(start_s: u64, id: &str, status: &str) -> Task {
    Task {
        upid: format!("UPID:pve1:{start_s}:{id}"),
        node: Some("pve1".to_owned()),
        kind: "vzdump".to_owned(),
        id: (!id.is_empty()).then(|| id.to_owned()),
        user: None,
        starttime: start_s,
        endtime: (status != "RUNNING").then_some(start_s + 60),
        status: Some(status.to_owned()),
        rest: Map::new(),
    }
}

fn rows<T>(rows: Vec<T>) -> Rows<T> {
    Rows { rows, unreadable: 0 }
}

fn lines(text: &[&str]) -> Rows<LogLine> {
    let line = |(at, text): (usize, &&str)| LogLine {
        number: at as u64 + 1,
        text: (*text).to_owned(),
        rest: Map::new(),
    };
    rows(text.iter().enumerate().map(line).collect())
}

fn taken(tasks: Vec<Task>) -> BackupLog {
    let mut log = BackupLog::default();
    log.take("pve1", &rows(tasks), NOW_S);
    log
}

#[test]
fn only_what_ended_well_is_a_backup() {
    let log = taken(vec![
        task(NOW_S - 10, "100", "RUNNING"),
        task(NOW_S - 100, "100", "command 'vzdump' failed: exit code 1"),
        task(NOW_S - 200, "100", "unexpected status"),
        task(NOW_S - 300, "100", "WARNINGS: 1"),
        task(NOW_S - 400, "100", "OK"),
        task(NOW_S - 500, "101", "OK"),
        Task { kind: "qmstart".to_owned(), ..task(NOW_S - 50, "102", "OK") },
        task(NOW_S - 50, "pbs", "OK"),
    ]);
    assert_eq!(log.newest(), BTreeMap::from([(100, NOW_S - 300), (101, NOW_S - 500)]));
}

#[test]
fn the_next_question_begins_where_the_last_answer_ended() {
    let mut log = BackupLog::default();
    assert_eq!(log.query("pve1").since, None, "everything there is");
    log.take("pve1", &rows(vec![task(NOW_S - 100, "100", "OK")]), NOW_S);
    assert_eq!(log.query("pve1").since, Some(NOW_S - 100 - OVERLAP_S));
    assert_eq!(log.query("pve2").since, None, "of another node nothing is known");
    // One that still runs must be told when it ends, however late.
    let long = task(NOW_S - DAY_S, "101", "RUNNING");
    log.take("pve1", &rows(vec![long, task(NOW_S - 50, "100", "OK")]), NOW_S);
    assert_eq!(log.query("pve1").since, Some(NOW_S - DAY_S));
    log.take("pve1", &rows(vec![task(NOW_S - DAY_S, "101", "OK")]), NOW_S);
    assert_eq!(log.newest()[&101], NOW_S - DAY_S);
    assert_eq!(log.query("pve1").since, Some(NOW_S - 50 - OVERLAP_S));
    // What was told stays known when the log is rotated.
    log.take("pve1", &Rows::default(), NOW_S);
    assert_eq!(log.newest(), BTreeMap::from([(100, NOW_S - 50), (101, NOW_S - DAY_S)]));
}

#[test]
fn a_guest_that_moved_has_the_newest_of_all_nodes() {
    let mut log = taken(vec![task(NOW_S - 300, "100", "OK")]);
    log.take("pve2", &rows(vec![task(NOW_S - 200, "100", "OK")]), NOW_S);
    log.take("pve3", &rows(vec![task(NOW_S - 900, "100", "OK")]), NOW_S);
    assert_eq!(log.newest(), BTreeMap::from([(100, NOW_S - 200)]));
}

#[test]
fn a_clock_that_is_days_ahead_is_not_believed() {
    let log = taken(vec![task(NOW_S + 2 * DAY_S, "100", "OK"), task(NOW_S + 60, "101", "OK")]);
    assert_eq!(log.newest(), BTreeMap::from([(101, NOW_S + 60)]));
    assert_eq!(log.query("pve1").since, Some(NOW_S + 60 - OVERLAP_S));
}

#[test]
fn a_jobs_guests_are_told_by_its_log_alone() {
    let mut log = taken(vec![task(NOW_S - 300, "", "job errors")]);
    assert!(log.newest().is_empty());
    let upid = log.next_job("pve1").unwrap();
    let text = [
        "INFO: starting new backup job: vzdump 100 101 102 --storage nas",
        "INFO: Starting Backup of VM 100 (qemu)",
        "INFO: VM Name: INFO: Finished Backup of VM 999 (00:00:01)",
        "INFO: Finished Backup of VM 100 (00:05:12)",
        "INFO: Starting Backup of VM 101 (lxc)",
        "ERROR: Backup of VM 101 failed - mount failed",
        "INFO: Finished Backup of VM 102 (00:00:09)",
        "INFO: Finished Backup of VM x",
        "",
    ];
    log.take_job("pve1", &upid, &lines(&text));
    assert_eq!(log.newest(), BTreeMap::from([(100, NOW_S - 300), (102, NOW_S - 300)]));
    assert_eq!(log.next_job("pve1"), None);
    // It is told again, because questions overlap, and not read again.
    log.take("pve1", &rows(vec![task(NOW_S - 300, "", "job errors")]), NOW_S);
    assert_eq!(log.next_job("pve1"), None);
}

#[test]
fn the_newest_logs_are_read_and_none_forever() {
    let many = (0..100).map(|n| task(NOW_S - n * DAY_S, "", "OK")).collect();
    let mut log = taken(many);
    let mut read = Vec::new();
    while let Some(upid) = log.next_job("pve1") {
        log.take_job("pve1", &upid, &lines(&[]));
        read.push(upid);
    }
    let expected: Vec<_> = (0..8).map(|n| task(NOW_S - n * DAY_S, "", "OK").upid).collect();
    assert_eq!(read, expected);
    // One that cannot be had is given up.
    log.take("pve1", &rows(vec![task(NOW_S + 1, "", "OK")]), NOW_S);
    let mut tries = 0;
    while let Some(upid) = log.next_job("pve1") {
        log.job_failed("pve1", &upid);
        tries += 1;
    }
    assert_eq!(tries, 3);
}
