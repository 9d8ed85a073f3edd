//! What knows one kind of source. An engine says what to run and what to write into a tree; it starts no
//! server itself and decides nothing about snapshots, clones or leases.
//!
//! The life of a source, and the calls in it:
//!
//! ```text
//! production ──preflight──▶ Facts
//!     │ ingest (a unit run once) ▶ settle
//!     ▼
//! mirror ── follow (units kept running) ── pulse, every second: the log advances, how far are we?
//!     │ hold ▶ sync (a unit run once, engines without a log) ▶ [pool snapshot] ▶ mark ▶ release
//!     ▼
//! snapshot tree ── locate (moment ▶ Point) ── stage (write the tree ready) ▶ serve (the unit)
//!     ▼                                          ▶ ready? ▶ admit (sanitise, passwords, open the door)
//! clone
//! ```

mod ask;
pub mod files;
pub mod mariadb;
pub mod mysql;
mod mysql_family;
pub mod postgres;
mod reach;
pub mod redis;
mod seat;
pub mod sim;
pub mod toolkit;

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use pando_host::secret::Secret;
use pando_host::{Account, ToolError};
use pando_model::{DoctorItem, EngineKind, Lsn, Profile, SettingChange, SourceUrl};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Where one source of one owner (the mirror of an app, a snapshot of it, or a clone) lives.
#[derive(Debug, Clone)]
pub struct Seat {
    /// The source's directory inside the owner's volume (or snapshot).
    pub data: PathBuf,
    /// The source's change log; outside the volume. Belongs to the mirror or to a recording clone.
    pub log: PathBuf,
    /// For sockets and passing files: a short path, private to the account, emptied by a reboot.
    pub run: PathBuf,
    /// The account the units run as; `None`: the daemon's own.
    pub account: Option<Account>,
}

/// A source of production, with what preflight learned about it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Source {
    /// Where production is, password included.
    pub url: SourceUrl,
    /// Patterns that are left out (files).
    #[serde(default)]
    pub exclude: Vec<String>,
    /// What the engine learned, in its own form.
    #[serde(default)]
    pub facts: serde_json::Value,
    /// A word that is unique for this mirror on production (replication slot, application name).
    pub tag: String,
}

/// Something wrong with production, with what mends it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// One line.
    pub what: String,
    /// SQL or a command to paste.
    pub fix: Option<String>,
    /// Whether linking can go on all the same.
    pub fatal: bool,
}

/// What `preflight` learned.
#[derive(Debug, Clone, Default)]
pub struct Preflight {
    /// The engine's own facts, kept with the source.
    pub facts: serde_json::Value,
    /// The server's version, in its own words.
    pub version: Option<String>,
    /// What is wrong.
    pub findings: Vec<Finding>,
    /// What a user of clones should know.
    pub notes: Vec<String>,
    /// Bytes of data, where known.
    pub bytes: Option<u64>,
    /// The engine that knows what was found, where it is another one than was asked: `mysql://` is said of MariaDB too.
    pub belongs_to: Option<EngineKind>,
}

/// A program or server to run: like the runtime's unit, without an id. `operations` gives it one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnitPlan {
    /// What it is to its source: `server`, `receiver`, `ingest`, `sync`.
    pub role: &'static str,
    /// Absolute path of the program.
    pub program: PathBuf,
    /// Arguments. Public: no secrets.
    pub args: Vec<String>,
    /// Environment. May hold secrets.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub dir: PathBuf,
    /// The account it runs as.
    pub account: Option<Account>,
    /// Files that begin with the id of its process, over which another server refuses to start.
    pub locks: Vec<PathBuf>,
    /// Stop it by SIGINT (else SIGTERM).
    pub stop_by_interrupt: bool,
    /// Seconds it gets to stop.
    pub stop_grace_seconds: u64,
}

/// One more program of a first copy, or of a tree that is made anew.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ingest {
    /// The program.
    pub plan: UnitPlan,
    /// The server it works on, which runs as long as it does.
    pub server: Option<UnitPlan>,
}

/// What the end of a program that was run to its end means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It did its work.
    Done,
    /// Production moved under its hands: another run right away is likely to do it.
    Again,
    /// It failed; its log says why.
    Failed,
}

