//! The runtime on a real engine.

use pando_testkit::{Docker, Image, Podman, wait_until};

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
