//! The files of the mirror: immutable generation directories, and one rename that makes a generation the
//! current one. Whatever is killed when, `state.json` and its checksums belong together.
//!
//! It does not know what stands in the files, and it does not retry: an error leaves what was there before,
//! and the caller comes back. All calls block; the mirror makes them on a blocking thread.
//!
//! Why not two renames (the file, then its checksum)? A writer killed between them leaves a pair that never
//! matches; of 300 killed writers 30 did (`tests/mirror_kill.rs` keeps that as its control).

pub mod names;
mod repair;
#[cfg(test)]
mod tests;

use self::names::{Generation, Past};
use jiff::Timestamp;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, VecDeque},
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    path::{Component, Path, PathBuf},
};

#[cfg(unix)]
use std::os::unix::fs::symlink;

/// Elsewhere links need a privilege that no agent should have.
#[cfg(not(unix))]
fn symlink(_: impl AsRef<Path>, _: impl AsRef<Path>) -> io::Result<()> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the mirror needs symbolic links: run it on the server"))
}

/// What readers open.
pub const STATE: &str = "state.json";
/// 64 lower-case hex digits, nothing else.
pub const CHECKSUM: &str = "state.json.checksum";
/// For `sha256sum -c`.
pub const SHA256SUM: &str = "state.json.sha256";
/// The one symlink that ever flips.
pub const CURRENT: &str = ".current";
/// Where hard links to generations stay.
pub const HISTORY: &str = "state_history";

/// The stable names, each a symlink through [`CURRENT`].
const NAMES: [&str; 3] = [STATE, CHECKSUM, SHA256SUM];
/// Generations that stay, the current one among them. A reader that opened `.current` as a directory and
/// dawdles still finds its files after two more commits.
const GENERATIONS_KEPT: usize = 3;
/// What a name of ours ends with while it is being made.
const UNFINISHED: &str = ".nhi-tmp";

/// What was tried on which file, and how it failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing} {}", path.display())]
pub struct FilesError {
    doing: &'static str,
    path: PathBuf,
    source: io::Error,
}

/// Why the mirror cannot write, as far as it changes what a person should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// No space, no inodes, a quota or a size limit.
    Full,
    /// Mounted read-only.
    ReadOnly,
    /// Another user's directory.
    Denied,
    /// Another mirror writes there.
    Taken,
    /// Anything else; the source says what.
    Other,
}

impl FilesError {
    fn new(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self { doing, path: path.to_owned(), source }
    }

    /// What kind of failure it is.
    pub fn trouble(&self) -> Trouble {
        match self.source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge => {
                Trouble::Full
            }
            io::ErrorKind::ReadOnlyFilesystem => Trouble::ReadOnly,
            io::ErrorKind::PermissionDenied => Trouble::Denied,
            io::ErrorKind::WouldBlock => Trouble::Taken,
            _ => Trouble::Other,
        }
    }

    /// What is wrong with the mirror's directory, one sentence for people. The exact path is in `Display`: it
    /// has numbers that grow with each try, and a sentence that changes is a new problem each time.
    pub fn summary(&self, dir: &Path) -> String {
        let place = dir.display();
        match self.trouble() {
            Trouble::Full => format!("the mirror cannot write to {place}: the disk is full"),
            Trouble::ReadOnly => format!("the mirror cannot write to {place}: the file system is read-only"),
            Trouble::Denied => format!("the mirror cannot write to {place}: it belongs to another user"),
            Trouble::Taken => format!("the mirror cannot write to {place}: another mirror writes there"),
            Trouble::Other => format!("the mirror cannot write to {place}: {}", self.source),
        }
    }

    /// What to do, one sentence for people. Nothing that was there is lost in any of these cases.
    pub fn hint(&self) -> &'static str {
        match self.trouble() {
            Trouble::Full => "Free some space; the files show the last whole state until then.",
            Trouble::ReadOnly => "Remount it writable; the files show the last whole state until then.",
            Trouble::Denied => "Give the directory to the user that runs nhi, or start nhi as its owner.",
            Trouble::Taken => "Stop the other nhi on this directory.",
            Trouble::Other => "Look at the disk and the system log; the mirror tries again by itself.",
        }
    }
}

/// Something odd that was found and put right.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Repair {
    /// What an interrupted commit left behind was removed.
    LeftoverRemoved {
        /// Its name.
        name: String,
    },
    /// The current generation's files did not belong together.
    PairBroken {
        /// The generation.
        generation: Generation,
        /// Where its `state.json` is kept, when there was one.
        kept_as: Option<String>,
    },
    /// An older whole generation became the current one.
    RolledBack {
        /// The generation.
        generation: Generation,
    },
    /// A plain file stood where a symlink belongs; it is in the history now.
    PlainFileAdopted {
        /// Where it stood.
        name: String,
        /// Where it is kept, when it was a state.
        kept_as: Option<String>,
    },
}

