//! Users, tokens, roles and access control lists, and what they add up to on a path. It does not check
//! passwords over the network or know sessions; [`super::login`] does.

use std::collections::{BTreeMap, BTreeSet};

/// What a role or a principal may do, with whether it reaches below the path.
pub type Privileges = BTreeMap<String, bool>;

/// A user.
#[derive(Clone, Debug)]
pub struct User {
    /// May log in at all.
    pub enabled: bool,
    /// Seconds since the epoch; 0 is never.
    pub expires_s: i64,
    /// The password, if this user has one here.
    pub password: Option<Secret>,
    /// API tokens by their name.
    pub tokens: BTreeMap<String, Token>,
    /// Free text.
    pub comment: String,
}

/// An API token.
#[derive(Clone, Debug)]
pub struct Token {
    /// Its secret, a UUID.
    pub secret: Secret,
    /// Whether its own rights limit it further.
    pub separated: bool,
    /// Seconds since the epoch; 0 is never.
    pub expires_s: i64,
    /// Free text.
    pub comment: String,
}

/// A secret that does not show itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl std::fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Secret(…)")
    }
}

/// Whom a line of the access control list is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Principal {
    /// `user@realm`.
    User(String),
    /// A group.
    Group(String),
    /// `user@realm!token`.
    Token(String),
}

impl Principal {
    /// Tells tokens from users by the `!`.
    pub fn of(id: &str) -> Self {
        if id.contains('!') { Self::Token(id.to_owned()) } else { Self::User(id.to_owned()) }
    }

    /// Type and name as PVE lists them.
    pub fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::User(name) => ("user", name),
            Self::Group(name) => ("group", name),
            Self::Token(name) => ("token", name),
        }
    }
}

/// Everything about rights.
#[derive(Clone, Debug, Default)]
pub struct Access {
    /// Users by `name@realm`.
    pub users: BTreeMap<String, User>,
    /// Members of groups.
    pub groups: BTreeMap<String, BTreeSet<String>>,
    /// Privileges of roles.
    pub roles: BTreeMap<String, BTreeSet<String>>,
    /// Roles by path and principal; the value is whether they propagate.
    pub lists: BTreeMap<String, BTreeMap<Principal, BTreeMap<String, bool>>>,
    /// The roles PVE brings, which nobody may edit.
    pub built_in: BTreeSet<String>,
}

impl Access {
    /// Gives a role on a path.
    pub fn grant(&mut self, path: &str, to: Principal, role: &str, propagate: bool) {
        let entry = self.lists.entry(normal_path(path)).or_default();
        entry.entry(to).or_default().insert(role.to_owned(), propagate);
    }

    /// Takes a role away; `None` takes all of that principal on the path.
    pub fn revoke(&mut self, path: &str, from: &Principal, role: Option<&str>) {
        let path = normal_path(path);
        let Some(entry) = self.lists.get_mut(&path) else { return };
        if let Some(roles) = entry.get_mut(from) {
            match role {
                Some(role) => drop(roles.remove(role)),
                None => roles.clear(),
            }
            if roles.is_empty() {
                entry.remove(from);
            }
        }
        if entry.is_empty() {
            self.lists.remove(&path);
        }
    }

    /// The token behind `user@realm!name`.
    pub fn token(&self, id: &str) -> Option<&Token> {
        let (user, name) = id.split_once('!')?;
        self.users.get(user)?.tokens.get(name)
    }

    /// Every privilege there is, which is what the role Administrator has.
    pub fn every_privilege(&self) -> Privileges {
        self.roles.get("Administrator").into_iter().flatten().map(|name| (name.clone(), true)).collect()
    }

    /// The roles a principal has on a path: deeper lists replace inherited ones, a token's entry beats its
    /// user's, a user's beats the groups', and `NoAccess` beats all.
    pub fn roles_on(&self, id: &str, path: &str) -> BTreeMap<String, bool> {
        if id == "root@pam" {
            return BTreeMap::from([("Administrator".to_owned(), true)]);
        }
        if let Some((user, _)) = id.split_once('!') {
            match self.token(id) {
                None => return BTreeMap::new(),
                Some(token) if !token.separated => return self.roles_on(user, path),
                Some(_) => {}
            }
        }
        let mut roles = BTreeMap::new();
        for (step, is_last) in steps(path) {
            let Some(list) = self.lists.get(&step) else { continue };
            let reaches = |granted: &BTreeMap<String, bool>| -> BTreeMap<String, bool> {
                granted
                    .iter()
                    .filter(|(_, propagate)| is_last || **propagate)
                    .map(|(role, propagate)| (role.clone(), *propagate))
                    .collect()
            };
            let own = list.get(&Principal::of(id)).map(reaches).filter(|found| !found.is_empty());
            let found = own.or_else(|| {
                let mut of_groups = BTreeMap::new();
                for (group, members) in &self.groups {
                    if members.contains(id)
                        && let Some(granted) = list.get(&Principal::Group(group.clone()))
                    {
                        of_groups.extend(reaches(granted));
                    }
                }
                Some(of_groups).filter(|found| !found.is_empty())
            });
            if let Some(found) = found {
                roles = found;
            }
        }
        match roles.remove_entry("NoAccess") {
            Some((role, propagate)) => BTreeMap::from([(role, propagate)]),
            None => roles,
        }
    }

