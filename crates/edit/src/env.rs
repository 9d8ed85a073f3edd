//! Files of variables as shells, Docker and dotenv read them: `NAME=value`, perhaps with `export` before it.

use std::ops::Range;

use crate::{EditError, Edited, Place, one_line, single, splice, unreadable, with_line, with_new_line};

/// Characters that a value may have without quotes.
fn is_plain(value: &str) -> bool {
    !value.is_empty() && value.chars().all(|one| one.is_alphanumeric() || "_./:@%+,=-".contains(one))
}

fn look(text: &str, wanted: &str) -> Edited<Vec<Place>> {
    let mut found = Vec::new();
    let mut at = 0;
    while at < text.len() {
        let end = text.get(at..).and_then(|rest| rest.find('\n')).map_or(text.len(), |end| at + end);
        let line = text.get(at..end).unwrap_or_default();
        let begin = at;
        at = end + 1;
        let shown = line.trim_start();
        if shown.starts_with('#') {
            continue;
        }
        let shown = shown.strip_prefix("export ").map_or(shown, str::trim_start);
        let Some((name, _)) = shown.split_once('=') else { continue };
        if name.is_empty() || !name.trim_end().chars().all(|one| one.is_alphanumeric() || "_.-".contains(one)) {
            continue;
        }
        let start = begin + (line.len() - shown.len()) + name.len() + 1;
        let value = value(text, start)?;
        // A value in quotes may go over several lines.
        at = at.max(text.get(value.end..).and_then(|rest| rest.find('\n')).map_or(text.len(), |n| value.end + n + 1));
        if name.trim_end() == wanted {
            found.push(Place { whole: with_line(text, begin..at.min(text.len())), value });
        }
    }
    Ok(found)
}

/// One value: plain and quoted parts, as a shell joins them, up to a blank.
fn value(text: &str, start: usize) -> Edited<Range<usize>> {
    let bytes = text.as_bytes();
    let mut at = start;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' | b'\'' => {
                let quote = *byte;
                let opened = at;
                at += 1;
                loop {
                    match bytes.get(at) {
                        None => return Err(unreadable(text, opened, "a quote is not closed")),
                        Some(b'\\') if quote == b'"' => at += 1,
                        Some(byte) if *byte == quote => break,
                        Some(_) => {}
                    }
                    at += 1;
                }
            }
            b'\\' => at += 1,
            b'\n' | b'\r' => break,
            b' ' | b'\t' => {
                // Docker's files have blanks in plain values; a comment or the end of the line is none of it.
                let rest = text.get(at..).unwrap_or_default().lines().next().unwrap_or_default();
                if rest.trim().is_empty() || rest.trim_start().starts_with('#') {
                    break;
                }
            }
            _ => {}
        }
        at += 1;
    }
    Ok(start..at.min(text.len()))
}

pub(crate) fn find(text: &str, path: &str) -> Edited<Place> {
    single(look(text, path)?, path)
}

pub(crate) fn set(text: &str, path: &str, value: &str, create: bool) -> Edited<String> {
    one_line(value)?;
    let found = look(text, path)?;
    if found.is_empty() && create {
        if path.is_empty() || !path.chars().all(|one| one.is_ascii_alphanumeric() || "_.-".contains(one)) {
            return Err(EditError::Refused(format!("{path:?} is no name of a variable")));
        }
        return Ok(with_new_line(text, text.len(), &format!("{path}={}", quoted(value, None))));
    }
    let place = single(found, path)?;
    let old = text.get(place.value.clone()).unwrap_or_default();
    Ok(splice(text, &place.value, &quoted(value, old.chars().next())))
}

/// In the old value's quotes, or in some where it needs them.
fn quoted(value: &str, first: Option<char>) -> String {
    let double = |value: &str| {
        let mut out = String::from("\"");
        for one in value.chars() {
            if matches!(one, '"' | '\\' | '$' | '`') {
                out.push('\\');
            }
            out.push(one);
        }
        out.push('"');
        out
    };
    match first {
        Some('"') => double(value),
        Some('\'') if !value.contains('\'') => format!("'{value}'"),
        _ if is_plain(value) || value.is_empty() => value.to_owned(),
        _ if !value.contains('\'') => format!("'{value}'"),
        _ => double(value),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "# HOST=no\nHOST=db1 # old\nexport PW='a b'\r\nMULTI=\"x\nHOST=inner\n\"\nEMPTY=\nLAST=1";

    #[test]
    fn a_value_changes_and_nothing_else() -> Edited<()> {
        assert_eq!(set(FILE, "HOST", "::1", false)?, FILE.replace("db1", "::1"));
        assert_eq!(set(FILE, "PW", "it's", false)?, FILE.replace("'a b'", "\"it's\""));
        assert_eq!(set(FILE, "EMPTY", "a$b", false)?, FILE.replace("EMPTY=", "EMPTY='a$b'"));
        assert_eq!(set(FILE, "LAST", "2", false)?, FILE.replace("LAST=1", "LAST=2"));
        assert_eq!(set(FILE, "NEW", "2", true)?, FILE.replace("LAST=1", "LAST=1\r\nNEW=2\r\n"));
        assert_eq!(set(FILE, "NONE", "2", false), Err(EditError::Missing("NONE".to_owned())));
        assert!(set("A=\"x", "A", "2", false).is_err());
        Ok(())
    }
}
