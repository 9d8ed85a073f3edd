//! First copies that are made anew, once what a mirror needs is gone from production. While one cannot be made it is tried
//! again after longer and longer pauses, and the same reason is told once.
//!
//! The pauses live in memory only: a daemon that starts tries at once, and so does one that is told of a change of the app.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use pando_model::OwnerId;

use crate::fault::{Done, Fault};
use crate::follow::units_of;
use crate::journal::run_now;
use crate::owner::Owner;
use crate::verbs::rebase::Rebase;
use crate::world::World;

/// The first pause; each is twice as long as the one before, up to 32 times this.
const PAUSE: SignedDuration = SignedDuration::from_secs(5);

/// So many reasons are remembered of one app.
const REASONS: usize = 20;

/// A copy that could not be made.
#[derive(Clone)]
struct Failing {
    /// Why it failed, each reason once.
    reasons: Vec<String>,
    last: String,
    tries: u32,
    next: Timestamp,
}

/// The copies that could not be made, by the app.
#[derive(Default)]
pub struct Anew(Mutex<HashMap<OwnerId, Failing>>);

impl Anew {
    fn lock(&self) -> MutexGuard<'_, HashMap<OwnerId, Failing>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The app was changed, or is gone: what kept it from being copied may not do so any more.
    pub fn forget(&self, app: &OwnerId) {
        self.lock().remove(app);
    }

    /// Whether it has failed for this reason before.
    pub fn is_known(&self, app: &OwnerId, why: &str) -> bool {
        self.lock().get(app).is_some_and(|failing| failing.reasons.iter().any(|known| known == why))
    }

    /// Whether it is too early to try again.
    fn rests(&self, app: &OwnerId, now: Timestamp) -> bool {
        self.lock().get(app).is_some_and(|failing| now < failing.next)
    }

    fn failed(&self, app: &OwnerId, now: Timestamp, why: String) {
        let mut all = self.lock();
        let (mut reasons, tries) = all.remove(app).map_or_else(Default::default, |last| (last.reasons, last.tries));
        if !reasons.contains(&why) {
            reasons.push(why.clone());
            reasons.drain(..reasons.len().saturating_sub(REASONS));
        }
        let next = now.saturating_add(PAUSE * (1 << tries.min(5))).unwrap_or(now);
        all.insert(app.clone(), Failing { reasons, last: why, tries: tries + 1, next });
    }

    /// An app's trouble, and when the copy that ends it is tried again.
    pub fn told(&self, app: &OwnerId, trouble: Option<String>) -> Option<String> {
        let Some(failing) = self.lock().get(app).cloned() else { return trouble };
        let why = trouble.map(|why| format!("{why}; ")).unwrap_or_default();
        let next = failing.next.strftime("%Y-%m-%dT%H:%M:%SZ");
        Some(format!("{why}a new first copy could not be made: {}; it is tried again at {next}", failing.last))
    }
}

/// Makes the new first copy, if it is time and nobody else is busy with the app.
pub fn rebase(world: &Arc<World>, owner: &Owner) -> Done<()> {
    let names = [owner.name.to_string(), units_of(&owner.name)];
    if world.anew.rests(&owner.id, world.now()) {
        return Ok(());
    }
    let Some(_claim) = world.try_claim(&names, "rebase") else { return Ok(()) };
    let why = owner.app.problem.clone().unwrap_or_else(|| "an interrupted first copy".to_owned());
    match run_now(world, Rebase::new(world, &owner.app, &why)) {
        Ok(_) => world.anew.forget(&owner.id),
        Err(Fault::Crash) => return Err(Fault::Crash),
        // What the daemon's own end cut off is begun again by the next one.
        Err(Fault::Problem(_)) if world.is_stopping() => {}
        Err(Fault::Problem(problem)) => {
            let why = problem.to_string();
            if !world.anew.is_known(&owner.id, &why) {
                tracing::warn!(app = owner.name.as_str(), %problem, "a new first copy could not be made");
            }
            world.anew.failed(&owner.id, world.now(), why);
        }
    }
    Ok(())
}
