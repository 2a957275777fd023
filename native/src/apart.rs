//! What is used, and dropped, with the interpreter left to others.

use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;

use crate::errors::raised;
use crate::librdkafka::Failure;

/// A client of librdkafka's, until it is closed: its threads are waited for then.
pub struct Apart<T: Send + Sync>(Option<T>);

impl<T: Send + Sync> Apart<T> {
    pub fn open(py: Python<'_>, open: impl FnOnce() -> Result<T, Failure> + Send) -> PyResult<Self> {
        py.allow_threads(open).map(|client| Apart(Some(client))).map_err(|failure| raised(py, &failure))
    }

    pub fn call<R: Send>(&self, py: Python<'_>, call: impl FnOnce(&T) -> Result<R, Failure> + Send) -> PyResult<R> {
        let client = self.0.as_ref().ok_or_else(|| PyValueError::new_err("it is closed"))?;
        py.allow_threads(|| call(client)).map_err(|failure| raised(py, &failure))
    }

    pub fn close(&mut self, py: Python<'_>) {
        let client = self.0.take();
        py.allow_threads(|| drop(client));
    }
}

impl<T: Send + Sync> Drop for Apart<T> {
    fn drop(&mut self) {
        Python::with_gil(|py| self.close(py));
    }
}
