//! What differs between MariaDB and MySQL, all of it: who reads this trait and its two implementations
//! (`mariadb/mod.rs`, `mysql/mod.rs`) knows every difference that Pando knows. What their logs mean differently is
//! [`Dialect`].
//!
//! Statements and words stand here as data; what one of the two does in its own way is a method with the usual way as
//! its default.

use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use pando_host::Account;
use pando_model::{EngineKind, SourceUrl};

use super::FamilyEngine;
use super::binlog::dialect::Dialect;
use super::config::{Manner, Options};
use super::facts::Facts;
use super::identity::{Coordinates, Stands};
use super::install::{Installations, Programs, Version};
use super::session::KEEPER;
use super::wire::{ClientError, Rows, Session};
use crate::{Credentials, EngineError, Finding, Ingest, Instead, Preflight, Seat, Source, UnitPlan};

/// One of the two.
pub trait Flavor: Dialect + Clone + PartialEq + Send + Sync {
    // --- Who it is -----------------------------------------------------------------------------------------------

    /// Its kind.
    const KIND: EngineKind;
    /// The kind that its address may lead to as well.
    const OTHER: EngineKind;
    /// Its programs.
    const PROGRAMS: Programs;
    /// The versions that are known, and the same in words.
    const KNOWN: (RangeInclusive<Version>, &'static str);
    /// Whether a server reads what a newer one of its series has written (M-13).
    const READS_NEWER: bool;
    /// What a server calls a replica in names of columns and counters.
    const REPLICA: &'static str;

    // --- Preflight -----------------------------------------------------------------------------------------------

    /// Settings that change what data means or how it lies on disk, beside those that both have (M-14).
    const SHARED: &'static [&'static str];
    /// Settings that change what statements answer or store, beside those that both have.
    const ANSWERS: &'static [&'static str];
    /// More settings that are asked for.
    const ASKED: &'static [&'static str];
    /// What a table's options are like where it is encrypted, as a condition; and what is said of such tables.
    const ENCRYPTED: (&'static str, &'static str);
    /// What mends a production without a binary log, without a number, with statements in its log.
    const FIXES: [&'static str; 3];
    /// What is known of settings that only it has.
    fn settings(facts: &Facts) -> Vec<Finding>;
    /// What a user should know before a link, and what else is wrong. `ask`: asks production. Whether the first copy is
    /// one of files.
    fn first_copy(
        _: &Installations,
        _: &dyn Fn(&str) -> Result<String, EngineError>,
        _: &SourceUrl,
        _: &Facts,
        _: &mut Preflight,
    ) -> Result<bool, EngineError> {
        Ok(false)
    }

    // --- Where a server is ---------------------------------------------------------------------------------------

    /// Asks what a server has applied of another's log.
    const APPLIED: &'static str;
    /// Asks what production has committed.
    const COMMITTED: &'static str;
    /// Asks what of that a recording clone has in this run of its own log.
    const WRITTEN: &'static str;
    /// The variable that a replica goes on from.
    const BEGINS: &'static str;
    /// What shows the end of a server's log.
    fn log_status(_: Version) -> &'static str {
        "SHOW MASTER STATUS"
    }
    /// Whether at a place of production's log stands what stood there.
    fn stands(ask: &dyn Fn(&str) -> Result<String, EngineError>, at: &Coordinates<Self>)
    -> Result<Stands, EngineError>;

    // --- The first copy ------------------------------------------------------------------------------------------

    /// Options of a dump that begins or ends with its position.
    const DUMP: [&'static str; 2];
    /// Tables of the system that belong to a server, not to its data.
    const NOT_COPIED: &'static [&'static str];
    /// The position of a dump, by its first and its last bytes.
    fn dumped(head: &str, tail: &str) -> Option<Self::Position>;
    /// What makes an empty server: its program and its options, given the file that the server runs first.
    fn empty_server(init: &Path) -> (&'static str, Vec<String>);
    /// Whether that wants its directory without any file.
    const WANTS_NO_FILE: bool;
    /// The first program of a copy that is not a dump, where one can be made.
    fn copy_files(_: &FamilyEngine<Self>, _: &Seat, _: &Source) -> Result<Option<UnitPlan>, EngineError> {
        Ok(None)
    }
    /// Whether such a copy is being made.
    fn copies_files(_: &Seat) -> bool {
        false
    }
    /// Bytes of it that are there and bytes in all, where its programs do not print them.
    fn progress(_: &Seat) -> Option<(u64, Option<u64>)> {
        None
    }
    /// Its next program.
    fn copy_files_next(_: &FamilyEngine<Self>, _: &Seat, _: &Source, _: usize) -> Result<Option<Ingest>, EngineError> {
        Ok(None)
    }
    /// What comes of a failed one: a dump, or what a user may do.
    fn instead(_: &Seat, _why: &str) -> Option<Instead> {
        None
    }
    /// Where it stands.
    fn copied(_: &FamilyEngine<Self>, _: &Seat, _: &Source) -> Result<Option<Self::Position>, EngineError> {
        Ok(None)
    }

    // --- A replica -----------------------------------------------------------------------------------------------

    /// What tells a mirror where production is.
    fn change(url: &SourceUrl, facts: &Facts) -> String;
    /// What is said when the receiving thread starts, as the end of `START REPLICA`.
    fn credentials(_: &SourceUrl) -> String {
        String::new()
    }
    /// Whether a mirror's server was just started and knows of no production.
    fn is_fresh(status: &Rows) -> bool {
        status.rows.is_empty()
    }
    /// Errors of the receiving thread that say: what is needed next is gone.
    const GONE: &'static [u32];
    /// What makes a server's files whole for every storage engine, until the session ends: nothing commits, and the
    /// redo log is on disk up to the last commit (else InnoDB would find it prepared only, and no log to ask).
    const STILL: &'static [&'static str];
    /// What ends that.
    const GO_ON: &'static str;

    // --- Option files and accounts -------------------------------------------------------------------------------

    /// Options of every server of Pando's.
    fn server_options(options: &mut Options);
    /// Options of a mirror, whose relay logs are called `live`.
    fn mirror_options(options: &mut Options, live: &Path);
    /// Options of a clone, which replays out of a directory.
    fn clone_options(options: &mut Options, replay: &Path, manner: &Manner);
    /// The door of a clone: shut, nobody comes in over TCP.
    fn door(options: &mut Options, open: bool);
    /// What opens it while the server runs.
    const OPEN: &'static [&'static str];
    /// Settings that belong to Pando, beside those of both.
    const OURS: &'static [&'static str];
    /// What makes Pando's own account, which has no password.
    const KEEPER: &'static [&'static str];
    /// Shuts every account but the keeper's and the server's own, one statement a line: nobody's password works, and
    /// what the server kept of it is gone (M-16).
    const SHUT: &'static [&'static str];
    /// Where what was in the tables of accounts is written once more, and nothing else says so: what takes it out of
    /// there, on a server that is to be stopped for good.
    const FORGET: &'static [&'static str] = &[];
    /// Lets a clone's own superuser in by its password. Others of its name, whom the server might take first, go.
    fn let_in(session: &mut Session, run: &Path, who: &Credentials) -> Result<(), ClientError>;
    /// What makes a server forget production's numbers (M-8).
    fn forget_numbers(version: Version) -> &'static str;
    /// Options of its client, and of what dumps, for Pando's own servers.
    const CLIENT: &'static [&'static str];
    /// Options of its client when it runs a file's statements.
    const LOAD: &'static [&'static str] = &[];

    // --- A tree --------------------------------------------------------------------------------------------------

    /// Where its files keep what the tables of accounts held, whatever is done to those: more options of the dump that a
    /// tree is made anew of, before it leaves this machine.
    const ANEW: Option<&'static [&'static str]> = None;
    /// The same of a tree in which something was masked: undo, redo, free pages and binary logs keep what was there.
    const ANEW_MASKED: &'static [&'static str];
    /// Files that are in every tree of it.
    const TREE: &'static [&'static str];
    /// Asks a server for the first file of its data that lies outside of its tree, where only its dictionary knows.
    const OUTSIDE: Option<&'static str> = None;
    /// What only a look into a stopped tree's files takes out of it. Whether that was done.
    fn slim(_: &Path) -> Result<bool, EngineError> {
        Ok(true)
    }
    /// Takes out of a stopped tree what a server must not read of its own binary log, whose files are called `live`.
    fn before_start(_: &Path, _: Option<&Account>) -> Result<(), EngineError> {
        Ok(())
    }
    /// Files beside the data over which a second server refuses to start.
    fn locks(_: &Path) -> Vec<PathBuf> {
        Vec::new()
    }

    // --- A replay ------------------------------------------------------------------------------------------------

    /// What a clone's relay log is called.
    const RELAY: &'static str;
    /// Which of a server's channels replays it, as statements name it.
    const CHANNEL: &'static str;
    /// What begins a replay. The names of the host and of its file are never used.
    const REPLAY: &'static [&'static str];
    /// The state of a replay.
    fn replay_status(session: &mut Session) -> Result<Rows, ClientError> {
        session.query("SHOW REPLICA STATUS")
    }
    /// Makes a relay log whole: before the server hears of it, and before each time it reads it.
    fn mend(_: &Path) -> std::io::Result<()> {
        Ok(())
    }

    // --- Containers ----------------------------------------------------------------------------------------------

    /// The official image, and the variable in it that says its version.
    const IMAGE: [&'static str; 2];
    /// Options of a server in a container of the user's.
    fn container_options(options: &mut Options);
    /// What changes the accounts for such a server.
    const PART: &'static [&'static str];
}

/// What a server of either runs first to be Pando's.
pub fn keeper<F: Flavor>() -> impl Iterator<Item = String> {
    F::KEEPER.iter().map(|line| line.replace("KEEPER", &format!("'{KEEPER}'@'localhost'")))
}
