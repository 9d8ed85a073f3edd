//! Units without processes, for the tests of whoever uses a runtime.
//!
//! Shared as an `Arc`, it outlives the daemon that a test lets crash, as real units do. By the program's
//! file name it knows `true`, `false` and `echo`, which end at once; everything else runs until it is stopped.
//! Switches: [`SimRuntime::exit`] lets a unit end by itself, [`SimRuntime::fail_next`] makes a call fail,
//! [`SimRuntime::on_run`] puts a closure in the place of the programs that are run to their end.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pando_host::{Clock, SystemClock};
use pando_model::UnitId;

use crate::{Ensured, Outcome, Removed, Runtime, RuntimeError, StopSignal, UnitSpec, UnitState};

/// Process ids begin here; no real process has such a one.
const FIRST_PID: u32 = 5_000_000;

/// What stands for a program that is run to its end.
pub type SimProgram = dyn Fn(&UnitSpec) -> Outcome + Send + Sync;

#[derive(Debug, Clone)]
struct SimUnit {
    spec: UnitSpec,
    state: UnitState,
    paused: bool,
    log: String,
}

#[derive(Default, Clone)]
struct Inner {
    units: BTreeMap<UnitId, SimUnit>,
    failing: BTreeSet<&'static str>,
    calls: Vec<String>,
    started: u32,
    program: Option<std::sync::Arc<SimProgram>>,
    loose: bool,
}

/// Units in memory.
#[derive(Default)]
pub struct SimRuntime {
    inner: Mutex<Inner>,
}

impl fmt::Debug for SimRuntime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimRuntime").field("units", &self.lock().units).finish_non_exhaustive()
    }
}

/// What a known program does: its exit code and output; none when it runs until it is stopped.
fn ends_at_once(spec: &UnitSpec) -> Option<Outcome> {
    let (code, log) = match spec.program.file_name()?.to_str()? {
        "true" => (0, String::new()),
        "false" => (1, String::new()),
        "echo" => (0, format!("{}\n", spec.args.join(" "))),
        _ => return None,
    };
    Some(Outcome { code: Some(code), log })
}

impl SimRuntime {
    /// No units yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same units, going their own way from here on.
    #[must_use]
    pub fn fork(&self) -> Self {
        Self { inner: Mutex::new(self.lock().clone()) }
    }

    /// From now on it confines nobody, as on an old kernel.
    pub fn loosen(&self) {
        self.lock().loose = true;
    }

    /// Lets a running unit end by itself.
    pub fn exit(&self, unit: &UnitId, code: Option<i32>) {
        if let Some(unit) = self.lock().units.get_mut(unit) {
            unit.state = UnitState::Exited { code };
        }
    }

    /// Makes the next call of a method fail, named as in the trait (`ensure_running`).
    pub fn fail_next(&self, method: &'static str) {
        self.lock().failing.insert(method);
    }

    /// No call fails any more.
    pub fn heal(&self) {
        self.lock().failing.clear();
    }

    /// Does this in the place of every program that [`Runtime::run_once`] runs.
    pub fn on_run(&self, program: impl Fn(&UnitSpec) -> Outcome + Send + Sync + 'static) {
        self.lock().program = Some(std::sync::Arc::new(program));
    }

    /// Appends to a unit's log, as the unit would.
    pub fn write_log(&self, unit: &UnitId, text: &str) {
        if let Some(unit) = self.lock().units.get_mut(unit) {
            unit.log.push_str(text);
        }
    }

    /// Whether a unit is paused.
    pub fn is_paused(&self, unit: &UnitId) -> bool {
        self.lock().units.get(unit).is_some_and(|unit| unit.paused)
    }

    /// What a unit was last started with.
    pub fn spec(&self, unit: &UnitId) -> Option<UnitSpec> {
        self.lock().units.get(unit).map(|unit| unit.spec.clone())
    }

