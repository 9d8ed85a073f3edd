//! What a person begins a Compose project on clones of an app with: the servers with their images, volumes and checks
//! of health; the application itself as a place to fill in.

use std::fmt::Write;

use pando_host::secret::Secret;
use pando_model::{ComposeView, EngineKind, Name};

use crate::containers;
use crate::fault::{Done, not_found};
use crate::owner::{Held, Owner};
use crate::world::World;

/// How the official image of a kind of server is used.
struct Server {
    path: &'static str,
    command: Option<&'static str>,
    environment: Option<&'static str>,
    test: String,
    /// Where the application finds it, as it is told.
    url: String,
}

fn server(name: &Name, held: &Held) -> Option<Server> {
    let database = held.source.url.database().unwrap_or_default().to_owned();
    let made = match held.kind {
        EngineKind::Postgres => Server {
            path: "/var/lib/postgresql/data",
            command: None,
            environment: None,
            test: format!(
                r#"["CMD", "psql", "--username", "pando", "--dbname", "{database}", "--command", "SELECT 1"]"#
            ),
            url: format!("postgres://pando:${{PASSWORD}}@{name}/{database}"),
        },
        EngineKind::Mariadb => Server {
            path: "/var/lib/mysql",
            command: Some("--defaults-extra-file=/var/lib/mysql/pando.cnf"),
            environment: None,
            test: r#"["CMD", "mariadb", "--execute", "SELECT 1"]"#.to_owned(),
            url: format!("mysql://pando:${{PASSWORD}}@{name}/{database}"),
        },
        EngineKind::Mysql => Server {
            path: "/var/lib/mysql",
            command: Some("--defaults-extra-file=/var/lib/mysql/pando.cnf"),
            environment: Some("MYSQL_PWD: ${PASSWORD}"),
            test: r#"["CMD", "mysql", "--host", "127.0.0.1", "--user", "pando", "--execute", "SELECT 1"]"#.to_owned(),
            url: format!("mysql://pando:${{PASSWORD}}@{name}/{database}"),
        },
        EngineKind::Redis => Server {
            path: "/data",
            command: Some("redis-server /data/pando.conf"),
            environment: Some("REDISCLI_AUTH: ${PASSWORD}"),
            test: r#"["CMD", "redis-cli", "-e", "ping"]"#.to_owned(),
            url: format!("redis://pando:${{PASSWORD}}@{name}/{}", if database.is_empty() { "0" } else { &database }),
        },
        _ => return None,
    };
    held.engine.hands_over().then_some(made)
}

/// The image that reads the data: as the app's file names it, as the engine knows it, else by the version that was linked.
fn image(owner: &Owner, name: &Name, held: &Held) -> Done<String> {
    if let Some(named) = containers::of_app(&owner.app, name) {
        return Ok(named.clone());
    }
    if let Some(image) = held.engine.image(&held.seat, &held.source)? {
        return Ok(image);
    }
    let version = owner.app.sources.get(name).and_then(|source| source.version.clone()).unwrap_or_default();
    let (make, number) = version.split_once(' ').unwrap_or((held.kind.as_str(), "latest"));
    let make = make.to_lowercase();
    Ok(if make == "valkey" { format!("valkey/valkey:{number}") } else { format!("{make}:{number}") })
}

/// The files.
pub fn files(world: &World, app: &Name) -> Done<ComposeView> {
    let owner = Owner::named(world, app)?;
    if owner.clone.is_some() {
        return Err(not_found(format!("{app} is a clone, not an app")).hint("`pando ls` shows the apps").into());
    }
    let (mut services, mut volumes, mut unknown) = (String::new(), String::new(), Vec::new());
    let (mut needs, mut variables, mut mounts) = (String::new(), String::new(), String::new());
    // A clone has one password: it is told with its first server.
    let mut password = ", password: \"${PASSWORD}\"";
    for (name, held) in &owner.sources {
        let serves = held.engine.serves(&held.source);
        match server(name, held) {
            Some(server) => {
                services.push_str(&service(name, &image(&owner, name, held)?, &server));
                let _ = write!(needs, "  #     {name}:\n  #       condition: service_healthy\n");
                let variable = name.as_str().to_uppercase().replace(['-', '.'], "_");
                let _ = writeln!(variables, "  #     {variable}_URL: {}", server.url);
            }
            None if serves || !held.engine.hands_over() => {
                unknown.push(format!("# {name}: a {} source cannot be mounted by containers.\n", held.kind));
                continue;
            }
            None => drop(writeln!(mounts, "  #     - {name}:/srv/{name}")),
        }
        let told = if serves { std::mem::take(&mut password) } else { "" };
        let _ = write!(
            volumes,
            "  {name}:\n    driver: pando\n    driver_opts: {{ from: {app}, source: {name}, at: \"${{AT:-latest}}\"{told} }}\n"
        );
    }
    let section =
        |title: &str, text: &str| if text.is_empty() { String::new() } else { format!("  #   {title}:\n{text}") };
    let compose = format!(
        "# {app} in containers: each project is a whole copy of its own, all of it at one moment.\n#\n\
         #     pando clone {app}@-2h dev1 --compose compose.yaml      # then pando refresh, rewind, rm dev1\n\
         #     AT=-2h docker compose -p dev2 up -d                    # the same by hand\n#\n\
         # Production's passwords do not work in it: there is one user, pando, with the password in .env.\n{unknown}\
         services:\n{services}  # The application itself.\n  # {app}:\n  #   image: {app}:latest\n{needs}{variables}{mounts}  \
         #   ports:\n  #     - \"127.0.0.1:8080:80\"\n\nvolumes:\n{volumes}",
        unknown = unknown.concat(),
        needs = section("depends_on", &needs),
        variables = section("environment", &variables),
        mounts = section("volumes", &mounts),
    );
    let env = format!(
        "# The password of the user pando in every copy. Keep it out of version control.\nPASSWORD={}\n\
         # The moment of copies that are made by hand, such as -2h.\n#AT=latest\n",
        Secret::generate().reveal()
    );
    Ok(ComposeView { compose, env })
}

fn service(name: &Name, image: &str, server: &Server) -> String {
    let line = |key: &str, value: Option<&str>| value.map(|value| format!("    {key}{value}\n")).unwrap_or_default();
    format!(
        "  {name}:\n    # Of the version that reads the data.\n    image: {image}\n{}{}    volumes:\n      - {name}:{}\n    \
         healthcheck:\n      test: {}\n      interval: 2s\n      retries: 60\n    restart: unless-stopped\n\n",
        line("command: ", server.command),
        line("environment:\n      ", server.environment),
        server.path,
        server.test,
    )
}
