//! What a person sees while an operation takes its time: a bar where bytes and their total are known, else
//! a spinner with the step's name. Nothing in the first second, and nothing with `--json`. Where nobody
//! watches the terminal, one line per step that takes over a second.

use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use pando_model::{OperationView, StepState};

use crate::output;

/// What ends within this needs no progress.
const PATIENCE: Duration = Duration::from_secs(1);

enum Way {
    Silent,
    Lines,
    Bar(Option<ProgressBar>),
}

/// The progress of one operation.
pub struct Progress {
    way: Way,
    step: String,
    /// When the step in hand was first seen; for a bar, when the operation was.
    since: Instant,
    said: bool,
}

impl Progress {
    /// Begins at `now`.
    pub fn new(json: bool, now: Instant) -> Self {
        let way = match (json, output::is_watched()) {
            (true, _) => Way::Silent,
            (false, true) => Way::Bar(None),
            (false, false) => Way::Lines,
        };
        Self { way, step: String::new(), since: now, said: false }
    }

    /// Shows how far the operation is.
    pub fn show(&mut self, operation: &OperationView, now: Instant) {
        let patient = now.duration_since(self.since) < PATIENCE;
        match &mut self.way {
            Way::Silent => {}
            Way::Bar(None) if patient => {}
            Way::Bar(bar) => draw(bar.get_or_insert_with(ProgressBar::new_spinner), operation),
            Way::Lines => {
                let step = step(operation);
                if step != self.step {
                    (self.step, self.since, self.said) = (step, now, false);
                } else if !patient && !self.said {
                    self.said = true;
                    output::note(&format!("{} {}: {}", operation.verb, operation.subject, self.step));
                }
            }
        }
    }

    /// Leaves no trace of a bar.
    pub fn end(self) {
        if let Way::Bar(Some(bar)) = self.way {
            bar.finish_and_clear();
        }
    }
}

fn draw(bar: &ProgressBar, operation: &OperationView) {
    let progress = operation.progress.as_ref();
    let what = progress.map_or_else(|| step(operation), |progress| progress.what.clone());
    bar.set_message(format!("{} {}: {what}", operation.verb, operation.subject));
    let done = progress.map_or(0, |progress| progress.done_bytes);
    let style = match progress.and_then(|progress| progress.total_bytes) {
        Some(total) => {
            // A source may grow while it is copied.
            bar.set_length(total.max(done));
            "{msg} [{bar:30}] {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left"
        }
        None if done > 0 => "{spinner} {msg} {binary_bytes}, {binary_bytes_per_sec}",
        None => "{spinner} {msg} {elapsed}",
    };
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style.progress_chars("=> "));
    }
    bar.set_position(done);
    bar.tick();
}

/// The step in hand.
fn step(operation: &OperationView) -> String {
    let begun = operation.steps.iter().find(|step| step.state == StepState::Begun);
    let name = begun.or(operation.steps.last()).map_or("", |step| step.name.as_str());
    name.to_owned()
}
