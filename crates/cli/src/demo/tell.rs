//! How the demo speaks: numbered chapters, commands as a user would type them, and what was found. With `--json` all
//! of this goes to stderr, and the figures to stdout when it is over.

use std::time::Duration;

use serde_json::{Map, Value};

use super::writer::Pace;
use crate::errors::Done;
use crate::{human, output};

/// How long a line of a fact may be.
const WIDTH: usize = 110;

/// Tells the story.
pub struct Teller {
    json: bool,
    chapter: u32,
    figures: Map<String, Value>,
}

impl Teller {
    /// Begins.
    pub fn new(json: bool) -> Self {
        Self { json, chapter: 0, figures: Map::new() }
    }

    /// A line as it is.
    pub fn line(&self, text: &str) -> Done {
        if self.json {
            output::note(text);
            return Ok(());
        }
        output::line(text)
    }

    /// A new chapter.
    pub fn chapter(&mut self, title: &str) -> Done {
        self.chapter += 1;
        self.line(&format!("\n{}. {title}", self.chapter))
    }

    /// What a user would type for what comes next.
    pub fn command(&self, text: &str) -> Done {
        self.line(&format!("   $ {text}"))
    }

    /// Something that was found; long words of others are broken into lines.
    pub fn fact(&self, text: &str) -> Done {
        let mut rest = text;
        while rest.len() > WIDTH {
            let end = rest.char_indices().take_while(|(at, _)| *at <= WIDTH).filter(|(_, c)| *c == ' ').last();
            let Some((end, _)) = end else { break };
            self.line(&format!("     {}", &rest[..end]))?;
            rest = &rest[end + 1..];
        }
        self.line(&format!("     {rest}"))
    }

    /// Keeps a figure for `--json`.
    pub fn figure(&mut self, name: &str, value: impl Into<Value>) {
        self.figures.insert(name.to_owned(), value.into());
    }

    /// A row of the table of production's pace.
    pub fn pace(&mut self, when: &str, figure: &str, pace: &Pace) -> Done {
        let ms = |span: Duration| format!("{:.1} ms", span.as_secs_f64() * 1000.0);
        self.figure(&format!("{figure}_orders_per_second"), (pace.per_second * 10.0).round() / 10.0);
        self.figure(&format!("{figure}_slowest_ms"), (pace.slowest.as_secs_f64() * 10_000.0).round() / 10.0);
        let (median, most, slowest) = (ms(pace.median), ms(pace.most), ms(pace.slowest));
        self.fact(&format!("{when:28} {:>8.1} {median:>12} {most:>12} {slowest:>12}", pace.per_second))
    }

    /// The figures.
    pub fn end(self) -> Done {
        if self.json { output::json(&self.figures) } else { Ok(()) }
    }
}

/// A span as people read it.
pub fn span(span: Duration) -> String {
    human::millis(u64::try_from(span.as_millis()).unwrap_or(u64::MAX))
}

/// A number with its thousands apart.
pub fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_stand_apart() {
        assert_eq!([7, 1000, 123_456, 1_234_567].map(grouped), ["7", "1,000", "123,456", "1,234,567"]);
        assert_eq!(span(Duration::from_millis(1250)), "1.2 s");
    }
}
