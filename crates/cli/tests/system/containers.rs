//! Clones whose servers run in containers: on a real engine of the test's own, with an image that has the official
//! one's interface.

use std::time::{Duration, Instant};

use pando_testkit::{Docker, Image, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::stand::{Copy, Stand, bounded, sql_at, with};

/// A stand whose daemon knows the engine.
fn stand(docker: &Docker) -> Option<Stand> {
    docker.image(Image::Postgres);
    Stand::of_with(bounded(), &[("DOCKER_HOST", &docker.host())])
}

/// The container of a clone, as `show` names it.
fn container(stand: &Stand, clone: &str) -> Value {
    stand.show(clone).0["sources"]["db"]["container"].clone()
}

/// All containers of an engine.
fn all(docker: &Docker) -> String {
    docker.run(&["ps", "--all", "--no-trunc", "--format", "{{.ID}} {{.Names}} {{.Status}}"])
}

fn answers(copy: &Copy, sql: &str, expected: &str) {
    let told = || sql_at(copy.url(), sql).is_ok_and(|told| told == expected);
    assert!(wait_until(Duration::from_secs(20), told), "{sql}: {:?}", sql_at(copy.url(), sql));
}

#[test]
fn a_clone_lives_in_a_container_through_all_its_verbs_and_both_daemons_deaths() {
    let Some(mut docker) = Docker::start_with(&["--live-restore"]) else { return };
    let Some(mut stand) = stand(&docker) else { return };
    stand.production.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    stand.link(&[]);
    let line = ["--runtime", "docker", "--record", "--memory", "512M", "--cpus", "1.5"];
    let copy = stand.copy_with("shop", "dev", &line);
    assert_eq!(copy.sql("SELECT count(*) FROM t"), "1000");
    assert_eq!(copy.0["runtime"], "docker");
    copy.sql("CREATE TABLE mine AS SELECT 1 AS n");

    // What it may do: as told, as the engine has it, and as the kernel does.
    let shown = container(&stand, "dev");
    let id = shown["id"].as_str().unwrap().to_owned();
    let (data, account) = (stand.daemon.home().join("pool"), shown["user"].as_str().unwrap().to_owned());
    for (key, value) in [("privileged", false), ("gains_rights", false), ("writes_root", false)] {
        assert_eq!(shown[key], value, "{key} in {shown}");
    }
    assert_eq!((&shown["memory_bytes"], &shown["cpu_millis"]), (&(512 << 20).into(), &1500.into()));
    assert_eq!(shown["capabilities"], serde_json::json!([]));
    let mounts: Vec<&String> = shown["mounts"].as_object().unwrap().keys().collect();
    assert!(mounts.len() == 2 && mounts.iter().any(|path| path.starts_with(data.to_str().unwrap())), "{mounts:?}");
    assert!(mounts.contains(&&copy.0["sources"]["db"]["socket_dir"].as_str().unwrap().to_owned()), "{mounts:?}");
    let pid = docker.run(&["inspect", "-f", "{{.State.Pid}}", &id]);
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line} in {status}");
    }
    let (uid, _) = account.split_once(':').unwrap();
    assert!(status.contains(&format!("Uid:\t{uid}\t{uid}\t{uid}\t{uid}")), "{account} in {status}");
    let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(copy.path("db")).unwrap());
    assert_eq!(owner.to_string(), uid, "nothing was chowned");
    let labels = docker.run(&["inspect", "-f", "{{json .Config.Labels}}", &id]);
    let labels: Value = serde_json::from_str(&labels).unwrap();
    assert_eq!(labels["pando.clone"], copy.0["id"]);
    assert_eq!((&labels["pando.clone.name"], &labels["pando.source"]), (&"dev".into(), &"db".into()));

    // Either daemon dies, and finds it again; so do both at once.
    stand.daemon.kill9();
    assert_eq!(copy.sql("SELECT n FROM mine"), "1");
    docker.kill9();
    assert_eq!(copy.sql("SELECT n FROM mine"), "1", "live-restore");
    stand.daemon.resume();
    assert_eq!(stand.show("dev").0["state"], "running");
    docker.resume();
    assert_eq!(container(&stand, "dev")["id"], id.as_str(), "the very same container");

    // A server that dies is started again.
    docker.run(&["kill", &id]);
    answers(&copy, "SELECT n FROM mine", "1");

    // Data is swapped under it, and back; with the address and the password it had.
    stand.production.psql("INSERT INTO t SELECT generate_series(1, 10)");
    let moment = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(20));
    copy.sql("DROP TABLE mine");
    assert_eq!(stand.json(&["rewind", &format!("dev@{moment}")])["state"], "running");
    assert_eq!(copy.sql("SELECT n FROM mine"), "1");
    assert_eq!(stand.json(&["refresh", "dev@now"])["state"], "running");
    assert_eq!(copy.sql("SELECT count(*), to_regclass('mine') IS NULL FROM t"), "1010|t");
    assert_eq!(stand.json(&["undo", "dev"])["state"], "running");
    assert_eq!(copy.sql("SELECT n FROM mine"), "1");
    stand.json(&["stop", "dev"]);
    assert!(sql_at(copy.url(), "SELECT 1").is_err());
    assert_eq!(all(&docker), "", "a stopped clone has no container");
    let logs = stand.json(&["logs", "dev"]);
    assert!(logs["logs"]["db/server"].as_str().unwrap().contains("database system is shut down"), "{logs}");
    stand.json(&["start", "dev"]);
    assert_eq!(copy.sql("SELECT n FROM mine"), "1");

    // A clone of it runs as it does; another may say otherwise.
    let child = stand.copy("dev", "child");
    assert_eq!(child.0["runtime"], "docker");
    let plain = stand.copy_with("dev", "plain", &["--runtime", "process"]);
    assert_eq!((&plain.0["runtime"], plain.sql("SELECT count(*) FROM t")), (&"process".into(), "1000".to_owned()));
    let list = stand.json(&["ls"]);
    let runtimes: Vec<&Value> = list["clones"].as_array().unwrap().iter().map(|clone| &clone["runtime"]).collect();
    assert_eq!(runtimes, ["docker", "docker", "process"]);

    stand.json(&["rm", "child", "plain"]);
    stand.json(&["rm", "dev"]);
    assert_eq!(all(&docker), "");
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    // While the engine was away the heartbeat said so.
    stand.end(&["the heartbeat of a clone"]);
}

