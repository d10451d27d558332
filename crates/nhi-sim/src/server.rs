//! The simulator as servers: the API of each node over HTTPS and the control endpoint. Starts, stops, and
//! holds what they share. How a request travels is in [`transport`].

mod body;
mod transport;

use crate::{
    clock::Clock,
    control,
    counts::Counts,
    lab::{Identities, Lab, PveVersion, TokenSecret, access::Secret, fault::Fault},
    seed::{Seed, SeedError},
    tls::{Authority, Leaf, TlsError},
};
use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// pvedaemon's workers per node: protected calls queue for them.
const WORKERS: usize = 3;

/// What a simulator is started with.
#[derive(Clone, Debug)]
pub struct LabOptions {
    /// The home it holds.
    pub seed: Seed,
    /// Where the first node's API listens; port 0 is any free one.
    pub listen: SocketAddr,
    /// Where the control endpoint listens; loopback only.
    pub control_listen: SocketAddr,
    /// Give the other nodes an API address too (same host, any free port).
    pub all_nodes: bool,
    /// The release it pretends to be.
    pub version: PveVersion,
    /// Every answer takes this long.
    pub latency_ms: u64,
    /// A failed login takes this long; 3000 on a real PVE.
    pub auth_delay_ms: u64,
    /// Length of a task unit: a start takes one, a backup five.
    pub task_ms: u64,
    /// Decides every made-up id of the lab.
    pub number: u64,
}

impl LabOptions {
    /// The demo home on loopback, any free ports, as slow as a real one.
    pub fn demo() -> Self {
        Self::local(Seed::demo())
    }

    /// A home of one's own on loopback, any free ports, as slow as a real one.
    pub fn local(seed: Seed) -> Self {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            seed,
            listen: any,
            control_listen: any,
            all_nodes: false,
            version: PveVersion::V9_1,
            latency_ms: 0,
            auth_delay_ms: 3000,
            task_ms: 1000,
            number: 1,
        }
    }
}

/// Why a simulator does not start or does not do as told.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// An address is taken or not ours.
    #[error("cannot listen on {address}; choose another port, or 0 for any free one")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The control endpoint has no login, so it must not be reachable from elsewhere.
    #[error("the control endpoint must listen on loopback, not on {address}")]
    ControlNotLoopback {
        /// The address.
        address: SocketAddr,
    },
    /// The seed is wrong.
    #[error("cannot build the lab")]
    Seed(#[from] SeedError),
    /// No certificate.
    #[error("cannot make the lab's certificates: {reason}")]
    Certificate {
        /// Why.
        reason: String,
    },
}

impl From<TlsError> for SimError {
    fn from(error: TlsError) -> Self {
        Self::Certificate { reason: format!("{error:?}") }
    }
}

/// What all connections share.
#[derive(Debug)]
pub(crate) struct Shared {
    lab: Mutex<Lab>,
    counts: Mutex<Counts>,
    clock: Clock,
    options: LabOptions,
    identities: Identities,
    pub(crate) ca_pem: String,
    authority: Authority,
    leaves: Mutex<BTreeMap<String, Leaf>>,
    workers: BTreeMap<String, Arc<Semaphore>>,
    in_flight: BTreeMap<String, AtomicU64>,
    pub(crate) latency_ms: AtomicU64,
}

impl Shared {
    fn lab(&self) -> MutexGuard<'_, Lab> {
        self.lab.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Looks at the lab, or changes it, as of now.
    pub(crate) fn with_lab<T>(&self, act: impl FnOnce(&mut Lab) -> T) -> T {
        let mut lab = self.lab();
        lab.advance_to(self.clock.now_ms());
        act(&mut lab)
    }

    pub(crate) fn advance(&self, ms: u64) -> i64 {
        self.clock.advance(ms);
        self.with_lab(|lab| lab.now_ms())
    }

