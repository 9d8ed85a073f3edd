//! `refresh`, `rewind` and `undo`: a clone's data is replaced, its name, address and password stay. What it
//! had before is kept for an hour, or until the next time.
//!
//! # Crash consistency
//! New volumes are made beside the old ones. The old server is stopped, the new tree started and let in to,
//! and only then does the record name the new volumes: that is the point of no return. Before it, undo
//! destroys the new volumes and starts the old server again. Hooks and edits come before it too: `configure-clone`
//! works on the new volumes before the record names them, a `post` hook while the old ones are still there. The snapshot
//! that a new timeline begins with has its id from birth; undo destroys it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use pando_catalog::{CloneRecord, CloneSource, Former, Sealed, SnapshotRecord};
use pando_model::{CloneState, HookPoint, Moment, Name, OwnerId, PoolSnapshotId, SnapshotId, Timing, UnitId, VolumeId};
use serde::{Deserialize, Serialize};

use super::bookmark::drop_snapshot;
use super::clone::manner;
use super::provision;
use super::snapshot::Snapshot;
use crate::containers;
use crate::fault::{Done, Fault, failed, refused};
use crate::hooks;
use crate::journal::{Run, Step, Verb, keep, run_now};
use crate::moments::{self, Plan};
use crate::owner::Owner;
use crate::volumes::compose;
use crate::world::{Pin, World};
use crate::{units, volumes};

/// How long the former state is kept.
const GRACE: SignedDuration = SignedDuration::from_hours(1);

/// Where the new data comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Origin {
    /// A moment of the parent.
    Parent,
    /// A moment of the clone's own timeline.
    Own,
    /// The former state.
    Former,
}

impl Origin {
    /// What people call it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Parent => "refresh",
            Self::Own => "rewind",
            Self::Former => "undo",
        }
    }
}

/// A clone getting other data.
#[derive(Serialize, Deserialize)]
pub struct Refresh {
    clone: Name,
    origin: Origin,
    moment: Option<Moment>,
    /// The record as it was.
    before: CloneRecord,
    plan: Option<Plan>,
    fresh: Vec<VolumeId>,
    volumes: BTreeMap<PoolSnapshotId, VolumeId>,
    sources: BTreeMap<Name, CloneSource>,
    /// What the new data's timeline begins with, if the clone records.
    snapshot: Option<SnapshotId>,
    /// The hooks' unit.
    hook: UnitId,
    /// Whether the new data is masked.
    #[serde(default)]
    masked: bool,
    /// What lets in until all is masked, where something masks.
    #[serde(default)]
    before_masking: Option<Sealed>,
    /// From the plan until its trees are copied.
    #[serde(skip)]
    pin: Option<Pin>,
    /// When it was asked for, and how long the new volumes took.
    #[serde(skip)]
    begun: Option<(Instant, u64)>,
}

impl Verb for Refresh {
    const WORD: &'static str = "refresh";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "pre-hooks", apply: Self::pre, undo: Self::no_hook },
        Step { name: "resolve", apply: Self::resolve, undo: keep },
        Step { name: "volume", apply: Self::volume, undo: Self::no_volume },
        Step { name: "halt", apply: Self::halt, undo: keep },
        Step { name: "stop", apply: Self::stop, undo: Self::start_again },
        Step { name: "stage", apply: Self::stage, undo: keep },
        Step { name: "start", apply: Self::start, undo: Self::stop_new },
        Step { name: "admit", apply: Self::admit, undo: keep },
        Step { name: "configure", apply: Self::configure, undo: Self::no_hook },
        Step { name: "hand-over", apply: Self::hand_over, undo: keep },
        Step { name: "swap", apply: Self::swap, undo: Self::swap_back },
        Step { name: "resume", apply: Self::resume, undo: Self::halt_new },
        Step { name: "post-hooks", apply: Self::post, undo: Self::no_hook },
        Step { name: "timeline", apply: Self::timeline, undo: Self::no_timeline },
        Step { name: "clear", apply: Self::clear, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 14;

    fn subject(&self) -> Name {
        self.clone.clone()
    }

    fn word(&self) -> &'static str {
        self.origin.word()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "clone": self.clone }))
    }
}

