//! A clone: a snapshot's tree, cleaned of production, rolled forward by the server itself from one relay log that
//! ends at the transaction asked for, shut to production's accounts, and opened to its own. What it writes itself is
//! `record.rs`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_model::{Lsn, Profile};

use super::FamilyEngine;
use super::binlog::dialect::Position as _;
use super::config::{self, Before, Manner, Place, REPLAY};
use super::facts::Facts;
use super::first::own_client;
use super::flavor::Flavor;
use super::install::Version;
use super::session::{failed, socket_there};
use super::tree::{self, Mark, PREPARED, Tree};
use super::wire::{ClientError, Session};
use super::zone;
use crate::{Credentials, EngineError, Point, Readiness, Seat, Source, Stage, UnitPlan, seat};

fn place<'a>(seat: &'a Seat, facts: &Facts) -> Place<'a> {
    Place { data: &seat.data, run: &seat.run, server_id: config::server_id(&seat.run.to_string_lossy(), facts) }
}

/// Writes a tree's files as they are to be at its next start.
fn configure<F: Flavor>(seat: &Seat, facts: &Facts, tree: &Tree<F>, before: &Before) -> Result<(), EngineError> {
    let live = Path::new("/nonexistent");
    tree.configure(&place(seat, facts), facts, live, before, seat.account.as_ref())?;
    // A durable one is configured again when it is started on a new stretch of its log.
    let durable = tree.manner.as_ref().is_some_and(|manner| manner.profile == Profile::Durable);
    if durable { seat::settle(&[&seat.data]) } else { Ok(()) }
}

/// Makes a tree ready to be served.
pub fn stage<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    stage: &Stage,
) -> Result<(), EngineError> {
    let wrote = Tree::<F>::find(&seat.data)?;
    let facts = engine.facts_of(wrote.as_ref(), source)?;
    engine.sessions.drop(&seat.run);
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let mark = Mark::<F>::read(&seat.data)?;
    let version = wrote.map(|tree| tree.version).unwrap_or_default();
    let prepared = seat.data.join(PREPARED).exists();
    tree::clean(&seat.data)?;
    // The server wants the directory of its relay logs, also where there are none.
    seat::private_dir(&seat.data.join(REPLAY), seat.account.as_ref())?;
    let replay = match (&stage.to, &stage.log) {
        (Some(to), Some(log)) => bring(engine, seat, mark.as_ref(), to, log)?,
        _ => None,
    };
    let (mut epoch, mut record) = (None, None);
    if stage.record {
        let log = engine.log(&seat.log)?;
        let begun = log.begin_own(seat.account.as_ref())?;
        (epoch, record) = (Some(begun), Some(log.live(begun)));
    }
    // Production's accounts are shut in a prepared tree: its door may stand open from the start.
    let manner = Manner { port: stage.port, profile: stage.profile, set: stage.set.clone(), record, open: prepared };
    let before = Before::of(Some(&manner));
    let settings = facts.settings.clone();
    configure(seat, &facts, &Tree::<F> { epoch, manner: Some(manner), replay, version, settings }, &before)
}

/// What a clone replays.
fn relay_log<F: Flavor>(seat: &Seat) -> PathBuf {
    seat.data.join(REPLAY).join(format!("{}.000001", F::RELAY))
}

/// Writes what the tree lacks as a relay log beside it; where that leads to.
fn bring<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    mark: Option<&Mark<F>>,
    to: &Point,
    log: &Path,
) -> Result<Option<F::Position>, EngineError> {
    let unknown = || EngineError::Invalid("a snapshot's tree does not say where in the log it stands".to_owned());
    let mark = mark.filter(|mark| mark.epoch == to.epoch).ok_or_else(unknown)?;
    let log = engine.log(log)?;
    // A mirror's tree says what it has of production; a clone's where it stands in its own log.
    let (from, known) = match mark.place {
        Some(place) => (Lsn(place), F::Position::default()),
        None => (log.place_of(mark.epoch, &mark.position)?, mark.position.clone()),
    };
    let relay = relay_log::<F>(seat);
    let reached = log.copy_out(to.epoch, from, to.lsn, &known, &relay)?;
    if reached.is_none() {
        return seat::empty(&seat.data.join(REPLAY)).map(|()| None);
    }
    seat::own(&relay, seat.account.as_ref())?;
    seat::write(&relay.with_extension("index"), &format!("{}\n", relay.display()), seat.account.as_ref())?;
    Ok(reached)
}

