//! `thin`: what the policy does not keep goes: snapshots, prepared trees, former states, log; and snapshots that were
//! never prepared, once their log is gone. Started by the heartbeat. Never touches what a bookmark pins or what
//! something is being made of.
//!
//! # Crash consistency
//! Records go first, in one commit; undo puts them back, because the operation remembers them. Trees are
//! destroyed only after that, and then always.

use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use pando_catalog::{BookmarkRecord, CatalogError, Change, CloneRecord, Durability, Former, SnapshotRecord};
use pando_engine::Mark;
use pando_model::{Name, OwnerId, SnapshotId, VolumeId};
use serde::{Deserialize, Serialize};

use super::provision;
use super::remove::trees_of;
use crate::fault::Done;
use crate::journal::{Run, Step, Verb, keep};
use crate::moments::{as_taken, mark};
use crate::owner::Owner;
use crate::volumes::in_use;
use crate::world::World;

/// So many of the newest snapshots stay prepared, whatever their age.
const PREPARED: usize = 3;

/// What is to go.
#[derive(Serialize, Deserialize)]
pub struct Thin {
    name: Name,
    owner: OwnerId,
    gone: Vec<SnapshotRecord>,
    unprepared: Vec<SnapshotRecord>,
    former: Option<Former>,
}

impl Verb for Thin {
    const WORD: &'static str = "thin";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "forget", apply: Self::forget, undo: Self::remember },
        Step { name: "destroy", apply: Self::destroy, undo: keep },
        Step { name: "trim", apply: Self::trim, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.name.clone()
    }
}

impl Thin {
    /// What may go now; none: nothing.
    pub fn plan(world: &World, owner: &Owner) -> Done<Option<Self>> {
        if world.is_pinned(&owner.id) {
            return Ok(None);
        }
        let now = world.now();
        let snapshots = owner.snapshots(world)?;
        let pinned: BTreeSet<SnapshotId> = world
            .catalog
            .of::<BookmarkRecord>(owner.id.as_str())?
            .into_iter()
            .map(|bookmark| bookmark.snapshot)
            .collect();
        let free: Vec<&SnapshotRecord> = snapshots.iter().filter(|snapshot| !pinned.contains(&snapshot.id)).collect();
        let moments: Vec<Timestamp> = free.iter().map(|snapshot| snapshot.moment).collect();
        let policy = &owner.app.policy;
        // What `@latest` of an app stands on.
        let taken = as_taken(owner, &snapshots);
        let newest_prepared = taken.iter().rev().find(|one| owner.clone.is_none() && one.prepared.is_some());
        let mut gone: Vec<&SnapshotRecord> =
            policy.expendable(&moments, now).into_iter().map(|index| free[index]).collect();
        gone.retain(|snapshot| newest_prepared.is_none_or(|newest| newest.id != snapshot.id));
        let left: Vec<_> = free.iter().filter(|one| !gone.iter().any(|other| other.id == one.id)).copied().collect();
        gone.extend(unserved(owner, &snapshots, &left, now)?);
        let next_tier = now.checked_add(SignedDuration::from_hours(1)).unwrap_or(now);
        let recent: BTreeSet<&SnapshotId> =
            snapshots.iter().rev().filter(|one| one.prepared.is_some()).take(PREPARED).map(|one| &one.id).collect();
        let unprepared: Vec<&SnapshotRecord> = policy
            .expendable(&moments, next_tier)
            .into_iter()
            .map(|index| free[index])
            .filter(|one| one.prepared.is_some() && one.prepared != one.raw && one.raw.is_some())
            .filter(|one| newest_prepared.is_none_or(|newest| newest.id != one.id))
            .filter(|one| !recent.contains(&one.id) && !gone.iter().any(|other| other.id == one.id))
            .collect();
        let mut former = None;
        if let Some(clone) = &owner.clone
            && let Some(over) = clone.former.as_ref().filter(|former| former.until <= now)
            && in_use::users(world, clone, &over.sources)?.is_empty()
        {
            former = Some(over.clone());
        }
        if gone.is_empty() && unprepared.is_empty() && former.is_none() {
            return Ok(None);
        }
        Ok(Some(Self {
            name: owner.name.clone(),
            owner: owner.id.clone(),
            gone: gone.into_iter().cloned().collect(),
            unprepared: unprepared.into_iter().cloned().collect(),
            former,
        }))
    }

