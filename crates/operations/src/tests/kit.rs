//! A Pando whose pool, runtime, engines and clock are simulated. The home and the pool are real directories;
//! units and production live in memory and outlive the daemon, so that a restart is a new [`World`] over them.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use jiff::{SignedDuration, Timestamp};
use pando_catalog::{AppRecord, BookmarkRecord, Catalog, CloneRecord, SnapshotRecord};
use pando_engine::sim::SimEngine;
use pando_host::secret::SecretKey;
use pando_host::{FailPoints, ManualClock};
use pando_model::{
    CloneRequest, Edit, Hook, HookPoint, LinkRequest, LinkSource, Moment, Name, OwnerId, Policy, PoolSnapshotId,
    VolumeId,
};
use pando_pool::{Capabilities, Ensured, Inventory, PoolDriver, PoolError, Removed, Room, SimPool, Usage};
use pando_runtime::compose::SimProjects;
use pando_runtime::{Outcome, Runtime, SimRuntime, UnitSpec};

use super::agree::known_units;
use super::still::StillEngine;
use crate::facade::loose_run;
use crate::fault::Done;
use crate::follow;
use crate::home::Home;
use crate::journal::{Run, Verb, bear, drive};
use crate::owner::Owner;
use crate::recovery::recover_all;
use crate::verbs::{bookmark, clone, link, refresh, snapshot};
use crate::world::{Parts, World};

/// The simulated pool, with a size of its own and a counter of mutations that one of them can be failed by.
pub struct TestPool {
    pub sim: SimPool,
    calls: AtomicU64,
    fail_at: AtomicU64,
    full: AtomicBool,
}

impl TestPool {
    fn open(root: &Path) -> Self {
        let sim = SimPool::open(root).unwrap();
        Self { sim, calls: AtomicU64::new(0), fail_at: AtomicU64::new(0), full: AtomicBool::new(false) }
    }

    /// Mutations so far.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::SeqCst)
    }

    /// The `nth` mutation from now fails; 0: none does.
    pub fn fail(&self, nth: u64) {
        self.fail_at.store(if nth == 0 { 0 } else { self.calls() + nth }, Ordering::SeqCst);
    }

    pub fn set_full(&self, full: bool) {
        self.full.store(full, Ordering::SeqCst);
        self.sim.set_full(full);
    }

    fn enter(&self) {
        let call = self.calls.fetch_add(1, Ordering::SeqCst) + 1;
        if self.fail_at.load(Ordering::SeqCst) == call {
            self.sim.fail_next();
        }
    }
}

impl PoolDriver for TestPool {
    fn capabilities(&self) -> Capabilities {
        self.sim.capabilities()
    }
    fn inventory(&self) -> Result<Inventory, PoolError> {
        self.sim.inventory()
    }
    fn create_volume(&self, volume: &VolumeId) -> Result<Ensured, PoolError> {
        self.enter();
        self.sim.create_volume(volume)
    }
    fn snapshot(&self, volume: &VolumeId, snapshot: &PoolSnapshotId) -> Result<Ensured, PoolError> {
        self.enter();
        self.sim.snapshot(volume, snapshot)
    }
    fn clone_volume(&self, snapshot: &PoolSnapshotId, volume: &VolumeId) -> Result<Ensured, PoolError> {
        self.enter();
        self.sim.clone_volume(snapshot, volume)
    }
    fn destroy_volume(&self, volume: &VolumeId) -> Result<Removed, PoolError> {
        self.enter();
        self.sim.destroy_volume(volume)
    }
    fn destroy_snapshot(&self, snapshot: &PoolSnapshotId) -> Result<Removed, PoolError> {
        self.enter();
        self.sim.destroy_snapshot(snapshot)
    }
    fn volume_path(&self, volume: &VolumeId) -> std::path::PathBuf {
        self.sim.volume_path(volume)
    }
    fn snapshot_path(&self, snapshot: &PoolSnapshotId) -> std::path::PathBuf {
        self.sim.snapshot_path(snapshot)
    }
    fn room(&self) -> Result<Room, PoolError> {
        let free_bytes = if self.full.load(Ordering::SeqCst) { 0 } else { 90 << 30 };
        Ok(Room { total_bytes: 100 << 30, free_bytes })
    }
    fn usage(&self) -> Result<Usage, PoolError> {
        let Room { total_bytes, free_bytes } = self.room()?;
        Ok(Usage { total_bytes, free_bytes, ..Usage::default() })
    }
    fn root(&self) -> &Path {
        self.sim.root()
    }
}

