//! `prepare`: turns a snapshot of a mirror into one that starts without recovery: rolled forward to its
//! moment, cut off production, stopped cleanly (DESIGN §3.8). Runs behind; also makes what bookmarks pin.
//!
//! # Crash consistency
//! The work volume and the prepared tree have their ids from birth; undo destroys both. The record names the
//! prepared tree only when it is whole.

use std::collections::BTreeMap;

use pando_catalog::{CloneRecord, CloneSource, SnapshotRecord};
use pando_model::{Name, OwnerId, PoolSnapshotId, Profile, SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};

use super::provision::{self, Manner};
use crate::fault::{Done, Fault, failed};
use crate::journal::{Run, Step, Verb, keep};
use crate::moments::Plan;
use crate::owner::{Owner, seat};
use crate::units;
use crate::world::World;

/// A prepared tree in the making.
#[derive(Serialize, Deserialize)]
pub struct Prepare {
    owner: OwnerId,
    name: Name,
    plan: Plan,
    /// The snapshot it belongs to: one that is there, or a new one at the plan's moment.
    pub snapshot: SnapshotId,
    volumes: BTreeMap<PoolSnapshotId, VolumeId>,
    trees: BTreeMap<VolumeId, PoolSnapshotId>,
    work: BTreeMap<Name, CloneSource>,
}

impl Verb for Prepare {
    const WORD: &'static str = "prepare";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "volume", apply: Self::volume, undo: Self::no_volume },
        Step { name: "stage", apply: Self::stage, undo: keep },
        Step { name: "start", apply: Self::start, undo: Self::stop_now },
        Step { name: "cut", apply: Self::cut, undo: keep },
        Step { name: "stop", apply: Self::stop, undo: keep },
        Step { name: "freeze", apply: Self::freeze, undo: Self::thaw },
        Step { name: "record", apply: Self::record, undo: Self::unrecord },
        Step { name: "clear", apply: Self::no_volume, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 7;

    fn subject(&self) -> Name {
        self.name.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "snapshot": self.snapshot, "moment": self.plan.moment }))
    }
}

impl Prepare {
    /// What is to be prepared: a plan, for a snapshot that may be new.
    pub fn new(world: &World, owner: &Owner, plan: Plan, snapshot: SnapshotId) -> Done<Self> {
        let fresh = provision::fresh_volumes(world, plan.sources.len());
        Self::on(world, owner, plan, snapshot, &fresh)
    }

    /// The same on volumes whose ids somebody else knows.
    pub fn on(world: &World, owner: &Owner, plan: Plan, snapshot: SnapshotId, fresh: &[VolumeId]) -> Done<Self> {
        let volumes = provision::volumes(&plan, fresh);
        let trees = volumes
            .values()
            .map(|volume| {
                let (millis, random) = world.id();
                (volume.clone(), PoolSnapshotId::from_parts(millis, random))
            })
            .collect();
        let work = provision::sources(world, owner, &plan, &volumes, None)?;
        Ok(Self { owner: owner.id.clone(), name: owner.name.clone(), plan, snapshot, volumes, trees, work })
    }

    /// The same on a clone's own volumes, which hold what the plan says and are somebody else's to make and destroy.
    pub fn over(owner: OwnerId, clone: &CloneRecord, plan: Plan, snapshot: SnapshotId) -> Self {
        let (volumes, trees) = Default::default();
        Self { owner, name: clone.name.clone(), plan, snapshot, volumes, trees, work: clone.sources.clone() }
    }

    /// What is prepared.
    pub fn plan(&self) -> &Plan {
        &self.plan
    }

    /// The work volume seen as an owner of its own.
    fn work(&self, run: &Run) -> Done<Option<Owner>> {
        let world = &run.world;
        let Some(mut owner) = Owner::load(world, &self.owner)? else { return Ok(None) };
        for (name, held) in &mut owner.sources {
            let Some(work) = self.work.get(name) else { continue };
            // The log is the owner's: nothing is recorded of the work itself.
            let mut place = seat(world, &owner.id, name, &work.volume, &work.seat)?;
            place.log = world.home.log(&owner.id, name).with_extension("none");
            held.seat = place;
            held.volume = work.volume.clone();
            held.units = work.units.clone();
            held.container = None;
        }
        Ok(Some(owner))
    }

    /// The same, which must be there.
    pub fn there(&self, run: &Run) -> Done<Owner> {
        self.work(run)?.ok_or_else(|| Fault::Problem(failed(format!("{} is gone", self.name))))
    }

    /// Makes the work volume.
    pub fn volume(&mut self, run: &Run) -> Done<()> {
        run.world.need_room()?;
        provision::make_closed(run, &self.volumes)
    }

    /// Destroys it, after what runs on it.
    pub fn no_volume(&mut self, run: &Run) -> Done<()> {
        self.stop_now(run)?;
        for source in self.work.values() {
            for unit in source.units.values() {
                run.world.runtime.forget(unit)?;
            }
            units::remove_sockets(&run.world, &source.seat)?;
        }
        provision::destroy(run, self.volumes.values())
    }

