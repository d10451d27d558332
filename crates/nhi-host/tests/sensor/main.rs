//! The sensors against directories that look like a machine's, a stand-in for NVIDIA's library and a real message bus.

#![cfg(unix)]
#![expect(clippy::unwrap_used, reason = "helpers of a test fail by panicking")]

mod nvml;

use nhi_host::{Game, Places, Reading, Sensor, Settings, Sign};
use nvml::FakeNvml;
use std::{
    fs,
    io::{Read as _, Write as _},
    os::unix::net::{UnixListener, UnixStream},
    path::{Path, PathBuf},
    thread,
    time::Duration,
};
use tempfile::TempDir;

/// A machine made of files.
struct Machine {
    dir: TempDir,
}

impl Machine {
    fn new() -> Self {
        let dir = TempDir::new().unwrap();
        for part in ["proc/net", "sys/class/drm", "run"] {
            fs::create_dir_all(dir.path().join(part)).unwrap();
        }
        Self { dir }
    }

    fn path(&self, part: &str) -> PathBuf {
        self.dir.path().join(part)
    }

    fn write(&self, part: &str, text: &str) {
        let path = self.path(part);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn process(&self, pid: u32, parent: u32, words: &[&str]) {
        self.write(&format!("proc/{pid}/cmdline"), &(words.join("\0") + "\0"));
        self.write(&format!("proc/{pid}/stat"), &format!("{pid} (a (b) c) S {parent} {pid} 0"));
    }

    fn settings(&self) -> Settings {
        let places = Places { proc: self.path("proc"), sys: self.path("sys"), run: self.path("run") };
        Settings { places, nvml: Some(self.path("no-such-library.so")), ..Settings::default() }
    }

    fn read(&self) -> Reading {
        Sensor::open(self.settings()).read()
    }
}

#[test]
fn an_ordinary_machine_has_nothing_and_nothing_is_wrong() {
    assert_eq!(Machine::new().read(), Reading::default());
    // This machine, whatever it has: nothing panics.
    Sensor::open(Settings::default()).read();
}

#[test]
fn what_our_inference_takes_is_told_from_what_a_game_takes() {
    let machine = Machine::new();
    let fake = FakeNvml::build(machine.dir.path());
    machine.process(100, 1, &["/usr/local/bin/ollama", "serve"]);
    machine.process(101, 100, &["/usr/lib/runner", "--model", "x"]);
    machine.process(200, 1, &["/usr/lib/xorg/Xorg"]);
    machine.process(300, 1, &["python3", "-m", "vllm.entrypoints.openai.api_server"]);
    let mut sensor = Sensor::open(Settings { nvml: Some(fake.library.clone()), ..machine.settings() });

    fake.set(&[]);
    let idle = sensor.read();
    let card = &idle.cards[0];
    assert_eq!((card.card.id.as_str(), card.card.vram_bytes), ("GPU-fake", 16 << 30));
    assert_eq!(idle.driver.as_deref(), Some("570.00"));
    assert_eq!((card.utilization_ours_percent, card.vram_ours_bytes), (Some(0), Some(0)));
    assert_eq!((card.temperature_c, card.power_w, idle.game), (Some(40), Some(22), None));

    fake.set(&[
        "load 90",
        "used 9000000000",
        "compute 101 6000000000",
        "compute 300 1000000000",
        "graphics 200 200000000",
        "graphics 999 1500000000",
        "sample 101 50 10",
        "sample 300 10 10",
        "sample 999 30 10",
        "sample 101 5 9",
    ]);
    let card = sensor.read().cards.remove(0);
    assert_eq!((card.vram_used_bytes, card.vram_ours_bytes), (Some(9_000_000_000), Some(7_000_000_000)));
    assert_eq!((card.utilization_percent, card.utilization_ours_percent), (Some(90), Some(60)));
    let card = sensor.read().cards.remove(0);
    assert_eq!(card.utilization_ours_percent, Some(60), "without a new sample the last one counts");
    fake.set(&["load 100", "compute 101 6000000000", "graphics 200 1", "sample 101 55 20"]);
    let card = sensor.read().cards.remove(0);
    assert_eq!(
        card.utilization_ours_percent,
        Some(100),
        "what no sample explains is not held against our work"
    );

    // On Windows the driver does not say what a process takes.
    fake.set(&["load 90", "compute 101 1"]);
    let card = sensor.read().cards.remove(0);
    assert_eq!((card.vram_ours_bytes, card.utilization_ours_percent), (None, Some(90)));
}

#[test]
fn what_the_library_does_not_tell_is_absent_and_what_it_loses_is_said() {
    let machine = Machine::new();
    let fake = FakeNvml::build(machine.dir.path());
    let mut sensor = Sensor::open(Settings { nvml: Some(fake.library.clone()), ..machine.settings() });
    fake.say(&["total 1000", "used 10"]);
    let reading = sensor.read();
    assert_eq!((reading.cards[0].utilization_percent, reading.cards[0].temperature_c), (None, None));
    assert!(reading.troubles.is_empty(), "{:?}", reading.troubles);

    fake.say(&["error 999"]);
    let reading = sensor.read();
    assert!(reading.cards[0].vram_used_bytes.is_none() && reading.troubles.len() == 2, "{reading:?}");

    fake.say(&["lost 15"]);
    let reading = sensor.read();
    assert!(reading.cards.is_empty() && reading.troubles.len() == 1, "{reading:?}");
    fake.set(&[]);
    assert_eq!(
        sensor.read(),
        reading,
        "a lost card is left alone for a while, and is no machine without one"
    );
}

#[test]
fn cards_of_amd_are_read_from_files() {
    let machine = Machine::new();
    let device = "sys/class/drm/card1/device";
    for (file, text) in [
        ("vendor", "0x1002\n"),
        ("device", "0x744c\n"),
        ("uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0\n"),
        ("mem_info_vram_total", "25753026560\n"),
        ("mem_info_vram_used", "4000000000\n"),
        ("gpu_busy_percent", "35\n"),
        ("hwmon/hwmon3/temp1_input", "61200\n"),
        ("hwmon/hwmon3/power1_average", "150000000\n"),
    ] {
        machine.write(&format!("{device}/{file}"), text);
    }
    // A screen of the card, and somebody else's card, are none.
    machine.write("sys/class/drm/card1-DP-1/device/vendor", "0x1002\n");
    machine.write("sys/class/drm/card0/device/vendor", "0x8086\n");
    let card = machine.read().cards.remove(0);
    assert_eq!((card.card.id.as_str(), card.card.name.as_str()), ("0000:03:00.0", "AMD card 0x744c"));
    assert_eq!((card.temperature_c, card.power_w, card.utilization_percent), (Some(62), Some(150), Some(35)));
    assert_eq!((card.vram_ours_bytes, card.utilization_ours_percent), (Some(0), Some(0)));

    machine.process(7, 1, &["llama-server", "-m", "x.gguf"]);
    let fd = "drm-driver:\tamdgpu\ndrm-pdev:\t0000:03:00.0\ndrm-client-id:\t5\ndrm-memory-vram:\t2048 KiB\n";
    machine.write("proc/7/fdinfo/4", fd);
    machine.write("proc/7/fdinfo/5", fd);
    let reading = machine.read();
    assert_eq!(reading.cards[0].vram_ours_bytes, Some(2 << 20), "one client counts once");
    assert_eq!(reading.cards[0].utilization_ours_percent, None);
}

#[test]
fn a_game_and_a_remote_screen_are_seen() {
    let machine = Machine::new();
    let head = "  sl  local_address rem_address   st tx_queue rx_queue\n";
    let line = |port: u16, state: &str| format!("   0: 0100007F:{port:04X} 0200007F:D2F4 {state} 0:0 00:0\n");
    machine.write("proc/net/tcp", &(head.to_owned() + &line(3389, "0A") + &line(443, "01")));
    machine.process(9, 1, &["/opt/steam/reaper", "SteamLaunch", "AppId=570", "--", "game"]);
    let reading = machine.read();
    assert_eq!(reading.remote_desktop, None, "listening is not looking");
    assert_eq!(reading.game, Some(Game { name: "570".to_owned(), sign: Sign::Steam }));
    machine.write("proc/net/tcp6", &(head.to_owned() + &line(5900, "01")));
    fs::remove_dir_all(machine.path("proc/9")).unwrap();
    let reading = machine.read();
    assert_eq!((reading.remote_desktop, reading.game), (Some(5900), None));
}

/// A message bus that has one answer for each name that is asked for, and none for others.
fn message_bus(socket: &Path, answers: &'static [(&'static str, Answer)]) {
    fs::create_dir_all(socket.parent().unwrap()).unwrap();
    let listener = UnixListener::bind(socket).unwrap();
    thread::spawn(move || {
        let Ok((mut stream, _)) = listener.accept() else { return };
        let mut greeting = Vec::new();
        while !greeting.ends_with(b"BEGIN\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            greeting.push(byte[0]);
            if greeting.ends_with(b"\r\n") && !greeting.ends_with(b"BEGIN\r\n") {
                stream.write_all(b"OK 0123456789abcdef\r\n").unwrap();
            }
        }
        while let Some(answer) = answer_one(&mut stream, answers) {
            stream.write_all(&answer).unwrap();
        }
    });
}

