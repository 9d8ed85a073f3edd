//! What `clone`, `refresh`, `bookmark` and `prepare` have in common: volumes made from a plan, staged,
//! started and let in to. "A step is an idempotent apply and an idempotent undo" holds for each of these.

use std::collections::{BTreeMap, BTreeSet};

use pando_catalog::{AppRecord, CloneSource, Sealed};
use pando_engine::{EngineError, Stage};
use pando_host::secret::Secret;
use pando_model::{EngineKind, Name, PoolSnapshotId, Profile, SettingChange, UnitId, VolumeId};

use crate::doors;
use crate::fault::{Done, Fault, failed};
use crate::hooks::{self, Stitches};
use crate::journal::Run;
use crate::moments::Plan;
use crate::owner::{Held, Owner};
use crate::units;
use crate::world::World;

/// Ids for all volumes that a plan may need, before there is a plan: an operation knows them from birth.
pub fn fresh_volumes(world: &World, sources: usize) -> Vec<VolumeId> {
    (0..sources)
        .map(|_| {
            let (millis, random) = world.id();
            VolumeId::from_parts(millis, random)
        })
        .collect()
}

/// One volume per tree of a plan. Most plans have one; a moment between two snapshots of an app with
/// directories has two, because the databases are rolled forward from before it and the files are taken
/// from after it.
pub fn volumes(plan: &Plan, fresh: &[VolumeId]) -> BTreeMap<PoolSnapshotId, VolumeId> {
    let trees: BTreeSet<&PoolSnapshotId> = plan.sources.values().map(|source| &source.tree).collect();
    trees.into_iter().cloned().zip(fresh.iter().cloned()).collect()
}

/// Makes the volumes of a clone.
pub fn make(run: &Run, volumes: &BTreeMap<PoolSnapshotId, VolumeId>) -> Done<()> {
    make_closed(run, volumes)?;
    volumes.values().try_for_each(|volume| doors::open_clone(&run.world, volume))
}

/// Makes volumes that nobody enters but who enters what they are made from.
pub fn make_closed(run: &Run, volumes: &BTreeMap<PoolSnapshotId, VolumeId>) -> Done<()> {
    let pool = run.world.pool()?;
    for (tree, volume) in volumes {
        pool.clone_volume(tree, volume)?;
    }
    Ok(())
}

/// Destroys volumes.
pub fn destroy<'a>(run: &Run, volumes: impl IntoIterator<Item = &'a VolumeId>) -> Done<()> {
    let pool = run.world.pool()?;
    for volume in volumes {
        pool.destroy_volume(volume)?;
    }
    Ok(())
}

/// How a tree is to be served.
pub struct Manner {
    /// What its data is worth.
    pub profile: Profile,
    /// Whether a log is kept.
    pub record: bool,
    /// Settings, the app's template first.
    pub set: SettingChange,
}

/// The settings that are meant for one kind of an app's sources: those that name it (`redis.maxmemory`), and those
/// that name none of the app's kinds.
pub fn settings(set: &SettingChange, kind: EngineKind, kinds: &[EngineKind]) -> SettingChange {
    let mine = |(name, value): (&String, &String)| {
        let named = name.split_once('.').and_then(|(word, rest)| {
            let found = kinds.iter().find(|kind| kind.as_str() == word)?;
            Some((*found, rest.to_owned()))
        });
        match named {
            Some((other, rest)) => (other == kind).then(|| (rest, value.clone())),
            None => Some((name.clone(), value.clone())),
        }
    };
    set.iter().filter_map(mine).collect()
}

/// Refuses trees that servers in containers have made their own, where servers of this machine cannot read them
/// (T-23): to give them back would be a walk over every file.
pub fn readable(world: &World, parent: &Owner, plan: &Plan) -> Done<()> {
    use std::os::unix::fs::MetadataExt;
    let own = || (pando_host::Account::own_uid(), "this daemon's own user");
    let (uid, servers) = world.account.as_ref().map_or_else(own, |account| (account.uid, account.name.as_str()));
    let pool = world.pool()?;
    for (name, _) in parent.sources.iter().filter(|(_, held)| held.engine.serves(&held.source)) {
        let Some(planned) = plan.sources.get(name) else { continue };
        let dir = pool.snapshot_path(&planned.tree).join(name.as_str());
        let owner = std::fs::metadata(&dir)
            .map_err(|error| Fault::Problem(crate::fault::io("looking whose a tree is", error)))?
            .uid();
        if owner != uid {
            let text = format!("{name} of {} belongs to uid {owner}, and servers here run as {servers}", parent.name);
            return Err(crate::fault::refused(text)
                .hint(format!("make a volume of it: docker volume create -d pando -o from={} NAME", parent.name))
                .into());
        }
    }
    Ok(())
}

/// Refuses to take away trees that a container of an ordinary user's engine has made its own: its accounts are
/// others to us, and only root could. Where volumes are taken whole nobody looks into them.
pub fn can_go(world: &World, owner: &Owner) -> Done<()> {
    if world.pool()?.capabilities().atomic_snapshot { Ok(()) } else { within_reach(owner) }
}

