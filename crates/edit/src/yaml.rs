//! YAML, read line by line: block mappings and sequences with plain or quoted values on one line. Files that hold
//! templates (a Rails `database.yml`) or anchors can be edited without understanding these. A path is
//! `/production/host` or `/servers/0/host`. Merged keys (`<<:`) are not followed: only what is written is changed.

use std::ops::Range;

use crate::{EditError, Edited, Place, one_line, single, splice, unreadable};

/// One line with something on it.
#[derive(Debug, Clone, Copy)]
struct Line<'a> {
    begin: usize,
    indent: usize,
    /// Without indentation and line end.
    shown: &'a str,
}

/// One entry of a block.
struct Entry<'a> {
    key: String,
    /// Its first line, and the first line that is not its own any more.
    lines: Range<usize>,
    /// The line's own part behind the key: where it begins, and what it is.
    rest: (usize, &'a str),
    /// Column of what stands in an entry of a sequence behind its dash.
    inner: Option<usize>,
}

fn read(text: &str) -> Edited<Vec<Line<'_>>> {
    let mut lines = Vec::new();
    for (begin, line) in crate::lines(text) {
        let shown = line.trim_start_matches(' ');
        if shown.starts_with('\t') && !shown.trim().is_empty() {
            return Err(unreadable(text, begin, "YAML is not indented with tabs"));
        }
        if shown.trim().is_empty() || shown.starts_with('#') || (begin == 0 && shown.starts_with('%')) {
            continue;
        }
        if shown == "---" || shown == "..." {
            if !lines.is_empty() && shown == "---" {
                return Err(unreadable(text, begin, "files of several documents cannot be edited"));
            }
            continue;
        }
        lines.push(Line { begin, indent: line.len() - shown.len(), shown });
    }
    Ok(lines)
}

/// A key at the beginning of a text, and where what follows its colon begins.
fn key(shown: &str) -> Option<(String, usize)> {
    let first = shown.chars().next()?;
    let end = match first {
        '"' | '\'' => shown.get(1..)?.find(first)? + 2,
        _ => {
            let colon = shown.find(": ").into_iter().chain(shown.strip_suffix(':').map(str::len)).min()?;
            // A colon behind a comment is none.
            if shown.find(" #").is_some_and(|comment| comment < colon) {
                return None;
            }
            colon
        }
    };
    let after = shown.get(end..)?.trim_start();
    let after = after.strip_prefix(':').filter(|rest| rest.is_empty() || rest.starts_with(' '))?;
    let key = shown.get(..end)?.trim().trim_matches(['"', '\'']);
    Some((key.to_owned(), shown.len() - after.len()))
}

/// The lines of a block scalar or a value of several lines belong to no key: so deep they are told from keys by
/// their indentation alone. Answers the entries of the block that begins with line `from`, at `column`.
fn entries<'a>(
    lines: &[Line<'a>],
    range: Range<usize>,
    column: usize,
    inline: Option<(usize, &'a str)>,
) -> Vec<Entry<'a>> {
    let mut found: Vec<Entry<'a>> = Vec::new();
    let mut number = 0;
    for index in range.clone() {
        let line = lines[index];
        let (begin, shown) = match inline {
            // `- key: value`: the first entry of the inner mapping stands behind the dash.
            Some((begin, shown)) if index == range.start => (begin, shown),
            _ if line.indent == column => (line.begin + line.indent, line.shown),
            _ => continue,
        };
        let entry = if shown == "-" || shown.starts_with("- ") {
            // A sequence may stand as deep as the key it belongs to: then the mapping goes on after it.
            let inner = shown.get(1..).unwrap_or_default();
            let blanks = inner.len() - inner.trim_start().len();
            let column = begin - line.begin + 1 + blanks;
            number += 1;
            Entry {
                key: (number - 1).to_string(),
                lines: index..range.end,
                rest: (begin + 1 + blanks, inner.trim_start()),
                inner: Some(column),
            }
        } else if let Some((key, at)) = key(shown) {
            let rest = shown.get(at..).unwrap_or_default();
            let blanks = rest.len() - rest.trim_start().len();
            let rest = (begin + at + blanks, rest.trim_start());
            Entry { key, lines: index..range.end, rest, inner: None }
        } else {
            continue;
        };
        if let Some(last) = found.last_mut() {
            last.lines.end = index;
        }
        found.push(entry);
    }
    found
}

