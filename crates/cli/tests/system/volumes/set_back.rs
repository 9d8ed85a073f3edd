//! A running Compose project whose data is set back: its services are stopped and started around a rewind and an undo, and
//! whatever fails in the middle leaves it running on what it had.

use std::fs;
use std::time::Duration;

use pando_testkit::{Docker, Image, tools, wait_until};

use super::Hook;
use super::driver::{Driver, fresh_socket};
use super::project::written;
use crate::any_second::{ROWS, table};
use crate::stand::Stand;

const DB: &str = "set1_db_1";
const WEB: &str = "set1_web_1";

/// The project's containers, and what they show.
struct Project(Docker);

impl Project {
    fn rows(&self) -> String {
        let ask = ["exec", DB, "psql", "-U", "pando", "-d", "postgres", "-AtXc", ROWS];
        String::from_utf8_lossy(&self.0.output(&ask).stdout).trim().replace('\n', " ")
    }

    fn page(&self) -> String {
        let cat = ["exec", WEB, "cat", "/srv/files/page"];
        String::from_utf8_lossy(&self.0.output(&cat).stdout).trim().to_owned()
    }

    fn shows(&self, stand: &Stand, rows: &str, page: &str) {
        let there = || self.rows() == rows && self.page() == page;
        let all = || self.0.run(&["ps", "-a"]);
        let is = wait_until(Duration::from_secs(120), there);
        assert!(is, "{} {}: {}\n{}", self.rows(), self.page(), all(), stand.daemon.log());
    }

    fn write(&self, n: u32, page: &str) {
        let insert = format!("INSERT INTO mark VALUES ({n})");
        self.0.run(&["exec", DB, "psql", "-U", "pando", "-d", "postgres", "-AtXc", &insert]);
        self.0.run(&["exec", WEB, "sh", "-c", &format!("echo {page} > /srv/files/page")]);
    }

    /// Each container's id, and when it was started.
    fn lives(&self) -> [(String, String); 2] {
        [DB, WEB].map(|name| {
            let line = self.0.run(&["inspect", "-f", "{{.Id}} {{.State.StartedAt}}", name]);
            let (id, since) = line.split_once(' ').unwrap();
            (id.to_owned(), since.to_owned())
        })
    }

    /// The same containers, each stopped and started once more.
    fn was_started_again(&self, before: &[(String, String); 2]) {
        for (was, is) in before.iter().zip(self.lives()) {
            assert!(was.0 == is.0 && was.1 < is.1, "{was:?} {is:?}");
        }
    }
}

#[test]
fn a_running_project_is_set_back_and_goes_on_as_before_when_that_fails() {
    if !tools::require("docker-compose") {
        return;
    }
    let Some(docker) = Docker::start() else { return };
    let driver = Driver(fresh_socket("setback"));
    let host = docker.host();
    let env = [("PANDO_VOLUME_PLUGIN", driver.0.to_str().unwrap()), ("DOCKER_HOST", host.as_str())];
    let Some(mut stand) = Stand::with_env(&env) else { return };
    table(&stand.production);
    stand.production.psql("INSERT INTO mark VALUES (1)");
    fs::write(stand.files().join("page"), "one").unwrap();
    stand.link_both(&[]);
    let hook = Hook::at(&stand, &["configure-clone", "post-rewind"]);
    let image = docker.image(Image::Postgres);
    let dir = tempfile::tempdir().unwrap();
    let file = written(&stand, dir.path(), &driver, &image);
    let project = Project(docker);
    stand.json(&["clone", "shop", "set1", "--compose", file.to_str().unwrap()]);
    project.shows(&stand, "1", "one");
    stand.json(&["bookmark", "set1", "here"]);
    project.write(10, "mine");

    // Back, and back again: the services are stopped and started around it.
    let lives = project.lives();
    stand.json(&["rewind", "set1@here"]);
    project.shows(&stand, "1", "one");
    project.was_started_again(&lives);
    let lives = project.lives();
    stand.json(&["undo", "set1"]);
    project.shows(&stand, "1 10", "mine");
    project.was_started_again(&lives);
    assert_eq!(stand.copy_state("set1"), "running");

    // It fails before the data is swapped, and after its services were started on the other data.
    let (rewind, refresh) = (["rewind", "set1@here"], ["refresh", "set1@now"]);
    for (verb, point, services) in
        [(rewind, "post-rewind", 2), (refresh, "configure-clone", 2), (rewind, "post-rewind", 1)]
    {
        if services == 1 {
            project.0.run(&["stop", WEB]);
        }
        hook.fails(point, 0);
        let said = stand.fails(1, &verb);
        assert!(said.contains(point) && said.contains("exit code 7"), "{said}");
        hook.heal();
        if services == 1 {
            let there = || project.rows() == "1 10";
            assert!(wait_until(Duration::from_secs(60), there), "{}", project.0.run(&["ps", "-a"]));
            assert_eq!(project.0.run(&["ps", "-q", "--filter", &format!("name={WEB}")]), "", "it was stopped by hand");
            project.0.run(&["start", WEB]);
        }
        project.shows(&stand, "1 10", "mine");
        stand.nothing_strange();
    }

    // The daemon dies while they are stopped: the next one starts them, on the data that they had.
    hook.takes("configure-clone", 600);
    stand.json(&["refresh", "set1@now", "--detach"]);
    assert!(hook.waits_once("configure-clone"), "{}", stand.daemon.log());
    assert_eq!(project.0.run(&["ps", "-q"]), "", "the data is not touched while somebody uses it");
    stand.daemon.kill9();
    stand.daemon.resume();
    project.shows(&stand, "1 10", "mine");
    assert_eq!(stand.copy_state("set1"), "running");

    // A rewind and an undo that fail, or die: while the services are stopped, and when the record names the other data.
    for (verb, point) in [
        (&rewind[..], "refresh.stop.marked=kill"),
        (&rewind, "refresh.swap.named=error"),
        (&["undo", "set1"], "refresh.swap.named=error"),
        (&["undo", "set1"], "refresh.swap.named=kill"),
    ] {
        stand.daemon.set_env(&[env[0], env[1], ("PANDO_FAILPOINTS", point)]);
        stand.daemon.restart();
        assert!(!stand.daemon.pando(verb).status.success(), "{verb:?} with {point}");
        stand.daemon.set_env(&env);
        if point.ends_with("kill") {
            assert!(stand.daemon.wait_dead(Duration::from_secs(10)));
            stand.daemon.resume();
        } else {
            stand.daemon.restart();
        }
        project.shows(&stand, "1 10", "mine");
    }
    // What a dead daemon left was brought to its end at once: its volumes were shown to the engine by then.
    assert!(!stand.events().contains("is stuck"), "{}", stand.events());
    stand.json(&["undo", "set1"]);
    project.shows(&stand, "1", "one");

    stand.json(&["rm", "set1"]);
    let left = (project.0.run(&["ps", "-aq"]), project.0.run(&["volume", "ls", "-q"]));
    assert_eq!(left, (String::new(), String::new()));
    drop(project);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
