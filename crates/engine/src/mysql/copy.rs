//! The first copy, by production's clone plugin: a server of ours, made for this alone, asks production for its files,
//! which come over the network while production goes on. What came is then opened once by a second server of ours, which
//! looks up nobody and loads nothing of production's, says where the copy stands, and takes out what belongs to
//! production's server alone.
//!
//! ```text
//! empty server ──CLONE INSTANCE FROM production──▶ `pando.copy` ──▶ tree ──own server, `clean.sql`──▶ mirror
//! ```
//!
//! It is copied to a directory of its own: to replace its own data a server would have to be restarted by another, and
//! ours is watched by Pando. The number of transactions in the copy comes with InnoDB's files, and is asked for before
//! anything is received.
//!
//! Where the plugin gives up (another clone of production is under way, statements that change tables, a connection that
//! was killed) a dump is made instead: none of that keeps one from being made, and what does will say so.
//!
//! # Crash consistency
//! A copy that was interrupted is cleared and made anew. The file with production's password is gone before the copy is
//! opened.

use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use pando_host::durable;
use pando_host::plain::{self, Dir};
use pando_model::SourceUrl;

use super::donor::{self, BY_PLUGIN, LIBRARY, Taker, Way};
use super::{Mysql, MysqlEngine};
use crate::mysql_family::binlog::dialect::Dialect;
use crate::mysql_family::config::{self, Before, Place};
use crate::mysql_family::facts::Facts;
use crate::mysql_family::first::{configure, dump_dir, load, plan};
use crate::mysql_family::flavor::Flavor;
use crate::mysql_family::session::{KEEPER, socket};
use crate::mysql_family::tree::{self, Tree};
use crate::mysql_family::wire::Session;
use crate::mysql_family::{io, place, server, text};
use crate::{EngineError, Ingest, Instead, Seat, Source, UnitPlan, seat};

/// Statements changed tables, or another clone is under way; whatever production says, or the two do not have in common
/// (all but that there is no room here); a packet that is too small; the connection was cut or killed.
const GIVEN_UP: [RangeInclusive<u32>; 6] =
    [3633..=3634, 3862..=3872, 3874..=3875, 3957..=3957, 1156..=1161, 1317..=1317];
/// Where the copy comes to, in the tree. No database has such a name.
const COPY: &str = "pando.copy";
/// What the plugin keeps of its work in a copy.
const TRACES: &str = "#clone";
/// What a dump leaves out: libraries with functions, plugins and components, other servers and how to become their
/// replica.
const CLEAN: &str = "RESET REPLICA ALL;\nDELETE FROM mysql.plugin;\nDELETE FROM mysql.component;\n\
     DELETE FROM mysql.func;\nDELETE FROM mysql.servers;\n";

/// The file of the statement that asks for a copy.
const STATEMENTS: &str = "clone.sql";
/// What is said of rows that the plugin has left out.
const CAME: &str = ": they came while the copy was made";
/// What a user may do where something else went wrong than what the plugin asks for.
const HINT: &str = "a dump needs no clone plugin: add ?clone-plugin=none to the source's address";

/// Whether the running first copy is one by the plugin.
pub fn runs(seat: &Seat) -> bool {
    dump_dir(seat).join("plugin").exists()
}

fn recipient(seat: &Seat) -> PathBuf {
    dump_dir(seat).join("recipient")
}

/// The first program, an empty server; none where the plugin cannot make the copy.
pub fn begin(engine: &MysqlEngine, seat: &Seat, source: &Source) -> Result<Option<UnitPlan>, EngineError> {
    let facts = engine.facts(source)?;
    let here = engine.installation(&facts)?;
    let answers = donor::ask(&|sql| engine.ask(&facts, source, sql))?;
    if donor::way(&Taker::of(here), &source.url, &facts, &answers) != Way::Plugin {
        return Ok(None);
    }
    let (first, account) = (dump_dir(seat), seat.account.as_ref());
    let (data, init) = (recipient(seat), first.join(config::INIT));
    seat::private_dir(&first, account)?;
    seat::private_dir(&data, account)?;
    seat::write(&first.join("plugin"), "", account)?;
    let own = Place { data: &data, ..place(seat, source, &facts) };
    let mut told = config::mirror::<Mysql>(&facts, &own, &seat.run.join("log"));
    // The plugin says how far it is in tables that are there only then.
    told.path("init_file", &init).set("performance_schema", "ON");
    // Both must have it.
    told.set("character_set_filesystem", facts.setting("character_set_filesystem"));
    seat::write(&first.join(config::FILE), &told.text(), account)?;
    seat::write(&init, &config::init::<Mysql>(&Before::Nothing), account)?;
    let (program, more) = Mysql::empty_server(&init);
    let mut args = options(&first, &here.prefix);
    args.extend(more);
    Ok(Some(plan(here.tool(program)?.path(), args, seat)))
}

fn options(first: &Path, prefix: &Path) -> Vec<String> {
    vec![format!("--defaults-file={}", text(&first.join(config::FILE))), format!("--basedir={}", text(prefix))]
}

