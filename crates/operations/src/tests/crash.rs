//! The loop that proves recovery. A case is run once to see which points it passes, those of the operations
//! inside of it too. Then, for every point: it fails there; it dies there and is recovered; it dies again at
//! every point that undoing or recovering passes; its thread panics there; and it dies there with its machine, which
//! loses every commit since the last synced one. After each the catalog must be what there is, and the verb
//! wholly done or everything as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Once};

use pando_host::FailAction;

use super::agree::{complaints, digest, open_operations};
use super::cases::{CASES, Case};
use super::kit::{Kit, Mold};
use crate::fault::Fault;
use crate::follow::{look_after_clones, retry_stuck};
use crate::recovery::recover_all;
use crate::verbs;

/// A world that is used again as long as it is as it was.
struct Bench {
    case: &'static Case,
    kit: Option<(Kit, BTreeMap<String, String>)>,
    mold: Option<(Mold, BTreeMap<String, String>)>,
    tried: usize,
    wrong: Vec<String>,
}

impl Bench {
    fn new(case: &'static Case) -> Self {
        Self { case, kit: None, mold: None, tried: 0, wrong: Vec::new() }
    }

    fn take(&mut self) -> (Kit, BTreeMap<String, String>) {
        self.tried += 1;
        if let Some(kept) = self.kit.take() {
            return kept;
        }
        if let Some((mold, before)) = &self.mold {
            return (mold.cast(), before.clone());
        }
        let kit = Kit::new();
        (self.case.given)(&kit);
        let before = digest(&kit);
        assert_eq!(complaints(&kit), Vec::<String>::new(), "{}: the world it is given", self.case.name);
        self.mold = Some((kit.mold(), before.clone()));
        (kit, before)
    }

    /// All must be well now, and all done or all as before.
    fn judge(&mut self, kit: Kit, before: BTreeMap<String, String>, what: &str) {
        let at = format!("{}: {what}", self.case.name);
        (self.case.heartbeat)(&kit);
        let wrong = complaints(&kit);
        if !wrong.is_empty() {
            return self.wrong.push(format!("{at}\n    {}", wrong.join("\n    ")));
        }
        let mut after = digest(&kit);
        let fresh = |key: &String| key.starts_with("snapshot ") && !before.contains_key(key);
        let took = after.keys().any(fresh);
        if self.case.leaves_snapshot {
            after.retain(|key, _| !fresh(key));
        }
        if after == before {
            // What was taken on the way would change the way of the next try.
            if !took {
                self.kit = Some((kit, before));
            }
        } else if !(self.case.done)(&kit) {
            let differs: Vec<_> = before
                .keys()
                .chain(after.keys())
                .filter(|key| before.get(*key) != after.get(*key))
                .map(|key| format!("{key}\n    was {:?}\n    is  {:?}", before.get(key), after.get(key)))
                .collect();
            self.wrong.push(format!("{at}: neither done nor as before\n  {}", differs.join("\n  ")));
        }
    }

    /// The points that a run passes, with some armed.
    fn points(&mut self, armed: &[(&str, FailAction)]) -> Vec<String> {
        let (kit, _) = self.take();
        arm(&kit, armed);
        kit.world.fail.record();
        let _ = (self.case.run)(&kit.world);
        distinct(kit.world.fail.seen())
    }

    /// Every step is applied twice, the second time without what the first has learned; and where it fails,
    /// every undo is done twice.
    fn twice(&mut self, points: &[String]) {
        let again: Vec<String> = points
            .iter()
            .filter_map(|point| point.strip_suffix(".after"))
            .flat_map(|step| [format!("{step}.again"), format!("{step}.undo-again")])
            .collect();
        let again: Vec<(&str, FailAction)> = again.iter().map(|point| (point.as_str(), FailAction::Error)).collect();
        self.fail(&again);
        for point in points.iter().filter(|point| point.ends_with(".after")) {
            let mut armed = again.clone();
            armed.push((point, FailAction::Error));
            self.fail(&armed);
        }
    }

