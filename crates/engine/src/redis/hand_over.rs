//! A tree for a server in a container of the user's. The official image's server loads `dump.rdb` from where it is
//! started, and lets everybody in; told `pando.conf` of the tree it goes on with the append-only file instead, and asks
//! for the clone's password. Both have the same data: the one is a second name of the other's base.
//!
//! In an image the server is told `pando.conf` anyway, so there is no dump, and what stands behind the base may stay there:
//! a rewrite orders keys by chance, but a base and what came behind it, as they were cut out of the mirror's log, are
//! the same bytes each time, and the beginning of what is cut later.

use std::fs;
use std::path::Path;

use pando_model::Profile;

use super::aof::{self, Kind, Manifest, Part};
use super::client::Client;
use super::facts::Facts;
use super::tree::{self, Conf};
use super::{RedisEngine, io};
use crate::postgres::tree::{owner, write};
use crate::{EngineError, Seat, Stage};

/// What a server without an append-only file loads.
const DUMP: &str = "dump.rdb";
/// So much behind a base is nothing: a server runs through it in a quarter of a second.
const SHORT: u64 = 16 << 20;

/// Puts all data into one base, which only the running server can. One that does not run any more did it before.
pub fn part(engine: &RedisEngine, seat: &Seat) -> Result<(), EngineError> {
    if Client::unix(&tree::socket(&seat.run)).is_err() {
        return Ok(());
    }
    let manifest = Manifest::read(&seat.data)?.unwrap_or_default();
    if is_whole(&seat.data, &manifest)? { Ok(()) } else { engine.compact(seat) }
}

/// Whether nothing stands behind the base.
fn is_whole(data: &Path, manifest: &Manifest) -> Result<bool, EngineError> {
    Ok(bytes(data, manifest.increments())? == 0)
}

