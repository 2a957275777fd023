//! What leaves the application of a window: its document, and its aggregated event. `feedback_app.core.documents` has
//! the fields, and this gives them in the same order.

use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDateTime, PyDict, PyList, PyString, PyTzInfo};

use crate::aggregate::Aggregate;
use crate::dates::Date;
use crate::json::{is_plain, Object};

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
    let mut event = Vec::new();
    due.iter()
        .map(|(key, value)| {
            let Some(window) = Window::read(key.as_bytes(), value.as_bytes()) else { return Ok(None) };
            // A copy has all fields in their places already: the one before has the same.
            let document = last.as_ref().map_or_else(|| Ok(PyDict::new(py)), |last| last.copy())?;
            let id = format!("{}|{}|{}", window.agent_id, window.start, window.size);
            window.fill(&document, &id, &mut bounds)?;
            last = Some(document.clone());
            event.clear();
            window.write_event(&id, &mut event);
            Ok(Some((document, PyBytes::new(py, &event))))
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

    fn write_event(&self, id: &str, out: &mut Vec<u8>) {
        let counts = &self.counts;
        let mut event = Object::begin(out);
        event.text("_id", id);
        event.text("agentId", self.agent_id);
        event.date("windowStart", self.start);
        event.date("windowEnd", self.start + self.size);
        event.number("windowSize", self.size);
        event.number("count", counts.count());
        event.number("positive", counts.positive);
        event.number("negative", counts.negative);
        event.number("neutral", counts.neutral);
        event.number("scoreCount", counts.score_count);
        event.number("scoreSum", counts.score_sum);
        event.number_or_null("scoreMin", counts.score_min());
        event.number_or_null("scoreMax", counts.score_max());
        event.number("comments", counts.comments);
        event.list("tags", &sorted_tags(counts), |out, &(tag, count)| {
            let mut object = Object::begin(out);
            object.text("tag", tag);
            object.number("count", count);
            object.end();
        });
        event.number("otherTags", counts.other_tags);
        event.date("firstTimestamp", counts.first);
        event.date("lastTimestamp", counts.last);
        event.number("revision", u64::from(counts.revision));
        event.number("checksum", counts.checksum);
        event.text("eventId", &format!("{}:{}:{}:{}", self.agent_id, self.start, self.size, counts.revision));
        event.end();
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
        counts.tags.iter().filter_map(|(tag, count)| Some((std::str::from_utf8(tag).ok()?, count))).collect();
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