    /// Each call to what surrounds it fails once: of the pool and the engine every one, of the runtime the
    /// first of each kind.
    fn fail_calls(&mut self) {
        const ENGINE: [&str; 25] = [
            "fits",
            "receive",
            "preflight",
            "ingest",
            "settle",
            "follow",
            "pulse",
            "hold",
            "release",
            "mark",
            "detach",
            "stretches",
            "locate",
            "trim",
            "stage",
            "serve",
            "ready",
            "admit",
            "slim",
            "part",
            "hand_over",
            "largest",
            "renew",
            "scrub",
            "scrub_stopped",
        ];
        const RUNTIME: [&str; 7] =
            ["ensure_running", "ensure_gone", "ensure_gone_by", "run_once", "pause", "resume", "forget"];
        let (kit, _) = self.take();
        let count = |kit: &Kit| (kit.pool.calls(), ENGINE.map(|method| kit.engine.calls(method)));
        let before = count(&kit);
        let _ = (self.case.run)(&kit.world);
        let after = count(&kit);
        for nth in 1..=after.0 - before.0 {
            self.call(&format!("call {nth} of the pool"), |kit| kit.pool.fail(nth));
        }
        for (index, method) in ENGINE.iter().enumerate() {
            for nth in 1..=after.1[index] - before.1[index] {
                self.call(&format!("call {nth} of {method}"), |kit| kit.engine.fail(method, nth));
            }
        }
        for method in RUNTIME {
            self.call(&format!("the first {method}"), |kit| kit.runtime.fail_next(method));
        }
        for method in ["volumes", "running", "up", "stop", "down"] {
            self.call(&format!("the first {method} of a project"), |kit| kit.projects.fail_next(method));
        }
    }

    fn call(&mut self, what: &str, arm: impl FnOnce(&Kit)) {
        let (mut kit, before) = self.take();
        arm(&kit);
        let outcome = (self.case.run)(&kit.world);
        kit.runtime.heal();
        kit.projects.heal();
        if outcome.is_ok() && !(self.case.done)(&kit) {
            self.wrong.push(format!("{}: {what} fails: says done and is not", self.case.name));
        }
        if !open_operations(&kit).is_empty() {
            kit.restart();
        }
        self.judge(kit, before, &format!("{what} fails"));
    }

    /// The points that recovery passes after a death.
    fn recovery_points(&mut self, died_at: &str) -> Vec<String> {
        let (mut kit, _) = self.take();
        arm(&kit, &[(died_at, FailAction::Crash)]);
        let _ = (self.case.run)(&kit.world);
        kit.reopen();
        kit.world.fail.record();
        recover_all(&kit.world);
        distinct(kit.world.fail.seen())
    }

    /// It fails at a point (and maybe at another while that is undone).
    fn fail(&mut self, armed: &[(&str, FailAction)]) {
        let (mut kit, before) = self.take();
        let what = format!("{armed:?}");
        arm(&kit, armed);
        let outcome = (self.case.run)(&kit.world);
        kit.world.fail.disarm();
        let dies = armed.iter().any(|(_, action)| *action == FailAction::Crash);
        match outcome {
            Err(Fault::Crash) => assert!(dies, "{what}"),
            Err(Fault::Problem(_)) => {}
            // A failed inner operation need not fail the outer one.
            Ok(()) if (self.case.done)(&kit) => {}
            Ok(()) => self.wrong.push(format!("{}: {what}: says done and is not", self.case.name)),
        }
        // What cannot be finished or undone is tried again at the next start.
        if !open_operations(&kit).is_empty() {
            kit.restart();
        }
        self.judge(kit, before, &what);
    }

    /// The whole machine dies at a point, and with it the commits that were only ordered.
    fn lose(&mut self, at: &str) {
        let (mut kit, before) = self.take();
        arm(&kit, &[(at, FailAction::Crash)]);
        let outcome = (self.case.run)(&kit.world);
        assert!(matches!(outcome, Err(Fault::Crash)), "{}: {at} was not passed: {outcome:?}", self.case.name);
        kit.pull_the_plug();
        recover_all(&kit.world);
        // Servers that a machine took along are started by the heartbeat.
        look_after_clones(&kit.world);
        self.judge(kit, before, &format!("the machine died at {at}"));
    }

    /// Its thread panics at a point; the daemon lives on, and its heartbeat sees to it.
    fn panic(&mut self, at: &str) {
        let (mut kit, before) = self.take();
        arm(&kit, &[(at, FailAction::Panic)]);
        let (run, world) = (self.case.run, Arc::clone(&kit.world));
        quiet();
        let outcome = std::thread::spawn(move || drop(run(&world))).join();
        assert!(outcome.is_err(), "{}: {at} was not passed", self.case.name);
        kit.world.fail.disarm();
        // An operation inside of another is seen to after the one that ran it.
        for _ in 0..2 {
            retry_stuck(&kit.world);
        }
        if !open_operations(&kit).is_empty() {
            kit.restart();
        }
        self.judge(kit, before, &format!("its thread panicked at {at}"));
    }

    /// It dies at a point, and recovery dies (or fails) at another.
    fn die(&mut self, at: &str, again: Option<(&str, FailAction)>) {
        let (mut kit, before) = self.take();
        arm(&kit, &[(at, FailAction::Crash)]);
        let outcome = (self.case.run)(&kit.world);
        assert!(matches!(outcome, Err(Fault::Crash)), "{}: {at} was not passed: {outcome:?}", self.case.name);
        kit.reopen();
        if let Some(again) = again {
            arm(&kit, &[again]);
            recover_all(&kit.world);
            kit.reopen();
        }
        recover_all(&kit.world);
        self.judge(kit, before, &format!("died at {at}, then {again:?}"));
    }
}

