//! A GTID position: for each domain the last transaction, as MariaDB writes it (`0-7-22,1-8-5`).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::groups::Gtid;
use crate::mysql_family::binlog::dialect;

/// For each domain the server and the number of the last transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position(BTreeMap<u32, (u32, u64)>);

impl dialect::Position<Gtid> for Position {
    fn holds(&self, gtid: &Gtid) -> bool {
        self.0.get(&gtid.domain).is_some_and(|(_, seq)| *seq >= gtid.seq)
    }

    fn reaches(&self, other: &Self) -> bool {
        other.0.iter().all(|(domain, (_, seq))| self.0.get(domain).is_some_and(|(_, own)| own >= seq))
    }

    fn came_to(&self, target: &Self) -> bool {
        target.0.iter().all(|(domain, last)| self.0.get(domain) == Some(last))
    }

    fn take(&mut self, gtid: &Gtid) {
        self.0.insert(gtid.domain, (gtid.server, gtid.seq));
    }
}

impl FromStr for Position {
    type Err = ();
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut position = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut numbers = part.splitn(3, '-');
            let mut number = || numbers.next().and_then(|number| number.parse::<u64>().ok()).ok_or(());
            let (domain, server, seq) = (number()?, number()?, number()?);
            let narrow = |number: u64| u32::try_from(number).map_err(|_| ());
            position.0.insert(narrow(domain)?, (narrow(server)?, seq));
        }
        Ok(position)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (domain, (server, seq))) in self.0.iter().enumerate() {
            write!(f, "{}{domain}-{server}-{seq}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql_family::binlog::dialect::Position as _;

    #[test]
    fn positions_are_read_compared_and_written() {
        let read = |text: &str| text.parse::<Position>();
        let two = read("1-8-5,0-7-22").expect("a position");
        assert_eq!(two.to_string(), "0-7-22,1-8-5");
        assert!(two.reaches(&read("0-9-22").expect("a position")));
        assert!(!two.reaches(&read("0-7-23").expect("a position")));
        assert!(!two.reaches(&read("2-7-1").expect("a position")));
        assert!(read("").is_ok_and(|none| two.reaches(&none)));
        assert!(read("0-7").is_err() && read("a-b-c").is_err());
    }

    #[test]
    fn m09_a_production_that_was_reset_falls_behind_itself() {
        let before: Position = "0-7-22".parse().expect("a position");
        for (after, fell) in [("0-7-23", false), ("0-7-22", false), ("0-7-2", true), ("", true)] {
            assert_eq!(!after.parse::<Position>().expect("a position").reaches(&before), fell, "{after}");
        }
    }
}
