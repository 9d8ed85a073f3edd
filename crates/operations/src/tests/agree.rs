//! What must be true whenever no operation is under way: the catalog is what there is. And the whole state
//! as text, to see that something is as it was before.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use pando_catalog::{
    AppRecord, BaseRecord, BookmarkRecord, CloneRecord, ImageName, ImageRecord, OperationRecord, SnapshotRecord,
    VolumeRecord,
};
use pando_model::{AppState, CloneState, OperationState, OwnerId, UnitId};
use pando_pool::PoolDriver;
use pando_runtime::Runtime;

use super::kit::Kit;

use crate::owner::Owner;
use crate::strangers::strangers;
use crate::units::has_server;
use crate::verbs::remove::trees_of;

/// Operations that are not at their end.
pub fn open_operations(kit: &Kit) -> Vec<OperationRecord> {
    [OperationState::Running, OperationState::Undoing, OperationState::Stuck]
        .iter()
        .flat_map(|state| kit.world.catalog.of::<OperationRecord>(state.as_str()).unwrap())
        .collect()
}

struct All {
    apps: Vec<AppRecord>,
    clones: Vec<CloneRecord>,
    snapshots: Vec<SnapshotRecord>,
    bookmarks: Vec<BookmarkRecord>,
    volumes: Vec<VolumeRecord>,
}

impl All {
    /// Apps with a production.
    fn linked(&self) -> impl Iterator<Item = &AppRecord> {
        self.apps.iter().filter(|app| app.state != AppState::Detached)
    }
}

fn all(kit: &Kit) -> All {
    let catalog = &kit.world.catalog;
    All {
        apps: catalog.all().unwrap(),
        clones: catalog.all().unwrap(),
        snapshots: catalog.all().unwrap(),
        bookmarks: catalog.all().unwrap(),
        volumes: catalog.all().unwrap(),
    }
}

fn same<T: Ord + std::fmt::Debug>(what: &str, meant: BTreeSet<T>, found: BTreeSet<T>, wrong: &mut Vec<String>) {
    wrong.extend(meant.difference(&found).map(|one| format!("{what} {one:?} is meant and not there")));
    wrong.extend(found.difference(&meant).map(|one| format!("{what} {one:?} is there and not meant")));
}

fn entries(dir: &Path) -> BTreeSet<String> {
    let Ok(entries) = std::fs::read_dir(dir) else { return BTreeSet::new() };
    entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect()
}

/// The units that a record names, whether or not they run.
pub fn known_units(kit: &Kit) -> BTreeSet<UnitId> {
    let all = all(kit);
    let of_apps = all.apps.iter().flat_map(|app| app.sources.values()).flat_map(|source| source.units.values());
    let of_clones = all.clones.iter().flat_map(|clone| clone.sources.values()).flat_map(|source| source.units.values());
    of_apps.chain(of_clones).cloned().collect()
}

/// The units that run when all is well.
fn meant_units(all: &All) -> BTreeSet<UnitId> {
    let mut units = BTreeSet::new();
    for app in all
        .apps
        .iter()
        .filter(|app| matches!(app.state, AppState::Following | AppState::Disconnected | AppState::Failed))
    {
        for source in app.sources.values().filter(|source| has_server(source.engine)) {
            units.extend(["server", "receiver"].map(|role| source.units[role].clone()));
        }
    }
    for clone in all.clones.iter().filter(|clone| clone.state == CloneState::Running) {
        for source in clone.sources.values().filter(|source| has_server(source.engine)) {
            units.insert(source.units["server"].clone());
            if clone.record {
                units.insert(source.units["receiver"].clone());
            }
        }
    }
    units
}

