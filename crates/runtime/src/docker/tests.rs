//! The runtime on a real engine.

use pando_testkit::{Docker, Image, Podman, tools, wait_until};

use super::*;
use crate::conformance;

#[test]
fn the_contract_holds_on_docker() {
    let Some(docker) = Docker::start() else { return };
    let home = tempfile::tempdir().unwrap();
    let runtime = DockerRuntime::new(home.path(), &docker.socket()).with_fallback(&docker.image(Image::Postgres));
    conformance::all(&runtime).unwrap();
    what_has_ended_is_left(&runtime);
}

/// The container of a unit that ended by itself is there until somebody takes it away.
fn what_has_ended_is_left(runtime: &DockerRuntime) {
    let unit = conformance::spec("/bin/true", &[]);
    runtime.ensure_running(&unit).unwrap();
    let ended = || !matches!(runtime.state(&unit.id).unwrap(), UnitState::Running { .. });
    assert!(wait_until(std::time::Duration::from_secs(60), ended));
    assert_eq!(runtime.remains().unwrap(), std::slice::from_ref(&unit.id));
    runtime.ensure_gone(&unit.id).unwrap();
    assert_eq!(runtime.remains().unwrap(), []);
}

/// A look into an image that its engine's death has cut off: the container that was made for it goes later.
#[test]
fn what_a_cut_off_look_into_an_image_leaves_is_taken_away() {
    let Some(docker) = Docker::start() else { return };
    let home = tempfile::tempdir().unwrap();
    let image = docker.image(Image::Postgres);
    let label = format!("{}={}", form::HOME, home.path().display());
    let left = || docker.run(&["ps", "--all", "--quiet", "--filter", &format!("label={label}")]);
    docker.run(&["create", "--label", &label, "--label", &format!("{}=yes", form::PROBE), &image]);
    docker.run(&["create", "--label", &label, &image]);
    assert_eq!(left().lines().count(), 2);
    let runtime = DockerRuntime::new(home.path(), &docker.socket());
    runtime.tidy().unwrap();
    assert_eq!(left().lines().count(), 1, "only what is a look's goes");
}

#[test]
fn the_contract_holds_on_an_ordinary_users_podman() {
    let Some(podman) = Podman::start_as(tools::somebody(), &[]) else { return };
    let home = tempfile::tempdir().unwrap();
    let runtime = DockerRuntime::new(home.path(), &podman.socket()).with_fallback(&podman.image(Image::Postgres));
    conformance::all(&runtime).unwrap();
    what_has_ended_is_left(&runtime);

    // Paused means that nothing of it moves, whatever control groups there are.
    let unit = conformance::spec("/bin/sh", &["-c", "sleep 600 & sleep 600 & wait"]);
    runtime.ensure_running(&unit).unwrap();
    let UnitState::Running { pid } = runtime.state(&unit.id).unwrap() else { panic!("it runs") };
    let shell = || children(pid).first().map(|shell| children(*shell)).unwrap_or_default();
    assert!(wait_until(std::time::Duration::from_secs(10), || shell().len() == 2));
    let all: Vec<u32> = [vec![pid], children(pid), shell()].concat();
    let states = || all.iter().map(|pid| state(*pid)).collect::<String>();
    runtime.pause(&unit.id).unwrap();
    assert_eq!(states(), "TTTT");
    runtime.resume(&unit.id).unwrap();
    assert!(!states().contains('T'), "{}", states());
    runtime.pause(&unit.id).unwrap();
    runtime.ensure_gone(&unit.id).unwrap();
    assert_eq!(podman.run(&["ps", "--all", "--quiet"]), "");
    assert!(runtime.engine().unwrap().reservations().contains("it is rootless"));
}

fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn state(pid: u32) -> String {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')').next().unwrap().trim_start()[..1].to_owned()
}

#[test]
fn the_contract_holds_on_podman() {
    let Some(mut podman) = Podman::start() else { return };
    let home = tempfile::tempdir().unwrap();
    let image = podman.image(Image::Postgres);
    let runtime = DockerRuntime::new(home.path(), &podman.socket()).with_fallback(&image);
    conformance::all(&runtime).unwrap();
    what_has_ended_is_left(&runtime);

    // What it says of an image and of a container is read as Docker's is.
    assert!(runtime.has_image(&image).unwrap() && !runtime.has_image("no-such-image:1").unwrap());
    let facts = runtime.image_facts(&image, "postgres", true).unwrap();
    assert!(facts.version.is_some_and(|said| said.contains("(PostgreSQL)")));
    assert!(facts.libc.is_some() && facts.files.iter().any(|file| file.ends_with("/plpgsql.control")));
    assert_eq!(runtime.image_facts(&image, "no-such-server", false).unwrap().version, None);
    let unit = conformance::spec("/bin/sleep", &["600"]);
    runtime.ensure_running(&unit).unwrap();
    let confines = runtime.confines(&unit.id).unwrap().unwrap();
    assert!(!confines.privileged && !confines.gains_rights && !confines.writes_root, "{confines:?}");
    assert_eq!((confines.capabilities, confines.network.as_str()), (Vec::new(), "host"));

    // Its containers do not notice that the service is away.
    let running = runtime.state(&unit.id).unwrap();
    podman.kill9();
    assert!(runtime.state(&unit.id).is_err());
    podman.resume();
    assert_eq!(runtime.state(&unit.id).unwrap(), running);
    assert_eq!(runtime.inventory().unwrap(), std::slice::from_ref(&unit.id));
    runtime.ensure_gone(&unit.id).unwrap();
    assert_eq!(podman.run(&["ps", "--all", "--quiet"]), "");
}
