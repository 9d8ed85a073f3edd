//! The OpenAPI 3.1 document. Each call is described once, by a function that is never run: the router is
//! the daemon's, and this room must build without it. `docs/openapi.json` is written by the test below.
#![allow(dead_code, reason = "the functions are only read by the macro")]

use pando_model::{
    ApplyPlan, BookmarkRequest, CloneRequest, ComposeView, DiskView, DoctorView, EventView, ExportRequest,
    ImagePushRequest, ImageRemoveRequest, ImageRequest, ImageSaveRequest, ImageView, ImportRequest, LeaseRequest,
    LinkRequest, ListView, LogView, OperationView, Problem, RefreshRequest, ShowView, SnapshotRequest, TimelineView,
};
use utoipa::OpenApi;

use crate::body::{InitRequest, VersionView};

/// Declares the functions: reads answer 200, mutations answer 202 with the operation they started.
macro_rules! calls {
    ($($(#[$doc:meta])* $verb:ident $id:ident, $path:literal $(($($param:tt)*))? $(<- $body:ty)? => $status:literal $answer:ty;)+) => {
        $(
            #[utoipa::path(
                $verb,
                path = $path,
                operation_id = stringify!($id),
                $(params($($param)*),)?
                $(request_body = $body,)?
                responses(
                    (status = $status, description = "Done, or begun", body = $answer),
                    (status = "default", description = "It did not work", body = Problem, content_type = "application/problem+json")
                )
            )]
            $(#[$doc])*
            fn $id() {}
        )+

        #[derive(OpenApi)]
        #[openapi(
            info(
                title = "Pando",
                description = "Private, writable, full-size copies of production applications. Over TCP every call needs \
                    `Authorization: Bearer TOKEN`; over the unix socket none. A mutation answers 202 and the operation it \
                    started: ask for the operation, with `wait_ms`, until its `state` is `done` or `failed`.",
                license(name = "Apache-2.0", identifier = "Apache-2.0")
            ),
            paths($($id),+),
            modifiers(&Token)
        )]
        struct Document;
    };
}

