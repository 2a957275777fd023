"""How records get from librdkafka: through confluent-kafka here, or compiled (``feedback_app.compiled``).

A call may block for as long as it is told to, and raises ``confluent_kafka.KafkaException``. What an error means for
the partition is told by ``feedback_app.transport.source``.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import confluent_kafka
from confluent_kafka import KafkaError, Message, TopicPartition

from feedback_app.core.events import Records
from feedback_app.core.headers import headers_of


class Fetched(Records, Protocol):
    """Records that can be taken one part after the other."""

    def take(self, count: int, /) -> Records:
        """Return the first *count*, and let go of them."""
        ...


#: What librdkafka told in the place of a record: of a topic, at an offset.
Notice = tuple[str, int, KafkaError]

#: The records of each topic, and the notices.
Consumed = tuple[Sequence[tuple[str, Fetched]], Sequence[Notice]]


class Reader(Protocol):
    """librdkafka's consumer, for one partition. It is used by one thread at a time."""

    def learn_leader(self, topic: str, seconds: float, /) -> None:
        """Find out who leads *topic*."""
        ...

    def assign(self, offsets: list[tuple[str, int]], /) -> None:
        """Read these topics, from these offsets on."""
        ...

    def consume(self, limit: int, seconds: float, fill_seconds: float, fill_bytes: int, /) -> Consumed:
        """Wait until there is something, and return what there is: *limit* records and notices at most.

        Args:
            seconds: to wait for the first of them, at most.
            fill_seconds: to wait for the rest, from then on.
            fill_bytes: and only for as long as what is there has fewer.
        """
        ...

    def watermarks(self, topic: str, seconds: float | None, /) -> tuple[int, int]:
        """Return where *topic* begins and ends: asked of the broker; with None, as the last fetch has told."""
        ...

    def errors(self) -> Sequence[KafkaError]:
        """Return the errors that are of no topic, since they were asked for."""
        ...

    def close(self) -> None: ...


#: Makes a reader, given librdkafka's configuration and the partition.
MakeReader = Callable[[Mapping[str, Any], int], Reader]


class Messages(list[Message]):
    """:class:`Fetched` as confluent-kafka has them."""

    def take(self, count: int) -> Messages:
        taken = Messages(self[:count])
        del self[:count]
        return taken


class ConfluentReader:
    """:class:`Reader` by confluent-kafka."""

    def __init__(self, config: Mapping[str, Any], partition: int) -> None:
        self._partition = partition
        self._errors: list[KafkaError] = []
        self._starts: dict[str, int] = {}
        # Not a method of this: what the consumer holds must not lead back to it.
        told = {"error_cb": self._errors.append}
        logger = logging.getLogger("feedback_app.librdkafka")
        self._consumer = confluent_kafka.Consumer({**config, **told}, logger=logger)

    def learn_leader(self, topic: str, seconds: float) -> None:
        self._consumer.list_topics(topic, seconds)

    def assign(self, offsets: list[tuple[str, int]]) -> None:
        self._starts = dict(offsets)
        self._consumer.assign([TopicPartition(topic, self._partition, offset) for topic, offset in offsets])

    def consume(self, limit: int, seconds: float, fill_seconds: float, fill_bytes: int) -> Consumed:
        messages = self._consumer.consume(1, seconds)
        until, size = time.monotonic() + fill_seconds, sum(map(_size, messages))
        while messages and len(messages) < limit and size < fill_bytes:
            # All that are there; told to wait, it would do so until as many are there as it may bring.
            more = self._consumer.consume(limit - len(messages), 0)
            more = more or self._consumer.consume(1, max(0.0, until - time.monotonic()))
            if not more:
                break
            messages += more
            size += sum(map(_size, more))
        records = [message for message in messages if message.error() is None]
        notices: list[Notice] = []
        if len(records) != len(messages):
            told = ((message, message.error()) for message in messages)
            notices = [(message.topic() or "", message.offset() or 0, error) for message, error in told if error]
        topics = self._topics_of(records)
        if len(topics) == 1:
            return [(topics.pop(), Messages(records))], notices
        return [(topic, Messages(record for record in records if record.topic() == topic)) for topic in topics], notices

    def _topics_of(self, records: list[Message]) -> set[str]:
        """Return the topics that *records*, the last that were fetched, are of.

        Nearly always it is one: then only one has been read further, and librdkafka knows that. Asking each record
        makes a text for each.
        """
        if not records:
            return set()
        read_to = self._consumer.position([TopicPartition(topic, self._partition) for topic in self._starts])
        moved = {at.topic: at.offset for at in read_to if at.offset > self._starts[at.topic]}
        self._starts.update(moved)
        return set(moved) if len(moved) == 1 else {record.topic() or "" for record in records}

    def watermarks(self, topic: str, seconds: float | None) -> tuple[int, int]:
        where = TopicPartition(topic, self._partition)
        if seconds is None:
            return self._consumer.get_watermark_offsets(where, cached=True)
        return self._consumer.get_watermark_offsets(where, seconds)

    def errors(self) -> list[KafkaError]:
        errors = self._errors[:]
        self._errors.clear()
        return errors

    def close(self) -> None:
        self._consumer.close()


def _size(message: Message) -> int:
    """Return how many bytes a record has: any part of it may be large."""
    headers = sum(len(name) + len(value or b"") for name, value in headers_of(message))
    return len(message) + len(message.key() or b"") + headers
