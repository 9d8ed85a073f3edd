//! Who holds which bytes alone, counted behind the callers' backs: counting grows with the data, and a
//! listing must not. [`Accountant::exclusive`] answers at once with the last count; the count is renewed
//! by a thread that takes at most a tenth of one processor.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use pando_host::{Clock, SystemClock};
use pando_model::{PoolSnapshotId, VolumeId};

use crate::{PoolError, Usage};

/// Exclusive bytes of everything in a pool.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Exclusive {
    pub volumes: BTreeMap<VolumeId, u64>,
    pub snapshots: BTreeMap<PoolSnapshotId, u64>,
}

/// Counts everything once. Gives up early when the flag is set; what it returns then is not used.
pub(crate) type Count = dyn Fn(&AtomicBool) -> Result<Exclusive, PoolError> + Send + Sync;

/// How long a caller waits for a count that has just begun: small pools answer freshly.
const PATIENCE: Duration = Duration::from_millis(40);
/// A count is not renewed before so many times its own cost have passed.
const REST: u32 = 10;

#[derive(Default)]
struct State {
    last: Exclusive,
    begun: Option<Instant>,
    cost: Duration,
    running: bool,
}

/// Keeps the last count and renews it.
pub(crate) struct Accountant {
    count: Arc<Count>,
    state: Arc<(Mutex<State>, Condvar)>,
    stop: Arc<AtomicBool>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Accountant {
    pub fn new(count: impl Fn(&AtomicBool) -> Result<Exclusive, PoolError> + Send + Sync + 'static) -> Self {
        Self {
            count: Arc::new(count),
            state: Arc::default(),
            stop: Arc::new(AtomicBool::new(false)),
            thread: Mutex::new(None),
        }
    }

    /// The last count; renews it if it has rested long enough.
    pub fn exclusive(&self) -> Exclusive {
        let (lock, ready) = &*self.state;
        let mut state = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let now = SystemClock.instant();
        let due = state.begun.is_none_or(|begun| now.duration_since(begun) >= state.cost * REST);
        if due && !state.running {
            state.begun = Some(now);
            state.running = self.spawn();
        }
        if state.running {
            let waited = ready.wait_timeout_while(state, PATIENCE, |state| state.running);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
        state.last.clone()
    }

    /// Fills in a usage, leaving out what is no longer there.
    pub fn fill(&self, usage: &mut Usage, inventory: &crate::Inventory) {
        let exclusive = self.exclusive();
        let keep = |id: &VolumeId| Some((id.clone(), *exclusive.volumes.get(id)?));
        usage.volumes = inventory.volumes.iter().filter_map(keep).collect();
        let keep = |id: &PoolSnapshotId| Some((id.clone(), *exclusive.snapshots.get(id)?));
        usage.snapshots = inventory.snapshots.iter().filter_map(keep).collect();
    }

    /// Starts a count; whether that was possible. The thread waits for the state that the caller holds.
    fn spawn(&self) -> bool {
        let (count, state, stop) = (Arc::clone(&self.count), Arc::clone(&self.state), Arc::clone(&self.stop));
        let work = move || {
            let begun = SystemClock.instant();
            let counted = count(&stop);
            let (lock, ready) = &*state;
            let mut state = lock.lock().unwrap_or_else(PoisonError::into_inner);
            match counted {
                Ok(counted) if !stop.load(Ordering::Relaxed) => state.last = counted,
                Ok(_) => {}
                // Something was removed while it was counted; the next count will do.
                Err(error) => tracing::debug!(%error, "exclusive bytes were not counted"),
            }
            state.cost = SystemClock.instant().duration_since(begun);
            state.running = false;
            ready.notify_all();
        };
        let spawned = std::thread::Builder::new().name("pool-accountant".to_owned()).spawn(work);
        // The thread before has ended: only one runs at a time.
        let started = spawned.is_ok();
        *self.thread.lock().unwrap_or_else(PoisonError::into_inner) = spawned.ok();
        started
    }
}

impl Drop for Accountant {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take() {
            let _ = thread.join();
        }
    }
}
