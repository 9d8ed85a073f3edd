//! `start` and `stop`: a clone's servers, without touching its data. Where its units are containers of a Compose project,
//! the project is started and stopped.
//!
//! # Crash consistency
//! Nothing is made or destroyed. The record says what is meant; the heartbeat brings units in line with it, and starts the
//! services that a stop which was undone had stopped.

use pando_catalog::CloneRecord;
use pando_model::{CloneId, CloneState, HookPoint, Name, UnitId};
use serde::{Deserialize, Serialize};

use super::provision;
use crate::fault::{Done, Fault, refused};
use crate::hooks;
use crate::journal::{Run, Step, Verb, keep};
use crate::owner::Owner;
use crate::units;
use crate::volumes::compose;
use crate::world::World;

/// A clone being started.
#[derive(Serialize, Deserialize)]
pub struct Start {
    clone: Name,
    was: Was,
    /// The project of containers that is to be started.
    #[serde(default)]
    project: Option<Services>,
    /// The hooks' unit.
    hook: UnitId,
}

/// A clone being stopped.
#[derive(Serialize, Deserialize)]
pub struct Stop {
    clone: Name,
    was: Was,
    /// The project of containers that is to be stopped.
    #[serde(default)]
    project: Option<Services>,
    /// The hooks' unit.
    hook: UnitId,
}

/// A project of containers that a clone's units are.
#[derive(Serialize, Deserialize)]
struct Services {
    id: CloneId,
    /// The services that ran before.
    ran: Vec<String>,
}

impl Services {
    /// Those of a clone; none: its servers run here. Refuses containers that nobody here can start or stop.
    fn of(world: &World, record: &CloneRecord, verb: &str) -> Done<Option<Self>> {
        let clone = &record.name;
        match (&record.compose, record.elsewhere) {
            (Some(_), _) => Ok(Some(Self { id: record.id.clone(), ran: compose::running(world, record)? })),
            (None, false) => Ok(None),
            (None, true) => Err(refused(format!("{clone} is made of volumes: its servers run in containers"))
                .hint(format!("{verb} the containers: docker {verb}, docker compose"))
                .into()),
        }
    }
}

/// How the clone stood before.
#[derive(Serialize, Deserialize)]
struct Was {
    state: CloneState,
    problem: Option<String>,
}

impl Was {
    fn of(record: &CloneRecord) -> Self {
        Self { state: record.state, problem: record.problem.clone() }
    }

    fn restore(&self, run: &Run, clone: &Name) -> Done<()> {
        let mut record: CloneRecord = Owner::named(&run.world, clone)?.clone_record()?.clone();
        record.state = self.state;
        record.problem = self.problem.clone();
        Ok(run.world.catalog.note(&record)?)
    }
}

fn set_state(run: &Run, clone: &Name, state: CloneState) -> Done<()> {
    let mut record: CloneRecord = Owner::named(&run.world, clone)?.clone_record()?.clone();
    record.state = state;
    record.problem = None;
    Ok(run.world.catalog.note(&record)?)
}

impl Verb for Start {
    const WORD: &'static str = "start";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "pre-hooks", apply: Self::pre, undo: Self::no_hook },
        Step { name: "start", apply: Self::start, undo: Self::stop },
        Step { name: "ready", apply: Self::ready, undo: keep },
        Step { name: "post-hooks", apply: Self::post, undo: Self::no_hook },
    ];
    const POINT_OF_NO_RETURN: usize = 4;

    fn subject(&self) -> Name {
        self.clone.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "clone": self.clone }))
    }
}

impl Start {
    /// A clone to be started.
    pub fn new(world: &World, clone: Name) -> Done<Self> {
        let owner = Owner::named(world, &clone)?;
        let record = owner.clone_record()?;
        let project = Services::of(world, record, "start")?;
        let was = Was::of(record);
        Ok(Self { clone, was, project, hook: hooks::fresh_unit(world) })
    }

    fn pre(&mut self, run: &Run) -> Done<()> {
        hooks::run_at(run, &self.hook, HookPoint::PreStart, &Owner::named(&run.world, &self.clone)?)
    }