/// Bytes of the parts that are there.
fn bytes<'a>(data: &Path, parts: impl Iterator<Item = &'a Part>) -> Result<u64, EngineError> {
    let mut sum = 0;
    for part in parts {
        match fs::metadata(aof::file(data, part)) {
            Ok(meta) => sum += meta.len(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(io("reading an AOF file")(error)),
        }
    }
    Ok(sum)
}

/// Whether so little stands behind the base that each start may as well run through it.
pub fn is_short(data: &Path) -> Result<bool, EngineError> {
    let manifest = Manifest::read(data)?.unwrap_or_default();
    let base = bytes(data, manifest.0.iter().filter(|part| part.kind == Kind::Base))?;
    Ok(bytes(data, manifest.increments())? <= base.max(SHORT))
}

/// Makes a stopped tree the data of an image: its files as they are, its users, and nothing else of Pando's.
pub fn bake(seat: &Seat, facts: &Facts, stage: &Stage) -> Result<(), EngineError> {
    let seat = Seat { account: Some(owner(&seat.data)?), ..seat.clone() };
    let users = tree::users(&seat.data)
        .ok_or_else(|| EngineError::Invalid("nobody was let in to this tree before it was stopped".to_owned()))?;
    let manifest = tree::clean(&seat.data)?;
    tree::write_manifest(&seat, &manifest)?;
    write(&seat.data.join(tree::CONF), &conf(facts, stage, &users).0, seat.account.as_ref())
}

/// Gives a stopped tree its second name, its users, and nothing else of Pando's. What a server in a container has
/// written is left to the next one.
pub fn hand_over(seat: &Seat, facts: &Facts, stage: &Stage) -> Result<(), EngineError> {
    let account = owner(&seat.data)?;
    let seat = Seat { account: Some(account), ..seat.clone() };
    let Some(users) = tree::users(&seat.data) else {
        let users = users_of(&seat.data).unwrap_or_default();
        return write(&seat.data.join(tree::CONF), &conf(facts, stage, &users).0, seat.account.as_ref());
    };
    let manifest = tree::clean(&seat.data)?;
    if !is_whole(&seat.data, &manifest)? {
        return Err(EngineError::Invalid("this tree was not put into one file before it was stopped".to_owned()));
    }
    tree::write_manifest(&seat, &manifest)?;
    if let Some(base) = manifest.0.iter().find(|part| part.kind == Kind::Base) {
        fs::hard_link(aof::file(&seat.data, base), seat.data.join(DUMP)).map_err(io("naming the data a dump"))?;
    }
    write(&seat.data.join(tree::CONF), &conf(facts, stage, &users).0, seat.account.as_ref())
}

/// The users in the settings of a tree that was handed over.
fn users_of(data: &Path) -> Option<String> {
    let text = pando_host::plain::read_text(&data.join(tree::CONF)).ok()?;
    Some(text.lines().filter(|line| line.starts_with("user ")).map(|line| format!("{line}\n")).collect())
}

fn conf(facts: &Facts, stage: &Stage, users: &str) -> Conf {
    let mut conf = Conf("# Written by Pando. Use it, where the data lies: redis-server /data/pando.conf\n".to_owned());
    conf.set("databases", facts.databases.to_string())
        .set("appendonly", "yes")
        // It is the append-only file alone that goes on: a newer dump would say that somebody knew nothing of it.
        .set("save", "")
        .set("appenddirname", aof::DIR)
        .set("appendfilename", "appendonly.aof")
        .set("appendfsync", if stage.profile == Profile::Durable { "always" } else { "no" });
    for (name, value) in facts.settings.iter().chain(tree::user_settings(&stage.set)) {
        conf.set(name, value);
    }
    conf.0.push_str(users);
    conf
}

/// Refuses a tree whose dump is newer than its append-only files: a server that does not know of these wrote it, and
/// they say what was long ago.
pub fn refuse_written(data: &Path) -> Result<(), EngineError> {
    let Some(dump) = fs::metadata(data.join(DUMP)).and_then(|meta| meta.modified()).ok() else { return Ok(()) };
    let files = fs::read_dir(data.join(aof::DIR)).into_iter().flatten().flatten();
    let newest = files.filter_map(|file| file.metadata().and_then(|meta| meta.modified()).ok()).max();
    if newest.is_some_and(|newest| newest >= dump) {
        return Ok(());
    }
    Err(EngineError::Invalid(
        "a server in a container wrote this tree, in a form of its own: volumes can be made of it".to_owned(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use pando_model::SettingChange;

    fn seat(data: &Path) -> Seat {
        Seat { data: data.to_owned(), log: data.join("log"), run: data.join("run"), account: None }
    }

    fn stage() -> Stage {
        let set = SettingChange::from([("ttl".to_owned(), "alive".to_owned()), ("maxmemory".to_owned(), "1gb".into())]);
        Stage { to: None, log: None, port: None, profile: Profile::Durable, record: false, set }
    }

    fn facts() -> Facts {
        serde_json::from_value(serde_json::json!({
            "version": { "family": "redis", "number": [7, 0] }, "databases": 16, "settings": {}
        }))
        .expect("facts")
    }

    fn tree(increment: &str) -> tempfile::TempDir {
        let dir = tempfile::tempdir().expect("a directory");
        let files = dir.path().join(aof::DIR);
        fs::create_dir(&files).expect("a directory");
        let manifest = "file base.rdb seq 1 type b\nfile a.1.incr.aof seq 1 type i\n";
        for (path, text) in [
            (Manifest::path(dir.path()), manifest),
            (files.join("base.rdb"), "REDIS"),
            (files.join("a.1.incr.aof"), increment),
            (dir.path().join("pando.users"), "user default on #00 ~* &* +@all\n"),
            (dir.path().join("pando.stretch"), "{}"),
        ] {
            fs::write(path, text).expect("a file");
        }
        dir
    }

    #[test]
    fn r07_a_tree_is_handed_over_with_its_users_however_often() {
        let dir = tree("");
        for _ in 0..2 {
            hand_over(&seat(dir.path()), &facts(), &stage()).expect("handed over");
            let mut left: Vec<_> = fs::read_dir(dir.path()).expect("a tree").flatten().map(|e| e.file_name()).collect();
            left.sort();
            assert_eq!(left, [aof::DIR, DUMP, tree::CONF]);
            assert_eq!(fs::read_to_string(dir.path().join(DUMP)).expect("a dump"), "REDIS");
            let conf = fs::read_to_string(dir.path().join(tree::CONF)).expect("settings");
            assert!(conf.ends_with("user default on #00 ~* &* +@all\n") && conf.contains("maxmemory"), "{conf}");
            assert!(conf.contains("save \"\"\n"), "{conf}");
            assert!(!conf.contains("ttl") && !conf.contains("bind") && !conf.contains("aclfile"), "{conf}");
        }
    }

    #[test]
    fn what_stands_behind_the_base_is_not_lost() {
        let dir = tree("*1\r\n$8\r\nFLUSHALL\r\n");
        assert!(hand_over(&seat(dir.path()), &facts(), &stage()).is_err());
    }

    #[test]
    fn an_image_has_what_stands_behind_the_base_as_it_is() {
        let dir = tree("*1\r\n$8\r\nFLUSHALL\r\n");
        assert!(is_short(dir.path()).expect("looked at"));
        bake(&seat(dir.path()), &facts(), &stage()).expect("baked");
        let mut left: Vec<_> = fs::read_dir(dir.path()).expect("a tree").flatten().map(|e| e.file_name()).collect();
        left.sort();
        assert_eq!(left, [aof::DIR, tree::CONF], "a dump of the base alone would be of another time");
        let increment = dir.path().join(aof::DIR).join("a.1.incr.aof");
        assert!(fs::read_to_string(&increment).expect("it is there").contains("FLUSHALL"));
        assert!(bake(&seat(dir.path()), &facts(), &stage()).is_err(), "its users went");
        fs::File::options().write(true).open(&increment).and_then(|file| file.set_len(SHORT + 1)).expect("longer");
        assert!(!is_short(dir.path()).expect("looked at"));
    }

    #[test]
    fn a_dump_that_was_written_later_is_found() {
        let dir = tree("");
        assert!(refuse_written(dir.path()).is_ok(), "there is none");
        hand_over(&seat(dir.path()), &facts(), &stage()).expect("handed over");
        assert!(refuse_written(dir.path()).is_ok(), "it is the base");
        fs::remove_file(dir.path().join(DUMP)).expect("removed");
        let dump = fs::File::create(dir.path().join(DUMP)).expect("a dump");
        let later = fs::metadata(aof::file(dir.path(), &Manifest::read(dir.path()).expect("read").expect("one").0[0]));
        let later = later.and_then(|meta| meta.modified()).expect("a time") + std::time::Duration::from_secs(1);
        dump.set_modified(later).expect("a later time");
        assert!(refuse_written(dir.path()).is_err());
    }
}