/// It hangs: calls are taken, and not answered.
#[test]
fn an_engine_that_hangs_holds_up_only_what_needs_it() {
    let Some(docker) = Docker::start_with(&["--live-restore"]) else { return };
    let Some(stand) = stand(&docker) else { return };
    stand.production.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
    stand.link(&[]);
    let boxed = stand.copy_with("shop", "boxed", &["--runtime", "docker"]);
    let plain = stand.copy("shop", "plain");
    let there = |copy: &Copy| answers(copy, "SELECT count(*) FROM t", "1000");
    docker.hang();

    // Who looks is told so, within the half minute that an engine has for a look.
    let told = |args: &[&str]| {
        let begun = Instant::now();
        let output = stand.daemon.pando(args);
        assert!(begun.elapsed() < Duration::from_secs(50), "{args:?}: {:?}", begun.elapsed());
        output
    };
    let doctor = told(&["doctor"]);
    let text = String::from_utf8_lossy(&doctor.stdout).into_owned();
    assert!(text.contains("it takes calls, and has not answered") && doctor.status.code() == Some(1), "{text}");
    assert!(told(&["show", "boxed"]).status.success() && told(&["ls"]).status.success());
    there(&boxed);

    // What runs elsewhere is looked after, and lives on.
    let pid = plain.0["sources"]["db"]["path"].as_str().map(|path| format!("{path}/postmaster.pid")).unwrap();
    let pid = || std::fs::read_to_string(&pid).ok().and_then(|text| text.lines().next()?.parse::<i32>().ok());
    let server = pid().unwrap();
    kill_process(Pid::from_raw(server).unwrap(), Signal::KILL).unwrap();
    let again = || pid().is_some_and(|pid| pid != server);
    assert!(wait_until(Duration::from_secs(90), again), "{}", stand.daemon.log());
    there(&plain);
    there(&stand.copy("shop", "another"));
    for args in [&["snapshot", "shop"][..], &["refresh", "another"], &["stop", "plain"], &["start", "plain"]] {
        assert!(told(args).status.success(), "{args:?}: {}", stand.daemon.log());
    }
    let refused = told(&["stop", "boxed"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && text.contains("not answered"), "{text}");
    there(&boxed);

    docker.wake();
    let stopped = || stand.daemon.pando(&["stop", "boxed"]).status.success();
    assert!(wait_until(Duration::from_secs(60), stopped), "{}", stand.daemon.log());
    assert_eq!(all(&docker), "");
    stand.json(&["start", "boxed"]);
    there(&boxed);
    stand.json(&["rm", "boxed", "plain", "another"]);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&["the heartbeat of a clone"]);
}

/// An image like the official one, changed by a line of a Dockerfile.
fn changed(docker: &Docker, name: &str, line: &str) -> String {
    let image = docker.image(Image::Postgres);
    docker.build(&format!("FROM {image}\nRUN {line}\n"), name);
    format!("db={name}")
}

