//! From a moment to what serves it: for each source a tree and, where the tree must be rolled forward, the
//! point of the log to stop at.
//!
//! The rules (DESIGN §6): a database shows the last commit at or before the moment. Files have no log: the
//! first state at or after the moment is taken, so that no row points to a file that is not there yet;
//! where there is none, a snapshot is taken now; where that cannot be, the last state, and the skew is said.
//! Of a clone's own past it is the last state at or before the moment: what was removed since is in no later one.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pando_catalog::{BookmarkRecord, SnapshotRecord};
use pando_engine::{Mark, Point, Pulse, Want};
use pando_model::{AppState, Lsn, Moment, Name, PoolSnapshotId, Problem, RangeView, SnapshotId};
use serde::{Deserialize, Serialize};

use crate::fault::{Done, Fault, IntoProblem, not_found, refused};
use crate::journal::Run;
use crate::owner::{Held, Owner};
use crate::verbs::snapshot;
use crate::world::World;

/// What serves one source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SourcePlan {
    /// The tree to copy.
    pub tree: PoolSnapshotId,
    /// Where to stop replay; none: as it is.
    pub to: Option<Point>,
    /// The log to replay.
    pub log: Option<PathBuf>,
    /// The moment it will show.
    pub at: Timestamp,
    /// Seconds off what was asked for.
    pub skew: Option<f64>,
    /// Position in the source's own log, for people.
    pub position: Option<String>,
}

/// What serves a moment.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Plan {
    /// The moment, as a time.
    pub moment: Timestamp,
    /// As typed.
    pub asked: String,
    /// The snapshot that the first database stands on.
    pub snapshot: Option<SnapshotId>,
    /// By name.
    pub sources: BTreeMap<Name, SourcePlan>,
    /// Whether all of it was masked before. What production's mirror holds never is.
    #[serde(default)]
    pub masked: bool,
}

/// Finds what serves a moment of an owner. May wait for the mirror, and may take a snapshot.
pub fn resolve(run: &Run, owner: &Owner, moment: &Moment) -> Done<Plan> {
    let world = &run.world;
    let asked_at = world.now();
    let asked = moment.to_string();
    if owner.app.state == AppState::Detached && owner.clone.is_none() {
        return Err(refused("there is no production behind it to take a moment from")
            .hint("it was imported: `pando rewind` goes back to its own snapshots")
            .into());
    }
    match moment {
        Moment::Latest | Moment::Now if !owner.records() || owner.is_stopped() => {
            let fresh = snapshot::of_owner(run, owner)?;
            whole(owner, &fresh, asked)
        }
        Moment::Latest => latest(world, owner, asked),
        Moment::Now => now(run, owner, asked_at, asked),
        Moment::At(time) => at(run, owner, *time, asked_at, asked),
        Moment::Ago(span) => {
            let time = asked_at.checked_sub(*span).unwrap_or(Timestamp::MIN);
            at(run, owner, time, asked_at, asked)
        }
        Moment::Snapshot(id) => {
            let found = owner.snapshots(world)?.into_iter().find(|snapshot| snapshot.id == *id).ok_or_else(|| {
                Fault::Problem(
                    not_found(format!("{} has no snapshot {id}", owner.name))
                        .hint(format!("`pando timeline {}` shows what there is", owner.name)),
                )
            })?;
            whole(owner, &found, asked)
        }
        Moment::Bookmark(name) => {
            let record: BookmarkRecord = world.catalog.get(&format!("{}/{name}", owner.id))?.ok_or_else(|| {
                Fault::Problem(not_found(format!("{} has no bookmark {name}", owner.name)).hint(format!(
                    "`pando timeline {}` shows bookmarks; a time looks like 2026-11-21T10:00:00Z",
                    owner.name
                )))
            })?;
            let found: SnapshotRecord = world
                .catalog
                .get(record.snapshot.as_str())?
                .ok_or_else(|| Fault::Problem(not_found(format!("the snapshot of bookmark {name} is gone"))))?;
            whole(owner, &found, asked)
        }
        Moment::Lsn(lsn) => lsn_plan(run, owner, *lsn, asked),
        Moment::Gtid(_) => Err(refused(format!("{} has no source with GTIDs", owner.name)).into()),
    }
}

