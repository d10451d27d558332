//! Who exists: the file `.nhi/identities.json`, with each identity's kind, public key and grants.
//!
//! It holds no secret (seeds are in [`crate::keys`]) and makes nothing take effect ([`crate::accounts::apply`]
//! does). Every change is made under a lock between processes and written whole.

mod file;

use crate::{
    keys::{self, KeyError, Seed},
    private::{self, Lock, PrivateError},
};
use jiff::Timestamp;
use nhi_model::{
    call::IdentityInfo,
    identity::{self, Agent, IdentityName, Role},
    rights::Grant,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
};

/// More than a home has; each costs an account in nats-server and a line in every discovery export.
const IDENTITIES_MAX: usize = 256;
/// More than an identity needs; each is a subject in its allow list.
const GRANTS_MAX: usize = 64;

/// `.nhi/identities.json`
pub fn file(dir: &Path) -> PathBuf {
    dir.join("identities.json")
}

/// `.nhi/keys`
pub fn keys_dir(dir: &Path) -> PathBuf {
    dir.join("keys")
}

/// What an identity is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The break-glass identity.
    Home,
    /// One of the mesh's own agents.
    Trusted(Agent),
    /// Anybody else, by role.
    Role(Role),
}

impl Kind {
    /// The role, for those that have one.
    pub const fn role(self) -> Option<Role> {
        match self {
            Self::Home | Self::Trusted(_) => None,
            Self::Role(role) => Some(role),
        }
    }
}

/// One identity.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// What it is.
    pub kind: Kind,
    /// Its public key.
    pub public_key: String,
    /// What it may call beyond its role.
    pub grants: BTreeSet<Grant>,
    /// When it was added, UTC.
    pub added: Timestamp,
}

/// All identities.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    identities: BTreeMap<IdentityName, Identity>,
}

/// Why identities cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The mesh was not set up here.
    #[error("there are no identities in {}: run `nhi up` or `nhi auth init` first, or choose another --dir", dir.display())]
    Missing {
        /// `.nhi`
        dir: PathBuf,
    },
    /// The file is damaged.
    #[error(
        "{} is damaged ({why}): put it back from a backup, or move it away and let `nhi up` make a new one (the keys \
         are kept, added identities are not)", path.display()
    )]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// What is wrong and where.
        why: String,
    },
    /// The file was written by a newer program.
    #[error("{} has version {found}, this program knows version 1: update it", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The name belongs to the mesh.
    #[error("the name {name} belongs to the mesh itself: choose another")]
    Reserved {
        /// The name.
        name: IdentityName,
    },
    /// The name is taken.
    #[error("{name} exists already: choose another name, or revoke it first")]
    Exists {
        /// The name.
        name: IdentityName,
    },
    /// There is no such identity.
    #[error("there is no identity {name}: `nhi auth list` names all")]
    Unknown {
        /// The name.
        name: IdentityName,
    },
    /// Without it nobody could manage identities.
    #[error("{name} is the last owner: add another owner before revoking it")]
    LastOwner {
        /// The name.
        name: IdentityName,
    },
    /// The mesh does not work without it.
    #[error("{name} is part of the mesh and cannot be revoked")]
    Needed {
        /// The name.
        name: IdentityName,
    },
    /// It cannot use a grant.
    #[error("{name} cannot be granted calls: {why}")]
    NotGrantable {
        /// The name.
        name: IdentityName,
        /// Why not.
        why: &'static str,
    },
    /// Too many.
    #[error("there are {max} {what} already, the most there may be: take one away first")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// How many there may be.
        max: usize,
    },
    /// It was not granted that.
    #[error("{name} has no grant {grant}: `nhi auth list` shows what it has")]
    NotGranted {
        /// The name.
        name: IdentityName,
        /// What was to be taken away.
        grant: String,
    },
    /// The mesh's own programs read that key.
    #[error("the mesh itself uses the key of {name}, so it stays in .nhi/keys: leave out --out")]
    KeyNeededHere {
        /// The name.
        name: IdentityName,
    },
    /// The file for the seed exists.
    #[error("{} exists and is not overwritten: it may be a key; name another file", path.display())]
    SeedFileExists {
        /// The file.
        path: PathBuf,
    },
    /// A key cannot be read or kept.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// The directory cannot be used.
    #[error(transparent)]
    Private(#[from] PrivateError),
}

/// Where the seed of a new identity goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SeedPlace {
    /// `.nhi/keys`, for programs run by this user.
    Keys,
    /// A new file, to be carried elsewhere.
    File(PathBuf),
}

