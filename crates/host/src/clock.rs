//! Time and randomness, handed in so that tests can fix them. Only this file reads the machine's clock.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

/// What time it is, and how to wait.
pub trait Clock: Send + Sync {
    /// The wall clock.
    fn now(&self) -> Timestamp;
    /// Waits. A manual clock jumps ahead instead.
    fn sleep(&self, span: Duration);
    /// A clock that never goes back, for measuring spans.
    fn instant(&self) -> Instant;
}

/// The machine's clock.
#[derive(Debug, Default, Clone, Copy)]
pub struct SystemClock;

#[allow(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        Timestamp::now()
    }
    fn sleep(&self, span: Duration) {
        std::thread::sleep(span);
    }
    fn instant(&self) -> Instant {
        Instant::now()
    }
}

/// A clock that moves only when told to.
#[derive(Debug)]
pub struct ManualClock {
    now: Mutex<Timestamp>,
}

impl ManualClock {
    /// A clock that stands at `now`.
    pub fn at(now: Timestamp) -> Self {
        Self { now: Mutex::new(now) }
    }

    /// Moves the clock ahead.
    pub fn advance(&self, span: SignedDuration) {
        let mut now = self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        *now = now.checked_add(span).unwrap_or(Timestamp::MAX);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
    fn sleep(&self, span: Duration) {
        self.advance(SignedDuration::try_from(span).unwrap_or(SignedDuration::ZERO));
    }
    fn instant(&self) -> Instant {
        SystemClock.instant()
    }
}

/// Fills an array from the kernel's random source.
///
/// # Panics
/// When the kernel has no random source, which no supported system lacks.
#[allow(clippy::expect_used, reason = "getrandom(2) cannot fail on a supported kernel once it has returned")]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes).expect("the kernel's random source");
    bytes
}

/// The two numbers an id is made from: milliseconds since 1970, and 32 random bits.
pub fn id_parts(clock: &dyn Clock) -> (u64, u32) {
    (u64::try_from(clock.now().as_millisecond()).unwrap_or(0), u32::from_le_bytes(random()))
}