/// The mark of a source in a snapshot.
pub fn mark(snapshot: &SnapshotRecord, source: &Name) -> Option<Mark> {
    serde_json::from_value(snapshot.sources.get(source)?.mark.clone()).ok()
}

fn seconds(span: SignedDuration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A snapshot as it is: prepared, or rolled forward to the moment it stands for.
fn whole(owner: &Owner, snapshot: &SnapshotRecord, asked: String) -> Done<Plan> {
    let mut sources = BTreeMap::new();
    for (name, held) in &owner.sources {
        let stored = snapshot.sources.get(name).ok_or_else(|| {
            Fault::Problem(refused(format!("the snapshot {} does not hold the source {name}", snapshot.id)))
        })?;
        let mark = mark(snapshot, name);
        let rolls = mark.as_ref().is_some_and(|mark| mark.rolls);
        let plan = match (&snapshot.prepared, rolls) {
            (Some(tree), _) => plain(tree, stored.at, snapshot.moment),
            (None, false) => plain(&stored.tree, stored.at, snapshot.moment),
            (None, true) => {
                let rolled = mark.map(|mark| roll(held, &mark, Want::Time(snapshot.moment))).transpose()?.flatten();
                match rolled {
                    Some(to) => rolled_plan(held, &stored.tree, to, snapshot.moment, snapshot.moment),
                    // A clone's tree is whole without its log: it stands where it was frozen, a little behind the moment.
                    None if owner.clone.is_some() => plain(&stored.tree, stored.at, snapshot.moment),
                    None => {
                        let text = format!("the log that the snapshot {} needs is not kept any more", snapshot.id);
                        return Err(refused(text).into());
                    }
                }
            }
        };
        sources.insert(name.clone(), plan);
    }
    let masked = snapshot.masked;
    Ok(Plan { moment: snapshot.moment, asked, snapshot: Some(snapshot.id.clone()), sources, masked })
}

/// Lets a plan that stands on prepared trees stand on what such trees are made of, as far as that is there.
pub fn stand_on_raw(world: &World, owner: &Owner, plan: &mut Plan) -> Done<()> {
    let snapshots = owner.snapshots(world)?;
    for (name, held) in &owner.sources {
        let Some(planned) = plan.sources.get_mut(name).filter(|planned| planned.to.is_none()) else { continue };
        let rolls = |snapshot: &&SnapshotRecord| mark(snapshot, name).is_some_and(|mark| mark.rolls);
        let raw: Vec<SnapshotRecord> = snapshots.iter().filter(rolls).cloned().collect();
        // Where the log is kept no more, the prepared tree is all there is.
        if let Some((_, rolled)) = roll_source(&raw, name, held, plan.moment)? {
            *planned = rolled;
        }
    }
    Ok(())
}

fn plain(tree: &PoolSnapshotId, at: Timestamp, asked: Timestamp) -> SourcePlan {
    SourcePlan {
        tree: tree.clone(),
        to: None,
        log: None,
        at,
        skew: Some(seconds(at.duration_since(asked))),
        position: None,
    }
}

fn rolled_plan(held: &Held, tree: &PoolSnapshotId, to: Point, at: Timestamp, asked: Timestamp) -> SourcePlan {
    SourcePlan {
        tree: tree.clone(),
        position: Some(to.lsn.to_string()),
        to: Some(to),
        log: Some(held.seat.log.clone()),
        at,
        skew: Some(seconds(at.duration_since(asked))),
    }
}

fn roll(held: &Held, mark: &Mark, want: Want) -> Done<Option<Point>> {
    Ok(held.engine.locate(&held.seat.log, &mark.from, want)?)
}

/// An app's snapshots in the order in which they were taken: where production's clock was set back, that is not the order of
/// their moments. What was made for a bookmark of a moment between two of them was not taken. A clone's moments are by
/// this machine's clock.
pub fn as_taken<'a>(owner: &Owner, snapshots: &'a [SnapshotRecord]) -> Vec<&'a SnapshotRecord> {
    if owner.clone.is_some() {
        return snapshots.iter().collect();
    }
    let logged: Vec<&Name> =
        owner.sources.iter().filter(|(_, held)| crate::units::has_log(held.kind)).map(|(name, _)| name).collect();
    let was_taken = |snapshot: &&SnapshotRecord| {
        logged.is_empty() || logged.iter().any(|name| mark(snapshot, name).is_some_and(|mark| mark.rolls))
    };
    let mut taken: Vec<_> = snapshots.iter().filter(was_taken).collect();
    taken.sort_by(|one, two| (one.taken_at, &one.id).cmp(&(two.taken_at, &two.id)));
    taken
}