/// The server's unit. A tree that records into a stretch which is not the newest (after an undo it is another tree
/// than the one that was recorded last) begins one of its own.
pub fn serve<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    engine.sessions.drop(&seat.run);
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let mut tree = Tree::<F>::read(&seat.data)?;
    let facts = engine.facts_of(Some(&tree), source)?;
    let version = engine.installation(&facts)?.version;
    tree.suits(version)?;
    let mut changed = tree.version != version;
    tree.version = version;
    if tree.epoch.is_some() {
        let log = engine.log(&seat.log)?;
        if log.current_epoch() == tree.epoch {
            if let Some(live) = tree.manner.as_ref().and_then(|manner| manner.record.as_deref()) {
                F::before_start(live, seat.account.as_ref())?;
            }
        } else {
            let epoch = log.begin_own(seat.account.as_ref())?;
            tree.epoch = Some(epoch);
            if let Some(manner) = &mut tree.manner {
                manner.record = Some(log.live(epoch));
            }
            changed = true;
        }
    }
    if changed {
        configure(seat, &facts, &tree, &Before::of(tree.manner.as_ref()))?;
    }
    super::mirror::server(engine, &facts, seat)
}

/// Whether it answers; lets it replay first, where it must.
pub fn ready<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source) -> Result<Readiness, EngineError> {
    if !socket_there(&seat.run) {
        return Ok(Readiness::Starting("the server is starting".to_owned()));
    }
    let mut tree = Tree::<F>::read(&seat.data)?;
    let facts = engine.facts_of(Some(&tree), source)?;
    let answer = engine.sessions.with(&seat.run, |session| match (zone::missed(session, &facts)?, &tree.replay) {
        (Some(why), _) => Ok(Replay::Elsewhere(why)),
        (None, Some(target)) => replay::<F>(session, target, &relay_log::<F>(seat), tree.version),
        (None, None) => session.query("SELECT 1").map(|_| Replay::Done),
    });
    match answer {
        Err(ClientError::Io(_)) => Ok(Readiness::Starting("the server is starting".to_owned())),
        Err(error) => Err(failed("asking a clone's server")(error)),
        Ok(Replay::Elsewhere(why)) => Err(EngineError::Invalid(why)),
        Ok(Replay::Failed(why)) => Err(EngineError::Invalid(format!("the log could not be replayed: {why}"))),
        Ok(Replay::Going(at)) => Ok(Readiness::Starting(format!("replaying the log, at {at}"))),
        Ok(Replay::Done) => {
            if tree.replay.take().is_some() {
                seat::empty(&seat.data.join(REPLAY))?;
                configure(seat, &facts, &tree, &Before::of(tree.manner.as_ref()))?;
            }
            Ok(Readiness::Ready)
        }
    }
}

enum Replay {
    Going(String),
    Failed(String),
    /// Its server is in another time zone.
    Elsewhere(String),
    Done,
}

/// One look at a replay: begins it, or ends it when it is where it must come to. All in one session of the server's
/// own applier (M-7), which keeps the order and the temporary tables of production.
fn replay<F: Flavor>(
    session: &mut Session,
    target: &F::Position,
    relay: &Path,
    version: Version,
) -> Result<Replay, ClientError> {
    let status = F::replay_status(session)?;
    if status.rows.is_empty() {
        if let Err(error) = F::mend(relay) {
            return Ok(Replay::Failed(error.to_string()));
        }
        session.run(F::REPLAY.iter().copied())?;
        return start::<F>(session, relay, "its beginning");
    }
    let value = |name: &str| status.value(name).unwrap_or_default().to_owned();
    if value("Last_SQL_Errno") != "0" {
        return Ok(Replay::Failed(value("Last_SQL_Error")));
    }
    let at = session.query(F::APPLIED)?.first(0).unwrap_or_default().to_owned();
    if !at.parse::<F::Position>().is_ok_and(|at| at.came_to(target)) {
        return match value(&format!("{}_SQL_Running", F::REPLICA)).as_str() {
            "No" => start::<F>(session, relay, &at),
            _ => Ok(Replay::Going(at)),
        };
    }
    session.query(&format!("STOP REPLICA{}", F::CHANNEL))?;
    forget::<F>(session, version)?;
    Ok(Replay::Done)
}

/// Lets the applier go on.
fn start<F: Flavor>(session: &mut Session, relay: &Path, at: &str) -> Result<Replay, ClientError> {
    if let Err(error) = F::mend(relay) {
        return Ok(Replay::Failed(error.to_string()));
    }
    session.query(&format!("START REPLICA SQL_THREAD{}", F::CHANNEL))?;
    Ok(Replay::Going(at.to_owned()))
}

