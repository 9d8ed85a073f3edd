//! The ioctls that no safe crate wraps: btrfs subvolumes, the btrfs metadata search, and FIEMAP.
//!
//! The only file of this crate with `unsafe`. Each structure is the kernel's (`linux/btrfs.h`,
//! `linux/fiemap.h`), laid out by `repr(C)`; sizes are checked at compile time because they are part of
//! the ioctl's number.
#![allow(unsafe_code, reason = "ioctls by hand; nothing else in this crate is unsafe")]

use std::ffi::OsStr;
use std::io;
use std::mem::{offset_of, size_of};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;

use rustix::ioctl::{NoArg, Opcode, Setter, Updater, ioctl, opcode};

const BTRFS: u8 = 0x94;
const NAME_MAX: usize = 4039;
const SUBVOL_RDONLY: u64 = 1 << 1;

#[repr(C)]
struct VolArgs {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; NAME_MAX + 1],
}
const _: () = assert!(size_of::<VolArgs>() == 4096);

impl VolArgs {
    fn named(name: &OsStr) -> io::Result<Self> {
        let bytes = name.as_bytes();
        if bytes.is_empty() || bytes.len() > 255 || bytes.contains(&b'/') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let mut args = Self { fd: 0, transid: 0, flags: 0, unused: [0; 4], name: [0; NAME_MAX + 1] };
        args.name[..bytes.len()].copy_from_slice(bytes);
        Ok(args)
    }
}

const SUBVOL_CREATE_V2: Opcode = opcode::write::<VolArgs>(BTRFS, 24);
const SNAP_CREATE_V2: Opcode = opcode::write::<VolArgs>(BTRFS, 23);
// The first SNAP_DESTROY takes {fd, name}, which is as long as VolArgs but laid out otherwise; V2 is in
// every kernel since 5.7.
const SNAP_DESTROY_V2: Opcode = opcode::write::<VolArgs>(BTRFS, 63);
const SUBVOL_SETFLAGS: Opcode = opcode::write::<u64>(BTRFS, 26);
const SUBVOL_GETFLAGS: Opcode = opcode::read::<u64>(BTRFS, 25);
const START_SYNC: Opcode = opcode::read::<u64>(BTRFS, 24);
const WAIT_SYNC: Opcode = opcode::write::<u64>(BTRFS, 22);

/// Makes an empty subvolume in the directory.
pub(crate) fn subvolume_create(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let args = VolArgs::named(name)?;
    // SAFETY: the opcode takes a `btrfs_ioctl_vol_args_v2`, which VolArgs is.
    Ok(unsafe { ioctl(parent, Setter::<SUBVOL_CREATE_V2, _>::new(args)) }?)
}

/// Makes a snapshot of `source` (the root directory of a subvolume) in the directory.
pub(crate) fn snapshot_create(
    parent: BorrowedFd<'_>,
    name: &OsStr,
    source: BorrowedFd<'_>,
    read_only: bool,
) -> io::Result<()> {
    let mut args = VolArgs::named(name)?;
    args.fd = i64::from(source.as_raw_fd());
    args.flags = if read_only { SUBVOL_RDONLY } else { 0 };
    // SAFETY: as above; `source` is open for the whole call.
    Ok(unsafe { ioctl(parent, Setter::<SNAP_CREATE_V2, _>::new(args)) }?)
}

/// Removes a subvolume by its name in the directory.
pub(crate) fn subvolume_destroy(parent: BorrowedFd<'_>, name: &OsStr) -> io::Result<()> {
    let args = VolArgs::named(name)?;
    // SAFETY: as above.
    Ok(unsafe { ioctl(parent, Setter::<SNAP_DESTROY_V2, _>::new(args)) }?)
}

/// Sets or clears the read-only flag of a subvolume.
pub(crate) fn subvolume_set_read_only(subvolume: BorrowedFd<'_>, read_only: bool) -> io::Result<()> {
    let mut flags = 0_u64;
    // SAFETY: both opcodes take one u64.
    unsafe { ioctl(subvolume, Updater::<SUBVOL_GETFLAGS, u64>::new(&mut flags)) }?;
    flags = if read_only { flags | SUBVOL_RDONLY } else { flags & !SUBVOL_RDONLY };
    // SAFETY: as above.
    Ok(unsafe { ioctl(subvolume, Setter::<SUBVOL_SETFLAGS, u64>::new(flags)) }?)
}

/// Commits the running transaction and waits for it. Unlike `syncfs` it does not write back dirty files
/// that nobody asked for.
pub(crate) fn commit(any: BorrowedFd<'_>) -> io::Result<()> {
    let mut transid = 0_u64;
    // SAFETY: both opcodes take one u64.
    unsafe { ioctl(any, Updater::<START_SYNC, u64>::new(&mut transid)) }?;
    // SAFETY: as above.
    Ok(unsafe { ioctl(any, Setter::<WAIT_SYNC, u64>::new(transid)) }?)
}

const SYNC: Opcode = opcode::none(BTRFS, 8);

/// Writes back everything, commits, and wakes the thread that wakes the cleaner of removed subvolumes.
pub(crate) fn sync_and_clean(any: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the opcode takes no argument.
    Ok(unsafe { ioctl(any, NoArg::<SYNC>::new()) }?)
}

const SEARCH_BUFFER: usize = 64 * 1024;

