//! Whatever bytes come as the body of an engine's call: an answer in the protocol's form or a refusal in words, in time, and
//! whoever comes next is answered as before.

use axum::body::Body as HttpBody;
use axum::http::Request;
use pando_host::FailPoints;
use pando_operations::Around;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use tower::ServiceExt;

use super::*;

const CALLS: [&str; 9] = [
    "Plugin.Activate",
    "VolumeDriver.Capabilities",
    "VolumeDriver.Create",
    "VolumeDriver.Remove",
    "VolumeDriver.Get",
    "VolumeDriver.List",
    "VolumeDriver.Path",
    "VolumeDriver.Mount",
    "VolumeDriver.Unmount",
];

/// Bodies as engines send them, which are then changed.
const BODIES: [&str; 6] = [
    "",
    "{}",
    r#"{"Name":"v","ID":"3f3f3f"}"#,
    r#"{"Name":"dev1_db","Opts":{"from":"shop@-2h","source":"db","password":"opensesame"}}"#,
    r#"{"Name":"v","Opts":null}"#,
    r#"{"Name":"v","Opts":{"uid":"999","gid":"999","mode":"0700"}}"#,
];

async fn ask(router: Router, call: &str, podman: bool, body: Vec<u8>) -> (StatusCode, Value) {
    let mut request = Request::post(format!("/{call}"));
    if podman {
        request = request.header(CONTENT_TYPE, "application/vnd.docker.plugins.v1.1+json");
    }
    let request = request.body(HttpBody::from(body)).expect("a request");
    let response = router.oneshot(request).await.expect("infallible");
    let status = response.status();
    let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.expect("a body");
    (status, serde_json::from_slice(&bytes).expect("JSON"))
}

#[test]
fn any_bytes_to_any_call_are_answered_or_refused_in_words() {
    let home = tempfile::tempdir().expect("a directory");
    let pando = Pando::open(home.path(), FailPoints::default(), &Around::default()).expect("a home without a pool");
    pando.recover().expect("nothing was under way");
    let router = router(pando.clone());
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let answered = |call: &str, podman: bool, body: Vec<u8>| {
        runtime.block_on(async {
            let asked = ask(router.clone(), call, podman, body);
            tokio::time::timeout(Duration::from_secs(20), asked).await.expect("an answer in time")
        })
    };
    let change = (0_usize..90, 0_usize..12, proptest::collection::vec(any::<u8>(), 0..8));
    let strategy = (
        proptest::sample::select(&CALLS),
        any::<bool>(),
        proptest::sample::select(&BODIES),
        proptest::collection::vec(change, 0..4),
    );
    let config = ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() };
    let outcome = TestRunner::new(config).run(&strategy, |(call, podman, body, changes)| {
        let mut body = body.as_bytes().to_vec();
        for (at, less, more) in changes {
            let at = at.min(body.len());
            body.splice(at..(at + less).min(body.len()), more);
        }
        let shown = String::from_utf8_lossy(&body).into_owned();
        let (status, said) = answered(call, podman, body);
        let why = said["Err"].as_str().unwrap_or_default();
        prop_assert!(said.is_object() && !why.contains("made a mistake"), "{} {:?}: {}", call, shown, said);
        match status {
            StatusCode::OK => prop_assert!(why.is_empty(), "{} {:?}: {}", call, shown, said),
            StatusCode::INTERNAL_SERVER_ERROR => prop_assert!(!why.is_empty(), "{} {:?}: {}", call, shown, said),
            other => prop_assert!(false, "{} {:?}: {}", call, shown, other),
        }
        // There is no pool: whatever it was, nothing was made of it.
        let (_, list) = answered("VolumeDriver.List", podman, Vec::new());
        prop_assert_eq!(list, json!({ "Volumes": [], "Err": "" }));
        Ok(())
    });
    pando.stop();
    assert!(outcome.is_ok(), "{}", outcome.expect_err("it failed"));
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(1_000, |text| text.parse().unwrap_or(1_000))
}