/// The lock that every reader-writer of identities holds. Blocks the thread until it is free.
pub(crate) fn lock(dir: &Path) -> Result<Lock, PrivateError> {
    Lock::acquire(&dir.join("identities.lock"))
}

impl Registry {
    /// Reads the identities of a mesh.
    ///
    /// # Errors
    /// [`RegistryError`], with the remedy.
    pub fn load(dir: &Path) -> Result<Self, RegistryError> {
        Self::read(dir)?.ok_or_else(|| RegistryError::Missing { dir: dir.to_owned() })
    }

    fn read(dir: &Path) -> Result<Option<Self>, RegistryError> {
        let path = file(dir);
        match fs::read_to_string(&path) {
            Ok(text) => file::parse(&path, &text).map(Some),
            Err(source) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) if source.kind() == io::ErrorKind::InvalidData => {
                Err(RegistryError::Corrupt { path, why: "it is not text".to_owned() })
            }
            Err(source) => Err(RegistryError::Unreadable { path, source }),
        }
    }

    /// Makes the identities the mesh itself needs: the owner, the gateway, `home` and each trusted agent, with
    /// their keys. Those that are there stay as they are. Returns all identities, and the names of the new ones.
    ///
    /// # Errors
    /// [`RegistryError`], also when the directory belongs to somebody else.
    pub fn create_if_missing(dir: &Path, now: Timestamp) -> Result<(Self, Vec<IdentityName>), RegistryError> {
        private::ensure_dir(dir)?;
        let keys_dir = keys_dir(dir);
        private::ensure_dir(&keys_dir)?;
        let _lock = lock(dir)?;
        let mut registry = Self::read(dir)?.unwrap_or_default();
        let mut made = Vec::new();
        for (name, kind) in registry.missing() {
            // A key that is there is kept: somebody may hold a copy of it, and it is as secret as a new one.
            let seed = match keys::load(&keys_dir, &name) {
                Ok(seed) => seed,
                // What is no key is of no use to anybody, and without this entry it could not be renewed either.
                Err(KeyError::Missing { .. } | KeyError::Bad { .. }) => {
                    let seed = Seed::generate();
                    keys::store(&keys_dir, &name, &seed)?;
                    seed
                }
                Err(error) => return Err(error.into()),
            };
            registry.insert(name.clone(), kind, &seed, now);
            made.push(name);
        }
        if !made.is_empty() {
            registry.write(dir)?;
        }
        Ok((registry, made))
    }

    /// What the mesh needs and does not have. An owner by another name is an owner.
    fn missing(&self) -> Vec<(IdentityName, Kind)> {
        let trusted = Agent::ALL.into_iter().map(|agent| (agent.identity(), Kind::Trusted(agent)));
        let gateway = (identity::gateway(), Kind::Role(Role::Viewer));
        let owner = (!self.has_owner_beside(None)).then(|| (identity::owner(), Kind::Role(Role::Owner)));
        [(identity::home(), Kind::Home), gateway]
            .into_iter()
            .chain(owner)
            .chain(trusted)
            .filter(|(name, _)| !self.identities.contains_key(name))
            .collect()
    }

    fn has_owner_beside(&self, name: Option<&IdentityName>) -> bool {
        self.identities
            .iter()
            .any(|(other, identity)| identity.kind == Kind::Role(Role::Owner) && Some(other) != name)
    }

    fn insert(&mut self, name: IdentityName, kind: Kind, seed: &Seed, now: Timestamp) {
        let identity = Identity { kind, public_key: seed.public_key(), grants: BTreeSet::new(), added: now };
        self.identities.insert(name, identity);
    }

    fn write(&self, dir: &Path) -> Result<(), PrivateError> {
        private::write(&file(dir), file::print(self).as_bytes())
    }

    /// All identities, by name.
    pub fn iter(&self) -> impl Iterator<Item = (&IdentityName, &Identity)> {
        self.identities.iter()
    }

    /// One identity.
    pub fn get(&self, name: &IdentityName) -> Option<&Identity> {
        self.identities.get(name)
    }

    /// The identities of somebody else's services.
    pub fn services(&self) -> Vec<IdentityName> {
        let is_service = |identity: &Identity| identity.kind == Kind::Role(Role::Service);
        self.iter().filter(|(_, identity)| is_service(identity)).map(|(name, _)| name.clone()).collect()
    }

    /// All identities as others may see them.
    pub fn infos(&self) -> Vec<IdentityInfo> {
        self.iter().map(|(name, identity)| identity.info(name)).collect()
    }
}

