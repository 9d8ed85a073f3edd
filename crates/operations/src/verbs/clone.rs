//! `clone`: a writable copy of an app, a snapshot, a bookmark or another clone, at a moment.
//!
//! # Crash consistency
//! The record (state `creating`) takes the name and the ports first; volumes have their ids before they are
//! made. Undo stops the units, destroys the volumes, frees the name.

use std::collections::BTreeMap;
use std::time::Instant;

use jiff::{SignedDuration, Timestamp};
use pando_catalog::{AppRecord, CloneRecord, ComposeProject, Durability, Record, Sealed, VolumeRecord};
use pando_host::secret::Secret;
use pando_model::{
    AppState, CloneId, CloneRequest, CloneState, ContainerWish, Moment, Name, OwnerId, PoolSnapshotId, Profile,
    SettingChange, Timing, UnitId, VolumeId,
};
use serde::{Deserialize, Serialize};

use super::provision::{self, Manner};
use super::{lease, remove, snapshot};
use crate::containers;
use crate::fault::{Done, Fault, failed, refused};
use crate::hooks;
use crate::journal::{Run, Step, Verb, keep};
use crate::moments::{self, Plan};
use crate::owner::Owner;
use crate::units;
use crate::volumes::compose;
use crate::world::{Pin, World};

/// The volume that a clone is made for: a directory of it that containers of the user's get.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wanted {
    /// The volume's name.
    pub name: Name,
    /// Which source it is.
    pub source: Name,
    /// What was asked for, without secrets.
    pub options: BTreeMap<String, String>,
    /// The password that the clone's own user gets.
    pub password: Option<Sealed>,
}

/// The Compose project that a clone is made for.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Composed {
    project: ComposeProject,
    /// The password that its file names.
    password: Option<Sealed>,
}

/// A clone in the making.
#[derive(Serialize, Deserialize)]
pub struct Clone {
    request: CloneRequest,
    #[serde(default)]
    container: Option<ContainerWish>,
    /// The clone.
    pub id: CloneId,
    asked_at: Timestamp,
    plan: Option<Plan>,
    fresh: Vec<VolumeId>,
    volumes: BTreeMap<PoolSnapshotId, VolumeId>,
    timing: Option<Timing>,
    /// Its first volume, if its servers will run in containers of the user's.
    #[serde(default)]
    elsewhere: Option<Wanted>,
    /// The project of containers that will run on it.
    #[serde(default)]
    composed: Option<Composed>,
    /// The hooks' unit.
    hook: UnitId,
    /// What serves it, where that is known before.
    #[serde(default)]
    given: Option<Plan>,
    /// What lets in until all is masked, where something masks.
    #[serde(default)]
    before_masking: Option<Sealed>,
    #[serde(skip)]
    begun: Option<Instant>,
    /// From the plan until its trees are copied.
    #[serde(skip)]
    pin: Option<Pin>,
}

impl Verb for Clone {
    const WORD: &'static str = "clone";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "reserve", apply: Self::reserve, undo: Self::release },
        Step { name: "resolve", apply: Self::resolve, undo: keep },
        Step { name: "volume", apply: Self::volume, undo: Self::no_volume },
        Step { name: "stage", apply: Self::stage, undo: Self::unstage },
        Step { name: "start", apply: Self::start, undo: Self::stop },
        Step { name: "admit", apply: Self::admit, undo: keep },
        Step { name: "configure", apply: Self::configure, undo: Self::no_hook },
        Step { name: "hand-over", apply: Self::hand_over, undo: keep },
        Step { name: "timeline", apply: Self::timeline, undo: Self::no_timeline },
        Step { name: "show", apply: Self::show, undo: keep },
        Step { name: "up", apply: Self::up, undo: Self::down },
    ];
    const POINT_OF_NO_RETURN: usize = 11;

    fn subject(&self) -> Name {
        self.request.clone.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "clone": self.request.clone, "id": self.id }))
    }
}

