//! The `nhi` binary: configuration, wiring, commands, exit codes. No decision about the lab is made here.

mod board;
mod cli;
mod command;
mod config;
mod exit;
mod layout;
mod mesh;
mod moment;
mod otlp;
mod out;
mod signal;
mod telemetry;
mod up;

use clap::{CommandFactory, Parser, error::ErrorKind};
use cli::{Cli, Command, Global};
use config::{Config, Origin};
use exit::{Ending, Exit, Failure};
use layout::Layout;
use mesh::Mesh;
use std::{process::ExitCode, time::Duration};

/// How long dropping all tasks may take when the user does not want to wait: it takes milliseconds.
const DROP_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let asked = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return ExitCode::from(if asked { Exit::Ok } else { Exit::Usage }.code());
        }
    };
    telemetry::start(&cli.command, cli.global.json);
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            out::note(&format!("error: cannot start the runtime: {error}"));
            return ExitCode::from(Exit::Failed.code());
        }
    };
    // Commands that end by themselves leave Ctrl-C to the system.
    let runs_on = matches!(cli.command, Command::Up(_) | Command::Agent(_) | Command::Sim(_));
    let ended = runtime.block_on(async {
        tokio::select! {
            ended = run(cli) => Some(ended),
            () = signal::insisted(), if runs_on => None,
        }
    });
    let exit = match ended {
        Some(Ok(())) => Exit::Ok,
        Some(Err(failure)) => {
            out::note(&format!("error: {}", chain(&failure.error)));
            failure.exit
        }
        None => {
            // Dropping the tasks kills the nats-server one of them owns.
            runtime.shutdown_timeout(DROP_MAX);
            return ExitCode::from(Exit::Interrupted.code());
        }
    };
    runtime.shutdown_background();
    ExitCode::from(exit.code())
}

/// The error and its causes in one line; a cause that repeats what stands before it is left out.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain() {
        let cause = cause.to_string();
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
    }
    text
}

async fn run(cli: Cli) -> Result<(), Failure> {
    let Cli { global, command } = cli;
    let layout = Layout::new(&global.dir).ending(Exit::Config)?;
    match command {
        Command::Up(options) => {
            let config = load(&global, &layout, options.demo)?;
            up::run(&layout, &config, options, global.json, signal::stop()).await
        }
        Command::Agent(options) => {
            up::agents(&layout, &load(&global, &layout, false)?, options, signal::stop()).await
        }
        Command::Join(options) => {
            command::join::run(&layout, global.as_name.as_deref(), &options, global.json).await
        }
        Command::Auth(auth) => {
            command::auth::run(&layout, &load(&global, &layout, false)?, auth, global.json).await
        }
        Command::Sim(cli::Sim::Pve { listen, control, seed, latency_ms, task_ms, pve8 }) => {
            let wanted =
                command::sim::Pve { listen, control, seed: seed.as_deref(), latency_ms, task_ms, pve8 };
            command::sim::pve(wanted, global.json, signal::stop()).await
        }
        Command::Sim(cli::Sim::Models(wanted)) => {
            command::sim::models(wanted, global.json, signal::stop()).await
        }
        Command::Doctor => command::doctor::run(&layout, &global).await,
        Command::Gpu(gpu) => command::gpu::run(&layout, &load(&global, &layout, false)?, &global, gpu).await,
        Command::Guard(guard) => {
            command::guard::run(&layout, &load(&global, &layout, false)?, &global, guard).await
        }
        Command::Policy(policy) => {
            command::policy::run(&layout, &load(&global, &layout, false)?, &global, policy).await
        }
        Command::Completions { shell } => {
            // Not straight to standard output: it panics when nobody reads.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "nhi", &mut script);
            out::line(String::from_utf8_lossy(&script).trim_end());
            Ok(())
        }
        Command::Man { out } => command::man::run(out.as_deref()),
        asked @ (Command::Status
        | Command::Top
        | Command::State(_)
        | Command::Scan
        | Command::Guest(_)
        | Command::Plan(_)
        | Command::Freeze { .. }
        | Command::Thaw
        | Command::Audit(_)
        | Command::Ask(_)
        | Command::Ai(_)
        | Command::Mcp
        | Command::Call(_)) => ask(&global, &layout, asked).await,
    }
}

/// The commands that ask a running mesh and end.
async fn ask(global: &Global, layout: &Layout, command: Command) -> Result<(), Failure> {
    if matches!(command, Command::Mcp) {
        command::mcp::named(global.as_name.as_deref())?;
    }
    let config = load(global, layout, false)?;
    let target = mesh::target(layout, &config.nats_join, config.nats_ca_file.as_deref())?;
    let mesh = Mesh::open(layout, &target, global.identity()).await?;
    // Ctrl-C is how following ends.
    let follows = matches!(command, Command::State(cli::State::Watch { .. }));
    let asking = async {
        match command {
            Command::Status => command::status::run(&mesh, global.json).await,
            Command::Top => command::top::run(&mesh).await,
            Command::State(state) => command::state::run(&mesh, state, global.json).await,
            Command::Scan => command::state::scan(&mesh, global.json).await,
            Command::Guest(cli::acting::Guest::List { tag, node, status }) => {
                let wanted = command::state::Wanted { tag, node, status };
                command::state::guests(&mesh, &wanted, global.json).await
            }
            Command::Guest(cli::acting::Guest::Act(act)) => {
                command::plan::guest(&mesh, *act, global.json).await
            }
            Command::Plan(plan) => command::plan::run(&mesh, plan, global.json).await,
            Command::Freeze { reason } => command::plan::freeze(&mesh, reason, global.json).await,
            Command::Thaw => command::plan::thaw(&mesh, global.json).await,
            Command::Audit(audit) => command::audit::run(&mesh, audit, global.json).await,
            Command::Ask(ask) => command::ai::ask(&mesh, ask, global.json).await,
            Command::Ai(ai) => command::ai::run(&mesh, ai, global.json).await,
            Command::Mcp => command::mcp::run(&mesh).await,
            Command::Call(call) => command::call::run(&mesh, call, global.json).await,
            Command::Up(_)
            | Command::Agent(_)
            | Command::Join(_)
            | Command::Auth(_)
            | Command::Sim(_)
            | Command::Doctor
            | Command::Gpu(_)
            | Command::Guard(_)
            | Command::Policy(_)
            | Command::Completions { .. }
            | Command::Man { .. } => unreachable!("run() sends only the commands above here"),
        }
    };
    let done = tokio::select! {
        done = asking => done,
        () = signal::stop() => {
            if follows { Ok(()) } else { Err(mesh.interrupted()) }
        }
    };
    mesh.close().await;
    done
}

/// Reads the configuration of a directory.
fn load(global: &Global, layout: &Layout, demo: bool) -> Result<Config, Failure> {
    let file = global.config.clone().unwrap_or_else(|| layout.config());
    let config = config::load(&Origin {
        file: &file,
        file_required: global.config.is_some(),
        dot_env: &layout.dot_env(),
        environment: std::env::vars_os()
            .filter_map(|(key, value)| Some((key.into_string().ok()?, value.into_string().ok()?)))
            .collect(),
        demo,
    })
    .ending(Exit::Config)?;
    for warning in &config.warnings {
        out::note(&format!("warning: {warning}"));
    }
    Ok(config)
}
