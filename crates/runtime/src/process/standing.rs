//! How a unit stands: what its record, its first process and, where these do not know, the census say.
//!
//! Looking takes no lock and waits for nobody; only an exit code is written down on the way, and only when
//! no operation is at work on the unit.

use std::process::{Child, ExitStatus};
use std::sync::TryLockError;

use pando_host::process::{self, ProcessId};
use pando_model::UnitId;

use super::record::{Phase, Record};
use super::{ProcessRuntime, lock};
use crate::RuntimeError;

/// A child of this very process.
pub struct Own {
    pub id: ProcessId,
    pub child: Child,
    pub status: Option<ExitStatus>,
}

impl Own {
    /// Its exit status, once it has ended.
    pub fn reap(&mut self) -> Option<ExitStatus> {
        if self.status.is_none() {
            self.status = self.child.try_wait().ok().flatten();
        }
        self.status
    }
}

/// Where a unit stands, its first process told apart from others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// With this first process.
    Running(ProcessId),
    /// By itself, with this code.
    Exited(Option<i32>),
    /// Nothing is known of it.
    Gone,
}

impl ProcessRuntime {
    /// Takes in the exit status of every child that has ended.
    pub(super) fn reap(&self) {
        for own in lock(&self.children).values_mut() {
            own.reap();
        }
    }

    /// The exit status of a child of ours, if it is one and has ended.
    pub(super) fn reaped(&self, id: ProcessId, unit: &UnitId) -> Option<ExitStatus> {
        lock(&self.children).get_mut(unit).filter(|own| own.id == id)?.reap()
    }

    pub(super) fn standing(&self, unit: &UnitId, record: Option<&Record>) -> Result<Standing, RuntimeError> {
        let Some(record) = record else { return self.lost(unit) };
        match record.phase {
            // Of another boot nothing is left.
            _ if record.boot != self.boot => Ok(Standing::Gone),
            Phase::Starting => self.lost(unit),
            Phase::Stopped => Ok(Standing::Gone),
            Phase::Exited(code) => Ok(Standing::Exited(code)),
            Phase::Running(id) => Ok(self.standing_of(unit, id)),
        }
    }

    /// Whether processes of a unit may be there, be it without its first one.
    pub(super) fn may_have_left(&self, record: &Record) -> bool {
        record.boot == self.boot && record.phase != Phase::Stopped
    }

    /// The first process, be it dead: nothing of the unit is older.
    pub(super) fn first(&self, unit: &UnitId, record: Option<&Record>) -> Result<Option<ProcessId>, RuntimeError> {
        match record {
            Some(Record { phase: Phase::Running(id), boot, .. }) if *boot == self.boot => Ok(Some(*id)),
            _ => Ok(match self.standing(unit, record)? {
                Standing::Running(id) => Some(id),
                _ => None,
            }),
        }
    }

    pub(super) fn standing_of(&self, unit: &UnitId, id: ProcessId) -> Standing {
        if let Some(status) = self.reaped(id, unit) {
            return Standing::Exited(status.code());
        }
        match process::stat(id.pid) {
            Some(stat) if stat.id != id => Standing::Gone,
            Some(stat) if !stat.has_ended() => Standing::Running(id),
            _ => Standing::Exited(None),
        }
    }

    /// The first process of a unit whose record does not know it: the oldest that carries the mark.
    fn lost(&self, unit: &UnitId) -> Result<Standing, RuntimeError> {
        let marked = self.marked()?;
        let oldest =
            marked.into_iter().filter(|(of, _)| of == unit).map(|(_, id)| id).min_by_key(|id| (id.start, id.pid));
        Ok(oldest.map_or(Standing::Gone, Standing::Running))
    }

    /// Writes down that a unit has ended, unless an operation is about to decide over it anyway.
    pub(super) fn note_exit(&self, unit: &UnitId, code: Option<i32>) -> Result<(), RuntimeError> {
        let unit_lock = self.unit_lock(unit);
        let _guard = match unit_lock.try_lock() {
            Ok(guard) => guard,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Ok(()),
        };
        match self.load(unit)? {
            Some(Record { spec, phase: Phase::Running(id), .. })
                if self.standing_of(unit, id) == Standing::Exited(code) =>
            {
                self.save(&spec, Phase::Exited(code))
            }
            _ => Ok(()),
        }
    }
}
