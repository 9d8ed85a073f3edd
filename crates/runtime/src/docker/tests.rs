//! The runtime on a real engine.

use pando_testkit::{Docker, Image};

use super::*;
use crate::conformance;

fn runtime(docker: &Docker, home: &Path) -> DockerRuntime {
    DockerRuntime::new(home, &docker.socket()).with_fallback(&docker.image(Image::Postgres))
}

#[test]
fn the_contract_holds_on_docker() {
    let Some(docker) = Docker::start() else { return };
    let home = tempfile::tempdir().unwrap();
    conformance::all(&runtime(&docker, home.path())).unwrap();
}
