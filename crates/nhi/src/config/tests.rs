//! What the configuration accepts, and how it refuses.

use super::*;
use std::fs;

struct Dir(tempfile::TempDir);

impl Dir {
    fn new(toml: &str, dot_env: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("nhi.toml"), toml).unwrap();
        fs::write(dir.path().join(".env"), dot_env).unwrap();
        Self(dir)
    }

    fn load(&self, environment: &[(&str, &str)], demo: bool) -> Result<Config, ConfigError> {
        let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let (file, dot_env) = (self.0.path().join("nhi.toml"), self.0.path().join(".env"));
        load(&Origin { file: &file, file_required: false, dot_env: &dot_env, environment, demo })
    }

    fn refused(&self) -> String {
        self.load(&[], false).unwrap_err().to_string()
    }
}

const V3: &str = "PROXMOX_HOST=192.0.2.10\nPROXMOX_USER=nhi@pve\nPROXMOX_TOKEN_ID=scan\nPROXMOX_SECRET_KEY=\"0123-secret\"\n";

#[test]
fn a_dot_env_of_version_3_makes_the_cluster_home() {
    let config = Dir::new("", V3).load(&[], false).unwrap();
    let [home] = &config.clusters[..] else { panic!("one cluster: {config:?}") };
    assert_eq!((home.name.as_str(), home.endpoint.token().id()), ("home", "nhi@pve!scan"));
    assert!(!format!("{config:?}").contains("0123-secret"));
}

#[test]
fn the_environment_beats_dot_env() {
    let config = Dir::new("", V3).load(&[("PROXMOX_TOKEN_ID", "root@pam!other")], false).unwrap();
    assert_eq!(config.clusters[0].endpoint.token().id(), "root@pam!other");
}

#[test]
fn demo_mode_ignores_what_is_outside() {
    assert!(Dir::new("", V3).load(&[("PROXMOX_HOST", "x")], true).unwrap().clusters.is_empty());
}

#[test]
fn an_unknown_key_names_file_line_and_the_nearest_key() {
    let said = Dir::new("[scan]\nindex_s = 5\nful_s = 9\n", "").refused();
    assert!(said.contains("nhi.toml:3: unknown key `ful_s`: did you mean `full_s`?"), "{said}");
}

#[test]
fn missing_pieces_are_named() {
    let said = Dir::new("", "PROXMOX_HOST=pve\n").refused();
    assert!(said.starts_with("PROXMOX_TOKEN_ID: is missing"), "{said}");
    let toml = "[proxmox.lab]\nurl = \"pve\"\ntoken_id = \"a@pve!b\"\ntoken_secret_env = \"NOT_SET\"\n";
    let said = Dir::new(toml, "").refused();
    assert!(said.contains("nhi.toml:4: proxmox.lab.token_secret_env: names NOT_SET"), "{said}");
    let said = Dir::new("[proxmox.lab]\nurl = \"pve\"\n\n[scan]\n", "").refused();
    assert!(said.contains("nhi.toml:1: missing field `token_id`"), "{said}");
}

#[test]
fn a_broken_dot_env_never_shows_a_value() {
    for (before, line) in [("", 1), ("# a comment\n\n", 3)] {
        let said = Dir::new("", &format!("{before}PROXMOX_SECRET_KEY='half\n")).refused();
        let place = format!(".env:{line}: the line of \"PROXMOX_SECRET_KEY\" is not KEY=value");
        assert!(said.contains(&place) && !said.contains("half"), "{said}");
    }
}