#[repr(C)]
#[derive(Clone, Copy)]
struct SearchKey {
    tree_id: u64,
    min_objectid: u64,
    max_objectid: u64,
    min_offset: u64,
    max_offset: u64,
    min_transid: u64,
    max_transid: u64,
    min_type: u32,
    max_type: u32,
    nr_items: u32,
    unused: u32,
    unused_more: [u64; 4],
}

#[repr(C)]
struct Search {
    key: SearchKey,
    buf_size: u64,
    buf: [u8; SEARCH_BUFFER],
}
const _: () = assert!(size_of::<SearchKey>() == 104 && offset_of!(Search, buf) == 112);
const TREE_SEARCH_V2: Opcode =
    opcode::from_components(rustix::ioctl::Direction::ReadWrite, BTRFS, 17, offset_of!(Search, buf));

/// One item of a btrfs tree.
pub(crate) struct Item<'a> {
    pub kind: u32,
    pub data: &'a [u8],
}

/// Calls `each` for every item of the tree of the subvolume that `subvolume` lies in, file items only.
/// Needs CAP_SYS_ADMIN. `each` returns whether to go on.
pub(crate) fn search_items(subvolume: BorrowedFd<'_>, mut each: impl FnMut(&Item<'_>) -> bool) -> io::Result<()> {
    let mut search = Box::new(Search {
        key: SearchKey {
            // Zero: the tree of the file that is asked.
            tree_id: 0,
            min_objectid: 256,
            max_objectid: u64::MAX - 256,
            min_offset: 0,
            max_offset: u64::MAX,
            min_transid: 0,
            max_transid: u64::MAX,
            min_type: 0,
            max_type: u32::from(u8::MAX),
            nr_items: u32::MAX,
            unused: 0,
            unused_more: [0; 4],
        },
        buf_size: SEARCH_BUFFER as u64,
        buf: [0; SEARCH_BUFFER],
    });
    loop {
        search.key.nr_items = u32::MAX;
        // SAFETY: the opcode takes a `btrfs_ioctl_search_args_v2` followed by `buf_size` bytes, which Search is.
        unsafe { ioctl(subvolume, Updater::<TREE_SEARCH_V2, Search>::new(&mut search)) }?;
        if search.key.nr_items == 0 {
            return Ok(());
        }
        let (mut at, mut last) = (0, (0, 0, 0));
        for _ in 0..search.key.nr_items {
            let word = |offset: usize| read_u64(&search.buf, at + offset);
            let half = |offset: usize| read_u32(&search.buf, at + offset);
            let (objectid, offset, kind, len) = (word(8), word(16), half(24), half(28) as usize);
            let data = search.buf.get(at + 32..at + 32 + len).unwrap_or_default();
            if !each(&Item { kind, data }) {
                return Ok(());
            }
            last = (objectid, kind, offset);
            at += 32 + len;
        }
        let (objectid, kind, offset) = last;
        let next = match (offset.checked_add(1), kind) {
            (Some(offset), _) => (objectid, kind, offset),
            (None, kind) if kind < u32::from(u8::MAX) => (objectid, kind + 1, 0),
            (None, _) => (objectid.saturating_add(1), 0, 0),
        };
        (search.key.min_objectid, search.key.min_type, search.key.min_offset) = next;
        if search.key.min_objectid > search.key.max_objectid {
            return Ok(());
        }
    }
}

/// A little-endian number inside bytes; zero beyond their end.
pub(crate) fn read_u64(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn read_u32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

const EXTENTS: usize = 256;
const EXTENT_LAST: u32 = 0x1;
const EXTENT_SHARED: u32 = 0x2000;

#[repr(C)]
#[derive(Clone, Copy)]
struct Extent {
    logical: u64,
    physical: u64,
    length: u64,
    reserved: [u64; 2],
    flags: u32,
    reserved_more: [u32; 3],
}

#[repr(C)]
struct Fiemap {
    start: u64,
    length: u64,
    flags: u32,
    mapped: u32,
    count: u32,
    reserved: u32,
    extents: [Extent; EXTENTS],
}
const _: () = assert!(size_of::<Extent>() == 56 && offset_of!(Fiemap, extents) == 32);
const FIEMAP: Opcode =
    opcode::from_components(rustix::ioctl::Direction::ReadWrite, b'f', 11, offset_of!(Fiemap, extents));

/// Bytes of the file's extents that no other file shares, as far as the file system flags them.
pub(crate) fn unshared_bytes(file: impl AsFd) -> io::Result<u64> {
    let empty = Extent { logical: 0, physical: 0, length: 0, reserved: [0; 2], flags: 0, reserved_more: [0; 3] };
    let mut map = Box::new(Fiemap {
        start: 0,
        length: u64::MAX,
        flags: 0,
        mapped: 0,
        count: u32::try_from(EXTENTS).unwrap_or(0),
        reserved: 0,
        extents: [empty; EXTENTS],
    });
    let mut bytes = 0;
    loop {
        // SAFETY: the opcode takes a `fiemap` followed by `count` extents, which Fiemap is.
        unsafe { ioctl(&file, Updater::<FIEMAP, Fiemap>::new(&mut map)) }?;
        let extents = map.extents.get(..map.mapped as usize).unwrap_or_default();
        bytes += extents.iter().filter(|e| e.flags & EXTENT_SHARED == 0).map(|e| e.length).sum::<u64>();
        match extents.last() {
            Some(last) if last.flags & EXTENT_LAST == 0 => {
                map.start = last.logical.saturating_add(last.length);
                map.length = u64::MAX - map.start;
            }
            _ => return Ok(bytes),
        }
    }
}