/// One home and its surroundings.
pub struct Kit {
    dir: Arc<tempfile::TempDir>,
    pub clock: Arc<ManualClock>,
    pub engine: SimEngine,
    pub still: StillEngine,
    pub runtime: Arc<SimRuntime>,
    pub projects: Arc<SimProjects>,
    pub pool: Arc<TestPool>,
    pub hooks: Arc<Hooked>,
    pub world: Arc<World>,
}

/// The hooks that ran, and the point whose hooks fail.
#[derive(Default)]
pub struct Hooked {
    pub ran: Mutex<Vec<String>>,
    pub failing: Mutex<Option<HookPoint>>,
}

impl Hooked {
    /// What stands in the place of a hook's program.
    fn run(&self, spec: &UnitSpec, point: &str) -> Outcome {
        let facts: serde_json::Value = serde_json::from_str(spec.input.as_deref().unwrap()).unwrap();
        assert_eq!(facts["hook"]["point"], point);
        self.ran.lock().unwrap().push(format!("{point} {}", facts["owner"]["name"].as_str().unwrap()));
        let fails = self.failing.lock().unwrap().is_some_and(|failing| failing.as_str() == point);
        let log = spec.env.get("PANDO_DB_PASSWORD").map(|word| format!("no luck with {word}\n")).unwrap_or_default();
        Outcome { code: Some(if fails { 3 } else { 0 }), log: if fails { log } else { String::new() } }
    }
}

impl Drop for Kit {
    fn drop(&mut self) {
        // Sockets live outside of the home.
        if let Some(run) = self.world.home.run("x").parent() {
            let _ = std::fs::remove_dir_all(run);
        }
    }
}

pub fn name(text: &str) -> Name {
    text.parse().unwrap()
}

pub fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// What outlives a daemon.
type Around<'a> = (&'a Arc<ManualClock>, &'a SimEngine, &'a StillEngine, &'a Arc<SimRuntime>, &'a Arc<TestPool>);

fn world(dir: &Path, kit: Around<'_>, projects: &Arc<SimProjects>) -> World {
    let (clock, engine, still, runtime, pool) = kit;
    let home = Home::open(&dir.join("home")).unwrap();
    let mut world = World::new(Parts {
        catalog: Catalog::open(&home.catalog_file()).unwrap(),
        key: SecretKey::open_or_create(&home.key_file()).unwrap(),
        engines: vec![Arc::new(engine.clone()), Arc::new(still.clone())],
        runtime: runtime.clone(),
        docker: None,
        trust: pando_image::oci::Trust { dirs: Vec::new(), bundle: None },
        projects: projects.clone(),
        clock: clock.clone(),
        fail: FailPoints::default(),
        account: None,
        pool: Some(pool.clone()),
        home,
    });
    // The kernel knows nobody who uses what is simulated; asking it hundreds of times takes minutes.
    world.volumes.holders = |_| Ok(Vec::new());
    world
}

/// A kit as it once was, at the same paths.
pub struct Mold {
    dir: Arc<tempfile::TempDir>,
    files: tempfile::TempDir,
    engine: SimEngine,
    runtime: SimRuntime,
    projects: SimProjects,
    now: Timestamp,
}

impl Mold {
    /// The kit as it was. Whatever was made there since must be dropped.
    pub fn cast(&self) -> Kit {
        for entry in std::fs::read_dir(self.dir.path()).unwrap().flatten() {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
        copy(self.files.path(), self.dir.path());
        let clock = Arc::new(ManualClock::at(self.now));
        let sims = (self.runtime.fork(), self.projects.fork());
        Kit::over(self.dir.clone(), clock.clone(), self.engine.fork(clock), sims)
    }
}

/// In memory where the machine has a place for that: there are hundreds of them.
fn place() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap()
}

