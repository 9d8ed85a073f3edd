//! An app's mirror or a clone, seen alike: sources with their engine, seat and log. "A clone is a mirror's
//! equal": whatever works on a timeline works on both.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use pando_catalog::{AppRecord, CloneRecord, CloneSource, Sealed, SnapshotRecord};
use pando_engine::{Engine, Seat, Source};
use pando_host::Idmap;
use pando_model::{AppState, CloneState, EngineKind, Name, OwnerId, PoolSnapshotId, UnitId, VolumeId};

use pando_runtime::Container;

use crate::apart;
use crate::containers;
use crate::fault::{Done, Fault, failed, not_found};
use crate::world::World;

/// One source of an owner.
pub struct Held {
    /// What knows it.
    pub kind: EngineKind,
    /// The same, ready to be called.
    pub engine: Arc<dyn Engine>,
    /// Production's side of it.
    pub source: Source,
    /// Where it lives.
    pub seat: Seat,
    /// The volume that holds it.
    pub volume: VolumeId,
    /// By role.
    pub units: BTreeMap<String, UnitId>,
    /// What its containers are given; none: it runs as processes.
    pub container: Option<Container>,
    /// Its data came from elsewhere: what a server reads there may lead it anywhere.
    pub foreign: bool,
    /// Whom its processes run as instead of the account of all servers.
    pub number: Option<u32>,
}

impl Held {
    /// What its processes have: the volume, which may hold what lies beside a tree, its directory of sockets, and its log.
    fn dirs(&self) -> Vec<PathBuf> {
        let seat = &self.seat;
        let volume = seat.data.parent().unwrap_or(&seat.data);
        [volume, &seat.run, &seat.log].map(Path::to_owned).to_vec()
    }

    /// Where alone its processes change files, if that is so.
    pub fn writes(&self) -> Option<Vec<PathBuf>> {
        (self.foreign && self.container.is_none()).then(|| self.dirs())
    }

    /// The number that its processes have to themselves, if they have one, and where they pass for the account.
    pub fn idmap(&self) -> Option<Idmap> {
        let id = self.number.filter(|_| self.container.is_none())?;
        Some(Idmap { id, dirs: self.dirs() })
    }
}

/// An app or a clone.
pub struct Owner {
    /// Its id.
    pub id: OwnerId,
    /// Its name.
    pub name: Name,
    /// The app it is, or stems from.
    pub app: AppRecord,
    /// The clone, if it is one.
    pub clone: Option<CloneRecord>,
    /// By name.
    pub sources: BTreeMap<Name, Held>,
    /// Where a clone's servers listen, by source.
    pub ports: BTreeMap<Name, u16>,
}

impl Owner {
    /// Whatever has that name.
    pub fn named(world: &World, name: &Name) -> Done<Self> {
        let unknown = || {
            Fault::Problem(
                not_found(format!("there is no app or clone named {name}")).hint("`pando ls` shows what there is"),
            )
        };
        let id = world.catalog.owner(name)?.ok_or_else(unknown)?;
        Self::load(world, &id)?.ok_or_else(unknown)
    }

    /// The owner with that id.
    pub fn load(world: &World, id: &OwnerId) -> Done<Option<Self>> {
        match id {
            OwnerId::App(app) => {
                let Some(app) = world.catalog.get::<AppRecord>(app.as_str())? else { return Ok(None) };
                Ok(Some(Self::of_app(world, app)?))
            }
            OwnerId::Clone(clone) => {
                let Some(clone) = world.catalog.get::<CloneRecord>(clone.as_str())? else { return Ok(None) };
                Ok(Some(Self::of_clone(world, clone)?))
            }
        }
    }

    /// The mirror of an app.
    pub fn of_app(world: &World, app: AppRecord) -> Done<Self> {
        let id = OwnerId::App(app.id.clone());
        let mut sources = BTreeMap::new();
        for (name, stored) in &app.sources {
            let source = production(world, &app, name)?;
            let seat = seat(world, &id, name, &app.volume, &stored.seat)?;
            let held = Held {
                kind: stored.engine,
                engine: world.engine(stored.engine)?,
                source,
                seat,
                volume: app.volume.clone(),
                units: stored.units.clone(),
                container: None,
                foreign: app.state == AppState::Detached,
                // A mirror knows production's password, and production may ask who it is on this machine.
                number: if app.state == AppState::Detached { apart::number(world, &id) } else { None },
            };
            sources.insert(name.clone(), held);
        }
        Ok(Self { id, name: app.name.clone(), app, clone: None, sources, ports: BTreeMap::new() })
    }

