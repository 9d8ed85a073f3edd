//! Trees made anew before they leave this machine, of engines in whose files stays what was cut off, or what was masked: by
//! programs of theirs, beside a server of the former tree, then of the new one. And those that their own server can
//! clean of what was masked.
//!
//! # Crash consistency
//! All that is made lies in the volume of the operation's work, which its undo destroys.

use pando_image::oci::tree_bytes;
use pando_model::Name;

use crate::fault::{Done, refused};
use crate::journal::Run;
use crate::owner::{Held, Owner};
use crate::units;
use crate::world::thresholds;

/// Makes those of prepared, stopped trees anew that have to be.
pub fn renew(run: &Run, owner: &Owner, masked: bool) -> Done<()> {
    let renews = |held: &Held| if masked { held.engine.renews_masked() } else { held.engine.renews() };
    for (name, held) in owner.sources.iter().filter(|(_, held)| renews(held)) {
        room(run, name, held, 2)?;
        let what = format!("making {name} anew");
        for done in 0.. {
            run.progress(&what, 0, None);
            let Some(next) = held.engine.renew(&held.seat, &held.source, done)? else { break };
            units::run_beside(run, held, &what, next)?;
            run.pass("renew.program")?;
        }
    }
    Ok(())
}

/// Takes out of served, masked trees what was changed in them.
pub fn scrub(run: &Run, owner: &Owner) -> Done<()> {
    for (name, held) in owner.sources.iter().filter(|(_, held)| units::has_server(held.kind)) {
        if held.engine.renews_masked() {
            continue;
        }
        room(run, name, held, 1)?;
        run.progress(&format!("taking what was masked out of the files of {name}"), 0, None);
        held.engine.scrub(&held.seat, &held.source)?;
        run.pass("renew.scrubbed")?;
    }
    Ok(())
}

/// The rest of it, when their servers were stopped.
pub fn scrub_stopped(owner: &Owner) -> Done<()> {
    let mut servers = owner.sources.values().filter(|held| units::has_server(held.kind));
    servers.try_for_each(|held| Ok(held.engine.scrub_stopped(&held.seat, &held.source)?))
}

/// Refuses what would fill the pool: for a while the data is there once more, or twice, as statements and as the new tree.
fn room(run: &Run, name: &Name, held: &Held, times: u64) -> Done<()> {
    let bytes = times * tree_bytes(&held.seat.data)?;
    let room = run.world.pool()?.room()?;
    let free = room.free_bytes.saturating_sub(thresholds(room.total_bytes).0);
    if bytes <= free {
        return Ok(());
    }
    let text =
        format!("{name} is made anew, which takes up to {} MB, and the pool has {} MB free", bytes >> 20, free >> 20);
    Err(refused(text).hint("give the pool more room, or remove clones: pando rm NAME").into())
}
