//! Clones whose servers run in containers: which image, what it is given, whether it suits the data, and what its
//! container may do.
//!
//! Only servers of clones (and what keeps a clone's log) run in containers. Mirrors and prepared trees stay
//! processes: they are Pando's own, nobody is let in to them, and a container would only cost time.

use std::collections::BTreeMap;
use std::path::PathBuf;

use pando_catalog::{AppRecord, CloneRecord, CloneSource};
use pando_engine::{Finding, ImageContent};
use pando_host::Account;
use pando_model::{CloneRequest, ContainerView, ContainerWish, DoctorItem, Name, RuntimeKind, UnitId};
use pando_runtime::docker::{Confines, Unlimited};
use pando_runtime::{Container, DockerRuntime};

use crate::fault::{Done, Fault, IntoProblem, refused, usage};
use crate::journal::Run;
use crate::owner::{Held, Owner};
use crate::world::World;

/// What a clone's containers are to be given; none: its servers are processes. Refuses what cannot be.
pub fn wished(world: &World, parent: &Owner, request: &CloneRequest) -> Done<Option<ContainerWish>> {
    let inherited = parent.clone.as_ref().and_then(|clone| clone.container.clone());
    let docker = match request.runtime {
        Some(kind) => kind == RuntimeKind::Docker,
        None => inherited.is_some(),
    };
    if !docker {
        return if request.container.is_empty() {
            Ok(None)
        } else {
            Err(usage("images and limits are for clones in containers").hint("add --runtime docker").into())
        };
    }
    if let Some(name) = request.container.images.keys().find(|name| !parent.sources.contains_key(*name)) {
        let known: Vec<&str> = parent.sources.keys().map(Name::as_str).collect();
        return Err(usage(format!("{} has no source {name}", parent.name))
            .hint(format!("it has: {}", known.join(", ")))
            .into());
    }
    let docker = engine(world)?;
    docker.answers().map_err(|error| {
        refused(error.into_problem().to_string())
            .hint("start Docker or Podman; `pando doctor` shows where it is sought")
    })?;
    if Account::is_root() && docker.is_rootless()? {
        // The account that the data belongs to here is none of that user's.
        return Err(refused(format!(
            "the engine at {} is rootless, and this daemon is root",
            docker.socket().display()
        ))
        .hint("run `pando serve` as the user whose engine it is")
        .into());
    }
    let Unlimited { memory, cpu, .. } = docker.unlimited()?;
    for (told, flag, what) in [
        (memory && request.container.memory_bytes.is_some(), "--memory", "memory"),
        (cpu && request.container.cpu_millis.is_some(), "--cpus", "processors"),
    ] {
        if told {
            return Err(refused(format!(
                "the engine cannot limit {what}: it is rootless, and was given no control group"
            ))
            .hint(format!("leave {flag} out; or let systemd delegate cgroup v2 controllers to its user"))
            .into());
        }
    }
    Ok(Some(request.container.clone().or(inherited.unwrap_or_default())))
}

fn engine(world: &World) -> Done<&DockerRuntime> {
    world.docker.as_deref().ok_or_else(|| {
        Fault::Problem(
            refused("there is no Docker or Podman engine here")
                .hint("install one (apt-get install docker.io), or say where it is: DOCKER_HOST=unix:///… pando serve"),
        )
    })
}

/// What all containers of one source of a clone are given; none: it runs as processes. Where neither the clone nor its app
/// names an image, one is chosen when a unit starts, since a refresh may bring another version.
pub fn base(world: &World, app: &AppRecord, clone: &CloneRecord, source: &Name) -> Option<Container> {
    let wish = clone.container.as_ref()?;
    let labels = [
        ("pando.clone", clone.id.as_str()),
        ("pando.clone.name", clone.name.as_str()),
        ("pando.source", source.as_str()),
    ];
    Some(Container {
        image: wish.images.get(source).or_else(|| of_app(app, source)).cloned().unwrap_or_default(),
        mounts: Vec::new(),
        labels: labels.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        memory_bytes: wish.memory_bytes.or_else(|| world.memory.map(|bytes| bytes / 2)),
        cpu_millis: Some(wish.cpu_millis.unwrap_or_else(|| all_processors() * 1000)),
    })
}

/// The image that an app's file names for a source.
pub fn of_app<'a>(app: &'a AppRecord, source: &Name) -> Option<&'a String> {
    app.sources.get(source)?.image.as_ref()
}

fn all_processors() -> u64 {
    std::thread::available_parallelism().map_or(1, |count| u64::try_from(count.get()).unwrap_or(1))
}

/// The bytes of memory of this machine.
pub fn memory() -> Option<u64> {
    let text = std::fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    Some(line.split_whitespace().next()?.parse::<u64>().ok()? << 10)
}

/// The container of one unit of a source.
pub fn container(held: &Held, role: &str) -> Done<Option<Container>> {
    let Some(base) = &held.container else { return Ok(None) };
    let mut container = base.clone();
    if container.image.is_empty() {
        container.image = image(held)?;
    }
    container.labels.insert("pando.role".to_owned(), role.to_owned());
    // A server has no business in the log that others keep of it, nor what keeps a log in the data.
    let own: &PathBuf = if role == "server" { &held.seat.data } else { &held.seat.log };
    container.mounts = vec![own.clone(), held.seat.run.clone()];
    if role == "server" && held.engine.server_writes_log() && held.seat.log.exists() {
        container.mounts.push(held.seat.log.clone());
    }
    Ok(Some(container))
}

