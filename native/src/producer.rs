//! A transactional producer that holds the interpreter only while it looks through a list of records: not while they are
//! handed to librdkafka, nor while the broker is waited for. `feedback_app.transport.clients` says what each call does.

use std::time::Duration;

use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyList;

use crate::apart::Apart;
use crate::librdkafka;

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

#[pyclass(frozen)]
pub struct Producer(pub Apart<librdkafka::Producer>);

#[pymethods]
impl Producer {
    fn init_transactions(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.0.call(py, |producer| producer.init_transactions(Duration::from_secs_f64(seconds)))
    }

    fn begin_transaction(&self, py: Python<'_>) -> PyResult<()> {
        self.0.call(py, librdkafka::Producer::begin_transaction)
    }

    fn commit_transaction(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.0.call(py, |producer| producer.commit_transaction(Duration::from_secs_f64(seconds)))
    }

    fn abort_transaction(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.0.call(py, |producer| producer.abort_transaction(Duration::from_secs_f64(seconds)))
    }

    fn produce_all<'py>(
        &self,
        topic: &str,
        partition: i32,
        records: &Bound<'py, PyList>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let pairs: Vec<(Bytes, Bytes)> = records.extract()?;
        let left = self.0.call(records.py(), |producer| {
            let pairs = pairs.iter().map(|(key, value)| (key.as_deref(), value.as_deref()));
            producer.produce_all(topic, partition, pairs)
        })?;
        left.into_iter().map(|index| records.get_item(index)).collect()
    }

    #[pyo3(signature = (send, *, tell_offset = false))]
    fn produce(&self, py: Python<'_>, send: Send, tell_offset: bool) -> PyResult<bool> {
        self.0.call(py, |producer| {
            let headers: Vec<_> = send.headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
            let pair = (send.key.as_deref(), send.value.as_deref());
            producer.produce(&send.topic, send.partition, pair, &headers, tell_offset)
        })
    }

    fn poll(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.0.call(py, |producer| {
            producer.poll(Duration::from_secs_f64(seconds));
            Ok(())
        })
    }

    fn flush(&self, py: Python<'_>, seconds: f64) -> PyResult<usize> {
        self.0.call(py, |producer| Ok(producer.flush(Duration::from_secs_f64(seconds))))
    }

    fn offset(&self, py: Python<'_>) -> PyResult<i64> {
        self.0.call(py, |producer| Ok(producer.offset()))
    }
}