/// What comes of a first copy that failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Instead {
    /// It is begun again, in another way.
    Anew {
        /// What was noted of it, and is so no more.
        was: &'static str,
        /// What is noted.
        now: String,
    },
    /// It has failed. What a user may do.
    Hint(&'static str),
}

/// The state of the mirror's following, as of one look.
#[derive(Debug, Clone, PartialEq)]
pub struct Pulse {
    /// Whether production is being followed right now.
    pub link: Link,
    /// Everything that production committed up to here (production's clock) is in the log, durable.
    /// `None`: nothing is known yet.
    pub through: Option<Timestamp>,
    /// Whether something changed since the pulse before.
    pub changed: bool,
}

/// Whether production is being followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Link {
    /// Yes.
    Following,
    /// Not now; it is tried again. Why, in one line.
    Disconnected(String),
    /// Not yet: what production holds is still coming. How far it is, in one line.
    Copying(String),
    /// What we need next is gone from production: only a new first copy helps. Why, in one line.
    Lost(String),
    /// The units must be started again with new settings (already written). Why, in one line.
    Restart(String),
}

/// What a snapshot's tree holds of one source.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The earliest point it can be brought to.
    pub from: Point,
    /// The moment of production that its plain content stands for: for files the start of the sync.
    pub at: Timestamp,
    /// Whether the tree can be rolled forward by the log (else it shows only `at`).
    pub rolls: bool,
}

/// A place in a source's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Point {
    /// Which unbroken stretch of log: a new first copy begins a new one.
    pub epoch: u32,
    /// PostgreSQL timeline; 0 elsewhere.
    pub timeline: u32,
    /// Position; 0 where the engine has none.
    pub lsn: Lsn,
    /// The commit time of the last transaction at or before it, when known.
    pub time: Option<Timestamp>,
}

/// What to look for in a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Want {
    /// The last state at or before a time.
    Time(Timestamp),
    /// A position.
    Lsn(Lsn),
    /// The last thing there is.
    End,
}

/// One unbroken stretch of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stretch {
    /// Its number.
    pub epoch: u32,
    /// Its first position.
    pub first: Lsn,
    /// Its last position.
    pub last: Lsn,
    /// Everything committed up to here is in it.
    pub through: Option<Timestamp>,
}

/// How a tree is to be made ready.
#[derive(Debug, Clone)]
pub struct Stage {
    /// Where to stop replay; `None`: take the tree as it is (a prepared tree, or a clone's own).
    pub to: Option<Point>,
    /// The log to replay from, when `to` is given.
    pub log: Option<PathBuf>,
    /// The port on loopback; `None`: no TCP at all (preparing).
    pub port: Option<u16>,
    /// What its data is worth.
    pub profile: Profile,
    /// Whether a log will be kept of it.
    pub record: bool,
    /// Server settings of the user, app template first.
    pub set: SettingChange,
}

/// Who may enter a clone.
#[derive(Debug, Clone)]
pub struct Credentials {
    /// The superuser's name.
    pub user: String,
    /// The password.
    pub password: Secret,
    /// What a server salts the password with; it chooses by itself where there is none.
    pub salt: Option<[u8; 16]>,
}

/// How a starting server is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Readiness {
    /// It answered a query and can be written to.
    Ready,
    /// Not yet; what it is doing, in one line.
    Starting(String),
}

/// What is looked for in an image before a server starts in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ImageLook {
    /// The server's program there, found by the image's own PATH: it is asked for its version.
    pub server: &'static str,
    /// Whether the C library and what lies beside the server matter too.
    pub libraries: bool,
}

/// What an image holds, as far as a server's data asks for it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImageContent {
    /// What the server says to `--version`; none when it could not be run.
    pub version: Option<String>,
    /// The C library: `glibc 2.36`, `musl`; none when it could not be found out, or was not looked for.
    pub libc: Option<String>,
    /// Paths of libraries and of extensions' control files.
    pub files: Vec<String>,
}

/// How a server's official image has its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Baked {
    /// The data's directory in it.
    pub path: String,
    /// The name of the account that the server runs as in it.
    pub account: &'static str,
    /// The port that its server listens on.
    pub port: u16,
    /// What its server would say to `--version`; none where its environment does not tell.
    pub version: Option<String>,
    /// What the image runs instead of what it runs otherwise, so that the server finds its settings in the data.
    pub command: Option<Vec<String>>,
}

