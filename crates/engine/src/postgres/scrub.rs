//! Takes out of a cluster's files what its rows were before they were changed: an UPDATE leaves the old row in its page, the
//! old value in indexes, statistics and the log.
//!
//! ```text
//! no transaction is prepared ─▶ statistics go ─▶ ANALYZE ─▶ VACUUM (FULL), catalogs too ─▶ checkpoint, next log segment
//! ```
//!
//! `VACUUM (FULL)` copies the rows that there are into new files, drops the values of dropped columns, and makes the indexes
//! anew. A table that is empty now keeps the statistics of what was in it whatever is analyzed, so they go first. The
//! old segments of the log go when the stopped tree is slimmed.

use postgres::Client;

use super::facts::identifier;
use super::image::databases;
use super::session::{Server, connect_somewhere, connect_to_work};
use crate::EngineError;

/// Writes all databases anew.
pub fn scrub(server: &Server) -> Result<(), EngineError> {
    let failed = |source: postgres::Error| EngineError::Server {
        action: "taking out of the files what was changed".to_owned(),
        source: Box::new(source),
    };
    let mut client = connect_somewhere(server, "postgres").map_err(failed)?;
    refuse_prepared(&mut client)?;
    for name in databases(server).map_err(failed)? {
        let mut client = connect_to_work(server, &name).map_err(failed)?;
        rewrite(&mut client).map_err(|source| EngineError::Server {
            action: format!("taking out of the files of {} what was changed", identifier(&name)),
            source: Box::new(source),
        })?;
    }
    client.batch_execute("CHECKPOINT; SELECT pg_catalog.pg_switch_wal()").map_err(failed)
}

/// One that is open keeps every row that it might see.
fn refuse_prepared(client: &mut Client) -> Result<(), EngineError> {
    let failed = |source: postgres::Error| EngineError::Server {
        action: "looking for prepared transactions".to_owned(),
        source: Box::new(source),
    };
    match client.query_opt("SELECT gid FROM pg_catalog.pg_prepared_xacts LIMIT 1", &[]).map_err(failed)? {
        None => Ok(()),
        Some(row) => {
            let gid: String = row.get(0);
            Err(EngineError::Invalid(format!(
                "the transaction {gid:?} is prepared and keeps what was masked in the files: end it in the clone (ROLLBACK PREPARED)"
            )))
        }
    }
}

fn rewrite(client: &mut Client) -> Result<(), postgres::Error> {
    client.batch_execute("DELETE FROM pg_catalog.pg_statistic")?;
    client.batch_execute("DELETE FROM pg_catalog.pg_statistic_ext_data")?;
    client.batch_execute("ANALYZE")?;
    client.batch_execute("VACUUM (FULL)")
}
