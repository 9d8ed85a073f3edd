//! Directories as images; and images where registries are as they are: with tokens, by TLS, with logins that helper
//! programs keep; and as files, where there is no registry.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use pando_testkit::{Access, Daemon, Docker, Image, ImageRegistry, Podman, tools};
use serde_json::Value;
use tempfile::TempDir;

use crate::stand::{PANDO, entries, said};

/// A directory with one file that belongs to somebody and is of some time.
struct Web(TempDir);

impl Web {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let made = Self(dir);
        made.put("img/logo.svg", "one");
        made
    }

    fn put(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        std::os::unix::fs::chown(&path, Some(33), Some(34)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        fs::File::options().append(true).open(&path).unwrap().set_modified(time).unwrap();
    }

    fn link(&self, daemon: &Daemon) {
        daemon.pando_json(&["link", "web", &format!("files=file://{}", self.0.path().display())]);
    }
}

/// A user whose logins are kept by a helper program.
struct User(TempDir);

impl User {
    /// The helper keeps the login of this registry alone, or it is the store for all of them.
    fn new(registry: &ImageRegistry, for_all: bool) -> Self {
        let home = TempDir::new().unwrap();
        let path = |name: &str| home.path().join(name);
        fs::create_dir(path(".docker")).unwrap();
        let config = match for_all {
            true => serde_json::json!({ "credsStore": "of-tests", "auths": { registry.host(): {} } }),
            false => serde_json::json!({ "credHelpers": { registry.host(): "of-tests" } }),
        };
        fs::write(path(".docker/config.json"), config.to_string()).unwrap();
        // Standard input names the registry; what it does not know is an error, said on standard output.
        let script = format!(
            "#!/bin/sh\nread server\nif [ \"$1 $server $MINE\" = 'get {} yes' ]; then\n  \
             echo '{{\"ServerURL\":\"\",\"Username\":\"ann\",\"Secret\":\"secret\"}}'\nelse\n  \
             echo credentials not found in native keychain; exit 1\nfi\n",
            registry.host()
        );
        fs::write(path("docker-credential-of-tests"), script).unwrap();
        fs::set_permissions(path("docker-credential-of-tests"), fs::Permissions::from_mode(0o755)).unwrap();
        Self(home)
    }

    /// Runs a command of Pando's as this user. `mine`: the helper knows its user by the environment.
    fn runs(&self, daemon: &Daemon, mine: &str, args: &[&str]) -> Output {
        let mut command = Command::new(PANDO);
        let path = format!("{}:{}", self.0.path().display(), std::env::var("PATH").unwrap_or_default());
        for name in ["PANDO_HOST", "PANDO_REGISTRY_USER", "PANDO_REGISTRY_PASSWORD", "DOCKER_CONFIG"] {
            command.env_remove(name);
        }
        command.env("HOME", self.0.path()).env("PATH", path).env("MINE", mine).env("PANDO_HOME", daemon.home());
        command.arg("--json").args(args).output().unwrap()
    }
}

