//! `snapshot`: freezes the state of an app's mirror or of a clone.
//!
//! For an app with directories the databases are held where they are, the directories are synced, and then
//! everything is frozen at once: so the databases stand at or before the moment, the files at or after it.
//! The moment is the beginning of the sync, by production's clock. Without directories it is what the log is complete
//! up to.
//!
//! With a fence production's writes are held for some seconds while the directories are synced once more and the logs
//! are brought up to one second: the cut is exact. Production ends a fence by itself when its time is over; a snapshot
//! whose fence fell before it was done fails.
//!
//! # Crash consistency
//! The record is written first, incomplete: nobody sees it. Undo destroys the trees of that record, lets
//! held databases and paused units go on, and drops the record.

use std::collections::BTreeMap;
use std::time::Duration;

use jiff::Timestamp;
use pando_catalog::{SnapshotRecord, SnapshotSource};
use pando_engine::{Link, Pulse};
use pando_model::{HookPoint, Name, OwnerId, PoolSnapshotId, SnapshotId, UnitId};
use serde::{Deserialize, Serialize};

use crate::fault::{Done, Fault, IntoProblem, failed, refused};
use crate::hooks;
use crate::journal::{Run, Step, Verb, keep, run_now};
use crate::moments::{self, ask_production, files_at, older_work};
use crate::owner::{Owner, tree_seat};
use crate::units;
use crate::world::World;

/// How often the log is looked at for a moment, each time for as long as the engine waits.
const LOOKS: u32 = 8;

/// A snapshot in the making.
#[derive(Serialize, Deserialize)]
pub struct Snapshot {
    owner: OwnerId,
    name: Name,
    /// The snapshot.
    pub id: SnapshotId,
    trees: Vec<PoolSnapshotId>,
    asked: Timestamp,
    /// Seconds for which production's writes may be held.
    #[serde(default)]
    fence: Option<u64>,
    /// The hooks' unit.
    hook: UnitId,
    /// Whether the hooks behind a snapshot were run.
    posted: bool,
}

impl Verb for Snapshot {
    const WORD: &'static str = "snapshot";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "pre-hooks", apply: Self::pre, undo: Self::post_anyway },
        Step { name: "record", apply: Self::record, undo: Self::unrecord },
        Step { name: "sync", apply: Self::sync, undo: Self::unsync },
        Step { name: "freeze", apply: Self::freeze, undo: Self::thaw },
        Step { name: "mark", apply: Self::mark, undo: keep },
        Step { name: "post-hooks", apply: Self::post, undo: Self::no_hook },
    ];
    const POINT_OF_NO_RETURN: usize = 6;

    fn subject(&self) -> Name {
        self.name.clone()
    }

    fn result(&self, world: &World) -> Option<serde_json::Value> {
        let record: SnapshotRecord = world.catalog.get(self.id.as_str()).ok()??;
        Some(serde_json::json!({ "snapshot": record.id, "moment": record.moment }))
    }
}

/// Takes a snapshot of an owner, without claiming its name.
pub fn of_owner(run: &Run, owner: &Owner) -> Done<SnapshotRecord> {
    let world = &run.world;
    let made = run_now(world, Snapshot::new(world, owner))?;
    world.catalog.get(made.id.as_str())?.ok_or_else(|| Fault::Problem(failed("the snapshot just made is gone")))
}

/// A snapshot whose files are not older than a time: one that is there, or a fresh one. Those who ask at
/// once share one. Whoever resolves a moment of a clone has claimed the clone; an app is claimed here.
pub fn not_before(run: &Run, owner: &Owner, time: Timestamp) -> Done<SnapshotRecord> {
    let world = &run.world;
    let _claim = match owner.clone {
        Some(_) => None,
        None => Some(world.claim(&[owner.name.to_string()], "snapshot", true)?),
    };
    // Those who waited may find what they need made by the one before them.
    let fresh = |snapshot: &SnapshotRecord| files_at(owner, snapshot).unwrap_or(snapshot.moment) >= time;
    let newest = owner.snapshots(world)?.into_iter().rev().find(fresh);
    match newest {
        Some(snapshot) => Ok(snapshot),
        None => of_owner(run, owner),
    }
}

impl Snapshot {
    /// A snapshot to be made now.
    pub fn new(world: &World, owner: &Owner) -> Self {
        let (millis, random) = world.id();
        Self::with_id(world, owner, SnapshotId::from_parts(millis, random))
    }

