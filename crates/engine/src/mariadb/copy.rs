//! The first copy, as one of files: `mariadb-backup` reads production's data directory while production goes on, what
//! it took is recovered to its end, and a server of ours takes out what belongs to production's server alone.
//!
//! ```text
//! production's files ──mariadb-backup --backup──▶ tree ──--prepare──▶ ──own server, `clean.sql`──▶ mirror
//! ```
//!
//! The programs run as the owner of production's files, not as root: what is linked from there leads to nothing
//! that this account could not read anyway. Then the tree is given to the account of the mirror.

use std::fs;
use std::path::Path;

use pando_host::plain::{self, Dir};
use pando_host::{Account, durable};

use super::MariadbEngine;
use super::log::{Mariadb, Position};
use super::near::{self, Near, owner};
use crate::mysql_family::facts::Facts;
use crate::mysql_family::first::{configure, dump_dir, load, plan};
use crate::mysql_family::flavor::Flavor;
use crate::mysql_family::production::options;
use crate::mysql_family::wire::literal;
use crate::mysql_family::{io, server, text, tree};
use crate::{EngineError, Ingest, Seat, Source, UnitPlan, seat};

/// Where the coordinates are, by series.
const PLACES: [&str; 2] = ["mariadb_backup_binlog_info", "xtrabackup_binlog_info"];
/// Made anew in a mirror, as a dump leaves it out: numbers of production's own masters, plugins, functions in
/// libraries, other servers with passwords, statements that were logged.
const CLEAN: &str = "SET SESSION sql_log_bin = 0;\nSET GLOBAL gtid_slave_pos = '';\nDELETE FROM mysql.plugin;\n\
                     DELETE FROM mysql.func;\nDELETE FROM mysql.servers;\nTRUNCATE mysql.general_log;\nTRUNCATE mysql.slow_log;\n";

/// Whether the running first copy is one of files.
pub fn runs(seat: &Seat) -> bool {
    dump_dir(seat).join("files").exists()
}

/// The first program: production's files, with a position; where they cannot be reached, none.
pub fn begin(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
    let facts = engine.facts(source)?;
    let dir = match near::look(&source.url, &facts) {
        Ok(Near::Here(dir)) => dir,
        Ok(Near::No(_)) => return Ok(None),
        Err(finding) => return Err(EngineError::Invalid(finding.what)),
    };
    let Ok(program) = engine.installation(&facts)?.tool("mariadb-backup") else { return Ok(None) };
    let account = owner(&dir).map_err(io("looking at production's data directory"))?;
    let first = dump_dir(seat);
    seat::private_dir(&first, account.as_ref())?;
    seat::private_dir(&seat.data, account.as_ref())?;
    let address = first.join("production.cnf");
    seat::write(&address, &options(&Mariadb::PROGRAMS, &source.url), account.as_ref())?;
    seat::write(&first.join("files"), "", account.as_ref())?;
    let args = vec![
        format!("--defaults-file={}", text(&address)),
        "--backup".to_owned(),
        format!("--datadir={}", text(&dir)),
        format!("--target-dir={}", text(&seat.data)),
        // Locks of others are waited for before the last moment, not in it.
        "--ftwrl-wait-timeout=60".to_owned(),
    ];
    Ok(Some(UnitPlan { account, ..plan(program.path(), args, seat) }))
}

/// What comes after so many programs.
pub fn next(engine: &MariadbEngine, seat: &Seat, source: &Source, done: usize) -> Result<Option<Ingest>, EngineError> {
    let facts = engine.facts(source)?;
    match done {
        1 => Ok(Some(Ingest { plan: prepare(engine, &facts, seat)?, server: None })),
        2 => adopt(engine, &facts, seat, source).map(Some),
        _ => Ok(None),
    }
}

/// The second: what it took is brought to its end.
fn prepare(engine: &MariadbEngine, facts: &Facts, seat: &Seat) -> Result<UnitPlan, EngineError> {
    durable::remove_if_there(&dump_dir(seat).join("production.cnf")).map_err(io("removing an option file"))?;
    let args = vec![
        "--no-defaults".to_owned(),
        "--prepare".to_owned(),
        format!("--target-dir={}", text(&seat.data)),
        "--use-memory=128M".to_owned(),
    ];
    let program = engine.installation(facts)?.tool("mariadb-backup")?;
    let account = owner(&seat.data).map_err(io("looking at the first copy"))?;
    Ok(UnitPlan { account, ..plan(program.path(), args, seat) })
}

/// The third: a server of ours on it, and what cleans it.
fn adopt(engine: &MariadbEngine, facts: &Facts, seat: &Seat, source: &Source) -> Result<Ingest, EngineError> {
    let account = seat.account.as_ref();
    let first = dump_dir(seat);
    if let Some(account) = account.filter(|_| Account::is_root()) {
        for dir in [&first, &seat.data] {
            Dir::open(dir).and_then(|dir| give(&dir, account)).map_err(io("giving the first copy to the mirror"))?;
        }
    }
    for name in PLACES {
        let from = seat.data.join(name);
        if from.exists() {
            let text = plain::read_text(&from).map_err(io("reading the position of the first copy"))?;
            seat::write(&first.join("position"), &text, account)?;
        }
    }
    for name in made_beside(&seat.data)? {
        durable::remove_if_there(&seat.data.join(name)).map_err(io("cleaning the first copy"))?;
    }
    tree::clean(&seat.data)?;
    seat::private_dir(&seat.run, account)?;
    configure(engine, facts, seat, source)?;
    let clean = first.join("clean.sql");
    seat::write(&clean, CLEAN, account)?;
    Ok(Ingest { plan: load(engine, facts, seat, &clean)?, server: Some(server(engine, facts, seat)?) })
}

/// Where the copy stands: in production's binary log, so that what production replicates itself is in it too.
pub fn position(engine: &MariadbEngine, seat: &Seat, source: &Source) -> Result<Position, EngineError> {
    let wrong = |text: &str| EngineError::Invalid(format!("the first copy's position cannot be read: {text:?}"));
    let found = plain::read_text(&dump_dir(seat).join("position")).map_err(io("reading the first copy's position"))?;
    let mut words = found.split_whitespace();
    let (Some(file), Some(byte)) = (words.next(), words.next().and_then(|byte| byte.parse::<u64>().ok())) else {
        return Err(wrong(&found));
    };
    let facts = engine.facts(source)?;
    let sql = format!("SELECT BINLOG_GTID_POS({}, {byte})", literal(file));
    let answer = engine.ask(&facts, source, &sql)?;
    match answer.trim() {
        "NULL" => Err(wrong(&format!("{file} {byte}"))),
        text => text.parse().map_err(|()| wrong(text)),
    }
}

/// What `mariadb-backup` leaves beside the data.
fn made_beside(data: &Path) -> Result<Vec<String>, EngineError> {
    let entries = fs::read_dir(data).map_err(io("cleaning the first copy"))?.flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    Ok(names
        .filter(|name| {
            name.starts_with("xtrabackup_") || name.starts_with("mariadb_backup_") || name == "backup-my.cnf"
        })
        .collect())
}

/// Gives a tree to the mirror's account: once for each first copy, never for a clone.
fn give(dir: &Dir, account: &Account) -> std::io::Result<()> {
    dir.give(account)?;
    for entry in fs::read_dir(dir.path())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            give(&dir.below(Path::new(&entry.file_name()))?, account)?;
        } else {
            dir.give_entry(&entry.file_name(), account)?;
        }
    }
    Ok(())
}