/// Why a call did not do its work.
#[derive(Debug, Error)]
pub enum EngineError {
    /// A foreign program failed.
    #[error("{action}")]
    Tool {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: ToolError,
    },
    /// A file failed.
    #[error("{action}")]
    Io {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A server was not reachable or refused.
    #[error("{action}")]
    Server {
        /// What was being done.
        action: String,
        /// Why it failed.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// A program that is not ours, and not one that this code knows, did something wrong: one line says all.
    #[error("{0}")]
    Foreign(String),
    /// What was read makes no sense, or what was asked cannot be done.
    #[error("{0}")]
    Invalid(String),
}

/// What knows one kind of source. All calls block, and may be repeated.
pub trait Engine: Send + Sync {
    /// Which kind.
    fn kind(&self) -> EngineKind;
    /// Whether its foreign programs are there.
    fn doctor(&self) -> Vec<DoctorItem>;

    /// Looks at production: reachable, allowed, and of a version that can be served here?
    fn preflight(&self, url: &SourceUrl) -> Result<Preflight, EngineError>;
    /// Asks production again for what the mirror and its clones know of it. What was learned, and is noted in the mirror's tree,
    /// where it is something else than before: then its units have to be started anew.
    fn relearn(&self, _seat: &Seat, _source: &Source) -> Result<Option<Preflight>, EngineError> {
        Ok(None)
    }
    /// Empties `seat.data`, makes it ready, and says what makes the first copy.
    fn ingest(&self, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError>;
    /// What the first copy needs after so many of its programs were run to their end; `None`: it is whole.
    fn ingest_next(&self, _seat: &Seat, _source: &Source, _done: usize) -> Result<Option<Ingest>, EngineError> {
        Ok(None)
    }
    /// What comes of a first copy of which something failed, and why; `None`: it has failed. The next `ingest` may go
    /// another way than this one.
    fn instead(&self, _seat: &Seat, _why: &str) -> Option<Instead> {
        None
    }
    /// What the exit of an `ingest` or `sync` unit means; `log` is the end of what it printed.
    fn verdict(&self, code: i32, _log: &str) -> Verdict {
        if code == 0 { Verdict::Done } else { Verdict::Failed }
    }
    /// Bytes done and bytes in all of the running `ingest` or `sync` unit, whose log is `log`.
    fn progress(&self, seat: &Seat, log: &str) -> Option<(u64, Option<u64>)>;
    /// After `ingest`: turns the copy into a mirror, and begins a new epoch of the log.
    fn settle(&self, seat: &Seat, source: &Source) -> Result<(), EngineError>;

    /// The units that keep the mirror up to date. Called before each start of them.
    fn follow(&self, seat: &Seat, source: &Source) -> Result<Vec<UnitPlan>, EngineError>;
    /// Lets the log advance and says how far it is. Called about once a second, and repeatedly while
    /// somebody waits for a moment. `urgent` asks production for its position now.
    fn pulse(&self, seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError>;
    /// Reads the end of the mirror's server log for what only a new first copy or a restart mends.
    fn diagnose(&self, log: &str) -> Option<Link>;
    /// What brings the mirror up to date now, for engines without a log (`files`); `None` for the others.
    fn sync(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError>;
    /// Whether a snapshot of a running server, mirror's or clone's, needs `hold`, also where it is one instant: its
    /// files alone are not enough to recover from.
    fn must_hold(&self) -> bool {
        false
    }
    /// From now until `release` the mirror's data does not go past this moment (its log still does).
    fn hold(&self, seat: &Seat, source: &Source) -> Result<(), EngineError>;
    /// Ends `hold`. That there was none is no error.
    fn release(&self, seat: &Seat, source: &Source) -> Result<(), EngineError>;
    /// Says what a fresh snapshot tree holds. `tree` is the snapshot; `seat` is what it was taken of.
    /// `asked` is the time just before the sync and the snapshot. `clone`: it was taken of a clone.
    fn mark(
        &self,
        tree: &Seat,
        seat: &Seat,
        source: &Source,
        asked: Timestamp,
        clone: bool,
    ) -> Result<Mark, EngineError>;
    /// Takes away what Pando left on production (its replication slot). Production may be unreachable.
    fn detach(&self, source: &Source) -> Result<(), EngineError>;

    /// Whether `fence` can hold production's writes.
    fn can_fence(&self) -> bool {
        false
    }
    /// Holds production's writes for at most `limit`, so that a cut through several sources is exact. It stands when
    /// this returns, and production itself ends it when the time is over, whatever becomes of Pando.
    fn fence(&self, _source: &Source, _limit: std::time::Duration) -> Result<(), EngineError> {
        Err(EngineError::Invalid(format!("{} sources cannot hold writes", self.kind())))
    }
    /// Ends `fence`; that there is none is no error. Answers whether it stood until now.
    fn unfence(&self, _source: &Source) -> Result<bool, EngineError> {
        Ok(false)
    }

    /// The stretches of log there are, oldest first. Empty for engines without a log.
    fn stretches(&self, log: &std::path::Path) -> Result<Vec<Stretch>, EngineError>;
    /// The point of a log that stands for a moment, inside one epoch, not before `from`.
    fn locate(&self, log: &std::path::Path, from: &Point, want: Want) -> Result<Option<Point>, EngineError>;
    /// Drops what lies before a point that no snapshot needs any more.
    fn trim(&self, log: &std::path::Path, before: &Point) -> Result<(), EngineError>;

    /// Makes a tree ready to be served: cleans it of production, writes settings, brings the log in.
    fn stage(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError>;
    /// Whether a clone of it has a server.
    fn serves(&self, _source: &Source) -> bool {
        true
    }
    /// The server's unit; `None` where nothing needs to run (`files`).
    fn serve(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError>;
    /// Whether it answers.
    fn ready(&self, seat: &Seat, source: &Source) -> Result<Readiness, EngineError>;
    /// After `ready`: cuts what points to production, disables production's passwords, sets the clone's
    /// own and opens the door. With no credentials: only cuts (preparing).
    fn admit(&self, seat: &Seat, source: &Source, credentials: Option<&Credentials>) -> Result<(), EngineError>;
    /// Whether this machine can serve a tree of a source that comes from elsewhere. Its facts are a stranger's.
    fn fits(&self, _source: &Source) -> Result<(), EngineError> {
        Err(EngineError::Invalid(format!("{} sources do not travel", self.kind())))
    }
    /// Looks at a tree that came from elsewhere: refuses what is not a stopped tree of this source's version, and
    /// takes away what it claims of itself.
    fn receive(&self, _data: &std::path::Path, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    /// The unit that keeps the log of a recording clone.
    fn record(&self, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError>;
    /// Closes what is still open to the server that had its sockets in this directory, and has gone for good. The system keeps
    /// of a server whom somebody is connected to, however dead, what it was confined to: its volume would go on taking room.
    fn hang_up(&self, _sockets: &std::path::Path) {}
    /// A stopped tree: drops what a clone of it would not need (old log segments).
    fn slim(&self, seat: &Seat, source: &Source) -> Result<(), EngineError>;
    /// Whether a user may set these server settings on clones.
    fn check_settings(&self, set: &SettingChange) -> Result<(), EngineError>;
    /// Refuses a stopped tree that keeps in its files what was cut off it, and so may not leave this machine.
    fn may_leave(&self, _seat: &Seat) -> Result<(), EngineError> {
        Ok(())
    }
    /// Whether an image is made of a prepared tree only: what was cut off goes out of the files when a server is stopped
    /// that nobody was let into.
    fn prepares_images(&self) -> bool {
        false
    }
    /// Whether the files of its trees keep what was cut off, whatever is done to it: only one that was made anew may leave
    /// this machine.
    fn renews(&self) -> bool {
        false
    }
    /// The same of a tree that was masked: whether its files keep what was changed in it, whatever is done.
    fn renews_masked(&self) -> bool {
        self.renews()
    }
    /// Takes out of the files of a served tree what was changed in it: old versions of rows, the log, statistics. Only
    /// what its server shows may be in a masked tree that leaves this machine.
    fn scrub(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    /// The rest of it, which its server writes when it is stopped.
    fn scrub_stopped(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    /// Makes a prepared, stopped tree anew: the next program after so many were run to their end; `None`: it is made, and
    /// prepared and stopped as before. What that needs lies beside the tree. From 0 a try that came to no end is begun
    /// again.
    fn renew(&self, _seat: &Seat, _source: &Source, _done: usize) -> Result<Option<Ingest>, EngineError> {
        Ok(None)
    }
    /// Runs a user's statements on a served clone's database, all or none where the server can.
    fn execute(&self, _seat: &Seat, _source: &Source, _statements: &str) -> Result<(), EngineError> {
        Err(EngineError::Invalid(format!("{} sources take no SQL", self.kind())))
    }
    /// What only its running server can do before it is stopped for [`Engine::hand_over`].
    fn part(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }
    /// Makes a stopped, sanitised tree ready for a server in a container of the user's, whose account may be another:
    /// what is written belongs to whom the tree belongs to. The network of the container is let in by password.
    fn hand_over(&self, _seat: &Seat, _source: &Source, _stage: &Stage) -> Result<(), EngineError> {
        Err(EngineError::Invalid(format!("a server in a container cannot be given {} sources", self.kind())))
    }
    /// Whether [`Engine::hand_over`] can.
    fn hands_over(&self) -> bool {
        false
    }
    /// The complete address of a served source.
    fn address(&self, source: &Source, port: u16, credentials: &Credentials) -> Option<String>;

    /// The official image of a server of exactly the version that wrote a tree; `None`: this kind has no server,
    /// or is not known in containers.
    fn image(&self, _seat: &Seat, _source: &Source) -> Result<Option<String>, EngineError> {
        Ok(None)
    }
    /// What to look for in an image; `None`: this kind has no server, or is not known in containers.
    fn image_look(&self, _source: &Source) -> Result<Option<ImageLook>, EngineError> {
        Ok(None)
    }
    /// A unit's plan as it is run in an image, which has the server elsewhere than this machine, perhaps under
    /// another name.
    fn contained(&self, source: &Source, plan: UnitPlan) -> Result<UnitPlan, EngineError> {
        let look = self.image_look(source)?.filter(|_| plan.role == "server");
        let program = look.map_or(plan.program, |look| PathBuf::from("/usr/bin").join(look.server));
        Ok(UnitPlan { program, ..plan })
    }
    /// Whether the server of a recording clone writes its log itself, and so needs its directory.
    fn server_writes_log(&self) -> bool {
        false
    }
    /// How an image with that environment has its data; `None`: a tree of this kind is no data of an image's.
    fn baked(&self, _env: &dyn Fn(&str) -> Option<String>) -> Option<Baked> {
        None
    }
    /// As [`Engine::stage`], of a tree that becomes an image: its server does nothing by itself, so that the same
    /// becomes of it each time, as far as that can be had.
    fn stage_image(&self, seat: &Seat, source: &Source, stage: &Stage) -> Result<(), EngineError> {
        self.stage(seat, source, stage)
    }
    /// Whether images of production are made of trees as they were cut out of the log, also where there are prepared ones:
    /// such trees are the same bytes each time, and the beginning of those cut later.
    fn bakes_raw(&self) -> bool {
        false
    }
    /// Of such a tree, which is served and was written to by nobody: whether it is packed as it is. Else it is put
    /// together first, by [`Engine::part`].
    fn is_packable(&self, _seat: &Seat) -> Result<bool, EngineError> {
        Ok(false)
    }
    /// Makes a stopped, sanitised tree the data of an image: handed over, without what no first start needs, and, as far
    /// as that can be had, the same bytes each time. What has to have a time has that of the moment.
    fn bake(&self, seat: &Seat, source: &Source, stage: &Stage, _moment: Timestamp) -> Result<(), EngineError> {
        self.hand_over(seat, source, stage)
    }
    /// The largest things in a served tree, by name and bytes, the largest first; empty where the kind has no names.
    fn largest(&self, _seat: &Seat, _source: &Source) -> Result<Vec<(String, u64)>, EngineError> {
        Ok(Vec::new())
    }
    /// What of a tree an image does not suit: a fatal finding keeps its server from starting in it.
    fn suits(&self, _: &Seat, _: &Source, _image: &ImageContent) -> Result<Vec<Finding>, EngineError> {
        Ok(Vec::new())
    }
    /// After `ready`, in an image that sorts texts in another order: makes the indexes again.
    fn reindex(&self, _seat: &Seat, _source: &Source) -> Result<(), EngineError> {
        Ok(())
    }
}

/// Percent-encodes what is not plain in a URL.
fn encoded(text: &str) -> String {
    use std::fmt::Write;
    text.bytes().fold(String::new(), |mut out, byte| {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            out.push(char::from(byte));
        } else {
            let _ = write!(out, "%{byte:02X}");
        }
        out
    })
}
