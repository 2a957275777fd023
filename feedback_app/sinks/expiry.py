"""How a collection comes to forget: what has to be done to its indexes, as a value: no IO."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

#: The worker makes it, changes it and drops it. Indexes of other names may be somebody else's.
EXPIRY: Final = "feedback_app_expiry"
_AFTER: Final = "expireAfterSeconds"


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do, in this order.

    Attributes:
        drop: the names of indexes to drop.
        change: whether the expiry of :data:`EXPIRY` has to be changed.
        create: whether :data:`EXPIRY` has to be made.
        create_plain: whether an index that lets nothing expire has to be made, under its usual name.
        problem: why documents expire otherwise than wanted; empty where they don't.
    """

    drop: tuple[str, ...] = ()
    change: bool = False
    create: bool = False
    create_plain: bool = False
    problem: str = ""


def plan(existing: Sequence[Mapping[str, Any]], field: str, after_s: int | None, *, wanted_anyway: bool) -> Plan:
    """Return what has to be done so that documents expire *after_s* seconds after their *field*; None is never.

    Args:
        existing: the collection's indexes, as the server lists them.
        wanted_anyway: whether there is to be an index on *field* also where nothing expires.
    """
    alike = [index for index in existing if dict(index["key"]) == {field: 1}]
    ours = next((index for index in existing if index["name"] == EXPIRY), None)
    others = [index for index in alike if index["name"] != EXPIRY]
    if after_s is None:
        return Plan((EXPIRY,) if ours else (), create_plain=wanted_anyway and not others)
    plain = f"{field}_1"
    for index in others:
        if index.get(_AFTER) == after_s:
            return Plan()
        # The server takes one index on a field. That of this name, without any options, was made by the worker.
        if not (wanted_anyway and index["name"] == plain and index.keys() <= {"v", "key", "name", "ns"}):
            return Plan(problem=f"the index {index['name']} on {field} is somebody else's and in the way: drop it")
    drop = tuple(str(index["name"]) for index in others)
    if ours is None:
        return Plan(drop, create=True)
    if dict(ours["key"]) != {field: 1}:
        return Plan((*drop, EXPIRY), create=True)
    return Plan(drop, change=ours.get(_AFTER) != after_s)
