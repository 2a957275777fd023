"""Whole batches through Faust.

Faust hands messages over one at a time, with two tasks and a queue entry each: some 2,000 a second. This transport
hands an agent what was read for one partition as *one* message, whose value is a ``Batch``.

Everything here relies on faust-streaming 0.15.3 and aiokafka 0.14; ``tests/functional/test_faust_seams.py`` fails when
one of these behaviours changes:

* ``Consumer.getmany`` is the one place where fetched records become messages, and ``_getmany`` the one where they are
  fetched, for the partitions that are resumed;
* ``resume_partitions`` is the one way by which Faust lets a partition be read, and ``perform_seek`` the one by which it
  chooses where from;
* what Faust hands over must not lie before the offset that it finds in ``_read_offset``, if it finds one;
* aiokafka leaves the group when nothing was fetched for long, and fetches nothing for a paused partition.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

from aiokafka import TopicPartition
from aiokafka.errors import KafkaError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP, ConsumerMessage, Message

from feedback_app.liveness import Liveness
from feedback_app.measuring import Progress
from feedback_app.transport.source import Batch, PartitionSource

#: Opens a source for a partition, at an offset for each topic. May block.
OpenSource = Callable[[int, Mapping[str, int]], PartitionSource]

_FETCH_S: Final = 0.5
#: How often the group's member is told that it is alive. It is a round trip to another thread, and batches wait for it.
_ALIVE_S: Final = 0.5
_TELL_GROUP_S: Final = 1.0

logger = logging.getLogger(__name__)


def _liveness_of(app: Any) -> Liveness:
    liveness: Liveness = app.liveness
    return liveness


class ConsumerThread(driver.AIOKafkaConsumerThread):
    """Faust's consumer thread, as a member of the group: it fetches nothing."""

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        consumer = self._ensure_consumer()
        consumer.pause(*consumer.assignment())
        with _liveness_of(self.app).step("Faust does not take its partitions"):
            await super().on_partitions_assigned(assigned, generation_id)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        with _liveness_of(self.app).step("Faust does not give its partitions up"):
            await super().on_partitions_revoked(revoked)

    async def ping(self) -> None:
        """Return once the thread has answered."""
        await self.call_thread(self._answer)

    async def _answer(self) -> None:
        pass

    async def tell_group(self, offsets: Mapping[TP, int]) -> bool:
        """Commit *offsets* to the group, for lag tools; return whether it took them."""
        told: bool = await self.call_thread(self._tell_group, offsets)
        return told

    async def _tell_group(self, offsets: Mapping[TP, int]) -> bool:
        consumer = self._ensure_consumer()
        try:
            async with asyncio.timeout(_TELL_GROUP_S):
                await consumer.commit({TopicPartition(*tp): offset for tp, offset in offsets.items()})
        except (KafkaError, TimeoutError) as error:
            # A rebalance is under way, say, or the broker is away.
            logger.debug("the group's offsets are not committed: %r", error)
            return False
        return True

    async def rejoin(self) -> None:
        """Join the group again: every partition is given up and taken over anew."""
        await self.call_thread(self._rejoin)

    async def _rejoin(self) -> None:
        self._ensure_consumer()._coordinator.request_rejoin()