impl Refresh {
    /// A refresh (from the parent), a rewind (own timeline) or an undo (former state).
    pub fn new(world: &World, clone: Name, origin: Origin, moment: Option<Moment>) -> Done<Self> {
        let owner = Owner::named(world, &clone)?;
        let record = owner.clone_record()?;
        if !matches!(record.state, CloneState::Running | CloneState::Stopped | CloneState::Failed) {
            return Err(refused(format!("{clone} is {}", record.state))
                .hint("`pando ops` shows what goes on; if it is stuck, restart the daemon")
                .into());
        }
        if origin == Origin::Former && record.former.as_ref().is_none_or(|former| former.until <= world.now()) {
            return Err(refused(format!("{clone} has no former state to go back to"))
                .hint("the state before a refresh or rewind is kept for an hour")
                .into());
        }
        if origin == Origin::Parent && record.parent == owner.id {
            return Err(refused(format!("{clone} was made empty: it has no parent to be refreshed from"))
                .hint(format!("pando rewind {clone}@MOMENT sets it back to a snapshot of its own"))
                .into());
        }
        // A project of its own is stopped for it.
        if record.compose.is_none() {
            volumes::refuse_in_use(world, record, &record.sources)?;
        }
        provision::can_go(world, &owner)?;
        if origin != Origin::Former {
            volumes::refuse_former_in_use(world, record)?;
            world.need_room()?;
        }
        Ok(Self {
            clone,
            origin,
            moment,
            fresh: provision::fresh_volumes(world, record.sources.len()),
            before: record.clone(),
            plan: None,
            volumes: BTreeMap::new(),
            sources: BTreeMap::new(),
            snapshot: record.record.then(|| {
                let (millis, random) = world.id();
                SnapshotId::from_parts(millis, random)
            }),
            hook: hooks::fresh_unit(world),
            masked: false,
            before_masking: None,
            pin: None,
            begun: Some((world.clock.instant(), 0)),
        })
    }

    /// The hooks of a refresh or a rewind; an undo has none.
    fn hooks(&self, run: &Run, of_refresh: HookPoint, of_rewind: HookPoint) -> Done<()> {
        let point = match self.origin {
            Origin::Parent => of_refresh,
            Origin::Own => of_rewind,
            Origin::Former => return Ok(()),
        };
        hooks::run_at(run, &self.hook, point, &Owner::named(&run.world, &self.clone)?)
    }

    fn pre(&mut self, run: &Run) -> Done<()> {
        self.hooks(run, HookPoint::PreRefresh, HookPoint::PreRewind)
    }

