//! Trees made anew before they leave this machine, of engines in whose files stays what was cut off: by programs of
//! theirs, beside a server of the former tree, then of the new one.
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
pub fn renew(run: &Run, owner: &Owner) -> Done<()> {
    for (name, held) in owner.sources.iter().filter(|(_, held)| held.engine.renews()) {
        room(run, name, held)?;
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

/// Refuses what would fill the pool: for a while the data is there twice more, as statements and as the new tree.
fn room(run: &Run, name: &Name, held: &Held) -> Done<()> {
    let bytes = 2 * tree_bytes(&held.seat.data)?;
    let room = run.world.pool()?.room()?;
    let free = room.free_bytes.saturating_sub(thresholds(room.total_bytes).0);
    if bytes <= free {
        return Ok(());
    }
    let text =
        format!("{name} is made anew, which takes up to {} MB, and the pool has {} MB free", bytes >> 20, free >> 20);
    Err(refused(text).hint("give the pool more room, or remove clones: pando rm NAME").into())
}
