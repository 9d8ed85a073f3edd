//! The PostgreSQL change log: what `pg_receivewal` writes is taken in, indexed, compressed, and given back
//! as the `pg_wal` of a clone that stops at an exact record.
//!
//! ```text
//! pg_receivewal ▶ live/NAME.partial ▶ live/NAME ──advance──▶ segments/NAME.zst + one entry in index
//!                                                   locate: moment ▶ record    bring: record ▶ pg_wal/
//! ```
//!
//! The rule that everything here serves (T-1…T-6): a clone's recovery is stopped by `recovery_target_lsn`,
//! never by time. A [`Point`](crate::Point) of this log is the *start* of a record that exists, and recovery
//! that stops after that record (`recovery_target_inclusive`, `recoveryStopsAfter` in PostgreSQL's
//! `xlogrecovery.c`) has applied no commit or abort later than the moment asked for.

mod bring;
mod epoch;
mod index;
mod locate;
mod log;
mod page;
mod record;
mod segment;
mod source;
mod store;

#[cfg(test)]
mod tests;

pub use log::{Progress, WalLog};
pub use page::version_of_magic;
pub use record::{Kind, Pages, Reader, Record, Step, Stop};
pub use segment::{History, SegmentName, SegmentSize};
pub use source::{Input, SegmentPages};
