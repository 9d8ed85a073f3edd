//! What a real Docker engine does that a volume driver must bear: calls that are cut off, names and options that nobody looks
//! at, unmounts that never come, sockets of drivers that are away. Which test is about which trap stands in
//! `docs/design/2026-11-27-volume-traps.md`.

use std::time::{Duration, Instant};

use pando_testkit::{Docker, Image, tools, wait_until};

use super::docker::{fails, mounted, word};
use super::{Hook, stand};
use crate::stand::{Stand, entries};

/// A volume of files by name, as options of `docker volume create`.
fn of_files<'a>(driver: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["volume", "create", "-d", driver, "-o", "from=shop", "-o", "source=files"], more].concat()
}

/// The page in a volume, as a container reads it.
fn page(docker: &Docker, image: &str, volume: &str) -> String {
    docker.run(&["run", "--rm", "-v", &format!("{volume}:/mnt"), image, "cat", "/mnt/page"])
}

/// A page of production's that every clone of `@now` shows.
fn publish(stand: &Stand, text: &str) {
    std::fs::write(stand.files().join("page"), text).unwrap();
}

#[test]
fn a_call_that_is_cut_off_by_a_crash_ends_in_words_and_leaves_nothing() {
    let Some((mut stand, driver)) = stand("cutoff") else { return };
    let Some(docker) = Docker::start() else { return };
    let (name, image) = (word(&driver), docker.image(Image::Postgres));
    stand
        .daemon
        .set_env(&[("PANDO_VOLUME_PLUGIN", driver.0.to_str().unwrap()), ("PANDO_LOG", "info,pando_daemon=debug")]);
    stand.daemon.restart();
    let hook = Hook::at(&stand, &["configure-clone"]);

    // In the middle of a Create: the engine asks again, with an empty body, and the half of a clone is gone.
    let create = of_files(&name, &["half"]);
    hook.takes("configure-clone", 600);
    let said = std::thread::scope(|scope| {
        let call = scope.spawn(|| fails(&docker, &create));
        assert!(hook.waits_once("configure-clone"), "{}", stand.daemon.log());
        stand.daemon.kill9();
        stand.daemon.resume();
        call.join().unwrap()
    });
    assert!(said.contains("without its body"), "{said}");
    assert_eq!((driver.names(), docker.run(&["volume", "ls", "-q"])), (Vec::new(), String::new()));
    stand.fails(3, &["show", "half"]);
    let volumes = || entries(&stand.daemon.home().join("pool/volumes"));
    assert!(wait_until(Duration::from_secs(30), || volumes().len() == 1), "not the mirror's alone: {:?}", volumes());
    assert_eq!(entries(&stand.daemon.home().join("clones")), Vec::<String>::new());
    stand.nothing_strange();
    docker.run(&create);
    assert_eq!(page(&docker, &image, "half"), "one");

    // In the middle of a Mount, which waits for a refresh: that is undone, and so the data is as before.
    publish(&stand, "two");
    docker.run(&["create", "--name", "reader", "-v", "half:/mnt", &image, "cat", "/mnt/page"]);
    hook.takes("configure-clone", 600);
    stand.json(&["refresh", "half@now", "--detach"]);
    assert!(hook.waits_once("configure-clone"), "{}", stand.daemon.log());
    let before = stand.daemon.log().len();
    let said = std::thread::scope(|scope| {
        let call = scope.spawn(|| fails(&docker, &["start", "reader"]));
        let waits = || stand.daemon.log()[before..].contains("what=\"mount\" volume=\"half\"");
        assert!(wait_until(Duration::from_secs(60), waits), "{}", stand.daemon.log());
        stand.daemon.kill9();
        stand.daemon.resume();
        call.join().unwrap()
    });
    assert!(said.contains("without its body"), "{said}");
    assert_eq!((stand.copy_state("half").as_str(), driver.status("half")["mismatch"].is_null()), ("stopped", true));
    assert_eq!(docker.run(&["start", "--attach", "reader"]), "one");
    docker.run(&["rm", "reader"]);
    let refreshed = || stand.daemon.pando(&["refresh", "half@now"]).status.success();
    assert!(wait_until(Duration::from_secs(30), refreshed), "{}", stand.daemon.log());
    assert_eq!(page(&docker, &image, "half"), "two");

    docker.run(&["volume", "rm", "half"]);
    drop(docker);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn names_options_and_prune_are_the_engines_and_what_is_there_is_shown() {
    let Some((stand, driver)) = stand("names") else { return };
    let Some(docker) = Docker::start() else { return };
    let (name, image) = (word(&driver), docker.image(Image::Postgres));

    // A moment in the name: by every way that the engine has for a name. Options say it, and that is what one is told.
    for bad in ["shop@latest", "v:1", "../evil"] {
        let said = fails(&docker, &of_files(&name, &[bad]));
        assert!(said.contains("cannot be a name") && said.contains("-o at=-2h"), "{said}");
        let mount = format!(
            "type=volume,source={bad},target=/mnt,volume-driver={name},volume-opt=from=shop,volume-opt=source=files"
        );
        let said = fails(&docker, &["run", "--rm", "--mount", &mount, &image, "true"]);
        assert!(said.contains("cannot be a name"), "{said}");
    }
    fails(&docker, &["run", "--rm", "--volume-driver", &name, "-v", "shop@latest:/mnt", &image, "true"]);
    assert_eq!((driver.names(), docker.run(&["volume", "ls", "-q"])), (Vec::new(), String::new()));
    assert_eq!(stand.json(&["ls"])["clones"], serde_json::json!([]));

    // Made again with other options: the engine asks nobody, and says yes. What is there is what was made first.
    docker.run(&of_files(&name, &["v1"]));
    publish(&stand, "two");
    docker.run(&of_files(&name, &["-o", "at=now", "-o", "profile=disposable", "v1"]));
    let status = || -> serde_json::Value {
        serde_json::from_str(&docker.run(&["volume", "inspect", "-f", "{{json .Status}}", "v1"])).unwrap()
    };
    let shown = status();
    assert_eq!(shown["options"], serde_json::json!({ "from": "shop", "source": "files" }), "{shown}");
    assert_eq!((&shown["profile"], &shown["mismatch"]), (&"durable".into(), &serde_json::Value::Null), "{shown}");
    assert_eq!(page(&docker, &image, "v1"), "one");
    // What it was made as and is not any more is called that.
    let refreshed = || stand.daemon.pando(&["refresh", "v1@now"]).status.success();
    assert!(wait_until(Duration::from_secs(30), refreshed), "{}", stand.daemon.log());
    assert!(status()["mismatch"][0].as_str().unwrap().starts_with("made at latest, now at now"), "{}", status());
    assert_eq!(page(&docker, &image, "v1"), "two");

    // It is populated when the engine gets it: nothing of the image is copied in.
    let inside = ["run", "--rm", "-v", "v1:/usr/local/bin", "--entrypoint", "/bin/ls", &image, "/usr/local/bin"];
    assert_eq!(docker.run(&inside), "page");

    // Nobody uses it; still it is not for the engine to clear away.
    docker.run(&["volume", "prune", "--force"]);
    assert_eq!((docker.run(&["volume", "ls", "-q"]).as_str(), driver.names()), ("v1", vec!["v1".to_owned()]));
    assert_eq!(page(&docker, &image, "v1"), "two");

    docker.run(&["volume", "rm", "v1"]);
    assert_eq!(driver.names(), Vec::<String>::new());
    drop(docker);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn an_unmount_that_never_comes_keeps_nothing_in_use() {
    let Some((stand, driver)) = stand("unmount") else { return };
    let Some(mut docker) = Docker::start_with(&["--live-restore"]) else { return };
    let (name, image) = (word(&driver), docker.image(Image::Postgres));
    docker.run(&of_files(&name, &["v1"]));
    let sleeper =
        ["run", "-d", "--name", "sleeper", "-v", "v1:/mnt", &image, "sh", "-c", "echo $$ > /mnt/pid; sleep 1000"];
    docker.run(&sleeper);
    let pid = docker.run(&["inspect", "-f", "{{.State.Pid}}", "sleeper"]);
    let place = mounted(&docker, "sleeper", "/mnt").expect("a mount");
    docker.kill9();
    // The container goes on without its engine, and the kernel knows.
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    assert!(table.contains(place.to_str().unwrap()), "{table}");
    assert_eq!(stand.copy_state("v1"), "running");
    assert!(stand.fails(4, &["refresh", "v1"]).contains("in use by container"));
    // It dies; nobody will ever unmount it.
    tools::run("kill", &["-9", &pid]);
    publish(&stand, "two");
    let refreshed = || stand.daemon.pando(&["refresh", "v1@now"]).status.success();
    assert!(wait_until(Duration::from_secs(60), refreshed), "{}", stand.daemon.log());
    docker.resume();
    assert_eq!(page(&docker, &image, "v1"), "two");
    docker.run(&["start", "sleeper"]);
    assert_ne!(mounted(&docker, "sleeper", "/mnt"), Some(place));
    assert!(stand.fails(4, &["rm", "v1"]).contains("in use by container"));
    docker.run(&["rm", "-f", "sleeper"]);
    docker.run(&["volume", "rm", "v1"]);
    drop(docker);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn an_engine_without_the_driver_goes_on_and_gets_it_back() {
    let Some((mut stand, driver)) = stand("away") else { return };
    let Some(mut docker) = Docker::start() else { return };
    let (name, image) = (word(&driver), docker.image(Image::Postgres));
    docker.run(&of_files(&name, &["v1"]));
    docker.run(&[
        "run",
        "-d",
        "--init",
        "--restart",
        "always",
        "--name",
        "keeper",
        "-v",
        "v1:/mnt",
        &image,
        "sleep",
        "1000",
    ]);
    let runs = |docker: &Docker| docker.run(&["inspect", "-f", "{{.State.Running}}", "keeper"]) == "true";

    // The driver first, then the engine: what restarts always is there again, by itself.
    docker.stop();
    stand.daemon.restart();
    docker.resume();
    assert!(wait_until(Duration::from_secs(60), || runs(&docker)), "{}", docker.log());

    // The other way round it is given up. Its data is not: it has to be started by hand.
    docker.stop();
    stand.daemon.stop();
    assert!(!driver.0.exists(), "the socket goes with the daemon");
    docker.resume();
    let given_up = || docker.log().contains("failed to start container");
    assert!(wait_until(Duration::from_secs(60), given_up), "{}", docker.log());
    assert!(!runs(&docker));
    stand.daemon.resume();
    assert!(wait_until(Duration::from_secs(10), || driver.answers()));
    docker.run(&["start", "keeper"]);
    assert_eq!(docker.run(&["exec", "keeper", "cat", "/mnt/page"]), "one");
    docker.run(&["rm", "-f", "keeper"]);

    // An engine that never met the driver waits for a socket without anybody behind it, and for nothing where there is none.
    let listed = || {
        let fresh = Docker::start().expect("a second engine");
        let begun = Instant::now();
        fresh.output(&["volume", "ls"]);
        begun.elapsed()
    };
    stand.daemon.kill9();
    assert!(driver.0.exists() && !driver.answers());
    let dead = listed();
    stand.daemon.resume();
    stand.daemon.stop();
    assert!(!driver.0.exists());
    let gone = listed();
    assert!(gone * 2 < dead, "{gone:?} without a socket, {dead:?} with a dead one");
    stand.daemon.resume();
    docker.run(&["volume", "rm", "v1"]);
    drop(docker);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
