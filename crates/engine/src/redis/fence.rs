//! A fence: production's writes are held for some seconds (`CLIENT PAUSE … WRITE`), so that a cut through several
//! sources is exact. Reads go on; production itself ends it when its time is over.
//!
//! Redis tells nobody whether it is paused, so whether the fence stood is told by the time since before it was
//! raised. Its end also ends a pause that somebody else has begun meanwhile: Redis knows only one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use pando_host::{Clock, SystemClock};

use super::RedisEngine;
use super::client::ClientError;
use crate::{EngineError, Source};

/// The fences that stand, by the tag of their source: until when.
#[derive(Default)]
pub struct Fences(Mutex<HashMap<String, Instant>>);

/// Raises the fence; it stands when this returns.
pub fn raise(engine: &RedisEngine, source: &Source, limit: Duration) -> Result<(), EngineError> {
    let begun = SystemClock.instant();
    let millis = limit.as_millis().to_string();
    engine
        .production(source, |client| client.call(&["CLIENT", "PAUSE", &millis, "WRITE"]).map(drop))
        .map_err(advice)?;
    engine.fences().0.lock().unwrap_or_else(PoisonError::into_inner).insert(source.tag.clone(), begun + limit);
    Ok(())
}

/// Lowers the fence; answers whether it stood until now.
pub fn lower(engine: &RedisEngine, source: &Source) -> Result<bool, EngineError> {
    let until = engine.fences().0.lock().unwrap_or_else(PoisonError::into_inner).remove(&source.tag);
    // One of an earlier daemon ends by itself; one of somebody else is not ours to end.
    let Some(until) = until else { return Ok(false) };
    let stood = SystemClock.instant() < until;
    engine.production(source, |client| client.call(&["CLIENT", "UNPAUSE"]).map(drop)).map_err(advice)?;
    Ok(stood)
}

/// Says what is missing where the user may not.
fn advice(error: EngineError) -> EngineError {
    let refused = |source: &(dyn std::error::Error + Send + Sync + 'static)| match source.downcast_ref::<ClientError>()
    {
        Some(ClientError::Refused(why)) if why.starts_with("NOPERM") => Some(why.clone()),
        _ => None,
    };
    match &error {
        EngineError::Server { source, .. } => match refused(source.as_ref()) {
            Some(why) => EngineError::Invalid(format!(
                "production's writes cannot be held: {why}; it takes ACL SETUSER … +client|pause +client|unpause"
            )),
            None => error,
        },
        _ => error,
    }
}
