"""How a transaction's records get to librdkafka: through confluent-kafka here, or compiled (``feedback_app.compiled``).

Every call blocks for no longer than it says, and raises ``confluent_kafka.KafkaException``; what that means for the
transaction is told by ``feedback_app.transport.transactions``.

librdkafka sends one batch of a partition after the other, and while one is under way and another is waiting its thread
does not sleep: it looks for the answer as fast as it can (2.16, ``rd_kafka_toppar_producer_serve``). With eight
partitions on two cores that kept the broker from answering, once for 17 seconds. So no client hands over more for a
partition than goes into one batch, until that is flushed.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from itertools import takewhile
from typing import Any, Final, Protocol

import confluent_kafka
from confluent_kafka import KafkaError, KafkaException, Message

from feedback_app.core.transaction import Send

#: A key and a value. A value of None is a tombstone.
Pair = tuple[bytes | None, bytes | None]

Delivered = Callable[[KafkaError | None, Message], None]

#: What a record takes in a batch besides its key, its value and its headers, at most; and each header, and the batch.
_RECORD_BYTES: Final = 36
_HEADER_BYTES: Final = 10
_BATCH_HEAD_BYTES: Final = 1_024


class TransactionalClient(Protocol):
    """librdkafka's transactional producer. It is used by one thread at a time, and closed by its last reference."""

    def init_transactions(self, seconds: float, /) -> None: ...

    def begin_transaction(self) -> None: ...

    def commit_transaction(self, seconds: float, /) -> None: ...

    def abort_transaction(self, seconds: float, /) -> None: ...

    def produce_all(self, topic: str, partition: int, records: list[Pair], /) -> list[Pair]:
        """Hand over *records* without headers, none of whose keys is there twice: they may change places.

        Returns:
            Those that did not fit into librdkafka's queue, or into the partition's batch: they are for after a flush.
        """
        ...

    def produce(self, send: Send, *, tell_offset: bool = False) -> bool:
        """Hand over one record; return whether it fitted into librdkafka's queue, and into the partition's batch."""
        ...

    def flush(self, seconds: float, /) -> int:
        """Wait until all is acknowledged; return how many records are not when the time is over."""
        ...

    def offset(self) -> int:
        """Return where the record stands that was acknowledged last, of those whose offset was to be told."""
        ...


#: Makes a client, given librdkafka's configuration.
MakeClient = Callable[[Mapping[str, Any]], TransactionalClient]


class ConfluentClient:
    """:class:`TransactionalClient` by confluent-kafka."""

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._producer = confluent_kafka.Producer(dict(config), logger=logging.getLogger("feedback_app.librdkafka"))
        self._offset = -1
        self._batch_bytes = int(config.get("batch.size", 1 << 20)) - _BATCH_HEAD_BYTES
        #: Bytes handed over for each topic and partition since the last flush.
        self._filled: Counter[tuple[str, int]] = Counter()

    def init_transactions(self, seconds: float) -> None:
        self._producer.init_transactions(seconds)

    def begin_transaction(self) -> None:
        self._filled.clear()  # what was aborted has gone
        self._producer.begin_transaction()

    def commit_transaction(self, seconds: float) -> None:
        self._producer.commit_transaction(seconds)

    def abort_transaction(self, seconds: float) -> None:
        self._producer.abort_transaction(seconds)

    def produce_all(self, topic: str, partition: int, records: list[Pair]) -> list[Pair]:
        fitting = list(takewhile(lambda record: self._fits(topic, partition, _size(*record)), records))
        # In one call: half the cost of a call for each.
        messages: list[dict[str, Any]] = [{"key": key, "value": value} for key, value in fitting]
        try:
            self._producer.produce_batch(topic, messages, partition)
        except BufferError:
            return records
        # What was not taken is marked.
        errors = [(index, error) for index, message in enumerate(messages) if (error := message.get("_error"))]
        for _, error in errors:
            if error.code() != KafkaError._QUEUE_FULL:
                raise KafkaException(error)
        return [records[index] for index, _ in errors] + records[len(fitting) :]

    def produce(self, send: Send, *, tell_offset: bool = False, delivered: Delivered | None = None) -> bool:
        """See :class:`TransactionalClient`; *delivered* is called once the record is acknowledged, or lost."""
        call: Any = self._note_offset if tell_offset else delivered
        headers = list(send.headers) or None
        if not self._fits(send.topic, send.partition, _size(send.key, send.value, headers or ())):
            return False
        try:
            self._producer.produce(send.topic, send.value, send.key, send.partition, call, headers=headers)  # type: ignore[arg-type]
        except BufferError:
            return False
        return True

    def flush(self, seconds: float) -> int:
        try:
            left = self._producer.flush(seconds)
        except SystemError as error:
            # The binding sets a fatal error (fenced, say) before it runs the delivery callback, which must not be.
            if isinstance(error.__cause__, KafkaException):
                raise error.__cause__ from None
            raise
        if not left:
            self._filled.clear()
        return left

    def offset(self) -> int:
        return self._offset

    def _fits(self, topic: str, partition: int, size: int) -> bool:
        """Say whether a record still goes into the partition's batch, and note it. One that is larger than a batch goes
        into one by itself, and librdkafka says what it thinks of that."""
        filled = self._filled[topic, partition]
        if filled and filled + size > self._batch_bytes:
            return False
        self._filled[topic, partition] += size
        return True

    def _note_offset(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self._offset = message.offset() or 0


def _size(key: bytes | None, value: bytes | None, headers: Iterable[tuple[str, bytes | None]] = ()) -> int:
    size = _RECORD_BYTES + len(key or b"") + len(value or b"")
    return size + sum(_HEADER_BYTES + len(name.encode()) + len(content or b"") for name, content in headers)
