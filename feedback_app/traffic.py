"""Sending simulated traffic, as a count or at a rate, and remembering how it was labelled."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from feedback_app.publisher import FeedbackPublisher
from feedback_app.settings import Settings
from feedback_app.simulation import Expectation, Scenario, simulate

#: A rate is kept in slices of this length; sleeping for each event by itself would not reach high rates.
_SLICE_S = 0.02
_REPORT_EVERY = 500

#: Values, and not keys too: a valid event that is forwarded goes on with its agent's key.
Labelled = Counter[bytes | None]


@dataclass(slots=True)
class Traffic:
    """What was sent; *late* and *invalid* hold the value of each record with that label."""

    produced: int = 0
    seconds: float = 0.0
    late: Labelled = field(default_factory=Counter)
    invalid: Labelled = field(default_factory=Counter)

    @property
    def counted(self) -> int:
        return self.produced - self.late.total() - self.invalid.total()

    @property
    def per_second(self) -> int:
        return round(self.produced / self.seconds) if self.seconds else 0

    def as_json(self) -> dict[str, int]:
        return {
            "produced": self.produced,
            "counted": self.counted,
            "late": self.late.total(),
            "invalid": self.invalid.total(),
            "events_per_second": self.per_second,
        }


def scenario(settings: Settings, *, seed: int, agents: int, late_share: float, invalid_share: float) -> Scenario:
    """Return a scenario whose labels hold for a worker with these *settings*."""
    return Scenario(
        partitions=settings.partitions,
        window_ms=settings.batch_time_ms,
        grace_ms=settings.grace_ms,
        retention_ms=settings.retention_ms,
        seed=seed,
        agents=agents,
        late_share=late_share,
        invalid_share=invalid_share,
    )


def spread(events: int, span_s: float) -> Iterator[int]:
    """Yield the times of *events* events as fast as they are taken: the last *span_s* seconds, or each the moment."""
    if not span_s:
        for _ in range(events):
            yield time.time_ns() // 1_000_000
        return
    span_ms = int(span_s * 1000)
    start = time.time_ns() // 1_000_000 - span_ms
    for number in range(events):
        yield start + number * span_ms // events


def paced(rate: float, seconds: float | None) -> Iterator[int]:
    """Yield the moment *rate* times a second, for *seconds* or for ever; blocks in between."""
    started = time.monotonic()
    number = 0
    while seconds is None or number < rate * seconds:
        ahead = number / rate - (time.monotonic() - started)
        if ahead > _SLICE_S:
            time.sleep(ahead)
        yield time.time_ns() // 1_000_000
        number += 1


def send(
    settings: Settings, plan: Scenario, times: Iterable[int], traffic: Traffic, report: Callable[[int], None]
) -> None:
    """Send one record for each of *times* and wait until all are delivered.

    Args:
        traffic: is filled in; also valid when this is interrupted.
        report: is told now and then how many were sent so far.

    Raises:
        PublishError: how many were not delivered.
    """
    started = time.monotonic()
    try:
        with FeedbackPublisher(settings) as publisher:
            for record in simulate(plan, times):
                publisher.publish_bytes(record.key, record.value)
                traffic.produced += 1
                if record.expectation is Expectation.LATE:
                    traffic.late[record.value] += 1
                elif record.expectation is Expectation.INVALID:
                    traffic.invalid[record.value] += 1
                if traffic.produced % _REPORT_EVERY == 0:
                    report(traffic.produced)
            report(traffic.produced)
    finally:
        traffic.seconds = time.monotonic() - started