/// What a commit did.
#[derive(Debug)]
pub struct Committed {
    /// The generation that is now the current one.
    pub generation: Generation,
    /// What failed after the commit was durable: history, old generations. Tried again with the next one.
    pub afterwards: Option<FilesError>,
    /// What was put right on the way.
    pub repairs: Vec<Repair>,
}

/// The directory of the mirror, held by one writer.
#[derive(Debug)]
pub struct Files {
    dir: PathBuf,
    /// Holds the lock, and is what a rename is synced through.
    handle: File,
    /// Oldest first; the last is the current one.
    generations: VecDeque<Generation>,
    last_n: u64,
    /// Revision of the newest history file.
    past_revision: Option<u64>,
    /// Context files as they were last written, so that an unchanged one costs nothing.
    written: BTreeMap<PathBuf, String>,
}

impl Files {
    /// Takes the directory, makes it where it is missing, and puts right what an interrupted writer or a
    /// stranger left behind.
    ///
    /// # Errors
    /// [`FilesError`]; nothing that was there is lost.
    pub fn open(dir: &Path) -> Result<(Self, Vec<Repair>), FilesError> {
        fs::create_dir_all(dir.join(HISTORY)).map_err(|e| FilesError::new("making", dir, e))?;
        let handle = File::open(dir).map_err(|e| FilesError::new("opening", dir, e))?;
        handle.try_lock().map_err(|error| {
            let source = match error {
                TryLockError::Error(source) => source,
                TryLockError::WouldBlock => io::ErrorKind::WouldBlock.into(),
            };
            FilesError::new("locking", dir, source)
        })?;
        let mut files = Self {
            dir: dir.to_owned(),
            handle,
            generations: VecDeque::new(),
            last_n: 0,
            past_revision: None,
            written: BTreeMap::new(),
        };
        let repairs = files.repair()?;
        Ok((files, repairs))
    }

    /// The generation readers see now.
    pub fn current(&self) -> Option<Generation> {
        self.generations.back().copied()
    }

    /// Makes `state` the current generation. When this returns, it is on disk.
    ///
    /// # Errors
    /// [`FilesError`]; readers still see what they saw before.
    pub fn commit(&mut self, revision: u64, at: Timestamp, state: &[u8]) -> Result<Committed, FilesError> {
        let generation = Generation { revision, n: self.last_n + 1 };
        // Taken even when this commit fails, so that a half-removed directory is never written into.
        self.last_n = generation.n;
        let made = self.write_generation(generation, state).and_then(|()| self.flip(generation));
        if let Err(error) = made {
            // Best effort: what stays is removed at the next start.
            let _ = fs::remove_dir_all(self.dir.join(generation.name()));
            return Err(error);
        }
        self.generations.push_back(generation);
        self.sync()?;
        let mut repairs = Vec::new();
        let afterwards = self.follow_up(generation, at, &mut repairs).err();
        Ok(Committed { generation, afterwards, repairs })
    }

    /// Replaces one file below the directory, whole or not at all. An unchanged one is left alone.
    ///
    /// # Errors
    /// [`FilesError`]; the file is as it was.
    pub fn replace(&mut self, relative: &Path, bytes: &[u8]) -> Result<(), FilesError> {
        assert!(
            relative.components().all(|c| matches!(c, Component::Normal(_))),
            "a rendered file stays below the mirror's directory"
        );
        let hash = hex(bytes);
        let path = self.dir.join(relative);
        let known = self.written.get(relative).is_some_and(|known| *known == hash) && path.exists();
        if known || fs::read(&path).is_ok_and(|there| there == bytes) {
            self.written.insert(relative.to_owned(), hash);
            return Ok(());
        }
        let parent = path.parent().unwrap_or(&self.dir);
        fs::create_dir_all(parent).map_err(|e| FilesError::new("making", parent, e))?;
        let unfinished = unfinished(&path);
        let _ = fs::remove_file(&unfinished);
        let written = write_synced(&unfinished, bytes, 0o644)
            .and_then(|()| fs::rename(&unfinished, &path).map_err(|e| FilesError::new("renaming", &path, e)));
        if written.is_err() {
            let _ = fs::remove_file(&unfinished);
        }
        written?;
        self.written.insert(relative.to_owned(), hash);
        Ok(())
    }

    fn write_generation(&self, generation: Generation, state: &[u8]) -> Result<(), FilesError> {
        let place = self.dir.join(generation.name());
        fs::create_dir(&place).map_err(|e| FilesError::new("making", &place, e))?;
        let checksum = hex(state);
        // Read-only, because an editor that writes in place would break the pair for every reader.
        write_synced(&place.join(STATE), state, 0o444)?;
        write_synced(&place.join(CHECKSUM), checksum.as_bytes(), 0o444)?;
        write_synced(&place.join(SHA256SUM), format!("{checksum}  {STATE}\n").as_bytes(), 0o444)?;
        sync_directory(&place)
    }

    /// The commit itself: one rename.
    fn flip(&self, generation: Generation) -> Result<(), FilesError> {
        self.link(CURRENT, Path::new(&generation.name()))
    }

