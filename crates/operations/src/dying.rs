//! Servers that die soon after every start: they are started again, after longer and longer pauses, until there were too
//! many for chance.

use jiff::{SignedDuration, Timestamp};

/// The first pause; each is twice as long as the one before, up to 64 times this.
const PAUSE: SignedDuration = SignedDuration::from_millis(300);
/// So long a server must have lived to be none that dies soon.
const SOUND: SignedDuration = SignedDuration::from_secs(20);
/// So many starts may be chance, or a trouble that passes.
const CHANCE: u32 = 5;
/// After so long it is none that passes: what the server has is damaged.
const DAMAGED: SignedDuration = SignedDuration::from_mins(5);

/// A server that died, and was started again.
#[derive(Debug, Clone)]
pub struct Dying {
    /// With what words it died last; of the first time, which may have been in good order, none.
    pub why: String,
    since: Timestamp,
    started: Timestamp,
    starts: u32,
}

impl Dying {
    /// Of a server that is found dead: what is known of it when it is started again at this moment. None: it is too soon.
    pub fn again(last: Option<&Self>, now: Timestamp, why: impl FnOnce() -> String) -> Option<Self> {
        let Some(last) = last else {
            return Some(Self { why: String::new(), since: now, started: now, starts: 1 });
        };
        let rested = now.duration_since(last.started) >= PAUSE * (1 << last.starts.min(6));
        rested.then(|| Self { why: why(), since: last.since, started: now, starts: last.starts + 1 })
    }

    /// Whether one that is found alive has lived long enough to be forgotten here.
    pub fn is_over(&self, now: Timestamp) -> bool {
        now.duration_since(self.started) >= SOUND
    }

    /// Whether it died too often for chance.
    pub const fn is_hopeless(&self) -> bool {
        self.starts > CHANCE
    }

    /// Whether that went on for too long for a trouble that passes.
    pub fn is_damaged(&self, now: Timestamp) -> bool {
        self.is_hopeless() && now.duration_since(self.since) >= DAMAGED
    }
}
