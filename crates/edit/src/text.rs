//! Find and replace in any bytes.

use regex::bytes::{NoExpand, Regex};

use crate::{EditError, Edited};

/// Puts `with` in the place of every `find`. Where `with` itself stands already nothing is changed, so that a
/// repetition changes nothing.
///
/// # Errors
/// When neither `find` nor `with` is there.
pub fn replace(bytes: &[u8], find: &str, with: &str) -> Edited<Vec<u8>> {
    if find.is_empty() {
        return Err(EditError::Refused("there is nothing to look for".to_owned()));
    }
    let (find, with) = (find.as_bytes(), with.as_bytes());
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut seen = with.is_empty();
    while let Some(first) = rest.first() {
        if !with.is_empty() && rest.starts_with(with) {
            seen = true;
            out.extend_from_slice(with);
            rest = &rest[with.len()..];
        } else if rest.starts_with(find) {
            seen = true;
            out.extend_from_slice(with);
            rest = &rest[find.len()..];
        } else {
            out.push(*first);
            rest = &rest[1..];
        }
    }
    if seen { Ok(out) } else { Err(EditError::Missing(format!("{:?}", String::from_utf8_lossy(find)))) }
}

/// Puts `with`, as it is, in the place of every match of a regular expression.
///
/// # Errors
/// When the expression is none, or nothing matches.
pub fn replace_pattern(bytes: &[u8], pattern: &str, with: &str) -> Edited<Vec<u8>> {
    let regex = Regex::new(pattern)
        .map_err(|error| EditError::Refused(format!("{pattern:?} is no regular expression: {}", short(&error))))?;
    if !regex.is_match(bytes) {
        // What was put there before.
        let done = !with.is_empty() && bytes.windows(with.len()).any(|window| window == with.as_bytes());
        return if done { Ok(bytes.to_vec()) } else { Err(EditError::Missing(format!("a match of {pattern:?}"))) };
    }
    Ok(regex.replace_all(bytes, NoExpand(with.as_bytes())).into_owned())
}

/// The last line says what is wrong; those before it draw it.
fn short(error: &regex::Error) -> String {
    error.to_string().lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_repetition_changes_nothing() -> Edited<()> {
        for (text, find, with, expected) in [
            ("http://prod/a http://prod/b", "http://prod", "http://prod:81", "http://prod:81/a http://prod:81/b"),
            ("aXa", "X", "", "aa"),
            ("prod", "prod", "my-prod-2", "my-prod-2"),
        ] {
            let once = replace(text.as_bytes(), find, with)?;
            assert_eq!(String::from_utf8_lossy(&once), expected);
            assert_eq!(replace(&once, find, with)?, once);
        }
        assert!(matches!(replace(b"abc", "x", "y"), Err(EditError::Missing(_))));
        Ok(())
    }

    #[test]
    fn a_pattern_is_replaced_by_plain_text() -> Edited<()> {
        let once = replace_pattern(b"\xff port=5432;", r"port=\d+", "port=$1")?;
        assert_eq!(once, b"\xff port=$1;");
        assert_eq!(replace_pattern(&once, r"port=\d+", "port=$1")?, once);
        assert!(replace_pattern(b"x", "(", "y").is_err());
        assert!(matches!(replace_pattern(b"x", "z+", "y"), Err(EditError::Missing(_))));
        Ok(())
    }
}
