//! The mirror: a streaming standby with one connection to production, and a receiver that writes the log
//! from the standby.
//!
//! ```text
//! production ══ one walreceiver, one bounded slot ══▶ standby (fsync on) ── socket ──▶ pg_receivewal ──▶ LOG/epoch-N/live
//! ```
//!
//! # Crash consistency
//! Production forgets log only after the standby has it on disk; the standby keeps it (by a slot of its
//! own) until the receiver has synced the segment. So whatever dies, the log goes on where it stopped.

use std::fs;
use std::path::Path;

use jiff::Timestamp;
use pando_host::plain;
use pando_model::{Lsn, SourceUrl};

use super::facts::Facts;
use super::install::Installation;
use super::production::{conninfo, query, replication};
use super::{PostgresEngine, control, settings, tree};
use crate::{EngineError, Link, Pulse, Seat, Source, UnitPlan};

/// The slot that holds the standby's log for the receiver.
const LOG_SLOT: &str = "pando_log";

fn io(action: &str) -> impl Fn(std::io::Error) -> EngineError + '_ {
    move |source| EngineError::Io { action: action.to_owned(), source }
}

/// The replication slot's name on production.
fn slot<'a>(facts: &Facts, source: &'a Source) -> Option<&'a str> {
    facts.slot.then_some(source.tag.as_str())
}

pub fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// Makes the slot on production, if there is to be one.
pub fn ensure_slot(
    engine: &PostgresEngine,
    installation: &Installation,
    facts: &Facts,
    source: &Source,
) -> Result<(), EngineError> {
    let Some(name) = slot(facts, source) else { return Ok(()) };
    let name = literal(name);
    let sql = format!(
        "SELECT pg_catalog.pg_create_physical_replication_slot({name}, true) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = {name})"
    );
    query(installation, engine.account(), &source.url, &sql).map(drop)
}

/// Drops Pando's slot. Waits a little for its former user to be gone.
pub fn drop_slot(engine: &PostgresEngine, source: &Source) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    let installation = engine.installations().of(facts.major)?;
    let name = literal(&source.tag);
    let sql = format!(
        "SELECT pg_catalog.pg_drop_replication_slot(slot_name) FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = {name}"
    );
    let mut last = Ok(());
    for _ in 0..20 {
        last = query(installation, engine.account(), &source.url, &sql).map(drop);
        match &last {
            Err(error) if format!("{:?}", error).contains("is active for PID") => engine.wait(250),
            _ => break,
        }
    }
    last
}

/// The first copy: `pg_basebackup` into an empty directory.
pub fn ingest(engine: &PostgresEngine, seat: &Seat, source: &Source) -> Result<UnitPlan, EngineError> {
    let facts = engine.facts(source)?;
    let installation = engine.installations().of(facts.major)?;
    tree::private_dir(&seat.data, seat.account.as_ref())?;
    tree::empty(&seat.data)?;
    // A slot left by an interrupted copy may hold an unneeded stretch or be lost: begin anew.
    if slot(&facts, source).is_some() {
        drop_slot(engine, source)?;
        ensure_slot(engine, installation, &facts, source)?;
    }
    let mut args = vec![
        "--pgdata".to_owned(),
        seat.data.to_string_lossy().into_owned(),
        "--dbname".to_owned(),
        conninfo(&source.url, &[("application_name", &source.tag)]),
        "--format=plain".to_owned(),
        "--wal-method=stream".to_owned(),
        "--checkpoint=fast".to_owned(),
        "--progress".to_owned(),
        "--no-password".to_owned(),
    ];
    if let Some(name) = slot(&facts, source) {
        args.extend(["--slot".to_owned(), name.to_owned()]);
    }
    let mut env = std::collections::BTreeMap::new();
    if let Some(password) = &source.url.password {
        env.insert("PGPASSWORD".to_owned(), password.clone());
    }
    Ok(UnitPlan {
        role: "ingest",
        program: installation.tool("pg_basebackup")?.path().to_owned(),
        args,
        env,
        dir: "/".into(),
        account: seat.account.clone(),
        locks: Vec::new(),
        stop_by_interrupt: true,
        stop_grace_seconds: 5,
    })
}

