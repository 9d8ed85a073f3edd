//! What a container engine asks for when it makes a volume: `-o name=value`, read and judged.

use std::collections::BTreeMap;

use pando_model::{Moment, Name, Problem, Profile, Target, nearest};

use crate::fault::usage;

/// The words that are known, with what stands behind them.
const KNOWN: [(&str, &str); 9] = [
    ("from", "APP, CLONE or VOLUME, with or without @MOMENT"),
    ("source", "which database or directory of it"),
    ("at", "the moment; latest when absent"),
    ("clone", "the clone that the volume belongs to; made when it is not there"),
    ("profile", "durable (when absent) or disposable"),
    ("password", "of the user pando in the database"),
    ("uid", "whom an empty volume belongs to"),
    ("gid", "its group"),
    ("mode", "its permission bits, such as 0770"),
];

/// What was asked for.
#[derive(Debug, Default, PartialEq)]
pub struct Wish {
    /// What it is a copy of; none: it is made empty, or is a directory of `clone`.
    pub from: Option<Name>,
    /// At which moment.
    pub moment: Option<Moment>,
    /// Which source.
    pub source: Option<Name>,
    /// The clone that it shall belong to.
    pub clone: Option<Name>,
    /// What its data is worth.
    pub profile: Option<Profile>,
    /// The password of the clone's own user.
    pub password: Option<String>,
    /// Whom an empty volume belongs to.
    pub uid: Option<u32>,
    /// Its group.
    pub gid: Option<u32>,
    /// Its permission bits.
    pub mode: Option<u32>,
    /// As it was typed, without secrets: what can be shown and compared.
    pub kept: BTreeMap<String, String>,
}

fn wrong(name: &str, value: &str, why: impl std::fmt::Display) -> Problem {
    usage(format!("{name}={value}: {why}"))
}

impl Wish {
    /// Reads options.
    pub fn read(options: &BTreeMap<String, String>) -> Result<Self, Problem> {
        let mut wish = Self { kept: options.clone(), ..Self::default() };
        if wish.kept.contains_key("password") {
            wish.kept.insert("password".to_owned(), "(given)".to_owned());
        }
        for (name, value) in options {
            let plain = |text: &str| text.parse::<Name>().map_err(|error| wrong(name, value, error));
            let number = |text: &str| text.parse::<u32>().map_err(|error| wrong(name, value, error));
            match name.as_str() {
                "from" => {
                    let target: Target = value.parse().map_err(|error| wrong(name, value, error))?;
                    wish.from = Some(target.name);
                    if target.moment.is_some() && options.contains_key("at") {
                        return Err(wrong(name, value, "the moment stands in from= and in at=; one of them will do"));
                    }
                    wish.moment = target.moment.or(wish.moment);
                }
                "at" => wish.moment = Some(value.parse().map_err(|error| wrong(name, value, error))?),
                "source" => wish.source = Some(plain(value)?),
                "clone" => wish.clone = Some(plain(value)?),
                "profile" => {
                    let profile = Profile::from_word(value);
                    wish.profile = Some(profile.ok_or_else(|| wrong(name, value, "it is durable or disposable"))?);
                }
                "password" if value.is_empty() => return Err(usage("password=: it is empty")),
                "password" => wish.password = Some(value.clone()),
                "uid" => wish.uid = Some(number(value)?),
                "gid" => wish.gid = Some(number(value)?),
                "mode" => {
                    let mode = u32::from_str_radix(value, 8).ok().filter(|mode| *mode <= 0o7777);
                    wish.mode = Some(mode.ok_or_else(|| wrong(name, value, "this is no mode such as 0770"))?);
                }
                other => return Err(unknown(other)),
            }
        }
        wish.check()
    }

    fn check(self) -> Result<Self, Problem> {
        let of_empty = self.uid.is_some() || self.gid.is_some() || self.mode.is_some();
        if of_empty && (self.from.is_some() || self.clone.is_some()) {
            return Err(usage("uid, gid and mode are for volumes that are made empty")
                .hint("a copy keeps its owners; a container that runs as root can change them"));
        }
        if self.from.is_none() && self.clone.is_none() {
            for name in ["at", "source", "profile", "password"] {
                if self.kept.contains_key(name) {
                    return Err(usage(format!("{name}= needs from=")).hint("for example: -o from=shop -o source=db"));
                }
            }
        }
        Ok(self)
    }

    /// The moment as typed.
    pub fn asked(&self) -> String {
        self.moment.as_ref().unwrap_or(&Moment::Latest).to_string()
    }
}

fn unknown(name: &str) -> Problem {
    let problem = usage(format!("there is no volume option {name}"));
    match nearest(name, KNOWN.iter().map(|(known, _)| *known)) {
        Some(near) => problem.hint(format!("did you mean {near}?")),
        None => {
            let all: Vec<String> = KNOWN.iter().map(|(known, what)| format!("{known} ({what})")).collect();
            problem.hint(format!("known are: {}", all.join("; ")))
        }
    }
}

#[cfg(test)]
mod any_text;

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Wish, Problem> {
        let pairs = text.split_whitespace().filter_map(|pair| pair.split_once('='));
        Wish::read(&pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    #[test]
    fn options_are_read() {
        let wish = read("from=shop source=home at=-2h password=secret").unwrap();
        assert_eq!((wish.asked().as_str(), wish.kept["password"].as_str()), ("-7200s", "(given)"));
        assert_eq!(read("from=shop@latest").unwrap().moment, Some(Moment::Latest));
        assert_eq!(read("uid=999 mode=0770").unwrap().mode, Some(0o770));
        assert_eq!(read("").unwrap(), Wish::default());
    }

    #[test]
    fn what_makes_no_sense_is_refused_with_a_hint() {
        let said = |text: &str| read(text).unwrap_err();
        assert_eq!(said("form=shop").hint.as_deref(), Some("did you mean from?"));
        assert!(said("zzzzzzz=1").hint.is_some_and(|hint| hint.contains("from (APP")));
        for text in [
            "from=../evil",
            "from=shop@latest at=now",
            "at=-2h",
            "from=shop at=-2x",
            "from=shop profile=fast",
            "from=shop uid=1",
            "mode=99999",
            "uid=root",
            "from=shop password=",
        ] {
            assert_eq!(said(text).kind, pando_model::ErrorKind::Usage, "{text}");
        }
    }
}
