//! The volume plugin as a real Podman uses it: it waits five seconds for any answer, sends one constant id for all mounts, and
//! has nobody who runs all the time. Its containers have `none` as network.

use std::path::PathBuf;
use std::time::Duration;

use pando_testkit::{Image, Podman, wait_until};
use serde_json::{Value, json};

use super::docker::word;
use super::empty::mounts;
use super::{Hook, stand};
use crate::any_second::ROWS;

/// Runs a command of Podman's that must fail; what it says.
fn fails(podman: &Podman, args: &[&str]) -> String {
    let output = podman.output(args);
    assert!(!output.status.success(), "podman {args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A volume as `podman volume inspect` shows it.
fn inspect(podman: &Podman, volume: &str) -> Value {
    let shown: Value = serde_json::from_str(&podman.run(&["volume", "inspect", volume])).unwrap();
    shown[0].clone()
}

/// Where a running container's volume comes from, as the kernel sees it.
fn mounted(podman: &Podman, container: &str, at: &str) -> Option<PathBuf> {
    let pid = podman.run(&["inspect", "-f", "{{.State.Pid}}", container]);
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(at))?;
    Some(PathBuf::from(line.split(' ').nth(3)?))
}

const DATA: &str = "/var/lib/postgresql/data";

fn ask(podman: &Podman, container: &str, sql: &str) -> Result<String, String> {
    let line = ["exec", "--env", "PGPASSWORD=opensesame", container];
    let psql = ["psql", "-h", "127.0.0.1", "-U", "pando", "-d", "postgres", "-AtXc", sql];
    let output = podman.output(&[&line[..], &psql].concat());
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

fn shows(podman: &Podman, container: &str, rows: &str) {
    let there = || ask(podman, container, ROWS).is_ok_and(|shown| shown == rows);
    assert!(
        wait_until(Duration::from_secs(60), there),
        "{:?}\n{}",
        ask(podman, container, ROWS),
        logs(podman, container)
    );
}

fn logs(podman: &Podman, container: &str) -> String {
    String::from_utf8_lossy(&podman.output(&["logs", container]).stderr).into_owned()
}

#[test]
fn podman_serves_a_clone_copies_out_of_it_and_takes_nothing_from_under_it() {
    let Some((mut stand, driver)) = stand("podman") else { return };
    let name = word(&driver);
    let Some(podman) = Podman::start_with(&[(&name, &driver.0)]) else { return };
    let image = podman.image(Image::Postgres);

    // Options can be given to `volume create` alone: Podman's --mount knows neither driver nor options.
    let mount = format!("type=volume,source=dev1_db,target={DATA},volume-driver={name},volume-opt=from=shop");
    let said = fails(&podman, &["run", "--rm", "--network", "none", "--mount", &mount, &image, "true"]);
    assert!(said.contains("volume-driver") || said.contains("volume-opt"), "{said}");
    for evil in ["../evil", "shop@latest", "v:1"] {
        fails(&podman, &["volume", "create", "--driver", &name, "-o", "from=shop", "-o", "source=files", evil]);
    }
    let said = fails(&podman, &["volume", "create", "--driver", &name, "-o", "form=shop", "typo"]);
    assert!(said.contains("did you mean from?"), "{said}");
    assert_eq!((driver.names(), podman.run(&["volume", "ls", "-q"])), (Vec::new(), String::new()));

    let create = ["volume", "create", "--driver", &name, "-o", "from=shop", "-o"];
    podman.run(&[&create[..], &["source=db", "-o", "password=opensesame", "dev1_db"]].concat());
    podman.run(&[&create[..], &["source=files", "dev1_files"]].concat());
    let shown = inspect(&podman, "dev1_db");
    assert_eq!((&shown["Driver"], &shown["Status"]["app"]), (&json!(name), &json!("shop")), "{shown}");
    assert_eq!(inspect(&podman, "dev1_files")["Status"]["clone"], "dev1", "both are one clone");
    assert_eq!(podman.run(&["volume", "ls", "-q"]), "dev1_db\ndev1_files");

    let (db, files) = (format!("dev1_db:{DATA}"), "dev1_files:/srv/files");
    podman.run(&["run", "-d", "--name", "db", "--network", "none", "-v", &db, "-v", files, &image]);
    shows(&podman, "db", "1");
    ask(&podman, "db", "INSERT INTO mark VALUES (10)").unwrap();
    let place = mounted(&podman, "db", DATA).expect("a mount");
    let row = stand.json(&["ls"])["clones"][0].clone();
    assert_eq!((&row["name"], &row["state"]), (&json!("dev1"), &json!("running")), "{row}");

    // Out of it, while it runs and a second container has the volume under the same id of Podman's.
    let page = podman.run(&["run", "--rm", "--network", "none", "-v", files, &image, "cat", "/srv/files/page"]);
    assert_eq!(page, "one");
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().join("page");
    podman.run(&["cp", "db:/srv/files/page", out.to_str().unwrap()]);
    assert_eq!(std::fs::read_to_string(&out).unwrap(), "one");
    assert_eq!(mounted(&podman, "db", DATA).as_ref(), Some(&place));
    let id = podman.run(&["inspect", "-f", "{{.Id}}", "db"]);
    for verb in [&["refresh", "dev1"][..], &["rm", "dev1"], &["rm", "dev1_db"]] {
        let said = stand.fails(4, verb);
        assert!(said.contains("in use by container") && said.contains(&id[..12]), "{said}");
    }
    assert!(fails(&podman, &["volume", "rm", "dev1_db"]).contains("being used"));

    // Restarted, without a daemon, with another one: the same mount, the same rows.
    podman.run(&["restart", "db"]);
    shows(&podman, "db", "1\n10");
    assert_eq!(mounted(&podman, "db", DATA).as_ref(), Some(&place));
    stand.daemon.stop();
    assert_eq!(ask(&podman, "db", ROWS).as_deref(), Ok("1\n10"));
    stand.daemon.resume();
    assert!(wait_until(Duration::from_secs(10), || driver.answers()));
    shows(&podman, "db", "1\n10");

    // Stopped, it is refreshed; started again it shows the new data.
    stand.production.psql("INSERT INTO mark VALUES (2)");
    podman.run(&["stop", "db"]);
    assert_eq!(stand.copy_state("dev1"), "stopped");
    let refreshed = || stand.daemon.pando(&["refresh", "dev1@now"]).status.success();
    assert!(wait_until(Duration::from_secs(30), refreshed), "{}", stand.daemon.log());
    podman.run(&["start", "db"]);
    shows(&podman, "db", "1\n2");
    assert_ne!(mounted(&podman, "db", DATA), Some(place.clone()));

    podman.run(&["rm", "-f", "db"]);
    podman.run(&["volume", "rm", "dev1_db", "dev1_files"]);
    assert_eq!((driver.names(), podman.run(&["volume", "ls", "-q"])), (Vec::new(), String::new()));
    let volume = place.iter().find_map(|part| part.to_str().filter(|part| part.starts_with("vol-"))).unwrap();
    assert!(mounts(volume).is_empty(), "{:?}", mounts(volume));
    drop(podman);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

/// Podman unmounts what it stops. Where nobody serves the driver it cannot, counts on with the mount that it had, and asks nobody
/// at later starts.
#[test]
fn a_container_that_podman_stopped_while_the_daemon_was_away_keeps_its_data_until_its_volume_is_unmounted() {
    let Some((mut stand, driver)) = stand("away") else { return };
    let name = word(&driver);
    let Some(podman) = Podman::start_with(&[(&name, &driver.0)]) else { return };
    let image = podman.image(Image::Postgres);
    let create = ["volume", "create", "--driver", &name, "-o", "from=shop", "-o", "source=db", "-o"];
    podman.run(&[&create[..], &["password=opensesame", "dev1_db"]].concat());
    podman.run(&["run", "-d", "--name", "db", "--network", "none", "-v", &format!("dev1_db:{DATA}"), &image]);
    shows(&podman, "db", "1");
    ask(&podman, "db", "INSERT INTO mark VALUES (10)").unwrap();
    let place = mounted(&podman, "db", DATA).expect("a mount");

    stand.daemon.stop();
    let stopped = podman.output(&["stop", "db"]);
    let state = || podman.run(&["inspect", "-f", "{{.State.Running}}", "db"]);
    assert_eq!(state(), "false", "{stopped:?}");
    stand.daemon.resume();
    assert!(wait_until(Duration::from_secs(10), || driver.answers()));

    // Nobody uses the data: it is refreshed.
    assert_eq!(stand.copy_state("dev1"), "stopped");
    stand.production.psql("INSERT INTO mark VALUES (2)");
    stand.json(&["refresh", "dev1@now"]);
    // The container has what it had, as docs/volumes.md says; nobody has the new data.
    podman.run(&["start", "db"]);
    shows(&podman, "db", "1\n10");
    assert_eq!(stand.copy_state("dev1"), "stopped");
    assert_eq!(mounted(&podman, "db", DATA).as_ref(), Some(&place));
    // What it has is not taken from under it.
    for verb in [&["refresh", "dev1@now"][..], &["rm", "dev1"]] {
        let refused = stand.fails(4, verb);
        assert!(refused.contains("still has the former data of dev1"), "{refused}");
        assert!(refused.contains("podman volume unmount"), "{refused}");
    }
    shows(&podman, "db", "1\n10");
    // Unmounted by hand while it is stopped, now that somebody answers, it has the new data.
    podman.run(&["stop", "db"]);
    podman.run(&["volume", "unmount", "dev1_db"]);
    podman.run(&["start", "db"]);
    shows(&podman, "db", "1\n2");
    assert_ne!(mounted(&podman, "db", DATA), Some(place));

    podman.run(&["rm", "-f", "db"]);
    podman.run(&["volume", "rm", "dev1_db"]);
    assert_eq!(driver.names(), Vec::<String>::new());
    drop(podman);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

/// A clone that takes longer than Podman waits: made behind, and the container starts as soon as it is there.
#[test]
fn what_takes_longer_than_podmans_five_seconds_is_made_behind() {
    let Some((stand, driver)) = stand("slow") else { return };
    let name = word(&driver);
    let Some(podman) = Podman::start_with(&[(&name, &driver.0)]) else { return };
    let image = podman.image(Image::Postgres);
    let hook = Hook::at(&stand, &["configure-clone"]);
    hook.takes("configure-clone", 15);
    let create = ["volume", "create", "--driver", &name, "-o", "from=shop", "-o", "source=db"];
    podman.run(&[&create[..], &["-o", "password=opensesame", "slow_db"]].concat());
    let volume = format!("slow_db:{DATA}");
    podman.run(&["create", "--name", "db", "--network", "none", "-v", &volume, &image]);
    assert_eq!(podman.run(&["volume", "ls", "-q"]), "slow_db");
    let started = || {
        let output = podman.output(&["start", "db"]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success() || said.contains("not ready yet"), "{said}");
        output.status.success()
    };
    assert!(wait_until(Duration::from_secs(120), started), "{}", stand.daemon.log());
    shows(&podman, "db", "1");

    // One that could not be made says why to whoever comes for it, and leaves nothing.
    hook.fails("configure-clone", 8);
    podman.run(&[&create[..], &["never_db"]].concat());
    let volume = format!("never_db:{DATA}");
    podman.run(&["create", "--name", "never", "--network", "none", "-v", &volume, &image]);
    let why = || fails(&podman, &["start", "never"]).contains("exit code 7");
    assert!(wait_until(Duration::from_secs(120), why), "{}", stand.daemon.log());
    assert_eq!(driver.names(), ["slow_db"]);
    podman.run(&["rm", "-f", "db", "never"]);
    podman.run(&["volume", "rm", "slow_db"]);
    assert_eq!(driver.names(), Vec::<String>::new());
    drop(podman);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
