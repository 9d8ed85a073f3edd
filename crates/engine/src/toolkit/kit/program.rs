//! A program of a toolkit, run as the daemon's runtime would: the same account, environment and directory, a
//! process group of its own, which ends with this value.

use std::fs;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
#[allow(clippy::disallowed_types, reason = "children of commands that host::Tool built")]
use std::process::Child;
use std::time::Duration;

use pando_host::process::{self, Process, wait_ended};
use pando_host::{Tool, tool};
use rustix::process::{Pid, Signal, kill_process_group};

use super::Look;
use crate::UnitPlan;

/// By such a variable the daemon knows the processes of a unit.
const MARK: (&str, &str) = ("PANDO_UNIT", "unit-kit");

/// A running program.
#[allow(clippy::disallowed_types, reason = "a child of a command that host::Tool built")]
pub(super) struct Program {
    child: Child,
    log: PathBuf,
    ended: Option<Option<i32>>,
}

impl Program {
    pub(super) fn start(plan: &UnitPlan, log: &Path) -> Look<Self> {
        let file = fs::File::create(log).map_err(|error| error.to_string())?;
        let second = file.try_clone().map_err(|error| error.to_string())?;
        let mut command = Tool::at(&plan.program).command().args(&plan.args).dir(&plan.dir);
        for (name, value) in plan.env.iter().map(|(name, value)| (name.as_str(), value.as_str())).chain([MARK]) {
            command = command.env(name, value);
        }
        let mut command = command.account(plan.account.as_ref()).build();
        let child = command.process_group(0).stdout(file).stderr(second).spawn();
        let child = child.map_err(|error| format!("{} does not start: {error}", plan.program.display()))?;
        Ok(Self { child, log: log.to_owned(), ended: None })
    }

    /// Waits for its end: the exit code, or that a signal ended it; nothing: it goes on.
    pub(super) fn wait(&mut self, at_most: Duration) -> Look<Option<Option<i32>>> {
        if self.ended.is_none() {
            // Not reaped yet, so /proc shows it even when it has ended already.
            let held = process::stat(self.child.id()).and_then(|stat| Process::open(stat.id));
            let over = held.map_or(Ok(true), |held| wait_ended([&held], at_most)).map_err(|error| error.to_string())?;
            if over {
                // Its children go with it; the number is its group's as long as it is not reaped.
                self.signal(Signal::KILL);
                let status = self.child.wait().map_err(|error| error.to_string())?;
                self.ended = Some(if status.signal().is_some() { None } else { status.code() });
            }
        }
        Ok(self.ended)
    }

    pub(super) fn signal(&self, signal: Signal) {
        if self.ended.is_none()
            && let Some(group) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            let _ = kill_process_group(group, signal);
        }
    }

    /// Sends the first process a signal.
    pub(super) fn ask_to_stop(&self, interrupt: bool) {
        let signal = if interrupt { Signal::INT } else { Signal::TERM };
        if let Some(held) = process::stat(self.child.id()).and_then(|stat| Process::open(stat.id)) {
            let _ = held.signal(signal);
        }
    }

    pub(super) fn kill(&mut self) -> Look {
        self.signal(Signal::KILL);
        self.wait(Duration::from_secs(10)).map(drop)
    }

    /// It and its descendants.
    pub(super) fn pids(&self) -> Vec<u32> {
        let mut all = vec![self.child.id()];
        let mut next = 0;
        while let Some(pid) = all.get(next).copied() {
            all.extend(process::children(pid));
            next += 1;
        }
        all
    }

    /// Whether its first process still has the variables that it was started with.
    pub(super) fn is_marked(&self) -> bool {
        let mark = format!("{}={}", MARK.0, MARK.1);
        process::environment(self.child.id()).contains(&mark.into_bytes())
    }

    /// What it printed, or the end of that.
    pub(super) fn printed(&self) -> String {
        tool::tail(&String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()), 1 << 20)
    }

    /// The last line it printed.
    pub(super) fn last_line(&self) -> String {
        let printed = self.printed();
        printed.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("it printed nothing").to_owned()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
