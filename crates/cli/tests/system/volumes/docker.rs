//! The volume plugin as a real Docker engine uses it.

use std::path::PathBuf;
use std::time::Duration;

use pando_testkit::{Docker, Image, wait_until};

use super::driver::Driver;
use super::stand;
use crate::any_second::ROWS;

/// The driver's name, which is that of its socket.
pub fn word(driver: &Driver) -> String {
    driver.0.file_stem().unwrap().to_str().unwrap().to_owned()
}

/// Runs a command of Docker's that must fail; what it says.
pub fn fails(docker: &Docker, args: &[&str]) -> String {
    let output = docker.output(args);
    assert!(!output.status.success(), "docker {args:?}");
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Where a running container's volume comes from, as the kernel sees it.
pub fn mounted(docker: &Docker, container: &str, at: &str) -> Option<PathBuf> {
    let pid = docker.run(&["inspect", "-f", "{{.State.Pid}}", container]);
    let table = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).ok()?;
    let line = table.lines().find(|line| line.split(' ').nth(4) == Some(at))?;
    Some(PathBuf::from(line.split(' ').nth(3)?))
}

#[test]
fn t23_a_container_serves_a_clone_and_nothing_is_taken_from_under_it() {
    let Some((mut stand, driver)) = stand("docker") else { return };
    let Some(mut docker) = Docker::start_with(&["--live-restore"]) else { return };
    let driver_name = word(&driver);
    let image = docker.image(Image::Postgres);
    docker.run(&["network", "create", "net"]);
    let mount = format!(
        "type=volume,source=dev1_db,target=/var/lib/postgresql/data,volume-driver={driver_name},\
         volume-opt=from=shop@latest,volume-opt=source=db,volume-opt=password=opensesame"
    );
    docker.run(&["run", "-d", "--name", "db", "--network", "net", "--mount", &mount, &image]);
    let ask = |docker: &Docker, sql: &str| {
        let args = [
            "exec",
            "-e",
            "PGPASSWORD=opensesame",
            "db",
            "psql",
            "-h",
            "db",
            "-U",
            "pando",
            "-d",
            "postgres",
            "-AtXc",
            sql,
        ];
        docker.output(&args)
    };
    let rows = |docker: &Docker| String::from_utf8_lossy(&ask(docker, ROWS).stdout).trim().to_owned();
    let up = |docker: &Docker| wait_until(Duration::from_secs(30), || ask(docker, "SELECT 1").status.success());
    assert!(up(&docker), "{}\n{:?}", docker.run(&["logs", "db"]), ask(&docker, "SELECT 1"));
    assert_eq!(rows(&docker), "1");
    assert!(ask(&docker, "INSERT INTO mark VALUES (10)").status.success());
    let place = mounted(&docker, "db", "/var/lib/postgresql/data").expect("a mount");

    // The engine shows what it is; the second volume of the project is of the same clone.
    let inspected = docker.run(&["volume", "inspect", "-f", "{{.Status.app}} {{.Status.clone}}", "dev1_db"]);
    assert_eq!(inspected, "shop dev1");
    let inspected = || docker.run(&["volume", "inspect", "-f", "{{.Status.state}} {{.Status.used_by}}", "dev1_db"]);
    let user = docker.run(&["inspect", "-f", "{{.Id}}", "db"])[..12].to_owned();
    let is = |shown: String| shown.starts_with("running [container ") && shown.contains(&user);
    assert!(wait_until(Duration::from_secs(10), || is(inspected())), "{}", inspected());
    docker.run(&["volume", "create", "-d", &driver_name, "-o", "from=shop", "-o", "source=files", "dev1_files"]);
    assert_eq!(docker.run(&["volume", "inspect", "-f", "{{.Status.clone}}", "dev1_files"]), "dev1");
    let said = fails(&docker, &["volume", "create", "-d", &driver_name, "../evil"]);
    assert!(said.contains("cannot be a name"), "{said}");

    // Whoever would take it away is told who uses it.
    let id = docker.run(&["inspect", "-f", "{{.Id}}", "db"]);
    for verb in [&["refresh", "dev1"][..], &["rm", "dev1"], &["rm", "dev1_db"]] {
        let said = stand.fails(4, verb);
        assert!(said.contains("in use by container") && said.contains(&id[..12]), "{said}");
    }
    assert!(fails(&docker, &["volume", "rm", "dev1_db"]).contains("in use"));

    // docker cp mounts again with the same id; restart, a dead engine and a dead daemon: the mount stays what it is.
    docker.run(&["cp", "db:/var/lib/postgresql/data/PG_VERSION", "-"]);
    assert_eq!(mounted(&docker, "db", "/var/lib/postgresql/data").as_ref(), Some(&place));
    docker.kill9();
    stand.daemon.kill9();
    stand.daemon.resume();
    assert!(wait_until(Duration::from_secs(10), || driver.answers()));
    docker.resume();
    assert!(up(&docker), "live-restore");
    assert_eq!(
        (rows(&docker).as_str(), mounted(&docker, "db", "/var/lib/postgresql/data")),
        ("1\n10", Some(place.clone()))
    );
    assert!(stand.fails(4, &["rm", "dev1"]).contains("in use by container"));
    docker.run(&["restart", "db"]);
    assert!(up(&docker));
    assert_eq!(
        (rows(&docker).as_str(), mounted(&docker, "db", "/var/lib/postgresql/data")),
        ("1\n10", Some(place.clone()))
    );

    // A copy of it while it runs.
    docker.run(&["volume", "create", "-d", &driver_name, "-o", "from=dev1_db", "twin"]);
    let twin = ["run", "-d", "--name", "twin", "-v", "twin:/var/lib/postgresql/data", &image];
    docker.run(&twin);
    let twins = ["exec", "twin", "psql", "-U", "pando", "-d", "postgres", "-AtXc", ROWS];
    assert!(
        wait_until(Duration::from_secs(30), || docker.output(&twins).stdout == b"1\n10\n"),
        "{}",
        docker.run(&["logs", "twin"])
    );
    docker.run(&["rm", "-f", "twin"]);
    // T-23: what a container has made its own is for containers.
    let dir = docker.run(&["volume", "inspect", "-f", "{{.Mountpoint}}", "twin"]);
    std::os::unix::fs::chown(dir, Some(4242), None).unwrap();
    let said = stand.fails(4, &["clone", "twin", "here"]);
    assert!(said.contains("belongs to uid 4242"), "{said}");
    docker.run(&["volume", "rm", "twin"]);

    // Stopped, it is refreshed; started again it shows the new data, with the same password.
    stand.production.psql("INSERT INTO mark VALUES (2)");
    docker.run(&["stop", "db"]);
    stand.json(&["refresh", "dev1@now"]);
    docker.run(&["start", "db"]);
    assert!(up(&docker), "{}", docker.run(&["logs", "db"]));
    assert_eq!(rows(&docker), "1\n2");
    assert_ne!(mounted(&docker, "db", "/var/lib/postgresql/data"), Some(place));
    docker.run(&["stop", "db"]);
    stand.json(&["undo", "dev1"]);
    docker.run(&["start", "db"]);
    assert!(up(&docker));
    assert_eq!(rows(&docker), "1\n10");

    docker.run(&["rm", "-f", "db"]);
    docker.run(&["volume", "rm", "dev1_db", "dev1_files"]);
    drop(docker);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
