//! Removes trees in the background: what is to go gets a name that stands for nothing (fast), and one
//! thread per pool deletes it behind.
//!
//! # Crash consistency
//! The rename is made durable by the caller before it answers. What a crash leaves is a `.old-…` tree,
//! which the next opening of the pool hands to [`Reaper::reap`] again.

use std::collections::BTreeSet;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use rustix::fs::{self as rfs, AtFlags, CWD, Mode, OFlags};
use rustix::io::Errno;

use super::walk::read_names;
use crate::PoolError;
use crate::layout::{Layout, failed, names};

const PREFIX: &str = ".old-";

/// The thread that deletes, and the names it still has to do.
#[derive(Debug)]
pub(crate) struct Reaper {
    queue: Option<Sender<PathBuf>>,
    thread: Option<JoinHandle<()>>,
    pending: Arc<Mutex<BTreeSet<OsString>>>,
    stop: Arc<AtomicBool>,
}

impl Reaper {
    /// Starts the thread and hands it what a crash left.
    pub fn start(layout: &Layout) -> Result<Self, PoolError> {
        let (queue, work) = channel::<PathBuf>();
        let (pending, stop) = (Arc::new(Mutex::new(BTreeSet::new())), Arc::new(AtomicBool::new(false)));
        let (done, halt) = (Arc::clone(&pending), Arc::clone(&stop));
        let thread = std::thread::Builder::new()
            .name("pool-reaper".to_owned())
            .spawn(move || {
                for path in work {
                    if let Err(error) = remove_tree(&path, &halt) {
                        tracing::warn!(path = %path.display(), %error, "a removed tree could not be deleted yet");
                    }
                    let name = path.file_name().unwrap_or_default();
                    done.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
                }
            })
            .map_err(failed("starting the deleting thread of", &layout.root))?;
        let reaper = Self { queue: Some(queue), thread: Some(thread), pending, stop };
        for dir in [&layout.volumes, &layout.snapshots] {
            for name in names(dir)?.iter().filter(|name| name.as_bytes().starts_with(PREFIX.as_bytes())) {
                reaper.reap(dir.join(name));
            }
        }
        Ok(reaper)
    }

    /// Takes the id from a tree and has it deleted. Answers whether it was there.
    pub fn retire(&self, path: &Path) -> Result<bool, PoolError> {
        let id = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        for turn in 0_u32.. {
            let old = path.with_file_name(format!("{PREFIX}{id}-{turn}"));
            // A name that is pending is not used again: it would cease to be when the first of it is done.
            if !self.set_pending(&old) {
                continue;
            }
            let renamed = rfs::renameat_with(CWD, path, CWD, &old, rfs::RenameFlags::NOREPLACE);
            if renamed.is_err() {
                self.pending.lock().unwrap_or_else(PoisonError::into_inner).remove(old.file_name().unwrap_or_default());
            }
            match renamed {
                Ok(()) => {
                    self.reap(old);
                    return Ok(true);
                }
                // One of that name could not be deleted.
                Err(Errno::EXIST) => {}
                Err(Errno::NOENT) => return Ok(false),
                Err(errno) => return Err(failed("removing", path)(errno)),
            }
        }
        Ok(false)
    }

    /// Answers whether it was not pending before.
    fn set_pending(&self, path: &Path) -> bool {
        let name = path.file_name().unwrap_or_default().to_owned();
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).insert(name)
    }

    fn reap(&self, path: PathBuf) {
        self.set_pending(&path);
        if let Some(queue) = &self.queue {
            // The thread ends only after this sender is gone.
            let _ = queue.send(path);
        }
    }

    /// Whether the name is one that is still being deleted.
    pub fn is_pending(&self, name: &OsStr) -> bool {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).contains(name)
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.queue = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Removes a tree or a file; that it is not there is no error. Stops early, without error, when told to.
pub(crate) fn remove_tree(path: &Path, stop: &AtomicBool) -> io::Result<()> {
    let name = CString::new(path.as_os_str().as_bytes())?;
    remove(CWD, &name, stop)
}

fn remove(dir: impl AsFd, name: &CStr, stop: &AtomicBool) -> io::Result<()> {
    if stop.load(Ordering::Relaxed) {
        return Ok(());
    }
    match rfs::unlinkat(&dir, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => return Ok(()),
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(errno) => return Err(errno.into()),
    }
    let inner = open_to_empty(&dir, name)?;
    for name in read_names(&inner)? {
        remove(&inner, &name, stop)?;
    }
    match rfs::unlinkat(&dir, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(_) if stop.load(Ordering::Relaxed) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

/// A user without rights over everything must first allow itself to empty its own closed directories.
fn open_to_empty(dir: impl AsFd, name: &CStr) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let open = || rfs::openat(&dir, name, flags, Mode::empty());
    match open() {
        Ok(opened) => {
            let mode = rfs::fstat(&opened)?.st_mode;
            if !Mode::from_raw_mode(mode).contains(Mode::RWXU) {
                let _ = rfs::fchmod(&opened, Mode::RWXU);
            }
            Ok(opened)
        }
        Err(Errno::ACCESS) => {
            rfs::chmodat(&dir, name, Mode::RWXU, AtFlags::empty())?;
            Ok(open()?)
        }
        Err(errno) => Err(errno.into()),
    }
}
