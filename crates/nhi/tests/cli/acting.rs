//! Acting as its user meets it: the real binary, a real nats-server and the simulated home. One `nhi up --demo` serves
//! all checks of what a person and an agent may do; each asks for guests of its own.

use crate::{
    mesh::{Up, nhi},
    outages::PATIENCE,
    proxmox::{env_file, lab},
};
use anyhow::{Context, Result, ensure};
use nhi_sim::lab::access::Principal;
use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
};

/// What a command said.
#[derive(Debug)]
struct Said {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Said {
    fn json(&self) -> Result<Value> {
        serde_json::from_str(&self.out).with_context(|| format!("{self:?}"))
    }
}

/// A mesh and who asks it.
struct House {
    up: Up,
}

impl House {
    /// Runs a command, which has to end so.
    fn say(&self, code: i32, command: &str) -> Result<Said> {
        let output = self.up.run(&command.split(' ').collect::<Vec<_>>())?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
        ensure!(said.code == Some(code), "{command} ended otherwise than with {code}: {said:#?}");
        ensure!(!said.err.contains("panicked"), "{command}: {said:?}");
        Ok(said)
    }

    /// The refusal of a command: its code, and a person's sentence with what to do.
    fn refused(&self, code: i32, word: &str, command: &str) -> Result<Value> {
        let said = self.say(code, &format!("{command} --json"))?;
        let error = said.json()?["error"].take();
        ensure!(error["code"] == word, "{command}: {error}");
        ensure!(error["hint"].as_str().is_some_and(|hint| !hint.is_empty()), "{command}: {error}");
        ensure!(said.err.contains(&format!("refused ({word}): ")) && said.err.contains("  → "), "{said:?}");
        Ok(error)
    }

    /// A command that answers with one document.
    fn json(&self, code: i32, command: &str) -> Result<Value> {
        self.say(code, &format!("{command} --json"))?.json()
    }

