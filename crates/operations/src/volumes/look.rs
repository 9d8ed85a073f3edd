//! What an engine is shown of volumes. Asked before nearly every operation of the engine's: one or two records are
//! read, on a connection that waits for nobody's disk, and storage is not touched at all. Who uses a volume is asked of the kernel.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_catalog::{AppRecord, CloneRecord, VolumeRecord};
use pando_host::Holder;
use pando_model::{CloneId, Name, OwnerId, VolumeId};
use pando_pool::Usage;
use serde_json::{Value, json};

use super::in_use;
use super::options::Wish;
use crate::fault::{Done, Fault, not_found};
use crate::world::World;

/// A count of bytes is shown for so long before it is made anew.
const FRESH: Duration = Duration::from_secs(30);
/// The same of one that does not know the volume yet.
const LACKING: Duration = Duration::from_secs(1);

/// A volume, as an engine sees it.
#[derive(Debug, Clone)]
pub struct VolumeView {
    /// Its name.
    pub name: Name,
    /// Its directory.
    pub mountpoint: PathBuf,
    /// When it was made.
    pub created_at: Timestamp,
    /// What people should know of it.
    pub status: BTreeMap<String, Value>,
}

/// The last count of the pool's bytes.
#[derive(Default)]
pub struct Counted {
    last: Mutex<Option<(Instant, Arc<Usage>)>>,
    busy: AtomicBool,
}

/// Who uses clones, as the kernel said a moment ago.
#[derive(Default)]
pub struct Seen(Mutex<HashMap<CloneId, (Instant, Vec<Holder>)>>);

/// Who uses a clone now. That is a walk over all processes: what was seen holds for ten times as long as the look took, so that
/// an engine that asks all the time costs a tenth of a processor at most.
fn users(world: &World, clone: &CloneRecord) -> Done<Vec<Holder>> {
    let mut seen = world.volumes.seen.0.lock().unwrap_or_else(PoisonError::into_inner);
    let begun = world.clock.instant();
    seen.retain(|_, (until, _)| *until > begun);
    if let Some((_, users)) = seen.get(&clone.id) {
        return Ok(users.clone());
    }
    let users = in_use::of_clone(world, clone)?;
    let took = world.clock.instant().duration_since(begun);
    seen.insert(clone.id.clone(), (begun + took * 11, users.clone()));
    Ok(users)
}

/// What was counted last; a new count is begun behind when it is old, or lacks this volume.
fn counted(world: &Arc<World>, volume: &VolumeId) -> Option<Arc<Usage>> {
    let counted = &world.volumes.counted;
    let now = world.clock.instant();
    let last = counted.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let fresh = last.as_ref().is_some_and(|(at, usage)| {
        now.duration_since(*at) < if usage.volumes.contains_key(volume) { FRESH } else { LACKING }
    });
    if !fresh && !counted.busy.swap(true, Ordering::AcqRel) {
        let world = Arc::clone(world);
        std::thread::spawn(move || {
            let counted = &world.volumes.counted;
            if let Some(usage) = world.pool().ok().and_then(|pool| pool.usage().ok()) {
                let now = world.clock.instant();
                *counted.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((now, Arc::new(usage)));
            }
            counted.busy.store(false, Ordering::Release);
        });
    }
    last.map(|(_, usage)| usage)
}

/// The problem that there is no such volume.
pub fn unknown(name: &str) -> pando_model::Problem {
    not_found(format!("there is no volume {name}")).hint("docker volume ls shows what there is")
}

/// A volume's record and its clone's.
pub fn records(world: &World, name: &Name) -> Done<(VolumeRecord, CloneRecord)> {
    let gone = || Fault::Problem(unknown(name.as_str()));
    let volume: VolumeRecord = world.catalog.peek(name.as_str())?.ok_or_else(gone)?;
    let clone: CloneRecord = world.catalog.peek(volume.clone.as_str())?.ok_or_else(gone)?;
    Ok((volume, clone))
}

