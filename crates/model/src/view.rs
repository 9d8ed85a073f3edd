//! What Pando shows: the answers of the REST calls and of `--json`. The keys are pinned by DESIGN: users
//! and scripts rely on them; add keys, never rename one.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::error::Problem;
use crate::id::{AppId, CloneId, OperationId, SnapshotId};
use crate::name::Name;
use crate::policy::Policy;
use crate::source::EngineKind;
use crate::state::{AppState, CloneState, OperationState, Profile, RuntimeKind, StepState};

macro_rules! view {
    ($(#[$doc:meta])* pub struct $name:ident { $($body:tt)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        pub struct $name { $($body)* }
    };
}

/// Where servers run that nobody says anything else of.
fn process() -> RuntimeKind {
    RuntimeKind::Process
}

view!(
    /// One source of an app or clone.
    pub struct SourceView {
        /// What knows it.
        pub engine: EngineKind,
        /// Where its data lies on this machine.
        pub path: String,
        /// Clone: the complete address, password included. App: production's, without password.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub url: Option<String>,
        /// Where a clone's server listens.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub host: Option<String>,
        /// The port of it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub port: Option<u16>,
        /// The directory of the server's unix socket.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub socket_dir: Option<String>,
        /// The moment this source really shows.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub moment: Option<Timestamp>,
        /// Position in the source's own log (an LSN for PostgreSQL).
        #[serde(skip_serializing_if = "Option::is_none")]
        pub position: Option<String>,
        /// What the clone's own user `pando` gets in with, where its servers run in containers of the user's.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub password: Option<String>,
        /// Seconds by which `moment` differs from the moment that was asked for; positive is later.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub skew_seconds: Option<f64>,
        /// Server version, as the server says it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub version: Option<String>,
        /// What a user should know of this source (unlogged tables, left-out settings …).
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub notes: Vec<String>,
        /// The container that its server runs in, and what it may do, as the engine enforces it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub container: Option<ContainerView>,
        /// App: the image that its file names for this source's server in containers.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub image: Option<String>,
    }
);

view!(
    /// A container, and what it may do.
    pub struct ContainerView {
        /// The engine's id of it.
        pub id: String,
        /// The image it was made from.
        pub image: String,
        /// `UID:GID` inside and outside.
        pub user: String,
        /// Whether it may do everything that root may.
        pub privileged: bool,
        /// The capabilities that it has.
        pub capabilities: Vec<String>,
        /// Whether a program in it can gain rights (setuid).
        pub gains_rights: bool,
        /// Whether it may write to its own root.
        pub writes_root: bool,
        /// `host`: it shares the machine's network.
        pub network: String,
        /// Directories of the machine that it sees; each with whether it may write there.
        pub mounts: BTreeMap<String, bool>,
        /// Bytes of memory it may use.
        pub memory_bytes: Option<u64>,
        /// Thousandths of a processor it may use.
        pub cpu_millis: Option<u64>,
        /// Processes and threads it may have.
        pub pids: Option<u64>,
    }
);

view!(
    /// How long the making of a clone took, or the last refresh, rewind or undo.
    pub struct Timing {
        /// Milliseconds until its storage was there.
        pub storage_ms: u64,
        /// Milliseconds from the request until a query was answered.
        pub ready_ms: u64,
    }
);

view!(
    /// A clone, whole.
    pub struct CloneView {
        /// Its name.
        pub name: Name,
        /// Its id.
        pub id: CloneId,
        /// The app it stems from, over however many clones.
        pub app: Name,
        /// The app or clone it was made from.
        pub parent: Name,
        /// The moment it shows.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub moment: Timestamp,
        /// What was asked for, as typed.
        pub asked: String,
        /// The snapshot it started from.
        pub snapshot: Option<SnapshotId>,
        /// What its data is worth.
        pub profile: Profile,
        /// Whether its data was masked when it got it.
        #[serde(default)]
        pub masked: bool,
        /// Where its servers run.
        #[serde(default = "process")]
        pub runtime: RuntimeKind,
        /// Whether it keeps a log.
        pub record: bool,
        /// How it is doing.
        pub state: CloneState,
        /// Why, when it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub problem: Option<String>,
        /// Until when it is kept; null: for ever.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub lease_until: Option<Timestamp>,
        /// When it was made.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub created_at: Timestamp,
        /// By name.
        pub sources: BTreeMap<Name, SourceView>,
        /// How long its making took.
        pub timing: Timing,
        /// Its volumes in container engines, each with the source it is. Where there are any that were made with
        /// it, its servers run in containers of the user's and never here: `state` is `running` while a container uses
        /// one of them, else `stopped`.
        #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
        #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
        pub volumes: BTreeMap<Name, Name>,
        /// The containers that use its volumes now, and other processes that do, as the kernel sees them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub used_by: Vec<String>,
        /// The file of its Compose project.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub compose: Option<String>,
        /// Bytes that only this clone holds.
        pub unique_bytes: Option<u64>,
        /// Whether `unique_bytes` is an estimate.
        pub unique_is_estimate: bool,
        /// Until when `undo` can take back the last refresh or rewind.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub undo_until: Option<Timestamp>,
        /// Since when it is promoted: durable, recording, kept for ever.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub promoted_at: Option<Timestamp>,
    }
);

view!(
    /// What a person begins a Compose project on clones of an app with.
    pub struct ComposeView {
        /// The text of `compose.yaml`.
        pub compose: String,
        /// The text of `.env` beside it; holds a password.
        pub env: String,
    }
);

view!(
    /// An app, whole.
    pub struct AppView {
        /// Its name.
        pub name: Name,
        /// Its id.
        pub id: AppId,
        /// How its mirror is doing.
        pub state: AppState,
        /// Why, when it is not following.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub problem: Option<String>,
        /// What can be done about it, where that is known.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub hint: Option<String>,
        /// Seconds by which the timeline's end lies behind the clock.
        pub lag_seconds: Option<f64>,
        /// By name.
        pub sources: BTreeMap<Name, SourceView>,
        /// Snapshots and their keeping.
        pub policy: Policy,
        /// Its edits and hooks, in the order in which they run: what each is, without its values.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub stitches: Vec<String>,
        /// How many snapshots there are.
        pub snapshots: usize,
        /// The clones of it, and of its clones.
        pub clones: Vec<Name>,
    }
);

/// What `show NAME` answers.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(untagged)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub enum ShowView {
    /// The name is a clone's.
    Clone(Box<CloneView>),
    /// The name is an app's.
    App(Box<AppView>),
}

