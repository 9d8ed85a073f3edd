//! The demo's production: a PostgreSQL cluster with a shop in it, and a directory of attachments. A plain server
//! as anybody has one; nothing in it knows of Pando but a role for it.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::Duration;

use pando_host::secret::Secret;
use pando_host::{Account, Clock, SystemClock, Tool, ToolError};
use pando_model::{ErrorKind, Problem};
use postgres::types::FromSql;
use serde::{Deserialize, Serialize};

use super::writer;
use crate::errors::{Done, Error};

/// How many customers and products there are.
pub const CUSTOMERS: i64 = 5000;
pub const PRODUCTS: i64 = 200;
/// How many of the orders of the past have an attachment.
const PAST_ATTACHMENTS: i64 = 400;
/// What an order of the past takes on disk, index included; measured.
const ORDER_BYTES: u64 = 302;
/// How long the server may take to start.
const PATIENCE: Duration = Duration::from_secs(60);

/// Where the shop is, and what was in it when it opened.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Shop {
    /// The programs of its server.
    pub bin: PathBuf,
    /// Its data directory.
    pub data: PathBuf,
    /// Its attachments.
    pub attachments: PathBuf,
    /// Its port on loopback.
    pub port: u16,
    /// The password of its owner, and of the role that Pando gets.
    pub password: String,
    /// The orders of the past: their ids are 1 to this.
    pub past: i64,
}

/// A failure of this machine, in words.
pub fn failed(what: impl Into<String>, why: impl ToString) -> Error {
    let mut problem = Problem::new(ErrorKind::Failed, what);
    problem.causes.push(why.to_string());
    problem.into()
}

impl From<ToolError> for Error {
    fn from(error: ToolError) -> Self {
        let problem = Problem::from_error(ErrorKind::Failed, &error);
        error.hint().map_or_else(|| problem.clone(), |hint| problem.clone().hint(hint)).into()
    }
}

/// What PostgreSQL said.
pub fn words(error: &postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), |said| said.message().to_owned())
}

/// Runs a statement that answers one value.
pub fn query_one<T: for<'a> FromSql<'a>>(client: &mut postgres::Client, sql: &str) -> Done<T> {
    let row = client.query_one(sql, &[]).map_err(|error| failed(format!("asking {sql:?}"), words(&error)))?;
    row.try_get(0).map_err(|error| failed(format!("reading the answer of {sql:?}"), words(&error)))
}

/// Opens a connection.
pub fn connect(url: &str) -> Done<postgres::Client> {
    let config: postgres::Config =
        url.parse().map_err(|error: postgres::Error| failed("reading an address", words(&error)))?;
    config.connect(postgres::NoTls).map_err(|error| failed("connecting to PostgreSQL", words(&error)))
}

/// The name of an order's attachment.
pub fn attachment(id: i64) -> String {
    format!("{:04}/order-{id}.txt", id / 1000)
}

/// What an order's attachment holds: 4 to 20 KiB that only this order has.
pub fn content(id: i64) -> Vec<u8> {
    let line = format!("attachment of order {id}\n");
    line.repeat(usize::try_from(160 + id % 13 * 50).unwrap_or(160)).into_bytes()
}

/// The newest PostgreSQL server that Pando can mirror.
pub fn installed() -> Done<PathBuf> {
    let has = |bin: &Path, name: &str| Tool::find_in([bin], name).is_some();
    let versions = (13..=18).rev().flat_map(|major| {
        ["/usr/lib/postgresql/{}/bin", "/usr/pgsql-{}/bin", "/opt/postgresql/{}/bin"]
            .map(|place| PathBuf::from(place.replace("{}", &major.to_string())))
    });
    let others = ["/usr/local/pgsql/bin", "/usr/local/bin", "/usr/bin"].map(PathBuf::from);
    let found = versions.chain(others).find(|bin| has(bin, "initdb") && has(bin, "postgres"));
    found.ok_or_else(|| {
        ToolError::Missing { name: "initdb".to_owned(), install: Some("apt-get install postgresql".to_owned()) }.into()
    })
}

