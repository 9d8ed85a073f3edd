//! The first copy: three programs, one after another. A dump at one moment, with its position; an empty server; the
//! dump is loaded into it. A flavor may know a copy of files instead.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use pando_host::durable;

use super::config::{self, Before};
use super::facts::Facts;
use super::flavor::Flavor;
use super::mirror::{place, server, text};
use super::production::options;
use super::session::{KEEPER, socket};
use super::tree::{Mark, Tree};
use super::{FamilyEngine, io};
use crate::{EngineError, Ingest, Seat, Source, UnitPlan, seat};

/// Where the first copy waits to be loaded, or what is known of it.
pub fn dump_dir(seat: &Seat) -> PathBuf {
    seat.log.join("first")
}

/// A program of a first copy.
pub fn plan(program: &Path, args: Vec<String>, seat: &Seat) -> UnitPlan {
    UnitPlan {
        role: "ingest",
        program: program.to_owned(),
        args,
        env: BTreeMap::new(),
        dir: "/".into(),
        account: seat.account.clone(),
        locks: Vec::new(),
        stop_by_interrupt: false,
        stop_grace_seconds: 5,
    }
}

/// The first program: of files where they can be reached, else a dump.
pub fn begin<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    engine.sessions.drop(&seat.run);
    for dir in [&seat.data, &seat.run] {
        seat::private_dir(dir, seat.account.as_ref())?;
    }
    seat::empty(&seat.data)?;
    fs::create_dir_all(&seat.log).map_err(io("making a log"))?;
    durable::remove_tree_if_there(&dump_dir(seat)).map_err(io("removing an older first copy"))?;
    if !super::lock(&engine.dumped).remove(&seat.log)
        && let Some(plan) = F::copy_files(engine, seat, source)?
    {
        return Ok(plan);
    }
    dump(engine, seat, source)
}

/// A dump at one moment, with its position.
fn dump<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let account = seat.account.as_ref();
    let dir = dump_dir(seat);
    seat::private_dir(&dir, account)?;
    let address = dir.join("production.cnf");
    seat::write(&address, &options(&F::PROGRAMS, &source.url), account)?;
    let mut args = vec![format!("--defaults-file={}", text(&address))];
    args.extend(dump_options::<F>(&F::DUMP, &dir.join("dump.sql")));
    let program = engine.installation(&engine.facts(source)?)?.tool(F::PROGRAMS.dump)?;
    Ok(plan(program.path(), args, seat))
}

/// What makes a dump of all there is.
pub fn dump_options<F: Flavor>(more: &[&str], into: &Path) -> Vec<String> {
    let usual =
        ["--all-databases", "--single-transaction", "--routines", "--events", "--triggers", "--hex-blob", "--verbose"];
    let mut args: Vec<String> = usual.iter().chain(more).map(|option| (*option).to_owned()).collect();
    args.push(format!("--result-file={}", text(into)));
    // The server that it goes into makes these; accounts and time zones are left, and come as they are.
    args.extend(F::NOT_COPIED.iter().map(|table| format!("--ignore-table=mysql.{table}")));
    args
}

/// What comes after so many programs.
pub fn next<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    done: usize,
) -> Result<Option<Ingest>, EngineError> {
    if F::copies_files(seat) {
        return F::copy_files_next(engine, seat, source, done);
    }
    let facts = engine.facts(source)?;
    match done {
        1 => {
            let dir = dump_dir(seat);
            durable::remove_if_there(&dir.join("production.cnf")).map_err(io("removing an option file"))?;
            Ok(Some(Ingest { plan: install(engine, &facts, seat, source, &dir)?, server: None }))
        }
        2 => {
            configure(engine, &facts, seat, source)?;
            let plan = load(engine, &facts, seat, &dump_dir(seat).join("dump.sql"))?;
            Ok(Some(Ingest { plan, server: Some(server(engine, &facts, seat)?) }))
        }
        _ => Ok(None),
    }
}

/// An empty server. `aside`: where its first files may lie, if not in its tree.
pub fn install<F: Flavor>(
    engine: &FamilyEngine<F>,
    facts: &Facts,
    seat: &Seat,
    source: &Source,
    aside: &Path,
) -> Result<UnitPlan, EngineError> {
    let account = seat.account.as_ref();
    seat::private_dir(&seat.run, account)?;
    seat::empty(&seat.data)?;
    let dir = if F::WANTS_NO_FILE { aside } else { &seat.data };
    let told = config::mirror::<F>(facts, &place(seat, source, facts), &seat.run.join("log"));
    seat::write(&dir.join(config::FILE), &told.text(), account)?;
    seat::write(&dir.join(config::INIT), &config::init::<F>(&Before::Nothing), account)?;
    let installation = engine.installation(facts)?;
    let (program, more) = F::empty_server(&dir.join(config::INIT));
    let mut args = vec![
        format!("--defaults-file={}", text(&dir.join(config::FILE))),
        format!("--basedir={}", text(&installation.prefix)),
    ];
    args.extend(more);
    Ok(plan(installation.tool(program)?.path(), args, seat))
}

