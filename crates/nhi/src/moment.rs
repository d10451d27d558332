//! `REVISION|TIME` as people type it.

use jiff::{Span, Timestamp, civil::DateTime, tz::TimeZone};
use nhi_model::call::At;

/// Parses a revision (`1234`), a time (`2026-01-31T14:00:00Z`, `2026-01-31 14:00` in the local zone) or an
/// age (`2h`, `30m`, `3d`).
///
/// # Errors
/// One sentence with examples.
pub(crate) fn parse(text: &str, now: Timestamp) -> Result<At, String> {
    let bad = || {
        format!(
            "{text:?} is neither a revision (1234) nor a time (2026-01-31T14:00:00Z, 2026-01-31 14:00, or 2h for two hours ago)"
        )
    };
    if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
        return text.parse().map(At::Revision).map_err(|_| bad());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(At::Time(time));
    }
    if let Ok(civil) = text.parse::<DateTime>() {
        let zoned = civil.to_zoned(TimeZone::system()).map_err(|_| bad())?;
        return Ok(At::Time(zoned.timestamp()));
    }
    let span: Span = text.parse().map_err(|_| bad())?;
    let zoned = now.to_zoned(TimeZone::UTC).checked_sub(span.abs()).map_err(|_| bad())?;
    Ok(At::Time(zoned.timestamp()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_times_and_ages() {
        let now: Timestamp = "2026-01-31T14:00:00Z".parse().unwrap();
        assert_eq!(parse("42", now), Ok(At::Revision(42)));
        assert_eq!(parse("2026-01-31T12:00:00Z", now), parse("2h", now));
        assert_eq!(parse("1d", now), Ok(At::Time("2026-01-30T14:00:00Z".parse().unwrap())));
        assert!(matches!(parse("2026-01-31 14:00", now), Ok(At::Time(_))));
        for bad in ["", "yesterday", "-", "99999999999999999999999", "2026-13-01T00:00:00Z"] {
            assert!(parse(bad, now).is_err(), "{bad:?}");
        }
    }
}
