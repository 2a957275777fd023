//! A consumer of one partition of some topics, which leaves the interpreter to others while it fetches, and makes no
//! objects of what it has fetched. `feedback_app.transport.readers` says what each call does.

use std::path::PathBuf;
use std::time::Duration;

use pyo3::exceptions::{PyOSError, PyValueError};
use pyo3::prelude::*;

use crate::errors::{kafka_error, raised};
use crate::librdkafka::{Config, Consumer, Failure, Fetched, Librdkafka};
use crate::records::{Records, Stored};

#[pyclass]
pub struct Reader {
    partition: i32,
    consumer: Option<Consumer>,
}

/// The records of each topic; and what was told in the place of others: of a topic, at an offset, an error.
type Consumed<'py> = (Vec<(String, Records)>, Vec<(String, i64, Bound<'py, PyAny>)>);

#[pymethods]
impl Reader {
    #[new]
    fn new(py: Python<'_>, library: PathBuf, config: Config, partition: i32) -> PyResult<Self> {
        let library = Librdkafka::load(&library).map_err(PyOSError::new_err)?;
        let made = py.allow_threads(|| Consumer::new(library, &config));
        made.map(|it| Reader { partition, consumer: Some(it) }).map_err(|failure| raised(py, &failure))
    }

    fn learn_leader(&self, py: Python<'_>, topic: &str, seconds: f64) -> PyResult<()> {
        self.call(py, |consumer, _| consumer.learn_leader(topic, Duration::from_secs_f64(seconds)))
    }

    fn assign(&self, py: Python<'_>, offsets: Vec<(String, i64)>) -> PyResult<()> {
        self.call(py, |consumer, partition| consumer.assign(partition, &offsets))
    }

    fn consume<'py>(&self, py: Python<'py>, limit: usize, seconds: f64) -> PyResult<Consumed<'py>> {
        let (fetched, notices) = self.call(py, |consumer, partition| {
            let mut fetched = Sorted { partition, topics: Vec::new(), notices: Vec::new() };
            if limit > 0 {
                // The second one would wait until as many are there as it is to bring.
                consumer.consume(1, Duration::from_secs_f64(seconds), |message| fetched.add(&message))?;
                if !fetched.is_empty() {
                    consumer.consume(limit - 1, Duration::ZERO, |message| fetched.add(&message))?;
                }
            }
            fetched.topics.iter_mut().for_each(Stored::complete);
            Ok((fetched.topics, fetched.notices))
        })?;
        let records = fetched.into_iter().map(|stored| (stored.topic.clone(), Records::of(stored))).collect();
        let notices = notices
            .into_iter()
            .map(|(topic, offset, failure)| Ok((topic, offset, kafka_error(py, &failure)?)))
            .collect::<PyResult<_>>()?;
        Ok((records, notices))
    }

    #[pyo3(signature = (topic, seconds))]
    fn watermarks(&self, py: Python<'_>, topic: &str, seconds: Option<f64>) -> PyResult<(i64, i64)> {
        self.call(py, |consumer, partition| consumer.watermarks(topic, partition, seconds.map(Duration::from_secs_f64)))
    }

    fn errors<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let told = self.call(py, |consumer, _| Ok(consumer.take_errors()))?;
        told.iter().map(|failure| kafka_error(py, failure)).collect()
    }

    fn close(&mut self, py: Python<'_>) {
        let consumer = self.consumer.take();
        py.allow_threads(|| drop(consumer));
    }
}

impl Reader {
    fn call<T: Send>(
        &self,
        py: Python<'_>,
        call: impl FnOnce(&Consumer, i32) -> Result<T, Failure> + Send,
    ) -> PyResult<T> {
        let partition = self.partition;
        let consumer = self.consumer.as_ref().ok_or_else(|| PyValueError::new_err("the reader is closed"))?;
        py.allow_threads(|| call(consumer, partition)).map_err(|failure| raised(py, &failure))
    }
}

impl Drop for Reader {
    /// librdkafka's threads are waited for.
    fn drop(&mut self) {
        let consumer = self.consumer.take();
        Python::with_gil(|py| py.allow_threads(|| drop(consumer)));
    }
}

/// What one call has fetched.
struct Sorted {
    partition: i32,
    topics: Vec<Stored>,
    notices: Vec<(String, i64, Failure)>,
}

impl Sorted {
    fn add(&mut self, message: &Fetched<'_>) {
        let topic = message.topic();
        if let Some(failure) = message.error() {
            self.notices.push((String::from_utf8_lossy(topic).into_owned(), message.offset(), failure));
            return;
        }
        // There are two topics at most, and mostly one.
        let known = self.topics.iter().position(|stored| stored.topic.as_bytes() == topic);
        let index = known.unwrap_or_else(|| {
            self.topics.push(Stored::new(String::from_utf8_lossy(topic).into_owned(), self.partition));
            self.topics.len() - 1
        });
        self.topics[index].add(message);
    }

    fn is_empty(&self) -> bool {
        self.topics.is_empty() && self.notices.is_empty()
    }
}
