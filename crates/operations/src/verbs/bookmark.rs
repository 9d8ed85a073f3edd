//! `bookmark` and `unbookmark`: names for moments. What a bookmark names is kept, whatever the policy says:
//! a moment between snapshots is made into a prepared snapshot of its own, so that it needs no log. Nor does a
//! clone's own snapshot.
//!
//! # Crash consistency
//! The snapshot that may be made has its id from birth; undo destroys it.

use pando_catalog::{BookmarkRecord, Record, SnapshotRecord};
use pando_model::{Moment, Name, OwnerId, SnapshotId};
use serde::{Deserialize, Serialize};

use super::prepare::Prepare;
use super::remove::{refuse_removing, trees_of};
use super::snapshot::Snapshot;
use crate::fault::{Done, Fault, failed, not_found, refused};
use crate::journal::{Run, Step, Verb, run_now};
use crate::moments;
use crate::owner::Owner;
use crate::world::{Pin, World};

/// A bookmark being set.
#[derive(Serialize, Deserialize)]
pub struct Bookmark {
    name: Name,
    bookmark: Name,
    moment: Moment,
    fresh: SnapshotId,
    /// What is pinned, once known.
    snapshot: Option<SnapshotId>,
    /// Until the record pins it.
    #[serde(skip)]
    pin: Option<Pin>,
}

impl Verb for Bookmark {
    const WORD: &'static str = "bookmark";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "make", apply: Self::make, undo: Self::unmake },
        Step { name: "record", apply: Self::record, undo: Self::unrecord },
    ];
    const POINT_OF_NO_RETURN: usize = 2;

    fn subject(&self) -> Name {
        self.name.clone()
    }

    fn result(&self, world: &World) -> Option<serde_json::Value> {
        let snapshot: SnapshotRecord = world.catalog.get(self.snapshot.as_ref()?.as_str()).ok()??;
        Some(serde_json::json!({
            "bookmark": self.bookmark, "snapshot": snapshot.id, "moment": snapshot.moment
        }))
    }
}

impl Bookmark {
    /// A bookmark to be set.
    pub fn new(world: &World, name: Name, bookmark: Name, moment: Option<Moment>) -> Done<Self> {
        let owner = Owner::named(world, &name)?;
        if !matches!(bookmark.as_str().parse::<Moment>(), Ok(Moment::Bookmark(_))) {
            return Err(refused(format!("{bookmark} cannot be a bookmark: it already means a moment")).into());
        }
        if world.catalog.get::<BookmarkRecord>(&format!("{}/{bookmark}", owner.id))?.is_some() {
            return Err(refused(format!("{name} has a bookmark {bookmark} already"))
                .hint(format!("choose another name, or: pando unbookmark {name} {bookmark}"))
                .into());
        }
        let (millis, random) = world.id();
        let fresh = SnapshotId::from_parts(millis, random);
        Ok(Self { name, bookmark, moment: moment.unwrap_or(Moment::Latest), fresh, snapshot: None, pin: None })
    }

    fn make(&mut self, run: &Run) -> Done<()> {
        let owner = Owner::named(&run.world, &self.name)?;
        refuse_removing(&owner)?;
        self.pin = Some(run.world.pin(&owner.id));
        if run.world.catalog.get::<SnapshotRecord>(self.fresh.as_str())?.is_some_and(|made| made.complete) {
            self.snapshot = Some(self.fresh.clone());
            return Ok(());
        }
        if owner.clone.is_some() && matches!(self.moment, Moment::Latest | Moment::Now) {
            let fresh = Snapshot::with_id(&run.world, &owner, self.fresh.clone());
            self.snapshot = Some(run_now(&run.world, fresh)?.id);
            return Ok(());
        }
        let plan = moments::resolve(run, &owner, &self.moment)?;
        let as_it_is = plan.sources.values().all(|source| source.to.is_none());
        if let Some(id) = plan.snapshot.clone().filter(|_| as_it_is) {
            self.snapshot = Some(id);
            return Ok(());
        }
        let made = run_now(&run.world, Prepare::new(&run.world, &owner, plan, self.fresh.clone())?)?;
        self.snapshot = Some(made.snapshot);
        Ok(())
    }

    fn unmake(&mut self, run: &Run) -> Done<()> {
        drop_snapshot(run, &self.fresh)
    }

    fn id(&self, owner: &OwnerId) -> String {
        format!("{owner}/{}", self.bookmark)
    }

    fn record(&mut self, run: &Run) -> Done<()> {
        let owner = Owner::named(&run.world, &self.name)?;
        let id = self.snapshot.clone().ok_or_else(|| Fault::Problem(failed("a bookmark pins nothing")))?;
        let snapshot: SnapshotRecord = run
            .world
            .catalog
            .get(id.as_str())?
            .ok_or_else(|| Fault::Problem(failed("what a bookmark pins is gone")))?;
        let record =
            BookmarkRecord { owner: owner.id, name: self.bookmark.clone(), snapshot: id, moment: snapshot.moment };
        Ok(run.world.catalog.note(&record)?)
    }

    fn unrecord(&mut self, run: &Run) -> Done<()> {
        if let Ok(owner) = Owner::named(&run.world, &self.name) {
            run.world.catalog.delete::<BookmarkRecord>(&self.id(&owner.id))?;
        }
        Ok(())
    }
}

/// Destroys one snapshot with its trees, if it is there.
pub fn drop_snapshot(run: &Run, id: &SnapshotId) -> Done<()> {
    if let Some(record) = run.world.catalog.get::<SnapshotRecord>(id.as_str())? {
        let pool = run.world.pool()?;
        for tree in trees_of(&record) {
            pool.destroy_snapshot(&tree)?;
        }
        run.world.catalog.delete::<SnapshotRecord>(&record.id())?;
    }
    Ok(())
}

/// A bookmark being forgotten.
#[derive(Serialize, Deserialize)]
pub struct Unbookmark {
    name: Name,
    bookmark: Name,
    record: BookmarkRecord,
}

impl Verb for Unbookmark {
    const WORD: &'static str = "unbookmark";
    const STEPS: &'static [Step<Self>] = &[Step { name: "forget", apply: Self::forget, undo: Self::restore }];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.name.clone()
    }
}

impl Unbookmark {
    /// A bookmark to be forgotten; what it pinned goes when the policy says so.
    pub fn new(world: &World, name: Name, bookmark: Name) -> Done<Self> {
        let owner = Owner::named(world, &name)?;
        let record = world.catalog.get::<BookmarkRecord>(&format!("{}/{bookmark}", owner.id))?.ok_or_else(|| {
            Fault::Problem(
                not_found(format!("{name} has no bookmark {bookmark}"))
                    .hint(format!("`pando timeline {name}` shows bookmarks")),
            )
        })?;
        Ok(Self { name, bookmark, record })
    }

    fn forget(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.delete::<BookmarkRecord>(&self.record.id())?)
    }

    fn restore(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.note(&self.record)?)
    }
}
