//! Chooses what a pool shall be, makes it, and takes it away again. What is chosen is told in words,
//! because it decides what a clone costs.

use std::fs;
use std::io;
use std::path::Path;
use std::sync::atomic::AtomicBool;

use pando_host::Account;
use pando_host::durable::{remove_if_there, sync_parent};

use crate::btrfs::{self, Rights};
use crate::layout::{Layout, MARKER, failed, is_there, make_dir, names};
use crate::tree::{remove_tree, space};
use crate::{DriverKind, ImageConfig, PoolConfig, PoolError, image, reflink};

const DEFAULT_SIZE: u64 = 20 << 30;
const MIB: u64 = 1 << 20;

/// Decides what kind of pool fits, by trying it out, and why, in words for people. Makes nothing but the
/// directory itself.
///
/// `pool` is a directory to use; without it the pool lies in or below `home`. `size` is for an image only.
///
/// # Errors
/// [`PoolError::Tool`] when installing one program would make the better choice possible.
pub fn choose(home: &Path, pool: Option<&Path>, size: Option<u64>) -> Result<(PoolConfig, Vec<String>), PoolError> {
    let mut words = Vec::new();
    let root = pool.map_or_else(|| home.join("pool"), Path::to_owned);
    let trial = if pool.is_some() { root.as_path() } else { home };
    make_dir(trial).map_err(failed("making", trial))?;
    let native = native_driver(trial, &mut words)?;
    let plain = |driver| PoolConfig { driver, root: root.clone(), image: None };
    if let Some(driver) = native {
        if size.is_some() {
            words.push("no image is made, so the size that was asked for means nothing here".to_owned());
        }
        return Ok((plain(driver), words));
    }
    if pool.is_none()
        && let Some(image) = fitting_image(home, size, &mut words)?
    {
        return Ok((PoolConfig { driver: DriverKind::Btrfs, root, image: Some(image) }, words));
    }
    words.push("every snapshot and every clone will be a full copy, in time and in bytes".to_owned());
    Ok((plain(DriverKind::Copy), words))
}

/// The driver that the directory's own file system allows.
fn native_driver(dir: &Path, words: &mut Vec<String>) -> Result<Option<DriverKind>, PoolError> {
    let place = dir.display();
    if btrfs::is_btrfs(dir)? {
        match btrfs::rights_in(dir)? {
            Rights::Full => {
                words.push(format!("{place} is on btrfs: snapshots and clones are subvolumes"));
                return Ok(Some(DriverKind::Btrfs));
            }
            Rights::SlowRemoval => {
                words.push(format!(
                    "{place} is on btrfs: snapshots and clones are subvolumes; they are removed file by file, \
                     because this user may not remove subvolumes (mount option user_subvol_rm_allowed)"
                ));
                return Ok(Some(DriverKind::Btrfs));
            }
            Rights::None => words.push(format!("{place} is on btrfs, but this user may not make subvolumes there")),
        }
    }
    if reflink::works_in(dir)? {
        words.push(format!("{place} shares blocks between files: snapshots and clones cost time per file, not bytes"));
        return Ok(Some(DriverKind::Reflink));
    }
    words.push(format!("the file system of {place} cannot share blocks between files"));
    Ok(None)
}

fn fitting_image(home: &Path, size: Option<u64>, words: &mut Vec<String>) -> Result<Option<ImageConfig>, PoolError> {
    if !Account::is_root() {
        words.push("a btrfs image cannot be mounted, because that takes root".to_owned());
        return Ok(None);
    }
    let size = image_size(home, size)?;
    if let Err(why) = image::probe(home)? {
        words.push(format!("a btrfs image cannot be mounted here: {why}"));
        return Ok(None);
    }
    let file = home.join("pool.img");
    words.push(format!(
        "a btrfs image of at most {} MiB is used, {}; it takes from the disk only what the pool holds. For production \
         give a partition or a disk of its own: an image is markedly slower",
        size / MIB,
        file.display()
    ));
    let mount_options = image::MOUNT_OPTIONS.to_owned();
    Ok(Some(ImageConfig { file, size, direct_io: true, mount_options }))
}

fn image_size(home: &Path, asked: Option<u64>) -> Result<u64, PoolError> {
    let free = space(home)?.free_bytes;
    let size = asked.unwrap_or_else(|| DEFAULT_SIZE.min(free / 5 * 4)) / MIB * MIB;
    if size < image::SMALLEST {
        return Err(PoolError::Unfit {
            path: home.to_owned(),
            why: format!("an image needs {} MiB at least, {} MiB are free there", image::SMALLEST / MIB, free / MIB),
        });
    }
    Ok(size)
}

/// Makes the pool. May be repeated.
///
/// # Crash consistency
/// The marker comes last: what has none is no pool yet, and a repeated call goes on with what is there.
pub fn create(config: &PoolConfig) -> Result<(), PoolError> {
    if let Some(image) = &config.image {
        image::make(image)?;
        image::ensure_mounted(&config.root, image)?;
    }
    Layout::new(&config.root).create()
}

/// Takes an empty pool away: its directories and, where there is one, its image. May be repeated.
///
/// # Errors
/// [`PoolError::Unfit`] when something is still in it.
pub fn discard(config: &PoolConfig) -> Result<(), PoolError> {
    let layout = Layout::new(&config.root);
    match &config.image {
        Some(image) if is_there(&image.file)? => {
            image::ensure_mounted(&config.root, image)?;
            empty_out(&layout)?;
            image::discard(&config.root, image)?;
        }
        Some(_) => {}
        None => empty_out(&layout)?,
    }
    match fs::remove_dir(&config.root) {
        Ok(()) => sync_parent(&config.root).map_err(failed("syncing", &config.root)),
        // A mount point, or a directory that was there before the pool and holds other things.
        Err(error) if is_in_use(&error) => Ok(()),
        Err(error) => Err(failed("removing", &config.root)(error)),
    }
}

fn is_in_use(error: &io::Error) -> bool {
    use io::ErrorKind::{DirectoryNotEmpty, NotFound, PermissionDenied, ResourceBusy};
    matches!(error.kind(), NotFound | DirectoryNotEmpty | ResourceBusy | PermissionDenied)
}

/// Removes the directories, then the marker, so that a call that died is gone on with.
fn empty_out(layout: &Layout) -> Result<(), PoolError> {
    let dirs = [&layout.volumes, &layout.snapshots];
    let mut held = Vec::new();
    for dir in dirs {
        if is_there(dir)? {
            held.extend(names(dir)?.into_iter().map(|name| dir.join(name)));
        }
    }
    let is_rest = |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with(".old-"));
    let (rests, held): (Vec<_>, Vec<_>) = held.into_iter().partition(|path| is_rest(path));
    if let Some(first) = held.first() {
        let why = format!("it still holds {} trees, the first is {}", held.len(), first.display());
        return Err(PoolError::Unfit { path: layout.root.clone(), why });
    }
    for rest in rests {
        remove_tree(&rest, &AtomicBool::new(false)).map_err(failed("removing", &rest))?;
    }
    for dir in dirs {
        match fs::remove_dir(dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", dir)(error)),
            _ => {}
        }
    }
    let marker = layout.root.join(MARKER);
    remove_if_there(&marker).map_err(failed("removing", &marker))?;
    Ok(())
}
