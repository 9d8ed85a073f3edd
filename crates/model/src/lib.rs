//! The words of Pando, as types: ids, names, moments, states, and what goes in and out of the API.
//!
//! Nothing here touches a file, a clock or a socket. One word has one meaning, the same in Rust, SQL,
//! REST and on the command line; the list is in ARCHITECTURE.md.

mod error;
mod hook;
mod id;
mod image;
mod lsn;
mod moment;
mod name;
mod nearest;
mod policy;
mod request;
mod source;
mod state;
mod view;

pub use error::{ErrorKind, Problem};
pub use hook::{Edit, EditFormat, Hook, HookPoint};
pub use id::{AppId, CloneId, IdParseError, OperationId, OwnerId, PoolSnapshotId, SnapshotId, UnitId, VolumeId};
pub use image::{ImagePushRequest, ImageRemoveRequest, ImageRequest, ImageSaveRequest, ImageView, RegistryLogin};
pub use lsn::{Lsn, LsnParseError};
pub use moment::{Moment, MomentParseError, Target, parse_span};
pub use name::{Name, NameError};
pub use nearest::nearest;
pub use policy::{Policy, Tier};
pub use request::{
    BookmarkRequest, CloneRequest, ContainerWish, ExportRequest, ImportRequest, LeaseRequest, LinkRequest, LinkSource,
    MomentRequest, RefreshRequest, Request, SettingChange, SnapshotRequest,
};
pub use source::{EngineKind, SourceUrl, SourceUrlError, is_secret};
pub use state::{AppState, CloneState, OperationState, Profile, RuntimeKind, StepState};
pub use view::{
    AppRow, AppView, ApplyPlan, Change, CloneRow, CloneView, ComposeView, ContainerView, DiskView, DoctorItem,
    DoctorView, EventView, ListView, LogView, OperationView, OwnerUsage, Progress, RangeView, ShowView, SnapshotRow,
    SourceView, StepView, TimelineView, Timing,
};
