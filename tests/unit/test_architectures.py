"""What the migration benchmark's architectures collect, tell, and are judged by."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.architectures.batches import Batch, Batches
from benchmarks.architectures.figures import MARK, Figures, last_told, spread
from benchmarks.architectures.items import Item, fold
from benchmarks.architectures.judging import Loss, compare
from benchmarks.architectures.live import Live
from benchmarks.architectures.memory import Held
from benchmarks.architectures.pages import ESTIMATES, estimates, part_of, tables
from benchmarks.architectures.results import kill_bars, plainly, rate_bars
from benchmarks.architectures.sustained import Sustained
from benchmarks.report import DOCS, replace_block
from benchmarks.scale.results import Part
from feedback_app.core.events import Event
from feedback_app.core.windows import Window
from feedback_app.settings import BatchingMode
from feedback_app.verification import Verdict


def _item(agent_id: str, offset: int = 0, partition: int = 0, timestamp: int = 0) -> Item:
    return Item(Event(f"f-{offset}", agent_id, "u", "positive", timestamp), partition, offset)


def _offsets(groups: list[list[Batch]]) -> list[list[list[int]]]:
    return [[[item.offset for item in batch.items] for batch in group] for group in groups]


def _batches(mode: BatchingMode = BatchingMode.HYBRID, *, size: int = 3, seconds: float = 10, most: int = 5) -> Batches:
    return Batches(mode, size, seconds, most)


def test_a_full_batch_goes_out() -> None:
    batches = _batches()
    for offset in range(4):
        batches.add(_item("a", offset), now=0)
    assert _offsets(batches.take_out()) == [[[0, 1, 2]]]
    assert (len(batches), batches.items) == (1, 1)
    assert batches.take_out() == []


# a began at 0, b at 4; both have waited for 10 s at 14, only a at 13.9
def test_a_batch_that_has_waited_goes_out() -> None:
    batches = _batches()
    batches.add(_item("a", 0), now=0)
    batches.add(_item("b", 1), now=4)
    batches.add(_item("a", 2), now=9)
    assert batches.take_waited(9.9) == []
    assert _offsets(batches.take_waited(13.9)) == [[[0, 2]]]
    assert _offsets(batches.take_waited(14)) == [[[1]]]
    assert len(batches) == 0


def test_the_oldest_is_evicted_and_written() -> None:
    batches = _batches(most=2)
    for offset, agent_id in enumerate(["old", "newer", "old", "newest"]):
        batches.add(_item(agent_id, offset), now=offset)
    assert (len(batches), batches.evicted) == (2, 1)
    assert _offsets(batches.take_out()) == [[[0, 2]]], "evicting drops nothing"


@pytest.mark.parametrize(
    ("mode", "groups"),
    [
        (BatchingMode.AGENT, [[[0, 2, 4]], [[1, 3, 5]]]),
        (BatchingMode.HYBRID, [[[0, 2, 4], [1, 3, 5]]]),
        (BatchingMode.GLOBAL, [[[0, 1, 2], [3, 4, 5]]]),
    ],
)
def test_modes(mode: BatchingMode, groups: list[list[list[int]]]) -> None:
    batches = _batches(mode)
    for offset in range(6):
        batches.add(_item("ab"[offset % 2], offset), now=0)
    assert _offsets(batches.take_out()) == groups


def test_nothing_is_committed_beyond_what_is_in_a_batch() -> None:
    batches = _batches(size=2)
    for item in (_item("a", 10), _item("b", 11), _item("c", 5, partition=1), _item("b", 12)):
        batches.add(item, now=0)
    read = {0: 13, 1: 6, 2: 40}
    assert batches.committable(read) == {0: 10, 1: 5, 2: 40}
    batches.take_all()
    assert batches.committable(read) == read


def test_items_are_counted_in_their_windows() -> None:
    folded = fold([_item("a", 1, timestamp=59_999), _item("a", 2, timestamp=60_000), _item("b", 3)], "t", 60_000)
    assert {window: aggregate.count for window, aggregate in folded.items()} == {
        Window("a", 0, 60_000): 1,
        Window("a", 60_000, 60_000): 1,
        Window("b", 0, 60_000): 1,
    }
    again = fold([_item("b", 4)], "t", 60_000)
    assert again[Window("b", 0, 60_000)].checksum != folded[Window("b", 0, 60_000)].checksum


def test_figures_are_told_line_by_line(capsys: pytest.CaptureFixture[str]) -> None:
    figures = Figures()
    figures.holds(3, 40, 3)
    figures.tell()
    figures.holds(1, 2, 1)
    figures.tell(ages=True)
    output = capsys.readouterr().out
    told = last_told(f"a warning\n{output}{MARK}{{")
    assert (told["items"], told["peak_items"], told["peak_timers"]) == (2, 40, 3)
    assert last_told(output) == json.loads(output.splitlines()[-1].removeprefix(MARK))
    assert last_told(output.splitlines()[0]) == {}, "a line that is not finished"
    assert last_told("") == {}


def test_spread() -> None:
    assert spread([]) == {}
    assert spread(range(1, 101)) == {"median": 50, "p99": 99, "highest": 100}


_TOTALS = {("a", 0): 5, ("b", 0): 5, ("c", 0): 5}


@pytest.mark.parametrize(
    ("counts", "verdict", "loss"),
    [
        (_TOTALS, Verdict(), Loss(15, 0, 0, 0, True)),
        (_TOTALS | {("elsewhere", 0): 9}, Verdict(), Loss(15, 0, 0, 0, True)),
        ({("a", 0): 3, ("b", 0): 6}, Verdict(missing=1, different=2), Loss(15, 7, 1, 3, False)),
        # The right count, and still not the right records.
        (_TOTALS, Verdict(different=1), Loss(15, 1, 1, 1, False)),
    ],
)
def test_losses(counts: dict[tuple[str, int], int], verdict: Verdict, loss: Loss) -> None:
    found = compare(counts, _TOTALS, verdict)
    assert found == loss
    assert found.none is (loss.lost + loss.doubled == 0)


def _row(name: str, rate: float, calls: float, failure: str = "") -> Sustained:
    return Sustained(name, name, 1_000, 1_000, 1_000 / rate, calls, calls, 1_000, failure=failure)


def test_bars_of_rates() -> None:
    rows = [_row("v1", 100, 2_000), _row("v2", 1_000, 20), _row("redis", 800, 20), _row("kafka_native", 3_000, 10)]
    bars = {bar.name: bar for bar in rate_bars(rows)}
    assert bars["rate_v2_1000"].value == pytest.approx(3)
    assert bars["rate_v1_1000"].value == pytest.approx(30)
    assert bars["calls_1000"].value == pytest.approx(100)
    assert all(bar.holds for bar in bars.values())
    slower = {bar.name: bar for bar in rate_bars([*rows[:3], replace(rows[3], seconds=2.0)])}
    assert not slower["rate_v2_1000"].holds
    wrong = {bar.name: bar for bar in rate_bars([*rows[:3], replace(rows[3], failure="it lost")])}
    assert not wrong["rate_v2_1000"].holds, "a rate counts only if the totals are right"


def test_what_a_kill_has_cost_is_said_plainly() -> None:
    harmless, harmful = Loss(100, 0, 0, 0, True), Loss(100, 3, 0, 2, False)

    def row(name: str, loss: Loss) -> Live:
        return Live(name, name, 10, 10, 100, killed=True, loss=loss)

    alone = [row("v1", harmful), row("kafka_native", harmless)]
    assert "Only this application" in "\n".join(plainly(alone))
    assert "redis came through unharmed too" in "\n".join(plainly([*alone, row("redis", harmless)]))
    assert "Only" not in "\n".join(plainly([row("kafka_native", harmful)]))
    assert [bar.holds for bar in kill_bars(alone)] == [True]
    assert [bar.holds for bar in kill_bars([row("kafka_native", harmful)])] == [False]


def test_the_page(tmp_path: Path) -> None:
    """Each estimate of the seed has what was measured beside it; what has failed is said, and is no number."""
    shutil.copy(DOCS / "migration.md", tmp_path)
    names = [estimate.name for estimate in ESTIMATES]
    lost = Loss(100, 3, 4, 2, False)
    parts = {
        "sustained": Part("sustained", "architecture", [_row(name, 1_250, 20) for name in names]),
        "memory": Part("memory", "architecture", [Held(name, name, 10, 300, grown_mb=156.8) for name in names]),
        "live": Part("live", "architecture", [Live(name, name, 200, 10, 100, behind=7) for name in names]),
        "kill": Part("kill", "architecture", [Live(name, name, 10, 10, 100, killed=True, loss=lost) for name in names]),
    }
    table = list(estimates(parts))
    assert len(table) == 2 + len(ESTIMATES)
    assert all("1,000: 1,250" in line and "157 MB" in line and "3 lost, 4 counted twice" in line for line in table[2:])
    failing = parts | {"sustained": Part("sustained", "architecture", [_row(name, 1, 1, "lost") for name in names])}
    assert all("1,000: failed" in line for line in list(estimates(failing))[2:])
    contents = {name: {"at": "today", **part.content()} for name, part in parts.items()}
    result = {"parts": contents, "machine": {"cores": 2, "architecture": "x"}, "versions": {"redis": "1"}}
    text = "\n".join(tables(parts, result))
    assert "no, 7 behind" in text
    assert "v1: 3 lost, 4 counted twice of 100" in text
    again = {name: part_of(name, json.loads(json.dumps(content))) for name, content in contents.items()}
    assert {name: part.rows for name, part in again.items()} == {name: list(part.rows) for name, part in parts.items()}
    for block, content in (("estimates", "\n".join(table)), ("measured", text)):
        replace_block(tmp_path / "migration.md", block, content)
    assert table[2] in (tmp_path / "migration.md").read_text()
