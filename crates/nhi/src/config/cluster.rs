//! Which Proxmox hosts to read, with which token, and how their certificate is trusted.

use super::{ConfigError, file::RawCluster};
use nhi_pve::{Address, ApiToken, Endpoint, Trust};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

/// One cluster or stand-alone host.
#[derive(Clone, Debug)]
pub(crate) struct ClusterConfig {
    /// Its name in keys: `[a-z][a-z0-9-]{0,31}`.
    pub name: String,
    /// Where it is, the token that reads, and what makes its certificate believed.
    pub endpoint: Endpoint,
    /// The same with the token that acts; absent when there is none of its own.
    pub acting: Option<Endpoint>,
}

impl ClusterConfig {
    /// A cluster whose settings were not read from anywhere: the simulated lab.
    ///
    /// # Errors
    /// [`ConfigError`] when a setting cannot be used.
    pub(crate) fn new(
        name: &str,
        address: &str,
        token_id: &str,
        secret: &str,
        ca_pem: &[u8],
    ) -> Result<Self, ConfigError> {
        let wrong = |error: &dyn std::error::Error| ConfigError::value(name, format!("cannot {error}"));
        let addresses = Address::parse_list(address).map_err(|e| wrong(&e))?;
        let token = ApiToken::parse(token_id, secret).map_err(|e| wrong(&e))?;
        let trust = Trust::ca_pem(ca_pem).map_err(|e| wrong(&e))?;
        let endpoint = Endpoint::new(addresses, token, trust).map_err(|e| wrong(&e))?;
        Ok(Self { name: name.to_owned(), endpoint, acting: None })
    }

    /// The same with a token of its own for acting.
    ///
    /// # Errors
    /// [`ConfigError`] when the token cannot be used.
    pub(crate) fn acting_with(mut self, token_id: &str, secret: &str) -> Result<Self, ConfigError> {
        let token = ApiToken::parse(token_id, secret)
            .map_err(|error| ConfigError::value(&self.name, format!("cannot {error}")))?;
        self.acting = Some(self.endpoint.clone().with_token(token));
        Ok(self)
    }
}

/// A cluster as told, and the words its settings have where they were told.
struct Told<'a> {
    name: &'a str,
    addresses: Vec<&'a str>,
    addresses_key: String,
    user: Option<&'a str>,
    token_id: &'a str,
    token_key: String,
    secret: &'a str,
    acting: Option<ToldActing<'a>>,
    ca_file: Option<PathBuf>,
    ca_key: String,
    fingerprint: Option<&'a str>,
    fingerprint_key: String,
}

/// The token that acts, as told.
struct ToldActing<'a> {
    token_id: &'a str,
    token_key: String,
    secret: &'a str,
}

/// All configured clusters: the file's, and `home` from Neural-Home v3's variables.
pub(super) fn all(
    raw: &BTreeMap<String, RawCluster>,
    variables: &BTreeMap<String, String>,
    base: &Path,
    warnings: &mut Vec<String>,
) -> Result<Vec<ClusterConfig>, ConfigError> {
    let mut out = Vec::new();
    for (name, cluster) in raw {
        out.push(from_file(name, cluster, variables, base)?);
    }
    if raw.contains_key("home") {
        if variables.contains_key("PROXMOX_HOST") {
            let sentence = "PROXMOX_HOST is ignored because nhi.toml has [proxmox.home]; remove one of them";
            warnings.push(sentence.to_owned());
        }
    } else {
        out.extend(from_variables(variables, base)?);
    }
    Ok(out)
}

fn from_file(
    name: &str,
    raw: &RawCluster,
    variables: &BTreeMap<String, String>,
    base: &Path,
) -> Result<ClusterConfig, ConfigError> {
    let key = |field: &str| format!("proxmox.{name}.{field}");
    nhi_model::identity::IdentityName::parse(name)
        .map_err(|error| ConfigError::value(format!("proxmox.{name}"), error.to_string()))?;
    let secret = variables.get(&raw.token_secret_env).ok_or_else(|| {
        let what =
            format!("names {}, which is set neither in the environment nor in .env", raw.token_secret_env);
        ConfigError::value(key("token_secret_env"), what)
    })?;
    let acting = match (&raw.act_token_id, &raw.act_token_secret_env) {
        (None, None) => None,
        (Some(token_id), Some(variable)) => {
            let secret = variables.get(variable).ok_or_else(|| {
                let what = format!("names {variable}, which is set neither in the environment nor in .env");
                ConfigError::value(key("act_token_secret_env"), what)
            })?;
            Some(ToldActing { token_id, token_key: key("act_token_id"), secret })
        }
        (Some(_), None) => {
            let what = "is missing beside act_token_id; name the variable that holds its secret";
            return Err(ConfigError::value(key("act_token_secret_env"), what));
        }
        (None, Some(_)) => {
            let what = "is missing beside act_token_secret_env; write user@realm!id";
            return Err(ConfigError::value(key("act_token_id"), what));
        }
    };
    endpoint(Told {
        acting,
        name,
        addresses: raw.url.iter().chain(&raw.urls).map(String::as_str).collect(),
        addresses_key: key("url"),
        user: None,
        token_id: &raw.token_id,
        token_key: key("token_id"),
        secret,
        ca_file: raw.ca_file.as_ref().map(|path| base.join(path)),
        ca_key: key("ca_file"),
        fingerprint: raw.fingerprint.as_deref(),
        fingerprint_key: key("fingerprint"),
    })
}

