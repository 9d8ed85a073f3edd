//! JSON by pointer (RFC 6901). Comments and trailing commas, which some programs allow, are let be.

use std::ops::Range;

use crate::{EditError, Edited, Place, single, splice, unreadable, with_line};

#[derive(Debug, PartialEq, Eq)]
enum Kind {
    Object(Vec<Member>),
    Array(Vec<Member>),
    String,
    Other,
}

#[derive(Debug, PartialEq, Eq)]
struct Member {
    key: String,
    /// From the key (or the value) on.
    begin: usize,
    value: Value,
}

#[derive(Debug, PartialEq, Eq)]
struct Value {
    range: Range<usize>,
    kind: Kind,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn broken(&self, what: &str) -> EditError {
        unreadable(self.text, self.at, what)
    }

    fn blanks(&mut self) -> Edited<()> {
        loop {
            let rest = self.text.get(self.at..).unwrap_or_default();
            if rest.starts_with("//") {
                self.at += rest.find('\n').unwrap_or(rest.len());
            } else if rest.starts_with("/*") {
                self.at += rest.find("*/").ok_or_else(|| self.broken("a comment is not closed"))? + 2;
            } else if rest.starts_with([' ', '\t', '\n', '\r', '\u{feff}']) {
                self.at += rest.chars().next().map_or(1, char::len_utf8);
            } else {
                return Ok(());
            }
        }
    }

    fn string(&mut self) -> Edited<(Range<usize>, String)> {
        let begin = self.at;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'\\') => self.at += 2,
                Some(b'"') => break,
                Some(b'\n') | None => return Err(unreadable(self.text, begin, "a string is not closed")),
                Some(_) => self.at += 1,
            }
        }
        self.at += 1;
        let token = self.text.get(begin..self.at).unwrap_or_default();
        let meant =
            serde_json::from_str(token).map_err(|_| unreadable(self.text, begin, format!("{token} is no string")))?;
        Ok((begin..self.at, meant))
    }

    fn value(&mut self, depth: usize) -> Edited<Value> {
        self.blanks()?;
        let begin = self.at;
        if depth > 200 {
            return Err(self.broken("this is nested too deeply"));
        }
        let kind = match self.peek() {
            Some(b'"') => {
                self.string()?;
                Kind::String
            }
            Some(b'{') => Kind::Object(self.members(b'}', depth)?),
            Some(b'[') => Kind::Array(self.members(b']', depth)?),
            _ => {
                while self.peek().is_some_and(|byte| byte.is_ascii_alphanumeric() || b"+-.".contains(&byte)) {
                    self.at += 1;
                }
                let token = self.text.get(begin..self.at).unwrap_or_default();
                if serde_json::from_str::<serde_json::Value>(token).is_err() {
                    return Err(self.broken("a value is missing"));
                }
                Kind::Other
            }
        };
        Ok(Value { range: begin..self.at, kind })
    }

    fn members(&mut self, close: u8, depth: usize) -> Edited<Vec<Member>> {
        let mut members = Vec::new();
        self.at += 1;
        loop {
            self.blanks()?;
            if self.peek() == Some(close) {
                self.at += 1;
                return Ok(members);
            }
            let begin = self.at;
            let key = if close == b'}' {
                if self.peek() != Some(b'"') {
                    return Err(self.broken("a key is missing"));
                }
                let (_, key) = self.string()?;
                self.blanks()?;
                if self.peek() != Some(b':') {
                    return Err(self.broken("a colon is missing"));
                }
                self.at += 1;
                key
            } else {
                members.len().to_string()
            };
            members.push(Member { key, begin, value: self.value(depth + 1)? });
            self.blanks()?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(byte) if byte == close => {}
                _ => return Err(self.broken("a comma is missing")),
            }
        }
    }
}

fn parse(text: &str) -> Edited<Value> {
    let mut reader = Reader { text, at: 0 };
    let value = reader.value(0)?;
    reader.blanks()?;
    if reader.at < text.len() {
        return Err(reader.broken("something stands behind the end"));
    }
    Ok(value)
}

fn tokens(path: &str) -> Edited<Vec<String>> {
    let rest = path
        .strip_prefix('/')
        .ok_or_else(|| EditError::Refused(format!("{path} is no JSON pointer: it looks like /servers/0/host")))?;
    Ok(rest.split('/').map(|token| token.replace("~1", "/").replace("~0", "~")).collect())
}

