//! The mirror: a replica of production that notes the time in its append-only file (R-1), which is taken into
//! the log.
//!
//! ```text
//! production ══ one replication link ══▶ redis-server (ours, socket only) ── increments ──▶ LOG/epoch-N
//!      ▲────────── how far are you? ─── pulse ── have you got there? ───▲
//! ```
//!
//! A start of the server, and a link that was gone for longer than production remembers, means that production
//! is copied anew: the log begins an epoch, and what was before stays as it is (R-6).

use std::collections::BTreeMap;

use jiff::Timestamp;

use super::client::{Client, ClientError};
use super::log::Advance;
use super::production::{self, Position};
use super::{RedisEngine, tree};
use crate::postgres::tree::{empty, private_dir};
use crate::{EngineError, Link, Pulse, Seat, Source, UnitPlan};

/// An increment so large is rewritten into a base, and no smaller than the base.
const REWRITE: u64 = 64 << 20;

/// Empties the place for the mirror's data. The replica copies production itself when it begins to follow: here it
/// only shows that it can be run.
pub fn ingest(engine: &RedisEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let (_, installation) = engine.installation(source)?;
    private_dir(&seat.data, seat.account.as_ref())?;
    empty(&seat.data)?;
    let plan = server(installation.program(), std::path::Path::new("--version"), seat);
    Ok(UnitPlan { role: "ingest", ..plan })
}

/// The units that keep the mirror up to date.
pub fn follow(engine: &RedisEngine, seat: &Seat, source: &Source) -> Result<Vec<UnitPlan>, EngineError> {
    let (facts, installation) = engine.installation(source)?;
    private_dir(&seat.run, seat.account.as_ref())?;
    engine.sessions().drop(&seat.run);
    // One that listens goes on as it is, though the runtime may not have noticed it yet.
    if Client::unix(&tree::socket(&seat.run)).is_err() {
        begin(engine, seat)?;
    }
    tree::write_users(seat)?;
    let conf = tree::mirror_conf(seat, source, &facts)?;
    Ok(vec![server(installation.program(), &conf, seat)])
}

/// Before a start: whatever the server loads, it copies production anew, into increments behind those there are.
fn begin(engine: &RedisEngine, seat: &Seat) -> Result<(), EngineError> {
    let before = super::aof::Manifest::read(&seat.data)?.map_or(0, |manifest| manifest.newest());
    if let Some(known) = tree::stretch(&seat.data)?
        && let Err(error) = engine.log(&seat.log).advance(&seat.data, &known, None, false, None)
    {
        // What was taken in before stays good.
        tracing::warn!(%error, "the end of the log of a mirror that was stopped could not be read");
    }
    tree::begin_stretch(seat, before, 0)
}

/// A server's unit.
pub fn server(program: &std::path::Path, conf: &std::path::Path, seat: &Seat) -> UnitPlan {
    UnitPlan {
        role: "server",
        program: program.to_owned(),
        args: vec![conf.to_string_lossy().into_owned()],
        env: BTreeMap::new(),
        dir: seat.data.clone(),
        account: seat.account.clone(),
        locks: Vec::new(),
        stop_by_interrupt: false,
        stop_grace_seconds: 30,
    }
}

/// What one look at our own server told.
struct Look {
    primary: bool,
    /// Why it does not follow.
    trouble: Option<Link>,
    /// It follows, and its files stand on what it follows.
    settled: bool,
    history: String,
    offset: u64,
    keys: u64,
    rewriting: bool,
    base: u64,
}

fn look(client: &mut Client) -> Result<Look, ClientError> {
    let info = client.info(None)?;
    let value = |name: &str| info.get(name).map(String::as_str).unwrap_or_default();
    let number = |name: &str| value(name).parse::<u64>().unwrap_or(0);
    let primary = value("role") == "master";
    let rewriting = number("aof_rewrite_in_progress") == 1 || number("aof_rewrite_scheduled") == 1;
    let trouble = if primary || value("master_link_status") == "up" {
        None
    } else if value("master_sync_in_progress") == "1" {
        let (done, total) = (number("master_sync_read_bytes"), number("master_sync_total_bytes"));
        let of = if total > 0 { format!(" of {} MB", total >> 20) } else { String::new() };
        Some(Link::Copying(format!("production is being copied: {} MB{of}", done >> 20)))
    } else {
        Some(Link::Disconnected("production does not answer the mirror".to_owned()))
    };
    let keys = info
        .iter()
        .filter(|(name, _)| name.strip_prefix("db").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit())))
        .filter_map(|(_, value)| value.strip_prefix("keys=")?.split(',').next()?.parse::<u64>().ok())
        .sum();
    Ok(Look {
        primary,
        settled: trouble.is_none() && number("aof_enabled") == 1 && !rewriting,
        trouble,
        history: value("master_replid").to_owned(),
        offset: number(if primary { "master_repl_offset" } else { "slave_repl_offset" }),
        keys,
        rewriting,
        base: number("aof_base_size"),
    })
}

