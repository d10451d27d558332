//! Directories and files that only their owner may use: keys, the registry, certificates, run-time state.
//!
//! It does not know what stands in them. Every write is whole or absent: temporary file, sync, rename.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    path::{Path, PathBuf},
};

/// Why a private file or directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrivateError {
    /// It belongs to somebody else; writing there would leave files its owner cannot use.
    #[error("{} belongs to uid {owner}, you are uid {me}: run as that user, or choose another --dir", path.display())]
    ForeignOwner {
        /// The file or directory.
        path: PathBuf,
        /// Who owns it.
        owner: u32,
        /// Who asks.
        me: u32,
    },
    /// The operating system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was attempted.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl PrivateError {
    fn io(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { what, path, source }
    }
}

/// Makes a directory with mode 0700, or checks that an existing one is ours.
///
/// A directory that is made must not land in somebody else's, unless that one is open to all (like `/tmp`).
///
/// # Errors
/// [`PrivateError`] when it is another user's, or cannot be made.
pub fn ensure_dir(path: &Path) -> Result<(), PrivateError> {
    if path.is_dir() {
        return check_owner(path);
    }
    if let Some(parent) = path.parent().filter(|p| p.is_dir() && !is_open_to_all(p)) {
        check_owner(parent)?;
    }
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(path).map_err(PrivateError::io("create", path))
}

/// Checks that a file or directory is ours. Root is no exception: what root writes into a user's directory,
/// that user cannot change later.
///
/// # Errors
/// [`PrivateError::ForeignOwner`] when it is not.
#[cfg(unix)]
pub fn check_owner(path: &Path) -> Result<(), PrivateError> {
    let meta = fs::metadata(path).map_err(PrivateError::io("look at", path))?;
    let owner = std::os::unix::fs::MetadataExt::uid(&meta);
    let me = rustix::process::geteuid().as_raw();
    if owner == me {
        return Ok(());
    }
    Err(PrivateError::ForeignOwner { path: path.to_owned(), owner, me })
}

/// Checks that a file or directory is ours: on this system by its access list, not by us.
#[cfg(not(unix))]
pub fn check_owner(path: &Path) -> Result<(), PrivateError> {
    fs::metadata(path).map(drop).map_err(PrivateError::io("look at", path))
}

/// Whether others than the owner can read a file. `doctor` warns of that for keys.
#[cfg(unix)]
pub fn is_exposed(path: &Path) -> bool {
    fs::metadata(path)
        .is_ok_and(|meta| std::os::unix::fs::PermissionsExt::mode(&meta.permissions()) & 0o077 != 0)
}

/// Whether others than the owner can read a file: not judged on this system.
#[cfg(not(unix))]
pub fn is_exposed(_path: &Path) -> bool {
    false
}

#[cfg(unix)]
fn is_open_to_all(path: &Path) -> bool {
    const STICKY_AND_WRITABLE: u32 = 0o1002;
    fs::metadata(path).is_ok_and(|meta| {
        let mode = std::os::unix::fs::PermissionsExt::mode(&meta.permissions());
        mode & STICKY_AND_WRITABLE == STICKY_AND_WRITABLE
    })
}

#[cfg(not(unix))]
fn is_open_to_all(_path: &Path) -> bool {
    true
}

/// Writes a file that only we may read (mode 0600), whole or not at all.
///
/// # Errors
/// [`PrivateError`] when the file there belongs to somebody else, or writing fails; then the old content stands.
pub fn write(path: &Path, bytes: &[u8]) -> Result<(), PrivateError> {
    if path.exists() {
        check_owner(path)?;
    }
    let parent = path.parent().unwrap_or(Path::new("."));
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    // The process id keeps two writers apart; the lock around a change keeps their changes apart.
    let tmp = parent.join(format!(".{name}.{}.tmp", std::process::id()));
    let written =
        write_synced(&tmp, bytes).and_then(|()| fs::rename(&tmp, path)).and_then(|()| sync_dir(parent));
    if written.is_err() {
        // Nothing is lost when this fails too: the name is our own and is truncated by the next write.
        drop(fs::remove_file(&tmp));
    }
    written.map_err(PrivateError::io("write", path))
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Makes a rename in the directory survive a power cut.
#[cfg(unix)]
fn sync_dir(path: &Path) -> io::Result<()> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    File::open(path)?.sync_all()
}

#[cfg(not(unix))]
fn sync_dir(_path: &Path) -> io::Result<()> {
    Ok(())
}

/// An exclusive lock between processes, held until dropped. The operating system releases it when we die.
#[derive(Debug)]
pub struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock. Blocks the thread.
    ///
    /// # Errors
    /// [`PrivateError`] when the lock file cannot be made or locked.
    pub fn acquire(path: &Path) -> Result<Self, PrivateError> {
        let file = open_lock(path)?;
        file.lock().map_err(PrivateError::io("lock", path))?;
        Ok(Self { _file: file })
    }

    /// Takes the lock when it is free; `None` when somebody holds it.
    ///
    /// # Errors
    /// [`PrivateError`] when the lock file cannot be made or locked.
    pub fn try_acquire(path: &Path) -> Result<Option<Self>, PrivateError> {
        let file = open_lock(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(PrivateError::io("lock", path)(source)),
        }
    }
}

fn open_lock(path: &Path) -> Result<File, PrivateError> {
    let mut options = OpenOptions::new();
    // Never truncated and never removed: another process may hold the same file open.
    options.write(true).create(true).truncate(false);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path).map_err(PrivateError::io("open", path))
}
