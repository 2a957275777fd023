//! The windows that one fold counts into: `feedback_app.core.counts`, for plain records.

use std::num::NonZeroU32;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::pybacked::PyBackedBytes;
use pyo3::types::{PyBytes, PyDict, PySequence, PyString};

use crate::aggregate::Aggregate;
use crate::partitioning::partition_of;
use crate::records::Records;
use crate::windows::Windows;
use crate::{checksum, plain};

const OPEN: u8 = b'o';
const AGENT_AT: usize = 17;
const LOG_APPEND_TIME: i32 = 2;

/// See `feedback_app.core.counts.Shortcut`.
#[derive(FromPyObject)]
struct Shortcut {
    partition: u32,
    partitions: NonZeroU32,
    stored: Py<PyDict>,
    later_than: PyBackedBytes,
    watermark: i64,
}

/// See `feedback_app.core.counts.Counts`, which says what each method does.
#[pyclass]
pub struct Counts {
    #[pyo3(get, set)]
    highest: i64,
    open_window: PyObject,
    window_size: i64,
    max_future_ms: i64,
    now_ms: i64,
    shortcut: Option<Shortcut>,
    windows: Windows,
}

#[pymethods]
impl Counts {
    #[new]
    #[pyo3(signature = (open_window, window_size, max_future_ms, now_ms, highest, shortcut = None))]
    fn new(
        open_window: PyObject,
        window_size: i64,
        max_future_ms: i64,
        now_ms: i64,
        highest: i64,
        shortcut: Option<Shortcut>,
    ) -> PyResult<Self> {
        if window_size < 1 {
            return Err(PyValueError::new_err("a window has at least a millisecond"));
        }
        Ok(Counts { highest, open_window, window_size, max_future_ms, now_ms, shortcut, windows: Windows::default() })
    }

    fn __len__(&self) -> usize {
        self.windows.len()
    }

    fn count(&mut self, part: &Bound<'_, PyAny>, at: usize, first_open: i64, moves_at: i64) -> PyResult<usize> {
        let py = part.py();
        let seed = part.getattr(intern!(py, "seed"))?.extract()?;
        let records = part.getattr(intern!(py, "records"))?;
        if let Ok(records) = records.downcast::<Records>() {
            return self.count_all(py, &*records.borrow(), at, seed, first_open, moves_at);
        }
        self.count_all(py, &Messages::of(records.downcast_into()?)?, at, seed, first_open, moves_at)
    }

    fn get<'py>(&self, py: Python<'py>, key: &[u8]) -> PyResult<Option<Bound<'py, PyBytes>>> {
        let Some(aggregate) = self.windows.get(key) else { return self.stored(py, key) };
        let mut value = Vec::new();
        aggregate.encode(&mut value);
        Ok(Some(PyBytes::new(py, &value)))
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> PyResult<()> {
        self.windows.put(key, decode(value)?);
        Ok(())
    }

    fn changes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        let (changes, mut value) = (PyDict::new(py), Vec::new());
        for (key, aggregate) in self.windows.sorted() {
            value.clear();
            aggregate.encode(&mut value);
            changes.set_item(PyBytes::new(py, key), PyBytes::new(py, &value))?;
        }
        Ok(changes)
    }
}

impl Counts {
    fn count_all(
        &mut self,
        py: Python<'_>,
        records: &impl Slice,
        at: usize,
        seed: u32,
        first_open: i64,
        moves_at: i64,
    ) -> PyResult<usize> {
        let mut key = Vec::new();
        for index in at..records.len() {
            let value = records.value(index)?;
            let Some(event) = value.as_ref().and_then(|value| plain::read(value.as_ref())) else { return Ok(index) };
            let timestamp = event.timestamp;
            if timestamp < first_open {
                return Ok(index);
            }
            if timestamp > self.highest {
                let (kind, appended) = records.timestamp(index)?;
                let clock = if kind == LOG_APPEND_TIME { appended } else { self.now_ms };
                if timestamp >= moves_at || timestamp > clock.saturating_add(self.max_future_ms) {
                    return Ok(index);
                }
            }
            self.write_key(&mut key, timestamp, event.agent_id);
            let share = checksum::of(seed, records.offset(index)?);
            if let Some(aggregate) = self.windows.get_mut(&key) {
                aggregate.add(&event, share);
            } else if let Some(aggregate) = self.open(py, &key)? {
                self.windows.put(&key, aggregate).add(&event, share);
            } else {
                return Ok(index);
            }
            self.highest = self.highest.max(timestamp);
        }
        Ok(records.len())
    }

