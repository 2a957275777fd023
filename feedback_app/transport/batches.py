"""Whole batches through Faust.

Faust hands messages over one at a time, with two tasks and a queue entry each: some 2,000 a second. This transport
hands an agent what one fetch brought for one partition as *one* message, whose value is the list of records.

Everything here relies on faust-streaming 0.15.3 and aiokafka 0.14; ``tests/functional/test_faust_seams.py`` fails when
one of these behaviours changes:

* ``Consumer.getmany`` is the one place where fetched records become messages; ``_getmany`` fetches for a given set of
  partitions, and takes an empty set for "all"; ``_fetch_records`` is where the consumer thread asks aiokafka's fetcher;
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


class Batch(NamedTuple):
    """What one fetch brought for one source partition.

    Attributes:
        tp: the source partition.
        start: the position that it was read from: where the batch before it ended, or where reading was started.
        end: the position after it.
        records: at least one.
    """

    tp: TP
    start: int
    end: int
    records: list[Any]


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

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._positions: dict[TP, int] = {}

    def _create_worker_consumer(self, transport: driver.Transport) -> aiokafka.AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        # Faust offers this only together with its own transactions, which are not ours.
        consumer._isolation_level = "read_committed"
        consumer._fetch_max_wait_ms = _FETCH_WAIT_MS
        return consumer

    async def start_at(self, offsets: Mapping[TP, int]) -> None:
        """Read from *offsets* on."""
        await self.call_thread(self._start_at, dict(offsets))

    async def _start_at(self, offsets: Mapping[TP, int]) -> None:
        consumer = self._ensure_consumer()
        for tp, offset in offsets.items():
            if tp in consumer.assignment():  # else it was taken away meanwhile, and is started again when it is back
                consumer.seek(tp, offset)
                self._positions[tp] = offset

    async def _fetch_records(self, *args: Any, **kwargs: Any) -> dict[TP, Batch]:
        """Fetch, and note from where to where: in this thread, nothing can come between a fetch and its position."""
        fetched = await super()._fetch_records(*args, **kwargs)
        assignment = self._ensure_consumer()._subscription.subscription.assignment
        batches = {}
        for tp, records in fetched.items():
            state = assignment.state_value(tp)
            start = self._positions.get(tp)
            if records and state is not None and start is not None:
                self._positions[tp] = state.position
                batches[tp] = Batch(TP(tp.topic, tp.partition), start, state.position, records)
        return batches

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
        self._started_tps: set[TP] = set()
        self._in_hand: set[TP] = set()

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- which partitions are read, and from where -----------------------------------------------------------------

    async def start_partitions(self, offsets: Mapping[TP, int]) -> None:
        """Read from *offsets* on. Until this is called, a newly assigned partition is not read."""
        thread: Any = self._thread
        await thread.start_at(offsets)
        self._started_tps.update(offsets)
        self._in_hand.difference_update(offsets)
        self._read_offset.update(offsets)
        self.resume_partitions(offsets)

    def stop_partitions(self) -> None:
        """Read from no partition any more, until it is started again."""
        self._started_tps.clear()
        self._in_hand.clear()

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume what may be read: not the partitions that are still being taken over."""
        super().resume_partitions(self._started_tps.intersection(tps))

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
        """Fetch, and yield one message for each partition that the fetch brought records for; its value is a
        :class:`Batch`.

        A rebalance can come between any two steps here. Nothing depends on what is dropped then: a partition takes
        only the batch that continues what it has (``tables.feedback_windows``), and is sent to its offset again
        otherwise.
        """
        fetched, _ = await self._wait_next_records(timeout)
        batches: list[Batch] = [batch for batch in (fetched or {}).values() if batch.tp in self._started_tps]
        self._in_hand.update(batch.tp for batch in batches)
        for batch in batches:
            if self.should_stop or not self.flow_active:
                return
            message = self._to_message(batch.tp, batch.records[-1])
            message.value = batch
            yield batch.tp, message


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with :class:`BatchConsumer`."""

    Consumer = BatchConsumer