enum Answer {
    Variant(u8, u64),
    Plain(u8, u64),
}

/// Reads a question and makes its answer: a return with the value, or an error.
fn answer_one(stream: &mut UnixStream, answers: &[(&str, Answer)]) -> Option<Vec<u8>> {
    let mut head = [0; 16];
    stream.read_exact(&mut head).ok()?;
    let number = |at: usize| u32::from_le_bytes(head[at..at + 4].try_into().unwrap()) as usize;
    assert_eq!((head[0], head[1], head[2]), (b'l', 1, 2), "asking starts no service");
    let mut rest = vec![0; number(12).next_multiple_of(8) + number(4)];
    stream.read_exact(&mut rest).ok()?;
    let asked = |name: &str| {
        let name = [name.as_bytes(), &[0]].concat();
        rest.windows(name.len()).any(|part| part == name)
    };
    let answer = answers.iter().find(|(name, _)| asked(name)).map(|(_, answer)| answer);
    let (kind, signature, body) = match answer {
        Some(Answer::Variant(sort, value)) => {
            let mut body = vec![1, *sort, 0, 0];
            let size = if matches!(sort, b't' | b'x') { 8 } else { 4 };
            body.resize(body.len().next_multiple_of(size), 0);
            body.extend(&value.to_le_bytes()[..size]);
            (2, b'v', body)
        }
        Some(Answer::Plain(sort, value)) => (2, *sort, value.to_le_bytes().to_vec()),
        None => (3, b's', vec![0; 5]),
    };
    let mut fields = vec![5, 1, b'u', 0];
    fields.extend(&head[8..12]);
    fields.extend([8, 1, b'g', 0, 1, signature, 0]);
    let mut message = vec![b'l', kind, 0, 1];
    for number in [body.len(), 77, fields.len()] {
        message.extend(u32::try_from(number).unwrap().to_le_bytes());
    }
    message.extend(fields);
    message.resize(message.len().next_multiple_of(8), 0);
    message.extend(body);
    Some(message)
}

