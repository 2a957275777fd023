"""The durable window table: Faust assigns and routes it; it owns, restores and gives up its partitions by itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Coroutine, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Final, cast

from faust.tables.table import Table
from faust.types import TP
from mode import Service

from feedback_app import compiled
from feedback_app.admin import Admin
from feedback_app.core.clock import Clock
from feedback_app.errors import BrokerError, Fenced
from feedback_app.liveness import Liveness
from feedback_app.measuring import Meter, PartitionFigures, Source, lag
from feedback_app.provisioning import Identities, identify
from feedback_app.settings import Settings
from feedback_app.topics import TABLE_NAME, Topics
from feedback_app.tracing import NO_TRACER, Tracer
from feedback_app.transport.batches import BatchConsumer
from feedback_app.transport.source import Batch, PartitionSource
from tables.partition import OwnedPartition

logger = logging.getLogger(__name__)

#: How long after being fenced a rebalance is waited for before one is asked for: the group usually knows already.
_REBALANCE_EXPECTED_S: Final = 2.0

#: How often the group is told the offsets that were reached.
_TELL_GROUP_S: Final = 0.25

#: How often the broker is asked for the ends of topics that nothing is fetched from.
_ASK_FOR_ENDS_S: Final = 10.0

#: How often forwarded records that are counted are deleted.
_TRIM_S: Final = 60.0

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

    def __init__(
        self,
        app: Any,
        settings: Settings,
        topics: Topics,
        clock: Clock,
        liveness: Liveness,
        meter: Meter,
        tracer: Tracer = NO_TRACER,
    ) -> None:
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
        self._liveness = liveness
        self._meter = meter
        self._tracer = tracer
        self._owned: dict[int, _Ownership] = {}
        self._assigned_once = False
        self._told: dict[TP, int] = {}
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

    def held(self) -> Iterator[tuple[int, OwnedPartition, bool]]:
        """Yield number, partition and whether it is restored, of all that this worker owns. One that is not has no
        state yet."""
        for number, ownership in sorted(self._owned.items()):
            yield number, ownership.partition, ownership.ready

    def accept(self, batch: Batch) -> None:
        """Hand a fetched batch to its partition; one that has been given up since the fetch drops it."""
        self._consumer.arrived(batch)
        owned = self.owned(batch.partition)
        if owned is None or owned.accept(batch):
            return
        logger.warning(
            "%s[%s]: a batch from %s does not continue %s", batch.topic, batch.partition, batch.start, owned.expected
        )
        self._read(owned)

    def ask_for_more(self, batch: Batch) -> None:
        """Say that *batch* is being worked on, so that the next one may be fetched."""
        self._consumer.ask_for_more(batch)

    def read_again(self, owned: OwnedPartition) -> None:
        """Read a partition again from what is committed on: the broker has aborted what came after that."""
        if self.owned(owned.partition) is owned:
            owned.go_back()
            self._read(owned)

    async def read_to_the_end(self, owned: OwnedPartition) -> bool:
        """Say whether everything that there is on both source topics of a partition has been folded."""
        at_the_end = await self._consumer.at_the_end(owned.partition)
        return at_the_end and not owned.folding and owned.inbox.empty()

    def not_ready(self) -> str:
        """Say why the worker does not serve yet; empty when it does."""
        if not self._assigned_once:
            return "waiting for the first assignment"
        waiting = sorted(number for number, ownership in self._owned.items() if not ownership.ready)
        return f"restoring partitions {waiting}" if waiting else ""

    def restoring(self) -> int:
        """Return how many partitions are owned and not restored yet."""
        return sum(not ownership.ready for ownership in self._owned.values())

    def figures(self) -> Iterator[PartitionFigures]:
        """Yield the figures of the partitions that are owned and restored. Asks nobody."""
        for number, ownership in self._owned.items():
            if not ownership.ready:
                continue
            owned = ownership.partition
            record, schedule = owned.state.record, owned.schedule
            yield PartitionFigures(
                partition=number,
                lag=dict(self._lags(owned)),
                watermark_ms=record.watermark if record.watermark >= 0 else None,
                cached=owned.state.cached,
                open=schedule.open,
                due=schedule.due,
                backlog_s=schedule.backlog_s,
            )

    def _lags(self, owned: OwnedPartition) -> Iterator[tuple[Source, int]]:
        progress = self._consumer.progress(owned.partition)
        sources: tuple[tuple[Source, str], ...] = (
            ("feedback", self._topics.feedback),
            ("repartition", self._topics.repartition),
        )
        for source, topic in sources:
            folded_to = max(owned.starts[topic], owned.state.record.offsets.get(topic, 0))
            if topic in progress and (behind := lag(progress[topic], folded_to)) is not None:
                yield source, behind

    def signs(self) -> Iterator[str]:
        """Yield, in words, which partitions are owned and not worked on: lost to another worker, say, while the group
        does not say so."""
        for number, ownership in self._owned.items():
            if any(task.done() for task in ownership.tasks):
                yield f"partition {number} is owned, and nobody works on it"

    # -- assignment ------------------------------------------------------------------------------------------------

    async def on_rebalance(
        self, assigned: set[TP], revoked: set[TP], newly_assigned: set[TP], generation_id: int = 0
    ) -> None:
        """Take over every assigned partition, in the background."""
        await super().on_rebalance(assigned, revoked, newly_assigned, generation_id)
        await self._release_all()
        mine = sorted(tp.partition for tp in assigned if tp.topic == self._topics.changelog)
        if mine:
            identities = await asyncio.to_thread(identify, self._settings, self._topics)
            for number in mine:
                self._acquire(number, identities, self._settings.max_batches // len(mine))
        self._assigned_once = True

    def _acquire(self, number: int, identities: Identities, cached: int) -> None:
        owned = OwnedPartition(
            self._settings,
            self._topics,
            number,
            clock=self._clock,
            identities=identities,
            cached=cached,
            liveness=self._liveness,
            meter=self._meter,
            tracer=self._tracer,
        )
        ownership = self._owned[number] = _Ownership(owned)
        self._spawn(ownership, self._take_over(ownership))

    async def _take_over(self, ownership: _Ownership) -> None:
        owned = ownership.partition
        await owned.take_over()
        ownership.ready = True
        for work in self.work(owned):
            self._spawn(ownership, work)
        self._read(owned)
        ownership.tasks.discard(cast("asyncio.Task[None]", asyncio.current_task()))  # the only one that may end

    def _read(self, owned: OwnedPartition) -> None:
        self._consumer.start_partition(
            owned.partition,
            owned.expected,
            partial(
                PartitionSource,
                self._settings,
                partitions=len(self._owned),
                liveness=self._liveness,
                make_reader=compiled.reader(),
            ),
        )

    @Service.task
    async def _tell_group(self) -> None:
        """Let the group's offsets follow those of the state."""
        async for _ in self.itertimer(_TELL_GROUP_S, name="offsets"):
            await self._tell_offsets()

    async def _tell_offsets(self) -> None:
        offsets = {
            TP(topic, number): offset
            for number, ownership in self._owned.items()
            if ownership.ready
            for topic, offset in ownership.partition.state.record.offsets.items()
        }
        if offsets and offsets != self._told and await self._consumer.tell_group(offsets):
            self._told = offsets

    @Service.task
    async def _ask_for_ends(self) -> None:
        """Know where the topics end, also while nothing is fetched from them."""
        async for _ in self.itertimer(_ASK_FOR_ENDS_S, name="ends"):
            if self._owned:
                await self._consumer.ask_for_ends()

    @Service.task
    async def _trim_forwarded(self) -> None:
        """Delete what was forwarded and is counted: that topic keeps its records for ever otherwise."""
        trimmed: dict[int, int] = {}
        async for _ in self.itertimer(_TRIM_S, name="trim"):
            counted = {
                number: offset
                for number, ownership in self._owned.items()
                if ownership.ready
                and (offset := ownership.partition.state.record.offsets.get(self._topics.repartition))
            }
            due = {number: offset for number, offset in counted.items() if trimmed.get(number) != offset}
            if not due:
                continue
            try:
                await asyncio.to_thread(Admin(self._settings).delete_below, self._topics.repartition, due)
            except BrokerError as error:  # it only takes up space: tried again, with more
                logger.info("%s", error.message)
            else:
                trimmed |= due

    async def _on_revoked(self, app: Any, revoked: set[TP], **kwargs: Any) -> None:
        await self._release_all()

    async def crash(self, reason: BaseException) -> None:
        """End the worker: to Faust a table is nobody's child, and its own crash would go unnoticed."""
        await cast(Service, self.app).crash(reason)

    async def on_stop(self) -> None:
        """Give everything up when the worker stops."""
        await self._release_all()
        await super().on_stop()

    async def _release_all(self) -> None:
        """Give every partition up: finish what is under way, tell the group, and drop all state."""
        if self.app.consumer is not None:
            self._consumer.stop_partitions()
        ready = [ownership for ownership in self._owned.values() if ownership.ready]
        await asyncio.gather(*(ownership.partition.settle() for ownership in ready))
        await self._tell_offsets()
        given_up, self._owned = list(self._owned.values()), {}
        tasks = {task for ownership in given_up for task in ownership.tasks}
        for task in tasks:
            task.cancel()
        # A straggler may be the very task that asks for this (it has crashed the table): it is not waited for.
        tasks -= {task for task in tasks if task is asyncio.current_task()}
        if tasks:
            await asyncio.wait(tasks)
        if self.app.consumer is not None:
            self._consumer.stop_partitions()  # once more: what was aborted meanwhile is being read again
        await asyncio.gather(*(ownership.partition.release() for ownership in given_up))
        for ownership in given_up:
            # A task that was cancelled leads back to what it worked on, and so to the producer. Nothing closes that but
            # its last reference: the garbage collector would come by too late.
            ownership.tasks.clear()

    # -- work ------------------------------------------------------------------------------------------------------

    def _spawn(self, ownership: _Ownership, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(self._guard(ownership, work))
        ownership.tasks.add(task)

    async def _guard(self, ownership: _Ownership, work: Coroutine[Any, Any, None]) -> None:
        """Run *work*; when it fails the partition can't go on, and neither can the worker, unless it was fenced."""
        try:
            await work
        except Fenced as error:
            logger.error("%s", error.message)
            self._expect_rebalance(ownership)
        except Exception as error:  # noqa: BLE001  # whatever it is, the worker must not go on without this partition
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
        return cast(BatchConsumer, self.app.consumer)
