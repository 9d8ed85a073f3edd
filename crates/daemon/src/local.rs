//! A home without a daemon: what `init` and `doctor` do in the process that asked, when no daemon runs.

use std::path::Path;

use pando_api::InitRequest;
use pando_model::{DoctorView, Problem};
use pando_operations::{Around, Pando};

use crate::home::HomeLock;
use crate::routes::init_request;
use crate::serve::fail_points;

/// A home that this process holds, as a daemon would.
pub struct Local {
    pando: Pando,
    _lock: HomeLock,
}

impl Local {
    /// Takes the home's lock and opens it. `points` arms fail points, for tests;
    /// `engine`: where containers run, as `DOCKER_HOST` says it.
    ///
    /// # Errors
    /// Refused when a daemon holds the home.
    pub fn open(home: &Path, points: Option<&str>, engine: Option<&str>) -> Result<Self, Problem> {
        let fail = fail_points(points)?;
        let around = Around { engine: engine.map(str::to_owned), ..Around::default() };
        let lock = HomeLock::take(home)?;
        let pando = Pando::open(home, fail, &around)?;
        pando.recover()?;
        Ok(Self { pando, _lock: lock })
    }

    /// Makes or adopts the pool.
    ///
    /// # Errors
    /// When there is none to make or adopt.
    pub fn init(&self, body: InitRequest) -> Result<DoctorView, Problem> {
        self.pando.init(&init_request(body)?)
    }

    /// What is there, what is missing.
    ///
    /// # Errors
    /// When the home cannot be read.
    pub fn doctor(&self) -> Result<DoctorView, Problem> {
        self.pando.doctor()
    }

    /// Waits for what was begun.
    pub fn close(self) {
        self.pando.stop();
    }
}
