//! INI files: `[section]`, `key = value` or `key: value`, comments with `;` or `#`. The path of a key is
//! `[section]key`, or `key` before the first section.

use crate::{EditError, Edited, Place, lines, one_line, single, splice, with_line, with_new_line};

struct Path<'a> {
    section: &'a str,
    key: &'a str,
}

fn path(text: &str) -> Edited<Path<'_>> {
    let (section, key) = match text.strip_prefix('[') {
        Some(rest) => rest
            .split_once(']')
            .ok_or_else(|| EditError::Refused(format!("{text} is no path: it looks like [section]key")))?,
        None => ("", text),
    };
    let (section, key) = (section.trim(), key.trim());
    if key.is_empty() || key.contains(['=', '\n', '\r']) {
        return Err(EditError::Refused(format!("{text} names no key: a path looks like [section]key")));
    }
    Ok(Path { section, key })
}

/// Where the key stands, and (in any case) where its section's last entry ends.
fn look(text: &str, path: &Path<'_>) -> (Vec<Place>, Option<usize>) {
    let mut found = Vec::new();
    let mut inside = path.section.is_empty();
    let mut end = inside.then_some(0);
    for (begin, line) in lines(text) {
        let trimmed = line.trim();
        if trimmed.starts_with([';', '#']) || trimmed.is_empty() {
            continue;
        }
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')).map(|(name, _)| name) {
            inside = section.trim() == path.section;
        }
        if !inside {
            continue;
        }
        let next = text.get(begin..).and_then(|rest| rest.find('\n')).map_or(text.len(), |at| begin + at + 1);
        end = Some(next);
        let Some(at) = line.find(['=', ':']).filter(|_| !trimmed.starts_with('[')) else { continue };
        if line.get(..at).map(str::trim) == Some(path.key) {
            let value = value(line, at + 1);
            let value = begin + value.start..begin + value.end;
            found.push(Place { whole: with_line(text, begin..begin + line.len()), value });
        }
    }
    (found, end)
}

/// The value in a line: without blanks around it, and without a comment behind it.
fn value(line: &str, from: usize) -> std::ops::Range<usize> {
    let rest = line.get(from..).unwrap_or_default();
    let start = from + (rest.len() - rest.trim_start().len());
    let rest = line.get(start..).unwrap_or_default();
    if let Some(quote) = rest.chars().next().filter(|first| matches!(first, '"' | '\''))
        && let Some(end) = rest.get(1..).and_then(|inner| inner.find(quote))
    {
        return start..start + end + 2;
    }
    let comment = [" ;", " #", "\t;", "\t#"].iter().filter_map(|sign| rest.find(sign)).min().unwrap_or(rest.len());
    let shown = rest.get(..comment).unwrap_or(rest);
    // An empty value before a comment.
    let shown = if shown.starts_with([';', '#']) { "" } else { shown };
    start..start + shown.trim_end().len()
}

pub(crate) fn find(text: &str, at: &str) -> Edited<Place> {
    single(look(text, &path(at)?).0, at)
}

pub(crate) fn set(text: &str, at: &str, value: &str, create: bool) -> Edited<String> {
    one_line(value)?;
    let path = path(at)?;
    let (found, end) = look(text, &path);
    if found.is_empty() && create {
        let line = format!("{} = {}", path.key, quoted(value, None)?);
        return Ok(match end {
            Some(end) => with_new_line(text, end, &line),
            None => {
                let begun = with_new_line(text, text.len(), &format!("[{}]", path.section));
                with_new_line(&begun, begun.len(), &line)
            }
        });
    }
    let place = single(found, at)?;
    let old = text.get(place.value.clone()).unwrap_or_default();
    let quote = old.chars().next().filter(|first| matches!(first, '"' | '\'') && old.len() > 1);
    let mut fresh = quoted(value, quote)?;
    if old.is_empty() && text.get(..place.value.start).is_some_and(|before| before.ends_with(['=', ':'])) {
        // What stood there was the comment's blank.
        let comment = text.get(place.value.start..).is_some_and(|after| after.starts_with([';', '#']));
        fresh.push_str(if comment { " " } else { "" });
    }
    Ok(splice(text, &place.value, &fresh))
}

/// Quotes as the old value had; others where the value would be read differently without.
fn quoted(value: &str, quote: Option<char>) -> Edited<String> {
    let comment = [" ;", " #", "\t;", "\t#"].iter().any(|sign| value.contains(sign));
    let odd = value != value.trim() || value.starts_with([';', '#', '"', '\'']) || comment;
    let quote = quote.or_else(|| odd.then_some('"'));
    let Some(quote) = quote else { return Ok(value.to_owned()) };
    let other = if quote == '"' { '\'' } else { '"' };
    match (value.contains(quote), value.contains(other)) {
        (false, _) => Ok(format!("{quote}{value}{quote}")),
        (true, false) => Ok(format!("{other}{value}{other}")),
        (true, true) => Err(EditError::Refused("an INI value cannot hold both kinds of quotes".to_owned())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str =
        "; top\nname = app\n\n[database]\r\nhost: db1 ; the old one\nport=5432\npassword = \"a;b\"\n\n[mail]\nhost =\n";

    #[test]
    fn a_value_changes_and_nothing_else() -> Edited<()> {
        assert_eq!(set(FILE, "[database]host", "::1", false)?, FILE.replace("db1 ;", "::1 ;"));
        assert_eq!(set(FILE, "[database]port", "1", false)?, FILE.replace("5432", "1"));
        assert_eq!(set(FILE, "[database]password", "x y", false)?, FILE.replace("\"a;b\"", "\"x y\""));
        assert_eq!(set(FILE, "[mail]host", "m", false)?, FILE.replace("host =\n", "host =m\n"));
        assert_eq!(set(FILE, "name", "x ;y", false)?, FILE.replace("= app", "= \"x ;y\""));
        Ok(())
    }

    #[test]
    fn what_is_not_there_is_refused_or_made() -> Edited<()> {
        assert_eq!(set(FILE, "[database]hots", "x", false), Err(EditError::Missing("[database]hots".to_owned())));
        assert_eq!(set(FILE, "host", "x", false), Err(EditError::Missing("host".to_owned())));
        assert!(set(FILE, "[database]user", "u", true)?.contains("password = \"a;b\"\nuser = u\r\n"));
        assert!(set(FILE, "[new]k", "v", true)?.ends_with("[new]\r\nk = v\r\n"));
        assert_eq!(set("", "k", "v", true)?, "k = v\n");
        assert_eq!(set("[a]\nx=1", "[a]y", "2", true)?, "[a]\nx=1\ny = 2\n");
        assert!(matches!(set("a=1\na=2\n", "a", "3", false), Err(EditError::Ambiguous(_, 2))));
        assert!(set(FILE, "name", "x\ny", false).is_err());
        Ok(())
    }
}
