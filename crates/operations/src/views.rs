//! What is shown: records and live knowledge, put into the views that the API pins.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use pando_catalog::{AppRecord, BookmarkRecord, CloneRecord, OperationRecord, VolumeRecord};
use pando_model::{
    AppRow, AppState, AppView, CloneRow, CloneView, DiskView, ListView, Name, OperationView, OwnerId, OwnerUsage,
    RuntimeKind, ShowView, SnapshotRow, SourceView, StepView, TimelineView,
};
use pando_pool::Usage;

use crate::containers;
use crate::fault::Done;
use crate::hooks::Stitches;
use crate::moments::ranges;
use crate::owner::Owner;
use crate::remedy;
use crate::units;
use crate::volumes::in_use;
use crate::world::World;

fn usage(world: &World) -> Usage {
    world.pool().ok().and_then(|pool| pool.usage().ok()).unwrap_or_default()
}

fn estimated(world: &World) -> bool {
    world.pool().is_ok_and(|pool| !pool.capabilities().exact_exclusive)
}

fn name_of(world: &World, id: &OwnerId) -> Option<Name> {
    match id {
        OwnerId::App(id) => Some(world.catalog.get::<AppRecord>(id.as_str()).ok()??.name),
        OwnerId::Clone(id) => Some(world.catalog.get::<CloneRecord>(id.as_str()).ok()??.name),
    }
}

/// Bytes that only a clone's volumes hold.
fn unique(record: &CloneRecord, usage: &Usage) -> Option<u64> {
    let mut volumes: Vec<_> = record.sources.values().map(|source| &source.volume).collect();
    volumes.sort();
    volumes.dedup();
    volumes.into_iter().map(|volume| usage.volumes.get(volume).copied()).sum()
}

/// Where a clone's servers run.
fn runtime(record: &CloneRecord) -> RuntimeKind {
    if record.container.is_some() { RuntimeKind::Docker } else { RuntimeKind::Process }
}

/// A clone, whole.
pub fn clone(world: &World, record: &CloneRecord, counted: bool) -> Done<CloneView> {
    let owner = Owner::of_clone(world, record.clone())?;
    let password = world.unseal_text(&record.password)?;
    let who = units::credentials(&password);
    let dir = world.home.clone_dir(&record.name);
    let users = in_use::of_clones(world, std::slice::from_ref(record))?.remove(&record.id).unwrap_or_default();
    let mut sources = BTreeMap::new();
    for (name, stored) in &record.sources {
        let Some(held) = owner.sources.get(name) else { continue };
        let served = stored.port.filter(|_| !record.elsewhere);
        let url = served.and_then(|port| held.engine.address(&held.source, port, &who));
        sources.insert(
            name.clone(),
            SourceView {
                engine: stored.engine,
                path: dir.join(name.as_str()).to_string_lossy().into_owned(),
                host: url.as_ref().map(|_| "127.0.0.1".to_owned()),
                port: stored.port.filter(|_| url.is_some()),
                socket_dir: url.as_ref().map(|_| held.seat.run.to_string_lossy().into_owned()),
                url,
                moment: stored.moment,
                position: stored.position.clone(),
                password: (record.elsewhere && held.engine.serves(&held.source)).then(|| password.clone()),
                skew_seconds: stored.skew_seconds,
                version: owner.app.sources.get(name).and_then(|source| source.version.clone()),
                notes: stored.notes.clone(),
                container: if counted { containers::view(world, &stored.units) } else { None },
                image: None,
            },
        );
    }
    Ok(CloneView {
        name: record.name.clone(),
        id: record.id.clone(),
        app: owner.app.name.clone(),
        parent: name_of(world, &record.parent).unwrap_or_else(|| owner.app.name.clone()),
        moment: record.moment,
        asked: record.asked.clone(),
        snapshot: record.snapshot.clone(),
        profile: record.profile,
        masked: record.masked,
        runtime: runtime(record),
        record: record.record,
        state: in_use::state(record, &users),
        problem: record.problem.clone(),
        lease_until: record.lease_until,
        created_at: record.created_at,
        sources,
        volumes: world
            .catalog
            .of::<VolumeRecord>(record.id.as_str())?
            .into_iter()
            .map(|volume| (volume.name, volume.source))
            .collect(),
        used_by: users.iter().map(ToString::to_string).collect(),
        compose: record.compose.as_ref().map(|compose| compose.file.to_string_lossy().into_owned()),
        timing: record.timing.clone(),
        unique_bytes: if counted { unique(record, &usage(world)) } else { None },
        unique_is_estimate: estimated(world),
        undo_until: record.former.as_ref().map(|former| former.until),
        promoted_at: record.promoted_at,
    })
}