fn latest(world: &World, owner: &Owner, asked: String) -> Done<Plan> {
    let snapshots = owner.snapshots(world)?;
    let taken = as_taken(owner, &snapshots);
    // Of a clone nothing is prepared but what bookmarks have made, be it of long ago.
    let prepared = taken.iter().rev().find(|snapshot| owner.clone.is_none() && snapshot.prepared.is_some());
    let newest = prepared.or_else(|| taken.last()).ok_or_else(|| {
        Fault::Problem(
            refused(format!("{} has no snapshot yet", owner.name)).hint("wait for `link`, or: pando snapshot"),
        )
    })?;
    whole(owner, newest, asked)
}

/// Whether any source has no log and must be looked at by a sync.
fn needs_sync(owner: &Owner) -> bool {
    owner.sources.values().any(|held| !crate::units::has_log(held.kind))
}

fn now(run: &Run, owner: &Owner, asked_at: Timestamp, asked: String) -> Done<Plan> {
    if needs_sync(owner) {
        let fresh = snapshot::not_before(run, owner, asked_at)?;
        return whole(owner, &fresh, asked);
    }
    // By the log that is ahead: one that was asked later knows of less at the time of the one asked before it.
    let least = reach(run, owner, None)?;
    let latest = latest_of(run, owner).unwrap_or(least);
    let through = if latest > least { reach(run, owner, Some(latest))?.min(latest) } else { least };
    serve_time(run, owner, through, asked)
}

/// The time that the log which is ahead has reached.
fn latest_of(run: &Run, owner: &Owner) -> Option<Timestamp> {
    let logs = owner.sources.iter().filter(|(_, held)| crate::units::has_log(held.kind));
    logs.filter_map(|(name, _)| run.world.live(&owner.id, name).pulse.through).max()
}

fn at(run: &Run, owner: &Owner, time: Timestamp, asked_at: Timestamp, asked: String) -> Done<Plan> {
    // Production's clock may be ahead of this machine's.
    if time > latest_of(run, owner).map_or(asked_at, |heard| heard.max(asked_at)) {
        return Err(nearest(&run.world, owner, time, "lies in the future")?.into());
    }
    let known = owner
        .sources
        .iter()
        .filter(|(_, held)| crate::units::has_log(held.kind))
        .all(|(name, _)| run.world.live(&owner.id, name).pulse.through.is_some_and(|through| through >= time));
    if !known && owner.records() {
        // Not known to be complete yet: ask production where it is, and wait for the log.
        let through = reach(run, owner, Some(time));
        let reached = matches!(&through, Ok(through) if *through >= time);
        if !reached && !ranges(&run.world, owner)?.iter().any(|range| range.from <= time && time <= range.to) {
            let why = if owner.clone.is_some() { "is not in its log" } else { "has not been received from production" };
            return Err(nearest(&run.world, owner, time, why)?.into());
        }
    }
    serve_time(run, owner, time, asked)
}

/// Asks every log how far it is, urgently. Answers the time up to which all are complete.
fn reach(run: &Run, owner: &Owner, enough: Option<Timestamp>) -> Done<Timestamp> {
    let world = &run.world;
    let mut all: Option<Timestamp> = None;
    for (name, held) in &owner.sources {
        if !crate::units::has_log(held.kind) {
            continue;
        }
        let mut through = None;
        for attempt in 0..8 {
            let pulse = ask_production(owner, held)?;
            world.set_live(&owner.id, name, |live| {
                live.changed |= pulse.changed;
                live.pulse = pulse.clone();
            });
            through = pulse.through.filter(|_| pulse.link == pando_engine::Link::Following);
            let reached = through.is_some_and(|through| enough.is_none_or(|enough| through >= enough));
            if reached || world.is_stopping() {
                break;
            }
            if attempt < 7 {
                world.clock.sleep(Duration::from_millis(250));
            }
        }
        let through = through.ok_or_else(|| {
            let what = match owner.clone {
                Some(_) => format!("the log of {} does not go on right now", owner.name),
                None => format!("the mirror of {} is not following production right now", owner.name),
            };
            Fault::Problem(refused(what).hint(older_work(owner)))
        })?;
        all = Some(all.map_or(through, |known| known.min(through)));
    }
    Ok(all.unwrap_or_else(|| world.now()))
}