fn locate<'a>(text: &'a str, path: &str) -> Edited<(Entry<'a>, Vec<Line<'a>>)> {
    let lines = read(text)?;
    let steps: Vec<String> = path
        .strip_prefix('/')
        .ok_or_else(|| EditError::Refused(format!("{path} is no path: it looks like /production/host")))?
        .split('/')
        .map(|step| step.replace("~1", "/").replace("~0", "~"))
        .collect();
    let mut range = 0..lines.len();
    let mut column = lines.first().map_or(0, |line| line.indent);
    let mut inline = None;
    let mut found = None;
    for step in steps {
        let mut all = entries(&lines, range, column, inline);
        // Keys and dashes at one depth: the dashes belong to the key before them.
        let has_keys = all.iter().any(|entry| entry.inner.is_none());
        if has_keys {
            let ends: Vec<usize> = keys_end(&all);
            all.retain(|entry| entry.inner.is_none());
            for (entry, end) in all.iter_mut().zip(ends) {
                entry.lines.end = end;
            }
        }
        let fits = all.into_iter().filter(|entry| entry.key == step).collect();
        let entry: Entry<'_> = single(fits, path)?;
        match entry.inner {
            Some(inner) => {
                range = entry.lines.clone();
                column = inner;
                inline = Some(entry.rest);
            }
            None => {
                range = entry.lines.start + 1..entry.lines.end;
                column = lines.get(range.start).filter(|_| !range.is_empty()).map_or(usize::MAX, |line| line.indent);
                inline = None;
            }
        }
        found = Some(entry);
    }
    Ok((found.ok_or_else(|| EditError::Missing(path.to_owned()))?, lines))
}