/// Refuses such trees to whoever has to look into them.
pub fn within_reach(owner: &Owner) -> Done<()> {
    use std::os::unix::fs::MetadataExt;
    let me = pando_host::Account::own_uid();
    if me == 0 {
        return Ok(());
    }
    for (name, held) in &owner.sources {
        let Ok(meta) = std::fs::metadata(&held.seat.data) else { continue };
        if meta.uid() != me {
            let text =
                format!("{name} of {} belongs to uid {} now: a container made it its own", owner.name, meta.uid());
            let hint = format!(
                "podman unshare chown -R 0:0 {} gives it back; --userns=keep-id:uid=UID,gid=GID, with the ids of the image's \
                 account, lets a container have it as yours",
                held.seat.data.display()
            );
            return Err(crate::fault::refused(text).hint(hint).into());
        }
    }
    Ok(())
}

/// Gives trees that servers in containers have made their own (T-23) to the account of servers here. A walk over every file:
/// only for copies that are read file by file anyway.
pub fn take_over(world: &World, owner: &Owner) -> Done<()> {
    use std::os::unix::fs::MetadataExt;
    let Some(account) = &world.account else { return Ok(()) };
    let failed = |error| Fault::Problem(crate::fault::io("taking a tree over from a container", error));
    for held in owner.sources.values().filter(|held| held.engine.serves(&held.source)) {
        if std::fs::symlink_metadata(&held.seat.data).map_err(failed)?.uid() != account.uid {
            account.take_tree(&held.seat.data).map_err(failed)?;
        }
    }
    Ok(())
}

/// Writes all sources ready for their start.
pub fn stage(owner: &Owner, ports: &BTreeMap<Name, Option<u16>>, plan: &Plan, manner: &Manner) -> Done<()> {
    stages(owner, ports, plan, manner, |held, stage| held.engine.stage(&held.seat, &held.source, stage))
}

/// The same of what becomes an image.
pub fn stage_image(owner: &Owner, ports: &BTreeMap<Name, Option<u16>>, plan: &Plan, manner: &Manner) -> Done<()> {
    stages(owner, ports, plan, manner, |held, stage| held.engine.stage_image(&held.seat, &held.source, stage))
}

fn stages(
    owner: &Owner,
    ports: &BTreeMap<Name, Option<u16>>,
    plan: &Plan,
    manner: &Manner,
    write: impl Fn(&Held, &Stage) -> Result<(), EngineError>,
) -> Done<()> {
    let kinds: Vec<EngineKind> = owner.sources.values().map(|held| held.kind).collect();
    for (name, held) in &owner.sources {
        let source = plan
            .sources
            .get(name)
            .ok_or_else(|| Fault::Problem(failed(format!("the plan does not name the source {name}"))))?;
        let stage = Stage {
            to: source.to.clone(),
            log: source.log.clone(),
            port: ports.get(name).copied().flatten(),
            profile: manner.profile,
            record: manner.record,
            set: settings(&manner.set, held.kind, &kinds),
        };
        write(held, &stage)?;
    }
    Ok(())
}

/// Stops all servers in an orderly way and makes their trees ready for containers of the user's.
pub fn hand_over(run: &Run, owner: &Owner, manner: &Manner) -> Done<()> {
    for held in owner.sources.values() {
        held.engine.part(&held.seat, &held.source)?;
    }
    units::stop_all(&run.world, owner)?;
    run.pass("provision.hand-over.stopped")?;
    let kinds: Vec<EngineKind> = owner.sources.values().map(|held| held.kind).collect();
    for held in owner.sources.values().filter(|held| held.engine.hands_over()) {
        let set = settings(&manner.set, held.kind, &kinds);
        let stage = Stage { to: None, log: None, port: None, profile: manner.profile, record: false, set };
        held.engine.hand_over(&held.seat, &held.source, &stage)?;
    }
    Ok(())
}

/// Starts all servers.
pub fn start(run: &Run, owner: &Owner) -> Done<()> {
    owner.sources.values().try_for_each(|held| units::start_server(&run.world, held))
}

/// Waits for all servers, cuts them off production, lets the clone's own user in, and starts what records.
pub fn admit(run: &Run, owner: &Owner, password: Option<&str>, record: bool) -> Done<()> {
    let who = password.map(units::credentials);
    let reindex = owner.clone.as_ref().and_then(|clone| clone.container.as_ref()).is_some_and(|it| it.reindex);
    for held in owner.sources.values() {
        units::wait_ready(run, held)?;
        if reindex && held.container.is_some() {
            run.progress("making indexes again", 0, None);
            held.engine.reindex(&held.seat, &held.source)?;
        }
        held.engine.admit(&held.seat, &held.source, who.as_ref())?;
        if record {
            units::start_receiver(&run.world, held)?;
        }
    }
    Ok(())
}

