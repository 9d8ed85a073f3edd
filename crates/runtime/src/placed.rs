//! Several runtimes as one: a unit goes where its spec says, and is found there again by its record.
//!
//! A unit is a container's from the moment its spec asks for one until it is forgotten; all others are processes.
//! Whoever has only a unit's id need not know.

use std::sync::Arc;
use std::time::Duration;

use pando_model::UnitId;

use crate::{DockerRuntime, Ensured, Outcome, Removed, Runtime, RuntimeError, StopSignal, UnitSpec, UnitState};

/// Processes, and containers where a unit asks for one.
pub struct PlacedRuntime {
    process: Arc<dyn Runtime>,
    docker: Arc<DockerRuntime>,
}

impl PlacedRuntime {
    /// Over two runtimes of one home.
    pub fn new(process: Arc<dyn Runtime>, docker: Arc<DockerRuntime>) -> Self {
        Self { process, docker }
    }

    fn place(&self, unit: &UnitId) -> &dyn Runtime {
        if self.docker.has(unit) { self.docker.as_ref() } else { self.process.as_ref() }
    }

    fn place_of(&self, unit: &UnitSpec) -> &dyn Runtime {
        if unit.container.is_some() { self.docker.as_ref() } else { self.place(&unit.id) }
    }
}

impl Runtime for PlacedRuntime {
    fn name(&self) -> &'static str {
        "placed"
    }

    fn confines(&self) -> bool {
        self.process.confines()
    }

    fn ensure_running(&self, unit: &UnitSpec) -> Result<Ensured, RuntimeError> {
        self.place_of(unit).ensure_running(unit)
    }

    fn ensure_gone(&self, unit: &UnitId) -> Result<Removed, RuntimeError> {
        self.place(unit).ensure_gone(unit)
    }

    fn ensure_gone_by(&self, unit: &UnitId, signal: StopSignal, grace: Duration) -> Result<Removed, RuntimeError> {
        self.place(unit).ensure_gone_by(unit, signal, grace)
    }

    fn state(&self, unit: &UnitId) -> Result<UnitState, RuntimeError> {
        self.place(unit).state(unit)
    }

    /// Where no engine answers, what it may run is not told: whoever asks for a unit of it hears why.
    fn inventory(&self) -> Result<Vec<UnitId>, RuntimeError> {
        let mut units = self.process.inventory()?;
        units.extend(self.docker.inventory().unwrap_or_default());
        units.sort();
        units.dedup();
        Ok(units)
    }

    fn remains(&self) -> Result<Vec<UnitId>, RuntimeError> {
        self.docker.remains()
    }

    fn run_once(&self, unit: &UnitSpec, tick: &mut dyn FnMut() -> bool) -> Result<Outcome, RuntimeError> {
        self.place_of(unit).run_once(unit, tick)
    }

    fn reload(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.place(unit).reload(unit)
    }

    fn pause(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.place(unit).pause(unit)
    }

    fn resume(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.place(unit).resume(unit)
    }

    fn log_tail(&self, unit: &UnitId, lines: usize) -> Result<String, RuntimeError> {
        self.place(unit).log_tail(unit, lines)
    }

    fn tidy(&self) -> Result<(), RuntimeError> {
        self.process.tidy()?;
        self.docker.tidy()
    }

    fn forget(&self, unit: &UnitId) -> Result<(), RuntimeError> {
        self.place(unit).forget(unit)
    }
}