#[test]
fn a_wrong_address_token_or_fingerprint_is_named_by_its_key() {
    let with = |key: &str, value: &str| {
        let lines: Vec<String> = V3.lines().filter(|l| !l.starts_with(key)).map(str::to_owned).collect();
        let said = Dir::new("", &format!("{}\n{key}={value}\n", lines.join("\n"))).refused();
        (said, format!(".env:{}: {key}: ", lines.len() + 1))
    };
    for (key, value) in [
        ("PROXMOX_HOST", "ftp://pve"),
        ("PROXMOX_FINGERPRINT", "AB:CD"),
        ("PROXMOX_CA_FILE", "missing.pem"),
        ("PROXMOX_SECRET_KEY", ""),
    ] {
        let (said, place) = with(key, value);
        assert!(said.contains(&place), "{key}: {said}");
    }
    // What the environment says has no line.
    let said = Dir::new("", V3).load(&[("PROXMOX_HOST", "ftp://pve")], false).unwrap_err().to_string();
    assert!(said.starts_with("PROXMOX_HOST: "), "{said}");
}

#[test]
fn an_address_is_an_ip_address_and_a_port() {
    for table in ["nats", "http"] {
        let said = Dir::new(&format!("[{table}]\nlisten = \"localhost:4222\"\n"), "").refused();
        assert!(said.contains(&format!("nhi.toml:2: {table}.listen: \"localhost:4222\"")), "{said}");
        assert!(said.contains("write an IP address and a port"), "{said}");
    }
    let open = Dir::new("[nats]\nlisten = \"[::1]:0\"\n", "").load(&[], false).unwrap();
    assert_eq!(open.nats_listen, "[::1]:0".parse().unwrap());
}

#[test]
fn copies_are_one_three_or_five() {
    let with = |copies: u8| Dir::new(&format!("[nats]\nreplicas = {copies}\n"), "");
    for copies in [1, 3, 5] {
        assert_eq!(with(copies).load(&[], false).unwrap().nats_replicas, copies);
    }
    for copies in [0, 2, 4, 7] {
        let said = with(copies).refused();
        assert!(said.contains("nhi.toml:2: nats.replicas: ") && said.contains("write 1, 3 or 5"), "{said}");
    }
}

#[test]
fn every_wrong_value_is_found_by_its_line() {
    let secret = "token_id = \"a@pve!b\"\ntoken_secret_env = \"S\"\n";
    for (toml, says) in [
        ("[nats]\n\nservers = [\"nats://a\", \"ftp://b\"]\n".to_owned(), "3: nats.servers: \"ftp://b\""),
        ("nats.servers = [\"nats://a,nats://b\"]\n".to_owned(), "1: nats.servers: "),
        ("[nats]\nservers = [\"nats://me:password1@a\"]\n".to_owned(), "2: nats.servers: \"nats://a\""),
        ("[nats]\nca_file = \"nowhere.pem\"\n".to_owned(), "2: nats.ca_file: cannot read "),
        ("[http]\nhosts = [\"https://nhi.lan\"]\n".to_owned(), "2: http.hosts: \"https://nhi.lan\""),
        ("[http]\nhosts = [\"nhi.lan:8000\"]\n".to_owned(), "2: http.hosts: \"nhi.lan:8000\""),
        ("[http]\norigins = [\"*\"]\n".to_owned(), "2: http.origins: \"*\""),
        ("[http]\norigins = [\"null\"]\n".to_owned(), "2: http.origins: \"null\""),
        ("[http]\norigins = [\"https://a/b\"]\n".to_owned(), "2: http.origins: \"https://a/b\""),
        ("[scan]\n# often\nindex_s = 0\n".to_owned(), "3: scan.index_s: must be at least 1 second"),
        ("[scan]\nindex_s = \"5\"\n".to_owned(), "2: invalid type: string \"5\""),
        ("[scan\n".to_owned(), "1: "),
        (format!("[proxmox.lab]\nurl = \"ftp://x\"\n{secret}"), "2: proxmox.lab.url: "),
        (format!("\n[proxmox.lab]\nurls = [\"ftp://x\"]\n{secret}"), "2: proxmox.lab.url: "),
        (format!("[proxmox.lab]\n{secret}"), "1: proxmox.lab.url: "),
        (format!("[proxmox.Lab]\nurl = \"x\"\n{secret}"), "1: proxmox.Lab: "),
        (
            format!("[proxmox.lab]\nurl = \"x\"\nfingerprint = \"AB\"\n{secret}"),
            "3: proxmox.lab.fingerprint: ",
        ),
        (format!("[proxmox.lab]\nurl = \"x\"\nca_file = \"none.pem\"\n{secret}"), "3: proxmox.lab.ca_file: "),
    ] {
        let said = Dir::new(&toml, "S=0123\n").refused();
        assert!(said.contains(&format!("nhi.toml:{says}")) && !said.contains("password1"), "{toml}: {said}");
    }
    let good = "[http]\nhosts = [\"nhi.lan\", \"192.0.2.7\", \"fd00::7\"]\n\
                origins = [\"https://pages.example\", \"http://[::1]:3000\", \"app://obsidian.md/\"]\n\
                [nats]\nservers = [\"nats://a:4222\", \"tls://b\", \"pve1\"]\n";
    Dir::new(good, "").load(&[], false).unwrap();
}

