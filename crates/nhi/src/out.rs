//! Printing: a table for people, JSON for programs, the same fields. The only place that writes to standard
//! output and standard error. It never decides how a command ends: a reader that goes away ends nothing, and turns
//! no failure into success.

use crate::exit::Exit;
use comfy_table::{ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;
use std::io::{self, IsTerminal, Write};

/// Longest cell of a table: an alert's sentence fits, a hostile name does not widen the table.
const CELL_CHARS_MAX: usize = 160;

/// A column with longer cells than this holds sentences, and stays readable at this width.
const TEXT_CHARS_MIN: usize = 28;
/// A space before and after each cell.
const PADDING_CHARS: usize = 2;

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

/// Prints a piece of a text to standard output as it comes; false when nobody reads any more. Models write what they
/// like: what steers a terminal is taken out, line breaks and tabs stay.
pub(crate) fn piece(text: &str) -> bool {
    let shown: String = text.chars().filter(|c| !c.is_control() || matches!(c, '\n' | '\t')).collect();
    let mut out = io::stdout().lock();
    match out.write_all(shown.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => true,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => false,
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
    let rows: Vec<[String; N]> = rows.into_iter().map(|row| row.map(|cell| short(&safe(&cell)))).collect();
    // A terminal of an automation has no width.
    let told = || Table::new().width().map(usize::from).filter(|width| *width > 0);
    let width = if io::stdout().is_terminal() { told() } else { None };
    for row in arranged(header, &rows, width) {
        line(row.trim_end());
    }
}

/// The lines of a table. Where it is too wide, sentences are wrapped; where that is not enough, what does not fit goes
/// onto a line below its row. Names and addresses are never cut in two: people copy them.
fn arranged<const N: usize>(header: [&str; N], rows: &[[String; N]], width: Option<usize>) -> Vec<String> {
    let longest = |column: usize| {
        let cells = rows.iter().map(|row| row[column].as_str()).chain([header[column]]);
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let natural: [usize; N] = std::array::from_fn(longest);
    let is_text: [bool; N] = std::array::from_fn(|column| {
        natural[column] > TEXT_CHARS_MIN && rows.iter().any(|row| row[column].contains(' '))
    });
    let least = |column: usize| if is_text[column] { TEXT_CHARS_MIN } else { natural[column] };
    match width {
        Some(width) if (0..N).map(|column| least(column) + PADDING_CHARS).sum::<usize>() > width => {
            let mut needed = 0;
            let fits = |chars: &&usize| {
                needed += **chars + PADDING_CHARS;
                needed <= width
            };
            folded(header, rows, natural.iter().take_while(fits).count().max(1))
        }
        Some(width) => {
            let mut table = plain(&header, rows.iter().map(|row| &row[..]));
            table.set_content_arrangement(ContentArrangement::Dynamic);
            table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
            for column in (0..N).filter(|column| !is_text[*column]) {
                if let Some(column) = table.column_mut(column) {
                    column.set_constraint(ColumnConstraint::ContentWidth);
                }
            }
            table.lines().collect()
        }
        None => plain(&header, rows.iter().map(|row| &row[..])).lines().collect(),
    }
}

/// The first columns as a table, and below each row what is left of it.
fn folded<const N: usize>(header: [&str; N], rows: &[[String; N]], columns: usize) -> Vec<String> {
    let below = |cells: &[&str]| {
        let cells: Vec<&str> = cells.iter().copied().filter(|cell| !cell.is_empty()).collect();
        (!cells.is_empty()).then(|| format!("    {}", cells.join(" · ")))
    };
    let of_row = |row: &[String; N]| below(&row.each_ref().map(String::as_str)[columns..]);
    let rests = std::iter::once(below(&header[columns..])).chain(rows.iter().map(of_row));
    let heads = plain(&header[..columns], rows.iter().map(|row| &row[..columns]));
    heads.lines().zip(rests).flat_map(|(head, rest)| [Some(head), rest].into_iter().flatten()).collect()
}

fn plain<'a>(header: &[&str], rows: impl Iterator<Item = &'a [String]>) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(header);
    for row in rows {
        table.add_row(row);
    }
    table
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

/// A number of things: `1 record`, `2 records`. For words whose plural ends in s.
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
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
    fn a_table_wraps_sentences_and_cuts_no_name() {
        let row = |id: &str, address: &str, note: &str| [id.to_owned(), address.to_owned(), note.to_owned()];
        let note = "stale: the node was not reachable in the last pass";
        let rows = [row("100", "192.168.10.100", note), row("101", "", "")];
        let shown = |width| -> Vec<String> {
            arranged(["ID", "ADDRESSES", "NOTE"], &rows, width)
                .iter()
                .map(|l| l.trim_end().to_owned())
                .collect()
        };
        let one_line = [
            " ID   ADDRESSES       NOTE",
            " 100  192.168.10.100  stale: the node was not reachable in the last pass",
            " 101",
        ];
        assert_eq!(shown(None), one_line);
        assert_eq!(shown(Some(100)), one_line);
        let wrapped = shown(Some(60));
        assert!(
            wrapped.len() == 4 && wrapped[1].starts_with(" 100  192.168.10.100  stale: "),
            "{wrapped:#?}"
        );
        assert!(wrapped.iter().all(|line| line.chars().count() <= 60), "{wrapped:#?}");
        let folded = [
            " ID   ADDRESSES",
            "    NOTE",
            " 100  192.168.10.100",
            "    stale: the node was not reachable in the last pass",
            " 101",
        ];
        assert_eq!(shown(Some(30)), folded);
        assert_eq!(shown(Some(3))[2..4], [" 100", &format!("    192.168.10.100 · {note}")]);
    }

    #[test]
    fn a_name_cannot_move_the_cursor() {
        assert_eq!(safe("a\u{1b}[2Jb\u{202e}c\n"), "a\u{fffd}[2Jb\u{fffd}c\u{fffd}");
    }
}
