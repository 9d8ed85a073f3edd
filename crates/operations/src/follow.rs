//! The heartbeat: keeps mirrors following, takes and prepares scheduled snapshots, restarts servers that
//! died, ends leases, thins timelines, and pauses mirrors before the pool is full.
//!
//! Each app has two threads: one looks at production's log about three times a second and never waits for
//! storage, one takes snapshots. One more thread looks after clones and cleans up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use pando_catalog::{AppRecord, CloneRecord, Durability, OperationRecord, SnapshotRecord};
use pando_engine::Link;
use pando_model::{AppId, AppState, CloneState, Name, OperationState, OwnerId, Problem, UnitId};
use pando_runtime::UnitState;

use crate::dying::Dying;
use crate::facade::loose_run;
use crate::fault::{Done, Fault, IntoProblem};
use crate::journal::{Run, run_now};
use crate::owner::{Held, Owner};
use crate::verbs::remove::Remove;
use crate::verbs::snapshot::Snapshot;
use crate::verbs::thin::Thin;
use crate::verbs::{link, recover_any};
use crate::volumes::compose;
use crate::world::{World, thresholds};
use crate::{anew, moments, units};

/// How often production's log is looked at.
const PULSE: Duration = Duration::from_millis(300);
/// How often schedules and clones are looked at.
const ROUND: Duration = Duration::from_secs(1);
/// After something went wrong it is tried again no sooner than this.
const REST: Duration = Duration::from_secs(5);
/// What could not be prepared is tried again after so long.
const PREPARE_AGAIN: SignedDuration = SignedDuration::from_mins(10);
/// A stuck operation is tried again after so long.
const STUCK: SignedDuration = SignedDuration::from_secs(30);
/// A unit that died is started again no sooner than this.
const RESTART: SignedDuration = SignedDuration::from_millis(300);
/// A mirror whose files are damaged is made anew no more often than this: a first copy is a load for production, and does not
/// help where this machine is at fault.
const ANEW_EVERY: SignedDuration = SignedDuration::from_hours(24);
/// So long before a lease ends its owner is warned.
const WARNING: SignedDuration = SignedDuration::from_mins(10);
/// How many finished operations are remembered.
const REMEMBERED: usize = 1000;

/// Runs until the world stops.
pub fn run(world: &Arc<World>) {
    let mut apps: BTreeMap<AppId, Vec<JoinHandle<()>>> = BTreeMap::new();
    let clones = {
        let world = Arc::clone(world);
        std::thread::spawn(move || {
            rounds(&world, |world| {
                look_after_clones(world);
                retry_stuck(world);
                tidy(world);
                Some(ROUND)
            });
        })
    };
    while !world.is_stopping() {
        apps.retain(|_, threads| threads.iter().any(|thread| !thread.is_finished()));
        for app in world.catalog.all::<AppRecord>().unwrap_or_default() {
            if matches!(app.state, AppState::Linking | AppState::Removing | AppState::Detached)
                || apps.contains_key(&app.id)
            {
                continue;
            }
            let threads = [follow_thread(world, &app.id), keep_thread(world, &app.id)];
            apps.insert(app.id.clone(), threads.into());
        }
        world.clock.sleep(Duration::from_millis(200));
    }
    for thread in apps.into_values().flatten().chain([clones]) {
        if thread.join().is_err() {
            tracing::error!("a heartbeat thread panicked");
        }
    }
}

/// Calls `round` until it says no more or the world stops; it says how long to rest.
fn rounds(world: &Arc<World>, mut round: impl FnMut(&Arc<World>) -> Option<Duration>) {
    while !world.is_stopping() {
        let Some(mut left) = round(world) else { return };
        // In slices, so that the daemon stops at once.
        while !left.is_zero() && !world.is_stopping() {
            let slice = left.min(Duration::from_millis(100));
            world.clock.sleep(slice);
            left -= slice;
        }
    }
}

fn follow_thread(world: &Arc<World>, app: &AppId) -> JoinHandle<()> {
    let (world, app) = (Arc::clone(world), OwnerId::App(app.clone()));
    std::thread::spawn(move || {
        rounds(&world, |world| {
            let outcome = follow_once(world, &app).map_err(Fault::into_problem);
            if let Err(problem) = &outcome {
                let _ = set_state(world, &app, AppState::Disconnected, Some(problem.to_string()));
            }
            settled(&app, outcome, PULSE)
        });
    })
}

