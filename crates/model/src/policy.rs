//! How often snapshots are taken and how long they and the log are kept, as a pure function of time.

use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};

/// Until which age one snapshot is kept per `every`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct Tier {
    /// Age in seconds up to which this tier rules.
    pub up_to_seconds: i64,
    /// One snapshot per so many seconds; 0 keeps all.
    pub every_seconds: i64,
}

/// What is taken and what is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(default, deny_unknown_fields)]
pub struct Policy {
    /// Seconds between scheduled snapshots, taken only when something changed.
    pub snapshot_every_seconds: i64,
    /// Seconds for which the log is kept.
    pub log_keep_seconds: i64,
    /// Youngest first. What is older than the last tier is dropped.
    pub tiers: Vec<Tier>,
}

impl Default for Policy {
    /// Every minute; all for 1 h, then 10 min for a day, hourly for 2 weeks, daily for 8 weeks; the log for 2 weeks.
    fn default() -> Self {
        const HOUR: i64 = 3600;
        const DAY: i64 = 24 * HOUR;
        Self {
            snapshot_every_seconds: 60,
            log_keep_seconds: 14 * DAY,
            tiers: vec![
                Tier { up_to_seconds: HOUR, every_seconds: 0 },
                Tier { up_to_seconds: DAY, every_seconds: 600 },
                Tier { up_to_seconds: 14 * DAY, every_seconds: HOUR },
                Tier { up_to_seconds: 56 * DAY, every_seconds: DAY },
            ],
        }
    }
}

impl Policy {
    /// Which of `taken` (any order) may go at `now`, by index. The newest is always kept, and of
    /// each period the oldest, so that thinning twice gives the same answer as thinning once.
    pub fn expendable(&self, taken: &[Timestamp], now: Timestamp) -> Vec<usize> {
        let mut order: Vec<usize> = (0..taken.len()).collect();
        order.sort_by_key(|&index| taken[index]);
        let newest = order.last().copied();
        let mut kept_period = None;
        let mut expendable = Vec::new();
        for index in order {
            if Some(index) == newest {
                continue;
            }
            let age = now.duration_since(taken[index]);
            let Some(tier) = self.tiers.iter().find(|tier| age <= SignedDuration::from_secs(tier.up_to_seconds)) else {
                expendable.push(index);
                continue;
            };
            if tier.every_seconds <= 0 {
                continue;
            }
            let period = (tier.every_seconds, taken[index].as_second().div_euclid(tier.every_seconds));
            if kept_period == Some(period) {
                expendable.push(index);
            }
            kept_period = Some(period);
        }
        expendable
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + second).unwrap_or(Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn thinning_keeps_all_then_one_per_period_and_is_stable() {
        let policy = Policy::default();
        let week = 7 * 24 * 3600;
        let taken: Vec<Timestamp> = (0..week / 60).map(|minute| at(minute * 60)).collect();
        let now = at(week);
        let drop = policy.expendable(&taken, now);
        let kept: Vec<Timestamp> =
            taken.iter().enumerate().filter(|(i, _)| !drop.contains(i)).map(|(_, t)| *t).collect();
        let young = kept.iter().filter(|t| now.duration_since(**t).as_secs() <= 3600).count();
        assert_eq!(young, 60);
        assert!((60 + 137..=60 + 140 + 146).contains(&kept.len()), "{}", kept.len());
        assert!(policy.expendable(&kept, now).is_empty());
    }

    #[test]
    fn the_newest_is_kept_however_old() {
        assert!(Policy::default().expendable(&[at(0)], at(400 * 24 * 3600)).is_empty());
    }
}
