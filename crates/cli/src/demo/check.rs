//! Whether a clone is what it says: exactly the orders that were committed at its moment, the sums that belong to
//! them, and every attachment that they name, whole.

use std::fs;
use std::path::Path;

use pando_model::{CloneView, EngineKind, ErrorKind, Problem, SourceView};

use super::production::{connect, content, failed, query_one, words};
use crate::errors::{Done, Error};

/// What a clone was found to hold.
#[derive(Debug, Clone, Copy)]
pub struct Held {
    /// Orders placed since the demo began.
    pub orders: u64,
    /// All orders.
    pub all: u64,
    /// Attachments that orders name; all of them are there.
    pub attachments: u64,
}

/// What a clone must hold.
#[derive(Debug, Clone, Copy)]
pub struct Expected {
    /// The orders that were there before the demo.
    pub past: i64,
    /// The fewest and the most orders since: the same number, unless a commit was under way at the moment.
    pub orders: (u64, u64),
    /// Orders of the clone's own, with ids below zero.
    pub own: u64,
}

/// The source of that kind.
pub fn source(clone: &CloneView, engine: EngineKind) -> Done<&SourceView> {
    let found = clone.sources.values().find(|source| source.engine == engine);
    found.ok_or_else(|| failed(format!("looking at {}", clone.name), format!("it has no source of kind {engine}")))
}

/// A connection to a clone's database.
pub fn open(clone: &CloneView) -> Done<postgres::Client> {
    let url = source(clone, EngineKind::Postgres)?.url.as_deref();
    connect(url.ok_or_else(|| failed(format!("looking at {}", clone.name), "it has no address"))?)
}

/// Looks at all of a clone.
pub fn holds(clone: &CloneView, expected: Expected) -> Done<Held> {
    let mut client = open(clone)?;
    let past = expected.past;
    let mut count = |sql: &str| query_one::<i64>(&mut client, sql).map(|count| u64::try_from(count).unwrap_or(0));
    let orders = count(&format!("SELECT count(*) FROM orders WHERE id > {past}"))?;
    let last = count(&format!("SELECT coalesce(max(id), {past}) - {past} FROM orders"))?;
    let sold = count("SELECT sum(sold)::bigint FROM products")?;
    let own = count("SELECT count(*) FROM orders WHERE id < 0")?;
    let all = count("SELECT count(*) FROM orders")?;
    let (least, most) = expected.orders;
    if orders < least || orders > most {
        let wanted = if least == most { least.to_string() } else { format!("{least} to {most}") };
        return Err(wrong(clone, format!("it has {orders} new orders, production had {wanted} at that moment")));
    }
    if last != orders || sold != orders {
        return Err(wrong(clone, format!("{orders} new orders, but the last is number {last} and {sold} are sold")));
    }
    if all - orders != u64::try_from(past).unwrap_or(0) + expected.own || own != expected.own {
        return Err(wrong(clone, format!("{all} orders in all, of which {orders} are new and {own} its own")));
    }
    let attachments = attachments(clone, &mut client)?;
    Ok(Held { orders, all, attachments })
}

fn attachments(clone: &CloneView, client: &mut postgres::Client) -> Done<u64> {
    let root = Path::new(&source(clone, EngineKind::Files)?.path);
    let sql = "SELECT id, attachment FROM orders WHERE attachment IS NOT NULL";
    let rows = client.query(sql, &[]).map_err(|error| failed("asking for attachments", words(&error)))?;
    for row in &rows {
        let (id, name): (i64, String) = (row.get(0), row.get(1));
        match fs::read(root.join(&name)) {
            Ok(found) if found == content(id) => {}
            Ok(found) => return Err(wrong(clone, format!("{name} has {} bytes, and not its own", found.len()))),
            Err(error) => return Err(wrong(clone, format!("order {id} names {name}, which cannot be read: {error}"))),
        }
    }
    Ok(rows.len() as u64)
}

fn wrong(clone: &CloneView, what: String) -> Error {
    let mut problem = Problem::new(ErrorKind::Failed, format!("{} is not production as it was", clone.name));
    problem.causes.push(what);
    let source = source(clone, EngineKind::Postgres).ok();
    let moment = source.and_then(|source| source.moment).unwrap_or(clone.moment);
    problem.causes.push(format!("it was asked for {} and says that it shows {moment}", clone.asked));
    problem.hint("this is a bug in Pando: please report it with this output").into()
}
