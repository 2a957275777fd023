"""The last hour of a worker, in its memory: a sample each ten seconds, 360 at most; and the cluster's, out of those.

Samples stand in *slots* of the wall clock, ten seconds each, so that those of several workers can be added up.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Sequence
from typing import Annotated, Any, Final, NamedTuple, Protocol

from msgspec import Meta, Struct

from feedback_app.core.documents import date
from feedback_app.figures import Counters, Span

STEP_MS: Final = 10_000
MOST: Final = 360

#: What a sample holds, in this order: rates by second, and two levels.
SERIES: Final = (
    "records",
    "counted",
    "late",
    "deadLetters",
    "windowsClosed",
    "aggregatedEvents",
    "mongodbOperations",
    "lag",
    "openWindows",
)

_Row = Annotated[list[Annotated[float, Meta(ge=0)] | None], Meta(min_length=len(SERIES), max_length=len(SERIES))]


class PartHistory(Struct, frozen=True):
    """What one worker tells another of its history: the slots, ascending, and a row of values for each."""

    slots: Annotated[list[Annotated[int, Meta(ge=0)]], Meta(max_length=MOST)]
    rows: Annotated[list[_Row], Meta(max_length=MOST)]


class Levels(NamedTuple):
    """What there is, at one moment; None where nobody knows."""

    lag: int | None
    open_windows: int | None


class _Partition(Protocol):
    @property
    def lag(self) -> Any: ...

    @property
    def open(self) -> int: ...


def levels(partitions: Iterable[_Partition]) -> Levels:
    """Return the levels of a worker that owns *partitions* (``measuring.PartitionFigures``)."""
    owned = list(partitions)
    if not owned:
        return Levels(None, None)
    lags = [sum(each.lag.values()) for each in owned if each.lag]
    return Levels(sum(lags) if lags else None, sum(each.open for each in owned))


class History:
    """The samples of one worker."""

    def __init__(self) -> None:
        self._samples: deque[tuple[int, list[float | None]]] = deque(maxlen=MOST)

    def note(self, now_ms: int, span: Span, level: Levels) -> None:
        """Keep what was done in *span*, which ends now, and what there is. A clock that was set back is waited for."""
        slot = (now_ms + STEP_MS // 2) // STEP_MS
        if self._samples and slot <= self._samples[-1][0]:
            return
        self._samples.append((slot, [*(round(value, 3) for value in _rates(span)), *level]))

    def part(self) -> PartHistory:
        """Return it all, to be sent."""
        return PartHistory([slot for slot, _ in self._samples], [row for _, row in self._samples])


def until_next_ms(now_ms: int) -> int:
    """Return how long it is until the next sample is due."""
    return STEP_MS - now_ms % STEP_MS


def merged(parts: Sequence[PartHistory], now_ms: int, unanswered: Collection[str]) -> dict[str, Any]:
    """Return the answer of ``/feedback/history``: of each slot, the sums over the workers that have a sample of it.

    The last slot is left out while a worker has not come to it yet: the sums would seem to fall.
    """
    newest_possible = now_ms // STEP_MS + 1
    oldest_possible = newest_possible - MOST
    by_slot: dict[int, list[float | None]] = {}
    lasts = []
    for part in parts:
        rows = {
            slot: row
            for slot, row in zip(part.slots, part.rows, strict=False)
            if oldest_possible < slot <= newest_possible
        }
        if rows:
            lasts.append(max(rows))
        for slot, row in rows.items():
            there = by_slot.get(slot)
            by_slot[slot] = row if there is None else [_sum(*values) for values in zip(there, row, strict=True)]
    slots = range(0)
    if by_slot:
        end = max(lasts)
        slots = range(min(by_slot), end if end - 1 in lasts and end - 1 in by_slot else end + 1)
    nothing: list[float | None] = [None] * len(SERIES)
    columns = zip(*(by_slot.get(slot, nothing) for slot in slots), strict=True) if slots else ([] for _ in SERIES)
    return {
        "stepMs": STEP_MS,
        "times": [date(slot * STEP_MS) for slot in slots],
        "series": {name: list(column) for name, column in zip(SERIES, columns, strict=True)},
        "unanswered": sorted(unanswered),
    }


def _rates(span: Span) -> list[float]:
    done: Counters = span.done
    counts = (
        done.records,
        done.counted,
        done.late,
        done.dead_letters,
        done.windows_closed + done.windows_amended,
        done.aggregated_events,
        done.operations,
    )
    return [span.rate(count) for count in counts]


def _sum(one: float | None, other: float | None) -> float | None:
    if one is None or other is None:
        return other if one is None else one
    return round(one + other, 3)
