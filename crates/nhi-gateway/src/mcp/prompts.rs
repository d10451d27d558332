//! Ready-made beginnings of common work: each says which tools to use in which order and what to stop at. They hold no
//! fact of the lab and call nothing.

use rmcp::model::{GetPromptResult, Prompt, PromptArgument, PromptMessage, Role};
use serde_json::{Map, Value};

/// Longest argument that is put into a text, characters.
const ARGUMENT_CHARS_MAX: usize = 200;

/// One of them. `{…}` in the text is an argument.
struct Ready {
    name: &'static str,
    title: &'static str,
    description: &'static str,
    /// Name, description, and whether it has to be given.
    arguments: &'static [(&'static str, &'static str, bool)],
    text: &'static str,
}

const READY: &[Ready] = &[
    Ready {
        name: "bring_up_service",
        title: "Bring a service up",
        description: "Start a service and all it needs, in order, and see that it runs",
        arguments: &[("service", "The service, as the dependency graph names it", true)],
        text: "Bring the service {service} of the home lab up.\n\
               1. Read the resource nhi://graph and find {service} and what it needs. If it is not there, look for a guest of \
               that name with lab_state and say which one you mean.\n\
               2. Call guest_plan with intent {\"do\": \"service-up\", \"service\": \"{service}\"} and tell me the steps, side \
               effects and impact in a few lines.\n\
               3. If the plan says waiting_for, tell me who may approve it and how, and stop there. Otherwise call plan_apply \
               with its plan and digest.\n\
               4. When it has ended, look with lab_state that the guests run, and say what you saw and what not.",
    },
    Ready {
        name: "investigate_alert",
        title: "Investigate an alert",
        description: "Find out what is behind an alert, without changing anything",
        arguments: &[("alert", "Its key or some words of it; absent: the most severe one", false)],
        text: "Find out what is behind an alert of the home lab: {alert}. Change nothing.\n\
               1. Read nhi://state/alert and choose the alert meant; when none was named, the most severe one.\n\
               2. Look at the records it names with lab_state, at what changed before it with lab_changes, and in nhi://graph at \
               what depends on them. Mind `stale` and the age of sources: not seen is not gone.\n\
               3. Tell me what is known, what is likely and what you could not see, each with the record it comes from.\n\
               4. Propose what to do. If that is a change, you may call guest_plan to see what it would mean, but do not apply it.",
    },
    Ready {
        name: "create_guest",
        title: "Create a guest",
        description: "Make a virtual machine or a container from a template",
        arguments: &[
            ("name", "Its name, a DNS name", true),
            ("purpose", "What it is for, and what it needs", false),
        ],
        text: "Make a new guest {name} in the home lab. What it is for: {purpose}\n\
               1. Look with lab_state (select vm, lxc, node, storage) for templates, for free memory and space, and whether the \
               name is taken.\n\
               2. Choose a template, cores, memory and disk, and say why in two lines. Ask me when the purpose does not decide it.\n\
               3. Call guest_plan with intent {\"do\": \"create-vm\" or \"create-lxc\", \"new\": {\"name\": \"{name}\", …}, \
               \"template\": …}. nhi://schema/act/plan has all fields.\n\
               4. If the plan says waiting_for, tell me who may approve it and how, and stop. Otherwise plan_apply, and tell me \
               its number, node and address.",
    },
    Ready {
        name: "shut_down_safely",
        title: "Shut down safely",
        description: "Shut a guest or the whole lab down in the order of what depends on what",
        arguments: &[("what", "A guest, or lab for everything; absent: lab", false)],
        text: "Shut down {what} of the home lab safely.\n\
               1. Read nhi://graph and nhi://context: what depends on it, what is protected, which backups or runs are under way \
               (plan_status list).\n\
               2. Call guest_plan with intent {\"do\": \"lab-down\"} for the whole lab, or {\"do\": \"shutdown\", \"guest\": …, \
               \"with_dependents\": true} for a guest. Tell me what goes down in which order, what stays, and how it comes up \
               again (lab-up, or the plan's undo).\n\
               3. Wait for my yes before plan_apply. If the plan says waiting_for, tell me who may approve it and how, and stop.\n\
               4. Afterwards tell me what is down and what did not go.",
    },
];

pub(crate) fn list() -> Vec<Prompt> {
    let argument = |(name, text, required): &(&str, &str, bool)| {
        PromptArgument::new(*name).with_description(*text).with_required(*required)
    };
    READY
        .iter()
        .map(|ready| {
            let arguments = ready.arguments.iter().map(argument).collect();
            Prompt::new(ready.name, Some(ready.description), Some(arguments)).with_title(ready.title)
        })
        .collect()
}

/// One with its arguments filled in; an error is one sentence.
pub(crate) fn get(name: &str, given: &Map<String, Value>) -> Result<GetPromptResult, String> {
    let Some(ready) = READY.iter().find(|ready| ready.name == name) else {
        let names: Vec<&str> = READY.iter().map(|ready| ready.name).collect();
        return Err(format!(
            "there is no prompt {}; there are {}",
            super::schema::line(name, 64),
            names.join(", ")
        ));
    };
    let mut text = ready.text.to_owned();
    for (argument, _, required) in ready.arguments {
        let value =
            given.get(*argument).and_then(Value::as_str).map(|v| super::schema::line(v, ARGUMENT_CHARS_MAX));
        let value = match (value.filter(|value| !value.is_empty()), required) {
            (Some(value), _) => value,
            (None, true) => return Err(format!("argument `{argument}` is missing")),
            (None, false) => absent(argument).to_owned(),
        };
        text = text.replace(&format!("{{{argument}}}"), &value);
    }
    let message = PromptMessage::new_text(Role::User, text);
    Ok(GetPromptResult::new(vec![message]).with_description(ready.description))
}

/// What stands for an argument that was not given.
fn absent(argument: &str) -> &'static str {
    match argument {
        "alert" => "the most severe one",
        "what" => "lab",
        _ => "(not said; ask when it matters)",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_prompt_is_filled_in_or_says_what_is_missing() {
        for ready in READY {
            let full: Map<String, Value> =
                ready.arguments.iter().map(|(name, _, _)| ((*name).to_owned(), json!("x\ny"))).collect();
            let result = serde_json::to_string(&get(ready.name, &full).unwrap()).unwrap();
            for (argument, _, _) in ready.arguments {
                assert!(!result.contains(&format!("{{{argument}}}")), "{result}");
            }
            let needs_one = ready.arguments.iter().any(|(_, _, required)| *required);
            assert_eq!(get(ready.name, &Map::new()).is_err(), needs_one, "{}", ready.name);
        }
        assert!(get("bring_up", &Map::new()).unwrap_err().contains("bring_up_service"));
    }
}
