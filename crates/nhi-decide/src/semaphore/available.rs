//! Whether anything may be sent to a machine's GPU, from its record and its last gauges. Silence is a no.

use crate::clean;
use jiff::SignedDuration;
use nhi_model::{
    Timestamp,
    ai::LostWhy,
    envelope::Live,
    gpu::{Gpu, GpuGauges, Light, READING_SECONDS_MAX},
};

/// Why nothing may be sent there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// [`LostWhy::GpuTaken`] or [`LostWhy::GpuUnknown`].
    pub why: LostWhy,
    /// One sentence.
    pub text: String,
    /// When that may be otherwise, where it is known.
    pub until: Option<Timestamp>,
}

impl Unavailable {
    fn unknown(text: impl Into<String>) -> Self {
        Self { why: LostWhy::GpuUnknown, text: text.into(), until: None }
    }
}

/// Green or yellow, or why not: locked, red, never heard of, or not heard of for [`READING_SECONDS_MAX`].
///
/// # Errors
/// [`Unavailable`] says which, in one sentence.
pub fn available(now: Timestamp, gpu: Option<&Gpu>, live: Option<&Live>) -> Result<Light, Unavailable> {
    if let Some(lock) = gpu.and_then(|gpu| gpu.lock.as_ref()).filter(|lock| lock.until > now) {
        let text = super::words::lock(lock);
        return Err(Unavailable { why: LostWhy::GpuTaken, text, until: Some(lock.until) });
    }
    let Some(live) = live else { return Err(Unavailable::unknown("nothing was heard of the GPU")) };
    let limit = SignedDuration::from_secs(i64::from(READING_SECONDS_MAX));
    let age = now.duration_since(live.at);
    if age > limit || live.valid_until <= now {
        let seconds = age.as_secs().max(0);
        return Err(Unavailable::unknown(format!("the GPU was last heard of {seconds} s ago")));
    }
    // A clock that runs ahead would keep an old reading young for as long.
    if age < -limit {
        let seconds = -age.as_secs();
        return Err(Unavailable::unknown(format!("the GPU's last reading is {seconds} s in the future")));
    }
    let gauges: GpuGauges = serde_json::from_value(live.record.clone())
        .map_err(|_| Unavailable::unknown("the GPU's last reading cannot be understood"))?;
    match gauges.light {
        Light::Green | Light::Yellow => Ok(gauges.light),
        Light::Red => {
            let text = clean::text(&gauges.text, clean::REASON_CHARS_MAX);
            Err(Unavailable { why: LostWhy::GpuTaken, text, until: None })
        }
    }
}