/// Seconds by which the end of an app's timeline lies behind the clock.
pub fn lag(world: &World, owner: &Owner) -> Option<f64> {
    let through = through(world, owner)?;
    Some(world.now().duration_since(through).max(SignedDuration::ZERO).as_secs_f64())
}

/// The moment up to which everything is known.
fn through(world: &World, owner: &Owner) -> Option<Timestamp> {
    let databases = owner.sources.iter().filter(|(_, held)| units::has_log(held.kind));
    let mut times = databases.map(|(name, _)| world.live(&owner.id, name).pulse.through).peekable();
    if times.peek().is_none() {
        return owner.snapshots(world).ok()?.last().map(|snapshot| snapshot.moment);
    }
    times.collect::<Option<Vec<_>>>()?.into_iter().min()
}

/// An app, whole.
pub fn app(world: &World, owner: &Owner) -> Done<AppView> {
    let record = &owner.app;
    let mut sources = BTreeMap::new();
    for (name, stored) in &record.sources {
        let Some(held) = owner.sources.get(name) else { continue };
        sources.insert(
            name.clone(),
            SourceView {
                engine: stored.engine,
                path: held.seat.data.to_string_lossy().into_owned(),
                url: Some(stored.shown.clone()),
                host: None,
                port: None,
                password: None,
                socket_dir: None,
                moment: world.live(&owner.id, name).pulse.through,
                position: None,
                skew_seconds: None,
                version: stored.version.clone(),
                notes: stored.notes.clone(),
                container: None,
                image: stored.image.clone(),
            },
        );
    }
    let clones: Vec<CloneRecord> = world.catalog.of(record.id.as_str())?;
    let problem = world.anew.told(&owner.id, record.problem.clone());
    Ok(AppView {
        name: record.name.clone(),
        id: record.id.clone(),
        state: record.state,
        hint: remedy::of(&record.name, problem.as_deref()),
        problem,
        lag_seconds: lag(world, owner),
        sources,
        policy: record.policy.clone(),
        stitches: Stitches::of(world, record)?.labels(),
        snapshots: owner.snapshots(world)?.len(),
        clones: clones.into_iter().map(|clone| clone.name).collect(),
    })
}

/// An app or a clone, whole.
pub fn show(world: &World, name: &Name, counted: bool) -> Done<ShowView> {
    let owner = Owner::named(world, name)?;
    Ok(match &owner.clone {
        Some(record) => ShowView::Clone(Box::new(clone(world, record, counted)?)),
        None => ShowView::App(Box::new(app(world, &owner)?)),
    })
}

/// All apps and clones.
pub fn list(world: &World) -> Done<ListView> {
    let records: Vec<AppRecord> = world.catalog.all()?;
    let mut apps = Vec::new();
    for record in records.iter().filter(|record| record.state != AppState::Detached) {
        let lag_seconds = match record.state {
            AppState::Linking | AppState::Removing => None,
            _ if world.pool().is_err() => None,
            _ => lag(world, &Owner::of_app(world, record.clone())?),
        };
        apps.push(AppRow {
            name: record.name.clone(),
            state: record.state,
            lag_seconds,
            sources: record.sources.iter().map(|(name, source)| (name.clone(), source.engine)).collect(),
        });
    }
    apps.sort_by(|one, two| one.name.cmp(&two.name));
    let usage = usage(world);
    let all = world.catalog.all::<CloneRecord>()?;
    let mut users = in_use::of_clones(world, &all)?;
    let mut clones: Vec<CloneRow> = all
        .iter()
        .map(|clone| (clone, users.remove(&clone.id).unwrap_or_default()))
        .map(|(clone, users)| CloneRow {
            name: clone.name.clone(),
            app: records
                .iter()
                .find(|app| app.id == clone.app)
                .map_or_else(|| clone.name.clone(), |app| app.name.clone()),
            state: in_use::state(clone, &users),
            used_by: users.iter().map(ToString::to_string).collect(),
            runtime: runtime(clone),
            moment: clone.moment,
            masked: clone.masked,
            lease_until: clone.lease_until,
            unique_bytes: unique(clone, &usage),
        })
        .collect();
    clones.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(ListView { apps, clones })
}