    fn write_key(&self, key: &mut Vec<u8>, timestamp: i64, agent_id: &[u8]) {
        let end = timestamp - timestamp % self.window_size + self.window_size;
        key.clear();
        key.push(OPEN);
        key.extend(end.to_be_bytes());
        key.extend(self.window_size.to_be_bytes());
        key.extend(agent_id);
    }

    /// What to count on from, as it is stored, and empty for a new window; `None` when the window is not counted here.
    fn stored<'py>(&self, py: Python<'py>, key: &[u8]) -> PyResult<Option<Bound<'py, PyBytes>>> {
        self.open_window.bind(py).call1((PyBytes::new(py, key),))?.extract()
    }

    fn open(&self, py: Python<'_>, key: &[u8]) -> PyResult<Option<Aggregate>> {
        if let Some(shortcut) = &self.shortcut {
            if !shortcut.is_here(key) {
                return Ok(None);
            }
            if shortcut.is_new(key) {
                return Ok(Some(Aggregate::default()));
            }
            if let Some(value) = shortcut.stored.bind(py).get_item(PyBytes::new(py, key))? {
                return decode(value.downcast::<PyBytes>()?.as_bytes()).map(Some);
            }
        }
        match self.stored(py, key)? {
            None => Ok(None),
            Some(new) if new.as_bytes().is_empty() => Ok(Some(Aggregate::default())),
            Some(stored) => decode(stored.as_bytes()).map(Some),
        }
    }
}

impl Shortcut {
    fn is_here(&self, key: &[u8]) -> bool {
        partition_of(&key[AGENT_AT..], self.partitions) == self.partition
    }

    fn is_new(&self, key: &[u8]) -> bool {
        key > &*self.later_than && key[1..9] > self.watermark.max(0).to_be_bytes()[..]
    }
}

fn decode(data: &[u8]) -> PyResult<Aggregate> {
    Aggregate::decode(data).ok_or_else(|| PyValueError::new_err("a stored window has a format that is unknown here"))
}

/// Consecutive records of one source partition.
trait Slice {
    type Value<'a>: AsRef<[u8]>
    where
        Self: 'a;

    fn len(&self) -> usize;

    /// None where there is none, or none that is plain.
    fn value(&self, index: usize) -> PyResult<Option<Self::Value<'_>>>;

    fn offset(&self, index: usize) -> PyResult<u64>;

    fn timestamp(&self, index: usize) -> PyResult<(i32, i64)>;
}

impl Slice for Records {
    type Value<'a> = &'a [u8];

    fn len(&self) -> usize {
        self.len()
    }

    fn value(&self, index: usize) -> PyResult<Option<&[u8]>> {
        Ok(self.value(index))
    }

    fn offset(&self, index: usize) -> PyResult<u64> {
        Ok(self.offset(index).unsigned_abs())
    }

    fn timestamp(&self, index: usize) -> PyResult<(i32, i64)> {
        Ok(self.timestamp(index))
    }
}

/// Records as confluent-kafka has them.
struct Messages<'py> {
    records: Bound<'py, PySequence>,
    length: usize,
    /// The first one's offset, if the others follow it without a gap: mostly they do, and need not be asked.
    first: Option<u64>,
}

impl<'py> Messages<'py> {
    fn of(records: Bound<'py, PySequence>) -> PyResult<Self> {
        let length = records.len()?;
        let mut messages = Messages { records, length, first: None };
        if let Some(last) = length.checked_sub(1) {
            let (first, last_offset) = (messages.offset(0)?, messages.offset(last)?);
            // They rise within a partition.
            messages.first = (last_offset.checked_sub(first) == Some(last as u64)).then_some(first);
        }
        Ok(messages)
    }

    fn ask<'a, T: FromPyObject<'py>>(&'a self, index: usize, method: &Bound<'py, PyString>) -> PyResult<T> {
        self.records.get_item(index)?.call_method0(method)?.extract()
    }
}

impl<'py> Slice for Messages<'py> {
    type Value<'a>
        = PyBackedBytes
    where
        Self: 'a;

    fn len(&self) -> usize {
        self.length
    }

    fn value(&self, index: usize) -> PyResult<Option<PyBackedBytes>> {
        let py = self.records.py();
        let value: Bound<'py, PyAny> = self.ask(index, intern!(py, "value"))?;
        Ok(value.extract().ok())
    }

    fn offset(&self, index: usize) -> PyResult<u64> {
        match self.first {
            Some(first) => Ok(first + index as u64),
            None => self.ask(index, intern!(self.records.py(), "offset")),
        }
    }

    fn timestamp(&self, index: usize) -> PyResult<(i32, i64)> {
        self.ask(index, intern!(self.records.py(), "timestamp"))
    }
}
