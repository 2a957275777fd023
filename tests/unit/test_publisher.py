"""The publisher, without a broker: what it refuses, how it waits, and that no failure goes untold."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import orjson
import pytest
from confluent_kafka import KafkaError, KafkaException

from feedback_app import publisher as publisher_module
from feedback_app.embedded.process import free_port
from feedback_app.errors import PublishError, QueueFull
from feedback_app.publisher import FailedDelivery, FeedbackPublisher
from feedback_app.settings import Settings

EVENT = {
    "feedbackId": "f-1",
    "agentId": "agent-1",
    "userId": "u-1",
    "rating": "positive",
    "timestamp": "2026-01-31T12:00:00Z",
    "score": None,
    "color": "red",
}
SENT = {"feedbackId": "f-1", "agentId": "agent-1", "userId": "u-1", "rating": "positive", "timestamp": 1769860800000}


class FakeMessage:
    def __init__(self, key: bytes | None, value: bytes | None, told: Any) -> None:
        self._key, self._value, self.told = key, value, told

    def key(self) -> bytes | None:
        return self._key

    def value(self) -> bytes | None:
        return self._value


class FakeProducer:
    """Stands in for librdkafka: keeps *room* records, and delivers or fails the oldest at each poll."""

    made: list[FakeProducer]

    def __init__(self, config: dict[str, Any]) -> None:
        self.config = config
        self.room = 2
        self.error: KafkaError | None = None
        self.refusal: KafkaException | None = None
        self.queued: list[FakeMessage] = []
        self.delivered: list[tuple[bytes | None, bytes | None, int]] = []
        self.where: list[int] = []
        FakeProducer.made.append(self)

    def produce(self, topic: str, value: bytes | None, key: bytes | None, partition: int, told: Any = None) -> None:
        if self.refusal is not None:
            raise self.refusal
        if len(self.queued) >= self.room:
            raise BufferError("Local: Queue full")
        self.queued.append(FakeMessage(key, value, told or self.config["on_delivery"]))
        self.where.append(partition)

    def poll(self, timeout: float) -> int:
        if not timeout or not self.queued:
            return 0
        return self._answer()

    def flush(self, timeout: float) -> int:
        while self.queued and self.error is None:
            self._answer()
        return len(self.queued)

    def purge(self) -> None:
        self.error = KafkaError(KafkaError._PURGE_QUEUE)
        while self.queued:
            self._answer()

    def __len__(self) -> int:
        return len(self.queued)

    def fail_all(self) -> None:
        while self.queued:
            self._answer()

    def _answer(self) -> int:
        message = self.queued.pop(0)
        message.told(self.error, message)
        if self.error is None:
            self.delivered.append((message.key(), message.value(), self.where.pop(0)))
        return 1


@pytest.fixture
def unconnected(settings: Callable[..., Settings]) -> Settings:
    """Settings with which nothing can be reached."""
    return settings(f"kafka://127.0.0.1:{free_port()}", mongodb_url="mongodb://127.0.0.1:1")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], FakeProducer]]:
    """Let publishers use :class:`FakeProducer`; the fixture's value returns the last one that was made."""
    FakeProducer.made = []
    monkeypatch.setattr(publisher_module, "Producer", FakeProducer)
    yield lambda: FakeProducer.made[-1]
    FakeProducer.made = []


def test_an_event_is_sent_as_checked_with_its_agent_as_key(
    fake: Callable[[], FakeProducer], unconnected: Settings
) -> None:
    with FeedbackPublisher(unconnected) as publisher:
        publisher.publish(EVENT)
    ((key, value, partition),) = fake().delivered
    assert key == b"agent-1"
    assert value is not None
    assert orjson.loads(value) == SENT
    assert partition == -1  # the partitioner's choice


def test_it_asks_kafka_for_order_safety_and_the_partitioner_of_java_clients(
    fake: Callable[[], FakeProducer], unconnected: Settings
) -> None:
    FeedbackPublisher(unconnected).close()
    config = fake().config
    assert config["partitioner"] == "murmur2_random"
    assert config["enable.idempotence"] is True
    assert config["acks"] == "all"
    assert config["compression.type"] == "lz4"
    assert config["linger.ms"] > 0


@pytest.mark.parametrize(
    ("changed", "complaint"),
    [({"rating": "great"}, "rating"), ({"agentId": ""}, "agentId"), ({"timestamp": True}, "timestamp")],
)
def test_an_invalid_event_is_refused_and_nothing_is_sent(
    fake: Callable[[], FakeProducer], unconnected: Settings, changed: dict[str, Any], complaint: str
) -> None:
    with FeedbackPublisher(unconnected) as publisher, pytest.raises(ValueError, match=complaint):
        publisher.publish({**EVENT, **changed})
    assert fake().delivered == []


def test_a_full_queue_holds_the_caller_up_and_loses_nothing(
    fake: Callable[[], FakeProducer], unconnected: Settings
) -> None:
    with FeedbackPublisher(unconnected) as publisher:
        for number in range(20):
            publisher.publish_bytes(b"%d" % number, b"value", partition=number % 3)
            assert len(fake().queued) <= fake().room
    assert [key for key, _, _ in fake().delivered] == [b"%d" % number for number in range(20)]
    assert [partition for _, _, partition in fake().delivered] == [number % 3 for number in range(20)]


