//! What Pando does. [`Pando`] is the one door for the daemon: requests go in, views come out.
//!
//! | file | what it answers for |
//! |---|---|
//! | `facade.rs` | the door: submit, wait, look |
//! | `doctor.rs` | what is missing |
//! | `world.rs`, `home.rs` | what every verb needs: catalog, pool, engines, runtime, clock, paths |
//! | `journal.rs` | operations: steps, undo, recovery |
//! | `hooks/` | what users do to clones at points of operations |
//! | `images.rs` | images with data in them: their store, what is kept, what is shown |
//! | `moments.rs` | from `NAME@MOMENT` to trees and points |
//! | `recovery.rs` | what a daemon does first |
//! | `strangers.rs` | what there is and nobody knows of |
//! | `transfer.rs` | the streams of `export` and `import` |
//! | `units.rs` | servers of mirrors and clones |
//! | `containers.rs` | clones whose servers run in containers |
//! | `follow.rs` | the heartbeat: mirrors, schedules, leases |
//! | `anew.rs` | first copies that are made anew |
//! | `dying.rs` | servers that die soon after every start |
//! | `apart.rs` | whom the servers of clones run as |
//! | `doors.rs` | who passes into mirrors, snapshots and clones |
//! | `views.rs` | what is shown |
//! | `volumes/` | volumes of container engines |
//! | `verbs/` | one file per verb |

mod anew;
mod apart;
mod containers;
mod doctor;
mod doors;
mod dying;
mod facade;
mod fault;
mod follow;
mod home;
mod hooks;
mod images;
mod journal;
mod moments;
mod owner;
mod recovery;
mod remedy;
mod strangers;
mod transfer;
mod units;
mod verbs;
mod views;
mod volumes;
mod world;

#[cfg(test)]
mod tests;

pub use facade::{Around, InitRequest, Pando};
pub use home::run_dir;
pub use volumes::VolumeView;
