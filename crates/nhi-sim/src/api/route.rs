//! The table of methods: path, rights, parameters and the function behind each, and how a path finds its
//! line. The lines themselves stand in the modules that carry them out.

use super::{Call, Outcome};
use crate::lab::Lab;
use std::collections::BTreeMap;

/// A method.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) check: Check,
    /// Its parameters, in the notation of [`super::schema`].
    pub(crate) params: &'static str,
    pub(crate) run: fn(&mut Lab, &Call<'_>) -> Outcome,
    /// Runs in one of pvedaemon's workers.
    pub(crate) is_protected: bool,
    /// Goes to the node in the path.
    pub(crate) is_proxied: bool,
    /// Refuses API tokens when false.
    pub(crate) takes_tokens: bool,
    /// Writes to the cluster file system.
    pub(crate) needs_quorum: bool,
}

/// Who may.
#[derive(Debug)]
pub(crate) enum Check {
    /// Everybody, without login.
    World,
    /// Everybody who is logged in; the method filters what it shows.
    Anyone,
    /// All of the privileges on the path.
    All(&'static str, &'static [&'static str]),
    /// One of the privileges on the path.
    AnyOf(&'static str, &'static [&'static str]),
}

type Run = fn(&mut Lab, &Call<'_>) -> Outcome;

const fn route(
    method: &'static str,
    path: &'static str,
    check: Check,
    params: &'static str,
    run: Run,
) -> Route {
    Route {
        method,
        path,
        check,
        params,
        run,
        is_protected: true,
        is_proxied: starts_with(path, "/nodes/{node}/"),
        takes_tokens: true,
        needs_quorum: true,
    }
}

const fn starts_with(text: &str, head: &str) -> bool {
    let (text, head) = (text.as_bytes(), head.as_bytes());
    if text.len() < head.len() {
        return false;
    }
    let mut at = 0;
    while at < head.len() {
        if text[at] != head[at] {
            return false;
        }
        at += 1;
    }
    true
}

/// A reading method; most run in pveproxy itself.
pub(crate) const fn get(path: &'static str, check: Check, params: &'static str, run: Run) -> Route {
    Route { is_protected: false, ..route("GET", path, check, params, run) }
}

pub(crate) const fn post(path: &'static str, check: Check, params: &'static str, run: Run) -> Route {
    route("POST", path, check, params, run)
}

pub(crate) const fn put(path: &'static str, check: Check, params: &'static str, run: Run) -> Route {
    route("PUT", path, check, params, run)
}

pub(crate) const fn delete(path: &'static str, check: Check, params: &'static str, run: Run) -> Route {
    route("DELETE", path, check, params, run)
}

impl Route {
    /// Runs in pvedaemon.
    pub(crate) const fn protected(mut self) -> Self {
        self.is_protected = true;
        self
    }

    /// Answered by the node that was asked, whatever node the path names.
    pub(crate) const fn local(mut self) -> Self {
        self.is_proxied = false;
        self
    }

    /// Only with a ticket.
    pub(crate) const fn ticket_only(mut self) -> Self {
        self.takes_tokens = false;
        self
    }

    /// Writes nothing to the cluster file system.
    pub(crate) const fn without_quorum(mut self) -> Self {
        self.needs_quorum = false;
        self
    }
}

const TABLES: &[&[Route]] = &[
    super::access::ROUTES,
    super::agent::ROUTES,
    super::backup::ROUTES,
    super::build::ROUTES,
    super::cluster::ROUTES,
    super::config::ROUTES,
    super::guest::ROUTES,
    super::ha::ROUTES,
    super::migrate::ROUTES,
    super::node::ROUTES,
    super::pool::ROUTES,
    super::power::ROUTES,
    super::snapshot::ROUTES,
    super::storage::ROUTES,
    super::task::ROUTES,
];

/// Finds the method of a path. Fixed words win over `{…}`; `{…*}` takes the rest of the path.
pub(crate) fn find(method: &str, path: &str) -> Option<(&'static Route, BTreeMap<&'static str, String>)> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    TABLES
        .iter()
        .flat_map(|table| table.iter())
        .filter(|route| route.method == method)
        .filter_map(|route| matches(route.path, &parts).map(|(vars, fixed)| (route, vars, fixed)))
        .max_by_key(|(_, _, fixed)| *fixed)
        .map(|(route, vars, _)| (route, vars))
}

fn matches(pattern: &'static str, parts: &[&str]) -> Option<(BTreeMap<&'static str, String>, usize)> {
    let mut vars = BTreeMap::new();
    let mut fixed = 0;
    let mut rest = parts;
    for piece in pattern.split('/').filter(|piece| !piece.is_empty()) {
        let name = piece.strip_prefix('{').and_then(|piece| piece.strip_suffix('}'));
        match name {
            Some(name) if name.ends_with('*') => {
                if rest.is_empty() {
                    return None;
                }
                vars.insert(&name[..name.len() - 1], rest.join("/"));
                return Some((vars, fixed));
            }
            Some(name) => {
                let (first, others) = rest.split_first()?;
                vars.insert(name, (*first).to_owned());
                rest = others;
            }
            None => {
                let (first, others) = rest.split_first()?;
                if *first != piece {
                    return None;
                }
                fixed += 1;
                rest = others;
            }
        }
    }
    rest.is_empty().then_some((vars, fixed))
}
