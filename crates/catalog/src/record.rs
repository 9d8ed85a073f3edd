//! The records of the catalog. What is `Option` or has a default may be missing in older documents.

use std::collections::BTreeMap;
use std::path::PathBuf;

use jiff::Timestamp;
use pando_model::{
    AppId, AppState, CloneId, CloneState, ContainerWish, EngineKind, Name, OperationId, OperationState, OwnerId,
    Policy, PoolSnapshotId, Problem, Profile, Progress, SettingChange, SnapshotId, StepState, Timing, UnitId, VolumeId,
};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

/// A kind of record.
pub trait Record: Serialize + DeserializeOwned {
    /// Its table.
    const TABLE: &'static str;
    /// What it is found by.
    fn id(&self) -> String;
    /// What it is listed by: an owner, a verb.
    fn key(&self) -> String;
}

/// Bytes encrypted with the home's key, in hexadecimal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Sealed(pub String);

/// One source of an app.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppSource {
    /// What knows it.
    pub engine: EngineKind,
    /// The engine's `Source`, password and all.
    pub sealed: Sealed,
    /// Production's URL without its password, for people.
    pub shown: String,
    /// The server's version, in its own words.
    pub version: Option<String>,
    /// What users of clones should know.
    pub notes: Vec<String>,
    /// By role: the mirror's servers and its one-shot programs.
    pub units: BTreeMap<String, UnitId>,
    /// The directory name of its sockets.
    pub seat: UnitId,
    /// The image that its server runs in, in containers; none: the one that its engine knows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

/// A linked app.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AppRecord {
    /// Its id.
    pub id: AppId,
    /// Its name.
    pub name: Name,
    /// How its mirror is doing.
    pub state: AppState,
    /// Why, when it is not following.
    pub problem: Option<String>,
    /// Snapshots and their keeping.
    pub policy: Policy,
    /// Settings for every clone.
    pub set: SettingChange,
    /// Hooks and edits, which may hold secrets.
    #[serde(default)]
    pub stitches: Option<Sealed>,
    /// The mirror's volume.
    pub volume: VolumeId,
    /// When it was linked.
    pub created_at: Timestamp,
    /// When its last first copy after that was made.
    #[serde(default)]
    pub copied_at: Option<Timestamp>,
    /// By name.
    pub sources: BTreeMap<Name, AppSource>,
}

/// One source of a clone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloneSource {
    /// What knows it.
    pub engine: EngineKind,
    /// The volume that holds it.
    pub volume: VolumeId,
    /// Its port on loopback, where it has a server.
    pub port: Option<u16>,
    /// By role: its server, its log receiver.
    pub units: BTreeMap<String, UnitId>,
    /// The directory name of its sockets; stays through refreshes.
    pub seat: UnitId,
    /// The moment it shows.
    pub moment: Option<Timestamp>,
    /// Position in the source's own log.
    pub position: Option<String>,
    /// Seconds off the moment asked for.
    pub skew_seconds: Option<f64>,
    /// What a user should know.
    #[serde(default)]
    pub notes: Vec<String>,
}

/// The state before the last refresh or rewind, kept for `undo`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Former {
    /// The clone's sources as they were.
    pub sources: BTreeMap<Name, CloneSource>,
    /// The moment it showed.
    pub moment: Timestamp,
    /// What was asked for.
    pub asked: String,
    /// The snapshot it stood on.
    pub snapshot: Option<SnapshotId>,
    /// Until when it is kept.
    pub until: Timestamp,
    /// Whether its data was masked.
    #[serde(default)]
    pub masked: bool,
}

/// A clone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CloneRecord {
    /// Its id.
    pub id: CloneId,
    /// Its name.
    pub name: Name,
    /// The app it stems from.
    pub app: AppId,
    /// What it was made from.
    pub parent: OwnerId,
    /// What was asked for, as typed.
    pub asked: String,
    /// The moment it shows.
    pub moment: Timestamp,
    /// The snapshot it stands on.
    pub snapshot: Option<SnapshotId>,
    /// What its data is worth.
    pub profile: Profile,
    /// Whether a log is kept.
    pub record: bool,
    /// How it is doing.
    pub state: CloneState,
    /// Why, when it failed.
    pub problem: Option<String>,
    /// Until when it is kept.
    pub lease_until: Option<Timestamp>,
    /// Whether the warning before the lease's end was given.
    #[serde(default)]
    pub lease_warned: bool,
    /// Why it is still there after the lease's end, as far as that was told.
    #[serde(default)]
    pub lease_waits: Option<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether its servers run in containers of the user's, on volumes of it, and never here.
    #[serde(default)]
    pub elsewhere: bool,
    /// Its superuser's password.
    pub password: Sealed,
    /// Its own settings.
    pub set: SettingChange,
    /// What its containers are given; none: its servers are processes.
    #[serde(default)]
    pub container: Option<ContainerWish>,
    /// The Compose project that runs on its volumes.
    #[serde(default)]
    pub compose: Option<ComposeProject>,
    /// By name.
    pub sources: BTreeMap<Name, CloneSource>,
    /// How long its making took.
    pub timing: Timing,
    /// What `undo` brings back.
    pub former: Option<Former>,
    /// Since when it is promoted.
    #[serde(default)]
    pub promoted_at: Option<Timestamp>,
    /// Whether its data was masked when it got it: by all that masks of its app, or before it was copied.
    #[serde(default)]
    pub masked: bool,
}

