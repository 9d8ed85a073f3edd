//! What a daemon does first: whatever the one before it had under way comes to its end, forward or back, and what is there is
//! compared with what is meant.
//!
//! Undoing may have to stop containers of the user's. Their engine looks at volumes before it does anything with a
//! container, and waits long for a driver that does not answer: so the volume plugin is served before this begins, and shows
//! what there is. What is more than a look (a mount, a new volume, a removal) waits until this has ended.

use std::sync::Arc;

use pando_catalog::{CatalogError, CloneRecord, OperationRecord};
use pando_host::durable::write_atomic;
use pando_model::{CloneState, OperationState, Problem, Profile};

use crate::facade::Pando;
use crate::fault::{IntoProblem, io};
use crate::strangers::strangers;
use crate::units;
use crate::verbs::recover_any;
use crate::world::World;

impl Pando {
    /// Recovers unfinished operations and adopts running units, once, before any other call but those that look at volumes.
    ///
    /// # Errors
    /// When the catalog cannot be read, or the boot of the machine cannot be noted.
    pub fn recover(&self) -> Result<(), Problem> {
        crate::doors::at_start(&self.world)?;
        recover_all(&self.world);
        for stranger in strangers(&self.world) {
            self.world.event("stranger", None, &stranger);
        }
        self.after_reboot()?;
        self.world.volumes.release();
        self.world.ring();
        Ok(())
    }

    /// After a restart of the machine a disposable clone may be damaged: it had no syncs. So may be what it was before a
    /// refresh: that is not to be had back any more.
    fn after_reboot(&self) -> Result<(), Problem> {
        let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let file = self.world.home.boot_file();
        let before = std::fs::read_to_string(&file).unwrap_or_default();
        if before == boot {
            return Ok(());
        }
        if !before.is_empty() {
            for record in self.world.catalog.all::<CloneRecord>().map_err(IntoProblem::into_problem)? {
                if record.profile == Profile::Disposable {
                    self.doubt(record).map_err(IntoProblem::into_problem)?;
                }
            }
        }
        write_atomic(&file, boot.as_bytes(), 0o600).map_err(|error| io("noting the boot", error))
    }

    /// Says of a disposable clone what the restart of the machine has made of it.
    fn doubt(&self, mut record: CloneRecord) -> Result<(), CatalogError> {
        const WHY: &str = "the machine was restarted, and a disposable clone does not survive that; refresh it";
        let world = &self.world;
        let written = record.state == CloneState::Running
            || (record.elsewhere && record.sources.values().any(|source| units::has_server(source.engine)));
        // Its time is over: the heartbeat takes it away.
        let forgotten = record
            .former
            .as_mut()
            .is_some_and(|former| std::mem::replace(&mut former.until, world.now()) > world.now());
        if written {
            (record.state, record.problem) = (CloneState::Failed, Some(WHY.to_owned()));
        }
        if written || forgotten {
            world.catalog.put(&record)?;
        }
        if written {
            world.event("clone-failed", Some(&record.name), &format!("{} has failed: {WHY}", record.name));
        }
        if forgotten {
            let text =
                format!("what {} was before its last refresh does not survive a restart of the machine", record.name);
            world.event("undo-forgotten", Some(&record.name), &text);
        }
        Ok(())
    }
}

/// Finishes or undoes all operations that were under way, inner operations before those that began them.
pub fn recover_all(world: &Arc<World>) {
    let mut open = Vec::new();
    for state in [OperationState::Running, OperationState::Undoing, OperationState::Stuck] {
        match world.catalog.of::<OperationRecord>(state.as_str()) {
            Ok(records) => open.extend(records),
            Err(error) => tracing::error!(%error, "unfinished operations cannot be read"),
        }
    }
    open.sort_by(|one, two| two.id.cmp(&one.id));
    for record in open {
        let words = format!("{} {} ({})", record.word(), record.subject, record.id);
        tracing::info!("recovering {words}");
        if let Err(fault) = recover_any(world, record) {
            tracing::error!(?fault, "{words} could not be recovered");
        }
    }
}