view!(
    /// One thing that `apply` changes.
    pub struct Change {
        /// What.
        pub what: String,
        /// What it was, where that may be shown.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub from: Option<String>,
        /// What it will be.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        pub to: Option<String>,
    }
);

view!(
    /// What `apply` would do.
    pub struct ApplyPlan {
        /// The app.
        pub app: Name,
        /// Whether it is not there yet, and will be linked.
        pub links: bool,
        /// In the order of the file; none: it is as the file says.
        pub changes: Vec<Change>,
    }
);

view!(
    /// An app in `ls`.
    pub struct AppRow {
        /// Its name.
        pub name: Name,
        /// How its mirror is doing.
        pub state: AppState,
        /// Seconds behind production.
        pub lag_seconds: Option<f64>,
        /// Source names and their engines.
        pub sources: BTreeMap<Name, EngineKind>,
    }
);

view!(
    /// A clone in `ls`.
    pub struct CloneRow {
        /// Its name.
        pub name: Name,
        /// The app it stems from.
        pub app: Name,
        /// How it is doing.
        pub state: CloneState,
        /// The containers that use its volumes now, and other processes that do, as the kernel sees them.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        pub used_by: Vec<String>,
        /// Where its servers run.
        #[serde(default = "process")]
        pub runtime: RuntimeKind,
        /// The moment it shows.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub moment: Timestamp,
        /// Whether its data was masked when it got it.
        #[serde(default)]
        pub masked: bool,
        /// Until when it is kept; null: for ever.
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub lease_until: Option<Timestamp>,
        /// Bytes that only this clone holds.
        pub unique_bytes: Option<u64>,
    }
);

view!(
    /// What `ls` answers.
    pub struct ListView {
        /// Sorted by name.
        pub apps: Vec<AppRow>,
        /// Sorted by name.
        pub clones: Vec<CloneRow>,
    }
);

view!(
    /// A snapshot in a timeline.
    pub struct SnapshotRow {
        /// Its id.
        pub id: SnapshotId,
        /// When it was taken, by this machine's clock.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub taken_at: Timestamp,
        /// The moment of production it shows.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub moment: Timestamp,
        /// Whether a clone of it starts without recovery.
        pub prepared: bool,
        /// Whether it is of a masked clone.
        #[serde(default)]
        pub masked: bool,
        /// The bookmarks that pin it.
        pub bookmarks: Vec<Name>,
        /// Bytes that only this snapshot holds.
        pub unique_bytes: Option<u64>,
    }
);