/// The moments that can be asked for.
pub fn timeline(world: &World, name: &Name) -> Done<TimelineView> {
    let owner = Owner::named(world, name)?;
    let usage = usage(world);
    let bookmarks: Vec<BookmarkRecord> = world.catalog.of(owner.id.as_str())?;
    let snapshots = owner
        .snapshots(world)?
        .into_iter()
        .map(|snapshot| SnapshotRow {
            taken_at: snapshot.taken_at,
            moment: snapshot.moment,
            prepared: snapshot.prepared.is_some(),
            masked: snapshot.masked,
            bookmarks: bookmarks
                .iter()
                .filter(|bookmark| bookmark.snapshot == snapshot.id)
                .map(|bookmark| bookmark.name.clone())
                .collect(),
            unique_bytes: crate::verbs::remove::trees_of(&snapshot)
                .iter()
                .map(|tree| usage.snapshots.get(tree).copied())
                .sum(),
            id: snapshot.id,
        })
        .collect();
    Ok(TimelineView {
        snapshots,
        ranges: ranges(world, &owner)?,
        lag_seconds: lag(world, &owner),
        unique_is_estimate: estimated(world),
    })
}

/// Who holds what.
pub fn disk(world: &World) -> Done<DiskView> {
    let pool = world.pool()?;
    let usage = pool.usage()?;
    let mut owners = Vec::new();
    let mut ids: Vec<(OwnerId, &str)> = world
        .catalog
        .all::<AppRecord>()?
        .into_iter()
        .filter(|app| app.state != AppState::Detached)
        .map(|app| (OwnerId::App(app.id), "app"))
        .collect();
    ids.extend(world.catalog.all::<CloneRecord>()?.into_iter().map(|clone| (OwnerId::Clone(clone.id), "clone")));
    for (id, kind) in ids {
        let Some(owner) = Owner::load(world, &id)? else { continue };
        let mut volumes = owner.volumes();
        if let Some(former) = owner.clone.as_ref().and_then(|clone| clone.former.as_ref()) {
            volumes.extend(former.sources.values().map(|source| source.volume.clone()));
            volumes.sort();
            volumes.dedup();
        }
        let trees = crate::verbs::remove::trees(world, &id)?;
        owners.push(OwnerUsage {
            name: owner.name.clone(),
            kind: kind.to_owned(),
            volume_bytes: volumes.iter().map(|volume| usage.volumes.get(volume).copied()).sum(),
            snapshot_bytes: trees.iter().map(|tree| usage.snapshots.get(tree).copied()).sum(),
            log_bytes: tree_bytes(&world.home.log_of(&id)),
        });
    }
    owners.sort_by(|one, two| one.name.cmp(&two.name));
    Ok(DiskView {
        driver: pool.capabilities().driver.to_owned(),
        path: pool.root().to_string_lossy().into_owned(),
        total_bytes: usage.total_bytes,
        used_bytes: usage.total_bytes.saturating_sub(usage.free_bytes),
        free_bytes: usage.free_bytes,
        unique_is_estimate: estimated(world),
        owners,
    })
}

/// Bytes on disk below a directory (a log has some hundred files a day).
fn tree_bytes(path: &std::path::Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(meta) if meta.is_dir() => tree_bytes(&entry.path()),
            Ok(meta) => meta.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

/// An operation.
pub fn operation(record: OperationRecord) -> OperationView {
    OperationView {
        id: record.id,
        verb: record.called.unwrap_or(record.verb),
        subject: record.subject,
        state: record.state,
        steps: record.steps.into_iter().map(|step| StepView { name: step.name, state: step.state }).collect(),
        progress: record.progress,
        error: record.error,
        result: record.result,
        created_at: record.created_at,
        finished_at: record.finished_at,
    }
}
