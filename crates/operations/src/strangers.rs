//! What there is and nobody knows of: the difference between the inventories and the catalog. Reported, never
//! deleted.

use pando_catalog::{AppRecord, CloneRecord, OperationRecord, SnapshotRecord};
use pando_model::{OperationState, PoolSnapshotId, UnitId, VolumeId};

use crate::world::World;

/// What is in the pool or runs without the catalog knowing of it. Reported, never deleted.
pub fn strangers(world: &World) -> Vec<String> {
    let Ok(pool) = world.pool() else { return Vec::new() };
    let apps: Vec<AppRecord> = world.catalog.all().unwrap_or_default();
    let clones: Vec<CloneRecord> = world.catalog.all().unwrap_or_default();
    let snapshots: Vec<SnapshotRecord> = world.catalog.all().unwrap_or_default();
    // What an operation under way has made is not strange.
    let busy: String = [OperationState::Running, OperationState::Undoing, OperationState::Stuck]
        .iter()
        .flat_map(|state| world.catalog.of::<OperationRecord>(state.as_str()).unwrap_or_default())
        .map(|record| record.doc.to_string())
        .collect();
    let known_volume = |id: &VolumeId| {
        apps.iter().any(|app| app.volume == *id)
            || clones.iter().any(|clone| {
                let former = clone.former.iter().flat_map(|former| former.sources.values());
                clone.sources.values().chain(former).any(|source| source.volume == *id)
            })
            || busy.contains(id.as_str())
    };
    let known_tree = |id: &PoolSnapshotId| {
        snapshots.iter().any(|one| crate::verbs::remove::trees_of(one).contains(id)) || busy.contains(id.as_str())
    };
    let known_unit = |id: &UnitId| {
        apps.iter().flat_map(|app| app.sources.values()).any(|source| source.units.values().any(|unit| unit == id))
            || clones
                .iter()
                .flat_map(|clone| clone.sources.values())
                .any(|source| source.units.values().any(|unit| unit == id))
            || busy.contains(id.as_str())
    };
    let mut found = Vec::new();
    if let Ok(inventory) = pool.inventory() {
        found.extend(
            inventory
                .volumes
                .iter()
                .filter(|id| !known_volume(id))
                .map(|id| format!("the pool holds the volume {id}, which nothing knows of")),
        );
        found.extend(
            inventory
                .snapshots
                .iter()
                .filter(|id| !known_tree(id))
                .map(|id| format!("the pool holds the snapshot {id}, which nothing knows of")),
        );
        found.extend(inventory.strangers.iter().map(|name| format!("the pool holds {name:?}, which is not Pando's")));
    }
    if let Ok(running) = world.runtime.inventory() {
        found.extend(
            running.iter().filter(|id| !known_unit(id)).map(|id| format!("the unit {id} runs, which nothing knows of")),
        );
    }
    found
}
