//! Who comes in, and what is said to those who do not.

use axum::body::Body;
use axum::routing::{get, post};
use tower::ServiceExt;

use super::*;
use crate::answer::{InBody, InPath, view};

async fn named(InPath(name): InPath<pando_model::Name>) -> String {
    name.to_string()
}

async fn lease(InBody(body): InBody<pando_model::LeaseRequest>) -> String {
    format!("{:?}", body.seconds)
}

async fn broken() -> Result<axum::Json<u8>, Failure> {
    view(|| panic!("on purpose")).await
}

fn router() -> Router {
    let calls =
        Router::new().route("/names/{name}", get(named)).route("/lease", post(lease)).route("/broken", get(broken));
    limited(calls)
}

async fn ask(router: Router, request: Request) -> (StatusCode, String) {
    let response = router.oneshot(request).await.expect("infallible");
    let status = response.status();
    if !status.is_success() {
        assert_eq!(response.headers()["content-type"], pando_api::PROBLEM_JSON);
    }
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("body");
    (status, String::from_utf8_lossy(&bytes).into_owned())
}

fn problem(body: &str) -> Problem {
    serde_json::from_str(body).expect("a problem")
}

fn request(method: &str, path: &str, body: impl Into<Body>) -> Request {
    axum::http::Request::builder().method(method).uri(path).body(body.into()).expect("request")
}

#[tokio::test]
async fn what_cannot_be_read_is_a_usage_problem_of_one_line() {
    for (path, body) in [("/lease", "{"), ("/lease", "[1]"), ("/lease", r#"{"seconds": "x"}"#), ("/lease", "\u{0}")] {
        let (status, answer) = ask(router(), request("POST", path, body)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{body}");
        let problem = problem(&answer);
        assert_eq!(problem.kind, ErrorKind::Usage);
        assert!(!problem.message.contains('\n'));
    }
    let (status, answer) = ask(router(), request("GET", "/names/..%2Fx", "")).await;
    assert_eq!((status, problem(&answer).kind), (StatusCode::BAD_REQUEST, ErrorKind::Usage));
    let (status, _) = ask(router(), request("POST", "/lease", vec![b' '; BODY_LIMIT + 1])).await;
    assert_eq!(status, StatusCode::PAYLOAD_TOO_LARGE);
}

#[tokio::test]
async fn an_empty_body_stands_for_no_fields() {
    assert_eq!(ask(router(), request("POST", "/lease", "")).await, (StatusCode::OK, "None".to_owned()));
}

#[tokio::test]
async fn unknown_calls_are_told_apart_from_wrong_methods() {
    let (status, answer) = ask(router(), request("GET", "/nothing", "")).await;
    assert_eq!((status, problem(&answer).kind), (StatusCode::NOT_FOUND, ErrorKind::NotFound));
    let (status, answer) = ask(router(), request("DELETE", "/lease", "")).await;
    assert_eq!((status, problem(&answer).kind), (StatusCode::METHOD_NOT_ALLOWED, ErrorKind::Usage));
}

#[tokio::test]
async fn a_panic_is_a_problem_of_its_call_alone() {
    let router = router();
    let (status, answer) = ask(router.clone(), request("GET", "/broken", "")).await;
    assert_eq!((status, problem(&answer).kind), (StatusCode::INTERNAL_SERVER_ERROR, ErrorKind::Failed));
    assert_eq!(ask(router, request("GET", "/names/shop", "")).await, (StatusCode::OK, "shop".to_owned()));
}

async fn knock(host: Option<&str>, authorization: Option<&str>) -> StatusCode {
    let mut request = request("GET", "/names/shop", "");
    for (name, value) in [(HOST, host), (AUTHORIZATION, authorization)] {
        if let Some(value) = value {
            request.headers_mut().insert(name, value.parse().expect("header"));
        }
    }
    ask(guarded(router(), Secret::new("right")), request).await.0
}

#[tokio::test]
async fn over_tcp_the_token_is_needed() {
    let host = Some("127.0.0.1:7117");
    assert_eq!(knock(host, Some("Bearer right")).await, StatusCode::OK);
    assert_eq!(knock(host, Some("bearer right")).await, StatusCode::OK);
    for wrong in [None, Some(""), Some("Bearer "), Some("Bearer wrong"), Some("Bearer right "), Some("Basic right")] {
        assert_eq!(knock(host, wrong).await, StatusCode::UNAUTHORIZED, "{wrong:?}");
    }
}

#[tokio::test]
async fn over_tcp_only_loopback_names_are_answered() {
    for host in ["localhost", "LOCALHOST:1", "127.0.0.1", "127.9.9.9:80", "[::1]:7117", "[::1]"] {
        assert_eq!(knock(Some(host), Some("Bearer right")).await, StatusCode::OK, "{host}");
    }
    for host in [None, Some(""), Some("evil.example"), Some("localhost.evil.example"), Some("10.0.0.1:7117")] {
        assert_eq!(knock(host, Some("Bearer right")).await, StatusCode::FORBIDDEN, "{host:?}");
    }
}

#[test]
fn an_empty_token_lets_nobody_in() {
    let mut headers = HeaderMap::new();
    headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer "));
    assert!(!bears(&headers, &Secret::new("")));
}
