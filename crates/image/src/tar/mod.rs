//! The tar format as Pando writes it: `ustar` headers, PAX records for what does not fit into them (long
//! names, nanoseconds, large numbers, extended attributes), and GNU's sparse format 1.0 for files with holes.
//! `tar xf` of GNU, `bsdtar` and Go's and Python's libraries read it.
//!
//! The reader is strict: it takes what the writer writes and refuses the rest, so that no two readers can
//! see different files in one archive. Sizes have one source of truth: a PAX size must repeat the header's,
//! unless that does not fit there.

mod read;
mod write;

pub use read::{Reader, Refusal};
pub use write::Writer;

/// The unit of everything.
pub const BLOCK: usize = 512;

/// The longest path, as the kernel has it.
pub const MOST_PATH: usize = 4095;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A regular file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link.
    Symlink,
    /// One more name of a file that came before.
    HardLink,
}

/// A piece of a file that is not a hole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Where it begins.
    pub offset: u64,
    /// How long it is.
    pub length: u64,
}

/// One entry's head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its path, without a slash at either end.
    pub path: Vec<u8>,
    /// What it is.
    pub kind: Kind,
    /// Permission bits, set-user-id and such among them.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub mtime: (i64, u32),
    /// What a link points to.
    pub target: Vec<u8>,
    /// Extended attributes.
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// Length of the file, holes included.
    pub size: u64,
    /// What of the file is data, where it has holes.
    pub extents: Option<Vec<Extent>>,
}

impl Entry {
    /// A plain file, without anything special.
    pub fn file(path: &str, mode: u32, size: u64) -> Self {
        Self {
            path: path.as_bytes().to_vec(),
            kind: Kind::File,
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            target: Vec::new(),
            xattrs: Vec::new(),
            size,
            extents: None,
        }
    }

    /// Bytes of data that follow the head.
    pub fn data_len(&self) -> u64 {
        match (&self.extents, self.kind) {
            (_, Kind::Directory | Kind::Symlink | Kind::HardLink) => 0,
            (None, Kind::File) => self.size,
            (Some(extents), Kind::File) => extents.iter().map(|extent| extent.length).sum(),
        }
    }

    /// The path, for people.
    pub fn shown(&self) -> String {
        shown(&self.path)
    }
}

/// A path of an archive, for people: short, on one line.
pub(crate) fn shown(path: &[u8]) -> String {
    let text: String = String::from_utf8_lossy(path).chars().take(120).collect();
    format!("{text:?}")
}

/// What PAX may say besides `SCHILY.xattr.NAME`.
pub(crate) mod key {
    pub const PATH: &str = "path";
    pub const LINKPATH: &str = "linkpath";
    pub const SIZE: &str = "size";
    pub const UID: &str = "uid";
    pub const GID: &str = "gid";
    pub const MTIME: &str = "mtime";
    pub const XATTR: &str = "SCHILY.xattr.";
    pub const SPARSE_MAJOR: &str = "GNU.sparse.major";
    pub const SPARSE_MINOR: &str = "GNU.sparse.minor";
    pub const SPARSE_NAME: &str = "GNU.sparse.name";
    pub const SPARSE_SIZE: &str = "GNU.sparse.realsize";
}
