//! The router: each call of the contract becomes one call of the facade.

use std::path::PathBuf;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use pando_api::{InitRequest, MAX_WAIT_MS, VersionView, openapi_json, paths};
use pando_model::{
    ApplyPlan, BookmarkRequest, CloneRequest, ComposeView, DiskView, DoctorView, ErrorKind, EventView, ExportRequest,
    ImagePushRequest, ImageRemoveRequest, ImageRequest, ImageSaveRequest, ImageView, ImportRequest, LeaseRequest,
    LinkRequest, ListView, LogView, Moment, MomentRequest, Name, OperationId, OperationView, Problem, RefreshRequest,
    Request, ShowView, SnapshotRequest, TimelineView,
};
use pando_operations::Pando;
use serde::Deserialize;

use crate::answer::{Answer, Failure, InBody, InPath, InQuery, begun, blocking, view};
use crate::stream;

type Begun = Answer<(axum::http::StatusCode, Json<OperationView>)>;
type Views<T> = Answer<Json<T>>;

/// What every handler may reach.
#[derive(Clone)]
struct Daemon {
    pando: Pando,
    home: String,
}

impl Daemon {
    async fn submit(self, request: Request) -> Begun {
        begun(move || self.pando.submit(request)).await
    }
}

/// All calls.
pub(crate) fn router(pando: Pando, home: String) -> Router {
    reads().merge(writes()).with_state(Daemon { pando, home })
}

fn reads() -> Router<Daemon> {
    Router::new()
        .route(paths::ROOT, get(version))
        .route(paths::OPENAPI, get(async || ([(CONTENT_TYPE, "application/json")], openapi_json()).into_response()))
        .route(paths::DOCTOR, get(doctor))
        .route(paths::LIST, get(list))
        .route(paths::NAME, get(show))
        .route(paths::TIMELINE, get(timeline))
        .route(paths::LOGS, get(logs))
        .route(paths::COMPOSE, get(compose_files))
        .route(paths::DISK, get(disk))
        .route(paths::IMAGES, get(images).post(build_image))
        .route(paths::OPERATIONS, get(operations))
        .route(paths::OPERATION, get(operation))
        .route(paths::DATA, get(take_data).put(give_data))
        .route(paths::EVENTS, get(events))
}

fn writes() -> Router<Daemon> {
    Router::new()
        .route(paths::INIT, post(init))
        .route(paths::APPS, post(link))
        .route(paths::APPLY, post(apply))
        .route(paths::APPLY_PLAN, post(plan))
        .route(paths::APP, delete(unlink))
        .route(paths::SNAPSHOTS, post(snapshot))
        .route(paths::BOOKMARKS, post(bookmark))
        .route(paths::BOOKMARK, delete(unbookmark))
        .route(paths::CLONES, post(clone))
        .route(paths::CLONE, delete(remove))
        .route(paths::EXPORTS, post(export))
        .route(paths::IMPORTS, post(import))
        .route(paths::IMAGE_PUSH, post(push_image))
        .route(paths::IMAGE_SAVE, post(save_image))
        .route(paths::IMAGE_REMOVE, post(remove_image))
        .route(paths::CLONE_START, on_name(|clone| Request::Start { clone }))
        .route(paths::CLONE_STOP, on_name(|clone| Request::Stop { clone }))
        .route(paths::CLONE_PROMOTE, on_name(|clone| Request::Promote { clone }))
        .route(paths::CLONE_UNDO, on_name(|clone| Request::Undo { clone }))
        .route(paths::CLONE_REFRESH, post(refresh))
        .route(paths::CLONE_REWIND, post(rewind))
        .route(paths::CLONE_LEASE, post(lease))
}

/// A verb that takes nothing but a name.
fn on_name(verb: fn(Name) -> Request) -> MethodRouter<Daemon> {
    post(move |State(daemon): State<Daemon>, InPath(name): InPath<Name>| daemon.submit(verb(name)))
}

async fn version(State(daemon): State<Daemon>) -> Json<VersionView> {
    Json(VersionView { version: env!("CARGO_PKG_VERSION").to_owned(), home: daemon.home })
}

