//! The command line, as clap types. It says what can be asked, not how it is done.

pub(crate) mod acting;
pub(crate) mod ai;
pub(crate) mod gpu;
pub(crate) mod models;
pub(crate) mod rules;

use crate::exit;
use acting::{Guest, Plan};
use clap::{Args, Parser, Subcommand, ValueEnum};
use gpu::Gpu;
use nhi_model::{audit::AuditKind, plan::PlanId};
use rules::{Guard, Policy};
use std::path::PathBuf;

/// Neural-Home: a message-bus agent mesh for a home lab.
#[derive(Debug, Parser)]
#[command(name = "nhi", version, about, max_term_width = 100, after_help = exit::table())]
pub(crate) struct Cli {
    /// Options every command takes.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options every command takes; they may follow the subcommand.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Options of every command")]
pub(crate) struct Global {
    /// Directory of the lab: holds nhi.toml, .env, .nhi/ and infrastructure/
    #[arg(long, global = true, default_value = ".", env = "NHI_DIR", value_name = "DIR")]
    pub dir: PathBuf,
    /// Configuration file instead of DIR/nhi.toml
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Print JSON instead of tables
    #[arg(long, global = true)]
    pub json: bool,
    /// Identity to act as [default: owner]
    #[arg(long = "as", global = true, value_name = "NAME", id = "as_name")]
    pub as_name: Option<String>,
}

impl Global {
    /// The identity to act as.
    pub(crate) fn identity(&self) -> &str {
        self.as_name.as_deref().unwrap_or("owner")
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run everything on this machine until Ctrl-C
    Up(Up),
    /// Run the named agents against a mesh that is already there
    Agent(Agent),
    /// Enrol this machine in a mesh: keeps its key and authority under .nhi/
    Join(Join),
    /// Show the mesh: link, sources, agents, alerts
    Status,
    /// Watch the lab on the whole terminal: nodes, guests, GPUs, alerts, plans, what happened last
    Top,
    /// Read the state of the lab
    #[command(subcommand)]
    State(State),
    /// Scan now and wait for the result
    Scan,
    /// Guests: virtual machines and containers
    #[command(subcommand)]
    Guest(Guest),
    /// Plans: what would be done, by whom, and what became of it
    #[command(subcommand)]
    Plan(Plan),
    /// Stop everything that has not started
    Freeze {
        /// Why
        #[arg(default_value = "")]
        reason: String,
    },
    /// End a freeze
    Thaw,
    /// What may be done, by whom, when and how much
    #[command(subcommand)]
    Policy(Policy),
    /// The rights both tokens have in Proxmox
    #[command(subcommand)]
    Guard(Guard),
    /// The GPU: whether it may be used, and keeping it for its owner
    #[command(subcommand)]
    Gpu(Gpu),
    /// The audit log
    #[command(subcommand)]
    Audit(Audit),
    /// Ask whatever model is free; the answer streams to the terminal
    Ask(ai::Ask),
    /// Models, who would answer, what was asked and what it cost
    #[command(subcommand)]
    Ai(ai::Ai),
    /// Identities and their rights
    #[command(subcommand)]
    Auth(Auth),
    /// Call any endpoint of any service; without arguments, list them
    Call(Call),
    /// Serve MCP on standard input and output, as the identity of --as, for a program that starts a command
    Mcp,
    /// A simulated lab
    #[command(subcommand)]
    Sim(Sim),
    /// Look for what is wrong here and say what to do
    Doctor,
    /// Print a completion script
    Completions {
        /// Shell to print it for
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or write one page a command into DIR
    Man {
        /// Directory to write into
        #[arg(long, value_name = "DIR")]
        out: Option<PathBuf>,
    },
}

/// `nhi up`
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Use the simulated lab, ignoring PROXMOX_*, [proxmox] and .env; a simulated model stands beside the backends of [ai]
    #[arg(long)]
    pub demo: bool,
    /// Port of nats-server; 0 takes any free one
    #[arg(long, value_name = "N")]
    pub nats_port: Option<u16>,
    /// Port of the gateway; 0 takes any free one
    #[arg(long, value_name = "N")]
    pub http_port: Option<u16>,
    /// Join these servers instead of starting one
    #[arg(long = "nats", value_name = "URL", value_delimiter = ',')]
    pub nats: Vec<String>,
}

/// `nhi agent`
#[derive(Debug, Args)]
pub(crate) struct Agent {
    /// Agents to run
    #[arg(required = true, value_enum)]
    pub names: Vec<AgentName>,
    /// Servers to use; by default those of `nhi up` in this directory, or [nats] servers
    #[arg(long = "nats", value_name = "URL", value_delimiter = ',')]
    pub nats: Vec<String>,
}

/// The agents that can run on their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum AgentName {
    /// Keeps the state: serves reads, takes reports
    State,
    /// Scans Proxmox, projects and the dependency graph
    Scan,
    /// Plans changes and carries out what is approved
    Act,
    /// Writes infrastructure/
    Mirror,
    /// Answers AI requests, at home or in a cloud
    Route,
    /// Serves HTTP
    Gateway,
    /// Tells whether this machine's GPU may be used, and is the door to its models
    Gpu,
}

/// `nhi join`
#[derive(Debug, Args)]
pub(crate) struct Join {
    /// Where the mesh is, for example nats://192.0.2.5:4222
    pub url: String,
    /// SHA-256 of the mesh's certificate authority, as `nhi auth add` prints it
    #[arg(long, value_name = "HEX")]
    pub ca_sha256: Option<String>,
    /// The key of this machine's identity; `-` reads it from standard input
    #[arg(long, value_name = "SEED")]
    pub key: String,
}

/// `nhi state …`
#[derive(Debug, Subcommand)]
pub(crate) enum State {
    /// Print records
    Get {
        /// Keys, sections (vm) or prefixes (vm.home); * stands for one token
        select: Vec<String>,
        /// A revision, or a time such as 2026-01-31T14:00:00Z or 2h (ago)
        #[arg(long, value_name = "REVISION|TIME")]
        at: Option<String>,
        /// Add gauges
        #[arg(long)]
        live: bool,
    },
    /// Print changes as they happen until Ctrl-C
    Watch {
        /// Keys, sections or prefixes
        select: Vec<String>,
    },
    /// Print what changed between two moments
    Diff {
        /// The earlier moment: a revision or a time
        from: String,
        /// The later moment; by default now
        to: Option<String>,
    },
    /// Print the versions of records, newest first
    History {
        /// Key, section or prefix
        select: String,
        /// Only after this revision or time
        #[arg(long, value_name = "REVISION|TIME")]
        since: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
    /// Write the state at a moment as one JSON document
    Snapshot {
        /// A revision or a time; by default now
        #[arg(long, value_name = "REVISION|TIME")]
        at: Option<String>,
        /// File to write; by default standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// `nhi audit …`
#[derive(Debug, Subcommand)]
pub(crate) enum Audit {
    /// List entries, oldest first
    List {
        /// Only after this sequence
        #[arg(long)]
        after: Option<u64>,
        /// At most so many
        #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
        /// Only about this plan and its run
        #[arg(long, value_name = "PLAN", value_parser = PlanId::parse)]
        plan: Option<PlanId>,
        /// Only of this kind: plan.refused, run.ended, …
        #[arg(long, value_name = "KIND", value_parser = rules::audit_kind)]
        kind: Option<AuditKind>,
    },
    /// Show one entry whole
    Show {
        /// Its sequence
        sequence: u64,
    },
    /// Write entries as JSON, a line each, oldest first
    Export {
        /// Only after this sequence
        #[arg(long)]
        after: Option<u64>,
        /// File to write; by default standard output
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Check every hash and every link
    Verify,
}

/// `nhi auth …`
#[derive(Debug, Subcommand)]
pub(crate) enum Auth {
    /// Make the first identities without starting anything
    Init,
    /// Add an identity
    Add {
        /// Its name: [a-z][a-z0-9-]{0,31}
        name: String,
        /// What it may do
        #[arg(long, value_enum)]
        role: RoleName,
        /// Write its key to this file (mode 0600) instead of .nhi/keys
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// List identities
    List,
    /// Take an identity away; its connections are closed
    Revoke {
        /// Its name
        name: String,
    },
    /// Open one endpoint or one service to an identity, beyond its role
    Grant {
        /// Its name
        name: String,
        /// SERVICE or SERVICE.ENDPOINT
        what: String,
    },
    /// Give an identity a new key; the old one stops working
    Renew {
        /// Its name
        name: String,
        /// Write its key to this file (mode 0600) instead of .nhi/keys
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Take back what grant opened
    Ungrant {
        /// Its name
        name: String,
        /// SERVICE or SERVICE.ENDPOINT
        what: String,
    },
    /// Print what a nats user, an OpenAI client and an MCP client need
    Context {
        /// Its name
        name: String,
    },
    /// Print the accounts block for a server we do not run
    Block,
    /// Check by trying that the server enforces the identities
    Probe,
}

/// Roles as arguments.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum RoleName {
    /// An AI agent
    Agent,
    /// Reads only
    Viewer,
    /// A person who may approve
    Operator,
    /// A machine that reports about itself
    Edge,
    /// Somebody else's service
    Service,
}

impl RoleName {
    /// The role.
    pub(crate) const fn role(self) -> nhi_model::identity::Role {
        use nhi_model::identity::Role;
        match self {
            Self::Agent => Role::Agent,
            Self::Viewer => Role::Viewer,
            Self::Operator => Role::Operator,
            Self::Edge => Role::Edge,
            Self::Service => Role::Service,
        }
    }
}

/// `nhi call`
#[derive(Debug, Args)]
pub(crate) struct Call {
    /// Service; without it, all services and endpoints are listed
    pub service: Option<String>,
    /// Endpoint; without it, the service's endpoints and their schemas are printed
    pub endpoint: Option<String>,
    /// Request as JSON; - reads it from standard input
    pub request: Option<String>,
    /// Seconds to wait, at most 110
    #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=110))]
    pub timeout: u64,
}

/// `nhi sim …`
#[derive(Debug, Subcommand)]
pub(crate) enum Sim {
    /// Run the simulated Proxmox until Ctrl-C
    Pve {
        /// Address to listen on; port 0 takes any free one
        #[arg(long, default_value = "127.0.0.1:8006")]
        listen: std::net::SocketAddr,
        /// Address of the control endpoint (loopback)
        #[arg(long, default_value = "127.0.0.1:8007")]
        control: std::net::SocketAddr,
        /// A state.json or a simulator's own JSON file instead of the demo home
        #[arg(long, value_name = "FILE")]
        seed: Option<PathBuf>,
        /// Milliseconds every answer takes
        #[arg(long, default_value_t = 0)]
        latency_ms: u64,
        /// Milliseconds a start of a guest takes; a backup takes five times as long
        #[arg(long, default_value_t = 1000)]
        task_ms: u64,
        /// Answer as Proxmox VE 8.2 instead of 9.1
        #[arg(long)]
        pve8: bool,
    },
    /// Run a simulated model server until Ctrl-C
    Models(models::Models),
}