#[test]
fn t15_what_an_image_lacks_is_named_and_one_that_is_not_there_refused() {
    let Some(docker) = Docker::start() else { return };
    let Some(stand) = stand(&docker) else { return };
    stand.production.psql("CREATE EXTENSION pg_stat_statements");
    stand.link(&[]);
    let lacking = changed(&docker, "lacking:1", "rm /usr/share/postgresql/*/extension/pg_stat_statements.control");

    let clone = ["clone", "shop", "dev", "--runtime", "docker", "--image"];
    let said = stand.fails(4, &[&clone[..], &["db=no-such-image:1"]].concat());
    assert!(said.contains("no-such-image:1") && said.contains("docker pull"), "{said}");
    let said = stand.fails(2, &[&clone[..], &["web=lacking:1"]].concat());
    assert!(said.contains("no source web"), "{said}");
    assert_eq!(stand.json(&["ls"])["clones"], serde_json::json!([]));

    // Nothing sorts by the C library here, so there is nothing to refuse; that it can be asked for, all the same.
    let copy = stand.copy_with("shop", "dev", &["--runtime", "docker", "--reindex"]);
    assert_eq!(copy.sql("SELECT 6 * 7"), "42");
    let copy = stand.copy_with("shop", "poor", &["--runtime", "docker", "--image", &lacking]);
    let notes = copy.0["sources"]["db"]["notes"].to_string();
    assert!(notes.contains("pg_stat_statements"), "T-15: {notes}");

    // A container that says it is ours, and that nothing knows of, is told and left alone.
    let home = format!("pando.home={}", stand.daemon.home().canonicalize().unwrap().display());
    let image = docker.image(Image::Postgres);
    let unit = "pando.unit=unit-0000000000000000";
    let line = ["run", "-d", "--network", "none", "--label", &home, "--label", unit, "--entrypoint", "sleep"];
    let stranger = docker.run(&[&line[..], &[&image, "600"]].concat());
    assert!(stand.json(&["doctor"]).to_string().contains("unit-0000000000000000"));
    assert!(all(&docker).contains(&stranger));
    docker.run(&["rm", "-f", &stranger]);
    stand.json(&["rm", "dev", "poor"]);
    stand.json(&["unlink", "shop"]);
    assert_eq!(all(&docker), "");
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn t14_t15_an_image_that_sorts_otherwise_or_lacks_a_library_is_refused_and_reindex_mends_the_one() {
    let Some(docker) = Docker::start() else { return };
    if !pando_testkit::tools::require_locale("de_DE.utf8") {
        return;
    }
    let image = docker.image(Image::Postgres);
    let mut options = with(&["shared_preload_libraries = 'pg_stat_statements'"]);
    options.initdb = vec!["--locale=de_DE.UTF-8".to_owned(), "--encoding=UTF8".to_owned()];
    let Some(stand) = Stand::of_with(options, &[("DOCKER_HOST", &docker.host())]) else { return };
    stand.production.psql("CREATE TABLE t (name text PRIMARY KEY)");
    stand.production.psql("INSERT INTO t VALUES ('Zebra'), ('\u{e4}pfel'), ('apfel'), ('B\u{e4}r')");
    stand.link(&[]);
    // The official image has all locales; that of the tests only one, so it gets this machine's.
    docker.run(&["create", "--name", "locales", &image]);
    docker.run(&["cp", "/usr/lib/locale/locale-archive", "locales:/usr/lib/locale/locale-archive"]);
    docker.run(&["commit", "locales", "german:1"]);
    docker.run(&["rm", "locales"]);
    let ldd = "printf '#!/bin/sh\\necho \"ldd (GNU libc) 2.19\"\\n' > /usr/bin/ldd";
    docker.build(&format!("FROM german:1\nRUN {ldd}\n"), "old:1");
    docker.build("FROM german:1\nRUN rm /usr/lib/postgresql/*/lib/pg_stat_statements.so\n", "poor:1");

    let index = "SELECT pg_relation_filenode('t_pkey')";
    let sorted = "SELECT string_agg(name, ' ' ORDER BY name) FROM t";
    let clone = ["clone", "shop", "dev", "--runtime", "docker", "--image"];
    let same = stand.copy_with("shop", "same", &["--runtime", "docker", "--image", "db=german:1"]);
    assert_eq!(same.sql(index), stand.production.psql(index), "there was nothing to mend");
    for (image, words) in [("db=old:1", ["glibc 2.19", "--reindex"]), ("db=poor:1", ["pg_stat_statements", "--image"])]
    {
        let said = stand.fails(4, &[&clone[..], &[image]].concat());
        assert!(words.iter().all(|word| said.contains(word)), "{said}");
    }
    let mended = stand.copy_with("shop", "mended", &["--runtime", "docker", "--image", "db=old:1", "--reindex"]);
    assert_ne!(mended.sql(index), same.sql(index), "the index was made again");
    assert_eq!((mended.sql(sorted), same.sql(sorted)), (stand.production.psql(sorted), stand.production.psql(sorted)));
    assert_eq!(stand.production.psql(sorted).split(' ').next(), Some("apfel"), "by the rules of German");
    stand.json(&["rm", "same", "mended"]);
    stand.json(&["unlink", "shop"]);
    assert_eq!(all(&docker), "");
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn an_image_that_the_apps_file_names_is_what_its_clones_run_in() {
    let Some(docker) = Docker::start() else { return };
    let Some(stand) = stand(&docker) else { return };
    let image = docker.image(Image::Postgres);
    for tag in ["1", "2"] {
        docker.build(&format!("FROM {image}\nLABEL grove={tag}\n"), &format!("grove/postgres:{tag}"));
    }
    stand.link_both(&[]);
    let dir = tempfile::tempdir().unwrap();
    let written = |of_db: &str, of_files: &str| {
        let (url, files) = (stand.production.url("postgres"), stand.files());
        let file = dir.path().join("shop.toml");
        let db = format!("app = \"shop\"\n[[sources]]\nname = \"db\"\nurl = \"{url}\"\n{of_db}\n");
        let text = format!("{db}[[sources]]\nname = \"files\"\nurl = \"file://{}\"\n{of_files}\n", files.display());
        std::fs::write(&file, text).unwrap();
        file.to_str().unwrap().to_owned()
    };
    let said = stand.fails(2, &["apply", &written("", "image = \"grove/files\"")]);
    assert!(said.contains("files is a files source: it has no server"), "{said}");
    let said = stand.fails(2, &["apply", &written("image = \"grove/Postgres:1\"", "")]);
    assert!(said.contains("no name of an image"), "{said}");
    let said = stand.fails(2, &["apply", &written("imag = \"grove/postgres:1\"", "")]);
    assert!(said.contains("did you mean image?"), "{said}");

    // What would change is shown, nothing is touched; applied twice it changes once.
    let one = written("image = \"grove/postgres:1\"", "");
    let plan = || stand.json(&["apply", &one, "--dry-run"])["changes"].clone();
    assert_eq!(plan(), serde_json::json!([{ "what": "image of db", "to": "grove/postgres:1" }]));
    let named = || stand.json(&["show", "shop"])["sources"]["db"]["image"].clone();
    assert_eq!(named(), Value::Null);
    stand.json(&["apply", &one]);
    assert_eq!((named(), plan()), ("grove/postgres:1".into(), serde_json::json!([])));
    stand.json(&["apply", &one]);

    // Clones in containers run in it, unless they are told otherwise; those of processes do not mind.
    let runs_in = |clone: &str| container(&stand, clone)["image"].clone();
    let dev = stand.copy_with("shop", "dev", &["--runtime", "docker"]);
    stand.copy_with("shop", "other", &["--runtime", "docker", "--image", &format!("db={image}")]);
    stand.copy_with("shop", "plain", &[]);
    assert_eq!(
        (runs_in("dev"), runs_in("other"), runs_in("plain")),
        ("grove/postgres:1".into(), image.into(), Value::Null)
    );
    // Another one is what the next start takes, of clones that are there too.
    let two = written("image = \"grove/postgres:2\"", "");
    let plan = stand.json(&["apply", &two, "--dry-run"])["changes"].clone();
    assert_eq!(
        plan[0],
        serde_json::json!({ "what": "image of db", "from": "grove/postgres:1", "to": "grove/postgres:2" })
    );
    stand.json(&["apply", &two]);
    assert_eq!(runs_in("dev"), "grove/postgres:1");
    stand.json(&["stop", "dev"]);
    stand.json(&["start", "dev"]);
    assert_eq!((runs_in("dev"), dev.sql("SELECT 6 * 7")), ("grove/postgres:2".into(), "42".to_owned()));
    // It is the one of a Compose project too.
    stand.json(&["compose", "init", "shop", dir.path().to_str().unwrap()]);
    let text = std::fs::read_to_string(dir.path().join("compose.yaml")).unwrap();
    assert!(text.contains("    image: grove/postgres:2\n"), "{text}");
    // One that is not there is refused with its name, before anything is made.
    stand.json(&["apply", &written("image = \"127.0.0.1:9/postgres:3\"", "")]);
    let said = stand.fails(4, &["clone", "shop", "never", "--runtime", "docker"]);
    assert!(said.contains("127.0.0.1:9/postgres:3"), "{said}");
    stand.json(&["apply", &written("", "")]);
    assert_eq!(named(), Value::Null);

    stand.json(&["rm", "dev", "other", "plain"]);
    stand.json(&["unlink", "shop"]);
    assert_eq!(all(&docker), "");
    stand.nothing_left();
    stand.end(&[]);
}
