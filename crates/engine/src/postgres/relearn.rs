//! What production has changed of itself since it was linked: settings, extensions, whether it bounds slots.
//!
//! # Crash consistency
//! The tree is told first. Until the record of the app says the same, the two differ from one another, and it is learned again.

use serde_json::{Value, json};

use super::facts::Facts;
use super::{FACTS, PostgresEngine, mirror, tree, unreadable};
use crate::{Engine, EngineError, Preflight, Seat, Source};

/// Looks at production, and notes in the mirror's tree what is another than before. Another cluster, or one that cannot be
/// followed, is not for this: that ends in a new first copy. The slot is made, if it is gone.
pub fn relearn(engine: &PostgresEngine, seat: &Seat, source: &Source) -> Result<Option<Preflight>, EngineError> {
    let mut found = engine.preflight(&source.url)?;
    let mut facts: Facts = serde_json::from_value(found.facts).map_err(unreadable)?;
    let known = engine.facts_of(seat, source)?;
    let other = facts.major != known.major || facts.system != known.system;
    if other || found.findings.iter().any(|finding| finding.fatal) {
        return Ok(None);
    }
    // One that is there stays in use: nobody else would take it off production.
    facts.slot |= known.slot;
    mirror::ensure_slot(engine, engine.installations().of(facts.major)?, &facts, source)?;
    found.facts = serde_json::to_value(&facts).map_err(unreadable)?;
    let noted = serde_json::to_value(&known).map_err(unreadable)?;
    if [&noted, &source.facts].into_iter().all(|before| lasting(before) == lasting(&found.facts)) {
        return Ok(None);
    }
    tree::write(&seat.data.join(FACTS), &found.facts.to_string(), seat.account.as_ref())?;
    Ok(Some(found))
}

/// Facts, without what changes by itself all the time.
fn lasting(facts: &Value) -> Value {
    let mut lasting = facts.clone();
    for name in ["bytes", "unlogged"] {
        if let Some(value) = lasting.get_mut(name) {
            *value = json!(0);
        }
    }
    lasting
}
