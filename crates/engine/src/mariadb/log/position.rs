//! A GTID position: for each domain the last transaction, as MariaDB writes it (`0-7-22,1-8-5`).
//!
//! With `gtid_strict_mode=OFF`, MariaDB's default, the numbers of a domain ascend by server only: a replica that was written
//! to has `0-1-17,0-5-18,0-1-18`, in this order. What lies before a position is what the *log* has before it.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::groups::Gtid;
use crate::mysql_family::binlog::dialect;

/// For each domain the servers and their last numbers, as far as they are known; at the end the domain's last transaction.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position(BTreeMap<u32, Vec<(u32, u64)>>);

impl Position {
    fn last(&self, domain: u32) -> Option<(u32, u64)> {
        self.0.get(&domain)?.last().copied()
    }

    fn number(&self, domain: u32, server: u32) -> Option<u64> {
        self.0.get(&domain)?.iter().find(|(known, _)| *known == server).map(|(_, seq)| *seq)
    }

    fn ends_with(&self, gtid: &Gtid) -> bool {
        self.last(gtid.domain) == Some((gtid.server, gtid.seq))
    }
}

impl dialect::Position<Gtid> for Position {
    fn holds(&self, gtid: &Gtid) -> bool {
        self.number(gtid.domain, gtid.server).is_some_and(|seq| seq >= gtid.seq)
    }

    fn among(&self, log: &[&Gtid]) -> Vec<bool> {
        let ends = log.iter().enumerate().filter(|(_, gtid)| self.ends_with(gtid));
        let ends: BTreeMap<u32, usize> = ends.map(|(index, gtid)| (gtid.domain, index)).collect();
        let inside = |(index, gtid): (usize, &&Gtid)| ends.get(&gtid.domain).is_some_and(|end| index <= *end);
        log.iter().enumerate().map(inside).collect()
    }

    fn begins_in(&self, before: &Self, log: &[&Gtid]) -> bool {
        let there = |domain: u32| log.iter().any(|gtid| gtid.domain == domain && self.ends_with(gtid));
        before
            .0
            .keys()
            .all(|domain| self.0.contains_key(domain) && (self.last(*domain) == before.last(*domain) || there(*domain)))
    }

    fn reaches(&self, other: &Self) -> bool {
        let had = |(server, seq), domain| self.number(domain, server).is_some_and(|own| own >= seq);
        other.0.keys().all(|domain| other.last(*domain).is_none_or(|last| had(last, *domain)))
    }

    fn lost(&self, had: &Self) -> bool {
        // A server that was promoted may never have heard of those that wrote before.
        let less = |domain: u32, server: u32, seq: u64| match self.number(domain, server) {
            Some(own) => own < seq,
            None => had.last(domain) == Some((server, seq)) && self.last(domain).is_none_or(|(_, own)| own < seq),
        };
        had.0.iter().any(|(domain, servers)| servers.iter().any(|(server, seq)| less(*domain, *server, *seq)))
    }

    fn came_to(&self, target: &Self) -> bool {
        target.0.keys().all(|domain| self.last(*domain) == target.last(*domain))
    }

    fn take(&mut self, gtid: &Gtid) {
        let servers = self.0.entry(gtid.domain).or_default();
        servers.retain(|(server, _)| *server != gtid.server);
        servers.push((gtid.server, gtid.seq));
    }
}

impl FromStr for Position {
    type Err = ();
    /// Also what a binary log has of each server (`gtid_binlog_state`): there the last of a domain comes last.
    fn from_str(text: &str) -> Result<Self, ()> {
        let mut position = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            let mut numbers = part.splitn(3, '-');
            let mut number = || numbers.next().and_then(|number| number.parse::<u64>().ok()).ok_or(());
            let (domain, server, seq) = (number()?, number()?, number()?);
            let narrow = |number: u64| u32::try_from(number).map_err(|_| ());
            dialect::Position::take(&mut position, &Gtid { domain: narrow(domain)?, server: narrow(server)?, seq });
        }
        Ok(position)
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lasts = self.0.iter().filter_map(|(domain, servers)| Some((domain, servers.last()?)));
        for (index, (domain, (server, seq))) in lasts.enumerate() {
            write!(f, "{}{domain}-{server}-{seq}", if index == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mysql_family::binlog::dialect::Position as _;

    fn read(text: &str) -> Position {
        text.parse().expect("a position")
    }

    #[test]
    fn positions_are_read_compared_and_written() {
        let two = read("1-8-5,0-7-22");
        assert_eq!(two.to_string(), "0-7-22,1-8-5");
        assert!(two.reaches(&read("0-7-22")) && two.reaches(&read("")));
        assert!(!two.reaches(&read("0-7-23")) && !two.reaches(&read("2-7-1")));
        assert!(["0-7", "a-b-c"].iter().all(|text| text.parse::<Position>().is_err()));
    }

    #[test]
    fn numbers_ascend_by_server_and_the_log_tells_what_came_before() {
        let state = read("0-5-18,0-1-17");
        assert_eq!(state.to_string(), "0-1-17");
        let gtid = |server: u32, seq: u64| Gtid { domain: 0, server, seq };
        assert!(state.holds(&gtid(5, 18)) && state.holds(&gtid(1, 17)));
        assert!(!state.holds(&gtid(1, 18)) && !state.holds(&gtid(9, 3)) && !state.reaches(&read("0-1-18")));
        let log = [gtid(1, 17), gtid(5, 18), gtid(1, 18), gtid(1, 19)];
        let log: Vec<&Gtid> = log.iter().collect();
        assert_eq!(read("0-5-18").among(&log), [true, true, false, false]);
        assert_eq!(read("0-1-18").among(&log), [true, true, true, false]);
        assert_eq!(read("0-1-16").among(&log), [false; 4]);
        assert!(read("0-1-18").begins_in(&read("0-1-16"), &log) && read("0-1-16").begins_in(&read("0-1-16"), &log));
        assert!(
            !read("0-1-18").begins_in(&read("0-1-16,3-1-1"), &log) && !read("0-1-15").begins_in(&read("0-1-16"), &log)
        );
    }

    #[test]
    fn m09_a_production_that_was_reset_falls_behind_itself() {
        for (after, had, lost) in [
            ("0-7-23", "0-7-22", false),
            ("0-7-22", "0-7-22", false),
            ("0-7-2", "0-7-22", true),
            ("", "0-7-22", true),
            ("0-5-18,0-1-12", "0-1-11,0-5-18", false),
            ("0-5-18,0-1-12", "0-5-18,0-1-13", true),
            // Another server, promoted.
            ("0-8-23", "0-5-18,0-7-22", false),
            ("0-8-21", "0-5-18,0-7-22", true),
        ] {
            assert_eq!(read(after).lost(&read(had)), lost, "{after} {had}");
        }
    }
}