/// Where each key's lines end when the dashes behind it are its own.
fn keys_end(all: &[Entry<'_>]) -> Vec<usize> {
    let mut ends = Vec::new();
    for (index, entry) in all.iter().enumerate().filter(|(_, entry)| entry.inner.is_none()) {
        let next = all.iter().skip(index + 1).find(|other| other.inner.is_none());
        ends.push(next.map_or_else(|| all.last().map_or(entry.lines.end, |last| last.lines.end), |n| n.lines.start));
    }
    ends
}

/// The value on the entry's own line, without a comment.
fn scalar(text: &str, entry: &Entry<'_>, path: &str) -> Edited<Range<usize>> {
    let (begin, rest) = entry.rest;
    let refused = |what: &str| Err(EditError::Refused(format!("{path} {what}")));
    let several = entry.lines.len() > 1;
    let first = rest.chars().next();
    let length = match first {
        Some(quote @ ('"' | '\'')) => match closing(rest, quote) {
            Some(end) => end,
            None => return refused("is a value of several lines, which cannot be edited"),
        },
        Some('|' | '>') => return refused("is a block of text, which cannot be edited"),
        Some('{' | '[') => return refused("is a collection in braces, which cannot be edited: write it in lines"),
        Some('*' | '&' | '!') => return refused("is an alias, an anchor or a tag, which cannot be edited"),
        _ => {
            let comment = if rest.starts_with('#') { Some(0) } else { rest.find(" #") };
            rest.get(..comment.unwrap_or(rest.len())).unwrap_or_default().trim_end().len()
        }
    };
    if several {
        return refused(if length == 0 { "holds other keys, and not a value" } else { "is a value of several lines" });
    }
    if entry.inner.is_some() && key(rest).is_some() {
        return refused("holds other keys, and not a value");
    }
    let behind = text.get(begin + length..).and_then(|rest| rest.lines().next()).unwrap_or_default().trim();
    if !behind.is_empty() && !behind.starts_with('#') {
        return refused("cannot be read");
    }
    Ok(begin..begin + length)
}

/// Behind the closing quote.
fn closing(rest: &str, quote: char) -> Option<usize> {
    let bytes = rest.as_bytes();
    let mut at = 1;
    while let Some(byte) = bytes.get(at) {
        if *byte == b'\\' && quote == '"' {
            at += 2;
        } else if char::from(*byte) == quote {
            if quote == '\'' && bytes.get(at + 1) == Some(&b'\'') {
                at += 2;
            } else {
                return Some(at + 1);
            }
        } else {
            at += 1;
        }
    }
    None
}

pub(crate) fn find(text: &str, path: &str) -> Edited<Place> {
    let (entry, lines) = locate(text, path)?;
    let first = lines[entry.lines.start];
    if entry.inner.is_none() && first.shown.starts_with("- ") {
        return Err(EditError::Refused(format!("{path} stands behind a dash and cannot be removed alone")));
    }
    let last = lines.get(entry.lines.end - 1).map_or(first, |line| *line);
    let end = text.get(last.begin..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| last.begin + at + 1);
    let value = entry.rest.0..entry.rest.0;
    Ok(Place { value, whole: first.begin..end })
}

pub(crate) fn set(text: &str, path: &str, value: &str) -> Edited<String> {
    one_line(value)?;
    let (entry, _) = locate(text, path)?;
    let range = scalar(text, &entry, path)?;
    let old = text.get(range.clone()).unwrap_or_default();
    let mut fresh = written(value, old);
    if old.is_empty() && text.get(..range.start).is_some_and(|before| before.ends_with([':', '-'])) {
        fresh.insert(0, ' ');
    }
    if old.is_empty() && text.get(range.end..).is_some_and(|after| after.starts_with('#')) {
        fresh.push(' ');
    }
    Ok(splice(text, &range, &fresh))
}

/// In the old value's quotes; plain where it was plain and stays a text (or a number, if it was one).
fn written(value: &str, old: &str) -> String {
    let double = || serde_json::Value::String(value.to_owned()).to_string();
    match old.chars().next() {
        Some('\'') if !value.chars().any(char::is_control) => format!("'{}'", value.replace('\'', "''")),
        Some('"') => double(),
        _ if is_plain(value) && (!is_typed(value) || is_typed(old)) => value.to_owned(),
        _ => double(),
    }
}

fn is_plain(value: &str) -> bool {
    let good = |one: char| one.is_alphanumeric() || "_./@%+-:, ()=~;?$".contains(one);
    let first = |one: char| one.is_alphanumeric() || "_./~$+".contains(one);
    value.chars().next().is_some_and(first)
        && value.chars().all(good)
        && value.trim_end() == value
        && !value.contains(": ")
        && !value.ends_with(':')
}

/// Whether a plain scalar may be read as something else than a text: a number, a truth, nothing, a date.
fn is_typed(value: &str) -> bool {
    const WORDS: [&str; 11] = ["true", "false", "yes", "no", "on", "off", "null", "~", "y", "n", ".inf"];
    let number = value.starts_with(|first: char| first.is_ascii_digit() || "+-.".contains(first))
        && value.chars().all(|one| one.is_ascii_hexdigit() || "+-.:_xoTZeE ".contains(one))
        // An address is a text.
        && value.chars().filter(|one| *one == '.').count() < 2;
    number || value.is_empty() || WORDS.contains(&value.to_ascii_lowercase().as_str()) || value.ends_with(".nan")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# top\ndefault: &default\n  adapter: postgresql\n  pool: <%= ENV.fetch(\"X\") { 5 } %>\n\nproduction:\n  <<: *default\n  host: db1 # old\n  port: 5432\n  password: 'a''b'\n  empty:\n  replicas:\n  - host: one\n    port: 1\n  - plain\n  list:\n    - a\n    - host: b\nlast: \"x\"\n";

    #[test]
    fn a_value_changes_and_nothing_else() -> Edited<()> {
        for (path, value, old, fresh) in [
            ("/production/host", "127.0.0.1", "db1", "127.0.0.1"),
            ("/production/host", "5", "db1", "\"5\""),
            ("/production/port", "17000", "5432", "17000"),
            ("/production/password", "it's", "'a''b'", "'it''s'"),
            ("/production/empty", "x", "empty:", "empty: x"),
            ("/production/replicas/0/host", "two", "one", "two"),
            ("/production/replicas/0/port", "2", "port: 1", "port: 2"),
            ("/production/replicas/1", "p", "plain", "p"),
            ("/production/list/0", "c: d", "- a", "- \"c: d\""),
            ("/production/list/1/host", "c", "host: b", "host: c"),
            ("/default/pool", "7", "<%= ENV.fetch(\"X\") { 5 } %>", "\"7\""),
            ("/last", "y", "\"x\"", "\"y\""),
        ] {
            assert_eq!(set(FILE, path, value)?, FILE.replacen(old, fresh, 1), "{path}");
        }
        Ok(())
    }

    #[test]
    fn what_is_not_clear_is_refused() {
        for path in ["/production/adapter", "/nothing", "/production/host/x", "/production/replicas/2"] {
            assert_eq!(set(FILE, path, "x"), Err(EditError::Missing(path.to_owned())));
        }
        for (file, path) in [
            (FILE, "/production"),
            (FILE, "/production/replicas"),
            (FILE, "/production/replicas/0"),
            ("a: |\n  x\n", "/a"),
            ("a: {b: 1}\n", "/a"),
            ("a: x\n  y\n", "/a"),
            ("a: 1\na: 2\n", "/a"),
            ("a: 1\n---\na: 2\n", "/a"),
            ("a: \"x\n  y\"\n", "/a"),
            ("\ta: 1\n", "/a"),
        ] {
            assert!(set(file, path, "x").is_err(), "{file} {path}");
        }
    }

    #[test]
    fn an_entry_goes_with_what_it_holds() -> Edited<()> {
        let gone = |path: &str| find(FILE, path).map(|place| splice(FILE, &place.whole, ""));
        assert_eq!(gone("/production/port")?, FILE.replace("  port: 5432\n", ""));
        assert_eq!(
            gone("/production/replicas")?,
            FILE.replace("  replicas:\n  - host: one\n    port: 1\n  - plain\n", "")
        );
        assert_eq!(gone("/production/replicas/0")?, FILE.replace("  - host: one\n    port: 1\n", ""));
        Ok(())
    }
}
