//! The first copy: three programs, one after another. A dump at one moment, with what it has; an empty server; the dump
//! is loaded into it.

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use pando_host::durable;

use super::config::{self, Before};
use super::log::GtidSet;
use super::mirror::{place, server, text};
use super::production::options;
use super::tree::Tree;
use super::{MysqlEngine, io as io_error};
use crate::session::{KEEPER, socket};
use crate::{EngineError, Seat, Source, UnitPlan, seat};

/// Where the first copy waits to be loaded.
pub fn dump_dir(seat: &Seat) -> PathBuf {
    seat.log.join("first")
}

fn plan(program: &Path, args: Vec<String>, seat: &Seat) -> UnitPlan {
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

/// Tables of the system that belong to a server, not to its data.
const NOT_COPIED: [&str; 23] = [
    "component",
    "engine_cost",
    "func",
    "general_log",
    "gtid_executed",
    "help_category",
    "help_keyword",
    "help_relation",
    "help_topic",
    "innodb_index_stats",
    "innodb_table_stats",
    "ndb_binlog_index",
    "plugin",
    "replication_asynchronous_connection_failover",
    "replication_asynchronous_connection_failover_managed",
    "replication_group_configuration_version",
    "replication_group_member_actions",
    "server_cost",
    "servers",
    "slave_master_info",
    "slave_relay_log_info",
    "slave_worker_info",
    "slow_log",
];

/// The first program of the first copy: a dump at one moment, with what it has.
pub fn dump(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    let account = seat.account.as_ref();
    engine.sessions.drop(&seat.run);
    for dir in [&seat.data, &seat.run] {
        seat::private_dir(dir, account)?;
    }
    seat::empty(&seat.data)?;
    fs::create_dir_all(&seat.log).map_err(io_error("making a log"))?;
    let dir = dump_dir(seat);
    durable::remove_tree_if_there(&dir).map_err(io_error("removing an older first copy"))?;
    seat::private_dir(&dir, account)?;
    let address = dir.join("production.cnf");
    seat::write(&address, &options(&source.url), account)?;
    let mut args = vec![
        format!("--defaults-file={}", text(&address)),
        "--all-databases".to_owned(),
        "--single-transaction".to_owned(),
        // Only with it older programs take the lock that makes the set of transactions that of the data.
        "--source-data=2".to_owned(),
        "--set-gtid-purged=COMMENTED".to_owned(),
        "--routines".to_owned(),
        "--events".to_owned(),
        "--triggers".to_owned(),
        "--hex-blob".to_owned(),
        "--verbose".to_owned(),
        format!("--result-file={}", text(&dir.join("dump.sql"))),
    ];
    args.extend(NOT_COPIED.iter().map(|table| format!("--ignore-table=mysql.{table}")));
    let program = engine.installations.of(facts.series())?.tool("mysqldump")?;
    Ok(plan(program.path(), args, seat))
}

/// The second: an empty server.
pub fn install(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    durable::remove_if_there(&dump_dir(seat).join("production.cnf")).map_err(io_error("removing an option file"))?;
    seat::private_dir(&seat.run, seat.account.as_ref())?;
    seat::empty(&seat.data)?;
    // It refuses a directory that holds anything: the files for it wait beside.
    let beside = dump_dir(seat);
    let installation = engine.installations.of(facts.series())?;
    let options = config::mirror(&facts, &place(seat, source, &facts), &seat.run.join("log"));
    seat::write(&beside.join(config::FILE), &options.text(), seat.account.as_ref())?;
    seat::write(&beside.join(config::INIT), &config::init(&Before::Nothing), seat.account.as_ref())?;
    let args = vec![
        format!("--defaults-file={}", text(&beside.join(config::FILE))),
        format!("--basedir={}", text(&installation.prefix)),
        "--initialize-insecure".to_owned(),
        format!("--init-file={}", text(&beside.join(config::INIT))),
    ];
    Ok(plan(installation.tool("mysqld")?.path(), args, seat))
}

/// The third: the dump is loaded into it, while it runs.
pub fn load(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<(UnitPlan, UnitPlan), EngineError> {
    let facts = engine.facts(source)?;
    let installation = engine.installations.of(facts.series())?;
    let tree = Tree { version: installation.version, ..Tree::default() };
    let live = seat.run.join("log");
    tree.configure(&place(seat, source, &facts), &facts, &live, &Before::Nothing, seat.account.as_ref())?;
    let dir = dump_dir(seat);
    let args = vec![
        "--no-defaults".to_owned(),
        "--protocol=socket".to_owned(),
        format!("--socket={}", text(&socket(&seat.run))),
        format!("--user={KEEPER}"),
        // Newer clients know `SOURCE` only when they are told to; older ones do not know this option.
        "--loose-commands".to_owned(),
        "--max-allowed-packet=1G".to_owned(),
        "--init-command=SET SESSION sql_log_bin = 0, SESSION wait_timeout = 86400".to_owned(),
        format!("--execute=SOURCE {}", text(&dir.join("dump.sql"))),
    ];
    let program = installation.tool("mysql")?;
    Ok((plan(program.path(), args, seat), server(engine, &facts, seat)?))
}

/// What a dump has, which stands at its beginning, perhaps on several lines.
pub fn position_of(dump: &Path) -> Result<GtidSet, EngineError> {
    const HEAD: u64 = 1 << 20;
    let mut bytes = Vec::new();
    fs::File::open(dump)
        .and_then(|file| file.take(HEAD).read_to_end(&mut bytes))
        .map_err(io_error("reading the position of the first copy"))?;
    position_in(&String::from_utf8_lossy(&bytes))
        .ok_or_else(|| EngineError::Invalid("the first copy does not say which transactions it has".to_owned()))
}

fn position_in(head: &str) -> Option<GtidSet> {
    let rest = head.split_once("SET @@GLOBAL.GTID_PURGED=")?.1;
    let quoted = rest.split_once(";")?.0;
    // `'+UUID:1-5'` or `/*!80000 '+'*/ 'UUID:1-5'`.
    quoted.split('\'').nth_back(1)?.trim_start_matches('+').parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_dump_has_is_read_from_its_head() {
        let a = "da579118-ea5f-11f1-9025-02fc00000001";
        let b = "ea579118-ea5f-11f1-9025-02fc00000001";
        for head in [
            format!("--\n\n/* SET @@GLOBAL.GTID_PURGED='+{a}:1-13,\n{b}:1-5';*/\n-- x"),
            format!("SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ '{a}:1-13,\n{b}:1-5';\n"),
        ] {
            let read = position_in(&head).map(|set| set.to_string());
            assert_eq!(read, Some(format!("{a}:1-13,{b}:1-5")), "{head}");
        }
        assert_eq!(position_in("-- nothing"), None);
    }
}
