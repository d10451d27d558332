//! What both tokens of a cluster may do, compared with what they are meant to. It asks Proxmox with the tokens
//! themselves and needs no mesh.

use super::{Meant, lab::Lab};
use crate::{
    config::ClusterConfig,
    exit::{Exit, Failure},
};
use nhi_decide::guard::{self, Check, Finding, Permissions, Version};
use nhi_model::alert::Severity;
use nhi_pve::{PveError, Reader};
use serde::{Serialize, Serializer};
use std::collections::{BTreeMap, btree_map::Entry};

/// What was found in one cluster.
#[derive(Debug, Serialize)]
pub(crate) struct Examined {
    /// The cluster.
    pub cluster: String,
    /// Its version, first two numbers.
    #[serde(serialize_with = "dotted")]
    pub version: Version,
    /// The token that reads.
    pub scanner: String,
    /// The token that acts; absent when there is none.
    pub actuator: Option<String>,
    /// Guests that may not be touched.
    pub protected: BTreeMap<u32, String>,
    /// What differs, the worst first.
    pub findings: Vec<Row>,
}

/// One difference, as programs read it.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about.
    pub about: About,
    /// What is so.
    pub what: String,
    /// What to do: a sentence, or commands, one a line.
    pub remedy: String,
}

/// What a difference is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum About {
    /// Which tokens there are; it is so whatever rights they hold.
    Tokens,
    /// What a token may do.
    Rights,
}

/// The differences as rows. What is found without looking at any right is about the tokens.
fn rows(input: &Check<'_>) -> Vec<Row> {
    let unseen = Check { options: input.options, scan: None, act: None, pools: None, registered: None };
    let of_tokens = guard::check(&unseen);
    let row = |finding: Finding| {
        let about = if of_tokens.contains(&finding) { About::Tokens } else { About::Rights };
        let Finding { severity, what, remedy } = finding;
        Row { severity, about, what, remedy }
    };
    guard::check(input).into_iter().map(row).collect()
}

impl Examined {
    /// Whether a person has to look.
    pub(crate) fn is_unwell(&self) -> bool {
        self.findings.iter().any(|row| row.severity != Severity::Info)
    }
}

pub(super) fn dotted<S: Serializer>(version: &Version, to: S) -> Result<S::Ok, S::Error> {
    to.collect_str(&format_args!("{}.{}", version.0, version.1))
}

/// Asks Proxmox and compares.
///
/// # Errors
/// When the cluster does not answer, or refuses a token.
pub(crate) async fn examine(cluster: &ClusterConfig, meant: &Meant<'_>) -> Result<Examined, Failure> {
    let name = cluster.name.as_str();
    let scan = reader(cluster, false)?;
    let asked = |error: PveError| pve_failure(name, error);
    let lab = Lab::of_proxmox(&scan, name).await.map_err(asked)?;
    let protected = lab.protected(name, meant.policy, meant.ourselves);
    let mut options = meant.options(Some(cluster), &lab, &protected);
    let scan_rights: Permissions = scan.access_permissions().await.map_err(asked)?.paths;
    let act = match &cluster.acting {
        Some(_) => Some(reader(cluster, true)?),
        None => changes(&scan_rights).then(|| scan.clone()),
    };
    let mut act_rights = match &act {
        Some(act) => Some(act.access_permissions().await.map_err(asked)?.paths),
        None => None,
    };
    if let (Some(act), Some(rights)) = (&act, &mut act_rights) {
        // The whole map leaves out where nothing holds, and then what is above would seem to.
        for vmid in protected.keys() {
            let path = format!("/vms/{vmid}");
            if let Entry::Vacant(vacant) = rights.entry(path) {
                let told = act.permissions_on(vacant.key()).await.map_err(asked)?;
                let held =
                    told.on(vacant.key()).into_iter().map(|(name, spreads)| (name.to_owned(), spreads));
                vacant.insert(held.collect());
            }
        }
        if cluster.acting.is_none() {
            options.act.clone_from(&options.scan);
        }
    }
    let input = Check {
        options: &options,
        scan: Some(&scan_rights),
        act: act_rights.as_ref(),
        pools: Some(&lab.pools()),
        // Where nobody acts, nobody can take a tag off.
        registered: lab.registered.as_ref().filter(|_| act.is_some()),
    };
    let mut findings = rows(&input);
    if act.is_none() {
        findings.push(Row {
            severity: Severity::Info,
            about: About::Tokens,
            what: "no token may change anything here, so nothing can be done by asking".to_owned(),
            remedy: "where that is wanted, `nhi guard plan` prints how to make one".to_owned(),
        });
    }
    let actuator = act_rights.is_some().then(|| options.act.clone());
    Ok(Examined {
        cluster: name.to_owned(),
        version: options.version,
        scanner: options.scan.clone(),
        actuator,
        protected,
        findings,
    })
}

/// Whether rights hold anything but looking.
fn changes(rights: &Permissions) -> bool {
    rights.values().any(|held| held.keys().any(|privilege| !privilege.ends_with(".Audit")))
}

/// Reads with one of the two tokens.
///
/// # Errors
/// [`Exit::Config`] when the cluster's certificates cannot be used.
pub(super) fn reader(cluster: &ClusterConfig, acting: bool) -> Result<Reader, Failure> {
    let endpoint = if acting { cluster.acting.as_ref() } else { None }.unwrap_or(&cluster.endpoint);
    Reader::new(endpoint.clone())
        .map_err(|error| Failure::new(Exit::Config, format!("cluster {}: cannot {error}", cluster.name)))
}

fn pve_failure(cluster: &str, error: PveError) -> Failure {
    let exit = match error.kind() {
        nhi_pve::Kind::Unauthorized | nhi_pve::Kind::PermissionDenied { .. } => Exit::Refused,
        _ => Exit::Unreachable,
    };
    let sentence = format!("cluster {cluster}: {}", crate::chain(&error.into()));
    Failure::new(exit, sentence)
}
