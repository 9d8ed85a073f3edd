//! The volume plugin of Docker and Podman: their protocol (`VolumeDriver`, JSON over HTTP on a socket whose file
//! name is the driver's), put into calls of the facade. What is decided, is decided there.
//!
//! Both engines are read with patience: bodies come without a content type or empty, the `Host` is empty, a call
//! that was cut off is sent again without its body. An answer that is not in time is worse than one that says
//! "not ready yet": Podman waits five seconds for any, Docker two minutes for the making and mounting of volumes.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use pando_model::{ErrorKind, Problem};
use pando_operations::{Pando, VolumeView};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::UnixListener;

use crate::answer::blocking;

/// Where Docker looks for the socket of the driver `pando`.
pub const DEFAULT_PLUGIN: &str = "/run/docker/plugins/pando.sock";

const JSON: HeaderValue = HeaderValue::from_static("application/vnd.docker.plugins.v1.2+json");
/// What a body may have: names and options.
const BODY_LIMIT: usize = 256 << 10;
/// How long an answer may take for those who wait five seconds.
const PODMAN: Duration = Duration::from_millis(3500);
/// The same for the making and mounting of volumes by those who wait two minutes.
const DOCKER: Duration = Duration::from_secs(100);
/// The same for a removal, for which they wait one.
const DOCKER_REMOVE: Duration = Duration::from_secs(45);

/// The plugin's socket; its file goes with this value.
pub(crate) struct Socket {
    path: PathBuf,
    file: Identity,
}

impl Drop for Socket {
    /// A dead socket would keep `docker volume ls` waiting. Another daemon's is left alone.
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|file| file == self.file)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::debug!(%error, "the plugin's socket was not removed");
        }
    }
}

/// Device, inode and time of a file: numbers of inodes are used again at once.
type Identity = (u64, u64, i64, i64);

fn identity(path: &Path) -> io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    let meta = fs::symlink_metadata(path)?;
    Ok((meta.dev(), meta.ino(), meta.ctime(), meta.ctime_nsec()))
}

/// Takes the socket. One that nobody listens on was left by a crash; one that somebody listens on is another
/// daemon's.
pub(crate) fn bind(path: &Path) -> Result<(UnixListener, Socket), Problem> {
    let unusable = |error: io::Error| {
        let mut problem =
            Problem::new(ErrorKind::Failed, format!("the volume plugin's socket {} cannot be made", path.display()));
        problem.causes.push(error.to_string());
        problem.hint("choose another with --volume-plugin PATH, or do without: --no-volume-plugin")
    };
    if UnixStream::connect(path).is_ok() {
        let what = format!("another pando serves the volume plugin at {}", path.display());
        return Err(Problem::new(ErrorKind::Refused, what)
            .hint("choose another socket with --volume-plugin PATH (the file's name is the driver's)"));
    }
    if let Some(dir) = path.parent() {
        DirBuilder::new().recursive(true).mode(0o755).create(dir).map_err(unusable)?;
    }
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(unusable(error)),
        _ => {}
    }
    let listener = UnixListener::bind(path).map_err(unusable)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(unusable)?;
    let file = identity(path).map_err(unusable)?;
    Ok((listener, Socket { path: path.to_owned(), file }))
}

/// The calls.
pub(crate) fn router(pando: Pando) -> Router {
    Router::new()
        .route("/Plugin.Activate", post(async || answer(json!({ "Implements": ["VolumeDriver"] }))))
        .route("/VolumeDriver.Capabilities", post(async || answer(json!({ "Capabilities": { "Scope": "local" } }))))
        .route("/VolumeDriver.Create", post(create))
        .route("/VolumeDriver.Remove", post(remove))
        .route("/VolumeDriver.Get", post(get))
        .route("/VolumeDriver.List", post(list))
        .route("/VolumeDriver.Path", post(path))
        .route("/VolumeDriver.Mount", post(mount))
        .route("/VolumeDriver.Unmount", post(unmount))
        .fallback(async |uri: Uri| {
            let said = format!("the volume plugin has no call {}", uri.path());
            (StatusCode::NOT_FOUND, [(CONTENT_TYPE, JSON)], json!({ "Err": said }).to_string())
        })
        .layer(axum::extract::DefaultBodyLimit::max(BODY_LIMIT))
        .with_state(pando)
}

/// What a call says. Which fields there are depends on the call.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Body {
    name: String,
    #[serde(default)]
    opts: Option<BTreeMap<String, String>>,
    #[serde(default, rename = "ID")]
    id: String,
}

fn read(body: &Bytes) -> Result<Body, Problem> {
    if body.iter().all(u8::is_ascii_whitespace) {
        let what = "the call came without its body: the engine repeated one that was cut off";
        return Err(Problem::new(ErrorKind::Usage, what).hint("run the command again"));
    }
    serde_json::from_slice(body).map_err(|error| {
        let what = format!("the call is not one of a volume driver: {error}");
        Problem::new(ErrorKind::Usage, what)
    })
}

