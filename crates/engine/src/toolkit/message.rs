//! What Pando and a toolkit say to each other: one JSON object on stdin, one on stdout. The JSON schemas in
//! `docs/toolkit` are made from these types by a test; a change that an existing toolkit would notice is a new
//! [`PROTOCOL`].

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The version of the protocol that this Pando speaks.
pub const PROTOCOL: u32 = 1;

/// What a toolkit is asked to do. The word is its first argument, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum Operation {
    /// Say who you are.
    Identify,
    /// Look at production: reachable, allowed, of a version that can be served here?
    Preflight,
    /// Say what makes the first copy.
    Ingest,
    /// Say what brings the copy up to date.
    Follow,
    /// Say where production is.
    Position,
    /// Make a copy's tree ready to be served as a clone. Must not take longer for more data.
    Prepare,
    /// Say what server to run.
    Unit,
    /// Say whether that server answers.
    Ready,
    /// Cut what leads to production, and let the clone's own user in.
    Sanitise,
}

impl Operation {
    /// All of them, in the order of a source's life.
    pub const ALL: [Self; 9] = [
        Self::Identify,
        Self::Preflight,
        Self::Ingest,
        Self::Follow,
        Self::Position,
        Self::Prepare,
        Self::Unit,
        Self::Ready,
        Self::Sanitise,
    ];

    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Preflight => "preflight",
            Self::Ingest => "ingest",
            Self::Follow => "follow",
            Self::Position => "position",
            Self::Prepare => "prepare",
            Self::Unit => "unit",
            Self::Ready => "ready",
            Self::Sanitise => "sanitise",
        }
    }

    /// Seconds after which it is killed.
    pub const fn seconds(self) -> u64 {
        match self {
            Self::Identify | Self::Ready | Self::Unit | Self::Position => 10,
            Self::Preflight | Self::Ingest | Self::Follow => 30,
            Self::Prepare | Self::Sanitise => 120,
        }
    }

    /// Whether it is told production's password. What works on clones is not.
    pub const fn sees_production(self) -> bool {
        matches!(self, Self::Preflight | Self::Ingest | Self::Follow | Self::Position)
    }
}

/// What a toolkit reads on stdin.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Question {
    /// The version of the protocol: 1.
    pub protocol: u32,
    /// What to do.
    pub operation: Operation,
    /// The source. Not given to `identify`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceOf>,
    /// Where its copy is. Given to `ingest`, `follow`, `prepare`, `unit`, `ready` and `sanitise`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub place: Option<Place>,
    /// How it is served. Given to `prepare`, `unit`, `ready` and `sanitise`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serve: Option<Serve>,
    /// Who may enter. Given to `sanitise` of a clone; not given when a snapshot is only being prepared: then the
    /// server is stopped cleanly right after, and nobody enters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credentials: Option<Entry>,
}

/// A source of production.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct SourceOf {
    /// Its URL, taken apart and decoded.
    pub url: UrlOf,
    /// What `preflight` answered.
    #[cfg_attr(test, schema(value_type = Object))]
    pub facts: serde_json::Value,
    /// Patterns that the user wants left out.
    pub exclude: Vec<String>,
}

/// The parts of `toolkit+NAME://USER:PASSWORD@HOST:PORT/PATH?QUERY`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct UrlOf {
    /// The user.
    pub user: Option<String>,
    /// Production's password: only `preflight`, `ingest`, `follow` and `position` are told it.
    pub password: Option<String>,
    /// The host.
    pub host: Option<String>,
    /// The port.
    pub port: Option<u16>,
    /// The path, with its leading slash.
    pub path: String,
    /// What stands behind the question mark.
    pub query: BTreeMap<String, String>,
}

/// Directories that belong to the toolkit's account.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Place {
    /// The data. Snapshots and clones are copies of this directory.
    pub data: String,
    /// For sockets and passing files: a short path, private, not part of snapshots. The working directory of units.
    pub run: String,
}

