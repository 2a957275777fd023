"""Reading closed windows for pages, with few queries at once and none for long: writing must not wait for them.

The collection is handed in by ``feedback_app.sinks.mongodb``, which alone knows the driver that it is of.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final, Literal, NamedTuple, Protocol

import pymongo
from pymongo.errors import PyMongoError

from feedback_app.core.documents import Document, date
from feedback_app.sinks import SinkUnavailable
from feedback_app.sinks.failures import describe

Order = Literal["volume", "negative"]

#: How long an answer may take, the way to the database included. A ranking is asked for seldom.
_RECENT_S: Final = 1.5
_RANKED_S: Final = 4.0
#: The database's own limit is a little lower, so that it is the one to give up.
_QUERY_PART: Final = 0.8
#: The driver has ten threads on two cores, and bulk writes need them.
_AT_ONCE: Final = 3
#: Windows that start together are of different sizes: after the setting was changed, say.
_TIES: Final = 8
#: Documents that one ranking may look at.
_MOST_DOCUMENTS: Final = 50_000

_FIELDS: Final = (
    *("agentId", "windowStart", "windowEnd", "windowSize", "count", "positive", "negative", "neutral"),
    *("scoreCount", "scoreSum", "scoreMin", "scoreMax", "comments", "tags", "otherTags"),
    *("firstTimestamp", "lastTimestamp", "revision", "checksum", "closedAt"),
)


class Page(NamedTuple):
    """Some documents, and where the next ones begin; None where there are none."""

    documents: list[Document]
    next: datetime | None


class Archive:
    """Implements what pages read of the collection of windows. All methods raise :class:`SinkUnavailable`."""

    def __init__(self, windows: Readable) -> None:
        self._windows = windows
        self._gate = asyncio.Semaphore(_AT_ONCE)

    async def recent(self, agent_id: str, before: datetime | None, limit: int) -> Page:
        """Return an agent's closed windows that start before that time, newest first."""
        wanted: dict[str, Any] = {"agentId": agent_id}
        if before is not None:
            wanted["windowStart"] = {"$lt": before}
        cursor = self._windows.find(wanted, dict.fromkeys(_FIELDS, 1), max_time_ms=_limit_ms(_RECENT_S))
        most = limit + _TIES
        found = await self._read(cursor.sort("windowStart", pymongo.DESCENDING).limit(most), most, _RECENT_S)
        return page(found, limit)

    async def ranked(
        self, order: Order, after: datetime, until: datetime, *, least: int, skip: int, limit: int
    ) -> list[Document]:
        """Return agents by what their windows hold that end after the one time, and not after the other.

        Args:
            least: events that an agent must have.
        """
        pipeline = ranking(order, after, until, least=least, skip=skip, limit=limit)
        return await self._read(self._windows.aggregate(pipeline, maxTimeMS=_limit_ms(_RANKED_S)), limit, _RANKED_S)

    async def _read(self, cursor: Any, most: int, within_s: float) -> list[Document]:
        try:
            async with asyncio.timeout(within_s), self._gate:
                with pymongo.timeout(within_s):
                    found: list[Document] = await cursor.to_list(most)
                    return found
        except TimeoutError:
            raise SinkUnavailable(f"no answer within {within_s:g} s") from None
        except PyMongoError as error:
            raise SinkUnavailable(describe(error)) from None


def _limit_ms(within_s: float) -> int:
    return round(within_s * _QUERY_PART * 1_000)


class Readable(Protocol):
    """What is used of a collection."""

    def find(self, wanted: Mapping[str, Any], fields: Mapping[str, int], *, max_time_ms: int) -> Any: ...

    def aggregate(self, pipeline: Sequence[Mapping[str, Any]], *, maxTimeMS: int) -> Any: ...  # noqa: N803  # MongoDB's


def page(found: Sequence[Document], limit: int) -> Page:
    """Return at most *limit* of the documents, newest first, so that none is lost between two pages.

    The next page begins before a time, so windows that start together must be on one page: all of them, even if that
    makes one page longer than *limit*.
    """
    documents = [{name: document.get(name) for name in ("_id", *_FIELDS)} for document in found]
    if len(documents) <= limit:
        return Page(documents, None)
    first_left_out = documents[limit]["windowStart"]
    kept = [document for document in documents[:limit] if document["windowStart"] != first_left_out]
    if not kept:
        kept = [document for document in documents if document["windowStart"] == first_left_out]
        if len(kept) == len(documents):
            return Page(kept, None)
    return Page(kept, kept[-1]["windowStart"])


def ranking(
    order: Order, after: datetime, until: datetime, *, least: int, skip: int, limit: int
) -> list[dict[str, Any]]:
    """Return the pipeline of :meth:`Archive.ranked`.

    It begins with a range of the index on ``windowEnd``, and not with the newest document: SecantusDB would read them
    all to find that. On equal terms agents come by their ids, so that pages follow each other.
    """
    sums = {name: {"$sum": f"${name}"} for name in ("positive", "negative", "neutral")}
    share = {"$cond": [{"$gt": ["$events", 0]}, {"$divide": ["$negative", "$events"]}, 0]}
    by = {"events": -1, "_id": 1} if order == "volume" else {"negativeShare": -1, "events": -1, "_id": 1}
    return [
        {"$match": {"windowEnd": {"$gt": after, "$lte": until}}},
        {"$limit": _MOST_DOCUMENTS},
        {"$group": {"_id": "$agentId", "events": {"$sum": "$count"}, **sums}},
        {"$match": {"events": {"$gte": least}}},
        {"$addFields": {"negativeShare": share}},
        {"$sort": by},
        {"$skip": skip},
        {"$limit": limit},
    ]


def newest_windows(watermark: datetime, size_ms: int, windows: int) -> tuple[datetime, datetime]:
    """Return the bounds of the newest *windows* that end at or before the *watermark*: they are closed."""
    end = round(watermark.timestamp() * 1_000) // size_ms * size_ms
    return date(max(0, end - windows * size_ms)), date(end)
