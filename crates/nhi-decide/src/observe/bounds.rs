//! How large one guest's record may become. A guest's owner chooses name, notes, tags, cards, volumes and addresses, and one
//! guest must not fill the state, a message or somebody's context. What is cut is told by the alert `record-cut`.

use crate::clean;
use nhi_model::guest::{AddressSource, Backups, Guest};
use std::collections::{BTreeMap, BTreeSet};

/// Bytes of JSON for one text that is neither name nor notes: the longest volume ids and paths in use have some
/// sixty.
const TEXT_BYTES_MAX: usize = 96;
/// Bytes of JSON for one tag.
const TAG_BYTES_MAX: usize = 64;
/// Tags: Proxmox's own interface stops being usable long before.
const TAGS_MAX: usize = 64;
/// Network cards: Proxmox has `net0` to `net31`.
const NICS_MAX: usize = 32;
/// Volumes: every bus of a virtual machine full is some sixty.
const VOLUMES_MAX: usize = 128;
/// Addresses: a container host has a few for each of its bridges.
pub(super) const ADDRESSES_MAX: usize = 64;

/// The guest within all bounds, and whether anything had to be cut. With 8 KiB of notes it stays below 64 KiB.
pub(super) fn bounded(seen: &Guest) -> (Guest, bool) {
    let mut guest = seen.clone();
    let mut cut = Cut(is_cut(seen));
    cut.tags(&mut guest);
    for text in [&mut guest.pool, &mut guest.lock, &mut guest.os, &mut guest.config_digest] {
        cut.maybe(text);
    }
    if let Some(ha) = &mut guest.ha {
        cut.text(&mut ha.state);
        cut.maybe(&mut ha.group);
    }
    guest.nics = cut.map(std::mem::take(&mut guest.nics), NICS_MAX, |cut, nic| {
        for text in [&mut nic.bridge, &mut nic.mac, &mut nic.ip_config] {
            cut.maybe(text);
        }
    });
    guest.volumes = cut.map(std::mem::take(&mut guest.volumes), VOLUMES_MAX, Cut::text);
    guest.addresses.sort();
    guest.addresses.dedup();
    cut.0 |= guest.addresses.len() > ADDRESSES_MAX;
    guest.addresses.truncate(ADDRESSES_MAX);
    for address in &mut guest.addresses {
        cut.text(&mut address.interface);
        cut.maybe(&mut address.mac);
    }
    if let AddressSource::NoRight { privilege } = &mut guest.address_source {
        cut.text(privilege);
    }
    if let Backups::Newest { storage, .. } = &mut guest.backups {
        cut.maybe(storage);
    }
    let identity = &mut guest.identity;
    for text in [&mut identity.uuid, &mut identity.vmgenid, &mut identity.rootfs] {
        cut.maybe(text);
    }
    (guest, cut.0)
}

/// Whether name or notes will be cut where they are taken. What is not seen does not count.
fn is_cut(seen: &Guest) -> bool {
    let name = clean::text(&seen.name, clean::NAME_CHARS_MAX + 1);
    let notes = seen.notes.as_deref().map(|notes| clean::block(notes, usize::MAX));
    name.chars().count() > clean::NAME_CHARS_MAX
        || notes.is_some_and(|notes| notes.len() > clean::NOTES_BYTES_MAX)
}

/// Whether anything was cut so far.
struct Cut(bool);

impl Cut {
    fn maybe(&mut self, text: &mut Option<String>) {
        if let Some(text) = text {
            self.text(text);
        }
    }

    fn text(&mut self, text: &mut String) {
        self.clip(text, TEXT_BYTES_MAX);
    }

    /// Cleans a text, so that no character takes more than two bytes beyond its own in JSON, and cuts it there.
    fn clip(&mut self, text: &mut String, bytes_max: usize) {
        let cleaned = clean::text(text, bytes_max);
        let mut bytes = 0;
        let end = cleaned.char_indices().find(|(_, c)| {
            bytes += c.len_utf8() + usize::from(matches!(c, '"' | '\\'));
            bytes > bytes_max
        });
        let kept = end.map_or(cleaned.as_str(), |(at, _)| &cleaned[..at]).trim_end();
        // Longer before cleaning may only mean that it was full of what is not seen.
        self.0 |= end.is_some() || clean::text(text, bytes_max + 1).len() > cleaned.len();
        *text = kept.to_owned();
    }

    fn tags(&mut self, guest: &mut Guest) {
        let mut tags = BTreeSet::new();
        for tag in &mut guest.tags {
            self.clip(tag, TAG_BYTES_MAX);
            tags.insert(tag.clone());
        }
        tags.remove("");
        self.0 |= tags.len() > TAGS_MAX;
        guest.tags = tags.into_iter().take(TAGS_MAX).collect();
    }

    fn map<T>(
        &mut self,
        map: BTreeMap<String, T>,
        count_max: usize,
        clip: impl Fn(&mut Self, &mut T),
    ) -> BTreeMap<String, T> {
        self.0 |= map.len() > count_max;
        let kept = map.into_iter().take(count_max).map(|(mut key, mut value)| {
            self.clip(&mut key, TAG_BYTES_MAX / 2);
            clip(self, &mut value);
            (key, value)
        });
        kept.collect()
    }
}
