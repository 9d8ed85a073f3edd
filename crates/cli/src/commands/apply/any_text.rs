//! A file for `apply` with anything changed in it: read, or refused in one line that names the line and shows no
//! password.

use std::path::Path;

use proptest::prelude::*;

use super::{filled, read};
use crate::errors::Error;

const SECRET: &str = "QUIETSECRET";
const FILE: &str = r#"
app = "shop"
set = { work_mem = "64MB" }

[[sources]]
name = "db"
url = "postgres://boss:QUIETSECRET@db1:5432/shop?sslmode=require"

[[sources]]
name = "files"
url = "file:///srv/files"
exclude = ["*.tmp", "cache/"]

[policy]
snapshot_every_seconds = 300
log_keep_seconds = 86400
tiers = [{ up_to_seconds = 86400, every_seconds = 3600 }]

[[edits]]
set = "files/app.properties"
path = "db.url"
value = "{{db.url}}"

[[edits]]
sql = "UPDATE settings SET url = '{{db.host}}'"
source = "db"

[[hooks]]
at = "post-start"
run = ["/bin/true", "--quietly"]
timeout_seconds = 5
"#;

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn any_text_is_an_app_or_refused(
        changes in proptest::collection::vec(
            (any::<usize>(), 0_usize..20, "[\\[\\]{}=\"'#\n,.0-9a-z$_-]{0,8}|.{0,3}"), 0..4),
    ) {
        let mut chars: Vec<char> = FILE.chars().collect();
        for (at, less, more) in changes {
            let at = at % (chars.len() + 1);
            let end = (at + less).min(chars.len());
            chars.splice(at..end, more.chars());
        }
        let text: String = chars.into_iter().collect();
        match read(&text, "app.toml") {
            Err(Error::Problem(problem)) => {
                let said = format!("{problem} {}", problem.hint.clone().unwrap_or_default());
                prop_assert!(said.starts_with("app.toml, line "), "{}", said);
                prop_assert!(!said.contains(['\n', '\r']) && !said.contains(SECRET), "{}\n{}", said, text);
            }
            Err(_) => prop_assert!(false, "{}", text),
            Ok(request) => {
                let written = serde_json::to_value(&request);
                // What refers to nothing stays as it is; what refers to a file or a variable is refused without one.
                if let Ok(filled) = filled(request, Path::new("/nowhere"))
                    && !text.contains("${")
                {
                    prop_assert_eq!(serde_json::to_value(&filled).ok(), written.ok());
                }
            }
        }
    }
}

#[test]
fn the_file_that_is_changed_is_one_that_is_read() {
    assert!(read(FILE, "app.toml").is_ok(), "{:?}", read(FILE, "app.toml").err());
}

fn cases() -> u32 {
    std::env::var("PANDO_CASES").map_or(4_000, |text| text.parse().unwrap_or(4_000))
}
