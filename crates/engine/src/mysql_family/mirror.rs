//! The mirror: a replica with one connection to production. What it receives is the log, what it has applied is the
//! data; the one may run ahead of the other.
//!
//! ```text
//! production ══ one replication connection (GTID) ══▶ relay log = LOG/epoch-N/live ──▶ applied by the mirror
//!      └───── a look twice a second: position and clock (its client) ──▶ up to when is the log complete?
//! ```
//!
//! # Crash consistency
//! What a pulse promises was synced by `BinLog::advance` before. What the mirror has applied is known to InnoDB itself:
//! after any crash it asks production again from there, and what the log has already counts once. What the log lacks of that is
//! received first (`refill.rs`).

use std::path::Path;
use std::time::Duration;

use jiff::Timestamp;
use pando_host::{Clock, SystemClock};
use pando_model::Lsn;

use super::FamilyEngine;
use super::binlog::dialect::Position as _;
use super::binlog::{BinLog, Look};
use super::config::{self, Before, Place};
use super::facts::Facts;
use super::flavor::Flavor;
use super::identity::Coordinates;
use super::refill;
use super::session::{connect, failed};
use super::tree::{Mark, Tree, clear_mark};
use super::wire::{ClientError, Rows, Session, literal};
use super::zone;
use crate::{EngineError, Link, Pulse, Seat, Source, UnitPlan, seat};

/// How often production is looked at: the timeline lags by as much.
const LOOKS: Duration = Duration::from_millis(500);
/// A server's clock. What it shows in its own zone would be two moments in the hour that a change of it repeats.
pub const CLOCK: &str = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', UTC_TIMESTAMP(6))";

pub fn place<'a>(seat: &'a Seat, source: &Source, facts: &Facts) -> Place<'a> {
    Place { data: &seat.data, run: &seat.run, server_id: config::server_id(&source.tag, facts) }
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// A server's unit on a tree.
pub fn server<F: Flavor>(engine: &FamilyEngine<F>, facts: &Facts, seat: &Seat) -> Result<UnitPlan, EngineError> {
    let installation = engine.installation(facts)?;
    Ok(UnitPlan {
        role: "server",
        program: installation.tool(F::PROGRAMS.server)?.path().to_owned(),
        args: vec![
            format!("--defaults-file={}", text(&seat.data.join(config::FILE))),
            format!("--basedir={}", text(&installation.prefix)),
        ],
        env: zone::environment(facts),
        dir: seat.data.clone(),
        account: seat.account.clone(),
        locks: F::locks(&seat.run),
        stop_by_interrupt: false,
        stop_grace_seconds: 60,
    })
}

/// The unit that keeps the mirror up to date. The server begins to receive anew.
pub fn follow<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let before = Tree::<F>::read(&seat.data)?;
    let facts = engine.facts_of(Some(&before), source)?;
    engine.sessions.drop(&seat.run);
    let log = engine.log(&seat.log)?;
    let epoch = log.current_epoch().ok_or_else(|| EngineError::Invalid("the mirror has no log yet".to_owned()))?;
    log.clear_live(epoch)?;
    // After a reboot the directory for sockets is gone.
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let version = engine.installation(&facts)?.version;
    before.suits(version)?;
    let tree = Tree::<F>::of_mirror(Some(epoch), version, &facts);
    tree.configure(&place(seat, source, &facts), &facts, &log.live(epoch), &Before::Nothing, seat.account.as_ref())?;
    server(engine, &facts, seat)
}