def test_failures_are_told_at_once_and_by_the_next_flush(
    fake: Callable[[], FakeProducer], unconnected: Settings
) -> None:
    told: list[FailedDelivery] = []
    publisher = FeedbackPublisher(unconnected, on_failure=told.append)
    publisher.publish_bytes(b"a", b"1")
    publisher.publish_bytes(b"b", b"2")
    fake().error = KafkaError(KafkaError._MSG_TIMED_OUT)
    fake().fail_all()
    assert [(failed.key, failed.value) for failed in told] == [(b"a", b"1"), (b"b", b"2")]
    assert all("timed out" in failed.error for failed in told)
    with pytest.raises(PublishError, match=r"2 events not delivered.*timed out"):
        publisher.flush(0)
    publisher.flush(0)  # told once
    publisher.close()


def test_a_report_that_raises_does_not_hide_the_next_failure(
    fake: Callable[[], FakeProducer], unconnected: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    def report(failed: FailedDelivery) -> None:
        raise RuntimeError("no mail today")

    publisher = FeedbackPublisher(unconnected, on_failure=report)
    publisher.publish_bytes(b"a", b"1")
    publisher.publish_bytes(b"b", b"2")
    fake().error = KafkaError(KafkaError._MSG_TIMED_OUT)
    fake().fail_all()
    assert [record.message for record in caplog.records] == ["on_failure raised"] * 2
    with pytest.raises(PublishError, match="2 events not delivered"):
        publisher.close()


def test_what_kafka_refuses_is_an_error_of_the_call(fake: Callable[[], FakeProducer], unconnected: Settings) -> None:
    with FeedbackPublisher(unconnected) as publisher:
        fake().refusal = KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE))
        with pytest.raises(PublishError, match=r"[Mm]essage size"):
            publisher.publish_bytes(b"a", b"1")


class HeldProducer(FakeProducer):
    """Answers only when a test says so."""

    def poll(self, timeout: float) -> int:
        time.sleep(min(timeout, 0.01))
        return 0

    def flush(self, timeout: float) -> int:
        return len(self.queued)


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], FakeProducer]]:
    FakeProducer.made = []
    monkeypatch.setattr(publisher_module, "Producer", HeldProducer)
    monkeypatch.setattr(publisher_module, "_OFFERED_EVENTS", 3)
    monkeypatch.setattr(publisher_module, "_OFFERED_BYTES", 100)
    yield lambda: FakeProducer.made[-1]
    FakeProducer.made = []


def test_an_offer_is_queued_whole_or_not_at_all(held: Callable[[], FakeProducer], unconnected: Settings) -> None:
    with FeedbackPublisher(unconnected, confirms=True) as publisher:
        producer = held()
        producer.room = 100
        first = publisher.offer([(b"a", b"1"), (b"b", b"2")])
        for too_many in ([(b"c", b"3")] * 2, [(b"c", bytes(100))]):
            with pytest.raises(QueueFull):
                publisher.offer(too_many)
        assert len(producer.queued) == 2
        assert not first.cancel()
        producer._answer()
        assert not first.done()
        producer.error = KafkaError(KafkaError._MSG_TIMED_OUT)
        producer._answer()
        assert first.result(0) == ["", "Local: Message timed out"]
        producer.error = None
        second = publisher.offer([(b"c", b"3")] * 3)
        producer.fail_all()
        assert second.result(0) == [""] * 3
        publisher.flush()  # what was offered is not told here


def test_an_offer_that_kafka_does_not_take_leaves_no_trace(
    held: Callable[[], FakeProducer], unconnected: Settings
) -> None:
    with FeedbackPublisher(unconnected, confirms=True) as publisher:
        producer = held()
        producer.room = 0
        with pytest.raises(QueueFull):
            publisher.offer([(b"a", b"1")])
        producer.room = 1
        partly = publisher.offer([(b"a", b"1"), (b"b", b"2"), (b"c", b"3")])
        producer.fail_all()
        assert partly.result(0) == ["", "the queue is full", "the queue is full"]
        producer.refusal = KafkaException(KafkaError(KafkaError._FATAL))
        with pytest.raises(PublishError):
            publisher.offer([(b"a", b"1")])
        assert publisher._offered_events == publisher._offered_bytes == 0
    with pytest.raises(PublishError, match="closed"):
        publisher.offer([(b"a", b"1")])


def test_closing_ends_every_offer(held: Callable[[], FakeProducer], unconnected: Settings) -> None:
    publisher = FeedbackPublisher(unconnected, confirms=True)
    held().room = 100
    outcome = publisher.offer([(b"a", b"1")])
    with pytest.raises(PublishError, match="1 still unanswered"):
        publisher.close(0)
    assert outcome.result(0) == ["Local: Purged in queue"]


def test_without_a_broker_closing_tells_what_was_lost(unconnected: Settings) -> None:
    told: list[FailedDelivery] = []
    publisher = FeedbackPublisher(unconnected, on_failure=told.append)
    publisher.publish(EVENT)
    with pytest.raises(PublishError, match=r"1 event not delivered: 1 still unanswered after 0\.2 s"):
        publisher.close(0.2)
    assert [failed.key for failed in told] == [b"agent-1"]
    publisher.close()
    with pytest.raises(PublishError, match="closed"):
        publisher.publish(EVENT)


def test_importing_it_imports_no_faust() -> None:
    script = (
        "import sys, feedback_app.publisher; "
        "print([name for name in ('faust', 'mode', 'aiokafka', 'motor', 'rocksdict') if name in sys.modules])"
    )
    answer = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert answer.stdout.strip() == "[]"