impl Clone {
    /// A clone as asked for. Refuses what cannot be before anything is made.
    pub fn new(world: &World, mut request: CloneRequest) -> Done<Self> {
        request.lease_seconds.map_or(Ok(()), lease::check)?;
        let parent = Owner::named(world, &request.from)?;
        let kinds: Vec<_> = parent.sources.values().map(|held| held.kind).collect();
        for held in parent.sources.values() {
            held.engine.check_settings(&provision::settings(&request.set, held.kind, &kinds))?;
        }
        if parent.app.state == AppState::Linking {
            return Err(refused(format!("{} is still being linked", parent.app.name))
                .hint("`pando ops` shows how far it is")
                .into());
        }
        let container = containers::wished(world, &parent, &request)?;
        let declared = match &request.compose {
            Some(file) => Some(compose::declared(world, &parent, &request, file)?),
            None => None,
        };
        let composed = match declared {
            Some(declared) => {
                request.profile = request.profile.or(declared.profile).or(Some(Profile::Durable));
                let password = declared.password.map(|password| world.seal(password.as_bytes())).transpose()?;
                Some(Composed { project: declared.project, password })
            }
            None => None,
        };
        world.need_room()?;
        let (millis, random) = world.id();
        Ok(Self {
            request,
            container,
            id: CloneId::from_parts(millis, random),
            asked_at: world.now(),
            plan: None,
            fresh: provision::fresh_volumes(world, parent.sources.len()),
            volumes: BTreeMap::new(),
            timing: None,
            elsewhere: None,
            composed,
            hook: hooks::fresh_unit(world),
            given: None,
            before_masking: None,
            begun: Some(world.clock.instant()),
            pin: None,
        })
    }

    /// The same for containers of the user's, with its first volume.
    pub fn for_containers(world: &World, request: CloneRequest, wanted: Wanted) -> Done<Self> {
        if request.record {
            return Err(refused("no log is kept of a server in a container of the user's").into());
        }
        let mut clone = Self::new(world, request)?;
        clone.elsewhere = Some(wanted);
        Ok(clone)
    }

    fn parent(&self, run: &Run) -> Done<Owner> {
        Owner::named(&run.world, &self.request.from)
    }

    /// Whether its servers will run in containers of the user's.
    fn is_elsewhere(&self) -> bool {
        self.elsewhere.is_some() || self.composed.is_some()
    }

    /// Whether its parent's servers run in containers: such a tree is handed on as it is. It was cut off production
    /// before, its server makes it good after an interruption, and it may belong to an account of the container's.
    fn as_it_is(&self, run: &Run) -> Done<bool> {
        Ok(self.is_elsewhere() && self.parent(run)?.clone.is_some_and(|parent| parent.elsewhere))
    }

    fn stored(&self, run: &Run) -> Done<CloneRecord> {
        run.world
            .catalog
            .get(self.id.as_str())?
            .ok_or_else(|| Fault::Problem(failed(format!("the record of clone {} is gone", self.request.clone))))
    }

