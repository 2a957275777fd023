"""Erasing what a user has said, from the collection ``feedback``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from pymongo import WriteConcern
from pymongo.collection import Collection

from feedback_app.provisioning import ITEMS_COLLECTION, open_database
from feedback_app.settings import Settings
from feedback_app.topics import Topics

_AT_ONCE: Final = 1_000
#: Items that come while others are erased need another look; a user who never stops must not keep it going for ever.
_LOOKS: Final = 10

Report = Callable[[int], None]


def count_items(settings: Settings, user_id: str) -> int:
    """Return how many items a user has.

    Raises:
        DatabaseError: the database does not answer, or refuses us.
    """
    with open_database(settings) as database:
        return database[ITEMS_COLLECTION].count_documents({"userId": user_id})


def erase_items(settings: Settings, user_id: str, report: Report) -> int:
    """Erase all items of a user, in batches, until none is found any more; return how many there were.

    It can be interrupted, and called again. Every look reads the whole collection: there is no index on ``userId``,
    which every event would have to pay for.

    Args:
        report: is told, after each batch, how many were erased so far. What it raises ends the call.

    Raises:
        DatabaseError: the database does not answer, or refuses us. What was erased until then stays erased.
    """
    erased = 0
    with open_database(settings) as database:
        items = database[ITEMS_COLLECTION].with_options(write_concern=WriteConcern("majority", j=True))
        for _ in range(_LOOKS):
            before = erased
            for ids in _ids(items, user_id):
                # The user again: another one's later event may have taken the place of this feedbackId meanwhile.
                erased += items.delete_many({"_id": {"$in": ids}, "userId": user_id}).deleted_count
                report(erased)
            if erased == before:
                break
    return erased


def what_stays(settings: Settings) -> Mapping[str, str]:
    """Return where else something of a user may be, and what."""
    topics = Topics.of(settings)
    raw = "the events as they were sent, until the topic's retention has passed"
    return {
        "collection feedback_windows": "counts by agent and window, and tags; no userId",
        f"topic {topics.feedback}": raw,
        f"topic {topics.repartition}": "those that were forwarded, until they are counted",
        f"topic {topics.late}": raw,
        f"topic {topics.dead_letter}": raw,
        f"topics {topics.aggregates} and {topics.changelog}": "counts by agent and window, and tags; no userId",
    }


def _ids(items: Collection[dict[str, Any]], user_id: str) -> Iterator[list[Any]]:
    ids = []
    for item in items.find({"userId": user_id}, {"_id": 1}, batch_size=_AT_ONCE):
        ids.append(item["_id"])
        if len(ids) == _AT_ONCE:
            yield ids
            ids = []
    if ids:
        yield ids
