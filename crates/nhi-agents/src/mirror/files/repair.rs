//! Putting the mirror's directory right at start, and what may leave its history. Whatever is removed was
//! never current or is kept elsewhere.

use super::{
    CHECKSUM, CURRENT, Files, FilesError, HISTORY, NAMES, Repair, SHA256SUM, STATE, UNFINISHED, hex,
    names::{Generation, Past},
};
use jiff::Timestamp;
use nhi_decide::retention;
use serde_json::Value;
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Largest plain `state.json` that is taken over. Neural-Home v3's is some 100 KiB.
const PLAIN_BYTES_MAX: u64 = 64 * 1024 * 1024;

impl Files {
    /// Finds the newest whole generation, makes it the current one, and removes leftovers.
    pub(super) fn repair(&mut self) -> Result<Vec<Repair>, FilesError> {
        let mut repairs = Vec::new();
        self.remove_unfinished(&mut repairs)?;
        let found = self.find_generations()?;
        self.last_n = found.iter().map(|g| g.n).max().unwrap_or(0);
        self.past_revision = self.find_past()?.last().map(|past| past.revision);

        let pointed = fs::read_link(self.dir.join(CURRENT)).ok();
        let pointed = pointed.and_then(|p| Generation::parse(&p.to_string_lossy()));
        let (whole, broken): (Vec<_>, Vec<_>) = found.into_iter().partition(|g| self.is_whole(*g));
        let current = pointed.filter(|p| whole.contains(p)).or_else(|| whole.last().copied());
        if current != pointed {
            self.point_at(current, &mut repairs)?;
        }
        for generation in broken {
            self.discard(generation, pointed == Some(generation), &mut repairs)?;
        }
        for generation in whole {
            // A whole generation after the current one was never committed: its writer died before the rename.
            if current.is_some_and(|c| generation.n > c.n) {
                self.discard(generation, false, &mut repairs)?;
            } else {
                self.generations.push_back(generation);
            }
        }
        if current.is_none() {
            self.take_over_plain()?;
        }
        self.settle(&mut repairs)?;
        Ok(repairs)
    }

    /// The stable names, a missing history link, too many old generations.
    fn settle(&mut self, repairs: &mut Vec<Repair>) -> Result<(), FilesError> {
        self.ensure_names(repairs)?;
        if let Some(current) = self.current()
            && current.revision != 0
            && self.past_revision != Some(current.revision)
        {
            let state = self.dir.join(current.name()).join(STATE);
            let modified = fs::metadata(&state).and_then(|m| m.modified());
            let modified = modified.map_err(|e| FilesError::new("reading", &state, e))?;
            self.remember(current, Timestamp::try_from(modified).unwrap_or(Timestamp::UNIX_EPOCH))?;
            self.past_revision = Some(current.revision);
        }
        self.forget_generations()
    }

    fn point_at(&self, current: Option<Generation>, repairs: &mut Vec<Repair>) -> Result<(), FilesError> {
        match current {
            Some(generation) => {
                self.flip(generation)?;
                repairs.push(Repair::RolledBack { generation });
            }
            None => {
                // No bytes that can be trusted: "missing" is the truth, until the first commit.
                let path = self.dir.join(CURRENT);
                fs::remove_file(&path).map_err(|e| FilesError::new("removing", &path, e))?;
            }
        }
        self.sync()
    }

    fn discard(
        &self,
        generation: Generation,
        was_current: bool,
        repairs: &mut Vec<Repair>,
    ) -> Result<(), FilesError> {
        let place = self.dir.join(generation.name());
        if was_current {
            // Somebody may have edited it by hand; that work is not ours to throw away.
            let kept_as = format!("broken_{}.json", generation.name().trim_start_matches('.'));
            let kept = fs::rename(place.join(STATE), self.dir.join(HISTORY).join(&kept_as)).is_ok();
            repairs.push(Repair::PairBroken { generation, kept_as: kept.then_some(kept_as) });
        } else {
            repairs.push(Repair::LeftoverRemoved { name: generation.name() });
        }
        fs::remove_dir_all(&place).map_err(|e| FilesError::new("removing", &place, e))
    }