    fn post(&mut self, run: &Run) -> Done<()> {
        hooks::run_at(run, &self.hook, HookPoint::PostStart, &Owner::named(&run.world, &self.clone)?)
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    fn start(&mut self, run: &Run) -> Done<()> {
        match &self.project {
            Some(project) => compose::up(run, &project.id),
            None => provision::start(run, &Owner::named(&run.world, &self.clone)?),
        }
    }

    /// A clone that ran before is left to the heartbeat, a project of which services ran to whoever started these.
    fn stop(&mut self, run: &Run) -> Done<()> {
        if let Some(project) = &self.project {
            return if project.ran.is_empty() { compose::rest(run, &project.id) } else { Ok(()) };
        }
        if self.was.state != CloneState::Running {
            units::stop_all(&run.world, &Owner::named(&run.world, &self.clone)?)?;
        }
        self.was.restore(run, &self.clone)
    }

    fn ready(&mut self, run: &Run) -> Done<()> {
        if self.project.is_some() {
            return Ok(());
        }
        let owner = Owner::named(&run.world, &self.clone)?;
        let record = owner.clone_record()?;
        let password = run.world.unseal_text(&record.password)?;
        provision::admit(run, &owner, Some(&password), record.record)?;
        set_state(run, &self.clone, CloneState::Running)
    }
}

impl Verb for Stop {
    const WORD: &'static str = "stop";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "pre-hooks", apply: Self::pre, undo: Self::no_hook },
        Step { name: "mark", apply: Self::mark, undo: Self::unmark },
        Step { name: "stop", apply: Self::stop, undo: Self::start_again },
        Step { name: "post-hooks", apply: Self::post, undo: Self::no_hook },
    ];
    const POINT_OF_NO_RETURN: usize = 4;

    fn subject(&self) -> Name {
        self.clone.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "clone": self.clone }))
    }
}

impl Stop {
    /// A clone to be stopped.
    pub fn new(world: &World, clone: Name) -> Done<Self> {
        let owner = Owner::named(world, &clone)?;
        let record = owner.clone_record()?;
        let was = Was::of(record);
        if was.state == CloneState::Creating {
            return Err(refused(format!("{clone} is still being made")).into());
        }
        let project = Services::of(world, record, "stop")?;
        Ok(Self { clone, was, project, hook: hooks::fresh_unit(world) })
    }

    fn pre(&mut self, run: &Run) -> Done<()> {
        hooks::run_at(run, &self.hook, HookPoint::PreStop, &Owner::named(&run.world, &self.clone)?)
    }

    fn post(&mut self, run: &Run) -> Done<()> {
        hooks::run_at(run, &self.hook, HookPoint::PostStop, &Owner::named(&run.world, &self.clone)?)
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    /// That a clone does not come up again is its failure, not the undo's.
    fn start_again(&mut self, run: &Run) -> Done<()> {
        if let Some(project) = &self.project {
            return compose::owe(run, &project.id, &project.ran);
        }
        if self.was.state != CloneState::Running {
            return Ok(());
        }
        let owner = Owner::named(&run.world, &self.clone)?;
        match provision::start_again(run, &owner, owner.clone_record()?.record) {
            Err(Fault::Problem(problem)) if !run.world.is_stopping() => {
                self.was = Was { state: CloneState::Failed, problem: Some(problem.to_string()) };
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// Of a project the record says nothing: it runs where the engine has it running.
    fn mark(&mut self, run: &Run) -> Done<()> {
        if self.project.is_some() {
            return Ok(());
        }
        set_state(run, &self.clone, CloneState::Stopped)
    }

    fn unmark(&mut self, run: &Run) -> Done<()> {
        if self.project.is_some() {
            return Ok(());
        }
        self.was.restore(run, &self.clone)
    }

    fn stop(&mut self, run: &Run) -> Done<()> {
        if let Some(project) = &self.project {
            return compose::rest(run, &project.id);
        }
        units::stop_all(&run.world, &Owner::named(&run.world, &self.clone)?)
    }
}
