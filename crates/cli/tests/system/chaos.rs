//! Chaos against a model: several users at once with verbs that a seed draws, while the daemon is killed, servers of
//! clones and of the mirror die, and production crashes. The model is a map from names to what was last written there. After each round
//! there is exactly what was acknowledged, and of what was cut off either all or nothing.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use pando_testkit::{Seed, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use crate::stand::{Copy, Stand, sql_at};

/// What a clone holds: the number last written there, none when fresh.
type Held = Option<u64>;

/// One user's clones.
#[derive(Default)]
struct User {
    number: usize,
    next: u64,
    clones: BTreeMap<String, Held>,
}

/// What a verb may have come to when its user was cut off.
#[derive(Debug)]
enum Doubt {
    /// The clone holds one of these.
    Holds(String, Vec<Held>),
    /// It is there, fresh or with this, or it is not.
    There(String, Vec<Held>),
}

const WRITE: &str = "CREATE TABLE IF NOT EXISTS own (n bigint); INSERT INTO own VALUES ";
const HELD: &str = "SELECT CASE WHEN to_regclass('own') IS NULL THEN 'none' ELSE 'some' END";

impl User {
    /// Runs a few verbs; answers what is in doubt because something failed that may fail in a storm.
    fn act(&mut self, stand: &Stand, seed: &mut Seed, storm: bool) -> Vec<Doubt> {
        let mut doubts: Vec<Doubt> = Vec::new();
        for _ in 0..1 + seed.below(2) {
            let names: Vec<String> = self.clones.keys().cloned().collect();
            let name = (!names.is_empty()).then(|| names[seed.index(names.len())].clone());
            let doubted = |name: &str| {
                doubts.iter().any(|doubt| matches!(doubt, Doubt::Holds(of, _) | Doubt::There(of, _) if of == name))
            };
            if name.as_deref().is_some_and(doubted) {
                continue;
            }
            let done = |args: &[&str]| {
                let output = stand.daemon.pando(args);
                let ok = output.status.success();
                // Refused: another user is at it.
                let busy = output.status.code() == Some(4);
                assert!(ok || busy || storm, "{args:?}: {output:?}\n{}", stand.daemon.log());
                ok
            };
            match (seed.below(10), name) {
                (0..=2, name) if self.clones.len() < 3 => {
                    self.next += 1;
                    let fresh = format!("u{}n{}", self.number, self.next);
                    let from = name.filter(|_| seed.once_in(3));
                    let held = from.as_ref().and_then(|from| self.clones[from]);
                    if done(&["clone", from.as_deref().unwrap_or("shop"), &fresh, "--profile", "durable"]) {
                        self.clones.insert(fresh, held);
                    } else {
                        doubts.push(Doubt::There(fresh, vec![held]));
                    }
                }
                (0..=5, Some(name)) => {
                    let (before, after) = (self.clones[&name], Some(seed.below(1_000_000)));
                    let url = stand.daemon.pando(&["show", &name, "--json"]);
                    let Ok(view) = serde_json::from_slice(&url.stdout) else { continue };
                    let wrote = sql_at(Copy(view).url(), &format!("{WRITE}({})", after.unwrap()));
                    assert!(wrote.is_ok() || storm, "{name}: {wrote:?}\n{}", stand.daemon.log());
                    match wrote {
                        Ok(_) => drop(self.clones.insert(name, after)),
                        Err(_) => doubts.push(Doubt::Holds(name, vec![before, after])),
                    }
                }
                (6 | 7, Some(name)) => {
                    // It has a parent of its own in one of three cases: then its parent's rows may come.
                    let before = self.clones[&name];
                    let parents: Vec<Held> = self.clones.values().copied().chain([None, before]).collect();
                    done(&["refresh", &name]);
                    doubts.push(Doubt::Holds(name, parents));
                }
                (8, Some(name)) => {
                    let held = self.clones.remove(&name).flatten();
                    let output = stand.daemon.pando(&["rm", &name]);
                    if !output.status.success() {
                        // Also refused: it is the parent of others.
                        assert!(storm || output.status.code() == Some(4), "{output:?}");
                        doubts.push(Doubt::There(name, vec![held]));
                    }
                }
                _ => {
                    done(&["snapshot", "shop"]);
                }
            }
        }
        doubts
    }

    /// What was in doubt is looked at.
    fn settle(&mut self, stand: &Stand, doubts: Vec<Doubt>, told: &str) {
        for doubt in doubts {
            let (name, may) = match doubt {
                Doubt::Holds(name, may) => (name, may),
                Doubt::There(name, may) => {
                    if stand.daemon.pando(&["show", &name]).status.code() == Some(3) {
                        self.clones.remove(&name);
                        continue;
                    }
                    (name, may)
                }
            };
            let held = held(stand, &name, told);
            assert!(may.contains(&held), "{name} holds {held:?}, not one of {may:?}: {told}\n{}", stand.daemon.log());
            self.clones.insert(name, held);
        }
    }
}

