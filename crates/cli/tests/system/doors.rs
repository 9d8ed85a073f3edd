//! Who passes into a pool: a user of this machine with the number of an owner in production does not reach production's
//! files, and works with clones all the same.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use pando_testkit::{Daemon, tools};
use tempfile::TempDir;

use crate::stand::PANDO;

/// Of an owner in production, and of somebody here.
const OWNER: u32 = 61_994;

fn as_owner(words: &[&str]) -> Output {
    let ids = [format!("--reuid={OWNER}"), format!("--regid={OWNER}")];
    Command::new("setpriv").args(ids).arg("--clear-groups").args(words).output().unwrap()
}

fn reads(path: &Path) -> bool {
    as_owner(&["cat", &path.display().to_string()]).status.success()
}

fn only(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect()
}

#[test]
fn mirrors_and_snapshots_are_closed_to_owners_of_the_same_number_and_clones_are_not() {
    let there = ["setpriv", "rsync", "mkfs.btrfs"].iter().all(|tool| tools::require(tool));
    if !tools::require_root() || !there {
        return;
    }
    let web = TempDir::new().unwrap();
    fs::set_permissions(web.path(), fs::Permissions::from_mode(0o755)).unwrap();
    fs::create_dir(web.path().join("conf")).unwrap();
    fs::write(web.path().join("conf/a.yml"), "secret").unwrap();
    for (path, mode) in [("conf", 0o700), ("conf/a.yml", 0o600)] {
        fs::set_permissions(web.path().join(path), fs::Permissions::from_mode(mode)).unwrap();
        chown(web.path().join(path), Some(OWNER), Some(OWNER)).unwrap();
    }
    fs::copy(tools::find("id").unwrap(), web.path().join("id")).unwrap();
    fs::set_permissions(web.path().join("id"), fs::Permissions::from_mode(0o4755)).unwrap();

    let mut daemon = Daemon::start(Path::new(PANDO));
    daemon.pando_json(&["link", "web", &format!("web=file://{}", web.path().display())]);
    let pool = daemon.home().join("pool");
    let mirror = only(&pool.join("volumes")).pop().unwrap();
    let view = daemon.pando_json(&["clone", "web", "c"]);
    let copy = PathBuf::from(view["sources"]["web"]["path"].as_str().unwrap());
    let closed = |mirror: &Path| {
        assert!(!reads(&mirror.join("web/conf/a.yml")), "a mirror is no way in");
        for snapshot in only(&pool.join("snapshots")) {
            assert!(!reads(&snapshot.join("web/conf/a.yml")), "a snapshot is no way in");
        }
    };
    closed(&mirror);
    assert!(reads(&copy.join("conf/a.yml")), "a clone is worked with");
    let id = as_owner(&[&copy.join("id").display().to_string(), "-u"]);
    assert_eq!(
        String::from_utf8_lossy(&id.stdout).trim(),
        OWNER.to_string(),
        "nobody becomes root by production's files"
    );

    // A home from before is closed when its daemon starts, and a clone stays open.
    daemon.stop();
    for dir in [&mirror, &pool.join("snapshots")] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o755)).unwrap();
    }
    assert!(reads(&mirror.join("web/conf/a.yml")));
    daemon.resume();
    daemon.pando_json(&["show", "web"]);
    closed(&mirror);
    assert!(reads(&copy.join("conf/a.yml")));
    assert_eq!(fs::metadata(&mirror).unwrap().mode() & 0o7777, 0o750);
    let again = daemon.pando_json(&["clone", "c", "d"]);
    assert!(reads(&Path::new(again["sources"]["web"]["path"].as_str().unwrap()).join("conf/a.yml")));
    daemon.pando_json(&["refresh", "c"]);
    assert!(reads(&copy.join("conf/a.yml")), "a refreshed clone, too");

    let told = || daemon.pando_json(&["doctor"]).to_string().contains("mounted without nosuid");
    assert!(!told());
    tools::run("mount", &["-o", "remount,suid", &pool.display().to_string()]);
    assert!(told());
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "unannounced: {alarms:#?}");
}