fn image(held: &Held) -> Done<String> {
    held.engine.image(&held.seat, &held.source)?.ok_or_else(|| {
        let what = format!("no image is known for sources of the kind {}", held.kind);
        Fault::Problem(refused(what).hint("name one: --image SOURCE=REFERENCE"))
    })
}

/// Before a clone's servers start in containers: each image is there, and suits the data. What does not matter
/// much is put into the sources' notes, by name.
pub fn check(run: &Run, owner: &Owner) -> Done<BTreeMap<Name, Vec<String>>> {
    let mut notes = BTreeMap::new();
    for (name, held) in owner.sources.iter().filter(|(_, held)| held.engine.serves(&held.source)) {
        let Some(container) = container(held, "server")? else { continue };
        let docker = engine(&run.world)?;
        ensure_image(run, docker, name, &container.image)?;
        // Of what no engine knows in containers the user has named an image, and knows it.
        let Some(look) = held.engine.image_look(&held.source)? else { continue };
        let facts = docker.image_facts(&container.image, look.server, look.libraries)?;
        let content = ImageContent { version: facts.version, libc: facts.libc, files: facts.files };
        let may_reindex = owner.clone.as_ref().and_then(|clone| clone.container.as_ref()).is_some_and(|it| it.reindex);
        for finding in held.engine.suits(&held.seat, &held.source, &content)? {
            // The one thing that can be mended by whoever asks for it.
            let mended = may_reindex && finding.fix.as_deref().is_some_and(|fix| fix.contains("--reindex"));
            if finding.fatal && !mended {
                return Err(unsuited(name, &container.image, finding).into());
            }
            if !mended {
                let text = format!("image {}: {}", container.image, finding.what);
                notes.entry(name.clone()).or_insert_with(Vec::new).push(text);
            }
        }
    }
    Ok(notes)
}

fn unsuited(source: &Name, image: &str, finding: Finding) -> pando_model::Problem {
    let mut problem = refused(format!("the image {image} does not suit the source {source}"));
    problem.causes.push(finding.what);
    match finding.fix {
        Some(fix) => problem.hint(fix),
        None => problem,
    }
}

fn ensure_image(run: &Run, docker: &DockerRuntime, source: &Name, image: &str) -> Done<()> {
    if docker.has_image(image)? {
        return Ok(());
    }
    run.progress(&format!("pulling {image}"), 0, None);
    docker.pull(image).map_err(|error| {
        let mut problem = refused(format!("the engine has no image {image}, and could not pull it"));
        problem.causes.push(std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string));
        problem.hint(format!("docker pull {image}; or name an image that is there: --image {source}=REFERENCE")).into()
    })
}

/// The notes of a check, put where users see them.
pub fn note(sources: &mut BTreeMap<Name, CloneSource>, notes: &BTreeMap<Name, Vec<String>>) {
    for (name, source) in sources {
        source.notes.retain(|note| !note.starts_with("image "));
        source.notes.extend(notes.get(name).cloned().unwrap_or_default());
    }
}

/// The container of a clone's server, as the engine has it now.
pub fn view(world: &World, units: &BTreeMap<String, UnitId>) -> Option<ContainerView> {
    let docker = world.docker.as_ref()?;
    let unit = units.get("server").filter(|unit| docker.has(unit))?;
    let Confines {
        id,
        image,
        user,
        privileged,
        capabilities,
        gains_rights,
        writes_root,
        network,
        mounts,
        memory_bytes,
        cpu_millis,
        pids,
    } = docker.confines(unit).ok()??;
    let mounts = mounts.into_iter().map(|(path, writes)| (path.to_string_lossy().into_owned(), writes)).collect();
    Some(ContainerView {
        id,
        image,
        user,
        privileged,
        capabilities,
        gains_rights,
        writes_root,
        network,
        mounts,
        memory_bytes,
        cpu_millis,
        pids,
    })
}

/// Whether an engine can be reached. That there is none is no harm where no clone needs it.
pub fn doctor(world: &World) -> Done<DoctorItem> {
    let needed = world.catalog.all::<CloneRecord>()?.iter().any(|clone| clone.container.is_some());
    let item = |level: &str, found: String, fix: Option<&str>| DoctorItem {
        what: "containers".to_owned(),
        level: level.to_owned(),
        found,
        fix: fix.map(str::to_owned),
    };
    let level = if needed { "problem" } else { "ok" };
    let Some(docker) = &world.docker else { return Ok(item(level, "no engine was sought".to_owned(), None)) };
    let socket = docker.socket().display();
    Ok(match docker.answers().and_then(|()| docker.engine()) {
        Ok(words) => {
            let found = format!("{} {} answers at {socket}{}", words.name, words.version, words.reservations());
            item("ok", found, None)
        }
        Err(error) if needed => {
            let found = format!("clones run in containers, and {}", error.into_problem());
            item(level, found, Some("systemctl restart docker"))
        }
        Err(_) => item(level, format!("no Docker or Podman engine answers at {socket}: clones run as processes"), None),
    })
}