/// Reads `12345/67890 kB (18%), 0/1 tablespace` as bytes.
pub fn progress(log: &str) -> Option<(u64, Option<u64>)> {
    let line = log.rsplit(['\n', '\r']).find(|line| line.contains(" kB (") || line.contains(" kB,"))?;
    let (done, total) = line.trim().split_once(" kB")?.0.split_once('/')?;
    let kilobytes = |text: &str| text.trim().parse::<u64>().ok().map(|kb| kb * 1024);
    Some((kilobytes(done)?, kilobytes(total)))
}

/// Turns the copy into a mirror and begins an epoch of the log.
pub fn settle(engine: &PostgresEngine, seat: &Seat, source: &Source) -> Result<(), EngineError> {
    let facts = engine.facts(source)?;
    tree::clean(&seat.data, true)?;
    let text = serde_json::to_string(&facts).map_err(super::unreadable)?;
    tree::write(&seat.data.join(super::FACTS), &text, seat.account.as_ref())?;
    write_settings(engine, seat, source, &facts)?;
    let log = engine.log(&seat.log)?;
    let epoch = log.begin_epoch(seat.account.as_ref())?;
    seed(&seat.data.join("pg_wal"), &log.live_dir(epoch), seat)
}

/// Gives the receiver its starting point: the copy's own complete segments, and an empty `.partial` for the
/// one the standby will stream anew. Without it some versions of `pg_receivewal` begin wherever the server
/// is by then (PostgreSQL `FindStreamingStart` in pg_receivewal.c).
fn seed(from: &Path, live: &Path, seat: &Seat) -> Result<(), EngineError> {
    let action = io("seeding the log from the first copy");
    let mut segments: Vec<String> = fs::read_dir(from)
        .map_err(&action)?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.len() == 24 && name.bytes().all(|b| b.is_ascii_hexdigit()))
        .collect();
    segments.sort();
    let Some(last) = segments.pop() else { return Ok(()) };
    let copy = |name: &str| {
        let mut target = plain::create(&live.join(name), seat.account.as_ref())?;
        std::io::copy(&mut plain::open(&from.join(name))?, &mut target)
    };
    for name in segments.iter().map(String::as_str) {
        copy(name).map_err(&action)?;
    }
    for entry in fs::read_dir(from).map_err(&action)?.flatten() {
        let name = entry.file_name();
        if let Some(name) = name.to_str().filter(|name| name.ends_with(".history")) {
            copy(name).map_err(&action)?;
        }
    }
    tree::write(&live.join(format!("{last}.partial")), "", seat.account.as_ref())
}

fn write_settings(engine: &PostgresEngine, seat: &Seat, source: &Source, facts: &Facts) -> Result<(), EngineError> {
    let installation = engine.installations().of(facts.major)?;
    tree::private_dir(&seat.run, seat.account.as_ref())?;
    let passfile = seat.run.join("passfile");
    let mut more = vec![("application_name", source.tag.as_str()), ("dbname", "replication")];
    let shown = passfile.to_string_lossy().into_owned();
    if let Some(password) = &source.url.password {
        let escaped = password.replace('\\', "\\\\").replace(':', "\\:");
        tree::write(&passfile, &format!("*:*:*:*:{escaped}\n"), seat.account.as_ref())?;
        more.push(("passfile", &shown));
    }
    more.retain(|(name, _)| *name != "dbname");
    let conninfo = conninfo(&source.url, &more);
    let mut settings = settings::mirror(facts, installation, &seat.run, &conninfo, slot(facts, source));
    // Production may have raised a size since: the control file knows (T-11).
    if let Ok(control) = control::read(installation, seat.account.as_ref(), &seat.data) {
        for (name, value) in &control.sizes {
            let known = facts.settings.get(name).and_then(|text| text.parse::<u64>().ok()).unwrap_or(0);
            if *value > known {
                settings.set(name, value.to_string());
            }
        }
    }
    tree::configure(&seat.data, &settings, false, seat.account.as_ref())?;
    tree::write(&seat.data.join("standby.signal"), "", seat.account.as_ref())
}

