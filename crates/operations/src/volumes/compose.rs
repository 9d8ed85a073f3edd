//! A Compose project that runs on a clone: `clone --compose FILE` makes the clone, gives the project's volumes to it,
//! and brings the project up; `refresh`, `rewind`, `undo` and `rm` stop it before they touch the data.
//!
//! # Crash consistency
//! The clone's record says which services are owed a start, and says so before they are stopped. They get it at the
//! end of the verb, also of one that failed; else from the heartbeat, once the daemon serves volumes again.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pando_catalog::{CloneRecord, ComposeProject, ComposeVolume, VolumeRecord};
use pando_model::{CloneId, CloneRequest, CloneState, Name, Profile};
use pando_runtime::compose::Project;

use super::birth;
use super::options::Wish;
use crate::fault::{Done, Fault, refused, usage};
use crate::journal::Run;
use crate::owner::Owner;
use crate::world::World;

/// How long after a start that failed the next one is tried.
const AGAIN: Duration = Duration::from_secs(30);

/// What a file wants of a clone.
pub struct Declared {
    /// The project, for the clone's record.
    pub project: ComposeProject,
    /// The password that its volumes name.
    pub password: Option<String>,
    /// The profile that its volumes name.
    pub profile: Option<Profile>,
}

fn project(clone: &Name, compose: &ComposeProject) -> Project {
    Project { name: clone.to_string(), file: compose.file.clone() }
}

/// Reads a file for a clone that is to be made. Refuses what cannot be before anything is made.
pub fn declared(world: &World, parent: &Owner, request: &CloneRequest, file: &str) -> Done<Declared> {
    let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    if !request.clone.as_str().bytes().all(plain) {
        let what = format!("{} cannot be the name of a Compose project", request.clone);
        return Err(usage(what).hint("small letters, digits, - and _").into());
    }
    if request.record {
        return Err(refused("no log is kept of a server in a container of the user's").into());
    }
    let file = PathBuf::from(file);
    let mut found = Declared {
        project: ComposeProject { file, volumes: BTreeMap::new(), owed: Vec::new() },
        password: None,
        profile: None,
    };
    let asked = project(&request.clone, &found.project);
    if !asked.file.is_absolute() || !world.projects.is_there(&asked) {
        let what = format!("{} is not there", asked.file.display());
        return Err(usage(what).hint("a file of the daemon's machine, by its whole path").into());
    }
    for volume in world.projects.volumes(&asked)? {
        if !volume.options.contains_key("from") {
            continue;
        }
        let wish = Wish::read(&volume.options)?;
        if wish.from.as_ref() != Some(&request.from) {
            continue;
        }
        let source = birth::source(world, parent, &request.from, wish.source.as_ref())?;
        birth::fits(parent, &source)?;
        found.password = wish.password.or(found.password);
        found.profile = wish.profile.or(found.profile);
        let name = volume.name.parse().map_err(|error: pando_model::NameError| usage(error.to_string()))?;
        found.project.volumes.insert(name, ComposeVolume { source, options: wish.kept });
    }
    if found.project.volumes.is_empty() {
        let what = format!("{} has no volume of {}", asked.file.display(), request.from);
        return Err(refused(what).hint(format!("pando compose init {} writes one that has", request.from)).into());
    }
    if !world.projects.running(&asked)?.is_empty() {
        return Err(refused(format!("a Compose project {} runs already", request.clone))
            .hint(format!("another name, or: docker compose -p {} down", request.clone))
            .into());
    }
    Ok(found)
}

/// The volume of that name, if it is one of a project's: its clone decides the moment, whatever the file says.
pub fn volume_of(world: &World, name: &Name, wish: &Wish) -> Done<Option<VolumeRecord>> {
    for clone in world.catalog.all::<CloneRecord>()? {
        let Some(volume) = clone.compose.as_ref().and_then(|compose| compose.volumes.get(name)) else { continue };
        if volume.options != wish.kept {
            let what = format!("{name} has other options than when {} was made", clone.name);
            return Err(refused(what).hint(format!("pando rm {}, and make it again", clone.name)).into());
        }
        if matches!(clone.state, CloneState::Removing) {
            return Err(refused(format!("{} is being removed", clone.name)).into());
        }
        return Ok(Some(VolumeRecord {
            name: name.clone(),
            clone: clone.id,
            source: volume.source.clone(),
            options: wish.kept.clone(),
            created_at: world.now(),
        }));
    }
    Ok(None)
}

