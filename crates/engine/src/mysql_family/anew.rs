//! A tree made anew, to leave this machine: of a server in whose files stays what production's accounts had, whatever
//! is done to the accounts (M-16).
//!
//! ```text
//! prepared tree ──served by its socket alone──▶ dump ──▶ an empty server in its place ──load──▶ prepared tree
//! ```
//!
//! Into the new tree comes what the server of the former one shows, and no page of its files. Production's accounts
//! are shut there, so it shows their names and rights, and nothing of their passwords.
//!
//! # Crash consistency
//! Nothing is synced: both trees and the dump lie in the volume of a work that is destroyed when it does not come to its
//! end. Begun again, it goes from the former tree.

use std::fs;
use std::path::{Path, PathBuf};

use pando_host::durable;
use pando_model::{Profile, SettingChange};

use super::first::{dump_options, install, load, own_client, plan};
use super::flavor::Flavor;
use super::tree::{self, PREPARED, Tree};
use super::{FamilyEngine, clone, io};
use crate::{EngineError, Ingest, Seat, Source, Stage, UnitPlan, seat};

/// The tree that was.
const FORMER: &str = "former";
/// What it holds, as statements.
const DUMP: &str = "dump.sql";
/// The new tree is whole.
const MADE: &str = "made";
/// A row may be longer as text than it was for production; and the tables of zones are among what comes into the tree.
const FILLING: [(&str, &str); 2] = [("max_allowed_packet", "1G"), ("default_time_zone", "SYSTEM")];

/// What lies beside a tree meanwhile. No source's name begins like that.
fn beside(data: &Path) -> PathBuf {
    let name = data.file_name().unwrap_or_default().to_string_lossy();
    data.with_file_name(format!(".{name}.anew"))
}

/// The next program after so many; none: the tree is made, or need not be.
pub fn next<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    done: usize,
) -> Result<Option<Ingest>, EngineError> {
    let dir = beside(&seat.data);
    if dir.join(MADE).exists() {
        return Ok(None);
    }
    let options = F::ANEW.unwrap_or(F::ANEW_MASKED);
    match done {
        0 => dump(engine, seat, source, &dir, options).map(Some),
        1 => empty(engine, seat, source, &dir).map(Some),
        2 => fill(engine, seat, source, &dir).map(Some),
        _ => end(engine, seat, &dir).map(|()| None),
    }
}

/// As a clone that nobody enters.
fn serve<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    set: SettingChange,
) -> Result<UnitPlan, EngineError> {
    let stage = Stage { to: None, log: None, port: None, profile: Profile::Disposable, record: false, set };
    clone::stage(engine, seat, source, &stage)?;
    clone::serve(engine, seat, source)
}

/// All that the former tree's server shows.
fn dump<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    dir: &Path,
    options: &[&str],
) -> Result<Ingest, EngineError> {
    put_back(&seat.data, dir)?;
    if !dir.exists() && !seat.data.join(PREPARED).exists() {
        return Err(EngineError::Invalid("a tree that is open to production's accounts is not made anew".to_owned()));
    }
    seat::private_dir(dir, seat.account.as_ref())?;
    let server = serve(engine, seat, source, SettingChange::new())?;
    let facts = engine.facts_of(Tree::find(&seat.data)?.as_ref(), source)?;
    let mut args = own_client::<F>(&seat.run);
    args.extend(dump_options::<F>(options, &dir.join(DUMP)));
    let program = engine.installation(&facts)?.tool(F::PROGRAMS.dump)?;
    Ok(Ingest { plan: plan(program.path(), args, seat), server: Some(server) })
}

/// What a former try has moved away.
fn put_back(data: &Path, dir: &Path) -> Result<(), EngineError> {
    let former = dir.join(FORMER);
    if !former.exists() {
        return Ok(());
    }
    let action = io("putting a tree back");
    durable::remove_tree_if_there(data).map_err(&action)?;
    fs::rename(former, data).map_err(&action)
}

/// An empty server, of the same series and in the same place.
fn empty<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source, dir: &Path) -> Result<Ingest, EngineError> {
    let former = dir.join(FORMER);
    if !former.exists() {
        fs::rename(&seat.data, &former).map_err(io("moving a tree away"))?;
    }
    let facts = engine.facts_of(Tree::find(&former)?.as_ref(), source)?;
    seat::private_dir(&seat.data, seat.account.as_ref())?;
    Ok(Ingest { plan: install(engine, &facts, seat, source, dir)?, server: None })
}

/// What was dumped goes into it.
fn fill<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, source: &Source, dir: &Path) -> Result<Ingest, EngineError> {
    tree::remember::<F>(&seat.data, Tree::find(&dir.join(FORMER))?, seat.account.as_ref())?;
    let set = FILLING.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
    let server = serve(engine, seat, source, set)?;
    let facts = engine.facts_of(Tree::find(&seat.data)?.as_ref(), source)?;
    Ok(Ingest { plan: load(engine, &facts, seat, &dir.join(DUMP))?, server: Some(server) })
}

/// The new tree is what the former was: stopped, and shut to production's accounts.
fn end<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat, dir: &Path) -> Result<(), EngineError> {
    let action = io("removing what a tree was made of");
    engine.sessions.drop(&seat.run);
    clone::slim::<F>(seat)?;
    seat::write(&dir.join(MADE), "", seat.account.as_ref())?;
    durable::remove_tree_if_there(&dir.join(FORMER)).map_err(&action)?;
    durable::remove_if_there(&dir.join(DUMP)).map(drop).map_err(&action)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;
    use crate::mysql_family::facts::Facts;

    fn seat(root: &Path) -> Seat {
        let seat = Seat { data: root.join("db"), log: root.join("log"), run: root.join("run"), account: None };
        fs::create_dir(&seat.data).expect("a tree");
        fs::write(seat.data.join("ibdata1"), "former").expect("a file");
        seat
    }

    fn source() -> Source {
        let url = "mysql://rep@db/blog".parse().expect("an address");
        Source { url, exclude: Vec::new(), facts: serde_json::json!(Facts::default()), tag: "pando_a".to_owned() }
    }

    fn began<F: Flavor>(seat: &Seat) -> Result<Option<Ingest>, String> {
        next(&FamilyEngine::<F>::new(&[], None), seat, &source(), 0).map_err(|error| error.to_string())
    }

    #[test]
    fn m16_what_is_open_to_productions_accounts_is_not_made_anew() {
        let dir = tempfile::tempdir().expect("a directory");
        let seat = seat(dir.path());
        assert!(began::<Mysql>(&seat).is_err_and(|words| words.contains("open to production's accounts")));
        assert!(began::<Mariadb>(&seat).is_err_and(|words| words.contains("open to production's accounts")));
    }

    #[test]
    fn begun_again_it_goes_from_the_former_tree() {
        let dir = tempfile::tempdir().expect("a directory");
        let seat = seat(dir.path());
        let beside = beside(&seat.data);
        fs::create_dir(&beside).expect("a directory");
        fs::rename(&seat.data, beside.join(FORMER)).expect("moving the tree");
        fs::create_dir(&seat.data).expect("half a tree");
        fs::write(seat.data.join("ibdata1"), "half").expect("a file");
        // There is no server that it could be served by.
        assert!(began::<Mysql>(&seat).is_err());
        assert_eq!(fs::read_to_string(seat.data.join("ibdata1")).expect("a file"), "former");
        fs::write(beside.join(MADE), "").expect("a mark");
        assert_eq!(began::<Mysql>(&seat), Ok(None), "made is made");
    }
}