#[test]
fn numbers_of_new_guests_are_a_range_that_proxmox_has() {
    let with = |text: &str| Dir::new(&format!("[act]\nvmid_range = {text}\n"), "");
    assert_eq!(Dir::new("", "").load(&[], false).unwrap().vmid_range, (700, 899));
    assert_eq!(with("[5000, 5000]").load(&[], false).unwrap().vmid_range, (5000, 5000));
    for range in ["[99, 200]", "[800, 700]", "[700, 1000000000]", "[700]", "[]", "[700, 800, 900]", "[-1, 5]"]
    {
        let said = with(range).refused();
        let place = format!("nhi.toml:2: act.vmid_range: {range} is no range");
        assert!(said.contains(&place) && said.contains("such as [700, 899]"), "{said}");
    }
    let said = with("\"700-899\"").refused();
    assert!(said.contains("nhi.toml:2: ") && said.contains("expected a sequence"), "{said}");
    let said = Dir::new("[act]\nvmid_rang = [1, 2]\n", "").refused();
    assert!(said.contains("nhi.toml:2: unknown key `vmid_rang`: did you mean `vmid_range`?"), "{said}");
}

#[test]
fn the_guests_we_run_on_are_named_as_guests_are() {
    let with = |text: &str| Dir::new(&format!("\n[self]\nguests = [{text}]\n"), "");
    let good = with("\"100\", \"home/neural-home\", \"tag:mesh\"").load(&[], false).unwrap();
    let named: Vec<&str> = good.self_guests.iter().map(GuestRef::as_str).collect();
    assert_eq!(named, ["100", "home/neural-home", "tag:mesh"]);
    for (text, why) in [
        ("\"\"", "it is empty"),
        ("\"my server\"", "spaces"),
        ("\"/100\"", "cluster before the slash"),
        ("\"tag:\"", "tag is missing"),
    ] {
        let said = with(&format!("\"100\", {text}")).refused();
        assert!(said.contains("nhi.toml:3: self.guests: ") && said.contains(why), "{text}: {said}");
    }
    assert!(with("100").refused().contains("nhi.toml:3: "), "a number is written as a text");
    // The simulated lab has a guest that plays us, whatever the file says.
    let demo = with("\"7\"").load(&[], true).unwrap();
    assert_eq!(demo.self_guests.iter().map(GuestRef::as_str).collect::<Vec<_>>(), ["home/100"]);
}

const BOTH: &str = "[proxmox.lab]\nurl = \"pve\"\ntoken_id = \"scan@pve!mesh\"\ntoken_secret_env = \"SCAN\"\n\
                    fingerprint = \"00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF\"\n";
const SECRETS: &str = "SCAN=0123-scan\nACT=4567-act\n";

