//! What the benches share: a table for people, percentiles, and what the kernel says about a process. It runs and times
//! nothing itself.

use anyhow::{Context as _, Result};
use std::{fmt, fs, process::Command, time::Duration};

/// Rows under a head, written as a table that reads well as text and as Markdown.
#[derive(Clone, Debug)]
pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    pub fn new(head: &[&str]) -> Self {
        Self { rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()] }
    }

    /// Adds a row of as many cells as the head has.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            let cells = self.rows.iter().filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or(0).max(3)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let starts_with_digit = |cell: &&String| cell.starts_with(|c: char| c.is_ascii_digit());
        // Words to the left, numbers to the right.
        let is_number = |column: usize| {
            let mut cells = self.rows.iter().skip(1).filter_map(|row| row.get(column));
            column > 0 && cells.find(starts_with_digit).is_some()
        };
        let numbers: Vec<bool> = (0..columns).map(is_number).collect();
        for (index, row) in self.rows.iter().enumerate() {
            for ((cell, width), is_number) in row.iter().zip(&widths).zip(&numbers) {
                if *is_number {
                    write!(f, "| {cell:>width$} ")?;
                } else {
                    write!(f, "| {cell:<width$} ")?;
                }
            }
            writeln!(f, "|")?;
            if index == 0 {
                for (width, is_number) in widths.iter().zip(&numbers) {
                    write!(f, "|{}{}", "-".repeat(width + 1), if *is_number { ":" } else { "-" })?;
                }
                writeln!(f, "|")?;
            }
        }
        Ok(())
    }
}

/// The smallest of the times that so many per cent of them do not exceed; zero without any.
pub fn percentile(times: &[Duration], percent: usize) -> Duration {
    let mut sorted = times.to_vec();
    sorted.sort_unstable();
    let place = (sorted.len() * percent).div_ceil(100).max(1);
    sorted.get(place - 1).copied().unwrap_or_default()
}

/// A time as people compare it.
pub fn told(time: Duration) -> String {
    let ms = time.as_secs_f64() * 1000.0;
    match ms {
        ms if ms < 10.0 => format!("{ms:.2} ms"),
        ms if ms < 1000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.2} s", ms / 1000.0),
    }
}

/// How many times as long the first is.
pub fn times(long: Duration, short: Duration) -> String {
    let ratio = long.as_secs_f64() / short.as_secs_f64().max(1e-9);
    match ratio {
        ratio if ratio < 10.0 => format!("{ratio:.1} ×"),
        ratio => format!("{ratio:.0} ×"),
    }
}

/// What a process takes, as Linux counts it.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// Resident memory, bytes.
    pub resident_bytes: u64,
    /// The part of it that is the process's own, bytes.
    pub own_bytes: u64,
    /// The part of it that is pages of files, bytes: the program itself and its libraries, as far as they were touched.
    /// Every process of the same program shares them.
    pub file_bytes: u64,
    /// Threads.
    pub threads: u64,
    /// Time on a processor since it started.
    pub processor: Duration,
}

impl Usage {
    /// Reads `/proc`.
    ///
    /// # Errors
    /// When there is no such process.
    pub fn of(pid: u32) -> Result<Self> {
        let status = fs::read_to_string(format!("/proc/{pid}/status"))
            .with_context(|| format!("reading the status of process {pid}"))?;
        let number = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            let text = line.with_context(|| format!("process {pid} has no {name}"))?;
            let digits = text.trim().trim_end_matches(" kB");
            digits.parse::<u64>().with_context(|| format!("{name} of process {pid} is {digits:?}"))
        };
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("reading /proc/PID/stat")?;
        // The name in brackets may hold anything; what follows it does not.
        let (_, after) = stat.rsplit_once(')').context("/proc/PID/stat has a name")?;
        let fields: Vec<&str> = after.split_whitespace().collect();
        let ticks = |place: usize| fields.get(place).and_then(|field| field.parse::<u64>().ok());
        let (user, system) = ticks(11).zip(ticks(12)).context("/proc/PID/stat has times")?;
        #[expect(clippy::cast_precision_loss, reason = "a few thousand ticks")]
        let seconds = (user + system) as f64 / ticks_per_second()?;
        Ok(Self {
            resident_bytes: number("VmRSS")? * 1024,
            own_bytes: number("RssAnon")? * 1024,
            file_bytes: number("RssFile")? * 1024,
            threads: number("Threads")?,
            processor: Duration::from_secs_f64(seconds),
        })
    }
}

fn ticks_per_second() -> Result<f64> {
    let output = Command::new("getconf").arg("CLK_TCK").output().context("running getconf CLK_TCK")?;
    String::from_utf8_lossy(&output.stdout).trim().parse().context("getconf CLK_TCK tells a number")
}

/// Bytes as KiB or MiB.
pub fn size(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit after the point")]
    let kibibytes = bytes as f64 / 1024.0;
    if kibibytes < 1000.0 { format!("{kibibytes:.0} KiB") } else { format!("{:.1} MiB", kibibytes / 1024.0) }
}

/// What a bench does now, for whoever waits; the table alone goes to the standard output.
#[expect(clippy::print_stderr, reason = "a bench tells where it is")]
pub fn note(text: &str) {
    eprintln!("· {text}");
}

/// The machine in a few words, without its name, and how busy it is.
pub fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = read("/proc/sys/kernel/osrelease");
    let kernel: String = kernel.trim().split('-').next().unwrap_or_default().to_owned();
    let build = if cfg!(debug_assertions) { "debug build" } else { "release build" };
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    let model = model.unwrap_or("an unknown processor");
    format!("{cores} cores of {model}, Linux {kernel}, {build}, load {load} at the start")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_lines_up() {
        let mut table = Table::new(&["what", "time"]);
        table.row(["a longer one".to_owned(), "3 ms".to_owned()]);
        let expect = "| what         | time |\n|--------------|-----:|\n| a longer one | 3 ms |\n";
        assert_eq!(table.to_string(), expect);
    }

    #[test]
    fn percentiles_are_times_that_were_measured() {
        let times: Vec<Duration> = (1..=100).rev().map(Duration::from_millis).collect();
        let ms = |percent| percentile(&times, percent).as_millis();
        assert_eq!([ms(0), ms(50), ms(99), ms(100)], [1, 50, 99, 100]);
        assert_eq!(percentile(&[], 50), Duration::ZERO);
    }

    #[test]
    fn this_process_can_be_measured() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(usage.own_bytes > 0 && usage.file_bytes > 0 && usage.threads > 0);
        assert!(usage.resident_bytes >= usage.own_bytes + usage.file_bytes);
    }

    #[test]
    fn figures_are_told_in_few_digits() {
        assert_eq!(told(Duration::from_micros(1234)), "1.23 ms");
        assert_eq!(told(Duration::from_millis(12345)), "12.35 s");
        assert_eq!(times(Duration::from_secs(3), Duration::from_millis(100)), "30 ×");
        assert_eq!(size(12 * 1024 * 1024 + 524_288), "12.5 MiB");
        assert_eq!(size(20_480), "20 KiB");
    }
}
