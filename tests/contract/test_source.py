"""Reading a partition of the source topics: what passes is waited for, and what does not is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer
from confluent_kafka.admin import AdminClient

from feedback_app.connections import librdkafka_config, passes, reader_config
from feedback_app.errors import BrokerError
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.transport.readers import MakeReader, Reader
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
    topic = filled(ours, [{"value": b"{}"}] * (end := BATCH_RECORDS + 7), **{"linger.ms": 100})
    source = PartitionSource(ours, 0, {topic: 0}, make_reader=make_reader)
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


# answers      [...][...][...][...] of 16 KiB at most, one after the other
# bytes        unbounded   all of them in one batch
#              100,000     those, and what is there at once besides
@pytest.mark.parametrize("large", ["value", "key", "header"])
def test_a_batch_is_filled_from_several_answers(
    kafka: str, settings: Callable[..., Settings], make_reader: MakeReader, large: str
) -> None:
    """And no further than it has bytes: what is fetched is a stranger's, and any part of it may be large.

    Tansu answers with all that there is.
    """
    ours = settings(kafka, partitions=1, mongodb_url="mongodb://127.0.0.1:1")
    numbers = [b"%03d" % number for number in range(600)]

    def record(number: bytes) -> dict[str, Any]:
        sizes = {part: 997 * (part == large) for part in ("value", "key", "header")}
        value, key, header = (b"." * size for size in sizes.values())
        return {"value": number + value, "key": key, "headers": [("header", header)]}

    topic = filled(ours, map(record, numbers), **{"batch.size": 8_000})
    small = {"queued.min.messages": 1, "queued.max.messages.kbytes": 32, "max.partition.fetch.bytes": 16 << 10}

    def first_batch(fill_bytes: int) -> list[bytes]:
        reader: Reader = make_reader(reader_config(ours) | small | {"fetch.queue.backoff.ms": 1}, 0)
        try:
            reader.assign([(topic, 0)])
            ((name, fetched),), notices = reader.consume(len(numbers), 30, 30, fill_bytes)
            assert (name, notices) == (topic, [])
            return [(record.value() or b"")[:3] for record in fetched]
        finally:
            reader.close()

    assert first_batch(1 << 30) == numbers
    part = first_batch(100_000)
    assert 100 <= len(part) < len(numbers) // 2
    assert part == numbers[: len(part)]


# taken        [. . 700 . .][. . 700 . .][. . 700 . .][400]
# in one piece [. . . 1,000 . . .][. . . 1,000 . . .][. . 500]
def test_records_are_taken_in_their_order_however_many_at_once(
    broker_url: str, settings: Callable[..., Settings], make_reader: MakeReader
) -> None:
    ours, records = settings(broker_url, partitions=1, mongodb_url="mongodb://127.0.0.1:1"), 2_500
    topic = filled(ours, ({"value": b"%d" % number, "key": b"key-%d" % number} for number in range(records)))
    reader: Reader = make_reader(reader_config(ours), 0)
    try:
        reader.assign([(topic, 0)])
        ((_, fetched),), _ = reader.consume(records, 30, 30, 1 << 30)
    finally:
        reader.close()
    assert len(fetched) == records
    found = []
    while fetched:
        left = len(fetched)
        taken = fetched.take(700)
        assert len(taken) == min(700, left) == left - len(fetched)
        assert taken[-1].value() == taken[len(taken) - 1].value()
        found += [(record.offset(), record.key(), record.value()) for record in taken]
        with pytest.raises(IndexError):
            taken[len(taken)]
    assert found == [(number, b"key-%d" % number, b"%d" % number) for number in range(records)]


@pytest.mark.parametrize(("end", "waits"), [(BATCH_RECORDS, True), (BATCH_RECORDS - 1, False)])
def test_a_batch_waits_to_be_full_where_there_is_enough_for_it(
    kafka: str, settings: Callable[..., Settings], make_reader: MakeReader, *, end: int, waits: bool
) -> None:
    """Live traffic, which comes in drops, is not held up by that.

    Tansu says, when it is asked for a topic's end, where its last batch begins.
    """
    ours = settings(kafka, partitions=1, mongodb_url="mongodb://127.0.0.1:1")
    topic = filled(ours, [{"value": b"{}"}] * end)
    told: list[float] = []

    class Watched:
        """A reader that is at the start of the topic for ever."""

        def __init__(self, reader: Reader) -> None:
            self._reader = reader

        def __getattr__(self, name: str) -> Any:
            return getattr(self._reader, name)

        def consume(self, limit: int, seconds: float, fill_seconds: float, fill_bytes: int) -> Any:
            told.append(fill_seconds)
            return [], []

    source = PartitionSource(ours, 0, {topic: 0}, make_reader=lambda *made: Watched(make_reader(*made)))
    try:
        source.ask_for_ends()
        source.fetch(0)
    finally:
        source.close()
    assert [seconds > 0 for seconds in told] == [waits]


def filled(ours: Settings, records: Iterable[dict[str, Any]], **config: Any) -> str:
    """Return the feedback topic, made, with *records* on its only partition."""
    topics = Topics.of(ours)
    ensure_topics(ours, topics.specs())
    producer = Producer(librdkafka_config(ours) | config)
    for record in records:
        producer.produce(topics.feedback, partition=0, **record)
    assert producer.flush(30) == 0
    return topics.feedback


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
