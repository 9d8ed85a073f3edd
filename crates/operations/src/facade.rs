//! The door to everything: what the daemon may call.

use std::collections::BTreeMap;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use pando_catalog::{Catalog, OperationRecord};
use pando_engine::files::FilesEngine;
use pando_engine::mariadb::MariadbEngine;
use pando_engine::mysql::MysqlEngine;
use pando_engine::postgres::{Installations, PostgresEngine};
use pando_engine::redis::{self, RedisEngine};
use pando_engine::toolkit::ToolkitEngine;
use pando_host::durable::write_atomic;
use pando_host::secret::SecretKey;
use pando_host::{FailPoints, SystemClock};
use pando_image::oci::Trust;
use pando_model::{
    ApplyPlan, DiskView, DoctorItem, DoctorView, EventView, LinkRequest, ListView, LogView, Name, OperationId,
    OperationState, OperationView, OwnerId, Problem, Request, ShowView, TimelineView,
};
use pando_pool::{DriverKind, PoolConfig};
use pando_runtime::compose::ComposeTool;
use pando_runtime::process::ProcessRuntime;
use pando_runtime::{DockerRuntime, PlacedRuntime, docker};

use crate::doctor::item;
use crate::fault::{Done, Fault, IntoProblem, failed, io, not_found, refused};
use crate::home::Home;
use crate::journal::{Run, Verb, bear, drive};
use crate::owner::Owner;
use crate::verbs::{
    apply, bookmark, clone, export, image, import, lease, link, power, promote, refresh, remove, snapshot, unlink,
};
use crate::volumes::Meant;
use crate::world::{Parts, World};
use crate::{follow, images, transfer, units, views};

/// What `pando init` may choose.
#[derive(Debug, Clone, Default)]
pub struct InitRequest {
    /// A directory to use as pool; by default one is made under HOME.
    pub pool: Option<PathBuf>,
    /// Size in bytes of the image file, where one is needed.
    pub size: Option<u64>,
}

/// What Pando is told of the machine it runs on, where that is not as usual.
#[derive(Debug, Clone, Default)]
pub struct Around {
    /// Directories with PostgreSQL's programs that are looked at before the usual ones.
    pub postgres: Vec<PathBuf>,
    /// Prefixes of MariaDB installations that are looked at before the usual ones.
    pub mariadb: Vec<PathBuf>,
    /// Directories with programs of Redis and Valkey, likewise.
    pub redis: Vec<PathBuf>,
    /// Prefixes of MySQL installations that are looked at before the usual ones.
    pub mysql: Vec<PathBuf>,
    /// The Docker or Podman engine, in the form of `DOCKER_HOST`; without it, it is sought where it usually is.
    pub engine: Option<String>,
    /// Directories with certificates of registries of images (`DIR/HOST:PORT/ca.crt`), looked at besides the usual ones.
    pub registry_certs: Vec<PathBuf>,
    /// The system's certificates, where they lie elsewhere than usual.
    pub certificates: Option<PathBuf>,
}

impl Around {
    fn trust(&self) -> Trust {
        let mut trust = Trust { bundle: self.certificates.clone(), ..Trust::default() };
        trust.dirs.splice(0..0, self.registry_certs.iter().cloned());
        trust
    }
}

/// One Pando on one home. Cheap to clone.
#[derive(Clone)]
pub struct Pando {
    pub(crate) world: Arc<World>,
    running: Arc<Mutex<Vec<std::thread::JoinHandle<()>>>>,
    init: Arc<Mutex<()>>,
}

pub(crate) fn outward<T>(done: Done<T>) -> Result<T, Problem> {
    done.map_err(crate::fault::Fault::into_problem)
}