/// Lets the log advance and says how far it is.
pub fn pulse(engine: &RedisEngine, seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError> {
    let Some(stretch) = tree::stretch(&seat.data)? else {
        let link = Link::Disconnected("no log is kept of it".to_owned());
        return Ok(Pulse { link, through: None, changed: false });
    };
    let away = |why: String| Ok(Pulse { link: Link::Disconnected(why), through: None, changed: false });
    let mut own = match engine.own(seat, look) {
        Ok(own) => own,
        Err(error) => return away(format!("the mirror's server does not answer: {}", cause(&error))),
    };
    let production = if own.primary { Ok(None) } else { engine.production(source, production::position).map(Some) };
    let target = match &production {
        Ok(position) => position.clone(),
        Err(error) if urgent => return away(format!("production does not answer: {}", cause(error))),
        Err(_) => None,
    };
    let arrived = |own: &Look, target: &Position| own.history == target.history && own.offset >= target.offset;
    if let Some(target) = &target {
        for _ in 0..if urgent { 400 } else { 3 } {
            if own.trouble.is_some() || arrived(&own, target) {
                break;
            }
            engine.wait(5);
            own = match engine.own(seat, look) {
                Ok(own) => own,
                Err(error) => return away(format!("the mirror's server does not answer: {}", cause(&error))),
            };
        }
    }
    let log = engine.log(&seat.log);
    let advanced = log.advance(&seat.data, &stretch, None, own.settled, Some(own.keys))?;
    if let Some(before) = advanced.copied_anew.filter(|before| !own.primary && own.keys < before.div_ceil(2)) {
        // R-6: what is left of production is followed from here on; what it was stays in the timeline.
        let why = format!("production came back with {} keys where it had about {before}", own.keys);
        return Ok(Pulse { link: Link::Lost(why), through: None, changed: true });
    }
    maintain(engine, seat, &own, &advanced)?;
    // While a copy is being written down, the increment there is ends before it.
    let flows = advanced.end > 0 || log.current(&stretch)?.is_some();
    let flows = flows && (!own.rewriting || advanced.rewriting);
    let through = match &target {
        _ if !flows => None,
        // What was written before production was asked is in it, and nothing of after this time.
        _ if own.primary => Some(advanced.at),
        Some(target) if own.trouble.is_none() && arrived(&own, target) => Some(advanced.at),
        _ => None,
    };
    // What is shown is what is kept: whole microseconds.
    let through = through.and_then(|time| Timestamp::from_microsecond(time.as_microsecond()).ok());
    if let Some(through) = through {
        log.note_through(through)?;
    }
    let link = match (own.trouble, production) {
        (Some(_), Err(error)) => Link::Disconnected(format!("production does not answer: {}", cause(&error))),
        (Some(trouble), Ok(_)) => trouble,
        (None, _) if !flows => Link::Disconnected("the copy of production is being written down".to_owned()),
        (None, _) => Link::Following,
    };
    Ok(Pulse { link, through, changed: advanced.changed })
}

fn cause(error: &EngineError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Rewrites on our own schedule (R-3), and drops files once the log has them.
fn maintain(engine: &RedisEngine, seat: &Seat, own: &Look, advanced: &Advance) -> Result<(), EngineError> {
    if own.rewriting {
        return Ok(());
    }
    if advanced.history {
        return engine.own(seat, |client| {
            client.call(&["CONFIG", "SET", "aof-disable-auto-gc", "no"])?;
            client.call(&["CONFIG", "SET", "aof-disable-auto-gc", "yes"]).map(drop)
        });
    }
    if own.settled && advanced.increment > engine.rewrite_above().max(own.base) {
        rewrite(engine, seat)?;
    }
    Ok(())
}

/// Begins a rewrite, and sees to it that the log goes on in the new increment.
pub fn rewrite(engine: &RedisEngine, seat: &Seat) -> Result<(), EngineError> {
    engine.own(seat, |client| match client.call(&["BGREWRITEAOF"]) {
        // Another look was quicker.
        Err(ClientError::Refused(why)) if why.contains("in progress") => Ok(()),
        other => other.map(drop),
    })?;
    // Both increments stand in the manifest from the moment of the answer until the new base is whole.
    if let Some(stretch) = tree::stretch(&seat.data)? {
        engine.log(&seat.log).advance(&seat.data, &stretch, None, false, None)?;
    }
    Ok(())
}

/// The default for [`RedisEngine::rewrite_above`].
pub const fn rewrite_default() -> u64 {
    REWRITE
}

/// Errors of the mirror's log that say why it does not follow. It tries again by itself, every second.
pub fn diagnose(log: &str) -> Option<Link> {
    const TELLING: [&str; 6] = [
        "Unable to AUTH to MASTER",
        "Can't handle RDB format version",
        "MASTER aborted replication with an error",
        "module I don't have",
        "Unexpected reply to PSYNC from master",
        "Failed trying to load the MASTER synchronization DB",
    ];
    let line = log.lines().rev().find(|line| TELLING.iter().any(|text| line.contains(text)))?;
    let later = log.rsplit(line).next().unwrap_or_default();
    if later.contains("Finished with success") {
        return None;
    }
    let words = line.split_once(" # ").map_or(line, |(_, words)| words);
    Some(Link::Disconnected(words.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reason_is_read_from_the_mirrors_log() {
        let log =
            "99:S 21 Nov 2026 04:37:14.194 # Unable to AUTH to MASTER: -WRONGPASS invalid\n99:S 21 Nov * Connecting\n";
        assert_eq!(diagnose(log), Some(Link::Disconnected("Unable to AUTH to MASTER: -WRONGPASS invalid".to_owned())));
        assert_eq!(diagnose(&format!("{log}99:S * MASTER <-> REPLICA sync: Finished with success\n")), None);
    }
}
