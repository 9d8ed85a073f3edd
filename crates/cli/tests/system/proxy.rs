//! Production's address: a TCP proxy whose line can be cut or stall, and which can be led to another server.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::sleep;
use std::time::Duration;

/// Listens on loopback, or where it is told; forwards to wherever it is told.
pub struct Proxy {
    address: String,
    port: u16,
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Zero: the line is cut.
    target: AtomicU16,
    /// Production hanging up is not passed on.
    keeps_lines: AtomicBool,
    lines: Mutex<Vec<TcpStream>>,
    guests: AtomicUsize,
    /// What production says, and what is handed on instead: as many bytes.
    instead: Mutex<Option<(Vec<u8>, Vec<u8>)>>,
    /// How many bytes of production's a line hands on before it stalls. Zero: it never does.
    stalls_after: AtomicUsize,
    has_stalled: AtomicBool,
}

impl Proxy {
    /// One that leads to a port. Its thread goes on until the test's process ends.
    pub fn new(target: u16) -> Self {
        Self::on("127.0.0.1", target)
    }

    /// The same on another address of this machine.
    pub fn on(address: &str, target: u16) -> Self {
        let listener = TcpListener::bind((address, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let made = Self { address: address.to_owned(), port, shared: Arc::default() };
        made.lead_to(target);
        let shared = Arc::clone(&made.shared);
        std::thread::spawn(move || {
            for guest in listener.incoming().flatten() {
                shared.guests.fetch_add(1, Ordering::SeqCst);
                let target = shared.target.load(Ordering::SeqCst);
                // Cut: whoever comes is dropped at once.
                let Ok(host) = TcpStream::connect(("127.0.0.1", target)) else { continue };
                let instead = shared.instead.lock().unwrap().clone();
                for (from, to, instead, is_productions) in
                    [(&guest, &host, None, false), (&host, &guest, instead, true)]
                {
                    let (from, to) = (from.try_clone().unwrap(), to.try_clone().unwrap());
                    let shared = Arc::clone(&shared);
                    std::thread::spawn(move || {
                        let mut passed = 0;
                        pump(&from, &to, instead.as_ref(), |more| {
                            passed += more;
                            while is_productions && shared.stalls_at(passed) {
                                shared.has_stalled.store(true, Ordering::SeqCst);
                                sleep(Duration::from_millis(20));
                            }
                        });
                        if !shared.keeps_lines.load(Ordering::SeqCst) {
                            let _ = to.shutdown(Shutdown::Both);
                            let _ = from.shutdown(Shutdown::Both);
                        }
                    });
                }
                shared.lines.lock().unwrap().extend([guest, host]);
            }
        });
        made
    }

    /// Leads to another port, and cuts what is connected.
    pub fn lead_to(&self, target: u16) {
        self.stall_after(0);
        self.shared.target.store(target, Ordering::SeqCst);
        for line in self.shared.lines.lock().unwrap().drain(..) {
            let _ = line.shutdown(Shutdown::Both);
        }
    }

    /// Whether a line is kept when production hangs up, as by a balancer, or where a host has lost its power.
    pub fn keep_lines(&self, keep: bool) {
        self.shared.keeps_lines.store(keep, Ordering::SeqCst);
    }

    /// From now on production is heard to say something else.
    pub fn rewrite(&self, from: &str, to: &str) {
        assert_eq!(from.len(), to.len());
        *self.shared.instead.lock().unwrap() = Some((from.into(), to.into()));
    }

    /// Each line says nothing more behind so many bytes of production's, until it is cut.
    pub fn stall_after(&self, bytes: usize) {
        self.shared.stalls_after.store(bytes, Ordering::SeqCst);
    }

    /// Whether a line has stalled.
    pub fn has_stalled(&self) -> bool {
        self.shared.has_stalled.load(Ordering::SeqCst)
    }

    /// Its port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its address and port.
    pub fn place(&self) -> String {
        format!("{}:{}", self.address, self.port)
    }

    /// How often somebody has come.
    pub fn guests(&self) -> usize {
        self.shared.guests.load(Ordering::SeqCst)
    }

    /// Cuts the line.
    pub fn cut(&self) {
        self.lead_to(0);
    }

    /// The address of a production behind it.
    pub fn url(&self) -> String {
        format!("db=postgres://boss:prod-secret@127.0.0.1:{}/postgres", self.port)
    }
}

impl Shared {
    fn stalls_at(&self, passed: usize) -> bool {
        let most = self.stalls_after.load(Ordering::SeqCst);
        most != 0 && passed >= most
    }
}

fn pump(mut from: &TcpStream, mut to: &TcpStream, instead: Option<&(Vec<u8>, Vec<u8>)>, mut before: impl FnMut(usize)) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        if let Some((said, heard)) = instead {
            let found = buffer[..read].windows(said.len()).position(|window| window == said);
            found.into_iter().for_each(|at| buffer[at..at + said.len()].copy_from_slice(heard));
        }
        before(read);
        if to.write_all(&buffer[..read]).is_err() {
            break;
        }
    }
}
