//! Lines out of bytes that arrive in any pieces. It does not know what the lines mean, and keeps one line at most.

/// Why a stream cannot be read on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A line or an event is longer than allowed.
    #[error("an event of more than {bytes_max} bytes")]
    TooLarge {
        /// What is allowed.
        bytes_max: usize,
    },
    /// A line is not UTF-8. Replacing what is wrong would damage somebody's text silently.
    #[error("an event that is not UTF-8")]
    NotText,
}

/// What a stream is made of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Its name, where it has one.
    pub name: Option<String>,
    /// What it says.
    pub data: String,
}

/// Takes bytes, gives lines. Lines end with LF, CR LF or, as SSE has it, CR alone.
#[derive(Debug)]
pub struct Lines {
    line: Vec<u8>,
    after_cr: bool,
    at_start: bool,
    bytes_max: usize,
}

impl Lines {
    /// For lines of at most so many bytes.
    pub const fn new(bytes_max: usize) -> Self {
        Self { line: Vec::new(), after_cr: false, at_start: true, bytes_max }
    }

    /// Gives each line that ends in these bytes to `take`, without its end.
    pub fn push(
        &mut self,
        bytes: &[u8],
        mut take: impl FnMut(&str) -> Result<(), Broken>,
    ) -> Result<(), Broken> {
        let mut rest = bytes;
        while let Some(first) = rest.first() {
            if std::mem::take(&mut self.after_cr) && *first == b'\n' {
                rest = &rest[1..];
                continue;
            }
            let end = rest.iter().position(|byte| matches!(byte, b'\n' | b'\r'));
            let part = &rest[..end.unwrap_or(rest.len())];
            if self.line.len() + part.len() > self.bytes_max {
                return Err(Broken::TooLarge { bytes_max: self.bytes_max });
            }
            self.line.extend_from_slice(part);
            let Some(end) = end else { return Ok(()) };
            self.after_cr = rest[end] == b'\r';
            rest = &rest[end + 1..];
            self.give(&mut take)?;
        }
        Ok(())
    }

    /// Gives what is left when the bytes are over: a line without an end.
    pub fn finish(&mut self, mut take: impl FnMut(&str) -> Result<(), Broken>) -> Result<(), Broken> {
        if self.line.is_empty() { Ok(()) } else { self.give(&mut take) }
    }

    fn give(&mut self, take: &mut impl FnMut(&str) -> Result<(), Broken>) -> Result<(), Broken> {
        let mut line = str::from_utf8(&self.line).map_err(|_| Broken::NotText)?;
        if std::mem::take(&mut self.at_start) {
            // Some servers on Windows begin with a byte order mark.
            line = line.strip_prefix('\u{feff}').unwrap_or(line);
        }
        let taken = take(line);
        self.line.clear();
        taken
    }
}
