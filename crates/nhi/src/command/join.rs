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
use std::{fs, io::Read};
use toml_edit::{DocumentMut, value};

/// Enrols this machine: keeps the key and the authority, writes `[nats] servers`, and checks that it can connect.
///
/// # Errors
/// When the mesh is not the one with that authority, or does not know the key. Nothing is kept then.
pub(crate) async fn run(layout: &Layout, name: &str, join: &Join) -> Result<(), Failure> {
    let me = IdentityName::parse(name).ending(Exit::Usage)?;
    let mut text = join.key.clone();
    if text == "-" {
        text.clear();
        std::io::stdin().read_to_string(&mut text).context("read the key").ending(Exit::Usage)?;
    }
    let seed = Seed::parse(text.trim()).ending(Exit::Usage)?;
    layout.create().ending(Exit::Config)?;
    let ca = match &join.ca_sha256 {
        Some(sha256) => {
            let authority = enrol::authority(&join.url, sha256).await.ending(Exit::Unreachable)?;
            private::ensure_dir(&layout.tls()).ending(Exit::Config)?;
            let file = layout.tls().join("ca.pem");
            private::write(&file, tls::pem(&authority).as_bytes()).ending(Exit::Config)?;
            Some(file)
        }
        None => None,
    };
    let target = Target { urls: vec![join.url.clone()], ca_file: ca };
    let existing = keys::load(&layout.keys(), &me).ok();
    keys::store(&layout.keys(), &me, &seed).ending(Exit::Config)?;
    match Mesh::open(layout, &target, name).await {
        Ok(mesh) => mesh.close().await,
        Err(failure) => {
            match existing {
                Some(before) => keys::store(&layout.keys(), &me, &before).ending(Exit::Config)?,
                None => keys::remove(&layout.keys(), &me).ending(Exit::Config)?,
            }
            return Err(failure);
        }
    }
    remember(layout, &join.url)?;
    out::line(&format!("this machine is enrolled as {me} in {}", join.url));
    Ok(())
}

/// Writes `[nats] servers` into `nhi.toml`, keeping everything else as it is.
fn remember(layout: &Layout, url: &str) -> Result<(), Failure> {
    let path = layout.config();
    let text =
        if path.exists() { fs::read_to_string(&path).context("read nhi.toml")? } else { String::new() };
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
