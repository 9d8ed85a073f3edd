//! Makes a PostgreSQL tree ready for a start: takes out what belongs to production or to another run of
//! the server (T-10), and writes Pando's configuration in. Never walks the data: what it costs does not
//! depend on the size of the databases or their number of files.

use std::fs;
use std::io;
use std::path::Path;

use pando_host::plain::{self, Dir};
use pando_host::{Account, durable};

use super::settings::{Settings, host_based};
use crate::EngineError;
pub use crate::seat::{empty, private_dir, write};

fn failed(what: &str) -> impl Fn(io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: what.to_owned(), source }
}

/// Whom a directory belongs to: the account of the server that wrote it last.
pub fn owner(path: &Path) -> Result<Account, EngineError> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::metadata(path).map_err(failed("looking whose a tree is"))?;
    Ok(Account { name: format!("uid {}", meta.uid()), uid: meta.uid(), gid: meta.gid() })
}

/// What confuses a copy: locks, standby signals, other servers' settings and slots, logs, statistics.
const FILES: [&str; 14] = [
    "postmaster.pid",
    "postmaster.opts",
    "standby.signal",
    "recovery.signal",
    "recovery.conf",
    "recovery.done",
    "backup_label",
    "backup_label.old",
    "tablespace_map",
    "tablespace_map.old",
    "backup_manifest",
    "current_logfiles",
    "promote",
    "postgresql.auto.conf",
];
const DIRS: [&str; 5] = ["pg_replslot", "pg_stat_tmp", "pg_dynshmem", "pg_notify", "pg_snapshots"];
const LOG_DIRS: [&str; 2] = ["log", "pg_log"];

/// Takes out what confuses a copy. `keep_label`: a fresh base backup needs its `backup_label`.
pub fn clean(data: &Path, keep_label: bool) -> Result<(), EngineError> {
    for file in FILES.iter().filter(|file| !keep_label || !matches!(**file, "backup_label" | "tablespace_map")) {
        durable::remove_if_there(&data.join(file)).map_err(failed("cleaning a PostgreSQL tree"))?;
    }
    for dir in DIRS.iter().map(|dir| data.join(dir)).filter(|dir| dir.is_dir()) {
        empty(&dir)?;
    }
    close_tablespaces(data)?;
    for dir in LOG_DIRS.iter().map(|dir| data.join(dir)).filter(|dir| dir.is_dir()) {
        fs::remove_dir_all(&dir).map_err(failed("cleaning a PostgreSQL tree"))?;
    }
    Ok(())
}

/// Makes the server unable to link a tablespace in. One outside the tree would not be in its snapshots (T-8);
/// replayed from the log on the machine of production it would be production's own directory (T-9).
fn close_tablespaces(data: &Path) -> Result<(), EngineError> {
    let links = data.join("pg_tblspc");
    if !links.is_dir() {
        return Ok(());
    }
    Dir::open(&links).and_then(|dir| dir.set_mode(0o500)).map_err(failed("closing pg_tblspc"))
}

/// Writes the three configuration files.
pub fn configure(data: &Path, settings: &Settings, open: bool, account: Option<&Account>) -> Result<(), EngineError> {
    write(&data.join("postgresql.conf"), &settings.text(), account)?;
    write(&data.join("pg_hba.conf"), &host_based(open), account)?;
    write(&data.join("pg_ident.conf"), "", account)
}

/// Whether the tree's server syncs what it writes.
pub fn is_durable(data: &Path) -> Result<bool, EngineError> {
    let text = plain::read_text(&data.join("postgresql.conf")).map_err(failed("reading a clone's settings"))?;
    Ok(!text.lines().any(|line| line == "fsync = 'off'"))
}

/// Makes durable what was written into a tree, and that other files are gone. A crash of the machine would else
/// bring back the settings of the tree that this one was cloned from: another's sockets, and no open door.
pub fn settle(data: &Path) -> Result<(), EngineError> {
    let action = failed("making a clone's settings durable");
    for file in ["postgresql.conf", "pg_hba.conf", "pg_ident.conf", super::EPOCH] {
        match plain::open(&data.join(file)) {
            Ok(file) => file.sync_all().map_err(&action)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(action(error)),
        }
    }
    durable::sync_dir(data).map_err(&action)
}

