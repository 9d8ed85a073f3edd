//! Room again, soon. What a removed subvolume held is freed by the kernel's cleaner, which is woken twice a
//! minute, and can be used after the commit that follows. Where the pool is nearly full somebody waits for that
//! room: a thread then wakes the cleaner and commits, until free space no longer grows.
//!
//! It writes back whatever is in memory, so it is not done where there is room enough.

use std::fs::File;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use pando_host::{Clock, SystemClock};

use crate::{Room, ioctl, tree};

const PAUSE: Duration = Duration::from_millis(100);
/// So many rounds without more room, and nothing more is to come.
const STILL: u32 = 15;
const ROUNDS: u32 = 300;

/// The thread, while there is one.
#[derive(Debug)]
pub(super) struct Cleaner {
    root: PathBuf,
    wanted: Arc<AtomicBool>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Cleaner {
    pub fn new(root: &Path) -> Self {
        Self { root: root.to_owned(), wanted: Arc::default(), stop: Arc::default(), thread: Mutex::new(None) }
    }

    /// Something was removed: where room is short, sees to it that it is freed now.
    pub fn removed(&self) {
        if !tree::space(&self.root).is_ok_and(is_short) {
            return;
        }
        self.wanted.store(true, Ordering::SeqCst);
        let mut thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner);
        if thread.as_ref().is_some_and(|thread| !thread.is_finished()) {
            return;
        }
        let (root, wanted, stop) = (self.root.clone(), Arc::clone(&self.wanted), Arc::clone(&self.stop));
        match std::thread::Builder::new().name("pool-cleaner".to_owned()).spawn(move || clean(&root, &wanted, &stop)) {
            Ok(spawned) => *thread = Some(spawned),
            Err(error) => tracing::warn!(%error, "room is given back later: no thread to see to it"),
        }
    }
}

impl Drop for Cleaner {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        let thread = self.thread.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::warn!("the thread that frees room panicked");
        }
    }
}

/// Well above where anything is refused for want of room.
const fn is_short(room: Room) -> bool {
    const GIB: u64 = 1 << 30;
    let eighth = room.total_bytes / 8;
    room.free_bytes < if eighth < 12 * GIB { eighth } else { 12 * GIB }
}

fn clean(root: &Path, wanted: &AtomicBool, stop: &AtomicBool) {
    let (mut still, mut best) = (0, 0);
    for _ in 0..ROUNDS {
        if stop.load(Ordering::SeqCst) {
            return;
        }
        if wanted.swap(false, Ordering::SeqCst) {
            still = 0;
        }
        let woken = File::open(root).and_then(|dir| ioctl::sync_and_clean(dir.as_fd()));
        if let Err(error) = woken {
            return tracing::warn!(%error, "room is given back later: btrfs' cleaner could not be woken");
        }
        let free = tree::space(root).map_or(0, |room| room.free_bytes);
        still = if free > best { 0 } else { still + 1 };
        best = best.max(free);
        if still >= STILL {
            return;
        }
        SystemClock.sleep(PAUSE);
    }
}
