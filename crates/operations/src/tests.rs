//! Operations on simulated pools, engines and runtimes, where every step can be failed in milliseconds.
//!
//! | file | what it holds |
//! |---|---|
//! | `tests/kit.rs`, `tests/still.rs` | a Pando whose surroundings are simulated, and a simulated directory |
//! | `tests/agree.rs` | what must be true whenever nothing is under way |
//! | `tests/cases.rs` | the table: every verb with what it needs and what it makes |
//! | `tests/crash.rs` | the loop: every point of every case fails, dies, dies again while it is mended |
//! | `tests/ages.rs` | a restart of the machine, snapshots that outlive their log |
//! | `tests/claims.rs` | who may do what while somebody else does something; a full pool |
//! | `tests/hooks.rs` | which hooks run when, and what a failing one leaves |
//! | `tests/fence.rs` | writes of production held, and let go |
//! | `tests/anew.rs` | first copies that cannot be made anew at first |
//! | `tests/heartbeat.rs` | lost mirrors, dead servers, leases |
//! | `tests/images.rs` | images with data in them, on a server image and a registry that are made up |
//! | `tests/masking.rs` | what is masked, and what is not |
//! | `tests/times.rs` | what each second shows |
//! | `tests/travel.rs` | what comes from elsewhere |
//! | `tests/volumes.rs` | volumes of container engines |

mod ages;
mod agree;
mod anew;
mod cases;
mod claims;
mod crash;
mod fence;
mod heartbeat;
mod hooks;
mod images;
mod kit;
mod masking;
mod served;
mod still;
mod times;
mod travel;
mod volumes;
