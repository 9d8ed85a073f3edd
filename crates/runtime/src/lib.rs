//! Runs units. A unit is one server (or one program run to its end) of a mirror or clone.
//!
//! Units outlive the daemon: they are started in their own session, write their log to a file, and are
//! adopted again after a restart or crash of the daemon. A unit's id is written into its environment
//! (`PANDO_UNIT`, with `PANDO_HOME` beside it), so that what runs can be compared with what the catalog
//! means, even when every file of the runtime is lost.

pub mod compose;
pub mod conformance;
pub mod docker;
mod log;
pub mod placed;
pub mod process;
pub mod sim;

pub use docker::DockerRuntime;
pub use placed::PlacedRuntime;
pub use process::ProcessRuntime;
pub use sim::SimRuntime;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pando_host::{Account, Idmap, ToolError};
use pando_model::UnitId;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// What making something came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ensured {
    /// It was started now.
    Created,
    /// It ran before.
    AlreadyThere,
}

/// What removing something came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removed {
    /// It was stopped now.
    Deleted,
    /// It did not run.
    AlreadyGone,
}

/// A signal that asks a server to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopSignal {
    /// SIGTERM.
    Term,
    /// SIGINT (PostgreSQL's fast shutdown).
    Int,
    /// SIGQUIT (PostgreSQL's immediate shutdown).
    Quit,
    /// SIGKILL to the whole process group.
    Kill,
}

/// What to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnitSpec {
    /// Whose it is.
    pub id: UnitId,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Its arguments. Public: no secrets.
    pub args: Vec<String>,
    /// Its environment, besides `PATH`, `LC_ALL=C`, `TZ=UTC` and Pando's own variables. May hold secrets:
    /// a runtime keeps it out of logs and errors, and stores it only in files of mode 0600.
    pub env: BTreeMap<String, String>,
    /// What it reads on its standard input; nothing when absent. May hold secrets, like its environment.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<String>,
    /// Working directory.
    pub dir: PathBuf,
    /// The account it runs as; `None`: the daemon's own.
    pub account: Option<Account>,
    /// Instead it runs under a number of its own, which passes for the account in some directories alone; none: as the
    /// account, wherever that may go. A container sees its mounts alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub idmap: Option<Idmap>,
    /// Files that begin with the id of the server's process, over which another one refuses to start. Whoever is
    /// killed leaves them behind, and in time the id is somebody else's: see `process/locks.rs`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub locks: Vec<PathBuf>,
    /// The directories below which alone it changes files, whatever it is told to open; none: wherever its account may.
    /// A container sees its mounts alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub writes: Option<Vec<PathBuf>>,
    /// How it is asked to stop.
    pub stop_signal: StopSignal,
    /// Milliseconds after which the whole process group is killed.
    pub stop_grace_ms: u64,
    /// Run it in a container; `None`: as a process of this machine.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<Container>,
}

/// What a unit's container is given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Container {
    /// The image, as the engine knows it.
    pub image: String,
    /// The directories that it sees, at the same paths, and may write to.
    pub mounts: Vec<PathBuf>,
    /// What it is, for people who look at containers: names and ids.
    pub labels: BTreeMap<String, String>,
    /// Bytes of memory it may use; none: as much as there is.
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor it may use; none: all there are.
    pub cpu_millis: Option<u64>,
}

impl Container {
    /// A container that sees nothing and has no limits.
    pub fn of_image(image: &str) -> Self {
        Self {
            image: image.to_owned(),
            mounts: Vec::new(),
            labels: BTreeMap::new(),
            memory_bytes: None,
            cpu_millis: None,
        }
    }
}

/// How a unit is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    /// It runs, with this process id.
    Running {
        /// Of its first process.
        pid: u32,
    },
    /// It ended by itself: exit code, or none when a signal or a lost parent hides it.
    Exited {
        /// The code, if known.
        code: Option<i32>,
    },
    /// Nothing of it is known.
    Gone,
}

/// What a program run to its end left behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Exit code; none: killed by a signal.
    pub code: Option<i32>,
    /// The end of its log (standard output and error).
    pub log: String,
}

/// Why a call did not do its work.
#[derive(Debug, Error)]
pub enum RuntimeError {
    /// The unit could not be started.
    #[error("starting {program}")]
    Start {
        /// Its path.
        program: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It would not stop, even when killed.
    #[error("{0} does not stop")]
    Unstoppable(UnitId),
    /// A file or signal failed.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// The caller asked to stop waiting.
    #[error("cancelled")]
    Cancelled,
    /// A foreign program failed.
    #[error("{action}")]
    Tool {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: ToolError,
    },
    /// What was read makes no sense.
    #[error("{0}")]
    Invalid(String),
}

/// Runs units on one node.
///
/// Contract (held by [`conformance`] on every runtime):
/// - calls may be repeated; each answers whether it had anything to do;
/// - `ensure_gone` returns when no process of the unit's group is left;
/// - a unit that ran when the daemon died is `Running` for the next daemon;
/// - a paused unit makes no system call until it is resumed; starting or stopping resumes it;
/// - a unit's log is bounded, and survives the unit until [`Runtime::forget`].
pub trait Runtime: Send + Sync {
    /// The runtime's word: `process`, `docker`, `sim`.
    fn name(&self) -> &'static str;
    /// Whether a unit's `writes` can be kept.
    fn confines(&self) -> bool;
    /// Starts a unit unless it runs.
    fn ensure_running(&self, unit: &UnitSpec) -> Result<Ensured, RuntimeError>;
    /// Asks a unit to stop and waits; kills its group after the grace.
    fn ensure_gone(&self, unit: &UnitId) -> Result<Removed, RuntimeError>;
    /// Asks a unit to stop in another way than its spec says, for instance at once.
    fn ensure_gone_by(&self, unit: &UnitId, signal: StopSignal, grace: Duration) -> Result<Removed, RuntimeError>;
    /// How it is doing.
    fn state(&self, unit: &UnitId) -> Result<UnitState, RuntimeError>;
    /// All units of this home that run, whoever started them.
    fn inventory(&self) -> Result<Vec<UnitId>, RuntimeError>;
    /// Units of this home that have ended, and of which somebody else still keeps something: an engine its container.
    fn remains(&self) -> Result<Vec<UnitId>, RuntimeError> {
        Ok(Vec::new())
    }
    /// Runs a program to its end. `tick` is called about ten times a second and may say `false` to cancel,
    /// upon which the group is killed. A daemon that dies takes no such unit with it: `ensure_gone` first
    /// when repeating.
    fn run_once(&self, unit: &UnitSpec, tick: &mut dyn FnMut() -> bool) -> Result<Outcome, RuntimeError>;
    /// Sends SIGHUP to the first process: "read your configuration again".
    fn reload(&self, unit: &UnitId) -> Result<(), RuntimeError>;
    /// Stops all its processes where they are, until [`Runtime::resume`]; returns when they stand still.
    fn pause(&self, unit: &UnitId) -> Result<(), RuntimeError>;
    /// Lets a paused unit go on.
    fn resume(&self, unit: &UnitId) -> Result<(), RuntimeError>;
    /// The last lines of its log.
    fn log_tail(&self, unit: &UnitId, lines: usize) -> Result<String, RuntimeError>;
    /// Keeps logs within their bound, and takes away what a crash has left of it that is no unit's; called now and then.
    fn tidy(&self) -> Result<(), RuntimeError>;
    /// Drops what is kept of a unit that is gone: its log and its record.
    fn forget(&self, unit: &UnitId) -> Result<(), RuntimeError>;
}
