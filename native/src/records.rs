//! Fetched records, which are no objects of Python's until one of them is asked for.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;

use pyo3::exceptions::{PyIndexError, PyUnicodeDecodeError};
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyList, PyString};

use crate::librdkafka::{Fetched, HeaderBytes};

/// So many records are kept together, and let go together: as many as are folded in one slice.
const TOGETHER: usize = 1_000;

/// Consecutive records of one topic and partition.
struct Stored {
    topic: String,
    partition: i32,
    data: Vec<u8>,
    entries: Vec<Entry>,
    /// Of those that have any, by their indexes.
    headers: HashMap<usize, Vec<HeaderBytes>>,
}

/// What stands in `data` from where the entry before it ends: its key, then its value.
struct Entry {
    offset: i64,
    /// Its type, and ms since the epoch.
    timestamp: (i32, i64),
    key_end: usize,
    value_end: usize,
    has_key: bool,
    has_value: bool,
}

impl Stored {
    fn new(topic: String, partition: i32) -> Self {
        Stored { topic, partition, data: Vec::new(), entries: Vec::new(), headers: HashMap::new() }
    }

    /// Copy a record; say how many bytes that are.
    fn add(&mut self, record: &Fetched<'_>) -> usize {
        let (headers, before) = (record.headers(), self.data.len());
        let header_bytes =
            headers.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum::<usize>();
        if !headers.is_empty() {
            self.headers.insert(self.entries.len(), headers);
        }
        let (key, value) = (record.key(), record.value());
        self.data.extend_from_slice(key.unwrap_or_default());
        let key_end = self.data.len();
        self.data.extend_from_slice(value.unwrap_or_default());
        self.entries.push(Entry {
            offset: record.offset(),
            timestamp: record.timestamp(),
            key_end,
            value_end: self.data.len(),
            has_key: key.is_some(),
            has_value: value.is_some(),
        });
        header_bytes + self.data.len() - before
    }

    /// Give back the room for more: it waits for its turn with many others.
    fn complete(mut self) -> Arc<Self> {
        self.data.shrink_to_fit();
        self.entries.shrink_to_fit();
        Arc::new(self)
    }

    fn key(&self, index: usize) -> Option<&[u8]> {
        let entry = &self.entries[index];
        let start = index.checked_sub(1).map_or(0, |before| self.entries[before].value_end);
        entry.has_key.then(|| &self.data[start..entry.key_end])
    }

    fn value(&self, index: usize) -> Option<&[u8]> {
        let entry = &self.entries[index];
        entry.has_value.then(|| &self.data[entry.key_end..entry.value_end])
    }
}

/// Records of one topic and partition that are being fetched.
pub struct Fetching {
    complete: VecDeque<Part>,
    last: Stored,
}

impl Fetching {
    pub fn new(topic: String, partition: i32) -> Self {
        Fetching { complete: VecDeque::new(), last: Stored::new(topic, partition) }
    }

    pub fn topic(&self) -> &str {
        &self.last.topic
    }

    /// See `Stored::add`.
    pub fn add(&mut self, record: &Fetched<'_>) -> usize {
        if self.last.entries.len() == TOGETHER {
            let next = Stored::new(self.last.topic.clone(), self.last.partition);
            self.complete.push_back(Part::all_of(std::mem::replace(&mut self.last, next)));
        }
        self.last.add(record)
    }

    pub fn records(mut self) -> Records {
        self.complete.push_back(Part::all_of(self.last));
        Records { parts: self.complete }
    }
}

struct Part {
    of: Arc<Stored>,
    range: Range<usize>,
}

impl Part {
    fn all_of(stored: Stored) -> Self {
        Part { range: 0..stored.entries.len(), of: stored.complete() }
    }

    /// Take the first `count`, or all.
    fn take(&mut self, count: usize) -> Part {
        let end = self.range.end.min(self.range.start.saturating_add(count));
        let taken = Part { of: self.of.clone(), range: self.range.start..end };
        self.range.start = end;
        taken
    }
}