    /// The same, with an id that whoever wants it knows from its own birth.
    pub fn with_id(world: &World, owner: &Owner, id: SnapshotId) -> Self {
        let trees = owner
            .volumes()
            .iter()
            .map(|_| {
                let (millis, random) = world.id();
                PoolSnapshotId::from_parts(millis, random)
            })
            .collect();
        Self {
            owner: owner.id.clone(),
            name: owner.name.clone(),
            id,
            trees,
            asked: world.now(),
            fence: None,
            hook: hooks::fresh_unit(world),
            posted: false,
        }
    }

    /// The same with production's writes held, for at most so many seconds.
    pub fn fenced(world: &World, owner: &Owner, seconds: u64) -> Done<Self> {
        const LONGEST: u64 = 60;
        let refuse = |text: String, hint: &str| Err(Fault::Problem(refused(text).hint(hint)));
        if seconds == 0 || seconds > LONGEST {
            return refuse(format!("a fence stands between one and {LONGEST} seconds"), "--fence 10s");
        }
        if owner.clone.is_some() {
            return refuse(
                format!("{} is a clone: all its sources are frozen at one instant", owner.name),
                "leave --fence out",
            );
        }
        if !owner.sources.values().any(|held| held.engine.can_fence()) {
            return refuse(format!("no source of {} can hold writes", owner.name), "leave --fence out");
        }
        Ok(Self { fence: Some(seconds), ..Self::new(world, owner) })
    }

    fn owner(&self, run: &Run) -> Done<Owner> {
        Owner::load(&run.world, &self.owner)?.ok_or_else(|| Fault::Problem(failed(format!("{} is gone", self.name))))
    }

    fn pre(&mut self, run: &Run) -> Done<()> {
        hooks::run_at(run, &self.hook, HookPoint::PreSnapshot, &self.owner(run)?)
    }

