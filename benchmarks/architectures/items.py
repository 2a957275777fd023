"""What a batch holds, and the window documents that follow from it: the same for all three batching architectures.

The counting itself is this application's own (``feedback_app.core``), so that all four come to the same totals.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final, NamedTuple

from pymongo import UpdateOne

from feedback_app.core.aggregate import Aggregate, checksum_seed, origin_checksum
from feedback_app.core.documents import Document, window_document
from feedback_app.core.events import Event
from feedback_app.core.windows import Window

#: A document's sums: a batch adds its own to what is there.
_SUMS: Final = (
    "count", "positive", "negative", "neutral", "scoreCount", "scoreSum", "comments", "otherTags", "checksum",
)  # fmt: skip
_LOWEST: Final = ("scoreMin", "firstTimestamp")
_HIGHEST: Final = ("scoreMax", "lastTimestamp")
#: What the first batch of a window says for all.
_FIXED: Final = ("agentId", "windowStart", "windowEnd", "windowSize", "revision")


class Item(NamedTuple):
    """One valid event, and where it stood on the input."""

    event: Event
    partition: int
    offset: int


def fold(items: Iterable[Item], topic: str, size: int) -> dict[Window, Aggregate]:
    """Count *items* in their windows of *size*."""
    windows: dict[Window, Aggregate] = {}
    for event, partition, offset in items:
        timestamp = event.timestamp
        window = Window(event.agent_id, timestamp - timestamp % size, size)
        aggregate = windows.get(window)
        if aggregate is None:
            aggregate = windows[window] = Aggregate()
        aggregate.add(event, timestamp, origin_checksum(checksum_seed(topic, partition), offset))
    return windows


def addition(window: Window, aggregate: Aggregate, now: datetime) -> dict[str, Any] | list[dict[str, Any]]:
    """Return the update that adds *aggregate* to the window's document, and as an upsert makes it if there is none.

    It adds, so it must be carried out once: repeating it counts everything twice. Nothing in the document tells whether
    it was.
    """
    document = window_document(window, aggregate)
    return _merge_with_tags(document, now) if aggregate.tags else _add(document, now)


def upsert(window: Window, aggregate: Aggregate, now: datetime) -> UpdateOne:
    """Return the operation of a bulk write that does so."""
    return UpdateOne({"_id": window.document_id}, addition(window, aggregate, now), upsert=True)


def without_null(document: Document) -> Document:
    """Return *document* less the lowest and highest score, if nobody gave one.

    The application's documents say null there. What is added to must not: ``$min`` takes null for lower than any score.
    """
    return {name: value for name, value in document.items() if value is not None}


def _add(document: Document, now: datetime) -> dict[str, Any]:
    document = without_null(document)
    return {
        "$inc": {name: document[name] for name in _SUMS},
        "$min": {name: document[name] for name in _LOWEST if name in document},
        "$max": {name: document[name] for name in _HIGHEST if name in document},
        "$set": {"closedAt": now},
        "$setOnInsert": {**{name: document[name] for name in _FIXED}, "tags": []},
    }


def _merge_with_tags(document: Document, now: datetime) -> list[dict[str, Any]]:
    """Return an update by a pipeline: no operator adds to the entries of a list that may have to be made.

    It costs the database twice as much. A window may keep more than 32 tags: only a batch is held to them.
    """
    tags = document["tags"]
    stored = {"$ifNull": ["$tags", []]}
    added = {"$filter": {"input": {"$literal": tags}, "as": "new", "cond": {"$eq": ["$$new.tag", "$$old.tag"]}}}
    counts = {"$map": {"input": added, "as": "new", "in": "$$new.count"}}
    known = {
        "$map": {
            "input": stored,
            "as": "old",
            "in": {"tag": "$$old.tag", "count": {"$add": ["$$old.count", {"$sum": counts}]}},
        }
    }
    names = {"$map": {"input": stored, "as": "old", "in": "$$old.tag"}}
    unknown = {"$filter": {"input": {"$literal": tags}, "as": "new", "cond": {"$not": [{"$in": ["$$new.tag", names]}]}}}
    values: dict[str, Any] = {name: {"$literal": document[name]} for name in _FIXED}
    values |= {name: {"$add": [{"$ifNull": [f"${name}", 0]}, document[name]]} for name in _SUMS}
    values |= {name: {"$min": [f"${name}", document[name]]} for name in _LOWEST}
    values |= {name: {"$max": [f"${name}", document[name]]} for name in _HIGHEST}
    return [{"$set": {**values, "closedAt": now, "tags": {"$concatArrays": [known, unknown]}}}]
