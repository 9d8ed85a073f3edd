//! What `config` prints: YAML in the one form that both versions of Compose write it in, of which only the section of
//! volumes is read.

use std::collections::BTreeMap;

use super::DeclaredVolume;

/// The volumes with a driver and options. `Err`: the line that makes no sense.
pub fn volumes(text: &str, project: &str) -> Result<Vec<DeclaredVolume>, String> {
    let mut lines = text.lines().skip_while(|line| *line != "volumes:").skip(1).peekable();
    let mut found = Vec::new();
    let (mut key, mut name, mut options) = (String::new(), None, BTreeMap::new());
    let mut inside_options = false;
    let mut close = |key: &mut String, name: &mut Option<String>, options: &mut BTreeMap<String, String>| {
        if !key.is_empty() && !options.is_empty() {
            let name = name.take().unwrap_or_else(|| format!("{project}_{key}"));
            found.push(DeclaredVolume { name, options: std::mem::take(options) });
        }
        key.clear();
        *name = None;
    };
    while let Some(line) = lines.next_if(|line| line.starts_with(' ')) {
        let depth = line.len() - line.trim_start().len();
        let (word, value) = line.trim().split_once(':').ok_or_else(|| line.to_owned())?;
        let (word, value) = (scalar(word)?, value.trim());
        match depth {
            2 => {
                close(&mut key, &mut name, &mut options);
                key = word;
                inside_options = false;
            }
            4 => {
                inside_options = word == "driver_opts";
                if word == "name" {
                    name = Some(scalar(value)?);
                }
            }
            6 if inside_options => drop(options.insert(word, scalar(value)?)),
            _ => {}
        }
    }
    close(&mut key, &mut name, &mut options);
    Ok(found)
}

/// A value on one line, with or without quotes.
fn scalar(text: &str) -> Result<String, String> {
    if let Some(inside) = text.strip_prefix('\'').and_then(|rest| rest.strip_suffix('\'')) {
        return Ok(inside.replace("''", "'"));
    }
    if text.starts_with('"') {
        // What YAML quotes twice is, of what Compose writes, JSON too.
        return serde_json::from_str(text).map_err(|_| text.to_owned());
    }
    if text.starts_with(['&', '*', '|', '>', '{', '[', '\'']) { Err(text.to_owned()) } else { Ok(text.to_owned()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ONE: &str = "services:
  db:
    image: postgres:15
    volumes:
    - db:/var/lib/postgresql/data:rw
version: '3.9'
volumes:
  cache: {}
  db:
    driver: pando
    driver_opts:
      at: -2h
      from: shop
      password: 'it''s'
      source: db
  plain:
    driver: local
  x-files:
    driver: pando
    driver_opts:
      from: shop
      source: files
    name: their_files
";

    const TWO: &str = "name: dev1
services:
  db:
    image: postgres:15
networks:
  default:
    name: dev1_default
volumes:
  db:
    name: dev1_db
    driver: pando
    driver_opts:
      at: \"2026\"
      from: shop
x-more: 1
";

    proptest! {
        #[test]
        fn any_text_is_a_list_of_volumes_or_refused(
            two in any::<bool>(),
            changes in proptest::collection::vec((0_usize..400, 0_usize..12, "[ :'\"{}|>a-z\n-]{0,8}|.{0,3}"), 0..4),
        ) {
            let mut text: Vec<char> = if two { TWO } else { ONE }.chars().collect();
            for (at, less, more) in changes {
                let at = at.min(text.len());
                text.splice(at..(at + less).min(text.len()), more.chars());
            }
            let text: String = text.into_iter().collect();
            if let Ok(found) = volumes(&text, "dev1") {
                prop_assert!(found.iter().all(|volume| !volume.options.is_empty()), "{}", text);
            }
        }
    }

    #[test]
    fn volumes_of_both_versions_are_read() {
        let found = volumes(ONE, "dev1").unwrap();
        assert_eq!(found.iter().map(|one| one.name.as_str()).collect::<Vec<_>>(), ["dev1_db", "their_files"]);
        let options: Vec<_> = found[0].options.iter().map(|(name, value)| format!("{name}={value}")).collect();
        assert_eq!(options, ["at=-2h", "from=shop", "password=it's", "source=db"]);
        let found = volumes(TWO, "dev1").unwrap();
        assert_eq!((found.len(), found[0].name.as_str(), found[0].options["at"].as_str()), (1, "dev1_db", "2026"));
        assert!(volumes("services: {}\n", "dev1").unwrap().is_empty());
        assert!(volumes("volumes:\n  db:\n    driver_opts:\n      a: |\n", "x").is_err());
    }
}