fn keep_thread(world: &Arc<World>, app: &AppId) -> JoinHandle<()> {
    let (world, app) = (Arc::clone(world), OwnerId::App(app.clone()));
    std::thread::spawn(move || {
        rounds(&world, |world| settled(&app, keep_once(world, &app).map_err(Fault::into_problem), ROUND));
    })
}

/// How long to rest before the next look; nothing when the app is gone. What went wrong is tried again later
/// than what went well.
fn settled(app: &OwnerId, outcome: Result<bool, Problem>, pause: Duration) -> Option<Duration> {
    match outcome {
        Ok(there) => there.then_some(pause),
        Err(problem) => {
            tracing::warn!(app = app.as_str(), %problem, "the heartbeat of an app");
            Some(REST)
        }
    }
}

/// Sets an app's state if it is one that the heartbeat owns and differs. A verb may set another at any time:
/// looking and setting are one.
fn set_state(world: &World, id: &OwnerId, state: AppState, problem: Option<String>) -> Done<()> {
    let changed = world.catalog.change(Durability::Ordered, |change| {
        let Some(mut app) = change.get::<AppRecord>(id.as_str())? else { return Ok(None) };
        let ours =
            matches!(app.state, AppState::Following | AppState::Disconnected | AppState::Paused | AppState::Failed);
        if !ours || (app.state == state && app.problem == problem) {
            return Ok(None);
        }
        let changed = app.state != state;
        app.state = state;
        app.problem = problem;
        change.put(&app)?;
        Ok(changed.then_some(app))
    })?;
    if let Some(app) = changed {
        let why = app.problem.as_deref().map(|why| format!(": {why}")).unwrap_or_default();
        world.event(&format!("mirror-{state}"), Some(&app.name), &format!("{} is {state}{why}", app.name));
    }
    Ok(())
}

/// Starts the units that keep a source's mirror up to date, where they do not run.
pub fn ensure_units(world: &World, owner: &Owner, name: &Name, held: &Held) -> Done<()> {
    let (mut missing, mut dead) = (false, None);
    for role in units::following(held.kind) {
        if let Some(unit) = held.units.get(*role)
            && !matches!(world.runtime.state(unit)?, UnitState::Running { .. })
        {
            missing = true;
            dead = dead.or((*role == "server").then_some(unit));
        }
    }
    let (now, live) = (world.now(), world.live(&owner.id, name));
    if dead.is_none() && live.dying.as_ref().is_some_and(|dying| dying.is_over(now)) {
        world.set_live(&owner.id, name, |live| live.dying = None);
    }
    if !missing || live.started.is_some_and(|at| now.duration_since(at) < RESTART) {
        return Ok(());
    }
    if let Some(unit) = dead {
        let Some(dying) = Dying::again(live.dying.as_ref(), now, || words(world, unit)) else { return Ok(()) };
        world.set_live(&owner.id, name, |live| live.dying = Some(dying));
    }
    world.set_live(&owner.id, name, |live| live.started = Some(now));
    // A receiver without its server, or the other way round: both begin anew.
    if let Some(receiver) = held.units.get("receiver") {
        world.runtime.ensure_gone(receiver)?;
    }
    for plan in held.engine.follow(&held.seat, &held.source)? {
        world.runtime.ensure_running(&units::spec(held, plan)?)?;
    }
    Ok(())
}

/// What is claimed by whoever starts or stops the units of a mirror.
pub fn units_of(app: &Name) -> String {
    format!("{app}/units")
}

