"""What one worker tells another of itself, for answers about the cluster. What does not fit here is no answer."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from feedback_app.figures import Counters, Span

_LONGEST_REASON = 300
_Count = Annotated[int, Meta(ge=0, le=1 << 62)]
_Reason = Annotated[str, Meta(max_length=_LONGEST_REASON)]
_Time = Annotated[datetime, Meta(tz=True)]


def reason(text: str) -> str:
    """Return *text* as long as it may be."""
    return text[:_LONGEST_REASON]


class PartitionShare(Struct, frozen=True, rename="camel"):
    """A partition that the worker owns; one that it restores has no figures yet.

    Attributes:
        lag: over both source topics; None while no end is known.
        cached: windows in memory.
    """

    partition: _Count
    state: Literal["ready", "restoring"]
    watermark: _Time | None = None
    floor: _Time | None = None
    silent_since: _Time | None = None
    lag: _Count | None = None
    open_windows: _Count | None = None
    due_windows: _Count | None = None
    cached: _Count = 0
    offsets: Mapping[str, _Count] = {}


class SinkShare(Struct, frozen=True):
    """How the worker gets on with the database; *up* is None before it has written anything."""

    up: bool | None
    reason: _Reason


class Share(Struct, frozen=True, rename="camel"):
    """A worker's part of ``/feedback/overview``."""

    state: Literal["ready", "degraded", "starting"]
    reasons: Annotated[list[_Reason], Meta(max_length=100)]
    version: Annotated[str, Meta(max_length=100)]
    started_at: _Time
    partitions: Annotated[list[PartitionShare], Meta(max_length=100_000)]
    totals: Counters
    ten_seconds: Span
    minute: Span
    sink: SinkShare
