//! Values of options: spans, sizes, `name=value`, and sources with or without a name.

use pando_model::{EngineKind, LinkSource, Name, Problem, SourceUrl, parse_span};

/// Reads `8h` as seconds, for clap.
pub fn seconds(text: &str) -> Result<i64, String> {
    match parse_span(text).map(|span| span.as_secs()) {
        Some(seconds) if seconds > 0 => Ok(seconds),
        _ => Err(format!("{text:?} is not a span of time such as 90s, 8h, 1h30m or 2d")),
    }
}

/// Reads `20G` as bytes, in powers of 1024, for clap.
pub fn size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{text:?} is not a size such as 500M, 20G or 1.5T");
    let digits = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (amount, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
    let unit = unit.trim().to_ascii_lowercase();
    let power = match unit.trim_end_matches('b').trim_end_matches('i') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    let amount: f64 = amount.parse().map_err(|_| wrong())?;
    let bytes = amount * 1024_f64.powi(power);
    if bytes >= 1.0 && bytes < 2_f64.powi(62) { Ok(bytes as u64) } else { Err(wrong()) }
}

/// Reads `1.5` processors as thousandths, for clap.
pub fn processors(text: &str) -> Result<u64, String> {
    let millis = text.parse::<f64>().ok().filter(|number| number.is_finite()).map(|number| number * 1000.0);
    // Less than a hundredth of a processor is refused by the engines.
    let millis = millis.filter(|millis| (10.0..1_000_000.0).contains(millis));
    millis.map(|millis| millis as u64).ok_or_else(|| format!("{text:?} is not a number of processors such as 2 or 0.5"))
}

/// Reads `source=reference`, for clap.
pub fn image(text: &str) -> Result<(Name, String), String> {
    match text.split_once('=').map(|(source, image)| (source.parse::<Name>(), image.trim())) {
        Some((Ok(source), image)) if !image.is_empty() => Ok((source, image.to_owned())),
        _ => Err("an image is given as SOURCE=REFERENCE, such as db=registry/postgres:15.4".to_owned()),
    }
}

/// Reads `name=value`, for clap.
pub fn setting(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.trim().is_empty() => Ok((name.trim().to_owned(), value.to_owned())),
        _ => Err("a setting looks like name=value".to_owned()),
    }
}

/// Reads `[NAME=]URL`. The problem never repeats the URL: it may hold a password.
pub fn source(text: &str, exclude: &[String]) -> Result<LinkSource, Problem> {
    let named = text.split_once('=').and_then(|(name, url)| Some((name.parse::<Name>().ok()?, url)));
    let (name, url) = match named {
        Some((name, url)) => (Some(name), url),
        None => (None, text),
    };
    let hint = "a source is [NAME=]URL, for example main=postgres://user:password@host/database";
    let usage = |error| Problem::from_error(pando_model::ErrorKind::Usage, &error).hint(hint);
    let engine = url.parse::<SourceUrl>().map_err(usage)?.engine;
    let exclude = if engine == EngineKind::Files { exclude.to_vec() } else { Vec::new() };
    Ok(LinkSource { name, url: url.to_owned(), exclude, image: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_and_sizes_are_read_or_refused() {
        assert_eq!(seconds("1h30m"), Ok(5400));
        for bad in ["0s", "8", "", "-8h", "8x"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
        let sizes = ["512", "1k", "20G", "20GiB", "20gb", "1.5M"].map(|text| size(text).unwrap_or(0));
        assert_eq!(sizes, [512, 1024, 20 << 30, 20 << 30, 20 << 30, 3 << 19]);
        for bad in ["", "G", "0", "-1G", "1X", "1e9", "99999999T", "1..2G"] {
            assert!(size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn processors_and_images_are_read_or_refused() {
        assert_eq!(["2", "0.5", "1.25"].map(|text| processors(text).unwrap_or(0)), [2000, 500, 1250]);
        for bad in ["", "0", "-1", "x", "inf", "NaN"] {
            assert!(processors(bad).is_err(), "{bad}");
        }
        let read = |text: &str| image(text).map(|(source, image)| (String::from(source), image));
        assert_eq!(read("db=host:5000/pg:15"), Ok(("db".into(), "host:5000/pg:15".into())));
        for bad in ["pg:15", "=pg", "db=", "D B=pg"] {
            assert!(read(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_source_may_have_a_name_and_its_url_equals_signs() {
        let read = |text: &str| source(text, &["*.log".to_owned()]).map(|s| (s.name.map(String::from), s.exclude));
        assert_eq!(read("postgres://h/db?sslmode=require"), Ok((None, vec![])));
        assert_eq!(read("main=postgres://h/db?sslmode=require"), Ok((Some("main".into()), vec![])));
        assert_eq!(read("up=file:///srv/up"), Ok((Some("up".into()), vec!["*.log".to_owned()])));
    }

    #[test]
    fn a_refused_source_does_not_show_its_password() {
        for text in ["oracle://u:hunter2@h/db", "x y=postgres://u:hunter2@h/db", "postgres//u:hunter2@h"] {
            let problem = source(text, &[]).expect_err("refused");
            assert!(!problem.to_string().contains("hunter2"), "{problem}");
        }
    }

    #[test]
    fn settings_have_a_name() {
        assert_eq!(setting("work_mem=64MB"), Ok(("work_mem".into(), "64MB".into())));
        assert_eq!(setting("a=b=c"), Ok(("a".into(), "b=c".into())));
        assert!(setting("work_mem").is_err() && setting("=x").is_err());
    }
}
