"""A worker goes on, whatever is sent to it, and each record ends in one place: the verifier recounts."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from typing import Any

import orjson
import pymongo
import pytest
from aiokafka.client import AIOKafkaClient
from aiokafka.protocol.produce import ProduceRequest
from aiokafka.record.default_records import _DefaultRecordBatchBuilderPy as BatchBuilder
from confluent_kafka import Producer

from feedback_app.connections import librdkafka_config
from feedback_app.core.events import Event, Headers
from feedback_app.core.partitioning import partition_of
from feedback_app.embedded.worker import WorkerProcess
from feedback_app.errors import BrokerError
from feedback_app.models import decode
from feedback_app.provisioning import ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import MAX_INPUT_BYTES, Topics
from feedback_app.traffic import Traffic, scenario, send, spread
from feedback_app.transport.readers import MakeReader
from feedback_app.transport.source import PartitionSource
from feedback_app.verification import verify
from feedback_app.verification.differences import Verdict
from feedback_app.verification.reading import TopicReader
from tests.fuzz.corpus import ODD_HEADERS, large, nasties, valid
from tests.services.compiled import every_reader
from tests.services.workers import StartWorker

MakeSettings = Callable[..., Settings]

_SETTINGS = {"partitions": 2, "batch_time_ms": 2_000, "grace_ms": 1_000, "idle_ms": 1_500, "retention_ms": 15_000}
_FILL = 20_000_000


@pytest.fixture
def sender() -> Iterator[Callable[[Settings], Producer]]:
    """Return a function that makes a producer without any limits of its own."""
    with ExitStack() as stack:

        def make(settings: Settings) -> Producer:
            producer = Producer(
                librdkafka_config(settings)
                | {"compression.type": "zstd", "message.max.bytes": 10 * _FILL, "linger.ms": 5, "batch.size": 100_000}
            )
            stack.callback(lambda: producer.flush(30))
            return producer

        yield make


def test_every_nasty_is_sent_to_a_worker(
    embedded_broker: str,
    settings: MakeSettings,
    start_worker: StartWorker,
    sender: Callable[[Settings], Producer],
) -> None:
    ours = settings(embedded_broker, **_SETTINGS, store_items=True)
    worker = start_worker(ours)
    producer = sender(ours)
    now = time.time_ns() // 1_000_000
    values = [*nasties(now), *large(now)]
    for number, value in enumerate(values):
        headers = list(ODD_HEADERS[number % len(ODD_HEADERS)]) if number % 3 == 0 else None
        key = (b"\xff\xfe\x00", None, b"", b"ann")[number % 4]
        _produce(producer, Topics.of(ours).feedback, number % ours.partitions, key, value, headers)
    assert producer.flush(60) == 0
    traffic = _ordinary(ours)
    verdict = _closed(ours, worker)
    valid_events = [event for event in decode(values) if isinstance(event, Event)]
    assert verdict.input == len(values) + traffic.produced
    assert verdict.counted + verdict.late + verdict.dead_lettered == verdict.input
    assert verdict.counted > traffic.counted + 100, "most nasties are text, and count"
    with pymongo.MongoClient[dict[str, Any]](ours.mongodb_url.get_secret_value()) as client:
        found = client[ours.mongodb_database].feedback.find({}, {"_id": 1})
        stored = {item["_id"] for item in found}
    future = {event.feedback_id for event in valid_events if event.timestamp > now + ours.max_future_ms}
    assert {event.feedback_id for event in valid_events} - future <= stored, "NUL, $ and dots are stored, too"


# One worker, two partitions; ``at home`` and ``misplaced`` is where a record was sent.
def test_records_that_are_too_large_once_decompressed(
    kafka: str,
    settings: MakeSettings,
    start_worker: StartWorker,
    sender: Callable[[Settings], Producer],
) -> None:
    ours = settings(kafka, **_SETTINGS, store_items=False)
    worker = start_worker(ours)
    producer, topics = sender(ours), Topics.of(ours)
    now = time.time_ns() // 1_000_000
    home = partition_of("ann", 2)
    fits = _filled(now, MAX_INPUT_BYTES)
    for at in (home, 1 - home):
        for key, value, headers in (
            # These count: what is too large about them is not the value.
            (b"ann", fits, None),
            (bytes(3_000_000), orjson.dumps(valid(now)), None),
            (b"ann", fits, [("trace", bytes(3_000_000))]),
            # These do not.
            (b"ann", _filled(now, MAX_INPUT_BYTES + 1), None),
            (b"ann", _filled(now, 5_000_000), [("trace", bytes(10))]),
            (None, b"{" * 5_000_000, None),
            (bytes(5_000_000), bytes(_FILL), [("trace", bytes(5_000_000))]),
        ):
            _produce(producer, topics.feedback, at, key, value, headers)
    assert producer.flush(60) == 0
    traffic = _ordinary(ours)
    verdict = _closed(ours, worker)
    assert verdict.input == 14 + traffic.produced
    assert verdict.counted == 6 + traffic.counted
    assert verdict.dead_lettered == 8 + traffic.invalid.total()
    letters = [letter for letter in _read(ours, topics.dead_letter) if len(letter.value() or b"") > 1_000_000]
    assert all((dict(letter.headers())["feedback-error"] or b"").startswith(b"too large: ") for letter in letters)
    found = Counter(
        (
            len(letter.value()),
            len(letter.key() or b""),
            dict(letter.headers()).get("feedback-truncated"),
            "trace" in dict(letter.headers()),
        )
        for letter in letters
    )
    assert found == {
        (MAX_INPUT_BYTES + 1, 3, None, False): 2,
        (MAX_INPUT_BYTES, 3, b"%d" % (5_000_000 + 3 + 5 + 10 + 10), False): 2,
        (MAX_INPUT_BYTES, 0, b"5000000", False): 2,
        (MAX_INPUT_BYTES, 8_192, b"%d" % (_FILL + 10_000_000 + 5 + 10), False): 2,
    }
    forwarded = [dict(record.headers() or []) for record in _read(ours, topics.repartition)]
    assert sum("feedback-truncated" in headers for headers in forwarded) == 1, "the one with the long headers"


@pytest.mark.parametrize("make_reader", every_reader())
def test_a_batch_that_decompresses_to_too_much_is_told_and_what_follows_it_can_be_read(
    kafka: str, settings: MakeSettings, sender: Callable[[Settings], Producer], make_reader: MakeReader
) -> None:
    ours = settings(kafka, **_SETTINGS)
    topic = Topics.of(ours).feedback
    ensure_topics(ours, Topics.of(ours).specs())
    producer = sender(ours)
    _produce(producer, topic, 1, None, bytes(150_000_000), None)
    assert producer.flush(60) == 0
    _produce(producer, topic, 1, None, b"{}", None)
    assert producer.flush(60) == 0

    def fetched(offset: int) -> list[bytes | None]:
        source = PartitionSource(ours, 1, {topic: offset}, make_reader=make_reader)
        try:
            deadline = time.monotonic() + 60
            while time.monotonic() < deadline:
                if batches := source.fetch(1):
                    return [record.value() for record in batches[0].records]
        finally:
            source.close()
        pytest.fail("nothing was fetched")

    with pytest.raises(BrokerError, match=rf"{topic}\[1\]: the batch at offset 0 can't be decompressed"):
        fetched(0)
    assert fetched(1) == [b"{}"]


async def test_headers_that_can_not_be_read(kafka: str, settings: MakeSettings, start_worker: StartWorker) -> None:
    """A header's name that is not UTF-8 makes the binding raise, and then hand out what kills the process."""
    ours = settings(kafka, **_SETTINGS, store_items=False)
    worker = start_worker(ours)
    topics = Topics.of(ours)
    now = time.time_ns() // 1_000_000
    late = orjson.dumps(valid(now - 10**9))
    values = [orjson.dumps(valid(now)), late, b"{", orjson.dumps(valid(now, agentId="bob"))]
    for name in (b"\xff\xfe", b"\xed\xa0\x80", b"a\x00b", b""):
        for topic in topics.sources:
            for partition in range(ours.partitions):
                await _produce_raw(ours, topic, partition, values, name)
    traffic = _ordinary(ours)
    verdict = _closed(ours, worker)
    assert verdict.input == 4 * 2 * 2 * len(values) + traffic.produced
    assert verdict.dead_lettered == 4 * 2 * 2 + traffic.invalid.total()
    marked = [dict(letter.headers() or []) for letter in _read(ours, topics.dead_letter) if letter.value() == b"{"]
    assert sum("feedback-truncated" in headers for headers in marked) == 2 * 2 * 2, "two of the names"


