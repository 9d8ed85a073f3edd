//! Questions to production by its own client programs. A production that lets them in may fall silent all the same, or
//! answer without end: nobody waits for that.

use std::time::Duration;

use pando_host::{Bounds, ToolCommand, ToolError};
use pando_model::SourceUrl;

use crate::EngineError;

/// More than production takes for any question but those that say what they take.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// More than it takes to add up all it has: files of databases, or tables.
pub const LONG: Duration = Duration::from_secs(600);
/// Why nobody waits for an answer any more, once Pando is told to stop.
pub const GIVEN_UP: &str = "it had not answered when Pando was stopped";
/// More than it answers to anything.
const ANSWER: usize = 16 << 20;

/// Runs a client and answers what it printed. `short`: of what a client says, what says why it failed.
pub fn ask(
    client: &ToolCommand,
    url: &SourceUrl,
    time: Duration,
    short: fn(ToolError) -> ToolError,
) -> Result<String, EngineError> {
    let done = client.run_bounded(b"", Bounds { time, output: ANSWER });
    done.map(|finished| finished.text()).map_err(|error| EngineError::Server {
        action: format!("asking production at {url}"),
        source: match error {
            ToolError::Late { seconds, .. } => format!("it has not answered within {seconds} s").into(),
            ToolError::GivenUp { .. } => GIVEN_UP.into(),
            other => Box::new(short(other)),
        },
    })
}
