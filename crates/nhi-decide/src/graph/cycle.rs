//! Finding a circle. Without recursion: a chain of ten thousand services must not end the program.

use std::collections::{BTreeMap, BTreeSet, btree_set};

/// The first circle in the order of names, starting and ending with the least name of it.
pub(super) fn find<'a>(edges: &BTreeMap<&'a str, BTreeSet<&'a str>>) -> Option<Vec<&'a str>> {
    let none = BTreeSet::new();
    let mut done: BTreeSet<&str> = BTreeSet::new();
    for start in edges.keys().copied() {
        let mut path: Vec<(&str, btree_set::Iter<'_, &str>)> = Vec::new();
        let mut on_path: BTreeSet<&str> = BTreeSet::new();
        let mut next = (!done.contains(start)).then_some(start);
        loop {
            if let Some(name) = next.take() {
                on_path.insert(name);
                path.push((name, edges.get(name).unwrap_or(&none).iter()));
            }
            let Some((name, rest)) = path.last_mut() else { break };
            match rest.next() {
                Some(needed) if on_path.contains(needed) => {
                    return Some(close(path.iter().map(|(name, _)| *name), needed));
                }
                Some(needed) if !done.contains(needed) => next = Some(needed),
                Some(_) => {}
                None => {
                    on_path.remove(name);
                    done.insert(name);
                    path.pop();
                }
            }
        }
    }
    None
}

/// The part of the path from `again` on, turned so that the least name comes first, and closed.
fn close<'a>(path: impl Iterator<Item = &'a str>, again: &str) -> Vec<&'a str> {
    let mut circle: Vec<&str> = path.skip_while(|name| *name != again).collect();
    let least = circle.iter().enumerate().min_by_key(|(_, name)| **name).map_or(0, |(place, _)| place);
    circle.rotate_left(least);
    circle.extend(circle.first().copied());
    circle
}
