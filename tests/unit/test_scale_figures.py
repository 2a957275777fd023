"""What ``benchmarks.scale`` makes of its measurements."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.bench import Point
from benchmarks.scale.planning import DEMANDS, Measured, lines, plan
from benchmarks.scale.results import Bar, Part, Spread

_MEASURED = Measured(
    cores=0.5,
    event_us=10.0,
    close_us=100.0,
    peak_mb=200.0,
    event_bytes=150.0,
    aggregated_event_bytes=500.0,
    changelog_bytes_an_event=100.0,
    events_a_transaction=2_000.0,
    window_bytes=100.0,
    restore_rate=50_000.0,
    start_s=2.0,
    source="a test",
)


def test_spread() -> None:
    spread = Spread.of(number / 1_000 for number in range(200, 0, -1))
    assert spread.samples == 200
    assert spread.median_ms == pytest.approx(100)
    assert spread.p99_ms == pytest.approx(198)
    assert str(Spread.of([])) == "none"


@pytest.mark.parametrize(
    ("value", "at_most", "holds"), [(2.0, True, True), (2.1, True, False), (1.9, False, False), (None, False, False)]
)
def test_a_bar(value: float | None, at_most: bool, holds: bool) -> None:
    bar = Bar("it", "it", value, 2, at_most)
    assert bar.holds is holds
    assert str(bar).endswith("NOT MET") is not holds


def test_a_part_is_right_when_all_its_rows_are() -> None:
    good = Point("good", records=10, seconds=2)
    assert good.rate == 5
    assert Part("p", "what", [good]).right
    bad = Part("p", "what", [good, replace(good, failure="it lost a window")])
    assert not bad.right
    assert "it lost a window" in "\n".join(bad.lines())
    assert "it lost a window" in "\n".join(bad.markdown())


# 500,000 events/s at 10 us: 5 cores; 1,000,000 windows in 300 s at 100 us: 0.33 cores; a worker may use 0.6 of 0.5
def test_a_plan() -> None:
    needed = plan(_MEASURED, DEMANDS[0])
    assert needed["cores for them"] == "9"
    assert needed["worker processes"] == "18"
    assert needed["partitions"] == "144"
    assert needed["window documents/s"] == "3,333"
    assert needed["events, MB/s"] == "75"
    # 13 windows of each agent, two records of each, on 18 workers, at 50,000/s; and the start.
    assert needed["restore of one worker from an empty disk, s"] == "30.9"


def test_without_a_part_there_is_no_plan() -> None:
    rows = [{"records": 0, "windows": 0, "seconds": 0.0, "cpu_us": 0.0, "peak_mb": 0.0}]
    failed = {"rows": rows * 3, "facts": {}}
    measured = Measured.of({"backlog": failed, "agents": failed, "restore": failed}, None)
    assert measured is None
    assert list(lines(measured)) == ["A part that this is worked out from has failed."]
