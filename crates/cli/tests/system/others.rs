//! A MariaDB and a Redis beside PostgreSQL, in one app: the same questions to a clone of them. Their sources are `my` and
//! `q`.

use pando_testkit::{RedisClient, mariadb_at};
use serde_json::Value;

/// The tables that [`whole`] asks of.
pub const TABLES: &str = "CREATE TABLE mark (n BIGINT PRIMARY KEY); CREATE TABLE account (id INT PRIMARY KEY, n INT NOT NULL); \
     INSERT INTO account SELECT seq, 0 FROM seq_1_to_50";

fn url<'a>(view: &'a Value, source: &str) -> &'a str {
    view["sources"][source]["url"].as_str().unwrap_or_else(|| panic!("{view}"))
}

fn maria(view: &Value, sql: &str) -> String {
    mariadb_at(url(view, "my"), sql).unwrap_or_else(|error| panic!("{sql}: {error}"))
}

fn redis(view: &Value) -> RedisClient {
    RedisClient::connect(url(view, "q"))
}

/// Whether every transaction is there as a whole.
pub fn whole(view: &Value) -> bool {
    let mut client = redis(view);
    maria(view, "SELECT SUM(n) FROM account") == "0"
        && maria(view, "CHECK TABLE mark, account").matches("OK").count() == 2
        && client.run(&["GET", "count"]) == client.run(&["GET", "again"])
}

/// A place for rows of the clone's own.
pub fn begin(view: &Value) {
    maria(view, "CREATE TABLE own (n INT)");
}

/// Commits one.
pub fn add(view: &Value, count: usize) {
    maria(view, &format!("INSERT INTO own VALUES ({count})"));
    redis(view).run(&["RPUSH", "own", &count.to_string()]);
}

/// How many there are.
pub fn counts(view: &Value) -> [(&'static str, usize); 2] {
    [
        ("MariaDB", maria(view, "SELECT COUNT(*) FROM own").parse().unwrap()),
        ("Redis", redis(view).run(&["LLEN", "own"]).parse().unwrap()),
    ]
}
