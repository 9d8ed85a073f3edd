//! Operations. Every change is one: a verb with a list of steps, each with an idempotent apply and an
//! idempotent undo, journaled so that a crash at any place leaves nothing half done.
//!
//! ```text
//! born (synced) ─▶ step 1 begun ─▶ done ─▶ … ─▶ last step done ─▶ done (synced)
//!                      │ fails, before the verb's point of no return
//!                      ▼
//!                  undo from this step back to the first ─▶ failed (synced)   an undo fails ─▶ stuck
//! ```
//!
//! # Crash consistency
//! A verb is born with the ids of everything it may make, before it makes anything. So recovery needs no
//! more of the journal than whether the point of no return was passed: if so the remaining steps are
//! applied, else *all* steps are undone in reverse, begun or not. Commits of steps are ordered, not synced:
//! a crash of the machine may lose the newest, which only makes recovery undo more. The one that passes the
//! point of no return is synced, because what comes after it destroys what undo would bring back.

use std::sync::Arc;

use pando_catalog::{Durability, OperationRecord, StepRecord};
use pando_model::{Name, OperationId, OperationState, Problem, Progress, StepState};
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::fault::{Done, Fault, failed};
use crate::world::World;

/// One step of a verb.
pub struct Step<V> {
    /// Its name, as shown.
    pub name: &'static str,
    /// Does it; may be repeated.
    pub apply: fn(&mut V, &Run) -> Done<()>,
    /// Takes it back, whether or not it was (wholly) done; may be repeated.
    pub undo: fn(&mut V, &Run) -> Done<()>,
}

/// What can be run as an operation. The value itself is the operation's memory: it is stored after each step.
pub trait Verb: Serialize + DeserializeOwned + Send + Sized + 'static {
    /// The word.
    const WORD: &'static str;
    /// The steps, in order.
    const STEPS: &'static [Step<Self>];
    /// Once so many steps are done, the rest is done too, whatever happens; before, all is undone.
    const POINT_OF_NO_RETURN: usize;
    /// What it is about.
    fn subject(&self) -> Name;
    /// What people call it.
    fn word(&self) -> &'static str {
        Self::WORD
    }
    /// What it made, for the outside. Stored as it is: no secrets, names and ids only.
    fn result(&self, _: &World) -> Option<serde_json::Value> {
        None
    }
    /// Whether this failure was told before: then it is no event once more.
    fn is_told(&self, _: &World, _: &Problem) -> bool {
        false
    }
}

/// The running operation, as its steps see it.
pub struct Run {
    /// Everything.
    pub world: Arc<World>,
    /// The operation.
    pub id: OperationId,
}

impl Run {
    /// Shows how far the current step is.
    pub fn progress(&self, what: &str, done_bytes: u64, total_bytes: Option<u64>) {
        let progress = Progress { what: what.to_owned(), done_bytes, total_bytes };
        let changed = self.world.catalog.change(Durability::Ordered, |change| {
            if let Some(mut record) = change.get::<OperationRecord>(self.id.as_str())? {
                record.progress = Some(progress);
                change.put(&record)?;
            }
            Ok(())
        });
        if let Err(error) = changed {
            tracing::warn!(%error, "an operation's progress could not be kept");
        }
        self.world.ring();
    }

    /// Passes a fail point inside a step.
    pub fn pass(&self, point: &str) -> Done<()> {
        Ok(self.world.fail.pass(point)?)
    }
}

/// Nothing to take back.
pub fn keep<V>(_: &mut V, _: &Run) -> Done<()> {
    Ok(())
}

/// Writes the operation's birth; from now on it will be finished or undone.
pub fn bear<V: Verb>(world: &Arc<World>, verb: &V) -> Done<OperationRecord> {
    let (millis, random) = world.id();
    let record = OperationRecord {
        id: OperationId::from_parts(millis, random),
        verb: V::WORD.to_owned(),
        called: (verb.word() != V::WORD).then(|| verb.word().to_owned()),
        subject: verb.subject(),
        state: OperationState::Running,
        doc: encode(verb)?,
        steps: V::STEPS
            .iter()
            .map(|step| StepRecord { name: step.name.to_owned(), state: StepState::Waiting })
            .collect(),
        progress: None,
        error: None,
        result: None,
        created_at: world.now(),
        finished_at: None,
    };
    world.catalog.put(&record)?;
    world.ring();
    Ok(record)
}

