//! `unlink`: an app goes, with its mirror, timeline and log; what Pando left on production is taken away.
//!
//! # Crash consistency
//! Once the record says `removing`, the rest is always done. Production may be unreachable for ever: its
//! slot is bounded, so it is safe to go without having dropped it; an event says so.

use pando_catalog::{AppRecord, CloneRecord};
use pando_model::{AppState, Name, OwnerId, PoolSnapshotId, UnitId};
use serde::{Deserialize, Serialize};

use super::{provision, remove};
use crate::fault::{Done, IntoProblem, not_found, refused};
use crate::journal::{Run, Step, Verb, keep};
use crate::owner::Owner;
use crate::units;
use crate::world::World;

/// An app going away.
#[derive(Serialize, Deserialize)]
pub struct Unlink {
    app: Name,
    owner: OwnerId,
    was: AppState,
    trees: Vec<PoolSnapshotId>,
    seats: Vec<UnitId>,
}

impl Verb for Unlink {
    const WORD: &'static str = "unlink";
    const STEPS: &'static [Step<Self>] = &[
        Step { name: "mark", apply: Self::mark, undo: Self::unmark },
        Step { name: "stop", apply: Self::stop, undo: keep },
        Step { name: "detach", apply: Self::detach, undo: keep },
        Step { name: "destroy", apply: Self::destroy, undo: keep },
        Step { name: "forget", apply: Self::forget, undo: keep },
    ];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.app.clone()
    }
}

impl Unlink {
    /// An app to be removed. Refused while it has clones, and while something is made of it.
    pub fn new(world: &World, app: Name) -> Done<Self> {
        let owner = Owner::named(world, &app)?;
        if owner.clone.is_some() {
            return Err(not_found(format!("{app} is a clone, not an app")).hint(format!("pando rm {app}")).into());
        }
        refuse_with_clones(world, &owner)?;
        remove::refuse_while_needed(world, &app)?;
        Ok(Self {
            app,
            owner: owner.id.clone(),
            was: owner.app.state,
            trees: remove::trees(world, &owner.id)?,
            seats: owner.app.sources.values().map(|source| source.seat.clone()).collect(),
        })
    }

    fn record(&self, run: &Run) -> Done<Option<AppRecord>> {
        Ok(run.world.catalog.get(self.owner.as_str())?)
    }

    fn mark(&mut self, run: &Run) -> Done<()> {
        if let Some(mut record) = self.record(run)? {
            record.state = AppState::Removing;
            run.world.catalog.note(&record)?;
            // Whoever reserved a clone before this is seen here; whoever comes later sees `removing`.
            let owner = Owner::of_app(&run.world, record)?;
            refuse_with_clones(&run.world, &owner)?;
            remove::refuse_while_needed(&run.world, &self.app)?;
            self.trees = remove::trees(&run.world, &self.owner)?;
        }
        Ok(())
    }

    fn unmark(&mut self, run: &Run) -> Done<()> {
        if let Some(mut record) = self.record(run)?
            && record.state == AppState::Removing
        {
            record.state = self.was;
            run.world.catalog.note(&record)?;
        }
        Ok(())
    }

    fn stop(&mut self, run: &Run) -> Done<()> {
        if let Some(record) = self.record(run)? {
            let owner = Owner::of_app(&run.world, record)?;
            units::stop_all(&run.world, &owner)?;
            units::forget_all(&run.world, &owner)?;
        }
        Ok(())
    }

    fn detach(&mut self, run: &Run) -> Done<()> {
        if let Some(record) = self.record(run)? {
            let owner = Owner::of_app(&run.world, record)?;
            for (name, held) in &owner.sources {
                if let Err(error) = held.engine.detach(&held.source) {
                    let text = format!(
                        "production of {name} could not be reached to take away the slot {}: {}",
                        held.source.tag,
                        error.into_problem()
                    );
                    run.world.event("slot-left-behind", Some(&self.app), &text);
                }
            }
        }
        Ok(())
    }

    fn destroy(&mut self, run: &Run) -> Done<()> {
        if let Some(record) = self.record(run)? {
            provision::destroy(run, [&record.volume])?;
        }
        run.pass("unlink.destroy.volume")?;
        let pool = run.world.pool()?;
        for tree in &self.trees {
            pool.destroy_snapshot(tree)?;
        }
        remove::clear_files(run, &self.owner, &self.seats)
    }

    fn forget(&mut self, run: &Run) -> Done<()> {
        run.world.drop_live(&self.owner);
        run.world.anew.forget(&self.owner);
        remove::forget_timeline::<AppRecord>(run, &self.owner)
    }
}

fn refuse_with_clones(world: &World, owner: &Owner) -> Done<()> {
    let clones: Vec<String> = world
        .catalog
        .of::<CloneRecord>(owner.app.id.as_str())?
        .into_iter()
        .map(|clone| clone.name.to_string())
        .collect();
    if clones.is_empty() {
        return Ok(());
    }
    Err(refused(format!("{} has clones: {}", owner.name, clones.join(", ")))
        .hint(format!("remove them first: pando rm {}", clones.join(" ")))
        .into())
}
