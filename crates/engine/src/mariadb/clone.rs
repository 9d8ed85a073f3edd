//! A clone: a snapshot's tree, cleaned of production, rolled forward by the server itself from one relay log that
//! ends at the transaction asked for, shut to production's accounts, and opened to its own.

use std::path::Path;

use jiff::Timestamp;
use pando_model::{Lsn, Profile};

use super::MariadbEngine;
use super::config::{self, Before, Manner, Place, REPLAY, SHUT};
use super::facts::Facts;
use super::log::{Look, Position};
use super::mirror::STILL;
use super::travel::{self, FORGET};
use super::tree::{self, Mark, PREPARED, Tree};
use crate::session::{connect, failed, socket_there};
use crate::wire::{ClientError, Session, literal, verifier};
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
pub fn stage(engine: &MariadbEngine, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    engine.sessions.drop(&seat.run);
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let mark = Mark::read(&seat.data)?;
    let prepared = seat.data.join(PREPARED).exists();
    tree::clean(&seat.data)?;
    // The server wants the directory of its relay logs, also where there are none.
    seat::private_dir(&seat.data.join(REPLAY), seat.account.as_ref())?;
    let replay = match (&stage.to, &stage.log) {
        (Some(to), Some(log)) => bring(engine, seat, mark.as_ref(), to, log)?,
        _ => None,
    };
    let epoch = match stage.record {
        true => Some(engine.log(&seat.log)?.begin_epoch(&Position::default(), seat.account.as_ref())?),
        false => None,
    };
    let record = match epoch {
        Some(epoch) => Some(engine.log(&seat.log)?.live(epoch)),
        None => None,
    };
    // Production's accounts are shut in a prepared tree: its door may stand open from the start.
    let manner = Manner { port: stage.port, profile: stage.profile, set: stage.set.clone(), record, open: prepared };
    let before = if prepared { Before::Nothing } else { Before::Shutting };
    configure(seat, &facts, &Tree { epoch, manner: Some(manner), replay }, &before)
}

/// Writes what the tree lacks as a relay log beside it; where that leads to.
fn bring(
    engine: &MariadbEngine,
    seat: &Seat,
    mark: Option<&Mark>,
    to: &Point,
    log: &Path,
) -> Result<Option<Position>, EngineError> {
    let unknown = || EngineError::Invalid("a snapshot's tree does not say where in the log it stands".to_owned());
    let mark = mark.filter(|mark| mark.epoch == to.epoch).ok_or_else(unknown)?;
    let log = engine.log(log)?;
    // A mirror's tree says what it has of production; a clone's where it stands in its own log.
    let (from, known) = match mark.place {
        Some(place) => (Lsn(place), Position::default()),
        None => (log.place_of(mark.epoch, &mark.position)?, mark.position.clone()),
    };
    let dir = seat.data.join(REPLAY);
    let relay = dir.join("log.000001");
    let reached = log.copy_out(to.epoch, from, to.lsn, &known, &relay)?;
    if reached.is_none() {
        return seat::empty(&dir).map(|()| None);
    }
    seat::own(&relay, seat.account.as_ref())?;
    seat::write(&dir.join("log.index"), &format!("{}\n", relay.display()), seat.account.as_ref())?;
    Ok(reached)
}

/// The server's unit. A tree that records into a stretch which is not the newest (after an undo it is another tree
/// than the one that was recorded last) begins one of its own.
pub fn serve(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    engine.sessions.drop(&seat.run);
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let mut tree = Tree::read(&seat.data)?;
    if tree.epoch.is_some() {
        let log = engine.log(&seat.log)?;
        if log.current_epoch() != tree.epoch {
            let epoch = log.begin_epoch(&Position::default(), seat.account.as_ref())?;
            tree.epoch = Some(epoch);
            if let Some(manner) = &mut tree.manner {
                manner.record = Some(log.live(epoch));
            }
            configure(seat, &facts, &tree, &Before::Nothing)?;
        }
    }
    super::mirror::server(engine, &facts, seat)
}

