//! Rehearsals with the real `nhi` as the simulated copy: a plan whose rehearsal differs is refused before anything is
//! written, and nothing of a rehearsal stays, whether it ends or is broken off.

use crate::house::{House, Place, SOON};
use nhi_model::{act::ActPlan, identity::Role};
use nhi_pve::{Address, ApiToken, Endpoint, Trust};
use nhi_sim::{Edit, LabOptions, Running, TokenSecret};
use nhi_testkit::{wait_for, wish};
use nhi_tests::program::Program;
use serde_json::json;
use std::{
    collections::BTreeMap,
    ffi::OsStr,
    fs,
    os::unix::ffi::OsStrExt as _,
    path::{Path, PathBuf},
};

/// A simulated home with an actuator, and the program it rehearses with.
struct Stage {
    program: Program,
    lab: Running,
    house: House,
}

fn endpoint(lab: &Running, token: &TokenSecret) -> Endpoint {
    let token = ApiToken::parse(&token.id, &token.secret).unwrap();
    let trust = Trust::ca_pem(lab.ca_pem.as_bytes()).unwrap();
    Endpoint::new(Address::parse_list(&lab.url).unwrap(), token, trust).unwrap()
}

impl Stage {
    async fn open(policy: &'static str) -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR"));
        let program = tokio::task::spawn_blocking(|| Program::build(place)).await.unwrap().unwrap();
        let options = LabOptions { auth_delay_ms: 10, task_ms: 20, ..LabOptions::demo() };
        let lab = nhi_sim::serve(options).await.unwrap();
        let house = House::open(Place {
            scan: endpoint(&lab, &lab.scan_token),
            act: endpoint(&lab, &lab.act_token),
            graph: json!({ "services": {} }),
            policy,
            ourselves: "home/100",
            program: PathBuf::from(program.command(place).get_program()),
        });
        Self { house: house.await, program, lab }
    }

    fn writes(&self) -> u64 {
        self.lab.counts().writes
    }

    /// The descriptions that rehearsals running now were given.
    fn rehearsals(&self) -> Vec<PathBuf> {
        let program = self.program.command(Path::new("/")).get_program().to_owned();
        let arguments = |process: fs::DirEntry| fs::read(process.path().join("cmdline")).ok();
        let of_ours = |line: Vec<u8>| {
            let mut words = line.split(|byte| *byte == 0).map(OsStr::from_bytes);
            let ours = words.next() == Some(&program);
            words.find(|word| *word == "--seed").filter(|_| ours)?;
            words.next().map(PathBuf::from)
        };
        fs::read_dir("/proc").unwrap().flatten().filter_map(arguments).filter_map(of_ours).collect()
    }

    /// Waits until a rehearsal runs, and says what it was given.
    async fn rehearses(&self) -> PathBuf {
        wait_for("a rehearsal to run", SOON, async || self.rehearsals().pop()).await
    }

    async fn nothing_stays(&self, seed: &Path) {
        let gone = || self.rehearsals().is_empty() && !seed.exists();
        wait_for("the rehearsal to be gone", SOON, async || gone().then_some(())).await;
    }
}

fn rehearsed() -> ActPlan {
    ActPlan { rehearse: true, ..wish(json!({ "do": "start", "guest": "106" })) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_shows_what_comes_and_leaves_nothing() {
    let stage = Stage::open("[caution]\nrehearse = [\"set\"]\n").await;
    let agent = stage.house.person("aider", Role::Agent).await;
    let wish = rehearsed();
    let (planned, seed) = tokio::join!(agent.ask(&wish), stage.rehearses());
    let rehearsal = planned.unwrap().rehearsal.expect("it was asked for");
    assert!(rehearsal.as_expected && rehearsal.differences.is_empty(), "{rehearsal:?}");
    assert!(rehearsal.changes.iter().any(|line| line.contains("stopped → running")), "{rehearsal:?}");
    stage.nothing_stays(&seed).await;
    // By policy, unasked: the plan is bound to the digest of the real configuration, and so is the copy.
    let plan = agent
        .plan(json!({ "do": "set", "guest": "106", "settings": { "description": "new" } }))
        .await
        .unwrap();
    let sends_digest = plan.plan.steps.iter().any(|step| step.call.params.contains_key("digest"));
    assert!(sends_digest && plan.rehearsal.is_some_and(|rehearsal| rehearsal.as_expected));
    // What policy does not name and nobody asked for is not rehearsed.
    let plan = agent.plan(json!({ "do": "start", "guest": "106" })).await.unwrap();
    assert!(plan.rehearsal.is_none());
    assert_eq!(stage.writes(), 0, "a rehearsal touches nothing real");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_differs_in_the_rehearsal_is_refused_without_a_write() {
    let stage = Stage::open("[caution]\nrehearse = [\"start\"]\n").await;
    let agent = stage.house.person("aider", Role::Agent).await;
    // A disk on a storage that is switched off: Proxmox does not start such a guest, and the planner does not look at it.
    let set = BTreeMap::from([("scsi1".to_owned(), "old-nas:106/vm-106-disk-1.raw,size=8G".to_owned())]);
    stage.lab.with_lab(|lab| lab.edit(106, Edit::Config { set, delete: Vec::new() })).unwrap();
    let fault = agent.plan(json!({ "do": "start", "guest": "106" })).await.unwrap_err();
    assert_eq!(fault.code, "rehearsal-differs", "{fault}");
    assert!(fault.message.contains("storage 'old-nas' is disabled"), "{fault}");
    // The control: the same for a guest without it.
    let plan = agent.plan(json!({ "do": "start", "guest": "212" })).await.unwrap();
    assert!(plan.rehearsal.is_some_and(|rehearsal| rehearsal.as_expected));
    assert_eq!(stage.writes(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rehearsal_that_is_broken_off_leaves_nothing() {
    let stage = Stage::open("").await;
    let agent = stage.house.person("aider", Role::Agent).await;
    let mut asking = tokio::task::JoinSet::new();
    asking.spawn(async move { agent.ask(&rehearsed()).await });
    let seed = stage.rehearses().await;
    stage.house.cx.close().await;
    stage.nothing_stays(&seed).await;
    asking.abort_all();
    assert_eq!(stage.writes(), 0);
}