impl Pando {
    /// Opens a home (made when missing). What comes next is [`Pando::recover`]; until then volumes are only looked at.
    ///
    /// # Errors
    /// When the home, its catalog or its key cannot be used.
    pub fn open(home: &Path, fail: FailPoints, around: &Around) -> Result<Self, Problem> {
        let home = Home::open(home)?;
        let catalog = Catalog::open(&home.catalog_file()).map_err(IntoProblem::into_problem)?;
        let key = SecretKey::open_or_create(&home.key_file()).map_err(IntoProblem::into_problem)?;
        let account = home.account()?;
        let process = ProcessRuntime::open(home.root()).map_err(IntoProblem::into_problem)?;
        let docker = Arc::new(DockerRuntime::new(home.root(), &docker::socket(around.engine.as_deref())));
        let runtime = PlacedRuntime::new(Arc::new(process), Arc::clone(&docker));
        let postgres = PostgresEngine::new(Installations::find(&around.postgres), account.clone());
        let redis = RedisEngine::new(redis::Installations::find(&around.redis));
        let mariadb = MariadbEngine::new(&around.mariadb, account.clone());
        let mysql = MysqlEngine::new(&around.mysql, account.clone());
        let toolkits = ToolkitEngine::new(home.toolkits(), account.clone());
        let files = FilesEngine::new();
        let world = World::new(Parts {
            engines: vec![
                Arc::new(postgres),
                Arc::new(mariadb),
                Arc::new(mysql),
                Arc::new(redis),
                Arc::new(files),
                Arc::new(toolkits),
            ],
            runtime: Arc::new(runtime),
            projects: Arc::new(ComposeTool::new(docker.socket())),
            docker: Some(docker),
            trust: around.trust(),
            clock: Arc::new(SystemClock),
            pool: None,
            home,
            catalog,
            fail,
            account,
            key,
        });
        let pando = Self::over(Arc::new(world));
        if let Some(config) = pando.pool_config()? {
            let pool = pando_pool::open(&config).map_err(IntoProblem::into_problem)?;
            pando.world.set_pool(Some(Arc::from(pool)));
        }
        pando.world.volumes.hold();
        Ok(pando)
    }

    /// Waits for running operations.
    #[cfg(test)]
    pub(crate) fn join(&self) {
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in running {
            assert!(thread.join().is_ok(), "an operation's thread panicked");
        }
    }

    /// One Pando over a world.
    pub(crate) fn over(world: Arc<World>) -> Self {
        Self { world, running: Arc::default(), init: Arc::default() }
    }

