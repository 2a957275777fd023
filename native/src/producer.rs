//! A transactional producer that holds the interpreter only while it looks through a list of records: not while they are
//! handed to librdkafka, nor while the broker is waited for. `feedback_app.transport.clients` says what each call does.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyList;

use crate::apart::Apart;
use crate::librdkafka::{self, Config};

type Bytes = Option<PyBackedBytes>;

/// `feedback_app.core.transaction.Send`.
#[derive(FromPyObject)]
struct Send {
    topic: PyBackedStr,
    partition: i32,
    key: Bytes,
    value: Bytes,
    headers: Vec<(PyBackedStr, Bytes)>,
}

/// What a record takes in a batch besides its key, its value and its headers, at most; and each header, and the batch.
const RECORD_BYTES: usize = 36;
const HEADER_BYTES: usize = 10;
const BATCH_HEAD_BYTES: usize = 1_024;

#[pyclass(frozen)]
pub struct Producer {
    client: Apart<librdkafka::Producer>,
    batches: Mutex<Batches>,
}

/// How many bytes were handed over for each topic and partition since the last flush. Of no partition that is more than
/// a batch: `feedback_app.transport.clients` says why.
struct Batches {
    most: usize,
    filled: HashMap<(String, i32), usize>,
}

impl Batches {
    /// Note as many of the records, given their sizes, as still go into a partition's batch; return how many. A record
    /// that is larger than a batch goes into one by itself, and librdkafka says what it thinks of that.
    fn fill(&mut self, topic: &str, partition: i32, sizes: impl Iterator<Item = usize>) -> usize {
        let filled = self.filled.entry((topic.to_owned(), partition)).or_default();
        let fits = |size: &usize| {
            let fits = *filled == 0 || *filled + size <= self.most;
            *filled += if fits { *size } else { 0 };
            fits
        };
        sizes.take_while(fits).count()
    }
}

impl Producer {
    pub fn new(client: Apart<librdkafka::Producer>, config: &Config) -> Self {
        let size = config.iter().find(|(name, _)| name == "batch.size").and_then(|(_, size)| size.parse().ok());
        let most = size.unwrap_or(usize::MAX).saturating_sub(BATCH_HEAD_BYTES);
        Producer { client, batches: Mutex::new(Batches { most, filled: HashMap::new() }) }
    }

    fn batches(&self) -> std::sync::MutexGuard<'_, Batches> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn length(bytes: &Bytes) -> usize {
    bytes.as_ref().map_or(0, |bytes| bytes.len())
}

#[pymethods]
impl Producer {
    fn init_transactions(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.client.call(py, |producer| producer.init_transactions(Duration::from_secs_f64(seconds)))
    }

    fn begin_transaction(&self, py: Python<'_>) -> PyResult<()> {
        self.batches().filled.clear(); // what was aborted has gone
        self.client.call(py, librdkafka::Producer::begin_transaction)
    }

    fn commit_transaction(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.client.call(py, |producer| producer.commit_transaction(Duration::from_secs_f64(seconds)))
    }

    fn abort_transaction(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.client.call(py, |producer| producer.abort_transaction(Duration::from_secs_f64(seconds)))
    }

    fn produce_all<'py>(
        &self,
        topic: &str,
        partition: i32,
        records: &Bound<'py, PyList>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let pairs: Vec<(Bytes, Bytes)> = records.extract()?;
        let sizes = pairs.iter().map(|(key, value)| RECORD_BYTES + length(key) + length(value));
        let fitting = self.batches().fill(topic, partition, sizes);
        let refused = self.client.call(records.py(), |producer| {
            let pairs = pairs[..fitting].iter().map(|(key, value)| (key.as_deref(), value.as_deref()));
            producer.produce_all(topic, partition, pairs)
        })?;
        refused.into_iter().chain(fitting..pairs.len()).map(|index| records.get_item(index)).collect()
    }

    #[pyo3(signature = (send, *, tell_offset = false))]
    fn produce(&self, py: Python<'_>, send: Send, tell_offset: bool) -> PyResult<bool> {
        let headers = send.headers.iter().map(|(name, value)| HEADER_BYTES + name.len() + length(value));
        let size = RECORD_BYTES + length(&send.key) + length(&send.value) + headers.sum::<usize>();
        if self.batches().fill(&send.topic, send.partition, std::iter::once(size)) == 0 {
            return Ok(false);
        }
        self.client.call(py, |producer| {
            let headers: Vec<_> = send.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
            let pair = (send.key.as_deref(), send.value.as_deref());
            producer.produce(&send.topic, send.partition, pair, &headers, tell_offset)
        })
    }

    fn flush(&self, py: Python<'_>, seconds: f64) -> PyResult<usize> {
        let left = self.client.call(py, |producer| Ok(producer.flush(Duration::from_secs_f64(seconds))))?;
        if left == 0 {
            self.batches().filled.clear();
        }
        Ok(left)
    }

    fn offset(&self, py: Python<'_>) -> PyResult<i64> {
        self.client.call(py, |producer| Ok(producer.offset()))
    }
}
