//! Nkey seeds of identities: made, read and kept as `keys/<identity>.nk`. It does not know roles or rights.

use crate::private::{self, PrivateError};
use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use nhi_model::identity::IdentityName;
use nkeys::{KeyPair, KeyPairType};
use std::{
    fmt, fs, io,
    path::{Path, PathBuf},
};
use zeroize::{Zeroize as _, Zeroizing};

/// Longest key file that is read; a seed line has 58 characters.
const FILE_BYTES_MAX: usize = 1024;

/// The secret of one identity: an nkey user seed (`SU…`). Wiped when dropped, and never shown by `Debug`.
#[derive(Clone)]
pub struct Seed(Zeroizing<String>);

/// Why a text is not a seed. It does not repeat the text, which may be a secret with a typing error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("that is not an nkey user seed (58 characters starting with SU)")]
pub struct BadSeed;

impl Seed {
    /// Makes a new one from the system's randomness.
    pub fn generate() -> Self {
        let seed = KeyPair::new_user().seed().expect("a key pair that was just made has its seed");
        Self(Zeroizing::new(seed))
    }

    /// Reads a seed; white space around it does not matter.
    ///
    /// # Errors
    /// [`BadSeed`] when it is no user seed, or its checksum is wrong.
    pub fn parse(text: &str) -> Result<Self, BadSeed> {
        let text = text.trim();
        // The text alone: to make the pair of it takes a hundred times as long, and each request over HTTP brings one.
        let (kind, mut secret) = nkeys::decode_seed(text).map_err(|_| BadSeed)?;
        secret.zeroize();
        match KeyPairType::from(kind) {
            KeyPairType::User => Ok(Self(Zeroizing::new(text.to_owned()))),
            _ => Err(BadSeed),
        }
    }

    /// The public key (`U…`), which the server's configuration names.
    pub fn public_key(&self) -> String {
        KeyPair::from_seed(&self.0)
            .expect("a Seed is only made by generate and parse, which check")
            .public_key()
    }

    /// Signs a text, for somebody outside the mesh who knows the public key: base64 for URLs, without padding.
    pub fn sign(&self, text: &str) -> String {
        let pair =
            KeyPair::from_seed(&self.0).expect("a Seed is only made by generate and parse, which check");
        let signature = pair.sign(text.as_bytes()).expect("a pair made of its seed can sign");
        BASE64_URL_SAFE_NO_PAD.encode(signature)
    }

    /// The secret itself, for the connection and for the file.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Seed(hidden)")
    }
}

/// Why a key cannot be read or kept.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no file of that identity.
    #[error(
        "no key of {name} at {}: is it another user's identity, or was it made in another --dir? If it is lost, \
         `nhi auth renew {name}` makes a new one", path.display()
    )]
    Missing {
        /// Whose.
        name: IdentityName,
        /// Where it was looked for.
        path: PathBuf,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} holds no key: restore it from a backup, or make a new one with `nhi auth renew {name}`", path.display())]
    Bad {
        /// Whose.
        name: IdentityName,
        /// The file.
        path: PathBuf,
        /// What is wrong.
        source: BadSeed,
    },
    /// The file or its directory cannot be written.
    #[error(transparent)]
    Private(#[from] PrivateError),
}

/// `<dir>/<identity>.nk`
pub fn file(dir: &Path, name: &IdentityName) -> PathBuf {
    dir.join(format!("{name}.nk"))
}

/// Reads the seed of one identity from the directory of keys.
///
/// # Errors
/// [`KeyError`] when it is missing, unreadable or no seed.
pub fn load(dir: &Path, name: &IdentityName) -> Result<Seed, KeyError> {
    let path = file(dir, name);
    load_file(&path, name)
}

