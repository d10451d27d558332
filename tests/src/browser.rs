//! Whether the dashboard can be opened in a real browser here. It opens nothing.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// What it takes: Node with the dashboard's packages, and Chromium.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Browser {
    /// The dashboard's sources, with its packages.
    pub dashboard: PathBuf,
    /// The browser.
    pub chromium: PathBuf,
}

impl Browser {
    /// Both, or what is missing and how it is installed. `NHI_CHROMIUM` names another Chromium.
    ///
    /// # Errors
    /// A sentence for people.
    pub fn find() -> Result<Self, String> {
        let dashboard = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dashboard");
        let chromium = env::var_os("NHI_CHROMIUM").map_or_else(|| "/usr/bin/chromium".into(), PathBuf::from);
        let node = Command::new("node").arg("--version").output();
        if !node.is_ok_and(|output| output.status.success()) {
            return Err("node is not installed (20.19 or newer)".to_owned());
        }
        if !chromium.is_file() {
            return Err(format!("{} is not there (apt-get install chromium)", chromium.display()));
        }
        let packages = dashboard.join("node_modules/playwright-core");
        if !packages.is_dir() {
            return Err(format!("{} is not there (npm ci in dashboard)", packages.display()));
        }
        Ok(Self { dashboard, chromium })
    }
}