    /// Back to the seed. Secrets, certificates and addresses stay.
    pub(crate) fn reset(&self) {
        let mut lab = build(&self.options, &self.identities, self.clock.now_ms());
        for (node, leaf) in self.leaves.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            show_certificate(&mut lab, node, leaf);
        }
        *self.lab() = lab;
        *self.counts() = Counts::default();
        self.latency_ms.store(self.options.latency_ms, Ordering::SeqCst);
    }

    /// Switches a fault on.
    pub(crate) fn set_fault(&self, fault: Fault) -> Result<u64, SimError> {
        if let Fault::CertificateRotated { node, foreign } = &fault {
            self.rotate(node, *foreign)?;
        }
        Ok(self.with_lab(|lab| lab.set_fault(fault)))
    }

    /// Switches a fault off.
    pub(crate) fn clear_fault(&self, id: u64) -> Result<bool, SimError> {
        let Some(fault) = self.with_lab(|lab| lab.clear_fault(id)) else { return Ok(false) };
        if let Fault::CertificateRotated { node, foreign: true } = fault {
            self.rotate(&node, false)?;
        }
        Ok(true)
    }

    fn rotate(&self, node: &str, foreign: bool) -> Result<(), SimError> {
        let address =
            self.with_lab(|lab| lab.nodes.get(node).map(|node| node.address.clone())).unwrap_or_default();
        let leaf = if foreign {
            Authority::generate()?.sign(node, &address)?
        } else {
            self.authority.sign(node, &address)?
        };
        self.with_lab(|lab| show_certificate(lab, node, &leaf));
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner).insert(node.to_owned(), leaf);
        Ok(())
    }

    fn leaf(&self, node: &str) -> Option<Leaf> {
        self.leaves.lock().unwrap_or_else(PoisonError::into_inner).get(node).cloned()
    }
}

fn show_certificate(lab: &mut Lab, node: &str, leaf: &Leaf) {
    if let Some(node) = lab.nodes.get_mut(node) {
        node.fingerprint.clone_from(&leaf.fingerprint);
        node.certificate_pem.clone_from(&leaf.pem);
    }
}

fn build(options: &LabOptions, identities: &Identities, now_ms: i64) -> Lab {
    let mut lab = Lab::new(&options.seed, options.version, identities, options.number, now_ms);
    lab.task_ms = options.task_ms;
    lab
}

/// A running simulator. Dropping it stops it too, without waiting.
#[derive(Debug)]
pub struct Running {
    /// The API of the first node: `https://127.0.0.1:PORT`.
    pub url: String,
    /// The APIs of all nodes that have one.
    pub node_urls: BTreeMap<String, String>,
    /// The cluster's authority.
    pub ca_pem: String,
    /// SHA-256 of the first node's certificate at the start, `AB:CD:…`.
    pub fingerprint: String,
    /// The control endpoint: `http://127.0.0.1:PORT`.
    pub control_url: String,
    /// A token with PVEAuditor on `/`.
    pub scan_token: TokenSecret,
    /// A token that may act.
    pub act_token: TokenSecret,
    /// `root@pam` and its password.
    pub admin: (String, Secret),
    shared: Arc<Shared>,
    cancelled: CancellationToken,
    tasks: TaskTracker,
}

impl Running {
    /// Stops and waits until every connection is gone.
    pub async fn stop(self) {
        self.cancelled.cancel();
        self.tasks.close();
        self.tasks.wait().await;
    }

    /// Looks at the lab or changes it behind the API's back.
    pub fn with_lab<T>(&self, act: impl FnOnce(&mut Lab) -> T) -> T {
        self.shared.with_lab(act)
    }

    /// The counters as they are now.
    pub fn counts(&self) -> Counts {
        self.shared.counts().clone()
    }

    /// Switches a fault on; the number clears it.
    pub fn set_fault(&self, fault: Fault) -> Result<u64, SimError> {
        self.shared.set_fault(fault)
    }

