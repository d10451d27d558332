//! Answers of a real HTTP server that goes wrong, up to the observation. What follows from an observation is
//! tested where it is decided.

use super::{
    answers::Answers,
    convert,
    pass::{Asker, Memory},
    schedule::Work,
};
use nhi_decide::observation::Observation;
use nhi_model::{Timestamp, guest::GuestStatus, lab::NodeStatus, source::Coverage};
use nhi_pve::{Address, ApiToken, Endpoint, Reader, Trust};
use nhi_sim::{Breakage, Fault, LabOptions, Match, Running};

/// The demo lab and who asks it.
struct Lab {
    sim: Running,
    asker: Asker,
}

impl Lab {
    async fn start() -> Self {
        Self::with(LabOptions::demo()).await
    }

    async fn with(options: LabOptions) -> Self {
        let sim = nhi_sim::serve(options).await.unwrap();
        let token = ApiToken::parse(&sim.scan_token.id, &sim.scan_token.secret).unwrap();
        let trust = Trust::ca_pem(sim.ca_pem.as_bytes()).unwrap();
        let urls: Vec<&str> = sim.node_urls.values().map(String::as_str).collect();
        let endpoint = Endpoint::new(Address::parse_list(&urls.join(",")).unwrap(), token, trust).unwrap();
        let reader = Reader::new(endpoint).unwrap();
        let asker = Asker { reader, cluster: "home".to_owned(), place: "https://lab:8006".to_owned() };
        Self { sim, asker }
    }

    /// Breaks what is asked by this path.
    fn breaks(&self, path: &str, answer: Breakage) {
        let on = Match { path: Some(path.to_owned()), ..Match::default() };
        self.sim.set_fault(Fault::Http { on, answer }).unwrap();
    }

    /// A full pass that asks each guest for its configuration.
    async fn pass(&self) -> Answers {
        let mut answers = self.asker.lists(Timestamp::UNIX_EPOCH).await;
        let listed = convert::listed(&answers.nodes);
        let work = Work { configs: listed.keys().copied().collect(), addresses: [].into() };
        let places = listed.into_iter().map(|(guest, (node, _))| (guest, node)).collect();
        self.asker.guests(&mut answers, &work, &places, |_| Memory::default()).await;
        answers
    }

    async fn seen(&self) -> Observation {
        convert::observation(&self.pass().await)
    }
}

fn reason(coverage: &Coverage) -> &str {
    match coverage {
        Coverage::Complete => "",
        Coverage::Partial { reason } | Coverage::Unseen { reason } => reason,
    }
}

#[tokio::test]
async fn configurations_that_a_proxy_eats_make_their_node_partial() {
    let lab = Lab::start().await;
    let whole = lab.seen().await;
    assert!(whole.nodes.values().all(|node| node.coverage.is_complete()), "{:?}", whole.nodes);
    lab.breaks("/config", Breakage::Html { status: 200 });
    let seen = lab.seen().await;
    let mut guests = 0;
    for (name, node) in &seen.nodes {
        let told = reason(&node.coverage);
        let want = "configurations of its guests could not be read: ";
        assert!(
            matches!(node.coverage, Coverage::Partial { .. }) && told.starts_with(want),
            "{name}: {told}"
        );
        assert_eq!(node.lists.len(), 3, "the lists themselves are whole");
        assert!(node.guests.iter().all(|sight| sight.unread_config.is_some()));
        guests += node.guests.len();
    }
    assert!(guests > 4);
    assert_eq!(seen.nodes, lab.seen().await.nodes, "the words stay the same");
}

#[tokio::test]
async fn a_node_whose_interface_alone_is_silent_is_not_called_offline() {
    let lab = Lab::start().await;
    lab.breaks("/nodes/pve2/", Breakage::Status { code: 595, message: String::new() });
    let seen = lab.seen().await;
    let node = &seen.nodes["pve2"];
    assert_eq!(node.record.as_ref().unwrap().status, NodeStatus::Online, "corosync says so");
    let reason = "node pve2 cannot be reached through https://lab:8006".to_owned();
    assert_eq!(node.coverage, Coverage::Unseen { reason });
    assert!(node.lists.is_empty() && node.guests.is_empty());
    // The cluster itself says that it is down.
    let lab = Lab::start().await;
    let fault = Fault::NodeOffline { node: "pve2".to_owned(), code: 595, power_cut: false };
    lab.sim.set_fault(fault).unwrap();
    let seen = lab.seen().await;
    assert_eq!(seen.nodes["pve2"].record.as_ref().unwrap().status, NodeStatus::Offline);
}

#[tokio::test]
async fn one_call_that_times_out_at_the_proxy_does_not_cost_the_list() {
    let lab = Lab::start().await;
    // Only the list that asks each machine's monitor is too slow for the proxy.
    let on = Match { path: Some("/nodes/pve1/qemu".to_owned()), times: Some(1), ..Match::default() };
    let answer = Breakage::Status { code: 596, message: "Connection timed out".to_owned() };
    lab.sim.set_fault(Fault::Http { on, answer }).unwrap();
    let answers = lab.asker.lists(Timestamp::UNIX_EPOCH).await;
    let seen = convert::observation(&answers);
    assert!(seen.nodes["pve1"].coverage.is_complete(), "{:?}", seen.nodes["pve1"].coverage);
    let running = seen.nodes["pve1"].guests.iter().find(|sight| sight.guest.status == GuestStatus::Running);
    assert!(running.is_some_and(|sight| !sight.tells_pause), "the plain list does not tell");
    // A node of which nothing answers is not asked again.
    lab.breaks("/nodes/pve2/", Breakage::Status { code: 596, message: String::new() });
    let answers = lab.asker.lists(Timestamp::UNIX_EPOCH).await;
    assert!(answers.nodes["pve2"].qemu.is_err());
}

#[tokio::test]
async fn a_member_without_quorum_is_not_asked_first_again() {
    let lab = Lab::with(LabOptions { all_nodes: true, ..LabOptions::demo() }).await;
    let who = async || lab.asker.index().await.status.unwrap().local().unwrap().to_owned();
    assert_eq!(
        (who().await, who().await),
        ("pve1".to_owned(), "pve1".to_owned()),
        "the control: while all is well"
    );
    let fault = lab.sim.set_fault(Fault::QuorumLost {}).unwrap();
    assert_eq!(who().await, "pve1");
    assert_eq!(who().await, "pve2", "the next look begins elsewhere");
    assert_eq!(lab.asker.lists(Timestamp::UNIX_EPOCH).await.status.unwrap().local(), Some("pve3"));
    lab.sim.clear_fault(fault).unwrap();
    assert_eq!(
        (who().await, who().await),
        ("pve1".to_owned(), "pve1".to_owned()),
        "and stays with who has one"
    );
}