/// Reads the seed of one identity from a file of any name, as `auth add --out` writes it.
///
/// # Errors
/// [`KeyError`] when it is missing, unreadable or no seed.
pub fn load_file(path: &Path, name: &IdentityName) -> Result<Seed, KeyError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => Zeroizing::new(bytes),
        Err(source) if source.kind() == io::ErrorKind::NotFound => {
            return Err(KeyError::Missing { name: name.clone(), path: path.to_owned() });
        }
        Err(source) => return Err(KeyError::Unreadable { path: path.to_owned(), source }),
    };
    let bad = |source| KeyError::Bad { name: name.clone(), path: path.to_owned(), source };
    let head = &bytes[..bytes.len().min(FILE_BYTES_MAX)];
    let text = std::str::from_utf8(head).map_err(|_| bad(BadSeed))?;
    Seed::parse(text).map_err(bad)
}

/// Keeps the seed of one identity: mode 0600, whole or not at all. The directory is made when missing (0700).
///
/// # Errors
/// [`KeyError::Private`] when the directory is another user's or cannot be written.
pub fn store(dir: &Path, name: &IdentityName, seed: &Seed) -> Result<(), KeyError> {
    private::ensure_dir(dir)?;
    store_file(&file(dir, name), seed)
}

/// Keeps a seed in a file of any name, mode 0600.
///
/// # Errors
/// [`KeyError::Private`] when the file is another user's or cannot be written.
pub fn store_file(path: &Path, seed: &Seed) -> Result<(), KeyError> {
    let line = Zeroizing::new(format!("{}\n", seed.expose()));
    Ok(private::write(path, line.as_bytes())?)
}

/// Forgets the seed of one identity. A file that is not there is no error.
///
/// # Errors
/// [`KeyError::Unreadable`] when the file cannot be removed.
pub fn remove(dir: &Path, name: &IdentityName) -> Result<(), KeyError> {
    let path = file(dir, name);
    match fs::remove_file(&path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(KeyError::Unreadable { path, source }),
        Ok(()) | Err(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_survives_its_file_and_stays_private() {
        let dir = tempfile::tempdir().unwrap();
        let keys = dir.path().join("keys");
        let name = IdentityName::parse("aider").unwrap();
        let seed = Seed::generate();
        store(&keys, &name, &seed).unwrap();
        assert_eq!(load(&keys, &name).unwrap().public_key(), seed.public_key());
        assert!(!private::is_exposed(&file(&keys, &name)) && !private::is_exposed(&keys));
        let left: Vec<_> = fs::read_dir(&keys).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["aider.nk"], "no temporary file stays");
        remove(&keys, &name).unwrap();
        remove(&keys, &name).unwrap();
        assert!(matches!(load(&keys, &name), Err(KeyError::Missing { .. })));
    }

    #[test]
    fn what_is_no_user_seed_is_refused() {
        let account = KeyPair::new_account().seed().unwrap();
        let public = Seed::generate().public_key();
        for bad in ["", "SU", &account, &public, "SUAM5XRWDVQ4DL5ZP3NBXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX"]
        {
            assert!(Seed::parse(bad).is_err());
        }
        let padded = format!("  {}\r\n", Seed::generate().expose());
        assert!(Seed::parse(&padded).is_ok());
    }

    #[test]
    fn debug_hides_the_secret() {
        let seed = Seed::generate();
        assert_eq!(format!("{seed:?}"), "Seed(hidden)");
    }

    #[cfg(unix)]
    #[test]
    fn a_foreign_directory_is_refused() {
        let me = rustix::process::geteuid().as_raw();
        let foreign = if me == 0 {
            // Root can give a directory away; anybody else finds one that root owns.
            let dir = tempfile::tempdir().unwrap().keep();
            std::os::unix::fs::chown(&dir, Some(65534), None).unwrap();
            dir
        } else {
            PathBuf::from("/etc")
        };
        let name = IdentityName::parse("aider").unwrap();
        let error = store(&foreign, &name, &Seed::generate()).unwrap_err();
        assert!(matches!(&error, KeyError::Private(PrivateError::ForeignOwner { .. })), "{error}");
        let error = store(&foreign.join("keys"), &name, &Seed::generate()).unwrap_err();
        assert!(matches!(&error, KeyError::Private(PrivateError::ForeignOwner { .. })), "{error}");
        if me == 0 {
            fs::remove_dir_all(foreign).unwrap();
        }
    }
}
