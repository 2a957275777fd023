//! The aggregate of one window, and its stored form: what `feedback_app.core.aggregate` has, to the byte.

use crate::json::Object;
use crate::plain::{Event, Rating};
use crate::tags::Tags;

const VERSION: u8 = 1;
const FIXED_BYTES: usize = 87;
const MAX_TAGS: usize = 32;
const NEVER: u64 = 1 << 62;

pub struct Aggregate {
    pub revision: u32,
    pub positive: u64,
    pub negative: u64,
    pub neutral: u64,
    pub score_count: u64,
    pub score_sum: u64,
    score_min: u8,
    score_max: u8,
    pub comments: u64,
    pub other_tags: u64,
    pub first: u64,
    pub last: u64,
    pub checksum: u64,
    pub tags: Tags,
}

impl Default for Aggregate {
    fn default() -> Self {
        Aggregate {
            revision: 0,
            positive: 0,
            negative: 0,
            neutral: 0,
            score_count: 0,
            score_sum: 0,
            score_min: 0,
            score_max: 0,
            comments: 0,
            other_tags: 0,
            first: NEVER,
            last: 0,
            checksum: 0,
            tags: Tags::default(),
        }
    }
}

impl Aggregate {
    pub fn add(&mut self, event: &Event<'_>, checksum: u32) {
        match event.rating {
            Rating::Positive => self.positive += 1,
            Rating::Negative => self.negative += 1,
            Rating::Neutral => self.neutral += 1,
        }
        let timestamp = event.timestamp.unsigned_abs();
        self.first = self.first.min(timestamp);
        self.last = self.last.max(timestamp);
        self.checksum += u64::from(checksum);
        if let Some(score) = event.score {
            if self.score_count == 0 {
                (self.score_min, self.score_max) = (score, score);
            }
            self.score_min = self.score_min.min(score);
            self.score_max = self.score_max.max(score);
            self.score_count += 1;
            self.score_sum += u64::from(score);
        }
        self.comments += u64::from(event.commented);
        for &tag in event.tags() {
            self.other_tags += u64::from(!self.tags.add(tag, MAX_TAGS));
        }
    }

    pub fn count(&self) -> u64 {
        self.positive + self.negative + self.neutral
    }

    pub fn score_min(&self) -> Option<u8> {
        (self.score_count > 0).then_some(self.score_min)
    }

    pub fn score_max(&self) -> Option<u8> {
        (self.score_count > 0).then_some(self.score_max)
    }

    /// Write the stored form to the end of `data`.
    pub fn encode(&self, data: &mut Vec<u8>) {
        data.push(VERSION);
        data.extend(self.revision.to_be_bytes());
        for number in [self.positive, self.negative, self.neutral, self.score_count, self.score_sum] {
            data.extend(number.to_be_bytes());
        }
        data.extend([self.score_min, self.score_max]);
        for number in [self.comments, self.other_tags, self.first, self.last, self.checksum] {
            data.extend(number.to_be_bytes());
        }
        if !self.tags.is_empty() {
            let mut tags = Object::begin(data);
            for (tag, count) in self.tags.iter() {
                tags.number(tag, count);
            }
            tags.end();
        }
    }

    /// Read the stored form; `None` when it is of a version that this one does not know, or no stored form at all.
    pub fn decode(data: &[u8]) -> Option<Self> {
        let (fixed, tags) = data.split_at_checked(FIXED_BYTES)?;
        let mut fields = Fields(fixed);
        if fields.byte() != VERSION {
            return None;
        }
        Some(Aggregate {
            revision: u32::from_be_bytes(fields.take()),
            positive: fields.number(),
            negative: fields.number(),
            neutral: fields.number(),
            score_count: fields.number(),
            score_sum: fields.number(),
            score_min: fields.byte(),
            score_max: fields.byte(),
            comments: fields.number(),
            other_tags: fields.number(),
            first: fields.number(),
            last: fields.number(),
            checksum: fields.number(),
            tags: read_tags(tags)?,
        })
    }
}

/// The fields of the stored form, one after the other; there are as many bytes as all of them have.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> [u8; N] {
        let (field, rest) = self.0.split_first_chunk().expect("FIXED_BYTES is the sum of all fields");
        self.0 = rest;
        *field
    }

    fn number(&mut self) -> u64 {
        u64::from_be_bytes(self.take())
    }

    fn byte(&mut self) -> u8 {
        self.take::<1>()[0]
    }
}

/// Read what `orjson` wrote of a dictionary of texts and counts; nothing at all stands for none.
fn read_tags(mut data: &[u8]) -> Option<Tags> {
    let mut tags = Tags::default();
    while let [separator, b'"', rest @ ..] = data {
        if *separator != if tags.is_empty() { b'{' } else { b',' } {
            return None;
        }
        let end = closing_quote(rest)?;
        let after = rest[end..].strip_prefix(b"\":")?;
        let digits = after.iter().position(|byte| !byte.is_ascii_digit())?;
        let count = std::str::from_utf8(&after[..digits]).ok()?.parse().ok()?;
        if !tags.push(&rest[..end], count) {
            return None;
        }
        data = &after[digits..];
    }
    (data == if tags.is_empty() { &b""[..] } else { b"}" }).then_some(tags)
}

/// Where a string ends whose opening quote was read.
fn closing_quote(text: &[u8]) -> Option<usize> {
    let mut escaped = false;
    text.iter().position(|&byte| {
        let closes = byte == b'"' && !escaped;
        escaped = byte == b'\\' && !escaped;
        closes
    })
}
