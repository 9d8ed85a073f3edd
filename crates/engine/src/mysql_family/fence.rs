//! A fence: production's writes are held for some seconds, so that a cut through several sources is exact. Reads go
//! on.
//!
//! A session of production takes the global read lock within two seconds or not at all, and sleeps as long as the
//! fence may stand; its end is the fence's end. So production itself ends it, whatever becomes of Pando. Whoever wants
//! to write meanwhile waits. It needs `RELOAD`, and `PROCESS` to see that it stands: both are asked for by `link`.

use std::sync::mpsc::{TryRecvError, channel};
use std::time::Duration;

use pando_host::{Account, Clock, SystemClock};

use super::install::Installation;
use super::production::{query, query_within, says};
use super::wire::literal;
use crate::ask::PATIENCE;
use crate::{EngineError, Source};

/// Longest wait for the lock, in seconds: whoever wants to write waits behind it.
const LOCK: u32 = 2;

/// What finds the session of a fence among all. Its statement begins in another way, so it does not find itself.
fn standing(source: &Source, what: &str) -> String {
    let pattern = literal(&format!("DO SLEEP(%), {}%", literal(&source.tag)));
    format!("SELECT {what} FROM information_schema.processlist WHERE info LIKE {pattern}")
}

/// Raises the fence; it stands when this returns.
pub fn raise(
    installation: &Installation,
    account: Option<&Account>,
    source: &Source,
    limit: Duration,
) -> Result<(), EngineError> {
    let (send, receive) = channel();
    let sql = format!(
        "SET SESSION lock_wait_timeout = {LOCK}; FLUSH TABLES WITH READ LOCK; DO SLEEP({}), {}",
        limit.as_secs_f64(),
        literal(&source.tag)
    );
    let (mine, owner, url) = (installation.clone(), account.cloned(), source.url.clone());
    // The session ends when the fence is lowered or its time is over: nobody has to wait for this thread.
    std::thread::spawn(move || {
        let longest = limit.saturating_add(PATIENCE);
        let _ = send.send(query_within(&mine, owner.as_ref(), &url, longest, &sql));
    });
    loop {
        match receive.try_recv() {
            Ok(Err(error)) => return Err(error),
            Ok(Ok(_)) | Err(TryRecvError::Disconnected) => {
                return Err(EngineError::Invalid("the fence fell before it could be used".to_owned()));
            }
            Err(TryRecvError::Empty) => {}
        }
        if query(installation, account, &source.url, &standing(source, "COUNT(*)"))?.trim() != "0" {
            return Ok(());
        }
        SystemClock.sleep(Duration::from_millis(20));
    }
}

/// Lowers the fence; answers whether it stood until now.
pub fn lower(installation: &Installation, account: Option<&Account>, source: &Source) -> Result<bool, EngineError> {
    let found = query(installation, account, &source.url, &standing(source, "id"))?;
    let ids: Vec<u64> = found.lines().filter_map(|line| line.trim().parse().ok()).collect();
    for id in &ids {
        match query(installation, account, &source.url, &format!("KILL {id}")) {
            // Its time was over meanwhile.
            Err(error) if says(&error, "Unknown thread id") => return Ok(false),
            outcome => outcome?,
        };
    }
    Ok(!ids.is_empty())
}
