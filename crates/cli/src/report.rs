//! Views in words: what `ls`, `show`, `timeline`, `du`, `ops`, `doctor` and the verbs tell a person. Pure,
//! so that every table can be tested. Passwords are left out: `env` and `connect` are the ways to them.

use jiff::Timestamp;
use jiff::tz::TimeZone;
use pando_model::{
    AppView, CloneView, ContainerView, DiskView, DoctorView, EventView, ListView, LogView, Name, OperationView,
    RuntimeKind, ShowView, SourceUrl, SourceView, StepState, TimelineView,
};

use crate::human;

/// Where and when the reader is.
pub struct Reader {
    /// The time.
    pub now: Timestamp,
    /// The zone that times are shown in.
    pub zone: TimeZone,
}

impl Reader {
    fn time(&self, time: Timestamp) -> String {
        human::time(time, &self.zone)
    }

    /// `ls`.
    pub fn list(&self, list: &ListView) -> String {
        let apps = list.apps.iter().map(|app| {
            let sources: Vec<String> = app.sources.iter().map(|(name, engine)| format!("{name}:{engine}")).collect();
            [app.name.to_string(), app.state.to_string(), human::lag(app.lag_seconds), sources.join(" ")]
        });
        let clones = list.clones.iter().map(|clone| {
            [
                clone.name.to_string(),
                clone.app.to_string(),
                clone.state.to_string() + &in_containers(&clone.used_by),
                self.time(clone.moment),
                human::lease(clone.lease_until, self.now),
                human::bytes_or_dash(clone.unique_bytes, false),
            ]
        });
        let apps = human::table(["APP", "STATE", "LAG", "SOURCES"], apps);
        let clones = human::table(["CLONE", "APP", "STATE", "MOMENT", "KEPT", "OWN BYTES"], clones);
        match (apps.is_empty(), clones.is_empty()) {
            (true, true) => "nothing is linked yet: pando link APP postgres://user:password@host/database\n".to_owned(),
            (false, false) => format!("{apps}\n{clones}"),
            _ => apps + &clones,
        }
    }

    /// `show`.
    pub fn show(&self, show: &ShowView) -> String {
        match show {
            ShowView::Clone(clone) => self.clone_whole(clone),
            ShowView::App(app) => self.app(app),
        }
    }

    fn clone_whole(&self, clone: &CloneView) -> String {
        let facts = human::facts([
            ("clone", format!("{} ({})", clone.name, clone.id)),
            (
                "of",
                if clone.parent == clone.app {
                    clone.app.to_string()
                } else {
                    format!("{} of {}", clone.parent, clone.app)
                },
            ),
            ("state", clone.state.to_string() + &in_containers(&clone.used_by)),
            ("problem", clone.problem.clone().unwrap_or_default()),
            ("moment", format!("{} (asked for {})", self.time(clone.moment), clone.asked)),
            ("profile", clone.profile.to_string() + if clone.record { ", records a log" } else { "" }),
            ("data", if clone.masked { "masked".to_owned() } else { String::new() }),
            ("runs in", if clone.runtime == RuntimeKind::Docker { "containers".to_owned() } else { String::new() }),
            ("project", clone.compose.clone().unwrap_or_default()),
            ("volumes", clone.volumes.keys().map(Name::as_str).collect::<Vec<_>>().join(" ")),
            ("used by", clone.used_by.join(", ")),
            ("made", human::ago(clone.created_at, self.now)),
            ("kept", human::lease(clone.lease_until, self.now)),
            ("promoted", clone.promoted_at.map(|at| human::ago(at, self.now)).unwrap_or_default()),
            ("own bytes", human::bytes_or_dash(clone.unique_bytes, clone.unique_is_estimate)),
            ("undo until", clone.undo_until.map(|until| self.time(until)).unwrap_or_default()),
            ("ready in", timing(clone)),
        ]);
        format!("{facts}{}", self.sources(&clone.sources, true))
    }

    fn app(&self, app: &AppView) -> String {
        let clones: Vec<&str> = app.clones.iter().map(Name::as_str).collect();
        let policy = &app.policy;
        let span = |seconds| human::span(jiff::SignedDuration::from_secs(seconds));
        let facts = human::facts([
            ("app", format!("{} ({})", app.name, app.id)),
            ("state", app.state.to_string()),
            ("problem", app.problem.clone().unwrap_or_default()),
            ("hint", app.hint.clone().unwrap_or_default()),
            ("lag", human::lag(app.lag_seconds)),
            ("snapshots", format!("{}, one every {}", app.snapshots, span(policy.snapshot_every_seconds))),
            ("log kept", span(policy.log_keep_seconds)),
            ("clones", clones.join(" ")),
        ]);
        format!("{facts}{}", self.sources(&app.sources, true))
    }