/// Lets a log advance to where production is now, or the clone whose log it is.
pub fn ask_production(owner: &Owner, held: &Held) -> Done<Pulse> {
    held.engine.pulse(&held.seat, &held.source, true).map_err(|error| {
        let mut problem = error.into_problem();
        let whose = owner.clone.as_ref().map_or("production", |clone| clone.name.as_str());
        problem.message = format!("{whose}'s present state cannot be reached: {}", problem.message);
        Fault::Problem(problem.hint(older_work(owner)))
    })
}

/// What can be done while production, or the clone, is away.
pub fn older_work(owner: &Owner) -> String {
    format!("`pando show {}` says why; `@latest` and older moments work", owner.name)
}

/// A second that all logs have reached, by the clock that is ahead: with production's writes held, no commit lies
/// between what each source shows at it and the hold.
pub fn one_second(run: &Run, owner: &Owner) -> Done<Timestamp> {
    reach(run, owner, None)?;
    let Some(latest) = latest_of(run, owner) else { return Ok(run.world.now()) };
    let logs = owner.sources.values().filter(|held| crate::units::has_log(held.kind)).count();
    if logs > 1 && reach(run, owner, Some(latest))? < latest {
        return Err(refused("the clocks of the sources are too far apart for one second of all")
            .hint("synchronise production's clocks")
            .into());
    }
    Ok(latest)
}

fn serve_time(run: &Run, owner: &Owner, time: Timestamp, asked: String) -> Done<Plan> {
    let world = &run.world;
    let mut snapshots = owner.snapshots(world)?;
    let late =
        needs_sync(owner) && !snapshots.iter().any(|snapshot| files_at(owner, snapshot).is_some_and(|at| at >= time));
    let mut note = None;
    if late && owner.clone.is_none() {
        match snapshot::not_before(run, owner, time) {
            Ok(_) => snapshots = owner.snapshots(world)?,
            Err(Fault::Crash) => return Err(Fault::Crash),
            Err(Fault::Problem(problem)) => note = Some(problem),
        }
    }
    let mut sources = BTreeMap::new();
    let mut base = None;
    let (logged, still): (Vec<_>, Vec<_>) =
        owner.sources.iter().partition(|(_, held)| crate::units::has_log(held.kind));
    for (name, held) in logged {
        let (snapshot, plan) = roll_source(&snapshots, name, held, time)?
            .ok_or_else(|| nearest_or(world, owner, time, "cannot be served"))?;
        base.get_or_insert(snapshot);
        sources.insert(name.clone(), plan);
    }
    for (name, _) in still {
        let plan = still_source(owner, &snapshots, name, time, base.as_ref())
            .ok_or_else(|| nearest_or(world, owner, time, "cannot be served"))?;
        sources.insert(name.clone(), plan);
    }
    if let Some(problem) = note {
        tracing::warn!(%problem, "files could not be synced for a moment; the last state is taken");
    }
    let masked = stands_on_masked(&snapshots, &sources);
    Ok(Plan { moment: time, asked, snapshot: base, sources, masked })
}

/// Whether every tree of a plan is that of a masked clone. The log behind one goes on from what was masked: data that was
/// replaced since begins a stretch of its own.
fn stands_on_masked(snapshots: &[SnapshotRecord], sources: &BTreeMap<Name, SourcePlan>) -> bool {
    let masked: BTreeSet<&PoolSnapshotId> = snapshots
        .iter()
        .filter(|snapshot| snapshot.masked)
        .flat_map(|snapshot| snapshot.sources.values().map(|stored| &stored.tree).chain(&snapshot.prepared))
        .collect();
    sources.values().all(|source| masked.contains(&source.tree))
}

