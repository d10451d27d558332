//! The sentences that say why the light is as it is. They decide nothing.

use crate::clean;
use nhi_model::gpu::Lock;

/// Names of games and programs come from the machine; longer ones are cut.
const NAME_CHARS_MAX: usize = 80;

pub(super) fn lock(lock: &Lock) -> String {
    let until = lock.until.strftime("%H:%M");
    match &lock.by {
        Some(by) => format!("{by} locked it until {until} UTC"),
        None => format!("it was locked at the machine itself until {until} UTC"),
    }
}

pub(super) fn game(name: &str) -> String {
    match clean::text(name, NAME_CHARS_MAX).as_str() {
        "" => "a game runs".to_owned(),
        name => format!("the game {name} runs"),
    }
}

pub(super) fn remote(what: &str) -> String {
    format!("somebody looks at the machine from elsewhere ({})", clean::text(what, NAME_CHARS_MAX))
}

pub(super) fn unreadable(what: &str) -> String {
    format!("the GPU cannot be read: {}", clean::text(what, 200))
}

pub(super) fn busy(percent: u32, than: &str) -> String {
    format!("work that is not ours takes {percent} % of the GPU, {than}")
}

pub(super) fn hot(degrees: u32, limit: u32) -> String {
    format!("the GPU has {degrees} °C, more than {limit} °C")
}

pub(super) fn memory(bytes: u64, limit: u64) -> String {
    format!("{} of its memory are not ours, more than {}", gibibytes(bytes), gibibytes(limit))
}

pub(super) fn idle(idle_ms: u64) -> String {
    format!("nobody touched keyboard or mouse for {}", span(idle_ms))
}

pub(super) fn in_use(idle_ms: u64) -> String {
    format!("somebody was at keyboard or mouse {} ago", span(idle_ms))
}

pub(super) fn settling(ms: u64) -> String {
    format!("it was taken less than {} ago", span(ms))
}

#[expect(clippy::cast_precision_loss, reason = "memory in GiB with one digit")]
pub(super) fn gibibytes(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30))
}

fn span(ms: u64) -> String {
    match ms / 1000 {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h", seconds / 3600),
    }
}
