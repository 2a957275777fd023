"""The answer of ``/feedback/overview``, put together from what each worker has said of itself. Values only, no IO."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from feedback_app.figures import Counters, Span
from feedback_app.web.shares import PartitionShare, Share

Row = dict[str, Any]

_LEVELS: Final = ("lag", "openWindows", "dueWindows")


@dataclass(frozen=True, slots=True)
class Scene:
    """What is known without asking anybody.

    Attributes:
        settings: what all workers have in common, as the answer shows it.
        sources: the topics whose offsets are shown.
        owners: by partition, the URL of the worker that the group has given it to; None where nobody has it.
    """

    settings: Mapping[str, Any]
    sources: Collection[str]
    owners: Mapping[int, str | None]


def overview(scene: Scene, now: datetime, shares: Mapping[str, Share | None]) -> dict[str, Any]:
    """Return the answer.

    Args:
        shares: by the URL of each worker, its share; None where it has not answered.
    """
    answered = {url: share for url, share in shares.items() if share is not None}
    partitions = list(_partitions(scene, answered))
    return {
        "time": now,
        **scene.settings,
        "workers": [_worker(url, share, partitions) for url, share in sorted(shares.items())],
        "partitions": partitions,
        "unanswered": sorted(shares.keys() - answered.keys()),
        "totals": _totals(answered.values(), partitions),
        "figures": _figures(answered.values()),
        "rates": _rates([share.ten_seconds for share in answered.values()]),
        "sink": _sink(answered.values()),
        "closeDelaySeconds": _mean(answered.values(), "close_delay_s"),
    }


def _partitions(scene: Scene, answered: Mapping[str, Share]) -> Iterator[Row]:
    """Yield a row for each partition. One that its owner does not tell of is unknown: it may be changing hands."""
    told = {(url, each.partition): each for url, share in answered.items() for each in share.partitions}
    for number, owner in sorted(scene.owners.items()):
        share = told.get((owner, number)) if owner else None
        yield {
            "partition": number,
            "owner": owner,
            "state": share.state if share else "unknown",
            "watermark": share and share.watermark,
            "floor": share and share.floor,
            "silentSince": share and share.silent_since,
            "lag": share and share.lag,
            "openWindows": share and share.open_windows,
            "dueWindows": share and share.due_windows,
            "offsets": _offsets(share, scene.sources),
        }


def _offsets(share: PartitionShare | None, sources: Collection[str]) -> dict[str, int]:
    return {topic: share.offsets[topic] for topic in sources if topic in share.offsets} if share else {}


def _worker(url: str, share: Share | None, partitions: Iterable[Row]) -> Row:
    return {
        "url": url,
        "state": share.state if share else "unknown",
        "reasons": share.reasons if share else ["it does not answer"],
        "version": share and share.version,
        "partitions": [row["partition"] for row in partitions if row["owner"] == url],
        "startedAt": share and share.started_at,
    }


def _totals(shares: Collection[Share], partitions: Collection[Row]) -> Row:
    totals = Counters.total(share.totals for share in shares)
    return {
        "records": totals.records,
        "counted": totals.counted,
        "late": totals.late,
        "deadLetters": totals.dead_letters,
        "forwarded": totals.forwarded,
        "windowsClosed": totals.windows_closed + totals.windows_amended,
        "windowsAmended": totals.windows_amended,
        "aggregatedEvents": totals.aggregated_events,
        **{name: sum(row[name] or 0 for row in partitions) for name in _LEVELS},
    }


def _figures(shares: Collection[Share]) -> Row:
    minutes = [share.minute for share in shares]
    done = Counters.total(each.done for each in minutes)
    return {
        "flushRate": _rate(minutes, "flushes"),
        "batchSize": round(done.flushed / done.flushes, 3) if done.flushes else None,
        "batchesInMemory": sum(each.cached for share in shares for each in share.partitions),
        "mongodbOperationsPerSecond": _rate(minutes, "operations"),
        "eventsPublishedPerSecond": _rate(minutes, "aggregated_events"),
        "batchAgeSeconds": _mean(shares, "batch_age_s"),
    }


def _rates(spans: Collection[Span]) -> Row:
    return {
        "records": _rate(spans, "records"),
        "counted": _rate(spans, "counted"),
        "late": _rate(spans, "late"),
        "deadLetters": _rate(spans, "dead_letters"),
        "windowsClosed": round(_rate(spans, "windows_closed") + _rate(spans, "windows_amended"), 3),
    }


def _sink(shares: Collection[Share]) -> Row:
    states = {share.sink.up for share in shares}
    down = sorted(share.sink.reason for share in shares if share.sink.up is False)
    return {
        "name": "mongodb",
        "up": False if down else True if True in states else None,
        "reason": down[0] if down else "",
        "failedCommands": sum(share.totals.failed_commands for share in shares),
    }


def _rate(spans: Iterable[Span], name: str) -> float:
    return round(sum(span.rate(getattr(span.done, name)) for span in spans), 3)


def _mean(shares: Iterable[Share], name: str) -> float | None:
    """Return a time, as the mean over the windows that were closed for the first time within the last minute."""
    done = Counters.total(share.minute.done for share in shares)
    total: float = getattr(done, name)
    return round(total / done.batches, 3) if done.batches else None
