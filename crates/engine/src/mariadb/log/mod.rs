//! What MariaDB's transactions are in the log of mirrors and recording clones.

pub(crate) mod groups;
mod position;

use self::groups::{Groups, Gtid};
pub use self::position::Position;
use crate::binlog::dialect::Dialect;
use crate::binlog::index::{Group, Post, committed_by};

/// The words of MariaDB.
#[derive(Debug)]
pub enum Mariadb {}

/// A log on disk.
pub type BinLog = crate::binlog::BinLog<Mariadb>;
/// A look at production.
pub type Look = crate::binlog::Look<Position>;

impl Dialect for Mariadb {
    type Gtid = Gtid;
    type Position = Position;
    type Groups = Groups;

    fn committed_by(group: &Group<Gtid>, posts: &[Post]) -> i64 {
        committed_by(group, posts)
    }

    fn complete_to(last: &Group<Gtid>) -> i64 {
        i64::try_from(last.when).unwrap_or(0) * 1_000_000
    }
}