    /// The privileges a principal has on a path. `pool` is the pool the path's guest or storage is in:
    /// its roles are merged in unless `NoAccess` stands in the way. A separated token gets no more than
    /// its user has.
    pub fn privileges_on(&self, id: &str, path: &str, pool: Option<&str>) -> Privileges {
        if id == "root@pam" {
            return self.every_privilege();
        }
        let mut roles = self.roles_on(id, path);
        if let Some(pool) = pool
            && !roles.contains_key("NoAccess")
        {
            let of_pool = self.roles_on(id, &format!("/pool/{pool}"));
            if of_pool.contains_key("NoAccess") {
                roles = BTreeMap::from([("NoAccess".to_owned(), true)]);
            } else {
                roles.extend(of_pool);
            }
        }
        let mut privileges = Privileges::new();
        for (role, propagate) in &roles {
            for name in self.roles.get(role).into_iter().flatten() {
                *privileges.entry(name.clone()).or_insert(false) |= propagate;
            }
        }
        if let Some((user, _)) = id.split_once('!')
            && self.token(id).is_some_and(|token| token.separated)
        {
            let of_user = self.privileges_on(user, path, pool);
            privileges = privileges
                .into_iter()
                .filter_map(|(name, propagate)| of_user.get(&name).map(|too| (name, propagate && *too)))
                .collect();
        }
        privileges
    }
}

/// `/a/b` gives `/`, `/a`, `/a/b`; the flag marks the last.
fn steps(path: &str) -> Vec<(String, bool)> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    (0..=parts.len()).map(|depth| (format!("/{}", parts[..depth].join("/")), depth == parts.len())).collect()
}

/// One leading slash, none at the end.
pub(crate) fn normal_path(path: &str) -> String {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty()).collect();
    format!("/{}", parts.join("/"))
}

const VM_CONFIG: &str = "VM.Config.CDROM VM.Config.CPU VM.Config.Cloudinit VM.Config.Disk VM.Config.HWType \
    VM.Config.Memory VM.Config.Network VM.Config.Options";
const VM_OTHER: &str = "VM.Allocate VM.Audit VM.Backup VM.Clone VM.Console VM.Migrate VM.PowerMgmt VM.Snapshot \
    VM.Snapshot.Rollback";
const VM_8: &str = "VM.Monitor";
const VM_9: &str = "VM.GuestAgent.Audit VM.GuestAgent.FileRead VM.GuestAgent.FileSystemMgmt \
    VM.GuestAgent.FileWrite VM.GuestAgent.Unrestricted VM.Replicate";
const DATASTORE: &str =
    "Datastore.Allocate Datastore.AllocateSpace Datastore.AllocateTemplate Datastore.Audit";
const MAPPING: &str = "Mapping.Audit Mapping.Modify Mapping.Use";
const POOL: &str = "Pool.Allocate Pool.Audit";
const SDN: &str = "SDN.Allocate SDN.Audit SDN.Use";
const SYSTEM: &str = "Sys.AccessNetwork Sys.Audit Sys.Console Sys.Syslog";
const USERS: &str = "Group.Allocate Realm.AllocateUser User.Modify";
const ROOT_ONLY: &str = "Permissions.Modify Realm.Allocate Sys.Incoming Sys.Modify Sys.PowerMgmt";

/// The roles PVE brings. Release 9 dropped `VM.Monitor` for finer agent privileges.
pub(crate) fn built_in_roles(release_9: bool) -> BTreeMap<String, BTreeSet<String>> {
    let set = |parts: &[&str]| -> BTreeSet<String> {
        parts.iter().flat_map(|part| part.split_whitespace()).map(str::to_owned).collect()
    };
    let agent = if release_9 { VM_9 } else { VM_8 };
    let (audit_agent, user_agent) =
        if release_9 { ("VM.GuestAgent.Audit", "VM.GuestAgent.Audit") } else { ("", "") };
    let vm_admin = [VM_CONFIG, VM_OTHER, agent];
    let most = [VM_CONFIG, VM_OTHER, agent, DATASTORE, MAPPING, POOL, SDN, SYSTEM, USERS];
    let mut all = most.to_vec();
    all.push(ROOT_ONLY);
    BTreeMap::from([
        ("NoAccess".to_owned(), BTreeSet::new()),
        ("Administrator".to_owned(), set(&all)),
        ("PVEAdmin".to_owned(), set(&most)),
        (
            "PVEAuditor".to_owned(),
            set(&["Sys.Audit VM.Audit Datastore.Audit SDN.Audit Pool.Audit Mapping.Audit", audit_agent]),
        ),
        ("PVEVMAdmin".to_owned(), set(&vm_admin)),
        (
            "PVEVMUser".to_owned(),
            set(&[
                "VM.Audit VM.Backup VM.Config.CDROM VM.Config.Cloudinit VM.Console VM.PowerMgmt",
                user_agent,
            ]),
        ),
        ("PVETemplateUser".to_owned(), set(&["VM.Audit VM.Clone"])),
        ("PVEDatastoreAdmin".to_owned(), set(&[DATASTORE])),
        ("PVEDatastoreUser".to_owned(), set(&["Datastore.AllocateSpace Datastore.Audit"])),
        ("PVEPoolAdmin".to_owned(), set(&[POOL])),
        ("PVEPoolUser".to_owned(), set(&["Pool.Audit"])),
        ("PVESDNAdmin".to_owned(), set(&[SDN])),
        ("PVESDNUser".to_owned(), set(&["SDN.Audit SDN.Use"])),
        ("PVESysAdmin".to_owned(), set(&[SYSTEM])),
        ("PVEMappingAdmin".to_owned(), set(&[MAPPING])),
        ("PVEMappingUser".to_owned(), set(&["Mapping.Audit Mapping.Use"])),
        ("PVEUserAdmin".to_owned(), set(&[USERS])),
    ])
}
