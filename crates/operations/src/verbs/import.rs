//! `import`: an archive of `export` becomes a clone that runs, is snapshotted and cloned like any other. There
//! is no production behind it: its app is *detached*, has no name, no mirror and no timeline, and goes with the
//! last of its clones.
//!
//! What a server reads in a stranger's tree may lead it anywhere: a dictionary, a log of changes, a log of unfinished
//! statements name files by whole paths, to be written to or removed. So the processes of an imported clone, and of its
//! clones, are confined: they change nothing outside of the clone, from their first start on and for good.
//!
//! # Crash consistency
//! Clone, app and volume have their ids from birth. The name is taken first; what arrives goes into the volume,
//! which nobody else may enter until it was checked and synced. Undo stops the units, destroys the volume and
//! drops the records.

use std::collections::BTreeMap;
use std::fs::Permissions;
use std::io::BufReader;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use pando_catalog::{AppRecord, AppSource, CloneRecord, CloneSource, Durability};
use pando_engine::Source;
use pando_host::confine;
use pando_host::secret::Secret;
use pando_image::{Limits, Manifest, Owning, SourceEntry};
use pando_model::{
    AppId, AppState, CloneId, CloneState, EngineKind, ErrorKind, ImportRequest, Name, OwnerId, Policy, PoolSnapshotId,
    Profile, Timing, UnitId, VolumeId,
};
use serde::{Deserialize, Serialize};

use super::clone::{assign_ports, manner};
use super::{provision, remove};
use crate::fault::{Done, Fault, IntoProblem, failed, refused};
use crate::journal::{Run, Step, Verb, keep};
use crate::moments::{Plan, SourcePlan};
use crate::owner::Owner;
use crate::transfer::{self, Way};
use crate::units;
use crate::world::{World, thresholds};

/// What a server gets for its first start. What an export wrote was stopped cleanly, so there is nothing to recover; some
/// servers try again for ever to open what they are not allowed to.
const PATIENCE: Duration = Duration::from_secs(600);

/// An archive becoming a clone.
#[derive(Serialize, Deserialize)]
pub struct Import {
    request: ImportRequest,
    id: CloneId,
    app: AppId,
    volume: VolumeId,
    /// The mirror's, which is never made.
    nothing: VolumeId,
    asked_at: Timestamp,
}

impl Verb for Import {
    const WORD: &'static str = "import";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "reserve", apply: Self::reserve, undo: Self::release },
        Step { name: "volume", apply: Self::make_volume, undo: Self::no_volume },
        Step { name: "receive", apply: Self::receive, undo: keep },
        Step { name: "stage", apply: Self::stage, undo: Self::unstage },
        Step { name: "start", apply: Self::start, undo: Self::stop },
        Step { name: "admit", apply: Self::admit, undo: keep },
        Step { name: "show", apply: Self::show, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 7;

    fn subject(&self) -> Name {
        self.request.clone.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "clone": self.request.clone, "id": self.id }))
    }
}

fn fresh_volume(world: &World) -> VolumeId {
    let (millis, random) = world.id();
    VolumeId::from_parts(millis, random)
}

impl Import {
    /// A clone to be made of what will be sent.
    pub fn new(world: &World, request: ImportRequest) -> Done<Self> {
        world.need_room()?;
        let (clone, app) = (world.id(), world.id());
        Ok(Self {
            request,
            id: CloneId::from_parts(clone.0, clone.1),
            app: AppId::from_parts(app.0, app.1),
            volume: fresh_volume(world),
            nothing: fresh_volume(world),
            asked_at: world.now(),
        })
    }

    fn owner_id(&self) -> OwnerId {
        OwnerId::Clone(self.id.clone())
    }

    fn stored(&self, run: &Run) -> Done<CloneRecord> {
        let record = run.world.catalog.get(self.id.as_str())?;
        record.ok_or_else(|| Fault::Problem(failed(format!("the record of {} is gone", self.request.clone))))
    }

    fn owner(&self, run: &Run) -> Done<Owner> {
        Owner::of_clone(&run.world, self.stored(run)?)
    }

    /// Takes the name.
    fn reserve(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let app = AppRecord {
            id: self.app.clone(),
            name: self.request.clone.clone(),
            state: AppState::Detached,
            problem: None,
            policy: Policy::default(),
            set: BTreeMap::new(),
            volume: self.nothing.clone(),
            created_at: self.asked_at,
            copied_at: None,
            sources: BTreeMap::new(),
            stitches: None,
        };
        let record = CloneRecord {
            id: self.id.clone(),
            name: self.request.clone.clone(),
            app: self.app.clone(),
            parent: OwnerId::App(self.app.clone()),
            asked: "import".to_owned(),
            moment: self.asked_at,
            snapshot: None,
            // There is nowhere to get it from again.
            profile: self.request.profile.unwrap_or(Profile::Durable),
            record: false,
            state: CloneState::Creating,
            problem: None,
            lease_until: None,
            lease_warned: false,
            lease_waits: None,
            compose: None,
            created_at: self.asked_at,
            elsewhere: false,
            password: world.seal(Secret::generate().reveal().as_bytes())?,
            set: BTreeMap::new(),
            container: None,
            sources: BTreeMap::new(),
            timing: Timing { storage_ms: 0, ready_ms: 0 },
            former: None,
            promoted_at: None,
            masked: false,
        };
        Ok(world.catalog.change(Durability::Ordered, |change| {
            change.take_name(&record.name, &OwnerId::Clone(record.id.clone()))?;
            change.put(&app)?;
            change.put(&record)
        })?)
    }

