"""Bodies about the cluster: its partitions, what it does now, and what it did in the last hour."""

from __future__ import annotations

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from feedback_app.web.openapi.fields import Count, Milliseconds, Rate, Reasons, Seconds, Time, Unanswered, Url

_State = Literal["ready", "restoring", "unknown"]
_Offsets = Annotated[dict[str, int], Field(description="by source topic, the next offset to be read")]


class Partition(TypedDict):
    """One partition, as its owner sees it; without figures unless it is ready."""

    partition: Count
    owner: Url | None
    state: _State
    watermark: NotRequired[Time | None]
    floor: NotRequired[Time | None]
    newestOpenEnd: NotRequired[Time | None]
    silentSince: NotRequired[Time | None]
    offsets: NotRequired[_Offsets]


class Partitions(TypedDict):
    """All partitions of the cluster."""

    partitions: list[Partition]
    unanswered: Unanswered


class Worker(TypedDict):
    """A member of the group."""

    url: Url
    state: Literal["ready", "degraded", "starting", "unknown"]
    reasons: Reasons
    version: str | None
    partitions: list[Count]
    startedAt: Time | None


class PartitionFigures(TypedDict):
    """One partition with its figures; null where they are not known."""

    partition: Count
    owner: Url | None
    state: _State
    watermark: Time | None
    floor: Time | None
    silentSince: Time | None
    lag: Count | None
    openWindows: Count | None
    dueWindows: Count | None
    offsets: _Offsets


class Totals(TypedDict):
    """Sums over the workers that answered: since each of them started, or, of the last three, now."""

    records: Count
    counted: Count
    late: Count
    deadLetters: Count
    forwarded: Count
    windowsClosed: Count
    windowsAmended: Count
    aggregatedEvents: Count
    lag: Count
    openWindows: Count
    dueWindows: Count


class Figures(TypedDict):
    """The six figures to watch for scaling, over the last minute."""

    flushRate: Rate
    batchSize: float | None
    batchesInMemory: Count
    mongodbOperationsPerSecond: Rate
    eventsPublishedPerSecond: Rate
    batchAgeSeconds: Seconds | None


class Rates(TypedDict):
    """What is done a second, over the last ten seconds."""

    records: Rate
    counted: Rate
    late: Rate
    deadLetters: Rate
    windowsClosed: Rate


class Sink(TypedDict):
    """The database; it is down as soon as one worker says so, and null before anything was written."""

    name: str
    up: bool | None
    reason: str
    failedCommands: Count


class Overview(TypedDict):
    """The cluster now."""

    time: Time
    mode: Literal["agent", "global", "hybrid"]
    windowMs: Milliseconds
    graceMs: Milliseconds
    workers: list[Worker]
    partitions: list[PartitionFigures]
    unanswered: Unanswered
    totals: Totals
    figures: Figures
    rates: Rates
    sink: Sink
    closeDelaySeconds: Seconds | None


_Samples = list[float | None]


class Series(TypedDict):
    """A value for each of the times; null where no worker has one."""

    records: _Samples
    counted: _Samples
    late: _Samples
    deadLetters: _Samples
    windowsClosed: _Samples
    aggregatedEvents: _Samples
    lag: _Samples
    openWindows: _Samples
    mongodbOperations: _Samples


class History(TypedDict):
    """The last hour; rates are a second."""

    stepMs: Milliseconds
    times: Annotated[list[Time], Field(max_length=360)]
    series: Series
    unanswered: Unanswered
