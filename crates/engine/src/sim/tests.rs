//! The life of a simulated source, and its switches.

use jiff::SignedDuration;
use pando_host::ManualClock;
use pando_host::secret::Secret;
use pando_model::Profile;

use super::*;

struct Kit {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
    engine: SimEngine,
    source: Source,
}

impl Kit {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::at("2026-11-21T10:00:00Z".parse().unwrap()));
        let source = Source {
            url: "sim://prod/counter".parse().unwrap(),
            exclude: Vec::new(),
            facts: serde_json::Value::Null,
            tag: "pando_a".into(),
        };
        Self { dir: tempfile::tempdir().unwrap(), engine: SimEngine::new(clock.clone()), clock, source }
    }

    fn seat(&self, name: &str) -> Seat {
        let at = |part: &str| self.dir.path().join(name).join(part);
        Seat { data: at("data"), log: at("log"), run: at("run"), account: None }
    }

    fn link(&self) -> Seat {
        let seat = self.seat("mirror");
        self.engine.ingest(&seat, &self.source).unwrap();
        self.engine.settle(&seat, &self.source).unwrap();
        seat
    }

    fn commit(&self, value: u64) -> Lsn {
        self.clock.advance(SignedDuration::from_secs(10));
        self.engine.commit(value)
    }

    /// What a pool would do.
    fn copy(&self, seat: &Seat, name: &str) -> Seat {
        let copy = self.seat(name);
        fs::create_dir_all(&copy.data).unwrap();
        for entry in fs::read_dir(&seat.data).unwrap().flatten() {
            fs::copy(entry.path(), copy.data.join(entry.file_name())).unwrap();
        }
        copy
    }

    fn stage(&self, to: Option<Point>) -> Stage {
        let log = Some(self.seat("mirror").log);
        Stage { to, log, port: Some(7), profile: Profile::Disposable, record: false, set: BTreeMap::new() }
    }
}

fn state(seat: &Seat) -> String {
    read_text(&seat.data, "state").unwrap()
}

#[test]
fn a_clone_can_be_brought_to_any_moment_behind_its_snapshot() {
    let kit = Kit::new();
    let mirror = kit.link();
    kit.commit(5);
    assert!(kit.engine.pulse(&mirror, &kit.source, false).unwrap().changed);
    let snapshot = kit.copy(&mirror, "snapshot");
    let mark = kit.engine.mark(&snapshot, &mirror, &kit.source, kit.clock.now(), false).unwrap();
    let middle = kit.clock.now();
    let third = kit.commit(6);
    kit.commit(7);
    let pulse = kit.engine.pulse(&mirror, &kit.source, true).unwrap();
    assert_eq!((pulse.through, state(&mirror).as_str()), (Some(kit.clock.now()), "7"));

    let locate = |want| kit.engine.locate(&mirror.log, &mark.from, want).unwrap();
    let shown = |want| {
        let clone = kit.copy(&snapshot, "clone");
        kit.engine.stage(&clone, &kit.source, &kit.stage(locate(want))).unwrap();
        state(&clone)
    };
    assert_eq!(shown(Want::Time(middle)), "5");
    assert_eq!(shown(Want::Lsn(third)), "6");
    assert_eq!(shown(Want::End), "7");
    let second = SignedDuration::from_secs(1);
    assert_eq!(locate(Want::Time(kit.clock.now() + second)), None);
    assert_eq!(locate(Want::Time(mark.at - second)), None);

    kit.engine.trim(&mirror.log, &locate(Want::End).unwrap()).unwrap();
    assert_eq!(locate(Want::Lsn(third)), None);
    kit.engine.settle(&mirror, &kit.source).unwrap();
    assert_eq!(kit.engine.stretches(&mirror.log).unwrap().iter().map(|s| s.epoch).collect::<Vec<_>>(), [1, 2]);
}

#[test]
fn a_held_mirror_stands_still_while_its_log_goes_on() {
    let kit = Kit::new();
    let mirror = kit.link();
    kit.engine.hold(&mirror, &kit.source).unwrap();
    let lsn = kit.commit(9);
    kit.engine.pulse(&mirror, &kit.source, false).unwrap();
    assert_eq!(state(&mirror), "0");
    assert_eq!(kit.engine.stretches(&mirror.log).unwrap()[0].last, lsn);
    kit.engine.release(&mirror, &kit.source).unwrap();
    assert!(!kit.engine.pulse(&mirror, &kit.source, false).unwrap().changed);
    assert_eq!(state(&mirror), "9");
}

#[test]
fn switches_fail_one_call_cut_the_link_and_hold_back_readiness() {
    let kit = Kit::new();
    let mirror = kit.link();
    assert_eq!(kit.engine.slots(), ["pando_a"]);
    kit.engine.fail("pulse", 2);
    assert!(kit.engine.pulse(&mirror, &kit.source, false).is_ok());
    assert!(kit.engine.pulse(&mirror, &kit.source, false).is_err());
    assert!(kit.engine.pulse(&mirror, &kit.source, false).is_ok() && kit.engine.calls("pulse") == 3);

    kit.engine.set_link(Link::Lost("gone".into()));
    let before = kit.clock.now();
    kit.commit(3);
    let pulse = kit.engine.pulse(&mirror, &kit.source, false).unwrap();
    assert_eq!(pulse, Pulse { link: Link::Lost("gone".into()), through: Some(before), changed: false });

    kit.engine.set_starting(true);
    assert!(matches!(kit.engine.ready(&mirror, &kit.source), Ok(Readiness::Starting(_))));
    kit.engine.set_refused(Some("no right"));
    assert!(kit.engine.preflight(&kit.source.url).unwrap().findings[0].fatal);
    kit.engine.detach(&kit.source).unwrap();
    assert!(kit.engine.slots().is_empty());
}

#[test]
fn who_was_admitted_to_the_parent_is_not_admitted_to_the_clone() {
    let kit = Kit::new();
    let parent = kit.copy(&kit.link(), "parent");
    let user = Credentials { user: "ann".into(), password: Secret::new("x"), salt: None };
    kit.engine.admit(&parent, &kit.source, Some(&user)).unwrap();
    assert_eq!(read_text(&parent.data, "admitted").unwrap(), "ann");
    let clone = kit.copy(&parent, "clone");
    kit.engine.stage(&clone, &kit.source, &kit.stage(None)).unwrap();
    assert!(read_text(&clone.data, "admitted").is_err());
    assert_eq!(read_text(&clone.data, "owner").unwrap(), "clone 7 disposable");
}
