//! The one door to the operating system: foreign tools, accounts, durable writes, the clock, randomness,
//! secrets and fail points. Everything else in Pando reaches the machine through here, so that there is
//! one place where a command is built, one where a file is made durable, and one where a test can fail it.

pub mod account;
pub mod beneath;
mod bounded;
pub mod clock;
pub mod confine;
pub mod durable;
pub mod fail;
mod holders;
pub mod idmap;
pub mod plain;
pub mod process;
pub mod secret;
pub mod tool;

pub use account::{Account, libc_version};
pub use beneath::Beneath;
pub use bounded::Bounds;
pub use clock::{Clock, ManualClock, SystemClock};
pub use confine::Confinement;
pub use fail::{FailAction, FailPoints, Injected};
pub use holders::{Holder, holders};
pub use idmap::Idmap;
pub use tool::{Finished, Tool, ToolCommand, ToolError};