/// Where a volume's directory is; none while its clone is being made.
pub fn place(world: &World, volume: &VolumeRecord, clone: &CloneRecord) -> Option<PathBuf> {
    let source = clone.sources.get(&volume.source)?;
    Some(world.pool().ok()?.volume_path(&source.volume).join(volume.source.as_str()))
}

/// One volume.
pub fn volume(world: &Arc<World>, name: &Name) -> Done<VolumeView> {
    let (volume, clone) = records(world, name)?;
    let mountpoint = place(world, &volume, &clone).unwrap_or_default();
    let status = status(world, &volume, &clone)?;
    Ok(VolumeView { name: volume.name, mountpoint, created_at: volume.created_at, status })
}

/// All volumes, without their status.
pub fn volumes(world: &World) -> Done<Vec<VolumeView>> {
    let clones: BTreeMap<_, CloneRecord> =
        world.catalog.peek_all::<CloneRecord>()?.into_iter().map(|clone| (clone.id.clone(), clone)).collect();
    let all = world.catalog.peek_all::<VolumeRecord>()?.into_iter();
    Ok(all
        .filter_map(|volume| {
            let mountpoint = place(world, &volume, clones.get(&volume.clone)?).unwrap_or_default();
            Some(VolumeView { name: volume.name, mountpoint, created_at: volume.created_at, status: BTreeMap::new() })
        })
        .collect())
}

fn status(world: &Arc<World>, volume: &VolumeRecord, clone: &CloneRecord) -> Done<BTreeMap<String, Value>> {
    let mut status = BTreeMap::new();
    let mut tell = |key: &str, value: Value| status.insert(key.to_owned(), value);
    let parent = match &clone.parent {
        OwnerId::App(app) => world.catalog.peek::<AppRecord>(app.as_str())?.map(|app| app.name),
        OwnerId::Clone(parent) => world.catalog.peek::<CloneRecord>(parent.as_str())?.map(|parent| parent.name),
    };
    if let Some(app) = world.catalog.peek::<AppRecord>(clone.app.as_str())? {
        tell("app", json!(app.name));
    }
    tell("clone", json!(clone.name));
    tell("source", json!(volume.source));
    tell("parent", json!(parent.filter(|parent| *parent != clone.name)));
    let shown = clone.sources.get(&volume.source).and_then(|source| source.moment).unwrap_or(clone.moment);
    tell("moment", json!(shown.to_string()));
    // As `ls` shows it: containers are its units.
    let users = users(world, clone)?;
    tell("state", json!(in_use::state(clone, &users)));
    if !users.is_empty() {
        tell("used_by", json!(users.iter().map(ToString::to_string).collect::<Vec<_>>()));
    }
    tell("profile", json!(clone.profile));
    tell("masked", json!(clone.masked));
    tell("options", json!(volume.options));
    if let Some(problem) = &clone.problem {
        tell("problem", json!(problem));
    }
    let mismatch = mismatch(volume, clone);
    if !mismatch.is_empty() {
        tell("mismatch", json!(mismatch));
    }
    if let Some(source) = clone.sources.get(&volume.source)
        && let Some(usage) = counted(world, &source.volume)
    {
        tell("unique_bytes", json!(usage.volumes.get(&source.volume)));
    }
    Ok(status)
}

/// What the volume was asked to be and is not any more. An engine that makes a volume anew, with other options,
/// under a name that is there, asks nobody: what is there can only be shown.
fn mismatch(volume: &VolumeRecord, clone: &CloneRecord) -> Vec<String> {
    let option = |name: &str| volume.options.get(name).map(String::as_str);
    let asked = Wish::read(&volume.options).map(|wish| wish.asked()).unwrap_or_default();
    let mut found = Vec::new();
    // The clone of a project decides the moment, whatever its file says.
    if option("from").is_some() && clone.compose.is_none() && clone.asked != asked {
        found.push(format!("made at {asked}, now at {} ({})", clone.asked, clone.moment));
    }
    if let Some(profile) = option("profile")
        && clone.profile.as_str() != profile
    {
        found.push(format!("asked to be {profile}, is {}", clone.profile));
    }
    found
}