/// The cluster `home` of Neural-Home v3's `.env`; absent without `PROXMOX_HOST`.
fn from_variables(
    variables: &BTreeMap<String, String>,
    base: &Path,
) -> Result<Option<ClusterConfig>, ConfigError> {
    let get = |key: &str| variables.get(key).map(|v| v.trim()).filter(|v| !v.is_empty());
    let Some(host) = get("PROXMOX_HOST") else { return Ok(None) };
    let need = |key: &'static str| {
        get(key).ok_or_else(|| ConfigError::value(key, "is missing beside PROXMOX_HOST; set it in .env"))
    };
    let acting = get("PROXMOX_ACT_TOKEN_ID")
        .map(|token_id| {
            let secret = get("PROXMOX_ACT_SECRET_KEY").ok_or_else(|| {
                let what = "is missing beside PROXMOX_ACT_TOKEN_ID; set it in .env";
                ConfigError::value("PROXMOX_ACT_SECRET_KEY", what)
            })?;
            Ok(ToldActing { token_id, token_key: "PROXMOX_ACT_TOKEN_ID".to_owned(), secret })
        })
        .transpose()?;
    endpoint(Told {
        acting,
        name: "home",
        addresses: vec![host],
        addresses_key: "PROXMOX_HOST".to_owned(),
        user: get("PROXMOX_USER"),
        token_id: need("PROXMOX_TOKEN_ID")?,
        token_key: "PROXMOX_TOKEN_ID".to_owned(),
        secret: need("PROXMOX_SECRET_KEY")?,
        ca_file: get("PROXMOX_CA_FILE").map(|path| base.join(path)),
        ca_key: "PROXMOX_CA_FILE".to_owned(),
        fingerprint: get("PROXMOX_FINGERPRINT"),
        fingerprint_key: "PROXMOX_FINGERPRINT".to_owned(),
    })
    .map(Some)
}

fn endpoint(told: Told<'_>) -> Result<ClusterConfig, ConfigError> {
    let wrong = |key: &str| {
        let key = key.to_owned();
        move |error: &dyn std::error::Error| ConfigError::value(key, format!("cannot {error}"))
    };
    let mut addresses = Vec::new();
    for text in &told.addresses {
        addresses.extend(Address::parse_list(text).map_err(|e| wrong(&told.addresses_key)(&e))?);
    }
    let token = ApiToken::from_parts(told.user, told.token_id, told.secret)
        .map_err(|e| wrong(&told.token_key)(&e))?;
    let read = |path: &PathBuf| {
        fs::read(path).map_err(|error| {
            ConfigError::value(&told.ca_key, format!("cannot read {}: {error}", path.display()))
        })
    };
    let ca_pem = told.ca_file.as_ref().map(read).transpose()?;
    let trust_key = if told.fingerprint.is_some() { &told.fingerprint_key } else { &told.ca_key };
    let trust =
        Trust::from_settings(ca_pem.as_deref(), told.fingerprint).map_err(|e| wrong(trust_key)(&e))?;
    let endpoint = Endpoint::new(addresses, token, trust).map_err(|e| wrong(&told.addresses_key)(&e))?;
    let acting = told
        .acting
        .map(|acting| {
            let user = told.user.filter(|_| !acting.token_id.contains('!'));
            let token = ApiToken::from_parts(user, acting.token_id, acting.secret)
                .map_err(|e| wrong(&acting.token_key)(&e))?;
            Ok(endpoint.clone().with_token(token))
        })
        .transpose()?;
    Ok(ClusterConfig { name: told.name.to_owned(), endpoint, acting })
}
