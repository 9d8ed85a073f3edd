//! A clone: a snapshot's tree, cleaned of production, rolled forward by the server itself from one relay log that
//! ends at the transaction asked for, shut to production's accounts, and opened to its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use pando_model::{Lsn, Profile};

use super::MysqlEngine;
use super::config::{self, Before, CHANNEL, Manner, Place, REPLAY, SHUT, TLS};
use super::facts::Facts;
use super::install::Series;
use super::log::{GtidSet, Look};
use super::mirror::{CLOCK, EXECUTED, STILL};
use super::tree::{self, Mark, PREPARED, Tree};
use crate::binlog::dialect::Position as _;
use crate::session::{KEEPER, connect, failed, socket, socket_there};
use crate::wire::{ClientError, Rows, Session, literal};
use crate::{Credentials, EngineError, Link, Point, Pulse, Readiness, Seat, Source, Stage, UnitPlan, seat};

fn place<'a>(seat: &'a Seat, facts: &Facts) -> Place<'a> {
    Place { data: &seat.data, run: &seat.run, server_id: config::server_id(&seat.run.to_string_lossy(), facts) }
}

/// Writes a tree's files as they are to be at its next start.
fn configure(seat: &Seat, facts: &Facts, tree: &Tree, before: &Before) -> Result<(), EngineError> {
    let live = Path::new("/nonexistent");
    tree.configure(&place(seat, facts), facts, live, before, seat.account.as_ref())?;
    // A durable one is configured again when it is started on a new stretch of its log.
    let durable = tree.manner.as_ref().is_some_and(|manner| manner.profile == Profile::Durable);
    if durable { seat::settle(&[&seat.data]) } else { Ok(()) }
}

/// Makes a tree ready to be served.
pub fn stage(engine: &MysqlEngine, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    engine.sessions.drop(&seat.run);
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let mark = Mark::read(&seat.data)?;
    let version = Tree::find(&seat.data)?.unwrap_or_default().version;
    let prepared = seat.data.join(PREPARED).exists();
    tree::clean(&seat.data)?;
    // The server wants the directory of its relay logs, also where there are none.
    seat::private_dir(&seat.data.join(REPLAY), seat.account.as_ref())?;
    let replay = match (&stage.to, &stage.log) {
        (Some(to), Some(log)) => bring(engine, seat, mark.as_ref(), to, log)?,
        _ => None,
    };
    let mut record = None;
    let mut epoch = None;
    if stage.record {
        let log = engine.log(&seat.log)?;
        let begun = log.begin_epoch(&GtidSet::default(), seat.account.as_ref())?;
        (record, epoch) = (Some(log.live(begun)), Some(begun));
    }
    // Production's accounts are shut in a prepared tree: its door may stand open from the start.
    let manner = Manner { port: stage.port, profile: stage.profile, set: stage.set.clone(), record, open: prepared };
    let before = if prepared { Before::Nothing } else { Before::Shutting };
    configure(seat, &facts, &Tree { epoch, manner: Some(manner), replay, version }, &before)
}

/// Writes what the tree lacks as a relay log beside it; what that brings.
fn bring(
    engine: &MysqlEngine,
    seat: &Seat,
    mark: Option<&Mark>,
    to: &Point,
    log: &Path,
) -> Result<Option<GtidSet>, EngineError> {
    let unknown = || EngineError::Invalid("a snapshot's tree does not say where in the log it stands".to_owned());
    let mark = mark.filter(|mark| mark.epoch == to.epoch).ok_or_else(unknown)?;
    let log = engine.log(log)?;
    // A mirror's tree says what it has of production; a clone's where it stands in its own log.
    let (from, known) = match mark.place {
        Some(place) => (Lsn(place), GtidSet::default()),
        None => (log.place_of(mark.epoch, &mark.position)?, mark.position.clone()),
    };
    let dir = seat.data.join(REPLAY);
    let relay = relay_log(seat);
    let reached = log.copy_out(to.epoch, from, to.lsn, &known, &relay)?;
    if reached.is_none() {
        return seat::empty(&dir).map(|()| None);
    }
    seat::own(&relay, seat.account.as_ref())?;
    let index = dir.join(format!("log-{CHANNEL}.index"));
    seat::write(&index, &format!("{}\n", relay.display()), seat.account.as_ref())?;
    Ok(reached)
}

