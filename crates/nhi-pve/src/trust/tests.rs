//! Fingerprints and CA files as people give them.

use super::{Fingerprint, Trust, TrustError};

const PIN: &str =
    "00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF:00:11:22:33:44:55:66:77:88:99:AA:BB:CC:DD:EE:FF";

#[test]
fn a_fingerprint_is_read_with_and_without_colons_in_any_case() {
    let plain = PIN.replace(':', "");
    for text in [PIN, &PIN.to_lowercase(), &plain, &format!(" sha256:{plain} "), &format!("SHA256:{PIN}")] {
        assert_eq!(text.parse::<Fingerprint>().unwrap().to_string(), PIN);
    }
}

#[test]
fn another_length_or_another_sign_is_no_fingerprint() {
    let sha1 = &PIN[..59];
    for text in ["", "AB:CD", sha1, &format!("{PIN}:00"), &PIN.replace('0', "O"), &format!("{PIN}0")] {
        let error = text.parse::<Fingerprint>().unwrap_err();
        assert!(error.to_string().contains("32 pairs"), "{error}");
    }
    let long = "z".repeat(4096).parse::<Fingerprint>().unwrap_err();
    assert!(long.to_string().len() < 300);
}

#[test]
fn nothing_pinned_means_the_machines_authorities() {
    assert_eq!(Trust::from_settings(None, None), Ok(Trust::System));
    assert_eq!(Trust::from_settings(None, Some(" ")), Ok(Trust::System));
    let pin: Fingerprint = PIN.parse().unwrap();
    assert_eq!(Trust::from_settings(None, Some(PIN)), Ok(Trust::fingerprint(pin)));
}

#[test]
fn a_ca_file_without_a_certificate_pins_nothing_and_is_an_error() {
    assert_eq!(Trust::ca_pem(b""), Err(TrustError::CaEmpty));
    assert_eq!(Trust::ca_pem(b"hello"), Err(TrustError::CaEmpty));
    let broken = b"-----BEGIN CERTIFICATE-----\n!!!!\n-----END CERTIFICATE-----\n";
    assert!(matches!(Trust::ca_pem(broken), Err(TrustError::CaUnreadable { .. })));
}
