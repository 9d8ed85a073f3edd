//! `rebase`: production has dropped log that the mirror needed, so a new first copy is made. What the
//! timeline had stays; the gap is shown. Started by the heartbeat, never by a user.
//!
//! # Crash consistency
//! The app's state says `rebasing` until the new mirror follows; the heartbeat begins again as long as it
//! does. Older snapshots are trees of their own and are not touched.

use pando_catalog::AppRecord;
use pando_model::{AppId, AppState, HookPoint, Name, OwnerId, Problem, UnitId};
use serde::{Deserialize, Serialize};

use super::{link, snapshot};
use crate::fault::{Done, Fault, failed};
use crate::hooks;
use crate::journal::{Run, Step, Verb, keep};
use crate::owner::Owner;
use crate::units;
use crate::world::World;

/// A mirror being made anew.
#[derive(Serialize, Deserialize)]
pub struct Rebase {
    app: AppId,
    name: Name,
    why: String,
    /// The hooks' unit.
    hook: UnitId,
}

impl Verb for Rebase {
    const WORD: &'static str = "rebase";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "mark", apply: Self::mark, undo: keep },
        Step { name: "stop", apply: Self::stop, undo: keep },
        Step { name: "copy", apply: Self::copy, undo: Self::stop },
        Step { name: "settle", apply: Self::settle, undo: keep },
        Step { name: "post-ingest", apply: Self::ingested, undo: Self::no_hook },
        Step { name: "follow", apply: Self::follow, undo: Self::stop },
        Step { name: "snapshot", apply: Self::snapshot, undo: keep },
        Step { name: "show", apply: Self::show, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 8;

    fn subject(&self) -> Name {
        self.name.clone()
    }

    fn is_told(&self, world: &World, problem: &Problem) -> bool {
        world.anew.is_known(&OwnerId::App(self.app.clone()), &problem.to_string())
    }
}

impl Rebase {
    /// A mirror to be made anew.
    pub fn new(world: &World, app: &AppRecord, why: &str) -> Self {
        Self { app: app.id.clone(), name: app.name.clone(), why: why.to_owned(), hook: hooks::fresh_unit(world) }
    }

    fn owner(&self, run: &Run) -> Done<Owner> {
        Owner::load(&run.world, &OwnerId::App(self.app.clone()))?
            .ok_or_else(|| Fault::Problem(failed(format!("{} is gone", self.name))))
    }

    fn mark(&mut self, run: &Run) -> Done<()> {
        run.world.need_room()?;
        let mut record = self.owner(run)?.app;
        (record.state, record.problem) = (AppState::Rebasing, Some(self.why.clone()));
        Ok(run.world.catalog.note(&record)?)
    }

    fn stop(&mut self, run: &Run) -> Done<()> {
        let Some(owner) = Owner::load(&run.world, &OwnerId::App(self.app.clone()))? else { return Ok(()) };
        units::stop_all(&run.world, &owner)?;
        // Old errors in the servers' logs must not be taken for new ones.
        units::forget_all(&run.world, &owner)?;
        run.world.drop_live(&owner.id);
        Ok(())
    }

    fn copy(&mut self, run: &Run) -> Done<()> {
        let owner = self.owner(run)?;
        // Production may have changed its settings or version since it was linked.
        let mut app = owner.app.clone();
        link::examine(&run.world, &mut app, &owner, "cannot be copied anew")?;
        run.world.catalog.note(&app)?;
        link::copy(run, &self.owner(run)?, &mut app)
    }

    fn settle(&mut self, run: &Run) -> Done<()> {
        link::settle(&self.owner(run)?)
    }

    fn ingested(&mut self, run: &Run) -> Done<()> {
        hooks::run_at(run, &self.hook, HookPoint::PostIngest, &self.owner(run)?)
    }

    fn no_hook(&mut self, run: &Run) -> Done<()> {
        hooks::clear(run, &self.hook)
    }

    fn follow(&mut self, run: &Run) -> Done<()> {
        link::start_following(run, &self.owner(run)?)
    }

    fn snapshot(&mut self, run: &Run) -> Done<()> {
        snapshot::of_owner(run, &self.owner(run)?).map(drop)
    }

    fn show(&mut self, run: &Run) -> Done<()> {
        let mut record = self.owner(run)?.app;
        (record.state, record.problem, record.copied_at) = (AppState::Following, None, Some(run.world.now()));
        run.world.catalog.note(&record)?;
        let text = format!("a new first copy was made: {}; the timeline has a gap", self.why);
        run.world.event("mirror-rebased", Some(&self.name), &text);
        Ok(())
    }
}