calls! {
    /// Version and home of the daemon
    get version, "/v1" => 200 VersionView;
    /// Make or adopt a pool
    post init, "/v1/init" <- InitRequest => 200 DoctorView;
    /// What is there, what is missing, and the command that mends it
    get doctor, "/v1/doctor" => 200 DoctorView;
    /// Apps and clones
    get list, "/v1/list" => 200 ListView;
    /// One app or clone
    get show, "/v1/names/{name}" (
        ("name" = String, Path, description = "An app's or clone's name"),
        ("counted" = Option<bool>, Query, description = "`false` leaves out the bytes that only it holds, which may take a moment to count")
    ) => 200 ShowView;
    /// The moments that can be asked for
    get timeline, "/v1/names/{name}/timeline" (("name" = String, Path, description = "An app's or clone's name")) => 200 TimelineView;
    /// What a Compose project on clones of an app begins with
    get compose_files, "/v1/names/{name}/compose" (("name" = String, Path, description = "An app's name")) => 200 ComposeView;
    /// The end of the servers' logs
    get logs, "/v1/names/{name}/logs" (
        ("name" = String, Path, description = "An app's or clone's name"),
        ("source" = Option<String>, Query, description = "One source; all when absent")
    ) => 200 LogView;
    /// Take a snapshot of an app (syncs first) or a clone
    post snapshot, "/v1/names/{name}/snapshots" (("name" = String, Path, description = "An app's or clone's name")) <- SnapshotRequest => 202 OperationView;
    /// Give a moment a name, and pin it
    post bookmark, "/v1/names/{name}/bookmarks" (("name" = String, Path, description = "An app's or clone's name")) <- BookmarkRequest => 202 OperationView;
    /// Forget a bookmark
    delete unbookmark, "/v1/names/{name}/bookmarks/{bookmark}" (
        ("name" = String, Path, description = "An app's or clone's name"),
        ("bookmark" = String, Path, description = "The bookmark's name")
    ) => 202 OperationView;
    /// Who uses how many bytes
    get disk, "/v1/disk" => 200 DiskView;
    /// Link an app: mirror its sources and follow them
    post link, "/v1/apps" <- LinkRequest => 202 OperationView;
    /// Link an app, or change it to what is asked for; nothing changes when it is so already
    post apply, "/v1/apply" <- LinkRequest => 202 OperationView;
    /// Show what `apply` would change, and touch nothing
    post plan, "/v1/apply/plan" <- LinkRequest => 200 ApplyPlan;
    /// Remove an app and its timeline
    delete unlink, "/v1/apps/{app}" (("app" = String, Path, description = "The app's name")) => 202 OperationView;
    /// Make a writable copy of an app or clone at a moment
    post clone, "/v1/clones" <- CloneRequest => 202 OperationView;
    /// Remove a clone
    delete remove, "/v1/clones/{clone}" (("clone" = String, Path, description = "The clone's name")) => 202 OperationView;
    /// Stream an app or clone at a moment: the operation waits for a `GET` of its data
    post export, "/v1/names/{name}/exports" (("name" = String, Path, description = "An app's or clone's name")) <- ExportRequest => 202 OperationView;
    /// Make a clone of an archive: the operation waits for a `PUT` of its data
    post import, "/v1/imports" <- ImportRequest => 202 OperationView;
    /// Images with data in them
    get images, "/v1/images" => 200 Vec<ImageView>;
    /// Make an image of data at a moment; what is not said is as it was at the last build of that reference
    post build_image, "/v1/images" <- ImageRequest => 202 OperationView;
    /// Send an image to its registry; what is there already is not sent
    post push_image, "/v1/images/push" <- ImagePushRequest => 202 OperationView;
    /// Write an image as one file, for `docker load` and `podman load`: the operation's data
    post save_image, "/v1/images/save" <- ImageSaveRequest => 202 OperationView;
    /// Forget an image; engines and registries keep what they have
    post remove_image, "/v1/images/remove" <- ImageRemoveRequest => 202 OperationView;
    /// What an `export` or an image as a file gives: a tar archive, once; whether it is whole says the operation
    get take_data, "/v1/operations/{id}/data" (("id" = String, Path, description = "The operation's id")) => 200 Vec<u8>;
    /// What an `import` takes: a tar archive; what became of it says the operation
    put give_data, "/v1/operations/{id}/data" (("id" = String, Path, description = "The operation's id")) <- Vec<u8> => 200 OperationView;
    /// Start a clone's servers
    post start, "/v1/clones/{clone}/start" (("clone" = String, Path, description = "The clone's name")) => 202 OperationView;
    /// Stop a clone's servers
    post stop, "/v1/clones/{clone}/stop" (("clone" = String, Path, description = "The clone's name")) => 202 OperationView;
    /// Make a clone durable, recording, and kept for ever
    post promote, "/v1/clones/{clone}/promote" (("clone" = String, Path, description = "The clone's name")) => 202 OperationView;
    /// Give a clone the data of a moment of its parent; `latest` when none is given
    post refresh, "/v1/clones/{clone}/refresh" (("clone" = String, Path, description = "The clone's name")) <- RefreshRequest => 202 OperationView;
    /// Set a clone back to a moment of its own timeline; the moment is required
    post rewind, "/v1/clones/{clone}/rewind" (("clone" = String, Path, description = "The clone's name")) <- RefreshRequest => 202 OperationView;
    /// Take back the last refresh or rewind
    post undo, "/v1/clones/{clone}/undo" (("clone" = String, Path, description = "The clone's name")) => 202 OperationView;
    /// Change until when a clone is kept
    post lease, "/v1/clones/{clone}/lease" (("clone" = String, Path, description = "The clone's name")) <- LeaseRequest => 202 OperationView;
    /// All operations, newest first
    get operations, "/v1/operations" => 200 Vec<OperationView>;
    /// One operation
    get operation, "/v1/operations/{id}" (
        ("id" = String, Path, description = "The operation's id"),
        ("wait_ms" = Option<u64>, Query, description = "Wait at most so long for its end, 30000 at most")
    ) => 200 OperationView;
    /// What happened
    get events, "/v1/events" (
        ("since" = Option<u64>, Query, description = "Only events with a sequence above this"),
        ("wait_ms" = Option<u64>, Query, description = "Wait at most so long for one, 30000 at most")
    ) => 200 Vec<EventView>;
}