/// One look at production's log. Answers whether the app is still there.
pub fn follow_once(world: &Arc<World>, id: &OwnerId) -> Done<bool> {
    let Some(owner) = Owner::load(world, id)? else { return Ok(false) };
    let Some(_claim) = world.try_claim(&[units_of(&owner.name)], "follow") else { return Ok(true) };
    // Read again: it may have been told to go, or to pause, before the claim.
    let Some(owner) = Owner::load(world, id)? else { return Ok(false) };
    match owner.app.state {
        // An unlink may be refused yet.
        AppState::Removing | AppState::Linking | AppState::Rebasing | AppState::Paused | AppState::Detached => {
            return Ok(true);
        }
        AppState::Following | AppState::Disconnected | AppState::Failed => {}
    }
    let mut state = AppState::Following;
    let mut problem = None;
    for (name, held) in &owner.sources {
        ensure_units(world, &owner, name, held)?;
        let mut pulse = held.engine.pulse(&held.seat, &held.source, false)?;
        if matches!(pulse.link, Link::Disconnected(_) | Link::Copying(_))
            && let Some(unit) = held.units.get("server")
            && let Some(link) = held.engine.diagnose(&world.runtime.log_tail(unit, 60)?)
        {
            pulse.link = link;
        }
        world.set_live(&owner.id, name, |live| {
            live.changed |= pulse.changed;
            // What was complete stays complete while nothing is heard of production.
            let through = pulse.through.max(live.pulse.through);
            live.pulse = pando_engine::Pulse { through, ..pulse.clone() };
        });
        match pulse.link {
            Link::Following => {}
            Link::Disconnected(why) | Link::Copying(why) => match hopeless(world, &owner, name) {
                None => (state, problem) = (AppState::Disconnected, Some(format!("{name}: {why}"))),
                Some((why, true)) => return lost(world, &owner, &format!("{name}: {why}")).map(|()| true),
                Some((why, false)) => (state, problem) = (AppState::Failed, Some(format!("{name}: {why}"))),
            },
            Link::Lost(why) => return lost(world, &owner, &why).map(|()| true),
            Link::Restart(why) => {
                world.event("mirror-restart", Some(&owner.name), &format!("{name} is restarted: {why}"));
                for unit in ["receiver", "server"].iter().filter_map(|role| held.units.get(*role)) {
                    world.runtime.ensure_gone(unit)?;
                }
                // It did not die by itself.
                world.set_live(&owner.id, name, |live| live.dying = None);
            }
        }
    }
    set_state(world, id, state, problem)?;
    Ok(true)
}

/// What a server that dies at every start has said.
fn words(world: &World, unit: &UnitId) -> String {
    units::died(world, unit, "its server dies at every start").to_string()
}

/// Why a mirror's server does not come up, where it died too often for chance, and whether the mirror is to be made anew.
fn hopeless(world: &World, owner: &Owner, name: &Name) -> Option<(String, bool)> {
    let (now, dying) = (world.now(), world.live(&owner.id, name).dying.filter(Dying::is_hopeless)?);
    let may = owner.app.copied_at.is_none_or(|at| now.duration_since(at) >= ANEW_EVERY);
    let anew = may && dying.is_damaged(now);
    Some((dying.why, anew))
}

/// What the mirror needs is gone from production: the other thread makes a new first copy.
fn lost(world: &World, owner: &Owner, why: &str) -> Done<()> {
    world.event("mirror-lost", Some(&owner.name), &format!("{}: {why}; a new first copy is made", owner.name));
    set_state(world, &owner.id, AppState::Rebasing, Some(why.to_owned()))
}

/// One look at the schedule. Answers whether the app is still there.
pub fn keep_once(world: &Arc<World>, id: &OwnerId) -> Done<bool> {
    let Some(owner) = Owner::load(world, id)? else { return Ok(false) };
    match owner.app.state {
        AppState::Rebasing => return anew::rebase(world, &owner).map(|()| true),
        AppState::Linking | AppState::Removing | AppState::Detached => return Ok(true),
        _ => {}
    }
    if room(world, &owner)? && owner.app.state != AppState::Paused {
        schedule(world, &owner)?;
    }
    Ok(true)
}

/// Pauses the mirror when the pool is nearly full, and lets it go on when there is room again. Answers
/// whether there is room.
fn room(world: &Arc<World>, owner: &Owner) -> Done<bool> {
    let usage = world.pool()?.room()?;
    let (low, full) = thresholds(usage.total_bytes);
    let paused = owner.app.state == AppState::Paused;
    if usage.free_bytes < full && !paused {
        let Some(_claim) = world.try_claim(&[units_of(&owner.name)], "pause") else { return Ok(false) };
        let why = format!("the pool has only {} MB free; free some, and it goes on by itself", usage.free_bytes >> 20);
        set_state(world, &owner.id, AppState::Paused, Some(why))?;
        units::stop_all(world, owner)?;
        owner.sources.keys().for_each(|name| world.set_live(&owner.id, name, |live| live.dying = None));
        return Ok(false);
    }
    if paused && usage.free_bytes >= low {
        set_state(world, &owner.id, AppState::Disconnected, None)?;
    }
    Ok(usage.free_bytes >= low)
}

