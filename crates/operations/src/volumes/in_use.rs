//! Whether somebody uses a clone's volumes now. The kernel is asked, because counters of mounts are wrong after the
//! first crash of whoever counts: an engine that was killed never unmounts, one that restarts mounts again.
//!
//! Between an engine's mount call and the moment the kernel shows the container's mount there is a gap; for so
//! long the call itself counts.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pando_catalog::{CloneRecord, CloneSource, VolumeRecord};
use pando_host::Holder;
use pando_model::{CloneId, CloneState, Name};

use crate::fault::{Done, Fault, io, refused};
use crate::world::World;

/// So long a container may need from the mount call to its mount.
const GAP: Duration = Duration::from_secs(10);

/// Mount calls that were answered a moment ago.
#[derive(Default)]
pub struct Mounts(Mutex<HashMap<(Name, String), Instant>>);

impl Mounts {
    fn change(&self, change: impl FnOnce(&mut HashMap<(Name, String), Instant>)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// An engine was told where a volume is.
    pub fn begin(&self, volume: &Name, id: &str, now: Instant) {
        self.change(|calls| {
            calls.retain(|_, at| now.duration_since(*at) < GAP);
            calls.insert((volume.clone(), id.to_owned()), now);
        });
    }

    /// An engine has no use for a volume any more.
    pub fn end(&self, volume: &Name, id: &str) {
        self.change(|calls| {
            calls.remove(&(volume.clone(), id.to_owned()));
        });
    }

    fn recent(&self, volume: &Name, now: Instant) -> bool {
        let calls = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().any(|((name, _), at)| name == volume && now.duration_since(*at) < GAP)
    }
}

/// Refuses while containers, or anybody else, use these sources of a clone that has volumes.
pub fn refuse_in_use(world: &World, clone: &CloneRecord, sources: &BTreeMap<Name, CloneSource>) -> Done<()> {
    let users = users(world, clone, sources)?;
    let Some(first) = users.first() else { return Ok(()) };
    let problem = match users.len() {
        1 => refused(format!("{} is in use by {first}", clone.name)),
        more => refused(format!("{} is in use by {first} and {} more", clone.name, more - 1)),
    };
    Err(problem.hint("stop what uses it, then try again: docker ps, docker stop").into())
}

/// Refuses while a container still has the former data of a clone, which a change takes away: an engine that could not be
/// told of the change before gave it to the container again.
pub fn refuse_former_in_use(world: &World, clone: &CloneRecord) -> Done<()> {
    let Some(former) = &clone.former else { return Ok(()) };
    let users = held(world, clone, &former.sources)?;
    let Some(first) = users.first() else { return Ok(()) };
    let problem = refused(format!("{first} still has the former data of {}, which would go now", clone.name));
    Err(problem.hint("stop it; Podman has to forget its mount, too: podman volume unmount NAME").into())
}

/// Who uses them, or is about to.
pub fn users(world: &World, clone: &CloneRecord, sources: &BTreeMap<Name, CloneSource>) -> Done<Vec<String>> {
    let mut users = held(world, clone, sources)?;
    let now = world.clock.instant();
    if users.is_empty() {
        let volumes: Vec<VolumeRecord> = world.catalog.of(clone.id.as_str())?;
        let mounted = volumes.iter().filter(|volume| world.volumes.mounts.recent(&volume.name, now));
        users.extend(mounted.map(|volume| format!("a container that is being started with {}", volume.name)));
    }
    Ok(users)
}

/// Who uses them, as the kernel sees it.
fn held(world: &World, clone: &CloneRecord, sources: &BTreeMap<Name, CloneSource>) -> Done<Vec<String>> {
    if !clone.elsewhere && world.catalog.of::<VolumeRecord>(clone.id.as_str())?.is_empty() {
        return Ok(Vec::new());
    }
    let trees: BTreeSet<&str> = sources.values().map(|source| source.volume.as_str()).collect();
    let trees: Vec<&str> = trees.into_iter().collect();
    let held =
        (world.volumes.holders)(&trees).map_err(|error| Fault::Problem(io("looking who uses a volume", error)))?;
    // A clone whose servers run here is used by them.
    let held = held.into_iter().filter(|holder| clone.elsewhere || holder.container.is_some());
    // A clone may stand on two of the pool's volumes, and a container use both.
    let users: BTreeSet<String> = held.map(|holder| holder.to_string()).collect();
    Ok(users.into_iter().collect())
}

/// Who uses the data of these clones now, as the kernel sees it; the containers first. A clone that nobody uses is not among
/// them, nor one whose servers run here and that no container has a volume of.
pub fn of_clones(world: &World, clones: &[CloneRecord]) -> Done<BTreeMap<CloneId, Vec<Holder>>> {
    let with_volumes: BTreeSet<CloneId> =
        world.catalog.all::<VolumeRecord>()?.into_iter().map(|volume| volume.clone).collect();
    let mut whose = BTreeMap::new();
    for clone in clones.iter().filter(|clone| clone.elsewhere || with_volumes.contains(&clone.id)) {
        whose.extend(clone.sources.values().map(|source| (source.volume.as_str(), clone)));
    }
    seen(world, &whose)
}

/// The same of a clone that has volumes, on no connection that waits for a disk.
pub fn of_clone(world: &World, clone: &CloneRecord) -> Done<Vec<Holder>> {
    let whose = clone.sources.values().map(|source| (source.volume.as_str(), clone)).collect();
    Ok(seen(world, &whose)?.remove(&clone.id).unwrap_or_default())
}

/// Who uses these trees, by the clone that has them.
fn seen(world: &World, whose: &BTreeMap<&str, &CloneRecord>) -> Done<BTreeMap<CloneId, Vec<Holder>>> {
    let trees: Vec<&str> = whose.keys().copied().collect();
    if trees.is_empty() {
        return Ok(BTreeMap::new());
    }
    let held =
        (world.volumes.holders)(&trees).map_err(|error| Fault::Problem(io("looking who uses volumes", error)))?;
    let mut users: BTreeMap<CloneId, Vec<Holder>> = BTreeMap::new();
    for holder in held {
        let Some(clone) = whose.get(holder.directory.as_str()) else { continue };
        let of_clone = users.entry(clone.id.clone()).or_default();
        let same = |known: &Holder| known.container == holder.container && known.pid == holder.pid;
        if (clone.elsewhere || holder.container.is_some()) && !of_clone.iter().any(same) {
            of_clone.push(holder);
        }
    }
    users.retain(|_, of_clone| !of_clone.is_empty());
    users.values_mut().for_each(|of_clone| of_clone.sort_by_key(|holder| holder.container.is_none()));
    Ok(users)
}

/// How a clone is doing. Where its servers run in containers of the user's, those are its units: it runs while one of them
/// has its data.
pub fn state(clone: &CloneRecord, users: &[Holder]) -> CloneState {
    let runs =
        clone.elsewhere && clone.state == CloneState::Stopped && users.iter().any(|holder| holder.container.is_some());
    if runs { CloneState::Running } else { clone.state }
}
