//! Small scripts stand in for nats-server: only what `--version` prints matters here.

use super::*;
use std::{fs, os::unix::fs::PermissionsExt as _};

fn script(dir: &Path, body: &str) -> PathBuf {
    fs::create_dir_all(dir).unwrap();
    let path = dir.join("nats-server");
    fs::write(&path, format!("#!/bin/sh\n{body}\n")).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn nothing(dir: &Path) -> Locate {
    Locate { named: None, path: None, cache: Some(dir.join("cache")), fetch: Fetch::Never }
}

/// A script that was just written may be busy: another thread's child holds its descriptor until it executes.
async fn settled(wanted: &Locate) -> Result<ServerBinary, LocateError> {
    for _ in 0..100 {
        match locate(wanted).await {
            Err(LocateError::Broken { why, .. }) if why.contains("busy") => tokio::task::yield_now().await,
            outcome => return outcome,
        }
    }
    panic!("the script stays busy");
}

#[tokio::test]
async fn the_named_one_comes_before_the_path() {
    let dir = tempfile::tempdir().unwrap();
    let named = script(&dir.path().join("a"), "echo 'nats-server: v2.15.0'");
    script(&dir.path().join("b"), "echo 'nats-server: v2.14.4'");
    let path = Some(dir.path().join("b").into_os_string());
    let found =
        settled(&Locate { named: Some(named.clone()), path: path.clone(), ..nothing(dir.path()) }).await;
    assert_eq!(found.unwrap().path, named);
    let found = settled(&Locate { path, ..nothing(dir.path()) }).await.unwrap();
    assert_eq!(found.version, Version { major: 2, minor: 14, patch: 4 });
}

#[tokio::test]
async fn an_old_one_is_refused_by_path_and_remedy() {
    let dir = tempfile::tempdir().unwrap();
    let old = script(&dir.path().join("b"), "echo 'nats-server: v2.9.10'");
    let path = Some(dir.path().join("b").into_os_string());
    let error = settled(&Locate { path, ..nothing(dir.path()) }).await.unwrap_err();
    assert!(matches!(&error, LocateError::TooOld { path, .. } if *path == old), "{error}");
    let text = error.to_string();
    assert!(text.contains("2.9.10") && text.contains("2.14.3") && text.contains("NATS_SERVER"), "{text}");
}

#[tokio::test]
async fn what_is_no_server_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let other = script(&dir.path().join("a"), "echo hello");
    for named in [other, dir.path().join("missing"), dir.path().to_owned()] {
        let error = settled(&Locate { named: Some(named.clone()), ..nothing(dir.path()) }).await.unwrap_err();
        assert!(matches!(&error, LocateError::Broken { path, .. } if *path == named), "{error}");
    }
    let error = locate(&nothing(dir.path())).await.unwrap_err();
    assert!(matches!(error, LocateError::NotFound), "{error}");
}

#[tokio::test]
async fn a_changed_cache_is_not_used() {
    let dir = tempfile::tempdir().unwrap();
    let wanted = nothing(dir.path());
    let program = script(&cache_dir(&dir.path().join("cache")), "echo 'nats-server: v2.15.1'");
    assert!(locate(&wanted).await.is_err(), "a program without a record is not ours");
    fs::write(record_file(&program), sha256_of(&program).unwrap()).unwrap();
    assert_eq!(locate(&wanted).await.unwrap(), ServerBinary { path: program.clone(), version: VERSION });
    fs::write(&program, "#!/bin/sh\necho changed\n").unwrap();
    assert!(locate(&wanted).await.is_err(), "a changed program is not ours");
}
