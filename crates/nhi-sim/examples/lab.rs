//! Runs the demo lab alone and prints where it is as one JSON line, for people and scripts that have no `nhi`
//! at hand. `nhi sim pve` does the same with options; this takes only a seed file, if any. Ends on
//! Ctrl-C.

#![expect(clippy::print_stdout, reason = "the line it prints is what it is for")]

use nhi_sim::{LabOptions, PveVersion, Seed, serve};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut options = LabOptions::demo();
    for argument in std::env::args().skip(1) {
        match argument.split_once('=') {
            Some(("task-ms", value)) => options.task_ms = value.parse()?,
            Some(("auth-delay-ms", value)) => options.auth_delay_ms = value.parse()?,
            Some(("latency-ms", value)) => options.latency_ms = value.parse()?,
            Some(("listen", value)) => options.listen = value.parse()?,
            Some(("release", "8.2")) => options.version = PveVersion::V8_2,
            Some(("large", value)) => options.seed = Seed::large(3, value.parse()?),
            _ => options.seed = Seed::from_json(&std::fs::read_to_string(&argument)?)?,
        }
    }
    let running = serve(options).await?;
    let line = serde_json::json!({
        "url": running.url, "control_url": running.control_url, "fingerprint": running.fingerprint, "ca_pem": running.ca_pem,
        "scan_token": {"id": running.scan_token.id, "secret": running.scan_token.secret},
        "act_token": {"id": running.act_token.id, "secret": running.act_token.secret},
        "admin": {"user": running.admin.0, "password": running.admin.1.0},
    });
    println!("{line}");
    tokio::signal::ctrl_c().await?;
    running.stop().await;
    Ok(())
}
