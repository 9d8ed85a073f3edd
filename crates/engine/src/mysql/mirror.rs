//! The mirror: a replica with one connection to production. What it receives is the log, what it has applied is the
//! data; the one may run ahead of the other.
//!
//! ```text
//! production ══ one replication connection (GTID) ══▶ relay log = LOG/epoch-N/live ──▶ applied by the mirror
//!      └───── a look each second: transactions and clock (`mysql`) ──▶ up to when is the log complete?
//! ```
//!
//! Production's password is given to the thread that receives, at its start, and never to `CHANGE REPLICATION SOURCE`:
//! that would keep it in a table, and so in each snapshot and clone (M-2).
//!
//! # Crash consistency
//! What a pulse promises was synced by `BinLog::advance` before. What the mirror has applied is known to InnoDB itself
//! (`gtid_executed`): after any crash it asks production again from there, and what the log has already counts once.

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use pando_host::{Clock, SystemClock, durable};
use pando_model::Lsn;

use super::config::{self, Before, Place};
use super::facts::Facts;
use super::first::{dump_dir, position_of};
use super::log::{BinLog, Look};
use super::production::query;
use super::tree::{Mark, Tree};
use super::{MysqlEngine, io as io_error};
use crate::binlog::dialect::Position as _;
use crate::session::{connect, failed, socket};
use crate::wire::{ClientError, Rows, Session, literal};
use crate::{EngineError, Link, Pulse, Seat, Source, UnitPlan, seat};

/// How often production is looked at.
const LOOKS: Duration = Duration::from_secs(1);
/// What a server has, on one line.
pub const EXECUTED: &str = "SELECT REPLACE(@@GLOBAL.gtid_executed, '\\n', '')";
/// A server's clock.
pub const CLOCK: &str = "SELECT UNIX_TIMESTAMP(NOW(6)) * 1000000 DIV 1";

pub fn place<'a>(seat: &'a Seat, source: &Source, facts: &Facts) -> Place<'a> {
    Place { data: &seat.data, run: &seat.run, server_id: config::server_id(&source.tag, facts) }
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Turns the copy into a mirror and begins a stretch of the log.
pub fn settle(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    let account = seat.account.as_ref();
    let begin = position_of(&dump_dir(seat).join("dump.sql"))?;
    let log = engine.log(&seat.log)?;
    let epoch = log.begin_epoch(&begin, account)?;
    let version = engine.installations.of(facts.series())?.version;
    let tree = Tree { epoch: Some(epoch), version, ..Tree::default() };
    tree.configure(&place(seat, source, &facts), &facts, &log.live(epoch), &Before::Nothing, account)?;
    // What the first copy has is said to the mirror when it is first asked to follow.
    Mark { epoch, position: begin, place: None }.write(&seat.data, account)?;
    durable::remove_tree_if_there(&dump_dir(seat)).map(drop).map_err(io_error("removing the first copy's dump"))
}

/// A server's unit on a tree.
pub fn server(engine: &MysqlEngine, facts: &Facts, seat: &Seat) -> Result<UnitPlan, EngineError> {
    let installation = engine.installations.of(facts.series())?;
    Ok(UnitPlan {
        role: "server",
        program: installation.tool("mysqld")?.path().to_owned(),
        args: vec![
            format!("--defaults-file={}", text(&seat.data.join(config::FILE))),
            format!("--basedir={}", text(&installation.prefix)),
        ],
        env: std::collections::BTreeMap::new(),
        dir: seat.data.clone(),
        account: seat.account.clone(),
        // It does not begin while a process of this number lives.
        locks: vec![socket(&seat.run).with_extension("lock")],
        stop_by_interrupt: false,
        stop_grace_seconds: 60,
    })
}

/// The unit that keeps the mirror up to date. The server begins to receive anew.
pub fn follow(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    engine.sessions.drop(&seat.run);
    let log = engine.log(&seat.log)?;
    let epoch = log.current_epoch().ok_or_else(|| EngineError::Invalid("the mirror has no log yet".to_owned()))?;
    log.clear_live(epoch)?;
    // After a reboot the directory for sockets is gone.
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let version = engine.installations.of(facts.series())?.version;
    Tree::read(&seat.data)?.suits(version)?;
    let tree = Tree { epoch: Some(epoch), version, ..Tree::default() };
    tree.configure(&place(seat, source, &facts), &facts, &log.live(epoch), &Before::Nothing, seat.account.as_ref())?;
    server(engine, &facts, seat)
}

