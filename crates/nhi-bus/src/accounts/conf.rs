//! Words of nats-server's configuration language. It knows no account.

/// A string of the language. Inside double quotes a `$` starts no variable.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => out.push_str(&format!("\\x{:02X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

/// A list of strings, one a line when they are many; `indent` is that of its line. Sorted and without doubles.
pub(super) fn list(items: &[String], indent: &str) -> String {
    let mut items: Vec<String> = items.iter().map(|item| quote(item)).collect();
    items.sort();
    items.dedup();
    match items.len() {
        0..=2 => format!("[{}]", items.join(", ")),
        _ => format!("[\n{indent}  {}\n{indent}]", items.join(&format!(",\n{indent}  "))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leaves_its_quotes() {
        assert_eq!(quote("$SRV.>"), "\"$SRV.>\"");
        assert_eq!(quote("a\"b\\c\nd\u{1}"), "\"a\\\"b\\\\c\\nd\\x01\"");
    }
}