/// What comes after so many programs.
pub fn next(engine: &MysqlEngine, seat: &Seat, source: &Source, done: usize) -> Result<Option<Ingest>, EngineError> {
    let facts = engine.facts(source)?;
    match done {
        1 => receive(engine, &facts, seat, source).map(Some),
        2 => adopt(engine, &facts, seat, source).map(Some),
        _ => durable::remove_tree_if_there(&seat.data.join(TRACES))
            .map(|_| None)
            .map_err(io("removing what the clone plugin left")),
    }
}

/// The second: the empty server takes the copy.
fn receive(engine: &MysqlEngine, facts: &Facts, seat: &Seat, source: &Source) -> Result<Ingest, EngineError> {
    let (first, account) = (dump_dir(seat), seat.account.as_ref());
    let here = engine.installation(facts)?;
    // Its readiness is asked of the tree.
    tree::remember(&seat.data, Some(Tree::<Mysql>::of_mirror(None, here.version, facts)), account)?;
    let statements = first.join(STATEMENTS);
    seat::write(&statements, &statement(&source.url, facts, &seat.data.join(COPY)), account)?;
    let mut args = options(&first, &here.prefix);
    if let Some(dir) = Taker::of(here).libraries {
        args.push(format!("--plugin-dir={}", text(&dir)));
    }
    args.push(format!("--plugin-load-add={LIBRARY}"));
    // So many connections to production, at most.
    args.push("--clone-max-concurrency=4".to_owned());
    for (name, option) in [("ssl-ca", "clone-ssl-ca"), ("ssl-cert", "clone-ssl-cert"), ("ssl-key", "clone-ssl-key")] {
        args.extend(source.url.query.get(name).map(|file| format!("--{option}={file}")));
    }
    let server = UnitPlan { args, dir: first, ..server(engine, facts, seat)? };
    Ok(Ingest { plan: load(engine, facts, seat, &statements)?, server: Some(server) })
}

/// What asks production for its files.
fn statement(url: &SourceUrl, facts: &Facts, to: &Path) -> String {
    // `localhost` would be a socket.
    let host = url.host.as_deref().filter(|host| *host != "localhost").unwrap_or("127.0.0.1");
    let port = url.port.unwrap_or(3306);
    let mode = url.query.get("ssl-mode").map(|mode| mode.to_ascii_uppercase()).unwrap_or_default();
    let secure = match mode.as_str() {
        "DISABLED" => " REQUIRE NO SSL",
        // Production was asked over TLS.
        "" | "PREFERRED" if facts.setting("ssl_cipher").is_empty() => "",
        _ => " REQUIRE SSL",
    };
    let [user, password, donor, host, to] = [
        url.user.as_deref().unwrap_or("root"),
        url.password.as_deref().unwrap_or_default(),
        &format!("{host}:{port}"),
        host,
        &text(to),
    ]
    .map(quoted);
    format!(
        "SET SESSION sql_mode = '';\nSET GLOBAL clone_valid_donor_list = {donor};\n\
         CLONE INSTANCE FROM {user}@{host}:{port} IDENTIFIED BY {password} DATA DIRECTORY = {to}{secure};\n"
    )
}

/// A text in quotes, for a session whose `sql_mode` is empty: this statement takes no other form.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "\\\\").replace('\'', "\\'"))
}

/// What comes of a copy that failed.
pub fn instead(why: &str) -> Instead {
    match gave_up(why) {
        Some(words) => Instead::Anew { was: BY_PLUGIN, now: format!("the first copy is a dump: {words}") },
        None => Instead::Hint(HINT),
    }
}

/// The words of the plugin, where it gave up; or that it left rows out.
fn gave_up(why: &str) -> Option<String> {
    if let Some((words, _)) = why.split_once(CAME) {
        return Some(words.to_owned());
    }
    // `ERROR 3862 (HY000) at line 3 in file: '/…/clone.sql': Clone Donor Error: …`, as the client says what the server says.
    let (number, words) = why.split_once("ERROR ")?.1.split_once(' ')?;
    let number: u32 = number.parse().ok()?;
    let (_, words) = words.split_once(&format!("{STATEMENTS}': "))?;
    let words = format!("the clone plugin gave up, {}", words.trim_end_matches('.'));
    GIVEN_UP.iter().any(|numbers| numbers.contains(&number)).then_some(words)
}

/// Bytes that came, and how many there are as far as production knows.
pub fn progress(seat: &Seat) -> Option<(u64, Option<u64>)> {
    const ASK: &str = "SELECT SUM(data), SUM(estimate) FROM performance_schema.clone_progress";
    if !runs(seat) || !recipient(seat).exists() {
        return None;
    }
    let mut session = Session::over_socket(&socket(&seat.run), KEEPER, "", Duration::from_secs(2)).ok()?;
    let rows = session.query(ASK).ok()?;
    let number = |column| rows.first(column).and_then(|number| number.parse::<u64>().ok());
    number(0).filter(|done| *done > 0).map(|done| (done, number(1)))
}