class Reading:
    """One partition being read: at most one fetch is under way, or one batch a topic waits to be taken up.

    So what is waiting is bounded, whatever the backlog.
    """

    def __init__(
        self,
        partition: int,
        open_source: Callable[[], PartitionSource],
        deliver: Callable[[Batch], None],
        liveness: Liveness,
    ) -> None:
        self.partition = partition
        #: Runs :meth:`read`.
        self.task: asyncio.Future[None] | None = None
        self._deliver = deliver
        self._liveness = liveness
        self._stopped = False
        self._waiting: list[Batch] = []
        # A thread of its own: a fetch blocks, and a consumer belongs to one thread.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"source-{partition}")
        self._source = asyncio.get_running_loop().run_in_executor(self._thread, open_source)

    async def read(self) -> None:
        """Fetch until something is there, and deliver it."""
        source = await asyncio.shield(self._source)  # whoever is cancelled here, it will be there to close
        while not self._stopped:
            batches = await self._run(lambda: source.fetch(_FETCH_S))
            if batches and not self._stopped:
                self._waiting = batches
                for batch in batches:
                    self._liveness.begin(_way(batch), f"a batch of {batch.topic}[{batch.partition}] does not arrive")
                    self._deliver(batch)
                return

    def arrived(self, batch: Batch) -> None:
        """Note that *batch* has made its way through Faust."""
        self._liveness.end(_way(batch))

    @property
    def stands_still(self) -> bool:
        """Whether nothing is fetched, and nothing that was fetched is to be taken up."""
        return self.task is not None and self.task.done() and not self._waiting

    @property
    def progress(self) -> Mapping[str, Progress]:
        """How far each topic is read; empty before that is known."""
        opened = self._source.done() and not self._source.cancelled() and self._source.exception() is None
        return self._source.result().progress if opened else {}

    async def ask_for_ends(self) -> None:
        """Let the source find out where its topics end, if nothing is fetched that would tell."""
        if self._source.done() and self._waiting and not self._stopped:
            await self._run(self._source.result().ask_for_ends)

    def taken_up(self, batch: Batch) -> bool:
        """Note that *batch* is being worked on; return whether nothing is waiting any more."""
        left = [other for other in self._waiting if other is not batch]
        was_the_last = bool(self._waiting) and not left
        self._waiting = left
        return was_the_last and not self._stopped

    async def at_the_end(self) -> bool:
        """Say whether everything has been read and taken up."""
        source = await asyncio.shield(self._source)  # whoever is cancelled here, it will be there to close
        at_the_end: bool = await self._run(source.at_the_end)
        return at_the_end and not self._waiting and not self._stopped

    def stop(self) -> None:
        """Deliver nothing any more; the source is closed in its own time."""
        self._stopped = True
        for batch in self._waiting:
            self.arrived(batch)
        self._source.add_done_callback(
            lambda opened: None if opened.cancelled() or opened.exception() else self._close(opened.result())
        )

    def _close(self, source: PartitionSource) -> None:
        self._thread.submit(source.close)
        self._thread.shutdown(wait=False)

    async def _run(self, call: Callable[[], Any]) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)


def _way(batch: Batch) -> tuple[str, int]:
    return ("batch", id(batch))


class _NoOffsets(dict[TP, int | None]):
    """How far Faust has handed each partition over: it finds that nowhere.

    It notes an offset once a message is handed over. A partition that is sent back meanwhile would then lie behind what
    is noted, and what is read again be dropped in silence. A partition knows by itself what continues what it has.
    """

    def __getitem__(self, tp: TP) -> None:
        return None