/// Everything that is not as it must be.
pub fn complaints(kit: &Kit) -> Vec<String> {
    let all = all(kit);
    let mut wrong = strangers(&kit.world);
    for record in open_operations(kit) {
        let why = record.error.map(|problem| problem.to_string()).unwrap_or_default();
        wrong.push(format!("{} {} is {}: {why}", record.verb, record.subject, record.state));
    }
    let there = kit.pool.inventory().unwrap();
    let mut volumes: BTreeSet<_> = all.linked().map(|app| app.volume.clone()).collect();
    for clone in &all.clones {
        let former = clone.former.iter().flat_map(|former| former.sources.values());
        volumes.extend(clone.sources.values().chain(former).map(|source| source.volume.clone()));
    }
    same("the volume", volumes, there.volumes.into_iter().collect(), &mut wrong);
    let trees = all.snapshots.iter().flat_map(trees_of).collect();
    same("the tree", trees, there.snapshots.into_iter().collect(), &mut wrong);
    let running: BTreeSet<UnitId> = kit.runtime.inventory().unwrap().into_iter().collect();
    wrong.extend(running.iter().filter(|unit| kit.runtime.is_paused(unit)).map(|unit| format!("{unit} is paused")));
    same("the unit", meant_units(&all), running, &mut wrong);
    let projects: BTreeSet<String> = kit.projects.inventory().into_keys().collect();
    let composed = |clone: &&CloneRecord| clone.compose.is_some();
    let meant = all.clones.iter().filter(composed).map(|clone| clone.name.to_string()).collect();
    same("the project", meant, projects, &mut wrong);
    records(kit, &all, &mut wrong);
    images(kit, &mut wrong);
    surroundings(kit, &all, &mut wrong);
    wrong
}

/// Records among themselves.
fn records(kit: &Kit, all: &All, wrong: &mut Vec<String>) {
    let mut names: BTreeSet<(String, String)> =
        all.linked().map(|app| (app.name.to_string(), app.id.to_string())).collect();
    names.extend(all.clones.iter().map(|clone| (clone.name.to_string(), clone.id.to_string())));
    names.extend(all.volumes.iter().map(|volume| (volume.name.to_string(), volume.clone.to_string())));
    same("the name", names, kit.world.catalog.names().unwrap().into_iter().collect(), wrong);
    let mut owners: BTreeSet<OwnerId> = all.apps.iter().map(|app| OwnerId::App(app.id.clone())).collect();
    owners.extend(all.clones.iter().map(|clone| OwnerId::Clone(clone.id.clone())));
    for app in all.apps.iter().filter(|app| matches!(app.state, AppState::Linking | AppState::Removing)) {
        wrong.push(format!("the app {} is {}", app.name, app.state));
    }
    for clone in &all.clones {
        if matches!(clone.state, CloneState::Creating | CloneState::Refreshing | CloneState::Removing) {
            wrong.push(format!("the clone {} is {}", clone.name, clone.state));
        }
        if !owners.contains(&clone.parent) || !owners.contains(&OwnerId::App(clone.app.clone())) {
            wrong.push(format!("the clone {} has lost its parent", clone.name));
        }
    }
    for app in all.apps.iter().filter(|app| app.state == AppState::Detached) {
        if !all.clones.iter().any(|clone| clone.app == app.id) {
            wrong.push(format!("the detached app {} has no clone", app.name));
        }
    }
    for snapshot in &all.snapshots {
        let trees = trees_of(snapshot);
        if !snapshot.complete || !owners.contains(&snapshot.owner) || trees.is_empty() {
            wrong.push(format!("the snapshot {} is half made", snapshot.id));
        }
        if snapshot.sources.values().any(|source| !trees.contains(&source.tree)) {
            wrong.push(format!("the snapshot {} names a tree that is not its own", snapshot.id));
        }
    }
    for volume in &all.volumes {
        let clone = all.clones.iter().find(|clone| clone.id == volume.clone);
        if clone.is_none_or(|clone| !clone.sources.contains_key(&volume.source)) {
            wrong.push(format!("the volume {} is nobody's", volume.name));
        }
    }
    for bookmark in &all.bookmarks {
        if !all.snapshots.iter().any(|one| one.id == bookmark.snapshot && one.owner == bookmark.owner) {
            wrong.push(format!("the bookmark {} pins nothing", bookmark.name));
        }
    }
}

/// Images: every blob is named by a record, every record has its blobs, and nothing is in the making.
fn images(kit: &Kit, wrong: &mut Vec<String>) {
    let (catalog, store) = (&kit.world.catalog, crate::images::store(&kit.world));
    let names: Vec<ImageName> = catalog.all().unwrap();
    let images: Vec<ImageRecord> = catalog.all().unwrap();
    let bases: Vec<BaseRecord> = catalog.all().unwrap();
    let digests: BTreeSet<&str> = images.iter().map(|image| image.digest.as_str()).collect();
    wrong.extend(
        names
            .iter()
            .filter(|name| !digests.contains(name.image.as_str()))
            .map(|name| format!("the image {} stands for nothing", name.reference)),
    );
    let used: BTreeSet<&str> = images.iter().map(|image| image.base.as_str()).collect();
    same("the server image", used, bases.iter().map(|base| base.id.as_str()).collect(), wrong);
    let of_images = images.iter().flat_map(|image| &image.blobs);
    let blobs: BTreeSet<String> = of_images.chain(bases.iter().flat_map(|base| &base.blobs)).cloned().collect();
    same("the blob", blobs, store.list().unwrap().into_iter().collect(), wrong);
    same("work on an image", BTreeSet::new(), entries(&store.root().join("work")), wrong);
}