/// Whether it answers; lets it replay first, where it must.
pub fn ready(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<Readiness, EngineError> {
    if !socket_there(&seat.run) {
        return Ok(Readiness::Starting("the server is starting".to_owned()));
    }
    let mut tree = Tree::read(&seat.data)?;
    let answer = engine.sessions.with(&seat.run, |session| match &tree.replay {
        Some(target) => replay(session, target),
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
                let before = if tree.manner.as_ref().is_some_and(|manner| manner.open) {
                    Before::Nothing
                } else {
                    Before::Shutting
                };
                configure(seat, &engine.facts(source)?, &tree, &before)?;
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

/// One look at a replay: begins it, or ends it when it is where it must come to. All in one session of the
/// server's own applier (M-7), which keeps the order and the temporary tables of production.
fn replay(session: &mut Session, target: &Position) -> Result<Replay, ClientError> {
    let status = session.query("SHOW SLAVE STATUS")?;
    if status.rows.is_empty() {
        // The names of the master's file and of the host are never used; an applier with several workers reads the
        // first all the same.
        session.query(
            "CHANGE MASTER TO MASTER_HOST='replay', MASTER_LOG_FILE='log.000001', MASTER_LOG_POS=4, \
             RELAY_LOG_FILE='log.000001', RELAY_LOG_POS=4",
        )?;
        session.query("START SLAVE SQL_THREAD")?;
        return Ok(Replay::Going("its beginning".to_owned()));
    }
    let value = |name: &str| status.value(name).unwrap_or_default().to_owned();
    if value("Last_SQL_Errno") != "0" {
        return Ok(Replay::Failed(value("Last_SQL_Error")));
    }
    let at = session.query("SELECT @@gtid_slave_pos")?.first(0).unwrap_or_default().to_owned();
    let reached = at.parse::<Position>().is_ok_and(|at| at.reaches_exactly(target));
    if !reached {
        if value("Slave_SQL_Running") == "No" {
            session.query("START SLAVE SQL_THREAD")?;
        }
        return Ok(Replay::Going(at));
    }
    // A clone is nobody's replica, and what it has of production's numbers leads nowhere (M-8).
    session.run(["STOP SLAVE", "RESET SLAVE ALL", "SET GLOBAL gtid_slave_pos = ''"])?;
    Ok(Replay::Done)
}

/// Cuts a clone off production and lets its own superuser in.
pub fn admit(
    engine: &MariadbEngine,
    seat: &Seat,
    source: &Source,
    credentials: Option<&Credentials>,
) -> Result<(), EngineError> {
    let mut tree = Tree::read(&seat.data)?;
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
            session.query("SET GLOBAL gtid_slave_pos = ''")?;
        }
        if let Some(who) = credentials {
            let_in(session, who)?;
            if !was_open && port.is_some() {
                session.query("SET GLOBAL require_secure_transport = OFF")?;
            }
        } else {
            session.run(FORGET)?;
        }
        session.query("SET SESSION sql_log_bin = 1")
    });
    done.map_err(failed("cutting a clone off production"))?;
    if !was_open && credentials.is_some() {
        configure(seat, &engine.facts(source)?, &tree, &Before::Nothing)?;
    }
    if credentials.is_some() && tree.manner.as_ref().is_some_and(|manner| manner.profile == Profile::Durable) {
        // Accounts lie in tables that do not know transactions.
        seat::settle(&[&seat.data, &seat.data.join("mysql")])?;
    }
    match (credentials, port) {
        (Some(who), Some(port)) => knock(port, who),
        _ => Ok(()),
    }
}

/// Gives the clone's own superuser its password. Others of its name, whom the server would take first, go.
fn let_in(session: &mut Session, who: &Credentials) -> Result<(), ClientError> {
    let user = literal(&who.user);
    session.query(&format!("DELETE FROM mysql.global_priv WHERE User = {user} AND Host <> '%'"))?;
    session.query("FLUSH PRIVILEGES")?;
    // The proof is made here, so that the password itself reaches no log of the server.
    let proof = literal(&verifier(who.password.reveal()));
    session.query(&format!("CREATE OR REPLACE USER {user}@'%' IDENTIFIED VIA mysql_native_password USING {proof}"))?;
    session.query(&format!("GRANT ALL PRIVILEGES ON *.* TO {user}@'%' WITH GRANT OPTION")).map(drop)
}

/// A query through the door a user comes in by.
fn knock(port: u16, who: &Credentials) -> Result<(), EngineError> {
    let patience = std::time::Duration::from_secs(5);
    Session::over_loopback(port, &who.user, who.password.reveal(), patience)
        .and_then(|mut session| session.query("SELECT 1"))
        .map(drop)
        .map_err(failed("asking a clone a first query"))
}

/// Runs a user's statements by MariaDB's own client, which knows `DELIMITER`: all or none, as far as none commits by
/// itself. They travel in a file, for they may hold secrets.
pub fn execute(engine: &MariadbEngine, seat: &Seat, source: &Source, statements: &str) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    let file = seat.run.join("statements.sql");
    let end = if statements.trim_end().ends_with(';') { "" } else { "\n;" };
    let text = format!("SET SESSION autocommit = 0;\n{statements}{end}\nCOMMIT;\n");
    seat::write(&file, &text, seat.account.as_ref())?;
    let mut command = engine.installations.of(facts.series)?.tool("mariadb")?.command().args([
        "--no-defaults".to_owned(),
        "--protocol=socket".to_owned(),
        "--skip-ssl-verify-server-cert".to_owned(),
        format!("--socket={}", config::socket(&seat.run).display()),
        format!("--user={}", config::KEEPER),
        "--abort-source-on-error".to_owned(),
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
    tree::clean(&seat.data)?;
    if !travel::forget(&seat.data)? {
        tracing::warn!(tree = %seat.data.display(), "Aria's log is of an unknown form: what it holds was left there");
    }
    seat::write(&seat.data.join(PREPARED), "", seat.account.as_ref())
}

/// Stands a clone still, where its server runs, and notes where its log stands.
pub fn hold(engine: &MariadbEngine, seat: &Seat) -> Result<(), EngineError> {
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
    let held = session
        .query("SET SESSION lock_wait_timeout = 30")
        .and_then(|_| session.run(STILL))
        .and_then(|_| session.query("SHOW MASTER STATUS"));
    let stands = held.map_err(failed("holding a clone still (somebody's lock may be in the way)"))?;
    if let Some(epoch) = tree.epoch {
        let log = engine.log(&seat.log)?;
        let name = stands.value("File").unwrap_or_default();
        let name = Path::new(name).file_name().and_then(|name| name.to_str()).unwrap_or_default();
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
pub fn release(engine: &MariadbEngine, seat: &Seat) -> Result<(), EngineError> {
    Mark::clear(&seat.data)?;
    let Some(mut session) = engine.sessions.release(&seat.run) else { return Ok(()) };
    session.query("BACKUP STAGE END").map(drop).map_err(failed("letting a clone go on"))
}

/// Lets the log of a recording clone advance, and says how far it is.
pub fn pulse(engine: &MariadbEngine, seat: &Seat) -> Result<Pulse, EngineError> {
    let log = engine.log(&seat.log)?;
    let asked = engine.sessions.with(&seat.run, |session| {
        let before = session.query("SELECT @@gtid_binlog_pos")?;
        let clock = session.query("SELECT UNIX_TIMESTAMP(NOW(6)) * 1000000 DIV 1")?;
        let after = session.query("SELECT @@gtid_binlog_pos")?;
        let text = |rows: &crate::wire::Rows| rows.first(0).unwrap_or_default().to_owned();
        Ok((text(&before), text(&clock), text(&after)))
    });
    let mut changed = log.advance(None)?;
    let (before, clock, after) = match asked {
        Ok(asked) => asked,
        Err(error) => {
            let link = Link::Disconnected(format!("the clone's server does not answer: {error}"));
            return Ok(Pulse { link, through: None, changed });
        }
    };
    let read = || Some(Look { before: before.parse().ok()?, micros: clock.parse().ok()?, after: after.parse().ok()? });
    let look = read().ok_or_else(|| EngineError::Invalid(format!("{after:?} is not a position")))?;
    changed |= log.advance(None)?;
    let reached = log.look(&look)?;
    let through = if reached { Timestamp::from_microsecond(look.micros).ok() } else { log.through() };
    Ok(Pulse { link: Link::Following, through, changed })
}