    fn release(&mut self, run: &Run) -> Done<()> {
        remove::forget_timeline::<CloneRecord>(run, &self.owner_id())?;
        Ok(run.world.catalog.delete::<AppRecord>(self.app.as_str())?)
    }

    /// Makes the volume, and shuts it.
    fn make_volume(&mut self, run: &Run) -> Done<()> {
        let pool = run.world.pool()?;
        pool.create_volume(&self.volume)?;
        shut(&pool.volume_path(&self.volume), 0o700)
    }

    fn no_volume(&mut self, run: &Run) -> Done<()> {
        self.stop(run)?;
        provision::destroy(run, [&self.volume])
    }

    /// Reads the archive into the volume. Nothing of it is believed before it was checked, and nobody enters
    /// before it is whole.
    fn receive(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let pool = world.pool()?;
        let into = pool.volume_path(&self.volume);
        clear(&into)?;
        shut(&into, 0o700)?;
        let stream = transfer::open(run, Way::In)?;
        let received = pando_image::read_manifest(BufReader::with_capacity(1 << 18, stream))?;
        let manifest = received.manifest.clone();
        let sources = self.sources(world, &manifest)?;
        let room = pool.room()?;
        let limits = Limits {
            room: room.free_bytes.saturating_sub(thresholds(room.total_bytes).0),
            outward_links: self.request.outward_links,
        };
        let mut told = 0;
        pando_image::unpack(received, &into, limits, &|kind| owning(world, kind), &mut |bytes| {
            if bytes - told >= 16 << 20 {
                told = bytes;
                run.progress("importing", bytes, Some(manifest.bytes));
            }
        })?;
        // Whole and unchanged: now the engines look at it, some as the account of their servers.
        shut(&into, 0o755)?;
        for (name, (source, _)) in &sources {
            let engine = world.engine(source.url.engine)?;
            engine.receive(&into.join(name.as_str()), source)?;
        }
        pando_host::durable::sync_file_system(&into)
            .map_err(|error| Fault::Problem(crate::fault::io("syncing what was imported", error)))?;
        run.pass("import.receive.synced")?;
        self.note(run, &manifest, sources)
    }

    /// The sources as this machine would have them; refuses what it cannot serve.
    fn sources(&self, world: &World, manifest: &Manifest) -> Done<BTreeMap<Name, (Source, Vec<String>)>> {
        let mut made = BTreeMap::new();
        for (name, entry) in &manifest.sources {
            if units::has_server(entry.engine) && !world.runtime.confines() {
                let what = "what comes from elsewhere is served only where the kernel confines its servers to it";
                return Err(refused(what).hint(format!("that takes {}", confine::NEEDS)).into());
            }
            let source = Source {
                url: entry.url.clone(),
                exclude: Vec::new(),
                facts: entry.facts.clone(),
                tag: format!("pando_{}", self.app.as_str().replace('-', "_")),
            };
            if units::has_server(entry.engine) && manifest.arch != std::env::consts::ARCH {
                let text =
                    format!("{name} was written on {}, this machine is {}", manifest.arch, std::env::consts::ARCH);
                return Err(refused(text).into());
            }
            world.engine(entry.engine)?.fits(&source).map_err(|error| {
                let mut problem = error.into_problem();
                problem.kind = ErrorKind::Refused;
                problem.message = format!("{name} cannot be served here: {}", problem.message);
                problem
            })?;
            made.insert(name.clone(), (source, notes(entry, manifest)));
        }
        Ok(made)
    }

