//! Who passes into logs, and into what is in the pool. Mirrors and snapshots hold files as production has them, with the
//! numbers of their owners there: whoever has one of these numbers on this machine would read them, and change them behind
//! production's back. So only root passes, and the account of the servers; without root only the daemon's own user. The
//! volumes of clones are entered by whoever works with them.
//!
//! # Crash consistency
//! A crash of the machine may take a mode that was just set: [`at_start`] sets all of them again, those of homes from before
//! too.

use std::fs::{self, Permissions};
use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;

use pando_catalog::{AppRecord, CloneRecord};
use pando_model::{AppState, EngineKind, OwnerId, Problem, VolumeId};

use crate::fault::{Done, Fault, IntoProblem, io as failed};
use crate::world::World;

const CLOSED: u32 = 0o750;

fn set(world: &World, path: &Path, open: bool) -> Result<(), Problem> {
    let mode = match (&world.account, open) {
        (_, true) => 0o755,
        (Some(_), false) => CLOSED,
        (None, false) => 0o700,
    };
    let set = || {
        if let Some(account) = world.account.as_ref().filter(|_| !open) {
            chown(path, None, Some(account.gid))?;
        }
        fs::set_permissions(path, Permissions::from_mode(mode))
    };
    match set() {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed("setting who may enter", error)),
        _ => Ok(()),
    }
}

/// A MariaDB's files are copied by their owner in production, who must reach the mirror meanwhile.
fn is_copied_by_another(app: &AppRecord) -> bool {
    app.sources.values().any(|source| source.engine == EngineKind::Mariadb)
}

/// A mirror's volume, and its logs.
fn set_mirror(world: &World, app: &AppRecord, open: bool) -> Done<()> {
    let owner = OwnerId::App(app.id.clone());
    set(world, &world.pool()?.volume_path(&app.volume), open)?;
    Ok(app.sources.keys().try_for_each(|name| set(world, &world.home.log(&owner, name), open))?)
}

/// Before a first copy into a mirror's volume.
pub fn before_copy(world: &World, app: &AppRecord) -> Done<()> {
    for name in app.sources.keys() {
        fs::create_dir_all(world.home.log(&OwnerId::App(app.id.clone()), name))
            .map_err(|error| Fault::Problem(failed("making a log", error)))?;
    }
    set_mirror(world, app, is_copied_by_another(app))
}

/// A mirror's volume is no way in, nor are its logs.
pub fn close_mirror(world: &World, app: &AppRecord) -> Done<()> {
    set_mirror(world, app, false)
}

/// A clone's volume is entered.
pub fn open_clone(world: &World, volume: &VolumeId) -> Done<()> {
    Ok(set(world, &world.pool()?.volume_path(volume), true)?)
}

/// All snapshots of a pool, through the one directory that they are in.
pub fn close_snapshots(world: &World) -> Done<()> {
    Ok(set(world, &pando_pool::snapshots_of(world.pool()?.root()), false)?)
}

/// All that is there.
pub fn at_start(world: &World) -> Result<(), Problem> {
    let Ok(pool) = world.pool() else { return Ok(()) };
    close_snapshots(world).map_err(Fault::into_problem)?;
    for app in world.catalog.all::<AppRecord>().map_err(IntoProblem::into_problem)? {
        // A copy may be under way.
        if !matches!(app.state, AppState::Linking | AppState::Rebasing) || !is_copied_by_another(&app) {
            close_mirror(world, &app).map_err(Fault::into_problem)?;
        }
    }
    for clone in world.catalog.all::<CloneRecord>().map_err(IntoProblem::into_problem)? {
        for (name, source) in &clone.sources {
            set(world, &world.home.log(&OwnerId::Clone(clone.id.clone()), name), false)?;
            let path = pool.volume_path(&source.volume);
            // One that is being received is shut in another way.
            if fs::metadata(&path).is_ok_and(|meta| meta.permissions().mode() & 0o7777 == CLOSED) {
                set(world, &path, true)?;
            }
        }
    }
    Ok(())
}