class _Name(str):
    """A header's name that is encoded to any bytes."""

    __slots__ = ("raw",)
    raw: bytes

    def encode(self, *_: object) -> bytes:
        return self.raw


async def _produce_raw(settings: Settings, topic: str, partition: int, values: Sequence[bytes], name: bytes) -> None:
    builder = BatchBuilder(
        magic=2,
        compression_type=0,
        is_transactional=0,
        producer_id=-1,
        producer_epoch=-1,
        base_sequence=-1,
        batch_size=1 << 20,
    )
    header = _Name("name")
    header.raw = name
    for offset, value in enumerate(values):
        assert builder.append(offset, timestamp=0, key=b"key", value=value, headers=[(header, b"x"), ("trace", b"y")])
    client = AIOKafkaClient(bootstrap_servers=settings.bootstrap_servers)
    await client.bootstrap()
    try:
        (node, *_) = client.cluster.brokers()
        batch = [(topic, [(partition, bytes(builder.build()))])]
        request = ProduceRequest(transactional_id=None, required_acks=-1, timeout=10_000, topics=batch)
        answer = await client.send(node.nodeId, request)
        assert answer.topics[0][1][0][1] == 0, answer
    finally:
        await client.close()


def _filled(now: int, size: int) -> bytes:
    event = valid(now, extra="")
    value = orjson.dumps(event | {"extra": "x" * (size - len(orjson.dumps(event)))})
    assert len(value) == size
    return value


def _produce(
    producer: Producer, topic: str, partition: int, key: bytes | None, value: bytes | None, headers: Headers | None
) -> None:
    failures: list[str] = []
    producer.produce(
        topic,
        value,
        key,
        partition,
        lambda error, _: failures.append(error.str()) if error else None,
        headers=list(headers) if headers else None,
    )
    producer.poll(0)
    assert not failures


def _ordinary(settings: Settings) -> Traffic:
    """Send what is ordinary: whatever came before it, it is counted."""
    traffic = Traffic()
    plan = scenario(settings, seed=3, agents=20, late_share=0, invalid_share=0.02)
    send(settings, plan, spread(1_000, 5), traffic, lambda sent: None)
    return traffic


def _closed(settings: Settings, worker: WorkerProcess) -> Verdict:
    """Wait until everything is counted and closed; the verifier's recount must agree."""
    verdict = verify(settings, 120, until_closed=True, report=worker.watched(lambda _: None))
    assert verdict.verified, verdict
    assert verdict.open == 0
    return verdict


def _read(settings: Settings, topic: str) -> list[Any]:
    with TopicReader(settings) as reader:
        return [record for _, records in reader.read(topic, {}, {}) for record in records]