    fn post(&mut self, run: &Run) -> Done<()> {
        self.posted = true;
        hooks::run_at(run, &self.hook, HookPoint::PostSnapshot, &self.owner(run)?)
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    /// What a hook before the snapshot has stopped must go on, whatever came of the snapshot, and also when the
    /// daemon is being stopped. That it fails is said; there is nothing left to be undone for it.
    fn post_anyway(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)?;
        let owner = if self.posted { None } else { Owner::load(&run.world, &self.owner)? };
        let Some(owner) = owner else { return Ok(()) };
        match hooks::run_anyway(run, &self.hook, HookPoint::PostSnapshot, &owner) {
            Err(Fault::Problem(problem)) => {
                run.world.event("hook-failed", Some(&self.name), &problem.to_string());
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn record(&mut self, run: &Run) -> Done<()> {
        run.world.need_room()?;
        self.asked = run.world.now();
        let record = SnapshotRecord {
            id: self.id.clone(),
            owner: self.owner.clone(),
            taken_at: self.asked,
            moment: self.asked,
            complete: false,
            raw: self.trees.first().cloned(),
            more: self.trees.iter().skip(1).cloned().collect(),
            prepared: None,
            sources: BTreeMap::new(),
            problem: None,
            tried_at: None,
            masked: self.owner(run)?.clone.is_some_and(|clone| clone.masked),
        };
        Ok(run.world.catalog.note(&record)?)
    }

    fn unrecord(&mut self, run: &Run) -> Done<()> {
        Ok(run.world.catalog.delete::<SnapshotRecord>(self.id.as_str())?)
    }

    /// Holds the databases and brings the directories up to date.
    fn sync(&mut self, run: &Run) -> Done<()> {
        let owner = self.owner(run)?;
        let Some(seconds) = self.fence else { return self.sync_held(run, &owner) };
        // What takes long is done before anybody has to wait.
        sync_all(run, &owner)?;
        for held in owner.sources.values().filter(|held| held.engine.can_fence()) {
            held.engine.fence(&held.source, Duration::from_secs(seconds))?;
        }
        for (name, _) in
            owner.sources.iter().filter(|(_, held)| units::has_server(held.kind) && !held.engine.can_fence())
        {
            let text = format!("{name} cannot hold writes: it is as near to the cut as without a fence");
            run.world.event("fence-without", Some(&self.name), &text);
        }
        run.pass("snapshot.sync.fenced")?;
        self.sync_held(run, &owner)?;
        self.asked = moments::one_second(run, &owner)?;
        for (name, held) in owner.sources.iter().filter(|(_, held)| held.engine.can_fence()) {
            if !held.engine.unfence(&held.source)? {
                let text = format!("the fence of {name} fell after {seconds} s, before the snapshot was done");
                return Err(failed(text).hint("a longer one: --fence 30s").into());
            }
        }
        Ok(())
    }

    /// Holds the databases where they are and brings the directories up to date behind them.
    fn sync_held(&mut self, run: &Run, owner: &Owner) -> Done<()> {
        let mut syncs = self.fence.is_some();
        for held in owner.sources.values().filter(|_| owner.clone.is_none()) {
            syncs |= held.engine.sync(&held.seat, &held.source)?.is_some();
        }
        for held in owner.sources.values().filter(|held| syncs || held.engine.must_hold()) {
            // What helps against refusals of production's does not help here.
            let hint = format!("`pando show {}` says how it is doing", owner.name);
            held.engine.hold(&held.seat, &held.source).map_err(|error| error.into_problem().hint(hint))?;
        }
        if !syncs {
            return Ok(());
        }
        self.asked = run.world.now();
        sync_all(run, owner)
    }

    fn unsync(&mut self, run: &Run) -> Done<()> {
        let Some(owner) = Owner::load(&run.world, &self.owner)? else { return Ok(()) };
        for held in owner.sources.values() {
            if owner.clone.is_none() || held.engine.must_hold() {
                if let Some(unit) = held.units.get("sync") {
                    run.world.runtime.ensure_gone(unit)?;
                }
                // Production ends it by itself if this does not.
                if self.fence.is_some()
                    && let Err(error) = held.engine.unfence(&held.source)
                {
                    tracing::debug!(%error, "a fence could not be lowered; it ends by itself");
                }
                // A mirror whose server is down holds nothing.
                if let Err(error) = held.engine.release(&held.seat, &held.source) {
                    tracing::debug!(%error, "a mirror could not be released; it is restarted without a hold");
                }
            }
        }
        Ok(())
    }

    /// Freezes all volumes. Units are paused where one snapshot is not one instant: between several
    /// volumes, on drivers that copy file by file, and for clones, whose servers may write without
    /// protection against torn pages.
    fn freeze(&mut self, run: &Run) -> Done<()> {
        let owner = self.owner(run)?;
        if owner.clone.is_some() {
            super::provision::within_reach(&owner)?;
        }
        let pool = run.world.pool()?;
        let pause = owner.clone.is_some() || !pool.capabilities().atomic_snapshot;
        let running: Vec<_> = owner.sources.values().filter_map(|held| held.units.get("server")).collect();
        if pause {
            for unit in &running {
                run.world.runtime.pause(unit)?;
            }
            run.pass("snapshot.freeze.paused")?;
        }
        let taken: Done<()> = owner
            .volumes()
            .iter()
            .zip(&self.trees)
            .try_for_each(|(volume, tree)| pool.snapshot(volume, tree).map(drop).map_err(Fault::from));
        if pause {
            for unit in &running {
                run.world.runtime.resume(unit)?;
            }
        }
        taken
    }

    fn thaw(&mut self, run: &Run) -> Done<()> {
        if let Some(owner) = Owner::load(&run.world, &self.owner)? {
            for unit in owner.sources.values().filter_map(|held| held.units.get("server")) {
                run.world.runtime.resume(unit)?;
            }
        }
        let pool = run.world.pool()?;
        for tree in &self.trees {
            pool.destroy_snapshot(tree)?;
        }
        Ok(())
    }

    /// Says what the trees hold, and shows the snapshot.
    fn mark(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let owner = self.owner(run)?;
        let synced = owner.clone.is_none() && owner.sources.values().any(|held| !units::has_log(held.kind));
        let held_back = synced || self.fence.is_some();
        for held in owner.sources.values().filter(|held| held_back || held.engine.must_hold()) {
            held.engine.release(&held.seat, &held.source)?;
        }
        let volumes = owner.volumes();
        let mut marks = BTreeMap::new();
        for (name, held) in &owner.sources {
            let tree = volumes
                .iter()
                .position(|volume| *volume == held.volume)
                .and_then(|index| self.trees.get(index))
                .ok_or_else(|| Fault::Problem(failed("a source has no tree")))?;
            let seat = tree_seat(world, &held.seat, name, tree)?;
            let mark = held.engine.mark(&seat, &held.seat, &held.source, self.asked, owner.clone.is_some())?;
            marks.insert(name.clone(), (tree.clone(), mark));
        }
        if synced {
            self.asked = self.wait_for_log(run, &owner)?;
        }
        let moment = if synced || owner.clone.is_some() || self.fence.is_some() {
            // A tree is not rolled back.
            let held_at = marks.values().filter(|(_, mark)| mark.rolls).filter_map(|(_, mark)| mark.from.time).max();
            held_at.map_or(self.asked, |held_at| held_at.max(self.asked))
        } else {
            self.reached(run, &owner, &marks)?
        };
        let mut record: SnapshotRecord = world
            .catalog
            .get(self.id.as_str())?
            .ok_or_else(|| Fault::Problem(failed("the record of the snapshot is gone")))?;
        for (name, (tree, mut mark)) in marks {
            if mark.rolls && mark.from.time.is_none() {
                // Nothing was committed since the log began, so by this moment it is as it was then.
                let heard = world.live(&owner.id, &name).pulse.through;
                mark.at = heard.map_or(moment, |heard| heard.min(moment));
            }
            let at = if mark.rolls { moment } else { mark.at };
            let stored = SnapshotSource { tree, at, mark: serde_json::to_value(&mark).unwrap_or_default() };
            record.sources.insert(name, stored);
        }
        let prepared = owner.clone.is_none() && owner.sources.values().all(|held| !units::has_server(held.kind));
        if prepared {
            // Directories need no preparing.
            record.prepared = record.raw.clone();
        }
        record.moment = moment;
        record.complete = true;
        world.catalog.note(&record)?;
        for name in owner.sources.keys() {
            world.set_live(&owner.id, name, |live| live.changed = false);
        }
        Ok(())
    }

    /// The time up to which the log is complete, durably, once it covers the trees. One that hears nothing of
    /// production is as old as what it heard last: behind that there may be a gap.
    fn reached(
        &self,
        run: &Run,
        owner: &Owner,
        marks: &BTreeMap<Name, (PoolSnapshotId, pando_engine::Mark)>,
    ) -> Done<Timestamp> {
        // A tree is not rolled back: the moment must not lie before what any of them holds, and one source may
        // have been asked longer ago than another was copied.
        let held_at = marks.values().filter(|(_, mark)| mark.rolls).filter_map(|(_, mark)| mark.from.time).max();
        let mut reached: Option<Timestamp> = None;
        for (name, held) in &owner.sources {
            let mut pulse = held.engine.pulse(&held.seat, &held.source, false)?;
            for _ in 0..LOOKS {
                if pulse.link != Link::Following || (pulse.through.is_some() && pulse.through >= held_at) {
                    break;
                }
                pulse = match held.engine.pulse(&held.seat, &held.source, true) {
                    Ok(pulse) => pulse,
                    Err(error) => Pulse { link: Link::Disconnected(error.to_string()), ..pulse },
                };
            }
            run.world.set_live(&owner.id, name, |live| live.pulse = pulse.clone());
            let Some((_, mark)) = marks.get(name) else { continue };
            let stretches = held.engine.stretches(&held.seat.log)?;
            let kept = stretches.iter().filter(|stretch| stretch.epoch == mark.from.epoch);
            let heard = pulse.through.filter(|_| pulse.link == Link::Following);
            let through = heard.or(kept.filter_map(|stretch| stretch.through).max()).unwrap_or(mark.at);
            reached = Some(reached.map_or(through, |known| known.min(through)));
        }
        Ok(reached.unwrap_or(self.asked))
    }

    /// With directories the moment is fixed; the log must be complete up to it before it is promised, or there is
    /// no snapshot. Right after a link, or on a busy machine, one look may not be enough: the log's programs take
    /// seconds to connect. Answers the moment by production's clock, where that is ahead of this machine's or behind it.
    fn wait_for_log(&self, run: &Run, owner: &Owner) -> Done<Timestamp> {
        let mut moment = self.asked;
        for (name, held) in owner.sources.iter().filter(|(_, held)| units::has_log(held.kind)) {
            let through = run.world.live(&owner.id, name).pulse.through;
            // With a fence the moment is production's already.
            let is_ahead = |through: &Timestamp| self.fence.is_none() && *through > run.world.now();
            let mut complete = through.is_some_and(|through| through >= self.asked && !is_ahead(&through));
            for _ in 0..LOOKS {
                if complete {
                    break;
                }
                let pulse = ask_production(owner, held)?;
                // Production was asked after the sync began, and the log has reached what it said.
                complete = pulse.link == Link::Following && pulse.through.is_some();
                if let Some(through) = pulse.through.filter(|_| complete) {
                    let ahead = through.duration_since(run.world.now());
                    moment = match self.asked.checked_add(ahead) {
                        Ok(then) if is_ahead(&through) => moment.max(then),
                        _ => moment.min(through),
                    };
                }
                let away = pulse.link != Link::Following;
                run.world.set_live(&owner.id, name, |live| live.pulse = pulse);
                if away {
                    break;
                }
            }
            if !complete {
                let text = format!("the log of {name} does not reach the moment of the snapshot: production is away");
                return Err(failed(text).hint(older_work(owner)).into());
            }
        }
        Ok(moment)
    }
}

/// Brings all directories up to date.
fn sync_all(run: &Run, owner: &Owner) -> Done<()> {
    for (name, held) in &owner.sources {
        if let Some(plan) = held.engine.sync(&held.seat, &held.source)? {
            units::run_to_end(run, held, &format!("syncing {name}"), plan)?;
        }
    }
    Ok(())
}