/// The server's unit. A tree that records into a stretch which is not the newest (after an undo it is another tree
/// than the one that was recorded last) begins one of its own.
pub fn serve(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    engine.sessions.drop(&seat.run);
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let mut tree = Tree::read(&seat.data)?;
    let version = engine.installations.of(facts.series())?.version;
    tree.suits(version)?;
    let mut changed = tree.version != version;
    tree.version = version;
    if tree.epoch.is_some() {
        let log = engine.log(&seat.log)?;
        if log.current_epoch() == tree.epoch {
            if let Some(live) = tree.manner.as_ref().and_then(|manner| manner.record.as_deref()) {
                forget_packed(live, seat)?;
            }
        } else {
            let epoch = log.begin_epoch(&GtidSet::default(), seat.account.as_ref())?;
            tree.epoch = Some(epoch);
            if let Some(manner) = &mut tree.manner {
                manner.record = Some(log.live(epoch));
            }
            changed = true;
        }
    }
    if changed {
        let shut = tree.manner.as_ref().is_some_and(|manner| manner.open);
        let before = if shut { Before::Nothing } else { Before::Shutting };
        configure(seat, &facts, &tree, &before)?;
    }
    super::mirror::server(engine, &facts, seat)
}

/// Takes the names of binary logs that the log has packed away from a stopped server: it would read their beginnings
/// at its start, and they are empty.
fn forget_packed(live: &Path, seat: &Seat) -> Result<(), EngineError> {
    let action = super::io("reading the index of a clone's binary log");
    let index = live.with_file_name("log.index");
    let text = match fs::read_to_string(&index) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(action(error)),
    };
    let is_empty = |name: &str| fs::metadata(live.with_file_name("").join(name)).is_ok_and(|meta| meta.len() == 0);
    let (gone, kept): (Vec<&str>, Vec<&str>) = text.lines().partition(|name| is_empty(name));
    if gone.is_empty() {
        return Ok(());
    }
    let kept: String = kept.iter().map(|name| format!("{name}\n")).collect();
    seat::write(&index, &kept, seat.account.as_ref())?;
    gone.iter().try_for_each(|name| {
        pando_host::durable::remove_if_there(&live.with_file_name("").join(name)).map(drop).map_err(&action)
    })
}

