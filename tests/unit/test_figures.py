"""Counters that can be subtracted and summed, and what was done lately."""

from __future__ import annotations

import pytest
from msgspec.structs import asdict

from feedback_app.core.aggregate import Aggregate
from feedback_app.figures import CounterReader, Counters, Lately, Span
from feedback_app.folding import Tally
from tests.unit.test_metrics import Worker, watched, window

_END = 1_700_000_000_000


def test_counters_are_read_as_the_metrics_have_them() -> None:
    metrics = watched(Worker())
    metrics.folded(10, Tally(forwarded=1, late=2, invalid=3))
    closed = [window(_END), window(_END), window(_END, revision=1)]
    metrics.flushed(closed, 2, _END + 4_000)
    metrics.command("windows", "insert", 3, "answered", 0.1)
    metrics.command("items", "update", 5, "answered", 0.1)
    metrics.command("items", "update", 7, "failed", 0.1)
    read = CounterReader(metrics.registry)()
    first = Aggregate.decode(closed[0].value).first / 1_000
    assert read.records == 10
    assert asdict(read) == {
        "counted": 4,
        "late": 2,
        "dead_letters": 3,
        "forwarded": 1,
        "windows_closed": 2,
        "windows_amended": 1,
        "aggregated_events": 2,
        "flushes": 1,
        "flushed": 3,
        "operations": 8,
        "commands": 2,
        "failed_commands": 1,
        "batches": 2,
        "batch_age_s": pytest.approx(2 * ((_END + 4_000) / 1_000 - first)),
        "close_delay_s": pytest.approx(2 * 4.0),
    }


def test_counters_are_subtracted_and_summed() -> None:
    some, more = Counters(counted=3, batch_age_s=1.5), Counters(counted=10, late=1, batch_age_s=4.0)
    assert more.since(some) == Counters(counted=7, late=1, batch_age_s=2.5)
    assert Counters.total([some, more]) == Counters(counted=13, late=1, batch_age_s=5.5)
    assert Counters.total([]) == Counters()


class Clock:
    """Counts as many records as seconds pass, times *speed*."""

    def __init__(self) -> None:
        self.now = 1_000.0
        self.records = 0
        self.read = 0

    def advance(self, seconds: float, speed: int = 1) -> None:
        self.now += seconds
        self.records += round(seconds * speed)

    def monotonic(self) -> float:
        return self.now

    def counters(self) -> Counters:
        self.read += 1
        return Counters(counted=self.records)


def test_what_was_done_lately() -> None:
    """A reading every ten seconds; from the 20th on ten records a second.

    time    0    10    20    30
    speed      1     1    10
    """
    clock = Clock()
    lately = Lately(clock.counters, clock.monotonic)
    for speed in (1, 1, 10):
        clock.advance(10, speed)
        lately.read()
    assert lately.over(10) == Span(10.0, Counters(counted=100))
    # Older than asked for, rather than newer.
    assert lately.over(15) == Span(20.0, Counters(counted=110))
    assert lately.over(60) == Span(30.0, Counters(counted=120))
    clock.advance(1)
    lately.read()
    assert lately.over(10) == Span(11.0, Counters(counted=101))


def test_a_worker_that_has_just_started_did_it_within_a_second_at_least() -> None:
    clock = Clock()
    lately = Lately(clock.counters, clock.monotonic)
    assert lately.over(10) == Span(1.0, Counters())
    clock.advance(0.5, 10)
    lately.read()
    assert lately.over(10) == Span(1.0, Counters(counted=5))


def test_however_often_it_is_read_a_minute_is_there_and_memory_is_bounded() -> None:
    clock = Clock()
    lately = Lately(clock.counters, clock.monotonic)
    for _ in range(5_000):
        clock.advance(0.125, 8)
        lately.read()
    minute = lately.over(60)
    assert 60 <= minute.seconds <= 62
    assert minute.rate(minute.done.counted) == pytest.approx(8)
    assert len(lately._readings) <= 100