/// A server's unit on a tree; `port` names its socket too.
pub fn server(installation: &Installation, seat: &Seat, port: u16) -> Result<UnitPlan, EngineError> {
    Ok(UnitPlan {
        role: "server",
        program: installation.tool("postgres")?.path().to_owned(),
        args: vec!["-D".to_owned(), seat.data.to_string_lossy().into_owned()],
        env: std::collections::BTreeMap::new(),
        dir: seat.data.clone(),
        account: seat.account.clone(),
        locks: vec![seat.data.join("postmaster.pid"), seat.run.join(format!(".s.PGSQL.{port}.lock"))],
        stop_by_interrupt: true,
        stop_grace_seconds: 60,
    })
}

/// The receiver that writes a server's log into `live`. It syncs whole segments only: what the timeline
/// shows of the last one was synced by [`WalLog::advance`](super::wal::WalLog::advance) before (T-21), some
/// times a second instead of at every commit of production.
pub fn receiver(
    installation: &Installation,
    seat: &Seat,
    port: u16,
    superuser: &str,
    live: &Path,
) -> Result<UnitPlan, EngineError> {
    Ok(UnitPlan {
        role: "receiver",
        program: installation.tool("pg_receivewal")?.path().to_owned(),
        args: [
            "--directory",
            &live.to_string_lossy(),
            "--host",
            &seat.run.to_string_lossy(),
            "--port",
            &port.to_string(),
            "--username",
            superuser,
            "--slot",
            LOG_SLOT,
            "--no-loop",
            "--no-password",
        ]
        .map(str::to_owned)
        .to_vec(),
        env: std::collections::BTreeMap::new(),
        dir: "/".into(),
        account: seat.account.clone(),
        locks: Vec::new(),
        stop_by_interrupt: true,
        stop_grace_seconds: 5,
    })
}

/// The units that keep the mirror up to date.
pub fn follow(engine: &PostgresEngine, seat: &Seat, source: &Source) -> Result<Vec<UnitPlan>, EngineError> {
    let (facts, installation) = engine.installation(seat, source)?;
    write_settings(engine, seat, source, &facts)?;
    let log = engine.log(&seat.log)?;
    let epoch = log.current_epoch().ok_or_else(|| EngineError::Invalid("the mirror has no log yet".to_owned()))?;
    log.mend_live(epoch)?;
    Ok(vec![
        server(installation, seat, settings::SOCKET_PORT)?,
        receiver(installation, seat, settings::SOCKET_PORT, &facts.superuser, &log.live_dir(epoch))?,
    ])
}

/// After so many seconds of silence the line to production is given up. The standby's receiver does that itself
/// after `wal_receiver_timeout`, except while it waits for a production that has said good-bye to hang up
/// (`libpqrcv_endstreaming`): where a host has vanished, or a balancer keeps the line, for ever.
const SILENCE: f64 = 12.0;

/// What one look at a server told.
struct Look {
    recovering: bool,
    paused_by_size: bool,
    streaming: bool,
    /// For so many seconds nothing came on a line that stands; nothing where there is no line.
    silent: f64,
    flushed: Option<Lsn>,
    sent_at: Option<Timestamp>,
}

/// Makes sure that the server keeps its log for the receiver.
pub fn ensure_log_slot(client: &mut postgres::Client) -> Result<(), postgres::Error> {
    client.batch_execute(&format!(
        "SELECT pg_catalog.pg_create_physical_replication_slot('{LOG_SLOT}', true) \
         WHERE NOT EXISTS (SELECT 1 FROM pg_catalog.pg_replication_slots WHERE slot_name = '{LOG_SLOT}')"
    ))
}

fn look(client: &mut postgres::Client) -> Result<Look, postgres::Error> {
    ensure_log_slot(client)?;
    let row = client.query_one(
        "SELECT r.recovering, r.recovering AND pg_catalog.pg_is_wal_replay_paused(),
                coalesce(w.status = 'streaming', false),
                CASE WHEN r.recovering THEN w.latest_end_lsn::text ELSE pg_catalog.pg_current_wal_flush_lsn()::text END,
                (extract(epoch FROM CASE WHEN r.recovering THEN w.last_msg_send_time ELSE r.now END) * 1000000)::bigint,
                coalesce(extract(epoch FROM r.now - w.last_msg_receipt_time), 0)::float8
         FROM (SELECT pg_catalog.pg_is_in_recovery() AS recovering, clock_timestamp() AS now) r
         LEFT JOIN pg_catalog.pg_stat_wal_receiver w ON true",
        &[],
    )?;
    Ok(Look {
        recovering: row.get(0),
        paused_by_size: row.get(1),
        streaming: row.get(2),
        flushed: row.get::<_, Option<String>>(3).and_then(|text| text.parse().ok()),
        sent_at: row.get::<_, Option<i64>>(4).and_then(|micros| Timestamp::from_microsecond(micros).ok()),
        silent: row.get(5),
    })
}

