//! Server-sent events out of bytes that arrive in any pieces. Ids and retry times are ignored: nobody reconnects here.

use crate::lines::{Broken, Event, Lines};

/// Takes bytes, gives events.
#[derive(Debug)]
pub struct Parser {
    lines: Lines,
    pending: Pending,
}

#[derive(Debug)]
struct Pending {
    name: Option<String>,
    data: Option<String>,
    bytes_max: usize,
}

impl Parser {
    /// For events of at most so many bytes.
    pub const fn new(bytes_max: usize) -> Self {
        Self { lines: Lines::new(bytes_max), pending: Pending { name: None, data: None, bytes_max } }
    }

    /// Adds the events that end in these bytes to `events`; also those before the place where it breaks.
    pub fn push(&mut self, bytes: &[u8], events: &mut impl Extend<Event>) -> Result<(), Broken> {
        let pending = &mut self.pending;
        self.lines.push(bytes, |line| pending.line(line, events))
    }

    /// Adds the event that the last bytes left open. Some servers forget the empty line at the end; whoever needs to
    /// know whether the stream was cut looks at what the event says.
    pub fn finish(&mut self, events: &mut impl Extend<Event>) -> Result<(), Broken> {
        let pending = &mut self.pending;
        self.lines.finish(|line| pending.line(line, events))?;
        pending.line("", events)
    }
}

impl Pending {
    fn line(&mut self, line: &str, events: &mut impl Extend<Event>) -> Result<(), Broken> {
        if line.is_empty() {
            let name = self.name.take();
            if let Some(data) = self.data.take() {
                events.extend([Event { name, data }]);
            }
            return Ok(());
        }
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match field {
            "event" => self.name = Some(value.to_owned()),
            "data" => self.add(value)?,
            // llama.cpp's servers of 2024 tell an error so.
            "error" => {
                self.name = Some("error".to_owned());
                self.add(value)?;
            }
            _ => {}
        }
        Ok(())
    }

    fn add(&mut self, value: &str) -> Result<(), Broken> {
        let before = self.data.as_ref().map_or(0, String::len);
        if before + value.len() > self.bytes_max {
            return Err(Broken::TooLarge { bytes_max: self.bytes_max });
        }
        match &mut self.data {
            None => self.data = Some(value.to_owned()),
            Some(data) => {
                data.push('\n');
                data.push_str(value);
            }
        }
        Ok(())
    }
}
