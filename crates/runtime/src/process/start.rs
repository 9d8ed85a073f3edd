//! Starts units, takes over those that run, and follows programs to their end.
//!
//! # Crash consistency
//! `Starting` is recorded, then the process is made, then `Running` is recorded with its id. A crash after the
//! first leaves a record of nothing, after the second a process that the census finds by its mark. When the
//! last record cannot be written the process is killed again.

use std::io;
use std::time::Duration;

use pando_host::process::{self, Process, ProcessId, wait_ended};
use pando_model::UnitId;

use super::record::{Phase, Record};
use super::standing::{Own, Standing};
use super::{ProcessRuntime, TICK, io_error, lock, locks, session, stop};
use crate::{Ensured, RuntimeError, StopSignal, UnitSpec, log};

impl ProcessRuntime {
    /// Starts a unit that does not run; answers its first process if it does. The caller holds its lock.
    pub(super) fn start_unless_running(&self, unit: &UnitSpec) -> Result<(Ensured, ProcessId), RuntimeError> {
        self.reap();
        let record = self.load(&unit.id)?;
        // Of a new unit there is nothing to be found, and looking for it would cost more than starting it.
        let is_new = record.is_none() && !self.found.contains(&unit.id);
        let standing = if is_new { Standing::Gone } else { self.standing(&unit.id, record.as_ref())? };
        match standing {
            Standing::Running(id) => {
                self.adopt(unit, record.as_ref(), id)?;
                return Ok((Ensured::AlreadyThere, id));
            }
            // A server that was killed may have children that hold its shared memory, port or files.
            _ if record.as_ref().is_some_and(|record| self.may_have_left(record)) => {
                let first = self.first(&unit.id, record.as_ref())?;
                self.clear(&unit.id, first, (StopSignal::Kill, Duration::ZERO))?;
            }
            _ => {}
        }
        Ok((Ensured::Created, self.start(unit)?))
    }

    /// Makes a running unit's record complete, and lets it go on if it was paused.
    fn adopt(&self, unit: &UnitSpec, record: Option<&Record>, id: ProcessId) -> Result<(), RuntimeError> {
        if record.is_none_or(|record| record.phase != Phase::Running(id)) {
            self.save(record.map_or(unit, |record| &record.spec), Phase::Running(id))?;
        }
        // Pausing begins and resuming ends with the first process: when it goes, all go.
        if process::stat(id.pid).is_some_and(|stat| stat.state == b'T') {
            self.with_crowd(&unit.id, Some(id), |crowd, _| stop::wake(crowd))
                .map_err(io_error(format!("resuming {}", unit.id)))?;
        }
        Ok(())
    }

    fn start(&self, spec: &UnitSpec) -> Result<ProcessId, RuntimeError> {
        locks::clear(spec).map_err(io_error(format!("removing what the last run of {} left", spec.id)))?;
        self.save(spec, Phase::Starting)?;
        let path = self.records.log_path(&spec.id);
        log::trim(&path).map_err(io_error(format!("trimming the log of {}", spec.id)))?;
        let file =
            log::open(&path, spec.account.as_ref()).map_err(io_error(format!("opening the log of {}", spec.id)))?;
        let mut child = match session::spawn(spec, &self.home, file) {
            Ok(child) => child,
            Err(source) => {
                self.save(spec, Phase::Stopped)?;
                return Err(RuntimeError::Start { program: spec.program.clone(), source });
            }
        };
        // Not reaped yet, so /proc shows it even when it has ended already.
        let known = process::stat(child.id()).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound));
        let noted = known.map_err(io_error(format!("looking at {}", spec.id))).and_then(|stat| {
            self.save(spec, Phase::Running(stat.id))?;
            Ok(stat.id)
        });
        match noted {
            Ok(id) => {
                lock(&self.children).insert(spec.id.clone(), Own { id, child, status: None });
                Ok(id)
            }
            Err(error) => {
                let _ = child.kill().and_then(|()| child.wait());
                Err(error)
            }
        }
    }

    /// Waits for a started program; `None` when `tick` said to stop.
    pub(super) fn follow(&self, id: ProcessId, tick: &mut dyn FnMut() -> bool) -> Result<Option<()>, RuntimeError> {
        let Some(process) = Process::open(id) else { return Ok(Some(())) };
        while !wait_ended([&process], TICK).map_err(io_error("waiting for a program"))? {
            if !tick() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    }

    /// Ends what a program that was run to its end has left in the background.
    pub(super) fn clear_after(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        let unit_lock = self.unit_lock(unit);
        let _guard = lock(&unit_lock);
        // Somebody may have started it again since.
        let record = self.load(unit)?;
        match self.standing(unit, record.as_ref())? {
            Standing::Exited(_) => {
                let first = self.first(unit, record.as_ref())?;
                self.clear(unit, first, (StopSignal::Kill, Duration::ZERO)).map(|_| ())
            }
            _ => Ok(()),
        }
    }
}
