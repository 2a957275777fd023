"""How the chat service sends feedback: checked, on the right partition, in compressed batches, and never silently lost.

    with FeedbackPublisher(load_settings(), on_failure=report) as publisher:
        publisher.publish({"feedbackId": "f-1", "agentId": "a-1", "userId": "u-1", "rating": "positive", ...})

It needs none of the worker's parts: importing this module imports no Faust.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from types import TracebackType
from typing import Any, NamedTuple, Self

import orjson
from confluent_kafka import KafkaError, KafkaException, Message, Producer

from feedback_app.connections import librdkafka_config, open_client, refusal
from feedback_app.errors import PublishError, QueueFull
from feedback_app.models import FeedbackEvent, validate
from feedback_app.settings import Settings
from feedback_app.topics import MAX_INPUT_BYTES, Topics

logger = logging.getLogger(__name__)

_LINGER_MS = 20
_QUEUED_EVENTS = 100_000
_QUEUED_KBYTES = 128 * 1024
_DELIVERY_TIMEOUT_S = 120.0
_CLOSE_TIMEOUT_S = 30.0
#: How long a failure can stay untold when nobody publishes any more.
_IDLE_POLL_S = 0.5
#: What :meth:`FeedbackPublisher.offer` lets wait for the broker at most: a quarter of a second's worth, so that an
#: outage is told soon and costs little memory.
_OFFERED_EVENTS = 10_000
_OFFERED_BYTES = 32 << 20
#: How long closing can be held up by the thread that serves confirmations.
_CONFIRM_POLL_S = 0.1
_LOG_EVERY_S = 10.0
#: How often a flush looks whether the broker refuses us; and how long a broker that has refused us may take to answer.
_LOOK_S = 0.5
_RECONSIDER_S = 1.0


class FailedDelivery(NamedTuple):
    """An event that was accepted by :meth:`FeedbackPublisher.publish` and could not be delivered."""

    key: bytes | None
    value: bytes | None
    error: str


OnFailure = Callable[[FailedDelivery], None]


def encoded(event: FeedbackEvent) -> bytes:
    """Return a validated event as it goes to the wire."""
    return orjson.dumps({name: value for name, value in event.items() if value is not None})


class _Offered:
    """Records that were offered together: what became of each."""

    def __init__(self, count: int) -> None:
        self.outcome: Future[list[str]] = Future()
        self.outcome.set_running_or_notify_cancel()  # from here on nobody can cancel it
        self._errors = [""] * count
        self._unanswered = set(range(count))

    def answered(self, index: int, error: str) -> None:
        """Note the outcome of one record."""
        self._errors[index] = error
        self._unanswered.remove(index)
        if not self._unanswered:
            self.outcome.set_result(self._errors)


class FeedbackPublisher:
    """Sends feedback events to Kafka; safe to share between threads.

    Delivery is asynchronous: :meth:`publish` returns once the event is queued here, and librdkafka sends it within some
    20 ms, idempotently, waiting for all in-sync replicas. An event that can't be delivered within *delivery_timeout_s*
    is given up, and told: to *on_failure*, which is called with a :class:`FailedDelivery` on whichever thread finds out
    (a publishing one or this object's own; what it raises is logged), and by the next :meth:`flush` or :meth:`close`,
    which raise. A broker that refuses us (a wrong password, say) is told within seconds, by whatever is called next.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        on_failure: OnFailure | None = None,
        delivery_timeout_s: float = _DELIVERY_TIMEOUT_S,
        confirms: bool = False,
    ) -> None:
        """Prepare, and connect in the background.

        Args:
            confirms: also hear of what was delivered, as :meth:`offer` needs it. That takes the interpreter for a
                moment at every event, which :meth:`publish` can do without.

        Raises:
            SettingsError: a file with a certificate or a key is not what it should be.
        """
        self._url = settings.broker_url
        self._topic = Topics.of(settings).feedback
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._failed = 0
        self._last_error = ""
        self._refusal = ""
        self._quiet_until = 0.0
        self._confirms = confirms
        self._offered_events = self._offered_bytes = 0
        config = librdkafka_config(
            settings,
            # The partitioner of Java clients, which the workers expect; librdkafka's own default is another.
            partitioner="murmur2_random",
            enable_idempotence=True,
            acks="all",
            linger_ms=_LINGER_MS,
            compression_type="lz4",
            message_max_bytes=MAX_INPUT_BYTES,
            message_timeout_ms=round(delivery_timeout_s * 1000),
            queue_buffering_max_messages=_QUEUED_EVENTS,
            queue_buffering_max_kbytes=_QUEUED_KBYTES,
            delivery_report_only_error=not confirms,
        )
        # Our own logger tells of broken connections; librdkafka would write to stderr as well.
        config.update(error_cb=self._on_error, on_delivery=self._on_delivery)
        self._producer: Producer = open_client(Producer, config)
        self._busy = False
        self._closed = threading.Event()
        poll = self._poll if confirms else self._poll_while_idle
        self._poller = threading.Thread(target=poll, name="feedback-publisher", daemon=True)
        self._poller.start()

    def publish(self, event: Mapping[str, Any]) -> None:
        """Check one feedback event and queue it for sending, on its agent's partition.

        Blocks while the local queue is full (100,000 events or 128 MiB): back-pressure instead of loss.

        Raises:
            ValueError: the event is invalid, and why; nothing was queued.
            PublishError: the publisher is closed, or can't go on.
        """
        checked = validate(event)
        self.publish_bytes(checked["agentId"].encode(), encoded(checked))

    def publish_bytes(self, key: bytes | None, value: bytes | None, partition: int | None = None) -> None:
        """Queue a record as it is, unchecked: for tools and tests, which must also send what is invalid or misplaced.

        Without *partition* the key decides it (a random one when there is no key). Blocks like :meth:`publish`.

        Raises:
            PublishError: the publisher is closed, the record is too large, or the publisher can't go on.
        """
        if self._closed.is_set():
            raise PublishError("the publisher is closed")
        if refused := self._refused():
            raise PublishError(f"not sent: {refused}")
        self._busy = True
        # -1 is librdkafka's RD_KAFKA_PARTITION_UA: let the partitioner decide.
        where = -1 if partition is None else partition
        while True:
            try:
                self._producer.produce(self._topic, value, key, where)
                break
            except BufferError:
                # Full. Deliveries that are done, or given up, make room.
                self._producer.poll(0.1)
                if refused := self._refused():
                    raise PublishError(f"not sent: {refused}") from None
            except KafkaException as error:
                raise PublishError(f"not sent: {error.args[0].str()}") from error
        self._producer.poll(0)

    def offer(self, records: Sequence[tuple[bytes, bytes]]) -> Future[list[str]]:
        """Queue one or more valid events (key and value), all or none, without ever blocking: for an event loop.

        At most 10,000 events and 32 MiB that were offered may be unanswered. What becomes of them is told by the future
        alone, and neither to *on_failure* nor by :meth:`flush`. It can't be cancelled, and is done within the delivery
        timeout, or with :meth:`close`.

        Returns:
            A future of one text for each record, in their order: empty once all in-sync replicas have it, else why it
            is given up. One that was given up may have arrived all the same: its acknowledgement can be what was lost.

        Raises:
            QueueFull: nothing was queued; try again later.
            PublishError: nothing was queued: the publisher is closed, or can't go on and has to be replaced.
        """
        assert self._confirms, "the publisher was made without confirms=True"
        if self._closed.is_set():
            raise PublishError("the publisher is closed")
        sizes = [len(key) + len(value) for key, value in records]
        with self._lock:
            if (
                self._offered_events + len(records) > _OFFERED_EVENTS
                or self._offered_bytes + sum(sizes) > _OFFERED_BYTES
            ):
                raise QueueFull
            self._offered_events += len(records)
            self._offered_bytes += sum(sizes)
        offered = _Offered(len(records))
        for index, (key, value) in enumerate(records):
            told = partial(self._on_answered, offered, index, sizes[index])
            try:
                self._producer.produce(self._topic, value, key, -1, told)
            except (BufferError, KafkaException) as error:
                reason = error.args[0].str() if isinstance(error, KafkaException) else "the queue is full"
                for left in range(index, len(records)):
                    self._answer(offered, left, sizes[left], reason)
                if index == 0:
                    raise (QueueFull() if isinstance(error, BufferError) else PublishError(reason)) from None
                break
        return offered.outcome

    @property
    def works(self) -> bool:
        """Whether it can still hear of deliveries; False once it is closed."""
        return self._poller.is_alive()

    def flush(self, timeout: float = _CLOSE_TIMEOUT_S) -> None:
        """Wait until everything queued is delivered.

        Raises:
            PublishError: how many events were not: those given up since the last flush, and those still queued after
                *timeout* seconds, or when the broker refuses us. The latter stay queued and are tried further.
        """
        deadline = time.monotonic() + timeout
        refused = ""
        while True:
            left = deadline - time.monotonic()
            queued = self._producer.flush(max(0, min(left, _LOOK_S)))
            if not queued or left <= 0 or (refused := self._refused()):
                break
        with self._lock:
            failed, error = self._failed, self._last_error
            self._failed, self._last_error = 0, ""
        if failed or queued:
            reasons = []
            if failed:
                reasons.append(f"{failed} failed, the last one with: {error}")
            if queued:
                reasons.append(f"{queued} still unanswered" + (f": {refused}" if refused else f" after {timeout:g} s"))
            lost = failed + queued
            raise PublishError(f"{lost} event{'s' * (lost != 1)} not delivered: {'; '.join(reasons)}")

    def close(self, timeout: float = _CLOSE_TIMEOUT_S) -> None:
        """Flush, and accept nothing more; what is still undelivered then is dropped, and told. Can be called again.

        Raises:
            PublishError: as :meth:`flush`.
        """
        if self._closed.is_set():
            return
        self._closed.set()
        self._poller.join()
        try:
            self.flush(timeout)
        finally:
            if len(self._producer):
                self._producer.purge()
                self._producer.flush(1)  # tells on_failure of those that were dropped

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _on_delivery(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            return
        with self._lock:
            self._failed += 1
            self._last_error = error.str()
        if self._on_failure is None:
            return
        try:
            self._on_failure(FailedDelivery(message.key(), message.value(), error.str()))
        except Exception:
            # It may be running on our own thread: one bad report must not end the telling of later ones.
            logger.exception("on_failure raised")

    def _on_answered(
        self, offered: _Offered, index: int, size: int, error: KafkaError | None, message: Message
    ) -> None:
        self._answer(offered, index, size, "" if error is None else error.str())

    def _answer(self, offered: _Offered, index: int, size: int, error: str) -> None:
        with self._lock:
            self._offered_events -= 1
            self._offered_bytes -= size
        offered.answered(index, error)

    def _refused(self) -> str:
        """Say why the broker refuses us; empty when it does not, or not any more."""
        if not self._refusal:
            return ""
        try:
            # One that refused may be one of several, or may have been mended.
            self._producer.list_topics(self._topic, _RECONSIDER_S)
        except KafkaException:
            return f"FEEDBACK_BROKER_URL={self._url}: {self._refusal}"
        self._refusal = ""
        return ""

    def _on_error(self, error: KafkaError) -> None:
        self._refusal = refusal(error) or self._refusal
        # Every attempt to connect reports here, several a second.
        now = time.monotonic()
        level = logging.DEBUG if now < self._quiet_until else logging.WARNING
        if level == logging.WARNING:
            self._quiet_until = now + _LOG_EVERY_S
        logger.log(level, "Kafka: %s", error.str())

    def _poll_while_idle(self) -> None:
        """Serve delivery reports when no publishing thread does.

        Polling here all the time would make publishers wait for the interpreter lock at every delivered record.
        """
        while not self._closed.wait(_IDLE_POLL_S):
            if self._busy:
                self._busy = False
            else:
                self._producer.poll(0)

    def _poll(self) -> None:
        """Serve delivery reports as they come."""
        while not self._closed.is_set():
            self._producer.poll(_CONFIRM_POLL_S)
