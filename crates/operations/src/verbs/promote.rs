//! `promote`: a clone becomes one that is kept: durable, recording, leased for ever. There is no other kind of thing
//! behind it; it goes on under its name, address and password, in the same volumes.
//!
//! What was written before nobody had asked to be kept: it is brought to the disk before the servers start again with the
//! settings of a durable clone. A clone that is durable and records already is not stopped. What `undo` would bring
//! back goes: it was staged as less.
//!
//! # Crash consistency
//! The record says `refreshing` before the servers are stopped, and what the clone is to be before they are staged.
//! Undo writes the old record, stages the old settings and starts the servers again; the data was never moved. A log
//! that was begun by this goes with it.

use std::collections::BTreeMap;

use pando_catalog::{CloneRecord, SnapshotRecord};
use pando_model::{CloneState, HookPoint, Name, OwnerId, PoolSnapshotId, Profile, SnapshotId, UnitId};
use serde::{Deserialize, Serialize};

use super::bookmark::drop_snapshot;
use super::clone::manner;
use super::provision;
use super::snapshot::Snapshot;
use crate::fault::{Done, Fault, io, refused};
use crate::hooks;
use crate::journal::{Run, Step, Verb, keep, run_now};
use crate::moments::{Plan, SourcePlan};
use crate::owner::Owner;
use crate::units;
use crate::world::World;

/// A clone being promoted.
#[derive(Serialize, Deserialize)]
pub struct Promote {
    clone: Name,
    /// The record as it was.
    before: CloneRecord,
    /// What its timeline begins with.
    snapshot: SnapshotId,
    /// The hooks' unit.
    hook: UnitId,
}

impl Verb for Promote {
    const WORD: &'static str = "promote";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "stop", apply: Self::stop, undo: Self::start_again },
        Step { name: "stage", apply: Self::stage, undo: Self::unstage },
        Step { name: "start", apply: Self::start, undo: Self::stop_new },
        Step { name: "admit", apply: Self::admit, undo: keep },
        Step { name: "post-hooks", apply: Self::post, undo: Self::no_hook },
        Step { name: "timeline", apply: Self::timeline, undo: Self::no_timeline },
        Step { name: "clear", apply: Self::clear, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 6;

    fn subject(&self) -> Name {
        self.clone.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "clone": self.clone }))
    }
}

impl Promote {
    /// A clone to be promoted.
    pub fn new(world: &World, clone: Name) -> Done<Self> {
        let owner = Owner::named(world, &clone)?;
        let record = owner.clone_record()?;
        if record.elsewhere || record.container.is_some() {
            return Err(refused(format!("the servers of {clone} run in containers, and no log is kept of those"))
                .hint(format!("promote a clone of it that runs here: pando clone {clone} NAME"))
                .into());
        }
        if !matches!(record.state, CloneState::Running | CloneState::Stopped) {
            return Err(refused(format!("{clone} is {}", record.state)).hint(format!("pando start {clone}")).into());
        }
        if record.promoted_at.is_some() {
            return Err(refused(format!("{clone} is promoted already")).into());
        }
        world.need_room()?;
        let (millis, random) = world.id();
        let snapshot = SnapshotId::from_parts(millis, random);
        Ok(Self { clone, before: record.clone(), snapshot, hook: hooks::fresh_unit(world) })
    }

    /// Whether its servers have to be given other settings.
    fn changes(&self) -> bool {
        !self.before.record || self.before.profile != Profile::Durable || self.before.state != CloneState::Running
    }

    fn owner(&self, run: &Run) -> Done<Owner> {
        Owner::named(&run.world, &self.clone)
    }

    fn record(&self, run: &Run) -> Done<CloneRecord> {
        Ok(self.owner(run)?.clone_record()?.clone())
    }

    /// Whether the servers may have been stopped: the record says so before they are.
    fn is_stopped(&self, run: &Run) -> Done<bool> {
        Ok(self.record(run)?.state == CloneState::Refreshing)
    }

    fn stop(&mut self, run: &Run) -> Done<()> {
        if !self.changes() {
            return Ok(());
        }
        let mut record = self.record(run)?;
        record.state = CloneState::Refreshing;
        run.world.catalog.note(&record)?;
        run.pass("promote.stop.marked")?;
        units::stop_all(&run.world, &self.owner(run)?)
    }

    /// Brings the servers back as they were. That they do not come up is the clone's failure, not the undo's.
    fn start_again(&mut self, run: &Run) -> Done<()> {
        if !self.is_stopped(run)? {
            return Ok(());
        }
        let mut record = self.before.clone();
        if record.state == CloneState::Running {
            let owner = self.owner(run)?;
            // A log of it begins a new stretch.
            run.world.drop_live(&owner.id);
            let outcome = provision::start(run, &owner).and_then(|()| self.let_in(run, &owner, record.record));
            match outcome {
                Err(Fault::Problem(problem)) if !run.world.is_stopping() => {
                    record.state = CloneState::Failed;
                    record.problem = Some(problem.to_string());
                }
                outcome => outcome?,
            }
        }
        Ok(run.world.catalog.note(&record)?)
    }

