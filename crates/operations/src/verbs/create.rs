//! `create`: an empty volume for containers, which outlives them: a clone of nothing, with one directory. It is
//! snapshotted, bookmarked, rewound and copied like any other; there is nothing that it could be refreshed from.
//!
//! # Crash consistency
//! Clone, app (detached, as that of an import) and volume have their ids from birth. Records and names are taken at
//! once; undo destroys the volume and drops them.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;

use jiff::Timestamp;
use pando_catalog::{AppRecord, AppSource, CloneRecord, CloneSource, Durability, VolumeRecord};
use pando_engine::Source;
use pando_host::secret::Secret;
use pando_model::{
    AppId, AppState, CloneId, CloneState, EngineKind, Name, OwnerId, Policy, Profile, SourceUrl, Timing, UnitId,
    VolumeId,
};
use serde::{Deserialize, Serialize};

use super::{provision, remove};
use crate::fault::{Done, Fault, failed, io};
use crate::journal::{Run, Step, Verb, keep};
use crate::owner::Owner;
use crate::units;
use crate::world::World;

/// What was asked for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Empty {
    /// The volume's name, which is the clone's too.
    pub name: Name,
    /// As it was typed.
    pub options: BTreeMap<String, String>,
    /// Whom the directory belongs to.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its permission bits.
    pub mode: Option<u32>,
}

/// An empty volume in the making.
#[derive(Serialize, Deserialize)]
pub struct Create {
    wanted: Empty,
    id: CloneId,
    app: AppId,
    volume: VolumeId,
    /// The mirror's, which is never made.
    nothing: VolumeId,
    seat: UnitId,
    units: BTreeMap<String, UnitId>,
    asked_at: Timestamp,
}

impl Verb for Create {
    const WORD: &'static str = "create";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "reserve", apply: Self::reserve, undo: Self::release },
        Step { name: "volume", apply: Self::make_volume, undo: Self::no_volume },
        Step { name: "show", apply: Self::show, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 3;

    fn subject(&self) -> Name {
        self.wanted.name.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "clone": self.wanted.name, "id": self.id }))
    }
}

impl Create {
    /// An empty volume to be made.
    pub fn new(world: &World, wanted: Empty) -> Done<Self> {
        world.need_room()?;
        let [clone, app, volume, nothing, seat] = [(); 5].map(|()| world.id());
        Ok(Self {
            wanted,
            id: CloneId::from_parts(clone.0, clone.1),
            app: AppId::from_parts(app.0, app.1),
            volume: VolumeId::from_parts(volume.0, volume.1),
            nothing: VolumeId::from_parts(nothing.0, nothing.1),
            seat: UnitId::from_parts(seat.0, seat.1),
            units: units::fresh_units(world),
            asked_at: world.now(),
        })
    }

    /// Its one directory.
    fn source() -> Done<Name> {
        "data".parse().map_err(|error: pando_model::NameError| Fault::Problem(failed(error.to_string())))
    }

    fn of_app(&self, world: &World) -> Done<AppSource> {
        let url: SourceUrl =
            "file:///nowhere".parse().map_err(|error: pando_model::SourceUrlError| failed(error.to_string()))?;
        let source = Source { url, exclude: Vec::new(), facts: serde_json::Value::Null, tag: String::new() };
        let sealed = serde_json::to_vec(&source).map_err(|error| failed(error.to_string()))?;
        Ok(AppSource {
            engine: EngineKind::Files,
            sealed: world.seal(&sealed)?,
            shown: String::new(),
            version: None,
            notes: Vec::new(),
            units: BTreeMap::new(),
            seat: self.seat.clone(),
            image: None,
        })
    }

