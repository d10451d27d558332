//! Rule files for AI agents: the same rules in the form each of them reads. They change only when the rules or
//! the protected guests do, so that tools which watch them stay quiet.

use super::{MirrorInput, context::QUOTED, quote::code, rows};
use crate::clean::NAME_CHARS_MAX;
use nhi_model::guest::GuestKind;
use std::{collections::BTreeMap, fmt::Write};

const RULES: &str = "\
This lab is run by a mesh of agents. Work through it, never around it.

1. Before anything that touches a machine, read the state: `nhi state get`, the mesh's MCP tools, or
   `infrastructure/state.json`. If you read the file, compare its SHA-256 with `state.json.checksum` first; on a
   mismatch wait a second and read both again.
2. Never invent an address, a port, an id or a name. What the state does not tell is unknown: say so and ask.
3. Look at how old the answer is. A record marked stale tells what was, not what is.
4. Change machines only through the mesh's plans (`nhi guest …`, `act.plan`). No raw SSH, no hypervisor commands,
   no calls to Proxmox of your own.
5. A plan may need a person's approval. Do not look for a way around it; say what is waiting.
6. Before a risky change take a snapshot, and read who depends on the service (`infrastructure/dependency_graph.json`).
7. Never edit `state.json`, its checksum or its history: they are written by the mesh alone.
8. Secrets stay where they are: never print, copy or commit them.
";

/// The files of `context/`.
pub(super) fn files(input: &MirrorInput<'_>) -> BTreeMap<&'static str, String> {
    let rules = rules(input);
    let markdown = format!("# Rules for this lab\n\n{rules}");
    BTreeMap::from([
        (".aider/rules.md", markdown.clone()),
        (
            ".antigravity/context.md",
            format!("{markdown}\nThe lab itself is described in `infrastructure/GLOBAL_CONTEXT.md`.\n"),
        ),
        (".cursorrules", rules.clone()),
        ("profile.yaml", profile(&rules)),
    ])
}

fn rules(input: &MirrorInput<'_>) -> String {
    let mut out = format!("{RULES}9. {QUOTED}\n");
    let protected: Vec<String> = [GuestKind::Qemu, GuestKind::Lxc]
        .into_iter()
        .flat_map(|kind| rows::guests(input, kind))
        .filter(|(_, _, guest)| guest.protection == Some(true))
        .map(|(_, _, guest)| format!("- {} {}", guest.vmid, code(&guest.name, NAME_CHARS_MAX)))
        .collect();
    if !protected.is_empty() {
        writeln!(out, "\nThese guests are protected. Leave them alone:\n\n{}", protected.join("\n"))
            .expect("writing to a String never fails");
    }
    out
}

/// Open Interpreter's profile. A literal block takes any line, because none of ours holds a control character.
fn profile(rules: &str) -> String {
    let mut out = String::from(
        "# Open Interpreter: interpreter --profile profile.yaml\nauto_run: false\ncustom_instructions: |\n",
    );
    for line in rules.lines() {
        let indent = if line.is_empty() { "" } else { "  " };
        writeln!(out, "{indent}{line}").expect("writing to a String never fails");
    }
    out
}
