//! The pool's own file system in a sparse file: made, attached to a loop device, mounted, and taken apart.
//!
//! ```text
//! no file --make--> file --attach--> loop device --mount--> pool
//! ```
//!
//! Every step may be repeated; what is there already is used. Once mounted, the loop device is told to
//! vanish with the mount, so that unmounting, by whomever, leaves nothing attached.
//!
//! # Crash consistency
//! The file gets its name only after mkfs has finished; a crash before leaves `NAME.new`, which the next
//! call overwrites. Attaching and mounting leave nothing durable.

use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use pando_host::durable::{remove_if_there, sync_parent};
use pando_host::{Tool, ToolError};
use rustix::mount::{UnmountFlags, unmount};

use crate::layout::{failed, is_there, make_dir};
use crate::{ImageConfig, PoolError};

/// noatime: else every file read costs a metadata write. discard: freed bytes go back to the host.
/// See docs/design/2026-11-21-pool-options.md.
pub(crate) const MOUNT_OPTIONS: &str = "noatime,discard=async";
/// What production's files may do there, they may not do here; of homes made before, too.
const TAMED: &str = "nosuid,nodev";
/// Below this mkfs.btrfs makes something that is full at once.
pub(crate) const SMALLEST: u64 = 256 << 20;
const FINDING_MKFS: &str = "finding mkfs.btrfs";

/// Makes the file with a file system in it, unless it is there.
pub(crate) fn make(image: &ImageConfig) -> Result<(), PoolError> {
    if is_there(&image.file)? {
        return Ok(());
    }
    let mut unseen = image.file.clone().into_os_string();
    unseen.push(".new");
    let unseen = PathBuf::from(unseen);
    let write = || {
        remove_if_there(&unseen)?;
        let file = File::create_new(&unseen)?;
        fs::set_permissions(&unseen, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
        file.set_len(image.size)?;
        Ok::<_, io::Error>(file)
    };
    let file = write().inspect_err(|_| drop(remove_if_there(&unseen))).map_err(failed("making image", &unseen))?;
    mkfs(&unseen)?;
    file.sync_all().map_err(failed("syncing", &unseen))?;
    fs::rename(&unseen, &image.file).map_err(failed("naming", &image.file))?;
    sync_parent(&image.file).map_err(failed("syncing", &image.file))
}

fn mkfs(path: &Path) -> Result<(), PoolError> {
    let mkfs = Tool::find("mkfs.btrfs", "btrfs-progs").map_err(tool(FINDING_MKFS))?;
    // One copy of the metadata: a second one in the same file doubles what each fsync writes and protects
    // from little.
    mkfs.command()
        .args(["--quiet", "--metadata", "single", "--label", "pando", "--"])
        .arg(path)
        .run()
        .map_err(tool("making a btrfs file system"))?;
    Ok(())
}

/// Attaches and mounts the image, unless that is done.
pub(crate) fn ensure_mounted(root: &Path, image: &ImageConfig) -> Result<(), PoolError> {
    if is_mounted(root, image)? {
        return Ok(());
    }
    if !is_there(&image.file)? {
        return Err(unfit(root, format!("its image {} is missing", image.file.display())));
    }
    make_dir(root).map_err(failed("making", root))?;
    let device = attach(image)?;
    let mounted = Tool::find("mount", "mount").and_then(|mount| {
        let options = format!("{TAMED},{}", image.mount_options);
        mount.command().args(["-t", "btrfs", "-o", &options, "--"]).arg(&device).arg(root).run()
    });
    // Mounted: the device goes when the mount goes. Not mounted: it goes now.
    let detached = detach(&device);
    mounted.map_err(tool("mounting the pool's image"))?;
    detached
}

fn attach(image: &ImageConfig) -> Result<PathBuf, PoolError> {
    let losetup = Tool::find("losetup", "mount").map_err(tool("finding losetup"))?;
    let listed = losetup.command().args(["--noheadings", "--raw", "--output", "NAME", "--associated"]);
    let listed = listed.arg(&image.file).run().map_err(tool("looking for the image's loop device"))?;
    if let Some(device) = first_line(&listed.text()) {
        return Ok(device);
    }
    // btrfs writes whole 4 KiB sectors, and direct I/O wants the loop's sectors no smaller than the disk's.
    let attach = |direct| {
        let direct = if direct { "--direct-io=on" } else { "--direct-io=off" };
        losetup.command().args([direct, "--sector-size=4096", "--find", "--show", "--"]).arg(&image.file).run()
    };
    let attached = match attach(image.direct_io) {
        // Some file systems (tmpfs, overlays) have no direct I/O.
        Err(ToolError::Failed { .. }) if image.direct_io => attach(false),
        attached => attached,
    };
    let text = attached.map_err(tool("attaching the pool's image to a loop device"))?.text();
    first_line(&text).ok_or_else(|| unfit(&image.file, "losetup named no device".to_owned()))
}

fn detach(device: &Path) -> Result<(), PoolError> {
    let losetup = Tool::find("losetup", "mount").map_err(tool("finding losetup"))?;
    losetup.command().arg("--detach").arg(device).run().map_err(tool("detaching the pool's loop device"))?;
    Ok(())
}

fn first_line(text: &str) -> Option<PathBuf> {
    text.lines().map(str::trim).find(|line| !line.is_empty()).map(PathBuf::from)
}

/// Unmounts the image and deletes it, as far as there is something to unmount and to delete.
pub(crate) fn discard(root: &Path, image: &ImageConfig) -> Result<(), PoolError> {
    if is_mounted(root, image)? {
        unmount(root, UnmountFlags::NOFOLLOW).map_err(failed("unmounting", root))?;
    }
    if remove_if_there(&image.file).map_err(failed("deleting", &image.file))? {
        sync_parent(&image.file).map_err(failed("syncing", &image.file))?;
    }
    Ok(())
}

/// Whether an image can be attached and mounted here; if not, why.
///
/// # Errors
/// Only what the user can mend at once: a missing mkfs.btrfs.
pub(crate) fn probe(home: &Path) -> Result<Result<(), String>, PoolError> {
    let name = format!(".probe-{}", std::process::id());
    let image = ImageConfig {
        file: home.join(format!("{name}.img")),
        size: 128 << 20,
        direct_io: true,
        mount_options: MOUNT_OPTIONS.to_owned(),
    };
    let root = home.join(name);
    let outcome = probe_with(&root, &image);
    // Whatever is left is small and named for what it is.
    let cleaned = discard(&root, &image);
    match fs::remove_dir(&root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed("removing", &root)(error)),
        _ => cleaned?,
    }
    match outcome {
        Ok(()) => Ok(Ok(())),
        Err(PoolError::Tool { action, source: source @ ToolError::Missing { .. } }) if action == FINDING_MKFS => {
            Err(PoolError::Tool { action, source })
        }
        Err(error) => Ok(Err(in_one_line(&error))),
    }
}

