//! What the tests of the files engine share: a production directory, its mirror, and running a plan.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use pando_engine::files::FilesEngine;
use pando_engine::{Engine, Seat, Source, UnitPlan, Verdict};
use tempfile::TempDir;

pub struct Kit {
    pub engine: FilesEngine,
    pub source: Source,
    pub seat: Seat,
    pub dir: TempDir,
}

impl Kit {
    /// A production directory and a mirror that is still empty.
    pub fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let production = dir.path().join("production");
        fs::create_dir(&production).unwrap();
        let mirror = dir.path().join("mirror");
        Self::at(dir, &format!("file://{}", production.display()), &mirror)
    }

    pub fn at(dir: TempDir, url: &str, mirror: &Path) -> Self {
        let source = Source {
            url: url.parse().unwrap(),
            exclude: Vec::new(),
            facts: serde_json::Value::Null,
            tag: "pando-test".into(),
        };
        let seat =
            Seat { data: mirror.to_owned(), log: "/nonexistent".into(), run: "/nonexistent".into(), account: None };
        Self { engine: FilesEngine::new(), source, seat, dir }
    }

    pub fn production(&self) -> PathBuf {
        self.dir.path().join("production")
    }

    pub fn mirror(&self) -> &Path {
        &self.seat.data
    }

    pub fn ingest(&self) {
        let plan = self.engine.ingest(&self.seat, &self.source).unwrap();
        assert_eq!(plan.role, "ingest");
        self.run_to_end(&plan);
        self.engine.settle(&self.seat, &self.source).unwrap();
    }

    pub fn sync(&self) {
        self.run_to_end(&self.plan());
    }

    /// As the daemon does: again as long as the engine asks for it.
    fn run_to_end(&self, plan: &UnitPlan) {
        loop {
            let output = run(plan);
            match self.verdict(&output) {
                Verdict::Done => return,
                Verdict::Again => {}
                Verdict::Failed => panic!("{}", String::from_utf8_lossy(&output.stderr)),
            }
        }
    }

    pub fn verdict(&self, output: &Output) -> Verdict {
        self.engine.verdict(output.status.code().unwrap(), &String::from_utf8_lossy(&output.stderr))
    }

    pub fn plan(&self) -> UnitPlan {
        self.engine.sync(&self.seat, &self.source).unwrap().unwrap()
    }
}

pub fn run(plan: &UnitPlan) -> Output {
    Command::new(&plan.program)
        .args(&plan.args)
        .env_clear()
        .env("LC_ALL", "C")
        .env("PATH", "/usr/bin:/bin")
        .envs(&plan.env)
        .current_dir(&plan.dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}
