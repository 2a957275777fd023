//! The windows that one fold counts into: `feedback_app.core.counts`, for plain records.

use std::collections::HashMap;

use pyo3::exceptions::PyValueError;
use pyo3::intern;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyDict, PyList};

use crate::aggregate::Aggregate;
use crate::{checksum, plain};

const OPEN: u8 = b'o';
const LOG_APPEND_TIME: i64 = 2;

/// See `feedback_app.core.counts.Counts`, which says what each method does.
#[pyclass]
pub struct Counts {
    #[pyo3(get, set)]
    highest: i64,
    open_window: PyObject,
    window_size: i64,
    max_future_ms: i64,
    now_ms: i64,
    windows: HashMap<Vec<u8>, Aggregate>,
}

#[pymethods]
impl Counts {
    #[new]
    fn new(open_window: PyObject, window_size: i64, max_future_ms: i64, now_ms: i64, highest: i64) -> PyResult<Self> {
        if window_size < 1 {
            return Err(PyValueError::new_err("a window has at least a millisecond"));
        }
        Ok(Counts { highest, open_window, window_size, max_future_ms, now_ms, windows: HashMap::new() })
    }

    fn __len__(&self) -> usize {
        self.windows.len()
    }

    fn count(&mut self, part: &Bound<'_, PyAny>, at: usize, first_open: i64, moves_at: i64) -> PyResult<usize> {
        let py = part.py();
        let records = part.getattr(intern!(py, "records"))?.downcast_into::<PyList>()?;
        let seed = part.getattr(intern!(py, "seed"))?.extract()?;
        let offsets = Offsets::of(&records)?;
        let mut key = Vec::new();
        for index in at..records.len() {
            let record = records.get_item(index)?;
            let value = record.call_method0(intern!(py, "value"))?;
            let Ok(value) = value.downcast::<PyBytes>() else { return Ok(index) };
            let Some(event) = plain::read(value.as_bytes()) else { return Ok(index) };
            let timestamp = event.timestamp;
            if timestamp < first_open {
                return Ok(index);
            }
            if timestamp > self.highest
                && (timestamp >= moves_at || timestamp > self.clock(&record)?.saturating_add(self.max_future_ms))
            {
                return Ok(index);
            }
            self.write_key(&mut key, timestamp, event.agent_id);
            let share = checksum::of(seed, offsets.at(index, &record)?);
            if let Some(aggregate) = self.windows.get_mut(&key) {
                aggregate.add(&event, share);
            } else if let Some(mut aggregate) = self.open(py, &key)? {
                aggregate.add(&event, share);
                self.windows.insert(key.clone(), aggregate);
            } else {
                return Ok(index);
            }
            self.highest = self.highest.max(timestamp);
        }
        Ok(records.len())
    }

    fn get<'py>(&self, py: Python<'py>, key: &[u8]) -> PyResult<Option<Bound<'py, PyBytes>>> {
        match self.windows.get(key) {
            Some(aggregate) => Ok(Some(PyBytes::new(py, &aggregate.encode()))),
            None => self.stored(py, key),
        }
    }

    fn put(&mut self, key: &[u8], value: &[u8]) -> PyResult<()> {
        self.windows.insert(key.to_vec(), decode(value)?);
        Ok(())
    }

    fn changes<'py>(&self, py: Python<'py>) -> PyResult<Bound<'py, PyDict>> {
        // In the order of their keys, which is the order that RocksDB keeps them in.
        let mut windows: Vec<_> = self.windows.iter().collect();
        windows.sort_unstable_by_key(|&(key, _)| key);
        let changes = PyDict::new(py);
        for (key, aggregate) in windows {
            changes.set_item(PyBytes::new(py, key), PyBytes::new(py, &aggregate.encode()))?;
        }
        Ok(changes)
    }
}

impl Counts {
    /// What "in the future" is measured against.
    fn clock(&self, record: &Bound<'_, PyAny>) -> PyResult<i64> {
        let (kind, appended): (i64, i64) = record.call_method0(intern!(record.py(), "timestamp"))?.extract()?;
        Ok(if kind == LOG_APPEND_TIME { appended } else { self.now_ms })
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
        match self.stored(py, key)? {
            None => Ok(None),
            Some(new) if new.as_bytes().is_empty() => Ok(Some(Aggregate::default())),
            Some(stored) => decode(stored.as_bytes()).map(Some),
        }
    }
}

fn decode(data: &[u8]) -> PyResult<Aggregate> {
    Aggregate::decode(data).ok_or_else(|| PyValueError::new_err("a stored window has a format that is unknown here"))
}

/// The offsets of a slice. Mostly they follow each other, and need not be asked for one by one.
enum Offsets {
    From(u64),
    Gaps,
}

impl Offsets {
    fn of(records: &Bound<'_, PyList>) -> PyResult<Self> {
        let (first, last) = match records.len() {
            0 => return Ok(Offsets::Gaps),
            length => (offset_of(&records.get_item(0)?)?, offset_of(&records.get_item(length - 1)?)?),
        };
        // They rise within a partition.
        let without_gaps = last.checked_sub(first) == Some(records.len() as u64 - 1);
        Ok(if without_gaps { Offsets::From(first) } else { Offsets::Gaps })
    }

    fn at(&self, index: usize, record: &Bound<'_, PyAny>) -> PyResult<u64> {
        match self {
            Offsets::From(first) => Ok(first + index as u64),
            Offsets::Gaps => offset_of(record),
        }
    }
}

fn offset_of(record: &Bound<'_, PyAny>) -> PyResult<u64> {
    record.call_method0(intern!(record.py(), "offset"))?.extract()
}
