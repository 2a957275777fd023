"""The durable window table: Faust assigns and routes it, and it owns, restores and gives up its partitions by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from faust.tables.table import Table
from faust.types import TP

from feedback_app.core.clock import Clock
from feedback_app.errors import Fenced
from feedback_app.provisioning import topic_ids
from feedback_app.settings import Settings
from feedback_app.topics import TABLE_NAME, Topics
from feedback_app.transport.batches import Batch, BatchConsumer
from tables.partition import OwnedPartition

logger = logging.getLogger(__name__)

#: How long after being fenced a rebalance is waited for before one is asked for: the group usually knows already.
_REBALANCE_EXPECTED_S: Final = 2.0

#: What runs on a partition while it is owned: coroutines that end only by an error.
Work = Callable[[OwnedPartition], Iterable[Coroutine[Any, Any, None]]]


@dataclass(slots=True)
class _Ownership:
    partition: OwnedPartition
    tasks: set[asyncio.Task[None]] = field(default_factory=set)
    ready: bool = False


class FeedbackWindows(Table):  # type: ignore[type-arg]  # a plain class at run time
    """The open and closed windows of every agent.

    On every rebalance each assigned partition is taken over anew: fenced, restored from where its store stands, and
    read from the offsets in its own record. That runs in the background, with the partition paused, so that the group
    keeps getting heartbeats; a partition starts as soon as it is ready, whatever the others do.
    """

    def __init__(self, app: Any, settings: Settings, topics: Topics, clock: Clock) -> None:
        super().__init__(
            app,
            name=TABLE_NAME,
            key_type=bytes,
            value_type=bytes,
            partitions=topics.partitions,
            store="memory://",  # Faust's own store stays empty: each partition has its RocksDB
            changelog_topic=app.topic(
                topics.changelog,
                key_type=bytes,
                value_type=bytes,
                key_serializer="raw",
                value_serializer="raw",
                partitions=topics.partitions,
                acks=False,
                internal=True,
                compacting=True,
            ),
        )
        self._settings = settings
        self._topics = topics
        self._clock = clock
        self._owned: dict[int, _Ownership] = {}
        self._assigned_once = False
        self._rejoining: asyncio.Task[None] | None = None
        self.work: Work = lambda partition: ()
        app.on_partitions_revoked.connect(self._on_revoked)

    # -- what others ask -------------------------------------------------------------------------------------------

    @property
    def changelog(self) -> str:
        """The name of the changelog topic."""
        return self._topics.changelog

    def owned(self, partition: int) -> OwnedPartition | None:
        """Return the partition, if this worker owns it and it is restored."""
        ownership = self._owned.get(partition)
        return ownership.partition if ownership and ownership.ready else None

    async def accept(self, batch: Batch) -> None:
        """Hand a fetched batch to its partition; one that has been given up since the fetch drops it."""
        owned = self.owned(batch.tp.partition)
        if owned is None or owned.accept(batch):
            return
        at = owned.expected[batch.tp.topic]
        logger.warning("%s: a batch from %s does not continue %s: reading from there", batch.tp, batch.start, at)
        await self._consumer.start_partitions({batch.tp: at})

    def ask_for_more(self, batch: Batch) -> None:
        """Say that *batch* is being worked on, so that the next one may be fetched."""
        self._consumer.ask_for_more(batch.tp)

    async def read_to_the_end(self, owned: OwnedPartition, since_ms: int) -> bool:
        """Say whether everything on both source topics of a partition had been read at some time after *since_ms*."""
        sources = {TP(topic, owned.partition) for topic in self._topics.sources}
        tails = await self._consumer.tails(sources)
        at_the_end = tails.keys() == sources and all(
            tail.position >= tail.end and tail.at_ms > since_ms for tail in tails.values()
        )
        return at_the_end and not owned.folding and owned.inbox.empty() and self._consumer.nothing_in_hand(sources)

    def not_ready(self) -> str:
        """Say why the worker does not serve yet; empty when it does."""
        if not self._assigned_once:
            return "waiting for the first assignment"
        waiting = sorted(number for number, ownership in self._owned.items() if not ownership.ready)
        return f"restoring partitions {waiting}" if waiting else ""

    def partitions(self) -> Mapping[int, bool]:
        """Return the assigned partitions, and whether each is restored."""
        return {number: ownership.ready for number, ownership in self._owned.items()}

    # -- assignment ------------------------------------------------------------------------------------------------

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Take over every assigned partition, in the background."""
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        await self._release_all()
        mine = sorted(tp.partition for tp in assigned if tp.topic == self._topics.changelog)
        if mine:
            ids = await asyncio.to_thread(topic_ids, self._settings, [self._topics.changelog])
            for number in mine:
                self._acquire(number, ids[self._topics.changelog], self._settings.max_batches // len(mine))
        self._assigned_once = True

    def _acquire(self, number: int, topic_id: str, cached: int) -> None:
        owned = OwnedPartition(
            self._settings, self._topics, number, clock=self._clock, topic_id=topic_id, cached=cached
        )
        ownership = self._owned[number] = _Ownership(owned)
        self._spawn(ownership, self._take_over(ownership))

    async def _take_over(self, ownership: _Ownership) -> None:
        owned = ownership.partition
        offsets = await owned.take_over()
        ownership.ready = True
        for work in self.work(owned):
            self._spawn(ownership, work)
        await self._consumer.start_partitions({TP(topic, owned.partition): at for topic, at in offsets.items()})

    async def _on_revoked(self, app: Any, revoked: set[TP], **kwargs: Any) -> None:
        await self._release_all()

    async def on_stop(self) -> None:
        """Give everything up when the worker stops."""
        await self._release_all()
        await super().on_stop()

    async def _release_all(self) -> None:
        if self.app.consumer is not None:
            self._consumer.stop_partitions()
        given_up, self._owned = list(self._owned.values()), {}
        tasks = {task for ownership in given_up for task in ownership.tasks}
        for task in tasks:
            task.cancel()
        # A straggler may be the very task that asks for this (it has crashed the table): it is not waited for.
        tasks.discard(asyncio.current_task())  # type: ignore[arg-type]  # None is not among them
        if tasks:
            await asyncio.wait(tasks)
        await asyncio.gather(*(ownership.partition.release() for ownership in given_up))

    # -- work ------------------------------------------------------------------------------------------------------

    def _spawn(self, ownership: _Ownership, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guard(ownership, work))
        ownership.tasks.add(task)
        task.add_done_callback(ownership.tasks.discard)

    async def _guard(self, ownership: _Ownership, work: Coroutine[Any, Any, None]) -> None:
        """Run *work*; when it fails the partition can't go on, and neither can the worker, unless it was fenced."""
        try:
            await work
        except Fenced as error:
            logger.error("%s", error.message)
            self._expect_rebalance(ownership)
        except Exception as error:
            await self.crash(error)

    def _expect_rebalance(self, ownership: _Ownership) -> None:
        """Make sure that a partition that was lost does not stay without an owner."""
        for task in ownership.tasks - {asyncio.current_task()}:
            task.cancel()
        if self._rejoining is None or self._rejoining.done():
            self._rejoining = asyncio.create_task(self._rejoin_while_owned(ownership))

    async def _rejoin_while_owned(self, ownership: _Ownership) -> None:
        number = ownership.partition.partition
        await asyncio.sleep(_REBALANCE_EXPECTED_S)
        if self._owned.get(number) is ownership:
            logger.error("partition %s was lost while it is still assigned here: joining the group again", number)
            await self._consumer.rejoin()

    @property
    def _consumer(self) -> BatchConsumer:
        consumer: BatchConsumer = self.app.consumer
        return consumer
