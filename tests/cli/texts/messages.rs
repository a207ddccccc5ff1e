//! A catalogue of the messages in the shipped sources: errors, log lines, and all other literals that read like a text.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use syn::buffer::Cursor;
use syn::parse::{ParseStream, Parser};
use syn::visit::{self, Visit};
use syn::{Attribute, Field, ItemEnum, ItemFn, ItemImpl, ItemMod, ItemStruct, LitStr, Macro};
use testkit::{Case, cases, project};

pub(super) fn cases() -> Vec<Case> {
    cases![every_error, every_log_line, every_other_text]
}

fn every_error() {
    super::compare("errors", &lines(catalogue().errors));
}

fn every_log_line() {
    super::compare("logs", &lines(catalogue().logs));
}

fn every_other_text() {
    super::compare("texts", &lines(catalogue().texts));
}

/// Joins entries to a text. Each entry begins on a line of its own, and its further lines are indented.
fn lines(entries: BTreeSet<String>) -> String {
    assert!(!entries.is_empty());
    entries.into_iter().map(|entry| entry.trim_end().replace('\n', "\n    ") + "\n").collect()
}

/// How the statements of the index begin.
const SQL: [&str; 10] =
    ["SELECT", "INSERT", "UPDATE", "DELETE", "CREATE", "PRAGMA", "WITH", "DROP", "ALTER", "BEGIN"];

#[derive(Default)]
struct Catalogue {
    package: String,
    errors: BTreeSet<String>,
    logs: BTreeSet<String>,
    texts: BTreeSet<String>,
}

fn catalogue() -> Catalogue {
    let mut packages =
        vec![("stoa".to_owned(), project("src")), ("migrations".to_owned(), project("migrations/src"))];
    for entry in fs::read_dir(project("crates")).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name != "testkit" {
            packages.push((name, entry.path().join("src")));
        }
    }
    let mut catalogue = Catalogue::default();
    for (package, folder) in packages {
        catalogue.package = package;
        for path in sources(&folder) {
            let file = syn::parse_file(&fs::read_to_string(&path).unwrap());
            catalogue.visit_file(&file.unwrap_or_else(|error| panic!("{}: {error}", path.display())));
        }
    }
    catalogue
}

/// Returns the shipped sources below a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "tests" {
            found.extend(sources(&path));
        } else if name.ends_with(".rs") && name != "tests.rs" {
            found.push(path);
        }
    }
    found
}

/// Returns whether an item is compiled for tests only.
fn is_test(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg_test = attribute.path().is_ident("cfg")
            && attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"));
        is_cfg_test || attribute.path().is_ident("test")
    })
}

impl Catalogue {
    fn error(&mut self, name: &str, attributes: &[Attribute]) {
        for attribute in attributes.iter().filter(|attribute| attribute.path().is_ident("error")) {
            // Nothing but a text or `transparent` comes first.
            let first = |input: ParseStream| {
                let text = input.parse::<Option<LitStr>>()?;
                input.step(|cursor| Ok(((), end(*cursor))))?;
                Ok(text)
            };
            if let Some(text) = attribute.parse_args_with(first).unwrap() {
                self.errors.insert(format!("{} {name}: {}", self.package, text.value()));
            }
        }
    }

    fn text(&mut self, text: &str) {
        let is_word = |word: &&str| word.len() > 1 && word.chars().all(char::is_alphabetic);
        let is_sql = SQL.iter().any(|statement| text.trim_start().starts_with(statement));
        if !is_sql && text.split_whitespace().filter(is_word).count() >= 2 {
            self.texts.insert(format!("{}: {text}", self.package));
        }
    }