/// A clone's record and its project, if it has one.
fn of(run: &Run, clone: &CloneId) -> Done<Option<(CloneRecord, Project)>> {
    let Some(record) = run.world.catalog.get::<CloneRecord>(clone.as_str())? else { return Ok(None) };
    Ok(record.compose.as_ref().map(|compose| project(&record.name, compose)).map(|project| (record, project)))
}

/// Notes which services are owed a start.
pub fn owe(run: &Run, clone: &CloneId, owed: &[String]) -> Done<()> {
    let Some(mut record) = run.world.catalog.get::<CloneRecord>(clone.as_str())? else { return Ok(()) };
    if let Some(compose) = &mut record.compose {
        owed.clone_into(&mut compose.owed);
    }
    // An engine does not start by itself what was stopped on purpose: the debt has to outlive the machine.
    Ok(run.world.catalog.put(&record)?)
}

/// Brings a new clone's project up.
pub fn up(run: &Run, clone: &CloneId) -> Done<()> {
    let Some((_, project)) = of(run, clone)? else { return Ok(()) };
    run.progress("starting containers", 0, None);
    Ok(run.world.projects.up(&project, None)?)
}

/// Takes the project's containers away. Where the file is gone nobody can; who still uses the data is found by others.
pub fn down(run: &Run, clone: &CloneId) -> Done<()> {
    match of(run, clone)? {
        Some((_, project)) if run.world.projects.is_there(&project) => Ok(run.world.projects.down(&project)?),
        _ => Ok(()),
    }
}

/// Stops the services that run, which are owed a start from here on.
pub fn halt(run: &Run, clone: &CloneId) -> Done<()> {
    let Some((record, project)) = of(run, clone)? else { return Ok(()) };
    let projects = &run.world.projects;
    if !projects.is_there(&project) {
        return Ok(());
    }
    let mut owed = record.compose.map(|compose| compose.owed).unwrap_or_default();
    let running = projects.running(&project)?;
    owed.extend(running.into_iter().filter(|service| !owed.contains(service)).collect::<Vec<_>>());
    if owed.is_empty() {
        return Ok(());
    }
    owe(run, clone, &owed)?;
    run.pass("compose.halt.noted")?;
    run.progress("stopping containers", 0, None);
    Ok(projects.stop(&project)?)
}

/// Stops the services that run, to which no start is owed.
pub fn rest(run: &Run, clone: &CloneId) -> Done<()> {
    halt(run, clone)?;
    run.pass("compose.rest.stopped")?;
    owe(run, clone, &[])
}

/// The services of a clone's project that run.
pub fn running(world: &World, record: &CloneRecord) -> Done<Vec<String>> {
    let Some(compose) = &record.compose else { return Ok(Vec::new()) };
    let project = project(&record.name, compose);
    if !world.projects.is_there(&project) {
        return Err(refused(format!("{} is not there", project.file.display()))
            .hint(format!(
                "its containers can still be had by: docker ps --filter label=com.docker.compose.project={}",
                project.name
            ))
            .into());
    }
    Ok(world.projects.running(&project)?)
}

/// Starts what is owed a start, on the data that the clone has now.
pub fn resume(run: &Run, clone: &CloneId) -> Done<()> {
    let Some((record, project)) = of(run, clone)? else { return Ok(()) };
    let owed = record.compose.map(|compose| compose.owed).unwrap_or_default();
    if owed.is_empty() {
        return Ok(());
    }
    run.progress("starting containers", 0, None);
    run.world.projects.up(&project, Some(&owed))?;
    run.pass("compose.resume.started")?;
    owe(run, clone, &[])
}

/// The heartbeat's part: what is still owed after a verb that failed, or a daemon that died.
pub fn look_after(run: &Run, record: &CloneRecord) -> Done<()> {
    let owes = record.compose.as_ref().is_some_and(|compose| !compose.owed.is_empty());
    let now = run.world.clock.instant();
    if !owes || record.state != CloneState::Stopped || !run.world.volumes.may_try(&record.id, now, AGAIN) {
        return Ok(());
    }
    match resume(run, &record.id) {
        Err(Fault::Problem(problem)) => {
            let text = format!("the containers of {} could not be started again", record.name);
            run.world.event("not-started", Some(&record.name), &format!("{text}: {problem}"));
            Ok(())
        }
        outcome => {
            run.world.volumes.succeeded(&record.id);
            outcome
        }
    }
}
