"""Whole batches through Faust.

Faust hands messages over one at a time, with two tasks and a queue entry each: some 2,000 a second. This transport
hands an agent what one fetch brought for one partition as *one* message, whose value is the list of records.

Everything here relies on faust-streaming 0.15.3 and aiokafka 0.14; ``tests/functional/test_faust_seams.py`` fails when
one of these behaviours changes:

* ``Consumer.getmany`` is the one place where fetched records become messages; ``_getmany`` fetches for a given set of
  partitions, and takes an empty set for "all";
* ``resume_partitions`` is the one way by which Faust lets a partition be read, and ``perform_seek`` the one by which it
  chooses where from;
* ``AIOKafkaConsumer`` takes its isolation level and waiting time from two attributes when it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, Final, NamedTuple

import aiokafka
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, Message

#: At low rates the broker answers a fetch when something arrives; this is only how long it waits at most.
_FETCH_WAIT_MS: Final = 250
#: While a batch is in hand for some partition, the others are waited for only this long: it may have room again.
_BUSY_WAIT_S: Final = 0.02


class Tail(NamedTuple):
    """How far a source partition has been read, by the last answer to a fetch.

    Attributes:
        position: the next offset to fetch, past the markers of transactions.
        end: the last stable offset: everything below it is decided.
        at_ms: wall time of the answer.
    """

    position: int
    end: int
    at_ms: int


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread, reading committed records only."""

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust offers this only together with its own transactions, which are not ours.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer

    async def tails(self, tps: Iterable[TP]) -> dict[TP, Tail]:
        """Return the tails of those of *tps* that have been fetched from at least once."""
        return await self.call_thread(self._tails, tuple(tps))  # type: ignore[no-any-return]  # untyped in mode

    async def _tails(self, tps: Iterable[TP]) -> dict[TP, Tail]:
        consumer = self._ensure_consumer()
        found = {}
        for tp in consumer.assignment().intersection(tps):
            end, polled_at = consumer.last_stable_offset(tp), consumer.last_poll_timestamp(tp)
            if end is not None and polled_at is not None:
                found[TP(tp.topic, tp.partition)] = Tail(await consumer.position(tp), end, polled_at)
        return found

    async def rejoin(self) -> None:
        """Join the group again: every partition is given up and taken over anew."""
        await self.call_thread(self._rejoin)

    async def _rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()


class BatchConsumer(driver.Consumer):
    """Faust's consumer, for source topics whose partitions are read batch by batch, once they are started."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._batched: frozenset[str] = getattr(self.app, "batched_topics", frozenset())
        self._started_tps: set[TP] = set()
        self._in_hand: set[TP] = set()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- which partitions are read, and from where -----------------------------------------------------------------

    async def start_partitions(self, offsets: Mapping[TP, int]) -> None:
        """Read from *offsets* on. Until this is called, a newly assigned partition is not read."""
        await self.seek_wait(offsets)
        self._started_tps.update(offsets)
        self.resume_partitions(offsets)

    def stop_partitions(self) -> None:
        """Read from no partition any more, until it is started again."""
        self._started_tps.clear()
        self._in_hand.clear()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume what may be read: not the partitions that are still being taken over."""
        super().resume_partitions({tp for tp in tps if tp.topic not in self._batched or tp in self._started_tps})

    async def perform_seek(self) -> None:
        """Stay: each partition was sent to its own offset by :meth:`start_partitions`, not to a committed one."""

    def ask_for_more(self, tp: TP) -> None:
        """Fetch for *tp* again: what was handed out for it is being worked on.

        So there is at most one batch waiting and one in work for each source partition, whatever the backlog.
        """
        self._in_hand.discard(tp)

    def nothing_in_hand(self, tps: Iterable[TP]) -> bool:
        """Say whether all that was fetched for *tps* has been taken up."""
        return self._in_hand.isdisjoint(tps)

    async def tails(self, tps: Iterable[TP]) -> dict[TP, Tail]:
        """See :meth:`ConsumerThread.tails`."""
        thread: Any = self._thread
        return await thread.tails(tps)  # type: ignore[no-any-return]  # Faust declares its own thread type

    async def rejoin(self) -> None:
        """See :meth:`ConsumerThread.rejoin`."""
        thread: Any = self._thread
        await thread.rejoin()

    # -- batches ---------------------------------------------------------------------------------------------------

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:
        if active_partitions and self._in_hand:
            active_partitions = active_partitions - self._in_hand
            if not active_partitions:
                await asyncio.sleep(_BUSY_WAIT_S)
                return {}
            timeout = min(timeout, _BUSY_WAIT_S)
        return await super()._getmany(active_partitions, timeout)

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:
        """Fetch, and yield one message for each partition that the fetch brought records for.

        What was fetched before a rebalance is dropped: every partition is sent to its offset again afterwards.
        """
        generation = self.app.consumer_generation_id
        records, _ = await self._wait_next_records(timeout)
        records = records or {}
        if self.app.consumer_generation_id == generation:
            self._in_hand.update(tp for tp in records if tp in self._started_tps)
        for tp, batch in records.items():
            if self.should_stop or not self.flow_active or self.app.consumer_generation_id != generation:
                return
            if tp.topic not in self._batched:
                for record in batch:
                    yield tp, self._to_message(tp, record)
            elif batch and tp in self._started_tps:
                message = self._to_message(tp, batch[-1])
                message.value = batch
                yield tp, message


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with :class:`BatchConsumer`."""

    Consumer = BatchConsumer