/// The oldest files state of a snapshot, by this machine's clock.
pub fn files_at(owner: &Owner, snapshot: &SnapshotRecord) -> Option<Timestamp> {
    owner
        .sources
        .iter()
        .filter(|(_, held)| !crate::units::has_log(held.kind))
        .filter_map(|(name, _)| snapshot.sources.get(name).map(|stored| stored.at))
        .min()
}

/// A database at a time: from the newest snapshot that does not lie behind it, rolled forward.
fn roll_source(
    snapshots: &[SnapshotRecord],
    name: &Name,
    held: &Held,
    time: Timestamp,
) -> Done<Option<(SnapshotId, SourcePlan)>> {
    // A moment that lies in a gap belongs to no stretch, though older log could be rolled up to the gap.
    for snapshot in snapshots.iter().rev() {
        let (Some(stored), Some(mark)) = (snapshot.sources.get(name), mark(snapshot, name)) else { continue };
        if !mark.rolls {
            if stored.at == time {
                return Ok(Some((snapshot.id.clone(), plain(&stored.tree, stored.at, time))));
            }
            continue;
        }
        if mark.from.time.is_some_and(|from| from > time) || mark.at > time {
            continue;
        }
        if !covers(held, &mark, time)? {
            return Ok(None);
        }
        if let Some(point) = roll(held, &mark, Want::Time(time))? {
            let plan = rolled_plan(held, &stored.tree, point, time, time);
            return Ok(Some((snapshot.id.clone(), plan)));
        }
    }
    Ok(None)
}

/// Whether the stretch of log behind a mark goes as far as a time.
fn covers(held: &Held, mark: &Mark, time: Timestamp) -> Done<bool> {
    let stretches = held.engine.stretches(&held.seat.log)?;
    let newest = stretches.last().map(|stretch| stretch.epoch);
    // The newest stretch was asked for its reach before; an ended one reaches to its last commit.
    Ok(newest == Some(mark.from.epoch)
        || stretches
            .iter()
            .any(|one| one.epoch == mark.from.epoch && one.through.is_some_and(|through| through >= time)))
}

/// A directory at a time: production's as the first sync at or after it found it, else the last one; a clone's own as it
/// was last known by then, but not older than the snapshot that its databases start from: a rewind may lie between.
fn still_source(
    owner: &Owner,
    snapshots: &[SnapshotRecord],
    name: &Name,
    time: Timestamp,
    base: Option<&SnapshotId>,
) -> Option<SourcePlan> {
    let mut states: Vec<_> =
        snapshots.iter().filter_map(|snapshot| Some((&snapshot.id, snapshot.sources.get(name)?))).collect();
    states.sort_by_key(|(_, stored)| stored.at);
    let found = if owner.clone.is_some() {
        states.iter().rfind(|(id, stored)| stored.at <= time || Some(*id) == base).or_else(|| states.first())
    } else {
        states.iter().find(|(_, stored)| stored.at >= time).or_else(|| states.last())
    };
    found.map(|(_, stored)| plain(&stored.tree, stored.at, time))
}

fn lsn_plan(run: &Run, owner: &Owner, lsn: Lsn, asked: String) -> Done<Plan> {
    let world = &run.world;
    let snapshots = owner.snapshots(world)?;
    let mut databases = owner.sources.iter().filter(|(_, held)| crate::units::has_log(held.kind));
    let (Some((name, held)), None) = (databases.next(), databases.next()) else {
        return Err(refused("a log position needs an app with exactly one database").into());
    };
    held.engine.pulse(&held.seat, &held.source, false)?;
    for snapshot in snapshots.iter().rev() {
        let (Some(stored), Some(mark)) = (snapshot.sources.get(name), mark(snapshot, name)) else { continue };
        if !mark.rolls || mark.from.lsn > lsn {
            continue;
        }
        if let Some(point) = roll(held, &mark, Want::Lsn(lsn))? {
            let time = point.time.unwrap_or(mark.at);
            let mut sources = BTreeMap::new();
            sources.insert(name.clone(), rolled_plan(held, &stored.tree, point, time, time));
            for (other, _) in owner.sources.iter().filter(|(other, _)| *other != name) {
                let plan = still_source(owner, &snapshots, other, time, Some(&snapshot.id))
                    .ok_or_else(|| nearest_or(world, owner, time, "cannot be served"))?;
                sources.insert(other.clone(), plan);
            }
            let masked = stands_on_masked(&snapshots, &sources);
            return Ok(Plan { moment: time, asked, snapshot: Some(snapshot.id.clone()), sources, masked });
        }
    }
    Err(refused(format!("the log position {lsn} of {} is not kept", owner.name))
        .hint(format!("`pando timeline {}` shows what there is", owner.name))
        .into())
}

