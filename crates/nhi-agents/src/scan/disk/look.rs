//! Looks at files: which manifests there are, and the graph's text. It blocks, reads only what changed, opens
//! nothing but plain files, and reads nothing that is too large.

use nhi_bus::store::VALUE_BYTES_MAX;
use nhi_decide::{
    graph::{self, FileRead, GraphError},
    manifest::{self, Found, ManifestError, ProjectsRead, Unread},
};
use nhi_model::{Timestamp, project::Project, source::Coverage};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, Metadata},
    io::{self, Read},
    path::{Path, PathBuf},
};

#[cfg(unix)]
use std::os::unix::fs::MetadataExt as _;

/// Most projects of one root; more is another kind of directory.
const PROJECTS_MAX: usize = 500;
/// Room that a record's envelope takes beside the record.
const ENVELOPE_BYTES: usize = 4 * 1024;

/// Whether a file is the one that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    #[cfg(not(unix))]
    fn of(metadata: &Metadata) -> Self {
        let since_1970 = |time: io::Result<std::time::SystemTime>| {
            let time =
                time.ok().and_then(|time| Timestamp::try_from(time).ok()).unwrap_or(Timestamp::UNIX_EPOCH);
            (time.as_second(), time.subsec_nanosecond().into())
        };
        let (modified, changed) = (since_1970(metadata.modified()), since_1970(metadata.created()));
        Self { inode: 0, bytes: metadata.len(), modified, changed }
    }

    #[cfg(unix)]
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            // A file put back with its old time has another change time.
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

/// Files as they were last read.
#[derive(Debug, Default)]
pub(super) struct Shelf {
    read: BTreeMap<PathBuf, (Stamp, Vec<u8>)>,
}

/// Why a file has no bytes.
enum NoBytes {
    Absent,
    TooLarge(u64),
    Failed(String),
}

impl Shelf {
    /// A file's bytes, from memory where it is the same.
    fn bytes(&mut self, path: &Path, bytes_max: usize) -> Result<&[u8], NoBytes> {
        let metadata = fs::metadata(path).map_err(|error| no_bytes(&error))?;
        if !metadata.is_file() {
            return Err(NoBytes::Failed("it is no plain file".to_owned()));
        }
        if metadata.len() > bytes_max as u64 {
            return Err(NoBytes::TooLarge(metadata.len()));
        }
        let stamp = Stamp::of(&metadata);
        if self.read.get(path).is_none_or(|(known, _)| *known != stamp) {
            self.read.remove(path);
            let bytes = read_bounded(path, bytes_max)?;
            self.read.insert(path.to_owned(), (stamp, bytes));
        }
        Ok(&self.read[path].1)
    }

    /// Forgets files that are no longer there.
    fn keep(&mut self, seen: &BTreeSet<PathBuf>) {
        self.read.retain(|path, _| seen.contains(path));
    }
}

/// The file may grow between looking and reading.
fn read_bounded(path: &Path, bytes_max: usize) -> Result<Vec<u8>, NoBytes> {
    let mut bytes = Vec::new();
    let file = File::open(path).map_err(|error| no_bytes(&error))?;
    file.take(bytes_max as u64 + 1).read_to_end(&mut bytes).map_err(|error| no_bytes(&error))?;
    if bytes.len() > bytes_max { Err(NoBytes::TooLarge(bytes.len() as u64)) } else { Ok(bytes) }
}

fn no_bytes(error: &io::Error) -> NoBytes {
    match error.kind() {
        io::ErrorKind::NotFound => NoBytes::Absent,
        kind => NoBytes::Failed(kind.to_string()),
    }
}

/// All manifests below the roots.
pub(super) fn projects(shelf: &mut Shelf, roots: &[PathBuf], at: Timestamp) -> ProjectsRead {
    let mut read = ProjectsRead { at, roots: BTreeMap::new(), found: Vec::new() };
    let mut seen = BTreeSet::new();
    for root in roots {
        let children = children(root);
        let coverage = match &children {
            Ok(children) if children.len() > PROJECTS_MAX => Coverage::Partial {
                reason: format!("only the first {PROJECTS_MAX} directories are looked at"),
            },
            Ok(_) => Coverage::Complete,
            Err(reason) => Coverage::Unseen { reason: reason.clone() },
        };
        read.roots.insert(root.display().to_string(), coverage);
        for dir in children.unwrap_or_default().iter().take(PROJECTS_MAX) {
            read.found.extend(project(shelf, dir, &mut seen));
        }
    }
    shelf.keep(&seen);
    read
}

/// The directories in a directory, sorted.
fn children(root: &Path) -> Result<Vec<PathBuf>, String> {
    let failed = |error: io::Error| format!("the directory cannot be listed: {}", error.kind());
    let mut out = Vec::new();
    for entry in fs::read_dir(root).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        // A link to a directory counts as one.
        if path.is_dir() {
            out.push(path);
        }
    }
    out.sort();
    Ok(out)
}

fn project(shelf: &mut Shelf, dir: &Path, seen: &mut BTreeSet<PathBuf>) -> Option<Found> {
    let id = dir.file_name()?.to_string_lossy().into_owned();
    for name in manifest::FILE_NAMES {
        let path = dir.join(name);
        let read = match shelf.bytes(&path, manifest::FILE_BYTES_MAX) {
            Err(NoBytes::Absent) => continue,
            Err(NoBytes::TooLarge(bytes)) => {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
                Err(Unread::Manifest(ManifestError::TooLarge { bytes }))
            }
            Err(NoBytes::Failed(reason)) => Err(Unread::File(reason)),
            Ok(bytes) => manifest::parse(&id, &dir.display().to_string(), name, bytes)
                .map_err(Unread::Manifest)
                .and_then(fits_a_record),
        };
        let file = path.display().to_string();
        seen.insert(path);
        return Some(Found { id, file, read });
    }
    None
}