    /// Drops the records. What was bookmarked, or is being looked at, since the plan was made stays.
    fn forget(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let (mut gone, mut unprepared) = (self.gone.clone(), self.unprepared.clone());
        world.catalog.change(Durability::Ordered, |change| {
            let all = world.is_pinned(&self.owner);
            let pinned: BTreeSet<SnapshotId> =
                change.all::<BookmarkRecord>()?.into_iter().map(|bookmark| bookmark.snapshot).collect();
            gone.retain(|record| !all && !pinned.contains(&record.id));
            unprepared.retain(|record| !all && !pinned.contains(&record.id));
            for record in &gone {
                change.delete::<SnapshotRecord>(record.id.as_str())?;
            }
            for record in &unprepared {
                change.put(&SnapshotRecord { prepared: None, ..record.clone() })?;
            }
            set_former(change, &self.owner, self.former.as_ref(), None)
        })?;
        (self.gone, self.unprepared) = (gone, unprepared);
        Ok(())
    }

    /// Nothing is destroyed yet: the records are put back.
    fn remember(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.change(Durability::Ordered, |change| {
            for record in self.gone.iter().chain(&self.unprepared) {
                change.put(record)?;
            }
            set_former(change, &self.owner, self.former.as_ref(), self.former.clone())
        })?)
    }

    fn destroy(&mut self, run: &Run) -> Done<()> {
        let pool = run.world.pool()?;
        let trees = self.gone.iter().flat_map(trees_of);
        for tree in trees.chain(self.unprepared.iter().filter_map(|record| record.prepared.clone())) {
            pool.destroy_snapshot(&tree)?;
        }
        let former = self.former.iter().flat_map(|former| former.sources.values());
        let volumes: BTreeSet<&VolumeId> = former.map(|source| &source.volume).collect();
        provision::destroy(run, volumes)
    }

    /// Log that no snapshot within the policy's time needs any more goes.
    fn trim(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let Some(owner) = Owner::load(world, &self.owner)? else { return Ok(()) };
        let snapshots = owner.snapshots(world)?;
        let keep_from = kept_from(&owner, world.now());
        for (name, held) in &owner.sources {
            let marks: Vec<_> = snapshots
                .iter()
                .filter_map(|snapshot| Some((snapshot.moment, mark(snapshot, name)?)))
                .filter(|(_, mark)| mark.rolls)
                .collect();
            // The last snapshot before the border is where the first kept second starts from.
            let base = marks.iter().rev().find(|(moment, _)| *moment <= keep_from).or_else(|| marks.first());
            if let Some((_, mark)) = base {
                held.engine.trim(&held.seat.log, &mark.from)?;
            }
        }
        Ok(())
    }
}

/// Since when log is kept.
fn kept_from(owner: &Owner, now: Timestamp) -> Timestamp {
    now.checked_sub(SignedDuration::from_secs(owner.app.policy.log_keep_seconds)).unwrap_or(Timestamp::MIN)
}

/// Snapshots of an app that were not prepared, and whose log is kept no more: nothing can be made of them. A clone's are
/// whole without their log.
fn unserved<'a>(
    owner: &Owner,
    all: &[SnapshotRecord],
    of: &[&'a SnapshotRecord],
    now: Timestamp,
) -> Done<Vec<&'a SnapshotRecord>> {
    let keep_from = kept_from(owner, now);
    // From there on log is kept.
    let Some(base) = all.iter().rev().find(|one| one.moment <= keep_from) else { return Ok(Vec::new()) };
    let is_old = |one: &&&SnapshotRecord| one.prepared.is_none() && one.moment < base.moment;
    let mut old: Vec<&SnapshotRecord> = of.iter().filter(is_old).copied().collect();
    if old.is_empty() || owner.clone.is_some() {
        return Ok(Vec::new());
    }
    let mut stretches = BTreeMap::new();
    for (name, held) in &owner.sources {
        stretches.insert(name, held.engine.stretches(&held.seat.log)?);
    }
    let is_there = |name: &Name, mark: &Mark| {
        let mut kept = stretches.get(name).into_iter().flatten();
        kept.any(|one| one.epoch == mark.from.epoch && one.first <= mark.from.lsn)
    };
    let lacks = |one: &SnapshotRecord| {
        owner.sources.keys().any(|name| mark(one, name).is_some_and(|mark| mark.rolls && !is_there(name, &mark)))
    };
    old.retain(|one| lacks(one));
    Ok(old)
}

/// Sets a clone's former state, if this is about one.
fn set_former(
    change: &Change<'_>,
    owner: &OwnerId,
    about: Option<&Former>,
    former: Option<Former>,
) -> Result<(), CatalogError> {
    if about.is_none() {
        return Ok(());
    }
    match change.get::<CloneRecord>(owner.as_str())? {
        Some(clone) => change.put(&CloneRecord { former, ..clone }),
        None => Ok(()),
    }
}