/// Lets the log advance and says how far it is.
pub fn pulse(engine: &PostgresEngine, seat: &Seat, source: &Source, urgent: bool) -> Result<Pulse, EngineError> {
    let (facts, installation) = engine.installation(seat, source)?;
    let log = engine.log(&seat.log)?;
    let server = engine.server(seat, source)?;
    let ask = || engine.sessions().with(&server, look);
    let look = match ask() {
        // A mirror that was paused reads what came meanwhile first.
        Ok(Look { silent, .. }) if silent > SILENCE => {
            engine.wait(500);
            ask()
        }
        other => other,
    };
    let look = match look {
        Ok(look) => look,
        Err(error) => {
            let advanced = log.advance()?;
            let why = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
            let why = format!("the mirror's server does not answer: {why}");
            return Ok(Pulse { link: Link::Disconnected(why), through: None, changed: advanced.changed });
        }
    };
    // What must be in the log, and the time by which it is complete once it is.
    let known = if urgent && look.recovering {
        Some(ask_position(engine, installation, &source.url)?)
    } else {
        look.flushed.zip(look.sent_at)
    };
    let mut advanced = log.advance()?;
    let mut through = None;
    if let Some((position, at)) = known {
        let tries = if urgent { 400 } else { 3 };
        for attempt in 0..tries {
            if advanced.end >= position {
                log.complete_until(at, position)?;
                through = Some(at);
                break;
            }
            if attempt + 1 < tries {
                engine.wait(5);
                let again = log.advance()?;
                advanced = super::wal::Progress { changed: advanced.changed || again.changed, ..again };
            }
        }
    }
    let link = if look.silent > SILENCE {
        Link::Restart(format!("the line to production stands, but nothing came on it for {:.0} s", look.silent))
    } else if !look.recovering || look.streaming {
        Link::Following
    } else if look.paused_by_size && !engine.is_held(&seat.run) {
        Link::Restart("production raised a size that its standbys must have".to_owned())
    } else {
        why_not_streaming(engine, installation, &facts, source)
    };
    let through = match link {
        // Asked for and not come: an older time would hide that the log does not flow.
        Link::Following if urgent && look.recovering => through,
        Link::Following => through.or(advanced.last_commit),
        _ => advanced.last_commit,
    };
    Ok(Pulse { link, through, changed: advanced.changed })
}

/// Production's clock and the end of its log, in this order: what was committed by then lies before it.
fn ask_position(
    engine: &PostgresEngine,
    installation: &Installation,
    url: &SourceUrl,
) -> Result<(Lsn, Timestamp), EngineError> {
    let sql = "SELECT (extract(epoch FROM pg_catalog.clock_timestamp()) * 1000000)::bigint, \
               CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn() \
               ELSE pg_catalog.pg_current_wal_flush_lsn() END";
    let text = query(installation, engine.account(), url, sql)?;
    text.split_once('|')
        .and_then(|(micros, lsn)| Some((lsn.parse().ok()?, Timestamp::from_microsecond(micros.parse().ok()?).ok()?)))
        .ok_or_else(|| EngineError::Invalid(format!("production's position cannot be read: {text:?}")))
}

/// The standby is up, but nothing streams: is production away, or is what we need gone? Between two questions the last
/// answer counts.
fn why_not_streaming(engine: &PostgresEngine, installation: &Installation, facts: &Facts, source: &Source) -> Link {
    if let Some(said) = engine.said(&source.tag) {
        return Link::Disconnected(said);
    }
    let link = ask_why(engine, installation, facts, source);
    if let Link::Disconnected(why) = &link {
        engine.keep_said(&source.tag, why);
    }
    link
}

