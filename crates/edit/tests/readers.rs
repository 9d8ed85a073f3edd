//! What an edit writes is read by somebody else: Python's parsers, PHP, a shell, serde_json. Files are made at
//! random around one value; the edit must put the new value there for the reader, and leave every byte before and
//! behind it alone.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::disallowed_types, reason = "a test")]

use std::path::Path;
use std::process::Command;

use pando_edit::{EditError, remove, set};
use pando_model::EditFormat;
use pando_testkit::tools;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;

/// A file around a value.
#[derive(Debug, Clone)]
struct Case {
    before: String,
    after: String,
    path: String,
    old: String,
    value: String,
}

const CASES: usize = 150;

fn many(strategy: impl Strategy<Value = Case>) -> Vec<Case> {
    let mut runner = TestRunner::deterministic();
    (0..CASES).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

/// The edited files. Each keeps what stands around the value, and an edit done again changes nothing.
fn edited(format: EditFormat, cases: &[Case]) -> Vec<String> {
    let edit = |case: &Case| {
        let text = format!("{}{}{}", case.before, case.old, case.after);
        let fresh = set(format, text.as_bytes(), &case.path, &case.value, false)
            .unwrap_or_else(|error| panic!("{case:?}: {error}"));
        assert_eq!(set(format, &fresh, &case.path, &case.value, false).as_deref(), Ok(fresh.as_slice()), "{case:?}");
        let fresh = String::from_utf8(fresh).unwrap();
        assert!(fresh.starts_with(&case.before) && fresh.ends_with(&case.after), "{case:?}\n{fresh}");
        assert!(fresh.len() >= case.before.len() + case.after.len(), "{case:?}\n{fresh}");
        fresh
    };
    cases.iter().map(edit).collect()
}

/// Asks a reader written in another language.
fn read(program: &str, args: &[&str], format: &str, cases: &[Case], files: &[String]) -> Vec<serde_json::Value> {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("cases.json");
    let asked: Vec<_> = cases.iter().zip(files).map(|(case, text)| (format, text, &case.path)).collect();
    std::fs::write(&file, serde_json::to_vec(&asked).unwrap()).unwrap();
    let output = Command::new(tools::find(program).unwrap()).args(args).arg(&file).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

fn compare(cases: &[Case], files: &[String], read: &[serde_json::Value]) {
    assert_eq!(cases.len(), read.len());
    for ((case, file), read) in cases.iter().zip(files).zip(read) {
        assert_eq!(read.as_str(), Some(case.value.as_str()), "{case:?}\n{file}");
    }
}

fn python(format: EditFormat, word: &str, cases: &[Case]) {
    if !tools::require("python3") {
        return;
    }
    let files = edited(format, cases);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/readers.py");
    compare(cases, &files, &read("python3", &[script.to_str().unwrap()], word, cases, &files));
}

fn word() -> impl Strategy<Value = String> {
    "[a-z][a-z0-9_]{2,9}"
}

/// Text of one line, with everything that formats give a meaning to.
fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        "[ -~]{0,24}",
        "[ -~é€😀]{1,12}",
        "[a-z0-9.]{1,12}",
        Just("jdbc:postgresql://127.0.0.1:17003/shop?a=b&c=%20".to_owned()),
        Just("it's \"both\" \\ $x `y` #z ;w".to_owned()),
    ]
}

#[test]
fn xml_is_read_by_pythons_elementtree() {
    let cases = (word(), word(), text(), "[a-z<>&]{0,9}", any::<bool>()).prop_map(|(root, name, value, note, of)| {
        let head = format!("<?xml version=\"1.0\"?>\n<!-- <{name}>{} -->\n", note.replace('-', ""));
        let value = value.trim().to_owned();
        let (before, after, path) = if of {
            (
                format!("{head}<{root}>\n\t<x {name} = '"),
                "' b=\"2\"/><y>t</y>\n</root>".replace("root", &root),
                format!("/{root}/x/@{name}"),
            )
        } else {
            (
                format!("{head}<{root}>\n <a>1</a><n-{name}>"),
                format!("</n-{name}> <!-- k -->\n</{root}>\n"),
                format!("/{root}/n-{name}"),
            )
        };
        Case { before, after, path, old: "old".to_owned(), value }
    });
    python(EditFormat::Xml, "xml", &many(cases));
}

#[test]
fn ini_is_read_by_pythons_configparser() {
    let value = text().prop_map(|text| text.trim().replace(['"', ';'], "").trim_matches(['\'', '#', ' ']).to_owned());
    let cases =
        (word(), word(), value, prop_oneof![Just(" ; note"), Just("")]).prop_map(|(section, name, value, note)| Case {
            before: format!("top = 1\n# {name} = no\n[x{section}]\n{name}=2\n\n[{section}]\r\n; c\n{name} = "),
            after: format!("{note}\nlast: 3\n"),
            path: format!("[{section}]{name}"),
            old: "old value".to_owned(),
            value,
        });
    python(EditFormat::Ini, "ini", &many(cases));
}

#[test]
fn yaml_is_read_by_pythons_yaml() {
    let old = prop_oneof![Just("plain text"), Just("'si''ngle'"), Just("\"dou\\\"ble\""), Just("localhost")];
    let cases = (word(), word(), text(), old, prop_oneof![Just(" # note"), Just("")]).prop_map(
        |(top, name, value, old, note)| Case {
            before: format!(
                "# {name}: no\nx{top}: &a\n  {name}: 5\n{top}:\n  <<: *a\n  seq:\n  - {name}: 1\n  - two\n  k{name}: "
            ),
            after: format!("{note}\n  text: |\n    k{name}: no\nlast: 1\n"),
            path: format!("/{top}/k{name}"),
            old: old.to_owned(),
            value,
        },
    );
    python(EditFormat::Yaml, "yaml", &many(cases));
}