    /// Writes what arrived into the records.
    fn note(&self, run: &Run, manifest: &Manifest, sources: BTreeMap<Name, (Source, Vec<String>)>) -> Done<()> {
        let world = &run.world;
        let mut record = self.stored(run)?;
        let app: Option<AppRecord> = world.catalog.get(self.app.as_str())?;
        let mut app = app.ok_or_else(|| Fault::Problem(failed("the app of an import is gone")))?;
        app.name = manifest.app.clone();
        record.moment = manifest.moment;
        record.asked.clone_from(&manifest.asked);
        record.masked = manifest.masked;
        for (name, (source, notes)) in sources {
            let Some(entry) = manifest.sources.get(&name) else { continue };
            let seat = || {
                let (millis, random) = world.id();
                UnitId::from_parts(millis, random)
            };
            let sealed = serde_json::to_vec(&source).map_err(|error| failed(error.to_string()))?;
            let stored = AppSource {
                engine: entry.engine,
                sealed: world.seal(&sealed)?,
                shown: source.url.to_string(),
                version: entry.version.clone(),
                notes: notes.clone(),
                units: BTreeMap::new(),
                seat: seat(),
                image: None,
            };
            app.sources.insert(name.clone(), stored);
            let held = CloneSource {
                engine: entry.engine,
                volume: self.volume.clone(),
                port: None,
                units: units::fresh_units(world),
                seat: seat(),
                moment: entry.moment,
                position: entry.position.clone(),
                skew_seconds: None,
                notes,
            };
            record.sources.insert(name, held);
        }
        world.catalog.note(&app)?;
        assign_ports(run, &mut record)?;
        Ok(world.catalog.note(&record)?)
    }

    fn stage(&mut self, run: &Run) -> Done<()> {
        let owner = self.owner(run)?;
        let record = owner.clone_record()?;
        let ports = provision::ports(&record.sources);
        provision::stage(&owner, &ports, &self.plan(record), &manner(record, &owner.app))?;
        provision::link_paths(&run.world, &self.request.clone, &owner)
    }

    /// Everything as it is.
    fn plan(&self, record: &CloneRecord) -> Plan {
        let tree = PoolSnapshotId::from_parts(0, 0);
        let at = record.moment;
        let plain = SourcePlan { tree, to: None, log: None, at, skew: None, position: None };
        let sources = record.sources.keys().map(|name| (name.clone(), plain.clone())).collect();
        Plan { moment: at, asked: record.asked.clone(), snapshot: None, sources, masked: record.masked }
    }

    fn unstage(&mut self, run: &Run) -> Done<()> {
        if run.world.catalog.owner(&self.request.clone)? == Some(self.owner_id()) {
            provision::unlink_paths(&run.world, &self.request.clone)?;
        }
        Ok(())
    }

    fn start(&mut self, run: &Run) -> Done<()> {
        let owner = self.owner(run)?;
        provision::start(run, &owner)?;
        // Redis alone reads all its data when it starts.
        let mut quick = owner.sources.values().filter(|held| held.kind != EngineKind::Redis);
        quick.try_for_each(|held| units::wait_ready_within(run, held, PATIENCE))
    }

    fn stop(&mut self, run: &Run) -> Done<()> {
        let Some(record) = run.world.catalog.get::<CloneRecord>(self.id.as_str())? else { return Ok(()) };
        provision::stop_sources(run, record.sources.values())
    }

    fn admit(&mut self, run: &Run) -> Done<()> {
        let password = run.world.unseal_text(&self.stored(run)?.password)?;
        provision::admit(run, &self.owner(run)?, Some(&password), false)
    }

    fn show(&mut self, run: &Run) -> Done<()> {
        let mut record = self.stored(run)?;
        record.state = CloneState::Running;
        let took = run.world.now().duration_since(self.asked_at).as_millis();
        record.timing.ready_ms = u64::try_from(took).unwrap_or(0);
        Ok(run.world.catalog.note(&record)?)
    }
}

/// Servers' files belong to the account that runs the servers here, whoever had them there.
fn owning(world: &World, kind: EngineKind) -> Owning {
    match &world.account {
        Some(account) if units::has_server(kind) => Owning::Given(account.uid, account.gid),
        _ => Owning::Kept,
    }
}

/// What a user should know; another C library sorts differently (T-14).
fn notes(entry: &SourceEntry, manifest: &Manifest) -> Vec<String> {
    let mut notes = entry.notes.clone();
    let here = pando_host::libc_version();
    if units::has_server(entry.engine) && here.is_some() && manifest.libc.is_some() && here != manifest.libc {
        let [there, here] = [&manifest.libc, &here].map(|libc| libc.as_deref().unwrap_or_default());
        notes.push(format!(
            "written on {there}, served on {here}: text may sort differently, so REINDEX before relying on text indexes"
        ));
    }
    notes
}

fn shut(path: &Path, mode: u32) -> Done<()> {
    std::fs::set_permissions(path, Permissions::from_mode(mode))
        .map_err(|error| Fault::Problem(crate::fault::io("shutting a volume", error)))
}

/// Takes away what a former try left.
fn clear(path: &Path) -> Done<()> {
    let failed = |error| Fault::Problem(crate::fault::io("emptying a volume", error));
    for entry in std::fs::read_dir(path).map_err(failed)? {
        pando_host::durable::remove_tree_if_there(&entry.map_err(failed)?.path()).map_err(failed)?;
    }
    Ok(())
}
