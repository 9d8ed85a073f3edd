//! The story's frame: a daemon, a production, the order of the chapters, and what is said at the end. The chapters
//! about clones are in `clones.rs`.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use pando_api::InitRequest;
use pando_host::{Account, Clock, SystemClock};
use pando_model::{CloneView, LinkRequest, LinkSource, OwnerUsage};

use super::hands::name;
use super::production::{Shop, failed, query_one};
use super::stage::Stage;
use super::tell::{Teller, grouped, span};
use super::writer::{Oracle, Writer, now};
use crate::errors::Done;
use crate::human;

/// The pool's image, where one is needed: sparse, so this is only how large it may grow.
const IMAGE: u64 = 8 << 30;
/// For how long production is watched before Pando comes.
const WATCH: Duration = Duration::from_secs(3);

/// Who tells, and about what.
pub struct Story<'a> {
    pub stage: &'a mut Stage,
    pub teller: &'a mut Teller,
    pub shop: Shop,
    pub oracle: Oracle,
    /// Whether clones are full copies.
    pub copies: bool,
}

/// Tells the whole story.
pub fn tell(stage: &mut Stage, teller: &mut Teller, size: Option<u64>) -> Done {
    teller.line(&format!("Everything this demo makes is in {}, and goes at the end.", stage.dir.display()))?;
    if Account::is_root() && Account::named("pando").is_ok_and(|found| found.is_none()) {
        teller.line("But one thing stays: the account pando, which servers run as when Pando is root.")?;
    }
    let copies = pool(stage, teller)?;
    let bytes = size.unwrap_or(if copies { 100 << 20 } else { 300 << 20 });
    let shop = open_shop(stage, teller, bytes)?;
    let mut writer = Writer::start(shop.clone());
    let mut story = Story { stage, teller, shop, oracle: writer.oracle.clone(), copies };
    let told = story.chapters();
    writer.stop();
    told
}

/// The daemon and its pool. Answers whether clones will be full copies.
fn pool(stage: &mut Stage, teller: &mut Teller) -> Done<bool> {
    teller.chapter("A daemon and a pool")?;
    teller.command(&format!("pando serve --home {} & pando init --size 8G", stage.home().display()))?;
    let begun = SystemClock.instant();
    stage.start_daemon()?;
    let body = InitRequest { size_bytes: Some(IMAGE), ..InitRequest::default() };
    let found = stage.hands.ask(async |client| client.init(&body).await)?;
    let took = span(since(begun));
    for item in found.items.iter().filter(|item| item.what == "pool") {
        teller.fact(&item.found)?;
    }
    let disk = stage.hands.disk()?;
    teller.figure("driver", disk.driver.as_str());
    teller.fact(&format!("ready in {took}, driver {}", disk.driver))?;
    Ok(disk.driver == "copy")
}

fn open_shop(stage: &mut Stage, teller: &mut Teller, bytes: u64) -> Done<Shop> {
    teller.chapter("A small production")?;
    let begun = SystemClock.instant();
    let shop = stage.open_shop(bytes)?;
    let took = span(since(begun));
    let version: String = query_one(&mut shop.connect()?, "SHOW server_version")?;
    let (database, attached, files) = shop.size()?;
    teller.figure("production_bytes", database + attached);
    let version = version.split(' ').next().unwrap_or_default();
    teller.fact(&format!(
        "PostgreSQL {version} on 127.0.0.1:{} with a shop of {} orders,",
        shop.port,
        grouped(past(&shop))
    ))?;
    let (database, attached) = (human::bytes(database), human::bytes(attached));
    teller.fact(&format!("{database}, and a directory of {files} attachments, {attached} (made in {took})"))?;
    Ok(shop)
}

/// How long ago that was.
pub fn since(begun: Instant) -> Duration {
    SystemClock.instant().duration_since(begun)
}

fn past(shop: &Shop) -> u64 {
    u64::try_from(shop.past).unwrap_or(0)
}

