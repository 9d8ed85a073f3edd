//! The kit's daemon, tried on a stand-in for the binary: this very program, which plays `pando` when it is
//! called with one of its words. (Hence no harness: libtest would read those words itself.)

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test"
)]

use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use pando_testkit::{Daemon, wait_until};

const NAME: &str = "a_daemon_is_killed_and_started_again_and_leaves_no_process";

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        Some("serve") => serve(),
        Some("fail") => std::process::exit(4),
        Some("ls") => println!("{{\"apps\": [], \"home\": \"{}\"}}", std::env::var("PANDO_HOME").unwrap()),
        // What nextest asks for; it runs with `--exact NAME` then.
        _ if args.iter().any(|arg| arg == "--list") => {
            if !args.iter().any(|arg| arg == "--ignored") {
                println!("{NAME}: test");
            }
        }
        _ => {
            test();
            println!("{NAME}: ok");
        }
    }
}

/// Listens, and leaves a unit that outlives it.
#[allow(clippy::zombie_processes, reason = "a unit that outlives the daemon is the point")]
fn serve() {
    let home = PathBuf::from(std::env::var("PANDO_HOME").unwrap());
    std::fs::create_dir_all(home.join("run")).unwrap();
    let socket = home.join("run/pando.sock");
    let _ = std::fs::remove_file(&socket);
    println!("fail points: {}", std::env::var("PANDO_FAIL").unwrap_or_default());
    Command::new("/bin/sleep").arg("600").stdin(Stdio::null()).process_group(0).spawn().unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    for peer in listener.incoming() {
        drop(peer);
    }
}

fn test() {
    let me = std::env::current_exe().unwrap();
    let mut daemon = Daemon::start_with(&me, &[("PANDO_FAIL", "x=kill")]);
    assert_eq!(daemon.pando_json(&["ls"])["home"], daemon.home().display().to_string());
    assert_eq!(daemon.pando(&["fail"]).status.code(), Some(4));
    assert!(daemon.log().contains("x=kill"));
    assert!(!daemon.wait_dead(Duration::from_millis(50)));

    daemon.kill9();
    assert_eq!(daemon.processes().len(), 1, "the unit goes on");
    daemon.set_env(&[]);
    daemon.resume();
    daemon.restart();
    let left = daemon.processes();
    assert!(left.len() >= 4, "{left:?}");
    let home = daemon.home();
    drop(daemon);
    assert!(!home.exists());
    let gone = |pid: &u32| !Path::new(&format!("/proc/{pid}/environ")).exists() || is_zombie(*pid);
    assert!(wait_until(Duration::from_secs(5), || left.iter().all(gone)));
}

fn is_zombie(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.contains(") Z "))
}