/// Whether it answers; lets it replay first, where it must.
pub fn ready(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<Readiness, EngineError> {
    if !socket_there(&seat.run) {
        return Ok(Readiness::Starting("the server is starting".to_owned()));
    }
    let mut tree = Tree::read(&seat.data)?;
    let facts = engine.facts(source)?;
    let answer = engine.sessions.with(&seat.run, |session| match &tree.replay {
        Some(target) => replay(session, target, &relay_log(seat), facts.series()),
        None => session.query("SELECT 1").map(|_| Replay::Done),
    });
    match answer {
        Err(ClientError::Io(_)) => Ok(Readiness::Starting("the server is starting".to_owned())),
        Err(error) => Err(failed("asking a clone's server")(error)),
        Ok(Replay::Failed(why)) => Err(EngineError::Invalid(format!("the log could not be replayed: {why}"))),
        Ok(Replay::Going(at)) => Ok(Readiness::Starting(format!("replaying the log, at {at}"))),
        Ok(Replay::Done) => {
            if tree.replay.take().is_some() {
                seat::empty(&seat.data.join(REPLAY))?;
                let open = tree.manner.as_ref().is_some_and(|manner| manner.open);
                configure(seat, &facts, &tree, if open { &Before::Nothing } else { &Before::Shutting })?;
            }
            Ok(Readiness::Ready)
        }
    }
}

enum Replay {
    Going(String),
    Failed(String),
    Done,
}

/// One look at a replay: begins it, or ends it when it has all it must have. All in one channel of the server's own
/// applier (M-7), which keeps the order of production.
fn replay(session: &mut Session, target: &GtidSet, relay: &Path, series: Series) -> Result<Replay, ClientError> {
    let status = session.query(&format!("SHOW REPLICA STATUS FOR CHANNEL '{CHANNEL}'"));
    let status = match status {
        // ER_REPLICA_CHANNEL_DOES_NOT_EXIST
        Err(ClientError::Server { code: 3074, .. }) => Rows::default(),
        other => other?,
    };
    if status.rows.is_empty() {
        // What the mirror's tree says of production leads nowhere any more. The name of the host is never used.
        session.query("RESET REPLICA ALL")?;
        if let Err(error) = fs::copy(relay, whole(relay)) {
            return Ok(Replay::Failed(error.to_string()));
        }
        session.query(&format!(
            "CHANGE REPLICATION SOURCE TO SOURCE_HOST='replay', RELAY_LOG_FILE='log-{CHANNEL}.000001', \
             RELAY_LOG_POS=4 FOR CHANNEL '{CHANNEL}'"
        ))?;
        return start(session, relay, "its beginning");
    }
    let value = |name: &str| status.value(name).unwrap_or_default().to_owned();
    if value("Last_SQL_Errno") != "0" {
        return Ok(Replay::Failed(value("Last_SQL_Error")));
    }
    let at = session.query(EXECUTED)?.first(0).unwrap_or_default().to_owned();
    if !at.parse::<GtidSet>().is_ok_and(|at| at.reaches(target)) {
        return match value("Replica_SQL_Running").as_str() {
            "No" => start(session, relay, &at),
            _ => Ok(Replay::Going(at)),
        };
    }
    session.query(&format!("STOP REPLICA FOR CHANNEL '{CHANNEL}'"))?;
    forget(session, series)?;
    Ok(Replay::Done)
}

/// What a clone replays.
fn relay_log(seat: &Seat) -> PathBuf {
    seat.data.join(REPLAY).join(format!("log-{CHANNEL}.000001"))
}

/// A second copy of it (blocks are shared, where the pool can).
fn whole(relay: &Path) -> PathBuf {
    relay.with_extension("whole")
}

/// Lets the applier go on. The server looks its relay log through when it opens it, and cuts off what it takes to be
/// broken: MySQL 9.7 everything from the second `XA COMMIT` of one name on. What was cut off is put back.
fn start(session: &mut Session, relay: &Path, at: &str) -> Result<Replay, ClientError> {
    let length = |path: &Path| fs::metadata(path).map_or(0, |meta| meta.len());
    if length(relay) < length(&whole(relay))
        && let Err(error) = fs::copy(whole(relay), relay)
    {
        return Ok(Replay::Failed(error.to_string()));
    }
    session.query(&format!("START REPLICA SQL_THREAD FOR CHANNEL '{CHANNEL}'"))?;
    Ok(Replay::Going(at.to_owned()))
}

/// A clone is nobody's replica, and what it has of production's numbers leads nowhere (M-2, M-8).
fn forget(session: &mut Session, series: Series) -> Result<(), ClientError> {
    let reset = if series < (8, 2) { "RESET MASTER" } else { "RESET BINARY LOGS AND GTIDS" };
    session.run(["RESET REPLICA ALL", reset]).map(drop)
}

/// Cuts a clone off production and lets its own superuser in.
pub fn admit(
    engine: &MysqlEngine,
    seat: &Seat,
    source: &Source,
    credentials: Option<&Credentials>,
) -> Result<(), EngineError> {
    let mut tree = Tree::read(&seat.data)?;
    let facts = engine.facts(source)?;
    let Some(manner) = tree.manner.as_mut() else {
        return Err(EngineError::Invalid("a mirror lets nobody in".to_owned()));
    };
    let was_open = manner.open;
    let port = manner.port;
    manner.open = credentials.is_some();
    let done = engine.sessions.with(&seat.run, |session| {
        session.query("SET SESSION sql_log_bin = 0")?;
        if !was_open {
            // Also here: a statement of an init-file that fails is only logged.
            session.run(SHUT)?;
            forget(session, facts.series())?;
        }
        if let Some(who) = credentials {
            let_in(session, who)?;
            if !was_open && port.is_some() {
                session.query(&format!("SET GLOBAL tls_version = '{TLS}'"))?;
                session.run(["ALTER INSTANCE RELOAD TLS", "SET GLOBAL require_secure_transport = OFF"])?;
            }
        }
        session.query("SET SESSION sql_log_bin = 1")
    });
    done.map_err(failed("cutting a clone off production"))?;
    if !was_open && credentials.is_some() {
        configure(seat, &facts, &tree, &Before::Nothing)?;
    }
    match (credentials, port) {
        (Some(who), Some(port)) => knock(&seat.run, port, who),
        _ => Ok(()),
    }
}

/// Gives the clone's own superuser its password; others of its name go. The server leaves passwords out of its logs.
fn let_in(session: &mut Session, who: &Credentials) -> Result<(), ClientError> {
    let user = literal(&who.user);
    session.query(&format!("DELETE FROM mysql.user WHERE User = {user}"))?;
    session.query("FLUSH PRIVILEGES")?;
    let password = literal(who.password.reveal());
    session.query(&format!("CREATE USER {user}@'%' IDENTIFIED WITH caching_sha2_password BY {password}"))?;
    session.query(&format!("GRANT ALL PRIVILEGES ON *.* TO {user}@'%' WITH GRANT OPTION")).map(drop)
}

/// A query through the door a user comes in by. The password is said once over the private socket: from then on the
/// server knows what proves it, so that clients without TLS can come in, too.
fn knock(run: &Path, port: u16, who: &Credentials) -> Result<(), EngineError> {
    const PATIENCE: Duration = Duration::from_secs(5);
    let password = who.password.reveal();
    Session::over_socket(&socket(run), &who.user, password, PATIENCE)
        .and_then(|_| Session::over_loopback(port, &who.user, password, PATIENCE))
        .and_then(|mut session| session.query("SELECT 1"))
        .map(drop)
        .map_err(failed("asking a clone a first query"))
}

/// Runs a user's statements by MySQL's own client, which knows `DELIMITER`: all or none, as far as none commits by
/// itself. They travel in a file, for they may hold secrets.
pub fn execute(engine: &MysqlEngine, seat: &Seat, source: &Source, statements: &str) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    let file = seat.run.join("statements.sql");
    let end = if statements.trim_end().ends_with(';') { "" } else { "\n;" };
    let text = format!("SET SESSION autocommit = 0;\n{statements}{end}\nCOMMIT;\n");
    seat::write(&file, &text, seat.account.as_ref())?;
    let mut command = engine.installations.of(facts.series())?.tool("mysql")?.command().args([
        "--no-defaults".to_owned(),
        "--protocol=socket".to_owned(),
        format!("--socket={}", socket(&seat.run).display()),
        format!("--user={KEEPER}"),
        "--loose-commands".to_owned(),
        format!("--execute=SOURCE {}", file.display()),
    ]);
    if let Some(database) = source.url.database() {
        command = command.arg(format!("--database={database}"));
    }
    let done = command.account(seat.account.as_ref()).run().map(drop);
    pando_host::durable::remove_if_there(&file).map_err(super::io("removing a file of statements"))?;
    done.map_err(|source| EngineError::Tool { action: "running statements on a clone".to_owned(), source })
}

