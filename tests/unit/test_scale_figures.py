"""What ``benchmarks.scale`` makes of its measurements."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.bench import Point
from benchmarks.report import DOCS, block, machine, versions
from benchmarks.scale import pages
from benchmarks.scale.__main__ import NAMES, TOGETHER, parse
from benchmarks.scale.planning import DEMANDS, Measured, lines, plan
from benchmarks.scale.probes import Answers
from benchmarks.scale.results import Bar, Part, Spread, result

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


@pytest.mark.parametrize(("start", "rate"), [(2.0, 250), (4.5, 200), (5.5, 200)])
def test_what_is_measured(start: float, rate: float) -> None:
    def row(cpu_us: float) -> dict[str, float]:
        return {"records": 1_000, "windows": 100, "seconds": 0.01, "cpu_us": cpu_us, "peak_mb": 200.0}

    traffic = {"event_bytes": 150.0, "aggregated_event_bytes": 500.0, "events_a_transaction": 2_000.0}
    state = {
        "changelog_records": 1_000 if rate == 200 else 750,
        "changelog_records_an_event": 0.5,
        "changelog_bytes_a_record": 120.0,
        "bytes_an_open_window": 110.0,
        "seconds_to_restore": 5.0,
        "seconds_to_start": start,
    }
    parts = {
        "backlog": {"rows": [row(9.0)], "facts": traffic},
        "agents": {"rows": [row(3.0), row(4.0), row(10.0)]},
        "restore": {"facts": state},
    }
    measured = Measured.of(parts, None)
    assert measured is not None
    assert (measured.close_us, measured.event_us, measured.changelog_bytes_an_event) == (50.0, 10.0, 60.0)
    assert measured.cores == pytest.approx(0.9)
    assert measured.restore_rate == rate
    compared = Measured.of(parts, {"figures": [{"name": "ours", "rates": [200_000.0], "cpu_us": [4.0]}]})
    assert compared is not None
    assert compared.cores == pytest.approx(0.8)


def test_without_a_part_there_is_no_plan() -> None:
    rows = [{"records": 0, "windows": 0, "seconds": 0.0, "cpu_us": 0.0, "peak_mb": 0.0}]
    failed = {"rows": rows * 3, "facts": {}}
    measured = Measured.of({"backlog": failed, "agents": failed, "restore": failed}, None)
    assert measured is None
    assert list(lines(measured)) == ["A part that this is worked out from has failed."]


# -- what a run puts into the documents ------------------------------------------------------------------------------

_PROBES = Part("probes", "pages", [Answers("/health/live", Spread(7, 12.0, 34.0))], [Bar("live_p99_ms", "it", 34, 200)])


@pytest.fixture
def docs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Our documents, as if this machine had measured what they say."""
    monkeypatch.setattr(pages, "draw", lambda charts, path: None)
    copied = shutil.copytree(DOCS, tmp_path / "docs", ignore=shutil.ignore_patterns("*.png", "*.svg"))
    put(copied, machine=machine(), versions=versions())
    return copied


def recorded(docs: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((docs / "figures" / "scale.json").read_text())
    return content


def put(docs: Path, **more: Any) -> None:
    (docs / "figures" / "scale.json").write_text(json.dumps(recorded(docs) | more))


def blocks(docs: Path) -> dict[str, str]:
    """Return what the page says of each part."""
    page = (docs / "performance.md").read_text()
    found = {}
    for name in NAMES:
        begin, end = block(f"scale/{name}")
        assert page.count(begin) == page.count(end) == 1
        found[name] = page.partition(begin)[2].partition(end)[0]
    return found


def test_a_part_that_was_run_by_itself_takes_the_place_of_its_own_figures_only(docs: Path) -> None:
    said, figures = blocks(docs), recorded(docs)
    pages.write_parts([_PROBES], result([_PROBES], quick=False), docs)
    now = blocks(docs)
    assert [name for name in NAMES if now[name] != said[name]] == ["probes"]
    assert "| /health/live | 7 | 12.0 | 34.0 |" in now["probes"]
    after = recorded(docs)
    assert after["parts"].pop("probes")["rows"][0]["delay"]["p99_ms"] == 34
    assert figures["parts"].pop("probes")["rows"][0]["delay"]["p99_ms"] != 34
    assert after["holds"].pop("live_p99_ms") is True
    figures["holds"].pop("live_p99_ms")
    assert after == figures


@pytest.mark.parametrize(("name", "value"), [("machine", {"cores": 99}), ("versions", {}), ("quick", True)])
def test_a_part_is_not_mixed_with_figures_that_it_can_not_be_compared_with(docs: Path, name: str, value: Any) -> None:
    put(docs, **{name: value})
    with pytest.raises(ValueError, match=name):
        pages.write_parts([_PROBES], result([_PROBES], quick=False), docs)


def test_what_the_plan_needs_both_of_is_written_of_one_run_only(capsys: pytest.CaptureFixture[str]) -> None:
    for fine in ([], ["--only", "probes", "window"], ["--only", *TOGETHER], ["--only", *NAMES]):
        assert parse(["--write", *fine]).write
    for name in TOGETHER:
        with pytest.raises(SystemExit):
            parse(["--write", "--only", "probes", name])
        assert "--write takes agents and backlog of one run only" in capsys.readouterr().err


def test_a_whole_run_leaves_a_place_for_each_part(docs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "charts", lambda parts: [])
    monkeypatch.setattr(pages, "write_plan", lambda docs: None)
    small = [replace(_PROBES, name=name) for name in NAMES]
    pages.write(small, result(small, quick=False), docs)
    assert len(set(blocks(docs).values())) == 1
    pages.write_parts([_PROBES], result([_PROBES], quick=False), docs)
    assert len(set(blocks(docs).values())) == 1
