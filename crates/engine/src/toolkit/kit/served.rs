//! The server of a clone: while a snapshot is being prepared, as a clone, killed, and as the clone of a clone.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use pando_host::secret::Secret;
use pando_host::{Clock, SystemClock, Tool};
use pando_model::Profile;

use super::program::Program;
use super::{Kit, Look, Stop, said, seen};
use crate::{Credentials, Engine, Readiness, Seat, Stage};

/// How long a server may take until it answers.
const START: Duration = Duration::from_secs(60);

impl Kit<'_> {
    pub(super) fn served(&mut self) -> Result<(), Stop> {
        let serves = self.identity.as_ref().is_none_or(|identity| identity.server);
        let seat = self.must("prepare: a copy's tree is made ready", |kit| kit.tree("mirror", "work", None))?;
        self.must("prepare: again", |kit| kit.stage(&seat, None))?;
        if serves {
            self.prepared(&seat)?;
        } else {
            self.must("sanitise: without a user, while it is prepared", |kit| kit.admit(&seat, None))?;
        }
        let port = free_port();
        let seat =
            self.must("prepare: a prepared tree is made ready once more", |kit| kit.tree("work", "clone", port))?;
        let own = Credentials { user: "pando".to_owned(), password: Secret::generate(), salt: None };
        if !serves {
            self.must("sanitise: with the clone's own user", |kit| kit.admit(&seat, Some(&own)))?;
            self.must("sanitise: again", |kit| kit.admit(&seat, Some(&own)))?;
            return Ok(());
        }
        self.cloned(&seat, port, &own)?;
        let port = free_port();
        let seat = self.must("prepare: the tree of a killed server", |kit| kit.tree("clone", "child", port))?;
        let other = Credentials { user: "pando".to_owned(), password: Secret::generate(), salt: None };
        let mut server = self.must("ready: the clone of a clone answers", |kit| kit.serve(&seat, "child"))?;
        self.must("sanitise: it gets a password of its own", |kit| kit.admit(&seat, Some(&other)))?;
        self.check("unit: asked to stop, the server of a clone ends in time", |kit| kit.stops(&seat, &mut server));
        Ok(())
    }

    /// While a snapshot is being prepared: nobody may come in.
    fn prepared(&mut self, seat: &Seat) -> Result<(), Stop> {
        self.check("ready: it says no while nothing runs", |kit| kit.not_ready(seat));
        let mut server = self.must("ready: the server answers", |kit| kit.serve(seat, "work"))?;
        self.check("unit: without a port it listens on no TCP address", |_| {
            match seen::sockets(&server.pids()).into_iter().find(|socket| socket.listens) {
                None => Ok(()),
                Some(socket) => Err(format!("it listens on {}", socket.local)),
            }
        });
        self.must("sanitise: without a user, while it is prepared", |kit| kit.admit(seat, None))?;
        self.must("sanitise: again, without a user", |kit| kit.admit(seat, None))?;
        self.must("unit: asked to stop, the server ends in time", |kit| kit.stops(seat, &mut server))?;
        self.check("ready: it says no after the server has stopped", |kit| kit.not_ready(seat));
        Ok(())
    }

    fn cloned(&mut self, seat: &Seat, port: Option<u16>, own: &Credentials) -> Result<(), Stop> {
        let mut server = self.must("ready: the server of a clone answers", |kit| kit.serve(seat, "clone"))?;
        self.must("sanitise: with the clone's own user", |kit| kit.admit(seat, Some(own)))?;
        self.must("sanitise: again", |kit| kit.admit(seat, Some(own)))?;
        self.must("sanitise: again, with another password", |kit| {
            kit.admit(seat, Some(&Credentials { user: own.user.clone(), password: Secret::generate(), salt: None }))
        })?;
        self.must("ready: it answers after that", |kit| kit.wait_ready(seat, &mut server))?;
        self.check("unit: it listens on 127.0.0.1 only, at its port", |_| {
            let mut listening = seen::sockets(&server.pids());
            listening.retain(|socket| socket.listens);
            let here = IpAddr::V4(Ipv4Addr::LOCALHOST);
            if let Some(socket) = listening.iter().find(|socket| socket.local.ip() != here) {
                return Err(format!("it listens on {}", socket.local));
            }
            match listening.iter().any(|socket| Some(socket.local.port()) == port) {
                true => Ok(()),
                false => Err(format!("nobody listens on port {}", port.unwrap_or_default())),
            }
        });
        self.check("unit: its processes show no secret", |kit| {
            let mut secrets = kit.secrets();
            secrets.push(own.password.reveal().to_owned());
            let (pids, printed) = (server.pids(), server.printed());
            if secrets.iter().any(|secret| seen::shows(&pids, secret)) {
                return Err("a password is in the arguments of its processes".to_owned());
            }
            let printed = secrets.iter().any(|secret| printed.contains(secret));
            if printed { Err("its server prints a password".to_owned()) } else { Ok(()) }
        });
        self.check("unit: it keeps the variables PANDO_… of its environment", |_| match server.is_marked() {
            true => Ok(()),
            false => Err("Pando does not know its process again: it started a program without them".to_owned()),
        });
        self.check("unit: it has no connection to production", |kit| {
            let production = kit.source()?.url.port;
            let all = seen::sockets(&server.pids());
            match all.iter().find(|socket| !socket.listens && Some(socket.remote.port()) == production) {
                None => Ok(()),
                Some(socket) => Err(format!("it is connected to {}", socket.remote)),
            }
        });
        self.must("ready: a server that was killed answers when it is started again", |kit| {
            server.kill()?;
            let mut again = kit.serve(seat, "clone")?;
            again.kill()
        })
    }

    /// A copy of an owner's tree, made ready.
    fn tree(&self, from: &str, to: &str, port: Option<u16>) -> Look<Seat> {
        let (from, seat) = (self.seat(from)?, self.seat(to)?);
        let cp = Tool::find("cp", "coreutils").map_err(|error| error.to_string())?;
        let command = cp.command().args(["--archive", "--reflink=auto", "--sparse=auto", "--"]);
        command.arg(&from.data).arg(&seat.data).run().map_err(|error| error.to_string())?;
        self.stage(&seat, port)?;
        Ok(seat)
    }

    fn stage(&self, seat: &Seat, port: Option<u16>) -> Look {
        let set = [("no_such_setting".to_owned(), "7".to_owned())].into();
        let stage = Stage { to: None, log: None, port, profile: Profile::Disposable, record: false, set };
        self.engine.stage(seat, self.source()?, &stage).map_err(said)
    }

    fn admit(&self, seat: &Seat, who: Option<&Credentials>) -> Look {
        self.engine.admit(seat, self.source()?, who).map_err(said)
    }

    fn not_ready(&self, seat: &Seat) -> Look {
        match self.engine.ready(seat, self.source()?) {
            Ok(Readiness::Ready) => Err("it says that the server is ready".to_owned()),
            Ok(Readiness::Starting(_)) => Ok(()),
            Err(error) => Err(said(error)),
        }
    }

    /// Starts a tree's server and waits until it answers.
    fn serve(&self, seat: &Seat, log: &str) -> Look<Program> {
        let plan = self.engine.serve(seat, self.source()?).map_err(said)?;
        let plan = plan.ok_or_else(|| "it names no server".to_owned())?;
        let mut server = self.start(&plan, log)?;
        self.wait_ready(seat, &mut server)?;
        Ok(server)
    }

    fn wait_ready(&self, seat: &Seat, server: &mut Program) -> Look {
        let begun = SystemClock.instant();
        loop {
            let doing = match self.engine.ready(seat, self.source()?).map_err(said)? {
                Readiness::Ready => return Ok(()),
                Readiness::Starting(doing) => doing,
            };
            if let Some(code) = server.wait(Duration::from_millis(20))? {
                return Err(format!("its server ended with {code:?}: {}", server.last_line()));
            }
            if begun.elapsed() > START {
                return Err(format!("it does not answer within {} s: {doing}", START.as_secs()));
            }
        }
    }

    fn stops(&self, seat: &Seat, server: &mut Program) -> Look {
        let plan = self.engine.serve(seat, self.source()?).map_err(said)?;
        let plan = plan.ok_or_else(|| "it names no server".to_owned())?;
        server.ask_to_stop(plan.stop_by_interrupt);
        match server.wait(Duration::from_secs(plan.stop_grace_seconds))? {
            Some(_) => Ok(()),
            None => Err(format!("it had not ended after {} s", plan.stop_grace_seconds)),
        }
    }
}

fn free_port() -> Option<u16> {
    Some(std::net::TcpListener::bind("127.0.0.1:0").ok()?.local_addr().ok()?.port())
}
