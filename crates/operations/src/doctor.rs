//! `doctor`: what is there, what is missing, and the command that mends it.

use pando_catalog::{AppRecord, OperationRecord};
use pando_host::{Account, confine};
use pando_model::{AppState, DoctorItem, DoctorView, OperationState, OwnerId, Problem};
use pando_pool::PoolConfig;

use crate::apart;
use crate::containers;
use crate::facade::Pando;
use crate::fault::IntoProblem;
use crate::remedy;
use crate::strangers::strangers;
use crate::world::{World, thresholds};

/// One finding.
pub fn item(what: &str, level: &str, found: impl Into<String>, fix: Option<String>) -> DoctorItem {
    DoctorItem { what: what.to_owned(), level: level.to_owned(), found: found.into(), fix }
}

/// Whether archives with databases can be imported.
fn confinement(there: bool) -> DoctorItem {
    if there {
        return item("archives", "ok", "servers of imported clones are confined to what is theirs", None);
    }
    let found = "databases from elsewhere cannot be imported: this kernel does not confine their servers";
    item("archives", "warning", found, Some(format!("that takes {}", confine::NEEDS)))
}

/// A mirror that does not follow, and why.
fn mirror(world: &World, app: AppRecord) -> Option<DoctorItem> {
    let name = app.name;
    let why = world.anew.told(&OwnerId::App(app.id), app.problem)?;
    match app.state {
        AppState::Failed => {
            let fix = format!(
                "`pando logs {name}` shows why; it goes on when it can, and is made anew after five minutes, at most once a day"
            );
            Some(item("mirrors", "problem", format!("the mirror of {name} has failed: {why}"), Some(fix)))
        }
        AppState::Disconnected | AppState::Rebasing => {
            let (found, fix) = (format!("the mirror of {name} is {}: {why}", app.state), remedy::of(&name, Some(&why)));
            // It waits for the user, or goes on by itself.
            Some(item("mirrors", if fix.is_some() { "problem" } else { "warning" }, found, fix))
        }
        _ => None,
    }
}

impl Pando {
    /// What is there, what is missing, and what mends it.
    ///
    /// # Errors
    /// When the catalog cannot be read.
    pub fn doctor(&self) -> Result<DoctorView, Problem> {
        let world = &self.world;
        let mut items = vec![item("home", "ok", world.home.root().display().to_string(), None)];
        match world.home.reachable(world.account.as_ref()) {
            Ok(()) => items.push(apart::doctor(world)),
            Err(problem) => items.push(item("account", "problem", problem.message, problem.hint)),
        }
        items.push(confinement(world.runtime.confines()));
        items.extend(self.look_at_pool());
        for engine in world.engines.values() {
            items.extend(engine.doctor());
        }
        items.push(containers::doctor(world).map_err(crate::fault::Fault::into_problem)?);
        for app in world.catalog.all::<AppRecord>().map_err(IntoProblem::into_problem)? {
            items.extend(mirror(world, app));
        }
        for stranger in strangers(world) {
            items.push(item("strangers", "warning", stranger, None));
        }
        let stuck =
            world.catalog.of::<OperationRecord>(OperationState::Stuck.as_str()).map_err(IntoProblem::into_problem)?;
        for record in stuck {
            let why = record.error.map(|problem| problem.to_string()).unwrap_or_default();
            let found = format!("{} {} is stuck: {why}", record.verb, record.subject);
            items.push(item(
                "operations",
                "problem",
                found,
                Some("mend the cause: it is tried again by itself, twice a minute".to_owned()),
            ));
        }
        Ok(DoctorView { healthy: items.iter().all(|one| one.level != "problem"), items })
    }

    fn look_at_pool(&self) -> Vec<DoctorItem> {
        let Ok(pool) = self.world.pool() else {
            return vec![item("pool", "warning", "there is none yet", Some("pando init".to_owned()))];
        };
        let capabilities = pool.capabilities();
        let mut items = vec![item("pool", "ok", format!("{} at {}", capabilities.driver, pool.root().display()), None)];
        if !capabilities.shares_blocks {
            let fix = "pando init --pool PATH, with PATH on btrfs or XFS with reflink".to_owned();
            items.push(item("pool", "warning", "every clone and snapshot is a full copy", Some(fix)));
        }
        if matches!(self.pool_config(), Ok(Some(PoolConfig { image: Some(_), .. }))) {
            let fix = "mkfs.btrfs /dev/DISK, mount it, pando init --pool PATH".to_owned();
            items.push(item(
                "pool",
                "warning",
                "the pool is an image file: good for a trial; a partition of its own is much faster",
                Some(fix),
            ));
        }
        items.extend((Account::is_root() && pando_pool::minds_set_uid(pool.root())).then(|| {
            let found = "the pool's file system is mounted without nosuid: set-uid programs of production are such in clones, too";
            let fix = "mount -o remount,nosuid,nodev PATH, and the same in /etc/fstab";
            item("pool", "warning", found, Some(fix.to_owned()))
        }));
        match pool.room() {
            Ok(usage) => {
                let (low, full) = thresholds(usage.total_bytes);
                let level = if usage.free_bytes < full {
                    "problem"
                } else if usage.free_bytes < low {
                    "warning"
                } else {
                    "ok"
                };
                let found = format!("{} MB of {} MB free", usage.free_bytes >> 20, usage.total_bytes >> 20);
                let fix = (level != "ok").then(|| "pando du; pando rm …".to_owned());
                items.push(item("room", level, found, fix));
            }
            Err(error) => items.push(item("room", "problem", error.into_problem().to_string(), None)),
        }
        items
    }
}