/// The member at a path with its value, and those beside it.
fn locate(text: &str, path: &str) -> Edited<(Member, Range<usize>)> {
    let mut value = parse(text)?;
    let tokens = tokens(path)?;
    let mut last = None;
    for token in &tokens {
        let (Kind::Object(members) | Kind::Array(members)) = value.kind else {
            return Err(EditError::Missing(path.to_owned()));
        };
        let behind = |index: usize| members.get(index + 1).map(|next| next.begin);
        let nexts: Vec<Option<usize>> = (0..members.len()).map(behind).collect();
        let before: Vec<Option<usize>> =
            (0..members.len()).map(|index| index.checked_sub(1).map(|at| members[at].value.range.end)).collect();
        let fits: Vec<(usize, Member)> =
            members.into_iter().enumerate().filter(|(_, member)| member.key == *token).collect();
        let (index, member) = single(fits, path)?;
        // With its comma: the one behind it, or for the last the one before it.
        let whole = match (nexts[index], before[index]) {
            (Some(_), _) => member.begin..comma(text, member.value.range.end),
            (None, Some(before)) => before..member.value.range.end,
            (None, None) => member.begin..comma(text, member.value.range.end),
        };
        value = Value { range: 0..0, kind: Kind::Other };
        let Member { key, begin, value: found } = member;
        last = Some((key, begin, found.range.clone(), whole));
        value.range = found.range;
        value.kind = found.kind;
    }
    let (key, begin, _, whole) = last.ok_or_else(|| EditError::Missing(path.to_owned()))?;
    Ok((Member { key, begin, value }, whole))
}

/// Behind the comma that follows, if one does.
fn comma(text: &str, end: usize) -> usize {
    let mut reader = Reader { text, at: end };
    match (reader.blanks(), reader.peek()) {
        (Ok(()), Some(b',')) => reader.at + 1,
        _ => end,
    }
}

pub(crate) fn find(text: &str, path: &str) -> Edited<Place> {
    let (member, whole) = locate(text, path)?;
    Ok(Place { value: member.value.range, whole: with_line(text, whole) })
}

pub(crate) fn set(text: &str, path: &str, value: &str) -> Edited<String> {
    let (member, _) = locate(text, path)?;
    let string = || serde_json::Value::String(value.to_owned()).to_string();
    let scalar = serde_json::from_str::<serde_json::Value>(value)
        .is_ok_and(|read| !read.is_string() && !read.is_object() && !read.is_array() && value.trim() == value);
    let fresh = match member.value.kind {
        Kind::Object(_) | Kind::Array(_) => {
            return Err(EditError::Refused(format!("{path} holds several values: name one of them")));
        }
        // A number stays a number where it can.
        Kind::Other if scalar => value.to_owned(),
        _ => string(),
    };
    Ok(splice(text, &member.value.range, &fresh))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "{\n  // the old one\n  \"db\": {\"host\": \"prod\", \"port\": 5432, \"tls\": null},\n  \"list\": [1, \"two\", {\"a/b\": \"x\"}],\n  \"last\": true\n}\n";

    #[test]
    fn a_value_changes_and_nothing_else() -> Edited<()> {
        assert_eq!(set(FILE, "/db/host", "a\"b")?, FILE.replace("\"prod\"", "\"a\\\"b\""));
        assert_eq!(set(FILE, "/db/port", "17000")?, FILE.replace("5432", "17000"));
        assert_eq!(set(FILE, "/db/tls", "x")?, FILE.replace("null", "\"x\""));
        assert_eq!(set(FILE, "/list/1", "2")?, FILE.replace("\"two\"", "\"2\""));
        assert_eq!(set(FILE, "/list/2/a~1b", "y")?, FILE.replace("\"x\"", "\"y\""));
        Ok(())
    }

    #[test]
    fn what_is_not_there_or_not_plain_is_refused() {
        assert_eq!(set(FILE, "/db/hots", "x"), Err(EditError::Missing("/db/hots".to_owned())));
        assert_eq!(set(FILE, "/last/x", "x"), Err(EditError::Missing("/last/x".to_owned())));
        for (file, path) in [(FILE, "/db"), (FILE, "db"), ("{\"a\":1,\"a\":2}", "/a"), ("{", "/a"), ("{\"a\" 1}", "/a")]
        {
            assert!(set(file, path, "x").is_err(), "{file} {path}");
        }
    }

    #[test]
    fn a_member_goes_with_its_comma() -> Edited<()> {
        let gone = |path: &str| find(FILE, path).map(|place| splice(FILE, &place.whole, ""));
        assert_eq!(gone("/last")?, FILE.replace(",\n  \"last\": true", ""));
        assert_eq!(gone("/db/host")?, FILE.replace("\"host\": \"prod\",", ""));
        for path in ["/db", "/db/host", "/db/tls", "/list", "/list/0", "/list/2", "/list/2/a~1b", "/last"] {
            assert!(parse(&gone(path)?).is_ok(), "{path}");
        }
        Ok(())
    }
}