/// A panic at a fail point is no news.
fn quiet() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !panic.payload_as_str().is_some_and(|text| text.starts_with("fail point ")) {
                usual(panic);
            }
        }));
    });
}

fn arm(kit: &Kit, points: &[(&str, FailAction)]) {
    for (point, action) in points {
        kit.world.fail.arm(*point, *action);
    }
}

fn distinct(mut points: Vec<String>) -> Vec<String> {
    let mut seen = std::collections::BTreeSet::new();
    points.retain(|point| !point.ends_with("again") && seen.insert(point.clone()));
    points
}

/// Of pairs of points (it fails or dies at one, and dies at another while that is mended) every so manyth is
/// tried. 1: all, which takes a minute.
const STRIDE: usize = 15;

fn prove(case: &'static Case, stride: usize) -> usize {
    let mut bench = Bench::new(case);
    let points = bench.points(&[]);
    bench.kit = None;
    for point in &points {
        bench.fail(&[(point, FailAction::Error)]);
        bench.die(point, None);
        bench.lose(point);
        bench.panic(point);
    }
    bench.twice(&points);
    bench.fail_calls();
    let mut pair = 0;
    let mut due = || {
        pair += 1;
        pair % stride == 0
    };
    for point in points.iter().filter(|point| point.ends_with(".after")) {
        let undone = bench.points(&[(point, FailAction::Error)]);
        bench.kit = None;
        for undo in undone.iter().filter(|point| point.ends_with(".undo")) {
            for action in [FailAction::Crash, FailAction::Error] {
                if due() {
                    bench.fail(&[(point, FailAction::Error), (undo, action)]);
                }
            }
        }
        let mended = bench.recovery_points(point);
        bench.kit = None;
        for again in &mended {
            if due() {
                bench.die(point, Some((again, FailAction::Crash)));
            }
        }
    }
    let some: Vec<_> = bench.wrong.iter().take(8).map(String::as_str).collect();
    assert!(some.is_empty(), "{} of {} runs ended badly, such as\n{}", bench.wrong.len(), bench.tried, some.join("\n"));
    bench.tried
}

#[allow(clippy::print_stdout, reason = "how much was tried is worth knowing")]
fn prove_all(word: &str, stride: usize) {
    // With hooks an operation has some points more, and the same ones between them.
    let stride = |case: &Case| if case.name.ends_with("hooks") { stride.max(STRIDE) } else { stride };
    let tried: usize = CASES.iter().filter(|case| case.word() == word).map(|case| prove(case, stride(case))).sum();
    assert!(tried > 0, "no case of {word}");
    println!("{word}: {tried} runs");
}

#[test]
fn every_pair_of_points() {
    for (word, ..) in verbs::known() {
        prove_all(word, 1);
    }
}

macro_rules! proofs {
    ($($test:ident $word:literal),+ $(,)?) => {
        $(#[test]
        fn $test() {
            prove_all($word, STRIDE);
        })+

        #[test]
        #[allow(clippy::print_stdout, reason = "how many there are is worth knowing")]
        fn every_verb_is_proven_and_every_step_passed() {
            let proven = [$($word),+];
            let mut all = BTreeSet::new();
            for (word, steps, point_of_no_return) in verbs::known() {
                assert!(proven.contains(&word), "the verb {word} is not proven");
                let mut passed = BTreeSet::new();
                for case in CASES.iter().filter(|case| case.word() == word) {
                    passed.extend(Bench::new(case).points(&[]));
                    // The last step that can be taken back takes all before it back, too.
                    let last = format!("{word}.{}.after", steps[point_of_no_return.min(steps.len()) - 1]);
                    passed.extend(Bench::new(case).points(&[(&last, FailAction::Error)]));
                }
                for (index, step) in steps.iter().enumerate() {
                    let undo = (index < point_of_no_return).then_some("undo");
                    for when in ["before", "after"].into_iter().chain(undo) {
                        let point = format!("{word}.{step}.{when}");
                        assert!(passed.contains(&point), "no case passes {point}");
                    }
                }
                all.extend(passed);
            }
            println!("{} fail points", all.len());
            assert!(all.len() >= 100, "{} fail points", all.len());
        }
    };
}

proofs!(
    apply "apply",
    attach "attach",
    bookmark "bookmark",
    unbookmark "unbookmark",
    clone "clone",
    create "create",
    detach "detach",
    export "export",
    image_build "image-build",
    image_push "image-push",
    image_rm "image-rm",
    image_save "image-save",
    import "import",
    lease "lease",
    link "link",
    promote "promote",
    start "start",
    stop "stop",
    prepare "prepare",
    rebase "rebase",
    refresh "refresh",
    rm "rm",
    snapshot "snapshot",
    thin "thin",
    unlink "unlink",
);