fn json(output: &Output) -> Value {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

/// The files of an image that runs nothing, as an engine lays them out: path, mode, owner, time, size.
fn listed(docker: &Docker, image: &str) -> Vec<String> {
    docker.run(&["pull", image]);
    let container = docker.run(&["create", image, "nothing"]);
    let tar = docker.output(&["cp", &format!("{container}:/img"), "-"]);
    docker.run(&["rm", &container]);
    let dir = TempDir::new().unwrap();
    let file = dir.path().join("tar");
    fs::write(&file, &tar.stdout).unwrap();
    let listed =
        tools::run("tar", &["--list", "--verbose", "--numeric-owner", "--utc", "-f", &file.display().to_string()]);
    let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
    listed.lines().filter(|line| line.starts_with('-')).map(words).collect()
}

#[test]
fn a_directory_goes_to_a_registry_with_tokens_by_tls_with_a_login_that_a_helper_keeps() {
    if !tools::require_root() || !tools::require("mkfs.btrfs") || !tools::require("rsync") {
        return;
    }
    let (Some(docker), Some(registry)) = (Docker::start(), ImageRegistry::start_with(Access::Token, true)) else {
        return;
    };
    let (web, user, certs) = (Web::new(), User::new(&registry, false), registry.certs().display().to_string());
    let engine = ("DOCKER_HOST", "unix:///nobody/is/here.sock");
    let mut daemon = Daemon::start_with(Path::new(PANDO), &[engine]);
    web.link(&daemon);
    let reference = format!("{}/team/files:ci", registry.host());
    let push = ["image", "push", "web", &reference];
    // Whose certificate nobody vouches for is shown nothing.
    let refused = said(&user.runs(&daemon, "yes", &push), 4, &push);
    assert!(refused.contains("is not trusted") && refused.contains("ca.crt"), "{refused}");
    assert_eq!(registry.asked(), Vec::<String>::new());
    daemon.set_env(&[engine, ("PANDO_REGISTRY_CERTS", &certs)]);
    daemon.restart();
    let refused = said(&user.runs(&daemon, "no", &push), 4, &push);
    assert!(refused.contains("docker login"), "{refused}");
    let first = json(&user.runs(&daemon, "yes", &push));
    assert_eq!((&first["path"], &first["base"]), (&"/".into(), &"scratch".into()), "{first}");
    assert!(first.get("password").is_none() && first.get("port").is_none(), "{first}");
    docker.run(&["login", "--username", "ann", "--password", "secret", &registry.host()]);
    assert_eq!(listed(&docker, &reference), ["-rw-r--r-- 33/34 3 2001-09-09 01:46 img/logo.svg"]);

    // The newest state again: only what changed travels, and what went is gone.
    web.put("img/new.svg", "more");
    fs::remove_file(web.0.path().join("img/logo.svg")).unwrap();
    let second = json(&user.runs(&daemon, "yes", &["image", "update", &reference, "--at", "now"]));
    assert_eq!(second["push"]["sent_blobs"], 2, "a layer and a configuration: {second}");
    assert_eq!(listed(&docker, &reference), ["-rw-r--r-- 33/34 4 2001-09-09 01:46 img/new.svg"]);

    // In another repository of that registry nothing is sent again but what is new there. One helper keeps all logins of this user.
    let twin = format!("{}/team/twin:1", registry.host());
    let store = User::new(&registry, true);
    let push = ["image", "push", "web", &twin];
    assert!(said(&store.runs(&daemon, "no", &push), 4, &push).contains("docker login"));
    let third = json(&store.runs(&daemon, "yes", &push));
    assert_eq!(third["digest"], second["digest"]);
    daemon.pando_json(&["unlink", "web"]);
    let alarms = daemon.alarms(&[]);
    assert!(alarms.is_empty(), "{alarms:#?}");
}

#[test]
fn an_image_as_a_file_is_loaded_by_docker_and_by_podman_and_is_the_same_each_time() {
    if !tools::require_root() || !tools::require("mkfs.btrfs") || !tools::require("rsync") {
        return;
    }
    let (Some(docker), Some(plain), Some(podman)) = (Docker::start(), Docker::start(), Podman::start()) else { return };
    // Any image with a shell stands for an application's own.
    let base = docker.image(Image::Redis);
    let web = Web::new();
    let daemon = Daemon::start_with(Path::new(PANDO), &[("DOCKER_HOST", &docker.host())]);
    web.link(&daemon);
    let dir = TempDir::new().unwrap();
    let file = |name: &str| dir.path().join(name).display().to_string();
    let then = format!("web@{}", daemon.pando_json(&["snapshot", "web"])["result"]["moment"].as_str().unwrap());
    let build = |to: &str| -> Value {
        let how = ["--base", &base, "--path", "/srv/www/", "--output", to];
        daemon.pando_json(&[&["image", "build", &then, "web:ci"], &how[..]].concat())
    };
    let made = build(&file("one.tar"));
    assert_eq!((&made["path"], &made["build"]["loaded"]), (&"/srv/www".into(), &false.into()), "{made}");
    let look = ["stat", "-c", "%u:%g %Y %s %n", "/srv/www/img/logo.svg"];
    let expected = "33:34 1000000000 3 /srv/www/img/logo.svg";
    // Two engines that have nothing of it.
    plain.run(&["load", "--input", &file("one.tar")]);
    let run = ["run", "--rm", "--network", "none", "--entrypoint", look[0], "web:ci"];
    assert_eq!(plain.run(&[&run[..], &look[1..]].concat()), expected);
    podman.run(&["load", "--input", &file("one.tar")]);
    assert_eq!(podman.run(&[&run[..], &look[1..]].concat()), expected);
    let labels = plain.run(&["image", "inspect", "-f", "{{json .Config.Labels}}", "web:ci"]);
    let labels: Value = serde_json::from_str(&labels).unwrap();
    for (label, value) in [("pando.app", "web"), ("pando.masked", "false"), ("pando.path", "/srv/www")] {
        assert_eq!(labels[label], value, "{labels}");
    }
    assert_eq!(labels["pando.moment"], made["moment"]);

    // Forgotten, record and all, and made again of the same moment: byte for byte the same.
    daemon.pando_json(&["image", "rm", "web:ci"]);
    assert_eq!(entries(&daemon.home().join("images/blobs/sha256")), Vec::<String>::new());
    let again = build(&file("two.tar"));
    assert_eq!((&again["build"]["built"], &again["digest"]), (&true.into(), &made["digest"]), "{again}");
    assert!(fs::read(file("one.tar")).unwrap() == fs::read(file("two.tar")).unwrap());
    // Standard output is the same file.
    let mut command = Command::new(PANDO);
    command.env("PANDO_HOME", daemon.home()).env_remove("PANDO_HOST");
    let streamed = command.args(["image", "build", &then, "web:ci", "--output", "-"]).output().unwrap();
    assert!(streamed.status.success() && streamed.stdout == fs::read(file("one.tar")).unwrap());

    // A directory that is larger than it may be is refused before any of it is packed, and what is large in it is named.
    web.put("img/large.raw", &"x".repeat(3 << 20));
    let big = ["image", "build", "web@now", "big:1", "--base", &base, "--path", "/srv/www", "--max-size", "2M"];
    let refused = said(&daemon.pando(&big), 4, &big);
    assert!(refused.contains("img/large.raw 3.0 MiB") && refused.contains("--max-size"), "{refused}");
    let listed = daemon.pando_json(&["image", "ls"]);
    assert_eq!(listed.as_array().map(Vec::len), Some(1), "{listed}");
    assert_eq!(entries(&daemon.home().join("images/work")), Vec::<String>::new());

    // Another home that was given this moment has the same data in it, digest and all.
    let archive = file("web.tar");
    tools::run(PANDO, &["export", &then, "--output", &archive, "--home", &daemon.home().display().to_string()]);
    let other = Daemon::start_with(Path::new(PANDO), &[("DOCKER_HOST", &docker.host())]);
    other.pando_json(&["import", &archive, "there"]);
    let how = ["--base", &base, "--path", "/srv/www", "--output", &file("three.tar")];
    other.pando_json(&[&["image", "build", "there", "web:ci"], &how[..]].concat());
    assert_eq!(layers(&file("three.tar")), layers(&file("one.tar")));
    let alarms = [daemon.alarms(&[]), other.alarms(&[])].concat();
    assert!(alarms.is_empty(), "{alarms:#?}");
}

/// The layers that an image in a file names, from the bottom up.
fn layers(file: &str) -> Value {
    let text = tools::run("tar", &["--extract", "--to-stdout", "-f", file, "manifest.json"]);
    serde_json::from_str::<Value>(&text).unwrap()[0]["Layers"].clone()
}
