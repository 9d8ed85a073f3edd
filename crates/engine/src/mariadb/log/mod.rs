//! What MariaDB's transactions are in the log of mirrors and recording clones.

pub(crate) mod groups;
mod position;

use self::groups::{Groups, Gtid};
pub use self::position::Position;
use crate::mysql_family::binlog::dialect::Dialect;
use crate::mysql_family::binlog::index::{Group, Post, committed_by};

/// The words of MariaDB.
#[derive(Debug, Clone, PartialEq)]
pub enum Mariadb {}

impl Dialect for Mariadb {
    type Gtid = Gtid;
    type Position = Position;
    type Groups = Groups;
    /// But for `SET gtid_seq_no`, where `gtid_strict_mode` is off.
    const ASCENDS: bool = false;

    fn committed_by(group: &Group<Gtid>, posts: &[Post]) -> i64 {
        committed_by(group, posts)
    }

    fn complete_to(last: &Group<Gtid>) -> i64 {
        i64::try_from(last.when).unwrap_or(0) * 1_000_000
    }
}
