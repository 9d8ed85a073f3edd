//! From a time to a place: the transactions of one file of the log, and what looks at production told of when
//! they were committed.
//!
//! A binary log of MariaDB knows seconds only, and of a long statement the second in which it *began*. A look at production
//! (position, clock, position) bounds what lies before and behind it. So each transaction has a time by which it
//! was certainly committed, and a moment shows what was certainly committed by then: never anything later, and
//! for a whole second everything (M-6).

use serde::{Deserialize, Serialize};

use super::again::Print;

/// One transaction of the log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group<G> {
    /// Behind its last byte.
    pub end: u64,
    /// Its time, in the units of its dialect.
    pub when: u64,
    /// Its number.
    pub gtid: G,
    /// What tells it from another of its number, where there may be one.
    #[serde(default, skip_serializing_if = "Print::is_none")]
    pub print: Print,
}

/// A look at production: what lies at or before `within` was committed by `micros`, what lies behind `behind`
/// was committed later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Post {
    /// Production's clock, in microseconds since 1970.
    pub micros: i64,
    /// A place in the log.
    pub within: u64,
    /// A place at or behind it.
    pub behind: u64,
}

impl Post {
    /// Whether nothing was committed between the two.
    pub fn is_where(&self, other: &Self) -> bool {
        self.within == other.within && self.behind == other.behind
    }
}

/// When a transaction that knows its second was certainly committed, in microseconds since 1970. Posts ascend.
pub fn committed_by<G>(group: &Group<G>, posts: &[Post]) -> i64 {
    let end_of_second = (i64::try_from(group.when).unwrap_or(0) + 1) * 1_000_000;
    let next = posts.partition_point(|post| post.within < group.end);
    let upper = posts.get(next).map(|post| post.micros);
    let passed = posts.partition_point(|post| post.behind < group.end);
    let lower = passed.checked_sub(1).and_then(|last| posts.get(last)).map(|post| post.micros);
    match (lower, upper) {
        // It began in an earlier second than it was committed in.
        (Some(lower), upper) if end_of_second < lower => upper.unwrap_or(lower),
        (_, Some(upper)) => upper.min(end_of_second),
        (_, None) => end_of_second,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group(end: u64, when: u64) -> Group<u64> {
        Group { end, when, gtid: end, print: Print::default() }
    }

    fn post(micros: i64, at: u64) -> Post {
        Post { micros, within: at, behind: at }
    }

    #[test]
    fn m06_without_a_look_a_commit_counts_from_the_end_of_its_second() {
        assert_eq!(committed_by(&group(10, 5), &[]), 6_000_000);
    }

    #[test]
    fn a_look_bounds_what_lies_before_it() {
        assert_eq!(committed_by(&group(10, 5), &[post(5_300_000, 10)]), 5_300_000);
        assert_eq!(committed_by(&group(11, 5), &[post(5_300_000, 10)]), 6_000_000);
        assert_eq!(committed_by(&group(10, 5), &[post(9_000_000, 20)]), 6_000_000);
    }

    #[test]
    fn a_long_statement_counts_from_when_it_was_seen() {
        let posts = [post(9_300_000, 5), post(10_200_000, 10)];
        assert_eq!(committed_by(&group(10, 5), &posts), 10_200_000);
        assert_eq!(committed_by(&group(10, 5), &posts[..1]), 9_300_000);
    }
}