    fn status(&self, key: &str) -> Result<Value> {
        let got = self.up.json(&["state", "get", key])?;
        Ok(got["records"][key]["record"]["status"].clone())
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

#[test]
fn the_lab_is_changed_by_plan_and_approval_alone() -> Result<()> {
    let dir = tempfile::tempdir()?;
    fs::create_dir_all(dir.path().join("infrastructure"))?;
    let house = House { up: Up::start(dir, &["--demo"])? };
    for (name, role) in [("aider", "agent"), ("chat", "agent"), ("maria", "operator")] {
        house.say(0, &format!("auth add {name} --role {role}"))?;
    }
    a_start_is_planned_carried_out_and_seen(&house)?;
    a_plan_waits_where_nobody_can_be_asked(&house)?;
    a_guest_is_made_without_an_address_and_told_with_one(&house)?;
    let done = an_agent_is_refused_approved_and_takes_back(&house)?;
    a_digest_binds_and_nobody_approves_alone(&house)?;
    a_freeze_stops_and_a_thaw_lets_go(&house)?;
    a_guest_is_held_by_one(&house)?;
    what_was_done_can_be_read(&house, &done)?;
    what_is_confirmed_stays(&house, &done)?;
    following_ends_and_the_run_goes_on(&house)?;
    the_floor_is_printed(&house)?;
    a_broken_policy_allows_no_more(&house)?;
    Ok(())
}

fn a_start_is_planned_carried_out_and_seen(house: &House) -> Result<()> {
    // Asking is free: nothing is done, whoever asks.
    let dry = house.json(0, "guest start 106 --dry-run")?;
    ensure!(dry["record"]["state"]["is"] == "open" && dry["run"].is_null(), "{dry}");
    ensure!(house.status("vm.home.106")? == "stopped", "a dry run starts nothing");

    let done = house.json(0, "guest start 106 --yes")?;
    ensure!(done["record"]["state"]["is"] == "applied", "{done}");
    ensure!(
        done["run"]["state"]["is"] == "done" && done["run"]["plan"] == done["record"]["plan"]["id"],
        "{done}"
    );
    ensure!(done["guests"][0]["name"] == "staging" && done["guests"][0]["status"] == "running", "{done}");
    house.refused(7, "nothing-to-do", "guest start 106 --yes")?;
    house.refused(6, "unknown-guest", "guest start nosuch --yes")?;
    house.refused(2, "bad-value", "guest resize 106 scsi0 0")?;
    Ok(())
}

fn a_plan_waits_where_nobody_can_be_asked(house: &House) -> Result<()> {
    let said = house.say(11, "guest start 210 --reason spring")?;
    ensure!(said.err.contains("waits for your yes") && said.out.contains("\"spring\""), "{said:?}");
    let command = said.out.lines().find_map(|line| line.trim().strip_prefix("next      nhi "));
    let command = command.with_context(|| format!("it says not what to run: {said:?}"))?;
    house.say(0, command)?;
    ensure!(house.status("lxc.home.210")? == "running", "{command}");
    // The same as one document.
    let waits = house.json(11, "guest shutdown 210")?;
    ensure!(waits["record"]["gate"]["verdict"] == "confirm" && waits["run"].is_null(), "{waits}");
    let plan = text(&waits["record"]["plan"]["id"]);
    house.say(0, &format!("plan cancel {plan}"))?;
    house.refused(7, "used", &format!("plan apply {plan} --yes"))?;
    Ok(())
}

/// "Blind operation": no address is given, the next step has all it needs.
fn a_guest_is_made_without_an_address_and_told_with_one(house: &House) -> Result<()> {
    let said = house.say(0, "guest create --template 9000 --name mongodb --yes")?;
    let row: Vec<&str> = said.out.lines().last().unwrap_or_default().split_whitespace().collect();
    let [vmid, "mongodb", "running", node, address] = row[..] else { panic!("{said:?}") };
    ensure!((700..=899).contains(&vmid.parse::<u32>()?) && node == "pve1", "{row:?}");
    let address: std::net::IpAddr = address.parse()?;

    let told = fs::read_to_string(house.up.path().join("infrastructure/state.json"))?;
    let state: Value = serde_json::from_str(&told)?;
    let guests = state["infrastructure"]["virtual_machines"].as_array().or_else(|| {
        let all = state["infrastructure"].as_object()?.values();
        all.filter_map(Value::as_array).find(|list| list.iter().any(|row| row["name"] == "mongodb"))
    });
    let seen = guests.and_then(|guests| guests.iter().find(|guest| guest["name"] == "mongodb"));
    let seen = seen.context("mongodb is not in state.json")?;
    ensure!(text(&seen["nhi_key"]) == format!("vm.home.{vmid}") && seen["node"] == node, "{seen}");
    ensure!(seen["ip_addresses"][0] == address.to_string(), "{seen}");
    Ok(())
}

/// The tour of the README. Returns the plan that was carried out.
fn an_agent_is_refused_approved_and_takes_back(house: &House) -> Result<String> {
    let error = house.refused(5, "protected", "guest stop truenas --as aider")?;
    ensure!(text(&error["message"]).contains("nh-critical"), "{error}");
    house.refused(5, "ourselves", "guest reboot 100 --as aider").or_else(|_| {
        // It is protected as well, and that may be said first.
        house.refused(5, "protected", "guest reboot 100 --as aider")
    })?;

    let said = house.say(11, "guest shutdown build-runner --as aider --reason out-of-memory")?;
    ensure!(said.err.contains("waits for an approval"), "{said:?}");
    let next = |name: &str| {
        let line = said.out.lines().find_map(|line| line.split_once(name)).map(|(_, rest)| rest.to_owned());
        line.with_context(|| format!("{name}: {said:?}"))
    };
    let (approve, apply) = (next("approves it: nhi ")?, next("then: nhi ")?);
    ensure!(apply.ends_with("--as aider"), "{apply}");
    house.refused(11, "needs-approval", &apply)?;
    ensure!(house.status("vm.home.107")? == "running", "it was stopped without approval");

    // Agents cannot say yes, not to their own plans and not to others'.
    for agent in ["aider", "chat"] {
        house.say(5, &format!("{approve} --as {agent}"))?;
    }
    let said = house.say(0, &format!("{approve} --as maria"))?;
    ensure!(said.out.contains(&format!("aider can apply it: nhi {apply}")), "{said:?}");
    let said = house.say(0, &apply)?;
    ensure!(said.out.contains("done, seen by the scanner at revision"), "{said:?}");
    ensure!(house.status("vm.home.107")? == "stopped", "{said:?}");
    house.refused(7, "used", &apply.replace("aider", "maria"))?;

    let plan = apply.split(' ').nth(2).context("the plan's id")?.to_owned();
    // A start stands in the policy as automatic, so taking back needs nobody.
    let undone = house.json(0, &format!("plan undo {plan} --as aider"))?;
    ensure!(undone["run"]["state"]["is"] == "done", "{undone}");
    ensure!(house.status("vm.home.107")? == "running", "{undone}");
    Ok(plan)
}

fn a_digest_binds_and_nobody_approves_alone(house: &House) -> Result<()> {
    let made = house.json(11, "guest set sandbox --memory 1024 --as chat")?;
    let (plan, digest) = (text(&made["record"]["plan"]["id"]), text(&made["record"]["plan"]["digest"]));
    let other = format!("sha256:{}", "0".repeat(64));
    house.refused(7, "wrong-digest", &format!("plan approve {plan} --digest {other}"))?;
    house.say(2, &format!("plan approve {plan} --digest {}", &digest[..20]))?;
    let said = house.say(11, &format!("plan approve {plan}"))?;
    ensure!(said.err.contains(&format!("nhi plan approve {plan} --digest {digest}")), "{said:?}");
    house.say(0, &format!("plan reject {plan} --reason no"))?;
    house.refused(7, "used", &format!("plan approve {plan} --digest {digest}"))?;

    // A person's own plan takes that person's yes, and is nobody else's.
    let mine = house.json(11, "guest set sandbox --memory 1024 --as maria")?;
    let (plan, digest) = (text(&mine["record"]["plan"]["id"]), text(&mine["record"]["plan"]["digest"]));
    house.refused(5, "self-approval", &format!("plan approve {plan} --digest {digest} --as maria"))?;
    house.refused(7, "wrong-digest", &format!("plan apply {plan} --digest {other} --as maria"))?;
    house.say(0, &format!("plan cancel {plan} --as maria"))?;

    // A destroy takes the name.
    house.refused(7, "running", "guest destroy mongodb --yes")?;
    let said = house.say(11, "guest destroy windows-desktop --yes")?;
    let apply = said.out.lines().find_map(|line| line.trim().strip_prefix("next      nhi "));
    let apply = apply.with_context(|| format!("{said:?}"))?;
    ensure!(apply.ends_with("--confirm-name NAME"), "{apply}");
    house.refused(2, "name-not-typed", apply)?;
    house.say(0, &apply.replace("NAME", "windows-desktop"))?;
    house.refused(6, "unknown-guest", "guest start windows-desktop --yes")?;
    Ok(())
}

fn a_freeze_stops_and_a_thaw_lets_go(house: &House) -> Result<()> {
    house.say(0, "freeze storm")?;
    let error = house.refused(5, "frozen", "guest start sandbox --yes")?;
    ensure!(text(&error["message"]).contains("storm"), "{error}");
    let doctor = house.json(0, "doctor")?;
    let told = doctor.as_array().context("checks")?.iter().find(|check| check["what"] == "actuator");
    ensure!(
        told.is_some_and(|check| check["verdict"] == "warn" && text(&check["found"]).contains("storm")),
        "{doctor}"
    );
    // Who may stop everything need not be who may let it go.
    house.say(5, "thaw --as aider")?;
    house.say(0, "thaw --as maria")?;
    house.say(0, "guest start sandbox --yes")?;
    Ok(())
}

fn a_guest_is_held_by_one(house: &House) -> Result<()> {
    let held = house.json(0, "guest hold staging --minutes 5 --reason rebuilding --as aider")?;
    ensure!(held["hold"]["by"] == "aider", "{held}");
    let error = house.refused(7, "held", "guest snapshot staging mine --as chat")?;
    ensure!(text(&error["message"]).contains("aider"), "{error}");
    house.refused(7, "held", "guest hold staging --as chat")?;
    house.refused(7, "held", "guest release staging --as chat")?;
    ensure!(house.say(0, "plan list")?.err.contains("held by aider"), "the list tells");
    // The control: whoever holds it may.
    house.say(0, "guest snapshot staging mine --as aider")?;
    house.say(0, "guest release staging --as aider")?;
    house.say(0, "guest snapshot staging yours --as chat")?;
    Ok(())
}

fn what_was_done_can_be_read(house: &House, plan: &str) -> Result<()> {
    let said = house.say(0, &format!("plan show {plan}"))?;
    for word in ["out-of-memory", "approved  by maria", "taken", "UPID:pve1:", "ended", "state     done"] {
        ensure!(said.out.contains(word), "{word}: {said:?}");
    }
    let rows = house.json(0, "plan list --by aider --limit 50")?;
    let rows = rows["plans"].as_array().context("plans")?;
    ensure!(
        rows.iter().any(|row| row["plan"] == plan) && rows.iter().all(|row| row["by"] == "aider"),
        "{rows:?}"
    );

    let told = house.json(0, &format!("audit list --plan {plan}"))?;
    let entries = told["entries"].as_array().context("entries")?;
    let kinds: Vec<&str> = entries.iter().map(|row| text(&row["entry"]["kind"])).collect();
    for kind in
        ["plan.made", "plan.refused", "plan.approved", "run.applied", "step.begun", "step.ended", "run.ended"]
    {
        // A refusal names its plan only where one was made.
        ensure!(kinds.contains(&kind) || kind == "plan.refused", "{kind}: {kinds:?}");
    }
    let refused = house.json(0, "audit list --kind plan.refused --limit 1000")?;
    let refused = refused["entries"].as_array().context("entries")?;
    ensure!(
        refused.len() >= 5 && refused.iter().all(|row| row["entry"]["kind"] == "plan.refused"),
        "{refused:?}"
    );

    let sequence = entries[0]["sequence"].to_string();
    let said = house.say(0, &format!("audit show {sequence}"))?;
    ensure!(
        said.out.contains("plan.made") && said.out.contains(plan) && said.out.contains("hash"),
        "{said:?}"
    );
    house.say(6, "audit show 999999")?;
    house.say(2, "audit list --kind nothing")?;

    let file = house.up.path().join("audit.jsonl");
    house.say(0, &format!("audit export --out {}", file.display()))?;
    let exported = fs::read_to_string(&file)?;
    let verified = house.json(0, "audit verify")?;
    ensure!(verified["intact"] == true, "{verified}");
    let lines: Vec<Value> = exported.lines().map(serde_json::from_str).collect::<Result<_, _>>()?;
    ensure!(verified["entries"].as_u64().context("a number")? >= lines.len() as u64, "{verified}");
    let sequences: Vec<u64> = lines.iter().filter_map(|line| line["sequence"].as_u64()).collect();
    ensure!(sequences == (1..=lines.len() as u64).collect::<Vec<_>>(), "{sequences:?}");
    let later = house.say(0, &format!("audit export --after {}", lines.len() - 2))?;
    ensure!(later.out.lines().count() >= 2, "{later:?}");
    Ok(())
}

fn what_is_confirmed_stays(house: &House, done: &str) -> Result<()> {
    let said = house.say(0, "guest snapshot photos before --undo-after 5 --yes")?;
    let plan = said.err.split("nhi plan confirm ").nth(1).with_context(|| format!("{said:?}"))?.trim();
    ensure!(said.err.contains("taken back at ") && said.out.contains("taken back 5 min after"), "{said:?}");
    let said = house.say(0, &format!("plan confirm {plan}"))?;
    ensure!(said.out.contains("what it did stays"), "{said:?}");
    ensure!(house.say(0, &format!("plan show {plan}"))?.out.contains("confirmed by owner"), "{plan}");
    // What waits for no confirmation cannot be given one.
    house.refused(7, "used", &format!("plan confirm {done}"))?;
    Ok(())
}

fn following_ends_and_the_run_goes_on(house: &House) -> Result<()> {
    let mut command = nhi(house.up.path());
    command.args(["guest", "backup", "dns-secondary", "--storage", "pbs", "--yes"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut lines = BufReader::new(child.stderr.take().context("piped")?).lines().map_while(Result::ok);
    lines.find(|line| line.contains("its task runs")).context("it never ran")?;
    Command::new("kill").args(["-INT", &child.id().to_string()]).status()?;
    let said: String = lines.collect();
    ensure!(child.wait()?.code() == Some(130), "{said}");
    let plan = said.split("nhi plan follow ").nth(1).with_context(|| format!("it says not how: {said}"))?;
    ensure!(said.contains("the run goes on"), "{said}");
    let done = house.json(0, &format!("plan follow {}", plan.trim()))?;
    ensure!(done["run"]["state"]["is"] == "done" && done["record"]["plan"]["id"] == plan.trim(), "{done}");
    Ok(())
}

fn the_floor_is_printed(house: &House) -> Result<()> {
    let said = house.say(0, "guard plan --pool ci")?;
    for line in [
        "pveum acl modify /vms/101 --tokens 'nhi-act@pve!mesh' --roles PVEAuditor",
        "pveum acl modify /vms/207 --tokens 'nhi-act@pve!mesh' --roles PVEAuditor",
        "pveum pool add ci",
        "pveum acl modify /vms/9000 --users nhi-act@pve --roles NHTemplate",
    ] {
        ensure!(said.out.lines().any(|own| own == line), "{line}: {}", said.out);
    }
    ensure!(!said.out.contains("/vms/106") && said.out.contains("Proxmox VE 9.1"), "{}", said.out);
    let older = house.json(0, "guard plan --pve 8")?;
    let older = &older.as_array().context("a list")?[0];
    let protected: Vec<&String> = older["protected"].as_object().context("guests")?.keys().collect();
    ensure!(older["version"] == "8.0" && protected == ["100", "101", "201", "207"], "{older}");
    ensure!(older["notes"].to_string().contains("VM.Monitor"), "{older}");
    let said = house.say(3, "guard check")?;
    ensure!(said.err.contains("simulated"), "{said:?}");
    Ok(())
}

fn a_broken_policy_allows_no_more(house: &House) -> Result<()> {
    let file = house.up.path().join("infrastructure/policy.toml");
    house.say(0, "policy check")?;
    let standard = house.say(0, "policy default")?.out;
    fs::write(&file, &standard)?;
    house.say(0, "policy check")?;
    ensure!(
        house.json(0, "policy show")?["policy"] == house.json(0, "policy default")?,
        "the default is not it"
    );

    fs::write(&file, "[operations]\nnever = [\"suspend\"]\n")?;
    let runtime = tokio::runtime::Runtime::new()?;
    let never = || house.refused(5, "never", "guest suspend staging --dry-run").map(drop);
    let wait = |what: &str, check: &dyn Fn() -> Result<()>| {
        runtime
            .block_on(nhi_testkit::wait_for(what, PATIENCE, async || check().map_err(|e| format!("{e:#}"))));
    };
    wait("the new policy", &never);

    fs::write(&file, "[operations]\nnever = []\nautomatc = [\"suspend\"]\n")?;
    let said = house.say(3, "policy check")?;
    let place = format!("{}:3:1: operations.automatc: ", file.display());
    ensure!(said.err.contains(&place) && said.err.contains("`automatic`"), "{said:?}");
    house.say(3, &format!("policy check {}", file.display()))?;
    wait("the alert", &|| {
        let status = house.up.json(&["status"])?;
        ensure!(status["alerts"].to_string().contains("policy.toml"), "{status}");
        Ok(())
    });
    ensure!(house.say(3, "policy show")?.err.contains("! the actuator: "), "it says that another one holds");
    // What the file forbids no longer is forbidden still: nobody knows what it was to say.
    never()?;
    let doctor = house.json(10, "doctor")?;
    ensure!(doctor.to_string().contains("operations.automatc"), "{doctor}");

    fs::write(&file, "")?;
    house.say(0, "policy check")?;
    Ok(())
}

/// Lays the floor in the simulated Proxmox as its commands say it.
fn lay(lab: &nhi_sim::Running, commands: &str) -> Result<()> {
    let words = |line: &str| -> Vec<String> {
        let mut out = Vec::new();
        for (number, part) in line.split('\'').enumerate() {
            if number % 2 == 1 {
                out.push(part.to_owned());
            } else {
                out.extend(part.split_whitespace().map(str::to_owned));
            }
        }
        out
    };
    for line in commands.lines().filter(|line| line.starts_with("pve")) {
        let words = words(line);
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        lab.with_lab(|lab| match words[..] {
            ["pveum", "role", "add" | "modify", role, "--privs", privileges] => {
                let set: BTreeSet<String> = privileges.split(' ').map(str::to_owned).collect();
                lab.access.roles.insert(role.to_owned(), set);
                Ok(())
            }
            ["pveum", "acl", "modify", path, "--users" | "--tokens", who, "--roles", role] => {
                lab.access.grant(path, Principal::of(who), role, true);
                Ok(())
            }
            ["pvesh", "set", "/cluster/options", "--registered-tags", tags] => {
                lab.options.insert("registered-tags".to_owned(), tags.to_owned());
                Ok(())
            }
            ["pveum", "user", ..] | ["pveum", "pool", "add", _] => Ok(()),
            _ => Err(anyhow::anyhow!("{line}")),
        })?;
    }
    Ok(())
}

#[test]
fn rights_are_compared_with_what_is_meant() -> Result<()> {
    let (_runtime, lab) = lab()?;
    let dir = tempfile::tempdir()?;
    let say = |code: i32, arguments: &[&str]| -> Result<Said> {
        let output = nhi(dir.path()).args(arguments).output()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let said = Said { code: output.status.code(), out: text(&output.stdout), err: text(&output.stderr) };
        ensure!(said.code == Some(code), "{arguments:?} ended otherwise than with {code}: {said:#?}");
        Ok(said)
    };
    say(3, &["guard", "check"])?;

    // A token that only looks is no floor with holes.
    fs::write(dir.path().join(".env"), env_file(&lab, "", ""))?;
    let said = say(0, &["guard", "check"])?;
    ensure!(said.out.contains("nobody acts") && said.out.contains("nothing is missing"), "{said:?}");

    // The simulator's token may do all that is useful everywhere, protected guests among it.
    let acting = |id: &str, secret: &str| {
        let lines = format!("PROXMOX_ACT_TOKEN_ID={id}\nPROXMOX_ACT_SECRET_KEY={secret}\n");
        fs::write(dir.path().join(".env"), env_file(&lab, "", "") + &lines)
    };
    acting(&lab.act_token.id, &lab.act_token.secret)?;
    let said = say(10, &["guard", "check"])?;
    ensure!(said.out.contains("✗ guest 101 is protected") && said.out.contains("VM.Allocate"), "{said:?}");
    let doctor = say(10, &["doctor"])?;
    ensure!(doctor.out.contains("✗ rights") && doctor.out.contains("guest 207 is protected"), "{doctor:?}");

    // What the plan prints is what the check wants.
    let floor = say(0, &["guard", "plan"])?;
    ensure!(floor.out.contains("pveum acl modify /vms/207 "), "guests are seen without a mesh: {floor:?}");
    lab.with_lab(|lab| {
        let (token, user) = (lab_id(&floor.out, "--tokens"), lab_id(&floor.out, "--users"));
        for who in [token, user] {
            lab.access.revoke("/", &Principal::of(&who), None);
        }
    });
    lay(&lab, &floor.out)?;
    let said = say(0, &["guard", "check", "--json"])?;
    let findings = said.json()?[0]["findings"].to_string();
    ensure!(findings == "[]", "{findings}");
    let doctor = say(0, &["doctor", "--json"])?.json()?;
    let rights = doctor.as_array().context("checks")?.iter().find(|check| check["what"] == "rights");
    ensure!(rights.is_some_and(|check| check["verdict"] == "fine"), "{doctor}");

    // What nobody meant is too much, and who means it says so.
    lay(&lab, &say(0, &["guard", "plan", "--pool", "ci"])?.out)?;
    let said = say(10, &["guard", "check"])?;
    ensure!(said.out.contains("VM.Allocate on /pool/ci"), "{said:?}");
    fs::write(dir.path().join("nhi.toml"), "[guard]\npools = [\"lab\", \"ci\"]\n")?;
    say(0, &["guard", "check"])?;

    // One token for both.
    fs::write(dir.path().join(".env"), {
        let (user, name) = lab.act_token.id.split_once('!').context("a token")?;
        let swap = |line: &str| match line.split_once('=') {
            Some(("PROXMOX_USER", _)) => format!("PROXMOX_USER={user}\n"),
            Some(("PROXMOX_TOKEN_ID", _)) => format!("PROXMOX_TOKEN_ID={name}\n"),
            Some(("PROXMOX_SECRET_KEY", _)) => format!("PROXMOX_SECRET_KEY={}\n", lab.act_token.secret),
            _ => format!("{line}\n"),
        };
        env_file(&lab, "", "").lines().map(swap).collect::<String>()
    })?;
    let said = say(10, &["guard", "check"])?;
    ensure!(said.out.contains("both looks and acts"), "{said:?}");
    let doctor = say(0, &["doctor"])?;
    ensure!(doctor.out.contains("! rights") && doctor.out.contains("both looks and acts"), "{doctor:?}");
    ensure!(lab.counts().writes == 0, "looking at rights wrote to Proxmox");
    Ok(())
}

/// The actuator's token or user, as the commands name it.
fn lab_id(commands: &str, kind: &str) -> String {
    let after = commands.lines().filter_map(|line| line.split_once(&format!("/pool/lab {kind} ")));
    let word = after.map(|(_, rest)| rest.split(" --").next().unwrap_or_default()).next().unwrap_or_default();
    word.trim_matches('\'').to_owned()
}