fn encode<V: Serialize>(verb: &V) -> Done<serde_json::Value> {
    serde_json::to_value(verb)
        .map_err(|error| Fault::Problem(failed(format!("an operation cannot be stored: {error}"))))
}

fn decode<V: DeserializeOwned>(record: &OperationRecord) -> Done<V> {
    serde_json::from_value(record.doc.clone())
        .map_err(|error| Fault::Problem(failed(format!("operation {} cannot be read: {error}", record.id))))
}

/// Runs a verb inside another one (or inside the heartbeat), as an operation of its own.
pub fn run_now<V: Verb>(world: &Arc<World>, verb: V) -> Done<V> {
    let record = bear(world, &verb)?;
    drive(world, record, verb)
}

/// Looks at an operation when it is no longer driven, also when that is because of a panic.
struct Watch {
    world: Arc<World>,
    id: OperationId,
    /// A test pretends that the daemon has died: it is recovered by the next one.
    died: bool,
}

impl Drop for Watch {
    fn drop(&mut self) {
        if !self.died {
            self.world.left(&self.id);
        }
    }
}

/// Applies all steps; undoes them when one fails.
pub fn drive<V: Verb>(world: &Arc<World>, record: OperationRecord, verb: V) -> Done<V> {
    let mut watch = Watch { world: Arc::clone(world), id: record.id.clone(), died: false };
    let outcome = drive_to_end(world, record, verb);
    watch.died = matches!(outcome, Err(Fault::Crash));
    outcome
}

fn drive_to_end<V: Verb>(world: &Arc<World>, record: OperationRecord, verb: V) -> Done<V> {
    let mut journal = Journal { run: Run { world: Arc::clone(world), id: record.id.clone() }, record, verb };
    for index in 0..V::STEPS.len() {
        match journal.apply(index) {
            Ok(()) => {}
            Err(Fault::Crash) => return Err(Fault::Crash),
            Err(Fault::Problem(problem)) if index >= V::POINT_OF_NO_RETURN => return journal.stick(problem),
            Err(Fault::Problem(problem)) => return journal.fail(problem, index),
        }
    }
    journal.finish()
}

/// After a restart: finishes or undoes an operation that was not at its end.
pub fn recover<V: Verb>(world: &Arc<World>, record: OperationRecord) -> Done<()> {
    let verb: V = decode(&record)?;
    let done = record.steps.iter().take_while(|step| step.state == StepState::Done).count();
    let passed = done >= V::POINT_OF_NO_RETURN && record.state != OperationState::Undoing;
    let stopped = || failed("the daemon stopped before this was done; it was undone at the next start");
    let problem = record.error.clone().unwrap_or_else(stopped);
    let mut journal = Journal { run: Run { world: Arc::clone(world), id: record.id.clone() }, record, verb };
    if passed {
        for index in done..V::STEPS.len() {
            match journal.apply(index) {
                Ok(()) => {}
                Err(Fault::Crash) => return Err(Fault::Crash),
                Err(Fault::Problem(problem)) => return journal.stick(problem).map(drop),
            }
        }
        return journal.finish().map(drop);
    }
    let last = V::STEPS.len().saturating_sub(1);
    match journal.fail(problem, last) {
        Err(Fault::Crash) => Err(Fault::Crash),
        _ => Ok(()),
    }
}

struct Journal<V> {
    run: Run,
    record: OperationRecord,
    verb: V,
}

impl<V: Verb> Journal<V> {
    fn step(&mut self, index: usize, state: StepState) {
        if let Some(step) = self.record.steps.get_mut(index) {
            step.state = state;
        }
        self.record.progress = None;
    }

    fn note(&mut self) -> Done<()> {
        self.record.doc = encode(&self.verb)?;
        self.run.world.catalog.note(&self.record)?;
        self.run.world.ring();
        Ok(())
    }

