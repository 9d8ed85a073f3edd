//! Whether production is still what the mirror followed: its binary log, and its series.
//!
//! After `RESET MASTER` (`RESET BINARY LOGS AND GTIDS`) production gives out the same numbers again, for other
//! transactions: once it has passed the mirror's number, a replica goes on from there and notices nothing (M-9). So it
//! is remembered which place in production's files had which number; whenever the mirror is connected anew, production
//! is asked what stands there. And it may have come back as a server of another series, whose log this mirror must not
//! take in (M-13).
//!
//! # Crash consistency
//! What is remembered is written from time to time, not at each look: an older place says the same.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use pando_host::durable;
use serde::{Deserialize, Serialize};

use super::binlog::Look;
use super::facts::{Facts, absent};
use super::flavor::Flavor;
use super::install::Installations;
use super::{FamilyEngine, io, lock};
use crate::{EngineError, Link, Seat, Source, seat};

/// How often what is remembered is written.
const WRITES: Duration = Duration::from_secs(30);
/// How often a production of another series is asked whether it still is.
const LOOKS: Duration = Duration::from_secs(5);
const RESET: &str = "production's binary log was reset";

/// A place in production's files, and what stands there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(bound = "")]
pub struct Coordinates<F: Flavor> {
    /// `@@server_id`: of another server the files are others.
    server: String,
    /// The file.
    pub file: String,
    /// The place in it: a transaction ends there.
    pub byte: u64,
    /// What production had then.
    pub position: F::Position,
}

/// What production says of a place in its files.
#[derive(Debug, PartialEq, Eq)]
pub enum Stands {
    /// What stood there can stand there still.
    Same,
    /// Something else.
    Other(String),
    /// The file was dropped since.
    Gone,
}

impl<F: Flavor> Coordinates<F> {
    /// From a look, its `@@server_id` and what shows the end of production's log; none when something was committed
    /// meanwhile.
    pub fn read(server: &str, status: &str, look: &Look<F::Position>) -> Option<Self> {
        let mut fields = status.split('\t');
        let (file, byte) = (fields.next()?.to_owned(), fields.next()?.parse().ok()?);
        let still = look.before == look.after;
        still.then(|| Self { server: server.to_owned(), file, byte, position: look.after.clone() })
    }

    fn number(&self) -> u64 {
        self.file.rsplit('.').next().and_then(|number| number.parse().ok()).unwrap_or(0)
    }

    /// Whether a later place of the same server lies before this one.
    fn is_behind(&self, now: &Self) -> bool {
        self.server == now.server && (now.number(), now.byte) < (self.number(), self.byte)
    }

    /// Why production is not the one that this was seen of, if it is not.
    fn differs(
        &self,
        ask: &dyn Fn(&str) -> Result<String, EngineError>,
        status: &str,
    ) -> Result<Option<String>, EngineError> {
        let answer = ask(&format!("SELECT @@server_id; {status}"))?;
        let Some((server, status)) = answer.trim_end().split_once('\n') else { return Ok(None) };
        let nowhere = Look { before: F::Position::default(), micros: 0, after: F::Position::default() };
        // Another server, promoted: it has the transactions, in files of its own.
        let Some(now) = Self::read(server, status, &nowhere).filter(|now| now.server == self.server) else {
            return Ok(None);
        };
        if self.is_behind(&now) {
            return Ok(Some(format!("{RESET} (its files begin anew)")));
        }
        Ok(match F::stands(ask, self)? {
            Stands::Same => None,
            Stands::Gone if now.file != self.file => None,
            Stands::Gone => Some(format!("{RESET}: {} of {} is gone", self.byte, self.file)),
            Stands::Other(what) => {
                Some(format!("{RESET}: at {} of {} stands {what}, not {}", self.byte, self.file, self.position))
            }
        })
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(bound = "")]
struct Noted<F: Flavor> {
    epoch: u32,
    at: Coordinates<F>,
}

/// What was seen of production, by the mirror's log.
pub struct Seen<F: Flavor> {
    last: Mutex<HashMap<PathBuf, Noted<F>>>,
    checked: Mutex<HashSet<PathBuf>>,
    moved: Mutex<HashMap<PathBuf, Link>>,
}

impl<F: Flavor> Default for Seen<F> {
    fn default() -> Self {
        Self { last: Mutex::default(), checked: Mutex::default(), moved: Mutex::default() }
    }
}

fn file(log: &Path) -> PathBuf {
    log.join("seen.json")
}

impl<F: Flavor> Seen<F> {
    /// What was seen last of a stretch. Asked before a look, so that looks at once do not contradict each other.
    pub fn of(&self, log: &Path, epoch: u32) -> Result<Option<Coordinates<F>>, EngineError> {
        let noted = match lock(&self.last).get(log) {
            Some(noted) => Some(noted.clone()),
            // Half a file is none.
            None => seat::noted::<Noted<F>>(&file(log)).or_else(|error| match error {
                EngineError::Invalid(_) => Ok(None),
                other => Err(other),
            })?,
        };
        Ok(noted.filter(|noted| noted.epoch == epoch).map(|noted| noted.at))
    }