/// A tree that was stopped: what a clone of it does not need goes.
pub fn slim(seat: &Seat) -> Result<(), EngineError> {
    let version = Tree::find(&seat.data)?.unwrap_or_default().version;
    tree::clean(&seat.data)?;
    tree::remember(&seat.data, version, seat.account.as_ref())?;
    seat::write(&seat.data.join(PREPARED), "", seat.account.as_ref())
}

/// Stands a clone still, where its server runs, and notes where its log stands.
pub fn hold(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<(), EngineError> {
    if engine.sessions.is_held(&seat.run) {
        return Ok(());
    }
    let tree = Tree::read(&seat.data)?;
    let running = if socket_there(&seat.run) { connect(&seat.run).ok() } else { None };
    let Some(mut session) = running else {
        // A server that was stopped wrote all it had.
        let Some(epoch) = tree.epoch else { return Ok(()) };
        let log = engine.log(&seat.log)?;
        log.advance(None)?;
        let mark = Mark { epoch, position: log.position(epoch)?, place: Some(log.end(epoch)?.0) };
        return mark.write(&seat.data, seat.account.as_ref());
    };
    let old = engine.facts(source)?.series() < (8, 2);
    let held = session
        .query("SET SESSION lock_wait_timeout = 30")
        .and_then(|_| session.run(STILL))
        .and_then(|_| session.query(if old { "SHOW MASTER STATUS" } else { "SHOW BINARY LOG STATUS" }));
    let stands = held.map_err(failed("holding a clone still (somebody's lock may be in the way)"))?;
    if let Some(epoch) = tree.epoch {
        let log = engine.log(&seat.log)?;
        let name = Path::new(stands.value("File").unwrap_or_default()).file_name();
        let name = name.and_then(|name| name.to_str()).unwrap_or_default();
        let byte = stands.value("Position").and_then(|byte| byte.parse().ok()).unwrap_or(0);
        let place = log.place_in(epoch, name, byte)?;
        let place = place.ok_or_else(|| EngineError::Invalid(format!("the log has no file {name:?}")))?;
        Mark { epoch, position: log.position(epoch)?, place: Some(place.0) }
            .write(&seat.data, seat.account.as_ref())?;
    }
    engine.sessions.hold(&seat.run, session);
    Ok(())
}

/// Lets a clone go on.
pub fn release(engine: &MysqlEngine, seat: &Seat) -> Result<(), EngineError> {
    Mark::clear(&seat.data)?;
    let Some(mut session) = engine.sessions.release(&seat.run) else { return Ok(()) };
    session.query("UNLOCK TABLES").map(drop).map_err(failed("letting a clone go on"))
}

/// Lets the log of a recording clone advance, and says how far it is.
pub fn pulse(engine: &MysqlEngine, seat: &Seat) -> Result<Pulse, EngineError> {
    // What it had before this run of its log is in no file of it.
    const WRITTEN: &str = "SELECT REPLACE(GTID_SUBTRACT(@@GLOBAL.gtid_executed, @@GLOBAL.gtid_purged), '\\n', '')";
    let log = engine.log(&seat.log)?;
    let asked = engine.sessions.with(&seat.run, |session| {
        let mut ask = |sql| session.query(sql).map(|rows| rows.first(0).unwrap_or_default().to_owned());
        Ok([ask(WRITTEN)?, ask(CLOCK)?, ask(WRITTEN)?])
    });
    let mut changed = log.advance(None)?;
    let [before, clock, after] = match asked {
        Ok(asked) => asked,
        Err(error) => {
            let link = Link::Disconnected(format!("the clone's server does not answer: {error}"));
            return Ok(Pulse { link, through: None, changed });
        }
    };
    let read = || Some(Look { before: before.parse().ok()?, micros: clock.parse().ok()?, after: after.parse().ok()? });
    let look = read().ok_or_else(|| EngineError::Invalid(format!("{after:?} is not a set of transactions")))?;
    changed |= log.advance(None)?;
    let reached = log.look(&look)?;
    let through = if reached { Timestamp::from_microsecond(look.micros).ok() } else { log.through() };
    Ok(Pulse { link: Link::Following, through, changed })
}