/// Who the receiving thread is on production.
fn credentials(source: &Source) -> String {
    format!(
        "USER = {} PASSWORD = {}",
        literal(source.url.user.as_deref().unwrap_or("root")),
        literal(source.url.password.as_deref().unwrap_or_default())
    )
}

/// Where production is.
fn change(source: &Source, facts: &Facts) -> String {
    let url = &source.url;
    let mut change = format!(
        "CHANGE REPLICATION SOURCE TO SOURCE_HOST={}, SOURCE_PORT={}, SOURCE_AUTO_POSITION=1, SOURCE_CONNECT_RETRY=1, \
         SOURCE_RETRY_COUNT=1000000, SOURCE_HEARTBEAT_PERIOD=2, GET_SOURCE_PUBLIC_KEY=1",
        literal(url.host.as_deref().unwrap_or("127.0.0.1")),
        url.port.unwrap_or(3306),
    );
    if facts.tls() {
        change.push_str(", SOURCE_SSL=1");
    }
    if url.query.get("ssl-mode").is_some_and(|mode| mode.eq_ignore_ascii_case("VERIFY_IDENTITY")) {
        change.push_str(", SOURCE_SSL_VERIFY_SERVER_CERT=1");
    }
    for (name, option) in [("ssl-ca", "SOURCE_SSL_CA"), ("ssl-cert", "SOURCE_SSL_CERT"), ("ssl-key", "SOURCE_SSL_KEY")]
    {
        if let Some(value) = url.query.get(name) {
            change.push_str(&format!(", {option}={}", literal(value)));
        }
    }
    change
}

/// Tells the mirror where production is, and to follow it. What it received before is in the log under our names.
fn begin_following(engine: &MysqlEngine, seat: &Seat, source: &Source, log: &BinLog) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    log.advance(None)?;
    let first = Mark::read(&seat.data)?.filter(|_| !engine.sessions.is_held(&seat.run));
    let begun = engine.sessions.with(&seat.run, |session| {
        session.run(["STOP REPLICA", "RESET REPLICA ALL"])?;
        let known = session.query(EXECUTED)?;
        if let Some(mark) = &first
            && known.first(0).unwrap_or_default().is_empty()
        {
            session.query(&format!("SET GLOBAL gtid_purged = {}", literal(&mark.position.to_string())))?;
        }
        session.query(&change(source, &facts))?;
        session.query(&format!("START REPLICA {}", credentials(source)))
    });
    begun.map_err(failed("telling the mirror to follow production"))?;
    if first.is_some() { Mark::clear(&seat.data) } else { Ok(()) }
}

fn status(engine: &MysqlEngine, seat: &Seat) -> Result<Rows, ClientError> {
    engine.sessions.with(&seat.run, |session| session.query("SHOW REPLICA STATUS"))
}

/// The server's own number of the relay log it applies.
fn passed(status: &Rows) -> Option<u64> {
    status.value("Relay_Log_File")?.rsplit('.').next()?.parse().ok()
}

/// Whether the mirror was just started: it knows of no production, or stands still without having tried.
fn is_fresh(status: &Rows) -> bool {
    let value = |name: &str| status.value(name).unwrap_or_default();
    status.rows.is_empty() || value("Replica_IO_Running") == "No" && value("Last_IO_Errno") == "0"
}

