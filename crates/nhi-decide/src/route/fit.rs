//! Whether a request fits into a model, and the context to ask Ollama for, which cuts what does not fit without a word.
//! All figures of memory are estimates, rather too large.

use super::ModelSettings;
use nhi_model::ai::Model;

/// Contexts are asked for in powers of two from here on: Ollama loads a model anew for every other number.
const CONTEXT_MIN: u32 = 4_096;
/// The context of a model that nobody says anything about.
const CONTEXT_UNKNOWN: u32 = 8_192;
/// Memory an engine takes beside weights and cache: compute buffers, the driver's own.
const OVERHEAD_BYTES: u64 = 768 << 20;
/// Bytes of a parameter at four bits with its scales, where the name says nothing else: what Ollama gives by default.
const BYTES_DEFAULT: f64 = 0.6;

/// What a request takes of a model's context.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Length {
    /// Tokens of the prompt, rather too many.
    pub prompt_tokens: u32,
    /// Tokens of answer there has to be room for.
    pub answer_tokens: u32,
    /// Tokens the answer may have, where there is room; not less than [`Self::answer_tokens`].
    pub answer_tokens_max: u32,
}

impl Length {
    /// What has to fit.
    pub fn needed(self) -> u32 {
        self.prompt_tokens.saturating_add(self.answer_tokens)
    }

    /// What may fit.
    pub fn wanted(self) -> u32 {
        self.prompt_tokens.saturating_add(self.answer_tokens_max)
    }
}

/// The memory a model may have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Memory {
    /// Of its card without what others have taken, bytes; absent: unknown, which does not limit.
    pub free_bytes: Option<u64>,
    /// The context it is loaded with; absent: it is not loaded.
    pub loaded_tokens: Option<u32>,
}

/// It does not fit.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TooLong {
    /// The model's context is smaller.
    #[error("about {needed} tokens do not fit into the {context} of {model}")]
    Context {
        /// Needed.
        needed: u32,
        /// There.
        context: u32,
        /// The model.
        model: String,
    },
    /// The card's memory is.
    #[error(
        "about {needed} tokens do not fit: beside {model} the GPU's memory has room for a context of {context}"
    )]
    Memory {
        /// Needed.
        needed: u32,
        /// What there is room for; 0: not even the model.
        context: u32,
        /// The model.
        model: String,
    },
}

/// Whether it fits into a model that says so itself when it does not: only what surely does not fit is refused.
///
/// # Errors
/// [`TooLong`]
pub fn whole(model: &Model, length: Length) -> Result<(), TooLong> {
    if let Some(context) = model.context_tokens {
        // The estimate is rather too large; a prompt that is refused there goes to the next.
        let needed = (length.prompt_tokens / 4).saturating_mul(3).saturating_add(1);
        if needed > context {
            return Err(TooLong::Context {
                needed: length.prompt_tokens,
                context,
                model: model.name.clone(),
            });
        }
    }
    Ok(())
}

/// The context to ask Ollama for: the loaded one where it is enough, else the next power of two, else all there is room
/// for. Past it Ollama forgets the beginning without a word, so the answer must be limited to what is left beside the
/// prompt.
///
/// # Errors
/// [`TooLong`] where prompt and answer together have no room; no prompt is ever cut.
pub fn num_ctx(
    model: &Model,
    settings: Option<&ModelSettings>,
    length: Length,
    memory: Memory,
) -> Result<u32, TooLong> {
    let needed = length.needed();
    let most = model.context_tokens.unwrap_or(CONTEXT_UNKNOWN);
    if needed > most {
        return Err(TooLong::Context { needed, context: most, model: model.name.clone() });
    }
    let wanted = length.wanted().max(needed).min(most);
    if let Some(loaded) = memory.loaded_tokens.filter(|loaded| wanted <= *loaded && *loaded <= most) {
        return Ok(loaded);
    }
    let wanted = wanted.checked_next_power_of_two().unwrap_or(u32::MAX).max(CONTEXT_MIN).min(most);
    let Some(room) = room(model, settings, memory.free_bytes) else { return Ok(wanted) };
    if needed > room {
        return Err(TooLong::Memory { needed, context: room, model: model.name.clone() });
    }
    Ok(wanted.min(room))
}

/// Tokens of context there is room for beside the weights; `None`: nobody knows.
fn room(model: &Model, settings: Option<&ModelSettings>, free_bytes: Option<u64>) -> Option<u32> {
    let free = free_bytes?;
    let billions = model.billions.or_else(|| billions_of(&model.name));
    let weights = settings
        .and_then(|settings| settings.memory_bytes)
        .or_else(|| billions.map(|billions| weights_bytes(&model.name, billions)))?;
    let token = settings
        .and_then(|settings| settings.token_bytes)
        .or_else(|| billions.map(token_bytes))
        .filter(|bytes| *bytes > 0)?;
    let left = free.saturating_sub(weights).saturating_sub(OVERHEAD_BYTES);
    Some(u32::try_from(left / token).unwrap_or(u32::MAX))
}

/// Parameters as a name tells them, thousand millions: `qwen2.5:14b-instruct`, `Llama-3.1-8B`, `mixtral:8x7b`.
pub fn billions_of(name: &str) -> Option<f64> {
    let lower = name.to_ascii_lowercase();
    let parts = lower.split(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
    parts.filter_map(size).next_back()
}

fn size(part: &str) -> Option<f64> {
    let (number, factor) = match (part.strip_suffix('b'), part.strip_suffix('m')) {
        (Some(number), _) => (number, 1.0),
        (None, Some(number)) => (number, 0.001),
        (None, None) => return None,
    };
    let digits = |text: &str| {
        let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        plain.then(|| text.parse::<f64>().ok()).flatten()
    };
    match number.split_once('x') {
        Some((experts, each)) => Some(digits(experts)? * digits(each)? * factor),
        None => Some(digits(number)? * factor),
    }
}

/// Memory the weights take.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "sizes of models, never negative"
)]
fn weights_bytes(name: &str, billions: f64) -> u64 {
    const BITS: [(&str, f64); 9] = [
        ("q2", 0.42),
        ("q3", 0.5),
        ("q4", 0.6),
        ("q5", 0.72),
        ("q6", 0.83),
        ("q8", 1.08),
        ("int8", 1.08),
        ("fp16", 2.05),
        ("bf16", 2.05),
    ];
    let lower = name.to_ascii_lowercase();
    let bytes = BITS.iter().find(|(word, _)| lower.contains(word)).map_or(BYTES_DEFAULT, |(_, bytes)| *bytes);
    (billions.max(0.0) * 1e9 * bytes) as u64
}

/// Memory a token of context takes at 16 bits: what models of that size with grouped attention have, the larger ones
/// among them.
fn token_bytes(billions: f64) -> u64 {
    const STEPS: [(f64, u64); 6] = [(1.0, 48), (4.0, 112), (9.0, 160), (15.0, 200), (36.0, 264), (80.0, 336)];
    let kibibytes = STEPS.iter().find(|(most, _)| billions <= *most).map_or(512, |(_, kibibytes)| *kibibytes);
    kibibytes << 10
}