    fn post(&mut self, run: &Run) -> Done<()> {
        self.hooks(run, HookPoint::PostRefresh, HookPoint::PostRewind)
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    fn record(&self, run: &Run) -> Done<CloneRecord> {
        Ok(Owner::named(&run.world, &self.clone)?.clone_record()?.clone())
    }

    fn resolve(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let owner = Owner::named(world, &self.clone)?;
        let record = owner.clone_record()?.clone();
        if self.origin == Origin::Former {
            let former = record.former.ok_or_else(|| Fault::Problem(refused("there is no former state")))?;
            self.sources = former.sources;
            return Ok(());
        }
        let from = match self.origin {
            Origin::Own => owner,
            _ => Owner::load(world, &record.parent)?
                .ok_or_else(|| Fault::Problem(refused(format!("the parent of {} is gone", self.clone))))?,
        };
        let _claim = match &from.clone {
            // A clone may be refreshed or removed at any time: not while it is copied.
            Some(parent) if self.origin == Origin::Parent => {
                Some(world.claim(&[parent.name.to_string()], "refresh", false)?)
            }
            _ => None,
        };
        let moment = self.moment.clone().unwrap_or(Moment::Latest);
        self.pin = Some(world.pin(&from.id));
        let plan = moments::resolve(run, &from, &moment)?;
        self.volumes = provision::volumes(&plan, &self.fresh);
        self.sources = provision::sources(world, &from, &plan, &self.volumes, Some(&record.sources))?;
        self.plan = Some(plan);
        Ok(())
    }

    fn volume(&mut self, run: &Run) -> Done<()> {
        let begun = run.world.clock.instant();
        provision::make(run, &self.volumes)?;
        self.pin = None;
        self.begun = self.begun.map(|(asked, _)| (asked, millis(begun)));
        Ok(())
    }

    fn no_volume(&mut self, run: &Run) -> Done<()> {
        provision::destroy(run, &self.fresh)
    }

    fn set_state(&self, run: &Run, state: CloneState, problem: Option<String>) -> Done<()> {
        let mut record = self.record(run)?;
        record.state = state;
        record.problem = problem;
        Ok(run.world.catalog.note(&record)?)
    }

    /// Whether the old servers may have been stopped: the record says so before they are.
    fn is_stopped(&self, run: &Run) -> Done<bool> {
        Ok(self.record(run)?.state == CloneState::Refreshing)
    }

    /// Stops the containers of the clone's project. Those that ran are started at the end, also of one that fails.
    fn halt(&mut self, run: &Run) -> Done<()> {
        compose::halt(run, &self.before.id)
    }

    fn resume(&mut self, run: &Run) -> Done<()> {
        compose::resume(run, &self.before.id)
    }

    /// The new data is about to go: nobody may use it.
    fn halt_new(&mut self, run: &Run) -> Done<()> {
        if trees(&self.record(run)?.sources) == trees(&self.sources) { self.halt(run) } else { Ok(()) }
    }

    /// Stops the old servers. Their data may be wanted back: an orderly stop.
    fn stop(&mut self, run: &Run) -> Done<()> {
        self.set_state(run, CloneState::Refreshing, None)?;
        run.pass("refresh.stop.marked")?;
        // Nobody mounts it from here on: who does not see it now will not.
        volumes::refuse_in_use(&run.world, &self.before, &self.before.sources)?;
        units::stop_all(&run.world, &Owner::named(&run.world, &self.clone)?)
    }

    /// Brings the old servers back. That they do not come up is the clone's failure, not the undo's.
    fn start_again(&mut self, run: &Run) -> Done<()> {
        if !self.is_stopped(run)? {
            return Ok(());
        }
        let owner = Owner::named(&run.world, &self.clone)?;
        provision::link_paths(&run.world, &self.clone, &owner)?;
        // Its log begins a new stretch.
        run.world.drop_live(&owner.id);
        if self.before.state == CloneState::Running {
            match provision::start_again(run, &owner, self.before.record) {
                Err(Fault::Problem(problem)) if !run.world.is_stopping() => {
                    return self.set_state(run, CloneState::Failed, Some(problem.to_string()));
                }
                outcome => outcome?,
            }
        }
        self.set_state(run, self.before.state, self.before.problem.clone())
    }

    /// Whether the new data comes from a server in a container, and is handed on as it is: see `clone`.
    fn as_it_is(&self, run: &Run) -> Done<bool> {
        Ok(self.before.elsewhere
            && match (self.origin, &self.before.parent) {
                (Origin::Parent, OwnerId::App(_)) => false,
                (Origin::Parent, OwnerId::Clone(parent)) => {
                    run.world.catalog.get::<CloneRecord>(parent.as_str())?.is_some_and(|parent| parent.elsewhere)
                }
                (Origin::Own | Origin::Former, _) => true,
            })
    }

    /// The clone as it will be.
    fn fresh(&self, run: &Run) -> Done<Owner> {
        Owner::of_clone_with(&run.world, self.record(run)?, &self.sources)
    }

    fn stage(&mut self, run: &Run) -> Done<()> {
        let owner = self.fresh(run)?;
        if let Some(plan) = &self.plan
            && !self.as_it_is(run)?
        {
            let manner = manner(owner.clone_record()?, &owner.app);
            containers::note(&mut self.sources, &containers::check(run, &owner)?);
            provision::stage(&owner, &provision::ports(&self.sources), plan, &manner)?;
        }
        Ok(())
    }

    fn start(&mut self, run: &Run) -> Done<()> {
        if self.as_it_is(run)? { Ok(()) } else { provision::start(run, &self.fresh(run)?) }
    }

    fn stop_new(&mut self, run: &Run) -> Done<()> {
        if self.before.elsewhere {
            // None may run here: whatever of it runs is what this began.
            return self.before.sources.values().try_for_each(|source| units::kill(&run.world, &source.units));
        }
        if !self.is_stopped(run)? {
            return Ok(());
        }
        units::kill_all(&run.world, &self.fresh(run)?)
    }

    fn admit(&mut self, run: &Run) -> Done<()> {
        if self.as_it_is(run)? {
            return Ok(());
        }
        let mut owner = self.fresh(run)?;
        // What an undo brings back was configured before.
        self.before_masking = match &self.plan {
            Some(_) => provision::password_before_masking(&run.world, &owner.app)?,
            None => None,
        };
        provision::admit_first(run, &mut owner, self.before_masking.as_ref())
    }

    /// Stitches the new data. The clone's stable links point to it from here on.
    fn configure(&mut self, run: &Run) -> Done<()> {
        let Some(plan) = &self.plan else { return Ok(()) };
        let mut record = self.record(run)?;
        record.moment = plan.moment;
        let owner = Owner::of_clone_with(&run.world, record, &self.sources)?;
        provision::link_paths(&run.world, &self.clone, &owner)?;
        run.pass("refresh.configure.linked")?;
        let before = plan.masked;
        let masks = !self.as_it_is(run)? && provision::configure(run, &self.hook, owner, self.before_masking.as_ref())?;
        self.masked = masks || before;
        Ok(())
    }

    fn hand_over(&mut self, run: &Run) -> Done<()> {
        if !self.before.elsewhere || self.plan.is_none() {
            return Ok(());
        }
        let owner = self.fresh(run)?;
        let manner = manner(owner.clone_record()?, &owner.app);
        provision::hand_over(run, &owner, &manner)
    }

    /// The record names the new volumes; the old ones become the former state.
    fn swap(&mut self, run: &Run) -> Done<()> {
        let mut record = self.record(run)?;
        let before = &self.before;
        match (&self.plan, &before.former) {
            (Some(plan), _) => {
                record.moment = plan.moment;
                record.asked = plan.asked.clone();
                record.snapshot = plan.snapshot.clone();
                record.masked = self.masked;
            }
            (None, Some(back)) => {
                record.moment = back.moment;
                record.asked = back.asked.clone();
                record.snapshot = back.snapshot.clone();
                record.masked = back.masked;
            }
            (None, None) => return Err(failed("there is no former state").into()),
        }
        record.former = Some(Former {
            sources: before.sources.clone(),
            moment: before.moment,
            asked: before.asked.clone(),
            snapshot: before.snapshot.clone(),
            until: run.world.now().checked_add(GRACE).unwrap_or(Timestamp::MAX),
            masked: before.masked,
        });
        record.sources = self.sources.clone();
        record.state = if record.elsewhere { CloneState::Stopped } else { CloneState::Running };
        record.problem = None;
        run.world.catalog.note(&record)?;
        run.pass("refresh.swap.named")?;
        provision::link_paths(&run.world, &self.clone, &Owner::of_clone(&run.world, record)?)
    }

    fn swap_back(&mut self, run: &Run) -> Done<()> {
        let mut record = self.record(run)?;
        if trees(&record.sources) != trees(&self.sources) {
            // A crash of the machine may have kept the new links and lost that the record named what they lead to.
            let owner = Owner::of_clone(&run.world, record)?;
            return provision::link_paths(&run.world, &self.clone, &owner);
        }
        let before = self.before.clone();
        record.moment = before.moment;
        record.asked = before.asked;
        record.snapshot = before.snapshot;
        record.former = before.former;
        record.masked = before.masked;
        record.sources = before.sources;
        record.state = CloneState::Refreshing;
        Ok(run.world.catalog.note(&record)?)
    }

    /// A recording clone can be rewound to any second from now on: its new log begins with a snapshot, as that of
    /// a new clone does.
    fn timeline(&mut self, run: &Run) -> Done<()> {
        // What was known of the old servers' log says nothing about the new one.
        run.world.drop_live(&OwnerId::Clone(self.before.id.clone()));
        let Some(id) = self.snapshot.clone() else { return Ok(()) };
        if run.world.catalog.get::<SnapshotRecord>(id.as_str())?.is_some_and(|made| made.complete) {
            return Ok(());
        }
        let owner = Owner::of_clone(&run.world, self.record(run)?)?;
        run_now(&run.world, Snapshot::with_id(&run.world, &owner, id)).map(drop)
    }

    fn no_timeline(&mut self, run: &Run) -> Done<()> {
        self.snapshot.iter().try_for_each(|id| drop_snapshot(run, id))
    }

    /// What was the former state before this goes, unless it is what the clone has now.
    fn clear(&mut self, run: &Run) -> Done<()> {
        run.world.drop_live(&OwnerId::Clone(self.before.id.clone()));
        if let Some((asked, storage_ms)) = self.begun {
            let timing = Timing { storage_ms, ready_ms: millis(asked) };
            run.world.catalog.note(&CloneRecord { timing, ..self.record(run)? })?;
        }
        match (&self.plan, &self.before.former) {
            (Some(_), Some(former)) => provision::destroy(run, trees(&former.sources)),
            _ => Ok(()),
        }
    }
}

fn millis(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn trees(sources: &BTreeMap<Name, CloneSource>) -> BTreeSet<&VolumeId> {
    sources.values().map(|source| &source.volume).collect()
}
