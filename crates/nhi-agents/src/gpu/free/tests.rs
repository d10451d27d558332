//! Memory that comes free after nobody is told to let it go any more, on a card made of files.

#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking, as tests do")]

use super::*;
use crate::gpu::backend::Server;
use nhi_host::{Places, Settings};
use nhi_model::{Timestamp, gpu::FreedBy};
use nhi_sim::models::{ModelSettings, Options, Provider};
use std::{fs, path::Path};
use tempfile::TempDir;

fn write(place: &Path, files: &[(&str, &str)]) {
    fs::create_dir_all(place).unwrap();
    for (name, text) in files {
        fs::write(place.join(name), text).unwrap();
    }
}

/// What the model server holds of the card, as the kernel tells.
fn holds(dir: &Path, mib: u32) {
    let told = format!("drm-pdev:\t0000:03:00.0\ndrm-client-id:\t5\ndrm-memory-vram:\t{mib} MiB\n");
    write(&dir.join("proc/100/fdinfo"), &[("4", &told)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_comes_free_late_is_free_although_nobody_was_told() {
    let dir = TempDir::new().unwrap();
    let [proc, sys, run] = ["proc", "sys", "run"].map(|part| dir.path().join(part));
    write(&proc.join("100"), &[("cmdline", "ollama\0serve\0"), ("stat", "100 (ollama) S 1 1 0")]);
    let card = [
        ("vendor", "0x1002"),
        ("uevent", "PCI_SLOT_NAME=0000:03:00.0"),
        ("mem_info_vram_total", "17179869184"),
        ("mem_info_vram_used", "9000000000"),
    ];
    write(&sys.join("class/drm/card0/device"), &card);
    holds(dir.path(), 6000);
    let nvml = Some(dir.path().join("no-such-library.so"));
    let senses = Senses::open(Settings { places: Places { proc, sys, run }, nvml, ..Settings::default() });
    let sim = nhi_sim::models::serve(Options::local(Provider::Ollama, vec![ModelSettings::default()]));
    let sim = sim.await.unwrap();
    let backend = Backend::new(Server::Ollama, &sim.url).unwrap();
    let book = Book::new(Timestamp::now(), None, [].into());
    let still = Freed { free: false, after_ms: 2_000, by: FreedBy::Driver, held_bytes: Some(6000 << 20) };
    book.freed.send_replace(Some(still));
    let began = Instant::now().checked_sub(FREE_MAX).expect("this machine runs for a minute");
    let mut freed = book.freed.subscribe();
    let mut is_free = async |within| {
        let is_free = |freed: &Option<Freed>| freed.as_ref().is_some_and(|freed| freed.free);
        timeout(within, freed.wait_for(is_free)).await.is_ok()
    };
    let told = async {
        // The control: it was looked at, and what is still held is not free.
        assert!(!is_free(FOLLOW + AGAIN).await);
        holds(dir.path(), 10);
        assert!(is_free(FOLLOW * 4).await, "{:?}", book.freed.borrow());
    };
    tokio::select! {
        never = tend(&backend, &senses, &book, began) => match never {},
        () = told => {}
    }
    assert_eq!(sim.counts().by_path.get("/api/generate"), None, "nobody is told to let go any more");
}