/// Tells the mirror where production is, and to follow it. What it received before is in the log under our names; what that
/// lacks of what the mirror has applied is received before more is applied.
fn begin_following<F: Flavor>(
    engine: &FamilyEngine<F>,
    log: &BinLog<F>,
    seat: &Seat,
    source: &Source,
) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    let first = Mark::<F>::read(&seat.data)?.filter(|_| !engine.sessions.is_held(&seat.run));
    let stopped = engine.sessions.with(&seat.run, |session| {
        session.run(["STOP REPLICA", "RESET REPLICA ALL"])?;
        let known = session.query(F::APPLIED)?;
        if let Some(mark) = &first
            && known.first(0).unwrap_or_default().is_empty()
        {
            session.query(&format!("SET GLOBAL {} = {}", F::BEGINS, literal(&mark.position.to_string())))?;
            return Ok(mark.position.to_string());
        }
        Ok(known.first(0).unwrap_or_default().to_owned())
    });
    let applied = position::<F>(&stopped.map_err(failed(FOLLOWING))?)?;
    let refills = match log.current_epoch() {
        Some(epoch) => refill::begin(engine, log, epoch, seat, &facts, &applied)?,
        None => false,
    };
    let threads = if refills { " IO_THREAD" } else { "" };
    let begun = engine.sessions.with(&seat.run, |session| {
        session.query(&F::change(&source.url, &facts))?;
        session.query(&format!("START REPLICA{threads}{}", F::credentials(&source.url)))
    });
    begun.map_err(failed(FOLLOWING))?;
    if first.is_some() { clear_mark(&seat.data) } else { Ok(()) }
}

const FOLLOWING: &str = "telling the mirror to follow production";

fn position<F: Flavor>(text: &str) -> Result<F::Position, EngineError> {
    text.parse().map_err(|_| EngineError::Invalid(format!("{text:?} is not a position")))
}

fn status<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat) -> Result<Rows, ClientError> {
    engine.sessions.with(&seat.run, |session| session.query("SHOW REPLICA STATUS"))
}

/// The server's own number of the relay log it applies.
fn passed(status: &Rows) -> Option<u64> {
    status.value("Relay_Log_File")?.rsplit('.').next()?.parse().ok()
}

/// What the mirror says of its two threads.
fn link_of<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source, status: &Rows, refills: bool) -> Link {
    let value = |name: &str| status.value(name).unwrap_or_default();
    let thread = |name: &str| value(&format!("{}_{name}_Running", F::REPLICA)).to_owned();
    let error = |number: &str, words: &str| {
        let number: u32 = value(number).parse().unwrap_or(0);
        (number != 0).then(|| (number, value(words).to_owned()))
    };
    if let Some((number, words)) = error("Last_SQL_Errno", "Last_SQL_Error") {
        return Link::Lost(format!("the mirror cannot apply what production did: {words} (error {number})"));
    }
    let receives = thread("IO");
    let again = || {
        let statement = format!("START REPLICA IO_THREAD{}", F::credentials(&source.url));
        restart(engine, seat, receives == "No", &statement);
    };
    if let Some((number, words)) = error("Last_IO_Errno", "Last_IO_Error") {
        if F::GONE.contains(&number) {
            return Link::Lost(format!("production has dropped binary log that the mirror still needed: {words}"));
        }
        again();
        return Link::Disconnected(format!("{words} (error {number})"));
    }
    if receives != "Yes" {
        again();
        return Link::Disconnected("the mirror is connecting to production".to_owned());
    }
    let stopped = thread("SQL") != "Yes" && !refills && !engine.sessions.is_held(&seat.run);
    restart(engine, seat, stopped, "START REPLICA SQL_THREAD");
    Link::Following
}

fn restart<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, stopped: bool, statement: &str) {
    if stopped && let Err(error) = engine.sessions.with(&seat.run, |session| session.query(statement)) {
        tracing::debug!(%error, "a thread of the mirror could not be started");
    }
}

/// A look at production, and where that is in its files.
type Looked<F> = (Look<<F as super::binlog::dialect::Dialect>::Position>, Option<Coordinates<F>>);

/// Position, clock and position of production, in this order; and where that is in its files.
fn look<F: Flavor>(engine: &FamilyEngine<F>, facts: &Facts, source: &Source) -> Result<Looked<F>, EngineError> {
    let committed = F::COMMITTED;
    let end = F::log_status(facts.numbers());
    let answer = engine.ask(facts, source, &format!("{committed}; {CLOCK}; SELECT @@server_id; {end}; {committed}"))?;
    let lines: Vec<&str> = answer.lines().collect();
    let read = |lines: &[&str]| -> Option<Looked<F>> {
        let [before, micros, server, status, after] = lines else { return None };
        let look =
            Look { before: before.parse().ok()?, micros: micros.trim().parse().ok()?, after: after.parse().ok()? };
        let coordinates = Coordinates::read(server, status, &look);
        Some((look, coordinates))
    };
    read(&lines).ok_or_else(|| EngineError::Invalid(format!("production's position cannot be read: {answer:?}")))
}

