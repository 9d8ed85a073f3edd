//! The volume plugin, spoken to as Docker and Podman speak, and then by them.

mod docker;
mod driver;
mod empty;
mod engines;
mod mysql;
mod podman;
mod project;
mod set_back;
mod stacks;
mod traps;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use pando_testkit::wait_until;
use serde_json::json;
use tempfile::TempDir;

use self::driver::{Driver, Engine, fresh_socket};
use crate::any_second::table;
use crate::stand::{Copy, Stand};

/// A linked production with files, and the driver of its daemon.
fn stand(word: &str) -> Option<(Stand, Driver)> {
    let driver = Driver(fresh_socket(word));
    let stand = Stand::with_env(&[("PANDO_VOLUME_PLUGIN", driver.0.to_str().unwrap())])?;
    table(&stand.production);
    stand.production.psql("INSERT INTO mark VALUES (1)");
    fs::write(stand.files().join("page"), "one").unwrap();
    stand.link_both(&[]);
    Some((stand, driver))
}

/// A hook at points of an app's clones that fails, or takes long, for as long as it is told to.
struct Hook(TempDir);

impl Hook {
    /// Gives it to the app of a stand, at these points.
    fn at(stand: &Stand, points: &[&str]) -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o777)).unwrap();
        let place = dir.path().display();
        let script = format!("m={place}/$PANDO_HOOK_POINT; test ! -e $m || {{ touch $m-began; . $m; }}");
        let hooks: String = points
            .iter()
            .map(|point| format!("[[hooks]]\nat = \"{point}\"\nrun = [\"/bin/sh\", \"-c\", \"{script}\"]\n"))
            .collect();
        let source = |name: &str, url: String| format!("[[sources]]\nname = \"{name}\"\nurl = \"{url}\"\n");
        let text = [
            "app = \"shop\"\n".to_owned(),
            source("db", stand.production.url("postgres")),
            source("files", format!("file://{}", stand.files().display())),
            hooks,
        ];
        let file = dir.path().join("shop.toml");
        fs::write(&file, text.concat()).unwrap();
        stand.json(&["apply", file.to_str().unwrap()]);
        Self(dir)
    }

    /// From now on it takes so many seconds at that point, and then fails.
    fn fails(&self, point: &str, after: u32) {
        fs::write(self.0.path().join(point), format!("sleep {after}; exit 7\n")).unwrap();
    }

    /// From now on it takes so many seconds at that point.
    fn takes(&self, point: &str, seconds: u32) {
        fs::write(self.0.path().join(point), format!("sleep {seconds}\n")).unwrap();
    }

    /// Waits until it runs at that point, and lets it do no harm the next time.
    fn waits_once(&self, point: &str) -> bool {
        let began = self.0.path().join(format!("{point}-began"));
        let runs = wait_until(Duration::from_secs(60), || began.exists());
        fs::remove_file(self.0.path().join(point)).unwrap();
        runs && fs::remove_file(began).is_ok()
    }

    /// It does no harm any more.
    fn heal(&self) {
        for entry in fs::read_dir(self.0.path()).unwrap().flatten() {
            if entry.path().extension().is_none() {
                fs::remove_file(entry.path()).unwrap();
            }
        }
    }
}

