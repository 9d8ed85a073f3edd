//! PHP: the value of a `define('NAME', …);` (path `NAME`) or of an assignment `$name = …;` (path `$name`). Comments
//! and strings are read as PHP reads them; what is computed is replaced by a plain value.

use std::ops::Range;

use crate::{EditError, Edited, Place, single, splice, unreadable, with_line};

/// What the scanner finds.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Token {
    Word(Range<usize>),
    Text(Range<usize>),
    Sign(usize, u8),
}

impl Token {
    const fn start(&self) -> usize {
        match self {
            Self::Word(range) | Self::Text(range) => range.start,
            Self::Sign(at, _) => *at,
        }
    }

    const fn end(&self) -> usize {
        match self {
            Self::Word(range) | Self::Text(range) => range.end,
            Self::Sign(at, _) => *at + 1,
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'$' || byte >= 0x80
}

fn tokens(text: &str) -> Edited<Vec<Token>> {
    let bytes = text.as_bytes();
    let mut tokens = Vec::new();
    let find = |from: usize, what: &str| text.get(from..).and_then(|rest| rest.find(what)).map(|at| from + at);
    let Some(mut at) = find(0, "<?").map(|at| at + 2) else {
        return Err(unreadable(text, 0, "there is no <?php"));
    };
    while let Some(byte) = bytes.get(at).copied() {
        let rest = text.get(at..).unwrap_or_default();
        if rest.starts_with("?>") {
            // What follows is no PHP until the next opening; a statement ends here too.
            tokens.push(Token::Sign(at, b';'));
            at = find(at, "<?").map_or(bytes.len(), |at| at + 2);
        } else if rest.starts_with("//") || (byte == b'#' && bytes.get(at + 1) != Some(&b'[')) {
            let line = find(at, "\n").unwrap_or(bytes.len());
            at = find(at, "?>").unwrap_or(bytes.len()).min(line);
        } else if rest.starts_with("/*") {
            at = find(at + 2, "*/").ok_or_else(|| unreadable(text, at, "a comment is not closed"))? + 2;
        } else if rest.starts_with("<<<") {
            let end = heredoc(text, at)?;
            tokens.push(Token::Text(at..end));
            at = end;
        } else if matches!(byte, b'"' | b'\'' | b'`') {
            let begin = at;
            at += 1;
            loop {
                match bytes.get(at) {
                    Some(b'\\') => at += 2,
                    Some(found) if *found == byte => break,
                    Some(_) => at += 1,
                    None => return Err(unreadable(text, begin, "a string is not closed")),
                }
            }
            at += 1;
            tokens.push(Token::Text(begin..at));
        } else if is_word(byte) {
            let begin = at;
            while bytes.get(at).is_some_and(|byte| is_word(*byte)) {
                at += 1;
            }
            tokens.push(Token::Word(begin..at));
        } else {
            if !byte.is_ascii_whitespace() {
                tokens.push(Token::Sign(at, byte));
            }
            at += 1;
        }
    }
    Ok(tokens)
}

/// Behind a heredoc or nowdoc.
fn heredoc(text: &str, at: usize) -> Edited<usize> {
    let open = || unreadable(text, at, "a heredoc is not closed");
    let rest = text.get(at + 3..).unwrap_or_default();
    let line = rest.lines().next().unwrap_or_default();
    let label = line.trim().trim_matches(['"', '\'']);
    if label.is_empty() || !label.bytes().all(is_word) {
        return Ok(at + 3);
    }
    let mut begin = at + 3 + line.len() + 1;
    for line in text.get(begin..).unwrap_or_default().split_inclusive('\n') {
        let shown = line.trim_start();
        if shown.strip_prefix(label).is_some_and(|rest| !rest.bytes().next().is_some_and(is_word)) {
            return Ok(begin + (line.len() - shown.len()) + label.len());
        }
        begin += line.len();
    }
    Err(open())
}

/// The string that a literal stands for, as far as a constant's name needs it.
fn literal(text: &str, token: &Token) -> Option<String> {
    let Token::Text(range) = token else { return None };
    let text = text.get(range.start + 1..range.end - 1)?;
    Some(text.replace("\\'", "'").replace("\\\\", "\\"))
}

/// The end of an expression: the place in `tokens` where `close` stands outside of all brackets.
fn expression(tokens: &[Token], from: usize, closing: &[u8]) -> Option<usize> {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(from) {
        let Token::Sign(_, sign) = token else { continue };
        match sign {
            sign if depth == 0 && closing.contains(sign) => return Some(index),
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
    }
    None
}

fn look(text: &str, path: &str) -> Edited<Vec<Place>> {
    let tokens = tokens(text)?;
    let word = |index: usize| match tokens.get(index) {
        Some(Token::Word(range)) => text.get(range.clone()),
        _ => None,
    };
    let sign = |index: usize, wanted: u8| matches!(tokens.get(index), Some(Token::Sign(_, sign)) if *sign == wanted);
    let mut found = Vec::new();
    for index in 0..tokens.len() {
        let begins = index.checked_sub(1).is_none_or(|before| {
            [b';', b'{', b'}', b')', b'\\'].iter().any(|end| sign(before, *end)) || word(before).is_some()
        });
        if !begins {
            continue;
        }
        let (first, closing): (usize, &[u8]) = if path.starts_with('$') {
            if word(index) != Some(path) || !sign(index + 1, b'=') || sign(index + 2, b'=') {
                continue;
            }
            (index + 2, b";")
        } else {
            let called = word(index).is_some_and(|word| word.eq_ignore_ascii_case("define")) && sign(index + 1, b'(');
            let named = tokens.get(index + 2).and_then(|token| literal(text, token)).is_some_and(|name| name == path);
            if !called || !named || !sign(index + 3, b',') {
                continue;
            }
            (index + 4, b"),")
        };
        let Some(end) = expression(&tokens, first, closing).filter(|end| *end > first) else {
            return Err(unreadable(text, tokens[index].start(), format!("{path} has no value")));
        };
        let value = tokens[first].start()..tokens[end - 1].end();
        let semicolon = expression(&tokens, end + usize::from(!path.starts_with('$')), b";").unwrap_or(end);
        let last = tokens.get(semicolon).map_or(value.end, Token::end);
        found.push(Place { whole: with_line(text, tokens[index].start()..last), value });
    }
    Ok(found)
}

pub(crate) fn find(text: &str, path: &str) -> Edited<Place> {
    single(look(text, path)?, path)
}

pub(crate) fn set(text: &str, path: &str, value: &str) -> Edited<String> {
    if value.contains('\0') {
        return Err(EditError::Refused("a value cannot hold a zero byte".to_owned()));
    }
    let place = find(text, path)?;
    let old = text.get(place.value.clone()).unwrap_or_default();
    let bare = |text: &str| {
        let word = ["true", "false", "null"].contains(&text.to_ascii_lowercase().as_str());
        word || (!text.is_empty() && text.len() < 16 && text.bytes().all(|byte| byte.is_ascii_digit()))
    };
    // A number stays a number where it can.
    let fresh = if bare(old) && bare(value) {
        value.to_owned()
    } else {
        format!("'{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))
    };
    Ok(splice(text, &place.value, &fresh))
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "<?php\n// define('DB_HOST', 'no');\n/** define( 'DB_HOST', 'no' ); */\ndefine( 'DB_HOST', 'db1' ); # ; old\ndefine('DB_PORT', 5432);\nif ( ! defined( 'X' ) ) { define(\"X\", getenv('A') ?: f(1, 'b)')); }\n$table_prefix = 'wp_';\n$s = <<<EOT\ndefine('DB_HOST', 'no');\nEOT;\nif ($table_prefix == 'x') {}\n";

    #[test]
    fn a_value_changes_and_nothing_else() -> Edited<()> {
        assert_eq!(set(FILE, "DB_HOST", "it's\\")?, FILE.replace("'db1'", "'it\\'s\\\\'"));
        assert_eq!(set(FILE, "DB_PORT", "1")?, FILE.replace("5432", "1"));
        assert_eq!(set(FILE, "DB_PORT", "x")?, FILE.replace("5432", "'x'"));
        assert_eq!(set(FILE, "X", "y")?, FILE.replace("getenv('A') ?: f(1, 'b)')", "'y'"));
        assert_eq!(set(FILE, "$table_prefix", "p_")?, FILE.replace("'wp_'", "'p_'"));
        Ok(())
    }

    #[test]
    fn what_is_not_clear_is_refused_and_a_statement_goes_whole() -> Edited<()> {
        assert_eq!(set(FILE, "DB_NAME", "x"), Err(EditError::Missing("DB_NAME".to_owned())));
        let twice = "<?php define('A', 1); define('A', 2);";
        assert!(matches!(set(twice, "A", "x"), Err(EditError::Ambiguous(_, 2))));
        for bad in ["", "<?php define('A', 'x", "<?php /* define", "<?php define('A', )"] {
            assert!(set(bad, "A", "x").is_err(), "{bad}");
        }
        let place = find(FILE, "DB_PORT")?;
        assert_eq!(FILE.get(place.whole), Some("define('DB_PORT', 5432);\n"));
        Ok(())
    }
}
