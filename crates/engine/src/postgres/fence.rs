//! A fence: production's writes to the linked database are held for some seconds, so that a cut through several
//! sources is exact. Reads go on.
//!
//! PostgreSQL has no switch for that which an ordinary role may use. What it has are locks: a session that holds
//! SHARE on every table lets nobody write into one. It takes the locks within two seconds or not at all, and sleeps as
//! long as the fence may stand; its end is the fence's end. So production itself ends it, whatever becomes of Pando.
//! Not held are other databases of the cluster, sequences, and tables made meanwhile. LOCK TABLE needs a right that
//! writes, too: `pg_maintain` (17 and later), or UPDATE, DELETE and TRUNCATE on the tables.

use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use pando_host::{Clock, SystemClock};

use super::install::Installation;
use super::mirror::literal;
use super::production::{query, query_as};
use crate::ask::PATIENCE;
use crate::postgres::PostgresEngine;
use crate::{EngineError, Source};

/// Longest wait for the locks: whoever wants to write waits behind it.
const LOCKS: &str = "2s";

const LOCK_ALL: &str = "DO $fence$ DECLARE tables text; BEGIN \
    SELECT string_agg(c.oid::regclass::text, ', ' ORDER BY c.oid) INTO tables \
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
    WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't' AND n.nspname <> 'information_schema' AND n.nspname !~ '^pg_'; \
    IF tables IS NOT NULL THEN EXECUTE 'LOCK TABLE ' || tables || ' IN SHARE MODE'; END IF; END $fence$";

fn name(source: &Source) -> String {
    format!("{}_fence", source.tag)
}

/// Raises the fence; it stands when this returns.
pub fn raise(
    engine: &PostgresEngine,
    installation: &Installation,
    source: &Source,
    limit: Duration,
) -> Result<(), EngineError> {
    let (send, receive) = channel();
    let statements =
        format!("SET lock_timeout = '{LOCKS}'; {LOCK_ALL}; SELECT pg_catalog.pg_sleep({})", limit.as_secs_f64());
    let (tool, account, url, session) =
        (installation.tool("psql")?, engine.account().cloned(), source.url.clone(), name(source));
    // The session ends when the fence is lowered or its time is over: nobody has to wait for this thread.
    std::thread::spawn(move || {
        let longest = limit.saturating_add(PATIENCE);
        let _ = send.send(query_as(&tool, account.as_ref(), &url, (&session, longest), &statements));
    });
    let standing = format!(
        "SELECT count(*) FROM pg_catalog.pg_stat_activity WHERE application_name = {} AND wait_event = 'PgSleep'",
        literal(&name(source))
    );
    loop {
        match receive.try_recv() {
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) | Err(TryRecvError::Disconnected) => {
                return Err(EngineError::Invalid("the fence fell before it could be used".to_owned()));
            }
            Err(TryRecvError::Empty) => {}
        }
        if query(installation, engine.account(), &source.url, &standing)?.trim() != "0" {
            return Ok(());
        }
        SystemClock.sleep(Duration::from_millis(20));
    }
}

/// Lowers the fence; answers whether it stood until now.
pub fn lower(engine: &PostgresEngine, installation: &Installation, source: &Source) -> Result<bool, EngineError> {
    let sql = format!(
        "SELECT coalesce(bool_and(pg_catalog.pg_terminate_backend(pid) AND wait_event = 'PgSleep'), false) \
         FROM pg_catalog.pg_stat_activity WHERE application_name = {}",
        literal(&name(source))
    );
    Ok(query(installation, engine.account(), &source.url, &sql)?.trim() == "t")
}
