//! What nobody should send: a hundred hostile inputs through the command line, and a hundred through the API. Each is
//! refused in one line, the daemon goes on, nothing is made of it, and secrets that were in it are in no log.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::stand::Stand;

/// A secret that was typed where it does not belong.
const CANARY: &str = "canary-7f3a91";

const NAMES: [&str; 17] = [
    "../x",
    "..",
    ".",
    "",
    "a/b",
    "-rf",
    "--help-me",
    "a b",
    "a\tb",
    "a\nb",
    "né",
    "😀",
    "a;b",
    "$(id)",
    "`id`",
    "a'b",
    "%2e%2e%2fetc",
];

const MOMENTS: [&str; 22] = [
    "9999-99-99T99:99:99Z",
    "2026-02-30T00:00:00Z",
    "-9223372036854775808s",
    "-99999999999999999999h",
    "-1",
    "--1h",
    "lsn:",
    "lsn:FFFFFFFFF/0",
    "lsn:0/0/0",
    "gtid:;DROP TABLE",
    "snap-",
    "snap-../../../../etc/passwd",
    "snap-zzzzzzzzzzzzzzzz",
    "0000-00-00T00:00:00Z",
    "+300000-01-01T00:00:00Z",
    "2026-11-21T10:00:00",
    "2026-11-21T24:00:61Z",
    "1e308s",
    "-1h-1h@-1h",
    "latest@latest",
    "'; SELECT pg_sleep(60); --",
    "\u{202e}wen",
];

const URLS: [&str; 22] = [
    "postgres://",
    "postgres://boss:canary-7f3a91@127.0.0.1:1/postgres",
    "postgres://boss:canary-7f3a91@127.0.0.1:99999/postgres",
    "postgres://boss:canary-7f3a91@[::1/postgres",
    "postgres://boss:canary-7f3a91@nowhere.invalid/postgres",
    "postgres://boss:canary-7f3a91@127.0.0.1:1/postgres?sslmode=nonsense",
    "postgres://boss:canary-7f3a91@127.0.0.1:1/postgres?host=/etc&passfile=/etc/shadow",
    "postgres://boss:canary-7f3a91@127.0.0.1:1/%00",
    "postgres://boss:canary-7f3a91@127.0.0.1:1/%0a%0d",
    "postgres://boss:pa'ss:w@rd/canary-7f3a91@127.0.0.1:1/postgres",
    "mariadb://boss:12/canary-7f3a91@127.0.0.1:1/blog",
    "mysql://boss:12?canary-7f3a91@127.0.0.1:1/blog",
    "redis://boss:12#canary-7f3a91@127.0.0.1:1/0",
    "file://",
    "file:///",
    "file://relative/path",
    "file:///proc/self/mem",
    "file:///no/such/directory",
    "ssh://-oProxyCommand=touch%20/tmp/pando-was-here@host/path",
    "ssh://-oProxyCommand=touch%20/tmp/pando-was-here/path",
    "gopher://canary-7f3a91@x/",
    "db=",
];

