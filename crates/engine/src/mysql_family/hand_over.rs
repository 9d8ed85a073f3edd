//! A tree for a server in a container of the user's: who may enter it there, and what that server has to be told.
//!
//! The network comes in as the clone's own user, by password. Pando's own account, which needs none, goes.

use pando_model::{Profile, SettingChange};

use super::FamilyEngine;
use super::config::{FILE, Options};
use super::facts::{Facts, shared};
use super::flavor::Flavor;
use super::session::{KEEPER, failed, socket_there};
use super::tree::{self, Tree};
use crate::postgres::tree::owner;
use crate::{EngineError, Seat, Source, Stage, seat};

/// Changes the accounts, which only the running server can. One that does not run any more was parted with before.
pub fn part<F: Flavor>(engine: &FamilyEngine<F>, seat: &Seat) -> Result<(), EngineError> {
    if !socket_there(&seat.run) {
        return Ok(());
    }
    let done = engine.sessions.with(&seat.run, |session| {
        session.query("SET SESSION sql_log_bin = 0")?;
        session.run(F::PART.iter().copied())?;
        session.query(&format!("DROP USER '{KEEPER}'@'localhost'")).map(drop)
    });
    engine.sessions.drop(&seat.run);
    done.map_err(failed("handing a clone's accounts over"))
}

/// Leaves what the server has to be told, and nothing else of Pando's. What a server in a container has written is left
/// to the next one: after a cut in the middle it needs every file.
pub fn hand_over<F: Flavor>(
    engine: &FamilyEngine<F>,
    seat: &Seat,
    source: &Source,
    stage: &Stage,
) -> Result<(), EngineError> {
    let account = owner(&seat.data)?;
    let facts = engine.facts_of(Tree::find(&seat.data)?.as_ref(), source)?;
    if !tree::is_handed_over(&seat.data) {
        tree::clean(&seat.data)?;
    }
    let options = options::<F>(&facts, stage.profile, &stage.set);
    seat::write(&seat.data.join(FILE), &options.text(), Some(&account))
}

fn options<F: Flavor>(facts: &Facts, profile: Profile, set: &SettingChange) -> Options {
    let mut options = Options::of(F::PROGRAMS.server);
    options.set("event_scheduler", "OFF");
    F::container_options(&mut options);
    options.shared(&facts.settings, &shared::<F>());
    if profile == Profile::Disposable {
        // Pages stay whole: the tree is snapshotted while a server writes that nobody here can hold.
        options.set("innodb_flush_log_at_trx_commit", "2").set("innodb_flush_method", "nosync");
    }
    for (name, value) in set {
        options.set(name, value);
    }
    options
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mariadb::Mariadb;
    use crate::mysql::Mysql;

    #[test]
    fn m02_m11_m14_what_matters_is_told_and_nothing_of_this_machine() {
        let mut facts = Facts::default();
        facts.settings.insert("lower_case_table_names".to_owned(), "1".to_owned());
        facts.settings.insert("time_zone".to_owned(), "+02:00".to_owned());
        facts.settings.insert("log_bin".to_owned(), "ON".to_owned());
        let set = SettingChange::from([("sql_mode".to_owned(), "ANSI".to_owned())]);
        for (options, replica) in
            [(options::<Mariadb> as fn(&_, _, &_) -> _, "skip_slave_start"), (options::<Mysql>, "skip_replica_start")]
        {
            let text = options(&facts, Profile::Durable, &set).text();
            for line in ["lower_case_table_names=\"1\"", "default_time_zone=\"+02:00\"", "event_scheduler=\"OFF\""] {
                assert!(text.contains(line), "{text}");
            }
            assert!(text.ends_with("sql_mode=\"ANSI\"\n") && text.contains(replica), "{text}");
            for never in ["datadir", "socket", "port", "bind", "log_bin", "init_file", "nosync", "skip_ssl"] {
                assert!(!text.contains(never), "{text}");
            }
            assert!(options(&facts, Profile::Disposable, &set).text().contains("nosync"));
        }
    }
}
