//! The librdkafka that confluent-kafka brings, and what it makes.

use std::path::PathBuf;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

use crate::apart::Apart;
use crate::librdkafka::{self, Config};
use crate::producer::Producer;
use crate::reader::Reader;

#[pyclass(frozen)]
pub struct Librdkafka(librdkafka::Librdkafka);

#[pymethods]
impl Librdkafka {
    #[new]
    fn new(path: PathBuf) -> PyResult<Self> {
        librdkafka::Librdkafka::load(&path).map(Librdkafka).map_err(PyOSError::new_err)
    }

    fn producer(&self, py: Python<'_>, config: Config) -> PyResult<Producer> {
        let library = self.0.clone();
        let client = Apart::open(py, || librdkafka::Producer::new(library, &config))?;
        Ok(Producer::new(client, &config))
    }

    fn reader(&self, py: Python<'_>, config: Config, partition: i32) -> PyResult<Reader> {
        let library = self.0.clone();
        let consumer = Apart::open(py, || librdkafka::Consumer::new(library, &config))?;
        Ok(Reader { partition, consumer })
    }
}
