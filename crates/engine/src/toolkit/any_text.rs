//! Whatever an executable of somebody's prints: read or refused, never more.

use proptest::prelude::*;
use serde::de::DeserializeOwned;

use super::message::{Done, Identity, IsReady, Looked, ToRun, UnitOf, Where};

const PRINTED: [&str; 6] = [
    r#"{"protocol":1,"name":"etcd","version":"1","schemes":["etcd"],"operations":["identify"],"missing":[]}"#,
    r#"{"facts":{"version":"3.4"},"notes":["one"],"problems":[{"what":"no","fix":"yes","fatal":true}]}"#,
    r#"{"run":{"program":"/bin/true","args":["a"],"env":{"A":"b"},"stop":"interrupt","grace_seconds":5}}"#,
    r#"{"program":"/bin/true","args":[],"env":{},"stop":"terminate","grace_seconds":18446744073709551615}"#,
    r#"{"position":"17","at":"2026-11-21T10:00:00Z"}"#,
    r#"{"ready":true,"why":"\ud83d"}"#,
];

fn read<T: DeserializeOwned>(text: &str) {
    let _ = serde_json::from_str::<T>(text);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_answer_is_read_or_refused(
        which in 0..PRINTED.len(),
        changes in proptest::collection::vec((any::<usize>(), 0_usize..10, "[{}\\[\\]\",:0-9a-z-]{0,6}|.{0,3}"), 0..4),
    ) {
        let mut chars: Vec<char> = PRINTED[which].chars().collect();
        for (at, less, more) in changes {
            let at = at % (chars.len() + 1);
            let end = (at + less).min(chars.len());
            chars.splice(at..end, more.chars());
        }
        let text: String = chars.into_iter().collect();
        read::<Identity>(&text);
        read::<Looked>(&text);
        read::<ToRun>(&text);
        read::<UnitOf>(&text);
        read::<Where>(&text);
        read::<IsReady>(&text);
        read::<Done>(&text);
    }
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(2_000, |text| text.parse().unwrap_or(2_000))
}