/// Copies what is in a directory. Nobody writes there.
fn copy(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap().flatten() {
        let (source, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().unwrap();
        if kind.is_symlink() {
            std::os::unix::fs::symlink(std::fs::read_link(&source).unwrap(), &target).unwrap();
        } else if kind.is_dir() {
            if !entry.file_name().to_string_lossy().starts_with(".old-") {
                std::fs::create_dir(&target).unwrap();
                copy(&source, &target);
            }
        } else if !source.to_string_lossy().ends_with("-shm") {
            std::fs::copy(&source, &target).unwrap();
        }
    }
}

impl Kit {
    /// An empty home.
    pub fn new() -> Self {
        let dir = place();
        let clock = Arc::new(ManualClock::at(time("2026-11-21T10:00:00Z")));
        let engine = SimEngine::new(clock.clone());
        Self::over(Arc::new(dir), clock, engine, (SimRuntime::new(), SimProjects::default()))
    }

    fn over(
        dir: Arc<tempfile::TempDir>,
        clock: Arc<ManualClock>,
        engine: SimEngine,
        (runtime, projects): (SimRuntime, SimProjects),
    ) -> Self {
        let projects = Arc::new(projects);
        let still = StillEngine::new(clock.clone());
        let (runtime, pool) = (Arc::new(runtime), Arc::new(TestPool::open(&dir.path().join("pool"))));
        let syncing = still.clone();
        let hooks = Arc::new(Hooked::default());
        let hooked = hooks.clone();
        runtime.on_run(move |spec| {
            if let Some(point) = spec.env.get("PANDO_HOOK_POINT") {
                return hooked.run(spec, point);
            }
            if spec.program.ends_with("still-sync") {
                syncing.synced(&spec.dir);
            }
            let code = i32::from(spec.program.ends_with("false"));
            Outcome { code: Some(code), log: String::new() }
        });
        let world = Arc::new(world(dir.path(), (&clock, &engine, &still, &runtime, &pool), &projects));
        Self { dir, clock, engine, still, runtime, projects, pool, hooks, world }
    }

    /// Keeps all as it is now. Making it anew takes much longer than casting it.
    pub fn mold(&self) -> Mold {
        let files = place();
        copy(self.dir.path(), files.path());
        let engine = self.engine.fork(self.clock.clone());
        let (runtime, projects) = (self.runtime.fork(), self.projects.fork());
        Mold { dir: self.dir.clone(), files, engine, runtime, projects, now: self.world.now() }
    }

    /// The daemon died and is started again, without recovery.
    pub fn reopen(&mut self) {
        let around = (&self.clock, &self.engine, &self.still, &self.runtime, &self.pool);
        self.world = Arc::new(world(self.dir.path(), around, &self.projects));
    }

    /// The daemon died and is started again.
    pub fn restart(&mut self) {
        self.reopen();
        recover_all(&self.world);
    }

    /// The machine crashes: commits that were not synced are lost. What the pool and production have done stays:
    /// those are other disks.
    pub fn pull_the_plug(&mut self) {
        self.world.catalog.pull_the_plug(|_| Vec::new()).unwrap();
        self.reopen();
        // Every process has died; those that somebody knows of are taken to be up again.
        let known = known_units(self);
        for unit in self.runtime.inventory().unwrap().iter().filter(|unit| !known.contains(unit)) {
            self.runtime.exit(unit, None);
        }
    }

    /// A run outside of any operation.
    pub fn run(&self) -> Run {
        loose_run(&self.world)
    }

    pub fn app(&self, app: &str) -> AppRecord {
        self.world.catalog.of::<AppRecord>(app).unwrap().remove(0)
    }

    pub fn app_id(&self) -> OwnerId {
        OwnerId::App(self.app("shop").id)
    }

    pub fn clone_of(&self, clone: &str) -> Option<CloneRecord> {
        self.world.catalog.all::<CloneRecord>().unwrap().into_iter().find(|record| record.name.as_str() == clone)
    }

    pub fn volume(&self, volume: &str) -> Option<pando_catalog::VolumeRecord> {
        self.world.catalog.get(volume).unwrap()
    }

    pub fn there(&self, clone: &str) -> CloneRecord {
        self.clone_of(clone).unwrap()
    }

    pub fn owner(&self, owner: &str) -> Owner {
        Owner::named(&self.world, &name(owner)).unwrap()
    }

    /// Whole snapshots, oldest first.
    pub fn snapshots(&self, owner: &str) -> Vec<SnapshotRecord> {
        self.owner(owner).snapshots(&self.world).unwrap()
    }

    pub fn bookmarks(&self) -> Vec<BookmarkRecord> {
        self.world.catalog.all().unwrap()
    }

    /// What a clone's database shows.
    pub fn state_of(&self, clone: &str) -> String {
        let owner = self.owner(clone);
        std::fs::read_to_string(owner.sources[&name("db")].seat.data.join("state")).unwrap()
    }

    /// Time passes.
    pub fn pass(&self, seconds: i64) {
        self.clock.advance(SignedDuration::from_secs(seconds));
    }

    /// Ten seconds pass, production commits, the mirror hears of it.
    pub fn commit(&self, value: u64) {
        self.pass(10);
        self.engine.commit(value);
        self.pass(1);
        self.pulse();
    }

    /// One look at production.
    pub fn pulse(&self) {
        follow::follow_once(&self.world, &self.app_id()).unwrap();
    }

    /// One look at the schedule.
    pub fn keep(&self) {
        follow::keep_once(&self.world, &self.app_id()).unwrap();
    }

    /// Links `shop`: a database, and files if wanted.
    pub fn link(&self, files: bool) {
        go(&self.world, &["shop"], |world| link::Link::new(world, shop(files))).unwrap();
        self.commit(1);
    }

    /// Makes a clone of the newest state.
    pub fn make_clone(&self, of: &str, clone: &str, record: bool) {
        let wanted = CloneRequest { record, ..request(of, None, clone) };
        go(&self.world, &[clone], |world| clone::Clone::new(world, wanted)).unwrap();
    }

    pub fn snapshot(&self, of: &str) {
        go(&self.world, &[of], |world| Ok(snapshot::Snapshot::new(world, &Owner::named(world, &name(of))?))).unwrap();
        self.pass(1);
    }

    pub fn bookmark(&self, of: &str, word: &str, moment: Option<&str>) {
        let moment = moment.map(|text| text.parse::<Moment>().unwrap());
        go(&self.world, &[word], |world| bookmark::Bookmark::new(world, name(of), name(word), moment)).unwrap();
    }

    pub fn refresh(&self, clone: &str) {
        go(&self.world, &[clone], |world| {
            refresh::Refresh::new(world, name(clone), refresh::Origin::Parent, Some(Moment::Latest))
        })
        .unwrap();
    }
}

/// Runs a verb as the door does, but in this thread.
pub fn go<V: Verb>(world: &Arc<World>, names: &[&str], make: impl FnOnce(&World) -> Done<V>) -> Done<()> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let _claim = world.claim(&names, V::WORD, false)?;
    let verb = make(world)?;
    let record = bear(world, &verb)?;
    drive(world, record, verb).map(drop)
}