/// Refuses what is not a whole cluster of that major: links and files where the server, or this engine as
/// root, would go in.
pub fn recognise(data: &Path, major: u32) -> Result<(), EngineError> {
    let refuse = |what: String| Err(EngineError::Invalid(format!("this is not a PostgreSQL {major} cluster: {what}")));
    let version = data.join("PG_VERSION");
    let plain = |path: &Path| fs::symlink_metadata(path).is_ok_and(|meta| meta.is_file());
    if !plain(&version) || !plain(&data.join("global/pg_control")) {
        return refuse("PG_VERSION or global/pg_control is missing".to_owned());
    }
    let text = plain::read_text(&version).map_err(failed("reading PG_VERSION"))?;
    if text.trim() != major.to_string() {
        return refuse(format!("PG_VERSION says {:?}", text.trim()));
    }
    for dir in ["base", "global", "pg_wal", "pg_tblspc"].iter().chain(&DIRS) {
        if !fs::symlink_metadata(data.join(dir)).is_ok_and(|meta| meta.is_dir()) {
            return refuse(format!("{dir} is not a directory"));
        }
    }
    let mut links = fs::read_dir(data).map_err(failed("reading a cluster"))?.flatten();
    if let Some(link) = links.find(|entry| !entry.file_type().is_ok_and(|kind| kind.is_file() || kind.is_dir())) {
        return refuse(format!("{:?} is a link", link.file_name()));
    }
    match fs::read_dir(data.join("pg_tblspc")).map_err(failed("reading a cluster"))?.next() {
        Some(_) => refuse("it has tablespaces".to_owned()),
        None => Ok(()),
    }
}

/// Refuses a stopped tree in which a transaction is prepared: whatever was changed after that one began is kept as it was, in
/// catalogs that are written anew, too, for it might still want to see it.
pub fn refuse_prepared(data: &Path) -> Result<(), EngineError> {
    let mut prepared = fs::read_dir(data.join("pg_twophase")).map_err(failed("looking for prepared transactions"))?;
    match prepared.next() {
        None => Ok(()),
        Some(_) => Err(EngineError::Invalid(
            "a transaction is prepared at that moment, and keeps passwords of production in the files: take another moment, or \
             a clone of this one in which it was ended (SELECT * FROM pg_prepared_xacts; then ROLLBACK PREPARED)"
                .to_owned(),
        )),
    }
}

/// A cleanly stopped tree needs only the segment with its last checkpoint, and of that nothing behind the
/// checkpoint's record: drops the others, and gives the rest of this one back.
pub fn slim(data: &Path, needed: &str, checkpoint_offset: u64) -> Result<(), EngineError> {
    let action = failed("dropping old log segments of a stopped tree");
    let wal = Dir::open(&data.join("pg_wal")).map_err(&action)?;
    for entry in fs::read_dir(wal.path()).map_err(&action)? {
        let entry = entry.map_err(&action)?;
        let name = entry.file_name();
        let segment = name.to_str().is_some_and(|name| name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit()));
        if segment && name != needed {
            fs::remove_file(entry.path()).map_err(&action)?;
        }
    }
    punch(&data.join("pg_wal").join(needed), checkpoint_offset)
}

/// Empties what lies behind the last record: a new timeline's first segment is a whole copy of the old one
/// (`XLogFileCopy` in xlog.c), and one that is used again has what it had. Where the file system has holes, that is room.
fn punch(segment: &Path, checkpoint_offset: u64) -> Result<(), EngineError> {
    const PAGE: u64 = 8192;
    let action = failed("emptying the rest of a log segment");
    let file = plain::edit(segment).map_err(&action)?;
    let length = file.metadata().map_err(&action)?.len();
    // The rest of a page that a server has begun is zeros. The record may go over to the next one.
    let crosses = record_length(&file, checkpoint_offset).is_none_or(|record| checkpoint_offset % PAGE + record > PAGE);
    let from = (checkpoint_offset / PAGE + 1 + u64::from(crosses)) * PAGE;
    super::still::zero(&file, from, length).map_err(&action)
}