/// Lets the log advance and says how far it is.
pub fn pulse<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    urgent: bool,
) -> Result<Pulse, EngineError> {
    let log = engine.log(&seat.log)?;
    let away = |changed: bool, why: String| Pulse { link: Link::Disconnected(why), through: log.through(), changed };
    if let Some(link) = engine.seen.moved(engine, seat, source)? {
        return Ok(Pulse { link, through: log.through(), changed: false });
    }
    let mut status = match status(engine, seat) {
        Ok(status) => status,
        Err(error) => {
            return Ok(away(log.advance(None)?, format!("the mirror's server does not answer: {}", reason(&error))));
        }
    };
    let fresh = F::is_fresh(&status);
    // Before it is told to follow, what its threads say is of no account: its applier may not even find its log, of which a
    // crash of the machine has taken the end.
    if fresh && engine.sessions.is_held(&seat.run) {
        return Ok(away(log.advance(None)?, "the mirror's server was just started".to_owned()));
    }
    let epoch = log.current_epoch().unwrap_or(0);
    let mut changed = false;
    if fresh || refill::is_done(&log, epoch)? {
        changed = log.advance(None)?;
        begin_following(engine, &log, seat, source)?;
        status = self::status(engine, seat).map_err(failed("asking the mirror"))?;
    }
    let mut link = link_of(engine, seat, source, &status, refill::is_on(&log, epoch));
    // Before anything that came by a new connection is taken in: it may be of another history with the same numbers.
    match engine.seen.after_a_pause(engine, seat, source, link == Link::Following) {
        Ok(None) => {}
        Ok(Some(link)) => return Ok(Pulse { link, through: log.through(), changed }),
        Err(error) => return Ok(away(changed, reason(&error))),
    }
    // What a server that was just started calls its files is not known yet.
    changed |= log.advance(passed(&status).filter(|_| !fresh))?;
    if let Some(gtid) = log.ended() {
        let why =
            format!("production gave a number that it had given before, or had passed (gtid_seq_no was set): {gtid}");
        return Ok(Pulse { link: Link::Lost(why), through: log.through(), changed });
    }
    let mut through = None;
    if link == Link::Following && (urgent || engine.may_look(&source.tag, LOOKS)) {
        (link, through) = ask(engine, &log, seat, source, urgent, &mut changed)?;
    }
    let through = match link {
        // Asked for and not come: an older time would hide that the log does not flow.
        Link::Following if urgent => through,
        _ => log.through(),
    };
    Ok(Pulse { link, through, changed })
}