/// What a clone holds, started if it does not run.
fn held(stand: &Stand, name: &str, told: &str) -> Held {
    let up = || {
        let view = stand.show(name).0;
        if view["state"] != "running" {
            stand.daemon.pando(&["start", name]);
        }
        sql_at(Copy(view).url(), "SELECT 1").is_ok()
    };
    assert!(wait_until(Duration::from_secs(40), up), "{name} does not answer: {told}\n{}", stand.daemon.log());
    let copy = stand.show(name);
    if copy.sql(HELD) == "none" {
        return None;
    }
    copy.sql("SELECT n FROM own ORDER BY ctid DESC LIMIT 1").parse().ok()
}

/// Something goes wrong while the users are at work. Answers what, and whether the daemon must be started again.
fn strike(stand: &Stand, seed: &mut Seed, users: &[Vec<String>]) -> (&'static str, bool) {
    std::thread::sleep(Duration::from_millis(seed.below(900)));
    match seed.below(5) {
        0 | 1 => {
            stand.daemon.strike();
            ("the daemon was killed", true)
        }
        2 => {
            let all: Vec<&String> = users.iter().flatten().collect();
            if !all.is_empty()
                && let Ok(view) =
                    serde_json::from_slice(&stand.daemon.pando(&["show", all[seed.index(all.len())], "--json"]).stdout)
                && let Ok(text) = std::fs::read_to_string(Copy(view).path("db").join("postmaster.pid"))
                && let Some(pid) = text.lines().next().and_then(|pid| Pid::from_raw(pid.trim().parse().ok()?))
            {
                let _ = kill_process(pid, Signal::KILL);
            }
            ("the server of a clone was killed", false)
        }
        3 => {
            // One of the mirror's two: whoever works in no clone's tree.
            let mirror = |pid: &u32| {
                let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.contains("pg_receivewal") || line.contains("walreceiver")
            };
            let found: Vec<u32> = stand.daemon.processes().into_iter().filter(mirror).collect();
            if !found.is_empty()
                && let Some(pid) = Pid::from_raw(found[seed.index(found.len())].cast_signed())
            {
                let _ = kill_process(pid, Signal::KILL);
            }
            ("a process of the mirror was killed", false)
        }
        _ => ("nothing", false),
    }
}

#[test]
fn users_at_random_and_a_daemon_that_dies_leave_what_was_acknowledged() {
    let Some(mut stand) = Stand::new() else { return };
    let mut seed = Seed::from_env("PANDO_SEED", 20_261_121);
    let long: u64 = std::env::var("PANDO_SECONDS").map_or(60, |text| text.parse().unwrap());
    stand.production.psql("CREATE TABLE mark (n int)");
    stand.link(&["--snapshot-every", "2s"]);
    let mut users: Vec<User> = (0..3).map(|number| User { number, ..User::default() }).collect();
    let (begun, mut rounds, mut deaths) = (Instant::now(), 0_u64, 0);
    while begun.elapsed() < Duration::from_secs(long) {
        rounds += 1;
        let storm = !seed.once_in(3);
        if seed.once_in(6) {
            stand.production.kill();
            stand.production.resume();
        }
        let names: Vec<Vec<String>> = users.iter().map(|user| user.clones.keys().cloned().collect()).collect();
        let (doubts, (struck, dead)) = std::thread::scope(|scope| {
            let stand = &stand;
            let working: Vec<_> = users
                .iter_mut()
                .map(|user| {
                    let mut seed = seed.branch(rounds * 10 + user.number as u64);
                    scope.spawn(move || user.act(stand, &mut seed, storm))
                })
                .collect();
            let struck = if storm { strike(stand, &mut seed, &names) } else { ("nothing", false) };
            (working.into_iter().map(|user| user.join().unwrap()).collect::<Vec<_>>(), struck)
        });
        if dead {
            deaths += 1;
            stand.daemon.kill9();
            stand.daemon.resume();
        }
        let told = format!("round {rounds}, {struck}, {seed}");
        for (user, doubts) in users.iter_mut().zip(doubts) {
            user.settle(&stand, doubts, &told);
        }
        let listed = stand.json(&["ls"]);
        let mut there: Vec<&str> =
            listed["clones"].as_array().unwrap().iter().filter_map(|one| one["name"].as_str()).collect();
        let mut meant: Vec<&str> = users.iter().flat_map(|user| user.clones.keys().map(String::as_str)).collect();
        there.sort_unstable();
        meant.sort_unstable();
        assert_eq!(there, meant, "{told}\n{}", stand.daemon.log());
        let all: Vec<(&String, &Held)> = users.iter().flat_map(|user| user.clones.iter()).collect();
        if !all.is_empty() {
            let (name, must) = all[seed.index(all.len())];
            assert_eq!(held(&stand, name, &told), *must, "{name}: {told}");
        }
        stand.nothing_strange();
    }
    eprintln!("{rounds} rounds, {deaths} deaths of the daemon, {seed}");
    for _ in 0..4 {
        // Parents go after their children.
        for user in &users {
            for name in user.clones.keys() {
                stand.daemon.pando(&["rm", name]);
            }
        }
    }
    stand.json(&["unlink", "shop"]);
    stand.nothing_left();
}