/// See `feedback_app.transport.readers.Fetched`.
#[pyclass]
pub struct Records {
    parts: VecDeque<Part>,
}

impl Records {
    pub fn len(&self) -> usize {
        self.parts.iter().map(|part| part.range.len()).sum()
    }

    pub fn value(&self, index: usize) -> Option<&[u8]> {
        let (of, index) = self.at(index);
        of.value(index)
    }

    pub fn offset(&self, index: usize) -> i64 {
        let (of, index) = self.at(index);
        of.entries[index].offset
    }

    pub fn timestamp(&self, index: usize) -> (i32, i64) {
        let (of, index) = self.at(index);
        of.entries[index].timestamp
    }

    /// Where a record is stored. What is folded at once has one part, or two.
    fn at(&self, mut index: usize) -> (&Arc<Stored>, usize) {
        for part in &self.parts {
            if index < part.range.len() {
                return (&part.of, part.range.start + index);
            }
            index -= part.range.len();
        }
        panic!("there is no such record: whoever asks knows how many there are");
    }
}

#[pymethods]
impl Records {
    fn __len__(&self) -> usize {
        self.len()
    }

    fn __getitem__(&self, index: isize) -> PyResult<Record> {
        let length = self.len() as isize;
        let from_start = if index < 0 { index + length } else { index };
        if !(0..length).contains(&from_start) {
            return Err(PyIndexError::new_err("no such record"));
        }
        let (of, index) = self.at(from_start as usize);
        Ok(Record { all: of.clone(), index, headers: None })
    }

    /// What is taken is held here no longer: it goes when whoever took it is done.
    fn take(&mut self, count: usize) -> Records {
        let (mut taken, mut left) = (Records { parts: VecDeque::new() }, count);
        while let Some(part) = self.parts.front_mut().filter(|_| left > 0) {
            let some = part.take(left);
            if part.range.is_empty() {
                self.parts.pop_front();
            }
            left -= some.range.len();
            taken.parts.push_back(some);
        }
        taken
    }
}

/// One of them: see `feedback_app.core.events.SourceRecord`.
#[pyclass]
pub struct Record {
    all: Arc<Stored>,
    index: usize,
    headers: Option<PyObject>,
}

impl Record {
    fn entry(&self) -> &Entry {
        &self.all.entries[self.index]
    }
}

#[pymethods]
impl Record {
    fn topic(&self) -> &str {
        &self.all.topic
    }

    fn partition(&self) -> i32 {
        self.all.partition
    }

    fn offset(&self) -> i64 {
        self.entry().offset
    }

    fn timestamp(&self) -> (i32, i64) {
        self.entry().timestamp
    }

    fn key<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.all.key(self.index).map(|key| PyBytes::new(py, key))
    }

    fn value<'py>(&self, py: Python<'py>) -> Option<Bound<'py, PyBytes>> {
        self.all.value(self.index).map(|value| PyBytes::new(py, value))
    }

    fn headers(&self, py: Python<'_>) -> PyResult<Option<PyObject>> {
        if let Some(headers) = &self.headers {
            return Ok(Some(headers.clone_ref(py)));
        }
        let Some(headers) = self.all.headers.get(&self.index) else { return Ok(None) };
        let pairs = headers.iter().map(|(name, value)| {
            let name = std::str::from_utf8(name)
                .map_err(|error| decode_error(py, name, error))
                .map(|name| PyString::new(py, name))?;
            Ok((name, value.as_ref().map(|value| PyBytes::new(py, value))))
        });
        Ok(Some(PyList::new(py, pairs.collect::<PyResult<Vec<_>>>()?)?.into_any().unbind()))
    }

    fn set_headers(&mut self, headers: PyObject) {
        self.headers = Some(headers);
    }
}

fn decode_error(py: Python<'_>, name: &[u8], error: std::str::Utf8Error) -> PyErr {
    PyUnicodeDecodeError::new_utf8(py, name, error)
        .map_or_else(|failure| failure, |error| PyErr::from_value(error.into_any()))
}