impl Identity {
    /// The grants that open something. The file may hold others: an earlier version wrote it, or a person.
    pub(crate) fn grants_of_use(&self) -> impl Iterator<Item = &Grant> {
        self.grants.iter().filter(|grant| not_grantable(self.kind, grant).is_none())
    }

    /// The identity as others may see it.
    pub fn info(&self, name: &IdentityName) -> IdentityInfo {
        IdentityInfo {
            name: name.clone(),
            role: self.kind.role(),
            public_key: self.public_key.clone(),
            grants: self.grants_of_use().map(Grant::text).collect(),
            added: self.added,
        }
    }
}

/// What an identity may do, by its role, as the file says now; `home` may do what the owner may. `None` for a stranger
/// and for the mesh's own agents, which have no role. It reads a file of a few kilobytes and so blocks for a moment.
///
/// # Errors
/// [`RegistryError`]: there is no such file here, or it cannot be read.
pub fn role_of(dir: &Path, name: &IdentityName) -> Result<Option<Role>, RegistryError> {
    let kind = Registry::load(dir)?.get(name).map(|identity| identity.kind);
    Ok(kind.and_then(|kind| match kind {
        Kind::Home => Some(Role::Owner),
        Kind::Trusted(_) => None,
        Kind::Role(role) => Some(role),
    }))
}

/// Adds an identity and keeps its new seed where it is wanted. Returns the seed, and all identities.
///
/// # Errors
/// [`RegistryError`]: the name is reserved or taken, the seed's file exists, or nothing can be written.
pub fn add(
    dir: &Path,
    name: &IdentityName,
    role: Role,
    place: &SeedPlace,
    now: Timestamp,
) -> Result<(Seed, Registry), RegistryError> {
    change(dir, |registry| {
        if name.is_reserved() {
            return Err(RegistryError::Reserved { name: name.clone() });
        }
        if registry.get(name).is_some() {
            return Err(RegistryError::Exists { name: name.clone() });
        }
        if registry.identities.len() >= IDENTITIES_MAX {
            return Err(RegistryError::TooMany { what: "identities", max: IDENTITIES_MAX });
        }
        let seed = Seed::generate();
        // The seed first: an identity without a seed is of no use, a seed without an identity opens nothing.
        keep_seed(dir, name, place, &seed)?;
        registry.insert(name.clone(), Kind::Role(role), &seed, now);
        Ok(seed)
    })
}

fn keep_seed(dir: &Path, name: &IdentityName, place: &SeedPlace, seed: &Seed) -> Result<(), RegistryError> {
    match place {
        SeedPlace::Keys => keys::store(&keys_dir(dir), name, seed)?,
        SeedPlace::File(path) if path.exists() => {
            return Err(RegistryError::SeedFileExists { path: path.clone() });
        }
        SeedPlace::File(path) => keys::store_file(path, seed)?,
    }
    Ok(())
}

/// Gives an identity a new key: for one whose seed is lost, damaged or known to others. It stays what it is, with
/// its grants; `added` becomes `now`, since when its key counts. Returns the seed, and all identities.
///
/// Interrupted between its two writes, the identity has no key that opens anything until it is called again.
///
/// # Errors
/// [`RegistryError`]: there is none of that name, the mesh needs the key here, the seed's file exists, or nothing
/// can be written.
pub fn renew(
    dir: &Path,
    name: &IdentityName,
    place: &SeedPlace,
    now: Timestamp,
) -> Result<(Seed, Registry), RegistryError> {
    let (seed, registry) = change(dir, |registry| {
        let identity = known(registry, name)?;
        let used_here = match identity.kind {
            Kind::Home | Kind::Trusted(_) => true,
            Kind::Role(_) => *name == identity::gateway(),
        };
        if used_here && *place != SeedPlace::Keys {
            return Err(RegistryError::KeyNeededHere { name: name.clone() });
        }
        let seed = Seed::generate();
        keep_seed(dir, name, place, &seed)?;
        identity.public_key = seed.public_key();
        identity.added = now;
        Ok(seed)
    })?;
    if *place != SeedPlace::Keys {
        // The old one opens nothing any more; left there, it would be tried.
        keys::remove(&keys_dir(dir), name)?;
    }
    Ok((seed, registry))
}