    /// Notes a place of the running stretch, where `last` was seen before. Why production is not the one it was, if
    /// it is not.
    pub fn note(
        &self,
        engine: &FamilyEngine<F>,
        seat: &Seat,
        epoch: u32,
        last: Option<&Coordinates<F>>,
        now: Coordinates<F>,
    ) -> Result<Option<String>, EngineError> {
        if last.is_some_and(|last| last.is_behind(&now)) {
            return Ok(Some(format!("{RESET} (its files begin anew)")));
        }
        let due = last.is_none_or(|last| last.file != now.file);
        // The heartbeat looks, and whoever wants a clone of now: one at a time writes.
        let mut all = lock(&self.last);
        if due || engine.may_look(&format!("seen {}", seat.log.display()), WRITES) {
            let text = serde_json::to_vec(&Noted { epoch, at: now.clone() }).unwrap_or_default();
            durable::write_atomic(&file(&seat.log), &text, 0o600).map_err(io("noting what was seen of production"))?;
        }
        all.insert(seat.log.clone(), Noted { epoch, at: now });
        Ok(None)
    }

    /// When the mirror receives again after a pause (also one of ours): asks production whether it is the one it was.
    /// What it is instead, if it is not; then the mirror receives nothing more.
    pub fn after_a_pause(
        &self,
        engine: &FamilyEngine<F>,
        seat: &Seat,
        source: &Source,
        receives: bool,
    ) -> Result<Option<Link>, EngineError> {
        if !receives {
            lock(&self.checked).remove(&seat.log);
            return Ok(None);
        }
        if lock(&self.checked).contains(&seat.log) {
            return Ok(None);
        }
        let facts = engine.facts(source)?;
        let ask = |sql: &str| engine.ask(&facts, source, sql);
        if let Some(link) = moved(&engine.installations, &facts, &ask("SELECT VERSION()")?) {
            if let Err(error) = engine.sessions.with(&seat.run, |session| session.query("STOP REPLICA IO_THREAD")) {
                tracing::debug!(%error, "a mirror of another series could not be stopped");
            }
            lock(&self.moved).insert(seat.log.clone(), link.clone());
            return Ok(Some(link));
        }
        let epoch = engine.log(&seat.log)?.current_epoch();
        if let Some(at) = epoch.map(|epoch| self.of(&seat.log, epoch)).transpose()?.flatten()
            && let Some(why) = at.differs(&ask, F::log_status(facts.numbers()))?
        {
            return Ok(Some(Link::Lost(why)));
        }
        lock(&self.checked).insert(seat.log.clone());
        Ok(None)
    }

