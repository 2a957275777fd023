//! librdkafka's errors as confluent-kafka raises them, so that it makes no difference whose client it was.

use pyo3::intern;
use pyo3::prelude::*;

use crate::librdkafka::Failure;

/// `confluent_kafka.KafkaError`.
pub fn kafka_error<'py>(py: Python<'py>, failure: &Failure) -> PyResult<Bound<'py, PyAny>> {
    let Failure { code, reason, fatal, retriable, requires_abort } = failure;
    py.import(intern!(py, "confluent_kafka"))?.getattr(intern!(py, "KafkaError"))?.call1((
        code,
        reason,
        fatal,
        retriable,
        requires_abort,
    ))
}

/// `confluent_kafka.KafkaException`.
pub fn raised(py: Python<'_>, failure: &Failure) -> PyErr {
    let exception = || {
        let kind = py.import(intern!(py, "confluent_kafka"))?.getattr(intern!(py, "KafkaException"))?;
        kind.call1((kafka_error(py, failure)?,))
    };
    exception().map_or_else(|error| error, PyErr::from_value)
}
