//! The wiring of the daemon: one home, one lock, two listeners, one thread that keeps mirrors going. It
//! decides nothing: every call becomes one call of `pando-operations`' facade.
//!
//! ```text
//! lock HOME ──▶ bind both listeners ──▶ open (recovers) ──▶ accept ──▶ SIGTERM ──▶ stop accepting,
//!                                                                      finish operations, remove the socket
//! ```
//!
//! A third listener is the volume plugin of Docker and Podman (`plugin.rs`), where it is wanted.
//!
//! The listeners are bound before the home is opened, so that a taken port is found before anything is
//! recovered; who connects meanwhile waits. Units outlive the daemon: the next one adopts them.
//!
//! # Crash consistency
//! Nothing durable changes in this room. The lock is the kernel's and dies with the process; a socket left
//! by a crash is replaced by the next daemon, which may, since it holds the lock.

mod answer;
mod guard;
mod home;
mod listen;
mod local;
mod plugin;
mod routes;
mod serve;
mod stream;

pub use local::Local;
pub use pando_operations::run_dir;
pub use plugin::DEFAULT_PLUGIN;
pub use serve::{DEFAULT_LISTEN, Options, Plugin, serve};
