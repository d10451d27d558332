//! As much of D-Bus as it takes to ask one question: a method without or with texts as arguments, and the first value
//! of its answer. It starts no service by asking, follows no signal, and offers nothing.
//!
//! Why not a library? Those there are bring an executor and a hundred crates for what are four questions.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
    path::Path,
    time::Duration,
};

/// A bus on the same machine answers within a millisecond; the sensors must not wait for a desktop that hangs.
const ANSWER_MAX: Duration = Duration::from_millis(200);
/// Answers to our questions have some hundred bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Messages that are not our answer: the bus greets with a few signals.
const OTHERS_MAX: usize = 16;

const METHOD_CALL: u8 = 1;
const METHOD_RETURN: u8 = 2;
const ERROR: u8 = 3;
/// Asking must not start a service that does not run.
const NO_AUTO_START: u8 = 2;

/// A question.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) service: &'a str,
    pub(crate) path: &'a str,
    pub(crate) interface: &'a str,
    pub(crate) method: &'a str,
    pub(crate) texts: &'a [&'a str],
}

/// The first value of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// A number or a yes.
    Number(i128),
    /// Something else.
    Other,
    /// The bus or the service says no: mostly nobody of that name is there.
    Refused,
}

/// A connection to a bus.
#[derive(Debug)]
pub(crate) struct Bus {
    stream: UnixStream,
    serial: u32,
}

impl Bus {
    /// Connects as the user we are.
    pub(crate) fn connect(socket: &Path) -> io::Result<Self> {
        let mut stream = UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(ANSWER_MAX))?;
        stream.set_write_timeout(Some(ANSWER_MAX))?;
        let user = rustix::process::geteuid().as_raw().to_string();
        let user: String = user.bytes().map(|byte| format!("{byte:02x}")).collect();
        stream.write_all(format!("\0AUTH EXTERNAL {user}\r\n").as_bytes())?;
        if !line(&mut stream)?.starts_with("OK ") {
            return Err(io::ErrorKind::PermissionDenied.into());
        }
        stream.write_all(b"BEGIN\r\n")?;
        let mut bus = Self { stream, serial: 0 };
        let hello = Ask {
            service: "org.freedesktop.DBus",
            path: "/org/freedesktop/DBus",
            interface: "org.freedesktop.DBus",
            method: "Hello",
            texts: &[],
        };
        bus.ask(hello)?;
        Ok(bus)
    }

    /// A property's value.
    pub(crate) fn property(
        &mut self,
        service: &str,
        path: &str,
        interface: &str,
        name: &str,
    ) -> io::Result<Told> {
        let (properties, method) = ("org.freedesktop.DBus.Properties", "Get");
        self.ask(Ask { service, path, interface: properties, method, texts: &[interface, name] })
    }

    /// Asks, and waits for the answer. After an error the connection is of no more use.
    pub(crate) fn ask(&mut self, ask: Ask<'_>) -> io::Result<Told> {
        self.serial += 1;
        self.stream.write_all(&question(ask, self.serial))?;
        for _ in 0..OTHERS_MAX {
            let message = self.message()?;
            if message.answers == Some(self.serial) {
                return Ok(message.told);
            }
        }
        Err(bad("the answer does not come"))
    }

    fn message(&mut self) -> io::Result<Message> {
        let mut head = [0; 16];
        self.stream.read_exact(&mut head)?;
        if head[0] != b'l' {
            return Err(bad("the bus speaks with its bytes turned around"));
        }
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let (body, fields) = (number(4) as usize, number(12) as usize);
        let rest = fields.next_multiple_of(8).saturating_add(body);
        if rest > MESSAGE_BYTES_MAX {
            return Err(bad("a message is too large"));
        }
        let mut bytes = vec![0; rest];
        self.stream.read_exact(&mut bytes)?;
        let (fields_bytes, body) = (&bytes[..fields], &bytes[fields.next_multiple_of(8)..]);
        let fields = Fields::read(fields_bytes).ok_or_else(|| bad("a message has no sound head"))?;
        let told = match head[1] {
            METHOD_RETURN => first(&fields.signature, body).ok_or_else(|| bad("an answer breaks off"))?,
            ERROR => Told::Refused,
            _ => Told::Other,
        };
        let answers = fields.answers.filter(|_| matches!(head[1], METHOD_RETURN | ERROR));
        Ok(Message { answers, told })
    }
}

struct Message {
    answers: Option<u32>,
    told: Told,
}