class BatchConsumer(driver.Consumer):
    """Faust's consumer, whose source partitions are read batch by batch, once they are started."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._read_offset = _NoOffsets()
        self._readings: dict[int, Reading] = {}
        self._fetched: asyncio.Queue[Batch] = asyncio.Queue()
        self._told_alive_at = -_ALIVE_S

    def _new_consumer_thread(self) -> ConsumerThread:
        return ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    # -- which partitions are read, and from where -----------------------------------------------------------------

    def start_partition(self, partition: int, offsets: Mapping[str, int], open_source: OpenSource) -> None:
        """Read a partition of all source topics, from *offsets* (by topic) on. Until this is called it is not read."""
        self._stop(partition)
        self._readings[partition] = Reading(
            partition, lambda: open_source(partition, offsets), self._deliver, _liveness_of(self.app)
        )
        self.resume_partitions({TP(topic, partition) for topic in offsets})
        self._read(self._readings[partition])

    def stop_partitions(self) -> None:
        """Read nothing any more, until it is started again."""
        for partition in list(self._readings):
            self._stop(partition)
        self._fetched = asyncio.Queue()

    def ask_for_more(self, batch: Batch) -> None:
        """Fetch on: *batch* is being worked on."""
        reading = self._readings.get(batch.partition)
        if reading is not None and reading.taken_up(batch):
            self._read(reading)

    def arrived(self, batch: Batch) -> None:
        """Note that *batch* has reached its agent."""
        reading = self._readings.get(batch.partition)
        if reading is not None:
            reading.arrived(batch)

    def signs(self) -> Iterator[str]:
        """Yield, in words, which partitions should be read, and are not."""
        for partition, reading in self._readings.items():
            if reading.stands_still:
                yield f"partition {partition} is not read any more"

    async def ping(self) -> None:
        """See :meth:`ConsumerThread.ping`."""
        thread: Any = self._thread
        await thread.ping()

    async def at_the_end(self, partition: int) -> bool:
        """Say whether everything that there is on the partition's source topics has been read and taken up."""
        reading = self._readings.get(partition)
        return reading is not None and await reading.at_the_end()

    def progress(self, partition: int) -> Mapping[str, Progress]:
        """Return how far a partition's source topics are read; empty where that is not known."""
        reading = self._readings.get(partition)
        return reading.progress if reading is not None else {}

    async def ask_for_ends(self) -> None:
        """Find out where the topics end that nothing is fetched from."""
        await asyncio.gather(*(reading.ask_for_ends() for reading in list(self._readings.values())))

    async def tell_group(self, offsets: Mapping[TP, int]) -> bool:
        """See :meth:`ConsumerThread.tell_group`."""
        thread: Any = self._thread
        told: bool = await thread.tell_group(offsets)
        return told

    async def rejoin(self) -> None:
        """See :meth:`ConsumerThread.rejoin`."""
        thread: Any = self._thread
        await thread.rejoin()

    def _deliver(self, batch: Batch) -> None:
        self._fetched.put_nowait(batch)

    def _read(self, reading: Reading) -> None:
        reading.task = self.add_future(reading.read())

    def _stop(self, partition: int) -> None:
        reading = self._readings.pop(partition, None)
        if reading is not None:
            reading.stop()

    # -- what Faust asks -------------------------------------------------------------------------------------------

    def resume_partitions(self, tps: Iterable[TP]) -> None:
        """Resume what may be read: not the partitions that are still being taken over."""
        super().resume_partitions({tp for tp in tps if tp.partition in self._readings})

    async def perform_seek(self) -> None:
        """Stay: each partition was sent to its own offset by :meth:`start_partition`, not to a committed one."""

    async def _getmany(self, active_partitions: set[TP] | None, timeout: float) -> Any:  # noqa: ASYNC109  # Faust's
        try:
            batch = await asyncio.wait_for(self._fetched.get(), timeout)
        except TimeoutError:
            return {}
        return {TP(batch.topic, batch.partition): batch}

    async def getmany(self, timeout: float) -> AsyncIterator[tuple[TP, Message]]:  # noqa: ASYNC109  # Faust's
        """Yield a message whose value is a ``Batch``, when there is one.

        A rebalance can come between any two steps here. Nothing depends on what is dropped then: a partition takes
        only the batch that continues what it has, and is read from there again otherwise.
        """
        if time.monotonic() - self._told_alive_at >= _ALIVE_S:
            # Brings nothing, and tells aiokafka that this member is alive, also while it has no partitions.
            await super()._getmany(self._get_active_partitions(), 0)
            self._told_alive_at = time.monotonic()
        fetched, _ = await self._wait_next_records(timeout)
        for tp, batch in (fetched or {}).items():
            if not self.should_stop and self.flow_active:
                yield tp, self._message(tp, batch)

    def _message(self, tp: TP, batch: Any) -> ConsumerMessage:
        return ConsumerMessage(
            batch.topic,
            batch.partition,
            batch.end - 1,
            0.0,
            0,
            [],
            None,
            batch,
            None,
            tp=tp,
            generation_id=self.app.consumer_generation_id,
        )


class BatchTransport(driver.Transport):
    """Faust's aiokafka transport with :class:`BatchConsumer`."""

    Consumer = BatchConsumer
