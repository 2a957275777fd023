"""Reading a partition of the source topics: what passes is waited for, and what does not is told."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient

from feedback_app.connections import librdkafka_config, passes
from feedback_app.errors import BrokerError
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.transport.readers import MakeReader
from feedback_app.transport.source import BATCH_RECORDS, Batch, PartitionSource
from tests.services.compiled import every_reader
from tests.services.workers import until


@pytest.fixture(params=every_reader())
def make_reader(request: pytest.FixtureRequest) -> MakeReader:
    made: MakeReader = request.param
    return made


def test_a_topic_that_was_deleted_is_not_waited_for(
    kafka: str, settings: Callable[..., Settings], make_reader: MakeReader
) -> None:
    """It would be for ever. librdkafka looks for it for half a minute first."""
    ours = settings(kafka, partitions=1, mongodb_url="mongodb://127.0.0.1:1")
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    source = PartitionSource(ours, 0, {topics.feedback: 0}, make_reader=make_reader)
    try:
        assert source.fetch(0.1) == []
        admin = AdminClient(librdkafka_config(ours))
        admin.delete_topics([topics.feedback])[topics.feedback].result(30)
        with pytest.raises(BrokerError, match=r"can't be read any more: .*topic does not exist"):
            fetch_for(source, 90)
    finally:
        source.close()


# feedback      [0 ........ BATCH_RECORDS ...][. 7]
# batches        one                           the rest
def test_a_batch_says_how_much_is_behind_it(
    broker_url: str, settings: Callable[..., Settings], make_reader: MakeReader
) -> None:
    """A fold waits for what is behind; and commits when there is next to nothing."""
    ours = settings(broker_url, partitions=1, mongodb_url="mongodb://127.0.0.1:1")
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    producer = Producer(librdkafka_config(ours) | {"linger.ms": 100})
    for _ in range(end := BATCH_RECORDS + 7):
        producer.produce(topics.feedback, b"{}", partition=0)
    assert producer.flush(10) == 0
    source = PartitionSource(ours, 0, {topics.feedback: 0}, make_reader=make_reader)
    batches: list[Batch] = []

    def at_the_end() -> bool:
        batches.extend(source.fetch(0.1))
        return bool(batches) and batches[-1].end == end

    try:
        until(at_the_end, 30)
    finally:
        source.close()
    assert [batch.start for batch in batches] == [0, *(batch.end for batch in batches[:-1])]
    assert len(batches) >= 2
    assert [batch.end + batch.behind for batch in batches] == [end] * len(batches)
    assert max(len(batch.records) for batch in batches) <= BATCH_RECORDS


# feedback      a a a           (then)      d
# repartition   b b             (then)
def test_each_topic_has_batches_of_its_own(
    broker_url: str, settings: Callable[..., Settings], make_reader: MakeReader
) -> None:
    """Also where one fetch brings records of both, and the next one of only one."""
    ours = settings(broker_url, partitions=1, mongodb_url="mongodb://127.0.0.1:1")
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    producer = Producer(librdkafka_config(ours))
    source = PartitionSource(ours, 0, {topics.feedback: 0, topics.repartition: 0}, make_reader=make_reader)
    read: dict[str, list[bytes | None]] = {topics.feedback: [], topics.repartition: []}

    def send(topic: str, *values: bytes) -> None:
        for value in values:
            producer.produce(topic, value, partition=0)
        assert producer.flush(10) == 0

    def has_read(*lengths: int) -> bool:
        for batch in source.fetch(0.1):
            assert {record.topic() for record in batch.records} == {batch.topic}
            assert batch.start == len(read[batch.topic])
            read[batch.topic] += [record.value() for record in batch.records]
        return tuple(map(len, read.values())) == lengths

    try:
        send(topics.feedback, b"a1", b"a2", b"a3")
        send(topics.repartition, b"b1", b"b2")
        until(lambda: has_read(3, 2), 30)
        send(topics.feedback, b"d")
        until(lambda: has_read(4, 2), 30)
    finally:
        source.close()
    assert read == {topics.feedback: [b"a1", b"a2", b"a3", b"d"], topics.repartition: [b"b1", b"b2"]}


def fetch_for(source: PartitionSource, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        source.fetch(0.1)


@pytest.mark.parametrize(
    ("code", "does"),
    [
        (KafkaError._TRANSPORT, True),
        (KafkaError._ALL_BROKERS_DOWN, True),
        (KafkaError.NOT_LEADER_FOR_PARTITION, True),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, False),
        (KafkaError._AUTHENTICATION, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, False),
        (KafkaError._AUTO_OFFSET_RESET, False),
    ],
)
def test_which_errors_pass(code: int, does: bool) -> None:
    assert passes(KafkaError(code)) is does
