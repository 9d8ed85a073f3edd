//! How things go in and out: bodies and parameters are read so that every refusal is a problem of one
//! line, and a facade call runs where it may block.

use std::time::Duration;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Path, Query, Request};
use axum::http::header::CONTENT_TYPE;
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use pando_api::PROBLEM_JSON;
use pando_model::{ErrorKind, OperationView, Problem};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(30);

/// A problem and its status.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) status: StatusCode,
    pub(crate) problem: Problem,
}

impl Failure {
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Problem::new(ErrorKind::Usage, one_line(message)).into()
    }

    pub(crate) fn with_status(problem: Problem, status: StatusCode) -> Self {
        Self { status, problem }
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        let status = StatusCode::from_u16(problem.kind.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, problem }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.problem)).into_response();
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON));
        response
    }
}

fn one_line(text: impl Into<String>) -> String {
    let text: String = text.into();
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a handler answers.
pub(crate) type Answer<T> = Result<T, Failure>;

/// Runs a facade call on a thread that may block. A panic in it is a problem of this call alone.
pub(crate) async fn blocking<T, F>(call: F) -> Answer<T>
where
    T: Send + 'static,
    F: FnOnce() -> Result<T, Problem> + Send + 'static,
{
    match tokio::task::spawn_blocking(call).await {
        Ok(answer) => Ok(answer?),
        Err(error) => {
            tracing::error!(panicked = error.is_panic(), "a call did not come to its end");
            let problem = Problem::new(ErrorKind::Failed, "the daemon made a mistake while it answered this call");
            Err(problem.hint("the daemon's log says where").into())
        }
    }
}

/// A view, as JSON.
pub(crate) async fn view<T, F>(call: F) -> Answer<Json<T>>
where
    T: Serialize + Send + 'static,
    F: FnOnce() -> Result<T, Problem> + Send + 'static,
{
    blocking(call).await.map(Json)
}

/// The operation that a mutation began.
pub(crate) async fn begun<F>(call: F) -> Answer<(StatusCode, Json<OperationView>)>
where
    F: FnOnce() -> Result<OperationView, Problem> + Send + 'static,
{
    Ok((StatusCode::ACCEPTED, Json(blocking(call).await?)))
}

/// What stands in the path.
pub(crate) struct InPath<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InPath<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Path::from_request_parts(parts, state).await {
            Ok(Path(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failure::usage(rejection.body_text())),
        }
    }
}

/// What stands behind the question mark.
pub(crate) struct InQuery<T>(pub(crate) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for InQuery<T> {
    type Rejection = Failure;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        match Query::from_request_parts(parts, state).await {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failure::usage(rejection.body_text())),
        }
    }
}

/// A JSON body. An empty one counts as `{}`, which calls without required fields accept.
pub(crate) struct InBody<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for InBody<T> {
    type Rejection = Failure;
    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = tokio::time::timeout(BODY_TIMEOUT, Bytes::from_request(request, state))
            .await
            .map_err(|_| late())?
            .map_err(|rejection| unread(&rejection))?;
        let bytes: &[u8] = if bytes.is_empty() { b"{}" } else { &bytes };
        let unfit = |error| Failure::usage(format!("the body is not what this call takes: {error}"));
        let value: serde_json::Value = serde_json::from_slice(bytes).map_err(unfit)?;
        // Else an array would be taken for the fields in order.
        if !value.is_object() {
            return Err(Failure::usage("the body is not what this call takes: it must be an object"));
        }
        let value = serde_json::from_value(value).map_err(unfit)?;
        Ok(Self(value))
    }
}

fn late() -> Failure {
    let problem = Problem::new(ErrorKind::Usage, "the body did not arrive in time");
    Failure::with_status(problem, StatusCode::REQUEST_TIMEOUT)
}

fn unread(rejection: &BytesRejection) -> Failure {
    let problem = Problem::new(ErrorKind::Usage, one_line(rejection.body_text()));
    Failure::with_status(problem, rejection.status())
}
