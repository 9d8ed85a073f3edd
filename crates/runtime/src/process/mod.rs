//! Units as local processes: each in its own session, with its log in a file, outliving the daemon.
//!
//! What must hold:
//! - One operation per unit at a time (a lock per unit); looking needs no lock and never waits.
//! - A process is only signalled when id, start time and boot agree with what was recorded, or when it
//!   carries the unit's mark, or stems from one of these (see `census`).
//! - A child of ours is reaped by whoever looks next; its exit code is recorded then. Adopted units are
//!   children of somebody else: that they ended is seen, their code is not.
//! - A paused unit stays paused when the daemon dies; starting, stopping or resuming lets it go on.
//!
//! # Crash consistency
//! See `record`. In short: "about to start" is written before the process is made, its id after; whatever
//! is lost in between, the census finds the process again. One runtime per home is presumed.

mod census;
mod locks;
mod record;
mod session;
mod standing;
mod start;
mod stop;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, HashMap};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use pando_host::Confinement;
use pando_host::process::{self, Process, ProcessId};
use pando_model::UnitId;
use rustix::process::Signal;

use self::census::{Census, Crowd, Marks};
use self::record::{Phase, Record, Records};
use self::standing::{Own, Standing};
pub(crate) use self::stop::hold;
use crate::{Ensured, Outcome, Removed, Runtime, RuntimeError, StopSignal, UnitSpec, UnitState, log};

/// How a unit without a readable record is stopped.
const UNKNOWN: (StopSignal, Duration) = (StopSignal::Term, Duration::from_secs(10));
/// How often a program run to its end is asked after.
const TICK: Duration = Duration::from_millis(100);
/// How many lines of its log a finished program leaves behind.
const OUTCOME_LINES: usize = 200;

/// Runs units as processes of this machine.
pub struct ProcessRuntime {
    home: PathBuf,
    boot: String,
    records: Records,
    children: Mutex<HashMap<UnitId, Own>>,
    locks: Mutex<HashMap<UnitId, Arc<Mutex<()>>>>,
    /// The units that ran when this runtime was opened. Of all others, those that it starts have a record.
    found: BTreeSet<UnitId>,
}

