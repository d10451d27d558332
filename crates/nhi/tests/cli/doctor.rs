//! `nhi doctor`: it finds what is wrong and says what to do, and it finds nothing where nothing is.

use crate::{
    mesh::{Up, nhi},
    proxmox::{env_file, lab},
};
use anyhow::{Context, Result, ensure};
use serde_json::Value;
use std::{fs, os::unix::fs::PermissionsExt, path::Path};

/// The checks that are not fine; each has its remedy.
fn troubles(dir: &Path, code: i32) -> Result<Vec<Value>> {
    let output = nhi(dir).args(["doctor", "--json"]).output()?;
    ensure!(
        output.status.code() == Some(code),
        "{:?}: {}",
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    let checks: Vec<Value> = serde_json::from_slice(&output.stdout)?;
    let troubles: Vec<Value> = checks.into_iter().filter(|check| check["verdict"] != "fine").collect();
    let has_remedy = |check: &Value| check["remedy"].as_str().is_some_and(|text| !text.is_empty());
    ensure!(troubles.iter().all(has_remedy), "one says not what to do: {troubles:?}");
    Ok(troubles)
}

/// The trouble that says this.
fn trouble<'a>(troubles: &'a [Value], what: &str, says: &str) -> Result<&'a Value> {
    let found =
        troubles.iter().find(|check| check["what"] == what && check["found"].to_string().contains(says));
    found.with_context(|| format!("no {what} says {says}: {troubles:#?}"))
}

#[test]
fn doctor_says_what_is_wrong_and_how_to_mend_it() -> Result<()> {
    let (_runtime, lab) = lab()?;
    let dir = tempfile::tempdir()?;
    fs::write(dir.path().join(".env"), env_file(&lab, "PROXMOX_FINGERPRINT", ""))?;
    fs::create_dir_all(dir.path().join("infrastructure"))?;
    let graph = r#"{"services":{"a":{"depends_on":["b"]},"b":{"depends_on":["a"]}}}"#;
    fs::write(dir.path().join("infrastructure/dependency_graph.json"), graph)?;
    troubles(dir.path(), 10)?;
    let output = nhi(dir.path()).args(["doctor"]).output()?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(output.status.code() == Some(10), "{:?}", output.status);
    ensure!(said.contains("PROXMOX_FINGERPRINT=") && said.contains("a → b → a"), "{said}");
    Ok(())
}

#[test]
fn keys_that_others_can_read_or_that_open_nothing_are_found() -> Result<()> {
    let dir = tempfile::tempdir()?;
    ensure!(nhi(dir.path()).args(["auth", "init"]).status()?.success(), "auth init");
    let key = |name: &str| dir.path().join(format!(".nhi/keys/{name}.nk"));
    let keys = dir.path().join(".nhi/keys");
    let mode = |path: &Path| fs::metadata(path).map(|meta| meta.permissions().mode() & 0o777);
    for file in fs::read_dir(&keys)? {
        ensure!(mode(&file?.path())? == 0o600, "a key is made so that only its owner can read it");
    }
    ensure!(mode(&keys)? == 0o700, "and nobody looks into the directory");
    // The control: as they were made nothing is wrong with them.
    let good = troubles(dir.path(), 0)?;
    ensure!(good.iter().all(|check| check["what"] != "keys"), "{good:?}");

    fs::set_permissions(key("owner"), fs::Permissions::from_mode(0o640))?;
    fs::set_permissions(&keys, fs::Permissions::from_mode(0o755))?;
    fs::write(key("scan"), "SUNOTAKEY")?;
    fs::copy(key("state"), key("route"))?;
    fs::copy(key("state"), key("gone"))?;
    let found = troubles(dir.path(), 10)?;
    let remedy = trouble(&found, "keys", "others can read")?["remedy"].to_string();
    ensure!(remedy.contains("chmod 600") && remedy.contains("nhi auth renew owner"), "{remedy}");
    trouble(&found, "keys", "others can look into")?;
    trouble(&found, "keys", "route.nk is not the key that route has now")?;
    trouble(&found, "keys", "gone was revoked")?;
    trouble(&found, "keys", "scan")?;
    ensure!(!serde_json::to_string(&found)?.contains("SUNOTAKEY"), "it shows a key: {found:?}");

    // A directory that cannot be read is no directory without faults.
    fs::remove_dir_all(&keys)?;
    fs::write(&keys, "")?;
    trouble(&troubles(dir.path(), 10)?, "keys", "cannot read")?;
    Ok(())
}

#[test]
fn a_healthy_mesh_has_no_trouble_and_one_without_its_server_has() -> Result<()> {
    let up = Up::start(tempfile::tempdir()?, &["--demo"])?;
    let found = troubles(up.path(), 0)?;
    ensure!(found.is_empty(), "{found:?}");
    let nobody = nhi(up.path()).args(["doctor", "--json", "--as", "nobody"]).output()?;
    let told = String::from_utf8_lossy(&nobody.stdout).into_owned();
    ensure!(nobody.status.code() == Some(10) && told.contains("name with --as"), "{told}");
    let broken = nhi(up.path()).args(["doctor"]).env("NATS_SERVER", "/bin/false").output()?;
    let told = String::from_utf8_lossy(&broken.stdout).into_owned();
    ensure!(told.contains("/bin/false") && told.contains("→ set NATS_SERVER to one that does"), "{told}");
    Ok(())
}
