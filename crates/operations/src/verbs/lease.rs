//! `lease`: until when a clone is kept.

use jiff::{SignedDuration, Timestamp};
use pando_catalog::CloneRecord;
use pando_model::Name;
use serde::{Deserialize, Serialize};

use crate::fault::{Done, usage};
use crate::journal::{Run, Step, Verb};
use crate::owner::Owner;
use crate::world::World;

/// A lease being changed.
#[derive(Serialize, Deserialize)]
pub struct Lease {
    clone: Name,
    until: Option<Timestamp>,
    /// What the record said before.
    before: (Option<Timestamp>, bool),
}

impl Verb for Lease {
    const WORD: &'static str = "lease";
    const STEPS: &'static [Step<Self>] = &[Step { name: "record", apply: Self::record, undo: Self::restore }];
    const POINT_OF_NO_RETURN: usize = 1;

    fn subject(&self) -> Name {
        self.clone.clone()
    }

    fn result(&self, _: &World) -> Option<serde_json::Value> {
        Some(serde_json::json!({ "clone": self.clone, "until": self.until }))
    }
}

/// A hundred years: an end that no calendar has would be none.
const LONGEST: i64 = 100 * 366 * 24 * 3600;

/// Refuses a lease that cannot be.
pub fn check(seconds: i64) -> Done<()> {
    let wrong = match seconds {
        ..=0 => "a lease must end in the future",
        1..=LONGEST => return Ok(()),
        _ => "a lease ends within a hundred years",
    };
    Err(usage(wrong).hint("for example --for 8h; without a lease a clone is kept for ever").into())
}

impl Lease {
    /// A lease that ends so many seconds from now, or never.
    pub fn new(world: &World, clone: Name, seconds: Option<i64>) -> Done<Self> {
        let owner = Owner::named(world, &clone)?;
        let record = owner.clone_record()?;
        let before = (record.lease_until, record.lease_warned);
        seconds.map_or(Ok(()), check)?;
        let until = seconds.and_then(|seconds| world.now().checked_add(SignedDuration::from_secs(seconds)).ok());
        Ok(Self { clone, until, before })
    }

    fn record(&mut self, run: &Run) -> Done<()> {
        self.set(run, (self.until, false))
    }

    fn restore(&mut self, run: &Run) -> Done<()> {
        self.set(run, self.before)
    }

    fn set(&self, run: &Run, (until, warned): (Option<Timestamp>, bool)) -> Done<()> {
        let mut record: CloneRecord = Owner::named(&run.world, &self.clone)?.clone_record()?.clone();
        record.lease_until = until;
        record.lease_warned = warned;
        record.lease_waits = None;
        Ok(run.world.catalog.note(&record)?)
    }
}
