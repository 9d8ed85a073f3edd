//! The test kit on a real etcd: the worked example keeps every promise, and each deliberately broken copy of it
//! is caught at the promise that it breaks.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use pando_engine::toolkit::kit::{self, Check, Options};
use pando_host::Account;
use pando_model::SourceUrl;
use pando_testkit::{ETCD_SECRET, Etcd, example_toolkit, tools};
use tempfile::TempDir;

fn directory() -> TempDir {
    let dir = tempfile::Builder::new().prefix("pk-").tempdir_in("/tmp").unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o711)).unwrap();
    dir
}

/// The example, with something in it replaced.
fn copy_of_example(dir: &Path, change: Option<(&str, &str)>, mode: u32) -> PathBuf {
    let mut text = fs::read_to_string(example_toolkit()).unwrap();
    if let Some((from, to)) = change {
        assert!(text.contains(from), "the example holds no {from:?}");
        text = text.replace(from, to);
    }
    let path = dir.join("etcd");
    fs::write(&path, text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
    path
}

fn test(path: &Path, url: Option<&str>, seconds: Option<u64>, first: bool) -> Vec<Check> {
    let scratch = directory();
    let account = if Account::is_root() { Account::named("nobody").unwrap() } else { None };
    let url: Option<SourceUrl> = url.map(|url| url.parse().unwrap());
    let options = Options { path, url: url.as_ref(), account, scratch: scratch.path(), seconds, first, stop: None };
    kit::run(&options, &mut |_| {})
}

fn failed(checks: &[Check]) -> Vec<&Check> {
    checks.iter().filter(|check| check.problem.is_some()).collect()
}

#[test]
fn the_worked_example_keeps_every_promise() {
    let Some(production) = Etcd::start() else { return };
    production.put("color", "red");
    // Large enough that writing it anew would be seen.
    for number in 0..20 {
        production.put(&format!("large-{number}"), &"x".repeat(60_000));
    }
    let dir = directory();
    let path = copy_of_example(dir.path(), None, 0o755);
    let checks = test(&path, Some(&production.url("etcd")), None, false);
    assert_eq!(failed(&checks), Vec::<&Check>::new());
    assert!(checks.len() > 50, "{} promises", checks.len());
    let without = test(&path, None, None, false);
    assert!(failed(&without).is_empty() && without.len() < checks.len(), "{without:#?}");
}

/// What is broken, by replacing what with what; the promise at which it has to be caught, and a part of what is
/// said there.
type Broken = (&'static str, (&'static str, &'static str), &'static str, &'static str);

const ANSWERS: &[Broken] = &[
    (
        "prints something before its answer",
        ("json.dump(answer(", "print('hello'); json.dump(answer("),
        "identify: it answers in the protocol's words",
        "in what it printed: hello",
    ),
    (
        "answers nothing",
        ("json.dump(answer(sys.argv[1]), sys.stdout)", "answer(sys.argv[1])"),
        "identify: it answers in the protocol's words",
        "printed nothing",
    ),
    (
        "mistypes a field",
        ("\"title\":", "\"titel\":"),
        "identify: it answers in the protocol's words",
        "unknown field `titel`",
    ),
    (
        "speaks another protocol",
        ("PROTOCOL = 1", "PROTOCOL = 2"),
        "identify: it answers in the protocol's words",
        "protocol 2",
    ),
    (
        "claims another protocol",
        ("\"protocol\": PROTOCOL", "\"protocol\": 7"),
        "identify: it answers in the protocol's words",
        "it speaks protocol 7",
    ),
    (
        "answers without end",
        ("\"title\": \"etcd", "\"title\": \"x\" * (2 << 20) + \"etcd"),
        "identify: it answers in the protocol's words",
        "printed more than 1048576 bytes",
    ),
    (
        "never the same",
        ("\"version\": \"1.0\"", "\"version\": str(time.time())"),
        "identify: the same answer again",
        "something else",
    ),
    (
        "takes every protocol",
        ("question.get(\"protocol\") != PROTOCOL", "False"),
        "a question of another protocol is refused",
        "ends with 0 all the same",
    ),
    (
        "fails in silence",
        ("print(why, file=sys.stderr)", "pass"),
        "a question that is no JSON is refused",
        "says nothing on stderr",
    ),
    (
        "knows every operation",
        ("raise Refused(f\"{word!r} is no operation\")", "return {}"),
        "an unknown operation is refused",
        "ends with 0 all the same",
    ),
    (
        "misspells an operation",
        ("\"ready\": ready,", "\"redy\": ready,"),
        "ready: it is known, and answers in the protocol's words",
        "the same words as an operation that does not exist",
    ),
    (
        "misspells a field of what is to be run",
        ("{\"unit\": {\"args\": [\"copy\"]", "{\"unit\": {\"arguments\": [\"copy\"]"),
        "ingest: it is known, and answers in the protocol's words",
        "unknown field `arguments`",
    ),
    (
        "says of nothing that it is ready",
        ("return {\"ready\": False, \"doing\": \"etcd is starting\"}", "return {\"ready\": True}"),
        "ready: it is known, and answers in the protocol's words",
        "ready where there is none",
    ),
    (
        "fails without a word where nothing is",
        ("    data = question[\"place\"][\"data\"]\n", "    data = question[\"place\"][\"data\"]\n    sys.exit(1)\n"),
        "prepare: it is known, and answers in the protocol's words",
        "without a word",
    ),
];

const LIVES: &[Broken] = &[
    (
        "does not end",
        ("[\"header\"][\"revision\"])}", "[\"header\"][\"revision\"]) + str(time.sleep(1000))}"),
        "position: production is found",
        "had not ended after",
    ),
    (
        "prints the password",
        (
            "    production = Production(url)\n",
            "    production = Production(url)\n    print(url['password'], file=sys.stderr)\n",
        ),
        "preflight: it prints no secret",
        "prints production's password",
    ),
    (
        "finds nothing wrong",
        ("return {\"what\": why, \"fix\": fix}", "return {\"what\": why, \"fix\": fix, \"fatal\": False}"),
        "preflight: a wrong password is found",
        "all is well",
    ),
    (
        "shows the password in its arguments",
        ("\"args\": [\"copy\"]", "\"args\": [\"copy\", json.dumps(job)]"),
        "ingest: it names a unit, with no secret in its arguments",
        "every user sees",
    ),
    (
        "keeps the password in the copy",
        ("json.dump({\"root\": root}, file)", "json.dump({\"root\": root, \"production\": production.password}, file)"),
        "ingest: neither its unit nor the copy shows a secret",
        "pando.json",
    ),
    (
        "writes everything anew",
        (
            "    with open(source, \"rb\") as old",
            "    if os.path.exists(target): os.rename(target, source + \".old\")\n    with open(source, \"rb\") as old",
        ),
        "follow: files that are there already are written in place",
        "stored again",
    ),
    (
        "trips over what a killed copy left",
        ("    shutil.rmtree(incoming, ignore_errors=True)\n    os.makedirs(incoming)", "    os.makedirs(incoming)"),
        "follow: one that was killed is mended by the next",
        "it ended with Some(1)",
    ),
    (
        "copies nothing and says it did",
        (
            "            copy(json.loads(os.environ[\"TOOLKIT_JOB\"]))",
            "            try:\n                copy(json.loads(os.environ[\"TOOLKIT_JOB\"]))\n            except Refused:\n                return 0",
        ),
        "follow: one that cannot be made fails, and says why",
        "ended with 0",
    ),
    (
        "is always ready",
        ("return {\"ready\": False, \"doing\": \"etcd is starting\"}", "return {\"ready\": True}"),
        "ready: it says no while nothing runs",
        "says that the server is ready",
    ),
    (
        "opens a door while it is prepared",
        ("if serve[\"port\"] else [])", "if serve[\"port\"] else [\"http://127.0.0.1:0\"])"),
        "unit: without a port it listens on no TCP address",
        "it listens on 127.0.0.1",
    ),
    (
        "listens everywhere",
        ("f\"http://127.0.0.1:{serve['port']}\"", "f\"http://0.0.0.0:{serve['port']}\""),
        "unit: it listens on 127.0.0.1 only, at its port",
        "it listens on",
    ),
    (
        "forgets whose it is",
        ("if name.startswith(\"PANDO_\"))", "if False)"),
        "unit: it keeps the variables PANDO_… of its environment",
        "does not know its process",
    ),
    (
        "sanitises only once",
        ("known = own.as_root(\"user\", \"list\").split()", "known = []"),
        "sanitise: again",
        "already exists",
    ),
    (
        "does not start after a kill",
        ("    clear_sockets(os.getcwd())\n", ""),
        "ready: a server that was killed answers when it is started again",
        "address already in use",
    ),
    (
        "leaves a process behind",
        (
            "    try:\n        wait_for(server, own, run, log)",
            "    subprocess.Popen([\"/usr/bin/sleep\", \"60\"], cwd=run, start_new_session=True)\n    try:\n        wait_for(server, own, run, log)",
        ),
        "no process of it is left",
        "sleep",
    ),
];

/// Each one is caught where it has to be, by name.
fn caught(all: &[Broken], url: Option<&str>) {
    let wrong = Mutex::new(Vec::new());
    // All are written before any is run: a thread that forks has for a moment what another thread has open, and what
    // is open for writing cannot be executed.
    let copies: Vec<_> = all
        .iter()
        .map(|broken| {
            let dir = directory();
            let path = copy_of_example(dir.path(), Some(broken.1), 0o755);
            (broken, dir, path)
        })
        .collect();
    let next = Mutex::new(copies.iter());
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                loop {
                    let Some(((what, _, promise, part), _dir, path)) = next.lock().unwrap().next() else { return };
                    let seconds = (*what == "does not end").then_some(6);
                    let checks = test(path, url, seconds, true);
                    let found = checks.iter().find(|check| check.promise == *promise);
                    let said = found.and_then(|check| check.problem.clone());
                    if !said.as_ref().is_some_and(|said| said.contains(part)) {
                        wrong.lock().unwrap().push(format!("{what}: {said:?}, failed: {:#?}", failed(&checks)));
                    }
                    let shown = format!("{checks:?}");
                    assert!(!shown.contains(ETCD_SECRET), "{what}: {shown}");
                }
            });
        }
    });
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_toolkit_that_answers_wrong_is_told_what_is_wrong() {
    if !(tools::require("python3") && tools::require("etcd") && tools::require("etcdctl")) {
        return;
    }
    caught(ANSWERS, None);
    let dir = directory();
    let path = copy_of_example(dir.path(), None, 0o777);
    let checks = test(&path, None, None, false);
    let open = checks.iter().find(|check| check.promise.starts_with("it may be run")).unwrap();
    assert!(open.problem.as_ref().is_some_and(|why| why.contains("others can write")), "{open:?}");
}

#[test]
fn a_toolkit_that_breaks_a_promise_is_caught_at_it() {
    let Some(production) = Etcd::start() else { return };
    for number in 0..20 {
        production.put(&format!("large-{number}"), &"x".repeat(60_000));
    }
    caught(LIVES, Some(&production.url("etcd")));
}
