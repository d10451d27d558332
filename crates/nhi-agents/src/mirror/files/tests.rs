//! The mirror's files on a real disk, a small one too. Killed writers are in `tests/mirror_kill.rs`.

use super::*;
use crate::{alerts, mirror::problem};
use nhi_bus::view::{Entry, Snapshot};
use nhi_decide::change::What;
use nhi_model::{
    SCHEMA_VERSION,
    envelope::{OpId, Stored},
    identity::Agent,
};
use std::{
    os::unix::fs::PermissionsExt,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tempfile::TempDir;

fn at(second: u64) -> Timestamp {
    Timestamp::from_second(1_790_000_000 + i64::try_from(second).unwrap()).unwrap()
}

fn state(revision: u64) -> Vec<u8> {
    // Long enough that a reader can meet a half-written one.
    format!("{{\n  \"revision\": {revision},\n  \"filler\": \"{}\"\n}}", "x".repeat(20_000)).into_bytes()
}

fn committed(dir: &Path, revisions: impl IntoIterator<Item = u64>) -> Files {
    let (mut files, _) = Files::open(dir).unwrap();
    for revision in revisions {
        let done = files.commit(revision, at(revision), &state(revision)).unwrap();
        assert!(done.afterwards.is_none(), "{:?}", done.afterwards);
    }
    files
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What the pair at rest says; `None` when it does not belong together.
fn pair(dir: &Path) -> Option<Vec<u8>> {
    let checksum = fs::read_to_string(dir.join(CHECKSUM)).ok()?;
    let state = fs::read(dir.join(STATE)).ok()?;
    (hex(&state) == checksum).then_some(state)
}

#[test]
fn a_commit_shows_three_files_that_agree() {
    let dir = TempDir::new().unwrap();
    let files = committed(dir.path(), [7]);
    assert_eq!(pair(dir.path()), Some(state(7)));
    assert_eq!(fs::read_to_string(dir.path().join(CHECKSUM)).unwrap().len(), 64);
    let check = Command::new("sha256sum").args(["-c", SHA256SUM]).current_dir(dir.path()).output().unwrap();
    assert!(check.status.success(), "{check:?}");
    assert_eq!(files.current(), Some(Generation { revision: 7, n: 1 }));
    assert_eq!(names(&dir.path().join(HISTORY)), ["state_2026-09-21_14-13-27_r7.json"]);
}

#[test]
fn history_grows_with_revisions_and_three_generations_stay() {
    let dir = TempDir::new().unwrap();
    let mut files = committed(dir.path(), [1, 2, 3, 4]);
    files.commit(4, at(9), &state(400)).unwrap();
    assert_eq!(names(&dir.path().join(HISTORY)).len(), 4, "the same revision again is no new history");
    let generations: Vec<_> = names(dir.path()).into_iter().filter(|n| n.starts_with(".gen-")).collect();
    assert_eq!(generations, [".gen-3-3", ".gen-4-4", ".gen-4-5"]);
    drop(files);

    let mut files = committed(dir.path(), []);
    files.commit(4, at(10), &state(401)).unwrap();
    assert_eq!(names(&dir.path().join(HISTORY)).len(), 4, "nor after a restart");
    files.commit(2, at(11), &state(2)).unwrap();
    assert_eq!(names(&dir.path().join(HISTORY)).len(), 5, "a recreated store counts anew");
    assert_eq!(pair(dir.path()), Some(state(2)));
}

#[test]
fn a_history_file_is_the_generation_itself() {
    let dir = TempDir::new().unwrap();
    committed(dir.path(), [1, 2, 3, 4, 5, 6]);
    let oldest = names(&dir.path().join(HISTORY)).remove(0);
    assert_eq!(fs::read(dir.path().join(HISTORY).join(oldest)).unwrap(), state(1));
}

#[test]
fn one_writer_at_a_time() {
    let dir = TempDir::new().unwrap();
    let files = committed(dir.path(), [1]);
    let error = Files::open(dir.path()).unwrap_err();
    assert_eq!(error.trouble(), Trouble::Taken);
    assert!(error.summary(dir.path()).ends_with("another mirror writes there"), "{error}");
    drop(files);
    Files::open(dir.path()).unwrap();
}

#[test]
fn a_broken_pair_gives_way_to_the_newest_whole_one() {
    let dir = TempDir::new().unwrap();
    let files = committed(dir.path(), [1, 2]);
    drop(files);
    // An editor that writes in place, as root.
    let edited = dir.path().join(STATE);
    fs::set_permissions(&edited, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&edited, "{\"edited\": true}").unwrap();
    assert_eq!(pair(dir.path()), None);

    let (files, repairs) = Files::open(dir.path()).unwrap();
    assert_eq!(files.current(), Some(Generation { revision: 1, n: 1 }));
    assert_eq!(pair(dir.path()), Some(state(1)));
    let kept = "broken_gen-2-2.json".to_owned();
    assert!(
        repairs.contains(&Repair::PairBroken {
            generation: Generation { revision: 2, n: 2 },
            kept_as: Some(kept.clone())
        }),
        "{repairs:?}"
    );
    let kept = fs::read_to_string(dir.path().join(HISTORY).join(kept)).unwrap();
    assert_eq!(kept, "{\"edited\": true}");
}

#[test]
fn leftovers_and_a_missing_current_are_put_right() {
    let dir = TempDir::new().unwrap();
    drop(committed(dir.path(), [1, 2]));
    fs::create_dir(dir.path().join(".gen-3-3")).unwrap();
    fs::write(dir.path().join(".gen-3-3").join(STATE), "{\"half").unwrap();
    symlink(".gen-3-3", dir.path().join(format!(".current{UNFINISHED}"))).unwrap();
    fs::remove_file(dir.path().join(CURRENT)).unwrap();

    let (mut files, repairs) = Files::open(dir.path()).unwrap();
    assert_eq!(repairs.len(), 3, "{repairs:?}");
    assert_eq!(pair(dir.path()), Some(state(2)));
    assert!(!names(dir.path()).iter().any(|n| n.contains("gen-3") || n.ends_with(UNFINISHED)));
    files.commit(3, at(3), &state(3)).unwrap();
    assert_eq!(pair(dir.path()), Some(state(3)));
}

#[test]
fn a_generation_nobody_committed_is_not_shown() {
    let dir = TempDir::new().unwrap();
    let files = committed(dir.path(), [1]);
    files.write_generation(Generation { revision: 2, n: 2 }, &state(2)).unwrap();
    drop(files);
    let (files, _) = Files::open(dir.path()).unwrap();
    assert_eq!(files.current(), Some(Generation { revision: 1, n: 1 }));
    assert_eq!(pair(dir.path()), Some(state(1)));
}

#[test]
fn nothing_whole_means_nothing_shown() {
    let dir = TempDir::new().unwrap();
    drop(committed(dir.path(), [1]));
    fs::remove_file(dir.path().join(".gen-1-1").join(CHECKSUM)).unwrap();
    let (mut files, _) = Files::open(dir.path()).unwrap();
    assert_eq!(files.current(), None);
    assert!(fs::read(dir.path().join(STATE)).is_err());
    files.commit(2, at(2), &state(2)).unwrap();
    assert_eq!(pair(dir.path()), Some(state(2)));
}

#[test]
fn the_files_of_version_3_are_taken_over() {
    let dir = TempDir::new().unwrap();
    fs::write(dir.path().join(STATE), state(0)).unwrap();
    fs::write(dir.path().join(CHECKSUM), "0".repeat(64)).unwrap();
    let (mut files, repairs) = Files::open(dir.path()).unwrap();
    assert_eq!(pair(dir.path()), Some(state(0)), "its readers never miss a file");
    assert_eq!(repairs.len(), 2, "{repairs:?}");
    files.commit(5, at(5), &state(5)).unwrap();
    assert_eq!(pair(dir.path()), Some(state(5)));
    let history = names(&dir.path().join(HISTORY));
    assert_eq!(history.len(), 2);
    let old = history.iter().find(|n| n.ends_with("_r0.json")).unwrap();
    assert_eq!(fs::read(dir.path().join(HISTORY).join(old)).unwrap(), state(0));

    // It still runs beside us and renames its file over the symlink.
    fs::write(dir.path().join("state.json.tmp"), "{\"from\": 3}").unwrap();
    fs::rename(dir.path().join("state.json.tmp"), dir.path().join(STATE)).unwrap();
    let done = files.commit(6, at(6), &state(6)).unwrap();
    assert!(matches!(done.repairs[..], [Repair::PlainFileAdopted { kept_as: Some(_), .. }]), "{done:?}");
    assert_eq!(pair(dir.path()), Some(state(6)));
}

#[test]
fn a_context_file_is_replaced_whole_and_only_when_it_differs() {
    let dir = TempDir::new().unwrap();
    let mut files = committed(dir.path(), []);
    let rules = Path::new("context/.aider/rules.md");
    let inode = || {
        use std::os::unix::fs::MetadataExt;
        fs::metadata(dir.path().join(rules)).unwrap().ino()
    };
    files.replace(rules, b"one").unwrap();
    let first = inode();
    files.replace(rules, b"one").unwrap();
    assert_eq!(inode(), first);
    files.replace(rules, b"two").unwrap();
    assert_ne!(inode(), first);
    assert_eq!(fs::read(dir.path().join(rules)).unwrap(), b"two");
    fs::remove_file(dir.path().join(rules)).unwrap();
    files.replace(rules, b"two").unwrap();
    assert_eq!(fs::read(dir.path().join(rules)).unwrap(), b"two");
}

#[test]
fn history_stays_within_its_bound_and_pinned_files_stay() {
    let dir = TempDir::new().unwrap();
    let (mut files, _) = Files::open(dir.path()).unwrap();
    let pinned = dir.path().join(HISTORY).join("state_CRITICAL_before.json");
    fs::write(&pinned, "{}").unwrap();
    for revision in 1..=60 {
        files.commit(revision, at(revision), b"{}").unwrap();
    }
    assert!(pinned.exists());
    let history = names(&dir.path().join(HISTORY));
    assert!(history.contains(&Past::new(at(60), 60).name()));
    assert_eq!(history.len(), 51, "the newest 50 of one hour, and the pinned one");
}

/// Reads as the documentation tells: the directory first, then both files of it.
fn read_through_directory(dir: &Path) -> Option<bool> {
    let place = fs::canonicalize(dir.join(CURRENT)).ok()?;
    let checksum = fs::read_to_string(place.join(CHECKSUM)).ok()?;
    let state = fs::read(place.join(STATE)).ok()?;
    Some(hex(&state) == checksum)
}

fn two_renames(dir: &Path, state: &[u8]) {
    let rename = |name: &str, bytes: &[u8]| {
        let unfinished = dir.join(format!("{name}.tmp"));
        fs::write(&unfinished, bytes).unwrap();
        fs::rename(unfinished, dir.join(name)).unwrap();
    };
    rename(STATE, state);
    rename(CHECKSUM, hex(state).as_bytes());
}

/// Runs a reader against a writer; says how often the pair did not match at first sight.
fn torn_reads(dir: &Path, write: impl FnMut(u64) + Send, mut read: impl FnMut() -> bool) -> u32 {
    let stop = AtomicBool::new(false);
    let mut write = write;
    write(1);
    let mut torn = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for revision in 2.. {
                if stop.load(Ordering::Relaxed) {
                    return;
                }
                write(revision);
            }
        });
        let until = Instant::now() + Duration::from_millis(400);
        while Instant::now() < until {
            if !read() {
                torn += 1;
                // The documented way out: read both again until they agree.
                let deadline = Instant::now() + Duration::from_secs(2);
                while pair(dir).is_none() {
                    assert!(Instant::now() < deadline, "no whole pair within 2 s");
                }
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    torn
}

#[test]
fn a_reader_of_the_directory_never_sees_a_torn_pair() {
    let dir = TempDir::new().unwrap();
    let (mut files, _) = Files::open(dir.path()).unwrap();
    let path = dir.path();
    let write = |revision| drop(files.commit(revision, at(revision), &state(revision)).unwrap());
    // A directory that is gone already is a reason to look again, not a torn pair.
    assert_eq!(torn_reads(path, write, || read_through_directory(path).unwrap_or(true)), 0);

    let control = TempDir::new().unwrap();
    let path = control.path();
    let torn = torn_reads(path, |revision| two_renames(path, &state(revision)), || pair(path).is_some());
    assert!(torn > 0, "the control must tear, or the test above proves nothing");
}

/// Runs this very test binary on a file system that takes only a little, and says what it printed.
fn on_a_small_disk(test: &str, dir: &Path) -> String {
    let me = std::env::current_exe().unwrap();
    let run = |script: String| {
        let mut command = Command::new("sh");
        command.args(["-c", &script, "sh"]).arg(&me).args(["--exact", test, "--nocapture"]);
        command.env("NHI_SMALL_DISK", dir).output().unwrap()
    };
    let place = dir.display();
    // A real full disk where user namespaces are allowed; else the kernel's file size limit, which also
    // fails in the middle of a write.
    let mounted = Command::new("unshare").args(["-rm", "true"]).status().is_ok_and(|s| s.success());
    let output = if mounted {
        let inner = format!("mount -t tmpfs -o size=256k tmpfs {place} && exec \"$0\" \"$@\"");
        run(format!("exec unshare -rm sh -c '{inner}' \"$@\""))
    } else {
        run("trap '' XFSZ; ulimit -f 128; exec \"$@\"".to_owned())
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn a_full_disk_loses_nothing_and_says_so() {
    if let Ok(dir) = std::env::var("NHI_SMALL_DISK") {
        return fill_and_recover(Path::new(&dir));
    }
    let dir = TempDir::new().unwrap();
    let text = on_a_small_disk("mirror::files::tests::a_full_disk_loses_nothing_and_says_so", dir.path());
    assert!(text.contains("the disk is full"), "{text}");
}

fn fill_and_recover(dir: &Path) {
    let mut files = committed(dir, [1, 2]);
    let before = names(dir);
    let error = files.commit(3, at(3), &vec![b'x'; 300 * 1024]).unwrap_err();
    assert_eq!(error.trouble(), Trouble::Full, "{error:?}");
    println!("{}", error.summary(dir));
    assert_eq!(pair(dir), Some(state(2)));
    assert_eq!(names(dir), before, "nothing half-written stays");
    files.replace(Path::new("GLOBAL_CONTEXT.md"), b"small").unwrap();
    files.replace(Path::new("GLOBAL_CONTEXT.md"), &vec![b'x'; 300 * 1024]).unwrap_err();
    assert_eq!(fs::read(dir.join("GLOBAL_CONTEXT.md")).unwrap(), b"small");
    files.commit(4, at(4), &state(4)).unwrap();
    assert_eq!(pair(dir), Some(state(4)));
}

#[test]
fn a_read_only_disk_is_named() {
    if let Ok(dir) = std::env::var("NHI_SMALL_DISK") {
        return write_to_a_read_only_disk(Path::new(&dir));
    }
    let dir = TempDir::new().unwrap();
    let text = on_a_small_disk("mirror::files::tests::a_read_only_disk_is_named", dir.path());
    assert!(text.contains(&format!("cannot write to {}: ", dir.path().display())), "{text}");
}

fn write_to_a_read_only_disk(dir: &Path) {
    let mut files = committed(dir, [1, 2]);
    let remounted = Command::new("mount").args(["-o", "remount,ro"]).arg(dir).output();
    if remounted.is_ok_and(|output| output.status.success()) {
        let error = files.commit(3, at(3), &state(3)).unwrap_err();
        assert_eq!(error.trouble(), Trouble::ReadOnly, "{error:?}");
        println!("{}", error.summary(dir));
        assert_eq!(Files::open(dir).unwrap_err().trouble(), Trouble::Taken);
        drop(files);
        assert_eq!(pair(dir), Some(state(2)));
        return;
    }
    // Where nothing may be mounted, what no user may write to is a file.
    println!("{}", behind_a_file(&mut files, dir).summary(dir));
}

/// What a commit says when a file stands where the directory was.
fn behind_a_file(files: &mut Files, dir: &Path) -> FilesError {
    let aside = dir.with_extension("aside");
    if !dir.is_file() {
        fs::rename(dir, &aside).unwrap();
        fs::write(dir, "").unwrap();
    }
    let error = files.commit(3, at(3), &state(3)).unwrap_err();
    assert_eq!(error.trouble(), Trouble::Other, "{error:?}");
    error
}

#[test]
fn two_failing_commits_are_one_alert() {
    let root = TempDir::new().unwrap();
    let dir = root.path().join("infrastructure");
    let mut files = committed(&dir, [1]);
    let mut snapshot = Snapshot::default();
    let mut writes = 0;
    let mut told = Vec::new();
    for _ in 0..2 {
        let error = behind_a_file(&mut files, &dir);
        told.push(error.to_string());
        let wanted = BTreeMap::from([("files".to_owned(), problem(&error, &dir))]);
        for change in alerts::changes(&snapshot, Agent::Mirror, |_| true, &wanted, at(1)) {
            writes += 1;
            let What::Put { record, stale } = change.what else { panic!("{change:?}") };
            let stored = Stored { v: SCHEMA_VERSION, op: OpId("op".to_owned()), at: at(1), stale, record };
            snapshot.records.insert(change.key, Entry { revision: writes, stored: Arc::new(stored) });
        }
    }
    assert_ne!(told[0], told[1], "the log names the exact path");
    assert_eq!(writes, 1, "{told:?}");
}
