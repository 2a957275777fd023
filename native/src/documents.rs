//! What leaves the application of a window: its document, and its aggregated event. `feedback_app.core.documents` has
//! the fields, and this gives them in the same order.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDateTime, PyDict, PyList, PyString, PyTzInfo};

use crate::aggregate::Aggregate;
use crate::dates::Date;

type Described<'py> = (Bound<'py, PyDict>, Bound<'py, PyBytes>);

/// The document and the encoded event of each window, given its key and its stored value; `None` for what is not plain,
/// an id or a tag that needs escapes in JSON: that is Python's to do.
#[pyfunction]
pub fn describe<'py>(
    py: Python<'py>,
    due: Vec<(Bound<'py, PyBytes>, Bound<'py, PyBytes>)>,
) -> PyResult<Vec<Option<Described<'py>>>> {
    let mut bounds = Bounds::default();
    let mut last: Option<Bound<'py, PyDict>> = None;
    due.iter()
        .map(|(key, value)| {
            let Some(window) = Window::read(key.as_bytes(), value.as_bytes()) else { return Ok(None) };
            // A copy has all fields in their places already: the one before has the same.
            let document = last.as_ref().map_or_else(|| Ok(PyDict::new(py)), |last| last.copy())?;
            let id = format!("{}|{}|{}", window.agent_id, window.start, window.size);
            window.fill(&document, &id, &mut bounds)?;
            last = Some(document.clone());
            Ok(Some((document, PyBytes::new(py, &window.event(&id)))))
        })
        .collect()
}

struct Window<'a> {
    agent_id: &'a str,
    start: u64,
    size: u64,
    counts: Aggregate,
}

impl<'a> Window<'a> {
    fn read(key: &'a [u8], value: &[u8]) -> Option<Self> {
        let (times, agent_id) = key.get(1..)?.split_at_checked(16)?;
        let (end, size) = times.split_at(8);
        let (end, size) = (u64::from_be_bytes(end.try_into().ok()?), u64::from_be_bytes(size.try_into().ok()?));
        let agent_id = std::str::from_utf8(agent_id).ok()?;
        let counts = Aggregate::decode(value)?;
        let plain = is_plain(agent_id.as_bytes()) && counts.tags.iter().all(|(tag, _)| is_plain(tag));
        plain.then_some(Window { agent_id, start: end.checked_sub(size)?, size, counts })
    }

    fn fill<'py>(&self, document: &Bound<'py, PyDict>, id: &str, bounds: &mut Bounds<'py>) -> PyResult<()> {
        let (py, counts) = (document.py(), &self.counts);
        let (start, end) = bounds.of(py, self.start, self.start + self.size)?;
        macro_rules! set {
            ($name:literal, $value:expr) => {
                document.set_item(pyo3::intern!(py, $name), $value)?
            };
        }
        set!("_id", id);
        set!("agentId", self.agent_id);
        set!("windowStart", start);
        set!("windowEnd", end);
        set!("windowSize", self.size);
        set!("count", counts.count());
        set!("positive", counts.positive);
        set!("negative", counts.negative);
        set!("neutral", counts.neutral);
        set!("scoreCount", counts.score_count);
        set!("scoreSum", counts.score_sum);
        set!("scoreMin", counts.score_min());
        set!("scoreMax", counts.score_max());
        set!("comments", counts.comments);
        set!("tags", tag_documents(py, counts)?);
        set!("otherTags", counts.other_tags);
        set!("firstTimestamp", date(py, counts.first)?);
        set!("lastTimestamp", date(py, counts.last)?);
        set!("revision", counts.revision);
        set!("checksum", counts.checksum);
        Ok(())
    }

    fn event(&self, id: &str) -> Vec<u8> {
        let counts = &self.counts;
        let mut json = Json(Vec::with_capacity(640 + 64 * counts.tags.len()));
        json.text("_id", id);
        json.text("agentId", self.agent_id);
        json.date("windowStart", self.start);
        json.date("windowEnd", self.start + self.size);
        json.number("windowSize", self.size);
        json.number("count", counts.count());
        json.number("positive", counts.positive);
        json.number("negative", counts.negative);
        json.number("neutral", counts.neutral);
        json.number("scoreCount", counts.score_count);
        json.number("scoreSum", counts.score_sum);
        json.number_or_null("scoreMin", counts.score_min());
        json.number_or_null("scoreMax", counts.score_max());
        json.number("comments", counts.comments);
        json.tags("tags", &sorted_tags(counts));
        json.number("otherTags", counts.other_tags);
        json.date("firstTimestamp", counts.first);
        json.date("lastTimestamp", counts.last);
        json.number("revision", u64::from(counts.revision));
        json.number("checksum", counts.checksum);
        json.text("eventId", &format!("{}:{}:{}:{}", self.agent_id, self.start, self.size, counts.revision));
        json.done()
    }
}

