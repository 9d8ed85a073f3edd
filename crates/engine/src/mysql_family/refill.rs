//! What a crash of the machine took from the end of a mirror's log, and the mirror had applied: it is received once more,
//! before the mirror goes on. Else the log would have a hole that no number of a transaction shows.
//!
//! ```text
//! log      ───────────────┤ lost ├
//! mirror   ──────────────────────┤ applied     InnoDB syncs by itself, the log is synced by Pando's pulses
//!
//! refill: the mirror says that it has what the log has, and receives from there, but applies nothing;
//!         when the log has what was applied, it says so again, and goes on.
//! ```
//!
//! # Crash consistency
//! `refill` in the stretch's directory says what the mirror has applied, from before it says otherwise until it says so
//! again, both on its disk. As long as it is there, that is believed, whatever the server says.

use std::fs;

use pando_host::durable;

use super::FamilyEngine;
use super::binlog::BinLog;
use super::binlog::dialect::Position as _;
use super::facts::Facts;
use super::flavor::Flavor;
use super::io;
use super::session::failed;
use super::wire::literal;
use crate::{EngineError, Seat, seat};

/// Begins one, or goes on with one, if the log lacks something of what the mirror has applied; the mirror's threads are
/// stopped. Whether it does: then nothing may be applied.
pub fn begin<F: Flavor>(
    engine: &FamilyEngine<F>,
    log: &BinLog<F>,
    epoch: u32,
    seat: &Seat,
    facts: &Facts,
    applied: &F::Position,
) -> Result<bool, EngineError> {
    let note = log.refill(epoch);
    let noted: Option<F::Position> = seat::noted(&note)?;
    let (had, owed) = (log.position(epoch)?, noted.as_ref().unwrap_or(applied));
    let lacks = !had.reaches(owed);
    if !lacks && noted.is_none() {
        return Ok(false);
    }
    if lacks && noted.is_none() {
        let text = serde_json::to_vec(owed).map_err(|error| EngineError::Invalid(error.to_string()))?;
        durable::write_atomic(&note, &text, 0o600).map_err(io("noting what the log lacks"))?;
    }
    say(engine, seat, facts, if lacks { &had } else { owed })?;
    if !lacks {
        durable::remove_if_there(&note).map_err(io("noting that the log is whole again"))?;
    }
    Ok(lacks)
}

/// Whether one is under way.
pub fn is_on<F: Flavor>(log: &BinLog<F>, epoch: u32) -> bool {
    fs::exists(log.refill(epoch)).unwrap_or(true)
}

/// Whether the log has all again.
pub fn is_done<F: Flavor>(log: &BinLog<F>, epoch: u32) -> Result<bool, EngineError> {
    match seat::noted::<F::Position>(&log.refill(epoch))? {
        Some(owed) => Ok(log.position(epoch)?.reaches(&owed)),
        None => Ok(false),
    }
}

/// Has the mirror say that it has applied this, durably.
fn say<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    facts: &Facts,
    position: &F::Position,
) -> Result<(), EngineError> {
    let version = engine.installation(facts)?.version;
    let set = format!("SET GLOBAL {} = {}", F::BEGINS, literal(&position.to_string()));
    let said = engine.sessions.with(&seat.run, |session| {
        session.run([F::forget_numbers(version), &set, "FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS"])
    });
    said.map(drop).map_err(failed("telling the mirror where its log ends"))
}
