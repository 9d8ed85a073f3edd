//! Numbers of MySQL's transactions and sets of them, as MySQL writes them: `UUID:1-5:9`, and `UUID:1-5:tag:1-2` where
//! transactions carry a tag.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::mysql_family::binlog::dialect::Position;

/// Who gave a number: a server, and perhaps a tag.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Origin {
    /// The server's UUID.
    pub uuid: u128,
    /// The tag.
    pub tag: Option<Box<str>>,
}

/// A transaction's number.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Gtid {
    /// Who gave it.
    pub origin: Origin,
    /// Counted by its origin, from 1.
    pub number: u64,
}

/// A set of transactions: for each origin the ranges of numbers, ascending, with gaps between them.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GtidSet(BTreeMap<Origin, Vec<(u64, u64)>>);

impl GtidSet {
    fn add(&mut self, origin: &Origin, first: u64, last: u64) {
        let ranges = match self.0.get_mut(origin) {
            Some(ranges) => ranges,
            None => self.0.entry(origin.clone()).or_default(),
        };
        // All that touch the new range become one with it; nearly always that is the last.
        let from = ranges.partition_point(|(_, end)| end.saturating_add(1) < first);
        let to = ranges.partition_point(|(begin, _)| *begin <= last.saturating_add(1));
        let merged = match (ranges.get(from), to.checked_sub(1).and_then(|last| ranges.get(last))) {
            (Some((begin, _)), Some((_, end))) if from < to => (first.min(*begin), last.max(*end)),
            _ => (first, last),
        };
        ranges.splice(from..to.max(from), [merged]);
    }

    fn covers(&self, origin: &Origin, first: u64, last: u64) -> bool {
        self.0.get(origin).is_some_and(|ranges| {
            let at = ranges.partition_point(|(_, end)| *end < first);
            ranges.get(at).is_some_and(|(begin, end)| *begin <= first && last <= *end)
        })
    }
}

impl Position<Gtid> for GtidSet {
    fn holds(&self, gtid: &Gtid) -> bool {
        self.covers(&gtid.origin, gtid.number, gtid.number)
    }

    fn among(&self, log: &[&Gtid]) -> Vec<bool> {
        log.iter().map(|gtid| self.holds(gtid)).collect()
    }

    fn begins_in(&self, _: &Self, log: &[&Gtid]) -> bool {
        log.first().is_some_and(|first| self.holds(first))
    }

    fn reaches(&self, other: &Self) -> bool {
        other.0.iter().all(|(origin, ranges)| ranges.iter().all(|(first, last)| self.covers(origin, *first, *last)))
    }

    fn came_to(&self, target: &Self) -> bool {
        self.reaches(target)
    }

    fn take(&mut self, gtid: &Gtid) {
        self.add(&gtid.origin, gtid.number, gtid.number);
    }
}

fn uuid(text: &str) -> Option<u128> {
    let digits = text.replace('-', "");
    (text.len() == 36 && digits.len() == 32).then(|| u128::from_str_radix(&digits, 16).ok())?
}

fn range(text: &str) -> Option<(u64, u64)> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let (first, last) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
    (0 < first && first <= last).then_some((first, last))
}

impl FromStr for GtidSet {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a set of MySQL's transactions");
        let mut set = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut words = part.split(':').map(str::trim);
            let uuid = words.next().and_then(uuid).ok_or_else(wrong)?;
            let mut origin = Origin { uuid, tag: None };
            for word in words {
                if word.starts_with(|c: char| c.is_ascii_digit()) {
                    let (first, last) = range(word).ok_or_else(wrong)?;
                    set.add(&origin, first, last);
                } else {
                    origin.tag = Some(word.into());
                }
            }
        }
        Ok(set)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let hex = format!("{:032x}", self.uuid);
        let mut rest = hex.as_str();
        for (index, length) in [8, 4, 4, 4, 12].into_iter().enumerate() {
            let (group, tail) = rest.split_at_checked(length).unwrap_or((rest, ""));
            write!(f, "{}{group}", if index == 0 { "" } else { "-" })?;
            rest = tail;
        }
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))
    }
}

impl fmt::Display for GtidSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (origin, ranges)) in self.0.iter().enumerate() {
            write!(f, "{}{origin}", if index == 0 { "" } else { "," })?;
            for (first, last) in ranges {
                write!(f, ":{first}")?;
                if last > first {
                    write!(f, "-{last}")?;
                }
            }
        }
        Ok(())
    }
}

impl TryFrom<String> for GtidSet {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<GtidSet> for String {
    fn from(set: GtidSet) -> Self {
        set.to_string()
    }
}

impl TryFrom<String> for Gtid {
    type Error = String;
    fn try_from(text: String) -> Result<Self, String> {
        let set: GtidSet = text.parse()?;
        let mut all = set.0.into_iter();
        match (all.next(), all.next()) {
            (Some((origin, ranges)), None) if matches!(ranges.as_slice(), [(first, last)] if first == last) => {
                let number = ranges.first().map_or(0, |(first, _)| *first);
                Ok(Self { origin, number })
            }
            _ => Err(format!("{text:?} is not the number of a transaction")),
        }
    }
}

impl fmt::Display for Gtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.origin, self.number)
    }
}

impl From<Gtid> for String {
    fn from(gtid: Gtid) -> Self {
        gtid.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: &str = "da579118-ea5f-11f1-9025-02fc00000001";
    const B: &str = "00000000-0000-0000-0000-00000000000b";

    fn set(text: &str) -> GtidSet {
        text.parse().expect("a set")
    }

    fn gtid(text: &str) -> Gtid {
        Gtid::try_from(text.to_owned()).expect("a number")
    }

    #[test]
    fn sets_are_read_written_and_compared() {
        let text = format!("{A}:1-5:9,\n{B}:3:mytag:1-2");
        assert_eq!(set(&text).to_string(), format!("{B}:3,{B}:mytag:1-2,{A}:1-5:9"));
        assert_eq!(set(&set(&text).to_string()), set(&text));
        assert!(set(&text).reaches(&set(&format!("{A}:2-4,{B}:mytag:2"))));
        assert!(!set(&text).reaches(&set(&format!("{A}:5-9"))));
        assert!(!set(&text).reaches(&set(&format!("{B}:1"))) && set("").0.is_empty());
        for bad in ["x", "1-2-3", &format!("{A}:0"), &format!("{A}:5-4"), &format!("{A}:1-x")] {
            assert!(bad.parse::<GtidSet>().is_err(), "{bad}");
        }
    }

    #[test]
    fn ranges_grow_together_in_any_order() {
        let mut all = GtidSet::default();
        for number in [5, 1, 2, 7, 6, 3, 9, 4, 4] {
            all.take(&gtid(&format!("{A}:{number}")));
        }
        assert_eq!(all.to_string(), format!("{A}:1-7:9"));
        assert!(all.holds(&gtid(&format!("{A}:7"))) && !all.holds(&gtid(&format!("{A}:8"))));
        assert!(!all.holds(&gtid(&format!("{A}:mytag:7"))));
    }

    #[test]
    fn m09_a_production_that_was_reset_lacks_what_it_had() {
        let had = set(&format!("{A}:1-22"));
        for (after, reset) in [("1-22", false), ("1-40", false), ("1-2", true), ("30", true)] {
            assert_eq!(!set(&format!("{A}:{after}")).reaches(&had), reset, "{after}");
        }
    }
}
