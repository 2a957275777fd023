"""Tumbling windows are aligned to the epoch, and named the same by whoever closes them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.core.windows import Window, window_end


# size 1,000:   0         1000      2000
#               |---------|---------|
#               ^        ^^
#               0      999 1000
@pytest.mark.parametrize(
    ("timestamp", "size", "end"),
    [
        (0, 1_000, 1_000),
        (999, 1_000, 1_000),
        (1_000, 1_000, 2_000),
        (1_001, 1_000, 2_000),
        (0, 1, 1),
        (7, 1, 8),
        (1_769_860_800_000, 300_000, 1_769_861_100_000),  # 2026-01-31T12:00Z: the 5-minute window ends at 12:05
        (1_769_860_799_999, 300_000, 1_769_860_800_000),
    ],
)
def test_a_window_holds_its_start_and_not_its_end(timestamp: int, size: int, end: int) -> None:
    assert window_end(timestamp, size) == end


@hypothesis_settings(deadline=None)
@given(st.integers(0, 2**60), st.integers(1, 2**40))
def test_windows_tile_the_time(timestamp: int, size: int) -> None:
    end = window_end(timestamp, size)
    assert end % size == 0
    assert end - size <= timestamp < end


def test_a_window_is_named_by_agent_start_and_size() -> None:
    window = Window("ann", 600_000, 300_000)
    assert window.end == 900_000
    assert window.document_id == "ann|600000|300000"
    assert window.event_id(0) == "ann:600000:300000:0"
    assert window.event_id(2) == "ann:600000:300000:2"


def test_windows_of_another_size_are_other_windows() -> None:
    assert Window("ann", 600_000, 300_000).document_id != Window("ann", 600_000, 60_000).document_id
    assert Window("ann", 600_000, 300_000).event_id(0) != Window("ann", 600_000, 60_000).event_id(0)