/// The password that lets in to a clone of an app until everything that masks has run; none where nothing masks. Nobody but
/// what masks is told it, so nobody else comes in before.
pub fn password_before_masking(world: &World, app: &AppRecord) -> Done<Option<Sealed>> {
    let masks = Stitches::of(world, app)?.mask();
    masks.then(|| world.seal(Secret::generate().reveal().as_bytes())).transpose()
}

/// Lets the clone's own user in, or, where something masks, what masks.
pub fn admit_first(run: &Run, owner: &mut Owner, before_masking: Option<&Sealed>) -> Done<()> {
    let record = owner.clone_record()?.record && before_masking.is_none();
    if let Some(other) = before_masking {
        owner.exchange_password(other.clone())?;
    }
    admit(run, owner, Some(&owner.password(&run.world)?), record)
}

/// Makes a clone's data its own: what masks runs first, with a password of its own, then the clone's password is made the one
/// that lets in, and the rest runs. Whether it was masked: what fails, fails all.
pub fn configure(run: &Run, hook: &UnitId, mut owner: Owner, before_masking: Option<&Sealed>) -> Done<bool> {
    if let Some(other) = before_masking {
        let own = owner.exchange_password(other.clone())?;
        hooks::configure(run, hook, &owner, true)?;
        owner.exchange_password(own)?;
        admit(run, &owner, Some(&owner.password(&run.world)?), owner.clone_record()?.record)?;
    }
    hooks::configure(run, hook, &owner, false)?;
    Ok(before_masking.is_some())
}

/// Brings the servers of a clone back that an operation had stopped.
pub fn start_again(run: &Run, owner: &Owner, record: bool) -> Done<()> {
    start(run, owner)?;
    for held in owner.sources.values() {
        units::wait_ready(run, held)?;
        if record {
            units::start_receiver(&run.world, held)?;
        }
    }
    Ok(())
}

/// The sources of a clone as a plan makes them; addresses come from `former` where there is one.
pub fn sources(
    world: &World,
    parent: &Owner,
    plan: &Plan,
    volumes: &BTreeMap<PoolSnapshotId, VolumeId>,
    former: Option<&BTreeMap<Name, CloneSource>>,
) -> Done<BTreeMap<Name, CloneSource>> {
    let mut made = BTreeMap::new();
    for (name, held) in &parent.sources {
        let planned = plan
            .sources
            .get(name)
            .ok_or_else(|| Fault::Problem(failed(format!("the plan does not name the source {name}"))))?;
        let volume =
            volumes.get(&planned.tree).cloned().ok_or_else(|| Fault::Problem(failed("the plan names no volume")))?;
        let known = former.and_then(|former| former.get(name));
        let seat = {
            let (millis, random) = world.id();
            UnitId::from_parts(millis, random)
        };
        let notes = parent.app.sources.get(name).map(|source| source.notes.clone()).unwrap_or_default();
        made.insert(
            name.clone(),
            CloneSource {
                engine: held.kind,
                volume,
                port: known.and_then(|known| known.port),
                units: known.map_or_else(|| units::fresh_units(world), |known| known.units.clone()),
                seat: known.map_or(seat, |known| known.seat.clone()),
                moment: Some(planned.at),
                position: planned.position.clone(),
                skew_seconds: planned.skew,
                notes,
            },
        );
    }
    Ok(made)
}

/// Stops the units of sources at once, and takes away what is left of them.
pub fn stop_sources<'a>(run: &Run, sources: impl IntoIterator<Item = &'a CloneSource>) -> Done<()> {
    for source in sources {
        units::kill(&run.world, &source.units)?;
        for unit in source.units.values() {
            run.world.runtime.forget(unit)?;
        }
        units::remove_sockets(&run.world, &source.seat)?;
    }
    Ok(())
}

/// The ports of sources, by name.
pub fn ports(sources: &BTreeMap<Name, CloneSource>) -> BTreeMap<Name, Option<u16>> {
    sources.iter().map(|(name, source)| (name.clone(), source.port)).collect()
}

/// Points the stable links of a clone at its trees.
pub fn link_paths(world: &World, clone: &Name, owner: &Owner) -> Done<()> {
    let dir = world.home.clone_dir(clone);
    let failed = |error| Fault::Problem(crate::fault::io("writing a clone's links", error));
    std::fs::create_dir_all(&dir).map_err(failed)?;
    for (name, held) in &owner.sources {
        let link = dir.join(name.as_str());
        let fresh = dir.join(format!(".{name}.new"));
        pando_host::durable::remove_if_there(&fresh).map_err(failed)?;
        std::os::unix::fs::symlink(&held.seat.data, &fresh).map_err(failed)?;
        std::fs::rename(&fresh, &link).map_err(failed)?;
    }
    Ok(())
}

/// Removes the stable links of a clone.
pub fn unlink_paths(world: &World, clone: &Name) -> Done<()> {
    pando_host::durable::remove_tree_if_there(&world.home.clone_dir(clone))
        .map(drop)
        .map_err(|error| Fault::Problem(crate::fault::io("removing a clone's links", error)))
}
