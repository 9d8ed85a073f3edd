//! Whatever somebody types: words are read or refused, never more; and what is read is written as it was.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests")]

use std::fmt::Display;
use std::str::FromStr;

use pando_model::{
    BookmarkRequest, CloneId, CloneRequest, ExportRequest, ImagePushRequest, ImageRemoveRequest, ImageRequest,
    ImportRequest, LeaseRequest, LinkRequest, Lsn, Moment, Name, OperationId, OwnerId, RefreshRequest, SnapshotId,
    SnapshotRequest, SourceUrl,
};
use proptest::prelude::*;

const KNOWN: [&str; 24] = [
    "latest",
    "now",
    "-2h",
    "-1d12h30m5s",
    "2026-11-21T10:00:00Z",
    "2026-11-21 10:00:00.123456+02:30",
    "2026-11-21",
    "10:00",
    "lsn:0/16B3748",
    "gtid:0-1-100",
    "snap-06gzrx9y0cqxpy1q",
    "before-upgrade",
    "shop@-2h",
    "postgres://boss:p%40ss@db:5432/shop?sslmode=require",
    "postgres:///shop?host=/var/run/postgresql",
    "file:///srv/files",
    "ssh://user@host/path",
    "redis://:x@h:6379/0",
    "mariadb://u:p@[::1]:3306/d",
    "op-06gzrx9y0cqxpy1q",
    "clone-06gzrx9y0cqxpy1q",
    "0/0",
    "FFFFFFFF/FFFFFFFF",
    "../../etc/passwd",
];

/// Free text, or a known word in which something was changed.
fn text() -> impl Strategy<Value = String> {
    let free = proptest::collection::vec(any::<char>(), 0..40).prop_map(|chars| chars.into_iter().collect::<String>());
    let bits = proptest::collection::vec(
        prop_oneof![Just('@'), Just('/'), Just(':'), Just('-'), Just('%'), Just('9'), Just('é'), Just('\0'), Just(' ')],
        0..4,
    );
    let known = (0..KNOWN.len(), any::<usize>(), 0_usize..4, bits).prop_map(|(which, at, less, more)| {
        let mut chars: Vec<char> = KNOWN[which].chars().collect();
        let at = at % (chars.len() + 1);
        let end = (at + less).min(chars.len());
        chars.splice(at..end, more);
        chars.into_iter().collect()
    });
    prop_oneof![free, known]
}

fn stays<T: FromStr + Display>(text: &str) {
    if let Ok(read) = text.parse::<T>() {
        let written = read.to_string();
        let again = written.parse::<T>();
        assert!(again.is_ok_and(|again| again.to_string() == written), "{text:?} is written as {written:?}");
    }
}

/// What the API is sent, and what `apply` reads.
const BODIES: [&str; 10] = [
    r#"{"app":"shop","sources":[{"name":"db","url":"postgres://u:p@h/d","exclude":["log/"]}],"policy":{"snapshot_every_seconds":60},"set":{"work_mem":"64MB"},"edits":[{"set":"files/a.xml","path":"/a/b","value":"{{db.host}}"},{"remove":"files/lock"}],"hooks":[{"at":"post-start","run":["/bin/true"],"timeout_seconds":5}]}"#,
    r#"{"from":"shop","moment":"-2h","clone":"dev","profile":"durable","record":true,"lease_seconds":3600,"set":{"a":"b"},"runtime":"docker"}"#,
    r#"{"moment":"lsn:0/16B3748"}"#,
    r#"{"name":"shop","bookmark":"before","moment":"latest"}"#,
    r#"{"seconds":-9223372036854775808}"#,
    r#"{"fence_seconds":10}"#,
    r#"{"clone":"dev","profile":"disposable","outward_links":true}"#,
    r#"{"reference":"registry.example:5000/shop-db:ci","name":"shop","moment":"-1h","source":"db","base":"oci:/srv/x","max_bytes":1024,"login":{"user":"u","password":"p"}}"#,
    r#"{"reference":"shop-db:ci","login":{"user":"u","password":"p"}}"#,
    r#"{"from":"shop","clone":"dev","container":{"images":{"db":"postgres:15"},"memory_bytes":1048576,"cpu_millis":1500,"reindex":true},"compose":"/srv/compose.yaml"}"#,
];

/// What is read is written as it was.
fn body<T: serde::de::DeserializeOwned + serde::Serialize>(text: &str) {
    if let Ok(read) = serde_json::from_str::<T>(text) {
        let written = serde_json::to_value(&read).unwrap();
        let again: T = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(serde_json::to_value(&again).unwrap(), written, "{text}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_read_or_refused(text in text()) {
        stays::<Moment>(&text);
        stays::<Name>(&text);
        stays::<Lsn>(&text);
        stays::<OperationId>(&text);
        stays::<SnapshotId>(&text);
        stays::<CloneId>(&text);
        stays::<OwnerId>(&text);
        let _ = text.parse::<SourceUrl>();
        if let Ok(name) = text.parse::<Name>() {
            prop_assert!(!name.as_str().contains(['/', '\0', ' ']) && !name.as_str().starts_with(['.', '-']));
            prop_assert!(name.as_str().len() <= 255);
        }
    }

    #[test]
    fn any_body_is_read_or_refused(
        which in 0..BODIES.len(),
        changes in proptest::collection::vec((any::<usize>(), 0_usize..12, "[{}\\[\\]\",:0-9a-z@-]{0,6}|.{0,3}"), 0..4),
    ) {
        let mut chars: Vec<char> = BODIES[which].chars().collect();
        for (at, less, more) in changes {
            let at = at % (chars.len() + 1);
            let end = (at + less).min(chars.len());
            chars.splice(at..end, more.chars());
        }
        let text: String = chars.into_iter().collect();
        body::<LinkRequest>(&text);
        body::<CloneRequest>(&text);
        body::<RefreshRequest>(&text);
        body::<BookmarkRequest>(&text);
        body::<LeaseRequest>(&text);
        body::<SnapshotRequest>(&text);
        body::<ExportRequest>(&text);
        body::<ImportRequest>(&text);
        body::<ImageRequest>(&text);
        body::<ImagePushRequest>(&text);
        body::<ImageRemoveRequest>(&text);
    }

    #[test]
    fn a_password_is_never_shown(password in proptest::collection::vec(any::<char>(), 8..20), user in any::<bool>()) {
        // Line breaks and zero bytes are refused in a URL.
        let secret: String = password.into_iter().filter(|one| !['\n', '\r', '\0'].contains(one)).collect();
        let encoded: String = secret.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let who = if user { "boss" } else { "" };
        let url: SourceUrl = format!("postgres://{who}:{encoded}@db:5432/shop").parse().unwrap();
        prop_assert_eq!(url.password.as_deref(), Some(secret.as_str()));
        for shown in [url.to_string(), format!("{url:?}")] {
            prop_assert!(!shown.contains(&secret) && !shown.contains(&encoded), "{}", shown);
        }
    }
}

/// Some thousand in every run; more when asked for.
fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(4_000, |text| text.parse().unwrap())
}
