//! Whether production's binary log is still the one that the mirror followed (M-9). After `RESET MASTER`
//! production gives out the same numbers again, for other transactions: once it has passed the mirror's number, a
//! replica goes on from there and notices nothing. So it is remembered which place in production's files had which number;
//! whenever the mirror is connected anew, production is asked for the number of that place.
//!
//! # Crash consistency
//! What is remembered is written from time to time, not at each look: an older place says the same.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use pando_host::durable;
use serde::{Deserialize, Serialize};

use super::log::{Look, Position};
use super::production::query;
use super::{MariadbEngine, io as io_error, lock};
use crate::wire::literal;
use crate::{EngineError, Seat, Source};

/// How often what is remembered is written.
const WRITES: Duration = Duration::from_secs(30);
const RESET: &str = "production's binary log was reset";

/// A place in production's files, and what stands there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Coordinates {
    /// `@@server_id`: of another server the files are others.
    server: String,
    file: String,
    byte: u64,
    position: Position,
}

impl Coordinates {
    /// From a look, its `@@server_id` and its `SHOW MASTER STATUS`; none when something was committed meanwhile.
    pub fn read(server: &str, status: &str, look: &Look) -> Option<Self> {
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
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Noted {
    epoch: u32,
    at: Coordinates,
}

/// What was seen of production, by the mirror's log.
#[derive(Debug, Default)]
pub struct Seen {
    last: Mutex<HashMap<PathBuf, Noted>>,
    checked: Mutex<HashSet<PathBuf>>,
}

fn file(log: &Path) -> PathBuf {
    log.join("seen.json")
}

fn read(log: &Path) -> io::Result<Option<Noted>> {
    match std::fs::read(file(log)) {
        // Half a file is none.
        Ok(bytes) => Ok(serde_json::from_slice(&bytes).ok()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

impl Seen {
    /// What was seen last of a stretch. Asked before a look, so that looks at once do not contradict each other.
    pub fn of(&self, log: &Path, epoch: u32) -> Result<Option<Coordinates>, EngineError> {
        Ok(self.last(log)?.filter(|noted| noted.epoch == epoch).map(|noted| noted.at))
    }

    fn last(&self, log: &Path) -> Result<Option<Noted>, EngineError> {
        if let Some(noted) = lock(&self.last).get(log) {
            return Ok(Some(noted.clone()));
        }
        read(log).map_err(io_error("reading what was seen of production"))
    }

    /// Notes a place of the running stretch, where `last` was seen before. Why production is not the one it was, if
    /// it is not.
    pub fn note(
        &self,
        engine: &MariadbEngine,
        seat: &Seat,
        epoch: u32,
        last: Option<&Coordinates>,
        now: Coordinates,
    ) -> Result<Option<String>, EngineError> {
        if last.is_some_and(|last| last.is_behind(&now)) {
            return Ok(Some(format!("{RESET} (its files begin anew)")));
        }
        let due = last.is_none_or(|last| last.file != now.file);
        if due || engine.may_look(&format!("seen {}", seat.log.display()), WRITES) {
            let text = serde_json::to_vec(&Noted { epoch, at: now.clone() }).unwrap_or_default();
            durable::write_atomic(&file(&seat.log), &text, 0o600)
                .map_err(io_error("noting what was seen of production"))?;
        }
        lock(&self.last).insert(seat.log.clone(), Noted { epoch, at: now });
        Ok(None)
    }

    /// When the mirror receives again after a pause (also one of ours): asks production what stands at the place
    /// that was noted. Why it is not the production it was, if it is not.
    pub fn after_a_pause(
        &self,
        engine: &MariadbEngine,
        seat: &Seat,
        source: &Source,
        receives: bool,
    ) -> Result<Option<String>, EngineError> {
        if !receives {
            lock(&self.checked).remove(&seat.log);
            return Ok(None);
        }
        if lock(&self.checked).contains(&seat.log) {
            return Ok(None);
        }
        let epoch = engine.log(&seat.log)?.current_epoch();
        if let Some(at) = epoch.map(|epoch| self.of(&seat.log, epoch)).transpose()?.flatten() {
            let sql = format!(
                "SELECT @@server_id; SHOW MASTER STATUS; SELECT BINLOG_GTID_POS({}, {})",
                literal(&at.file),
                at.byte
            );
            let facts = engine.facts(source)?;
            let answer = query(engine.installations.of(facts.series)?, engine.account.as_ref(), &source.url, &sql)?;
            if let Some(why) = differs(&at, &answer) {
                return Ok(Some(why));
            }
        }
        lock(&self.checked).insert(seat.log.clone());
        Ok(None)
    }
}

/// What production answers of a place, against what was seen there.
fn differs(seen: &Coordinates, answer: &str) -> Option<String> {
    let lines: Vec<&str> = answer.lines().collect();
    let [server, status, position] = lines.as_slice() else { return None };
    if *server != seen.server {
        return None;
    }
    let nowhere = Look { before: Position::default(), micros: 0, after: Position::default() };
    let now = Coordinates::read(server, status, &nowhere)?;
    if seen.is_behind(&now) {
        return Some(format!("{RESET} (its files begin anew)"));
    }
    // NULL: the file was dropped since, or there is no such place in it.
    match position.parse::<Position>() {
        Ok(position) if position == seen.position => None,
        Err(()) if *position == "NULL" && now.file != seen.file => None,
        _ => Some(format!("{RESET}: at {} of {} stands {position}, not {}", seen.byte, seen.file, seen.position)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(file: &str, byte: u64, position: &str) -> Coordinates {
        let position = position.parse().expect("a position");
        Coordinates { server: "7".to_owned(), file: file.to_owned(), byte, position }
    }

    #[test]
    fn m09_a_reset_is_seen_also_when_the_numbers_have_gone_on() {
        let seen = at("bin.000003", 900, "0-7-22");
        for (answer, reset) in [
            ("7\nbin.000003\t900\t\t\n0-7-22", false),
            ("7\nbin.000004\t380\t\t\n0-7-22", false),
            ("7\nbin.000009\t380\t\t\nNULL", false),
            ("7\nbin.000001\t9000\t\t\nNULL", true),
            ("7\nbin.000003\t800\t\t\nNULL", true),
            ("7\nbin.000003\t9000\t\t\n0-7-31", true),
            ("7\nbin.000004\t9000\t\t\n0-7-31", true),
            ("7\nbin.000003\t9000\t\t\nNULL", true),
            // Another server, promoted: it has the transactions, in files of its own.
            ("8\nbin.000001\t500\t\t\nNULL", false),
        ] {
            assert_eq!(differs(&seen, answer).is_some(), reset, "{answer}");
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
            Coordinates::read("7", "bin.000003\t900\t\t", &look("0-7-22")),
            Some(at("bin.000003", 900, "0-7-22"))
        );
        assert_eq!(Coordinates::read("7", "bin.000003\t900\t\t", &look("0-7-23")), None);
    }
}