struct Token;

impl utoipa::Modify for Token {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document.components.get_or_insert_default().add_security_scheme("token", scheme);
        document.security = Some(vec![SecurityRequirement::new("token", Vec::<String>::new())]);
    }
}

/// The OpenAPI document, as JSON.
pub fn openapi_json() -> String {
    let mut text = Document::openapi().to_pretty_json().unwrap_or_default();
    text.push('\n');
    text
}

/// The JSON schema of a file for `apply`, for editors: the body of that call and all it is made of.
pub fn apply_schema_json() -> String {
    let document: serde_json::Value = serde_json::from_str(&openapi_json()).unwrap_or_default();
    let all = &document["components"]["schemas"];
    let mut definitions = serde_json::Map::new();
    let mut waiting = vec!["LinkRequest".to_owned()];
    while let Some(name) = waiting.pop() {
        if definitions.contains_key(&name) {
            continue;
        }
        let text = all[&name].to_string().replace("#/components/schemas/", "#/$defs/");
        waiting.extend(text.split("\"#/$defs/").skip(1).filter_map(|part| Some(part.split_once('"')?.0.to_owned())));
        definitions.insert(name, serde_json::from_str(&text).unwrap_or_default());
    }
    let schema = serde_json::json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "An app, for pando apply",
        "$ref": "#/$defs/LinkRequest",
        "$defs": definitions,
    });
    let mut text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_in_docs_is_this_one_and_closed() -> std::io::Result<()> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/apply.schema.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, apply_schema_json())?;
        }
        let committed = std::fs::read_to_string(path)?;
        assert!(committed == apply_schema_json(), "docs/apply.schema.json is out of date: run this test with UPDATE=1");
        let schema: serde_json::Value = serde_json::from_str(&committed)?;
        for name in ["LinkRequest", "LinkSource", "Policy", "Tier", "Edit", "Hook"] {
            assert_eq!(schema["$defs"][name]["additionalProperties"], false, "{name}");
        }
        for name in ["EditFormat", "HookPoint", "Name"] {
            assert!(schema["$defs"][name].is_object(), "{name}");
        }
        assert!(!committed.contains("components"));
        Ok(())
    }

    #[test]
    fn the_document_in_docs_is_this_one() -> std::io::Result<()> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(path, openapi_json())?;
        }
        let committed = std::fs::read_to_string(path)?;
        assert!(committed == openapi_json(), "docs/openapi.json is out of date: run this test with UPDATE=1");
        Ok(())
    }

    #[test]
    fn every_path_of_the_contract_is_described() {
        use crate::paths::*;
        let document = Document::openapi();
        let known = [
            ROOT,
            INIT,
            DOCTOR,
            LIST,
            NAME,
            TIMELINE,
            LOGS,
            COMPOSE,
            SNAPSHOTS,
            BOOKMARKS,
            BOOKMARK,
            DISK,
            APPS,
            APPLY,
            APPLY_PLAN,
            APP,
            CLONES,
            CLONE,
            EXPORTS,
            IMPORTS,
            IMAGES,
            IMAGE_PUSH,
            IMAGE_SAVE,
            IMAGE_REMOVE,
            DATA,
            CLONE_START,
            CLONE_STOP,
            CLONE_PROMOTE,
            CLONE_REFRESH,
            CLONE_REWIND,
            CLONE_UNDO,
            CLONE_LEASE,
            OPERATIONS,
            OPERATION,
            EVENTS,
        ];
        let described: std::collections::BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        assert_eq!(described, known.into_iter().collect());
        assert!(openapi_json().contains("\"openapi\": \"3.1"));
    }
}