fn tokens(config: &Config) -> (String, Option<String>) {
    let [cluster] = &config.clusters[..] else { panic!("one cluster: {config:?}") };
    let acting = cluster.acting.as_ref().map(|endpoint| endpoint.token().id().to_owned());
    (cluster.endpoint.token().id().to_owned(), acting)
}

#[test]
fn a_token_that_acts_stands_beside_the_one_that_looks() {
    let with = |act: &str| Dir::new(&format!("{BOTH}{act}"), SECRETS);
    let both = with("act_token_id = \"act@pve!mesh\"\nact_token_secret_env = \"ACT\"\n");
    let config = both.load(&[], false).unwrap();
    assert_eq!(tokens(&config), ("scan@pve!mesh".to_owned(), Some("act@pve!mesh".to_owned())));
    let shown = format!("{config:?}");
    assert!(!shown.contains("0123-scan") && !shown.contains("4567-act"), "{shown}");
    // The control: without one there is none, and the scanner's is not taken for it here.
    assert_eq!(tokens(&with("").load(&[], false).unwrap()), ("scan@pve!mesh".to_owned(), None));
    for (act, says) in [
        (
            "act_token_id = \"act@pve!mesh\"\n",
            "proxmox.lab.act_token_secret_env: is missing beside act_token_id",
        ),
        ("act_token_secret_env = \"ACT\"\n", "proxmox.lab.act_token_id: is missing beside"),
        (
            "act_token_id = \"act@pve!mesh\"\nact_token_secret_env = \"NOWHERE\"\n",
            "nhi.toml:7: proxmox.lab.act_token_secret_env: names NOWHERE",
        ),
        (
            "act_token_id = \"act\"\nact_token_secret_env = \"ACT\"\n",
            "nhi.toml:6: proxmox.lab.act_token_id: ",
        ),
        (
            "act_token_ids = \"act\"\n",
            "nhi.toml:6: unknown key `act_token_ids`: did you mean `act_token_id`?",
        ),
    ] {
        let said = with(act).refused();
        assert!(said.contains(says) && !said.contains("4567"), "{act}: {said}");
    }
}

#[test]
fn version_3_variables_name_a_token_that_acts_as_well() {
    let with = |act: &str| Dir::new("", &format!("{V3}{act}"));
    let config =
        with("PROXMOX_ACT_TOKEN_ID=act\nPROXMOX_ACT_SECRET_KEY=4567-act\n").load(&[], false).unwrap();
    assert_eq!(tokens(&config).1.as_deref(), Some("nhi@pve!act"), "of the same user where it names none");
    let other = "PROXMOX_ACT_TOKEN_ID=act@pve!mesh\nPROXMOX_ACT_SECRET_KEY=4567-act\n";
    assert_eq!(tokens(&with(other).load(&[], false).unwrap()).1.as_deref(), Some("act@pve!mesh"));
    let said = with("PROXMOX_ACT_TOKEN_ID=act\n").refused();
    assert!(said.contains("PROXMOX_ACT_SECRET_KEY: is missing beside PROXMOX_ACT_TOKEN_ID"), "{said}");
}

#[test]
fn what_the_tokens_are_meant_for_is_read_by_name() {
    let dir =
        Dir::new("[guard]\npools = [\"lab\", \"ci\"]\neverywhere = [\"start\"]\ntemplates = [9000]\n", "");
    let guard = dir.load(&[], false).unwrap().guard;
    assert_eq!(guard.pools.unwrap(), ["ci".to_owned(), "lab".to_owned()].into());
    assert_eq!(guard.everywhere.unwrap(), [nhi_model::intent::Operation::Start].into());
    assert!(guard.storages.is_none() && !guard.backups && guard.templates.unwrap() == [9000].into());
    for (toml, says) in [
        ("[guard]\npool = [\"lab\"]\n", "2: unknown key `pool`: did you mean `pools`?"),
        (
            "[guard]\neverywhere = [\"start\",\n\"snapshots\"]\n",
            "3: unknown word `snapshots`: did you mean `snapshot`? The words are start, stop",
        ),
    ] {
        let said = Dir::new(toml, "").refused();
        assert!(said.contains(&format!("nhi.toml:{says}")), "{toml}: {said}");
    }
}

