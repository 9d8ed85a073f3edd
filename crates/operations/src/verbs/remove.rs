//! `rm`: a clone goes, with its snapshots, bookmarks and log. At once for the user; bytes are freed behind.
//!
//! # Crash consistency
//! Once the record says `removing` and the hooks before it have agreed, the rest is always done.

use pando_catalog::{
    AppRecord, BookmarkRecord, CloneRecord, Durability, OperationRecord, Record, SnapshotRecord, VolumeRecord,
};
use pando_model::{AppState, CloneState, HookPoint, Name, OperationState, OwnerId, PoolSnapshotId, UnitId, VolumeId};
use serde::{Deserialize, Serialize};

use super::bookmark::Bookmark;
use super::export::Export;
use super::image::ImageBuild;
use super::provision;
use crate::fault::{Done, Fault, refused};
use crate::hooks;
use crate::journal::{Run, Step, Verb, keep};
use crate::owner::Owner;
use crate::volumes::compose;
use crate::world::{Claim, World};
use crate::{units, volumes};

/// A clone going away.
#[derive(Serialize, Deserialize)]
pub struct Remove {
    clone: Name,
    owner: OwnerId,
    was: CloneState,
    volumes: Vec<VolumeId>,
    trees: Vec<PoolSnapshotId>,
    seats: Vec<UnitId>,
    /// The hooks' unit.
    hook: UnitId,
}

impl Verb for Remove {
    const WORD: &'static str = "rm";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "halt", apply: Self::halt, undo: keep },
        Step { name: "mark", apply: Self::mark, undo: Self::unmark },
        Step { name: "pre-destroy", apply: Self::pre, undo: Self::no_hook },
        Step { name: "down", apply: Self::down, undo: keep },
        Step { name: "stop", apply: Self::stop, undo: keep },
        Step { name: "destroy", apply: Self::destroy, undo: keep },
        Step { name: "forget", apply: Self::forget, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 3;

    fn subject(&self) -> Name {
        self.clone.clone()
    }
}

impl Remove {
    /// A clone to be removed. Refused while it has clones of its own, and while something is made of it.
    pub fn new(world: &World, clone: Name) -> Done<Self> {
        let owner = Owner::named(world, &clone)?;
        let record = owner.clone_record()?;
        let children: Vec<String> = world
            .catalog
            .all::<CloneRecord>()?
            .into_iter()
            .filter(|other| other.parent == owner.id && OwnerId::Clone(other.id.clone()) != owner.id)
            .map(|other| other.name.to_string())
            .collect();
        if !children.is_empty() {
            return Err(refused(format!("{clone} is the parent of: {}", children.join(", ")))
                .hint(format!("remove them first: pando rm {}", children.join(" ")))
                .into());
        }
        refuse_while_needed(world, &clone)?;
        // A project of its own is stopped for it.
        if record.compose.is_none() {
            volumes::refuse_in_use(world, record, &record.sources)?;
        }
        volumes::refuse_former_in_use(world, record)?;
        provision::can_go(world, &owner)?;
        let mut volumes: Vec<VolumeId> = record.sources.values().map(|source| source.volume.clone()).collect();
        volumes.extend(record.former.iter().flat_map(|former| former.sources.values()).map(|s| s.volume.clone()));
        volumes.sort();
        volumes.dedup();
        Ok(Self {
            clone,
            owner: owner.id.clone(),
            was: record.state,
            volumes,
            trees: trees(world, &owner.id)?,
            seats: record.sources.values().map(|source| source.seat.clone()).collect(),
            hook: hooks::fresh_unit(world),
        })
    }

    /// Stops the containers of the clone's project.
    fn halt(&mut self, run: &Run) -> Done<()> {
        match &self.owner {
            OwnerId::Clone(clone) => compose::halt(run, clone),
            OwnerId::App(_) => Ok(()),
        }
    }

    /// Takes them away.
    fn down(&mut self, run: &Run) -> Done<()> {
        match &self.owner {
            OwnerId::Clone(clone) => compose::down(run, clone),
            OwnerId::App(_) => Ok(()),
        }
    }

    fn mark(&mut self, run: &Run) -> Done<()> {
        if let Some(mut record) = self.record(run)? {
            record.state = CloneState::Removing;
            run.world.catalog.note(&record)?;
            refuse_while_needed(&run.world, &self.clone)?;
            // Nobody mounts it from here on: who does not see it now will not.
            volumes::refuse_in_use(&run.world, &record, &record.sources)?;
            volumes::refuse_former_in_use(&run.world, &record)?;
        }
        Ok(())
    }

    fn unmark(&mut self, run: &Run) -> Done<()> {
        if let Some(mut record) = self.record(run)?
            && record.state == CloneState::Removing
        {
            record.state = self.was;
            run.world.catalog.note(&record)?;
        }
        Ok(())
    }

