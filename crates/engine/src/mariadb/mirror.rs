//! The mirror: a replica with one connection to production. What it receives is the log, what it has applied
//! is the data; the one may run ahead of the other.
//!
//! ```text
//! production ══ one replication connection (GTID) ══▶ relay log = LOG/epoch-N/live ──▶ applied by the mirror
//!      └───── a look twice a second: position and clock (`mariadb`) ──▶ up to when is the log complete?
//! ```
//!
//! # Crash consistency
//! What a pulse promises was synced by `BinLog::advance` before. What the mirror has applied is known to InnoDB
//! itself (`gtid_slave_pos`): after any crash it asks production again from there, and what the log has already
//! counts once.

use std::fs;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use pando_host::{Clock, SystemClock, durable};
use pando_model::Lsn;

use super::config::{self, Before, KEEPER, Place, socket};
use super::facts::Facts;
use super::log::{BinLog, Look, Position};
use super::near::{self, Near};
use super::production::{options, query, verifies};
use super::reset::Coordinates;
use super::tree::{Mark, Tree};
use super::{MariadbEngine, copy, io as io_error};
use crate::binlog::dialect::Position as _;
use crate::session::{connect, failed};
use crate::wire::{ClientError, Rows, literal};
use crate::{EngineError, Link, Pulse, Seat, Source, UnitPlan, seat};

/// How often production is looked at: the timeline lags by as much.
const LOOKS: Duration = Duration::from_millis(500);

pub fn place<'a>(seat: &'a Seat, source: &Source, facts: &Facts) -> Place<'a> {
    Place { data: &seat.data, run: &seat.run, server_id: config::server_id(&source.tag, facts) }
}

pub fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

/// Where the first copy waits to be loaded, or what is known of it.
pub fn dump_dir(seat: &Seat) -> PathBuf {
    seat.log.join("first")
}

pub fn plan(program: &Path, args: Vec<String>, seat: &Seat) -> UnitPlan {
    UnitPlan {
        role: "ingest",
        program: program.to_owned(),
        args,
        env: std::collections::BTreeMap::new(),
        dir: "/".into(),
        account: seat.account.clone(),
        locks: Vec::new(),
        stop_by_interrupt: false,
        stop_grace_seconds: 5,
    }
}

/// Tables of the system that belong to a server, not to its data; statements make `proc` and `event`.
const NOT_COPIED: [&str; 21] = [
    "column_stats",
    "event",
    "func",
    "general_log",
    "gtid_slave_pos",
    "help_category",
    "help_keyword",
    "help_relation",
    "help_topic",
    "index_stats",
    "innodb_index_stats",
    "innodb_table_stats",
    "plugin",
    "proc",
    "servers",
    "slow_log",
    "spider_tables",
    "table_stats",
    "transaction_registry",
    "user",
    "time_zone_leap_second",
];

/// The first program of the first copy: of files where they can be reached, else a dump.
pub fn first(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    engine.sessions.drop(&seat.run);
    for dir in [&seat.data, &seat.run] {
        seat::private_dir(dir, seat.account.as_ref())?;
    }
    seat::empty(&seat.data)?;
    fs::create_dir_all(&seat.log).map_err(io_error("making a log"))?;
    durable::remove_tree_if_there(&dump_dir(seat)).map_err(io_error("removing an older first copy"))?;
    match near::look(&source.url, &facts) {
        Ok(Near::Here(dir)) if engine.installations.of(facts.series)?.tool("mariadb-backup").is_ok() => {
            copy::backup(engine, seat, source, &dir)
        }
        Ok(_) => dump(engine, seat, source, &facts),
        Err(finding) => Err(EngineError::Invalid(finding.what)),
    }
}