async fn init(State(daemon): State<Daemon>, InBody(body): InBody<InitRequest>) -> Views<DoctorView> {
    let request = init_request(body)?;
    view(move || daemon.pando.init(&request)).await
}

/// The facade's words for an `init`.
pub(crate) fn init_request(body: InitRequest) -> Result<pando_operations::InitRequest, Problem> {
    let pool = body.pool.map(PathBuf::from);
    if pool.as_ref().is_some_and(|pool| !pool.is_absolute()) {
        return Err(Problem::new(ErrorKind::Usage, "the path of a pool must be absolute"));
    }
    if pool.is_some() && body.size_bytes.is_some() {
        let problem = Problem::new(ErrorKind::Usage, "a pool has either a path or a size");
        return Err(problem.hint("the size is that of the image file made where no path is given"));
    }
    Ok(pando_operations::InitRequest { pool, size: body.size_bytes })
}

async fn doctor(State(daemon): State<Daemon>) -> Views<DoctorView> {
    view(move || daemon.pando.doctor()).await
}

async fn list(State(daemon): State<Daemon>) -> Views<ListView> {
    view(move || daemon.pando.list()).await
}

#[derive(Deserialize)]
struct ShowQuery {
    counted: Option<bool>,
}

async fn show(
    State(daemon): State<Daemon>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<ShowQuery>,
) -> Views<ShowView> {
    view(move || daemon.pando.show(&name, query.counted.unwrap_or(true))).await
}

async fn timeline(State(daemon): State<Daemon>, InPath(name): InPath<Name>) -> Views<TimelineView> {
    view(move || daemon.pando.timeline(&name)).await
}

async fn compose_files(State(daemon): State<Daemon>, InPath(name): InPath<Name>) -> Views<ComposeView> {
    view(move || daemon.pando.compose_files(&name)).await
}

#[derive(Deserialize)]
struct LogsQuery {
    source: Option<Name>,
}

async fn logs(
    State(daemon): State<Daemon>,
    InPath(name): InPath<Name>,
    InQuery(query): InQuery<LogsQuery>,
) -> Views<LogView> {
    view(move || daemon.pando.logs(&name, query.source.as_ref())).await
}

async fn disk(State(daemon): State<Daemon>) -> Views<DiskView> {
    view(move || daemon.pando.disk()).await
}

async fn operations(State(daemon): State<Daemon>) -> Views<Vec<OperationView>> {
    view(move || daemon.pando.operations()).await
}

#[derive(Deserialize)]
struct WaitQuery {
    #[serde(default)]
    since: u64,
    #[serde(default)]
    wait_ms: u64,
}

impl WaitQuery {
    fn at_most(&self) -> Duration {
        Duration::from_millis(self.wait_ms.min(MAX_WAIT_MS))
    }
}

async fn operation(
    State(daemon): State<Daemon>,
    InPath(id): InPath<OperationId>,
    InQuery(query): InQuery<WaitQuery>,
) -> Views<OperationView> {
    view(move || match query.wait_ms {
        0 => daemon.pando.operation(&id),
        _ => daemon.pando.wait(&id, query.at_most()),
    })
    .await
}

async fn events(State(daemon): State<Daemon>, InQuery(query): InQuery<WaitQuery>) -> Views<Vec<EventView>> {
    view(move || daemon.pando.events(query.since, query.at_most())).await
}

async fn link(State(daemon): State<Daemon>, InBody(body): InBody<LinkRequest>) -> Begun {
    daemon.submit(Request::Link(body)).await
}

async fn unlink(State(daemon): State<Daemon>, InPath(app): InPath<Name>) -> Begun {
    daemon.submit(Request::Unlink { app }).await
}

async fn bookmark(
    State(daemon): State<Daemon>,
    InPath(name): InPath<Name>,
    InBody(body): InBody<BookmarkRequest>,
) -> Begun {
    daemon.submit(Request::Bookmark { name, body }).await
}

async fn unbookmark(State(daemon): State<Daemon>, InPath((name, bookmark)): InPath<(Name, Name)>) -> Begun {
    daemon.submit(Request::Unbookmark { name, bookmark }).await
}

async fn snapshot(
    State(daemon): State<Daemon>,
    InPath(name): InPath<Name>,
    InBody(body): InBody<SnapshotRequest>,
) -> Begun {
    daemon.submit(Request::Snapshot { name, body }).await
}

