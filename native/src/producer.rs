//! A transactional producer that holds the interpreter only while it looks through a list of records: not while they are
//! handed to librdkafka, nor while the broker is waited for. `feedback_app.transport.clients` says what each call does.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;
use pyo3::pybacked::{PyBackedBytes, PyBackedStr};
use pyo3::types::PyList;

use crate::errors::raised;
use crate::librdkafka::{self, Config, Failure, Librdkafka};

type Bytes = Option<PyBackedBytes>;

#[pyclass(frozen)]
pub struct Producer(Option<librdkafka::Producer>);

#[pymethods]
impl Producer {
    #[new]
    fn new(py: Python<'_>, library: PathBuf, config: Config) -> PyResult<Self> {
        let library = Librdkafka::load(&library).map_err(PyOSError::new_err)?;
        let made = py.allow_threads(|| librdkafka::Producer::new(library, &config));
        made.map(|producer| Producer(Some(producer))).map_err(|failure| raised(py, &failure))
    }

    fn init_transactions(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.call(py, |producer| producer.init_transactions(Duration::from_secs_f64(seconds)))
    }

    fn begin_transaction(&self, py: Python<'_>) -> PyResult<()> {
        self.call(py, librdkafka::Producer::begin_transaction)
    }

    fn commit_transaction(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.call(py, |producer| producer.commit_transaction(Duration::from_secs_f64(seconds)))
    }

    fn abort_transaction(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.call(py, |producer| producer.abort_transaction(Duration::from_secs_f64(seconds)))
    }

    fn produce_all<'py>(
        &self,
        topic: &str,
        partition: i32,
        records: &Bound<'py, PyList>,
    ) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let pairs: Vec<(Bytes, Bytes)> = records.extract()?;
        let left = self.call(records.py(), |producer| {
            let pairs = pairs.iter().map(|(key, value)| (key.as_deref(), value.as_deref()));
            producer.produce_all(topic, partition, pairs)
        })?;
        left.into_iter().map(|index| records.get_item(index)).collect()
    }

    #[pyo3(signature = (topic, partition, key, value, headers = Vec::new(), *, tell_offset = false))]
    #[allow(clippy::too_many_arguments)]
    fn produce(
        &self,
        py: Python<'_>,
        topic: &str,
        partition: i32,
        key: Bytes,
        value: Bytes,
        headers: Vec<(PyBackedStr, Bytes)>,
        tell_offset: bool,
    ) -> PyResult<bool> {
        self.call(py, |producer| {
            let headers: Vec<_> = headers.iter().map(|(name, value)| (&**name, value.as_deref())).collect();
            producer.produce(topic, partition, (key.as_deref(), value.as_deref()), &headers, tell_offset)
        })
    }

    fn poll(&self, py: Python<'_>, seconds: f64) -> PyResult<()> {
        self.call(py, |producer| {
            producer.poll(Duration::from_secs_f64(seconds));
            Ok(())
        })
    }

    fn flush(&self, py: Python<'_>, seconds: f64) -> PyResult<usize> {
        self.call(py, |producer| Ok(producer.flush(Duration::from_secs_f64(seconds))))
    }

    fn offset(&self) -> Option<i64> {
        self.0.as_ref().map(librdkafka::Producer::offset)
    }
}

impl Producer {
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&librdkafka::Producer) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        let producer = self.0.as_ref().expect("it is there until it is dropped");
        py.allow_threads(|| call(producer)).map_err(|failure| raised(py, &failure))
    }
}

impl Drop for Producer {
    /// librdkafka's threads are waited for.
    fn drop(&mut self) {
        let producer = self.0.take();
        Python::with_gil(|py| py.allow_threads(|| drop(producer)));
    }
}
