//! An app of all three databases served in containers: by Docker through every verb and the deaths of both daemons,
//! and by Podman. That what a container may do is the same for each.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::Path;
use std::time::Duration;

use pando_testkit::{
    Daemon, Docker, FsKind, Image, LoopFs, MariadbProduction, Podman, Production, RedisClient, RedisProduction,
    mariadb_at, tools, wait_until,
};
use serde_json::Value;

use crate::stand::{PANDO, bounded, production, said, sql_at};
use crate::unprivileged::pando_as;

const SOURCES: [&str; 3] = ["db", "my", "q"];

/// Three productions, and a Pando that knows an engine.
struct Stand {
    daemon: Daemon,
    postgres: Production,
    mariadb: MariadbProduction,
    redis: RedisProduction,
}

impl Stand {
    fn new(host: &str) -> Option<Self> {
        Self::of(|| Daemon::start_with(Path::new(PANDO), &[("DOCKER_HOST", host)]))
    }

    fn of(daemon: impl FnOnce() -> Daemon) -> Option<Self> {
        let programs = ["mariadbd", "mariadb-install-db", "mariadb", "redis-server"];
        if !programs.iter().all(|program| tools::require(program)) {
            return None;
        }
        let made = Self {
            postgres: production(bounded())?,
            mariadb: MariadbProduction::start(&[]),
            redis: RedisProduction::start(&[]),
            daemon: daemon(),
        };
        made.postgres.psql("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n");
        made.mariadb.sql("CREATE TABLE blog.t AS SELECT seq AS n FROM seq_1_to_1000");
        made.redis.client().run(&["MSET", "n", "1000"]);
        let url = |name: &str, url: &str| format!("{name}={url}");
        let urls =
            [url("db", &made.postgres.url("postgres")), url("my", &made.mariadb.url()), url("q", &made.redis.url(0))];
        made.json(&["link", "shop", &urls[0], &urls[1], &urls[2]]);
        Some(made)
    }

    fn json(&self, args: &[&str]) -> Value {
        self.daemon.pando_json(args)
    }

    fn show(&self, clone: &str) -> Value {
        self.json(&["show", clone])
    }

    /// What each container of a clone may do: nothing but what it needs.
    fn confined(&self, clone: &str) -> Vec<Value> {
        let shown = self.show(clone);
        // Where an engine has no control groups nothing is limited, and it is said so.
        let doctor = self.json(&["doctor"]).to_string();
        let lacks = doctor.split("cannot limit ").nth(1).unwrap_or_default();
        let limited = ["memory", "processors"].map(|what| !lacks.split('"').next().unwrap_or_default().contains(what));
        let look = |source: &&str| {
            let source = &shown["sources"][source];
            let container = source["container"].clone();
            for (key, value) in [("privileged", false), ("gains_rights", false), ("writes_root", false)] {
                assert_eq!(container[key], value, "{key} in {container}");
            }
            assert_eq!(container["capabilities"], serde_json::json!([]), "{container}");
            let limits = ["memory_bytes", "cpu_millis"].map(|key| container[key].as_u64() > Some(0));
            assert_eq!(limits, limited, "{container}");
            let owner =
                std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(source["path"].as_str().unwrap()).unwrap());
            let user = container["user"].as_str().unwrap();
            assert!(user.starts_with(&format!("{owner}:")) && owner != 0, "{user} and {owner}");
            container
        };
        SOURCES.iter().map(look).collect()
    }

    fn end(self, announced: &[&str]) {
        self.json(&["unlink", "shop"]);
        let doctor = self.json(&["doctor"]);
        let wrong = |item: &&Value| item["what"] == "strangers" || item["level"] == "problem";
        let found: Vec<&Value> = doctor["items"].as_array().unwrap().iter().filter(wrong).collect();
        assert!(found.is_empty(), "{found:#?}");
        let alarms = self.daemon.alarms(announced);
        assert!(alarms.is_empty(), "unannounced: {alarms:#?}\n{}", self.daemon.log());
    }
}

/// A clone, as it was shown.
struct Copy(Value);

