//! What every verb needs in one place: catalog, pool, engines, runtime, clock, home; and what is true only
//! while the daemon runs: who is busy, what is pinned, how mirrors are doing.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use jiff::Timestamp;
use pando_catalog::{Catalog, OperationRecord, Sealed};
use pando_engine::{Engine, Link, Pulse};
use pando_host::clock::id_parts;
use pando_host::secret::SecretKey;
use pando_host::{Account, Clock, FailPoints};
use pando_image::oci::Trust;
use pando_model::{EngineKind, ErrorKind, Name, OperationId, OperationState, OwnerId, Problem};
use pando_pool::PoolDriver;
use pando_runtime::compose::Projects;
use pando_runtime::{DockerRuntime, Runtime};

use crate::anew::Anew;
use crate::apart;
use crate::dying::Dying;
use crate::fault::{Done, failed, refused};
use crate::home::Home;
use crate::transfer::Transfers;
use crate::volumes::Volumes;

/// How a source of a mirror was doing at the last look.
#[derive(Debug, Clone)]
pub struct Live {
    /// The last pulse.
    pub pulse: Pulse,
    /// Whether something changed since the last snapshot.
    pub changed: bool,
    /// When the units were last started, to keep restarts apart.
    pub started: Option<Timestamp>,
    /// What is known of a server that died.
    pub dying: Option<Dying>,
}

impl Default for Live {
    fn default() -> Self {
        let pulse = Pulse { link: Link::Disconnected("starting".to_owned()), through: None, changed: false };
        Self { pulse, changed: true, started: None, dying: None }
    }
}

/// Everything verbs work on.
pub struct World {
    /// Paths.
    pub home: Home,
    /// What we mean.
    pub catalog: Catalog,
    /// By kind.
    pub engines: BTreeMap<EngineKind, Arc<dyn Engine>>,
    /// Where units run.
    pub runtime: Arc<dyn Runtime>,
    /// The engine that containers run in, where there is one.
    pub docker: Option<Arc<DockerRuntime>>,
    /// Whose certificates registries of images may have.
    pub trust: Trust,
    /// Compose projects of the user's.
    pub projects: Arc<dyn Projects>,
    /// Bytes of memory of this machine.
    pub memory: Option<u64>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// This instance's fail points.
    pub fail: FailPoints,
    /// The account that units run as.
    pub account: Option<Account>,
    /// Volumes of container engines, as far as memory knows them.
    pub volumes: Volumes,
    key: SecretKey,
    last_id: Mutex<(u64, u32)>,
    pool: RwLock<Option<Arc<dyn PoolDriver>>>,
    claims: Mutex<HashMap<String, Claimed>>,
    pins: Mutex<HashMap<OwnerId, usize>>,
    adrift: Mutex<BTreeSet<OperationId>>,
    live: Mutex<HashMap<(OwnerId, Name), Live>>,
    bell: (Mutex<u64>, Condvar),
    apart: OnceLock<bool>,
    stopping: AtomicBool,
    /// The streams of operations.
    pub transfers: Transfers,
    /// First copies that could not be made anew.
    pub anew: Anew,
}

#[derive(Clone)]
struct Claimed {
    by: String,
    /// Others wait for it instead of being refused.
    internal: bool,
    operation: Option<OperationId>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What [`World::new`] takes.
pub struct Parts {
    /// Paths.
    pub home: Home,
    /// What we mean.
    pub catalog: Catalog,
    /// The engines.
    pub engines: Vec<Arc<dyn Engine>>,
    /// Where units run.
    pub runtime: Arc<dyn Runtime>,
    /// The engine that containers run in, where there is one.
    pub docker: Option<Arc<DockerRuntime>>,
    /// Whose certificates registries of images may have.
    pub trust: Trust,
    /// Compose projects of the user's.
    pub projects: Arc<dyn Projects>,
    /// What time it is.
    pub clock: Arc<dyn Clock>,
    /// This instance's fail points.
    pub fail: FailPoints,
    /// The account that units run as.
    pub account: Option<Account>,
    /// The home's key.
    pub key: SecretKey,
    /// The storage, once there is one.
    pub pool: Option<Arc<dyn PoolDriver>>,
}

impl World {
    /// Puts the parts together.
    pub fn new(parts: Parts) -> Self {
        Self {
            home: parts.home,
            catalog: parts.catalog,
            engines: parts.engines.into_iter().map(|engine| (engine.kind(), engine)).collect(),
            runtime: parts.runtime,
            docker: parts.docker,
            trust: parts.trust,
            projects: parts.projects,
            memory: crate::containers::memory(),
            clock: parts.clock,
            fail: parts.fail,
            account: parts.account,
            volumes: Volumes::default(),
            key: parts.key,
            last_id: Mutex::default(),
            pool: RwLock::new(parts.pool),
            claims: Mutex::default(),
            pins: Mutex::default(),
            adrift: Mutex::default(),
            live: Mutex::default(),
            bell: (Mutex::new(0), Condvar::new()),
            apart: OnceLock::new(),
            stopping: AtomicBool::new(false),
            transfers: Transfers::default(),
            anew: Anew::default(),
        }
    }