    /// What production is instead, where it was found to be of another series; from time to time it is asked again.
    pub fn moved(&self, engine: &FamilyEngine<F>, seat: &Seat, source: &Source) -> Result<Option<Link>, EngineError> {
        let Some(link) = lock(&self.moved).get(&seat.log).cloned() else { return Ok(None) };
        if !engine.may_look(&format!("moved {}", seat.log.display()), LOOKS) {
            return Ok(Some(link));
        }
        let facts = engine.facts(source)?;
        let Ok(version) = engine.ask(&facts, source, "SELECT VERSION()") else { return Ok(Some(link)) };
        let link = moved(&engine.installations, &facts, &version);
        match &link {
            Some(link) => lock(&self.moved).insert(seat.log.clone(), link.clone()),
            None => lock(&self.moved).remove(&seat.log),
        };
        Ok(link)
    }
}

/// What a production that says its version means to a mirror of what was linked.
fn moved(installations: &Installations, linked: &Facts, version: &str) -> Option<Link> {
    let now = Facts { version: version.trim().to_owned(), ..Facts::default() };
    let ((major, minor), (from, from_minor)) = (now.series(), linked.series());
    if (major, minor) == (from, from_minor) || (major, minor) == (0, 0) {
        return None;
    }
    Some(match installations.of(now.series()) {
        Ok(_) => Link::Lost(format!(
            "production moved from {make} {from}.{from_minor} to {major}.{minor}",
            make = installations.make()
        )),
        Err(_) => Link::Disconnected(format!(
            "{}: {}, then start Pando again; it was {from}.{from_minor}, and what is on the timeline of it stays",
            absent(&now, installations),
            installations.hint()
        )),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;

    fn at<F: Flavor>(file: &str, byte: u64, position: &str) -> Coordinates<F> {
        let Ok(position) = position.parse() else { panic!("a position") };
        Coordinates { server: "7".to_owned(), file: file.to_owned(), byte, position }
    }

    fn failing(words: &str) -> EngineError {
        EngineError::Server { action: "asking".to_owned(), source: words.to_owned().into() }
    }

    /// Whether a place is taken to be of another history; `place`: what is answered of it, or what is complained of.
    fn reset<F: Flavor>(seen: &Coordinates<F>, end: &str, place: Result<&str, &str>) -> bool {
        let ask = |sql: &str| match place {
            _ if sql.starts_with("SELECT @@server_id") => Ok(end.to_owned()),
            // MariaDB's, and those that it had before.
            Ok("NULL") if sql == "SHOW BINARY LOGS" => {
                let file = end.split(['\n', '\t']).nth(1).unwrap_or_default();
                let older = if file == "bin.000004" { "bin.000003\t9\n" } else { "" };
                Ok(format!("{older}{file}\t9\n"))
            }
            Ok(answer) => Ok(answer.to_owned()),
            Err(words) => Err(failing(words)),
        };
        seen.differs(&ask, "SHOW MASTER STATUS").expect("an answer").is_some()
    }

    #[test]
    fn m09_a_reset_is_seen_also_when_the_numbers_have_gone_on() {
        let seen = at::<Mariadb>("bin.000003", 900, "0-7-22");
        for (end, place, expected) in [
            ("7\nbin.000003\t900\t\t", "0-7-22", false),
            ("7\nbin.000004\t380\t\t", "0-7-22", false),
            ("7\nbin.000009\t380\t\t", "NULL", false),
            ("7\nbin.000001\t9000\t\t", "NULL", true),
            ("7\nbin.000003\t800\t\t", "NULL", true),
            ("7\nbin.000003\t9000\t\t", "0-7-31", true),
            ("7\nbin.000004\t9000\t\t", "0-7-31", true),
            ("7\nbin.000003\t9000\t\t", "NULL", true),
            ("7\nbin.000004\t9000\t\t", "NULL", true),
            // Another server, promoted: it has the transactions, in files of its own.
            ("8\nbin.000001\t500\t\t", "NULL", false),
        ] {
            assert_eq!(reset(&seen, end, Ok(place)), expected, "{end} {place}");
        }
        const A: &str = "da579118-ea5f-11f1-9025-02fc00000001";
        let seen = at::<Mysql>("bin.000003", 900, &format!("{A}:1-22"));
        let event = |kind: &str, info: &str| format!("bin.000003\t900\t{kind}\t7\t979\t{info}");
        let gtid = |number: u64| event("Gtid", &format!("SET @@SESSION.GTID_NEXT= '{A}:{number}'"));
        let wrong =
            "ERROR 1220 (HY000) at line 1: Error when executing command SHOW BINLOG EVENTS: Wrong offset or I/O error";
        let absent =
            "ERROR 1220 (HY000) at line 1: Error when executing command SHOW BINLOG EVENTS: Could not find target log";
        for (end, place, expected) in [
            ("7\nbin.000003\t900\t\t\t", Ok(String::new()), false),
            ("7\nbin.000003\t990\t\t\t", Ok(gtid(23)), false),
            ("7\nbin.000004\t380\t\t\t", Ok(event("Rotate", "bin.000004;pos=4")), false),
            ("7\nbin.000009\t380\t\t\t", Err(absent), false),
            ("7\nbin.000001\t9000\t\t\t", Ok(String::new()), true),
            ("7\nbin.000003\t9000\t\t\t", Ok(gtid(9)), true),
            ("7\nbin.000003\t9000\t\t\t", Ok(event("Query", "BEGIN")), true),
            ("7\nbin.000004\t9000\t\t\t", Err(wrong), true),
            ("8\nbin.000001\t500\t\t\t", Err(wrong), false),
        ] {
            let said = place.as_ref().map(String::as_str).map_err(|words| *words);
            assert_eq!(reset(&seen, end, said), expected, "{end} {place:?}");
        }
    }

    #[test]
    fn a_place_is_noted_when_nothing_was_committed_during_the_look() {
        let look = |after: &str| Look {
            before: "0-7-22".parse().expect("a position"),
            micros: 1,
            after: after.parse().expect("a position"),
        };
        assert_eq!(
            Coordinates::<Mariadb>::read("7", "bin.000003\t900\t\t", &look("0-7-22")),
            Some(at("bin.000003", 900, "0-7-22"))
        );
        assert_eq!(Coordinates::<Mariadb>::read("7", "bin.000003\t900\t\t", &look("0-7-23")), None);
    }

    #[test]
    fn m13_a_production_that_moved_to_another_series_is_told() {
        let none = Installations::none(&Mariadb::PROGRAMS);
        let linked = Facts { version: "10.11.19-MariaDB".to_owned(), ..Facts::default() };
        assert_eq!(moved(&none, &linked, "10.11.21-MariaDB-log\n"), None);
        let link = moved(&none, &linked, "11.8.2-MariaDB-log\n");
        assert!(
            matches!(&link, Some(Link::Disconnected(why)) if why.contains("MariaDB 11.8") && why.contains("apt-get install")),
            "{link:?}"
        );
    }
}
