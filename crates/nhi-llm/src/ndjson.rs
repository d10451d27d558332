//! One JSON text a line, out of bytes that arrive in any pieces. It does not read the JSON.

use crate::lines::{Broken, Event, Lines};

/// Takes bytes, gives lines that are not empty.
#[derive(Debug)]
pub struct Parser {
    lines: Lines,
}

impl Parser {
    /// For lines of at most so many bytes.
    pub const fn new(bytes_max: usize) -> Self {
        Self { lines: Lines::new(bytes_max) }
    }

    /// Adds the lines that end in these bytes to `events`; also those before the place where it breaks.
    pub fn push(&mut self, bytes: &[u8], events: &mut impl Extend<Event>) -> Result<(), Broken> {
        self.lines.push(bytes, |line| add(line, events))
    }

    /// Adds a last line without an end.
    pub fn finish(&mut self, events: &mut impl Extend<Event>) -> Result<(), Broken> {
        self.lines.finish(|line| add(line, events))
    }
}

#[expect(clippy::unnecessary_wraps, reason = "the shape Lines asks for")]
fn add(line: &str, events: &mut impl Extend<Event>) -> Result<(), Broken> {
    let line = line.trim();
    if !line.is_empty() {
        events.extend([Event { name: None, data: line.to_owned() }]);
    }
    Ok(())
}