    /// Every call so far, as `method unit-…`, looks left out.
    pub fn calls(&self) -> Vec<String> {
        self.lock().calls.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a call, and fails it if a test wants so.
    fn enter(&self, method: &'static str, unit: &UnitId) -> Result<MutexGuard<'_, Inner>, RuntimeError> {
        let mut inner = self.lock();
        inner.calls.push(format!("{method} {unit}"));
        inner.strike(method)?;
        Ok(inner)
    }

    fn look(&self, method: &'static str) -> Result<MutexGuard<'_, Inner>, RuntimeError> {
        let mut inner = self.lock();
        inner.strike(method)?;
        Ok(inner)
    }
}

impl Inner {
    fn strike(&mut self, method: &'static str) -> Result<(), RuntimeError> {
        if self.failing.remove(method) {
            return Err(failed(method, io::ErrorKind::Other, "as the test wished"));
        }
        Ok(())
    }

    fn is_running(&self, unit: &UnitId) -> bool {
        self.units.get(unit).is_some_and(|unit| matches!(unit.state, UnitState::Running { .. }))
    }

    fn put(&mut self, spec: &UnitSpec, state: UnitState, output: &str) {
        let fresh = SimUnit { spec: spec.clone(), state, paused: false, log: String::new() };
        let unit = self.units.entry(spec.id.clone()).or_insert(fresh);
        unit.spec = spec.clone();
        unit.state = state;
        unit.paused = false;
        unit.log.push_str(output);
    }

    fn next_pid(&mut self) -> u32 {
        self.started += 1;
        FIRST_PID + self.started
    }
}

fn failed(action: impl Into<String>, kind: io::ErrorKind, why: &str) -> RuntimeError {
    RuntimeError::Io { action: action.into(), source: io::Error::new(kind, why.to_owned()) }
}

impl Runtime for SimRuntime {
    fn name(&self) -> &'static str {
        "sim"
    }

    fn confines(&self) -> bool {
        !self.lock().loose
    }

    fn ensure_running(&self, unit: &UnitSpec) -> Result<Ensured, RuntimeError> {
        let mut inner = self.enter("ensure_running", &unit.id)?;
        if inner.is_running(&unit.id) {
            if let Some(there) = inner.units.get_mut(&unit.id) {
                there.paused = false;
            }
            return Ok(Ensured::AlreadyThere);
        }
        if !unit.program.is_absolute() {
            let source = io::Error::new(io::ErrorKind::InvalidInput, "the program's path is not absolute");
            return Err(RuntimeError::Start { program: unit.program.clone(), source });
        }
        let running = UnitState::Running { pid: inner.next_pid() };
        match ends_at_once(unit) {
            Some(outcome) => inner.put(unit, UnitState::Exited { code: outcome.code }, &outcome.log),
            None => inner.put(unit, running, ""),
        }
        Ok(Ensured::Created)
    }

    fn ensure_gone(&self, unit: &UnitId) -> Result<Removed, RuntimeError> {
        let mut inner = self.enter("ensure_gone", unit)?;
        let running = inner.is_running(unit);
        if let Some(unit) = inner.units.get_mut(unit) {
            unit.state = UnitState::Gone;
            unit.paused = false;
        }
        Ok(if running { Removed::Deleted } else { Removed::AlreadyGone })
    }

    fn ensure_gone_by(&self, unit: &UnitId, _: StopSignal, _: Duration) -> Result<Removed, RuntimeError> {
        drop(self.look("ensure_gone_by")?);
        self.ensure_gone(unit)
    }

    fn state(&self, unit: &UnitId) -> Result<UnitState, RuntimeError> {
        Ok(self.look("state")?.units.get(unit).map_or(UnitState::Gone, |unit| unit.state))
    }

    fn inventory(&self) -> Result<Vec<UnitId>, RuntimeError> {
        let inner = self.look("inventory")?;
        Ok(inner.units.keys().filter(|unit| inner.is_running(unit)).cloned().collect())
    }

    fn run_once(&self, unit: &UnitSpec, tick: &mut dyn FnMut() -> bool) -> Result<Outcome, RuntimeError> {
        let program = {
            let mut inner = self.enter("run_once", &unit.id)?;
            if inner.is_running(&unit.id) {
                let source = io::Error::new(io::ErrorKind::AlreadyExists, "it runs already");
                return Err(RuntimeError::Start { program: unit.program.clone(), source });
            }
            let running = UnitState::Running { pid: inner.next_pid() };
            inner.put(unit, running, "");
            inner.program.clone()
        };
        // The lock is free while it "runs", so that the closure may use this runtime.
        if let Some(outcome) = program.map(|program| program(unit)).or_else(|| ends_at_once(unit)) {
            self.lock().put(unit, UnitState::Exited { code: outcome.code }, &outcome.log);
            return Ok(outcome);
        }
        while self.lock().is_running(&unit.id) {
            if !tick() {
                self.lock().put(unit, UnitState::Gone, "");
                return Err(RuntimeError::Cancelled);
            }
            SystemClock.sleep(Duration::from_millis(10));
        }
        let code = match self.state(&unit.id)? {
            UnitState::Exited { code } => code,
            _ => None,
        };
        Ok(Outcome { code, log: String::new() })
    }

    fn reload(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        let inner = self.enter("reload", unit)?;
        let missing = || failed(format!("reloading {unit}"), io::ErrorKind::NotFound, "it does not run");
        inner.is_running(unit).then_some(()).ok_or_else(missing)
    }

    fn pause(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        let mut inner = self.enter("pause", unit)?;
        let running = inner.is_running(unit);
        if let Some(unit) = inner.units.get_mut(unit) {
            unit.paused = running;
        }
        Ok(())
    }

    fn resume(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        if let Some(unit) = self.enter("resume", unit)?.units.get_mut(unit) {
            unit.paused = false;
        }
        Ok(())
    }

    fn log_tail(&self, unit: &UnitId, lines: usize) -> Result<String, RuntimeError> {
        let inner = self.look("log_tail")?;
        let Some(unit) = inner.units.get(unit) else { return Ok(String::new()) };
        let all: Vec<&str> = unit.log.lines().collect();
        Ok(all
            .get(all.len().saturating_sub(lines)..)
            .unwrap_or_default()
            .iter()
            .map(|line| format!("{line}\n"))
            .collect())
    }

    fn tidy(&self) -> Result<(), RuntimeError> {
        self.look("tidy").map(|_| ())
    }

    fn forget(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        let mut inner = self.enter("forget", unit)?;
        if inner.is_running(unit) {
            return Err(failed(format!("forgetting {unit}"), io::ErrorKind::ResourceBusy, "it runs"));
        }
        inner.units.remove(unit);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::conformance::{self, spec};

    #[test]
    fn it_keeps_the_contract() -> Result<(), RuntimeError> {
        conformance::all(&SimRuntime::new())
    }

    #[test]
    fn a_test_can_end_a_unit_and_fail_a_call() -> Result<(), RuntimeError> {
        let runtime = SimRuntime::new();
        let unit = spec("/bin/sleep", &["600"]);
        runtime.fail_next("ensure_running");
        assert!(runtime.ensure_running(&unit).is_err());
        assert_eq!(runtime.state(&unit.id)?, UnitState::Gone);
        runtime.ensure_running(&unit)?;
        runtime.exit(&unit.id, Some(7));
        assert_eq!(runtime.state(&unit.id)?, UnitState::Exited { code: Some(7) });
        assert_eq!(runtime.calls().len(), 2);
        Ok(())
    }

    #[test]
    fn a_closure_stands_for_programs() -> Result<(), RuntimeError> {
        let runtime = SimRuntime::new();
        runtime.on_run(|spec| Outcome { code: Some(0), log: format!("ran {}", spec.program.display()) });
        assert_eq!(runtime.run_once(&spec("/bin/initdb", &[]), &mut || true)?.log, "ran /bin/initdb");
        Ok(())
    }
}
