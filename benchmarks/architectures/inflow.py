"""The input, chunk by chunk, as a service reads it that uses an ordinary consumer group."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from types import TracebackType
from typing import Final, Self

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener, TopicPartition
from aiokafka.errors import CommitFailedError, IllegalStateError

from benchmarks.architectures.figures import Figures
from benchmarks.architectures.items import Item
from feedback_app.core.events import Invalid
from feedback_app.models import decode
from feedback_app.settings import Settings
from feedback_app.topics import Topics

logger = logging.getLogger(__name__)

#: How often offsets are committed: the default of every client (``auto.commit.interval.ms``).
COMMIT_EVERY_S: Final = 5.0
#: Shorter than the default of 45 s: a benchmark should not wait that long for a dead member's partitions.
_SESSION_MS: Final = 6_000
_WAIT_MS: Final = 50
_RECORDS_AT_ONCE: Final = 2_000


class Inflow:
    """Reads ``feedback`` as a member of the application's group.

    Args:
        auto_commit: commit by the clock whatever was handed out, finished or not: what a client does when nobody tells
            it otherwise. Without it, :meth:`commit` does.
        revoked: is awaited before partitions go to another member.
    """

    def __init__(
        self,
        settings: Settings,
        figures: Figures,
        *,
        auto_commit: bool,
        revoked: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.topic = Topics.of(settings).feedback
        self._figures = figures
        self._revoked = revoked
        self._consumer = AIOKafkaConsumer(
            bootstrap_servers=settings.bootstrap_servers,
            group_id=settings.app_id,
            auto_offset_reset="earliest",
            enable_auto_commit=auto_commit,
            auto_commit_interval_ms=round(COMMIT_EVERY_S * 1_000),
            session_timeout_ms=_SESSION_MS,
            heartbeat_interval_ms=_SESSION_MS // 5,
        )

    async def __aenter__(self) -> Self:
        self._consumer.subscribe([self.topic], listener=_Listener(self._revoked))
        await self._consumer.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._consumer.stop()  # commits once more, where that is automatic

    async def chunks(self, stopping: asyncio.Event) -> AsyncIterator[list[Item]]:
        """Yield what has come, often nothing, until *stopping* is set. Records that are no events are skipped."""
        while not stopping.is_set():
            fetched = await self._consumer.getmany(timeout_ms=_WAIT_MS, max_records=_RECORDS_AT_ONCE)
            items = []
            for at, records in fetched.items():
                for record, event in zip(records, decode([record.value for record in records]), strict=True):
                    if isinstance(event, Invalid):
                        self._figures.invalid += 1
                    else:
                        items.append(Item(event, at.partition, record.offset))
            if items:
                self._figures.read(len(items))
            yield items

    async def commit(self, offsets: Mapping[int, int]) -> None:
        """Commit the next offset to read of each partition.

        Partitions that have been lost meanwhile are left to whoever has them: he reads on from the commit before.
        """
        positions = {TopicPartition(self.topic, partition): offset for partition, offset in offsets.items()}
        if not positions:
            return
        try:
            await self._consumer.commit(positions)
        except (CommitFailedError, IllegalStateError) as error:
            logger.warning("offsets are not committed: %s", error)


class _Listener(ConsumerRebalanceListener):  # type: ignore[misc]  # aiokafka has no types
    def __init__(self, revoked: Callable[[], Awaitable[None]] | None) -> None:
        self._revoked = revoked

    async def on_partitions_revoked(self, revoked: Collection[TopicPartition]) -> None:
        if self._revoked is not None:
            await self._revoked()

    async def on_partitions_assigned(self, assigned: Collection[TopicPartition]) -> None:
        logger.debug("%s partitions are ours", len(assigned))
