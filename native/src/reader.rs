//! A consumer of one partition of some topics, which leaves the interpreter to others while it fetches, and makes no
//! objects of what it has fetched. `feedback_app.transport.readers` says what each call does.

use std::time::{Duration, Instant};

use pyo3::prelude::*;

use crate::apart::Apart;
use crate::errors::kafka_error;
use crate::librdkafka::{Consumer, Failure, Fetched};
use crate::records::{Fetching, Records};

/// So many are taken from librdkafka at once, where each takes some 300 bytes more than it holds.
const STEP: usize = 500;

#[pyclass]
pub struct Reader {
    pub partition: i32,
    pub consumer: Apart<Consumer>,
}

/// The records of each topic; and what was told in the place of others: of a topic, at an offset, an error.
type Consumed<'py> = (Vec<(String, Records)>, Vec<(String, i64, Bound<'py, PyAny>)>);

#[pymethods]
impl Reader {
    fn learn_leader(&self, py: Python<'_>, topic: &str, seconds: f64) -> PyResult<()> {
        self.consumer.call(py, |consumer| consumer.learn_leader(topic, Duration::from_secs_f64(seconds)))
    }

    fn assign(&self, py: Python<'_>, offsets: Vec<(String, i64)>) -> PyResult<()> {
        self.consumer.call(py, |consumer| consumer.assign(self.partition, &offsets))
    }

    fn consume<'py>(
        &self,
        py: Python<'py>,
        limit: usize,
        seconds: f64,
        fill_seconds: f64,
        fill_bytes: usize,
    ) -> PyResult<Consumed<'py>> {
        let (first, fill) = (Duration::from_secs_f64(seconds), Duration::from_secs_f64(fill_seconds));
        let (fetched, notices) = self.consumer.call(py, |consumer| {
            let mut fetched = Sorted::new(self.partition);
            consumer.consume(limit.min(1), first, |message| fetched.add(&message))?;
            let until = Instant::now() + fill;
            while 0 < fetched.count && fetched.count < limit && fetched.bytes < fill_bytes {
                let before = fetched.count;
                // All that are there; told to wait, it would do so until as many are there as it may bring.
                consumer.consume(STEP.min(limit - before), Duration::ZERO, |message| fetched.add(&message))?;
                if fetched.count == before {
                    let left = until.saturating_duration_since(Instant::now());
                    consumer.consume(1, left, |message| fetched.add(&message))?;
                }
                if fetched.count == before {
                    break;
                }
            }
            Ok((fetched.topics, fetched.notices))
        })?;
        let records = fetched.into_iter().map(|topic| (topic.topic().to_owned(), topic.records())).collect();
        let notices = notices
            .into_iter()
            .map(|(topic, offset, failure)| Ok((topic, offset, kafka_error(py, &failure)?)))
            .collect::<PyResult<_>>()?;
        Ok((records, notices))
    }

    #[pyo3(signature = (topic, seconds))]
    fn watermarks(&self, py: Python<'_>, topic: &str, seconds: Option<f64>) -> PyResult<(i64, i64)> {
        self.consumer
            .call(py, |consumer| consumer.watermarks(topic, self.partition, seconds.map(Duration::from_secs_f64)))
    }

    fn errors<'py>(&self, py: Python<'py>) -> PyResult<Vec<Bound<'py, PyAny>>> {
        let told = self.consumer.call(py, |consumer| Ok(consumer.take_errors()))?;
        told.iter().map(|failure| kafka_error(py, failure)).collect()
    }

    fn close(&mut self, py: Python<'_>) {
        self.consumer.close(py);
    }
}

/// What one call has fetched.
struct Sorted {
    partition: i32,
    count: usize,
    bytes: usize,
    topics: Vec<Fetching>,
    notices: Vec<(String, i64, Failure)>,
}

impl Sorted {
    fn new(partition: i32) -> Self {
        Sorted { partition, count: 0, bytes: 0, topics: Vec::new(), notices: Vec::new() }
    }

    fn add(&mut self, message: &Fetched<'_>) {
        self.count += 1;
        let topic = message.topic();
        if let Some(failure) = message.error() {
            self.notices.push((String::from_utf8_lossy(topic).into_owned(), message.offset(), failure));
            return;
        }
        // There are two topics at most, and mostly one.
        let known = self.topics.iter().position(|known| known.topic().as_bytes() == topic);
        let index = known.unwrap_or_else(|| {
            self.topics.push(Fetching::new(String::from_utf8_lossy(topic).into_owned(), self.partition));
            self.topics.len() - 1
        });
        self.bytes += self.topics[index].add(message);
    }
}
