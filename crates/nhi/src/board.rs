//! The lines `nhi up` shows while it starts: one a part, redrawn in place on a terminal, printed once a
//! change elsewhere.

use std::{
    io::{self, IsTerminal, Write},
    sync::Mutex,
};

/// One line.
#[derive(Debug)]
struct Row {
    name: &'static str,
    text: String,
    mark: Mark,
}

/// How a part stands.
#[derive(Clone, Copy, Debug)]
enum Mark {
    Going,
    Ready,
    Trouble,
}

impl Mark {
    const fn sign(self) -> char {
        match self {
            Self::Going => '…',
            Self::Ready => '✓',
            Self::Trouble => '!',
        }
    }
}

/// The lines, in the order their parts start.
#[derive(Debug)]
pub(crate) struct Board {
    rows: Mutex<Vec<Row>>,
    terminal: bool,
}

impl Board {
    /// A board for these parts, all waiting.
    pub(crate) fn new(parts: &[&'static str]) -> Self {
        let rows =
            parts.iter().map(|name| Row { name, text: "waiting".to_owned(), mark: Mark::Going }).collect();
        let board = Self { rows: Mutex::new(rows), terminal: io::stderr().is_terminal() };
        if board.terminal {
            board.draw(0);
        }
        board
    }

    /// A part has something to say and goes on.
    pub(crate) fn say(&self, name: &str, text: impl Into<String>) {
        self.set(name, text.into(), Mark::Going);
    }

    /// A part is ready.
    pub(crate) fn done(&self, name: &str, text: impl Into<String>) {
        self.set(name, text.into(), Mark::Ready);
    }

    /// A part runs and has something to complain about.
    pub(crate) fn trouble(&self, name: &str, text: impl Into<String>) {
        self.set(name, text.into(), Mark::Trouble);
    }

    fn set(&self, name: &str, text: String, mark: Mark) {
        let count = {
            let mut rows = self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
            let Some(row) = rows.iter_mut().find(|row| row.name == name) else { return };
            row.text = text;
            row.mark = mark;
            if !self.terminal {
                print_row(row, None);
                return;
            }
            rows.len()
        };
        self.draw(count);
    }

    /// Redraws all lines, after going up over `above` of them.
    fn draw(&self, above: usize) {
        let rows = self.rows.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if above > 0 {
            let _ = write!(io::stderr(), "\u{1b}[{above}A");
        }
        let width = comfy_table::Table::new().width().map_or(100, usize::from);
        for row in rows.iter() {
            print_row(row, Some(width));
        }
    }
}

/// Prints a line to standard error and goes on when nobody reads it: `out::note` would end the process there and
/// leave nats-server behind.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// The same to standard output.
pub(crate) fn line(text: &str) {
    let _ = writeln!(io::stdout(), "{text}");
}

/// A line that cannot be shown is no reason to stop starting.
fn print_row(row: &Row, width: Option<usize>) {
    let mark = row.mark.sign();
    let text = crate::out::safe(&row.text);
    let _ = match width {
        Some(width) => {
            let text: String = text.chars().take(width.saturating_sub(18).max(20)).collect();
            writeln!(io::stderr(), "\u{1b}[2K  {mark} {:<12} {text}", row.name)
        }
        None => writeln!(io::stderr(), "  {mark} {:<12} {text}", row.name),
    };
}
