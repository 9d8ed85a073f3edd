//! A disk that remembers: every write and every flush that a file system sends it, in order. From that any
//! crash of the machine can be made: the disk as it was at a flush, with whatever of the writes since then.
//!
//! ```text
//! file system ── loop device ── file `disk` of a FUSE file system in this process ── image + log
//! ```
//!
//! The only place that knows of FUSE.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo,
    LockOwner, MountOption, OpenFlags, ReplyAttr, ReplyData, ReplyEmpty, ReplyEntry, ReplyOpen, ReplyWrite, Request,
    WriteFlags,
};
use rustix::fs::FlockOperation;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::daemon::processes_of;
use crate::seed::Seed;
use crate::{FsKind, tools, unmount};

/// What a disk writes whole, in bytes. XFS's log, as it seems, skips a block whose first sector is newer than what it would
/// write there, so on a disk that tears its blocks of 4 KB it may not be mountable after a crash: seen twice in some 30
/// crashes, with blocks of a directory and of reference counts (kernel 6.18). Its disks here write 4 KB whole, as most do.
/// So is the superblock of btrfs, which is not copied on write, and of which the kernel believes the first copy alone: one
/// that was torn cannot be mounted before `btrfs rescue super-recover`, seen once in more than a thousand crashes.
fn sector(kind: FsKind, at: u64) -> usize {
    match kind {
        FsKind::Xfs => 4096,
        FsKind::Btrfs if SUPERBLOCKS.contains(&at) => 4096,
        FsKind::Btrfs | FsKind::Ext4 => 512,
    }
}

/// Where btrfs has its superblocks.
const SUPERBLOCKS: [u64; 3] = [64 << 10, 64 << 20, 256 << 30];

/// Where disks lie, what their directories are called, and the file that is locked as long as the disk is in use.
const PLACES: &str = "/tmp";
const PREFIX: &str = "pando-disk-";
const LOCK: &str = "lock";

const DISK: INodeNo = INodeNo(2);
/// The kernel may keep what it knows of the file for ever.
const TTL: Duration = Duration::from_secs(3600);

/// What the disk was told.
#[derive(Debug, Clone, Copy)]
enum Told {
    Write { at: u64, len: usize, logged: u64 },
    Flush,
}

#[derive(Debug)]
struct Memory {
    /// The disk as it is now.
    image: File,
    /// The bytes of all writes, one after the other.
    log: File,
    logged: u64,
    told: Vec<Told>,
}

struct Server {
    size: u64,
    memory: Arc<Mutex<Memory>>,
}

