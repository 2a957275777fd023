"""What this worker knows of itself: everything from memory, in a millisecond for eight partitions."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any, Final

from feedback_app.core.clock import Clock
from feedback_app.core.documents import date
from feedback_app.core.state import BEGINNING
from feedback_app.figures import Counters, Lately, Span
from feedback_app.health import Health
from feedback_app.history import History, levels, until_next_ms
from feedback_app.liveness import Liveness
from feedback_app.web.shares import PartitionShare, Share, SinkShare, reason
from tables.feedback_windows import FeedbackWindows

_MOST_REASONS: Final = 20


class Own:
    """The worker's share of answers about the cluster, and its history."""

    def __init__(
        self, table: FeedbackWindows, health: Health, liveness: Liveness, lately: Lately, clock: Clock, version: str
    ) -> None:
        self.history = History()
        self._table = table
        self._health = health
        self._liveness = liveness
        self._lately = lately
        self._clock = clock
        self._version = version
        self._started_at = date(clock.now_ms())

    async def remember(self) -> None:
        """Take a sample for the history every ten seconds, until cancelled."""
        monotonic = asyncio.get_running_loop().time
        last, read_at = self._lately.read(), monotonic()
        while True:
            await asyncio.sleep(until_next_ms(self._clock.now_ms()) / 1_000)
            counters, now = self._lately.read(), monotonic()
            span = Span(max(now - read_at, 1.0), counters.since(last))
            self.history.note(self._clock.now_ms(), span, levels(self._table.figures()))
            last, read_at = counters, now

    def share(self) -> Share:
        """Return what there is to be said now."""
        totals = self._lately.read()
        starting = self._table.not_ready()
        reasons = [starting] if starting else [*self._health.degraded(), *self._liveness.reasons()]
        return Share(
            state="starting" if starting else "degraded" if reasons else "ready",
            reasons=[reason(each) for each in reasons[:_MOST_REASONS]],
            version=self._version,
            started_at=self._started_at,
            partitions=list(self._partitions()),
            totals=totals,
            ten_seconds=self._lately.over(10),
            minute=self._lately.over(60),
            sink=self._sink(totals),
        )

    def _partitions(self) -> Iterator[PartitionShare]:
        figures = {each.partition: each for each in self._table.figures()}
        for number, owned, ready in self._table.held():
            if not ready:
                yield PartitionShare(number, "restoring")
                continue
            record, known = owned.state.record, figures[number]
            yield PartitionShare(
                partition=number,
                state="ready",
                watermark=_time(record.watermark),
                floor=_time(record.floor),
                silent_since=date(owned.silent_since_ms),
                lag=sum(known.lag.values()) if known.lag else None,
                open_windows=known.open,
                due_windows=known.due,
                cached=known.cached,
                offsets=dict(record.offsets),
            )

    def _sink(self, totals: Counters) -> SinkShare:
        if self._health.waits_for_database:
            return SinkShare(up=False, reason=reason(self._health.database_error))
        return SinkShare(up=True if totals.commands else None, reason="")


def _time(ms: int) -> Any:
    return None if ms == BEGINNING else date(ms)
