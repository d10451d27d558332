//! A stand-in for NVIDIA's library, compiled for one test: it reads the state of its card from a file at each call.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// A library, and the file that says what its card does.
pub(crate) struct FakeNvml {
    pub(crate) library: PathBuf,
    state: PathBuf,
}

impl FakeNvml {
    /// Compiles it into a directory. Rust needs a C compiler to link, so there is one.
    pub(crate) fn build(dir: &Path) -> Self {
        let (source, library, state) =
            (dir.join("nvml.c"), dir.join("libnvidia-ml.so.1"), dir.join("card.txt"));
        fs::write(&source, include_str!("nvml.c")).expect("the directory is ours");
        let output = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()))
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .arg(&library)
            .arg(format!("-DSTATE=\"{}\"", state.display()))
            .arg(&source)
            .output()
            .expect("a C compiler is there");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let fake = Self { library, state };
        fake.set(&[]);
        fake
    }

    /// An idle card of 16 GiB, and what else is said of it.
    pub(crate) fn set(&self, lines: &[&str]) {
        let idle = ["load 0", "total 17179869184", "used 500000000", "temperature 40", "milliwatts 21500"];
        self.say(&lines.iter().copied().chain(idle).collect::<Vec<_>>());
    }

    /// Just this. A word's first line counts.
    pub(crate) fn say(&self, lines: &[&str]) {
        let next = self.state.with_extension("next");
        fs::write(&next, lines.join("\n") + "\n").expect("the directory is ours");
        fs::rename(&next, &self.state).expect("the directory is ours");
    }
}
