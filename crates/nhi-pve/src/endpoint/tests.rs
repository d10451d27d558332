//! Addresses and tokens as people write them.

use super::{Address, ApiToken, Endpoint, EndpointError};
use crate::trust::Trust;

fn shown(text: &str) -> Result<String, EndpointError> {
    text.parse::<Address>().map(|address| address.to_string())
}

#[test]
fn an_address_is_a_host_a_host_with_port_or_a_url() {
    let cases = [
        ("pve1", "https://pve1:8006"),
        (" PVE1.example.org ", "https://pve1.example.org:8006"),
        ("pve1:443", "https://pve1:443"),
        ("192.0.2.7", "https://192.0.2.7:8006"),
        ("192.0.2.7:8007", "https://192.0.2.7:8007"),
        ("::1", "https://[::1]:8006"),
        ("[2001:db8::7]", "https://[2001:db8::7]:8006"),
        ("[2001:db8::7]:443", "https://[2001:db8::7]:443"),
        ("https://pve1", "https://pve1:8006"),
        ("HTTPS://pve1:443/", "https://pve1:443"),
        ("https://pve1:8006/api2/json/", "https://pve1:8006"),
        ("http://127.0.0.1:1234", "http://127.0.0.1:1234"),
        ("http://localhost", "http://localhost:8006"),
        ("http://[::1]:80", "http://[::1]:80"),
    ];
    for (text, expected) in cases {
        assert_eq!(shown(text).as_deref(), Ok(expected), "{text}");
    }
}

#[test]
fn a_wrong_address_is_one_clear_sentence() {
    let cases = [
        ("http://pve1:8006", "over plain http"),
        ("http://192.0.2.7", "write https://192.0.2.7:8006"),
        ("http://localhost.example.org", "over plain http"),
        ("ftp://pve1", "use scheme \"ftp\""),
        ("pve1:0", "the port must be"),
        ("pve1:65536", "the port must be"),
        ("pve1:", "the port must be"),
        ("pve1/nodes", "nothing may follow"),
        ("pve1:8006?x=1", "nothing may follow"),
        ("", "no host name"),
        ("a b", "no host name"),
        ("[::1", "no host name"),
        ("https://", "no host name"),
    ];
    for (text, part) in cases {
        let message = shown(text).unwrap_err().to_string();
        assert!(message.contains(part), "{text}: {message}");
    }
}

#[test]
fn a_password_in_an_address_is_refused_and_not_repeated() {
    for text in ["https://root:hunter2@pve1:8006", "root:hunter2@pve1", "https://pve1/?token=a@b:hunter2"] {
        let error = shown(text).unwrap_err();
        assert_eq!(error, EndpointError::Credentials);
        assert!(!error.to_string().contains("hunter2"));
    }
}

#[test]
fn several_addresses_are_one_endpoint_without_doubles() {
    let addresses = Address::parse_list("pve1, pve2:443\tpve1:8006").unwrap();
    let token = ApiToken::parse("a@pve!b", "secret").unwrap();
    let endpoint = Endpoint::new(addresses, token.clone(), Trust::System).unwrap();
    let shown: Vec<String> = endpoint.addresses().iter().map(ToString::to_string).collect();
    assert_eq!(shown, ["https://pve1:8006", "https://pve2:443"]);
    assert_eq!(Address::parse_list(" , "), Err(EndpointError::NoAddress));
    assert_eq!(Endpoint::new(Vec::new(), token, Trust::System).unwrap_err(), EndpointError::NoAddress);
}

#[test]
fn a_token_is_given_whole_or_in_parts() {
    let secret = "0f6d1c52-5c1e-4b8e-9f0a-3c2d1e0f9a8b";
    let whole = ApiToken::parse(" nh-scan@pve!mesh ", &format!("{secret}\n")).unwrap();
    assert_eq!(whole.id(), "nh-scan@pve!mesh");
    assert_eq!(whole.authorization(), format!("PVEAPIToken=nh-scan@pve!mesh={secret}"));
    assert_eq!(ApiToken::from_parts(Some("nh-scan@pve"), "mesh", secret).as_ref(), Ok(&whole));
    assert_eq!(ApiToken::from_parts(Some("other@pam"), "nh-scan@pve!mesh", secret).as_ref(), Ok(&whole));
    assert_eq!(ApiToken::from_parts(None, "nh-scan@pve!mesh", secret), Ok(whole));
    // An account may be a mail address of a directory.
    assert!(ApiToken::parse("a@example.org@ldap!b", secret).is_ok());
}

#[test]
fn a_wrong_token_names_the_remedy_and_never_the_secret() {
    let cases = [
        ApiToken::parse("mesh", "s3cr3t"),
        ApiToken::parse("nh-scan!mesh", "s3cr3t"),
        ApiToken::parse("@pve!mesh", "s3cr3t"),
        ApiToken::parse("a@pve!", "s3cr3t"),
        ApiToken::parse("a@pve!b c", "s3cr3t"),
        ApiToken::parse("a@pve!b\r\nX: y", "s3cr3t"),
        ApiToken::from_parts(None, "mesh", "s3cr3t"),
        ApiToken::parse("a@pve!b", "s3cr3t\r\nX: y"),
        ApiToken::parse("a@pve!b", "a@pve!b=s3cr3t"),
        ApiToken::parse("a@pve!b", "PVEAPIToken=a@pve!b=s3cr3t"),
        ApiToken::parse("a@pve!b", &"s3cr3t".repeat(1000)),
        ApiToken::parse("a@pve!b", "  "),
    ];
    for outcome in cases {
        let message = outcome.unwrap_err().to_string();
        assert!(!message.contains("s3cr3t") && !message.contains('\n'), "{message}");
    }
}

#[test]
fn debug_does_not_show_the_secret() {
    let token = ApiToken::parse("a@pve!b", "s3cr3t-s3cr3t").unwrap();
    let endpoint = Endpoint::new(Address::parse_list("pve1").unwrap(), token.clone(), Trust::System).unwrap();
    for shown in [format!("{token:?}"), format!("{endpoint:?}"), format!("{:#?}", endpoint.token())] {
        assert!(shown.contains("a@pve!b") && !shown.contains("s3cr3t"), "{shown}");
    }
}
