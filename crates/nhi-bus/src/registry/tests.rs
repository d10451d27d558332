//! The registry on a real disk: made, changed, damaged, and changed by several at once. No server runs.

use super::*;

fn name(text: &str) -> IdentityName {
    IdentityName::parse(text).unwrap()
}

fn now() -> Timestamp {
    "2026-01-02T03:04:05Z".parse().unwrap()
}

struct Home {
    tmp: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let home = Self { tmp: tempfile::tempdir().unwrap() };
        Registry::create_if_missing(&home.dir(), now()).unwrap();
        home
    }

    fn dir(&self) -> PathBuf {
        self.tmp.path().join(".nhi")
    }

    fn add(&self, who: &str, role: Role) -> Result<(Seed, Registry), RegistryError> {
        add(&self.dir(), &name(who), role, &SeedPlace::Keys, now())
    }

    fn load(&self) -> Registry {
        Registry::load(&self.dir()).unwrap()
    }
}

#[test]
fn the_first_start_makes_what_the_mesh_needs_and_the_second_nothing() {
    let home = Home::new();
    let registry = home.load();
    let names: Vec<_> = registry.iter().map(|(name, _)| name.to_string()).collect();
    assert_eq!(names, ["act", "gateway", "home", "mirror", "owner", "route", "scan", "state"]);
    for (name, identity) in registry.iter() {
        let seed = keys::load(&keys_dir(&home.dir()), name).unwrap();
        assert_eq!(seed.public_key(), identity.public_key);
        assert!(!private::is_exposed(&keys::file(&keys_dir(&home.dir()), name)));
    }
    let (again, made) = Registry::create_if_missing(&home.dir(), Timestamp::UNIX_EPOCH).unwrap();
    assert_eq!((again, made), (registry, vec![]));
}

#[test]
fn the_role_of_a_caller_is_what_the_file_says_now() {
    let home = Home::new();
    home.add("anna", Role::Operator).unwrap();
    let role = |who: &str| role_of(&home.dir(), &name(who)).unwrap();
    assert_eq!(role("anna"), Some(Role::Operator));
    assert_eq!((role("owner"), role("home")), (Some(Role::Owner), Some(Role::Owner)));
    assert_eq!((role("act"), role("stranger")), (None, None));
    revoke(&home.dir(), &name("anna")).unwrap();
    assert_eq!(role("anna"), None);
    fs::remove_file(file(&home.dir())).unwrap();
    assert!(matches!(role_of(&home.dir(), &name("owner")), Err(RegistryError::Missing { .. })));
}

#[test]
fn keys_survive_a_lost_registry() {
    let home = Home::new();
    let before = home.load();
    fs::remove_file(file(&home.dir())).unwrap();
    Registry::create_if_missing(&home.dir(), now()).unwrap();
    assert_eq!(home.load(), before);
}

#[test]
fn identities_come_and_go() {
    let home = Home::new();
    let (seed, registry) = home.add("aider", Role::Agent).unwrap();
    let aider = registry.get(&name("aider")).unwrap();
    assert_eq!((aider.kind, &aider.public_key), (Kind::Role(Role::Agent), &seed.public_key()));
    let kettle = Grant::parse("kettle.boil").unwrap();
    grant(&home.dir(), &name("aider"), kettle.clone()).unwrap();
    grant(&home.dir(), &name("aider"), kettle.clone()).unwrap();
    assert_eq!(home.load().get(&name("aider")).unwrap().grants, BTreeSet::from([kettle]));
    let (gone, registry) = revoke(&home.dir(), &name("aider")).unwrap();
    assert_eq!(gone.public_key, seed.public_key());
    assert!(registry.get(&name("aider")).is_none());
    assert!(!keys::file(&keys_dir(&home.dir()), &name("aider")).exists());
    assert_eq!(home.load(), registry);
    assert!(matches!(revoke(&home.dir(), &name("aider")), Err(RegistryError::Unknown { .. })));
}