/// Docker sends no content type.
fn is_podman(headers: &HeaderMap) -> bool {
    headers.contains_key(CONTENT_TYPE)
}

fn answer(body: Value) -> Response {
    ([(CONTENT_TYPE, JSON)], body.to_string()).into_response()
}

/// The engine shows the text word for word: causes and hint belong in it.
fn refusal(problem: &Problem) -> Response {
    let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
    let said = format!("{problem}{hint}");
    tracing::info!(said, "the volume plugin refused");
    (StatusCode::INTERNAL_SERVER_ERROR, [(CONTENT_TYPE, JSON)], json!({ "Err": said }).to_string()).into_response()
}

/// Reads a call, makes it where it may block, and answers.
async fn call<F>(what: &str, body: Bytes, work: F) -> Response
where
    F: FnOnce(Body) -> Result<Value, Problem> + Send + 'static,
{
    let read = read(&body);
    tracing::debug!(what, volume = read.as_ref().map_or("?", |body| &body.name), "the volume plugin is called");
    let outcome = match read {
        Ok(body) => blocking(move || work(body)).await.map_err(|failure| failure.problem),
        Err(problem) => Err(problem),
    };
    match outcome {
        Ok(Value::Object(mut said)) => {
            said.insert("Err".to_owned(), Value::String(String::new()));
            answer(Value::Object(said))
        }
        Ok(_) => answer(json!({ "Err": "" })),
        Err(problem) => refusal(&problem),
    }
}

async fn create(State(pando): State<Pando>, headers: HeaderMap, body: Bytes) -> Response {
    let patience = if is_podman(&headers) { PODMAN } else { DOCKER };
    call("create", body, move |body| {
        let options = body.opts.unwrap_or_default();
        pando.volume_create(&body.name, &options, patience).map(|()| Value::Null)
    })
    .await
}

async fn remove(State(pando): State<Pando>, headers: HeaderMap, body: Bytes) -> Response {
    let patience = if is_podman(&headers) { PODMAN } else { DOCKER_REMOVE };
    call("remove", body, move |body| pando.volume_remove(&body.name, patience).map(|()| Value::Null)).await
}

async fn get(State(pando): State<Pando>, body: Bytes) -> Response {
    call("get", body, move |body| pando.volume(&body.name).map(|volume| json!({ "Volume": shown(&volume, true) })))
        .await
}

async fn list(State(pando): State<Pando>) -> Response {
    match blocking(move || pando.volumes()).await {
        Ok(volumes) => {
            let volumes: Vec<Value> = volumes.iter().map(|volume| shown(volume, false)).collect();
            answer(json!({ "Volumes": volumes, "Err": "" }))
        }
        Err(failure) => refusal(&failure.problem),
    }
}

async fn path(State(pando): State<Pando>, body: Bytes) -> Response {
    call("path", body, move |body| pando.volume(&body.name).map(|volume| json!({ "Mountpoint": volume.mountpoint })))
        .await
}

async fn mount(State(pando): State<Pando>, headers: HeaderMap, body: Bytes) -> Response {
    let patience = if is_podman(&headers) { PODMAN } else { DOCKER };
    call("mount", body, move |body| {
        let place = pando.volume_mount(&body.name, &body.id, patience)?;
        Ok(json!({ "Mountpoint": place }))
    })
    .await
}

async fn unmount(State(pando): State<Pando>, body: Bytes) -> Response {
    call("unmount", body, move |body| {
        pando.volume_unmount(&body.name, &body.id);
        Ok(Value::Null)
    })
    .await
}

fn shown(volume: &VolumeView, whole: bool) -> Value {
    let mut shown = json!({
        "Name": volume.name,
        "Mountpoint": volume.mountpoint,
        "CreatedAt": volume.created_at.to_string(),
    });
    if whole && let Some(fields) = shown.as_object_mut() {
        fields.insert("Status".to_owned(), json!(volume.status));
    }
    shown
}

#[cfg(test)]
mod any_bytes;

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_left_behind_is_replaced_a_live_one_is_not_and_ours_goes_with_us() {
        let dir = tempfile::tempdir().expect("dir");
        let path = dir.path().join("plugins/pando.sock");
        let (listener, socket) = bind(&path).expect("bound");
        let taken = bind(&path).map(drop).expect_err("somebody listens");
        assert_eq!(taken.kind, ErrorKind::Refused);
        drop(listener);
        let (_listener, next) = bind(&path).expect("nobody listens any more");
        drop(socket);
        assert!(path.exists(), "it is another's");
        drop(next);
        assert!(!path.exists());
    }

    #[test]
    fn a_call_without_its_body_is_told_so() {
        for empty in ["", " \n"] {
            let problem = read(&Bytes::from(empty)).map(drop).expect_err("no body");
            assert!(problem.message.contains("without its body"), "{problem}");
        }
        assert!(read(&Bytes::from("[]")).is_err());
        let body = read(&Bytes::from(r#"{"Name":"v","Opts":null}"#)).expect("a body");
        assert_eq!((body.name.as_str(), body.opts), ("v", None));
    }
}