impl Copy {
    fn url(&self, source: &str) -> &str {
        self.0["sources"][source]["url"].as_str().unwrap()
    }

    /// What each of its servers answers; an error where one does not.
    fn asked(&self, sql: &str, words: &[&str]) -> Result<[String; 3], String> {
        let mut redis = RedisClient::try_connect(self.url("q"))?;
        Ok([
            sql_at(self.url("db"), sql).map_err(|error| error.to_string())?,
            mariadb_at(self.url("my"), sql)?.trim().to_owned(),
            redis.ask(words)?,
        ])
    }

    fn holds(&self, expected: &str) {
        let asked = || self.asked("SELECT count(*) FROM t", &["GET", "n"]);
        let all = [expected; 3].map(str::to_owned);
        assert!(wait_until(Duration::from_secs(40), || asked().is_ok_and(|told| told == all)), "{:?}", asked());
    }

    /// Other data in each.
    fn shrink(&self) {
        self.asked("DELETE FROM t WHERE n > 5", &["SET", "n", "5"]).unwrap();
    }
}

#[test]
fn three_databases_live_in_containers_through_all_verbs_and_both_daemons_deaths() {
    let Some(mut docker) = Docker::start_with(&["--live-restore"]) else { return };
    for image in [Image::Postgres, Image::Mariadb, Image::Redis] {
        docker.image(image);
    }
    let Some(mut stand) = Stand::new(&docker.host()) else { return };
    let line = ["clone", "shop@now", "dev", "--runtime", "docker", "--record", "--memory", "512M", "--cpus", "1.5"];
    let copy = Copy(stand.json(&line));
    copy.holds("1000");
    let containers = stand.confined("dev");
    let ids: Vec<&str> = containers.iter().map(|container| container["id"].as_str().unwrap()).collect();
    let images: Vec<&str> = containers.iter().map(|container| container["image"].as_str().unwrap()).collect();
    let names: Vec<&str> = images.iter().map(|image| image.split(':').next().unwrap()).collect();
    assert_eq!(names, ["postgres", "mariadb", "redis"], "{images:?}");
    assert!(images[2].matches('.').count() == 2, "the exact version: {images:?}");
    assert_eq!(containers[1]["memory_bytes"], 512 << 20);
    for id in &ids {
        let status = format!("/proc/{}/status", docker.run(&["inspect", "-f", "{{.State.Pid}}", id]));
        let status = std::fs::read_to_string(status).unwrap();
        for line in ["CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"] {
            assert!(status.contains(line), "{line} in {status}");
        }
    }

    // Either daemon dies and finds them again: the very same containers.
    stand.daemon.kill9();
    docker.kill9();
    copy.holds("1000");
    docker.resume();
    stand.daemon.resume();
    copy.holds("1000");
    let again = stand.confined("dev");
    assert!(again.iter().zip(&ids).all(|(container, id)| container["id"] == *id), "{again:?}");

    // Whoever kills one sees it come again, in a container of its own.
    for id in &ids {
        docker.run(&["kill", id]);
    }
    copy.holds("1000");
    let again = stand.confined("dev");
    assert!(again.iter().zip(&ids).all(|(container, id)| container["id"] != *id), "{again:?}");

    // Rewound to before, put back, refreshed, stopped and started: with the addresses it had.
    std::thread::sleep(Duration::from_millis(1500));
    let moment = jiff::Timestamp::now();
    std::thread::sleep(Duration::from_millis(1500));
    copy.shrink();
    assert_eq!(stand.json(&["rewind", &format!("dev@{moment}")])["state"], "running");
    copy.holds("1000");
    stand.json(&["undo", "dev"]);
    copy.holds("5");
    stand.json(&["stop", "dev"]);
    assert_eq!(docker.run(&["ps", "--all", "--quiet"]), "", "a stopped clone has no container");
    let logs = stand.json(&["logs", "dev"]);
    for (unit, word) in [("db/server", "is shut down"), ("my/server", "Shutdown complete"), ("q/server", "bye bye")] {
        assert!(logs["logs"][unit].as_str().unwrap().contains(word), "{unit}: {logs}");
    }
    stand.json(&["start", "dev"]);
    copy.holds("5");
    stand.json(&["refresh", "dev@now"]);
    copy.holds("1000");
    stand.confined("dev");
    let child = Copy(stand.json(&["clone", "dev", "child"]));
    child.holds("1000");
    stand.confined("child");

    // An image of something else, and one whose server cannot read the data, are named before anything starts.
    docker.build(
        "FROM mariadb:10.11\nRUN printf '#!/bin/sh\\necho mariadbd Ver 10.6.1-MariaDB\\n' > /usr/sbin/mariadbd\n",
        "old:1",
    );
    let redis = format!("db={}", images[2]);
    for (image, word) in [(redis.as_str(), "it has no PostgreSQL server"), ("my=old:1", "it has MariaDB 10.6.1")] {
        let line = ["clone", "shop", "no", "--runtime", "docker", "--image", image];
        let told = said(&stand.daemon.pando(&line), 4, &line);
        assert!(told.contains(word), "{told}");
    }
    stand.json(&["rm", "child"]);
    stand.json(&["rm", "dev"]);
    assert_eq!(docker.run(&["ps", "--all", "--quiet"]), "");
    stand.end(&["the heartbeat of a clone", "unfinished end of an AOF file"]);
}

