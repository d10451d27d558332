//! Where one backend's text ends and the next one's begins: what comes twice is taken off, once. Pure.

/// A text this short may begin as it did by chance; a longer one that is said again from its start is an echo.
const ECHO_CHARS_MIN: usize = 32;

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
        let echo = if is_long { text.to_owned() } else { String::new() };
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

    /// The backend has ended: what was held is judged as it is.
    pub(super) fn finish(&mut self) -> Result<(), Diverged> {
        if self.is_over {
            return Ok(());
        }
        self.is_over = true;
        if self.must && self.got.len() < self.tail.len() { Err(Diverged) } else { Ok(()) }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tail: &str, must: bool, text: &str, pieces: &[&str], expect: Result<&str, Diverged>) {
        let mut overlap = Overlap::new(tail, must, text);
        let new: Result<String, Diverged> = pieces.iter().map(|piece| overlap.take(piece)).collect();
        let new = new.and_then(|new| overlap.finish().map(|()| new));
        assert_eq!(new.as_deref(), expect.as_ref().map(|text| *text).map_err(|_| &Diverged), "{pieces:?}");
    }

    #[test]
    fn what_comes_twice_is_taken_off_once() {
        let head = "The quick brown fox jumps over the lazy";
        check("", false, "short", &["short", " again"], Ok("short again"));
        check("", false, head, &["The quick", " brown fox jumps over the lazy", " dog"], Ok(" dog"));
        check("", false, head, &["The quick", " red"], Ok("The quick red"));
        check(" la", true, "x la", &[" ", "lazy", " dog"], Ok("zy dog"));
        check(" la", true, "x la", &[" bro", "wn"], Err(Diverged));
        check(" la", true, "x la", &[" l"], Err(Diverged));
        check("\n ", false, "x\n ", &["\n", " ", "y"], Ok("y"));
        check("\n ", false, "x\n ", &["\n", "y"], Ok("y"));
        check("\n ", false, "x\n ", &["y"], Ok("y"));
        check("ä", false, "ä", &["ö"], Ok("ö"));
    }
}
