//! What `feedback_app` does most often, compiled. It is optional, and gives to the byte what Python gives.
//!
//! It decides nothing that is hard: where a record is not plain, or it is not known what a window was, Python is asked;
//! and what an answer of the broker means is Python's business.

mod aggregate;
mod apart;
mod checksum;
mod counts;
mod dates;
mod documents;
mod errors;
mod json;
mod library;
mod librdkafka;
mod partitioning;
mod plain;
mod producer;
mod reader;
mod records;
mod tags;
mod windows;

use pyo3::prelude::*;

/// The contract between this crate and `feedback_app`: another number means that one of them is too old for the other.
const INTERFACE: u32 = 5;

#[pymodule]
fn feedback_native(module: &Bound<'_, PyModule>) -> PyResult<()> {
    module.add("INTERFACE", INTERFACE)?;
    module.add_class::<counts::Counts>()?;
    module.add_class::<library::Librdkafka>()?;
    module.add_function(wrap_pyfunction!(documents::describe, module)?)?;
    module.add_function(wrap_pyfunction!(partitioning::partition_of_text, module)?)
}