    /// Switches a fault off; false when there is none with this number.
    pub fn clear_fault(&self, id: u64) -> Result<bool, SimError> {
        self.shared.clear_fault(id)
    }

    /// Moves the lab's clock forward.
    pub fn advance_ms(&self, ms: u64) {
        self.shared.advance(ms);
    }

    /// Every answer takes this long from now on.
    pub fn set_latency_ms(&self, ms: u64) {
        self.shared.latency_ms.store(ms, Ordering::SeqCst);
    }

    /// Back to the seed.
    pub fn reset(&self) {
        self.shared.reset();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancelled.cancel();
    }
}

/// Starts a simulator.
pub async fn serve(options: LabOptions) -> Result<Running, SimError> {
    options.seed.check()?;
    if !options.control_listen.ip().is_loopback() {
        return Err(SimError::ControlNotLoopback { address: options.control_listen });
    }
    let identities = new_identities();
    let clock = Clock::start();
    let authority = Authority::generate()?;
    let mut lab = build(&options, &identities, clock.now_ms());
    let mut leaves = BTreeMap::new();
    for node in &options.seed.nodes {
        let leaf = authority.sign(&node.name, &node.address)?;
        show_certificate(&mut lab, &node.name, &leaf);
        leaves.insert(node.name.clone(), leaf);
    }
    let names: Vec<String> = options.seed.nodes.iter().map(|node| node.name.clone()).collect();
    let first = names.first().cloned().unwrap_or_default();
    let mut listeners = vec![(first.clone(), listen(options.listen).await?)];
    if options.all_nodes {
        for name in names.iter().skip(1) {
            listeners.push((name.clone(), listen(SocketAddr::new(options.listen.ip(), 0)).await?));
        }
    }
    let (control_listener, control_address) = listen(options.control_listen).await?;
    let fingerprint = leaves.get(&first).map(|leaf| leaf.fingerprint.clone()).unwrap_or_default();
    let shared = Arc::new(Shared {
        lab: Mutex::new(lab),
        counts: Mutex::new(Counts::default()),
        clock,
        latency_ms: AtomicU64::new(options.latency_ms),
        options,
        identities: identities.clone(),
        ca_pem: authority.pem().to_owned(),
        authority,
        leaves: Mutex::new(leaves),
        workers: names.iter().map(|name| (name.clone(), Arc::new(Semaphore::new(WORKERS)))).collect(),
        in_flight: names.iter().map(|name| (name.clone(), AtomicU64::new(0))).collect(),
    });
    let (tasks, cancelled) = (TaskTracker::new(), CancellationToken::new());
    let mut node_urls = BTreeMap::new();
    for (node, (listener, address)) in listeners {
        node_urls.insert(node.clone(), format!("https://{address}"));
        tasks.spawn(transport::accept(Arc::clone(&shared), node, listener, tasks.clone(), cancelled.clone()));
    }
    tasks.spawn(control::accept(Arc::clone(&shared), control_listener, tasks.clone(), cancelled.clone()));
    Ok(Running {
        url: node_urls.get(&first).cloned().unwrap_or_default(),
        node_urls,
        ca_pem: shared.ca_pem.clone(),
        fingerprint,
        control_url: format!("http://{control_address}"),
        scan_token: identities.scan,
        act_token: identities.act,
        admin: identities.admin,
        shared,
        cancelled,
        tasks,
    })
}

/// Takes an address, and says which one it became.
pub(crate) async fn listen(address: SocketAddr) -> Result<(TcpListener, SocketAddr), SimError> {
    let failed = |source| SimError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    Ok((listener, bound))
}

fn new_identities() -> Identities {
    let token = |id: &str| TokenSecret { id: id.to_owned(), secret: uuid::Uuid::new_v4().to_string() };
    Identities {
        scan: token("nh-scan@pve!mesh"),
        act: token("nh-act@pve!mesh"),
        admin: ("root@pam".to_owned(), Secret(uuid::Uuid::new_v4().simple().to_string())),
    }
}