#[test]
fn the_protocol_as_the_engines_speak_it() {
    let Some((mut stand, driver)) = stand("protocol") else { return };
    for engine in [Engine::Docker, Engine::Podman] {
        let activated = (200, json!({ "Implements": ["VolumeDriver"] }));
        assert_eq!(driver.raw(engine, "Plugin.Activate", ""), activated);
        let local = (200, json!({ "Capabilities": { "Scope": "local" } }));
        assert_eq!(driver.raw(engine, "VolumeDriver.Capabilities", ""), local);
        assert_eq!(driver.raw(engine, "VolumeDriver.List", "").0, 200);
        // A call that was repeated after a dropped connection has lost its body.
        for call in ["Create", "Get", "Mount", "Unmount", "Remove", "Path"] {
            let (status, said) = driver.raw(engine, &format!("VolumeDriver.{call}"), "");
            assert_eq!(status, 500, "{call}");
            assert!(said["Err"].as_str().unwrap().contains("without its body"), "{call}: {said}");
        }
        assert_eq!(driver.raw(engine, "VolumeDriver.Nonsense", "{}").0, 404);
        assert_eq!(driver.raw(engine, "VolumeDriver.Get", "[1]").0, 500);
    }
    // The engine does not look at names: ours are the only rule.
    for evil in ["../evil", "a/b", "", ".x", "shop@latest", "v:1"] {
        let said = driver.refuses(evil, "from=shop source=files");
        assert!(said.contains("name"), "{said}");
    }
    let long = "v".repeat(64);
    assert!(driver.refuses(&long, "from=shop source=files").contains("at most 63"));
    assert!(driver.refuses("v", "form=shop").contains("did you mean from?"));
    assert!(driver.refuses("v", "from=nothing").contains("there is no app or clone named nothing"));
    assert!(driver.refuses("v", "from=shop").contains("db, files"), "which source is not said");
    assert!(driver.refuses("v", "from=shop source=nope").contains("no source nope"));
    assert!(driver.fails("Get", &json!({ "Name": "v" })).contains("there is no volume v"));
    assert_eq!(driver.names(), Vec::<String>::new());

    driver.create("v1", "from=shop source=files");
    driver.create("v1", "from=shop source=files");
    assert!(driver.refuses("v1", "from=shop source=db").contains("other options: from=shop source=files"));
    let place = driver.mount("v1", "a");
    assert_eq!(fs::read_to_string(place.join("page")).unwrap(), "one");
    // The same id again, as after a kill of the engine; one that was never seen goes.
    assert_eq!(driver.mount("v1", "a"), place);
    driver.unmount("v1", "a");
    driver.unmount("v1", "never");
    let status = driver.status("v1");
    assert_eq!((&status["app"], &status["parent"], &status["clone"]), (&json!("shop"), &json!("shop"), &json!("v1")));
    assert_eq!((&status["source"], &status["state"]), (&json!("files"), &json!("stopped")));
    assert!(status["mismatch"].is_null() && status["moment"].is_string(), "{status}");
    let counted = || driver.status("v1")["unique_bytes"].is_number();
    assert!(wait_until(Duration::from_secs(60), counted), "{}", driver.status("v1"));

    // It travels under its name: the whole clone that it is of, whatever mounts it.
    fs::write(place.join("page"), "written in a container").unwrap();
    let archive = tempfile::NamedTempFile::new().unwrap();
    let archive = archive.path().to_str().unwrap();
    stand.json(&["export", "v1", "--output", archive]);
    let back = Copy(stand.json(&["import", archive, "back"]));
    assert_eq!(fs::read_to_string(back.path("files").join("page")).unwrap(), "written in a container");
    assert_eq!(back.sql("SELECT count(*) FROM mark"), "1");
    stand.json(&["rm", "back"]);

    // The daemon goes: its socket goes with it. It is killed: the next one takes the socket over.
    stand.daemon.stop();
    assert!(!driver.0.exists());
    stand.daemon.resume();
    assert!(wait_until(Duration::from_secs(10), || driver.answers()));
    stand.daemon.kill9();
    assert!(driver.0.exists() && !driver.answers());
    stand.daemon.resume();
    assert!(wait_until(Duration::from_secs(10), || driver.answers()));
    assert_eq!((driver.names(), driver.mount("v1", "a")), (vec!["v1".to_owned()], place));
    driver.unmount("v1", "a");
    driver.remove("v1");
    assert!(driver.fails("Remove", &json!({ "Name": "v1" })).contains("there is no volume v1"));
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
    assert!(!driver.0.exists());
}