/// A Compose project of a clone's name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeProject {
    /// The file that describes it.
    pub file: PathBuf,
    /// The volumes that it has of the clone.
    pub volumes: BTreeMap<Name, ComposeVolume>,
    /// The services that were stopped for it, and have not been started again.
    pub owed: Vec<String>,
}

/// A volume of a project.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ComposeVolume {
    /// Which source it is.
    pub source: Name,
    /// What the file says of it, without secrets.
    pub options: BTreeMap<String, String>,
}

/// What a snapshot holds of one source.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotSource {
    /// The tree that holds it.
    pub tree: PoolSnapshotId,
    /// The engine's mark, in its own form.
    pub mark: serde_json::Value,
    /// The moment its prepared or plain content shows.
    pub at: Timestamp,
}

/// A snapshot of an app or clone.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SnapshotRecord {
    /// Its id.
    pub id: SnapshotId,
    /// Whose it is.
    pub owner: OwnerId,
    /// When it was taken, by this machine's clock.
    pub taken_at: Timestamp,
    /// The moment it shows.
    pub moment: Timestamp,
    /// Whether it is whole; a snapshot in the making is shown to nobody.
    pub complete: bool,
    /// The tree as it was taken; none where only the prepared one was ever made.
    pub raw: Option<PoolSnapshotId>,
    /// Volumes other than the first, of clones that stand on several: their trees.
    #[serde(default)]
    pub more: Vec<PoolSnapshotId>,
    /// The prepared tree.
    pub prepared: Option<PoolSnapshotId>,
    /// By name.
    pub sources: BTreeMap<Name, SnapshotSource>,
    /// Why preparing it failed.
    #[serde(default)]
    pub problem: Option<String>,
    /// When it did.
    #[serde(default)]
    pub tried_at: Option<Timestamp>,
    /// Whether it is of a masked clone.
    #[serde(default)]
    pub masked: bool,
}

/// A name for a snapshot, which pins it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct BookmarkRecord {
    /// Whose timeline.
    pub owner: OwnerId,
    /// The bookmark.
    pub name: Name,
    /// What it pins.
    pub snapshot: SnapshotId,
    /// The moment, as shown.
    pub moment: Timestamp,
}

/// One step of an operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StepRecord {
    /// Its name.
    pub name: String,
    /// Where it stands.
    pub state: StepState,
}

/// One run of a verb.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct OperationRecord {
    /// Its id.
    pub id: OperationId,
    /// The verb.
    pub verb: String,
    /// What people call it, where that is another word.
    #[serde(default)]
    pub called: Option<String>,
    /// What it is about.
    pub subject: Name,
    /// Where it stands.
    pub state: OperationState,
    /// The verb's parameters and what its steps have found out.
    pub doc: serde_json::Value,
    /// Its journal.
    pub steps: Vec<StepRecord>,
    /// How far the current step is.
    #[serde(default)]
    pub progress: Option<Progress>,
    /// Why it failed.
    pub error: Option<Problem>,
    /// What it made.
    pub result: Option<serde_json::Value>,
    /// When it was asked for.
    pub created_at: Timestamp,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
}

impl OperationRecord {
    /// The word for people.
    pub fn word(&self) -> &str {
        self.called.as_ref().unwrap_or(&self.verb)
    }
}

macro_rules! record {
    ($type:ty, $table:literal, |$it:ident| $id:expr, $key:expr) => {
        impl Record for $type {
            const TABLE: &'static str = $table;
            fn id(&self) -> String {
                let $it = self;
                $id
            }
            fn key(&self) -> String {
                let $it = self;
                $key
            }
        }
    };
}

record!(AppRecord, "apps", |it| it.id.to_string(), it.name.to_string());
record!(CloneRecord, "clones", |it| it.id.to_string(), it.app.to_string());
record!(SnapshotRecord, "snapshots", |it| it.id.to_string(), it.owner.to_string());
record!(BookmarkRecord, "bookmarks", |it| format!("{}/{}", it.owner, it.name), it.owner.to_string());
record!(OperationRecord, "operations", |it| it.id.to_string(), it.state.to_string());
