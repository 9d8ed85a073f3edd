//! The one place that prints. Data goes to stdout; notes and problems go to stderr. What servers say is in both, so nothing that
//! commands a terminal is printed.

use std::borrow::Cow;
use std::io::{self, IsTerminal, Write};

use pando_model::Problem;
use serde::Serialize;

use crate::errors::Done;

/// Data for people.
pub fn text(text: &str) -> Done {
    let mut out = io::stdout().lock();
    out.write_all(harmless(text).as_bytes())?;
    Ok(out.flush()?)
}

/// One line of data.
pub fn line(line: &str) -> Done {
    text(&format!("{line}\n"))
}

/// A view, as JSON.
pub fn json<T: Serialize>(view: &T) -> Done {
    line(&serde_json::to_string_pretty(view)?)
}

/// A view as one line of JSON, for streams.
pub fn json_line<T: Serialize>(view: &T) -> Done {
    line(&serde_json::to_string(view)?)
}

/// Something that is not data.
pub fn note(text: &str) {
    // Nobody is left to be told when stderr is gone.
    let _ = writeln!(io::stderr().lock(), "{}", harmless(text));
}

/// Without control characters, but for the ends of lines and tabs.
fn harmless(text: &str) -> Cow<'_, str> {
    let commands = |c: char| c.is_control() && !matches!(c, '\n' | '\t');
    if text.contains(commands) { text.replace(commands, " ").into() } else { text.into() }
}

/// A problem: one line, its causes, one hint; with `json` also as JSON, on the last line.
pub fn problem(problem: &Problem, json: bool) {
    note(&words(problem));
    if json {
        note(&serde_json::to_string(problem).unwrap_or_default());
    }
}

fn words(problem: &Problem) -> String {
    let mut lines = vec![format!("error: {}", problem.message)];
    lines.extend(problem.causes.iter().map(|cause| format!("  because: {cause}")));
    lines.extend(problem.hint.iter().map(|hint| format!("  hint: {hint}")));
    lines.join("\n")
}

/// Whether a person watches stderr.
pub fn is_watched() -> bool {
    io::stderr().is_terminal()
}

#[cfg(test)]
mod tests {
    use super::*;
    use pando_model::ErrorKind;

    #[test]
    fn a_problem_is_a_line_its_causes_and_a_hint() {
        let mut problem = Problem::new(ErrorKind::Failed, "cannot clone shop").hint("pando doctor");
        problem.causes = vec!["the pool is full".into(), "no space left".into()];
        let expected =
            "error: cannot clone shop\n  because: the pool is full\n  because: no space left\n  hint: pando doctor";
        assert_eq!(words(&problem), expected);
    }

    #[test]
    fn nothing_that_commands_a_terminal_is_printed() {
        assert_eq!(harmless("a\tb\nERR \u{1b}]0;title\u{7}\r\u{9b}2J"), "a\tb\nERR  ]0;title   2J");
    }
}