/// A dump at one moment, with its position.
fn dump(engine: &MariadbEngine, seat: &Seat, source: &Source, facts: &Facts) -> Result<UnitPlan, EngineError> {
    let account = seat.account.as_ref();
    let dir = dump_dir(seat);
    seat::private_dir(&dir, account)?;
    let address = dir.join("production.cnf");
    seat::write(&address, &options(&source.url), account)?;
    let mut args = vec![
        format!("--defaults-file={}", text(&address)),
        "--all-databases".to_owned(),
        "--single-transaction".to_owned(),
        "--master-data=2".to_owned(),
        "--gtid".to_owned(),
        "--routines".to_owned(),
        "--events".to_owned(),
        "--triggers".to_owned(),
        "--hex-blob".to_owned(),
        "--verbose".to_owned(),
        format!("--result-file={}", text(&dir.join("dump.sql"))),
    ];
    // The mirror's own server makes these; accounts and time zones are left, and come as they are.
    args.extend(NOT_COPIED.iter().map(|table| format!("--ignore-table=mysql.{table}")));
    let program = engine.installations.of(facts.series)?.tool("mariadb-dump")?;
    Ok(plan(program.path(), args, seat))
}

/// The second: an empty server.
pub fn install(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    durable::remove_if_there(&dump_dir(seat).join("production.cnf")).map_err(io_error("removing an option file"))?;
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    seat::empty(&seat.data)?;
    let tree = Tree { epoch: None, manner: None, replay: None };
    let live = seat.run.join("log");
    tree.configure(&place(seat, source, &facts), &facts, &live, &Before::Nothing, seat.account.as_ref())?;
    let installation = engine.installations.of(facts.series)?;
    let program = installation.tool("mariadb-install-db")?;
    let args = vec![
        format!("--defaults-file={}", text(&seat.data.join(config::FILE))),
        format!("--basedir={}", text(&installation.prefix)),
        "--auth-root-authentication-method=normal".to_owned(),
        "--skip-test-db".to_owned(),
    ];
    Ok(plan(program.path(), args, seat))
}