    fn log(&mut self, level: &str, tokens: &[Token]) {
        let separator = tokens.iter().position(|token| matches!(token, Token::Other(text) if text == ";"));
        let (fields, rest) = match separator {
            Some(at) => (&tokens[..at], &tokens[at..]),
            None => (&tokens[..0], tokens),
        };
        // A field begins behind a comma of its own; its name is followed by `:` or `=`.
        let mut keys = Vec::new();
        for field in fields.split(|token| matches!(token, Token::Other(text) if text == ",")) {
            match field.first() {
                Some(Token::Other(key) | Token::Text(key)) => keys.push(key.clone()),
                _ => continue,
            }
        }
        let mut texts = rest.iter().filter_map(|token| match token {
            Token::Text(text) => Some(text.clone()),
            _ => None,
        });
        let text = texts.next().unwrap_or_else(|| "(computed)".to_owned());
        let keys = if keys.is_empty() { String::new() } else { format!(" [{}]", keys.join(", ")) };
        self.logs.insert(format!("{} {level}: {text}{keys}", self.package));
        texts.for_each(|text| self.text(&text));
    }
}

/// A token of a macro's body, as far as the catalogue tells tokens apart.
enum Token {
    Text(String),
    Group(Vec<Token>),
    Other(String),
}

/// Reads all tokens behind a cursor.
fn tokens(mut cursor: Cursor) -> Vec<Token> {
    let mut tokens = Vec::new();
    while !cursor.eof() {
        if let Some((inner, _, _, next)) = cursor.any_group() {
            tokens.push(Token::Group(self::tokens(inner)));
            cursor = next;
        } else if let Some((tree, next)) = cursor.token_tree() {
            let text = tree.to_string();
            tokens.push(match syn::parse_str::<LitStr>(&text) {
                Ok(literal) => Token::Text(literal.value()),
                Err(_) => Token::Other(text),
            });
            cursor = next;
        }
    }
    tokens
}

fn end(mut cursor: Cursor) -> Cursor {
    while let Some((_, next)) = cursor.token_tree() {
        cursor = next;
    }
    cursor
}

fn texts_of<'a>(tokens: &'a [Token], found: &mut Vec<&'a str>) {
    for token in tokens {
        match token {
            Token::Text(text) => found.push(text),
            Token::Group(inner) => texts_of(inner, found),
            Token::Other(_) => {}
        }
    }
}

impl<'ast> Visit<'ast> for Catalogue {
    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if !is_test(&item.attrs) {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_item_fn(&mut self, item: &'ast ItemFn) {
        if !is_test(&item.attrs) {
            visit::visit_item_fn(self, item);
        }
    }

    fn visit_item_impl(&mut self, item: &'ast ItemImpl) {
        if !is_test(&item.attrs) {
            visit::visit_item_impl(self, item);
        }
    }

    fn visit_item_enum(&mut self, item: &'ast ItemEnum) {
        for variant in &item.variants {
            self.error(&format!("{}::{}", item.ident, variant.ident), &variant.attrs);
        }
        visit::visit_item_enum(self, item);
    }

    fn visit_item_struct(&mut self, item: &'ast ItemStruct) {
        self.error(&item.ident.to_string(), &item.attrs);
        visit::visit_item_struct(self, item);
    }

    // Doc comments are no messages, and `--help` has a snapshot of its own.
    fn visit_attribute(&mut self, _: &'ast Attribute) {}

    fn visit_field(&mut self, field: &'ast Field) {
        visit::visit_type(self, &field.ty);
    }

    fn visit_lit_str(&mut self, literal: &'ast LitStr) {
        self.text(&literal.value());
    }

    fn visit_macro(&mut self, called: &'ast Macro) {
        let read = |input: ParseStream| {
            input.step(|cursor| {
                let read = tokens(*cursor);
                Ok((read, end(*cursor)))
            })
        };
        let tokens = read.parse2(called.tokens.clone()).unwrap();
        let name = called.path.segments.last().unwrap().ident.to_string();
        if ["error", "warn", "info", "debug", "trace", "log"].contains(&name.as_str()) {
            self.log(&name, &tokens);
        } else {
            let mut texts = Vec::new();
            texts_of(&tokens, &mut texts);
            texts.into_iter().for_each(|text| self.text(text));
        }
    }
}