/// Production, and the files of the home.
fn surroundings(kit: &Kit, all: &All, wrong: &mut Vec<String>) {
    let mut tags = BTreeSet::new();
    for app in all.linked() {
        for held in Owner::of_app(&kit.world, app.clone()).unwrap().sources.values() {
            if kit.engine.is_held(&held.seat.data) {
                wrong.push(format!("the mirror of {} is held", app.name));
            }
            if has_server(held.kind) {
                tags.insert(held.source.tag.clone());
            }
        }
    }
    // What could not be lowered ends by itself; all else must be.
    wrong.extend(kit.engine.fences().iter().map(|tag| format!("production's writes are held for {tag}")));
    // Production may be away for ever; then the user is told.
    let told = kit.world.catalog.events(0).unwrap().iter().any(|event| event.kind == "slot-left-behind");
    let mut slots: BTreeSet<String> = kit.engine.slots().into_iter().collect();
    slots.retain(|slot| tags.contains(slot) || !told);
    same("the slot", tags, slots, wrong);
    let home = kit.world.home.root();
    let mut owners: BTreeSet<String> = all.apps.iter().map(|app| app.id.to_string()).collect();
    owners.extend(all.clones.iter().map(|clone| clone.id.to_string()));
    let logs: BTreeSet<String> = entries(&home.join("log")).difference(&owners).cloned().collect();
    same("the log", BTreeSet::new(), logs, wrong);
    let clones = all.clones.iter().map(|clone| clone.name.to_string()).collect();
    same("the directory of links", clones, entries(&home.join("clones")), wrong);
    for clone in &all.clones {
        let owner = Owner::of_clone(&kit.world, clone.clone()).unwrap();
        for (source, held) in &owner.sources {
            let link = kit.world.home.clone_dir(&clone.name).join(source.as_str());
            if std::fs::read_link(&link).ok().as_ref() != Some(&held.seat.data) {
                wrong.push(format!("the link {} does not point to the clone's data", link.display()));
            }
        }
    }
}

/// The whole state as text: what is meant, and what clones hold.
pub fn digest(kit: &Kit) -> BTreeMap<String, String> {
    let all = all(kit);
    let mut found = BTreeMap::new();
    for app in &all.apps {
        found.insert(
            format!("app {}", app.name),
            format!("{} {} {} {:?}", app.id, app.state, app.volume, (&app.policy, &app.set, &app.stitches)),
        );
    }
    for snapshot in &all.snapshots {
        found.insert(format!("snapshot {}", snapshot.id), serde_json::to_string(snapshot).unwrap());
    }
    for bookmark in &all.bookmarks {
        found.insert(format!("bookmark {}", bookmark.name), serde_json::to_string(bookmark).unwrap());
    }
    for volume in &all.volumes {
        found.insert(format!("volume {}", volume.name), serde_json::to_string(volume).unwrap());
    }
    for clone in &all.clones {
        found.insert(format!("clone {}", clone.name), serde_json::to_string(clone).unwrap());
        for (source, held) in Owner::of_clone(&kit.world, clone.clone()).unwrap().sources {
            for file in entries(&held.seat.data) {
                let text = std::fs::read_to_string(held.seat.data.join(&file)).unwrap();
                found.insert(format!("data {} {source} {file}", clone.name), text);
            }
        }
    }
    let projects = kit.projects.inventory();
    if !projects.is_empty() {
        found.insert("projects".to_owned(), format!("{projects:?}"));
    }
    for name in kit.world.catalog.all::<ImageName>().unwrap() {
        found.insert(format!("image name {}", name.reference), serde_json::to_string(&name).unwrap());
    }
    for image in kit.world.catalog.all::<ImageRecord>().unwrap() {
        found.insert(format!("image {}", image.digest), serde_json::to_string(&image).unwrap());
    }
    found.insert("units".to_owned(), format!("{:?}", kit.runtime.inventory().unwrap()));
    found
}