impl Story<'_> {
    fn chapters(&mut self) -> Done {
        let before = self.watch()?;
        let linking = self.link()?;
        let cloning = now();
        let [ann, ben, cleo]: [CloneView; 3] = self.clones()?;
        self.rewind(&ann, &cleo)?;
        self.refresh(&ben)?;
        self.production(&[before, linking, (cloning, now())])?;
        self.bytes()?;
        self.oracle.check()
    }

    /// Lets production run alone.
    fn watch(&mut self) -> Done<(Timestamp, Timestamp)> {
        let from = now();
        self.wait(WATCH)?;
        let pace = self.oracle.pace(from, now());
        let rate = format!("{:.0} orders a second come in, every fourth with an attachment;", pace.per_second);
        self.teller.fact(&format!("{rate} each is a synced commit"))?;
        Ok((from, now()))
    }

    /// Lets time pass.
    pub fn wait(&self, span: Duration) -> Done {
        let end = SystemClock.instant() + span;
        while SystemClock.instant() < end {
            self.stage.hands.go_on()?;
            SystemClock.sleep(Duration::from_millis(50).min(end.saturating_duration_since(SystemClock.instant())));
        }
        self.oracle.check()
    }

    fn link(&mut self) -> Done<(Timestamp, Timestamp)> {
        self.teller.chapter("Link it: a mirror, and a timeline behind it")?;
        let files = format!("file://{}", self.shop.attachments.display());
        let shown = self.shop.url("pando", "shop").replace(&self.shop.password, "…");
        self.teller.command(&format!("pando link shop '{shown}' {files}"))?;
        let source = |url: String| LinkSource { name: None, url, exclude: Vec::new(), image: None };
        let sources = vec![source(self.shop.url("pando", "shop")), source(files)];
        let body = LinkRequest {
            app: name("shop")?,
            sources,
            policy: None,
            set: Default::default(),
            edits: Vec::new(),
            hooks: Vec::new(),
        };
        let (from, begun) = (now(), SystemClock.instant());
        self.stage.hands.carry_out(async |client| client.link(&body).await)?;
        let took = since(begun);
        self.teller.figure("link_ms", took.as_millis() as u64);
        self.teller.fact(&format!("copied while orders came in, and followed from then on: {}", span(took)))?;
        Ok((from, now()))
    }

    /// How production did meanwhile.
    fn production(&mut self, spans: &[(Timestamp, Timestamp); 3]) -> Done {
        self.teller.chapter("And production?")?;
        let columns = ["orders/s", "median", "99 of 100", "slowest"];
        let [rate, median, most, slowest] = columns;
        self.teller.fact(&format!("{:28} {rate:>8} {median:>12} {most:>12} {slowest:>12}", ""))?;
        let whens =
            [("before Pando", "before"), ("while it was linked", "linking"), ("while clones were made", "cloning")];
        for ((when, figure), (from, to)) in whens.into_iter().zip(spans) {
            let pace = self.oracle.pace(*from, *to);
            self.teller.pace(when, figure, &pace)?;
        }
        self.teller.fact("(all of this runs on one machine: in life production has its own)")?;
        let mut client = self.shop.connect()?;
        let (_, orders) = self.oracle.still();
        let has: i64 = query_one(&mut client, "SELECT count(*) FROM orders")?;
        let has = u64::try_from(has).unwrap_or(0);
        if has < past(&self.shop) + orders {
            let why = format!("{has} orders, {} were committed", past(&self.shop) + orders);
            return Err(failed("production lost orders", why));
        }
        let pandos = "SELECT count(*) FROM pg_stat_activity WHERE usename = 'pando'";
        let connections: i64 = query_one(&mut client, pandos)?;
        let (has, plural) = (grouped(has), if connections == 1 { "" } else { "s" });
        self.teller.fact(&format!(
            "It has all its {has} orders, and its table; Pando holds {connections} connection{plural} to it."
        ))
    }

    /// What it takes.
    fn bytes(&mut self) -> Done {
        self.teller.chapter("What it takes")?;
        self.teller.command("pando du")?;
        let (database, attached, _) = self.shop.size()?;
        let disk = self.stage.hands.disk()?;
        let clones = disk.owners.iter().filter(|owner| owner.kind == "clone");
        let own =
            |owner: &OwnerUsage| owner.volume_bytes.unwrap_or(0) + owner.snapshot_bytes.unwrap_or(0) + owner.log_bytes;
        let (count, sum) = clones.fold((0_u64, 0), |(count, sum), owner| (count + 1, sum + own(owner)));
        let production = database + attached;
        self.teller.figure("clones_bytes", sum);
        self.teller.figure("pool_used_bytes", disk.used_bytes);
        let log: u64 = disk.owners.iter().filter(|owner| owner.kind != "clone").map(|owner| owner.log_bytes).sum();
        let [production, whole, sum, log, used] =
            [production, production * count, sum, log, disk.used_bytes].map(human::bytes);
        let pool = if self.copies { "the pool's whole file system" } else { "the pool: mirror, snapshots, clones" };
        let rows = [
            ("production".to_owned(), production),
            (format!("{count} clones, as their servers see them"), whole),
            (format!("{count} clones, what they hold of their own"), sum),
            ("the log behind the mirror".to_owned(), log),
            (pool.to_owned(), used),
        ];
        for (what, bytes) in rows {
            self.teller.fact(&format!("{what:40} {bytes:>9}"))?;
        }
        if self.copies {
            self.teller.fact("Here every clone is a full copy; `pando doctor` says what would make them cheap.")?;
        }
        Ok(())
    }
}

/// What to say of a demo that was kept.
pub fn kept(stage: &Stage, teller: &Teller) -> Done {
    let home = stage.home();
    teller.line("\nIt goes on: orders come in, the mirror follows, the clones run. Look around:")?;
    teller.line(&format!("   export PANDO_HOME={}", home.display()))?;
    for command in ["ls", "timeline shop", "clone shop@-10s dora", "connect dora db", "env ann", "doctor"] {
        teller.command(&format!("pando {command}"))?;
    }
    if let Some(shop) = stage.shop() {
        teller.line(&format!("Production itself is {}", shop.url("shop", "shop")))?;
    }
    teller.line("And when you have seen enough:")?;
    teller.command(&format!("pando demo --end {}", stage.dir.display()))
}

/// What to try next.
pub fn next(teller: &Teller) -> Done {
    teller.line("Try next:")?;
    teller.command("pando demo --keep                   the same, left running, to look around in")?;
    teller.command("pando serve & pando init            a daemon of your own, and")?;
    teller.command("pando link APP postgres://…         your own production: it says what it needs")
}