/// Writes a first copy's own files to its tree.
pub fn configure<F: Flavor>(
    engine: &FamilyEngine<F>,
    facts: &Facts,
    seat: &Seat,
    source: &Source,
) -> Result<(), EngineError> {
    let tree = Tree::<F>::of_mirror(None, engine.installation(facts)?.version, facts);
    let live = seat.run.join("log");
    tree.configure(&place(seat, source, facts), facts, &live, &Before::Nothing, seat.account.as_ref())
}

/// A client that runs a file's statements on the server of a first copy.
pub fn load<F: Flavor>(
    engine: &FamilyEngine<F>,
    facts: &Facts,
    seat: &Seat,
    statements: &Path,
) -> Result<UnitPlan, EngineError> {
    let mut args = own_client::<F>(&seat.run);
    args.extend(F::LOAD.iter().map(|option| (*option).to_owned()));
    args.extend([
        "--max-allowed-packet=1G".to_owned(),
        "--init-command=SET SESSION sql_log_bin = 0, SESSION wait_timeout = 86400".to_owned(),
        format!("--execute=SOURCE {}", text(statements)),
    ]);
    Ok(plan(engine.installation(facts)?.client()?.path(), args, seat))
}

/// What a client is told to come into a server of Pando's.
pub fn own_client<F: Flavor>(run: &Path) -> Vec<String> {
    let mut args = vec!["--no-defaults".to_owned(), "--protocol=socket".to_owned()];
    args.extend(F::CLIENT.iter().map(|option| (*option).to_owned()));
    args.extend([format!("--socket={}", text(&socket(run))), format!("--user={KEEPER}")]);
    args
}

/// The position of a dump, which stands at its beginning or at its end.
fn position_of<F: Flavor>(dump: &Path) -> Result<F::Position, EngineError> {
    const HEAD: u64 = 1 << 20;
    const TAIL: u64 = 64 * 1024;
    let read = || -> std::io::Result<[String; 2]> {
        let file = pando_host::plain::open(dump)?;
        let from = file.metadata()?.len().saturating_sub(TAIL);
        let mut tail = vec![0; usize::try_from(file.metadata()?.len() - from).unwrap_or(0)];
        file.read_exact_at(&mut tail, from)?;
        let mut head = Vec::new();
        file.take(HEAD).read_to_end(&mut head)?;
        Ok([head, tail].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()))
    };
    let [head, tail] = read().map_err(io("reading the position of the first copy"))?;
    F::dumped(&head, &tail).ok_or_else(|| EngineError::Invalid("the first copy does not say its position".to_owned()))
}

/// Turns the copy into a mirror and begins a stretch of the log.
pub fn settle<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    let account = seat.account.as_ref();
    let begin = match F::copied(engine, seat, source)? {
        Some(position) => position,
        None => position_of::<F>(&dump_dir(seat).join("dump.sql"))?,
    };
    let log = engine.log(&seat.log)?;
    let epoch = log.begin_epoch(&begin, account)?;
    let tree = Tree::<F>::of_mirror(Some(epoch), engine.installation(&facts)?.version, &facts);
    tree.configure(&place(seat, source, &facts), &facts, &log.live(epoch), &Before::Nothing, account)?;
    // Where the first copy stands is said to the mirror when it is first asked to follow.
    Mark::<F> { epoch, position: begin, place: None }.write(&seat.data, account)?;
    durable::remove_tree_if_there(&dump_dir(seat)).map(drop).map_err(io("removing the first copy's dump"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;

    #[test]
    fn what_a_dump_has_is_read_from_its_head_or_its_tail() {
        let a = "da579118-ea5f-11f1-9025-02fc00000001";
        let b = "ea579118-ea5f-11f1-9025-02fc00000001";
        for head in [
            format!("--\n\n/* SET @@GLOBAL.GTID_PURGED='+{a}:1-13,\n{b}:1-5';*/\n-- x"),
            format!("SET @@GLOBAL.GTID_PURGED=/*!80000 '+'*/ '{a}:1-13,\n{b}:1-5';\n"),
        ] {
            let read = Mysql::dumped(&head, "").map(|set| set.to_string());
            assert_eq!(read, Some(format!("{a}:1-13,{b}:1-5")), "{head}");
        }
        assert_eq!(Mysql::dumped("-- nothing", ""), None);
        let tail =
            "-- CHANGE MASTER TO MASTER_USE_GTID=slave_pos;\n-- SET GLOBAL gtid_slave_pos='0-7-22,1-8-5';\n-- x\n";
        assert_eq!(Mariadb::dumped("", tail).map(|position| position.to_string()), Some("0-7-22,1-8-5".to_owned()));
        assert_eq!(Mariadb::dumped(tail, "-- nothing"), None);
    }
}
