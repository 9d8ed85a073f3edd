//! The paths, once: as templates (for the router and the OpenAPI document) and as functions that fill them
//! in (for the client). Names and ids need no escaping: their alphabets are safe in a path.

use pando_model::{Name, OperationId};

/// Version and home of the daemon.
pub const ROOT: &str = "/v1";
/// The OpenAPI document.
pub const OPENAPI: &str = "/v1/openapi.json";
/// Make or adopt a pool.
pub const INIT: &str = "/v1/init";
/// What is there, what is missing.
pub const DOCTOR: &str = "/v1/doctor";
/// Apps and clones.
pub const LIST: &str = "/v1/list";
/// One app or clone.
pub const NAME: &str = "/v1/names/{name}";
/// The moments that can be asked for.
pub const TIMELINE: &str = "/v1/names/{name}/timeline";
/// The end of the servers' logs.
pub const LOGS: &str = "/v1/names/{name}/logs";
/// What a Compose project on its clones begins with.
pub const COMPOSE: &str = "/v1/names/{name}/compose";
/// Take a snapshot.
pub const SNAPSHOTS: &str = "/v1/names/{name}/snapshots";
/// Name a moment.
pub const BOOKMARKS: &str = "/v1/names/{name}/bookmarks";
/// One bookmark.
pub const BOOKMARK: &str = "/v1/names/{name}/bookmarks/{bookmark}";
/// Who uses how many bytes.
pub const DISK: &str = "/v1/disk";
/// Link an app.
pub const APPS: &str = "/v1/apps";
/// Make an app what is asked for.
pub const APPLY: &str = "/v1/apply";
/// Show what that would change.
pub const APPLY_PLAN: &str = "/v1/apply/plan";
/// One app.
pub const APP: &str = "/v1/apps/{app}";
/// Make a clone.
pub const CLONES: &str = "/v1/clones";
/// One clone.
pub const CLONE: &str = "/v1/clones/{clone}";
/// Stream an app or clone.
pub const EXPORTS: &str = "/v1/names/{name}/exports";
/// Make a clone of an archive.
pub const IMPORTS: &str = "/v1/imports";
/// Images with data in them: those there are, and making one.
pub const IMAGES: &str = "/v1/images";
/// Send an image to its registry.
pub const IMAGE_PUSH: &str = "/v1/images/push";
/// An image as one file.
pub const IMAGE_SAVE: &str = "/v1/images/save";
/// Forget an image.
pub const IMAGE_REMOVE: &str = "/v1/images/remove";
/// What an operation gives or takes.
pub const DATA: &str = "/v1/operations/{id}/data";
/// Start a clone's servers.
pub const CLONE_START: &str = "/v1/clones/{clone}/start";
/// Stop a clone's servers.
pub const CLONE_STOP: &str = "/v1/clones/{clone}/stop";
/// Make a clone one that is kept.
pub const CLONE_PROMOTE: &str = "/v1/clones/{clone}/promote";
/// Give a clone the data of a moment of its parent.
pub const CLONE_REFRESH: &str = "/v1/clones/{clone}/refresh";
/// Set a clone back to a moment of its own.
pub const CLONE_REWIND: &str = "/v1/clones/{clone}/rewind";
/// Take back the last refresh or rewind.
pub const CLONE_UNDO: &str = "/v1/clones/{clone}/undo";
/// Change a clone's lease.
pub const CLONE_LEASE: &str = "/v1/clones/{clone}/lease";
/// All operations, newest first.
pub const OPERATIONS: &str = "/v1/operations";
/// One operation.
pub const OPERATION: &str = "/v1/operations/{id}";
/// What happened.
pub const EVENTS: &str = "/v1/events";

/// [`NAME`], filled in.
pub fn name(name: &Name) -> String {
    format!("/v1/names/{name}")
}

/// A path below [`NAME`]: `timeline`, `logs`, `snapshots`, `bookmarks`.
pub fn under_name(name: &Name, what: &str) -> String {
    format!("/v1/names/{name}/{what}")
}

/// [`LOGS`], of one source or of all.
pub fn logs(name: &Name, source: Option<&Name>) -> String {
    let query = source.map(|source| format!("?source={source}")).unwrap_or_default();
    format!("/v1/names/{name}/logs{query}")
}

/// [`BOOKMARK`], filled in.
pub fn bookmark(name: &Name, bookmark: &Name) -> String {
    format!("/v1/names/{name}/bookmarks/{bookmark}")
}

/// [`APP`], filled in.
pub fn app(app: &Name) -> String {
    format!("/v1/apps/{app}")
}

/// [`CLONE`], filled in.
pub fn clone(clone: &Name) -> String {
    format!("/v1/clones/{clone}")
}

/// [`NAME`], without counting bytes.
pub fn name_uncounted(name: &Name) -> String {
    format!("/v1/names/{name}?counted=false")
}

/// A verb on a clone: `start`, `stop`, `refresh`, `rewind`, `undo`, `promote`, `lease`.
pub fn clone_verb(clone: &Name, verb: &str) -> String {
    format!("/v1/clones/{clone}/{verb}")
}

/// [`OPERATION`], waiting so long for its end.
pub fn operation(id: &OperationId, wait_ms: u64) -> String {
    format!("/v1/operations/{id}?wait_ms={wait_ms}")
}

/// [`DATA`], filled in.
pub fn data(id: &OperationId) -> String {
    format!("/v1/operations/{id}/data")
}

/// [`EVENTS`] above a sequence, waiting so long for one.
pub fn events(since: u64, wait_ms: u64) -> String {
    format!("/v1/events?since={since}&wait_ms={wait_ms}")
}
