"""State keys sort by the time at which their windows close; the partition record survives being stored."""

from __future__ import annotations

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.core.state import (
    BEGINNING,
    CLOSED,
    OPEN,
    PARTITION_RECORD_KEY,
    PartitionRecord,
    SizeChange,
    closed_key,
    end_of,
    ends_after,
    window_key,
    window_of,
)
from feedback_app.core.windows import Window

_AGENTS = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=128)
_SIZES = st.integers(1, 2**40)
_PREFIXES = st.sampled_from([OPEN, CLOSED])


@st.composite
def windows(draw: st.DrawFn) -> Window:
    return Window(draw(_AGENTS), draw(st.integers(0, 2**60)), draw(_SIZES))


@hypothesis_settings(deadline=None)
@given(_PREFIXES, windows())
def test_a_key_names_its_window(prefix: bytes, window: Window) -> None:
    key = window_key(prefix, window.agent_id, window.end, window.size)
    assert window_of(key) == window
    assert end_of(key) == window.end
    assert key.startswith(prefix)


@hypothesis_settings(deadline=None)
@given(_PREFIXES, st.lists(windows(), max_size=20))
def test_key_order_is_close_order(prefix: bytes, many: list[Window]) -> None:
    keys = sorted(window_key(prefix, window.agent_id, window.end, window.size) for window in many)
    assert [(window_of(key).end, window_of(key).size) for key in keys] == sorted(
        (window.end, window.size) for window in many
    )


def test_open_closed_and_the_record_never_mix() -> None:
    """Each prefix has a range of its own, whatever the window, and the record lies in none of them."""
    latest = 2**63
    for prefix in (OPEN, CLOSED):
        lowest, highest = ends_after(prefix, BEGINNING), ends_after(prefix, latest)
        assert lowest <= window_key(prefix, "\U0010ffff" * 128, latest, latest) < highest
        assert not lowest <= PARTITION_RECORD_KEY < highest
        assert not PARTITION_RECORD_KEY.startswith(prefix)
    assert ends_after(CLOSED, latest) < ends_after(OPEN, BEGINNING)


@hypothesis_settings(deadline=None)
@given(windows())
def test_a_closed_key_names_the_same_window(window: Window) -> None:
    open_key = window_key(OPEN, window.agent_id, window.end, window.size)
    assert closed_key(open_key) == window_key(CLOSED, window.agent_id, window.end, window.size)


# end              ... 2,000]   2,001]   2,002]
# ends_after(2,000)           ^ everything from here on ends later
@hypothesis_settings(deadline=None)
@given(_PREFIXES, windows(), st.integers(-1, 2**61))
def test_ends_after_splits_the_keys_by_their_end(prefix: bytes, window: Window, end: int) -> None:
    key = window_key(prefix, window.agent_id, window.end, window.size)
    assert (key >= ends_after(prefix, end)) == (window.end > end)


@pytest.mark.parametrize("agent_id", ["a", "\x01", "\U0010ffff" * 128])
@pytest.mark.parametrize("size", [1, 2**63])
def test_ends_after_holds_at_the_bound_itself(agent_id: str, size: int) -> None:
    assert window_key(OPEN, agent_id, 2_000, size) < ends_after(OPEN, 2_000)
    assert window_key(OPEN, agent_id, 2_001, size) >= ends_after(OPEN, 2_000)


def test_nothing_ends_before_the_beginning() -> None:
    assert ends_after(OPEN, BEGINNING) == ends_after(OPEN, -5_000) <= window_key(OPEN, "a", 1, 1)


_OFFSETS = st.dictionaries(st.sampled_from(["feedback", "feedback-repartition"]), st.integers(0, 2**62))
_RECORDS = st.builds(
    PartitionRecord,
    watermark=st.integers(-1, 2**62),
    floor=st.integers(-1, 2**62),
    offsets=_OFFSETS,
    history=st.lists(st.builds(SizeChange, st.integers(1, 2**40), _OFFSETS), max_size=4).map(tuple),
    topic_ids=st.dictionaries(st.sampled_from(["feedback", "feedback-repartition"]), st.text()),
)


@hypothesis_settings(deadline=None)
@given(_RECORDS)
def test_the_partition_record_survives_being_stored(record: PartitionRecord) -> None:
    assert PartitionRecord.decode(record.encode()) == record


@pytest.mark.parametrize("version", [0, 3])
def test_a_partition_record_of_an_unknown_format_is_refused(version: int) -> None:
    stored = orjson.loads(PartitionRecord(watermark=5).encode())
    assert stored["version"] == 2
    with pytest.raises(ValueError, match=f"state format {version} is unknown; this version reads format 2"):
        PartitionRecord.decode(orjson.dumps(stored | {"version": version}))


def test_a_partition_record_of_the_first_format_knows_no_topic_ids() -> None:
    record = PartitionRecord(watermark=5, floor=3, offsets={"feedback": 9}).with_size(1_000)
    stored = orjson.loads(record.encode())
    del stored["topicIds"]
    assert PartitionRecord.decode(orjson.dumps(stored | {"version": 1})) == record


# offset of feedback   0 ............. 7 .......... 9
# window size          |--- 1,000 -----|--- 500 ----|--- 1,000 ...
def test_a_change_of_window_size_is_noted_with_the_offsets_it_starts_at() -> None:
    record = PartitionRecord().with_size(1_000)
    assert record.history == (SizeChange(1_000, {}),)

    record = PartitionRecord(offsets={"feedback": 7}, history=record.history).with_size(500)
    assert record.history == (SizeChange(1_000, {}), SizeChange(500, {"feedback": 7}))

    record = PartitionRecord(offsets={"feedback": 9}, history=record.history).with_size(1_000)
    assert record.history[-1] == SizeChange(1_000, {"feedback": 9})
    assert len(record.history) == 3


def test_the_same_window_size_is_noted_once() -> None:
    record = PartitionRecord(offsets={"feedback": 7}).with_size(1_000)
    assert record.with_size(1_000) is record


def test_a_noted_size_keeps_the_offsets_of_its_own_time() -> None:
    offsets = {"feedback": 7}
    record = PartitionRecord(offsets=offsets).with_size(1_000)
    offsets["feedback"] = 8
    assert record.history == (SizeChange(1_000, {"feedback": 7}),)