impl Shop {
    /// Makes the cluster and the directory, and fills nothing in yet. Servers refuse to run as root: `account`
    /// owns it then.
    pub fn make(dir: &Path, account: Option<&Account>) -> Done<Self> {
        let port = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr())?.port();
        let (data, attachments) = (dir.join("data"), dir.join("attachments"));
        let password = Secret::generate().reveal().to_owned();
        let made = Self { bin: installed()?, data, attachments, port, password, past: 0 };
        let secret = dir.join("password");
        let lay = || {
            fs::create_dir_all(&made.attachments)?;
            fs::write(&secret, &made.password)?;
            for (path, mode) in [(dir, 0o755), (secret.as_path(), 0o600)] {
                fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
                if let Some(account) = account {
                    chown(path, Some(account.uid), Some(account.gid))?;
                }
            }
            Ok::<_, std::io::Error>(())
        };
        lay().map_err(|error| match (error.raw_os_error(), account) {
            // A user namespace that knows root alone.
            (Some(22), Some(account)) => {
                let why =
                    format!("PostgreSQL does not run as root, and the account {} is not mapped here", account.name);
                let problem = Problem::new(ErrorKind::Refused, why);
                Error::from(problem.hint("run the demo as an ordinary user, or in a namespace that maps more accounts"))
            }
            _ => failed(format!("making {}", dir.display()), error),
        })?;
        let initdb = Tool::at(made.bin.join("initdb")).command().account(account);
        let initdb = initdb.args(["--no-sync", "--encoding=UTF8", "--locale=C", "--auth=scram-sha-256"]);
        initdb.args(["--username=shop", "--pwfile"]).arg(&secret).arg("-D").arg(&made.data).run()?;
        fs::remove_file(&secret)?;
        made.configure().map_err(|error| failed("configuring the demo's production", error))?;
        Ok(made)
    }

    fn configure(&self) -> std::io::Result<()> {
        // A usual server: it syncs its commits, and bounds what a replication slot may hold.
        let settings = format!(
            "\nlisten_addresses = '127.0.0.1'\nport = {}\nunix_socket_directories = ''\nshared_buffers = 64MB\n\
             max_wal_size = 2GB\nwal_level = replica\nmax_slot_wal_keep_size = 2GB\ntimezone = 'UTC'\n",
            self.port
        );
        let file = fs::OpenOptions::new().append(true).open(self.data.join("postgresql.conf"));
        file?.write_all(settings.as_bytes())
    }

    /// Starts the server and waits until it answers.
    pub fn serve(&self, account: Option<&Account>) -> Done<Child> {
        let path = self.data.with_file_name("log");
        let log = fs::File::create(&path)?;
        let mut postgres =
            Tool::at(self.bin.join("postgres")).command().account(account).arg("-D").arg(&self.data).build();
        // A group of its own: Ctrl-C is for the demo, which ends it when its turn comes.
        postgres.process_group(0).stdout(log.try_clone()?).stderr(log);
        let mut child = postgres.spawn().map_err(|error| failed("starting PostgreSQL", error))?;
        let end = SystemClock.instant() + PATIENCE;
        loop {
            match connect(&self.url("shop", "postgres")) {
                Ok(_) => return Ok(child),
                Err(error) if child.try_wait()?.is_some() || SystemClock.instant() > end => {
                    let _ = child.kill();
                    let _ = child.wait();
                    let said = pando_host::tool::tail(&fs::read_to_string(&path).unwrap_or_default(), 500);
                    return Err(if said.is_empty() { error } else { failed("PostgreSQL does not start", said) });
                }
                Err(_) => SystemClock.sleep(Duration::from_millis(20)),
            }
        }
    }

    /// The address of a database, as the shop's owner or as Pando's role.
    pub fn url(&self, user: &str, database: &str) -> String {
        format!("postgres://{user}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    /// A connection to the shop, as its owner.
    pub fn connect(&self) -> Done<postgres::Client> {
        connect(&self.url("shop", "shop"))
    }

    /// Fills the shop with about so many bytes of past.
    pub fn fill(&mut self, bytes: u64) -> Done {
        self.past = i64::try_from(bytes / ORDER_BYTES).unwrap_or(1_000_000).max(PAST_ATTACHMENTS);
        let run = |client: &mut postgres::Client, sql: &str| {
            client.batch_execute(sql).map_err(|error| failed("filling the shop", words(&error)))
        };
        let mut server = connect(&self.url("shop", "postgres"))?;
        run(&mut server, "CREATE DATABASE shop")?;
        // What README asks of production for Pando.
        run(&mut server, &format!("CREATE ROLE pando LOGIN REPLICATION PASSWORD '{}'", self.password))?;
        run(&mut server, "GRANT pg_monitor TO pando")?;
        run(&mut self.connect()?, &schema(self.past))?;
        run(&mut server, "CHECKPOINT")?;
        for id in 1..=PAST_ATTACHMENTS {
            writer::write(&self.attachments, &attachment(id), id)
                .map_err(|error| failed("writing attachments", error))?;
        }
        Ok(())
    }

    /// The size of the database, and of the attachments with their number.
    pub fn size(&self) -> Done<(u64, u64, u64)> {
        let database: i64 = query_one(&mut self.connect()?, "SELECT pg_database_size('shop')")?;
        let (mut bytes, mut files) = (0, 0);
        for dir in fs::read_dir(&self.attachments)? {
            for file in fs::read_dir(dir?.path())? {
                bytes += file?.metadata()?.len();
                files += 1;
            }
        }
        Ok((u64::try_from(database).unwrap_or(0), bytes, files))
    }
}

fn schema(past: i64) -> String {
    format!(
        "CREATE TABLE customers (id bigint PRIMARY KEY, name text NOT NULL, email text NOT NULL);
         CREATE TABLE products (id bigint PRIMARY KEY, name text NOT NULL, price numeric(8, 2) NOT NULL,
             sold bigint NOT NULL DEFAULT 0);
         INSERT INTO customers SELECT i, 'Customer ' || i, 'customer' || i || '@example.com'
             FROM generate_series(1, {CUSTOMERS}) i;
         INSERT INTO products SELECT i, 'Product ' || i, i * 1.25 FROM generate_series(1, {PRODUCTS}) i;
         CREATE TABLE orders (id bigint NOT NULL, customer bigint NOT NULL, product bigint NOT NULL,
             placed_at timestamptz NOT NULL DEFAULT clock_timestamp(), note text NOT NULL, attachment text);
         INSERT INTO orders SELECT i, i % {CUSTOMERS} + 1, i % {PRODUCTS} + 1, now() - interval '1 day',
             repeat(md5(i::text), 6),
             CASE WHEN i <= {PAST_ATTACHMENTS} THEN lpad((i / 1000)::text, 4, '0') || '/order-' || i || '.txt' END
             FROM generate_series(1, {past}) i;
         ALTER TABLE orders ADD PRIMARY KEY (id);
         ALTER TABLE orders ADD FOREIGN KEY (product) REFERENCES products"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_order_has_an_attachment_of_its_own() {
        assert_eq!(
            (attachment(7), attachment(1_234_567)),
            ("0000/order-7.txt".into(), "1234/order-1234567.txt".into())
        );
        assert_ne!(content(13), content(26));
        let sizes = (0..13).map(|id| content(id).len());
        assert!(sizes.clone().min().is_some_and(|least| least > 3000) && sizes.max().is_some_and(|most| most < 24_000));
    }
}
