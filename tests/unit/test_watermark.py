"""The watermark follows event time, or the wall clock of a silent partition; neither it nor the floor goes back."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.core.state import BEGINNING, PartitionRecord, SizeChange
from feedback_app.core.watermark import Lateness

LATENESS = Lateness(grace_ms=100, retention_ms=1_000)


# event time      ...........................|---- grace ----> 5,000
# watermark                               4,900
# floor           3,900 <---- retention ----|
def test_the_watermark_follows_the_highest_event_time_and_the_floor_the_watermark() -> None:
    record = LATENESS.seen(PartitionRecord(), 5_000)
    assert (record.watermark, record.floor) == (4_900, 3_900)


@pytest.mark.parametrize("highest", [5_000, 4_999, 100, 0])
def test_an_earlier_event_moves_nothing(highest: int) -> None:
    record = PartitionRecord(watermark=4_900, floor=3_900)
    assert LATENESS.seen(record, highest) == record


def test_events_within_the_first_grace_leave_the_watermark_at_the_beginning() -> None:
    assert LATENESS.seen(PartitionRecord(), 99) == PartitionRecord()
    assert LATENESS.seen(PartitionRecord(), 100) == PartitionRecord(watermark=0, floor=BEGINNING)


def test_a_longer_retention_does_not_lower_the_floor() -> None:
    record = LATENESS.seen(PartitionRecord(), 5_000)
    longer = Lateness(grace_ms=100, retention_ms=4_000).seen(record, 6_000)
    assert (longer.watermark, longer.floor) == (5_900, 3_900)


def test_a_longer_grace_does_not_lower_the_watermark() -> None:
    record = LATENESS.seen(PartitionRecord(), 5_000)
    assert Lateness(grace_ms=1_000, retention_ms=1_000).seen(record, 5_500) == record


def test_what_else_the_record_holds_stays() -> None:
    history = (SizeChange(1_000, {"feedback": 0}),)
    before = PartitionRecord(offsets={"feedback": 7}, history=history)
    after = LATENESS.seen(before, 5_000)
    assert (after.offsets, after.history) == ({"feedback": 7}, history)


# newest open window ends at      |3,000
# wall clock - grace        2,900 |            -> 2,900
#                                 |  8,900     -> 3,000: no further than what is open
@pytest.mark.parametrize(
    ("now_ms", "newest_end", "watermark"),
    [(3_000, 3_000, 2_900), (3_100, 3_000, 3_000), (9_000, 3_000, 3_000), (2_100, 3_000, 2_000), (1_000, 3_000, 2_000)],
)
def test_a_silent_partition_follows_the_wall_clock_as_far_as_its_newest_window(
    now_ms: int, newest_end: int, watermark: int
) -> None:
    assert LATENESS.silent(PartitionRecord(watermark=2_000), now_ms, newest_end).watermark == watermark


def test_a_silent_partition_without_open_windows_stays_where_it_is() -> None:
    record = PartitionRecord(watermark=2_000, floor=1_000)
    assert LATENESS.silent(record, 10**12, None) is record


def test_the_wall_clock_moves_the_floor_too() -> None:
    assert LATENESS.silent(PartitionRecord(watermark=2_000, floor=500), 9_000, 4_000).floor == 3_000


_RECORDS = st.builds(PartitionRecord, watermark=st.integers(-1, 10_000), floor=st.integers(-1, 10_000))
_LATENESSES = st.builds(Lateness, grace_ms=st.integers(0, 5_000), retention_ms=st.integers(0, 5_000))


@hypothesis_settings(deadline=None)
@given(_RECORDS, st.lists(st.tuples(_LATENESSES, st.integers(0, 20_000), st.none() | st.integers(1, 20_000))))
def test_nothing_ever_goes_back_whatever_the_settings_become(
    record: PartitionRecord, steps: list[tuple[Lateness, int, int | None]]
) -> None:
    for lateness, time_ms, newest_end in steps:
        seen = lateness.seen(record, time_ms)
        silent = lateness.silent(seen, time_ms, newest_end)
        assert record.watermark <= seen.watermark <= silent.watermark
        assert record.floor <= seen.floor <= silent.floor
        record = silent


@hypothesis_settings(deadline=None)
@given(_RECORDS, _LATENESSES, st.lists(st.integers(0, 20_000), min_size=1))
def test_seeing_events_one_by_one_or_only_their_highest_is_the_same(
    record: PartitionRecord, lateness: Lateness, times: list[int]
) -> None:
    one_by_one = record
    for time_ms in times:
        one_by_one = lateness.seen(one_by_one, time_ms)
    assert one_by_one == lateness.seen(record, max(times))
