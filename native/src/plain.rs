//! A reader for events that are written plainly, which is nearly all of them.
//!
//! It takes a part of what `feedback_app.models` takes, and reads the same out of it: a JSON object of the ten fields,
//! each at most once, no string with a backslash or a control character, the time in milliseconds. Whatever else comes,
//! valid or not, is none of its business: Python decides. So it needs no error messages, and it can't be wrong about
//! what it does not know.

use crate::dates::LAST_MS;

const MAX_INPUT_BYTES: usize = 1 << 20;
const MAX_ID: usize = 128;
const MAX_TAG: usize = 32;
const MAX_TAGS: usize = 8;
const MAX_COMMENT: usize = 2_000;

pub enum Rating {
    Positive,
    Negative,
    Neutral,
}

/// What counting needs of an event. Texts are as they stand in the record: UTF-8, and the same in JSON and out of it.
pub struct Event<'a> {
    pub agent_id: &'a [u8],
    pub rating: Rating,
    pub timestamp: i64,
    pub score: Option<u8>,
    pub commented: bool,
    tags: [&'a [u8]; MAX_TAGS],
    tag_count: usize,
}

impl<'a> Event<'a> {
    pub fn tags(&self) -> &[&'a [u8]] {
        &self.tags[..self.tag_count]
    }
}

/// Read one record's value; `None` when it is not plain.
pub fn read(value: &[u8]) -> Option<Event<'_>> {
    if value.len() > MAX_INPUT_BYTES {
        return None;
    }
    let mut reader = Reader { rest: value };
    let event = reader.event()?;
    reader.skip_space();
    reader.rest.is_empty().then_some(event)
}

struct Reader<'a> {
    rest: &'a [u8],
}

/// The fields that were seen, a bit each.
struct Seen(u16);

impl Seen {
    const FEEDBACK_ID: u16 = 1;
    const AGENT_ID: u16 = 1 << 1;
    const USER_ID: u16 = 1 << 2;
    const RATING: u16 = 1 << 3;
    const TIMESTAMP: u16 = 1 << 4;
    const REQUIRED: u16 = (1 << 5) - 1;
    const SCORE: u16 = 1 << 5;
    const MESSAGE_ID: u16 = 1 << 6;
    const CONVERSATION_ID: u16 = 1 << 7;
    const TAGS: u16 = 1 << 8;
    const COMMENT: u16 = 1 << 9;

    /// Note a field by its name; `None` when there is no such field, or it was there before.
    fn first_time(&mut self, name: &[u8]) -> Option<u16> {
        let field = match name {
            b"feedbackId" => Seen::FEEDBACK_ID,
            b"agentId" => Seen::AGENT_ID,
            b"userId" => Seen::USER_ID,
            b"rating" => Seen::RATING,
            b"timestamp" => Seen::TIMESTAMP,
            b"score" => Seen::SCORE,
            b"messageId" => Seen::MESSAGE_ID,
            b"conversationId" => Seen::CONVERSATION_ID,
            b"tags" => Seen::TAGS,
            b"comment" => Seen::COMMENT,
            _ => return None,
        };
        let new = self.0 & field == 0;
        self.0 |= field;
        new.then_some(field)
    }
}

