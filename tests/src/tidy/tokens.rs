//! A Rust source as a flat list of tokens with line numbers, and the functions in it. Comments and doc comments are
//! gone, so a rule cannot trip over prose. It does not resolve names.
//!
//! Why not a full parser? Functions inside macros (`proptest!`, `tokio::select!`) are opaque to one, and a token
//! tree is all these rules need.

use anyhow::{Result, anyhow};
use proc_macro2::{Delimiter, Group, TokenStream, TokenTree};

/// What a token is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A name or keyword.
    Ident(String),
    /// One character of punctuation.
    Punct(char),
    /// A literal as written.
    Literal(String),
    /// An opening bracket.
    Open(Delimiter),
    /// A closing bracket.
    Close(Delimiter),
}

/// One token.
#[derive(Clone, Debug)]
pub struct Token {
    /// What it is.
    pub kind: Kind,
    /// Line, counted from 1.
    pub line: usize,
    /// Whether it stands in an item that exists only in tests.
    pub in_test: bool,
    /// How many inline modules are around it.
    pub modules: usize,
}

impl Token {
    /// The name, when it is one.
    pub fn ident(&self) -> Option<&str> {
        match &self.kind {
            Kind::Ident(name) => Some(name),
            Kind::Punct(_) | Kind::Literal(_) | Kind::Open(_) | Kind::Close(_) => None,
        }
    }

    /// Whether it is this name.
    pub fn is(&self, name: &str) -> bool {
        self.ident() == Some(name)
    }
}

/// One function and its extent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Function {
    /// Its name.
    pub name: String,
    /// Line of `fn`.
    pub line: usize,
    /// Lines from `fn` to the closing bracket.
    pub lines: usize,
}

/// A source file as tokens.
#[derive(Clone, Debug)]
pub struct Source {
    /// All tokens but those of doc comments.
    pub tokens: Vec<Token>,
    /// All functions with a body, also those inside macros and other functions.
    pub functions: Vec<Function>,
}

impl Source {
    /// Reads a source; `in_test` says that the whole file exists only in tests.
    ///
    /// # Errors
    /// When the text is not Rust.
    pub fn parse(text: &str, in_test: bool) -> Result<Self> {
        let stream: TokenStream = text
            .parse()
            .map_err(|e: proc_macro2::LexError| anyhow!("line {}: not Rust", e.span().start().line))?;
        let mut source = Self { tokens: Vec::new(), functions: Vec::new() };
        source.walk(stream, in_test, 0);
        Ok(source)
    }

    /// Whether `::` stands at `at`.
    pub fn is_path_separator(&self, at: usize) -> bool {
        let colon = |i: usize| self.tokens.get(i).is_some_and(|t| t.kind == Kind::Punct(':'));
        colon(at) && colon(at + 1)
    }

    /// The names that follow a path prefix: one after `prefix::name`, several after `prefix::{a, b::c}`. `at` is the
    /// token after the prefix.
    pub fn names_after(&self, at: usize) -> Vec<(&str, usize)> {
        if !self.is_path_separator(at) {
            return Vec::new();
        }
        let Some(first) = self.tokens.get(at + 2) else { return Vec::new() };
        if let Some(name) = first.ident() {
            return vec![(name, first.line)];
        }
        if first.kind != Kind::Open(Delimiter::Brace) {
            return Vec::new();
        }
        let (mut depth, mut is_start, mut names) = (0_usize, true, Vec::new());
        for token in &self.tokens[at + 3..] {
            match &token.kind {
                Kind::Open(_) => depth += 1,
                Kind::Close(_) if depth == 0 => break,
                Kind::Close(_) => depth -= 1,
                Kind::Punct(',') if depth == 0 => is_start = true,
                Kind::Ident(name) if depth == 0 && is_start => {
                    names.push((name.as_str(), token.line));
                    is_start = false;
                }
                Kind::Ident(_) | Kind::Punct(_) | Kind::Literal(_) => {}
            }
        }
        names
    }

    fn walk(&mut self, stream: TokenStream, in_test: bool, modules: usize) {
        let trees: Vec<TokenTree> = stream.into_iter().collect();
        let mut only_test = false;
        let mut at = 0;
        while at < trees.len() {
            if let Some((group, len)) = attribute(&trees[at..]) {
                only_test |= is_test_only(group);
                if !starts_with(group, "doc") {
                    self.push_attribute(&trees[at..at + len], in_test || only_test, modules);
                }
                at += len;
                continue;
            }
            if let Some(function) = function(&trees[at..]) {
                self.functions.push(function);
            }
            let ends_item = self.push(&trees, at, in_test || only_test, modules);
            only_test &= !ends_item;
            at += 1;
        }
    }

    fn push_attribute(&mut self, trees: &[TokenTree], in_test: bool, modules: usize) {
        for at in 0..trees.len() {
            self.push(trees, at, in_test, modules);
        }
    }

