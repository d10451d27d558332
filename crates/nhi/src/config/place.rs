//! Where a setting was told: the line of `nhi.toml` or of `.env`. It judges no setting.

use super::{ConfigError, Origin, file::line_at};
use toml_edit::{Document, Item};

/// The texts the settings were read from.
pub(super) struct Places<'a> {
    pub(super) origin: &'a Origin<'a>,
    pub(super) toml: &'a str,
    pub(super) dot_env: &'a str,
}

impl Places<'_> {
    /// The error with file and line, where its key stands in a file.
    pub(super) fn name(&self, error: ConfigError) -> ConfigError {
        let ConfigError::Value { key, what } = error else { return error };
        let place = if key.contains('.') {
            self.in_toml(&key).map(|line| (self.origin.file, line))
        } else if self.origin.environment.contains_key(&key) {
            None
        } else {
            self.in_dot_env(&key).map(|line| (self.origin.dot_env, line))
        };
        match place {
            Some((path, line)) => {
                ConfigError::File { path: path.to_owned(), line, what: format!("{key}: {what}") }
            }
            None => ConfigError::Value { key, what },
        }
    }

    /// The line of a dotted key, or of the table it is missing in.
    fn in_toml(&self, key: &str) -> Option<usize> {
        let document = Document::parse(self.toml).ok()?;
        let mut item: &Item = document.as_item();
        let mut start = None;
        for name in key.split('.') {
            let Some((found, next)) = item.as_table_like().and_then(|table| table.get_key_value(name)) else {
                break;
            };
            // A table stands where its header does, a value where its key does.
            let span = if next.is_table() { next.span() } else { found.span() };
            start = span.map(|span| span.start).or(start);
            item = next;
        }
        start.map(|start| line_at(self.toml, start))
    }

    /// The last line that sets a variable: it is the one that counts.
    fn in_dot_env(&self, key: &str) -> Option<usize> {
        let sets = |line: &str| {
            let line = line.trim_start();
            let line = line.strip_prefix("export ").unwrap_or(line);
            line.split_once('=').is_some_and(|(name, _)| name.trim() == key)
        };
        let before = self.dot_env.lines().collect::<Vec<_>>().iter().rposition(|line| sets(line))?;
        Some(before + 1)
    }
}