/// How a source is served.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Serve {
    /// The port on 127.0.0.1; none while a snapshot is being prepared: then the server must not listen on TCP.
    pub port: Option<u16>,
    /// `disposable`: the last writes may be lost when the machine dies, so do not wait for the disk; or `durable`.
    #[cfg_attr(test, schema(value_type = String))]
    pub profile: pando_model::Profile,
    /// The user's `--set`. Those meant for other sources of the app are in it, too.
    pub settings: BTreeMap<String, String>,
}

/// A clone's own user.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Entry {
    /// The name.
    pub user: String,
    /// The password: letters, digits, `-` and `_`.
    pub password: String,
}

/// The answer to `identify`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Identity {
    /// The version of the protocol that it speaks: 1.
    pub protocol: u32,
    /// What it is for, in a few words.
    pub title: String,
    /// Its own version.
    pub version: String,
    /// Whether a clone has a server.
    #[serde(default = "yes")]
    pub server: bool,
    /// A clone's address, with `{user}`, `{password}`, `{host}` and `{port}` in it.
    #[serde(default)]
    pub address: Option<String>,
    /// What `pando doctor` shows: foreign programs that are missing, with the command that installs them.
    #[serde(default)]
    pub missing: Vec<Missing>,
}

const fn yes() -> bool {
    true
}

/// A foreign program that is not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Missing {
    /// Its name.
    pub program: String,
    /// The command that installs it.
    #[serde(default)]
    pub install: Option<String>,
}

/// The answer to `preflight`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Looked {
    /// What is wrong; empty: all is well.
    #[serde(default)]
    pub findings: Vec<Wrong>,
    /// What a user of clones should know, a line each.
    #[serde(default)]
    pub notes: Vec<String>,
    /// Production's version, in its own words.
    #[serde(default)]
    pub version: Option<String>,
    /// Bytes of data, where known: more than the pool has are refused.
    #[serde(default)]
    pub bytes: Option<u64>,
    /// Anything that later operations need to know. No secrets.
    #[serde(default)]
    #[cfg_attr(test, schema(value_type = Object))]
    pub facts: serde_json::Value,
}

/// Something wrong with production.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Wrong {
    /// One line.
    pub what: String,
    /// A command to paste.
    #[serde(default)]
    pub fix: Option<String>,
    /// Whether it cannot be linked like that.
    #[serde(default = "yes")]
    pub fatal: bool,
}

/// The answer to `ingest`, `follow` and `unit`: what to run. It is run as the toolkit's account; `ingest` and
/// `follow` units end with 0 (done), 75 (production moved under its hands: run it again) or anything else (failed,
/// and the last line printed says why). To show progress they print lines such as `{"done": 4096, "total": 8192}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct ToRun {
    /// What to run; nothing: there is nothing to do, or no server.
    pub unit: Option<UnitOf>,
}

/// A program to run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct UnitOf {
    /// Its absolute path; the toolkit itself when it is not given.
    #[serde(default)]
    pub program: Option<String>,
    /// Its arguments. Public: no secrets.
    #[serde(default)]
    pub args: Vec<String>,
    /// Its environment, which is otherwise clean. The place for secrets.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// The signal that asks it to stop.
    #[serde(default)]
    pub stop: Stop,
    /// Seconds it gets to stop before it is killed.
    #[serde(default = "half_a_minute")]
    pub stop_seconds: u64,
}

const fn half_a_minute() -> u64 {
    30
}

/// A signal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub enum Stop {
    /// SIGTERM.
    #[default]
    #[serde(rename = "TERM")]
    Term,
    /// SIGINT.
    #[serde(rename = "INT")]
    Int,
}

/// The answer to `position`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Where {
    /// A word that is another one when production's data has changed; none: that cannot be told, and snapshots
    /// are taken whenever they are due.
    #[serde(default)]
    pub position: Option<String>,
    /// Why production cannot be reached, in one line. Nothing: it can.
    #[serde(default)]
    pub unreachable: Option<String>,
}

/// The answer to `ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct IsReady {
    /// Whether it answered a query.
    pub ready: bool,
    /// What it is doing instead, in one line.
    #[serde(default)]
    pub doing: Option<String>,
}

/// The answer to `prepare` and `sanitise`: an empty object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(test, derive(utoipa::ToSchema))]
pub struct Done {}
