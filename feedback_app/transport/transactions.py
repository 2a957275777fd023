"""The transactional producer of one partition.

Its transactional id is the app id and the partition's number, so whoever takes the partition over fences whoever had
it before. librdkafka's calls block; each producer has a thread of its own, which also keeps them in order.

The source offsets are in the partition record, and so in the transaction. They are not sent to the group with it:
librdkafka's ``send_offsets_to_transaction`` can hang for ever, whatever its timeout, when the group's coordinator moves
or is not there yet (librdkafka issue 5456, seen after every restart of a broker). The group's own offsets are for lag
tools, and follow by way of Faust's consumer.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, TypeVar, cast

from confluent_kafka import KafkaError, KafkaException

from feedback_app.connections import librdkafka_config
from feedback_app.core.state import Changes
from feedback_app.core.transaction import Send
from feedback_app.errors import Aborted, BrokerError, FeedbackError, Fenced
from feedback_app.liveness import Liveness, watched
from feedback_app.settings import Settings
from feedback_app.topics import MAX_SIDE_BYTES
from feedback_app.transport.clients import ConfluentClient, MakeClient, Pair

logger = logging.getLogger(__name__)

#: How long the broker waits for a transaction before it aborts it: also how long readers of committed records may
#: have to wait after a crash that nobody takes over.
TRANSACTION_TIMEOUT_MS: Final = 60_000
_CALL_TIMEOUT_S: Final = 10.0
#: Handed over and not sent yet, at most: letters may be a megabyte each, and a batch has thousands of records.
_QUEUED_KB: Final = 65_536

_T = TypeVar("_T")

_FENCED: Final = frozenset(
    {
        KafkaError._FENCED,
        KafkaError.PRODUCER_FENCED,
        KafkaError.INVALID_PRODUCER_EPOCH,
        KafkaError.INVALID_PRODUCER_ID_MAPPING,
    }
)


class TransactionalProducer:
    """Writes the transactions of one partition. All blocking methods run in the producer's own thread.

    Args:
        transactional_id: the app id and the partition's number by default.
        name: what the transactions are of, in messages; the partition by default.
        make_client: makes what hands the records to librdkafka.
    """

    def __init__(
        self,
        settings: Settings,
        partition: int,
        *,
        liveness: Liveness | None = None,
        transactional_id: str = "",
        name: str = "",
        make_client: MakeClient = ConfluentClient,
    ) -> None:
        self.partition = partition
        self._name = name or f"partition {partition}"
        self._stopped = False
        self._threads = ThreadPoolExecutor(1, thread_name_prefix=f"transactions-{partition}")
        client = make_client(
            librdkafka_config(settings)
            | {
                "transactional.id": transactional_id or f"{settings.app_id}-{partition}",
                "transaction.timeout.ms": TRANSACTION_TIMEOUT_MS,
                # Nothing is sent before the flush, which does not wait. Sent as it comes, a transaction is many small
                # requests; and while five of them are under way, librdkafka's thread does not sleep.
                "linger.ms": 100,
                # Before compression, as below: whatever we send, no batch is larger than its topic takes.
                "batch.size": 1 << 20,
                "batch.num.messages": 100_000,
                "message.max.bytes": MAX_SIDE_BYTES,
                "queue.buffering.max.messages": 500_000,
                "queue.buffering.max.kbytes": _QUEUED_KB,
                # Committing asks the coordinator again and again while it writes markers: with the default of
                # 100 ms a commit takes as long.
                "retry.backoff.ms": 10,
                "compression.type": "lz4",
            }
        )
        self._client = watched(client, f"the producer of partition {partition}", liveness)

    async def run(self, call: Callable[[], _T]) -> _T:
        """Run *call* in the producer's thread, after everything that was asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, call)

    def fence(self) -> None:
        """Fence the partition's former owner, and settle the transaction that it may have left open.

        Raises:
            BrokerError: the broker refused.
            Fenced: a later owner was faster.
        """
        while True:
            try:
                self._client.init_transactions(_CALL_TIMEOUT_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise self._failed(error) from error
                self._check_running()
            else:
                return

    def transact(self, sends: Iterable[Send], topic: str, changes: Changes, last: tuple[bytes, bytes]) -> int:
        """Write one transaction.

        Args:
            sends: records for other topics.
            topic: the changelog.
            changes: keys and values for the partition's changelog; None is a tombstone.
            last: one more key and value for it, after all others.

        Returns:
            The offset of *last*.

        Raises:
            Aborted: nothing was written; the same can be tried again.
            Fenced: nothing was written, and nothing may be written any more.
            BrokerError: something else went wrong: the worker must not go on.
        """
        try:
            self._client.begin_transaction()
            plain: dict[str, list[Pair]] = {topic: []}
            for send in sends:
                if send.headers or send.partition != self.partition:
                    self._produce(send)
                else:
                    plain.setdefault(send.topic, []).append((send.key, send.value))
            plain[topic] += changes.items()
            for name, records in plain.items():
                self._produce_all(name, records)
            # One partition, one order: the offset of the last record says it all.
            self._produce(Send(topic, self.partition, *last), tell_offset=True)
            self._flush()
        except KafkaException as error:
            raise self._failed(error) from error
        self._commit()
        return self._client.offset()

    def stop(self) -> None:
        """Give up whatever is waiting for the broker. Called from another thread than the producer's."""
        self._stopped = True
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _produce(self, send: Send, **how: Any) -> None:
        while not self._client.produce(send, **how):
            self._make_room()

    def _produce_all(self, topic: str, records: list[Pair]) -> None:
        while records := self._client.produce_all(topic, self.partition, records):
            self._make_room()

    def _make_room(self) -> None:
        """Let librdkafka send what it has before it gets more."""
        self._check_running()
        self._client.flush(_CALL_TIMEOUT_S)

    def _flush(self) -> None:
        """Wait until every record is acknowledged, so that the changelog offsets are known before the commit."""
        while self._client.flush(_CALL_TIMEOUT_S):
            self._check_running()

    def _commit(self) -> None:
        """Commit. While the outcome is unknown the call is repeated, and the transaction never aborted."""
        while True:
            try:
                self._client.commit_transaction(_CALL_TIMEOUT_S)
            except KafkaException as error:
                if not error.args[0].retriable():
                    raise self._failed(error) from error
                logger.warning("%s: the commit is repeated: %s", self._name, error.args[0].str())
                self._check_running()
            else:
                return

    def _check_running(self) -> None:
        if self._stopped:
            raise Fenced(f"{self._name} was given up while the broker was waited for")

    def _failed(self, error: KafkaException) -> FeedbackError:
        """Say what *error* means for the transaction, which is aborted where that is allowed."""
        reason = self._cause(error.args[0])
        if reason.code() in _FENCED:
            return Fenced(f"{self._name}: another worker has taken over ({reason.str()})")
        if reason.txn_requires_abort():
            self._abort()
            return Aborted(f"{self._name}: the transaction was aborted ({reason.str()})")
        return BrokerError(f"{self._name}: the transaction failed ({reason.str()})")

    def _cause(self, reason: KafkaError) -> KafkaError:
        """Return what is behind *reason*: handing over a record says no more than that there was a fatal error."""
        if reason.code() == KafkaError._FATAL:
            try:
                self._client.abort_transaction(_CALL_TIMEOUT_S)
            except KafkaException as error:
                return cast(KafkaError, error.args[0])
        return reason

    def _abort(self) -> None:
        while True:
            try:
                self._client.abort_transaction(_CALL_TIMEOUT_S)
            except KafkaException as error:
                reason: KafkaError = error.args[0]
                if reason.code() in _FENCED:
                    raise Fenced(f"{self._name}: another worker has taken over") from error
                if not reason.retriable():
                    raise BrokerError(f"{self._name}: the abort failed ({reason.str()})") from error
                self._check_running()
            else:
                return