    /// Makes `name` a symlink to `target`, replacing what stood there in one rename.
    fn link(&self, name: &str, target: &Path) -> Result<(), FilesError> {
        let path = self.dir.join(name);
        let unfinished = unfinished(&path);
        let _ = fs::remove_file(&unfinished);
        symlink(target, &unfinished).map_err(|e| FilesError::new("linking", &path, e))?;
        fs::rename(&unfinished, &path).map_err(|e| {
            let _ = fs::remove_file(&unfinished);
            FilesError::new("renaming", &path, e)
        })
    }

    fn sync(&self) -> Result<(), FilesError> {
        self.handle.sync_all().map_err(|e| FilesError::new("syncing", &self.dir, e))
    }

    /// What comes after the commit is durable: stable names, history, old generations.
    fn follow_up(
        &mut self,
        generation: Generation,
        at: Timestamp,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), FilesError> {
        self.ensure_names(repairs)?;
        if self.past_revision != Some(generation.revision) {
            self.remember(generation, at)?;
            self.past_revision = Some(generation.revision);
            self.forget_past(at)?;
        }
        self.forget_generations()
    }

    /// Makes the stable names symlinks. A plain file found there (Neural-Home v3's) goes to the history.
    fn ensure_names(&self, repairs: &mut Vec<Repair>) -> Result<(), FilesError> {
        let mut changed = false;
        for name in NAMES {
            let path = self.dir.join(name);
            let target = Path::new(CURRENT).join(name);
            if fs::read_link(&path).is_ok_and(|found| found == target) {
                continue;
            }
            if fs::symlink_metadata(&path).is_ok() {
                let kept_as =
                    if name == STATE && path.is_file() { Some(self.keep_plain(&path)?) } else { None };
                repairs.push(Repair::PlainFileAdopted { name: name.to_owned(), kept_as });
            }
            self.link(name, &target)?;
            changed = true;
        }
        if changed { self.sync() } else { Ok(()) }
    }

    /// Puts a file from before the mesh into the history, under its own time and revision 0.
    fn keep_plain(&self, path: &Path) -> Result<String, FilesError> {
        let modified = fs::metadata(path).and_then(|m| m.modified());
        let modified = modified.map_err(|e| FilesError::new("reading", path, e))?;
        let at = Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH);
        self.keep(path, at, 0)
    }

    /// Hard-links `path` into the history; a file system without hard links gets a copy. A name that is
    /// taken moves on by a second.
    fn keep(&self, path: &Path, at: Timestamp, revision: u64) -> Result<String, FilesError> {
        let source = fs::canonicalize(path).map_err(|e| FilesError::new("reading", path, e))?;
        let mut at = at;
        loop {
            let name = Past::new(at, revision).name();
            let kept = self.dir.join(HISTORY).join(&name);
            match fs::hard_link(&source, &kept) {
                Ok(()) => return Ok(name),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                    at += jiff::SignedDuration::from_secs(1);
                }
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::Unsupported
                            | io::ErrorKind::PermissionDenied
                            | io::ErrorKind::TooManyLinks
                    ) =>
                {
                    let bytes = fs::read(&source).map_err(|e| FilesError::new("reading", &source, e))?;
                    write_synced(&kept, &bytes, 0o444)?;
                    return Ok(name);
                }
                Err(error) => return Err(FilesError::new("linking", &kept, error)),
            }
        }
    }

    fn remember(&self, generation: Generation, at: Timestamp) -> Result<(), FilesError> {
        let state = self.dir.join(generation.name()).join(STATE);
        self.keep(&state, at, generation.revision)?;
        sync_directory(&self.dir.join(HISTORY))
    }

    fn forget_generations(&mut self) -> Result<(), FilesError> {
        while self.generations.len() > GENERATIONS_KEPT {
            let place = self.dir.join(self.generations[0].name());
            match fs::remove_dir_all(&place) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(FilesError::new("removing", &place, error)),
            }
            self.generations.pop_front();
        }
        Ok(())
    }
}

/// The name of `path` while it is being made.
fn unfinished(path: &Path) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{}{UNFINISHED}", name.trim_start_matches('.')))
}

/// Writes a new file and waits until it is on disk.
fn write_synced(path: &Path, bytes: &[u8], mode: u32) -> Result<(), FilesError> {
    let write = || {
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        give_mode(&mut options, mode);
        let mut file = options.open(path)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|e| FilesError::new("writing", path, e))
}

#[cfg(unix)]
fn give_mode(options: &mut OpenOptions, mode: u32) {
    std::os::unix::fs::OpenOptionsExt::mode(options, mode);
}

/// On this system a file is as open as its directory says.
#[cfg(not(unix))]
fn give_mode(_options: &mut OpenOptions, _mode: u32) {}

fn sync_directory(path: &Path) -> Result<(), FilesError> {
    File::open(path).and_then(|f| f.sync_all()).map_err(|e| FilesError::new("syncing", path, e))
}

/// SHA-256 in lower-case hex.
fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}
