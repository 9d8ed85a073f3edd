//! Volumes that are made empty: data of containers that outlives them, snapshotted, copied and rewound like a clone's;
//! and what the kernel and the pool have at the end of it all.

use std::fs;
use std::time::Duration;

use pando_testkit::{Docker, Image, wait_until};
use serde_json::json;

use super::docker::{fails, mounted, word};
use super::stand;

/// Where a volume of the pool is mounted, in any process.
pub fn mounts(volume: &str) -> Vec<String> {
    let pids = fs::read_dir("/proc").unwrap().flatten().map(|entry| entry.path().join("mountinfo"));
    let tables = pids.filter_map(|table| fs::read_to_string(table).ok());
    tables
        .flat_map(|table| table.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.contains(volume))
        .collect()
}

#[test]
fn an_empty_volume_outlives_its_containers_and_goes_back_in_time() {
    let Some((stand, driver)) = stand("empty") else { return };
    let Some(mut docker) = Docker::start() else { return };
    let (name, image) = (word(&driver), docker.image(Image::Postgres));
    docker.run(&["volume", "create", "-d", &name, "grove"]);
    docker.run(&["volume", "create", "-d", &name, "-o", "uid=999", "-o", "gid=998", "-o", "mode=0710", "owned"]);
    let owned = docker.run(&["run", "--rm", "-v", "owned:/owned", &image, "stat", "-c", "%u %g %a", "/owned"]);
    assert_eq!(owned, "999 998 710");

    // The engine fills it from the image; what containers write stays when they go.
    let tool = |args: &[&str]| docker.run(&[&["run", "--rm", "-v", "grove:/usr/local/bin", &image], args].concat());
    assert_eq!(tool(&["ls", "/usr/local/bin"]), "docker-entrypoint.sh");
    tool(&["sh", "-c", "echo one > /usr/local/bin/note"]);
    stand.json(&["bookmark", "grove", "here"]);
    tool(&["sh", "-c", "echo two > /usr/local/bin/note"]);
    let copy = ["volume", "create", "-d", &name, "-o", "from=grove", "-o", "at=here", "grove2"];
    docker.run(&copy);
    let note = |docker: &Docker, volume: &str| {
        let mount = format!("{volume}:/mnt");
        docker.run(&["run", "--rm", "-v", &mount, &image, "cat", "/mnt/note"])
    };
    assert_eq!((note(&docker, "grove").as_str(), note(&docker, "grove2").as_str()), ("two", "one"));

    assert!(fails(&docker, &["volume", "rm", "grove"]).contains("is the parent of"), "of grove2");
    docker.run(&["volume", "rm", "grove2"]);

    // Nobody takes it from under a container, whatever the engine knows.
    docker.run(&["run", "-d", "--init", "--name", "user", "-v", "grove:/mnt", &image, "sleep", "infinity"]);
    let place = mounted(&docker, "user", "/mnt").expect("a mount");
    for args in [&["rewind", "grove@here"][..], &["rm", "grove"]] {
        let said = stand.fails(4, args);
        assert!(said.contains("in use by container"), "{said}");
    }
    assert!(stand.fails(4, &["refresh", "grove"]).contains("made empty"));
    docker.kill9();
    assert!(stand.fails(4, &["rm", "grove"]).contains("in use by"), "also without an engine");
    docker.resume();
    docker.run(&["rm", "-f", "user"]);
    // A mount call of the engine that died counts for ten seconds more.
    let rewound = || stand.daemon.pando(&["rewind", "grove@here"]).status.success();
    assert!(wait_until(Duration::from_secs(30), rewound), "{}", stand.daemon.log());
    assert_eq!(note(&docker, "grove"), "one");
    stand.json(&["undo", "grove"]);
    assert_eq!(note(&docker, "grove"), "two");
    assert_eq!(driver.status("grove")["parent"], json!(null));

    docker.run(&["volume", "rm", "grove", "owned"]);
    let volume = place.iter().find_map(|part| part.to_str().filter(|part| part.starts_with("vol-"))).unwrap();
    assert!(mounts(volume).is_empty(), "{:?}", mounts(volume));
    drop(docker);
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}