const BODIES: [(&str, &str, &str); 24] = [
    ("POST", "/v1/clones", ""),
    ("POST", "/v1/clones", "{"),
    ("POST", "/v1/clones", "[]"),
    ("POST", "/v1/clones", "null"),
    ("POST", "/v1/clones", "{\"from\":1,\"clone\":2}"),
    ("POST", "/v1/clones", "{\"from\":\"shop\",\"clone\":\"../x\"}"),
    ("POST", "/v1/clones", "{\"from\":\"shop\",\"clone\":\"x\",\"moment\":{\"a\":[]}}"),
    ("POST", "/v1/clones", "{\"from\":\"shop\",\"clone\":\"x\",\"lease_seconds\":-1}"),
    ("POST", "/v1/clones", "{\"from\":\"shop\",\"clone\":\"x\",\"lease_seconds\":1e400}"),
    ("POST", "/v1/clones", "{\"from\":\"shop\",\"clone\":\"x\",\"set\":{\"archive_command\":\"id\"}}"),
    ("POST", "/v1/clones", "{\"from\":\"shop\",\"clone\":\"x\",\"set\":{\"a\\nb\":\"c\"}}"),
    ("POST", "/v1/clones", "{\"from\":\"shop\",\"clone\":\"x\",\"profile\":\"eternal\"}"),
    ("POST", "/v1/apps", "{\"app\":\"x\",\"sources\":[]}"),
    ("POST", "/v1/apps", "{\"app\":\"x\",\"sources\":[{\"url\":\"postgres://boss:canary-7f3a91@127.0.0.1:1/x\"}]"),
    ("POST", "/v1/apps", "{\"app\":\"x\",\"sources\":[{\"url\":42}]}"),
    ("POST", "/v1/clones/dev/lease", "{\"seconds\":\"canary-7f3a91\"}"),
    ("POST", "/v1/clones/dev/rewind", "{\"moment\":\"lsn:zz\"}"),
    ("POST", "/v1/clones/..%2f..%2fetc/start", "{}"),
    ("GET", "/v1/names/%00", ""),
    ("GET", "/v1/names/../../../etc/passwd", ""),
    ("GET", "/v1/operations/op-'%20OR%201=1?wait_ms=99999999999999999999", ""),
    ("GET", "/v1/events?since=-1", ""),
    ("DELETE", "/v1/clones/%2e%2e", ""),
    ("BREW", "/v1/list", ""),
];

/// Files that `apply` is given.
const FILES: [&str; 14] = [
    "",
    "app = ",
    "app = \"never\"",
    "app = \"../never\"\n[[sources]]\nurl = \"file:///tmp\"",
    "app = \"never\"\nsources = 7",
    "app = \"never\"\n[[sources]]\nurl = \"postgres://boss:canary-7f3a91@127.0.0.1:1/x\"\nurl = \"twice\"",
    "app = \"never\"\n[[sources]]\nurl = \"${PANDO_NO_SUCH_VARIABLE}\"",
    "app = \"never\"\n[[sources]]\nurl = \"${file:/no/such/file}\"",
    "app = \"never\"\n[[sources]]\nurl = \"file:///tmp\"\n[[hooks]]\nat = \"never\"\nrun = [\"canary-7f3a91\"]",
    "app = \"never\"\n[[sources]]\nurl = \"file:///tmp\"\n[[edits]]\nset = \"../../etc/passwd\"\npath = \"/\"\nvalue = \"canary-7f3a91\"",
    "app = \"never\"\n[[sources]]\nurl = \"file:///tmp\"\n[[edits]]\nset = \"files/a\"\nreplace = \"files/b\"",
    "app = \"never\"\n[[sources]]\nurl = \"file:///tmp\"\n[policy]\nsnapshot_every_seconds = -1",
    "app = \"never\"\npassword = \"canary-7f3a91\"",
    "\u{feff}app = 'never'\n[[[[[[[[[[[[[[[[[[[[[[",
];

/// Lines that no rule of another list makes.
const LINES: [&[&str]; 32] = [
    &["clone", "shop", "never", "--profile", "eternal"],
    &["clone", "shop", "never", "--profile", ""],
    &["clone", "shop", "never", "--runtime", "moon"],
    &["clone", "shop", "never", "--runtime", "docker", "--memory", "-1"],
    &["clone", "shop", "never", "--runtime", "docker", "--memory", "1e309"],
    &["clone", "shop", "never", "--runtime", "docker", "--cpus", "NaN"],
    &["clone", "shop", "never", "--runtime", "docker", "--cpus", "-inf"],
    &["clone", "shop", "never", "--image", "db"],
    &["clone", "shop", "never", "--image", "../db=x"],
    &["clone", "shop", "never", "--for", "forever"],
    &["clone", "shop", "never", "--compose", "/proc/self/mem"],
    &["clone", "shop", "never", "--compose", "/no/such/compose.yaml"],
    &["clone", "shop", "never", "--fence=-1s"],
    &["bookmark", "shop", "../never"],
    &["bookmark", "shop", "latest"],
    &["bookmark", "shop@lsn:zz", "never"],
    &["bookmark", "shop@-99999h", "never"],
    &["unbookmark", "shop", "a\nb"],
    &["show", ""],
    &["timeline", "a/b"],
    &["logs", "dev", "../db"],
    &["op", "op-../../etc/passwd"],
    &["rewind", "dev@"],
    &["refresh", "dev@'"],
    &["undo", "dev"],
    &["import", "/etc/passwd", "never"],
    &["import", "/dev/null", "never"],
    &["image", "build", "shop", "A B:C"],
    &["image", "push", "::::"],
    &["apply", "/proc/self/mem"],
    &["--host", "gopher://canary-7f3a91@x", "ls"],
    &["--host", "http://127.0.0.1:1", "ls"],
];