fn ask_why(engine: &PostgresEngine, installation: &Installation, facts: &Facts, source: &Source) -> Link {
    let said = |error: EngineError| {
        Link::Disconnected(std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string))
    };
    let name = literal(&source.tag);
    let sql = format!(
        "SELECT coalesce((SELECT coalesce(wal_status, 'lost') FROM pg_catalog.pg_replication_slots \
         WHERE slot_name = {name}), 'none')"
    );
    match query(installation, engine.account(), &source.url, &sql) {
        Err(error) => said(error),
        Ok(status) if facts.slot && status == "lost" => {
            Link::Lost("production has dropped log that the mirror still needed (its slot is lost)".to_owned())
        }
        Ok(status) if facts.slot && status == "none" => match ensure_slot(engine, installation, facts, source) {
            Ok(()) => {
                Link::Disconnected("production had no slot for the mirror any more; it was made again".to_owned())
            }
            Err(error) => said(error),
        },
        // Who is let in may still be kept from replicating.
        Ok(_) => match replication(installation, engine.account(), &source.url, "IDENTIFY_SYSTEM") {
            Err(error) => said(error),
            Ok(_) => Link::Disconnected("production answers, but does not stream yet".to_owned()),
        },
    }
}

/// Errors of the standby's log that only a new first copy mends; the server runs in the C locale.
pub fn diagnose(log: &str) -> Option<Link> {
    if let Some(place) = tablespace(log) {
        return Some(Link::Lost(format!(
            "production made a tablespace outside its data directory ({place}), which cannot be followed"
        )));
    }
    const LOST: [&str; 5] = [
        "has already been removed",
        "database system identifier differs",
        "is not in this server's history",
        "forked off current database system timeline",
        "is ahead of the WAL flush position of this server",
    ];
    let line = log.lines().rev().find(|line| LOST.iter().any(|text| line.contains(text)))?;
    // Anything that streamed afterwards proves that it was not the end.
    let later = log.rsplit(line).next().unwrap_or_default();
    if later.contains("started streaming WAL from primary") {
        return None;
    }
    let line = line.split("FATAL:").nth(1).or_else(|| line.split("LOG:").nth(1)).unwrap_or(line);
    Some(Link::Lost(line.trim().to_owned()))
}

/// The place of a tablespace whose creation stopped the replay: the context of the server's last error. The tree
/// forbids it (see [`tree::clean`]): replayed on the machine of production, it would be production's own (T-9).
fn tablespace(log: &str) -> Option<&str> {
    let (_, end) = log.rsplit_once("for Tablespace/CREATE: ")?;
    let (line, later) = end.split_once('\n').unwrap_or((end, ""));
    (!later.contains("started streaming WAL")).then(|| line.split('"').nth(1).unwrap_or(line))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_read_from_recorded_output() {
        let log =
            "waiting for checkpoint\n    0/35714 kB (0%), 0/1 tablespace\n35723/35714 kB (100%), 0/1 tablespace\n";
        assert_eq!(progress(log), Some((35723 * 1024, Some(35714 * 1024))));
        assert_eq!(progress("nonsense"), None);
    }

    #[test]
    fn t13_a_removed_segment_is_a_loss_until_streaming_starts_again() {
        let lost = "LOG:  started streaming WAL from primary at 0/1\nFATAL:  could not receive data from WAL stream: ERROR:  requested WAL segment 000000010000000000000003 has already been removed\n";
        assert!(matches!(diagnose(lost), Some(Link::Lost(_))));
        assert_eq!(diagnose(&format!("{lost}LOG:  started streaming WAL from primary at 0/5\n")), None);
        assert_eq!(diagnose("LOG: all is well"), None);
    }

    #[test]
    fn t09_a_tablespace_is_recognised_until_streaming_starts_again() {
        let log = "FATAL:  could not create symbolic link \"pg_tblspc/16384\": Permission denied\n\
                   CONTEXT:  WAL redo at 0/3000060 for Tablespace/CREATE: 16384 \"/srv/fast disk\"\n\
                   LOG:  startup process (PID 7) exited with exit code 1\n";
        assert!(matches!(diagnose(log), Some(Link::Lost(why)) if why.contains("(/srv/fast disk)")));
        assert_eq!(diagnose(&format!("{log}LOG:  started streaming WAL from primary at 0/5\n")), None);
    }
}