#[test]
fn podman_serves_all_three_through_the_same_interface() {
    let Some(mut podman) = Podman::start() else { return };
    for image in [Image::Postgres, Image::Mariadb, Image::Redis] {
        podman.image(image);
    }
    let Some(stand) = Stand::new(&podman.host()) else { return };
    lives(&mut podman, stand);
}

#[test]
fn an_ordinary_users_podman_serves_all_three_too() {
    let (ids, Some(filesystem)) = (tools::somebody(), LoopFs::new(FsKind::Xfs, 3000)) else { return };
    chown(filesystem.path(), Some(ids.0), Some(ids.1)).unwrap();
    fs::set_permissions(filesystem.path().parent().unwrap(), fs::Permissions::from_mode(0o755)).unwrap();
    let Some(mut podman) = Podman::start_as(ids, &[]) else { return };
    for image in [Image::Postgres, Image::Mariadb, Image::Redis] {
        podman.image(image);
    }
    let program = tempfile::Builder::new().prefix("pando-bin-").tempdir_in("/tmp").unwrap();
    let pando = pando_as(program.path(), ids);
    let begin = || {
        let daemon = Daemon::start_on_with(&pando, &filesystem.path().join("home"), &[("DOCKER_HOST", &podman.host())]);
        daemon.pando_json(&["init"]);
        daemon
    };
    let Some(stand) = Stand::of(begin) else { return };
    lives(&mut podman, stand);
}

/// A clone of all three through the deaths of a Podman's service and of each server.
fn lives(podman: &mut Podman, stand: Stand) {
    let copy = Copy(stand.json(&["clone", "shop@now", "dev", "--runtime", "docker"]));
    copy.holds("1000");
    let containers = stand.confined("dev");
    let doctor = stand.json(&["doctor"]).to_string();
    assert!(doctor.contains("Podman 4") || doctor.contains("Podman 5"), "{doctor}");

    // The service dies; what runs does not notice, and is found again.
    podman.kill9();
    copy.holds("1000");
    podman.resume();
    let again = stand.confined("dev");
    assert!(again.iter().zip(&containers).all(|(one, other)| one["id"] == other["id"]), "{again:?}");
    for container in &containers {
        podman.run(&["kill", container["id"].as_str().unwrap()]);
    }
    copy.holds("1000");
    copy.shrink();
    stand.json(&["refresh", "dev@now"]);
    copy.holds("1000");
    let logs = stand.json(&["logs", "dev"])["logs"]["my/server"].as_str().unwrap().to_owned();
    assert!(logs.contains("ready for connections"), "{logs}");
    stand.json(&["rm", "dev"]);
    assert_eq!(podman.run(&["ps", "--all", "--quiet"]), "");
    stand.end(&["the heartbeat of a clone", "unfinished end of an AOF file"]);
}