#[test]
fn php_is_read_by_php() {
    if !tools::require("php") {
        return;
    }
    let old = prop_oneof![Just("'o\\'ld'"), Just("\"old;\""), Just("getenv('X') ?: f(1, ')')"), Just("5432")];
    let cases = (word(), text(), old, any::<bool>()).prop_map(|(name, value, old, define)| {
        let head = "<html><?php\n# define('X', 1);\n/* $x = 1; */ function f($a, $b) { return $a; }\n";
        let (path, open, close) = if define {
            (format!("C_{name}"), format!("define( 'C_{name}', "), ");")
        } else {
            (format!("$v_{name}"), format!("$v_{name} = "), ";")
        };
        Case { before: format!("{head}{open}"), after: format!("{close} // '\n?>\n"), path, old: old.to_owned(), value }
    });
    let cases: Vec<Case> = many(cases).into_iter().filter(|case| case.value.parse::<u64>().is_err()).collect();
    let files = edited(EditFormat::Php, &cases);
    let code = "foreach (json_decode(file_get_contents($argv[1])) as $i => $case) { \
        [$format, $text, $path] = $case; ob_start(); \
        $text = str_replace('function f(', \"function f$i(\", str_replace(' f(1', \" f$i(1\", $text)); \
        $path[0] == '$' ? $text .= '<?php $found = ' . $path . ';' : 0; \
        eval('?>' . ($path[0] == '$' ? $text : str_replace('C_', \"C{$i}_\", $text))); ob_end_clean(); \
        $all[] = $path[0] == '$' ? $found : constant(str_replace('C_', \"C{$i}_\", $path)); } echo json_encode($all);";
    compare(&cases, &files, &read("php", &["-r", code, "--"], "php", &cases, &files));
}

#[test]
fn variables_are_read_by_a_shell() {
    let old = prop_oneof![Just("plain"), Just("'sin gle'"), Just("\"dou\\\"ble\""), Just("")];
    let value = text().prop_map(|text| text.replace('!', "").trim().to_owned());
    let cases =
        (word(), value, old, prop_oneof![Just(" # note"), Just("")]).prop_map(|(name, value, old, note)| Case {
            before: format!("# {name}=no\nX{name}=1\nMULTI='a\n{name}=inner\n'\nexport {name}="),
            after: format!("{note}\nLAST=2\n"),
            path: name,
            old: old.to_owned(),
            value,
        });
    let cases = many(cases);
    let files = edited(EditFormat::Env, &cases);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    for (case, text) in cases.iter().zip(&files) {
        std::fs::write(&file, text).unwrap();
        let script = format!(". {}; printf %s \"${}\"", file.display(), case.path);
        let output = Command::new("/bin/sh").args(["-c", &script]).env_clear().output().unwrap();
        assert_eq!(String::from_utf8_lossy(&output.stdout), case.value, "{case:?}\n{text}");
        assert!(output.stderr.is_empty(), "{case:?}\n{text}");
    }
}

#[test]
fn json_is_read_by_serde() {
    let json = prop::collection::btree_map("[ -~]{0,8}", text(), 1..6);
    let cases = (json, text(), any::<prop::sample::Index>()).prop_map(|(map, value, index)| {
        let index = index.index(map.len());
        let token = |text: &str| serde_json::to_string(text).unwrap();
        let all: Vec<(String, String)> = map.into_iter().collect();
        let part = |some: &[(String, String)]| {
            some.iter().map(|(k, v)| format!("{}: {}, ", token(k), token(v))).collect::<String>()
        };
        let (key, old) = &all[index];
        let rest = part(&all[index + 1..]);
        Case {
            before: format!("{{\"a\": [1, {{ {}{} :\t", part(&all[..index]), token(key)),
            after: if rest.is_empty() {
                " }]}\n".to_owned()
            } else {
                format!(" , {} }}]}}\n", rest.trim_end_matches([',', ' ']))
            },
            path: format!("/a/1/{}", key.replace('~', "~0").replace('/', "~1")),
            old: token(old),
            value,
        }
    });
    let cases = many(cases);
    for (case, text) in cases.iter().zip(edited(EditFormat::Json, &cases)) {
        let read: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(read.pointer(&case.path).and_then(serde_json::Value::as_str), Some(case.value.as_str()), "{text}");
        let gone = remove(EditFormat::Json, text.as_bytes(), &case.path).unwrap();
        let read: serde_json::Value = serde_json::from_slice(&gone).unwrap();
        assert_eq!(read.pointer(&case.path), None, "{}", String::from_utf8_lossy(&gone));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever the bytes are: an answer or a refusal, never a panic; and what was set can be set again.
    #[test]
    fn no_file_is_too_odd(bytes in prop::collection::vec(any::<u8>(), 0..200), text in "[-<>a/!?\\[\\]{}:=\"'\\\\ \n#$;(),*&|x]{0,80}", path in "[/$\\[\\]@a-c0-9x]{0,9}") {
        use EditFormat::{Env, Ini, Json, Php, Properties, Xml, Yaml};
        for format in [Xml, Ini, Properties, Json, Yaml, Php, Env] {
            for content in [bytes.clone(), text.clone().into_bytes(), format!("<?php {text}").into_bytes(), format!("<a>{text}</a>").into_bytes()] {
                if let Ok(fresh) = set(format, &content, &path, "v", true) {
                    prop_assert_eq!(set(format, &fresh, &path, "v", false), Ok(fresh.clone()), "{:?} {:?} in {:?}", format, path, String::from_utf8_lossy(&content));
                }
                let _: Result<_, EditError> = remove(format, &content, &path);
                let _: Result<_, EditError> = pando_edit::replace(&content, &path, "v");
            }
        }
    }
}