view!(
    /// A stretch of time, every second of which can be asked for, ends included.
    pub struct RangeView {
        /// The first moment.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub from: Timestamp,
        /// The last moment.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub to: Timestamp,
    }
);

view!(
    /// The moments that can be asked for.
    pub struct TimelineView {
        /// Oldest first.
        pub snapshots: Vec<SnapshotRow>,
        /// Oldest first; what lies between two ranges is a gap.
        pub ranges: Vec<RangeView>,
        /// Seconds between the end of the last range and now.
        pub lag_seconds: Option<f64>,
        /// Whether `unique_bytes` are estimates.
        pub unique_is_estimate: bool,
    }
);

view!(
    /// What one owner uses.
    pub struct OwnerUsage {
        /// An app's or clone's name.
        pub name: Name,
        /// `app` or `clone`.
        pub kind: String,
        /// Bytes of its mirror or working copy that nothing else shares.
        pub volume_bytes: Option<u64>,
        /// Bytes that its snapshots hold and nothing else shares.
        pub snapshot_bytes: Option<u64>,
        /// Bytes of its log on disk.
        pub log_bytes: u64,
    }
);

view!(
    /// What `du` answers.
    pub struct DiskView {
        /// The pool driver: `btrfs`, `reflink`, `copy`.
        pub driver: String,
        /// Where the pool lies.
        pub path: String,
        /// Bytes of the file system the pool lies on.
        pub total_bytes: u64,
        /// Bytes used on it.
        pub used_bytes: u64,
        /// Bytes free on it.
        pub free_bytes: u64,
        /// Whether the bytes per owner are estimates.
        pub unique_is_estimate: bool,
        /// Sorted by name.
        pub owners: Vec<OwnerUsage>,
    }
);

view!(
    /// How far a step is.
    pub struct Progress {
        /// What is being done, for people.
        pub what: String,
        /// Bytes done.
        pub done_bytes: u64,
        /// Bytes in all, when known.
        pub total_bytes: Option<u64>,
    }
);

view!(
    /// One step of an operation.
    pub struct StepView {
        /// Its name.
        pub name: String,
        /// Where it stands.
        pub state: StepState,
    }
);

view!(
    /// An operation.
    pub struct OperationView {
        /// Its id.
        pub id: OperationId,
        /// The verb.
        pub verb: String,
        /// The app or clone it is about.
        pub subject: Name,
        /// Where it stands.
        pub state: OperationState,
        /// In order.
        pub steps: Vec<StepView>,
        /// How far the current step is.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub progress: Option<Progress>,
        /// Why it failed.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub error: Option<Problem>,
        /// What it made, when done: a clone, a snapshot's id, …
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<Object>))]
        pub result: Option<serde_json::Value>,
        /// When it was asked for.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub created_at: Timestamp,
        /// When it ended.
        #[serde(skip_serializing_if = "Option::is_none")]
        #[cfg_attr(feature = "openapi", schema(value_type = Option<String>))]
        pub finished_at: Option<Timestamp>,
    }
);

view!(
    /// Something that happened.
    pub struct EventView {
        /// Rises by one with each event; `since` takes it.
        pub sequence: u64,
        /// When.
        #[cfg_attr(feature = "openapi", schema(value_type = String))]
        pub at: Timestamp,
        /// A word: `operation-done`, `lease-ends-soon`, `mirror-disconnected`, …
        pub kind: String,
        /// The app or clone it is about.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub subject: Option<Name>,
        /// One line for people.
        pub text: String,
    }
);

view!(
    /// The end of a server's log.
    pub struct LogView {
        /// By source and unit: the last lines.
        pub logs: BTreeMap<String, String>,
    }
);

view!(
    /// One finding of `doctor`.
    pub struct DoctorItem {
        /// What was looked at.
        pub what: String,
        /// `ok`, `warning` or `problem`.
        pub level: String,
        /// What was found.
        pub found: String,
        /// The exact command that mends it.
        #[serde(skip_serializing_if = "Option::is_none")]
        pub fix: Option<String>,
    }
);

view!(
    /// What `doctor` answers.
    pub struct DoctorView {
        /// No item is a problem.
        pub healthy: bool,
        /// In the order they were looked at.
        pub items: Vec<DoctorItem>,
    }
);