/// A clone is nobody's replica, and what it has of production's numbers leads nowhere (M-2, M-8).
fn forget<F: Flavor>(session: &mut Session, version: Version) -> Result<(), ClientError> {
    session.run(["RESET REPLICA ALL", F::forget_numbers(version)]).map(drop)
}

/// Cuts a clone off production and lets its own superuser in.
pub fn admit<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    credentials: Option<&Credentials>,
) -> Result<(), EngineError> {
    let mut tree = Tree::<F>::read(&seat.data)?;
    let version = tree.version;
    let Some(manner) = tree.manner.as_mut() else {
        return Err(EngineError::Invalid("a mirror lets nobody in".to_owned()));
    };
    let was_open = manner.open;
    let port = manner.port;
    manner.open = credentials.is_some();
    let mut outside = None;
    let done = engine.sessions.with(&seat.run, |session| {
        session.query("SET SESSION sql_log_bin = 0")?;
        if !was_open {
            // Also here: a statement of an init-file that fails is only logged.
            session.run(F::SHUT.iter().copied())?;
            forget::<F>(session, version)?;
            if let Some(asked) = F::OUTSIDE {
                outside = session.query(asked)?.first(0).map(str::to_owned);
                if outside.is_some() {
                    return session.query("SET SESSION sql_log_bin = 1");
                }
            }
        }
        match credentials {
            Some(who) => {
                F::let_in(session, &seat.run, who)?;
                if !was_open && port.is_some() {
                    session.run(F::OPEN.iter().copied())?;
                }
            }
            None => drop(session.run(F::FORGET.iter().copied())?),
        }
        session.query("SET SESSION sql_log_bin = 1")
    });
    done.map_err(failed("cutting a clone off production"))?;
    // Two servers would write to it, or it is somebody else's (M-14).
    if let Some(path) = outside {
        return Err(EngineError::Invalid(format!("these data lie outside of their tree, too: {path}")));
    }
    if !was_open && credentials.is_some() {
        configure(seat, &engine.facts_of(Some(&tree), source)?, &tree, &Before::Nothing)?;
    }
    if credentials.is_some() && tree.manner.as_ref().is_some_and(|manner| manner.profile == Profile::Durable) {
        // MariaDB's accounts lie in tables that do not know transactions.
        seat::settle(&[&seat.data, &seat.data.join("mysql")])?;
    }
    match (credentials, port) {
        (Some(who), Some(port)) => knock(port, who),
        _ => Ok(()),
    }
}

/// A query through the door a user comes in by.
fn knock(port: u16, who: &Credentials) -> Result<(), EngineError> {
    Session::over_loopback(port, &who.user, who.password.reveal(), Duration::from_secs(5))
        .and_then(|mut session| session.query("SELECT 1"))
        .map(drop)
        .map_err(failed("asking a clone a first query"))
}

/// Runs a user's statements by the server's own client, which knows `DELIMITER`: all or none, as far as none commits by
/// itself. They travel in a file, for they may hold secrets.
pub fn execute<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    statements: &str,
) -> Result<(), EngineError> {
    let file = seat.run.join("statements.sql");
    let end = if statements.trim_end().ends_with(';') { "" } else { "\n;" };
    let text = format!("SET SESSION autocommit = 0;\n{statements}{end}\nCOMMIT;\n");
    seat::write(&file, &text, seat.account.as_ref())?;
    let client = engine.installation(&engine.facts_of(Tree::find(&seat.data)?.as_ref(), source)?)?.client()?;
    let mut command = client.command().args(own_client::<F>(&seat.run));
    command = command.arg(format!("--execute=SOURCE {}", file.display()));
    if let Some(database) = source.url.database() {
        command = command.arg(format!("--database={database}"));
    }
    let done = command.account(seat.account.as_ref()).run().map(drop);
    pando_host::durable::remove_if_there(&file).map_err(super::io("removing a file of statements"))?;
    done.map_err(|source| EngineError::Tool { action: "running statements on a clone".to_owned(), source })
}

/// A tree that was stopped: what a clone of it does not need goes.
pub fn slim<F: Flavor>(seat: &Seat) -> Result<(), EngineError> {
    let wrote = Tree::<F>::find(&seat.data)?;
    tree::clean(&seat.data)?;
    if !F::slim(&seat.data)? {
        tracing::warn!(tree = %seat.data.display(), "a log in it is of an unknown form: what it holds was left there");
    }
    tree::remember(&seat.data, wrote, seat.account.as_ref())?;
    seat::write(&seat.data.join(PREPARED), "", seat.account.as_ref())
}