    fn point(&self, index: usize, when: &str) -> Done<()> {
        let name = V::STEPS.get(index).map_or("", |step| step.name);
        self.run.pass(&format!("{}.{name}.{when}", V::WORD))
    }

    fn apply(&mut self, index: usize) -> Done<()> {
        self.step(index, StepState::Begun);
        self.note()?;
        self.point(index, "before")?;
        let begun = self.run.world.clock.instant();
        (V::STEPS[index].apply)(&mut self.verb, &self.run)?;
        tracing::debug!(verb = V::WORD, step = V::STEPS[index].name, took = ?begun.elapsed(), "a step is applied");
        if self.again(index, "again") {
            // What the step had learned is lost, as when the daemon dies before it is noted.
            self.verb = decode(&self.record)?;
            (V::STEPS[index].apply)(&mut self.verb, &self.run)?;
        }
        self.point(index, "after")?;
        self.step(index, StepState::Done);
        if index + 1 == V::POINT_OF_NO_RETURN && index + 1 < V::STEPS.len() {
            // What follows destroys what undo would need: that it may not must outlive the machine.
            self.record.doc = encode(&self.verb)?;
            return Ok(self.run.world.catalog.put(&self.record)?);
        }
        self.note()
    }

    /// Whether a test wants the step, or its undo, to be done once more.
    fn again(&self, index: usize, when: &str) -> bool {
        self.point(index, when).is_err()
    }

    fn finish(mut self) -> Done<V> {
        self.record.state = OperationState::Done;
        self.record.result = self.verb.result(&self.run.world);
        self.close()?;
        self.run.world.event(
            "operation-done",
            Some(&self.record.subject),
            &format!("{} {} is done", self.record.word(), self.record.subject),
        );
        Ok(self.verb)
    }

    fn close(&mut self) -> Done<()> {
        self.run.world.ending(&self.record.id);
        self.record.finished_at = Some(self.run.world.now());
        self.record.progress = None;
        self.record.doc = encode(&self.verb)?;
        self.run.world.catalog.put(&self.record)?;
        self.run.world.ring();
        Ok(())
    }

    /// Undoes the steps from `index` back to the first, then fails with the problem.
    fn fail(mut self, problem: Problem, index: usize) -> Done<V> {
        self.record.state = OperationState::Undoing;
        self.record.error = Some(problem.clone());
        self.note()?;
        for index in (0..=index).rev() {
            self.point(index, "undo")?;
            match (V::STEPS[index].undo)(&mut self.verb, &self.run) {
                Ok(()) => {
                    if self.again(index, "undo-again") {
                        (V::STEPS[index].undo)(&mut self.verb, &self.run)?;
                    }
                    self.step(index, StepState::Undone);
                    self.note()?;
                }
                Err(Fault::Crash) => return Err(Fault::Crash),
                Err(Fault::Problem(mut stuck)) => {
                    stuck.causes.insert(0, format!("while undoing: {problem}"));
                    return self.stick(stuck);
                }
            }
        }
        self.record.state = OperationState::Failed;
        self.close()?;
        if !self.verb.is_told(&self.run.world, &problem) {
            let text = format!("{} {} failed: {problem}", self.record.word(), self.record.subject);
            self.run.world.event("operation-failed", Some(&self.record.subject), &text);
        }
        Err(Fault::Problem(problem))
    }

    /// Neither forward nor back: kept as it is, tried again at the next start.
    fn stick(mut self, problem: Problem) -> Done<V> {
        if self.record.state == OperationState::Running {
            // Forward is the way; the next start goes on from here.
            self.record.error = Some(problem.clone());
        }
        self.record.state = OperationState::Stuck;
        self.record.error.get_or_insert_with(|| problem.clone());
        self.close()?;
        self.run.world.event(
            "operation-stuck",
            Some(&self.record.subject),
            &format!("{} {} is stuck: {problem}", self.record.word(), self.record.subject),
        );
        Err(Fault::Problem(problem))
    }
}