    /// The time.
    pub fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The two numbers of a fresh id. Ids of one daemon sort by birth, within a millisecond too.
    pub fn id(&self) -> (u64, u32) {
        let fresh = id_parts(self.clock.as_ref());
        let mut last = lock(&self.last_id);
        if fresh.0 > last.0 {
            *last = fresh;
        } else {
            *last = last.1.checked_add(1).map_or((last.0 + 1, fresh.1), |next| (last.0, next));
        }
        *last
    }

    /// The pool, or the problem that there is none.
    pub fn pool(&self) -> Result<Arc<dyn PoolDriver>, Problem> {
        self.pool
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
            .ok_or_else(|| refused("this home has no pool yet").hint("make one: pando init"))
    }

    /// Sets the pool.
    pub fn set_pool(&self, pool: Option<Arc<dyn PoolDriver>>) {
        *self.pool.write().unwrap_or_else(PoisonError::into_inner) = pool;
    }

    /// Whether the servers of clones have numbers of their own here: as it was when it was first asked with a pool.
    pub fn keeps_apart(&self) -> bool {
        let works = || self.account.as_ref().is_some_and(|account| apart::works(self, account).is_ok());
        self.pool().is_ok() && *self.apart.get_or_init(works)
    }

    /// The engine of a kind.
    pub fn engine(&self, kind: EngineKind) -> Result<Arc<dyn Engine>, Problem> {
        self.engines.get(&kind).cloned().ok_or_else(|| failed(format!("there is no engine for {kind} sources")))
    }

