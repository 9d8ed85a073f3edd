//! Numbers, times and tables as people read them.

use comfy_table::{Table, presets};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// Bytes in powers of 1024, with three digits at most.
pub fn bytes(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    let mut value = bytes as f64 / 1024.0;
    let mut unit = 0;
    while value >= 999.5 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.95 { 1 } else { 0 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// Bytes that may be unknown, or an estimate.
pub fn bytes_or_dash(known: Option<u64>, estimate: bool) -> String {
    let mark = if estimate { "~" } else { "" };
    known.map_or_else(|| "-".to_owned(), |known| format!("{mark}{}", bytes(known)))
}

/// A span in its two largest units: `45s`, `3m 20s`, `2h`, `5d 4h`.
pub fn span(span: SignedDuration) -> String {
    let seconds = span.as_secs().unsigned_abs();
    let units = [(86_400, "d"), (3600, "h"), (60, "m"), (1, "s")];
    let first = units.iter().position(|(size, _)| seconds >= *size).unwrap_or(3);
    let parts = units.iter().skip(first).take(2).enumerate().map(|(index, (size, unit))| {
        let above = if index == 0 { u64::MAX } else { units[first].0 };
        (seconds % above / size, *unit)
    });
    let shown: Vec<String> = parts
        .enumerate()
        .filter(|(index, (amount, _))| *index == 0 || *amount > 0)
        .map(|(_, (amount, unit))| format!("{amount}{unit}"))
        .collect();
    shown.join(" ")
}

/// How long ago.
pub fn ago(time: Timestamp, now: Timestamp) -> String {
    format!("{} ago", span(now.duration_since(time)))
}

/// Until when something is kept.
pub fn lease(until: Option<Timestamp>, now: Timestamp) -> String {
    match until {
        None => "for ever".to_owned(),
        Some(until) if until <= now => "over".to_owned(),
        Some(until) => format!("{} left", span(until.duration_since(now))),
    }
}

/// A time in the local zone, with its offset.
pub fn time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S%:z").to_string()
}

/// Seconds behind.
pub fn lag(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 10.0 => format!("{seconds:.1}s"),
        Some(seconds) => span(SignedDuration::from_secs(seconds as i64)),
    }
}

/// Milliseconds, in seconds where there are many.
pub fn millis(millis: u64) -> String {
    if millis < 1000 { format!("{millis} ms") } else { format!("{:.1} s", millis as f64 / 1000.0) }
}

/// Rows below headings, without borders; nothing for no rows.
pub fn table<const N: usize>(headings: [&str; N], rows: impl IntoIterator<Item = [String; N]>) -> String {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(headings);
    let mut empty = true;
    for row in rows {
        // What a server or a user wrote must not break the table.
        table.add_row(row.map(|cell| cell.replace(|c: char| c.is_control(), " ")));
        empty = false;
    }
    if empty {
        return String::new();
    }
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    lines(table.trim_fmt().lines())
}

/// Facts, one per line.
pub fn facts<const N: usize>(facts: [(&str, String); N]) -> String {
    let width = facts.iter().map(|(what, _)| what.len()).max().unwrap_or(0);
    let known = facts.iter().filter(|(_, value)| !value.is_empty());
    known.map(|(what, value)| format!("{what:width$}  {value}\n")).collect()
}

fn lines<'a>(lines: impl Iterator<Item = &'a str>) -> String {
    lines.map(|line| format!("{}\n", line.trim_end())).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits_at_most() {
        let read: Vec<String> =
            [0, 1023, 1024, 1536, 10 << 10, 1000 << 10, 3 << 30, u64::MAX].map(bytes).into_iter().collect();
        assert_eq!(read, ["0 B", "1023 B", "1.0 KiB", "1.5 KiB", "10 KiB", "1.0 MiB", "3.0 GiB", "16384 PiB"]);
        assert_eq!(bytes_or_dash(None, true), "-");
        assert_eq!(bytes_or_dash(Some(2048), true), "~2.0 KiB");
    }

    #[test]
    fn spans_have_their_two_largest_units() {
        let read = [0, 45, 60, 200, 7200, 7260, 446_400, 86_400 + 5].map(|s| span(SignedDuration::from_secs(s)));
        assert_eq!(read, ["0s", "45s", "1m", "3m 20s", "2h", "2h 1m", "5d 4h", "1d"]);
        assert_eq!(lag(Some(0.42)), "0.4s");
        assert_eq!(lag(Some(75.0)), "1m 15s");
    }

    #[test]
    fn times_are_local_with_their_offset() {
        let zone = TimeZone::fixed(jiff::tz::offset(1));
        let moment: Timestamp = "2026-11-21T08:30:00.5Z".parse().expect("time");
        assert_eq!(time(moment, &zone), "2026-11-21 09:30:00+01:00");
        assert_eq!(lease(None, moment), "for ever");
        assert_eq!(lease(Some(moment), moment), "over");
    }

    #[test]
    fn a_table_has_no_borders_and_survives_hostile_cells() {
        let rows = [["shop".to_owned(), "a\nb".to_owned()], ["x".to_owned(), String::new()]];
        assert_eq!(table(["NAME", "STATE"], rows), "NAME  STATE\nshop  a b\nx\n");
        assert_eq!(table(["NAME"], []), "");
    }

    #[test]
    fn facts_that_are_empty_are_left_out() {
        let shown = facts([("app", "shop".to_owned()), ("problem", String::new()), ("state", "running".to_owned())]);
        assert_eq!(shown, "app      shop\nstate    running\n");
    }
}