impl<'a> Reader<'a> {
    fn event(&mut self) -> Option<Event<'a>> {
        let mut event = Event {
            agent_id: b"",
            rating: Rating::Neutral,
            timestamp: 0,
            score: None,
            commented: false,
            tags: [b""; MAX_TAGS],
            tag_count: 0,
        };
        let mut seen = Seen(0);
        self.expect(b'{')?;
        loop {
            let field = seen.first_time(self.text()?)?;
            self.expect(b':')?;
            match field {
                Seen::AGENT_ID => event.agent_id = self.id()?,
                Seen::RATING => event.rating = self.rating()?,
                Seen::TIMESTAMP => event.timestamp = self.timestamp()?,
                Seen::SCORE => event.score = self.score()?,
                Seen::TAGS => self.tags(&mut event)?,
                Seen::COMMENT => event.commented = !self.text_or_null(MAX_COMMENT)?.is_empty(),
                Seen::MESSAGE_ID | Seen::CONVERSATION_ID => drop(self.text_or_null(MAX_ID)?),
                Seen::FEEDBACK_ID | Seen::USER_ID => drop(self.id()?),
                _ => return None,
            }
            match self.next()? {
                b',' => {}
                b'}' => return (seen.0 & Seen::REQUIRED == Seen::REQUIRED).then_some(event),
                _ => return None,
            }
        }
    }

    fn skip_space(&mut self) {
        while let [b' ' | b'\t' | b'\n' | b'\r', rest @ ..] = self.rest {
            self.rest = rest;
        }
    }

    /// The next byte that is no space.
    fn next(&mut self) -> Option<u8> {
        self.skip_space();
        let (&byte, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(byte)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    /// The inside of a string that needs no escapes.
    fn text(&mut self) -> Option<&'a [u8]> {
        self.expect(b'"')?;
        let (text, rest) = self.rest.split_at(plain_until(self.rest)?);
        self.rest = rest.strip_prefix(b"\"")?;
        Some(text)
    }

    /// A string of at most so many characters.
    fn text_within(&mut self, characters: usize) -> Option<&'a [u8]> {
        let text = self.text()?;
        let within = if text.is_ascii() {
            text.len() <= characters
        } else {
            std::str::from_utf8(text).ok()?.chars().count() <= characters
        };
        within.then_some(text)
    }

    fn text_or_null(&mut self, characters: usize) -> Option<&'a [u8]> {
        if self.null() {
            return Some(b"");
        }
        self.text_within(characters)
    }

    fn id(&mut self) -> Option<&'a [u8]> {
        self.text_within(MAX_ID).filter(|id| !id.is_empty())
    }

    fn null(&mut self) -> bool {
        self.skip_space();
        let Some(rest) = self.rest.strip_prefix(b"null") else { return false };
        self.rest = rest;
        true
    }

    fn rating(&mut self) -> Option<Rating> {
        match self.text()? {
            b"positive" => Some(Rating::Positive),
            b"negative" => Some(Rating::Negative),
            b"neutral" => Some(Rating::Neutral),
            _ => None,
        }
    }

    /// A number without sign, fraction or exponent: what follows it is for the caller, and must not be any of those.
    fn timestamp(&mut self) -> Option<i64> {
        self.skip_space();
        let end = self.rest.iter().position(|byte| !byte.is_ascii_digit())?;
        let (digits, rest) = self.rest.split_at(end);
        if digits.is_empty() || digits.len() > 15 || (digits[0] == b'0' && digits.len() > 1) {
            return None;
        }
        self.rest = rest;
        let number = digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
        (number <= LAST_MS as i64).then_some(number)
    }

    fn score(&mut self) -> Option<Option<u8>> {
        if self.null() {
            return Some(None);
        }
        match self.next()? {
            digit @ b'1'..=b'5' => Some(Some(digit - b'0')),
            _ => None,
        }
    }

    fn tags(&mut self, event: &mut Event<'a>) -> Option<()> {
        if self.null() {
            return Some(());
        }
        self.expect(b'[')?;
        self.skip_space();
        if let Some(rest) = self.rest.strip_prefix(b"]") {
            self.rest = rest;
            return Some(());
        }
        loop {
            let tag = self.text_within(MAX_TAG).filter(|tag| !tag.is_empty())?;
            *event.tags.get_mut(event.tag_count)? = tag;
            event.tag_count += 1;
            match self.next()? {
                b',' => {}
                b']' => return Some(()),
                _ => return None,
            }
        }
    }
}

/// Where the first quote, backslash or control character stands.
fn plain_until(text: &[u8]) -> Option<usize> {
    let words = text.chunks_exact(size_of::<u64>());
    let rest = words.remainder();
    for (index, word) in words.enumerate() {
        let marks = marks(u64::from_le_bytes(word.try_into().expect("a chunk has as many bytes as a word")));
        if marks != 0 {
            return Some(size_of::<u64>() * index + marks.trailing_zeros() as usize / 8);
        }
    }
    let at = rest.iter().position(|&byte| byte == b'"' || byte == b'\\' || byte < b' ')?;
    Some(text.len() - rest.len() + at)
}

/// Mark the lowest byte that is a quote, a backslash or a control character by its highest bit. Bytes above that may be
/// marked for no reason: a subtraction borrows from them.
fn marks(word: u64) -> u64 {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH_BITS: u64 = ONES << 7;
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH_BITS;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    below(word, b' ') | equal(b'"') | equal(b'\\')
}
