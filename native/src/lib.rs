//! What `feedback_app` does most often, compiled. It is optional, and gives to the byte what Python gives.
//!
//! It decides nothing that is hard: where a record is not plain, or it is not known what a window was, Python is asked;
//! and what an answer of the broker means is Python's business.

mod aggregate;
mod checksum;
mod counts;
mod dates;
mod documents;
mod errors;
mod librdkafka;
mod partitioning;
mod plain;
mod producer;
mod reader;
mod records;

use std::path::PathBuf;

use pyo3::exceptions::PyOSError;
use pyo3::prelude::*;

/// The contract between this crate and `feedback_app`: another number means that one of them is too old for the other.
const INTERFACE: u32 = 2;

/// See whether this is a librdkafka that can be used.
#[pyfunction]
fn check_librdkafka(path: PathBuf) -> PyResult<()> {
    librdkafka::Librdkafka::load(&path).map(drop).map_err(PyOSError::new_err)
}

#[pymodule]
fn feedback_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_class::<counts::Counts>()?;
    module.add_class::<producer::Producer>()?;
    module.add_class::<reader::Reader>()?;
    module.add_class::<records::Records>()?;
    module.add_function(wrap_pyfunction!(check_librdkafka, module)?)?;
    module.add_function(wrap_pyfunction!(documents::describe, module)?)
}
