//! Java's properties: `key=value`, `key: value` or `key value`, comments with `#` or `!`, values that go on behind a
//! backslash at the end of a line.

use crate::{Edited, Place, lines, single, splice, with_line, with_new_line};

/// The logical lines: where each begins and ends.
fn logical(text: &str) -> Vec<(usize, usize)> {
    let mut found: Vec<(usize, usize)> = Vec::new();
    let mut goes_on = false;
    for (begin, line) in lines(text) {
        let end = begin + line.len();
        let comment = !goes_on && line.trim_start().starts_with(['#', '!']);
        match found.last_mut() {
            Some(last) if goes_on => last.1 = end,
            _ => found.push((begin, end)),
        }
        let slashes = line.bytes().rev().take_while(|byte| *byte == b'\\').count();
        goes_on = !comment && slashes % 2 == 1;
    }
    found
}

/// The key of a logical line as it is meant, and where its value begins.
fn key(line: &str) -> Option<(String, usize)> {
    let indent = line.len() - line.trim_start().len();
    if line.get(indent..)?.is_empty() || line.get(indent..)?.starts_with(['#', '!']) {
        return None;
    }
    let mut key = String::new();
    let mut chars = line.char_indices().skip(indent).peekable();
    let mut end = line.len();
    while let Some((at, one)) = chars.next() {
        match one {
            '\\' => match chars.next() {
                Some((_, 'u')) => {
                    let hex: String = chars.by_ref().take(4).map(|(_, digit)| digit).collect();
                    key.push(u32::from_str_radix(&hex, 16).ok().and_then(char::from_u32)?);
                }
                Some((_, 't')) => key.push('\t'),
                Some((_, other)) => key.push(other),
                None => {}
            },
            '=' | ':' | ' ' | '\t' => {
                end = at;
                break;
            }
            other => key.push(other),
        }
    }
    let rest = line.get(end..)?;
    let mut value = end + (rest.len() - rest.trim_start_matches([' ', '\t']).len());
    if line.get(value..)?.starts_with(['=', ':']) {
        let rest = line.get(value + 1..)?;
        value += 1 + (rest.len() - rest.trim_start_matches([' ', '\t']).len());
    }
    Some((key, value))
}

fn look(text: &str, wanted: &str) -> Vec<Place> {
    let found = logical(text).into_iter().filter_map(|(begin, end)| {
        let (key, value) = key(text.get(begin..end)?)?;
        (key == wanted).then(|| Place { value: begin + value..end, whole: with_line(text, begin..end) })
    });
    found.collect()
}

pub(crate) fn find(text: &str, path: &str) -> Edited<Place> {
    single(look(text, path), path)
}

pub(crate) fn set(text: &str, path: &str, value: &str, create: bool) -> Edited<String> {
    let found = look(text, path);
    if found.is_empty() && create {
        return Ok(with_new_line(text, text.len(), &format!("{}={}", escaped(path, true), escaped(value, false))));
    }
    let place = single(found, path)?;
    let alone = text.get(..place.value.start).is_some_and(|before| !before.ends_with(['=', ':', ' ', '\t']));
    let separator = if alone { "=" } else { "" };
    Ok(splice(text, &place.value, &format!("{separator}{}", escaped(value, false))))
}

fn escaped(text: &str, key: bool) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, one) in text.chars().enumerate() {
        match one {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            ' ' if at == 0 || key => out.push_str("\\ "),
            '=' | ':' if key => {
                out.push('\\');
                out.push(one);
            }
            '#' | '!' if key && at == 0 => {
                out.push('\\');
                out.push(one);
            }
            ' '..='~' => out.push(one),
            other => {
                let mut units = [0; 2];
                for unit in other.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EditError;

    const FILE: &str = "# c\n! d\njdbc.url = jdbc:x\\\n   more\nuser:joe\nempty\na\\ b = 1\n";

    #[test]
    fn a_value_changes_and_nothing_else() -> Edited<()> {
        assert_eq!(set(FILE, "jdbc.url", "y", false)?, FILE.replace("jdbc:x\\\n   more", "y"));
        assert_eq!(set(FILE, "user", "é\\", false)?, FILE.replace("joe", "\\u00e9\\\\"));
        assert_eq!(set(FILE, "empty", "1", false)?, FILE.replace("empty", "empty=1"));
        assert_eq!(set(FILE, "a b", " 2", false)?, FILE.replace("= 1", "= \\ 2"));
        assert_eq!(set(FILE, "new", "v", true)?, format!("{FILE}new=v\n"));
        assert_eq!(set(FILE, "none", "v", false), Err(EditError::Missing("none".to_owned())));
        Ok(())
    }
}