/// How long the record at an offset says that it is.
fn record_length(segment: &fs::File, offset: u64) -> Option<u64> {
    use std::os::unix::fs::FileExt;
    let mut length = [0; 4];
    segment.read_exact_at(&mut length, offset).ok()?;
    Some(u64::from(u32::from_le_bytes(length))).filter(|length| (24..4096).contains(length))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn t10_what_confuses_a_copy_is_taken_out() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        for file in ["postmaster.pid", "standby.signal", "postgresql.auto.conf", "backup_label", "PG_VERSION"] {
            fs::write(dir.path().join(file), "primary_conninfo='password=hunter2'")?;
        }
        fs::create_dir_all(dir.path().join("pg_replslot/standby_1"))?;
        fs::create_dir_all(dir.path().join("log"))?;
        clean(dir.path(), false)?;
        let mut left: Vec<_> = fs::read_dir(dir.path())?.flatten().map(|entry| entry.file_name()).collect();
        left.sort();
        assert_eq!(left, ["PG_VERSION", "pg_replslot"]);
        assert_eq!(fs::read_dir(dir.path().join("pg_replslot"))?.count(), 0);
        Ok(())
    }

    #[test]
    fn a_link_that_a_tree_s_owner_has_put_there_is_refused_and_leads_nowhere() -> Result<(), Box<dyn std::error::Error>>
    {
        use std::os::unix::fs::{PermissionsExt, symlink};
        let dir = tempfile::tempdir()?;
        let (data, outside) = (dir.path().join("data"), dir.path().join("outside"));
        fs::create_dir_all(data.join("pg_wal"))?;
        fs::create_dir(&outside)?;
        fs::set_permissions(&outside, fs::Permissions::from_mode(0o755))?;
        fs::write(outside.join("file"), [7; 4 * 8192])?;
        let segment = "000000020000000000000004";
        symlink(outside.join("file"), data.join("pg_wal").join(segment))?;
        let error = slim(&data, segment, 40).map_err(|error| format!("{:?}", error)).expect_err("a link");
        assert!(error.contains("is a link, where a file is due"), "{error}");
        symlink(outside.join("file"), data.join("postgresql.conf"))?;
        assert!(is_durable(&data).is_err() && settle(&data).is_err());
        for name in ["pg_tblspc", "pg_replslot"] {
            symlink(&outside, data.join(name))?;
            assert!(clean(&data, false).is_err(), "{name}");
            fs::remove_file(data.join(name))?;
        }
        write(&data.join("postgresql.conf"), "own", None)?;
        assert_eq!(fs::read(outside.join("file"))?, [7; 4 * 8192]);
        assert_eq!(fs::metadata(&outside)?.permissions().mode() & 0o777, 0o755);
        Ok(())
    }

    #[test]
    fn a_stopped_tree_keeps_one_segment() -> Result<(), Box<dyn std::error::Error>> {
        let dir = tempfile::tempdir()?;
        let wal = dir.path().join("pg_wal");
        fs::create_dir_all(wal.join("archive_status"))?;
        // Of one that was used again: behind a record of 114 bytes all is old.
        let mut used = vec![7; 4 * 8192];
        used[40..44].copy_from_slice(&114_u32.to_le_bytes());
        for name in ["000000020000000000000003", "000000020000000000000004", "00000002.history"] {
            fs::write(wal.join(name), &used)?;
        }
        slim(dir.path(), "000000020000000000000004", 40)?;
        assert_eq!(fs::read_dir(&wal)?.count(), 3);
        assert!(!wal.join("000000020000000000000003").exists());
        let left = fs::read(wal.join("000000020000000000000004"))?;
        let (begun, rest) = left.split_at(8192);
        assert_eq!((left.len(), begun), (used.len(), &used[..8192]));
        assert!(rest.iter().all(|byte| *byte == 0), "the next page was never written to");
        Ok(())
    }
}