    fn reserve(&mut self, run: &Run) -> Done<()> {
        let (world, name, source) = (&run.world, &self.wanted.name, Self::source()?);
        let app = AppRecord {
            id: self.app.clone(),
            name: name.clone(),
            state: AppState::Detached,
            problem: None,
            policy: Policy::default(),
            set: BTreeMap::new(),
            volume: self.nothing.clone(),
            created_at: self.asked_at,
            copied_at: None,
            sources: BTreeMap::from([(source.clone(), self.of_app(world)?)]),
            stitches: None,
        };
        let held = CloneSource {
            engine: EngineKind::Files,
            volume: self.volume.clone(),
            port: None,
            units: self.units.clone(),
            seat: self.seat.clone(),
            moment: None,
            position: None,
            skew_seconds: None,
            notes: Vec::new(),
        };
        let record = CloneRecord {
            id: self.id.clone(),
            name: name.clone(),
            app: self.app.clone(),
            // It comes from nowhere.
            parent: OwnerId::Clone(self.id.clone()),
            asked: "empty".to_owned(),
            moment: self.asked_at,
            snapshot: None,
            profile: Profile::Durable,
            record: false,
            state: CloneState::Creating,
            problem: None,
            lease_until: None,
            lease_warned: false,
            lease_waits: None,
            created_at: self.asked_at,
            elsewhere: true,
            password: world.seal(Secret::generate().reveal().as_bytes())?,
            set: BTreeMap::new(),
            container: None,
            compose: None,
            sources: BTreeMap::from([(source.clone(), held)]),
            timing: Timing { storage_ms: 0, ready_ms: 0 },
            former: None,
            promoted_at: None,
            masked: false,
        };
        let volume = VolumeRecord {
            name: name.clone(),
            clone: self.id.clone(),
            source,
            options: self.wanted.options.clone(),
            created_at: self.asked_at,
        };
        // Durable before there is anything on disk that goes by its name.
        Ok(world.catalog.change(Durability::Synced, |change| {
            change.take_name(name, &OwnerId::Clone(self.id.clone()))?;
            change.put(&app)?;
            change.put(&record)?;
            change.put(&volume)
        })?)
    }

    fn release(&mut self, run: &Run) -> Done<()> {
        remove::forget_timeline::<CloneRecord>(run, &OwnerId::Clone(self.id.clone()))?;
        Ok(run.world.catalog.delete::<AppRecord>(self.app.as_str())?)
    }

    fn make_volume(&mut self, run: &Run) -> Done<()> {
        let pool = run.world.pool()?;
        pool.create_volume(&self.volume)?;
        let dir = pool.volume_path(&self.volume).join(Self::source()?.as_str());
        let action = |error| Fault::Problem(io("making an empty volume", error));
        std::fs::create_dir_all(&dir).map_err(action)?;
        let mode = self.wanted.mode.unwrap_or(0o755);
        std::fs::set_permissions(&dir, std::fs::Permissions::from_mode(mode)).map_err(action)?;
        if self.wanted.uid.is_some() || self.wanted.gid.is_some() {
            std::os::unix::fs::chown(&dir, self.wanted.uid, self.wanted.gid).map_err(action)?;
        }
        let record: Option<CloneRecord> = run.world.catalog.get(self.id.as_str())?;
        let record = record.ok_or_else(|| Fault::Problem(failed("the record of an empty volume is gone")))?;
        provision::link_paths(&run.world, &self.wanted.name, &Owner::of_clone(&run.world, record)?)
    }

    fn no_volume(&mut self, run: &Run) -> Done<()> {
        // The name may be another clone's if this one never got it.
        if run.world.catalog.owner(&self.wanted.name)? == Some(OwnerId::Clone(self.id.clone())) {
            provision::unlink_paths(&run.world, &self.wanted.name)?;
        }
        provision::destroy(run, [&self.volume])
    }

    fn show(&mut self, run: &Run) -> Done<()> {
        let Some(mut record) = run.world.catalog.get::<CloneRecord>(self.id.as_str())? else { return Ok(()) };
        record.state = CloneState::Stopped;
        Ok(run.world.catalog.note(&record)?)
    }
}
