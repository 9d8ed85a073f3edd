//! What can be done about a mirror that does not follow, as far as the words of its production tell.

use pando_model::Name;

/// How productions say that they do not take Pando's password: PostgreSQL (also by LDAP or PAM), MySQL and MariaDB, Redis.
const LOGIN: [&str; 5] =
    ["authentication failed for user", "no password supplied", "Access denied for user", "WRONGPASS", "NOAUTH"];

/// What a user can do about an app's trouble.
pub fn of(app: &Name, problem: Option<&str>) -> Option<String> {
    let login = problem.is_some_and(|problem| LOGIN.iter().any(|words| problem.contains(words)));
    login.then(|| {
        format!(
            "if production's password was changed: a file that describes {app}, with the new one in its url, and `pando \
             apply FILE.toml` (docs/apply.md); the mirror goes on where it stopped"
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refused_password_is_told_from_other_trouble() {
        let app: Name = "shop".parse().unwrap();
        let told = |problem: &str| of(&app, Some(problem)).is_some();
        assert!(told("db: psql: FATAL:  password authentication failed for user \"rep\""));
        assert!(told("db: ERROR 1045 (28000): Access denied for user 'rep'@'localhost' (using password: YES)"));
        assert!(told("cache: WRONGPASS invalid username-password pair or user is disabled."));
        assert!(!told("db: connection refused") && of(&app, None).is_none());
    }
}
