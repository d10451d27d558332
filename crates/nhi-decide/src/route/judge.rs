//! Who is asked what a request is about, and how, before anybody is asked to answer it. What a judge may see is what a
//! backend may see: it is chosen by the same rules, so that a request that may not leave home is judged at home or not at
//! all. It asks nobody.

use super::{Ask, Needs, Pick, Settings, World, among, intent, tokens};
use nhi_model::{Timestamp, ai::Priority};
use serde_json::{Map, Value, json};

/// Tokens of a judgement: a small object, perhaps with a fence around it.
const ANSWER_TOKENS: u32 = 48;

/// Those that may be asked, in the configured order; nobody where it makes no difference, or where somebody waits
/// between two key strokes.
pub fn judges(now: Timestamp, settings: &Settings, world: &World, ask: &Ask) -> Vec<Pick> {
    let order = &settings.judge.models;
    let alias = ask.alias(settings).filter(|alias| alias.intent.is_none() && alias.order.is_empty());
    let is_hasty = ask.priority == Priority::Autocomplete;
    if order.is_empty() || alias.is_none() || is_hasty || ask.needs.embeds || ask.question.is_empty() {
        return Vec::new();
    }
    let ask = Ask {
        needs: Needs::default(),
        prompt_tokens: tokens::estimate(&intent::prompt(&ask.question)),
        output_tokens: Some(ANSWER_TOKENS),
        stream: false,
        ..ask.clone()
    };
    among(now, settings, world, &ask, true, order).picks
}

/// What one of them is asked.
pub fn judge_request(pick: &Pick, ask: &Ask) -> Map<String, Value> {
    let messages = json!([{ "role": "user", "content": intent::prompt(&ask.question) }]);
    let fields = [("messages", messages), ("max_tokens", ANSWER_TOKENS.into()), ("temperature", 0.into())];
    pick.request(&fields.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
}