    /// Makes Neural-Home v3's plain `state.json` the first generation, so that its readers never miss a file
    /// while the stable names become symlinks. Its own checksum may be torn (that was v3's defect); a file
    /// that parses is whole, because v3 renamed it into place.
    fn take_over_plain(&mut self) -> Result<(), FilesError> {
        let path = self.dir.join(STATE);
        let plain = fs::symlink_metadata(&path).is_ok_and(|m| m.is_file() && m.len() <= PLAIN_BYTES_MAX);
        if !plain {
            return Ok(());
        }
        let bytes = fs::read(&path).map_err(|e| FilesError::new("reading", &path, e))?;
        if serde_json::from_slice::<Value>(&bytes).is_err() {
            return Ok(());
        }
        let generation = Generation { revision: 0, n: self.last_n + 1 };
        self.last_n = generation.n;
        self.write_generation(generation, &bytes)?;
        self.flip(generation)?;
        self.generations.push_back(generation);
        self.sync()
    }

    fn remove_unfinished(&self, repairs: &mut Vec<Repair>) -> Result<(), FilesError> {
        for name in self.entries(&self.dir)? {
            if name.starts_with('.') && name.ends_with(UNFINISHED) {
                let path = self.dir.join(&name);
                fs::remove_file(&path).map_err(|e| FilesError::new("removing", &path, e))?;
                repairs.push(Repair::LeftoverRemoved { name });
            }
        }
        Ok(())
    }

    /// All generation directories, oldest first.
    fn find_generations(&self) -> Result<Vec<Generation>, FilesError> {
        let mut found: Vec<_> =
            self.entries(&self.dir)?.iter().filter_map(|n| Generation::parse(n)).collect();
        found.sort_by_key(|g| g.n);
        Ok(found)
    }

    /// All history files of ours, oldest first.
    fn find_past(&self) -> Result<Vec<Past>, FilesError> {
        let history = self.dir.join(HISTORY);
        let mut found: Vec<_> = self.entries(&history)?.iter().filter_map(|n| Past::parse(n)).collect();
        found.sort();
        Ok(found)
    }

    fn entries(&self, dir: &Path) -> Result<Vec<String>, FilesError> {
        let failed = |e| FilesError::new("listing", dir, e);
        let mut names = Vec::new();
        for entry in fs::read_dir(dir).map_err(failed)? {
            // A name that is not UTF-8 is not one of ours.
            if let Ok(name) = entry.map_err(failed)?.file_name().into_string() {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Whether the three files of a generation are there and belong together.
    fn is_whole(&self, generation: Generation) -> bool {
        let place = self.dir.join(generation.name());
        let [state, checksum, sum] = NAMES.map(|name| read(place.join(name)));
        debug_assert_eq!(NAMES, [STATE, CHECKSUM, SHA256SUM]);
        let (Some(state), Some(checksum), Some(sum)) = (state, checksum, sum) else { return false };
        let hash = hex(&state);
        checksum == hash.as_bytes() && sum == format!("{hash}  {STATE}\n").as_bytes()
    }

    /// Removes history files that the retention no longer keeps. Names that are not ours
    /// (`state_CRITICAL_….json`, anything a person put there) stay for ever.
    pub(super) fn forget_past(&self, now: Timestamp) -> Result<(), FilesError> {
        let history = self.dir.join(HISTORY);
        for name in retention::forget(&self.entries(&history)?, &retention::POLICY, now) {
            let path = history.join(name);
            fs::remove_file(&path).map_err(|e| FilesError::new("removing", &path, e))?;
        }
        Ok(())
    }
}

fn read(path: PathBuf) -> Option<Vec<u8>> {
    fs::read(path).ok()
}
