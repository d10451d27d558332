//! The processes of the machine, by what they were started as. It knows no memory and no load.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

/// Programs that serve models, as their executables are called.
pub const MODEL_SERVERS: &[&str] = &[
    "ollama",
    "ollama_llama_server",
    "llama-server",
    "llama-swap",
    "llama-cli",
    "llamafile",
    "koboldcpp",
    "lms",
    "lm-studio",
    "LM Studio",
    "vllm",
    "sglang",
    "tabbyapi",
];
/// Longest command line that is looked at: launchers' are long, and what is looked for stands at the front.
#[cfg(unix)]
const COMMAND_BYTES_MAX: usize = 16 * 1024;
/// A model server's workers stand a few generations below it.
const GENERATIONS_MAX: usize = 8;
/// Programs that run what stands behind them, by how they begin.
const INTERPRETERS: &[&str] = &["python", "java", "node", "bash", "sh", "wine", "mono"];
/// How far behind them it may stand: `python3 /usr/bin/vllm serve`, `python3 -m vllm…`, `java -jar x.jar`.
const PROGRAM_WORDS: usize = 3;

/// One process.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    /// Program and arguments.
    pub(crate) words: Vec<String>,
    /// Who started it.
    pub(crate) parent: Option<u32>,
}

/// All processes at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Processes {
    /// By number.
    pub(crate) all: BTreeMap<u32, Process>,
    /// Where Linux tells more about them.
    #[cfg(unix)]
    pub(crate) place: std::path::PathBuf,
}

impl Processes {
    /// Those of a Linux machine. One that ends while it is looked at was not there.
    #[cfg(unix)]
    pub(crate) fn read(proc: &Path) -> Self {
        let Ok(entries) = std::fs::read_dir(proc) else { return Self::default() };
        let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let process = |pid: u32| {
            let place = proc.join(pid.to_string());
            let words = words(&place)?;
            Some((pid, Process { words, parent: parent(&place) }))
        };
        Self { all: pids.filter_map(process).collect(), place: proc.to_owned() }
    }

    /// Those of a Windows machine.
    #[cfg(windows)]
    pub(crate) fn read(_proc: &Path) -> Self {
        Self { all: crate::windows::processes() }
    }

    /// Whether a process is one of these programs, or was started by one.
    pub(crate) fn is_below(&self, pid: u32, programs: &BTreeSet<String>) -> bool {
        let mut at = Some(pid);
        for _ in 0..GENERATIONS_MAX {
            let Some(process) = at.and_then(|pid| self.all.get(&pid)) else { return false };
            if process.is_one_of(programs) {
                return true;
            }
            at = process.parent;
        }
        false
    }
}

impl Process {
    /// The program's name without its folder.
    pub(crate) fn name(&self) -> &str {
        self.words.first().map_or("", |word| base(word))
    }

    /// Whether it is one of these programs, by itself or through an interpreter.
    pub(crate) fn is_one_of(&self, programs: &BTreeSet<String>) -> bool {
        self.which_of(programs).is_some()
    }

    /// The word by which it is one of these programs.
    pub(crate) fn which_of(&self, programs: &BTreeSet<String>) -> Option<&str> {
        let words =
            if INTERPRETERS.iter().any(|begin| self.name().starts_with(begin)) { PROGRAM_WORDS } else { 1 };
        self.words.iter().take(words).map(|word| base(word)).find(|name| {
            // Modules are written `vllm.entrypoints…`, programs on Windows `ollama.exe`.
            programs.contains(*name) || name.split('.').next().is_some_and(|stem| programs.contains(stem))
        })
    }
}

/// A path's last part, with either system's separator.
pub(crate) fn base(path: &str) -> &str {
    path.rsplit(['/', '\\']).next().unwrap_or(path)
}

#[cfg(unix)]
fn words(place: &Path) -> Option<Vec<String>> {
    use std::io::Read as _;
    let mut bytes = Vec::new();
    let file = std::fs::File::open(place.join("cmdline")).ok()?;
    file.take(COMMAND_BYTES_MAX as u64).read_to_end(&mut bytes).ok()?;
    let text = String::from_utf8_lossy(&bytes);
    let words: Vec<String> = text.trim_end_matches('\0').split('\0').map(str::to_owned).collect();
    // The kernel's own threads have no command line.
    words.first().is_some_and(|word| !word.is_empty()).then_some(words)
}

/// The parent in `/proc/PID/stat`: the second field behind the name, which may hold brackets and spaces itself.
#[cfg(unix)]
fn parent(place: &Path) -> Option<u32> {
    let stat = std::fs::read_to_string(place.join("stat")).ok()?;
    stat.rsplit_once(')')?.1.split_whitespace().nth(1)?.parse().ok()
}