    pub(crate) fn pool_config(&self) -> Result<Option<PoolConfig>, Problem> {
        let path = self.world.home.pool_file();
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| failed(format!("{} cannot be read: {error}", path.display()))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io("reading which pool was chosen", error)),
        }
    }

    /// Makes or adopts the pool. Answers one finding per thing done or decided.
    ///
    /// # Errors
    /// When the place cannot hold a pool, or another pool is in use.
    pub fn init(&self, request: &InitRequest) -> Result<DoctorView, Problem> {
        let _one = self.init.lock().unwrap_or_else(PoisonError::into_inner);
        let world = &self.world;
        world.home.reachable(world.account.as_ref())?;
        if let Some(present) = self.pool_config()? {
            let same = request
                .pool
                .as_ref()
                .is_none_or(|path| path.canonicalize().is_ok_and(|path| present.root.starts_with(&path)));
            if same {
                let found = format!("{:?} at {}", present.driver, present.root.display()).to_lowercase();
                return Ok(DoctorView {
                    healthy: true,
                    items: vec![item("pool", "ok", format!("already there: {found}"), None)],
                });
            }
            let in_use = world.pool()?.inventory().map_err(IntoProblem::into_problem)?;
            if !in_use.volumes.is_empty() || !in_use.snapshots.is_empty() {
                return Err(refused(format!("this home has a pool in use at {}", present.root.display()))
                    .hint("unlink all apps first, or use another --home"));
            }
            world.set_pool(None);
            pando_pool::discard(&present).map_err(IntoProblem::into_problem)?;
            pando_host::durable::remove_if_there(&world.home.pool_file())
                .map_err(|error| io("forgetting the former pool", error))?;
        }
        let (config, words) = pando_pool::choose(world.home.root(), request.pool.as_deref(), request.size)
            .map_err(IntoProblem::into_problem)?;
        pando_pool::create(&config).map_err(IntoProblem::into_problem)?;
        let pool = pando_pool::open(&config).map_err(IntoProblem::into_problem)?;
        let text = serde_json::to_vec_pretty(&config).map_err(|error| failed(error.to_string()))?;
        write_atomic(&world.home.pool_file(), &text, 0o600).map_err(|error| io("noting the pool", error))?;
        world.set_pool(Some(Arc::from(pool)));
        crate::doors::close_snapshots(world).map_err(Fault::into_problem)?;
        let level = if config.driver == DriverKind::Copy { "warning" } else { "ok" };
        let mut items: Vec<DoctorItem> = words.into_iter().map(|text| item("pool", level, text, None)).collect();
        items.push(crate::apart::doctor(world));
        Ok(DoctorView { healthy: true, items })
    }

    /// Starts an operation; it goes on in the background.
    ///
    /// # Errors
    /// When the request is malformed, or what it names is missing or busy.
    pub fn submit(&self, request: Request) -> Result<OperationView, Problem> {
        if self.world.is_stopping() {
            return Err(refused("the daemon is stopping"));
        }
        let world = &self.world;
        let request = match self.meant(request)? {
            Meant::Request(request) => request,
            Meant::Begun(view) => return Ok(view),
        };
        match request {
            Request::Link(body) => {
                if world.pool().is_err() {
                    let done = self.init(&InitRequest::default())?;
                    for one in done.items {
                        world.event("pool-made", None, &one.found);
                    }
                }
                let names = [body.app.to_string()];
                self.begin(&names, |world| link::Link::new(world, body))
            }
            Request::Apply(body) => match outward(apply::there(world, &body.app))? {
                Some(app) => {
                    let names = [app.name.to_string(), follow::units_of(&app.name)];
                    self.begin(&names, |world| apply::Apply::new(world, body))
                }
                None => self.submit(Request::Link(body)),
            },
            Request::Unlink { app } => {
                // What clones pin is refused at once, and not when a snapshot that is being taken has ended.
                outward(unlink::Unlink::new(world, app.clone()))?;
                let names = [app.to_string(), format!("{app}/prepare"), follow::units_of(&app)];
                self.begin(&names, |world| unlink::Unlink::new(world, app))
            }
            Request::Snapshot { name, body } => {
                let names = [name.to_string()];
                self.begin(&names, |world| {
                    let owner = Owner::named(world, &name)?;
                    match body.fence_seconds {
                        Some(seconds) => snapshot::Snapshot::fenced(world, &owner, seconds),
                        None => Ok(snapshot::Snapshot::new(world, &owner)),
                    }
                })
            }
            Request::Bookmark { name, body } => {
                let mut names = vec![format!("{name}/bookmark/{}", body.bookmark)];
                if matches!(world.catalog.owner(&name), Ok(Some(OwnerId::Clone(_)))) {
                    names.push(name.to_string());
                }
                self.begin(&names, |world| bookmark::Bookmark::new(world, name, body.bookmark, body.moment))
            }
            Request::Unbookmark { name, bookmark } => {
                let names = [format!("{name}/bookmark/{bookmark}")];
                self.begin(&names, |world| bookmark::Unbookmark::new(world, name, bookmark))
            }
            Request::Clone(body) => {
                if let Some(taken) = world.catalog.owner(&body.clone).map_err(IntoProblem::into_problem)? {
                    tracing::debug!(%taken, "the name of a clone is taken");
                    return Err(pando_catalog::CatalogError::NameTaken(body.clone).into_problem());
                }
                let names = [body.clone.to_string()];
                self.begin(&names, |world| clone::Clone::new(world, body))
            }
            Request::Export { name, body } => self.begin(&[], |world| export::Export::new(world, name, body.moment)),
            Request::Import(body) => {
                if world.pool().is_err() {
                    self.init(&InitRequest::default())?;
                }
                if world.catalog.owner(&body.clone).map_err(IntoProblem::into_problem)?.is_some() {
                    return Err(pando_catalog::CatalogError::NameTaken(body.clone).into_problem());
                }
                let names = [body.clone.to_string()];
                self.begin(&names, |world| import::Import::new(world, body))
            }
            Request::BuildImage(body) => {
                let names = images::claims(&body.reference, body.name.as_ref());
                self.begin(&names, |world| image::ImageBuild::new(world, body))
            }
            Request::PushImage(body) => {
                let names = images::claims(&body.reference, None);
                self.begin(&names, |world| image::ImagePush::new(world, &body))
            }
            Request::SaveImage(body) => {
                let names = images::claims(&body.reference, None);
                self.begin(&names, |world| image::ImageSave::new(world, &body))
            }
            Request::RemoveImage(body) => {
                let names = images::claims(&body.reference, None);
                self.begin(&names, |world| image::ImageRemove::new(world, &body))
            }
            Request::Start { clone } => {
                let names = [clone.to_string()];
                self.begin(&names, |world| power::Start::new(world, clone))
            }
            Request::Stop { clone } => {
                let names = [clone.to_string()];
                self.begin(&names, |world| power::Stop::new(world, clone))
            }
            Request::Refresh { clone, moment } => self.replace(clone, refresh::Origin::Parent, Some(moment)),
            Request::Rewind { clone, moment } => self.replace(clone, refresh::Origin::Own, Some(moment)),
            Request::Undo { clone } => self.replace(clone, refresh::Origin::Former, None),
            Request::Promote { clone } => {
                let names = [clone.to_string()];
                self.begin(&names, |world| promote::Promote::new(world, clone))
            }
            Request::Lease { clone, body } => {
                let names = [clone.to_string()];
                self.begin(&names, |world| lease::Lease::new(world, clone, body.seconds))
            }
            Request::Remove { clone } => {
                let names = [clone.to_string()];
                self.begin(&names, |world| remove::Remove::new(world, clone))
            }
        }
    }

    /// What applying would change.
    ///
    /// # Errors
    /// When the file asks for what cannot be.
    pub fn plan(&self, request: LinkRequest) -> Result<ApplyPlan, Problem> {
        outward(apply::plan(&self.world, request))
    }

    fn replace(
        &self,
        clone: Name,
        origin: refresh::Origin,
        moment: Option<pando_model::Moment>,
    ) -> Result<OperationView, Problem> {
        let names = [clone.to_string()];
        self.begin_called(origin.word(), &names, |world| refresh::Refresh::new(world, clone, origin, moment))
    }

    /// Claims the names, makes the verb, writes its birth, and runs it in a thread of its own.
    pub(crate) fn begin<V: Verb>(
        &self,
        names: &[String],
        make: impl FnOnce(&World) -> Done<V>,
    ) -> Result<OperationView, Problem> {
        self.begin_called(V::WORD, names, make)
    }

    /// The same of a verb that goes by several words.
    fn begin_called<V: Verb>(
        &self,
        word: &str,
        names: &[String],
        make: impl FnOnce(&World) -> Done<V>,
    ) -> Result<OperationView, Problem> {
        let world = &self.world;
        let claim = world.claim(names, word, false)?;
        let verb = outward(make(world))?;
        let record = outward(bear(world, &verb))?;
        claim.held_for(&record.id);
        let view = views::operation(record.clone());
        let thread_world = Arc::clone(world);
        let thread = std::thread::spawn(move || {
            let _claim = claim;
            if let Err(fault) = drive(&thread_world, record, verb) {
                tracing::debug!(?fault, "an operation failed");
            }
        });
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        running.retain(|thread| !thread.is_finished());
        running.push(thread);
        Ok(view)
    }

    /// What an `export` gives: readable once, by whoever comes first.
    ///
    /// # Errors
    /// When the operation gives nothing now.
    pub fn taking(&self, id: &OperationId) -> Result<UnixStream, Problem> {
        transfer::fetch(&self.world, id, transfer::Way::Out)
    }

    /// Where an `import` takes its archive from: whoever writes it shuts the stream behind it.
    ///
    /// # Errors
    /// When the operation takes nothing now.
    pub fn giving(&self, id: &OperationId) -> Result<UnixStream, Problem> {
        transfer::fetch(&self.world, id, transfer::Way::In)
    }

    /// An operation.
    ///
    /// # Errors
    /// When there is none with that id.
    pub fn operation(&self, id: &OperationId) -> Result<OperationView, Problem> {
        self.world
            .catalog
            .get::<OperationRecord>(id.as_str())
            .map_err(IntoProblem::into_problem)?
            .map(views::operation)
            .ok_or_else(|| not_found(format!("there is no operation {id}")).hint("`pando ops` shows the latest"))
    }

    /// The latest operations, newest first.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn operations(&self) -> Result<Vec<OperationView>, Problem> {
        let records = self.world.catalog.newest::<OperationRecord>(200).map_err(IntoProblem::into_problem)?;
        Ok(records.into_iter().map(views::operation).collect())
    }

    /// Blocks until the operation has ended or the time is over, then answers its view.
    ///
    /// # Errors
    /// When there is no such operation.
    pub fn wait(&self, id: &OperationId, at_most: Duration) -> Result<OperationView, Problem> {
        let begun = self.world.clock.instant();
        loop {
            let seen = self.world.rung();
            let view = self.operation(id)?;
            let left = at_most.saturating_sub(begun.elapsed());
            let ended = !matches!(view.state, OperationState::Running | OperationState::Undoing);
            if ended || left.is_zero() || self.world.is_stopping() {
                return Ok(view);
            }
            self.world.wait_for_bell(seen, left);
        }
    }

    /// Events with a sequence above `since`; blocks until there is one or the time is over.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn events(&self, since: u64, at_most: Duration) -> Result<Vec<EventView>, Problem> {
        let begun = self.world.clock.instant();
        loop {
            let seen = self.world.rung();
            let events = self.world.catalog.events(since).map_err(IntoProblem::into_problem)?;
            let left = at_most.saturating_sub(begun.elapsed());
            if !events.is_empty() || left.is_zero() || self.world.is_stopping() {
                return Ok(events);
            }
            self.world.wait_for_bell(seen, left);
        }
    }

    /// All apps and clones.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn list(&self) -> Result<ListView, Problem> {
        outward(views::list(&self.world))
    }

    /// An app or a clone, whole. Exclusive bytes are left out unless `counted`: counting may take a moment.
    ///
    /// # Errors
    /// When there is none with that name.
    pub fn show(&self, name: &Name, counted: bool) -> Result<ShowView, Problem> {
        outward(views::show(&self.world, name, counted))
    }

    /// All images with data in them.
    ///
    /// # Errors
    /// When the catalog or the store of images cannot be read.
    pub fn images(&self) -> Result<Vec<pando_model::ImageView>, Problem> {
        outward(images::views(&self.world))
    }

    /// The moments that can be asked for.
    ///
    /// # Errors
    /// When there is no app or clone with that name.
    pub fn timeline(&self, name: &Name) -> Result<TimelineView, Problem> {
        outward(views::timeline(&self.world, name))
    }

    /// Who holds what.
    ///
    /// # Errors
    /// When there is no pool, or it cannot be looked at.
    pub fn disk(&self) -> Result<DiskView, Problem> {
        outward(views::disk(&self.world))
    }

    /// The last lines of the servers' logs.
    ///
    /// # Errors
    /// When there is no app, clone or source with that name.
    pub fn logs(&self, name: &Name, source: Option<&Name>) -> Result<LogView, Problem> {
        let owner = outward(Owner::named(&self.world, name))?;
        if let Some(source) = source.filter(|source| !owner.sources.contains_key(*source)) {
            let known: Vec<&str> = owner.sources.keys().map(Name::as_str).collect();
            return Err(
                not_found(format!("{name} has no source {source}")).hint(format!("it has: {}", known.join(", ")))
            );
        }
        let mut logs = BTreeMap::new();
        for (of, role, unit) in units::servers(&owner) {
            if source.is_some_and(|source| *source != of) {
                continue;
            }
            let text = self.world.runtime.log_tail(&unit, 200).map_err(IntoProblem::into_problem)?;
            if !text.is_empty() {
                logs.insert(format!("{of}/{role}"), text);
            }
        }
        Ok(LogView { logs })
    }

    /// The bearer token of the TCP listener.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn token(&self) -> Result<String, Problem> {
        std::fs::read_to_string(self.world.home.token_file()).map_err(|error| io("reading the token", error))
    }

    /// Follows mirrors, takes snapshots, ends leases: returns only after [`Pando::stop`]. Run it in a thread.
    pub fn run(&self) {
        follow::run(&self.world);
    }

    /// Ends `run` and waits for running operations; units go on.
    pub fn stop(&self) {
        self.world.stop();
        let running = std::mem::take(&mut *self.running.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in running {
            if thread.join().is_err() {
                tracing::error!("an operation's thread panicked");
            }
        }
        self.world.home.leave();
    }
}

/// A run for work outside of any operation.
pub fn loose_run(world: &Arc<World>) -> Run {
    let (millis, random) = world.id();
    Run { world: Arc::clone(world), id: OperationId::from_parts(millis, random) }
}
