//! A clone that writes: stood still for a snapshot, and, where it records, how far its own log is.

use std::path::Path;

use jiff::Timestamp;

use super::FamilyEngine;
use super::binlog::Look;
use super::flavor::Flavor;
use super::mirror::CLOCK;
use super::session::{connect, failed, socket_there};
use super::tree::{Mark, Tree, clear_mark};
use crate::{EngineError, Link, Pulse, Seat};

/// Stands a clone still, where its server runs, and notes where its log stands.
pub fn hold<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat) -> Result<(), EngineError> {
    if engine.sessions.is_held(&seat.run) {
        return Ok(());
    }
    let tree = Tree::<F>::read(&seat.data)?;
    let running = if socket_there(&seat.run) { connect(&seat.run).ok() } else { None };
    let Some(mut session) = running else {
        // A server that was stopped wrote all it had.
        let Some(epoch) = tree.epoch else { return Ok(()) };
        let log = engine.log(&seat.log)?;
        log.advance(None)?;
        let mark = Mark::<F> { epoch, position: log.position(epoch)?, place: Some(log.end(epoch)?.0) };
        return mark.write(&seat.data, seat.account.as_ref());
    };
    let held = session
        .query("SET SESSION lock_wait_timeout = 30")
        .and_then(|_| session.run(F::STILL.iter().copied()))
        .and_then(|_| session.query(F::log_status(tree.version)));
    let stands = held.map_err(failed("holding a clone still (somebody's lock may be in the way)"))?;
    if let Some(epoch) = tree.epoch {
        let log = engine.log(&seat.log)?;
        let name = Path::new(stands.value("File").unwrap_or_default()).file_name();
        let name = name.and_then(|name| name.to_str()).unwrap_or_default();
        let byte = stands.value("Position").and_then(|byte| byte.parse().ok()).unwrap_or(0);
        let place = log.place_in(epoch, name, byte)?;
        let place = place.ok_or_else(|| EngineError::Invalid(format!("the log has no file {name:?}")))?;
        Mark::<F> { epoch, position: log.position(epoch)?, place: Some(place.0) }
            .write(&seat.data, seat.account.as_ref())?;
    }
    engine.sessions.hold(&seat.run, session);
    Ok(())
}

/// Lets a clone go on.
pub fn release<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat) -> Result<(), EngineError> {
    clear_mark(&seat.data)?;
    let Some(mut session) = engine.sessions.release(&seat.run) else { return Ok(()) };
    session.query(F::GO_ON).map(drop).map_err(failed("letting a clone go on"))
}

/// Lets the log of a recording clone advance, and says how far it is.
pub fn pulse<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat) -> Result<Pulse, EngineError> {
    let log = engine.log(&seat.log)?;
    let asked = engine.sessions.with(&seat.run, |session| {
        let mut ask = |sql| session.query(sql).map(|rows| rows.first(0).unwrap_or_default().to_owned());
        Ok([ask(F::WRITTEN)?, ask(CLOCK)?, ask(F::WRITTEN)?])
    });
    let mut changed = log.advance(None)?;
    let [before, clock, after] = match asked {
        Ok(asked) => asked,
        Err(error) => {
            let link = Link::Disconnected(format!("the clone's server does not answer: {error}"));
            return Ok(Pulse { link, through: None, changed });
        }
    };
    let read = || Some(Look { before: before.parse().ok()?, micros: clock.parse().ok()?, after: after.parse().ok()? });
    let look = read().ok_or_else(|| EngineError::Invalid(format!("{after:?} is not a position")))?;
    changed |= log.advance(None)?;
    let reached = log.look(&look)?;
    let through = if reached { Timestamp::from_microsecond(look.micros).ok() } else { log.through() };
    Ok(Pulse { link: Link::Following, through, changed })
}
