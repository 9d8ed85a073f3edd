//! Which volumes belong together. An engine tells a volume's name and options, never the project: Compose puts
//! the project's name before each volume's (`dev1_db`), and that is all there is to go by.
//!
//! The rule: a name that ends in `_SOURCE` says its project, which is what stands before. Any other name has as
//! many possible projects as it has underscores. Volumes with the same parent and the same moment that may be of
//! one project are one clone, unless that clone gives away the source already. Who wants it told, tells: `clone=`.

use std::collections::BTreeSet;

/// The projects that a volume may belong to.
pub fn projects<'a>(volume: &'a str, source: &str) -> BTreeSet<&'a str> {
    if let Some(project) = told(volume, source) {
        return BTreeSet::from([project]);
    }
    volume.match_indices('_').filter(|(at, _)| *at > 0).map(|(at, _)| &volume[..at]).collect()
}

/// The project that a name says.
pub fn told<'a>(volume: &'a str, source: &str) -> Option<&'a str> {
    volume.strip_suffix(source)?.strip_suffix('_').filter(|project| !project.is_empty())
}

/// The longest project that a volume shares with all volumes of a clone.
pub fn shared<'a>(volume: (&'a str, &str), others: &[(&'a str, &str)]) -> Option<&'a str> {
    let mut common = projects(volume.0, volume.1);
    for (other, source) in others {
        let theirs = projects(other, source);
        common.retain(|project| theirs.contains(project));
    }
    common.into_iter().max_by_key(|project| project.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_of_a_project_find_each_other() {
        assert_eq!(shared(("dev1_home", "home"), &[("dev1_db", "db")]), Some("dev1"));
        assert_eq!(shared(("dev1_web_data", "home"), &[("dev1_db", "db")]), Some("dev1"));
        assert_eq!(shared(("dev1_web_data", "home"), &[("dev1_pg_data", "db")]), Some("dev1"));
        assert_eq!(shared(("my_app_home", "home"), &[("my_app_db", "db")]), Some("my_app"));
    }

    #[test]
    fn volumes_of_others_do_not() {
        assert_eq!(shared(("dev2_home", "home"), &[("dev1_db", "db")]), None);
        assert_eq!(shared(("my_other_home", "home"), &[("my_app_db", "db")]), None);
        assert_eq!(shared(("home", "home"), &[("db", "db")]), None);
        assert_eq!(shared(("_home", "home"), &[("_db", "db")]), None);
    }
}