/// Looks at production and waits a little until the log has come so far.
fn ask<F: Flavor>(
    engine: &FamilyEngine<F>,
    log: &BinLog<F>,
    seat: &Seat,
    source: &Source,
    urgent: bool,
    changed: &mut bool,
) -> Result<(Link, Option<Timestamp>), EngineError> {
    let Some(epoch) = log.current_epoch() else { return Ok((Link::Following, None)) };
    let had = log.position(epoch)?;
    let seen = engine.seen.of(&seat.log, epoch)?;
    let facts = engine.facts(source)?;
    let (look, coordinates) = match look(engine, &facts, source) {
        Ok(found) => found,
        Err(error) => return Ok((Link::Disconnected(reason(&error)), None)),
    };
    if look.after.lost(&had) {
        let text = "production's binary log was reset (it has less than the mirror had from it)";
        return Ok((Link::Lost(text.to_owned()), None));
    }
    if let Some(now) = coordinates
        && let Some(why) = engine.seen.note(engine, seat, epoch, seen.as_ref(), now)?
    {
        return Ok((Link::Lost(why), None));
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
pub fn hold<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat) -> Result<(), EngineError> {
    if engine.sessions.is_held(&seat.run) {
        return Ok(());
    }
    let epoch = Tree::<F>::read(&seat.data)?.epoch.unwrap_or(0);
    let log = engine.log(&seat.log)?;
    let refills = || match refill::is_on(&log, epoch) {
        true => Err(EngineError::Invalid(REFILLS.to_owned())),
        false => Ok(()),
    };
    refills()?;
    let held = || -> Result<_, ClientError> {
        let mut session = connect(&seat.run)?;
        session.query("SET SESSION lock_wait_timeout = 60")?;
        if !stop_applying::<F>(&mut session)? {
            return Ok(None);
        }
        match session.run(F::STILL.iter().copied()).and_then(|_| session.query(F::APPLIED)) {
            Ok(rows) => Ok(Some((session, rows.first(0).unwrap_or_default().to_owned()))),
            Err(error) => {
                session.query("START REPLICA SQL_THREAD")?;
                Err(error)
            }
        }
    };
    let held = held().map_err(failed("holding the mirror still"))?;
    let (session, position) = held.ok_or_else(|| EngineError::Invalid(OPEN_TABLES.to_owned()))?;
    let position = self::position::<F>(&position)?;
    engine.sessions.hold(&seat.run, session);
    // One that began meanwhile may have said something else.
    if let Err(error) = refills() {
        release(engine, seat)?;
        return Err(error);
    }
    Mark::<F> { epoch, position, place: None }.write(&seat.data, seat.account.as_ref())
}

/// A snapshot without them could not be replayed from.
const OPEN_TABLES: &str = "no snapshot can be taken now: a session of production keeps temporary tables open, which \
                           statements in its binary log use (binlog_format is not ROW)";

/// Its data are ahead of what it says.
const REFILLS: &str =
    "no snapshot can be taken now: what a crash of the machine took from the log is being received again";

/// Stops between two transactions, at a place where no temporary table is open (M-15): it would not be in the tree.
/// Whether there was one.
fn stop_applying<F: Flavor>(session: &mut Session) -> Result<bool, ClientError> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        session.query("STOP REPLICA SQL_THREAD")?;
        let open = session.query(&format!("SHOW GLOBAL STATUS LIKE '{}_open_temp_tables'", F::REPLICA))?;
        if open.first(1).is_none_or(|count| count == "0") {
            return Ok(true);
        }
        session.query("START REPLICA SQL_THREAD")?;
        SystemClock.sleep(Duration::from_millis(50));
    }
    Ok(false)
}

/// Lets the mirror go on.
pub fn release<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat) -> Result<(), EngineError> {
    let Some(mut session) = engine.sessions.release(&seat.run) else { return Ok(()) };
    clear_mark(&seat.data)?;
    session.run([F::GO_ON, "START REPLICA SQL_THREAD"]).map(drop).map_err(failed("letting the mirror go on"))
}

/// The place and the time of a mirror's tree. What it has was received, so the log has it, or will in a moment; after a crash
/// of the machine perhaps only when a refill has ended.
pub fn stands<F: Flavor>(
    engine: &FamilyEngine<F>,
    log: &BinLog<F>,
    seat: &Seat,
    source: &Source,
    mark: &Mark<F>,
) -> Result<(Lsn, Option<Timestamp>), EngineError> {
    for _ in 0..1000 {
        if log.position(mark.epoch)?.reaches(&mark.position) {
            break;
        }
        SystemClock.sleep(Duration::from_millis(5));
        log.advance(None)?;
    }
    if !log.position(mark.epoch)?.reaches(&mark.position) {
        return Err(EngineError::Invalid(REFILLS.to_owned()));
    }
    // Seen now, so committed by now: without it the tree would count from the end of its last second.
    let _ = ask(engine, log, seat, source, false, &mut false);
    let at = log.place_of(mark.epoch, &mark.position)?;
    Ok((at, log.time_of(mark.epoch, at)?))
}
