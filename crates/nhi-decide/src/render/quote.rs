//! Text from the lab inside Markdown: always a code span or a fenced block, which it cannot leave. Whoever reads
//! the file can tell what the lab says from what we say.

use crate::clean;

/// One line in a code span.
pub(super) fn code(raw: &str, chars_max: usize) -> String {
    // No escape exists inside a span, so the one character that ends it is replaced.
    let text = clean::text(raw, chars_max).replace('`', "'");
    if text.is_empty() { "`?`".to_owned() } else { format!("`{text}`") }
}

/// Several lines in a fenced block, cut to `bytes_max`.
pub(super) fn fenced(raw: &str, bytes_max: usize) -> String {
    let whole = clean::block(raw, usize::MAX);
    let text = clean::block(&whole, bytes_max);
    let longest = text.split(|c| c != '`').map(str::len).max().unwrap_or(0);
    let fence = "`".repeat(longest.max(3) + 1);
    let cut = if text.len() < whole.len() { "\n(cut here: the file is longer)\n" } else { "\n" };
    format!("{fence}text\n{text}\n{fence}{cut}")
}
