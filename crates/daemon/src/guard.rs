//! What stands before every call: limits for all, and for the TCP listener who may come in.
//!
//! Over TCP a call needs the bearer token. Its `Host` must be a loopback name as well: else a web page
//! could point a name of its own at 127.0.0.1 and have a browser speak to the daemon as that page.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::header::{AUTHORIZATION, HOST, WWW_AUTHENTICATE};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use pando_host::secret::Secret;
use pando_model::{ErrorKind, Problem};
use subtle::ConstantTimeEq;

use crate::answer::Failure;

/// The largest body that is read.
const BODY_LIMIT: usize = 1 << 20;

/// Above every wait that a call may ask for, and enough to make a pool.
const CALL_TIMEOUT: Duration = Duration::from_secs(300);

/// Adds what all listeners share.
pub(crate) fn limited(router: Router) -> Router {
    router
        .fallback(unknown)
        .method_not_allowed_fallback(not_allowed)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(middleware::from_fn(timed))
}

/// Adds what the TCP listener asks for.
pub(crate) fn guarded(router: Router, token: Secret) -> Router {
    router.layer(middleware::from_fn_with_state(Arc::new(token), admit))
}

async fn unknown(method: Method, uri: Uri) -> Failure {
    let problem = Problem::new(ErrorKind::NotFound, format!("there is no call {method} {}", uri.path()));
    problem.hint("GET /v1/openapi.json lists them").into()
}

async fn not_allowed(method: Method, uri: Uri) -> Failure {
    let problem = Problem::new(ErrorKind::Usage, format!("{} does not take {method}", uri.path()));
    Failure::with_status(problem, StatusCode::METHOD_NOT_ALLOWED)
}

async fn timed(request: Request, next: Next) -> Response {
    // A stream takes as long as it takes; the operation behind it watches over it.
    if request.uri().path().ends_with("/data") {
        return next.run(request).await;
    }
    let call = format!("{} {}", request.method(), request.uri().path());
    match tokio::time::timeout(CALL_TIMEOUT, next.run(request)).await {
        Ok(response) => {
            tracing::debug!(call, status = response.status().as_u16(), "answered");
            response
        }
        Err(_) => {
            tracing::error!(call, "no answer in time");
            let problem = Problem::new(ErrorKind::Failed, "the daemon found no answer in time");
            Failure::with_status(problem, StatusCode::GATEWAY_TIMEOUT).into_response()
        }
    }
}

async fn admit(State(token): State<Arc<Secret>>, request: Request, next: Next) -> Response {
    if !from_loopback_name(request.headers()) {
        let problem = Problem::new(ErrorKind::Refused, "this Host is not a name of the daemon")
            .hint("use 127.0.0.1, [::1] or localhost");
        return Failure::with_status(problem, StatusCode::FORBIDDEN).into_response();
    }
    if !bears(request.headers(), &token) {
        let problem = Problem::new(ErrorKind::Refused, "the token is missing or wrong")
            .hint("send Authorization: Bearer TOKEN; `pando` takes it from PANDO_TOKEN");
        let mut response = Failure::with_status(problem, StatusCode::UNAUTHORIZED).into_response();
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        return response;
    }
    next.run(request).await
}

fn from_loopback_name(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
    let Ok(host) = host.to_str() else { return false };
    let name = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((name, _port)) => name,
        None => host.split_once(':').map_or(host, |(name, _port)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn bears(headers: &HeaderMap, token: &Secret) -> bool {
    let Some(value) = headers.get(AUTHORIZATION).map(HeaderValue::as_bytes) else { return false };
    let Some((scheme, given)) = value.split_at_checked(7) else { return false };
    // An empty token would let everybody in.
    let expected = token.reveal().as_bytes();
    scheme.eq_ignore_ascii_case(b"bearer ") && !expected.is_empty() && bool::from(given.ct_eq(expected))
}

#[cfg(test)]
mod tests;
