//! What can be asked of Pando: the bodies of the REST calls, and the parameters of the verbs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hook::{Edit, Hook};
use crate::image::{ImagePushRequest, ImageRemoveRequest, ImageRequest, ImageSaveRequest};
use crate::moment::Moment;
use crate::name::Name;
use crate::policy::Policy;
use crate::state::{Profile, RuntimeKind};

/// One source of an app, as given to `link`.
#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkSource {
    /// The source's name; by default the engine's (`db`, `files`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<Name>,
    /// Its URL, password and all.
    pub url: String,
    /// rsync patterns that are left out (files only).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub exclude: Vec<String>,
    /// The image that its server runs in where clones run in containers (servers only); by default the official one of
    /// production's exact version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
}

impl std::fmt::Debug for LinkSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LinkSource").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A whole app: what `link` makes a mirror of, and what a file for `apply` says.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LinkRequest {
    /// The app's name.
    pub app: Name,
    /// At least one source.
    pub sources: Vec<LinkSource>,
    /// Snapshots and their keeping; the default policy when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<Policy>,
    /// Server settings that every clone of the app gets.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub set: SettingChange,
    /// What is changed in every clone, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub edits: Vec<Edit>,
    /// Commands at points of operations, in this order.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hooks: Vec<Hook>,
}

/// Server settings, `name = value`.
pub type SettingChange = BTreeMap<String, String>;

/// `clone`: makes a writable copy.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CloneRequest {
    /// The app or clone to copy.
    pub from: Name,
    /// `latest` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
    /// The new clone's name.
    pub clone: Name,
    /// `disposable` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Keep a log, so that the clone can be rewound to any second.
    #[serde(default)]
    pub record: bool,
    /// Seconds until the lease ends; without one the clone is kept until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lease_seconds: Option<i64>,
    /// Server settings of this clone.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub set: SettingChange,
    /// Where its servers run; as its parent's when absent, `process` for a clone of an app.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime: Option<RuntimeKind>,
    /// What its containers are given, with runtime `docker`.
    #[serde(default, skip_serializing_if = "ContainerWish::is_empty")]
    pub container: ContainerWish,
    /// A Compose file on the daemon's machine, by its whole path: its servers run in the containers of that project,
    /// which has the clone's name, is brought up on it, and stopped for every refresh or rewind.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compose: Option<String>,
}

/// What a clone's containers are to be given. What is absent is as its parent's, or as usual.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ContainerWish {
    /// By source: an image in the place of the official one of production's exact version.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[cfg_attr(feature = "openapi", schema(value_type = BTreeMap<String, String>))]
    pub images: BTreeMap<Name, String>,
    /// Bytes of memory each server may use; half of the machine's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Thousandths of a processor each server may use; all there are when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millis: Option<u64>,
    /// Make indexes again where the image sorts texts in another order than production; refused when absent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub reindex: bool,
}

impl ContainerWish {
    /// Whether nothing is wished for.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// These wishes, and those of another where there are none.
    #[must_use]
    pub fn or(mut self, other: Self) -> Self {
        for (source, image) in other.images {
            self.images.entry(source).or_insert(image);
        }
        Self {
            images: self.images,
            memory_bytes: self.memory_bytes.or(other.memory_bytes),
            cpu_millis: self.cpu_millis.or(other.cpu_millis),
            reindex: self.reindex || other.reindex,
        }
    }
}

/// `refresh`, `rewind`: replace a clone's data.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct RefreshRequest {
    /// `latest` when absent (refresh only).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
}

/// A bare moment, for calls that take nothing else.
pub type MomentRequest = RefreshRequest;

/// `snapshot`: freezes a state.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct SnapshotRequest {
    /// Hold production's writes meanwhile, for at most so many seconds, so that the cut is exact. Only sources that can
    /// do that are held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence_seconds: Option<u64>,
}

/// `bookmark`: gives a moment a name, and pins it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct BookmarkRequest {
    /// The bookmark's name.
    pub bookmark: Name,
    /// `latest` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
}

/// `lease`: until when a clone is kept.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct LeaseRequest {
    /// Seconds from now; absent: for ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<i64>,
}