/// Bytes that are no request at all.
const NOISE: [&[u8]; 6] = [
    b"\0\0\0\0\0\0\0\0\r\n\r\n",
    b"GET / HTTP/9.9\r\n\r\n",
    b"POST /v1/clones HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n{}",
    b"POST /v1/clones HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999999\r\n\r\n{}",
    b"POST /v1/clones HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nZZZ\r\n",
    b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
];

fn send(stand: &Stand, request: &[u8], whole: bool) -> String {
    let mut line = UnixStream::connect(stand.daemon.socket()).unwrap();
    line.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
    let _ = line.write_all(request);
    if !whole {
        let _ = line.shutdown(std::net::Shutdown::Write);
    }
    let mut answer = Vec::new();
    let _ = line.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

/// Makes a call, and hands back what was answered, head and all.
fn call(stand: &Stand, method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: pando\r\nContent-Type: application/json\r\n");
    send(stand, format!("{head}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}").as_bytes(), true)
}

fn body(answer: &str) -> Value {
    let text = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    // In chunks or not: what stands between the braces is the body.
    let ends = (text.find('{'), text.rfind('}'));
    let (Some(first), Some(last)) = ends else { return Value::Null };
    serde_json::from_str(&text[first..=last]).unwrap_or_else(|error| panic!("{error}: {answer}"))
}

/// A hundred hostile inputs through the command line; answers how many.
fn command_line(stand: &Stand) -> usize {
    let mut tried = 0;
    let mut line = |args: &[&str]| {
        tried += 1;
        let output = stand.daemon.pando(args);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(matches!(output.status.code(), Some(1..=4)), "{args:?}: {output:?}");
        let own = output.status.code() != Some(2) || said.starts_with("error: ");
        assert!(own && said.lines().filter(|line| line.starts_with("error: ")).count() == 1, "{args:?}: {said}");
        for never in ["panicked", "RUST_BACKTRACE", "Os {"] {
            assert!(!said.contains(never), "{args:?}: {said}");
        }
        said
    };
    for name in NAMES {
        line(&["clone", "shop", name]);
    }
    line(&["clone", "shop", &"n".repeat(5000)]);
    for moment in MOMENTS {
        line(&["clone", &format!("shop@{moment}"), "never"]);
    }
    for url in URLS {
        let said = line(&["link", "never", url]);
        // A URL that could not be read is shown to whoever typed it; one that was read never with its password.
        assert!(!said.contains(CANARY) || said.starts_with("error: invalid value"), "{url}: {said}");
    }
    for set in ["=", "a", "a=b\nc=d", "shared_preload_libraries=../../x", "no_such_setting=1", "port=1", "fsync=maybe"]
    {
        line(&["clone", "shop", "never", "--set", set]);
    }
    for lease in ["0", "-1h", "1y1y", "99999999999999999999h", "9999999999999h", "soon"] {
        line(&["lease", "dev", "--for", lease]);
    }
    for args in LINES {
        line(args);
    }
    let file = stand.files().join("app.toml");
    for text in FILES {
        std::fs::write(&file, text).unwrap();
        let said = line(&["apply", &file.display().to_string()]);
        assert!(!said.contains(CANARY), "{text}: {said}");
    }
    tried
}

/// What is refused only when it is looked at may have become an operation: that one fails.
fn refused(stand: &Stand, path: &str, sent: &Value) -> String {
    let mut answer = call(stand, "POST", path, &sent.to_string());
    if answer.starts_with("HTTP/1.1 202") {
        let id = body(&answer)["id"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned();
        for _ in 0..60 {
            answer = call(stand, "GET", &format!("/v1/operations/{id}?wait_ms=1000"), "");
            if !["running", "undoing"].contains(&body(&answer)["state"].as_str().unwrap_or_default()) {
                break;
            }
        }
        assert_eq!(body(&answer)["state"], "failed", "{path} {sent}: {answer}");
    } else {
        let status = answer.split(' ').nth(1).and_then(|word| word.parse::<u16>().ok());
        assert!(status.is_some_and(|status| (400..=500).contains(&status)), "{path} {sent}: {answer}");
    }
    for never in ["panicked", "made a mistake", "Os {", CANARY] {
        assert!(!answer.contains(never), "{path} {sent}: {answer}");
    }
    answer
}

/// A hundred through the API; answers how many.
fn api(stand: &Stand) -> usize {
    let mut tried = 0;
    let mut refuse = |path: &str, sent: Value| {
        tried += 1;
        refused(stand, path, &sent)
    };
    for name in NAMES {
        refuse("/v1/clones", json!({ "from": "shop", "clone": name }));
        let encoded: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        refuse(&format!("/v1/clones/{encoded}/undo"), Value::Null);
    }
    refuse("/v1/clones", json!({ "from": "shop", "clone": "n".repeat(5000) }));
    for moment in MOMENTS {
        refuse("/v1/clones", json!({ "from": "shop", "clone": "never", "moment": moment }));
    }
    for url in URLS {
        refuse("/v1/apps", json!({ "app": "never", "sources": [{ "url": url }] }));
    }
    for (name, value) in [
        ("", ""),
        ("a", "b\nc=d"),
        ("a\nfsync", "off"),
        ("shared_preload_libraries", "../../x"),
        ("no_such_setting", "1"),
        ("port", "1"),
        ("fsync", "maybe"),
        ("archive_command", "touch /tmp/pando-was-here"),
    ] {
        refuse("/v1/clones", json!({ "from": "shop", "clone": "never", "set": { name: value } }));
    }
    for seconds in [0, -1, i64::MIN, i64::MAX] {
        refuse("/v1/clones/dev/lease", json!({ "seconds": seconds }));
        refuse("/v1/clones", json!({ "from": "shop", "clone": "never", "lease_seconds": seconds }));
    }
    for (method, path, sent) in BODIES {
        tried += 1;
        let answer = call(stand, method, path, sent);
        assert!(answer.starts_with("HTTP/1.1 4"), "{method} {path} {sent}: {answer}");
        assert!(!answer.contains("panicked"), "{method} {path} {sent}: {answer}");
    }
    for noise in NOISE {
        tried += 1;
        let answer = send(stand, noise, false);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{noise:?}: {answer}");
    }
    tried
}

#[test]
fn a_hundred_hostile_inputs_at_either_door_are_refused_in_one_line_and_leave_nothing() {
    let Some(stand) = Stand::new() else { return };
    stand.link(&[]);
    stand.copy("shop", "dev");
    // What a clone has of its own is counted in the background.
    let clones = || {
        let mut listed = stand.json(&["ls"])["clones"].clone();
        listed.as_array_mut().unwrap().iter_mut().for_each(|clone| clone["unique_bytes"] = Value::Null);
        listed
    };
    let before = clones();
    let tried = (command_line(&stand), api(&stand));
    eprintln!("{} at the command line, {} at the API", tried.0, tried.1);
    assert!(tried.0 >= 100 && tried.1 >= 100, "{tried:?}");
    assert!(!std::path::Path::new("/tmp/pando-was-here").exists(), "a text became a command");
    assert_eq!(clones(), before, "{}", stand.daemon.log());
    stand.fails(3, &["show", "never"]);
    assert!(!stand.daemon.log().contains(CANARY), "{}", stand.daemon.log());
    assert!(!stand.events().contains(CANARY), "{}", stand.events());
    assert_eq!(stand.show("dev").sql("SELECT 1"), "1");
    stand.json(&["rm", "dev"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