fn lock(memory: &Mutex<Memory>) -> MutexGuard<'_, Memory> {
    memory.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Server {
    fn attr(&self, ino: INodeNo) -> FileAttr {
        let (kind, size) = if ino == DISK { (FileType::RegularFile, self.size) } else { (FileType::Directory, 0) };
        FileAttr {
            ino,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm: 0o700,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }
}

impl Memory {
    fn write(&mut self, at: u64, data: &[u8]) -> io::Result<()> {
        self.image.write_all_at(data, at)?;
        self.log.write_all_at(data, self.logged)?;
        self.told.push(Told::Write { at, len: data.len(), logged: self.logged });
        self.logged += data.len() as u64;
        Ok(())
    }
}

impl Filesystem for Server {
    fn lookup(&self, _: &Request, _: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if name == "disk" {
            reply.entry(&TTL, &self.attr(DISK), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&TTL, &self.attr(ino));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        // No cache between the loop device and us: what it was told we are told, then and in that order.
        reply.opened(FileHandle(0), FopenFlags::FOPEN_DIRECT_IO);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let mut data = vec![0; size as usize];
        match lock(&self.memory).image.read_exact_at(&mut data, offset) {
            Ok(()) => reply.data(&data),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn write(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        match lock(&self.memory).write(offset, data) {
            Ok(()) => reply.written(u32::try_from(data.len()).unwrap_or(0)),
            Err(_) => reply.error(Errno::EIO),
        }
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        lock(&self.memory).told.push(Told::Flush);
        reply.ok();
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }
}

/// A file system on a disk that remembers, mounted; and after [`RecordedDisk::pull_the_plug`] its crashes.
pub struct RecordedDisk {
    kind: FsKind,
    memory: Arc<Mutex<Memory>>,
    session: Option<BackgroundSession>,
    device: Option<String>,
    /// What a crash is built in: all that was told up to here.
    rebuilt: File,
    applied: usize,
    // Last: removed when nothing is mounted in it any more.
    dir: TempDir,
    /// As long as it is held, nobody takes the disk for one of a killed test.
    _lock: File,
}

/// A moment of the disk's life.
pub type DiskMoment = usize;

/// How a crash came out, for a test's messages.
#[derive(Debug, Clone, Copy)]
pub struct Crash {
    /// When the machine died.
    pub at: DiskMoment,
    /// Writes since the last flush.
    pub in_flight: usize,
    /// How many of those reached the disk, whole or torn.
    pub kept: usize,
}

impl RecordedDisk {
    /// Makes the disk with a file system on it, and mounts that. `None` where that is impossible, by the rule of
    /// [`tools`].
    ///
    /// # Panics
    /// When the test machine is broken.
    pub fn new(kind: FsKind, megabytes: u64) -> Option<Self> {
        if !tools::require_root() || !tools::require(kind.mkfs().0) || !tools::require("losetup") {
            return None;
        }
        if !Path::new("/dev/fuse").exists() {
            tools::skip("FUSE (/dev/fuse)");
            return None;
        }
        // One at a time: a disk that is not locked yet looks like one of a killed test.
        let turn = File::create(Path::new(PLACES).join("pando-disk.turn")).expect("a lock");
        rustix::fs::flock(&turn, FlockOperation::LockExclusive).expect("waiting for a turn");
        sweep();
        let dir = tempfile::Builder::new().prefix(PREFIX).tempdir_in(PLACES).expect("a temporary directory");
        let lock = File::create(dir.path().join(LOCK)).expect("a lock");
        rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("a lock that nobody else has");
        drop(turn);
        let open =
            |name: &str| File::options().create(true).truncate(true).read(true).write(true).open(dir.path().join(name));
        let (image, log, rebuilt) =
            (open("image").expect("an image"), open("log").expect("a log"), open("rebuilt").expect("an image"));
        let size = megabytes << 20;
        for file in [&image, &rebuilt] {
            file.set_len(size).expect("sizing an image");
        }
        for name in ["fuse", "mnt"] {
            fs::create_dir(dir.path().join(name)).expect("making a directory");
        }
        // For homes on it, whose servers run as another account.
        let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o711);
        fs::set_permissions(dir.path(), open_to_all).expect("opening a directory");
        let memory = Arc::new(Mutex::new(Memory { image, log, logged: 0, told: Vec::new() }));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("pando-disk".into()), MountOption::RW];
        let server = Server { size, memory: Arc::clone(&memory) };
        let session = fuser::spawn_mount(server, dir.path().join("fuse"), &config).expect("mounting FUSE");
        let mut made =
            Self { kind, memory, session: Some(session), device: None, rebuilt, applied: 0, dir, _lock: lock };
        let device = attach(&made.dir.path().join("fuse/disk"));
        let (mkfs, flags) = kind.mkfs();
        // Nothing is discarded: the disk cannot forget.
        let kept: &[&str] = if kind == FsKind::Ext4 { &["-E", "nodiscard"] } else { &["-K"] };
        made.device = Some(device.clone());
        tools::run(mkfs, &[flags, kept, &[device.as_str()]].concat());
        made.mount(&device);
        Some(made)
    }

    fn mount(&self, device: &str) {
        let options = match self.kind {
            FsKind::Btrfs => "noatime,nodiscard",
            FsKind::Xfs | FsKind::Ext4 => "noatime",
        };
        tools::run("mount", &["-o", options, device, &self.path().display().to_string()]);
        let root = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(self.path(), root).expect("opening the file system");
    }

    /// Where it is mounted; crashes are mounted there too.
    pub fn path(&self) -> PathBuf {
        self.dir.path().join("mnt")
    }

    /// What has happened up to here has happened before every later moment.
    pub fn now(&self) -> DiskMoment {
        lock(&self.memory).told.len()
    }

    /// How many flushes there were.
    pub fn flushes(&self) -> usize {
        lock(&self.memory).told.iter().filter(|told| matches!(told, Told::Flush)).count()
    }

    /// Ends the disk's life; whoever has files open there must be gone. From now on it crashes.
    ///
    /// # Panics
    /// When somebody still sits in it.
    pub fn pull_the_plug(&mut self) {
        self.leave();
        if let Some(session) = self.session.take() {
            session.umount_and_join().expect("unmounting FUSE");
        }
    }

    /// Unmounts what is mounted, and lets go of its device.
    ///
    /// # Panics
    /// When somebody still sits in it.
    pub fn leave(&mut self) {
        let Some(device) = self.device.take() else { return };
        let path = self.path().display().to_string();
        let gone = || tools::output(Path::new("umount"), &["--", &path]).status.success() || !is_mounted(&path);
        assert!(crate::wait_until(Duration::from_secs(20), gone), "somebody still uses {path}");
        tools::run("losetup", &["--detach", &device]);
        let there = || tools::run("losetup", &["--list", "--noheadings", "--output", "NAME"]).contains(&device);
        crate::wait_until(Duration::from_secs(5), || !there());
        if self.kind == FsKind::Btrfs {
            // It would take an older state of a disk for somebody else's.
            tools::output(Path::new("btrfs"), &["device", "scan", "--forget"]);
        }
    }

    /// Mounts the disk as a crash at a moment would have left it. Moments must not go back.
    ///
    /// # Panics
    /// When it cannot be mounted: no crash may do that to it.
    pub fn crash(&mut self, at: DiskMoment, seed: &mut Seed) -> Crash {
        assert!(self.session.is_none() && self.device.is_none(), "the plug was not pulled, or a crash is mounted");
        let image = self.dir.path().join("crashed");
        let crash = self.rebuild(at, seed, &image).expect("rebuilding a disk");
        let device = attach(&image);
        self.device = Some(device.clone());
        self.mount(&device);
        crash
    }

    fn rebuild(&mut self, at: DiskMoment, seed: &mut Seed, into: &Path) -> io::Result<Crash> {
        let memory = lock(&self.memory);
        let flushed = (0..at).rev().find(|index| matches!(memory.told[*index], Told::Flush)).unwrap_or(0);
        assert!(flushed >= self.applied, "moments must not go back");
        for told in &memory.told[self.applied..flushed] {
            if let Told::Write { at, len, logged } = *told {
                self.rebuilt.write_all_at(&read(&memory.log, logged, len)?, at)?;
            }
        }
        self.applied = flushed;
        copy_sparse(&self.dir.path().join("rebuilt"), into)?;
        let file = File::options().write(true).open(into)?;
        let mut flying: Vec<Told> =
            memory.told[flushed..at].iter().filter(|told| matches!(told, Told::Write { .. })).copied().collect();
        let in_flight = flying.len();
        // In any order; half of them not at all; some in part.
        for place in (1..flying.len()).rev() {
            flying.swap(place, seed.index(place + 1));
        }
        flying.retain(|_| seed.once_in(2));
        for told in &flying {
            let Told::Write { at, len, logged } = *told else { continue };
            let data = read(&memory.log, logged, len)?;
            let torn = seed.once_in(3);
            let size = sector(self.kind, at);
            for (number, sector) in data.chunks(size).enumerate() {
                if !torn || seed.once_in(2) {
                    file.write_all_at(sector, at + (number * size) as u64)?;
                }
            }
        }
        Ok(Crash { at, in_flight, kept: flying.len() })
    }
}

fn read(log: &File, at: u64, len: usize) -> io::Result<Vec<u8>> {
    let mut data = vec![0; len];
    log.read_exact_at(&mut data, at)?;
    Ok(data)
}

fn copy_sparse(from: &Path, to: &Path) -> io::Result<()> {
    let (from, to) = (from.display().to_string(), to.display().to_string());
    tools::run("cp", &["--sparse=always", "--", &from, &to]);
    Ok(())
}

/// Takes away the disks of tests that were killed: a device that leads nowhere fails every `mkfs.btrfs` of the machine.
fn sweep() {
    for entry in fs::read_dir(PLACES).into_iter().flatten().flatten() {
        let dir = entry.path();
        let ours = entry.file_name().to_string_lossy().starts_with(PREFIX);
        let Some(lock) = File::open(dir.join(LOCK)).ok().filter(|_| ours) else { continue };
        if rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            continue;
        }
        // All tests keep their home there.
        let home = dir.join("mnt/home");
        crate::wait_until(Duration::from_secs(10), || {
            let pids = processes_of(&home);
            for pid in pids.iter().filter_map(|pid| Pid::from_raw(pid.cast_signed())) {
                let _ = kill_process(pid, Signal::KILL);
            }
            pids.is_empty()
        });
        // The file system lies on the device, and that in the file of FUSE or in a crash.
        unmount(&dir.join("mnt"));
        for file in ["fuse/disk", "crashed"] {
            let file = dir.join(file).display().to_string();
            for line in tools::run("losetup", &["--list", "--noheadings", "--output", "NAME,BACK-FILE"]).lines() {
                if let Some((device, _)) = line.split_once(' ').filter(|(_, back)| back.trim() == file) {
                    tools::output(Path::new("losetup"), &["--detach", device]);
                }
            }
        }
        unmount(&dir.join("fuse"));
        if let Err(error) = fs::remove_dir_all(&dir) {
            eprintln!("{} is not removed: {error}", dir.display());
        }
    }
}

fn attach(file: &Path) -> String {
    tools::run("losetup", &["--find", "--show", &file.display().to_string()]).trim().to_owned()
}

fn is_mounted(path: &str) -> bool {
    fs::read_to_string("/proc/self/mounts").unwrap_or_default().contains(&format!(" {path} "))
}

impl Drop for RecordedDisk {
    fn drop(&mut self) {
        if let Some(device) = self.device.take() {
            unmount(&self.path());
            tools::output(Path::new("losetup"), &["--detach", &device]);
        }
        if let Some(session) = self.session.take() {
            let _ = session.umount_and_join();
        }
    }
}
