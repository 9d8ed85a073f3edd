//! What there is and nobody knows of: the difference between the inventories and the catalog. Reported, never
//! deleted.

use pando_catalog::{AppRecord, CloneRecord, OperationRecord, SnapshotRecord};
use pando_model::{OperationState, PoolSnapshotId, UnitId, VolumeId};

use crate::world::World;

/// What the catalog knows at one glance.
struct Known {
    apps: Vec<AppRecord>,
    clones: Vec<CloneRecord>,
    snapshots: Vec<SnapshotRecord>,
    /// What operations under way have made, or are about to make, is not strange.
    busy: String,
}

impl Known {
    fn read(world: &World) -> Self {
        // Operations first: what one has made is in a record by the time that it ends.
        let busy = [OperationState::Running, OperationState::Undoing, OperationState::Stuck]
            .iter()
            .flat_map(|state| world.catalog.of::<OperationRecord>(state.as_str()).unwrap_or_default())
            .map(|record| record.doc.to_string())
            .collect();
        Self {
            busy,
            apps: world.catalog.all().unwrap_or_default(),
            clones: world.catalog.all().unwrap_or_default(),
            snapshots: world.catalog.all().unwrap_or_default(),
        }
    }

    fn volume(&self, id: &VolumeId) -> bool {
        self.apps.iter().any(|app| app.volume == *id)
            || self.clones.iter().any(|clone| {
                let former = clone.former.iter().flat_map(|former| former.sources.values());
                clone.sources.values().chain(former).any(|source| source.volume == *id)
            })
            || self.busy.contains(id.as_str())
    }

    fn tree(&self, id: &PoolSnapshotId) -> bool {
        self.snapshots.iter().any(|one| crate::verbs::remove::trees_of(one).contains(id))
            || self.busy.contains(id.as_str())
    }

    fn unit(&self, id: &UnitId) -> bool {
        let mut apps = self.apps.iter().flat_map(|app| app.sources.values());
        let mut clones = self.clones.iter().flat_map(|clone| clone.sources.values());
        apps.any(|source| source.units.values().any(|unit| unit == id))
            || clones.any(|source| source.units.values().any(|unit| unit == id))
            || self.busy.contains(id.as_str())
    }
}

/// What is in the pool, runs, or is left of what ran, without the catalog knowing of it. Reported, never deleted.
pub fn strangers(world: &World) -> Vec<String> {
    let Ok(pool) = world.pool() else { return Vec::new() };
    // Operations begin and end while the inventories are taken: strange is what was unknown before and after.
    let before = Known::read(world);
    let (stored, running, ended) = (pool.inventory(), world.runtime.inventory(), world.runtime.remains());
    let after = Known::read(world);
    let mut found = Vec::new();
    if let Ok(stored) = stored {
        let volumes = stored.volumes.iter().filter(|id| !before.volume(id) && !after.volume(id));
        found.extend(volumes.map(|id| format!("the pool holds the volume {id}, which nothing knows of")));
        let trees = stored.snapshots.iter().filter(|id| !before.tree(id) && !after.tree(id));
        found.extend(trees.map(|id| format!("the pool holds the snapshot {id}, which nothing knows of")));
        found.extend(stored.strangers.iter().map(|name| format!("the pool holds {name:?}, which is not Pando's")));
    }
    if let Ok(running) = running {
        let units = running.iter().filter(|id| !before.unit(id) && !after.unit(id));
        found.extend(units.map(|id| format!("the unit {id} runs, which nothing knows of")));
    }
    // An engine that does not answer says nothing of what has ended.
    let ended = ended.unwrap_or_default();
    let units = ended.iter().filter(|id| !before.unit(id) && !after.unit(id));
    found.extend(units.map(|id| format!("the unit {id} has ended, nothing knows of it, and its container is left")));
    found
}
