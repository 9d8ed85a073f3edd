//! Edits of configuration files, as pure functions: bytes and a path go in, bytes come out. Only the value at the
//! path changes; comments, order, indentation, quotes and line ends stay byte for byte. What cannot be done
//! without guessing (a place that is not there, or is there twice) is refused in one clear line.
//!
//! | file | what it reads |
//! |---|---|
//! | `xml.rs` | elements and attributes |
//! | `json.rs` | JSON pointers, comments and trailing commas tolerated |
//! | `yaml.rs` | block mappings and sequences, line by line: files with templates in them can be edited too |
//! | `ini.rs`, `properties.rs`, `env.rs` | `key = value` in its three dialects |
//! | `php.rs` | `define('NAME', …);` and `$name = …;` |
//! | `text.rs` | any text: find and replace |
//! | `fill.rs` | `{{db.host}}` in the values |
//!
//! An edit may be repeated: what is there already is no error, and what was replaced is not replaced again.

mod env;
mod fill;
mod ini;
mod json;
mod php;
mod properties;
mod text;
mod xml;
mod yaml;

use std::ops::Range;

pub use fill::{fill, keys};
use pando_model::EditFormat;
pub use text::{replace, replace_pattern};
use thiserror::Error;

/// Why an edit was not made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum EditError {
    /// The place is not in the file.
    #[error("{0} is not there")]
    Missing(String),
    /// More than one place fits.
    #[error("{0} is there {1} times")]
    Ambiguous(String, usize),
    /// The file cannot be read in its format.
    #[error("line {line}: {what}")]
    Unreadable {
        /// Where.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// It is there, and cannot be changed in this way.
    #[error("{0}")]
    Refused(String),
}

/// What an edit answers.
pub type Edited<T> = Result<T, EditError>;

/// Where a value stands, and what goes when it is removed.
struct Place {
    /// The value with its quotes.
    value: Range<usize>,
    /// All that belongs to it.
    whole: Range<usize>,
}

/// Writes `value` at `path`. With `create`, what is not there is added where the format has a place for that.
///
/// # Errors
/// When the path is not there, is there twice, or holds what is no plain value.
pub fn set(format: EditFormat, bytes: &[u8], path: &str, value: &str, create: bool) -> Edited<Vec<u8>> {
    let text = text_of(bytes)?;
    let written = |text: &str, create| match format {
        EditFormat::Xml => xml::set(text, path, value),
        EditFormat::Ini => ini::set(text, path, value, create),
        EditFormat::Properties => properties::set(text, path, value, create),
        EditFormat::Json => json::set(text, path, value),
        EditFormat::Yaml => yaml::set(text, path, value),
        EditFormat::Php => php::set(text, path, value),
        EditFormat::Env => env::set(text, path, value, create),
    };
    match written(text, create) {
        Err(EditError::Missing(what)) if create => Err(EditError::Refused(format!(
            "{what} is not there, and only ini, properties and env files can be given what they lack"
        ))),
        Err(error) => Err(error),
        // What stands around it may give it another meaning than its own: then it is not written at all.
        Ok(changed) if written(&changed, false).as_ref() == Ok(&changed) => Ok(changed.into_bytes()),
        Ok(_) => Err(EditError::Refused(format!("{path} would not be read as it is meant in this file"))),
    }
}

/// Takes `path` out. That it is not there is no error.
///
/// # Errors
/// When the file cannot be read, or the path is there twice.
pub fn remove(format: EditFormat, bytes: &[u8], path: &str) -> Edited<Vec<u8>> {
    let text = text_of(bytes)?;
    let found = match format {
        EditFormat::Xml => xml::find(text, path),
        EditFormat::Ini => ini::find(text, path),
        EditFormat::Properties => properties::find(text, path),
        EditFormat::Json => json::find(text, path),
        EditFormat::Yaml => yaml::find(text, path),
        EditFormat::Php => php::find(text, path),
        EditFormat::Env => env::find(text, path),
    };
    match found {
        Ok(place) => Ok(splice(text, &place.whole, "").into_bytes()),
        Err(EditError::Missing(_)) => Ok(bytes.to_vec()),
        Err(error) => Err(error),
    }
}

/// Configuration is UTF-8, or its ASCII part; other bytes would be lost.
fn text_of(bytes: &[u8]) -> Edited<&str> {
    std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes.get(..error.valid_up_to()).map_or(1, |before| count_lines(before) + 1);
        EditError::Unreadable { line, what: "this is not UTF-8".to_owned() }
    })
}

fn count_lines(bytes: &[u8]) -> usize {
    bytes.iter().filter(|byte| **byte == b'\n').count()
}

fn unreadable(text: &str, at: usize, what: impl Into<String>) -> EditError {
    let line = text.as_bytes().get(..at).map_or(0, count_lines) + 1;
    EditError::Unreadable { line, what: what.into() }
}

fn splice(text: &str, range: &Range<usize>, with: &str) -> String {
    let mut out = String::with_capacity(text.len() + with.len());
    out.push_str(text.get(..range.start).unwrap_or_default());
    out.push_str(with);
    out.push_str(text.get(range.end..).unwrap_or_default());
    out
}

/// Exactly one.
fn single<T>(mut found: Vec<T>, path: &str) -> Edited<T> {
    match (found.pop(), found.len()) {
        (None, _) => Err(EditError::Missing(path.to_owned())),
        (Some(one), 0) => Ok(one),
        (Some(_), more) => Err(EditError::Ambiguous(path.to_owned(), more + 1)),
    }
}

/// The range, and its line when nothing else stands on it.
fn with_line(text: &str, range: Range<usize>) -> Range<usize> {
    let start = text.get(..range.start).and_then(|before| before.rfind('\n')).map_or(0, |at| at + 1);
    let end = text.get(range.end..).and_then(|after| after.find('\n')).map_or(text.len(), |at| range.end + at + 1);
    let blank = |range: Range<usize>| text.get(range).is_some_and(|part| part.trim().is_empty());
    if blank(start..range.start) && blank(range.end..end) { start..end } else { range }
}

/// The lines of a text with where they begin, line ends left out.
fn lines(text: &str) -> impl Iterator<Item = (usize, &str)> {
    let mut at = 0;
    text.split_inclusive('\n').map(move |line| {
        let begin = at;
        at += line.len();
        (begin, line.trim_end_matches('\n').trim_end_matches('\r'))
    })
}

/// The line end of a text.
fn newline(text: &str) -> &'static str {
    if text.contains("\r\n") { "\r\n" } else { "\n" }
}

/// A text with a line put at a place; the line before it is ended if it was not.
fn with_new_line(text: &str, at: usize, line: &str) -> String {
    let newline = newline(text);
    let before = text.get(..at).unwrap_or_default();
    let ended = if before.is_empty() || before.ends_with('\n') { "" } else { newline };
    splice(text, &(at..at), &format!("{ended}{line}{newline}"))
}

fn one_line(value: &str) -> Edited<()> {
    if value.contains(['\n', '\r', '\0']) {
        return Err(EditError::Refused("a value of this format cannot have several lines".to_owned()));
    }
    Ok(())
}
