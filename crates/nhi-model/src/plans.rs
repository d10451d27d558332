//! Keys of the bucket `nhi-plans`: what acting remembers. Like state keys they are built here and nowhere else.

use crate::{
    key::{decode, encode},
    plan::PlanId,
    run::RunId,
};
use std::fmt;

/// A key of `nhi-plans`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum PlansKey {
    /// `plan.<id>`: [`crate::plan::PlanRecord`]
    Plan(PlanId),
    /// `run.<id>`: [`crate::run::Run`]
    Run(RunId),
    /// `lease.<cluster>.<vmid>`: [`crate::run::Lease`]
    Lease {
        /// Cluster.
        cluster: String,
        /// Guest.
        vmid: u32,
    },
    /// `hold.<cluster>.<vmid>`: [`crate::run::Hold`]
    Hold {
        /// Cluster.
        cluster: String,
        /// Guest.
        vmid: u32,
    },
    /// `vmid.<cluster>.<vmid>`: [`crate::run::Reservation`]
    Vmid {
        /// Cluster.
        cluster: String,
        /// The number that is kept free.
        vmid: u32,
    },
    /// `control.freeze`: [`crate::run::Freeze`]
    Freeze,
    /// `control.actuator`: [`crate::run::Holder`], the one actuator that acts.
    Actuator,
}

impl PlansKey {
    /// Reads a key back from its text; `None` when it is none of ours.
    pub fn parse(text: &str) -> Option<Self> {
        let mut tokens = text.split('.');
        let (first, second, third) = (tokens.next()?, tokens.next()?, tokens.next());
        if tokens.next().is_some() {
            return None;
        }
        let guest = |third: Option<&str>| {
            let (cluster, vmid) = (decode(second)?, third?.parse::<u32>().ok()?);
            (encode(&cluster) == second && vmid.to_string() == third?).then_some((cluster, vmid))
        };
        match (first, third) {
            ("plan", None) => PlanId::parse(second).ok().map(Self::Plan),
            ("run", None) => RunId::parse(second).ok().map(Self::Run),
            ("control", None) if second == "freeze" => Some(Self::Freeze),
            ("control", None) if second == "actuator" => Some(Self::Actuator),
            ("lease", third) => guest(third).map(|(cluster, vmid)| Self::Lease { cluster, vmid }),
            ("hold", third) => guest(third).map(|(cluster, vmid)| Self::Hold { cluster, vmid }),
            ("vmid", third) => guest(third).map(|(cluster, vmid)| Self::Vmid { cluster, vmid }),
            _ => None,
        }
    }
}

impl fmt::Display for PlansKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Plan(id) => write!(f, "plan.{id}"),
            Self::Run(id) => write!(f, "run.{id}"),
            Self::Lease { cluster, vmid } => write!(f, "lease.{}.{vmid}", encode(cluster)),
            Self::Hold { cluster, vmid } => write!(f, "hold.{}.{vmid}", encode(cluster)),
            Self::Vmid { cluster, vmid } => write!(f, "vmid.{}.{vmid}", encode(cluster)),
            Self::Freeze => f.write_str("control.freeze"),
            Self::Actuator => f.write_str("control.actuator"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_read_back_as_they_were_written() {
        let (cluster, vmid) = ("my.lab".to_owned(), 105);
        for key in [
            PlansKey::Plan(PlanId::parse("p-0k3x9a").unwrap()),
            PlansKey::Run(RunId::parse("r-0k3x9a").unwrap()),
            PlansKey::Lease { cluster: cluster.clone(), vmid },
            PlansKey::Hold { cluster: cluster.clone(), vmid },
            PlansKey::Vmid { cluster, vmid },
            PlansKey::Freeze,
            PlansKey::Actuator,
        ] {
            assert_eq!(PlansKey::parse(&key.to_string()), Some(key));
        }
        for bad in ["", "plan", "plan.p-0k3x9a.x", "lease.home", "lease.home.0105", "control.x", "vmid.h.1.2"]
        {
            assert_eq!(PlansKey::parse(bad), None, "{bad}");
        }
    }
}
