//! What Linux desktops tell over their message buses: GameMode's clients, and how long nobody touched keyboard or
//! mouse. The buses of all people who are logged in are asked, because the agent may run as the system does.

use crate::dbus::{Ask, Bus, Told};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

/// How long a bus that let us not in, or did not answer, is left alone.
const PAUSE: Duration = Duration::from_secs(10);
/// People who are logged in at once and looked after.
const PEOPLE_MAX: usize = 16;

/// The buses of a machine.
#[derive(Debug)]
pub(crate) struct Desktop {
    run: PathBuf,
    buses: BTreeMap<PathBuf, Line>,
}

/// A bus, or when to try it again.
#[derive(Debug)]
enum Line {
    Open(Bus),
    Paused(Instant),
}

impl Desktop {
    pub(crate) fn new(run: &Path) -> Self {
        Self { run: run.to_owned(), buses: BTreeMap::new() }
    }

    /// Whether a program asked GameMode for the machine.
    pub(crate) fn game_mode(&mut self) -> bool {
        let name = "com.feralinteractive.GameMode";
        self.sessions().iter().any(|session| {
            let told = self.with(session, |bus| {
                bus.property(name, "/com/feralinteractive/GameMode", name, "ClientCount")
            });
            matches!(told, Some(Told::Number(clients)) if clients > 0)
        })
    }

    /// How long nobody touched keyboard or mouse: of all desktops the one that was touched last, else what the
    /// system's login service concludes.
    pub(crate) fn idle(&mut self, proc: &Path) -> Option<Duration> {
        let of_desktops: Vec<Duration> =
            self.sessions().iter().filter_map(|session| self.desktop_idle(session)).collect();
        of_desktops.into_iter().min().or_else(|| self.login_idle(proc))
    }

    fn desktop_idle(&mut self, session: &Path) -> Option<Duration> {
        let ask = Ask {
            service: "org.gnome.Mutter.IdleMonitor",
            path: "/org/gnome/Mutter/IdleMonitor/Core",
            interface: "org.gnome.Mutter.IdleMonitor",
            method: "GetIdletime",
            texts: &[],
        };
        match self.with(session, |bus| bus.ask(ask))? {
            Told::Number(ms) => Some(Duration::from_millis(u64::try_from(ms).ok()?)),
            Told::Other | Told::Refused => None,
        }
    }

    fn login_idle(&mut self, proc: &Path) -> Option<Duration> {
        let system = self.run.join("dbus/system_bus_socket");
        let mut property = |name: &str| {
            let (service, path) = ("org.freedesktop.login1", "/org/freedesktop/login1");
            match self
                .with(&system, |bus| bus.property(service, path, "org.freedesktop.login1.Manager", name))?
            {
                Told::Number(number) => u64::try_from(number).ok(),
                Told::Other | Told::Refused => None,
            }
        };
        if property("IdleHint")? == 0 {
            return Some(Duration::ZERO);
        }
        match property("IdleSinceHint")? {
            // Nobody was there since the machine started.
            0 => uptime(proc),
            micros => {
                let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?;
                Some(now.saturating_sub(Duration::from_micros(micros)))
            }
        }
    }

    /// The buses of the people who are logged in.
    fn sessions(&self) -> Vec<PathBuf> {
        let Ok(users) = fs::read_dir(self.run.join("user")) else { return Vec::new() };
        let buses = users.flatten().map(|user| user.path().join("bus")).filter(|bus| bus.exists());
        buses.take(PEOPLE_MAX).collect()
    }

    /// Asks on a bus, which is opened when it is not.
    fn with<T>(&mut self, socket: &Path, ask: impl FnOnce(&mut Bus) -> std::io::Result<T>) -> Option<T> {
        if let Some(Line::Paused(until)) = self.buses.get(socket)
            && Instant::now() < *until
        {
            return None;
        }
        let mut bus = match self.buses.remove(socket) {
            Some(Line::Open(bus)) => Ok(bus),
            Some(Line::Paused(_)) | None => Bus::connect(socket),
        };
        let told = match &mut bus {
            Ok(bus) => ask(bus).ok(),
            Err(_) => None,
        };
        let line = match (bus, &told) {
            (Ok(bus), Some(_)) => Line::Open(bus),
            (Ok(_) | Err(_), _) => Line::Paused(Instant::now() + PAUSE),
        };
        self.buses.insert(socket.to_owned(), line);
        told
    }
}

fn uptime(proc: &Path) -> Option<Duration> {
    let text = fs::read_to_string(proc.join("uptime")).ok()?;
    let seconds: f64 = text.split_whitespace().next()?.parse().ok()?;
    Duration::try_from_secs_f64(seconds).ok()
}