fn io_error(action: impl Into<String>) -> impl FnOnce(io::Error) -> RuntimeError {
    let action = action.into();
    move |source| RuntimeError::Io { action, source }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // What the mutexes guard is whole between any two statements: a panic elsewhere spoils nothing.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ProcessRuntime {
    /// Opens the runtime of a home, which is made when it is not there. What already runs is adopted.
    pub fn open(home: &Path) -> Result<Self, RuntimeError> {
        let opening = || io_error(format!("opening the process runtime in {}", home.display()));
        std::fs::create_dir_all(home).map_err(opening())?;
        let home = home.canonicalize().map_err(opening())?;
        let records = Records::open(home.join("units")).map_err(opening())?;
        let boot = process::boot_id().map_err(io_error("reading the boot id"))?;
        let census = Census::take().map_err(io_error("listing processes"))?;
        let marked = census.marked(Marks { home: &home, units: records.dir() });
        let found = marked.into_iter().map(|(unit, _)| unit).collect();
        Ok(Self { home, boot, records, children: Mutex::default(), locks: Mutex::default(), found })
    }

    fn marks(&self) -> Marks<'_> {
        Marks { home: &self.home, units: self.records.dir() }
    }

    /// Every process with a mark of this home.
    fn marked(&self) -> Result<Vec<(UnitId, ProcessId)>, RuntimeError> {
        Ok(Census::take().map_err(io_error("listing processes"))?.marked(self.marks()))
    }

    fn unit_lock(&self, unit: &UnitId) -> Arc<Mutex<()>> {
        Arc::clone(lock(&self.locks).entry(unit.clone()).or_default())
    }

    fn load(&self, unit: &UnitId) -> Result<Option<Record>, RuntimeError> {
        self.records.load(unit).map_err(io_error(format!("reading the record of {unit}")))
    }

    fn save(&self, spec: &UnitSpec, phase: Phase) -> Result<(), RuntimeError> {
        let record = Record { spec: spec.clone(), boot: self.boot.clone(), phase };
        self.records.save(&record).map_err(io_error(format!("writing the record of {}", spec.id)))
    }

    /// Gathers the unit's processes and does something with them.
    fn with_crowd<T>(
        &self,
        unit: &UnitId,
        first: Option<ProcessId>,
        work: impl FnOnce(&mut Crowd, stop::Look<'_>) -> io::Result<T>,
    ) -> io::Result<T> {
        let mut look = |crowd: &mut Crowd| crowd.look(unit, first, self.marks());
        let mut crowd = Crowd::new();
        look(&mut crowd)?;
        work(&mut crowd, &mut look)
    }

    /// Stops whatever there is of a unit; the caller holds its lock. Answers whether there was anything.
    fn clear(
        &self,
        unit: &UnitId,
        first: Option<ProcessId>,
        (signal, grace): (StopSignal, Duration),
    ) -> Result<bool, RuntimeError> {
        let done = self.with_crowd(unit, first, |crowd, look| {
            let any = !crowd.alive().is_empty();
            Ok((any, stop::stop(crowd, look, first, signal, grace)?))
        });
        let (any, all_gone) = done.map_err(io_error(format!("stopping {unit}")))?;
        if !all_gone {
            return Err(RuntimeError::Unstoppable(unit.clone()));
        }
        if let Some(own) = lock(&self.children).get_mut(unit) {
            own.reap();
        }
        Ok(any)
    }

    fn stop_unit(&self, unit: &UnitId, how: Option<(StopSignal, Duration)>) -> Result<Removed, RuntimeError> {
        let unit_lock = self.unit_lock(unit);
        let _guard = lock(&unit_lock);
        let record = self.load(unit)?;
        if record.as_ref().is_some_and(|record| !self.may_have_left(record)) {
            return Ok(Removed::AlreadyGone);
        }
        let first = self.first(unit, record.as_ref())?;
        let of_spec = |r: &Record| (r.spec.stop_signal, Duration::from_millis(r.spec.stop_grace_ms));
        let how = how.or_else(|| record.as_ref().map(of_spec)).unwrap_or(UNKNOWN);
        let any = self.clear(unit, first, how)?;
        if let Some(record) = record {
            self.save(&record.spec, Phase::Stopped)?;
        }
        Ok(if any { Removed::Deleted } else { Removed::AlreadyGone })
    }

    /// Pauses or resumes: the crowd of the unit, with its lock held.
    fn with_unit(
        &self,
        unit: &UnitId,
        action: &str,
        work: impl FnOnce(&mut Crowd, stop::Look<'_>) -> io::Result<()>,
    ) -> Result<(), RuntimeError> {
        let unit_lock = self.unit_lock(unit);
        let _guard = lock(&unit_lock);
        let first = self.first(unit, self.load(unit)?.as_ref())?;
        self.with_crowd(unit, first, work).map_err(io_error(format!("{action} {unit}")))
    }
}

impl Runtime for ProcessRuntime {
    fn name(&self) -> &'static str {
        "process"
    }

    fn confines(&self) -> bool {
        Confinement::is_available()
    }

    fn ensure_running(&self, unit: &UnitSpec) -> Result<Ensured, RuntimeError> {
        let unit_lock = self.unit_lock(&unit.id);
        let _guard = lock(&unit_lock);
        self.start_unless_running(unit).map(|(ensured, _)| ensured)
    }

    fn ensure_gone(&self, unit: &UnitId) -> Result<Removed, RuntimeError> {
        self.stop_unit(unit, None)
    }

    fn ensure_gone_by(&self, unit: &UnitId, signal: StopSignal, grace: Duration) -> Result<Removed, RuntimeError> {
        self.stop_unit(unit, Some((signal, grace)))
    }

    fn state(&self, unit: &UnitId) -> Result<UnitState, RuntimeError> {
        let record = self.load(unit)?;
        Ok(match self.standing(unit, record.as_ref())? {
            Standing::Running(id) => UnitState::Running { pid: id.pid },
            Standing::Exited(code) => {
                if record.is_some_and(|record| matches!(record.phase, Phase::Running(_))) {
                    self.note_exit(unit, code)?;
                }
                UnitState::Exited { code }
            }
            Standing::Gone => UnitState::Gone,
        })
    }

    fn inventory(&self) -> Result<Vec<UnitId>, RuntimeError> {
        self.reap();
        let mut units: Vec<UnitId> = self.marked()?.into_iter().map(|(unit, _)| unit).collect();
        for unit in self.records.units().map_err(io_error("listing unit records"))? {
            match self.load(&unit)? {
                Some(Record { phase: Phase::Running(id), boot, .. })
                    if boot == self.boot && process::find(id).is_some() =>
                {
                    units.push(unit);
                }
                _ => {}
            }
        }
        units.sort();
        units.dedup();
        Ok(units)
    }

    fn run_once(&self, unit: &UnitSpec, tick: &mut dyn FnMut() -> bool) -> Result<Outcome, RuntimeError> {
        let path = self.records.log_path(&unit.id);
        let (id, from) = {
            let unit_lock = self.unit_lock(&unit.id);
            let _guard = lock(&unit_lock);
            let from = log::length(&path);
            match self.start_unless_running(unit)? {
                (Ensured::Created, id) => (id, from),
                (Ensured::AlreadyThere, _) => {
                    let source = io::Error::new(io::ErrorKind::AlreadyExists, "it runs already");
                    return Err(RuntimeError::Start { program: unit.program.clone(), source });
                }
            }
        };
        // The lock is free now, so that somebody else may stop the program.
        if self.follow(id, tick)?.is_none() {
            self.stop_unit(&unit.id, Some((StopSignal::Kill, Duration::ZERO)))?;
            return Err(RuntimeError::Cancelled);
        }
        self.clear_after(&unit.id)?;
        let code = self.reaped(id, &unit.id).and_then(|status| status.code());
        self.note_exit(&unit.id, code)?;
        let log = log::tail(&path, from, OUTCOME_LINES);
        Ok(Outcome { code, log: log.map_err(io_error(format!("reading the log of {}", unit.id)))? })
    }

    fn reload(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        let record = self.load(unit)?;
        let process = match self.standing(unit, record.as_ref())? {
            Standing::Running(id) => Process::open(id),
            _ => None,
        };
        let missing = || io::Error::new(io::ErrorKind::NotFound, "it does not run");
        process
            .ok_or_else(missing)
            .and_then(|process| process.signal(Signal::HUP))
            .map_err(io_error(format!("reloading {unit}")))
    }

    fn pause(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.with_unit(unit, "pausing", stop::pause)
    }

    fn resume(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.with_unit(unit, "resuming", |crowd, _| stop::wake(crowd))
    }

    fn log_tail(&self, unit: &UnitId, lines: usize) -> Result<String, RuntimeError> {
        log::tail(&self.records.log_path(unit), 0, lines).map_err(io_error(format!("reading the log of {unit}")))
    }

    fn tidy(&self) -> Result<(), RuntimeError> {
        for unit in self.records.units().map_err(io_error("listing unit records"))? {
            log::trim(&self.records.log_path(&unit)).map_err(io_error(format!("trimming the log of {unit}")))?;
        }
        Ok(())
    }

    fn forget(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        let unit_lock = self.unit_lock(unit);
        let guard = lock(&unit_lock);
        if let Standing::Running(_) = self.standing(unit, self.load(unit)?.as_ref())? {
            let source = io::Error::new(io::ErrorKind::ResourceBusy, "it runs");
            return Err(RuntimeError::Io { action: format!("forgetting {unit}"), source });
        }
        self.records.remove(unit).map_err(io_error(format!("dropping the record of {unit}")))?;
        lock(&self.children).remove(unit);
        drop(guard);
        let mut locks = lock(&self.locks);
        // Two: the map's and ours. With a third one somebody waits for it, and must meet the next one there.
        if Arc::strong_count(&unit_lock) == 2 {
            locks.remove(unit);
        }
        Ok(())
    }
}