/// The dates of the last window's bounds: mostly they are those of the next one, too.
#[derive(Default)]
struct Bounds<'py>(Option<(u64, u64, Bound<'py, PyDateTime>, Bound<'py, PyDateTime>)>);

impl<'py> Bounds<'py> {
    fn of(
        &mut self,
        py: Python<'py>,
        start: u64,
        end: u64,
    ) -> PyResult<(Bound<'py, PyDateTime>, Bound<'py, PyDateTime>)> {
        match &self.0 {
            Some((of_start, of_end, from, to)) if (*of_start, *of_end) == (start, end) => {
                Ok((from.clone(), to.clone()))
            }
            _ => {
                let (from, to) = (date(py, start)?, date(py, end)?);
                self.0 = Some((start, end, from.clone(), to.clone()));
                Ok((from, to))
            }
        }
    }
}

fn date(py: Python<'_>, ms: u64) -> PyResult<Bound<'_, PyDateTime>> {
    let date = Date::of(ms);
    let utc = PyTzInfo::utc(py)?;
    PyDateTime::new(
        py,
        date.year,
        date.month,
        date.day,
        date.hour,
        date.minute,
        date.second,
        u32::from(date.millisecond) * 1_000,
        Some(&utc),
    )
}

fn sorted_tags(counts: &Aggregate) -> Vec<(&str, u64)> {
    // A tag that was read from JSON is UTF-8, and in the order of its bytes is in the order of its characters.
    let mut tags: Vec<_> =
        counts.tags.iter().filter_map(|(tag, count)| Some((std::str::from_utf8(tag).ok()?, *count))).collect();
    tags.sort_unstable();
    tags
}

fn tag_documents<'py>(py: Python<'py>, counts: &Aggregate) -> PyResult<Bound<'py, PyList>> {
    let documents = PyList::empty(py);
    for (tag, count) in sorted_tags(counts) {
        let document = PyDict::new(py);
        document.set_item(pyo3::intern!(py, "tag"), PyString::new(py, tag))?;
        document.set_item(pyo3::intern!(py, "count"), count)?;
        documents.append(document)?;
    }
    Ok(documents)
}

/// Whether a text is the same in JSON as out of it.
fn is_plain(text: &[u8]) -> bool {
    text.iter().all(|&byte| byte >= b' ' && byte != b'"' && byte != b'\\' && byte != 0x7F)
}

fn write_number(out: &mut Vec<u8>, mut number: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

/// A JSON object that is being written, field by field. Its texts are plain.
struct Json(Vec<u8>);

impl Json {
    fn name(&mut self, name: &str) {
        self.0.extend_from_slice(if self.0.is_empty() { b"{\"" } else { b",\"" });
        self.0.extend_from_slice(name.as_bytes());
        self.0.extend_from_slice(b"\":");
    }

    fn text(&mut self, name: &str, text: &str) {
        self.name(name);
        self.0.push(b'"');
        self.0.extend_from_slice(text.as_bytes());
        self.0.push(b'"');
    }

    fn number(&mut self, name: &str, number: u64) {
        self.name(name);
        write_number(&mut self.0, number);
    }

    fn number_or_null(&mut self, name: &str, number: Option<u8>) {
        match number {
            Some(number) => self.number(name, u64::from(number)),
            None => {
                self.name(name);
                self.0.extend_from_slice(b"null");
            }
        }
    }

    fn date(&mut self, name: &str, ms: u64) {
        self.name(name);
        self.0.push(b'"');
        Date::of(ms).write(&mut self.0);
        self.0.push(b'"');
    }

    fn tags(&mut self, name: &str, tags: &[(&str, u64)]) {
        self.name(name);
        self.0.push(b'[');
        for (index, (tag, count)) in tags.iter().enumerate() {
            if index > 0 {
                self.0.push(b',');
            }
            let mut document = Json(Vec::new());
            document.text("tag", tag);
            document.number("count", *count);
            self.0.extend_from_slice(&document.done());
        }
        self.0.push(b']');
    }

    fn done(mut self) -> Vec<u8> {
        self.0.push(b'}');
        self.0
    }
}
