//! What MariaDB and MySQL mean differently by the same events: the number of a transaction, a position, where
//! transactions begin and end, and when they were committed.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use serde::Serialize;
use serde::de::DeserializeOwned;

use super::event::{Event, Place};
use super::index::{Group, Post};

/// One of the two.
pub trait Dialect: Debug + 'static {
    /// A transaction's number.
    type Gtid: Debug + Display + Clone + Ord + Send + Serialize + DeserializeOwned;
    /// Which transactions a server has.
    type Position: Position<Self::Gtid>;
    /// Follows transactions from event to event.
    type Groups: Groups<Self::Gtid>;
    /// Whether a server gives no number twice and none that it has passed.
    const ASCENDS: bool;
    /// The event that a relay log must have behind its first description, where there is one.
    const HEAD: Option<u8> = None;

    /// When a transaction was certainly committed, in microseconds since 1970. Posts ascend.
    fn committed_by(group: &Group<Self::Gtid>, posts: &[Post]) -> i64;
    /// Up to when a log is complete that ends with a transaction, in microseconds since 1970.
    fn complete_to(last: &Group<Self::Gtid>) -> i64;
}

/// Which transactions a server has.
pub trait Position<G>:
    Debug + Display + FromStr + Clone + Default + PartialEq + Send + Serialize + DeserializeOwned
{
    /// Whether it has a transaction, as far as that shows: of what a log has come to it shows.
    fn holds(&self, gtid: &G) -> bool;
    /// Which of the transactions at the end of a log it has.
    fn among(&self, log: &[&G]) -> Vec<bool>;
    /// Whether it has all before the transactions at the end of a log, which had come to `before` there.
    fn begins_in(&self, before: &Self, log: &[&G]) -> bool;
    /// Whether what a log has come to has all that a server has.
    fn reaches(&self, other: &Self) -> bool;
    /// Whether a server lacks something of what a log has from it.
    fn lost(&self, had: &Self) -> bool {
        !self.reaches(had)
    }
    /// Whether it has come to exactly another, as far as that shows: what a replay waits for.
    fn came_to(&self, target: &Self) -> bool;
    /// Adds a transaction.
    fn take(&mut self, gtid: &G);
}

/// Follows transactions from event to event.
pub trait Groups<G>: Debug + Clone + Default + Send {
    /// Where the next event belongs.
    fn place(&mut self, event: &Event) -> Place<G>;
    /// The time of the transaction that the event just placed has ended, in the units of the dialect.
    fn when(&self, last: &Event) -> u64;
}
