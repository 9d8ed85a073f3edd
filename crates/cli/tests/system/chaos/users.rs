//! One user of the chaos: verbs that a seed draws, on clones of one app, and what they must have come to.

use std::collections::BTreeMap;

use pando_testkit::Seed;

use super::world::{Held, Kind, World};
use crate::stand::Copy;

/// One user's clones.
pub struct User {
    pub number: usize,
    pub kind: Kind,
    pub clones: BTreeMap<String, Held>,
    next: u64,
}

/// What a verb may have come to when its user was cut off.
#[derive(Debug)]
pub enum Doubt {
    /// The clone holds one of these.
    Holds(String, Vec<Held>),
    /// It is there, fresh or with this, or it is not.
    There(String, Vec<Held>),
}

impl User {
    pub fn new(number: usize, kind: Kind) -> Self {
        Self { number, kind, clones: BTreeMap::new(), next: 0 }
    }

    /// Runs a few verbs; answers what is in doubt because something failed that may fail in a storm.
    pub fn act(&mut self, world: &World, seed: &mut Seed, storm: bool) -> Vec<Doubt> {
        let (daemon, app) = (&world.stand.daemon, self.kind.app());
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
                let output = daemon.pando(args);
                let ok = output.status.success();
                // Refused: another user is at it, or the pool is full.
                let busy = output.status.code() == Some(4);
                assert!(ok || busy || storm, "{args:?}: {output:?}\n{}", daemon.log());
                ok
            };
            match (seed.below(10), name) {
                (0..=2, name) if self.clones.len() < 3 => {
                    self.next += 1;
                    let fresh = format!("u{}n{}", self.number, self.next);
                    let from = name.filter(|_| seed.once_in(3));
                    let held = from.as_ref().and_then(|from| self.clones[from]);
                    let line = ["clone", from.as_deref().unwrap_or(app), &fresh, "--profile", "durable"];
                    let more = if from.is_none() { world.more } else { &[] };
                    if done(&[&line, more].concat()) {
                        self.clones.insert(fresh, held);
                    } else {
                        doubts.push(Doubt::There(fresh, vec![held]));
                    }
                }
                (0..=5, Some(name)) => {
                    let (before, after) = (self.clones[&name], seed.below(1_000_000));
                    let shown = daemon.pando(&["show", &name, "--json"]);
                    let Ok(view) = serde_json::from_slice(&shown.stdout) else { continue };
                    let wrote = self.kind.write(Copy(view).url(), after);
                    assert!(wrote.is_ok() || storm, "{name}: {wrote:?}\n{}", world.logs(&name));
                    match wrote {
                        Ok(()) => drop(self.clones.insert(name, Some(after))),
                        Err(_) => doubts.push(Doubt::Holds(name, vec![before, Some(after)])),
                    }
                }
                (6 | 7, Some(name)) => {
                    // It has a parent of its own in one of three cases: then its parent's rows may come.
                    let own = self.clones.values().copied();
                    let doubted = doubts.iter().flat_map(|(Doubt::Holds(_, may) | Doubt::There(_, may))| may).copied();
                    let parents: Vec<Held> = own.chain(doubted).chain([None]).collect();
                    done(&["refresh", &name]);
                    doubts.push(Doubt::Holds(name, parents));
                }
                (8, Some(name)) => {
                    let held = self.clones.remove(&name).flatten();
                    let output = daemon.pando(&["rm", &name]);
                    if !output.status.success() {
                        // Also refused: it is the parent of others.
                        assert!(storm || output.status.code() == Some(4), "{output:?}");
                        doubts.push(Doubt::There(name, vec![held]));
                    }
                }
                _ => drop(done(&["snapshot", app])),
            }
        }
        doubts
    }

    /// What was in doubt is looked at.
    pub fn settle(&mut self, world: &World, doubts: Vec<Doubt>, told: &str) {
        for doubt in doubts {
            let (name, may) = match doubt {
                Doubt::Holds(name, may) => (name, may),
                Doubt::There(name, may) => {
                    if world.stand.daemon.pando(&["show", &name]).status.code() == Some(3) {
                        self.clones.remove(&name);
                        continue;
                    }
                    (name, may)
                }
            };
            let held = world.held(self.kind, &name, told);
            assert!(may.contains(&held), "{name} holds {held:?}, not one of {may:?}: {told}\n{}", world.logs(&name));
            self.clones.insert(name, held);
        }
    }
}
