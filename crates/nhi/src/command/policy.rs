//! `nhi policy …`: what `infrastructure/policy.toml` says, what holds without it, and what is wrong with it. Whether a
//! plan may go is asked of the actuator, never of this.

use crate::{
    cli::{Global, rules::Policy as Command},
    config::Config,
    exit::{Ending, Exit, Failure},
    layout::Layout,
    mesh::Mesh,
    out,
};
use anyhow::Context;
use nhi_decide::policy;
use nhi_model::{
    call::{StateGet, StateGot},
    policy::Policy,
};
use serde_json::json;
use std::{fs, io, path::Path};

/// The alert that stands while the actuator cannot use the file.
const BROKEN: &str = "policy-broken";

/// Runs one of the policy commands.
///
/// # Errors
/// [`Exit::Config`] with file, line and column of the first mistake.
pub(crate) async fn run(
    layout: &Layout,
    config: &Config,
    global: &Global,
    command: Command,
) -> Result<(), Failure> {
    match command {
        Command::Default if global.json => out::json(&Policy::default()),
        Command::Default => out::line(policy::default_text().trim_end()),
        Command::Check { file } => {
            let path = file.clone().unwrap_or_else(|| layout.policy());
            let found = read(&path)?;
            if file.is_some() && found.is_none() {
                return Err(Failure::new(Exit::Config, format!("there is no {}", path.display())));
            }
            check(&path, found.as_ref(), global.json);
        }
        Command::Show => {
            let found = read(&layout.policy());
            if let Some(trouble) = trouble(layout, config, global).await {
                out::note(&out::safe(&format!("! the actuator: {trouble}")));
            }
            show(&layout.policy(), found?, global.json)?;
        }
    }
    Ok(())
}

/// The policy of a file; none where there is no file.
///
/// # Errors
/// [`Exit::Config`] with file, line and column of the first mistake.
pub(crate) fn read(path: &Path) -> Result<Option<Policy>, Failure> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => {
            return Err(error).context(format!("cannot read {}", path.display())).ending(Exit::Config);
        }
    };
    policy::parse(&text).map(Some).map_err(|error| {
        let key = if error.key.is_empty() { String::new() } else { format!("{}: ", error.key) };
        let place = format!("{}:{}:{}", path.display(), error.line, error.column);
        Failure::new(Exit::Config, out::safe(&format!("{place}: {key}{}", error.what)))
    })
}

fn check(path: &Path, found: Option<&Policy>, as_json: bool) {
    let warnings = found.map(policy::warnings).unwrap_or_default();
    if as_json {
        return out::json(&json!({ "file": path, "is_there": found.is_some(), "warnings": warnings }));
    }
    match found {
        None => out::line(&format!("there is no {}; what `nhi policy default` prints holds", path.display())),
        Some(_) => out::line(&format!("{} is a policy", path.display())),
    }
    warnings.iter().for_each(|warning| out::line(&format!("! {warning}")));
}

fn show(path: &Path, found: Option<Policy>, as_json: bool) -> Result<(), Failure> {
    let is_there = found.is_some();
    let held = found.unwrap_or_default();
    let warnings = policy::warnings(&held);
    if as_json {
        out::json(&json!({ "file": path, "is_there": is_there, "warnings": warnings, "policy": held }));
        return Ok(());
    }
    let of = if is_there { "with defaults filled in" } else { "is not there: the defaults hold" };
    out::line(&format!("# {} {of}", path.display()));
    warnings.iter().for_each(|warning| out::line(&format!("# ! {warning}")));
    let automatic = policy::automatic(&held).into_iter().map(nhi_model::intent::Operation::as_str);
    if held.operations.automatic.is_none() {
        let words: Vec<&str> = automatic.collect();
        out::line(&format!("# operations.automatic is not given, so it is {words:?}"));
    }
    let text = toml::to_string(&held).context("write the policy as TOML")?;
    out::line(text.trim_end());
    Ok(())
}

/// What a running actuator says of the file. Silence is no trouble: mostly nothing runs.
async fn trouble(layout: &Layout, config: &Config, global: &Global) -> Option<String> {
    let mesh = Mesh::here(layout, config, global).await?;
    let request = StateGet { select: vec!["alert".to_owned()], ..StateGet::default() };
    let got: Result<StateGot, Failure> = mesh.call("state", "get", &request).await;
    mesh.close().await;
    let records = got.ok()?.records;
    let alert = records.iter().find(|(key, _)| key.tokens().last().is_some_and(|id| id == BROKEN))?.1;
    alert.record.get("summary")?.as_str().map(str::to_owned)
}
