"""The last hour of one worker, and of several."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feedback_app.figures import Counters, Span
from feedback_app.history import MOST, SERIES, STEP_MS, History, Levels, PartHistory, levels, merged, until_next_ms
from tests.unit.test_metrics import figures

_SLOT = 170_000_000
_NOW = _SLOT * STEP_MS


def row(value: float) -> list[float | None]:
    return [value] * len(SERIES)


def part(*slots: int, value: float = 1.0) -> PartHistory:
    """Return a worker's history with the same sample in each of the slots, which are counted back from now."""
    return PartHistory([_SLOT - slot for slot in slots], [row(value) for _ in slots])


def shown(*parts: PartHistory) -> list[float | None]:
    answer = merged(parts, _NOW + 4_000, [])
    assert len(answer["times"]) == len(answer["series"]["records"])
    series: list[float | None] = answer["series"]["records"]
    return series


def test_a_sample_has_rates_and_levels() -> None:
    history = History()
    done = Counters(counted=70, late=10, dead_letters=20, windows_closed=3, windows_amended=2, operations=5)
    history.note(_NOW + 12, Span(10.0, done), Levels(7, 5))
    answer = merged([history.part()], _NOW + 900, ["http://other"])
    assert answer["stepMs"] == STEP_MS
    assert [time.timestamp() for time in answer["times"]] == [_NOW / 1_000]
    assert answer["unanswered"] == ["http://other"]
    assert {name: column[0] for name, column in answer["series"].items()} == {
        "records": 10.0,
        "counted": 7.0,
        "late": 1.0,
        "deadLetters": 2.0,
        "windowsClosed": 0.5,
        "aggregatedEvents": 0.0,
        "mongodbOperations": 0.5,
        "lag": 7,
        "openWindows": 5,
    }


def test_the_levels_are_those_of_all_partitions_as_far_as_they_are_known() -> None:
    assert levels([figures(0), figures(1, lag={})]) == Levels(7, 10)
    assert levels([figures(1, lag={})]) == Levels(None, 5)
    assert levels([]) == Levels(None, None)


def test_nothing_is_shown_of_nothing() -> None:
    answer = merged([PartHistory([], [])], _NOW, [])
    assert answer == {"stepMs": STEP_MS, "times": [], "series": {name: [] for name in SERIES}, "unanswered": []}


def test_memory_is_bounded_and_a_clock_that_is_set_back_is_waited_for() -> None:
    history = History()
    for slot in range(2 * MOST):
        history.note(_NOW + slot * STEP_MS, Span(10.0, Counters(counted=slot)), Levels(0, 0))
    history.note(_NOW, Span(10.0, Counters(counted=1)), Levels(0, 0))
    kept = history.part()
    assert len(kept.slots) == len(kept.rows) == MOST
    assert kept.slots == sorted(set(kept.slots))
    assert kept.rows[-1][0] == (2 * MOST - 1) / 10


def test_workers_are_added_up_and_a_gap_stays_one() -> None:
    """
    slot    -5  -4  -3  -2  -1   0
    one      1   1           1   1
    other            2       2   2
    """
    assert shown(part(5, 4, 1, 0), part(3, 1, 0, value=2)) == [1, 1, 2, None, 3, 3]


def test_a_slot_that_not_all_have_come_to_waits() -> None:
    assert shown(part(2, 1, 0), part(2, 1, value=2)) == [3, 3]
    # But not for one that has no samples any more.
    assert shown(part(4, 3, 2, 1, 0), part(4, 3, value=2)) == [3, 3, 1, 1, 1]


def test_what_one_worker_does_not_know_another_may() -> None:
    unknown: list[float | None] = [None] * len(SERIES)
    assert shown(PartHistory([_SLOT], [unknown]), part(0, value=2)) == [2]
    assert shown(PartHistory([_SLOT], [unknown])) == [None]


def test_times_that_can_t_be_are_left_out() -> None:
    assert shown(part(0), part(-5, -1_000_000, MOST + 1, value=9)) == [1]


@pytest.mark.parametrize(
    "answer",
    [
        b"[]",
        b'{"slots": [1], "rows": [[1]]}',
        b'{"slots": [-1], "rows": []}',
        b'{"slots": ["<script>"], "rows": []}',
        b'{"slots": [1], "rows": [["<script>",1,1,1,1,1,1,1,1]]}',
        b'{"slots": [1], "rows": [[-1,1,1,1,1,1,1,1,1]]}',
        msgspec.json.encode({"slots": list(range(MOST + 1)), "rows": []}),
    ],
)
def test_what_no_worker_says_is_no_history(answer: bytes) -> None:
    with pytest.raises(msgspec.DecodeError):
        msgspec.json.decode(answer, type=PartHistory)


@given(st.lists(st.lists(st.integers(-3, 2 * MOST), max_size=40, unique=True), max_size=4))
def test_the_answer_is_contiguous_bounded_and_adds_nothing(slots: list[list[int]]) -> None:
    parts = [part(*sorted(each, reverse=True)) for each in slots]
    answer = merged(parts, _NOW, [])
    times = [round(time.timestamp() * 1_000) // STEP_MS for time in answer["times"]]
    assert len(times) <= MOST
    assert times == list(range(times[0], times[0] + len(times))) if times else not any(answer["series"].values())
    for slot, value in zip(times, answer["series"]["counted"], strict=True):
        assert (value or 0) == sum(_SLOT - slot in each for each in slots)


def test_samples_are_due_at_the_same_moments_everywhere() -> None:
    assert until_next_ms(_NOW) == STEP_MS
    assert until_next_ms(_NOW + STEP_MS - 1) == 1