    fn elapsed(&self) -> u64 {
        self.begun.map_or(0, |begun| u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX))
    }

    /// Takes the name; from here on the parent cannot go.
    fn reserve(&mut self, run: &Run) -> Done<()> {
        let world = &run.world;
        let parent = self.parent(run)?;
        let wanted = self.elsewhere.as_ref();
        let kept = parent.clone.as_ref().filter(|parent| self.is_elsewhere() && parent.elsewhere);
        let of_project = self.composed.as_ref().and_then(|composed| composed.password.clone());
        let password = match (wanted.and_then(|wanted| wanted.password.clone()).or(of_project), kept) {
            (Some(told), _) => told,
            (None, Some(parent)) => parent.password.clone(),
            (None, None) => world.seal(Secret::generate().reveal().as_bytes())?,
        };
        let mut set = parent.clone.as_ref().map(|clone| clone.set.clone()).unwrap_or_default();
        set.extend(self.request.set.clone());
        let lease = self.request.lease_seconds.map(SignedDuration::from_secs);
        let record = CloneRecord {
            id: self.id.clone(),
            name: self.request.clone.clone(),
            app: parent.app.id.clone(),
            parent: parent.id.clone(),
            asked: self.moment().to_string(),
            moment: self.asked_at,
            snapshot: None,
            profile: self.request.profile.unwrap_or(Profile::Disposable),
            record: self.request.record,
            state: CloneState::Creating,
            problem: None,
            lease_until: lease.and_then(|span| self.asked_at.checked_add(span).ok()),
            lease_warned: false,
            lease_waits: None,
            created_at: self.asked_at,
            elsewhere: self.is_elsewhere(),
            password,
            set,
            container: self.container.clone(),
            compose: self.composed.as_ref().map(|composed| composed.project.clone()),
            sources: BTreeMap::new(),
            timing: Timing { storage_ms: 0, ready_ms: 0 },
            former: None,
            promoted_at: None,
            masked: false,
        };
        world.catalog.change(Durability::Ordered, |change| {
            change.take_name(&record.name, &OwnerId::Clone(record.id.clone()))?;
            if let Some(wanted) = wanted {
                change.take_name(&wanted.name, &OwnerId::Clone(record.id.clone()))?;
                change.put(&VolumeRecord {
                    name: wanted.name.clone(),
                    clone: record.id.clone(),
                    source: wanted.source.clone(),
                    options: wanted.options.clone(),
                    created_at: self.asked_at,
                })?;
            }
            change.put(&record)
        })?;
        let gone = match &parent.id {
            OwnerId::App(id) => {
                world.catalog.get::<AppRecord>(id.as_str())?.is_none_or(|app| app.state == AppState::Removing)
            }
            OwnerId::Clone(id) => {
                world.catalog.get::<CloneRecord>(id.as_str())?.is_none_or(|clone| clone.state == CloneState::Removing)
            }
        };
        if gone {
            return Err(refused(format!("{} is being removed", self.request.from)).into());
        }
        Ok(())
    }

    fn release(&mut self, run: &Run) -> Done<()> {
        remove::forget_timeline::<CloneRecord>(run, &OwnerId::Clone(self.id.clone()))
    }

    fn moment(&self) -> Moment {
        self.request.moment.clone().unwrap_or(Moment::Latest)
    }

    fn resolve(&mut self, run: &Run) -> Done<()> {
        let parent = self.parent(run)?;
        let _claim = match &parent.clone {
            // A clone may be refreshed or removed at any time: not while it is copied.
            Some(_) => Some(run.world.claim(&[parent.name.to_string()], "clone", false)?),
            None => None,
        };
        self.pin = Some(run.world.pin(&parent.id));
        let plan = match self.given.take() {
            Some(plan) => plan,
            None => moments::resolve(run, &parent, &self.moment())?,
        };
        if parent.clone.as_ref().is_some_and(|parent| parent.elsewhere) && !self.is_elsewhere() {
            provision::readable(&run.world, &parent, &plan)?;
        }
        self.volumes = provision::volumes(&plan, &self.fresh);
        let mut record = self.stored(run)?;
        record.sources = provision::sources(&run.world, &parent, &plan, &self.volumes, None)?;
        record.moment = plan.moment;
        record.snapshot = plan.snapshot.clone();
        assign_ports(run, &mut record)?;
        self.plan = Some(plan);
        Ok(run.world.catalog.note(&record)?)
    }

    fn plan(&self) -> Done<&Plan> {
        self.plan.as_ref().ok_or_else(|| Fault::Problem(failed("a clone has no plan")))
    }

    fn volume(&mut self, run: &Run) -> Done<()> {
        let begun = run.world.clock.instant();
        provision::make(run, &self.volumes)?;
        self.pin = None;
        let storage_ms = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.timing = Some(Timing { storage_ms, ready_ms: 0 });
        Ok(())
    }

    fn no_volume(&mut self, run: &Run) -> Done<()> {
        self.stop(run)?;
        provision::destroy(run, &self.fresh)
    }

    fn owner(&self, run: &Run) -> Done<Owner> {
        Owner::of_clone(&run.world, self.stored(run)?)
    }

    fn stage(&mut self, run: &Run) -> Done<()> {
        let record = self.stored(run)?;
        let ports = provision::ports(&record.sources);
        let manner = manner(&record, &self.parent(run)?.app);
        let owner = self.owner(run)?;
        let notes = containers::check(run, &owner)?;
        if !notes.is_empty() {
            let mut record = self.stored(run)?;
            containers::note(&mut record.sources, &notes);
            run.world.catalog.note(&record)?;
        }
        if !self.as_it_is(run)? {
            provision::stage(&owner, &ports, self.plan()?, &manner)?;
        }
        run.pass("clone.stage.staged")?;
        provision::link_paths(&run.world, &self.request.clone, &owner)
    }

    fn unstage(&mut self, run: &Run) -> Done<()> {
        // The name may be another clone's if this one never got it.
        if run.world.catalog.owner(&self.request.clone)? == Some(OwnerId::Clone(self.id.clone())) {
            provision::unlink_paths(&run.world, &self.request.clone)?;
        }
        let log = run.world.home.log_of(&OwnerId::Clone(self.id.clone()));
        pando_host::durable::remove_tree_if_there(&log)
            .map(drop)
            .map_err(|error| Fault::Problem(crate::fault::io("removing a clone's log", error)))
    }

    fn start(&mut self, run: &Run) -> Done<()> {
        if self.as_it_is(run)? { Ok(()) } else { provision::start(run, &self.owner(run)?) }
    }

    fn stop(&mut self, run: &Run) -> Done<()> {
        let Some(record) = run.world.catalog.get::<CloneRecord>(self.id.as_str())? else { return Ok(()) };
        provision::stop_sources(run, record.sources.values())
    }

    fn admit(&mut self, run: &Run) -> Done<()> {
        if self.as_it_is(run)? {
            return Ok(());
        }
        let mut owner = self.owner(run)?;
        self.before_masking = provision::password_before_masking(&run.world, &owner.app)?;
        let set = manner(&self.stored(run)?, &owner.app).set;
        provision::admit_first(run, &mut owner, self.before_masking.as_ref()).map_err(|fault| not_taken(fault, &set))
    }

    /// What is stitched is stitched before anybody sees the clone, and before its first snapshot. What was masked stays
    /// masked, whoever copies it.
    fn configure(&mut self, run: &Run) -> Done<()> {
        let masks = !self.as_it_is(run)?
            && provision::configure(run, &self.hook, self.owner(run)?, self.before_masking.as_ref())?;
        let mut record = self.stored(run)?;
        record.masked = masks || self.plan()?.masked;
        Ok(run.world.catalog.note(&record)?)
    }

    /// Where its servers run elsewhere, they are stopped here for good.
    fn hand_over(&mut self, run: &Run) -> Done<()> {
        if !self.is_elsewhere() {
            return Ok(());
        }
        let record = self.stored(run)?;
        provision::hand_over(run, &self.owner(run)?, &manner(&record, &self.parent(run)?.app))
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    /// A recording clone can be rewound from the moment it is handed out: its timeline begins with a snapshot,
    /// which waits until the log that `admit` began has reached it.
    fn timeline(&mut self, run: &Run) -> Done<()> {
        if self.request.record {
            snapshot::of_owner(run, &self.owner(run)?)?;
        }
        Ok(())
    }

    fn no_timeline(&mut self, run: &Run) -> Done<()> {
        let pool = run.world.pool()?;
        for tree in remove::trees(&run.world, &OwnerId::Clone(self.id.clone()))? {
            pool.destroy_snapshot(&tree)?;
        }
        Ok(())
    }

    fn show(&mut self, run: &Run) -> Done<()> {
        let mut record = self.stored(run)?;
        record.state = if record.elsewhere { CloneState::Stopped } else { CloneState::Running };
        let storage_ms = self.timing.as_ref().map_or(0, |timing| timing.storage_ms);
        record.timing = Timing { storage_ms, ready_ms: self.elapsed() };
        run.world.catalog.note(&record)?;
        Ok(())
    }
}