/// The third: the dump is loaded into it, while it runs.
pub fn load(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<(UnitPlan, UnitPlan), EngineError> {
    let facts = engine.facts(source)?;
    let plan = client_of(engine, &facts, seat, &dump_dir(seat).join("dump.sql"))?;
    Ok((plan, server(engine, &facts, seat)?))
}

/// A client that runs a file's statements on the server of a first copy.
pub fn client_of(
    engine: &MariadbEngine,
    facts: &Facts,
    seat: &Seat,
    statements: &Path,
) -> Result<UnitPlan, EngineError> {
    let own = dump_dir(seat).join("own.cnf");
    let lines = format!(
        "[client]\nsocket=\"{}\"\nprotocol=socket\nuser={KEEPER}\nssl-verify-server-cert=0\n",
        text(&socket(&seat.run))
    );
    seat::write(&own, &lines, seat.account.as_ref())?;
    let args = vec![
        format!("--defaults-file={}", text(&own)),
        "--abort-source-on-error".to_owned(),
        "--max-allowed-packet=1G".to_owned(),
        "--init-command=SET SESSION sql_log_bin = 0, SESSION wait_timeout = 86400".to_owned(),
        format!("--execute=SOURCE {}", text(statements)),
    ];
    let program = engine.installations.of(facts.series)?.tool("mariadb")?;
    Ok(plan(program.path(), args, seat))
}

/// The position of a dump, which stands at its end.
fn position_of(dump: &Path) -> Result<Position, EngineError> {
    const END: u64 = 64 * 1024;
    let read = || -> io::Result<String> {
        let file = fs::File::open(dump)?;
        let length = file.metadata()?.len();
        let from = length.saturating_sub(END);
        let mut bytes = vec![0; usize::try_from(length - from).unwrap_or(0)];
        file.read_exact_at(&mut bytes, from)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let text = read().map_err(io_error("reading the position of the first copy"))?;
    let wrong = || EngineError::Invalid("the first copy has no position at its end".to_owned());
    let line = text.lines().rev().find_map(|line| line.split_once("SET GLOBAL gtid_slave_pos=")).ok_or_else(wrong)?;
    let position = line.1.trim().trim_end_matches(';').trim_matches('\'');
    position.parse().map_err(|()| wrong())
}

/// Turns the copy into a mirror and begins a stretch of the log.
pub fn settle(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    let account = seat.account.as_ref();
    let begin = match copy::runs(seat) {
        true => copy::position(engine, seat, source)?,
        false => position_of(&dump_dir(seat).join("dump.sql"))?,
    };
    let log = engine.log(&seat.log)?;
    let epoch = log.begin_epoch(&begin, account)?;
    let tree = Tree { epoch: Some(epoch), manner: None, replay: None };
    tree.configure(&place(seat, source, &facts), &facts, &log.live(epoch), &Before::Nothing, account)?;
    // Where the first copy stands is said to the mirror when it is first asked to follow.
    Mark { epoch, position: begin, place: None }.write(&seat.data, account)?;
    durable::remove_tree_if_there(&dump_dir(seat)).map(drop).map_err(io_error("removing the first copy's dump"))
}

/// A server's unit on a tree.
pub fn server(engine: &MariadbEngine, facts: &Facts, seat: &Seat) -> Result<UnitPlan, EngineError> {
    let installation = engine.installations.of(facts.series)?;
    Ok(UnitPlan {
        role: "server",
        program: installation.tool("mariadbd")?.path().to_owned(),
        args: vec![
            format!("--defaults-file={}", text(&seat.data.join(config::FILE))),
            format!("--basedir={}", text(&installation.prefix)),
        ],
        env: std::collections::BTreeMap::new(),
        dir: seat.data.clone(),
        account: seat.account.clone(),
        locks: Vec::new(),
        stop_by_interrupt: false,
        stop_grace_seconds: 60,
    })
}

/// The unit that keeps the mirror up to date. The server begins to receive anew.
pub fn follow(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    engine.sessions.drop(&seat.run);
    let log = engine.log(&seat.log)?;
    let epoch = log.current_epoch().ok_or_else(|| EngineError::Invalid("the mirror has no log yet".to_owned()))?;
    log.clear_live(epoch)?;
    // After a reboot the directory for sockets is gone.
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    let tree = Tree { epoch: Some(epoch), manner: None, replay: None };
    tree.configure(&place(seat, source, &facts), &facts, &log.live(epoch), &Before::Nothing, seat.account.as_ref())?;
    server(engine, &facts, seat)
}

/// Tells the mirror where production is, and to follow it.
fn begin_following(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<(), EngineError> {
    let url = &source.url;
    let mut change = format!(
        "CHANGE MASTER TO MASTER_HOST={}, MASTER_PORT={}, MASTER_USER={}, MASTER_PASSWORD={}, \
         MASTER_USE_GTID=slave_pos, MASTER_CONNECT_RETRY=1, MASTER_HEARTBEAT_PERIOD=2",
        literal(url.host.as_deref().unwrap_or("127.0.0.1")),
        url.port.unwrap_or(3306),
        literal(url.user.as_deref().unwrap_or("root")),
        literal(url.password.as_deref().unwrap_or_default()),
    );
    // The defaults of both are other ones in newer servers.
    let secure = ["ssl", "ssl-ca"].iter().any(|name| url.query.contains_key(*name)) || verifies(url);
    change.push_str(&format!(
        ", MASTER_SSL={}, MASTER_SSL_VERIFY_SERVER_CERT={}",
        u8::from(secure),
        u8::from(verifies(url))
    ));
    for (name, option) in [("ssl-ca", "MASTER_SSL_CA"), ("ssl-cert", "MASTER_SSL_CERT"), ("ssl-key", "MASTER_SSL_KEY")]
    {
        if let Some(value) = url.query.get(name) {
            change.push_str(&format!(", {option}={}", literal(value)));
        }
    }
    let first = Mark::read(&seat.data)?.filter(|_| !engine.sessions.is_held(&seat.run));
    let begun = engine.sessions.with(&seat.run, |session| {
        let known = session.query("SELECT @@gtid_slave_pos")?;
        if let Some(mark) = &first
            && known.first(0).unwrap_or_default().is_empty()
        {
            session.query(&format!("SET GLOBAL gtid_slave_pos = {}", literal(&mark.position.to_string())))?;
        }
        session.query(&change)?;
        session.query("START SLAVE")
    });
    begun.map_err(failed("telling the mirror to follow production"))?;
    if first.is_some() { Mark::clear(&seat.data) } else { Ok(()) }
}

fn status(engine: &MariadbEngine, seat: &Seat) -> Result<Rows, ClientError> {
    engine.sessions.with(&seat.run, |session| session.query("SHOW SLAVE STATUS"))
}

/// The server's own number of the relay log it applies.
fn passed(status: &Rows) -> Option<u64> {
    status.value("Relay_Log_File")?.rsplit('.').next()?.parse().ok()
}

/// What the mirror says of its two threads.
fn link_of(engine: &MariadbEngine, seat: &Seat, status: &Rows) -> Link {
    let value = |name: &str| status.value(name).unwrap_or_default();
    let error = |number: &str, words: &str| {
        let number: u32 = value(number).parse().unwrap_or(0);
        (number != 0).then(|| (number, value(words).to_owned()))
    };
    if let Some((number, words)) = error("Last_SQL_Errno", "Last_SQL_Error") {
        return Link::Lost(format!("the mirror cannot apply what production did: {words} (error {number})"));
    }
    let receives = value("Slave_IO_Running");
    if let Some((number, words)) = error("Last_IO_Errno", "Last_IO_Error") {
        // ER_MASTER_FATAL_ERROR_READING_BINLOG: what is needed next is gone.
        if number == 1236 {
            return Link::Lost(format!("production has dropped binary log that the mirror still needed: {words}"));
        }
        restart(engine, seat, receives == "No", "START SLAVE IO_THREAD");
        return Link::Disconnected(format!("{words} (error {number})"));
    }
    if receives != "Yes" {
        restart(engine, seat, receives == "No", "START SLAVE IO_THREAD");
        return Link::Disconnected("the mirror is connecting to production".to_owned());
    }
    let stopped = value("Slave_SQL_Running") != "Yes" && !engine.sessions.is_held(&seat.run);
    restart(engine, seat, stopped, "START SLAVE SQL_THREAD");
    Link::Following
}

fn restart(engine: &MariadbEngine, seat: &Seat, stopped: bool, statement: &str) {
    if stopped && let Err(error) = engine.sessions.with(&seat.run, |session| session.query(statement)) {
        tracing::debug!(%error, statement, "a thread of the mirror could not be started");
    }
}

/// Position, clock and position of production, in this order; and where that is in its files.
fn look(engine: &MariadbEngine, facts: &Facts, source: &Source) -> Result<(Look, Option<Coordinates>), EngineError> {
    let sql = "SELECT @@gtid_binlog_pos; SELECT UNIX_TIMESTAMP(NOW(6)) * 1000000 DIV 1; SELECT @@server_id; \
               SHOW MASTER STATUS; SELECT @@gtid_binlog_pos";
    let answer = query(engine.installations.of(facts.series)?, engine.account.as_ref(), &source.url, sql)?;
    let lines: Vec<&str> = answer.lines().collect();
    let read = |lines: &[&str]| -> Option<(Look, Option<Coordinates>)> {
        let [before, micros, server, status, after] = lines else { return None };
        let look =
            Look { before: before.parse().ok()?, micros: micros.trim().parse().ok()?, after: after.parse().ok()? };
        let coordinates = Coordinates::read(server, status, &look);
        Some((look, coordinates))
    };
    read(&lines).ok_or_else(|| EngineError::Invalid(format!("production's position cannot be read: {answer:?}")))
}

/// Lets the log advance and says how far it is.
pub fn pulse(engine: &MariadbEngine, seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError> {
    let log = engine.log(&seat.log)?;
    let away = |changed: bool, why: String| Pulse { link: Link::Disconnected(why), through: log.through(), changed };
    let mut status = match status(engine, seat) {
        Ok(status) => status,
        Err(error) => {
            return Ok(away(log.advance(None)?, format!("the mirror's server does not answer: {}", words(&error))));
        }
    };
    if status.rows.is_empty() && !engine.sessions.is_held(&seat.run) {
        begin_following(engine, seat, source)?;
        status = self::status(engine, seat).map_err(failed("asking the mirror"))?;
    }
    let mut link = link_of(engine, seat, &status);
    // Before anything that came by a new connection is taken in: it may be of another history with the same numbers.
    match engine.seen.after_a_pause(engine, seat, source, link == Link::Following) {
        Ok(None) => {}
        Ok(Some(why)) => return Ok(Pulse { link: Link::Lost(why), through: log.through(), changed: false }),
        Err(error) => return Ok(away(false, reason(&error))),
    }
    let mut changed = log.advance(passed(&status))?;
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
fn ask(
    engine: &MariadbEngine,
    log: &BinLog,
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
    if look.after.fell_behind(&had) {
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

fn words(error: &ClientError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

fn reason(error: &EngineError) -> String {
    std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string)
}

/// Stands the mirror still between two transactions, everything on disk (M-3, M-4, M-5), and notes where it stands.
pub fn hold(engine: &MariadbEngine, seat: &Seat) -> Result<(), EngineError> {
    if engine.sessions.is_held(&seat.run) {
        return Ok(());
    }
    let epoch = Tree::read(&seat.data)?.epoch.unwrap_or(0);
    let held = || -> Result<_, ClientError> {
        let mut session = connect(&seat.run)?;
        session.query("SET SESSION lock_wait_timeout = 60")?;
        if !stop_applying(&mut session)? {
            return Ok(None);
        }
        let done = session.run(STILL).and_then(|_| session.query("SELECT @@gtid_slave_pos"));
        match done {
            Ok(rows) => Ok(Some((session, rows.first(0).unwrap_or_default().to_owned()))),
            Err(error) => {
                session.query("START SLAVE SQL_THREAD")?;
                Err(error)
            }
        }
    };
    let held = held().map_err(failed("holding the mirror still"))?;
    let (session, position) = held.ok_or_else(|| EngineError::Invalid(OPEN_TABLES.to_owned()))?;
    let position = position.parse().map_err(|()| EngineError::Invalid(format!("{position:?} is not a position")))?;
    engine.sessions.hold(&seat.run, session);
    Mark { epoch, position, place: None }.write(&seat.data, seat.account.as_ref())
}

/// What makes a server's files whole for every storage engine, until the session ends: nothing commits, and the
/// redo log is on disk up to the last commit (else InnoDB would find it prepared only, and no log to ask).
pub const STILL: [&str; 5] = [
    "BACKUP STAGE START",
    "BACKUP STAGE FLUSH",
    "BACKUP STAGE BLOCK_DDL",
    "BACKUP STAGE BLOCK_COMMIT",
    "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS",
];

/// A snapshot without them could not be replayed from.
const OPEN_TABLES: &str = "no snapshot can be taken now: a session of production keeps temporary tables open, which \
                           statements in its binary log use (binlog_format is not ROW)";

/// Stops between two transactions, at a place where no temporary table is open (M-15): it would not be in the tree.
/// Whether there was one.
fn stop_applying(session: &mut crate::wire::Session) -> Result<bool, ClientError> {
    const TRIES: u32 = 100;
    for _ in 0..TRIES {
        session.query("STOP SLAVE SQL_THREAD")?;
        let open = session.query("SHOW GLOBAL STATUS LIKE 'Slave_open_temp_tables'")?;
        if open.first(1).is_none_or(|count| count == "0") {
            return Ok(true);
        }
        session.query("START SLAVE SQL_THREAD")?;
        SystemClock.sleep(Duration::from_millis(50));
    }
    Ok(false)
}

/// Lets the mirror go on.
pub fn release(engine: &MariadbEngine, seat: &Seat) -> Result<(), EngineError> {
    let Some(mut session) = engine.sessions.release(&seat.run) else { return Ok(()) };
    Mark::clear(&seat.data)?;
    session.run(["BACKUP STAGE END", "START SLAVE SQL_THREAD"]).map(drop).map_err(failed("letting the mirror go on"))
}

/// The place and the time of a mirror's tree. What it has was received, so the log has it, or will in a moment.
pub fn stands(
    engine: &MariadbEngine,
    log: &BinLog,
    seat: &Seat,
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
    let _ = ask(engine, log, seat, source, false, &mut false);
    let at = log.place_of(mark.epoch, &mark.position)?;
    Ok((at, log.time_of(mark.epoch, at)?))
}
