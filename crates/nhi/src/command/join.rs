//! `nhi join`: makes this machine know a mesh on another one, in one line.

use crate::{
    cli::Join,
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::Mesh,
    out,
};
use anyhow::Context;
use nhi_bus::{
    connect::Target,
    enrol,
    keys::{self, Seed},
    private, tls,
};
use nhi_model::identity::IdentityName;
use serde_json::json;
use std::{fs, io::Read};
use toml_edit::{DocumentMut, value};

/// Enrols this machine: tries the key against the mesh, and keeps it with the authority only when that worked.
///
/// # Errors
/// When this directory is a mesh itself, or the mesh is not the one with that authority, or does not know the key.
/// Nothing is kept then.
pub(crate) async fn run(
    layout: &Layout,
    name: Option<&str>,
    join: &Join,
    as_json: bool,
) -> Result<(), Failure> {
    let name = name.ok_or_else(|| {
        Failure::new(Exit::Usage, "name the identity whose key this is: nhi join URL --as NAME --key KEY")
    })?;
    let me = IdentityName::parse(name).ending(Exit::Usage)?;
    if layout.data().join("identities.json").exists() || layout.tls().join("ca.key").exists() {
        let sentence = format!(
            "{} holds a mesh of its own, which joining would break: use another --dir",
            layout.root().display()
        );
        return Err(Failure::new(Exit::Conflict, sentence));
    }
    let seed = Seed::parse(&key(join)?).ending(Exit::Usage)?;
    layout.create().ending(Exit::Config)?;
    let tried = layout.data().join("run/join-ca.pem");
    let ca_file = match &join.ca_sha256 {
        Some(sha256) => {
            let authority = enrol::authority(&join.url, sha256).await.ending(Exit::Unreachable)?;
            private::write(&tried, tls::pem(&authority).as_bytes()).ending(Exit::Config)?;
            Some(tried.clone())
        }
        None => None,
    };
    let target = Target { urls: vec![join.url.clone()], ca_file };
    let connected = Mesh::open_with(&target, &me, &seed).await;
    match connected {
        Ok(mesh) => mesh.close().await,
        Err(failure) => {
            let _ = fs::remove_file(&tried);
            return Err(failure);
        }
    }
    if join.ca_sha256.is_some() {
        private::ensure_dir(&layout.tls()).ending(Exit::Config)?;
        fs::rename(&tried, layout.tls().join("ca.pem")).context("keep the authority").ending(Exit::Config)?;
    }
    private::ensure_dir(&layout.keys()).ending(Exit::Config)?;
    keys::store(&layout.keys(), &me, &seed).ending(Exit::Config)?;
    remember(layout, &join.url)?;
    if as_json {
        out::json(&json!({ "name": me, "nats": join.url, "key_file": keys::file(&layout.keys(), &me) }));
        return Ok(());
    }
    out::line(&format!("this machine is enrolled as {me} in {}", join.url));
    out::note(&format!("use it with --as {me}"));
    Ok(())
}

fn key(join: &Join) -> Result<String, Failure> {
    if join.key != "-" {
        return Ok(join.key.trim().to_owned());
    }
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).context("read the key").ending(Exit::Usage)?;
    Ok(text.trim().to_owned())
}

/// Writes `[nats] servers` into `nhi.toml`, keeping everything else as it is.
fn remember(layout: &Layout, url: &str) -> Result<(), Failure> {
    let path = layout.config();
    let text = if path.exists() {
        fs::read_to_string(&path).context("read nhi.toml").ending(Exit::Config)?
    } else {
        String::new()
    };
    let mut document: DocumentMut = text.parse().context("read nhi.toml").ending(Exit::Config)?;
    let mut servers = toml_edit::Array::new();
    servers.push(url);
    document["nats"].or_insert(toml_edit::table())["servers"] = value(servers);
    let next = path.with_extension("toml.next");
    fs::write(&next, document.to_string())
        .and_then(|()| fs::rename(&next, &path))
        .with_context(|| format!("cannot write {}", path.display()))
        .ending(Exit::Config)
}
