//! What Ollama tells of its models: `/api/tags`, `/api/show`, `/api/ps`. Nothing is guessed of those it tells nothing
//! about.

use crate::{backend::Loaded, decoder::Fault};
use nhi_model::ai::Model;
use serde_json::{Map, Value};

/// A row of `/api/tags`.
#[derive(Clone, Debug)]
pub(crate) struct Row {
    pub(crate) name: String,
    /// Changes whenever the model does.
    pub(crate) digest: Option<String>,
    elsewhere: bool,
    billions: Option<f64>,
}

/// The rows of `/api/tags`.
pub(crate) fn rows(answer: &Map<String, Value>) -> Result<Vec<Row>, Fault> {
    let list = answer.get("models").and_then(Value::as_array);
    let list = list.ok_or(Fault::Garbage("its list of models has no models"))?;
    Ok(list.iter().filter_map(row).collect())
}

fn row(value: &Value) -> Option<Row> {
    let name = value.get("model").or_else(|| value.get("name")).and_then(Value::as_str)?.to_owned();
    let size = value.pointer("/details/parameter_size").and_then(Value::as_str);
    let digest = value.get("digest").and_then(Value::as_str).map(str::to_owned);
    Some(Row { digest, elsewhere: elsewhere(&name, value), billions: size.and_then(billions), name })
}

/// Whether Ollama only passes the model on: it says so, or, in versions and in its OpenAI mode that do not, the name does.
pub(crate) fn elsewhere(name: &str, value: &Value) -> bool {
    let told = ["remote_host", "remote_model"];
    let told =
        told.iter().any(|field| value.get(*field).and_then(Value::as_str).is_some_and(|at| !at.is_empty()));
    let tag = name.rsplit_once(':').map(|(_, tag)| tag);
    told || tag.is_some_and(|tag| tag == "cloud" || tag.ends_with("-cloud")) || name.ends_with("-cloud")
}

/// `7.6B`, `137M`
fn billions(text: &str) -> Option<f64> {
    let text = text.trim();
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: f64 = number.trim().parse().ok()?;
    match unit {
        "B" | "b" => Some(number),
        "M" | "m" => Some(number / 1000.0),
        "T" | "t" => Some(number * 1000.0),
        _ => None,
    }
}

/// A model as its row and, where there is one, the answer of `/api/show` tell it.
pub(crate) fn model(row: Row, show: Option<&Map<String, Value>>) -> Model {
    let mut model =
        Model { elsewhere: row.elsewhere, billions: row.billions, name: row.name, ..Model::default() };
    let Some(show) = show else { return model };
    model.elsewhere |= elsewhere(&model.name, &Value::Object(show.clone()));
    if let Some(list) = show.get("capabilities").and_then(Value::as_array) {
        let can = |word: &str| list.iter().any(|capability| capability == word);
        model.tools = Some(can("tools"));
        model.vision = Some(can("vision"));
        model.embeds = can("embedding") && !can("completion");
    }
    if let Some(info) = show.get("model_info").and_then(Value::as_object) {
        let family = info.get("general.architecture").and_then(Value::as_str).unwrap_or_default();
        let context = info.get(&format!("{family}.context_length")).and_then(Value::as_u64);
        model.context_tokens = context.and_then(|tokens| u32::try_from(tokens).ok());
        let count = info.get("general.parameter_count").and_then(Value::as_f64).filter(|count| *count > 0.0);
        model.billions = count.map(|count| count / 1e9).or(model.billions);
    }
    model
}

/// What is in memory: `/api/ps`.
pub(crate) fn loaded(answer: &Map<String, Value>) -> Result<Vec<Loaded>, Fault> {
    let list = answer.get("models").and_then(Value::as_array);
    let list = list.ok_or(Fault::Garbage("its list of loaded models has no models"))?;
    let rows = list.iter().filter_map(|row| {
        let name = row.get("model").or_else(|| row.get("name")).and_then(Value::as_str)?;
        let count = |name: &str| row.get(name).and_then(Value::as_u64);
        let vram_bytes = count("size_vram").unwrap_or(0);
        Some(Loaded {
            name: name.to_owned(),
            vram_bytes,
            context_tokens: count("context_length").and_then(|tokens| u32::try_from(tokens).ok()),
            partly_on_cpu: count("size").is_some_and(|size| vram_bytes < size),
        })
    });
    Ok(rows.collect())
}