/// Whether a stretch of log has begun that no snapshot stands on: nothing of it can be served yet.
fn begins_anew(world: &World, owner: &Owner, snapshots: &[SnapshotRecord]) -> Done<bool> {
    for (name, held) in owner.sources.iter().filter(|(name, _)| world.live(&owner.id, name).changed) {
        let Some(newest) = held.engine.stretches(&held.seat.log)?.pop() else { continue };
        let stands = |snapshot| moments::mark(snapshot, name).is_some_and(|mark| mark.from.epoch == newest.epoch);
        if !snapshots.iter().any(stands) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether a snapshot may hold something new. Directories do not tell whether they changed.
fn may_have_changed(world: &World, owner: &Owner) -> bool {
    owner.sources.iter().any(|(name, held)| !units::has_server(held.kind) || world.live(&owner.id, name).changed)
}

/// Takes a snapshot when it is time, and prepares the newest one.
fn schedule(world: &Arc<World>, owner: &Owner) -> Done<()> {
    let every = SignedDuration::from_secs(owner.app.policy.snapshot_every_seconds.max(1));
    let snapshots = owner.snapshots(world)?;
    // Where production's clock was set back, the last one taken is not the last one by its moment.
    let taken = snapshots.iter().map(|snapshot| snapshot.taken_at).max();
    let due = taken.is_none_or(|last| world.now().duration_since(last) >= every);
    if (due && may_have_changed(world, owner) || begins_anew(world, owner, &snapshots)?)
        && owner.app.state == AppState::Following
        && let Some(_claim) = world.try_claim(&[owner.name.to_string()], "snapshot")
    {
        run_now(world, Snapshot::new(world, owner))?;
    }
    let rested = |newest: &SnapshotRecord| {
        newest.problem.is_none()
            || newest.tried_at.is_none_or(|tried| world.now().duration_since(tried) >= PREPARE_AGAIN)
    };
    let snapshots = owner.snapshots(world)?;
    let newest = moments::as_taken(owner, &snapshots).pop();
    let unprepared = newest.filter(|newest| newest.prepared.is_none() && rested(newest));
    if let Some(newest) = unprepared
        && let Some(_claim) = world.try_claim(&[format!("{}/prepare", owner.name)], "prepare")
    {
        let (millis, random) = world.id();
        let run = Run { world: Arc::clone(world), id: pando_model::OperationId::from_parts(millis, random) };
        if let Err(fault) = link::prepare_newest(&run, owner) {
            let problem = match fault {
                Fault::Crash => return Err(Fault::Crash),
                Fault::Problem(problem) => problem,
            };
            // What the daemon's own end cut off is no problem: the next one prepares it.
            if !world.is_stopping()
                && let Some(mut record) = world.catalog.get::<SnapshotRecord>(newest.id.as_str())?
            {
                record.problem = Some(problem.to_string());
                record.tried_at = Some(world.now());
                world.catalog.note(&record)?;
            }
        }
    }
    if let Some(thin) = Thin::plan(world, owner)?
        && let Some(_claim) = world.try_claim(&[owner.name.to_string()], "thin")
    {
        run_now(world, thin)?;
    }
    Ok(())
}

/// Servers of clones that died, logs of recording clones, leases, former states.
pub fn look_after_clones(world: &Arc<World>) {
    for record in world.catalog.all::<CloneRecord>().unwrap_or_default() {
        if let Err(fault) = look_after(world, &record) {
            let problem = fault.into_problem();
            tracing::warn!(clone = record.name.as_str(), %problem, "the heartbeat of a clone");
        }
    }
}

fn look_after(world: &Arc<World>, record: &CloneRecord) -> Done<()> {
    let now = world.now();
    if matches!(record.state, CloneState::Creating | CloneState::Removing | CloneState::Refreshing) {
        return Ok(());
    }
    match record.lease_until {
        Some(until) if until <= now => {
            if end_lease(world, record)? {
                return Ok(());
            }
        }
        _ => warn_of_lease(world, record, now)?,
    }
    let Some(_claim) = world.try_claim(&[record.name.to_string()], "heartbeat") else { return Ok(()) };
    // Read again: a verb may have changed it before the claim.
    let Some(record) = world.catalog.get::<CloneRecord>(record.id.as_str())? else { return Ok(()) };
    let owner = Owner::of_clone(world, record.clone())?;
    if record.state == CloneState::Running {
        keep_running(world, &record, &owner)?;
    }
    compose::look_after(&loose_run(world), &record)?;
    if let Some(thin) = Thin::plan(world, &owner)? {
        run_now(world, thin)?;
    }
    Ok(())
}

/// Removes a clone whose lease has ended. Answers whether it is gone: until it can go, it is looked after.
fn end_lease(world: &Arc<World>, record: &CloneRecord) -> Done<bool> {
    let Some(_claim) = world.try_claim(&[record.name.to_string()], "rm") else { return Ok(false) };
    // Read again: the lease may have been renewed before the claim.
    let fresh = world.catalog.get::<CloneRecord>(record.id.as_str())?;
    let Some(fresh) = fresh.filter(|fresh| fresh.lease_until == record.lease_until) else { return Ok(false) };
    match Remove::new(world, record.name.clone()) {
        Ok(remove) => {
            world.event("lease-ended", Some(&record.name), &format!("the lease of {} has ended", record.name));
            let outcome = run_now(world, remove).map(|_| true);
            if let Err(Fault::Problem(_)) = &outcome {
                postpone(world, record);
            }
            outcome
        }
        Err(Fault::Crash) => Err(Fault::Crash),
        // It is used, or the parent of others, which still need it for a refresh: it goes after them.
        Err(Fault::Problem(problem)) => {
            let why = problem.to_string();
            if fresh.lease_waits.as_ref() != Some(&why) {
                let text = format!("the lease of {} has ended, and it goes as soon as it can: {why}", record.name);
                world.event("lease-waits", Some(&record.name), &text);
                world.catalog.note(&CloneRecord { lease_waits: Some(why), ..fresh })?;
            }
            Ok(false)
        }
    }
}

/// A hook kept the clone from going. It is tried again, but not every second.
fn postpone(world: &World, record: &CloneRecord) {
    let until = world.now().checked_add(WARNING).ok();
    let postponed = world.catalog.change(Durability::Ordered, |change| {
        let fresh = change.get::<CloneRecord>(record.id.as_str())?;
        match fresh.filter(|fresh| fresh.lease_until == record.lease_until) {
            Some(mut fresh) => {
                fresh.lease_until = until;
                change.put(&fresh)
            }
            None => Ok(()),
        }
    });
    if let Err(error) = postponed {
        tracing::warn!(%error, "a lease could not be postponed");
    }
}

fn warn_of_lease(world: &Arc<World>, record: &CloneRecord, now: Timestamp) -> Done<()> {
    let Some(until) = record.lease_until.filter(|until| !record.lease_warned && until.duration_since(now) <= WARNING)
    else {
        return Ok(());
    };
    let warned = world.catalog.change(Durability::Ordered, |change| {
        let fresh = change.get::<CloneRecord>(record.id.as_str())?;
        let Some(mut fresh) = fresh.filter(|fresh| fresh.lease_until == Some(until)) else { return Ok(false) };
        fresh.lease_warned = true;
        change.put(&fresh).map(|()| true)
    })?;
    if warned {
        let text =
            format!("the lease of {} ends at {until}; longer: pando lease {} --for 8h", record.name, record.name);
        world.event("lease-ends-soon", Some(&record.name), &text);
    }
    Ok(())
}

/// Starts servers that died, again and again; one that dies too often has failed. None can live in a full pool.
fn keep_running(world: &Arc<World>, record: &CloneRecord, owner: &Owner) -> Done<()> {
    let mut waits = false;
    for (name, held) in owner.sources.iter().filter(|(_, held)| held.engine.serves(&held.source)) {
        let Some(unit) = held.units.get("server") else { continue };
        let (now, dying) = (world.now(), world.live(&owner.id, name).dying);
        if matches!(world.runtime.state(unit)?, UnitState::Running { .. }) {
            if dying.is_some_and(|dying| dying.is_over(now)) {
                world.set_live(&owner.id, name, |live| live.dying = None);
            }
        } else {
            let room = world.pool()?.room()?;
            if room.free_bytes < thresholds(room.total_bytes).1 {
                waits = true;
                continue;
            }
            let Some(dying) = Dying::again(dying.as_ref(), now, || words(world, unit)) else { continue };
            if dying.is_hopeless() {
                world.set_live(&owner.id, name, |live| live.dying = None);
                return fail(world, record, &dying.why);
            }
            world.set_live(&owner.id, name, |live| live.dying = Some(dying));
            world.event(
                "server-restarted",
                Some(&record.name),
                &format!("the server {name} of {} had ended and is started again", record.name),
            );
            units::start_server(world, held)?;
        }
        if record.record && units::has_log(held.kind) {
            units::start_receiver(world, held)?;
            let pulse = held.engine.pulse(&held.seat, &held.source, false).map_err(IntoProblem::into_problem)?;
            world.set_live(&owner.id, name, |live| {
                live.changed |= pulse.changed;
                live.pulse = pulse;
            });
        }
    }
    // No other trouble is told of a clone that is meant to run.
    if waits != record.problem.is_some() {
        let problem = waits.then(|| "it waits for room in the pool; free some, and it goes on by itself".to_owned());
        world.catalog.note(&CloneRecord { problem, ..record.clone() })?;
    }
    if record.record {
        record_schedule(world, owner)?;
    }
    Ok(())
}

/// A recording clone has snapshots like a mirror: replay to any second starts from them.
fn record_schedule(world: &Arc<World>, owner: &Owner) -> Done<()> {
    let every = SignedDuration::from_secs(owner.app.policy.snapshot_every_seconds.max(1));
    let snapshots = owner.snapshots(world)?;
    let current = snapshots.last().filter(|last| last.taken_at >= owner_since(owner));
    let due = current.is_none_or(|last| world.now().duration_since(last.taken_at) >= every)
        || begins_anew(world, owner, &snapshots)?;
    let changed = current.is_none() || may_have_changed(world, owner);
    // A fresh log needs a moment to flow; before, nothing could be rolled forward from a snapshot. Directories have none.
    let mut logs = owner.sources.iter().filter(|(_, held)| units::has_log(held.kind)).peekable();
    let flows = logs.peek().is_none() || logs.any(|(name, _)| world.live(&owner.id, name).pulse.through.is_some());
    if due && changed && flows {
        run_now(world, Snapshot::new(world, owner))?;
    }
    Ok(())
}

/// Since when the clone has its present data: a refresh begins a new stretch of its timeline.
fn owner_since(owner: &Owner) -> Timestamp {
    owner.clone.as_ref().map_or(Timestamp::MIN, |clone| {
        clone.former.as_ref().map_or(clone.created_at, |former| {
            former.until.checked_sub(SignedDuration::from_hours(1)).unwrap_or(clone.created_at)
        })
    })
}

fn fail(world: &Arc<World>, record: &CloneRecord, why: &str) -> Done<()> {
    let mut record = record.clone();
    record.state = CloneState::Failed;
    record.problem = Some(why.to_owned());
    world.catalog.note(&record)?;
    world.event("clone-failed", Some(&record.name), &format!("{} has failed: {why}", record.name));
    Ok(())
}

/// What got stuck may have met a passing trouble: it is tried again, with its subject claimed.
pub fn retry_stuck(world: &Arc<World>) {
    let stuck: Vec<OperationRecord> = world.catalog.of(OperationState::Stuck.as_str()).unwrap_or_default();
    let adrift = world.take_adrift();
    let left = adrift.iter().filter_map(|id| match world.catalog.get::<OperationRecord>(id.as_str()) {
        Ok(record) => record,
        Err(error) => {
            tracing::warn!(%error, operation = %id, "an operation that was left cannot be read");
            None
        }
    });
    for record in left.chain(stuck) {
        let rested = record.finished_at.is_none_or(|at| world.now().duration_since(at) >= STUCK);
        let names = [record.subject.to_string(), format!("{}/prepare", record.subject)];
        if rested && let Some(_claim) = world.try_claim(&names, record.word()) {
            let words = format!("{} {}", record.word(), record.subject);
            match recover_any(world, record) {
                Ok(()) => tracing::info!("{words} was stuck and is at its end now"),
                Err(fault) => tracing::warn!(problem = %fault.into_problem(), "{words} is still stuck"),
            }
        }
    }
    // What could not be seen to now is looked at again.
    adrift.iter().for_each(|id| world.left(id));
}

/// Keeps logs bounded, takes away what a crash has left of a runtime, and forgets old operations.
fn tidy(world: &Arc<World>) {
    if let Err(error) = world.runtime.tidy() {
        tracing::warn!(%error, "logs could not be trimmed");
    }
    if let Err(error) = world.catalog.forget_operations(REMEMBERED) {
        tracing::warn!(%error, "old operations could not be forgotten");
    }
}