    /// The block after `clone`, `refresh`, `rewind`, `undo`: short, the notes are left to `show`.
    pub fn ready(&self, clone: &CloneView) -> String {
        let first =
            format!("{}  {} at {}, ready in {}\n", clone.name, clone.parent, self.time(clone.moment), timing(clone));
        first + &self.sources(&clone.sources, false)
    }

    fn sources(&self, sources: &std::collections::BTreeMap<Name, SourceView>, notes: bool) -> String {
        let mut text = String::new();
        for (name, source) in sources {
            let skew = source.skew_seconds.map(skew).unwrap_or_default();
            text += &format!("  {name}  {}  {}{skew}\n", source.engine, address(source));
            text.extend(source.container.iter().filter(|_| notes).map(confines));
            text.extend(source.image.iter().filter(|_| notes).map(|image| format!("    in containers: {image}\n")));
            text.extend(source.notes.iter().filter(|_| notes).map(|note| format!("    note: {note}\n")));
        }
        text
    }

    /// `timeline`.
    pub fn timeline(&self, timeline: &TimelineView) -> String {
        let ranges = timeline.ranges.iter().map(|range| {
            [self.time(range.from), self.time(range.to), human::span(range.to.duration_since(range.from))]
        });
        let snapshots = timeline.snapshots.iter().map(|snapshot| {
            let bookmarks: Vec<&str> = snapshot.bookmarks.iter().map(Name::as_str).collect();
            [
                snapshot.id.to_string(),
                self.time(snapshot.moment),
                human::ago(snapshot.taken_at, self.now),
                if snapshot.prepared { "yes".to_owned() } else { "no".to_owned() },
                human::bytes_or_dash(snapshot.unique_bytes, timeline.unique_is_estimate),
                bookmarks.join(" "),
            ]
        });
        let snapshots = human::table(["SNAPSHOT", "MOMENT", "TAKEN", "PREPARED", "OWN BYTES", "BOOKMARKS"], snapshots);
        let ranges = human::table(["EVERY SECOND FROM", "TO", "LENGTH"], ranges);
        let lag = timeline.lag_seconds.map(|lag| format!("\nlag {}\n", human::lag(Some(lag)))).unwrap_or_default();
        let gap = if snapshots.is_empty() || ranges.is_empty() { "" } else { "\n" };
        format!("{snapshots}{gap}{ranges}{lag}")
    }

    /// `ops`.
    pub fn operations(&self, operations: &[OperationView]) -> String {
        let rows = operations.iter().map(|operation| {
            [
                operation.id.to_string(),
                operation.verb.clone(),
                operation.subject.to_string(),
                operation.state.to_string(),
                human::ago(operation.created_at, self.now),
                took(operation),
                operation.error.as_ref().map(|error| error.message.clone()).unwrap_or_default(),
            ]
        });
        human::table(["OPERATION", "VERB", "SUBJECT", "STATE", "BEGUN", "TOOK", "WHY"], rows)
    }

    /// `op`.
    pub fn operation(&self, operation: &OperationView) -> String {
        let progress = operation.progress.as_ref().map(|progress| {
            let total = progress.total_bytes.map(|total| format!(" of {}", human::bytes(total))).unwrap_or_default();
            format!("{}: {}{total}", progress.what, human::bytes(progress.done_bytes))
        });
        let facts = human::facts([
            ("operation", operation.id.to_string()),
            ("does", format!("{} {}", operation.verb, operation.subject)),
            ("state", operation.state.to_string()),
            ("begun", self.time(operation.created_at)),
            ("took", took(operation)),
            ("progress", progress.unwrap_or_default()),
            ("error", operation.error.as_ref().map(ToString::to_string).unwrap_or_default()),
            ("hint", operation.error.as_ref().and_then(|error| error.hint.clone()).unwrap_or_default()),
        ]);
        let steps = operation.steps.iter().map(|step| format!("  {} {}\n", mark(step.state), step.name));
        facts + &steps.collect::<String>()
    }

    /// One line of `events`.
    pub fn event(&self, event: &EventView) -> String {
        let text = event.text.replace(|c: char| c.is_control(), " ");
        let subject = event.subject.as_ref().map_or("-", Name::as_str);
        format!("{}  {}  {}  {subject}  {text}", event.sequence, self.time(event.at), event.kind)
    }
}

