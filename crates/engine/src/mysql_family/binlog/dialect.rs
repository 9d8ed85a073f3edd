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
    type Gtid: Debug + Clone + PartialEq + Send + Serialize + DeserializeOwned;
    /// Which transactions a server has.
    type Position: Position<Self::Gtid>;
    /// Follows transactions from event to event.
    type Groups: Groups<Self::Gtid>;
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
    /// Whether it has a transaction.
    fn holds(&self, gtid: &G) -> bool;
    /// Whether it has all that another has.
    fn reaches(&self, other: &Self) -> bool;
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
