"""Where a flush goes: the window documents, and an aggregated event for each."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Final, Self

import orjson
import pymongo
from confluent_kafka import Producer
from pymongo import IndexModel, UpdateOne, WriteConcern
from pymongo.asynchronous.mongo_client import AsyncMongoClient

from benchmarks.architectures.figures import Figures
from benchmarks.architectures.items import Item, addition, fold, upsert, without_null
from feedback_app.core.documents import Document, window_document
from feedback_app.core.windows import Window
from feedback_app.provisioning import WINDOWS_COLLECTION, ensure_topics
from feedback_app.settings import Settings
from feedback_app.topics import Topics, TopicSpec

_FLUSH_S: Final = 10.0


def batches_topic(settings: Settings) -> TopicSpec:
    """Return the topic of what was flushed: each event is a share of a window, so it is none of our aggregated
    events."""
    return TopicSpec(f"{settings.topic_prefix}feedback-batches", settings.partitions, {})


class Outflow:
    """Writes to the collection and with the write concern of this application; counts every call.

    A failing call is raised, and ends the service: it starts again from the committed offsets.
    """

    def __init__(self, settings: Settings, figures: Figures) -> None:
        topics = Topics.of(settings)
        self._input, self._batches = topics.feedback, batches_topic(settings).name
        self._size = settings.batch_time_ms
        self._figures = figures
        self._settings = settings
        self._client: AsyncMongoClient[Document] = AsyncMongoClient(
            settings.mongodb_url.get_secret_value(), tz_aware=True, retryWrites=False, retryReads=False
        )
        self._windows = self._client[settings.mongodb_database].get_collection(
            WINDOWS_COLLECTION, write_concern=WriteConcern("majority", j=True)
        )
        self._producer = Producer({"bootstrap.servers": settings.bootstrap_servers, "linger.ms": 50})

    async def __aenter__(self) -> Self:
        ensure_topics(self._settings, [batches_topic(self._settings)])
        await self._windows.create_indexes(
            [
                IndexModel([("agentId", pymongo.ASCENDING), ("windowStart", pymongo.ASCENDING)]),
                IndexModel([("windowEnd", pymongo.ASCENDING)]),
            ]
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._producer.flush(_FLUSH_S)
        await self._client.close()

    async def write_one_by_one(self, items: Sequence[Item]) -> None:
        """Write a batch as v1 does: for every item look for its window's document, then make or change it."""
        for item in items:
            ((window, aggregate),) = fold([item], self._input, self._size).items()
            self._called(1)
            found = await self._windows.find_one({"_id": window.document_id})
            self._called(1)
            if found is None:
                await self._windows.insert_one({**without_null(window_document(window, aggregate)), "closedAt": _now()})
            else:
                await self._windows.update_one({"_id": window.document_id}, addition(window, aggregate, _now()))
            self._publish(window, aggregate.count)
        self._wrote([items])

    async def write_in_bulk(self, batches: Sequence[Sequence[Item]]) -> None:
        """Write batches in one unordered bulk write, an upsert for each window that they touch."""
        windows = fold((item for items in batches for item in items), self._input, self._size)
        now = _now()
        operations: list[UpdateOne] = [upsert(window, aggregate, now) for window, aggregate in windows.items()]
        self._called(len(operations))
        await self._windows.bulk_write(operations, ordered=False)
        for window, aggregate in windows.items():
            self._publish(window, aggregate.count)
        self._wrote(batches)

    def _called(self, operations: int) -> None:
        self._figures.calls += 1
        self._figures.operations += operations

    def _wrote(self, batches: Sequence[Sequence[Item]]) -> None:
        self._figures.wrote(len(batches), sum(map(len, batches)))
        for items in batches:
            self._figures.aged(min(item.event.timestamp for item in items))

    def _publish(self, window: Window, count: int) -> None:
        event: dict[str, Any] = {"agentId": window.agent_id, "windowStart": window.start, "count": count}
        self._producer.produce(self._batches, orjson.dumps(event), window.agent_id)
        self._producer.poll(0)
        self._figures.published += 1


def _now() -> datetime:
    return datetime.now(UTC)