async fn apply(State(daemon): State<Daemon>, InBody(body): InBody<LinkRequest>) -> Begun {
    daemon.submit(Request::Apply(body)).await
}

async fn plan(State(daemon): State<Daemon>, InBody(body): InBody<LinkRequest>) -> Views<ApplyPlan> {
    view(move || daemon.pando.plan(body)).await
}

async fn clone(State(daemon): State<Daemon>, InBody(body): InBody<CloneRequest>) -> Begun {
    daemon.submit(Request::Clone(body)).await
}

async fn export(
    State(daemon): State<Daemon>,
    InPath(name): InPath<Name>,
    InBody(body): InBody<ExportRequest>,
) -> Begun {
    daemon.submit(Request::Export { name, body }).await
}

async fn import(State(daemon): State<Daemon>, InBody(body): InBody<ImportRequest>) -> Begun {
    daemon.submit(Request::Import(body)).await
}

async fn images(State(daemon): State<Daemon>) -> Views<Vec<ImageView>> {
    view(move || daemon.pando.images()).await
}

async fn build_image(State(daemon): State<Daemon>, InBody(body): InBody<ImageRequest>) -> Begun {
    daemon.submit(Request::BuildImage(body)).await
}

async fn push_image(State(daemon): State<Daemon>, InBody(body): InBody<ImagePushRequest>) -> Begun {
    daemon.submit(Request::PushImage(body)).await
}

async fn save_image(State(daemon): State<Daemon>, InBody(body): InBody<ImageSaveRequest>) -> Begun {
    daemon.submit(Request::SaveImage(body)).await
}

async fn remove_image(State(daemon): State<Daemon>, InBody(body): InBody<ImageRemoveRequest>) -> Begun {
    daemon.submit(Request::RemoveImage(body)).await
}

async fn take_data(State(daemon): State<Daemon>, InPath(id): InPath<OperationId>) -> Answer<Response> {
    stream::out(blocking(move || daemon.pando.taking(&id)).await?)
}

async fn give_data(State(daemon): State<Daemon>, InPath(id): InPath<OperationId>, body: Body) -> Views<OperationView> {
    let (pando, of) = (daemon.pando.clone(), id.clone());
    stream::into(body, blocking(move || pando.giving(&of)).await?).await?;
    view(move || daemon.pando.operation(&id)).await
}

async fn remove(State(daemon): State<Daemon>, InPath(clone): InPath<Name>) -> Begun {
    daemon.submit(Request::Remove { clone }).await
}

async fn refresh(
    State(daemon): State<Daemon>,
    InPath(clone): InPath<Name>,
    InBody(body): InBody<RefreshRequest>,
) -> Begun {
    let moment = body.moment.unwrap_or(Moment::Latest);
    daemon.submit(Request::Refresh { clone, moment }).await
}

async fn rewind(
    State(daemon): State<Daemon>,
    InPath(clone): InPath<Name>,
    InBody(body): InBody<MomentRequest>,
) -> Begun {
    let Some(moment) = body.moment else { return Err(Failure::usage("a rewind needs the moment to go back to")) };
    daemon.submit(Request::Rewind { clone, moment }).await
}

async fn lease(State(daemon): State<Daemon>, InPath(clone): InPath<Name>, InBody(body): InBody<LeaseRequest>) -> Begun {
    daemon.submit(Request::Lease { clone, body }).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_has_an_absolute_path_or_a_size() {
        let body = |pool: Option<&str>, size_bytes| InitRequest { pool: pool.map(str::to_owned), size_bytes };
        assert!(init_request(body(None, None)).is_ok());
        assert!(init_request(body(Some("/srv/pool"), None)).is_ok());
        assert!(init_request(body(None, Some(1))).is_ok());
        for bad in [body(Some("pool"), None), body(Some("/srv/pool"), Some(1))] {
            assert!(init_request(bad).is_err_and(|problem| problem.kind == ErrorKind::Usage));
        }
    }

    #[test]
    fn a_wait_is_bounded() {
        assert_eq!(WaitQuery { since: 0, wait_ms: u64::MAX }.at_most(), Duration::from_millis(MAX_WAIT_MS));
    }
}