#[test]
fn what_must_not_be_is_refused_and_nothing_changes() {
    let home = Home::new();
    home.add("aider", Role::Agent).unwrap();
    home.add("pc", Role::Edge).unwrap();
    let before = home.load();
    for reserved in ["state", "core", "owner", "gpu"] {
        let error = home.add(reserved, Role::Agent).unwrap_err();
        assert!(matches!(error, RegistryError::Reserved { .. }), "{error}");
    }
    let error = home.add("aider", Role::Viewer).unwrap_err();
    assert!(matches!(error, RegistryError::Exists { .. }), "{error}");
    for needed in ["home", "state", "gateway"] {
        let error = revoke(&home.dir(), &name(needed)).unwrap_err();
        assert!(matches!(error, RegistryError::Needed { .. }), "{error}");
    }
    let error = revoke(&home.dir(), &name("owner")).unwrap_err();
    assert!(matches!(error, RegistryError::LastOwner { .. }), "{error}");
    for fixed in ["home", "state", "pc"] {
        let error = grant(&home.dir(), &name(fixed), Grant::parse("kettle").unwrap()).unwrap_err();
        assert!(matches!(error, RegistryError::NotGrantable { .. }), "{error}");
    }
    for peoples in ["act.approve", "act.reject", "act.confirm", "act"] {
        let error = grant(&home.dir(), &name("aider"), Grant::parse(peoples).unwrap()).unwrap_err();
        assert!(error.to_string().contains("only an operator or the owner"), "{peoples}: {error}");
    }
    assert_eq!(home.load(), before);
    // The control: what an agent's call has an effect with, and whoever may approve anyway.
    grant(&home.dir(), &name("aider"), Grant::parse("act.freeze").unwrap()).unwrap();
    home.add("ann", Role::Operator).unwrap();
    grant(&home.dir(), &name("ann"), Grant::parse("act.approve").unwrap()).unwrap();
}

#[test]
fn anybody_may_have_a_new_key_and_stays_who_it_is() {
    let home = Home::new();
    home.add("aider", Role::Agent).unwrap();
    grant(&home.dir(), &name("aider"), Grant::parse("kettle").unwrap()).unwrap();
    for who in ["aider", "owner", "gateway", "home", "state"] {
        // Also one whose key is damaged, and it is the remedy that the damage names.
        let path = keys::file(&keys_dir(&home.dir()), &name(who));
        fs::write(&path, "SUA").unwrap();
        let damage = keys::load(&keys_dir(&home.dir()), &name(who)).unwrap_err().to_string();
        assert!(damage.contains(&format!("`nhi auth renew {who}`")), "{damage}");
        let before = home.load().get(&name(who)).unwrap().clone();
        let (seed, registry) =
            renew(&home.dir(), &name(who), &SeedPlace::Keys, Timestamp::UNIX_EPOCH).unwrap();
        assert_ne!(seed.public_key(), before.public_key);
        let wanted = Identity { public_key: seed.public_key(), added: Timestamp::UNIX_EPOCH, ..before };
        assert_eq!((registry.get(&name(who)), home.load() == registry), (Some(&wanted), true));
        let kept = keys::load(&keys_dir(&home.dir()), &name(who)).unwrap();
        assert_eq!(kept.public_key(), seed.public_key());
    }
    let out = SeedPlace::File(home.tmp.path().join("out.nk"));
    let before = home.load();
    for who in ["home", "state", "gateway"] {
        let error = renew(&home.dir(), &name(who), &out, now()).unwrap_err();
        assert!(matches!(error, RegistryError::KeyNeededHere { .. }), "{error}");
    }
    let error = renew(&home.dir(), &name("nobody"), &out, now()).unwrap_err();
    assert!(matches!(error, RegistryError::Unknown { .. }), "{error}");
    assert_eq!(home.load(), before);
    renew(&home.dir(), &name("aider"), &out, now()).unwrap();
    assert!(!keys::file(&keys_dir(&home.dir()), &name("aider")).exists(), "a dead key is not kept");
}

#[test]
fn a_damaged_key_without_an_identity_is_made_anew() {
    let home = Home::new();
    fs::remove_file(file(&home.dir())).unwrap();
    fs::write(keys::file(&keys_dir(&home.dir()), &name("owner")), "SUA").unwrap();
    let (registry, _) = Registry::create_if_missing(&home.dir(), now()).unwrap();
    let kept = keys::load(&keys_dir(&home.dir()), &name("owner")).unwrap();
    assert_eq!(registry.get(&name("owner")).unwrap().public_key, kept.public_key());
}

#[test]
fn a_grant_is_taken_away_as_it_was_given() {
    let home = Home::new();
    home.add("aider", Role::Agent).unwrap();
    let (boil, all) = (Grant::parse("kettle.boil").unwrap(), Grant::parse("kettle").unwrap());
    grant(&home.dir(), &name("aider"), boil.clone()).unwrap();
    let error = ungrant(&home.dir(), &name("aider"), &all).unwrap_err();
    assert!(matches!(error, RegistryError::NotGranted { .. }), "{error}");
    ungrant(&home.dir(), &name("aider"), &boil).unwrap();
    assert!(home.load().get(&name("aider")).unwrap().grants.is_empty());
}