    /// Writes it ready.
    pub fn stage(&mut self, run: &Run) -> Done<()> {
        let manner = Manner { profile: Profile::Disposable, record: false, set: BTreeMap::new() };
        provision::stage(&self.there(run)?, &BTreeMap::new(), &self.plan, &manner)
    }

    /// Starts its servers.
    pub fn start(&mut self, run: &Run) -> Done<()> {
        provision::start(run, &self.there(run)?)
    }

    /// Stops them, whatever they do.
    pub fn stop_now(&mut self, run: &Run) -> Done<()> {
        for unit in self.work.values().flat_map(|source| source.units.values()) {
            run.world.runtime.ensure_gone(unit)?;
        }
        Ok(())
    }

    /// Cuts them off production.
    pub fn cut(&mut self, run: &Run) -> Done<()> {
        provision::admit(run, &self.there(run)?, None, false)
    }

    /// Stops them cleanly.
    pub fn stop(&mut self, run: &Run) -> Done<()> {
        let owner = self.there(run)?;
        units::stop_all(&run.world, &owner)?;
        for held in owner.sources.values() {
            held.engine.slim(&held.seat, &held.source)?;
        }
        Ok(())
    }

    fn freeze(&mut self, run: &Run) -> Done<()> {
        let pool = run.world.pool()?;
        for (volume, tree) in &self.trees {
            pool.snapshot(volume, tree)?;
        }
        Ok(())
    }

    fn thaw(&mut self, run: &Run) -> Done<()> {
        let pool = run.world.pool()?;
        for tree in self.trees.values() {
            pool.destroy_snapshot(tree)?;
        }
        Ok(())
    }

    fn record(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let tree_of = |name: &Name| self.work.get(name).and_then(|work| self.trees.get(&work.volume)).cloned();
        let first = self.trees.values().next().cloned();
        let existing: Option<SnapshotRecord> = world.catalog.get(self.snapshot.as_str())?;
        let record = match existing {
            Some(mut record) if self.trees.len() == 1 => {
                record.prepared = first;
                record.problem = None;
                record
            }
            Some(_) => return Err(failed("a snapshot with several trees cannot be prepared in place").into()),
            None => self.fresh_record(run, first, &tree_of)?,
        };
        Ok(world.catalog.note(&record)?)
    }

    /// The record names the prepared trees no more; one that names nothing else goes.
    fn unrecord(&mut self, run: &Run) -> Done<()> {
        let catalog = &run.world.catalog;
        let Some(mut record) = catalog.get::<SnapshotRecord>(self.snapshot.as_str())? else { return Ok(()) };
        let ours = |tree: &PoolSnapshotId| self.trees.values().any(|own| own == tree);
        if record.raw.as_ref().is_none_or(ours) {
            return Ok(catalog.delete::<SnapshotRecord>(self.snapshot.as_str())?);
        }
        record.prepared = record.prepared.filter(|tree| !ours(tree));
        Ok(catalog.note(&record)?)
    }

    /// A snapshot that exists only prepared, at a moment between others.
    fn fresh_record(
        &self,
        run: &Run,
        first: Option<PoolSnapshotId>,
        tree_of: &dyn Fn(&Name) -> Option<PoolSnapshotId>,
    ) -> Done<SnapshotRecord> {
        let mut sources = BTreeMap::new();
        for (name, planned) in &self.plan.sources {
            let tree = tree_of(name).ok_or_else(|| Fault::Problem(failed("a source has no tree")))?;
            let mark = pando_engine::Mark {
                from: pando_engine::Point { epoch: 0, timeline: 0, lsn: pando_model::Lsn(0), time: Some(planned.at) },
                at: planned.at,
                rolls: false,
            };
            let stored = pando_catalog::SnapshotSource {
                tree,
                mark: serde_json::to_value(&mark).unwrap_or_default(),
                at: planned.at,
            };
            sources.insert(name.clone(), stored);
        }
        // With trees for several volumes each source names its own; a single one is a prepared tree.
        let single = self.trees.len() == 1;
        Ok(SnapshotRecord {
            id: self.snapshot.clone(),
            owner: self.owner.clone(),
            taken_at: run.world.now(),
            moment: self.plan.moment,
            complete: true,
            raw: if single { None } else { first.clone() },
            more: self.trees.values().skip(1).cloned().collect(),
            prepared: if single { first } else { None },
            sources,
            problem: None,
            tried_at: None,
            masked: self.plan.masked,
        })
    }
}

/// Whether everything that a plan stands on is a prepared snapshot.
pub fn is_prepared(world: &World, plan: &Plan) -> Done<bool> {
    let Some(id) = &plan.snapshot else { return Ok(false) };
    let Some(record) = world.catalog.get::<SnapshotRecord>(id.as_str())? else { return Ok(false) };
    Ok(plan.sources.values().all(|source| source.to.is_none() && Some(&source.tree) == record.prepared.as_ref()))
}
