//! Which policy holds after a look at the file. It does not read the file, and it never falls back to something less
//! strict than what held.

use super::{parse, warnings};
use nhi_model::{
    policy::Policy,
    refusal::{Refusal, RefusalCode},
};

/// What reading the file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FileRead {
    /// There is none, in a directory that could be read.
    Absent,
    /// Its text.
    Text(String),
    /// It could not be read; why, one sentence.
    Unreadable(String),
}

/// The policy that holds, or why none does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Standing {
    policy: Option<Policy>,
    /// Whether there was a file; the defaults do not come back by themselves then.
    of_file: bool,
    /// What is wrong with the file now, one sentence for an alert.
    pub trouble: Option<String>,
    /// What is odd about the policy that holds, a sentence each.
    pub warnings: Vec<String>,
}

impl Standing {
    /// After the first look: no file means the defaults, a bad one that nothing is allowed.
    pub fn start(read: &FileRead) -> Self {
        match read {
            FileRead::Absent => Self::good(Policy::default(), false),
            FileRead::Text(text) => match parse(text) {
                Ok(policy) => Self::good(policy, true),
                Err(error) => Self::nothing(format!("policy.toml is not usable: {error}")),
            },
            FileRead::Unreadable(why) => Self::nothing(format!("policy.toml cannot be read: {why}")),
        }
    }

    /// After another look. A file that broke, went away or is empty leaves what held: the defaults may allow what it
    /// forbade, and a file that is being replaced is away, or empty, for a moment.
    #[must_use]
    pub fn next(&self, read: &FileRead) -> Self {
        let lost = match read {
            FileRead::Absent if self.of_file => Some("policy.toml is gone".to_owned()),
            FileRead::Text(text) if self.of_file && text.trim().is_empty() => {
                Some("policy.toml is empty".to_owned())
            }
            FileRead::Absent | FileRead::Text(_) | FileRead::Unreadable(_) => None,
        };
        let now = Self::start(read);
        let (trouble, until) = match (lost, now.trouble.clone()) {
            (Some(lost), _) => (lost, "until there is one again, or a restart"),
            (None, Some(trouble)) => (trouble, "until it is corrected"),
            (None, None) => return now,
        };
        let held = if self.policy.is_some() { "the last good policy holds" } else { "nothing is allowed" };
        let trouble = Some(format!("{trouble}; {held} {until}"));
        Self { policy: self.policy.clone(), of_file: true, trouble, warnings: self.warnings.clone() }
    }

    /// The policy that holds.
    ///
    /// # Errors
    /// The refusal of everything while there is none.
    pub fn policy(&self) -> Result<&Policy, Refusal> {
        self.policy.as_ref().ok_or_else(|| {
            let why = self.trouble.as_deref().unwrap_or("there is no policy");
            Refusal::new(
                RefusalCode::NotSeen,
                format!("nothing is done without a policy: {why}"),
                "Ask the owner to correct infrastructure/policy.toml; it is read again by itself.",
            )
        })
    }

    fn good(policy: Policy, of_file: bool) -> Self {
        Self { warnings: warnings(&policy), policy: Some(policy), of_file, trouble: None }
    }

    const fn nothing(trouble: String) -> Self {
        Self { policy: None, of_file: true, trouble: Some(trouble), warnings: Vec::new() }
    }
}
