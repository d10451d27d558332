//! From what a caller selects to the subjects that can match. Pure. The result may be wider than the selection; what
//! comes back is matched again by [`nhi_model::key::Key::matches`].

use super::{PastError, subject_of};
use nhi_model::key::Section;

/// Subjects to ask for. Nothing selected means everything.
pub(super) fn filters(select: &[String]) -> Result<Vec<String>, PastError> {
    let mut filters = Vec::new();
    for select in select {
        filters.extend(patterns(select)?.iter().map(|pattern| subject_of(pattern)));
    }
    let all = subject_of(">");
    if select.is_empty() || filters.contains(&all) {
        return Ok(vec![all]);
    }
    filters.sort();
    filters.dedup();
    Ok(filters)
}

/// The one subject that covers a selection, for requests that take only one.
pub(super) fn filter(select: &str) -> Result<String, PastError> {
    let mut patterns = patterns(select)?;
    Ok(match (patterns.pop(), patterns.pop()) {
        (Some(only), None) => subject_of(&only),
        (None, _) | (Some(_), Some(_)) => subject_of(">"),
    })
}

/// A selection as patterns of keys: a shorter one means everything below it.
fn patterns(select: &str) -> Result<Vec<String>, PastError> {
    let bad = |why| PastError::BadSelect { select: select.chars().take(120).collect(), why };
    let tokens: Vec<&str> = select.split('.').collect();
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"_-=".contains(&b);
    for (index, token) in tokens.iter().enumerate() {
        match *token {
            "" => return Err(bad("a token is empty")),
            "*" => {}
            ">" if index + 1 == tokens.len() => {}
            token if token.bytes().all(plain) => {}
            _ => return Err(bad("a token has a character that keys do not have")),
        }
    }
    let below = format!("{select}.>");
    if select.ends_with('>') {
        return Ok(vec![select.to_owned()]);
    }
    if tokens[0] == "*" {
        return Ok(vec![select.to_owned(), below]);
    }
    let section = Section::ALL.into_iter().find(|section| section.as_str() == tokens[0]);
    let length = section.ok_or_else(|| bad("there is no such section"))?.tokens() + 1;
    Ok(match tokens.len().cmp(&length) {
        std::cmp::Ordering::Less => vec![below],
        std::cmp::Ordering::Equal => vec![select.to_owned()],
        std::cmp::Ordering::Greater => return Err(bad("it has more tokens than the section's keys")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selections_become_subjects() {
        let check = |select: &[&str], expect: &[&str]| {
            let select: Vec<String> = select.iter().map(|s| (*s).to_owned()).collect();
            assert_eq!(filters(&select).unwrap(), expect, "{select:?}");
        };
        check(&[], &["$KV.nhi-state.>"]);
        check(&["vm"], &["$KV.nhi-state.vm.>"]);
        check(&["vm.home"], &["$KV.nhi-state.vm.home.>"]);
        check(&["vm.home.100", "graph"], &["$KV.nhi-state.graph", "$KV.nhi-state.vm.home.100"]);
        check(&["vm.*.100"], &["$KV.nhi-state.vm.*.100"]);
        check(&["vm.>"], &["$KV.nhi-state.vm.>"]);
        check(&["*.home"], &["$KV.nhi-state.*.home", "$KV.nhi-state.*.home.>"]);
        check(&["vm", ">"], &["$KV.nhi-state.>"]);
    }

    #[test]
    fn nonsense_is_refused() {
        for bad in ["", "v", "vm.", "vm..1", "vm.>.1", "vm.ho me", "vm.a.1.x", "vm.a*", "*.", "vm.\u{e4}"] {
            let error = filters(&[bad.to_owned()]).unwrap_err();
            assert!(matches!(error, PastError::BadSelect { .. }), "{bad:?}: {error}");
        }
    }

    #[test]
    fn one_subject_covers_a_selection() {
        assert_eq!(filter("vm").unwrap(), "$KV.nhi-state.vm.>");
        assert_eq!(filter("*.home").unwrap(), "$KV.nhi-state.>");
    }
}
