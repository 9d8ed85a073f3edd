//! The chapters about clones: made at three moments, one broken and rewound, one refreshed. After each step the clone
//! is checked against what production had committed.

use std::time::Duration;

use jiff::Timestamp;
use pando_host::{Clock, SystemClock};
use pando_model::{CloneRequest, CloneView, EngineKind, Moment, MomentRequest};

use super::check::{self, Expected, Held};
use super::hands::name;
use super::production::{failed, query_one, words};
use super::story::{Story, since};
use super::tell::{grouped, span};
use super::writer::now;
use crate::errors::Done;
use crate::human;

/// Orders that somebody places in a clone.
const OWN: u64 = 10;
/// How long a recording clone may take to begin its timeline.
const PATIENCE: Duration = Duration::from_secs(60);

impl Story<'_> {
    /// Three clones of three moments.
    pub fn clones(&mut self) -> Done<[CloneView; 3]> {
        self.teller.chapter("Three clones, of three moments")?;
        let (early, orders) = self.oracle.still();
        let ann = self.make("ann", Moment::Latest, true)?;
        self.teller.fact("the newest state that was prepared; it records a log of its own")?;
        self.holds(&ann, None, 0)?;
        self.wait(Duration::from_secs(3))?;
        let ben = self.make("ben", Moment::At(early), false)?;
        self.teller.fact("to the commit: the moment right after the link")?;
        self.holds(&ben, Some((orders, orders)), 0)?;
        let (_, asked) = self.oracle.still();
        let cleo = self.make("cleo", Moment::Now, false)?;
        self.teller.fact("whatever was committed when it was asked for")?;
        let held = self.holds(&cleo, None, 0)?;
        if held.orders < asked {
            let why = format!("{asked} orders were committed before, it has {}", held.orders);
            return Err(failed("cleo is older than it was asked for", why));
        }
        Ok([ann, ben, cleo])
    }

    fn make(&mut self, clone: &str, moment: Moment, record: bool) -> Done<CloneView> {
        let at = if moment == Moment::Latest { String::new() } else { format!("@{moment}") };
        let more = if record { " --record" } else { "" };
        self.teller.command(&format!("pando clone shop{at} {clone}{more}"))?;
        let body = CloneRequest {
            compose: None,
            from: name("shop")?,
            moment: Some(moment),
            clone: name(clone)?,
            profile: None,
            record,
            lease_seconds: None,
            set: Default::default(),
            runtime: None,
            container: Default::default(),
        };
        self.stage.hands.carry_out(async |client| client.clone_app(&body).await)?;
        let made = self.stage.hands.clone_of(&body.clone)?;
        self.teller.figure(&format!("clone_{clone}_ms"), made.timing.ready_ms);
        let (ready, storage) = (human::millis(made.timing.ready_ms), human::millis(made.timing.storage_ms));
        self.teller.fact(&format!("a query was answered after {ready}; storage took {storage} of it"))?;
        Ok(made)
    }

    /// Checks a clone and says what it holds. Without a number the clone's own word for its moment counts.
    fn holds(&mut self, clone: &CloneView, orders: Option<(u64, u64)>, own: u64) -> Done<Held> {
        let says = check::source(clone, EngineKind::Postgres)?.moment.unwrap_or(clone.moment);
        let orders = orders.unwrap_or_else(|| self.oracle.at(says));
        let held = check::holds(clone, Expected { past: self.shop.past, orders, own })?;
        let [all, new, attachments] = [held.all, held.orders, held.attachments].map(grouped);
        let exact = "exactly production's of that moment";
        self.teller
            .fact(&format!("{all} orders, {new} of them new: {exact}; all {attachments} attachments are there"))?;
        Ok(held)
    }

    /// Breaks a clone and sets it back. Another one, and production, do not notice.
    pub fn rewind(&mut self, ann: &CloneView, cleo: &CloneView) -> Done {
        self.teller.chapter("Break one, and rewind it")?;
        let before = check::holds(ann, self.expected(ann, 0)?)?;
        self.await_timeline(ann)?;
        let place = format!(
            "INSERT INTO orders (id, customer, product, note) SELECT -i, 1, 1, 'mine' FROM generate_series(1, {OWN}) i"
        );
        self.run_in(ann, "INSERT INTO orders … (10 rows)", &place)?;
        self.wait(Duration::from_millis(200))?;
        let good = now();
        self.wait(Duration::from_millis(200))?;
        self.run_in(ann, "DROP TABLE orders", "DROP TABLE orders")?;
        self.wait(Duration::from_secs(1))?;
        let gone: bool = query_one(&mut check::open(ann)?, "SELECT to_regclass('orders') IS NULL")?;
        let elsewhere: i64 = query_one(&mut check::open(cleo)?, "SELECT count(*) FROM orders")?;
        if !gone {
            return Err(failed("breaking ann", "the table is still there"));
        }
        let elsewhere = grouped(u64::try_from(elsewhere).unwrap_or(0));
        self.teller.fact(&format!("gone in ann; cleo still has its {elsewhere} orders"))?;
        let back = self.move_to(ann, "rewind", good)?;
        let held = self.holds(&back, Some((before.orders, before.orders)), OWN)?;
        self.teller.fact(&format!("its own {OWN} orders are there too: {} as before the DROP", grouped(held.all)))?;
        self.same_address(ann, &back)
    }

    /// A clone's own timeline begins with its first snapshot, which is taken behind its back.
    fn await_timeline(&self, clone: &CloneView) -> Done {
        let end = SystemClock.instant() + PATIENCE;
        while self.stage.hands.ask(async |client| client.timeline(&clone.name).await)?.ranges.is_empty() {
            if SystemClock.instant() > end {
                return Err(failed(format!("waiting for the timeline of {}", clone.name), "it has not begun"));
            }
            self.wait(Duration::from_millis(100))?;
        }
        Ok(())
    }

    fn expected(&self, clone: &CloneView, own: u64) -> Done<Expected> {
        let says = check::source(clone, EngineKind::Postgres)?.moment.unwrap_or(clone.moment);
        Ok(Expected { past: self.shop.past, orders: self.oracle.at(says), own })
    }

    fn run_in(&self, clone: &CloneView, shown: &str, sql: &str) -> Done {
        self.teller.command(&format!("pando connect {} db -- -c '{shown}'", clone.name))?;
        let ran = check::open(clone)?.batch_execute(sql);
        ran.map_err(|error| failed(format!("writing in {}", clone.name), words(&error)))
    }

    fn move_to(&mut self, clone: &CloneView, verb: &str, moment: Timestamp) -> Done<CloneView> {
        self.teller.command(&format!("pando {verb} {}@{moment}", clone.name))?;
        let begun = SystemClock.instant();
        let body = MomentRequest { moment: Some(Moment::At(moment)) };
        self.stage.hands.carry_out(async |client| client.rewind(&clone.name, &body).await)?;
        let took = since(begun);
        self.teller.figure(&format!("{verb}_ms"), took.as_millis() as u64);
        self.teller.fact(&format!("it took {}", span(took)))?;
        self.stage.hands.clone_of(&clone.name)
    }

    fn same_address(&self, before: &CloneView, after: &CloneView) -> Done {
        let url = |clone: &CloneView| check::source(clone, EngineKind::Postgres).map(|source| source.url.clone());
        if url(before)? != url(after)? {
            return Err(failed(format!("{} moved", after.name), "its address or password is another one"));
        }
        self.teller.fact("the same address and password as before")
    }

    /// Gives a clone production's newest data.
    pub fn refresh(&mut self, ben: &CloneView) -> Done {
        self.teller.chapter("Refresh another")?;
        self.teller.command(&format!("pando refresh {}@now", ben.name))?;
        let (_, asked) = self.oracle.still();
        let begun = SystemClock.instant();
        let body = MomentRequest { moment: Some(Moment::Now) };
        self.stage.hands.carry_out(async |client| client.refresh(&ben.name, &body).await)?;
        let took = since(begun);
        self.teller.figure("refresh_ms", took.as_millis() as u64);
        self.teller.fact(&format!("it took {}", span(took)))?;
        let fresh = self.stage.hands.clone_of(&ben.name)?;
        let held = self.holds(&fresh, None, 0)?;
        if held.orders < asked {
            return Err(failed("ben is older than it was asked for", format!("{asked} orders were committed before")));
        }
        self.same_address(ben, &fresh)
    }
}