    /// Encrypts a secret for the catalog.
    pub fn seal(&self, plain: &[u8]) -> Done<Sealed> {
        Ok(Sealed(self.key.seal(plain)?.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Decrypts a secret of the catalog.
    pub fn unseal(&self, sealed: &Sealed) -> Done<Vec<u8>> {
        let bytes: Vec<u8> = (0..sealed.0.len() / 2)
            .map(|index| u8::from_str_radix(sealed.0.get(index * 2..index * 2 + 2).unwrap_or("00"), 16).unwrap_or(0))
            .collect();
        Ok(self.key.open(&bytes)?)
    }

    /// The same of one that is text, such as a password.
    pub fn unseal_text(&self, sealed: &Sealed) -> Done<String> {
        Ok(String::from_utf8_lossy(&self.unseal(sealed)?).into_owned())
    }

    /// Tells everybody who waits that something changed.
    pub fn ring(&self) {
        *lock(&self.bell.0) += 1;
        self.bell.1.notify_all();
    }

    /// How often the bell has rung. Ask before looking at what you wait for: then no ring is missed.
    pub fn rung(&self) -> u64 {
        *lock(&self.bell.0)
    }

    /// Waits until the bell has rung more often than `seen`, at most so long.
    pub fn wait_for_bell(&self, seen: u64, at_most: Duration) {
        let guard = lock(&self.bell.0);
        drop(self.bell.1.wait_timeout_while(guard, at_most, |rung| *rung == seen));
    }

    /// Adds an event; that it cannot be added is only logged.
    pub fn event(&self, kind: &str, subject: Option<&Name>, text: &str) {
        if let Err(error) = self.catalog.add_event(self.now(), kind, subject, text) {
            tracing::error!(%error, kind, "an event could not be kept");
        }
        tracing::info!(kind, subject = subject.map(Name::as_str), "{text}");
        self.ring();
    }

    /// Whether the daemon is going down.
    pub fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }

    /// Begins to go down.
    pub fn stop(&self) {
        self.stopping.store(true, Ordering::Release);
        self.ring();
    }

    /// Takes names for one operation. Waits while an internal operation (a scheduled snapshot) has them;
    /// refuses when a user's has.
    pub fn claim(self: &Arc<Self>, names: &[String], by: &str, internal: bool) -> Result<Claim, Problem> {
        const PATIENCE: Duration = Duration::from_secs(600);
        let begun = self.clock.instant();
        loop {
            let seen = self.rung();
            {
                let mut claims = lock(&self.claims);
                let holder = names.iter().find_map(|name| Some((name.clone(), claims.get(name)?.clone())));
                match holder {
                    None => {
                        for name in names {
                            claims.insert(name.clone(), Claimed { by: by.to_owned(), internal, operation: None });
                        }
                        return Ok(Claim { world: Arc::clone(self), names: names.to_vec() });
                    }
                    Some((name, held)) if !held.internal || self.clock.instant() - begun > PATIENCE => {
                        return Err(refused(format!("{name} is busy: {} is running", held.by))
                            .hint("wait for it (`pando ops`), then try again"));
                    }
                    Some(_) => {}
                }
            }
            if self.is_stopping() {
                return Err(refused("the daemon is stopping"));
            }
            self.wait_for_bell(seen, Duration::from_millis(500));
        }
    }

    /// An operation is about to be seen at its end: whoever sees that and comes next waits for its claims to be
    /// dropped, instead of being refused for an operation that is over.
    pub fn ending(&self, operation: &OperationId) {
        for claimed in lock(&self.claims).values_mut().filter(|one| one.operation.as_ref() == Some(operation)) {
            claimed.internal = true;
        }
    }

    /// Nobody drives this operation any more. Where its record does not say that it is at an end (it could not be
    /// written, or the thread has died), it is finished or undone by the next round of the heartbeat.
    pub fn left(&self, operation: &OperationId) {
        let ended =
            |record: &OperationRecord| !matches!(record.state, OperationState::Running | OperationState::Undoing);
        let record = self.catalog.get::<OperationRecord>(operation.as_str());
        if !record.is_ok_and(|record| record.as_ref().is_none_or(ended)) {
            tracing::warn!(%operation, "an operation was left before its end; it is finished or undone soon");
            lock(&self.adrift).insert(operation.clone());
        }
    }

    /// The operations that nobody drives. Whoever takes them sees to them.
    pub fn take_adrift(&self) -> BTreeSet<OperationId> {
        std::mem::take(&mut *lock(&self.adrift))
    }

    /// Takes names only if they are free now.
    pub fn try_claim(self: &Arc<Self>, names: &[String], by: &str) -> Option<Claim> {
        let mut claims = lock(&self.claims);
        if names.iter().any(|name| claims.contains_key(name)) {
            return None;
        }
        for name in names {
            claims.insert(name.clone(), Claimed { by: by.to_owned(), internal: true, operation: None });
        }
        Some(Claim { world: Arc::clone(self), names: names.to_vec() })
    }

    /// Keeps a timeline from being thinned from before a plan is made of it until the plan's trees are copied.
    pub fn pin(self: &Arc<Self>, owner: &OwnerId) -> Pin {
        *lock(&self.pins).entry(owner.clone()).or_default() += 1;
        Pin { world: Arc::clone(self), owner: owner.clone() }
    }

    /// Whether something is being made of a timeline.
    pub fn is_pinned(&self, owner: &OwnerId) -> bool {
        lock(&self.pins).contains_key(owner)
    }

    /// How a source is doing.
    pub fn live(&self, owner: &OwnerId, source: &Name) -> Live {
        lock(&self.live).get(&(owner.clone(), source.clone())).cloned().unwrap_or_default()
    }

    /// Changes what is known of how a source is doing.
    pub fn set_live(&self, owner: &OwnerId, source: &Name, change: impl FnOnce(&mut Live)) {
        change(lock(&self.live).entry((owner.clone(), source.clone())).or_default());
    }

    /// Forgets how an owner's sources are doing.
    pub fn drop_live(&self, owner: &OwnerId) {
        lock(&self.live).retain(|(known, _), _| known != owner);
    }

    /// Refuses when the pool has too little room left for what is about to be made.
    pub fn need_room(&self) -> Result<(), Problem> {
        let usage = self.pool()?.room().map_err(crate::fault::IntoProblem::into_problem)?;
        let (low, _) = thresholds(usage.total_bytes);
        if usage.free_bytes >= low {
            return Ok(());
        }
        Err(Problem::new(
            ErrorKind::Refused,
            format!(
                "the pool is nearly full ({} MB of {} MB free), nothing new is made so that running clones can go on",
                usage.free_bytes >> 20,
                usage.total_bytes >> 20
            ),
        )
        .hint("`pando du` shows who holds what; remove clones or bookmarks, or give the pool more room"))
    }
}

/// Free bytes below which nothing new is made, and below which mirrors pause.
pub fn thresholds(total: u64) -> (u64, u64) {
    const GIB: u64 = 1 << 30;
    ((total / 10).min(10 * GIB), (total / 20).min(5 * GIB))
}

/// Names held for an operation, until it is dropped.
pub struct Claim {
    world: Arc<World>,
    names: Vec<String>,
}

impl Claim {
    /// Says which operation the names are held for.
    pub fn held_for(&self, operation: &OperationId) {
        let mut claims = lock(&self.world.claims);
        for name in &self.names {
            if let Some(claimed) = claims.get_mut(name) {
                claimed.operation = Some(operation.clone());
            }
        }
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let mut claims = lock(&self.world.claims);
        for name in &self.names {
            claims.remove(name);
        }
        drop(claims);
        self.world.ring();
    }
}

/// A timeline kept whole, until this is dropped.
pub struct Pin {
    world: Arc<World>,
    owner: OwnerId,
}

impl Drop for Pin {
    fn drop(&mut self) {
        let mut pins = lock(&self.world.pins);
        if let Some(count) = pins.get_mut(&self.owner) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&self.owner);
            }
        }
    }
}