/// Removes an identity, and its seed where we have it. Returns what it was, and all others.
///
/// # Errors
/// [`RegistryError`]: there is none of that name, the mesh needs it, or it is the last owner.
pub fn revoke(dir: &Path, name: &IdentityName) -> Result<(Identity, Registry), RegistryError> {
    let (identity, registry) = change(dir, |registry| {
        let identity = known(registry, name)?.clone();
        let needed = match identity.kind {
            Kind::Home | Kind::Trusted(_) => true,
            Kind::Role(Role::Owner) if !registry.has_owner_beside(Some(name)) => {
                return Err(RegistryError::LastOwner { name: name.clone() });
            }
            Kind::Role(_) => *name == identity::gateway(),
        };
        if needed {
            return Err(RegistryError::Needed { name: name.clone() });
        }
        registry.identities.remove(name);
        Ok(identity)
    })?;
    keys::remove(&keys_dir(dir), name)?;
    Ok((identity, registry))
}

/// Lets an identity call one more service or endpoint. Twice is as good as once. Returns all identities.
///
/// # Errors
/// [`RegistryError`]: there is none of that name, or its kind calls nothing by grant.
pub fn grant(dir: &Path, name: &IdentityName, grant: Grant) -> Result<Registry, RegistryError> {
    let ((), registry) = change(dir, |registry| {
        let identity = known(registry, name)?;
        if let Some(why) = not_grantable(identity.kind, &grant) {
            return Err(RegistryError::NotGrantable { name: name.clone(), why });
        }
        if identity.grants.len() >= GRANTS_MAX && !identity.grants.contains(&grant) {
            return Err(RegistryError::TooMany { what: "grants of that identity", max: GRANTS_MAX });
        }
        identity.grants.insert(grant);
        Ok(())
    })?;
    Ok(registry)
}

/// Takes a grant away, as it was given: `kettle` does not take away `kettle.boil`. Returns all identities.
///
/// # Errors
/// [`RegistryError`]: there is none of that name, or it has no such grant.
pub fn ungrant(dir: &Path, name: &IdentityName, grant: &Grant) -> Result<Registry, RegistryError> {
    let ((), registry) = change(dir, |registry| {
        if known(registry, name)?.grants.remove(grant) {
            return Ok(());
        }
        Err(RegistryError::NotGranted { name: name.clone(), grant: grant.text() })
    })?;
    Ok(registry)
}

/// What a person alone says, or what counts from nobody else: whoever carries a plan out never judges it, too.
const PEOPLES: [(&str, &str); 3] = [("act", "approve"), ("act", "reject"), ("act", "confirm")];

/// Whether only an operator or the owner can call this to any effect.
pub(crate) fn is_peoples(service: &str, endpoint: &str) -> bool {
    PEOPLES.contains(&(service, endpoint))
}

/// The same of any endpoint a grant opens.
fn opens_peoples(grant: &Grant) -> bool {
    let is_opened = |endpoint: &str| grant.endpoint.as_deref().is_none_or(|one| one == endpoint);
    PEOPLES.iter().any(|(service, endpoint)| grant.service == *service && is_opened(endpoint))
}

/// Why somebody's grant opens nothing, whether it is asked for or stands in the file already.
fn not_grantable(kind: Kind, grant: &Grant) -> Option<&'static str> {
    match kind {
        Kind::Home => Some("home may call everything already"),
        Kind::Trusted(_) => Some("what the mesh's own agents call is fixed"),
        Kind::Role(Role::Edge) => Some("an edge machine only reports; add a second identity of another role"),
        Kind::Role(Role::Service) => Some("a service only answers; add a second identity of another role"),
        Kind::Role(Role::Viewer | Role::Agent) if opens_peoples(grant) => Some(
            "only an operator or the owner approves, rejects and confirms, and a grant does not make it one; grant the \
             other endpoints of act by name, or add a person with `nhi auth add NAME --role operator`",
        ),
        Kind::Role(Role::Viewer | Role::Agent | Role::Operator | Role::Owner) => None,
    }
}

fn known<'a>(registry: &'a mut Registry, name: &IdentityName) -> Result<&'a mut Identity, RegistryError> {
    registry.identities.get_mut(name).ok_or_else(|| RegistryError::Unknown { name: name.clone() })
}

/// Reads, changes and writes under the lock; nothing is written when the change is refused.
fn change<T>(
    dir: &Path,
    change: impl FnOnce(&mut Registry) -> Result<T, RegistryError>,
) -> Result<(T, Registry), RegistryError> {
    if !dir.is_dir() {
        return Err(RegistryError::Missing { dir: dir.to_owned() });
    }
    private::check_owner(dir)?;
    let _lock = lock(dir)?;
    let mut registry = Registry::load(dir)?;
    let outcome = change(&mut registry)?;
    registry.write(dir)?;
    Ok((outcome, registry))
}

#[cfg(test)]
mod tests;
