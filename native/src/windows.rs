//! The windows of a fold, by their keys.

use std::hash::{BuildHasher, RandomState};

use hashbrown::HashTable;

use crate::aggregate::Aggregate;

/// What a map of keys and aggregates would be, in three pieces of memory that grow instead of one for each key: a fold
/// has thousands, and is done with them all at once.
#[derive(Default)]
pub struct Windows {
    /// Where in `entries`, found by their hashes.
    places: HashTable<usize>,
    hasher: RandomState,
    /// All keys, one after the other.
    keys: Vec<u8>,
    entries: Vec<Entry>,
}

struct Entry {
    hash: u64,
    /// In `keys`; it begins where the entry's before ends.
    key_end: usize,
    aggregate: Aggregate,
}

impl Windows {
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn get(&self, key: &[u8]) -> Option<&Aggregate> {
        let place = self.place(self.hasher.hash_one(key), key)?;
        Some(&self.entries[place].aggregate)
    }

    pub fn get_mut(&mut self, key: &[u8]) -> Option<&mut Aggregate> {
        let place = self.place(self.hasher.hash_one(key), key)?;
        Some(&mut self.entries[place].aggregate)
    }

    /// Let a window hold `aggregate`, whatever it held before; return it.
    pub fn put(&mut self, key: &[u8], aggregate: Aggregate) -> &mut Aggregate {
        let hash = self.hasher.hash_one(key);
        let place = self.place(hash, key).unwrap_or(self.entries.len());
        if place < self.entries.len() {
            self.entries[place].aggregate = aggregate;
        } else {
            self.keys.extend_from_slice(key);
            self.entries.push(Entry { hash, key_end: self.keys.len(), aggregate });
            self.places.insert_unique(hash, place, |&other| self.entries[other].hash);
        }
        &mut self.entries[place].aggregate
    }

    /// All of them in the order of their keys, which is the order that RocksDB keeps them in.
    pub fn sorted(&self) -> Vec<(&[u8], &Aggregate)> {
        let mut all: Vec<_> =
            self.entries.iter().enumerate().map(|(place, entry)| (self.key(place), &entry.aggregate)).collect();
        all.sort_unstable_by_key(|&(key, _)| key);
        all
    }

    fn place(&self, hash: u64, key: &[u8]) -> Option<usize> {
        self.places.find(hash, |&place| self.key(place) == key).copied()
    }

    fn key(&self, place: usize) -> &[u8] {
        let start = place.checked_sub(1).map_or(0, |before| self.entries[before].key_end);
        &self.keys[start..self.entries[place].key_end]
    }
}
