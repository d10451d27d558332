//! Who is known to the mesh, from the file of identities. It changes nothing; `nhi auth` does.

use nhi_bus::registry::{Registry, RegistryError};
use nhi_model::{
    call::{AuthListed, IdentityInfo},
    fault::{Fault, FaultCode},
    identity::{Agent, IdentityName},
};
use std::path::PathBuf;

/// Where identities are read from.
#[derive(Clone, Debug)]
pub(super) struct People {
    pub(super) registry: PathBuf,
}

impl People {
    /// `auth.whoami`
    pub(super) async fn whoami(&self, name: &IdentityName) -> Result<IdentityInfo, Fault> {
        let registry = self.load().await?;
        registry.get(name).map(|identity| identity.info(name)).ok_or_else(|| {
            Fault::new(
                FaultCode::NotFound,
                format!("{name} is connected, but not among the identities of this mesh"),
                "On a joined server its administrator knows it; else it was revoked just now.",
            )
        })
    }

    /// `auth.list`
    pub(super) async fn list(&self) -> Result<AuthListed, Fault> {
        Ok(AuthListed { identities: self.load().await?.infos() })
    }

    /// Public keys of the routers. On a joined server they are not known here, and each machine names them itself.
    pub(super) async fn routers(&self) -> Vec<String> {
        let known = self.load().await.ok();
        let route = known.and_then(|registry| registry.get(&Agent::Route.identity()).cloned());
        route.map(|identity| identity.public_key).into_iter().collect()
    }

    /// Reads the file anew: `nhi auth` is another process.
    async fn load(&self) -> Result<Registry, Fault> {
        let dir = self.registry.clone();
        let loaded = tokio::task::spawn_blocking(move || Registry::load(&dir)).await;
        match loaded {
            Ok(Ok(registry)) => Ok(registry),
            Ok(Err(error)) => Err(unread(&error)),
            Err(error) => {
                tracing::error!(agent = "state", err = %error, "identities not read");
                Err(Fault::new(FaultCode::Internal, "the identities cannot be read", "See the log of nhi."))
            }
        }
    }
}

/// The path stays in the log.
fn unread(error: &RegistryError) -> Fault {
    tracing::warn!(agent = "state", err = %error, "identities not read");
    Fault::new(
        FaultCode::Unavailable,
        "the identities of this mesh cannot be read now",
        "The owner finds the reason with `nhi doctor`.",
    )
}
