//! Faults of the system for one daemon: the n-th `fsync`, `write`, `rename` … of it fails, once. Done by a few lines
//! of C that are loaded into it; see `faults.c`.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use tempfile::TempDir;

use crate::tools;

/// Which calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Call {
    /// `fsync`.
    Fsync = 1,
    /// `fdatasync`, which SQLite uses.
    Fdatasync,
    /// `write` of more than a few bytes; half of it is written.
    Write,
    /// `pwrite`, which SQLite uses; half of it is written.
    Pwrite,
    /// `rename`.
    Rename,
    /// `unlink`.
    Unlink,
}

/// The plan that is shared with a daemon.
#[derive(Debug)]
pub struct Faults {
    dir: TempDir,
    plan: File,
}

impl Faults {
    /// Compiles what is loaded. `None` where there is no C compiler, by the rule of [`tools`].
    ///
    /// # Panics
    /// When it does not compile.
    pub fn new() -> Option<Self> {
        if !tools::require("cc") {
            return None;
        }
        let dir = TempDir::new().expect("a temporary directory");
        let source = dir.path().join("faults.c");
        std::fs::write(&source, include_str!("faults.c")).expect("writing C");
        let library = dir.path().join("faults.so");
        let (source, library) = (source.display().to_string(), library.display().to_string());
        tools::run("cc", &["-shared", "-fPIC", "-O1", "-o", &library, &source, "-ldl"]);
        let plan = File::options().create(true).truncate(true).read(true).write(true).open(dir.path().join("plan"));
        let plan = plan.expect("making a plan");
        plan.set_len(4096).expect("sizing a plan");
        Some(Self { dir, plan })
    }

    /// The environment of a daemon that is to be struck.
    pub fn env(&self) -> [(&'static str, String); 2] {
        let path = |name: &str| -> PathBuf { self.dir.path().join(name) };
        [("LD_PRELOAD", path("faults.so").display().to_string()), ("PANDO_FAULTS", path("plan").display().to_string())]
    }

    /// From now on the `nth` call fails with an error number, once.
    ///
    /// # Panics
    /// When the plan cannot be written.
    pub fn arm(&self, call: Call, nth: i32, error: i32) {
        self.put(&[0, 0, error]);
        self.put(&[0, nth, error]);
        self.put(&[call as i32, nth, error]);
    }

    /// Nothing fails; whether it did since it was armed.
    ///
    /// # Panics
    /// When the plan cannot be read.
    pub fn disarm(&self) -> bool {
        let struck = self.number(1) <= 0;
        self.put(&[0, 0, 0]);
        struck
    }

    /// How many calls there were so far.
    ///
    /// # Panics
    /// When the plan cannot be read.
    pub fn calls(&self, call: Call) -> i32 {
        self.number(3 + call as u64)
    }

    fn put(&self, numbers: &[i32]) {
        let bytes: Vec<u8> = numbers.iter().flat_map(|number| number.to_ne_bytes()).collect();
        self.plan.write_all_at(&bytes, 0).expect("writing a plan");
    }

    fn number(&self, at: u64) -> i32 {
        let mut bytes = [0; 4];
        self.plan.read_exact_at(&mut bytes, at * 4).expect("reading a plan");
        i32::from_ne_bytes(bytes)
    }
}
