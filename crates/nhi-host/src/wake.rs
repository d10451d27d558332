//! Wakes a machine that sleeps: the magic packet of Wake-on-LAN. Whether it woke, nobody says: look whether it answers.

use std::{
    fmt, io,
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    str::FromStr,
};

/// The port magic packets are sent to by custom; the card looks at no port.
pub const WAKE_PORT: u16 = 9;
/// Six times 0xFF, and the address sixteen times.
const PACKET_BYTES: usize = 6 + 16 * 6;

/// The address of a network card.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mac([u8; 6]);

/// Why a text is no address of a network card.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("{text:?} is no address of a network card; write it as 3c:7c:3f:12:34:56")]
pub struct BadMac {
    /// The text, cut to 40 characters.
    pub text: String,
}

impl FromStr for Mac {
    type Err = BadMac;
    fn from_str(text: &str) -> Result<Self, BadMac> {
        let bad = || BadMac { text: text.chars().take(40).collect() };
        let pairs: Vec<&str> = text.split([':', '-']).collect();
        let pair = |pair: &&str| {
            (pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u8::from_str_radix(pair, 16).ok())?
        };
        let bytes: Vec<u8> = pairs.iter().map_while(pair).collect();
        match (<[u8; 6]>::try_from(bytes), pairs.len()) {
            // One that is nobody's, or everybody's, wakes nobody.
            (Ok(bytes), 6) if bytes != [0; 6] && bytes[0] & 1 == 0 => Ok(Self(bytes)),
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs = self.0.map(|byte| format!("{byte:02x}"));
        f.write_str(&pairs.join(":"))
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Mac({self})")
    }
}

/// The magic packet that wakes a card.
pub fn packet(mac: Mac) -> Vec<u8> {
    let mut packet = Vec::with_capacity(PACKET_BYTES);
    packet.extend([0xff; 6]);
    for _ in 0..16 {
        packet.extend(mac.0);
    }
    packet
}

/// Sends the magic packet to everybody on the network, or to where `towards` says (a network's own broadcast address
/// reaches further than the general one on a machine with several networks).
///
/// # Errors
/// When the system does not send it.
pub fn wake(mac: Mac, towards: Option<SocketAddr>) -> io::Result<()> {
    let towards = towards.unwrap_or_else(|| (Ipv4Addr::BROADCAST, WAKE_PORT).into());
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    socket.set_broadcast(true)?;
    let sent = socket.send_to(&packet(mac), towards)?;
    if sent == PACKET_BYTES { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn the_packet_is_magic_and_arrives() {
        let ear = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        ear.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let mac: Mac = "3C-7c-3f-12-34-56".parse().unwrap();
        wake(mac, Some(ear.local_addr().unwrap())).unwrap();
        let mut heard = [0; 256];
        let (bytes, _) = ear.recv_from(&mut heard).unwrap();
        assert_eq!(heard[..6], [0xff; 6]);
        assert_eq!(heard[6..bytes], [0x3c, 0x7c, 0x3f, 0x12, 0x34, 0x56].repeat(16));
        assert_eq!(mac.to_string(), "3c:7c:3f:12:34:56");
    }

    #[test]
    fn what_is_no_card_is_refused() {
        for bad in [
            "",
            "3c:7c:3f:12:34",
            "3c:7c:3f:12:34:56:78",
            "3c:7c:3f:12:34:zz",
            "+c:7c:3f:12:34:56",
            "00:00:00:00:00:00",
            "ff:ff:ff:ff:ff:ff",
            "3c7c3f123456",
        ] {
            assert!(bad.parse::<Mac>().is_err(), "{bad:?}");
        }
    }
}
