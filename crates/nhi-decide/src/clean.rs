//! Text from the lab made harmless: names, notes, reasons. It keeps meaning and drops what can fool a terminal
//! or an eye. Quoting for a format (Markdown, JSON) is the renderer's business.

/// Longest name we keep, characters.
pub const NAME_CHARS_MAX: usize = 255;
/// Longest notes we keep, bytes.
pub const NOTES_BYTES_MAX: usize = 8 * 1024;
/// Longest reason we keep, characters: one sentence with its remedy. Where one holds a fingerprint to copy, it is
/// no use cut short.
pub const REASON_CHARS_MAX: usize = 1000;

/// One line: escape sequences, control and invisible formatting characters removed, every run of white space one
/// blank, trimmed, cut to `chars_max` characters.
pub fn text(raw: &str, chars_max: usize) -> String {
    let mut out = String::new();
    let mut count = 0;
    let mut blank = false;
    for c in visible(raw) {
        if c.is_whitespace() {
            blank = !out.is_empty();
            continue;
        }
        let needed = 1 + usize::from(blank);
        if count + needed > chars_max {
            break;
        }
        if blank {
            out.push(' ');
        }
        out.push(c);
        count += needed;
        blank = false;
    }
    out
}

/// Several lines: as [`text`], but line ends stay, a tab becomes a blank, and the cut is at `bytes_max` bytes.
pub fn block(raw: &str, bytes_max: usize) -> String {
    let mut out = String::new();
    for c in visible(raw) {
        let c = match c {
            '\n' => '\n',
            c if c.is_whitespace() => ' ',
            c => c,
        };
        if out.len() + c.len_utf8() > bytes_max {
            break;
        }
        out.push(c);
    }
    out.truncate(out.trim_end().len());
    out
}

/// The characters of a text without escape sequences and without those that are not seen.
fn visible(raw: &str) -> impl Iterator<Item = char> + '_ {
    let mut rest = raw.chars().peekable();
    std::iter::from_fn(move || {
        loop {
            let c = rest.next()?;
            if c == '\u{1b}' || c == '\u{9b}' {
                skip_escape(c, &mut rest);
            } else if c == '\n' || c == '\t' || !is_hidden(c) {
                return Some(c);
            } else if c == '\r' {
                return Some(if rest.next_if_eq(&'\n').is_some() { '\n' } else { ' ' });
            }
        }
    })
}

/// Skips the rest of an ANSI escape sequence: `ESC [ … letter`, `ESC ] … BEL or ESC \`, `ESC x`.
fn skip_escape(first: char, rest: &mut std::iter::Peekable<std::str::Chars<'_>>) {
    let control_sequence = first == '\u{9b}' || rest.next_if_eq(&'[').is_some();
    if control_sequence {
        while rest.next_if(|c| matches!(c, '\u{20}'..='\u{3f}')).is_some() {}
        let _ = rest.next_if(|c| matches!(c, '\u{40}'..='\u{7e}'));
    } else if rest.next_if_eq(&']').is_some() {
        // An unterminated title would swallow everything, so it ends at the line at the latest.
        while let Some(c) = rest.next_if(|c| *c != '\n') {
            if c == '\u{7}' || (c == '\u{1b}' && rest.next_if_eq(&'\\').is_some()) {
                break;
            }
        }
    } else {
        let _ = rest.next_if(|c| matches!(c, '\u{30}'..='\u{7e}'));
    }
}

/// Control characters, and format characters that change direction or are not drawn. The joiner that emoji are
/// made of stays.
fn is_hidden(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200c}' | '\u{200e}' | '\u{200f}'
            | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_fools_a_terminal_goes_and_words_stay() {
        let check = |raw: &str, want: &str| assert_eq!(text(raw, 255), want, "{raw:?}");
        check("web-01", "web-01");
        check("  two \t\r\n words ", "two words");
        check("\u{1b}[31mred\u{1b}[0m \u{1b}]0;title\u{7}x", "red x");
        check("\u{1b}]0;never closed", "");
        check("a\u{0}b\u{7f}c\u{9b}2Jd", "abcd");
        check("safe\u{202e}txt.exe\u{2066}", "safetxt.exe");
        check("👩\u{200d}💻 café", "👩\u{200d}💻 café");
        check("\u{feff}\u{200b}", "");
        assert_eq!(text(&"x".repeat(4096), NAME_CHARS_MAX).len(), 255);
        assert_eq!(text("ab cd", 3), "ab");
        assert_eq!(block("one\r\ntwo\tthree\u{1b}[1m\n\n", 100), "one\ntwo three");
        assert_eq!(block("ééé", 5), "éé");
    }

    #[test]
    fn a_remedy_fits_into_a_reason() {
        let print = ["AB"; 32].join(":");
        let raw = format!(
            "the cluster's nodes could not be listed: {}: set PROXMOX_FINGERPRINT={print}",
            "the certificate changed; ".repeat(15)
        );
        assert!(raw.chars().count() > 400);
        assert_eq!(text(&raw, REASON_CHARS_MAX), raw.trim());
        assert!(text(&"x".repeat(5000), REASON_CHARS_MAX).len() <= 1000 && NAME_CHARS_MAX == 255);
    }

    proptest! {
        #[test]
        fn cleaning_is_bounded_and_final(raw in any::<String>(), max in 0usize..40) {
            let once = text(&raw, max);
            prop_assert!(once.chars().count() <= max);
            prop_assert!(!once.chars().any(is_hidden));
            prop_assert_eq!(text(&once, max), once);
            let once = block(&raw, max);
            prop_assert!(once.len() <= max);
            prop_assert_eq!(block(&once, max), once);
        }
    }
}