    /// A clone as its record says.
    pub fn of_clone(world: &World, clone: CloneRecord) -> Done<Self> {
        let sources = clone.sources.clone();
        Self::of_clone_with(world, clone, &sources)
    }

    /// A clone, with other sources than its record says (while a refresh is under way).
    pub fn of_clone_with(world: &World, clone: CloneRecord, with: &BTreeMap<Name, CloneSource>) -> Done<Self> {
        let id = OwnerId::Clone(clone.id.clone());
        let app: AppRecord = world
            .catalog
            .get(clone.app.as_str())?
            .ok_or_else(|| Fault::Problem(failed(format!("the app of clone {} is gone", clone.name))))?;
        let ports = with.iter().filter_map(|(name, source)| Some((name.clone(), source.port?))).collect();
        let mut sources = BTreeMap::new();
        for (name, stored) in with {
            let held = Held {
                kind: stored.engine,
                engine: world.engine(stored.engine)?,
                source: production(world, &app, name)?,
                seat: seat(world, &id, name, &stored.volume, &stored.seat)?,
                volume: stored.volume.clone(),
                units: stored.units.clone(),
                container: containers::base(world, &app, &clone, name),
                foreign: app.state == AppState::Detached,
                number: apart::number(world, &id),
            };
            sources.insert(name.clone(), held);
        }
        Ok(Self { id, name: clone.name.clone(), app, clone: Some(clone), sources, ports })
    }

    /// The clone, or the problem that this is an app.
    pub fn clone_record(&self) -> Done<&CloneRecord> {
        self.clone.as_ref().ok_or_else(|| is_an_app(&self.name))
    }

    /// The password of the clone's own user.
    pub fn password(&self, world: &World) -> Done<String> {
        world.unseal_text(&self.clone_record()?.password)
    }

    /// Has the clone another password, as far as whoever is told of it goes; the one it had.
    pub fn exchange_password(&mut self, other: Sealed) -> Done<Sealed> {
        let record = self.clone.as_mut().ok_or_else(|| is_an_app(&self.name))?;
        Ok(std::mem::replace(&mut record.password, other))
    }

    /// Whether this owner keeps a log (mirrors always do, where their engine has one).
    pub fn records(&self) -> bool {
        self.clone.as_ref().is_none_or(|clone| clone.record)
    }

    /// Whether it is a clone that was stopped: its data is what it shows, and its log says nothing of now.
    pub fn is_stopped(&self) -> bool {
        self.clone.as_ref().is_some_and(|clone| clone.state == CloneState::Stopped)
    }

    /// Its whole snapshots, oldest first.
    pub fn snapshots(&self, world: &World) -> Done<Vec<SnapshotRecord>> {
        let mut all: Vec<SnapshotRecord> = world.catalog.of(self.id.as_str())?;
        all.retain(|snapshot| snapshot.complete);
        all.sort_by(|one, two| (one.moment, &one.id).cmp(&(two.moment, &two.id)));
        Ok(all)
    }

    /// Its volumes, each once.
    pub fn volumes(&self) -> Vec<VolumeId> {
        let mut volumes: Vec<VolumeId> = self.sources.values().map(|held| held.volume.clone()).collect();
        volumes.sort();
        volumes.dedup();
        volumes
    }
}

fn is_an_app(name: &Name) -> Fault {
    Fault::Problem(not_found(format!("{name} is an app, not a clone")).hint("`pando ls` shows the clones"))
}

/// A source of production, password included.
pub fn production(world: &World, app: &AppRecord, name: &Name) -> Done<Source> {
    let stored = app
        .sources
        .get(name)
        .ok_or_else(|| Fault::Problem(failed(format!("the app {} has no source {name}", app.name))))?;
    serde_json::from_slice(&world.unseal(&stored.sealed)?)
        .map_err(|error| Fault::Problem(failed(format!("the source {name} of {} cannot be read: {error}", app.name))))
}

/// Where a source of an owner lives.
pub fn seat(world: &World, owner: &OwnerId, name: &Name, volume: &VolumeId, sockets: &UnitId) -> Done<Seat> {
    Ok(Seat {
        data: world.pool()?.volume_path(volume).join(name.as_str()),
        log: world.home.log(owner, name),
        run: world.home.run(sockets.as_str()),
        account: world.account.clone(),
    })
}

/// The same seat, looking at a snapshot's tree.
pub fn tree_seat(world: &World, seat: &Seat, name: &Name, tree: &PoolSnapshotId) -> Done<Seat> {
    Ok(Seat { data: world.pool()?.snapshot_path(tree).join(name.as_str()), ..seat.clone() })
}
