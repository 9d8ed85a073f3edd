//! `{{db.host}}` in a text: names between double braces become values.

use crate::{EditError, Edited};

/// Fills in what stands between double braces.
///
/// # Errors
/// When a name has no value, or braces are left open.
pub fn fill(text: &str, value: &dyn Fn(&str) -> Option<String>) -> Edited<String> {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        let (key, after) = after
            .split_once("}}")
            .ok_or_else(|| EditError::Refused("{{ is not followed by a name and }}".to_owned()))?;
        let key = key.trim();
        let unknown = || EditError::Refused(format!("{{{{{key}}}}} has no value"));
        out.push_str(before);
        out.push_str(&value(key).ok_or_else(unknown)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

/// The names that stand between double braces.
pub fn keys(text: &str) -> Vec<&str> {
    let parts = text.split("{{").skip(1);
    parts.filter_map(|part| part.split_once("}}")).map(|(key, _)| key.trim()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_become_values_and_unknown_ones_are_refused() {
        let value = |key: &str| (key == "db.host").then(|| "h{{x}}".to_owned());
        assert_eq!(fill("a {{db.host}}:{{ db.host }}", &value), Ok("a h{{x}}:h{{x}}".to_owned()));
        assert_eq!(fill("plain } {", &value), Ok("plain } {".to_owned()));
        assert!(fill("{{db.hots}}", &value).is_err_and(|error| error.to_string().contains("{{db.hots}}")));
        assert!(fill("{{db.host", &value).is_err());
        assert_eq!(keys("{{a}} {{ b.c }} {{open"), ["a", "b.c"]);
    }
}
