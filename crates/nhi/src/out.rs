//! Printing: a table for people, JSON for programs, the same fields. The only place that writes to standard
//! output and standard error. It never decides how a command ends: a reader that goes away ends nothing, and turns
//! no failure into success.

use crate::exit::Exit;
use comfy_table::{ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Longest cell of a table: an alert's sentence fits, a hostile name does not widen the table.
const CELL_CHARS_MAX: usize = 160;

/// Prints a line to standard output. When its reader went away (`| head`), the command goes on unheard: what it
/// changes must not depend on who reads.
pub(crate) fn line(text: &str) {
    let _heard = told(text);
}

/// Prints a line to standard output; false when nobody reads any more. What would go on for ever ends then.
pub(crate) fn told(text: &str) -> bool {
    match write(&mut io::stdout().lock(), text) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => false,
        // A full disk: half an answer must not pass for a whole one.
        Err(error) => {
            note(&format!("error: cannot write to standard output: {error}"));
            std::process::exit(Exit::Failed.code().into())
        }
    }
}

/// Prints a line to standard error. Nothing is said elsewhere when nobody hears it.
pub(crate) fn note(text: &str) {
    let _unheard = write(&mut io::stderr().lock(), text);
}

fn write(to: &mut impl Write, text: &str) -> io::Result<()> {
    writeln!(to, "{text}").and_then(|()| to.flush())
}

/// Prints a value as JSON.
pub(crate) fn json(value: &impl Serialize) {
    line(&serde_json::to_string_pretty(value).expect("our own answer types have string keys and serialise"));
}

/// Prints a table that fits the terminal; on a pipe, as wide as it needs.
pub(crate) fn table<const N: usize>(header: [&str; N], rows: impl IntoIterator<Item = [String; N]>) {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    if io::stdout().is_terminal() {
        table.set_content_arrangement(ContentArrangement::Dynamic);
    }
    for row in rows {
        table.add_row(row.map(|cell| short(&safe(&cell))));
    }
    for row in table.lines() {
        line(row.trim_end());
    }
}

/// A cell that leaves room for its neighbours; JSON has all of it.
fn short(cell: &str) -> String {
    if cell.chars().count() <= CELL_CHARS_MAX {
        return cell.to_owned();
    }
    let mut text: String = cell.chars().take(CELL_CHARS_MAX - 1).collect();
    text.push('…');
    text
}

/// Text from the lab for one line of output: control, format and bidirectional characters are replaced, so
/// that a guest's name cannot move the cursor.
pub(crate) fn safe(text: &str) -> String {
    let harmless = |c: char| {
        let steers = matches!(c, '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}');
        if steers || c.is_control() { '\u{fffd}' } else { c }
    };
    text.chars().map(harmless).collect()
}

/// Seconds as people say them.
pub(crate) fn age(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => format!("{} min", seconds / 60),
        3600..86_400 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_well() {
        assert_eq!([age(59), age(3599), age(7200), age(90_000)], ["59 s", "59 min", "2 h", "1 d"]);
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert_eq!(safe("a\u{1b}[2Jb\u{202e}c\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }
}