/// The third: what came becomes the tree, and a server of ours on it says where it stands and cleans it.
fn adopt(engine: &MysqlEngine, facts: &Facts, seat: &Seat, source: &Source) -> Result<Ingest, EngineError> {
    let (first, account) = (dump_dir(seat), seat.account.as_ref());
    for name in [STATEMENTS, config::INIT] {
        durable::remove_if_there(&first.join(name)).map_err(io("removing a file of statements"))?;
    }
    durable::remove_tree_if_there(&recipient(seat)).map_err(io("removing the server that took the first copy"))?;
    // Whoever wrote to such a table meanwhile wrote it before the moment of the copy, perhaps.
    if let Some(why) = donor::rows(&donor::ask(&|sql| engine.ask(facts, source, sql))?) {
        return Err(EngineError::Invalid(format!("{why}{CAME}")));
    }
    move_up(&seat.data.join(COPY), &seat.data)?;
    tree::clean(&seat.data)?;
    configure(engine, facts, seat, source)?;
    seat::write(&seat.data.join(config::INIT), "", account)?;
    let position = format!("{} INTO OUTFILE {};\n", Mysql::APPLIED, quoted(&text(&first.join("position"))));
    let clean = first.join("clean.sql");
    seat::write(&clean, &format!("SET SESSION sql_mode = '';\n{position}{CLEAN}"), account)?;
    let mut server = server(engine, facts, seat)?;
    // Without accounts it loads no plugin and no component of production's either.
    server.args.extend(["--skip-grant-tables".to_owned(), format!("--secure-file-priv={}", text(&first))]);
    Ok(Ingest { plan: load(engine, facts, seat, &clean)?, server: Some(server) })
}

/// Moves what is in a directory beside it.
fn move_up(from: &Path, to: &Path) -> Result<(), EngineError> {
    let action = io("bringing the first copy to its place");
    let held = Dir::open(from).map_err(&action)?;
    for entry in fs::read_dir(held.path()).map_err(&action)? {
        let entry = entry.map_err(&action)?;
        fs::rename(entry.path(), to.join(entry.file_name())).map_err(&action)?;
    }
    fs::remove_dir(from).map_err(&action)
}

/// Where the copy stands.
pub fn position(seat: &Seat) -> Result<<Mysql as Dialect>::Position, EngineError> {
    let found = plain::read_text(&dump_dir(seat).join("position")).map_err(io("reading the first copy's position"))?;
    found
        .trim()
        .parse()
        .map_err(|_| EngineError::Invalid(format!("the first copy's position cannot be read: {found:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_quotes_what_it_is_given_and_asks_for_tls_where_there_is_some() {
        let mut facts = Facts::default();
        let said =
            |url: &str, facts: &Facts| statement(&url.parse().expect("an address"), facts, Path::new("/m/pando.copy"));
        let plain = said("mysql://rep:p'w%5C@localhost/blog", &facts);
        assert!(plain.contains("clone_valid_donor_list = '127.0.0.1:3306';"), "{plain}");
        let clone =
            "CLONE INSTANCE FROM 'rep'@'127.0.0.1':3306 IDENTIFIED BY 'p\\'w\\\\' DATA DIRECTORY = '/m/pando.copy';\n";
        assert!(plain.ends_with(clone), "{plain}");
        assert!(said("mysql://rep@db:3307/blog?ssl-mode=disabled", &facts).ends_with(" REQUIRE NO SSL;\n"));
        assert!(said("mysql://rep@db:3307/blog?ssl-mode=REQUIRED", &facts).ends_with(" REQUIRE SSL;\n"));
        facts.settings.insert("ssl_cipher".to_owned(), "TLS_AES".to_owned());
        let secure = said("mysql://rep@db:3307/blog", &facts);
        assert!(secure.contains("'rep'@'db':3307") && secure.ends_with(" REQUIRE SSL;\n"), "{secure}");
    }

    #[test]
    fn where_the_plugin_gives_up_a_dump_is_made_and_else_it_is_said_how_to_ask_for_one() {
        let killed = "Clone Donor Error: 1815 : Internal error: Innodb Clone Restart could not find existing clone";
        let Instead::Anew { was: BY_PLUGIN, now } = instead(&format!(
            "copying db failed: mysql: ERROR 3862 (HY000) at line 3 in file: '/h/first/clone.sql': {killed}."
        )) else {
            panic!("it gave up")
        };
        assert_eq!(now, format!("the first copy is a dump: the clone plugin gave up, {killed}"));
        let rows = format!("2 tables with rows are not InnoDB's, and the clone plugin leaves those empty{CAME}");
        assert!(matches!(instead(&rows), Instead::Anew { now, .. } if now.ends_with("leaves those empty")));
        for other in [
            "mysql: ERROR 3873 (HY000) at line 3 in file: '/h/first/clone.sql': Clone estimated database size is 9 GB.",
            "mysql: ERROR 2013 (HY000) at line 3 in file: '/h/first/clone.sql': Lost connection to MySQL server",
            "mysqld: ERROR 3862 ",
            "the server of the clone ended before it answered",
            "ERROR ",
            "",
        ] {
            assert_eq!(instead(other), Instead::Hint(HINT), "{other}");
        }
    }
}
