//! Who sends a request: API tokens, tickets with their cookie and CSRF header. Every failure is a reason
//! phrase; the transport turns it into the empty, delayed 401.

use super::{
    Lab, PveVersion,
    access::{Access, Secret},
    fault::Fault,
};

/// How long a ticket lives.
const TICKET_MS: i64 = 2 * 3600 * 1000;

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    /// `user@realm` or `user@realm!token`.
    pub id: String,
}

impl Who {
    /// A token, even `root@pam!x`, is never `root@pam`.
    pub fn is_root(&self) -> bool {
        self.id == "root@pam"
    }

    /// Whether an API token asks.
    pub fn is_token(&self) -> bool {
        self.id.contains('!')
    }

    /// The user behind it.
    pub fn user(&self) -> &str {
        self.id.split('!').next().unwrap_or(&self.id)
    }
}

/// What a request shows of itself.
#[derive(Clone, Debug, Default)]
pub struct Credentials {
    /// `Authorization`.
    pub authorization: Option<String>,
    /// The cookie `PVEAuthCookie`, decoded.
    pub ticket: Option<String>,
    /// `CSRFPreventionToken`.
    pub csrf: Option<String>,
}

/// A ticket that was given out.
#[derive(Clone, Debug)]
pub(crate) struct Session {
    pub(crate) user: String,
    pub(crate) csrf: Secret,
    pub(crate) issued_ms: i64,
}

impl Lab {
    /// Finds out who asks, or the reason phrase of the 401. `writes` is true for everything but GET.
    pub fn authenticate(&self, shown: &Credentials, writes: bool) -> Result<Who, String> {
        let result = match (&shown.authorization, &shown.ticket) {
            (Some(header), _) => self.by_token(header),
            (None, Some(ticket)) => self.by_ticket(ticket, shown.csrf.as_deref(), writes),
            (None, None) => Err("No ticket".to_owned()),
        };
        result.map_err(|reason| match self.version {
            PveVersion::V8_2 => reason,
            // Since 2026-01 the cause is no longer told.
            PveVersion::V9_1 if self.hides_login_cause => "Authentication failed!".to_owned(),
            PveVersion::V9_1 => reason,
        })
    }

    fn by_token(&self, header: &str) -> Result<Who, String> {
        let Some(rest) = header.strip_prefix("PVEAPIToken=").or_else(|| header.strip_prefix("PVEAPIToken "))
        else {
            return Err("No ticket".to_owned());
        };
        let Some((id, secret)) = rest.split_once('=') else {
            return Err("failed to split token".to_owned());
        };
        let Some((user, _)) = id.split_once('!') else {
            return Err("failed to split token".to_owned());
        };
        check_user(&self.access, user, self.now_s())?;
        let gone = self.faults.any(|fault| matches!(fault, Fault::TokenGone { token } if token == id));
        let token = self.access.token(id).filter(|_| !gone).ok_or("no such token")?;
        let ended = self.faults.any(|fault| matches!(fault, Fault::TokenExpired { token } if token == id));
        if ended || (token.expires_s != 0 && token.expires_s <= self.now_s()) {
            return Err(format!("token '{id}' access expired"));
        }
        if token.secret.0 != secret {
            return Err("invalid token value!".to_owned());
        }
        Ok(Who { id: id.to_owned() })
    }

    fn by_ticket(&self, ticket: &str, csrf: Option<&str>, writes: bool) -> Result<Who, String> {
        let session = self.sessions.get(ticket).ok_or("permission denied - invalid PVE ticket")?;
        if self.now_ms - session.issued_ms > TICKET_MS {
            return Err("permission denied - invalid PVE ticket".to_owned());
        }
        check_user(&self.access, &session.user, self.now_s())?;
        if writes && csrf != Some(session.csrf.0.as_str()) {
            return Err("Permission denied - invalid csrf token".to_owned());
        }
        Ok(Who { id: session.user.clone() })
    }

    /// Gives out a ticket for a password (or for a ticket that is still good) and returns it with its CSRF
    /// token.
    pub(crate) fn log_in(&mut self, user: &str, password: &str) -> Option<(String, String)> {
        check_user(&self.access, user, self.now_s()).ok()?;
        let known = self.access.users.get(user)?.password.clone();
        let renewed = self
            .sessions
            .get(password)
            .is_some_and(|session| session.user == user && self.now_ms - session.issued_ms <= TICKET_MS);
        if !renewed && known.is_none_or(|known| known.0 != password) {
            return None;
        }
        let at = self.now_s();
        let ticket = format!("PVE:{user}:{at:08X}::{:016X}{:016X}==", self.next_random(), self.next_random());
        let csrf = format!("{at:08X}:{:016x}{:016x}", self.next_random(), self.next_random());
        let session = Session { user: user.to_owned(), csrf: Secret(csrf.clone()), issued_ms: self.now_ms };
        self.sessions.retain(|_, old| self.now_ms - old.issued_ms <= TICKET_MS);
        self.sessions.insert(ticket.clone(), session);
        Some((ticket, csrf))
    }
}

fn check_user(access: &Access, id: &str, now_s: i64) -> Result<(), String> {
    let user = access.users.get(id).ok_or_else(|| format!("no such user ('{id}')"))?;
    if !user.enabled {
        return Err(format!("user '{id}' is disabled"));
    }
    if user.expires_s != 0 && user.expires_s <= now_s {
        return Err(format!("user '{id}' access expired"));
    }
    Ok(())
}
