//! The test kit that a toolkit's author runs: the whole life of a source against a real production, without a
//! daemon, and the promises of `docs/toolkit` one by one. It goes through the engine that the daemon uses, so
//! what passes here is what the daemon accepts; beside that it looks at processes, sockets and files itself.
//!
//! What cannot be looked at because something before it does not hold is said to be so: a kit that passes has
//! looked at everything.

mod alone;
mod asked;
mod copied;
mod program;
mod seen;
mod served;

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use pando_host::process::{self, Process};
use pando_host::{Account, Clock, SystemClock};
use pando_model::{EngineKind, SourceUrl};
use rustix::process::Signal;
use serde::Serialize;

use self::program::Program;
use super::call::Toolkit;
use super::message::{Identity, Operation};
use super::{ToolkitEngine, chain};
use crate::postgres::tree::private_dir;
use crate::{EngineError, Seat, Source, UnitPlan};

/// How long a unit of `ingest` or `follow` may take here.
const UNIT: Duration = Duration::from_secs(1800);

/// What is to be tested.
#[derive(Debug)]
pub struct Options<'a> {
    /// The executable.
    pub path: &'a Path,
    /// A production that it can be tested with; without one only questions and answers are.
    pub url: Option<&'a SourceUrl>,
    /// Who runs it; `None`: this process' own user.
    pub account: Option<Account>,
    /// An empty directory that this account can pass.
    pub scratch: &'a Path,
    /// Seconds for each operation, where it is not the usual time.
    pub seconds: Option<u64>,
    /// Whether to stop at the first promise that does not hold.
    pub first: bool,
    /// Set by another thread to end the test: no further promise is looked at.
    pub stop: Option<&'a AtomicBool>,
}

/// One promise, and whether it holds.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// What is promised, in a few words that stay the same.
    pub promise: String,
    /// What is wrong; nothing: it holds.
    pub problem: Option<String>,
    /// How long it took to look.
    pub millis: u64,
}

/// That something does not hold, so that nothing behind it can be looked at.
struct Stop;

/// What looking at a promise answers.
type Look<T = ()> = Result<T, String>;

/// A test under way.
struct Kit<'a> {
    engine: ToolkitEngine,
    toolkit: Toolkit,
    source: Option<Source>,
    identity: Option<Identity>,
    options: &'a Options<'a>,
    tell: &'a mut dyn FnMut(&Check),
    checks: Vec<Check>,
}

/// Tests a toolkit, and tells each promise as soon as it has been looked at.
pub fn run(options: &Options<'_>, tell: &mut dyn FnMut(&Check)) -> Vec<Check> {
    let name = options.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let dir = options.path.parent().unwrap_or(Path::new("/")).to_owned();
    let account = options.account.clone();
    let toolkit = Toolkit {
        name: name.clone(),
        path: options.path.to_owned(),
        account: account.clone(),
        seconds: options.seconds,
    };
    let source = options.url.map(|url| Source {
        // The file tested is the one that was named, whatever the URL calls it.
        url: SourceUrl { engine: EngineKind::Toolkit, scheme: format!("toolkit+{name}"), ..url.clone() },
        exclude: Vec::new(),
        facts: serde_json::Value::Null,
        tag: "pando_kit".to_owned(),
    });
    let mut engine = ToolkitEngine::new(vec![dir], account);
    engine.seconds = options.seconds;
    let mut kit = Kit { engine, toolkit, source, identity: None, options, tell, checks: Vec::new() };
    let ended = kit.all();
    let failed = kit.checks.iter().any(|check| check.problem.is_some());
    if ended.is_err() || (options.first && failed) {
        kit.record("everything else", 0, Some("not looked at: what failed has to hold first".to_owned()));
    }
    kit.checks
}

/// Takes a test's directory away and kills what runs in it. Of a test that goes on what is being looked at fails.
///
/// # Errors
/// When the directory cannot be removed.
pub fn abandon(scratch: &Path) -> std::io::Result<()> {
    let removed = pando_host::durable::remove_tree_if_there(scratch).map(drop);
    for held in seen::pids_in(scratch).into_iter().filter_map(|pid| Process::open(process::stat(pid)?.id)) {
        held.signal(Signal::KILL)?;
    }
    removed
}

impl Kit<'_> {
    fn all(&mut self) -> Result<(), Stop> {
        self.asked()?;
        if self.source.is_none() {
            self.alone();
            return Ok(());
        }
        self.production()?;
        self.copied()?;
        self.served()?;
        self.check("no process of it is left", |kit| {
            let left = seen::left_in(kit.options.scratch);
            if left.is_empty() { Ok(()) } else { Err(format!("still running: {}", left.join(", "))) }
        });
        Ok(())
    }

    fn record(&mut self, promise: &str, millis: u64, problem: Option<String>) {
        let check = Check { promise: promise.to_owned(), problem, millis };
        (self.tell)(&check);
        self.checks.push(check);
    }

    /// Looks at a promise; goes on whatever comes of it.
    fn check<T>(&mut self, promise: &str, look: impl FnOnce(&mut Self) -> Look<T>) -> Option<T> {
        if self.options.stop.is_some_and(|stop| stop.load(Ordering::Relaxed)) {
            return None;
        }
        let failed = || self.checks.iter().any(|check| check.problem.is_some());
        if self.options.first && failed() {
            return None;
        }
        let begun = SystemClock.instant();
        let outcome = look(self);
        let millis = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (found, problem) = match outcome {
            Ok(found) => (Some(found), None),
            Err(problem) => (None, Some(super::one_line(&super::hidden(&problem, &self.secrets())))),
        };
        self.record(promise, millis, problem);
        found
    }

    /// Looks at a promise without which nothing else can be looked at.
    fn must<T>(&mut self, promise: &str, look: impl FnOnce(&mut Self) -> Look<T>) -> Result<T, Stop> {
        self.check(promise, look).ok_or(Stop)
    }

    fn secrets(&self) -> Vec<String> {
        self.source.as_ref().map(|source| source.url.secrets()).unwrap_or_default()
    }

    fn source(&self) -> Look<&Source> {
        self.source.as_ref().ok_or_else(|| "no production was named".to_owned())
    }

    /// A place for one owner of the source.
    fn seat(&self, name: &str) -> Look<Seat> {
        let dir = self.options.scratch.join(name);
        std::fs::create_dir_all(&dir).map_err(|error| error.to_string())?;
        let account = self.options.account.clone();
        let run = self.options.scratch.join(format!("{name}.run"));
        private_dir(&run, account.as_ref()).map_err(said)?;
        Ok(Seat { data: dir.join("data"), log: dir.join("log"), run, account })
    }

    /// Starts what a plan says.
    fn start(&self, plan: &UnitPlan, log: &str) -> Look<Program> {
        Program::start(plan, &self.log(log))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.options.scratch.join(format!("{name}.log"))
    }

    /// Runs a unit to its end; answers its exit code (none: killed) and what it printed.
    fn run_unit(&self, plan: &UnitPlan, log: &str) -> Look<(Option<i32>, String)> {
        let mut program = self.start(plan, log)?;
        let code = program.wait(UNIT)?.ok_or_else(|| "it does not end".to_owned())?;
        Ok((code, program.printed()))
    }
}

/// An error in one line.
fn said(error: EngineError) -> String {
    chain(&error)
}

/// The word of an operation, for a promise.
fn named(operation: Operation, promise: &str) -> String {
    format!("{}: {promise}", operation.as_str())
}
