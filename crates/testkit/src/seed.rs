//! Chance that can be repeated: a small generator, its seed told in every failure and taken from the
//! environment to play a run again.

use std::fmt;

/// A generator (splitmix64) that knows where it began.
#[derive(Debug, Clone)]
pub struct Seed {
    began: u64,
    state: u64,
}

impl Seed {
    /// One that begins at a number.
    pub const fn new(began: u64) -> Self {
        Self { began, state: began }
    }

    /// One that begins at the number in an environment variable, else at `usual`: a fixed one where a run is to
    /// be the same every time.
    ///
    /// # Panics
    /// When the variable is no number.
    pub fn from_env(variable: &str, usual: u64) -> Self {
        let text = std::env::var(variable).ok();
        Self::new(text.map_or(usual, |text| text.parse().unwrap_or_else(|_| panic!("{variable} is a number"))))
    }

    /// Another generator, so that the draws of one thing do not shift those of the next.
    #[must_use]
    pub fn branch(&self, number: u64) -> Self {
        Self { began: self.began, state: self.began.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ number.wrapping_add(1) }
    }

    /// The next number.
    pub const fn draw(&mut self) -> u64 {
        self.state = self.state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below a bound (zero below zero).
    pub const fn below(&mut self, bound: u64) -> u64 {
        if bound == 0 { 0 } else { self.draw() % bound }
    }

    /// A place in a list of this length.
    ///
    /// # Panics
    /// Never: what is below a length is one.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).expect("below a usize")
    }

    /// A number from zero up to one.
    pub fn fraction(&mut self) -> f64 {
        f64::from(u32::try_from(self.draw() >> 32).expect("32 bits")) / f64::from(u32::MAX)
    }

    /// Whether something happens that happens once in so many times.
    pub const fn once_in(&mut self, times: u64) -> bool {
        self.below(times) == 0
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "seed {}", self.began)
    }
}