#[test]
fn desktops_tell_of_games_and_of_their_people() {
    let machine = Machine::new();
    message_bus(
        &machine.path("run/user/1000/bus"),
        &[("ClientCount", Answer::Variant(b'i', 1)), ("GetIdletime", Answer::Plain(b't', 61_000))],
    );
    let mut sensor = Sensor::open(machine.settings());
    for _ in 0..2 {
        let reading = sensor.read();
        assert_eq!(reading.game, Some(Game { name: String::new(), sign: Sign::GameMode }));
        assert_eq!(reading.idle, Some(Duration::from_secs(61)));
    }

    // Nobody is logged in at a desktop: the login service says since when nobody was there.
    let machine = Machine::new();
    machine.write("proc/uptime", "7200.50 100.0\n");
    let system = machine.path("run/dbus/system_bus_socket");
    message_bus(
        &system,
        &[("IdleHint", Answer::Variant(b'b', 1)), ("IdleSinceHint", Answer::Variant(b't', 0))],
    );
    let reading = machine.read();
    assert_eq!((reading.game, reading.idle), (None, Some(Duration::from_millis(7_200_500))));

    let machine = Machine::new();
    let system = machine.path("run/dbus/system_bus_socket");
    message_bus(&system, &[("IdleHint", Answer::Variant(b'b', 0))]);
    assert_eq!(machine.read().idle, Some(Duration::ZERO), "somebody is there");
}