fn probe_with(root: &Path, image: &ImageConfig) -> Result<(), PoolError> {
    // First whether there are loop devices at all: where there are none, nobody needs to install mkfs.
    let file = File::create(&image.file).map_err(failed("making image", &image.file))?;
    file.set_len(image.size).map_err(failed("making image", &image.file))?;
    detach(&attach(image)?)?;
    mkfs(&image.file)?;
    ensure_mounted(root, image)
}

fn in_one_line(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn is_mounted(root: &Path, image: &ImageConfig) -> Result<bool, PoolError> {
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read(table).map_err(failed("reading", table))?;
    // A root that is not there yet is not mounted either.
    let Ok(place) = root.canonicalize() else { return Ok(false) };
    let Some(source) = mounted_at(&text, &place) else { return Ok(false) };
    let backing = source.file_name().map(|name| Path::new("/sys/block").join(name).join("loop/backing_file"));
    let backing = backing.and_then(|path| fs::read(path).ok()).unwrap_or_default();
    let ours = image.file.canonicalize().map_err(failed("finding", &image.file))?;
    if backing.trim_ascii_end() == ours.as_os_str().as_bytes() {
        Ok(true)
    } else {
        Err(unfit(root, format!("{} is mounted there, not the pool's image", source.display())))
    }
}

/// What is mounted at a place, topmost, from the text of `mountinfo`.
fn mounted_at(mountinfo: &[u8], place: &Path) -> Option<PathBuf> {
    let path = |field: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(unescape(field)));
    mountinfo.split(|byte| *byte == b'\n').rev().find_map(|line| {
        let mut fields = line.split(|byte| *byte == b' ');
        if unescape(fields.nth(4)?) != place.as_os_str().as_bytes() {
            return None;
        }
        // Optional fields end with a dash; then the type and the source.
        fields.find(|field| *field == b"-")?;
        fields.nth(1).map(path)
    })
}

/// The kernel writes blanks and backslashes as three octal digits.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, tail)) = rest.split_first() {
        let octal = tail.get(..3).filter(|_| *first == b'\\').and_then(|digits| std::str::from_utf8(digits).ok());
        if let Some(byte) = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            bytes.push(byte);
            rest = tail.get(3..).unwrap_or_default();
        } else {
            bytes.push(*first);
            rest = tail;
        }
    }
    bytes
}

fn tool(action: &'static str) -> impl FnOnce(ToolError) -> PoolError {
    move |source| PoolError::Tool { action, source }
}

fn unfit(path: &Path, why: String) -> PoolError {
    PoolError::Unfit { path: path.to_owned(), why }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_topmost_mount_is_found_and_its_place_unescaped() {
        let text = b"22 1 8:1 / / rw - ext4 /dev/vda rw\n\
            40 22 0:40 / /a\\040b rw,noatime shared:7 - btrfs /dev/loop3 rw\n\
            41 22 0:41 / /a\\040b rw - btrfs /dev/loop4 rw\n";
        assert_eq!(mounted_at(text, Path::new("/a b")), Some(PathBuf::from("/dev/loop4")));
        assert_eq!(mounted_at(text, Path::new("/")), Some(PathBuf::from("/dev/vda")));
        assert_eq!(mounted_at(text, Path::new("/a")), None);
    }
}