/// `du`.
pub fn disk(disk: &DiskView) -> String {
    let shown = |known| human::bytes_or_dash(known, disk.unique_is_estimate);
    let rows = disk.owners.iter().map(|owner| {
        [
            owner.name.to_string(),
            owner.kind.clone(),
            shown(owner.volume_bytes),
            shown(owner.snapshot_bytes),
            human::bytes(owner.log_bytes),
        ]
    });
    let pool = human::facts([
        ("pool", format!("{} ({})", disk.path, disk.driver)),
        ("used", format!("{} of {}", human::bytes(disk.used_bytes), human::bytes(disk.total_bytes))),
        ("free", human::bytes(disk.free_bytes)),
    ]);
    let owners = human::table(["NAME", "KIND", "OWN BYTES", "SNAPSHOTS", "LOG"], rows);
    let gap = if owners.is_empty() { "" } else { "\n" };
    format!("{pool}{gap}{owners}")
}

/// `doctor`, `init`.
pub fn doctor(doctor: &DoctorView) -> String {
    let mut text = String::new();
    for item in &doctor.items {
        text += &format!("{:8} {}: {}\n", item.level, item.what, item.found);
        text.extend(item.fix.iter().map(|fix| format!("         mend it: {fix}\n")));
    }
    text
}

/// `logs`.
pub fn logs(logs: &LogView) -> String {
    let one = |(unit, text): (&String, &String)| format!("==> {unit} <==\n{}\n", text.trim_end());
    logs.logs.iter().map(one).collect::<Vec<_>>().join("\n")
}

/// How many containers of the user's a clone runs in.
fn in_containers(users: &[String]) -> String {
    match users.iter().filter(|user| user.starts_with("container ")).count() {
        0 => String::new(),
        1 => " in a container".to_owned(),
        more => format!(" in {more} containers"),
    }
}

/// Where a source is, without its password.
fn address(source: &SourceView) -> String {
    let Some(url) = &source.url else { return source.path.clone() };
    match (url.parse::<SourceUrl>(), &source.host, source.port) {
        (Ok(url), ..) => url.to_string(),
        (Err(_), Some(host), Some(port)) => format!("{host}:{port}"),
        _ => source.path.clone(),
    }
}

/// What a container may do, one line each.
fn confines(container: &ContainerView) -> String {
    let id = container.id.get(..12).unwrap_or(&container.id);
    let or_none = |texts: &[String]| if texts.is_empty() { "none".to_owned() } else { texts.join(" ") };
    let yes = |is: bool| if is { "yes" } else { "no" };
    let limit = |known: Option<String>| known.unwrap_or_else(|| "no limit".to_owned());
    let mut text = format!("    container {id} of {}\n", container.image);
    let mut line = |what: &str, value: &str| text += &format!("      {what}: {value}\n");
    line("account", &container.user);
    line("privileged", yes(container.privileged));
    line("capabilities", &or_none(&container.capabilities));
    line("may gain rights", yes(container.gains_rights));
    line("may write its root", yes(container.writes_root));
    line("network", &container.network);
    line("memory", &limit(container.memory_bytes.map(human::bytes)));
    line("processors", &limit(container.cpu_millis.map(|millis| (millis as f64 / 1000.0).to_string())));
    line("processes", &limit(container.pids.map(|pids| pids.to_string())));
    for (path, writes) in &container.mounts {
        line(if *writes { "may write" } else { "may read" }, path);
    }
    text
}

fn skew(seconds: f64) -> String {
    match seconds {
        near if near.abs() < 0.05 => ", exactly at the moment".to_owned(),
        later if later > 0.0 => format!(", {later:.1} s after the moment"),
        earlier => format!(", {:.1} s before the moment", -earlier),
    }
}

fn timing(clone: &CloneView) -> String {
    format!("{} (storage {})", human::millis(clone.timing.ready_ms), human::millis(clone.timing.storage_ms))
}

fn took(operation: &OperationView) -> String {
    let finished = operation.finished_at.map(|end| end.duration_since(operation.created_at).as_millis());
    finished.map(|took| human::millis(u64::try_from(took).unwrap_or(0))).unwrap_or_default()
}

const fn mark(state: StepState) -> &'static str {
    match state {
        StepState::Waiting => "waiting",
        StepState::Begun => "begun  ",
        StepState::Done => "done   ",
        StepState::Undone => "undone ",
    }
}

#[cfg(test)]
mod tests;