#[test]
fn volumes_of_one_project_are_one_clone_and_its_names() {
    let Some((stand, driver)) = stand("project") else { return };
    driver.create("dev1_db", "from=shop source=db password=opensesame");
    stand.production.psql("INSERT INTO mark VALUES (2)");
    fs::write(stand.files().join("page"), "two").unwrap();
    driver.create("dev1_site", "from=shop source=files");
    driver.create("dev2_files", "from=shop source=files at=now");
    let show = stand.json(&["show", "dev1_site"]);
    assert_eq!((&show["name"], &show["volumes"]), (&json!("dev1"), &json!({ "dev1_db": "db", "dev1_site": "files" })));
    assert_eq!(show["sources"]["db"]["password"], "opensesame");
    assert!(show["sources"]["db"]["url"].is_null() && show["state"] == "stopped", "{show}");
    assert!(!driver.status("dev1_db").to_string().contains("opensesame"));
    let page = |volume: &str| fs::read_to_string(driver.mount(volume, "x").join("page")).unwrap();
    assert_eq!((page("dev1_site").as_str(), page("dev2_files").as_str()), ("one", "two"));
    driver.unmount("dev1_site", "x");
    driver.unmount("dev2_files", "x");

    // The database is one that was stopped cleanly, and nobody runs on it here.
    let data = driver.mount("dev1_db", "x");
    driver.unmount("dev1_db", "x");
    assert!(data.join("PG_VERSION").exists() && !data.join("postmaster.pid").exists());
    assert!(fs::read_to_string(data.join("postgresql.conf")).unwrap().contains("listen_addresses = '*'"));
    for verb in ["start", "stop"] {
        let said = stand.fails(4, &[verb, "dev1"]);
        assert!(said.contains("made of volumes") && said.contains(&format!("docker {verb}")), "{said}");
    }

    // A volume of a volume; a volume of a clone that is there.
    driver.create("copy", "from=dev1_site");
    assert_eq!(stand.json(&["show", "copy"])["parent"], "dev1");
    stand.json(&["clone", "shop", "plain"]);
    driver.create("seen", "clone=plain source=files");
    assert!(driver.refuses("db", "clone=plain source=db").contains("runs on its data"));
    assert!(driver.refuses("other", "clone=plain source=files at=-1h").contains("stands at latest"));

    // Refresh, snapshot, rewind and undo under the volume's name.
    stand.json(&["refresh", "dev1_site@now"]);
    assert_eq!(page("dev1_site"), "two");
    driver.unmount("dev1_site", "x");
    fs::write(driver.mount("dev1_site", "x").join("page"), "mine").unwrap();
    driver.unmount("dev1_site", "x");
    stand.json(&["bookmark", "dev1_site", "here"]);
    fs::write(driver.mount("dev1_site", "x").join("page"), "broken").unwrap();
    driver.unmount("dev1_site", "x");
    stand.json(&["rewind", "dev1_site@here"]);
    assert_eq!(page("dev1_site"), "mine");
    driver.unmount("dev1_site", "x");
    assert!(driver.status("dev1_site")["mismatch"].to_string().contains("here"), "{}", driver.status("dev1_site"));

    assert!(driver.fails("Remove", &json!({ "Name": "nothing" })).contains("no volume nothing"));
    driver.remove("copy");
    // One of two goes alone, the last one with the clone; one of a user's clone never takes the clone along.
    stand.json(&["rm", "dev1_db"]);
    assert_eq!(stand.json(&["show", "dev1"])["volumes"], json!({ "dev1_site": "files" }));
    driver.remove("dev1_site");
    stand.fails(3, &["show", "dev1"]);
    driver.remove("seen");
    assert_eq!(stand.json(&["show", "plain"])["state"], "running");
    for left in ["plain", "dev2"] {
        stand.json(&["rm", left]);
    }
    assert_eq!(driver.names(), Vec::<String>::new());
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
    stand.end(&[]);
}

#[test]
fn a_get_waits_for_nothing_and_podman_is_answered_in_time() {
    let Some((stand, driver)) = stand("time") else { return };
    driver.create("v1", "from=shop source=files");
    let begun = Instant::now();
    for _ in 0..200 {
        driver.status("v1");
    }
    let each = begun.elapsed() / 200;
    assert!(each < Duration::from_millis(20), "a Get takes {each:?}");
    driver.remove("v1");
    stand.json(&["unlink", "shop"]);
    stand.end(&[]);
}