/// The stretches of time any second of which can be asked for.
pub fn ranges(world: &World, owner: &Owner) -> Done<Vec<RangeView>> {
    let snapshots = owner.snapshots(world)?;
    if !owner.records() {
        return Ok(Vec::new());
    }
    let mut common: Option<Vec<RangeView>> = None;
    for (name, held) in owner.sources.iter().filter(|(_, held)| crate::units::has_log(held.kind)) {
        let mut found: Vec<RangeView> = Vec::new();
        // What was received since is not durable yet; what the stretches say is.
        let live = world.live(&owner.id, name).pulse.through;
        let stretches = held.engine.stretches(&held.seat.log)?;
        for stretch in &stretches {
            let from = snapshots
                .iter()
                .filter_map(|snapshot| mark(snapshot, name))
                .filter(|mark| mark.rolls && mark.from.epoch == stretch.epoch && mark.from.lsn >= stretch.first)
                .map(|mark| mark.at)
                .min();
            let newest = stretches.last().is_some_and(|last| last.epoch == stretch.epoch);
            let through = if newest { live.max(stretch.through) } else { stretch.through };
            if let (Some(from), Some(to)) = (from, through)
                && from <= to
            {
                found.push(RangeView { from, to });
            }
        }
        common = Some(match common {
            None => found,
            Some(known) => intersect(&known, &found),
        });
    }
    Ok(common.unwrap_or_default())
}

fn intersect(one: &[RangeView], two: &[RangeView]) -> Vec<RangeView> {
    one.iter()
        .flat_map(|a| two.iter().map(move |b| RangeView { from: a.from.max(b.from), to: a.to.min(b.to) }))
        .filter(|range| range.from <= range.to)
        .collect()
}

fn nearest_or(world: &World, owner: &Owner, time: Timestamp, why: &str) -> Fault {
    nearest(world, owner, time, why).map_or_else(|fault| fault, Fault::Problem)
}

/// The refusal of a moment, with the nearest ones that can be served.
fn nearest(world: &World, owner: &Owner, time: Timestamp, why: &str) -> Done<Problem> {
    let ranges = ranges(world, owner)?;
    let mut before: Vec<Timestamp> = ranges.iter().map(|range| range.to).collect();
    // A whole second reads better, where it can be served too.
    let mut after: Vec<Timestamp> = ranges
        .iter()
        .map(|range| Some(ceiling(range.from)).filter(|up| *up <= range.to).unwrap_or(range.from))
        .collect();
    for snapshot in owner.snapshots(world)? {
        // One that is rolled forward lies in a range, or cannot be asked for by its time.
        if ranges.is_empty() || owner.sources.keys().any(|name| mark(&snapshot, name).is_some_and(|mark| !mark.rolls)) {
            before.push(snapshot.moment);
            after.push(snapshot.moment);
        }
    }
    let earlier = before.into_iter().filter(|moment| *moment <= time).max();
    let later = after.into_iter().filter(|moment| *moment >= time).min();
    let hint = match (earlier, later) {
        (Some(earlier), Some(later)) => {
            format!("the nearest moments that can be served are {earlier} and {later}")
        }
        (Some(earlier), None) => format!("the last moment that can be served is {earlier}"),
        (None, Some(later)) => format!("the first moment that can be served is {later}"),
        (None, None) if !owner.records() => {
            format!("it keeps no log (pando clone --record does); pando snapshot {} keeps its state of now", owner.name)
        }
        (None, None) => "no moment can be served yet".to_owned(),
    };
    Ok(refused(format!("the moment {time} of {} {why}", owner.name)).hint(hint))
}

/// The next whole second.
fn ceiling(moment: Timestamp) -> Timestamp {
    if moment.subsec_nanosecond() == 0 {
        return moment;
    }
    Timestamp::from_second(moment.as_second() + 1).unwrap_or(moment)
}
