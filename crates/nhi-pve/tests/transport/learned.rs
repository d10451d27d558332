//! Addresses the cluster tells of its nodes: asked when those of the settings do not answer, and only behind a
//! certificate that is pinned, or that the cluster told.

use crate::{
    answer,
    authorities::{Authority, Leaf, self_signed},
    endpoint, pass,
    server::{Server, Step},
};
use nhi_pve::{Fingerprint, Kind, Reader, Trust, TrustedAs};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;

/// The second node's address in the cluster; all of 127.0.0.0/8 is this machine.
const SECOND: &str = "127.0.0.2";

/// The first node does not answer.
const DEAD: u8 = 2;

/// Two ports with the same number on two addresses of this machine.
async fn neighbours() -> (TcpListener, TcpListener) {
    for _ in 0..100 {
        let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = first.local_addr().unwrap().port();
        if let Ok(second) = TcpListener::bind((SECOND, port)).await {
            return (first, second);
        }
    }
    panic!("no port is free on both 127.0.0.1 and {SECOND}");
}

/// A cluster of two nodes.
struct Cluster {
    first: Server,
    second: Server,
    /// What the first says of its quorum once it answers again.
    revived: Arc<AtomicU8>,
}

impl Cluster {
    /// The first answers once each `/cluster/status` and `/nodes` and is dead from then on; the second, whose
    /// certificate the first says to be `told`, answers lists.
    async fn start(first: &Leaf, second: &Leaf, told: Option<Fingerprint>) -> Self {
        Self::start_with(first, second, told, Vec::new()).await
    }