    /// The servers' trees as they are, with the settings that the record asks for.
    fn settle(&self, run: &Run) -> Done<()> {
        let owner = self.owner(run)?;
        let record = owner.clone_record()?;
        let mut sources = BTreeMap::new();
        for (name, source) in &record.sources {
            // No tree is made of it: the name of one is only there to be a plan.
            let at = source.moment.unwrap_or(record.moment);
            let tree = PoolSnapshotId::from_parts(0, 0);
            sources.insert(name.clone(), SourcePlan { tree, to: None, log: None, at, skew: None, position: None });
        }
        let masked = record.masked;
        let plan = Plan { moment: record.moment, asked: record.asked.clone(), snapshot: None, sources, masked };
        provision::stage(&owner, &provision::ports(&record.sources), &plan, &manner(record, &owner.app))
    }

    fn stage(&mut self, run: &Run) -> Done<()> {
        let mut record = self.record(run)?;
        record.profile = Profile::Durable;
        record.record = true;
        record.lease_until = None;
        record.lease_warned = false;
        record.promoted_at = Some(run.world.now());
        run.world.catalog.note(&record)?;
        if !self.changes() {
            return Ok(());
        }
        run.pass("promote.stage.noted")?;
        for held in self.owner(run)?.sources.values() {
            pando_host::durable::sync_file_system(&held.seat.data)
                .map_err(|error| Fault::Problem(io("bringing a clone's data to the disk", error)))?;
        }
        self.settle(run)
    }

    fn unstage(&mut self, run: &Run) -> Done<()> {
        let stopped = self.is_stopped(run)?;
        let mut record = self.before.clone();
        if stopped {
            record.state = CloneState::Refreshing;
        }
        run.world.catalog.note(&record)?;
        if !stopped {
            return Ok(());
        }
        run.pass("promote.unstage.noted")?;
        self.settle(run)?;
        if self.before.record {
            return Ok(());
        }
        let log = run.world.home.log_of(&OwnerId::Clone(self.before.id.clone()));
        pando_host::durable::remove_tree_if_there(&log)
            .map(drop)
            .map_err(|error| Fault::Problem(io("removing a clone's log", error)))
    }

    fn start(&mut self, run: &Run) -> Done<()> {
        if self.changes() { provision::start(run, &self.owner(run)?) } else { Ok(()) }
    }

    /// Whatever runs with the new settings goes before the old ones are staged.
    fn stop_new(&mut self, run: &Run) -> Done<()> {
        if !self.changes() {
            return Ok(());
        }
        let mut record = self.record(run)?;
        if record.state == CloneState::Running && record.promoted_at.is_some() {
            record.state = CloneState::Refreshing;
            run.world.catalog.note(&record)?;
        }
        if self.is_stopped(run)? { units::stop_all(&run.world, &self.owner(run)?) } else { Ok(()) }
    }

    fn let_in(&self, run: &Run, owner: &Owner, record: bool) -> Done<()> {
        let password = run.world.unseal_text(&self.before.password)?;
        provision::admit(run, owner, Some(&password), record)
    }

    fn admit(&mut self, run: &Run) -> Done<()> {
        if !self.changes() {
            return Ok(());
        }
        self.let_in(run, &self.owner(run)?, true)?;
        let mut record = self.record(run)?;
        record.state = CloneState::Running;
        record.problem = None;
        Ok(run.world.catalog.note(&record)?)
    }

    fn post(&mut self, run: &Run) -> Done<()> {
        hooks::run_at(run, &self.hook, HookPoint::PostPromote, &self.owner(run)?)
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    /// Its new log begins with a snapshot, as that of a new clone does.
    fn timeline(&mut self, run: &Run) -> Done<()> {
        if !self.changes() {
            return Ok(());
        }
        if run.world.catalog.get::<SnapshotRecord>(self.snapshot.as_str())?.is_some_and(|made| made.complete) {
            return Ok(());
        }
        run.world.drop_live(&OwnerId::Clone(self.before.id.clone()));
        run_now(&run.world, Snapshot::with_id(&run.world, &self.owner(run)?, self.snapshot.clone())).map(drop)
    }

    fn no_timeline(&mut self, run: &Run) -> Done<()> {
        drop_snapshot(run, &self.snapshot)
    }

    fn clear(&mut self, run: &Run) -> Done<()> {
        let mut record = self.record(run)?;
        let Some(former) = record.former.take() else { return Ok(()) };
        let kept = |volume: &pando_model::VolumeId| record.sources.values().any(|source| source.volume == *volume);
        let volumes = former.sources.values().map(|source| &source.volume).filter(|volume| !kept(volume));
        provision::destroy(run, volumes)?;
        Ok(run.world.catalog.note(&record)?)
    }
}