fn bad(what: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn line(stream: &mut UnixStream) -> io::Result<String> {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        text.push(byte[0]);
        if text.len() > 512 {
            return Err(bad("the bus greets without end"));
        }
    }
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn question(ask: Ask<'_>, serial: u32) -> Vec<u8> {
    let mut body = Vec::new();
    for text in ask.texts {
        put_text(&mut body, text);
    }
    let mut fields = Vec::new();
    for (code, sort, text) in
        [(1, b'o', ask.path), (2, b's', ask.interface), (3, b's', ask.method), (6, b's', ask.service)]
    {
        pad(&mut fields, 8);
        fields.extend([code, 1, sort, 0]);
        put_text(&mut fields, text);
    }
    if !ask.texts.is_empty() {
        pad(&mut fields, 8);
        fields.extend([8, 1, b'g', 0]);
        let count = u8::try_from(ask.texts.len()).expect("a question has a few texts");
        fields.push(count);
        fields.extend(std::iter::repeat_n(b's', ask.texts.len()));
        fields.push(0);
    }
    let mut message = vec![b'l', METHOD_CALL, NO_AUTO_START, 1];
    message.extend(length(body.len()).to_le_bytes());
    message.extend(serial.to_le_bytes());
    message.extend(length(fields.len()).to_le_bytes());
    message.extend(fields);
    pad(&mut message, 8);
    message.extend(body);
    message
}

fn length(bytes: usize) -> u32 {
    u32::try_from(bytes).expect("a question has some hundred bytes")
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    pad(out, 4);
    out.extend(length(text.len()).to_le_bytes());
    out.extend(text.as_bytes());
    out.push(0);
}

fn pad(out: &mut Vec<u8>, to: usize) {
    out.resize(out.len().next_multiple_of(to), 0);
}

/// What we need of a message's head.
#[derive(Default)]
struct Fields {
    answers: Option<u32>,
    signature: String,
}

impl Fields {
    fn read(bytes: &[u8]) -> Option<Self> {
        let mut fields = Self::default();
        let mut reader = Reader { bytes, at: 0 };
        loop {
            reader.align(8);
            if reader.at >= bytes.len() {
                return Some(fields);
            }
            let code = reader.byte()?;
            let sort = reader.signature()?;
            match (code, sort.as_str()) {
                (5, "u") => fields.answers = Some(reader.number(4)?.try_into().ok()?),
                (8, "g") => fields.signature = reader.signature()?,
                (_, "g") => drop(reader.signature()?),
                (_, "s" | "o") => reader.skip_text()?,
                (_, "u") => drop(reader.number(4)?),
                _ => return None,
            }
        }
    }
}

/// The first value of a body; `None` when the body is shorter than its signature says.
fn first(signature: &str, body: &[u8]) -> Option<Told> {
    let mut reader = Reader { bytes: body, at: 0 };
    let mut sort = signature.bytes().next();
    if sort == Some(b'v') {
        sort = reader.signature()?.bytes().next();
    }
    let signed = |value: i128, bits: u32| if value >= 1 << (bits - 1) { value - (1 << bits) } else { value };
    Some(match sort {
        Some(b'b' | b'u') => Told::Number(reader.number(4)?),
        Some(b'i') => Told::Number(signed(reader.number(4)?, 32)),
        Some(b't') => Told::Number(reader.number(8)?),
        Some(b'x') => Told::Number(signed(reader.number(8)?, 64)),
        Some(_) | None => Told::Other,
    })
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Reader<'_> {
    fn align(&mut self, to: usize) {
        self.at = self.at.next_multiple_of(to);
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.at)?;
        self.at += 1;
        Some(byte)
    }

    /// A number of 4 or 8 bytes, without a sign.
    fn number(&mut self, size: usize) -> Option<i128> {
        self.align(size);
        let bytes = self.bytes.get(self.at..self.at.checked_add(size)?)?;
        self.at += size;
        Some(bytes.iter().rev().fold(0, |number, byte| number << 8 | i128::from(*byte)))
    }

    fn signature(&mut self) -> Option<String> {
        let length = usize::from(self.byte()?);
        let text = self.bytes.get(self.at..self.at + length)?;
        self.at += length + 1;
        Some(String::from_utf8_lossy(text).into_owned())
    }

    fn skip_text(&mut self) -> Option<()> {
        let length = usize::try_from(self.number(4)?).ok()?;
        self.at = self.at.checked_add(length)?.checked_add(1)?;
        (self.at <= self.bytes.len()).then_some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_read_and_broken_ones_refused() {
        assert_eq!(first("u", &[5, 0, 0, 0]), Some(Told::Number(5)));
        assert_eq!(first("i", &[0xff; 4]), Some(Told::Number(-1)));
        assert_eq!(first("v", &[1, b'b', 0, 0, 1, 0, 0, 0]), Some(Told::Number(1)));
        assert_eq!(first("t", &[0, 1, 0, 0, 0, 0, 0, 0]), Some(Told::Number(256)));
        assert_eq!(first("s", &[]), Some(Told::Other));
        for broken in [&[][..], &[1], &[200, b'u'], &[1, b'u', 0]] {
            assert_eq!(first("v", broken), None, "{broken:?}");
        }
        assert!(Fields::read(&[5, 1, b'u', 0]).is_none());
        assert!(Fields::read(&[1, 1, b's', 0, 255, 255, 255, 255]).is_none());
    }
}
