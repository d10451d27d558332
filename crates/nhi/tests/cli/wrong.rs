//! Wrong configuration: exit code 3, the file, the line, and what to write instead. Wrong arguments are not that.

use crate::outages::check;
use anyhow::Result;
use std::fs;

#[test]
fn a_wrong_file_ends_with_its_code_and_names_its_line() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let toml = dir.path().join("nhi.toml");
    for (text, says) in [
        ("[nats]\nservers = [\"garbage://x\"]\n", "nhi.toml:2: nats.servers: \"garbage://x\" cannot be used"),
        ("[nats]\nserver = [\"x\"]\n", "nhi.toml:2: unknown key `server`: did you mean `servers`?"),
        ("[nat]\n", "nhi.toml:1: unknown key `nat`: did you mean `nats`?"),
        ("[proxmox.home]\nur = \"x\"\n", "nhi.toml:2: unknown key `ur`: did you mean `url`?"),
        ("[http]\norigins = [\"*\"]\n", "nhi.toml:2: http.origins: \"*\""),
        ("[http]\n\nlisten = 8000\n", "nhi.toml:3: "),
        ("listen = \"127.0.0.1:1\"\n", "nhi.toml:1: unknown key `listen`"),
        ("[http\n", "nhi.toml:1: "),
    ] {
        fs::write(&toml, text)?;
        for command in [&["status"][..], &["up", "--demo"], &["agent", "scan"], &["auth", "list"]] {
            check(dir.path(), command, 3, &[says])?;
        }
    }
    fs::remove_file(&toml)?;
    for (text, says) in [
        ("PROXMOX_HOST=ftp://pve\nPROXMOX_TOKEN_ID=a@b!c\nPROXMOX_SECRET_KEY=x\n", ".env:1: PROXMOX_HOST: "),
        ("\nPROXMOX_HOST\n", ".env:2: the line of \"PROXMOX_HOST\" is not KEY=value"),
    ] {
        fs::write(dir.path().join(".env"), text)?;
        check(dir.path(), &["status"], 3, &[says])?;
    }
    fs::remove_file(dir.path().join(".env"))?;
    fs::create_dir(&toml)?;
    check(dir.path(), &["status"], 3, &["nhi.toml"])?;
    Ok(())
}

#[test]
fn a_wrong_argument_is_no_wrong_file() -> Result<()> {
    let dir = tempfile::tempdir()?;
    check(dir.path(), &["up", "--demo", "--nats", "garbage://x", "--http-port", "0"], 2, &["garbage://x"])?;
    check(dir.path(), &["agent", "scan", "--nats", "nats://u:p@x"], 2, &["carries a password"])?;
    let key = "SUACSSL3UAHUDXKFSNVUZRF5UHPMWZ6BFDTJ7M6USDXIEDNPPQYYYCU3VY";
    let other = tempfile::tempdir()?;
    check(other.path(), &["join", "garbage://x", "--as", "me", "--key", key], 2, &["garbage://x"])?;
    for limit in [
        &["state", "history", "vm", "--limit", "0"][..],
        &["audit", "list", "--limit", "0"],
        &["plan", "list", "--limit", "0"],
    ] {
        check(dir.path(), limit, 2, &["'0'"])?;
    }
    Ok(())
}