    /// Adds one tree; true when it ends an item.
    fn push(&mut self, trees: &[TokenTree], at: usize, in_test: bool, modules: usize) -> bool {
        let tree = &trees[at];
        let line = tree.span().start().line;
        let mut add = |kind, line| self.tokens.push(Token { kind, line, in_test, modules });
        match tree {
            TokenTree::Ident(name) => add(Kind::Ident(name.to_string()), line),
            TokenTree::Punct(mark) => {
                add(Kind::Punct(mark.as_char()), line);
                return mark.as_char() == ';';
            }
            TokenTree::Literal(literal) => add(Kind::Literal(literal.to_string()), line),
            TokenTree::Group(group) => {
                add(Kind::Open(group.delimiter()), line);
                let inside = modules + usize::from(is_module_body(trees, at));
                self.walk(group.stream(), in_test, inside);
                let line = group.span_close().start().line;
                self.tokens.push(Token { kind: Kind::Close(group.delimiter()), line, in_test, modules });
                return group.delimiter() == Delimiter::Brace;
            }
        }
        false
    }
}

/// The bracket group of an attribute at the start, and how many trees the attribute has.
fn attribute(trees: &[TokenTree]) -> Option<(&Group, usize)> {
    let is_mark =
        |tree: Option<&TokenTree>, mark| matches!(tree, Some(TokenTree::Punct(p)) if p.as_char() == mark);
    if !is_mark(trees.first(), '#') {
        return None;
    }
    let at = if is_mark(trees.get(1), '!') { 2 } else { 1 };
    match trees.get(at) {
        Some(TokenTree::Group(group)) if group.delimiter() == Delimiter::Bracket => Some((group, at + 1)),
        _ => None,
    }
}

fn starts_with(group: &Group, name: &str) -> bool {
    matches!(group.stream().into_iter().next(), Some(TokenTree::Ident(ident)) if ident == name)
}

/// `cfg(test)`, `cfg(all(test, …))`, `test`, `tokio::test`; not `cfg(not(test))`.
fn is_test_only(group: &Group) -> bool {
    let text = group.stream().to_string();
    let words: Vec<&str> =
        text.split(|c: char| !c.is_alphanumeric() && c != '_').filter(|w| !w.is_empty()).collect();
    match words.as_slice() {
        ["test"] | ["tokio", "test", ..] => true,
        ["cfg", rest @ ..] => rest.contains(&"test") && !rest.contains(&"not"),
        _ => false,
    }
}

fn is_module_body(trees: &[TokenTree], at: usize) -> bool {
    let Some(keyword) = at.checked_sub(2) else { return false };
    matches!((&trees[keyword], &trees[at - 1]), (TokenTree::Ident(word), TokenTree::Ident(_)) if word == "mod")
}

/// The function that starts here, when it has a body.
fn function(trees: &[TokenTree]) -> Option<Function> {
    let (Some(TokenTree::Ident(keyword)), Some(TokenTree::Ident(name))) = (trees.first(), trees.get(1))
    else {
        return None;
    };
    if keyword != "fn" {
        return None;
    }
    for tree in &trees[2..] {
        match tree {
            TokenTree::Group(body) if body.delimiter() == Delimiter::Brace => {
                let line = keyword.span().start().line;
                let lines = body.span_close().start().line - line + 1;
                return Some(Function { name: name.to_string(), line, lines });
            }
            TokenTree::Punct(mark) if mark.as_char() == ';' => return None,
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Source {
        Source::parse(text, false).unwrap()
    }

    #[test]
    fn functions_are_measured_wherever_they_stand() {
        let source = parse("fn a() {\n}\nmacro! { fn b() {\n\n} }\ntrait T { fn c(); fn d() { fn e() {} } }");
        let seen: Vec<_> = source.functions.iter().map(|f| (f.name.as_str(), f.line, f.lines)).collect();
        assert_eq!(seen, [("a", 1, 2), ("b", 3, 3), ("d", 6, 1), ("e", 6, 1)]);
    }

    #[test]
    fn comments_leave_no_tokens() {
        let source = parse("//! crate::scan\n/// async\n// std::fs\nstruct A;");
        assert_eq!(source.tokens.len(), 3, "{:?}", source.tokens);
    }

    #[test]
    fn test_only_items_are_known() {
        let source = parse(
            "#[cfg(test)]\nmod tests { fn x() { y } }\n#[cfg(not(test))]\nfn a() {}\n#[tokio::test]\nasync fn b() { c }\nfn d() {}",
        );
        let in_test = |name: &str| source.tokens.iter().find(|t| t.is(name)).unwrap().in_test;
        assert!(in_test("y") && in_test("c"));
        assert!(!in_test("a") && !in_test("d"));
    }

    #[test]
    fn names_after_a_prefix_are_read_from_both_forms() {
        let source = parse("use std::{collections::BTreeMap, fs, sync::{Arc, Mutex}}; std::env::var();");
        let names = |at: usize| source.names_after(at).into_iter().map(|(n, _)| n).collect::<Vec<_>>();
        assert_eq!(names(2), ["collections", "fs", "sync"]);
        let second = source.tokens.iter().rposition(|t| t.is("std")).unwrap();
        assert_eq!(names(second + 1), ["env"]);
    }

    #[test]
    fn what_is_not_rust_is_an_error() {
        assert!(Source::parse("fn a( {", false).is_err());
    }
}
