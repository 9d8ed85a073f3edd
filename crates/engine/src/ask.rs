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
            other => Box::new(short(other)),
        },
    })
}