/// `export`: streams an app or clone at a moment.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ExportRequest {
    /// `latest` when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moment: Option<Moment>,
}

/// `import`: makes a clone of an archive that is sent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct ImportRequest {
    /// The new clone's name.
    pub clone: Name,
    /// `durable` when absent: there is nowhere to get it from again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub profile: Option<Profile>,
    /// Take symbolic links of directories that lead out of them.
    #[serde(default)]
    pub outward_links: bool,
}

/// Every verb that changes something, with its parameters. Each becomes one operation.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "kebab-case")]
pub enum Request {
    /// Link an app.
    Link(LinkRequest),
    /// Link an app, or change it to what is asked for.
    Apply(LinkRequest),
    /// Remove an app and its timeline.
    Unlink {
        /// The app.
        app: Name,
    },
    /// Snapshot an app (syncs first) or a clone.
    Snapshot {
        /// The app or clone.
        name: Name,
        /// How.
        #[serde(flatten)]
        body: SnapshotRequest,
    },
    /// Name and pin a moment.
    Bookmark {
        /// The app or clone.
        name: Name,
        /// What to name.
        #[serde(flatten)]
        body: BookmarkRequest,
    },
    /// Forget a bookmark; what it pinned may go.
    Unbookmark {
        /// The app or clone.
        name: Name,
        /// The bookmark.
        bookmark: Name,
    },
    /// Make a clone.
    Clone(CloneRequest),
    /// Stream an app or clone at a moment.
    Export {
        /// The app or clone.
        name: Name,
        /// The moment.
        #[serde(flatten)]
        body: ExportRequest,
    },
    /// Make a clone of an archive that is sent.
    Import(ImportRequest),
    /// Make an image with data in it.
    BuildImage(ImageRequest),
    /// Send an image to its registry.
    PushImage(ImagePushRequest),
    /// Write an image as one file.
    SaveImage(ImageSaveRequest),
    /// Forget an image.
    RemoveImage(ImageRemoveRequest),
    /// Start a clone's servers.
    Start {
        /// The clone.
        clone: Name,
    },
    /// Stop a clone's servers.
    Stop {
        /// The clone.
        clone: Name,
    },
    /// Give a clone the data of a moment of its parent. Address and password stay.
    Refresh {
        /// The clone.
        clone: Name,
        /// The moment of the parent.
        moment: Moment,
    },
    /// Set a clone back to a moment of its own timeline.
    Rewind {
        /// The clone.
        clone: Name,
        /// The moment of the clone.
        moment: Moment,
    },
    /// Take back the last refresh or rewind.
    Undo {
        /// The clone.
        clone: Name,
    },
    /// Make a clone durable, recording, and kept for ever.
    Promote {
        /// The clone.
        clone: Name,
    },
    /// Change a clone's lease.
    Lease {
        /// The clone.
        clone: Name,
        /// Until when.
        #[serde(flatten)]
        body: LeaseRequest,
    },
    /// Remove a clone.
    Remove {
        /// The clone.
        clone: Name,
    },
}

impl Request {
    /// The word on the command line.
    pub const fn verb(&self) -> &'static str {
        match self {
            Self::Link(_) => "link",
            Self::Apply(_) => "apply",
            Self::Unlink { .. } => "unlink",
            Self::Snapshot { .. } => "snapshot",
            Self::Bookmark { .. } => "bookmark",
            Self::Unbookmark { .. } => "unbookmark",
            Self::Clone(_) => "clone",
            Self::Export { .. } => "export",
            Self::Import(_) => "import",
            Self::BuildImage(_) => "image-build",
            Self::PushImage(_) => "image-push",
            Self::SaveImage(_) => "image-save",
            Self::RemoveImage(_) => "image-rm",
            Self::Start { .. } => "start",
            Self::Stop { .. } => "stop",
            Self::Refresh { .. } => "refresh",
            Self::Rewind { .. } => "rewind",
            Self::Undo { .. } => "undo",
            Self::Promote { .. } => "promote",
            Self::Lease { .. } => "lease",
            Self::Remove { .. } => "rm",
        }
    }
}