/// A clone that another operation makes for itself: by the same steps, except that nobody is ever shown it.
impl Clone {
    /// Makes it, of what a plan says. What a former try has left goes first.
    pub fn make(&mut self, run: &Run, plan: Plan) -> Done<CloneRecord> {
        self.unmake(run)?;
        self.given = Some(plan);
        for step in Self::STEPS.iter().take_while(|step| step.name != "show") {
            run.pass(&format!("clone.make.{}", step.name))?;
            (step.apply)(self, run)?;
        }
        self.stored(run)
    }

    /// Takes it away, however much of it there is.
    pub fn unmake(&mut self, run: &Run) -> Done<()> {
        Self::STEPS.iter().rev().try_for_each(|step| (step.undo)(self, run))
    }
}

impl Clone {
    /// The containers of its project. Their engine makes the volumes, which mount what is shown by now.
    fn up(&mut self, run: &Run) -> Done<()> {
        compose::up(run, &self.id)
    }

    fn down(&mut self, run: &Run) -> Done<()> {
        compose::down(run, &self.id)
    }
}

/// A server that does not start because of a setting says its name.
fn not_taken(fault: Fault, set: &SettingChange) -> Fault {
    let Fault::Problem(mut problem) = fault else { return fault };
    let said = problem.to_string();
    if let Some((name, value)) = set.iter().find(|(name, _)| said.contains(name.as_str())) {
        problem.causes.insert(0, problem.message);
        problem.message = format!("its server does not start with the setting {name}={value}");
        problem.hint = Some(format!("another value, or without it: --set {name}=…"));
    }
    Fault::Problem(problem)
}