/// Escaped control characters can make a text six times as long as its file.
fn fits_a_record(project: Project) -> Result<Project, Unread> {
    let bytes = serde_json::to_vec(&project).map_or(usize::MAX, |json| json.len());
    if bytes + ENVELOPE_BYTES <= VALUE_BYTES_MAX {
        return Ok(project);
    }
    Err(Unread::File(format!(
        "it takes {bytes} bytes as a record and {VALUE_BYTES_MAX} are allowed, so shorten it"
    )))
}

/// The dependency graph. A missing directory is no proof that there is no graph.
pub(super) fn graph(shelf: &mut Shelf, file: &Path, is_known: bool) -> FileRead {
    let read = match shelf.bytes(file, graph::FILE_BYTES_MAX) {
        Ok(bytes) => match str::from_utf8(bytes) {
            Ok(text) => FileRead::Text(graph::parse(text)),
            Err(_) => FileRead::Unreadable("the dependency graph is not UTF-8 text".to_owned()),
        },
        Err(NoBytes::Absent) if is_known && !file.parent().is_some_and(Path::is_dir) => {
            FileRead::Unreadable("the directory of the dependency graph is missing".to_owned())
        }
        Err(NoBytes::Absent) => FileRead::Absent,
        Err(NoBytes::TooLarge(bytes)) => {
            let bytes = usize::try_from(bytes).unwrap_or(usize::MAX);
            FileRead::Text(Err(GraphError::TooLarge { bytes }))
        }
        Err(NoBytes::Failed(reason)) => {
            FileRead::Unreadable(format!("the dependency graph could not be read: {reason}"))
        }
    };
    shelf.keep(&BTreeSet::from([file.to_owned()]));
    read
}

#[cfg(test)]
mod tests {
    use super::*;
    use tempfile::TempDir;

    fn put(root: &Path, project: &str, file: &str, text: &[u8]) {
        fs::create_dir_all(root.join(project)).unwrap();
        fs::write(root.join(project).join(file), text).unwrap();
    }

    fn names(read: &ProjectsRead) -> Vec<String> {
        let name = |found: &Found| match &found.read {
            Ok(project) => format!("{}={}", found.id, project.name),
            Err(why) => format!("{}: {why}", found.id),
        };
        read.found.iter().map(name).collect()
    }

    #[test]
    fn manifests_are_found_and_bad_ones_named() {
        let root = TempDir::new().unwrap();
        put(root.path(), "one", "project_manifest.md", "# PROGETTO: Uno\n".as_bytes());
        put(root.path(), "two", "project_manifest.yaml", b"name: Two\n");
        put(root.path(), "large", "project_manifest.md", &vec![b'x'; 10 * 1024 * 1024]);
        put(root.path(), "escapes", "project_manifest.md", &vec![1; 100 * 1024]);
        put(root.path(), "binary", "project_manifest.md", &[0xff, 0xfe]);
        put(root.path(), "empty", "README.md", b"");
        fs::create_dir_all(root.path().join("odd/project_manifest.md")).unwrap();
        fs::write(root.path().join("plain"), "").unwrap();

        let mut shelf = Shelf::default();
        let read = projects(&mut shelf, &[root.path().to_owned()], Timestamp::UNIX_EPOCH);
        let names = names(&read);
        assert_eq!(names.len(), 6, "{names:?}");
        assert!(names[0].contains("not UTF-8"), "{names:?}");
        assert!(names[1].contains("as a record"), "{names:?}");
        assert!(names[2].contains("10485760 bytes"), "{names:?}");
        assert!(names[3].contains("no plain file"), "{names:?}");
        assert_eq!(names[4..], ["one=Uno", "two=Two"]);
        assert_eq!(read.roots.values().next(), Some(&Coverage::Complete));
        assert!(!shelf.read.keys().any(|path| path.ends_with("large/project_manifest.md")), "never read");
    }

    #[test]
    fn a_root_that_is_missing_is_unseen() {
        let read = projects(&mut Shelf::default(), &["/nonexistent".into()], Timestamp::UNIX_EPOCH);
        assert!(matches!(&read.roots["/nonexistent"], Coverage::Unseen { .. }));
    }

    #[test]
    fn a_file_is_read_again_only_when_it_changed() {
        let dir = TempDir::new().unwrap();
        let path = dir.path().join("graph.json");
        fs::write(&path, r#"{"services":{}}"#).unwrap();
        let mut shelf = Shelf::default();
        assert!(matches!(graph(&mut shelf, &path, false), FileRead::Text(Ok(_))));
        // What stands in memory proves that the file is not opened again.
        shelf.read.get_mut(&path).unwrap().1 = b"{".to_vec();
        assert!(matches!(graph(&mut shelf, &path, false), FileRead::Text(Err(_))));
        fs::write(&path, r#"{"services":{} }"#).unwrap();
        assert!(matches!(graph(&mut shelf, &path, false), FileRead::Text(Ok(_))));
        fs::remove_file(&path).unwrap();
        assert!(matches!(graph(&mut shelf, &path, true), FileRead::Absent));
        let elsewhere = Path::new("/nonexistent/graph.json");
        assert!(matches!(graph(&mut shelf, elsewhere, true), FileRead::Unreadable(_)));
        assert!(matches!(graph(&mut shelf, elsewhere, false), FileRead::Absent));
    }
}
