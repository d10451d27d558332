//! The ways to the model that are compared: straight, through plain proxies, through us, through other gateways. Each is
//! a process of its own but the straight one, and ends with its value.

use crate::products::{Product, Started};
use anyhow::{Context as _, Result, ensure};
use nhi_tests::{
    measure::note,
    program::Program,
    running::{Mesh, Running, until},
};
use serde_json::json;
use std::{
    fs,
    net::{SocketAddr, TcpListener, TcpStream},
    path::Path,
    process::Command,
};

/// A way to the model.
pub(crate) struct Way {
    pub(crate) name: String,
    /// Where it listens.
    pub(crate) address: String,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    /// What the model is called there.
    pub(crate) model: String,
    /// Whether it is slow enough that fewer requests tell the same.
    pub(crate) is_slow: bool,
    process: Process,
}

/// What it runs in, which ends with it.
enum Process {
    None,
    Proxy(Running),
    Ours(Mesh),
    Peer(Started),
}

impl Way {
    fn new(name: &str, address: String) -> Self {
        Self {
            name: name.to_owned(),
            address,
            path: "/v1/chat/completions".to_owned(),
            headers: Vec::new(),
            model: crate::MODEL.to_owned(),
            is_slow: false,
            process: Process::None,
        }
    }

    /// Straight to the model.
    pub(crate) fn direct(mock: SocketAddr) -> Self {
        Self::new("straight to the model", mock.to_string())
    }

    /// Its process; none for the straight way.
    pub(crate) fn pid(&self) -> Option<u32> {
        match &self.process {
            Process::None => None,
            Process::Proxy(running) => Some(running.pid()),
            Process::Ours(mesh) => Some(mesh.pid()),
            Process::Peer(started) => started.child.as_ref()?.id(),
        }
    }

    /// nginx as a plain proxy, where it is installed: the floor.
    pub(crate) async fn nginx(mock: SocketAddr, dir: &Path) -> Result<Option<Self>> {
        let (port, home) = (free_port()?, dir.join("nginx"));
        fs::create_dir_all(&home)?;
        let home = home.display();
        let conf = format!(
            "daemon off; worker_processes 1; pid {home}/pid; error_log {home}/error.log;\nevents {{}}\nhttp {{\n\
             access_log off; client_body_temp_path {home}/b; proxy_temp_path {home}/p; fastcgi_temp_path {home}/f;\n\
             uwsgi_temp_path {home}/u; scgi_temp_path {home}/s;\nupstream model {{ server {mock}; keepalive 128; }}\n\
             server {{ listen 127.0.0.1:{port}; keepalive_requests 1000000; location / {{ proxy_pass http://model;\n\
             proxy_http_version 1.1; proxy_set_header Connection \"\"; proxy_buffering off; }} }}\n}}\n"
        );
        let file = dir.join("nginx.conf");
        fs::write(&file, conf)?;
        let mut command = Command::new("nginx");
        command.arg("-c").arg(&file);
        Self::started("nginx", port, command).await
    }

    /// HAProxy, where it is installed: the other floor.
    pub(crate) async fn haproxy(mock: SocketAddr, dir: &Path) -> Result<Option<Self>> {
        let port = free_port()?;
        let conf = format!(
            "global\n nbthread 1\ndefaults\n mode http\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n\
             frontend f\n bind 127.0.0.1:{port}\n default_backend b\nbackend b\n http-reuse always\n server s {mock}\n"
        );
        let file = dir.join("haproxy.cfg");
        fs::write(&file, conf)?;
        let mut command = Command::new("haproxy");
        command.args(["-db", "-f"]).arg(&file);
        Self::started("HAProxy", port, command).await
    }

    /// `nhi up` with this model as its only backend: HTTP, nats-server, a router, HTTP.
    pub(crate) async fn ours(mock: SocketAddr, dir: &Path, program: &Program) -> Result<Self> {
        let home = dir.join("nhi");
        fs::create_dir_all(&home)?;
        let config = format!(
            "[[ai.backend]]\nname = \"bench\"\nkind = \"openai\"\nurl = \"http://{mock}/v1\"\nhome = true\n\
             parallel = 256\nqueue_max = 1024\nmodels = [{{ name = \"{}\", context_tokens = 131072 }}]\n",
            crate::MODEL
        );
        fs::write(home.join("nhi.toml"), config)?;
        let mesh = Mesh::start(program, &home, &[]).await?;
        let mut way = Self::new("Neural-Home", mesh.http.clone());
        way.headers = vec![("authorization".to_owned(), format!("Bearer {}", mesh.key("owner")?))];
        way.process = Process::Ours(mesh);
        Ok(way)
    }

    /// Another gateway, at the version that the wall of faults pins.
    pub(crate) async fn peer(product: Product, mock: SocketAddr) -> Result<Self> {
        product.install().await.with_context(|| format!("installing {}", product.name()))?;
        let model = format!("http://{mock}");
        let mut started = product.start(vec![(model.clone(), model.clone())], &model).await?;
        started.renew(0, false).await?;
        let mut body = json!({"model": crate::MODEL});
        let asked = started.request(0, false, &model, &model, &mut body)?;
        let mut way = Self::new(&format!("{} {}", product.name(), product.version()), asked.addr.to_string());
        way.path = asked.path;
        way.headers = asked.headers.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        body["model"].as_str().context("a model has a name")?.clone_into(&mut way.model);
        way.is_slow = matches!(product, Product::Litellm | Product::Portkey);
        way.process = Process::Peer(started);
        Ok(way)
    }

    async fn started(name: &str, port: u16, command: Command) -> Result<Option<Self>> {
        let mut process = match Running::start(command) {
            Ok(process) => process,
            Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(is_absent) => {
                note(&format!("{name} is not installed: left out"));
                return Ok(None);
            }
            Err(error) => return Err(error),
        };
        let mut way = Self::new(name, format!("127.0.0.1:{port}"));
        let listens = || {
            let ended = process.ended()?;
            ensure!(ended.is_none(), "{name} ended with {ended:?}");
            Ok(TcpStream::connect(&way.address).is_ok())
        };
        until(&format!("{name} to listen"), listens).await?;
        way.process = Process::Proxy(process);
        Ok(Some(way))
    }
}

fn is_absent(error: &std::io::Error) -> bool {
    error.kind() == std::io::ErrorKind::NotFound
}

fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