    fn pre(&mut self, run: &Run) -> Done<()> {
        let Some(record) = self.record(run)? else { return Ok(()) };
        hooks::run_at(run, &self.hook, HookPoint::PreDestroy, &Owner::of_clone(&run.world, record)?)
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    fn record(&self, run: &Run) -> Done<Option<CloneRecord>> {
        Ok(run.world.catalog.get(self.owner.as_str())?)
    }

    fn stop(&mut self, run: &Run) -> Done<()> {
        if let Some(record) = self.record(run)? {
            let owner = Owner::of_clone(&run.world, record)?;
            units::kill_all(&run.world, &owner)?;
            units::forget_all(&run.world, &owner)?;
        }
        Ok(())
    }

    fn destroy(&mut self, run: &Run) -> Done<()> {
        provision::destroy(run, &self.volumes)?;
        run.pass("rm.destroy.volumes")?;
        let pool = run.world.pool()?;
        for tree in &self.trees {
            pool.destroy_snapshot(tree)?;
        }
        clear_files(run, &self.owner, &self.seats)?;
        if run.world.catalog.owner(&self.clone)? == Some(self.owner.clone()) {
            provision::unlink_paths(&run.world, &self.clone)?;
        }
        Ok(())
    }

    fn forget(&mut self, run: &Run) -> Done<()> {
        run.world.drop_live(&self.owner);
        forget_timeline::<CloneRecord>(run, &self.owner)
    }
}

/// Refuses while something is being made of the name: a bookmark, an archive, an image. Called once the record says
/// `removing`: whoever begins later sees that.
pub fn refuse_while_needed(world: &World, name: &Name) -> Done<()> {
    const NEED: [&str; 3] = [Bookmark::WORD, Export::WORD, ImageBuild::WORD];
    let running: Vec<OperationRecord> = world.catalog.of(OperationState::Running.as_str())?;
    match running.iter().find(|other| NEED.contains(&other.verb.as_str()) && other.subject == *name) {
        Some(other) => Err(refused(format!("{name} is busy: {} is running ({})", other.word(), other.id))
            .hint("wait for it (`pando ops`), or end the program that began it; then try again")
            .into()),
        None => Ok(()),
    }
}

/// The owner of a name that something is made of. A clone is claimed, until the plan is made. What is being removed is
/// refused; what is not cannot be, once the operation that calls this is born.
pub fn needed(run: &Run, name: &Name, by: &str) -> Done<(Owner, Option<Claim>)> {
    let world = &run.world;
    let claim = match world.catalog.owner(name)? {
        Some(OwnerId::Clone(_)) => Some(world.claim(&[name.to_string()], by, false)?),
        _ => None,
    };
    // Read behind the claim: it may have gone before.
    let owner = Owner::named(world, name)?;
    refuse_removing(&owner)?;
    Ok((owner, claim))
}

/// Refuses what is being removed.
pub fn refuse_removing(owner: &Owner) -> Done<()> {
    let removing = match &owner.clone {
        Some(clone) => clone.state == CloneState::Removing,
        None => owner.app.state == AppState::Removing,
    };
    if removing { Err(refused(format!("{} is being removed", owner.name)).into()) } else { Ok(()) }
}

/// All trees of an owner's snapshots, whole or not.
pub fn trees(world: &World, owner: &OwnerId) -> Done<Vec<PoolSnapshotId>> {
    let snapshots: Vec<SnapshotRecord> = world.catalog.of(owner.as_str())?;
    let mut trees: Vec<PoolSnapshotId> = snapshots.iter().flat_map(trees_of).collect();
    trees.sort();
    trees.dedup();
    Ok(trees)
}

/// The trees of one snapshot.
pub fn trees_of(snapshot: &SnapshotRecord) -> Vec<PoolSnapshotId> {
    snapshot.raw.iter().chain(&snapshot.more).chain(&snapshot.prepared).cloned().collect()
}

/// Removes an owner's log and socket directories.
pub fn clear_files(run: &Run, owner: &OwnerId, seats: &[UnitId]) -> Done<()> {
    let failed = |error| Fault::Problem(crate::fault::io("removing a log", error));
    pando_host::durable::remove_tree_if_there(&run.world.home.log_of(owner)).map_err(failed)?;
    for seat in seats {
        units::remove_sockets(&run.world, seat)?;
    }
    Ok(())
}

/// Drops an owner's record, names, snapshots and bookmarks, all or nothing. A detached app goes with the last of
/// its clones.
pub fn forget_timeline<R: Record>(run: &Run, owner: &OwnerId) -> Done<()> {
    let snapshots: Vec<SnapshotRecord> = run.world.catalog.of(owner.as_str())?;
    let bookmarks: Vec<BookmarkRecord> = run.world.catalog.of(owner.as_str())?;
    Ok(run.world.catalog.change(Durability::Synced, |change| {
        change.free_names(owner)?;
        for snapshot in &snapshots {
            change.delete::<SnapshotRecord>(&snapshot.id())?;
        }
        for bookmark in &bookmarks {
            change.delete::<BookmarkRecord>(&bookmark.id())?;
        }
        for volume in change.of::<VolumeRecord>(owner.as_str())? {
            change.delete::<VolumeRecord>(&volume.id())?;
        }
        let app = change.get::<CloneRecord>(owner.as_str())?.map(|clone| clone.app);
        change.delete::<R>(owner.as_str())?;
        let Some(app) = app else { return Ok(()) };
        let detached = change.get::<AppRecord>(app.as_str())?.is_some_and(|record| record.state == AppState::Detached);
        if detached && !change.all::<CloneRecord>()?.iter().any(|clone| clone.app == app) {
            change.delete::<AppRecord>(app.as_str())?;
        }
        Ok(())
    })?)
}
