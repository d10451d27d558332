//! Where one backend's text ends and the next one's begins: what comes twice is taken off, once. Pure.

/// A shorter text may be said again because that is how it goes on; a longer one that comes again from its start, and
/// has not repeated itself before, is an echo. What is taken for one is gone without a trace, so this is rather long.
const ECHO_CHARS_MIN: usize = 128;

/// The backend does not go on where the text ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it goes on in other words than those that were read")]
pub struct Diverged;

/// What may come again, and what has come so far.
#[derive(Debug)]
pub(super) struct Overlap {
    /// The end of the text, expected again.
    tail: String,
    /// Whether anything else means that the backend goes another way.
    must: bool,
    /// The whole text, where it is long enough to be recognised.
    echo: String,
    /// What came and is not judged yet.
    got: String,
    is_over: bool,
}

impl Overlap {
    /// Nothing comes again.
    pub(super) const fn none() -> Self {
        Self { tail: String::new(), must: false, echo: String::new(), got: String::new(), is_over: true }
    }

    pub(super) fn new(tail: &str, must: bool, text: &str) -> Self {
        let is_long = text.chars().count() >= ECHO_CHARS_MIN;
        let echo = if is_long && !repeats_itself(text) { text.to_owned() } else { String::new() };
        let is_over = tail.is_empty() && echo.is_empty();
        Self { tail: tail.to_owned(), must, echo, got: String::new(), is_over }
    }

    /// What of a piece is new.
    pub(super) fn take(&mut self, piece: &str) -> Result<String, Diverged> {
        if self.is_over {
            return Ok(piece.to_owned());
        }
        self.got.push_str(piece);
        if self.may_become(&self.echo) || self.may_become(&self.tail) {
            return Ok(String::new());
        }
        self.judge()
    }

    /// The backend has ended: what was held is judged as it is, and what of it is new is given.
    pub(super) fn finish(&mut self) -> Result<String, Diverged> {
        if self.is_over { Ok(String::new()) } else { self.judge() }
    }

    fn may_become(&self, whole: &str) -> bool {
        whole.len() > self.got.len() && whole.starts_with(&self.got)
    }

    fn judge(&mut self) -> Result<String, Diverged> {
        self.is_over = true;
        let got = std::mem::take(&mut self.got);
        if !self.echo.is_empty()
            && let Some(new) = got.strip_prefix(&self.echo)
        {
            return Ok(new.to_owned());
        }
        if let Some(new) = got.strip_prefix(&self.tail) {
            return Ok(new.to_owned());
        }
        if self.must {
            return Err(Diverged);
        }
        let same = got.chars().zip(self.tail.chars()).take_while(|(a, b)| a == b);
        let bytes: usize = same.map(|(char, _)| char.len_utf8()).sum();
        Ok(got[bytes..].to_owned())
    }
}

/// Whether a text says the same thing at least twice from its start to its end, the last time perhaps not to the end:
/// then it may go on with what it began with. By the longest of its beginnings that it also ends with.
fn repeats_itself(text: &str) -> bool {
    let bytes = text.as_bytes();
    let mut borders = vec![0; bytes.len()];
    let mut border = 0;
    for at in 1..bytes.len() {
        while border > 0 && bytes[at] != bytes[border] {
            border = borders[border - 1];
        }
        border += usize::from(bytes[at] == bytes[border]);
        borders[at] = border;
    }
    border > 0 && border * 2 >= bytes.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tail: &str, must: bool, text: &str, pieces: &[&str], expect: Result<&str, Diverged>) {
        let mut overlap = Overlap::new(tail, must, text);
        let new: Result<String, Diverged> = pieces.iter().map(|piece| overlap.take(piece)).collect();
        let new = new.and_then(|new| overlap.finish().map(|left| new + &left));
        assert_eq!(new.as_deref(), expect.as_ref().map(|text| *text).map_err(|_| &Diverged), "{pieces:?}");
    }

    #[test]
    fn what_comes_twice_is_taken_off_once() {
        let head = "The quick brown fox jumps over the lazy dog, which sleeps. When it wakes, the fox is gone, and \
                    all that is left of it are a few hairs on the";
        check("", false, "short", &["short", " again"], Ok("short again"));
        let (one, two) = head.split_at(9);
        check("", false, head, &[one, two, " lawn"], Ok(" lawn"));
        check("", false, head, &["The quick", " red"], Ok("The quick red"));
        check(" la", true, "x la", &[" ", "lazy", " dog"], Ok("zy dog"));
        check(" la", true, "x la", &[" bro", "wn"], Err(Diverged));
        check(" la", true, "x la", &[" l"], Err(Diverged));
        check("\n ", false, "x\n ", &["\n", " ", "y"], Ok("y"));
        check("\n ", false, "x\n ", &["\n", "y"], Ok("y"));
        check("\n ", false, "x\n ", &["y"], Ok("y"));
        check("ä", false, "ä", &["ö"], Ok("ö"));
    }

    #[test]
    fn a_short_end_that_looks_like_the_beginning_is_given() {
        let code = format!("```rust\n{}", "let name = value;\n".repeat(9)) + "let last = 1;\n";
        check("\n", false, &code, &["\n", "```"], Ok("```"));
        check("\n", false, &code, &["`", "``"], Ok("```"));
        let bold = format!("**{}", ('a'..='z').cycle().step_by(7).take(200).collect::<String>());
        check("", false, &(bold + " end"), &["**"], Ok("**"));
        // Nothing but the end of what was read has come again.
        check("\n", false, &code, &["\n"], Ok(""));
        check(" la", true, "x la", &[" la"], Ok(""));
        check(" la", true, "x la", &[], Err(Diverged));
    }

    #[test]
    fn a_text_that_repeats_itself_goes_on_so() {
        let line = "All work and no play makes Jack a dull boy. ";
        let text = line.repeat(4);
        check(" ", false, &text, &[line, line, line, line, line], Ok(&line.repeat(5)));
        // Shorter than an echo must be: once may well be followed by twice.
        check("", false, line, &[line, line], Ok(&line.repeat(2)));
        assert!(repeats_itself("abab") && repeats_itself("ababa") && repeats_itself("aa"));
        assert!(!repeats_itself("aba") && !repeats_itself("abcdab") && !repeats_itself("a"));
        assert!(!repeats_itself(""));
    }
}