/// How a clone's trees are served: its app's template, then its own settings.
pub fn manner(record: &CloneRecord, app: &AppRecord) -> Manner {
    let mut set = app.set.clone();
    set.extend(record.set.clone());
    Manner { profile: record.profile, record: record.record, set }
}

/// Gives each source with a server a port on loopback that no other clone has and nobody listens on.
pub fn assign_ports(run: &Run, record: &mut CloneRecord) -> Done<()> {
    const PORTS: std::ops::Range<u16> = 17_000..32_000;
    let world = &run.world;
    let chosen = world.catalog.change(Durability::Ordered, |change| {
        let taken: std::collections::BTreeSet<u16> = change
            .all::<CloneRecord>()?
            .iter()
            .filter(|other| other.id() != record.id())
            .flat_map(|other| {
                let former = other.former.iter().flat_map(|former| former.sources.values());
                other.sources.values().chain(former).filter_map(|source| source.port).collect::<Vec<_>>()
            })
            .collect();
        // From anywhere, not from the first: another home's daemon may be choosing at this very moment.
        let from = usize::try_from(world.id().1).unwrap_or_default() % PORTS.len();
        let mut free = PORTS
            .cycle()
            .skip(from)
            .take(PORTS.len())
            .filter(|port| !taken.contains(port) && std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok());
        for source in record.sources.values_mut().filter(|source| units::has_server(source.engine)) {
            source.port = free.next();
        }
        change.put(record)?;
        Ok(record.sources.values().all(|source| source.port.is_some() || !units::has_server(source.engine)))
    })?;
    if chosen { Ok(()) } else { Err(refused("no port is free on 127.0.0.1 for the clone's server").into()) }
}