#[test]
fn the_owner_may_hand_over() {
    let home = Home::new();
    home.add("anna", Role::Owner).unwrap();
    revoke(&home.dir(), &name("owner")).unwrap();
    let (registry, made) = Registry::create_if_missing(&home.dir(), now()).unwrap();
    assert!(made.is_empty() && registry.get(&name("owner")).is_none(), "a revoked owner does not come back");
    assert!(matches!(revoke(&home.dir(), &name("anna")), Err(RegistryError::LastOwner { .. })));
}

#[test]
fn a_seed_for_elsewhere_is_only_there() {
    let home = Home::new();
    let out = home.tmp.path().join("pc.nk");
    let place = SeedPlace::File(out.clone());
    let (seed, _) = add(&home.dir(), &name("pc"), Role::Edge, &place, now()).unwrap();
    assert_eq!(keys::load_file(&out, &name("pc")).unwrap().public_key(), seed.public_key());
    assert!(!keys::file(&keys_dir(&home.dir()), &name("pc")).exists());
    let error = add(&home.dir(), &name("pc2"), Role::Edge, &place, now()).unwrap_err();
    assert!(matches!(error, RegistryError::SeedFileExists { .. }), "{error}");
    assert!(home.load().get(&name("pc2")).is_none());
}

#[test]
fn a_damaged_file_is_one_sentence_with_the_remedy() {
    let home = Home::new();
    let path = file(&home.dir());
    let good = fs::read_to_string(&path).unwrap();
    let key = home.load().get(&name("owner")).unwrap().public_key.clone();
    let damaged = [
        String::new(),
        "{".to_owned(),
        good[..good.len() / 2].to_owned(),
        good.replace("\"v\": 1", "\"v\": 1, \"more\": 2"),
        good.replace("\"owner\": {", "\"Owner!\": {"),
        good.replace("\"kind\": \"owner\"", "\"kind\": \"king\""),
        good.replace("\"kind\": \"owner\"", "\"kind\": \"trusted\""),
        good.replace(&key, "UAAA\\\" } ] } }"),
        good.replace(&key, &key.to_lowercase()),
    ];
    for text in damaged {
        assert_ne!(text, good);
        fs::write(&path, &text).unwrap();
        let error = Registry::load(&home.dir()).unwrap_err();
        assert!(matches!(error, RegistryError::Corrupt { .. }), "{error}");
        assert!(error.to_string().contains("backup") && !error.to_string().contains('\n'), "{error}");
        assert!(home.add("aider", Role::Agent).is_err());
        assert_eq!(fs::read_to_string(&path).unwrap(), text, "a damaged file is left as it is");
    }
    fs::write(&path, good.replace("\"v\": 1", "\"v\": 2, \"more\": 2")).unwrap();
    assert!(matches!(Registry::load(&home.dir()), Err(RegistryError::Newer { found: 2, .. })));
}

#[test]
fn changes_at_once_are_all_kept() {
    let home = Home::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let home = &home;
            scope.spawn(move || {
                for n in 0..5 {
                    home.add(&format!("agent-{thread}-{n}"), Role::Agent).unwrap();
                }
            });
        }
    });
    assert_eq!(home.load().iter().count(), 8 + 20);
}

#[cfg(unix)]
#[test]
fn a_foreign_directory_is_refused() {
    if !rustix::process::geteuid().is_root() {
        // Only root can give a directory away; anybody else finds one that root owns.
        let error = Registry::create_if_missing(Path::new("/etc"), now()).unwrap_err();
        assert!(matches!(error, RegistryError::Private(PrivateError::ForeignOwner { .. })), "{error}");
        return;
    }
    let home = Home::new();
    std::os::unix::fs::chown(home.dir(), Some(65534), None).unwrap();
    for error in [
        Registry::create_if_missing(&home.dir(), now()).unwrap_err(),
        home.add("aider", Role::Agent).unwrap_err(),
    ] {
        assert!(matches!(&error, RegistryError::Private(PrivateError::ForeignOwner { .. })), "{error}");
        assert!(error.to_string().contains("65534"), "{error}");
    }
}
