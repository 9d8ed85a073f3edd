//! What a snapshot's tree is worth: from which position on it can be recovered, and of which moment that is.

use jiff::Timestamp;
use pando_model::Lsn;

use super::session::{self, socket_there};
use super::{PostgresEngine, control, database};
use crate::{EngineError, Mark, Point, Seat, Source, Want};

/// Reads it from the tree's control file, of a clone from its server, and waits until the log has come so far. `tree` is
/// the snapshot's, `seat` the owner's.
pub fn mark(
    engine: &PostgresEngine,
    (tree, seat): (&Seat, &Seat),
    source: &Source,
    asked: Timestamp,
    clone: bool,
) -> Result<Mark, EngineError> {
    let (_, installation) = engine.installation(seat, source)?;
    let log = engine.log(&seat.log)?;
    let from = Point { epoch: 0, timeline: 0, lsn: Lsn(0), time: Some(asked) };
    let still = Mark { from, at: asked, rolls: false };
    let Some(epoch) = log.current_epoch() else { return Ok(still) };
    let (minimum, timeline) = if clone {
        let server = engine.server(seat, source)?;
        // One that was stopped tells no position, and needs no log: all it had is in its tree.
        if !socket_there(&seat.run, server.port) {
            return Ok(still);
        }
        let failed = |source: postgres::Error| EngineError::Server {
            action: "asking a clone for its position".to_owned(),
            source: Box::new(source),
        };
        let mut client = session::connect_somewhere(&server, database(source)).map_err(failed)?;
        let row = client.query_one("SELECT pg_catalog.pg_current_wal_flush_lsn()::text", &[]).map_err(failed)?;
        let text: String = row.get(0);
        let end = text.parse().map_err(|_| EngineError::Invalid(format!("{text:?} is not a position")))?;
        (end, 0)
    } else {
        let control = control::read(installation, engine.account(), &tree.data)?;
        // A tree that was never rolled forward becomes consistent at its checkpoint.
        let timeline = if control.minimum_timeline == 0 { control.timeline } else { control.minimum_timeline };
        (control.minimum.max(control.redo), timeline)
    };
    let mut advanced = log.advance()?;
    for _ in 0..1000 {
        if advanced.end >= minimum {
            break;
        }
        engine.wait(5);
        advanced = log.advance()?;
    }
    if advanced.end < minimum {
        return Err(EngineError::Invalid(format!(
            "the log ends at {} and does not reach the snapshot's position {minimum}",
            advanced.end
        )));
    }
    let first = log.stretches()?.into_iter().find(|stretch| stretch.epoch == epoch).map(|stretch| stretch.first);
    let begin = Point { epoch, timeline, lsn: first.unwrap_or_default(), time: None };
    // The record that ends at or behind the minimum is the first place recovery may stop at (T-5).
    let first_stop = log
        .locate(epoch, &begin, Want::Lsn(Lsn(minimum.0.saturating_sub(1))))?
        .ok_or_else(|| EngineError::Invalid(format!("the log begins behind the snapshot's position {minimum}")))?;
    let timeline = if timeline == 0 { first_stop.timeline } else { timeline };
    let from = Point { lsn: minimum, timeline, ..first_stop };
    let at = from.time.unwrap_or(asked);
    Ok(Mark { from, at, rolls: true })
}