    /// The same, where the first says something at its end.
    async fn start_with(first: &Leaf, second: &Leaf, told: Option<Fingerprint>, last: Vec<u8>) -> Self {
        let status = |local: &str, quorate: u8| {
            let row = |name: &str, ip: &str| {
                let here = u8::from(name == local);
                format!(r#"{{"type":"node","name":"{name}","local":{here},"online":1,"ip":"{ip}"}}"#)
            };
            let cluster = format!(r#"{{"type":"cluster","name":"lab","nodes":2,"quorate":{quorate}}}"#);
            let rows = format!("{cluster},{},{}", row("pve1", "127.0.0.1"), row("pve2", SECOND));
            answer("200 OK", &format!(r#"{{"data":[{rows}]}}"#))
        };
        let told = told.map_or(String::new(), |told| format!(r#","ssl_fingerprint":"{told}""#));
        let nodes = format!(r#"{{"data":[{{"node":"pve1"}},{{"node":"pve2"{told}}}]}}"#);
        let (at_first, at_second) = neighbours().await;
        let steps = vec![Step::Answer(status("pve1", 1)), Step::Close(answer("200 OK", &nodes))];
        let revived = Arc::new(AtomicU8::new(DEAD));
        let lives = revived.clone();
        let first = Server::tls_at(at_first, first.config(), move |connection| match connection {
            0 => steps.clone(),
            _ => match lives.load(Ordering::Relaxed) {
                DEAD => vec![Step::Close(last.clone())],
                quorate => vec![Step::Answer(status("pve1", quorate)); 20],
            },
        });
        // Its rows are a list to whoever asks for another one.
        let second =
            Server::tls_at(at_second, second.config(), move |_| vec![Step::Answer(status("pve2", 1)); 20]);
        Self { first: first.await, second: second.await, revived }
    }

    /// Lets the first answer again, and say this of its quorum.
    fn say(&self, quorate: u8) {
        self.revived.store(quorate, Ordering::Relaxed);
    }

    /// A reader that has looked at the cluster while its first node was there.
    async fn reader(&self, trust: Trust) -> Reader {
        let mut endpoint = endpoint(&[self.first.url()], trust);
        endpoint.node_port = self.first.port();
        let reader = Reader::new(endpoint).unwrap();
        reader.cluster_status().await.unwrap();
        reader.nodes().await.unwrap();
        reader
    }

    /// What becomes of a call after the first node died; nothing may have been sent where it failed.
    async fn outcome(&self, trust: Trust) -> Result<TrustedAs, String> {
        let reader = self.reader(trust).await;
        match reader.pools().await {
            Ok(_) => {
                assert_eq!(self.second.log().requests.len(), 1);
                let state = reader.addresses().into_iter().find(|state| state.is_first).unwrap();
                assert_eq!(state.learned_from.as_deref(), Some("pve2"));
                Ok(state.trusted_as)
            }
            Err(error) => {
                // The words are about the address in the settings; the other one is nobody's business to mend.
                assert_eq!((error.kind(), error.place()), (&Kind::Connect, self.first.url().as_str()));
                assert_eq!(error.certificate(), None);
                assert!(!error.text().contains(SECOND), "{error}");
                assert_eq!(self.second.log().requests.len(), 0, "the token must not leave");
                let state = reader.addresses().pop().unwrap();
                assert_eq!(state.trusted_as, TrustedAs::NotYet);
                Err(state.trouble.unwrap())
            }
        }
    }
}

#[tokio::test]
async fn a_node_whose_certificate_the_pinned_authority_signed_takes_over() {
    let authority = Authority::new();
    let (first, second) = (authority.leaf(&["127.0.0.1"]), authority.leaf(&[SECOND]));
    let trust = || Trust::ca_pem(authority.pem.as_bytes()).unwrap();
    let cluster = Cluster::start(&first, &second, None).await;
    let expected = TrustedAs::Authority { fingerprint: second.fingerprint() };
    assert_eq!(cluster.outcome(trust()).await, Ok(expected));

    // The controls: another authority's, and one that is for another machine.
    for stranger in [Authority::new().leaf(&[SECOND]), authority.leaf(&["192.0.2.7"])] {
        let cluster = Cluster::start(&first, &stranger, None).await;
        let trouble = cluster.outcome(trust()).await.unwrap_err();
        assert!(trouble.contains(&stranger.fingerprint().to_string()), "{trouble}");
        assert!(trouble.contains("node pve2"), "{trouble}");
    }
}

#[tokio::test]
async fn a_node_whose_certificate_the_cluster_told_takes_over() {
    let (first, second) = (self_signed(), self_signed());
    let trust = || Trust::fingerprint(first.fingerprint());
    let told = second.fingerprint();
    let cluster = Cluster::start(&first, &second, Some(told)).await;
    assert_eq!(cluster.outcome(trust()).await, Ok(TrustedAs::Told { fingerprint: told }));

    // The controls: it was not told, or another one was; the pinned one of the first does not make it the second.
    for told in [None, Some(first.fingerprint()), Some(self_signed().fingerprint())] {
        let cluster = Cluster::start(&first, &second, told).await;
        let trouble = cluster.outcome(trust()).await.unwrap_err();
        assert!(trouble.contains(&second.fingerprint().to_string()), "{trouble}");
    }
}

#[tokio::test]
async fn a_renewed_certificate_is_believed_by_either_way() {
    let authority = Authority::new();
    let (first, second) = (authority.leaf(&["127.0.0.1"]), authority.leaf(&[SECOND]));
    let print = first.fingerprint().to_string();
    let both = || Trust::from_settings(Some(authority.pem.as_bytes()), Some(&print)).unwrap();
    // The cluster still tells the one before.
    let cluster = Cluster::start(&first, &second, Some(self_signed().fingerprint())).await;
    let expected = TrustedAs::Authority { fingerprint: second.fingerprint() };
    assert_eq!(cluster.outcome(both()).await, Ok(expected), "nobody pinned it, so it is not called rotated");
    // One of the node's own making, which the cluster tells.
    let own = self_signed();
    let cluster = Cluster::start(&first, &own, Some(own.fingerprint())).await;
    let expected = TrustedAs::Told { fingerprint: own.fingerprint() };
    assert_eq!(cluster.outcome(both()).await, Ok(expected));
}

#[tokio::test]
async fn nobody_asks_a_node_while_the_settings_answer() {
    let authority = Authority::new();
    let (first, second) = (authority.leaf(&["127.0.0.1"]), authority.leaf(&[SECOND]));
    let cluster = Cluster::start(&first, &second, None).await;
    let reader = cluster.reader(Trust::ca_pem(authority.pem.as_bytes()).unwrap()).await;
    assert_eq!((cluster.first.log().requests.len(), cluster.second.log().connections), (2, 0));
    let states = reader.addresses();
    let shown: Vec<_> = states.iter().map(|state| (state.learned_from.as_deref(), state.is_first)).collect();
    assert_eq!(
        shown,
        [(None, true), (Some("pve2"), false)],
        "the first node's own address is in the settings"
    );
    assert_eq!(states[0].trusted_as, TrustedAs::Authority { fingerprint: first.fingerprint() });
}

#[tokio::test]
async fn calls_go_back_to_the_settings_when_these_answer_again() {
    let authority = Authority::new();
    let (first, second) = (authority.leaf(&["127.0.0.1"]), authority.leaf(&[SECOND]));
    let cluster = Cluster::start(&first, &second, None).await;
    let reader = cluster.reader(Trust::ca_pem(authority.pem.as_bytes()).unwrap()).await;
    let asked = || (cluster.first.log().requests.len(), cluster.second.log().requests.len());
    for _ in 0..3 {
        reader.pools().await.unwrap();
    }
    assert_eq!(asked(), (3, 3), "the first is asked once more and left alone");
    let trouble = |reader: &Reader| reader.addresses()[0].trouble.clone();
    assert!(trouble(&reader).unwrap().contains("the connection broke"));
    pass(Duration::from_secs(121)).await;
    reader.pools().await.unwrap();
    assert_eq!(asked(), (3, 4), "only who asks for the cluster's state looks back");
    for _ in 0..2 {
        assert_eq!(reader.cluster_status().await.unwrap().local(), Some("pve2"));
    }
    assert_eq!(asked(), (4, 6), "and once in a while");
    cluster.say(1);
    pass(Duration::from_secs(119)).await;
    reader.cluster_status().await.unwrap();
    assert_eq!(asked(), (4, 7), "the control: before its time nobody does");
    pass(Duration::from_secs(2)).await;
    assert_eq!(reader.cluster_status().await.unwrap().local(), Some("pve1"));
    reader.pools().await.unwrap();
    assert_eq!(asked(), (6, 7));
    assert!(reader.addresses()[0].is_first && trouble(&reader).is_none());
}

#[tokio::test]
async fn nobody_goes_back_to_a_minority() {
    let authority = Authority::new();
    let (first, second) = (authority.leaf(&["127.0.0.1"]), authority.leaf(&[SECOND]));
    let cluster = Cluster::start(&first, &second, None).await;
    let reader = cluster.reader(Trust::ca_pem(authority.pem.as_bytes()).unwrap()).await;
    cluster.say(0);
    reader.demote();
    assert!(reader.addresses()[0].trouble.as_ref().unwrap().contains("without quorum"));
    pass(Duration::from_secs(121)).await;
    assert_eq!(reader.cluster_status().await.unwrap().quorate(), Some(false), "it is looked at");
    reader.pools().await.unwrap();
    assert_eq!(reader.cluster_status().await.unwrap().local(), Some("pve2"));
    assert_eq!((cluster.first.log().requests.len(), cluster.second.log().requests.len()), (3, 2));
}

#[tokio::test]
async fn a_refused_token_is_not_tried_on_every_node_of_the_cluster() {
    let authority = Authority::new();
    let (first, second) = (authority.leaf(&["127.0.0.1"]), authority.leaf(&[SECOND]));
    let refused = b"HTTP/1.1 401 invalid token value!\r\nContent-Length: 0\r\n\r\n".to_vec();
    let cluster = Cluster::start_with(&first, &second, None, refused).await;
    let reader = cluster.reader(Trust::ca_pem(authority.pem.as_bytes()).unwrap()).await;
    for _ in 0..3 {
        assert_eq!(*reader.pools().await.unwrap_err().kind(), Kind::Unauthorized);
    }
    assert_eq!((cluster.first.log().requests.len(), cluster.second.log().connections), (3, 0));
}

#[tokio::test]
async fn a_minority_teaches_where_to_go_instead() {
    let authority = Authority::new();
    let (first, second) = (authority.leaf(&["127.0.0.1"]), authority.leaf(&[SECOND]));
    let cluster = Cluster::start(&first, &second, None).await;
    let reader = cluster.reader(Trust::ca_pem(authority.pem.as_bytes()).unwrap()).await;
    reader.demote();
    reader.pools().await.unwrap();
    assert_eq!((cluster.first.log().requests.len(), cluster.second.log().requests.len()), (2, 1));
}