/// What the mirror says of its two threads.
fn link_of(engine: &MysqlEngine, seat: &Seat, source: &Source, status: &Rows) -> Link {
    let value = |name: &str| status.value(name).unwrap_or_default();
    let error = |number: &str, words: &str| {
        let number: u32 = value(number).parse().unwrap_or(0);
        (number != 0).then(|| (number, value(words).to_owned()))
    };
    if let Some((number, words)) = error("Last_SQL_Errno", "Last_SQL_Error") {
        return Link::Lost(format!("the mirror cannot apply what production did: {words} (error {number})"));
    }
    let receives = value("Replica_IO_Running");
    let again = || restart(engine, seat, receives == "No", &format!("START REPLICA IO_THREAD {}", credentials(source)));
    if let Some((number, words)) = error("Last_IO_Errno", "Last_IO_Error") {
        // ER_SOURCE_FATAL_ERROR_READING_BINLOG, by the number of the client or that of the log: what is needed next is
        // gone, or production has less than the mirror had from it.
        if matches!(number, 1236 | 13114) {
            return Link::Lost(format!("production has dropped binary log that the mirror still needed: {words}"));
        }
        again();
        return Link::Disconnected(format!("{words} (error {number})"));
    }
    if receives != "Yes" {
        again();
        return Link::Disconnected("the mirror is connecting to production".to_owned());
    }
    let stopped = value("Replica_SQL_Running") != "Yes" && !engine.sessions.is_held(&seat.run);
    restart(engine, seat, stopped, "START REPLICA SQL_THREAD");
    Link::Following
}

fn restart(engine: &MysqlEngine, seat: &Seat, stopped: bool, statement: &str) {
    if stopped && let Err(error) = engine.sessions.with(&seat.run, |session| session.query(statement)) {
        tracing::debug!(%error, "a thread of the mirror could not be started");
    }
}

/// What production has, its clock, and what it has, in this order.
fn look(engine: &MysqlEngine, facts: &Facts, source: &Source) -> Result<Look, EngineError> {
    let client = engine.installations.of(facts.series())?.tool("mysql")?;
    let sql = format!("{EXECUTED}; {CLOCK}; {EXECUTED}");
    let answer = query(&client, engine.account.as_ref(), &source.url, &sql)?;
    let lines: Vec<&str> = answer.lines().collect();
    let read = |lines: &[&str]| -> Option<Look> {
        let [before, micros, after] = lines else { return None };
        Some(Look { before: before.parse().ok()?, micros: micros.trim().parse().ok()?, after: after.parse().ok()? })
    };
    read(&lines).ok_or_else(|| EngineError::Invalid(format!("production's position cannot be read: {answer:?}")))
}