#[test]
fn demo_mode_asks_the_files_backends_beside_the_simulated_one() {
    let named = |name: &str, more: &str| {
        format!("[[ai.backend]]\nname = \"{name}\"\nkind = \"openai\"\nurl = \"http://127.0.0.1:1\"\n{more}")
    };
    let own = named("pc", "") + &named("cloud", "api_key_env = \"OWN_KEY\"\n");
    let own = own + "[ai.alias.big]\norder = [\"pc\"]\n[ai.guard]\nattempts_max = 2\n";
    let dot_env = "GROQ_API_KEY=0123\nOWN_KEY=4567\n";
    let ai = |toml: &str, environment: &[(&str, &str)]| {
        let config = Dir::new(toml, dot_env).load(environment, true).unwrap();
        (config.ai.with_simulated("http://127.0.0.1:2"), config.warnings)
    };
    let names = |ai: &Ai| ai.settings.backends.iter().map(|one| one.name.clone()).collect::<Vec<_>>();
    let (both, warnings) = ai(&own, &[("OWN_KEY", "89"), ("GROQ_API_KEY", "89")]);
    assert_eq!((names(&both), warnings.len()), (["pc", "cloud", "simulated"].map(str::to_owned).to_vec(), 0));
    assert_eq!(both.keys.keys().collect::<Vec<_>>(), ["cloud"]);
    assert!(both.settings.aliases.contains_key("big") && both.settings.guard.attempts_max == 2);
    let (_, warnings) = ai(&own, &[]);
    assert!(
        warnings[0].contains("OWN_KEY is not set") && warnings[0].contains("in the environment"),
        "{warnings:?}"
    );
    // The control: the file names none, and no key brings one.
    let (alone, _) = ai("", &[("GROQ_API_KEY", "89")]);
    assert_eq!((names(&alone), alone.settings.backends[0].home), (vec!["simulated".to_owned()], true));
    let (own, _) = ai(&named("simulated", ""), &[]);
    assert_eq!(own.settings.backends[0].url, "http://127.0.0.1:1");
}

#[test]
fn what_wakes_nobody_is_no_setting() {
    let wake = |gpu: &str, lines: &str| {
        let backend = format!(
            "[[ai.backend]]\nname = \"pc\"\nkind = \"ollama\"\nurl = \"http://127.0.0.1:11434\"\n{gpu}"
        );
        Dir::new(&format!("{backend}\n[ai.wake.gaming-pc]\n{lines}"), "")
    };
    let (gpu, mac) = ("gpu = \"gaming-pc\"\nhome = true\n", "mac = \"3c:7c:3f:12:34:56\"\n");
    let config =
        wake(gpu, &format!("{mac}for = [\"chat\", \"bulk\"]\nhours = [8, 9]\nzone = \"Europe/Rome\"\n"));
    assert_eq!(config.load(&[], false).unwrap().ai.settings.wake.len(), 1, "the control");
    for (gpu, lines, what) in [
        (gpu, "mac = \"3c:7c:3f\"\n".to_owned(), "ai.wake.gaming-pc.mac: \"3c:7c:3f\" is no address"),
        ("home = true\n", mac.to_owned(), "no backend has gpu = \"gaming-pc\""),
        (gpu, format!("{mac}hours = [24]\n"), "ai.wake.gaming-pc.hours"),
        (gpu, format!("{mac}zone = \"Rome\"\n"), "ai.wake.gaming-pc.zone: is no time zone"),
        (gpu, format!("{mac}every_s = 1\n"), "1 is not between 10 and 86400"),
        (gpu, format!("{mac}often = true\n"), "often"),
    ] {
        let said = wake(gpu, &lines).refused();
        assert!(said.contains(what), "{said}");
    }
}
