//! What a machine tells about itself: bounded, and turned into its host record. It writes nothing.

use super::gpu;
use nhi_model::{
    call::StateReport,
    fault::{Fault, FaultCode},
    gpu::GpuReport,
    identity::IdentityName,
    lab::Host,
};
use serde_json::Value;
use std::collections::BTreeMap;

/// Facts a report may carry, and gauges.
const ENTRIES_MAX: usize = 64;
/// Longest name of a fact or a gauge, bytes.
const NAME_BYTES_MAX: usize = 64;
/// Largest value of one, bytes of JSON: a list of drives or screens, not a log.
const VALUE_BYTES_MAX: usize = 4 * 1024;
/// Largest of the two named texts.
const TEXT_BYTES_MAX: usize = 256;

/// What a report means.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Reported {
    /// The host record.
    pub(super) host: Host,
    /// Its gauges.
    pub(super) gauges: Option<Value>,
    /// Its GPU.
    pub(super) gpu: Option<GpuReport>,
}

/// What a report means; it is about its caller only.
///
/// # Errors
/// A fault that names what is too much.
pub(super) fn parse(caller: &IdentityName, report: StateReport) -> Result<Reported, Fault> {
    let StateReport { os, version, facts, gauges, gpu } = report;
    for (name, text) in [("os", &os), ("version", &version)] {
        if text.as_ref().is_some_and(|text| text.len() > TEXT_BYTES_MAX) {
            return Err(too_large(&format!("{name} has more than {TEXT_BYTES_MAX} bytes")));
        }
    }
    check("facts", &facts)?;
    check("gauges", &gauges)?;
    let gauges = (!gauges.is_empty()).then(|| Value::Object(gauges.into_iter().collect()));
    if let Some(gpu) = &gpu {
        gpu::check(gpu).map_err(|what| too_large(&what))?;
    }
    Ok(Reported { host: Host { host: caller.to_string(), os, version, facts }, gauges, gpu })
}

fn check(what: &str, entries: &BTreeMap<String, Value>) -> Result<(), Fault> {
    if entries.len() > ENTRIES_MAX {
        return Err(too_large(&format!("{} {what} are more than {ENTRIES_MAX}", entries.len())));
    }
    for (name, value) in entries {
        if name.is_empty() || name.len() > NAME_BYTES_MAX {
            let shown: String = name.chars().take(32).collect();
            return Err(too_large(&format!(
                "a name in {what} has {} bytes, 1 to {NAME_BYTES_MAX} are taken: {shown:?}",
                name.len()
            )));
        }
        let size = value.to_string().len();
        if size > VALUE_BYTES_MAX {
            return Err(too_large(&format!(
                "{name:?} in {what} has {size} bytes, {VALUE_BYTES_MAX} are taken"
            )));
        }
    }
    Ok(())
}

fn too_large(message: &str) -> Fault {
    Fault::new(FaultCode::TooLarge, message, "Report less: facts are short, and change seldom.")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(facts: BTreeMap<String, Value>) -> Result<Reported, Fault> {
        let caller = IdentityName::parse("gaming-pc").unwrap();
        parse(&caller, StateReport { os: None, version: None, facts, gauges: BTreeMap::new(), gpu: None })
    }

    #[test]
    fn a_report_is_about_its_caller_only() {
        let told = report(BTreeMap::from([("host".to_owned(), "other".into())])).unwrap();
        assert_eq!(told.host.host, "gaming-pc");
        assert_eq!(told.gauges, None);
    }

    #[test]
    fn too_much_is_refused_with_what_is_too_much() {
        let many = (0..65).map(|n| (format!("f{n}"), Value::Null)).collect();
        for (facts, word) in [
            (many, "65 facts"),
            (BTreeMap::from([("x".repeat(65), Value::Null)]), "65 bytes"),
            (BTreeMap::from([(String::new(), Value::Null)]), "0 bytes"),
            (BTreeMap::from([("log".to_owned(), "x".repeat(5000).into())]), "\"log\""),
        ] {
            let fault = report(facts).unwrap_err();
            assert_eq!(fault.status(), 413);
            assert!(fault.message.contains(word), "{}", fault.message);
        }
    }
}