/// Lets the log advance and says how far it is.
pub fn pulse(engine: &MysqlEngine, seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError> {
    let log = engine.log(&seat.log)?;
    let away = |changed: bool, why: String| Pulse { link: Link::Disconnected(why), through: log.through(), changed };
    let mut status = match status(engine, seat) {
        Ok(status) => status,
        Err(error) => {
            return Ok(away(log.advance(None)?, format!("the mirror's server does not answer: {}", reason(&error))));
        }
    };
    let fresh = is_fresh(&status) && !engine.sessions.is_held(&seat.run);
    // What a server that was just started calls its files is not known yet.
    let mut changed = log.advance(passed(&status).filter(|_| !fresh))?;
    if fresh {
        begin_following(engine, seat, source, &log)?;
        status = self::status(engine, seat).map_err(failed("asking the mirror"))?;
    }
    let mut link = link_of(engine, seat, source, &status);
    let mut through = None;
    if link == Link::Following && (urgent || engine.may_look(&source.tag, LOOKS)) {
        (link, through) = ask(engine, &log, source, urgent, &mut changed)?;
    }
    let through = match link {
        // Asked for and not come: an older time would hide that the log does not flow.
        Link::Following if urgent => through,
        _ => log.through(),
    };
    Ok(Pulse { link, through, changed })
}

/// Looks at production and waits a little until the log has come so far.
fn ask(
    engine: &MysqlEngine,
    log: &BinLog,
    source: &Source,
    urgent: bool,
    changed: &mut bool,
) -> Result<(Link, Option<Timestamp>), EngineError> {
    let Some(epoch) = log.current_epoch() else { return Ok((Link::Following, None)) };
    let had = log.position(epoch)?;
    let facts = engine.facts(source)?;
    let look = match look(engine, &facts, source) {
        Ok(look) => look,
        Err(error) => return Ok((Link::Disconnected(reason(&error)), None)),
    };
    if !look.after.reaches(&had) {
        let text = "production's binary log was reset (it has less than the mirror had from it)";
        return Ok((Link::Lost(text.to_owned()), None));
    }
    for attempt in 0..if urgent { 400 } else { 40 } {
        if log.look(&look)? {
            return Ok((Link::Following, Timestamp::from_microsecond(look.micros).ok()));
        }
        if attempt > 0 {
            SystemClock.sleep(Duration::from_millis(5));
        }
        *changed |= log.advance(None)?;
    }
    Ok((Link::Following, None))
}

fn reason(error: &dyn std::error::Error) -> String {
    error.source().map_or_else(|| error.to_string(), ToString::to_string)
}

/// Stands the mirror still between two transactions, everything on disk (M-3, M-4, M-5), and notes where it stands.
pub fn hold(engine: &MysqlEngine, seat: &Seat) -> Result<(), EngineError> {
    if engine.sessions.is_held(&seat.run) {
        return Ok(());
    }
    let epoch = Tree::read(&seat.data)?.epoch.unwrap_or(0);
    let held = || -> Result<_, ClientError> {
        let mut session = connect(&seat.run)?;
        session.query("SET SESSION lock_wait_timeout = 60")?;
        stop_applying(&mut session)?;
        match session.run(STILL).and_then(|_| session.query(EXECUTED)) {
            Ok(rows) => Ok((session, rows.first(0).unwrap_or_default().to_owned())),
            Err(error) => {
                session.query("START REPLICA SQL_THREAD")?;
                Err(error)
            }
        }
    };
    let (session, position) = held().map_err(failed("holding the mirror still"))?;
    let position = position.parse().map_err(EngineError::Invalid)?;
    engine.sessions.hold(&seat.run, session);
    Mark { epoch, position, place: None }.write(&seat.data, seat.account.as_ref())
}

/// What makes a server's files whole for every storage engine, until the session ends: nothing is written and nothing
/// commits, and the redo log is on disk up to the last commit.
pub const STILL: [&str; 2] = ["FLUSH TABLES WITH READ LOCK", "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS"];

/// Stops between two transactions, at a place where no temporary table is open (M-15): it would not be in the tree.
fn stop_applying(session: &mut Session) -> Result<(), ClientError> {
    const TRIES: u32 = 100;
    for attempt in 0..TRIES {
        session.query("STOP REPLICA SQL_THREAD")?;
        let open = session.query("SHOW GLOBAL STATUS LIKE 'Replica_open_temp_tables'")?;
        if open.first(1).is_none_or(|count| count == "0") || attempt + 1 == TRIES {
            break;
        }
        session.query("START REPLICA SQL_THREAD")?;
        SystemClock.sleep(Duration::from_millis(50));
    }
    Ok(())
}

/// Lets the mirror go on.
pub fn release(engine: &MysqlEngine, seat: &Seat) -> Result<(), EngineError> {
    let Some(mut session) = engine.sessions.release(&seat.run) else { return Ok(()) };
    Mark::clear(&seat.data)?;
    session.run(["UNLOCK TABLES", "START REPLICA SQL_THREAD"]).map(drop).map_err(failed("letting the mirror go on"))
}

/// The place and the time of a mirror's tree. What it has was received, so the log has it, or will in a moment.
pub fn stands(
    engine: &MysqlEngine,
    log: &BinLog,
    source: &Source,
    mark: &Mark,
) -> Result<(Lsn, Option<Timestamp>), EngineError> {
    for _ in 0..1000 {
        if log.position(mark.epoch)?.reaches(&mark.position) {
            break;
        }
        SystemClock.sleep(Duration::from_millis(5));
        log.advance(None)?;
    }
    // Seen now, so committed by now: without it the tree would count from the end of its last second.
    let _ = ask(engine, log, source, false, &mut false);
    let at = log.place_of(mark.epoch, &mark.position)?;
    Ok((at, log.time_of(mark.epoch, at)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn m02_what_a_mirror_is_told_for_keeps_has_no_password() -> Result<(), pando_model::SourceUrlError> {
        let url = "mysql://rep:hunter2@db/blog?ssl-mode=VERIFY_IDENTITY".parse()?;
        let source = Source { url, exclude: Vec::new(), facts: serde_json::Value::Null, tag: "t".to_owned() };
        let kept = change(&source, &Facts::default());
        assert!(!kept.contains("hunter2") && !kept.contains("USER"), "{kept}");
        assert!(kept.contains("SOURCE_SSL_VERIFY_SERVER_CERT=1") && credentials(&source).contains("hunter2"));
        Ok(())
    }
}
