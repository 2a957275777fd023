//! The tags of a window, and how often each was given.

use smallvec::SmallVec;

const COUNT_BYTES: usize = size_of::<u64>();
const HEAD_BYTES: usize = COUNT_BYTES + size_of::<u16>();

/// Tags in the order in which they were first seen: of each its count, its length and its text, one after the other.
/// A fold has thousands of windows, most of them with a few short tags or none, so those take no memory of their own:
/// each piece would have to be asked of an allocator that other threads keep busy.
///
/// A text stands here as it stands in JSON, between the quotes. What wrote it has one form for each text, so equal tags
/// are equal here, and nothing has to be unescaped.
#[derive(Default)]
pub struct Tags(SmallVec<[u8; 48]>);

impl Tags {
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub fn iter(&self) -> Iter<'_> {
        Iter(&self.0)
    }

    /// Count a tag once more, or as the first of its kind unless there are `most` already; say whether it was counted.
    pub fn add(&mut self, tag: &[u8], most: usize) -> bool {
        let (mut at, mut kinds) = (0, 0);
        for (text, count) in self.iter() {
            if text == tag {
                self.0[at..at + COUNT_BYTES].copy_from_slice(&(count + 1).to_ne_bytes());
                return true;
            }
            at += HEAD_BYTES + text.len();
            kinds += 1;
        }
        kinds < most && self.push(tag, 1)
    }

    /// Note a tag that is not there yet; say whether it is one: none is longer than that.
    pub fn push(&mut self, tag: &[u8], count: u64) -> bool {
        let Ok(length) = u16::try_from(tag.len()) else { return false };
        self.0.extend_from_slice(&count.to_ne_bytes());
        self.0.extend_from_slice(&length.to_ne_bytes());
        self.0.extend_from_slice(tag);
        true
    }
}

pub struct Iter<'a>(&'a [u8]);

impl<'a> Iterator for Iter<'a> {
    type Item = (&'a [u8], u64);

    fn next(&mut self) -> Option<Self::Item> {
        let (count, rest) = self.0.split_first_chunk()?;
        let (length, rest) = rest.split_first_chunk()?;
        let (text, rest) = rest.split_at(u16::from_ne_bytes(*length).into());
        self.0 = rest;
        Some((text, u64::from_ne_bytes(*count)))
    }
}