/// What links `shop`.
pub fn shop(files: bool) -> LinkRequest {
    let source = |url: &str| LinkSource { name: None, url: url.to_owned(), exclude: Vec::new(), image: None };
    let mut sources = vec![source("sim://prod/counter")];
    if files {
        sources.push(source("file:///srv/files"));
    }
    let policy = Some(Policy { snapshot_every_seconds: 60, ..Policy::default() });
    LinkRequest { app: name("shop"), sources, policy, set: Default::default(), edits: Vec::new(), hooks: Vec::new() }
}

/// What links `shop` with files, a hook at every point, and an edit.
pub fn hooked() -> LinkRequest {
    let hook = |at: &HookPoint| Hook {
        at: *at,
        name: None,
        run: vec!["/bin/hook".to_owned(), "{{owner.name}}".to_owned()],
        env: Default::default(),
        account: None,
        timeout_seconds: None,
        masks: false,
    };
    let text = |text: &str| Some(text.to_owned());
    let edits = vec![
        Edit { write: text("files/stitched"), text: text("{{clone.name}} of nobody"), ..Edit::default() },
        Edit { replace: text("files/stitched"), find: text("nobody"), with: text("{{app.name}}"), ..Edit::default() },
    ];
    let mut app = shop(true);
    app.sources[0].url = "sim://u:one@prod/counter".to_owned();
    LinkRequest { hooks: HookPoint::ALL.iter().map(hook).collect(), edits, ..app }
}

/// The same with an edit and a hook that mask.
pub fn masking() -> LinkRequest {
    let mut app = hooked();
    app.edits.iter_mut().take(1).for_each(|edit| edit.masks = true);
    app.hooks.iter_mut().for_each(|hook| hook.masks = hook.at == HookPoint::ConfigureClone);
    app
}

/// What makes a clone.
pub fn request(from: &str, moment: Option<&str>, clone: &str) -> CloneRequest {
    CloneRequest {
        from: name(from),
        moment: moment.map(|text| text.parse().unwrap()),
        clone: name(clone),
        profile: None,
        record: false,
        lease_seconds: None,
        set: Default::default(),
        runtime: None,
        container: Default::default(),
        compose: None,
    }
}
