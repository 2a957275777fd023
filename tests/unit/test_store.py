"""One partition's state in a real RocksDB."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

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
    end_of,
    window_key,
    window_of,
)
from feedback_app.errors import StateError
from tables.store import PartitionStore, Position

AT = Position(offset=7, at_ms=1_000, topic_id="first")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "v1" / "tables" / "windows-0.db"


@pytest.fixture
def store(path: Path) -> Iterator[PartitionStore]:
    opened = PartitionStore(path)
    yield opened
    opened.close()


def open_key(end: int, agent: str = "ann", size: int = 1_000) -> bytes:
    return window_key(OPEN, agent, end, size)


def closed_key(end: int, agent: str = "ann", size: int = 1_000) -> bytes:
    return window_key(CLOSED, agent, end, size)


def put(store: PartitionStore, *keys: bytes) -> None:
    store.write(dict.fromkeys(keys, b"value"), AT)


# -- writing -------------------------------------------------------------------------------------------------------


def test_a_new_store_is_empty(store: PartitionStore) -> None:
    assert store.position() is None
    assert store.record() is None
    assert store.get(open_key(1_000)) is None
    assert store.newest_open() is None
    assert store.open_windows(OPEN, 10**15, 10) == []
    assert store.closed_keys(CLOSED, 10**15, 10) == []


def test_what_was_written_is_there_and_what_was_deleted_is_not(store: PartitionStore) -> None:
    store.write({open_key(1_000): b"one", open_key(2_000): b"two"}, AT)
    store.write({open_key(1_000): None, open_key(2_000): b"2", open_key(9_000): None}, AT)
    assert store.get(open_key(1_000)) is None
    assert store.get(open_key(2_000)) == b"2"


def test_everything_is_there_after_a_restart(path: Path) -> None:
    record = PartitionRecord(watermark=5, floor=3, offsets={"feedback": 9})
    store = PartitionStore(path)
    store.write({open_key(1_000): b"one", PARTITION_RECORD_KEY: record.encode()}, AT)
    store.close()
    again = PartitionStore(path)
    assert (again.position(), again.record(), again.get(open_key(1_000))) == (AT, record, b"one")
    again.close()


def test_the_position_moves_with_the_changes(store: PartitionStore) -> None:
    store.write({open_key(1_000): b"one"}, AT)
    later = Position(offset=2**40, at_ms=2**42, topic_id="öther")
    store.write({}, later)
    assert store.position() == later
    assert store.get(open_key(1_000)) == b"one"


def test_a_batch_is_written_as_a_whole_or_not_at_all(store: PartitionStore) -> None:
    store.write({open_key(1_000): b"one"}, AT)
    broken = {open_key(1_000): b"changed", open_key(2_000): b"new", open_key(3_000): object()}
    with pytest.raises(Exception, match="only support bytes"):
        store.write(broken, Position(99, 99, "second"))  # type: ignore[arg-type]  # what RocksDB can't take
    assert store.get(open_key(1_000)) == b"one"
    assert store.get(open_key(2_000)) is None
    assert store.position() == AT


def test_a_position_of_an_unknown_format_is_refused() -> None:
    encoded = AT.encode()
    assert Position.decode(encoded) == AT
    with pytest.raises(StateError, match="the data dir has format 9; this version reads format 1"):
        Position.decode(b"\x09" + encoded[1:])


def test_the_position_is_no_state(store: PartitionStore) -> None:
    """It is found by none of the scans, and never mistaken for a window."""
    put(store)
    assert store.position() == AT
    assert store.open_windows(b"", 2**63, 10) == []
    assert store.closed_keys(b"", 2**63, 10) == []
    assert store.newest_open() is None
    assert store.record() is None


# -- scans ---------------------------------------------------------------------------------------------------------


# ends       1,000    2,000    2,000   3,000
# agents     zoe      ann      bob     ann
#            |------ due at 2,000 ----|
def test_open_windows_come_in_close_order(store: PartitionStore) -> None:
    keys = [open_key(1_000, "zoe"), open_key(2_000), open_key(2_000, "bob"), open_key(3_000)]
    put(store, *reversed(keys), closed_key(1_000), PARTITION_RECORD_KEY)
    assert store.open_windows(OPEN, 2_000, 10) == [(key, b"value") for key in keys[:3]]
    assert store.open_windows(OPEN, 2**62, 10) == [(key, b"value") for key in keys]
    assert store.open_windows(OPEN, 999, 10) == []
    assert store.open_windows(OPEN, BEGINNING, 10) == []


def test_a_scan_begins_at_a_key_and_ends_at_a_limit(store: PartitionStore) -> None:
    keys = [open_key(end) for end in range(1_000, 6_000, 1_000)]
    put(store, *keys)
    assert [key for key, _ in store.open_windows(OPEN, 5_000, 2)] == keys[:2]
    assert [key for key, _ in store.open_windows(keys[1], 5_000, 2)] == keys[1:3], "the key itself is among them"
    assert [key for key, _ in store.open_windows(keys[1] + b"\x00", 5_000, 2)] == keys[2:4]
    assert store.open_windows(keys[4] + b"\x00", 5_000, 2) == []


def test_a_scan_from_behind_its_end_finds_nothing(store: PartitionStore) -> None:
    put(store, open_key(1_000), open_key(5_000), closed_key(1_000), closed_key(5_000))
    assert store.open_windows(open_key(5_000), 1_000, 10) == []
    assert store.closed_keys(closed_key(5_000), 1_000, 10) == []


def test_closed_records_are_scanned_by_themselves(store: PartitionStore) -> None:
    keys = [closed_key(1_000, "zoe"), closed_key(2_000), closed_key(3_000)]
    put(store, *keys, open_key(1_000), PARTITION_RECORD_KEY)
    assert store.closed_keys(CLOSED, 2_000, 10) == keys[:2]
    assert store.closed_keys(keys[0] + b"\x00", 2**62, 10) == keys[1:]
    assert store.closed_keys(CLOSED, 2**62, 1) == keys[:1]
    assert store.closed_keys(CLOSED, BEGINNING, 10) == []


def test_the_newest_window_is_the_one_that_ends_last(store: PartitionStore) -> None:
    put(store, closed_key(9_000), PARTITION_RECORD_KEY)
    assert store.newest_open() is None
    put(store, open_key(1_000, "zoe"), open_key(3_000), open_key(3_000, "\U0010ffff" * 128), open_key(2_000, "zoe"))
    assert store.newest_open() == open_key(3_000, "\U0010ffff" * 128)


def test_an_agents_open_windows_are_found_whatever_others_are_called(store: PartitionStore) -> None:
    mine = [open_key(1_000), open_key(2_000, size=500), open_key(2_000, size=1_000), open_key(4_000)]
    others = [open_key(end, agent) for end in (1_000, 2_000, 3_000) for agent in ("an", "anna", "a", "\x01", "bob")]
    put(store, *mine, *others, closed_key(3_000), PARTITION_RECORD_KEY)
    assert store.open_windows_of("ann") == [(key, b"value") for key in mine]
    assert store.open_windows_of("nobody") == []


_KEYS = st.builds(
    window_key,
    st.sampled_from([OPEN, CLOSED]),
    st.sampled_from(["a", "ab", "b", "\U0010ffff"]),
    st.sampled_from([1, 255, 256, 1_000, 65_536, 2**40, 2**62]),
    st.sampled_from([1, 255, 256]),
)


@hypothesis_settings(deadline=None, max_examples=40)
@given(
    st.lists(st.dictionaries(_KEYS, st.none() | st.binary(max_size=3), max_size=12), max_size=4),
    _KEYS,
    st.integers(-1, 2**62),
    st.integers(1, 5),
)
def test_scans_agree_with_a_sorted_dictionary(
    writes: list[dict[bytes, bytes | None]], after: bytes, until_end: int, limit: int
) -> None:
    folder = Path(tempfile.mkdtemp(prefix="store-"))
    store = PartitionStore(folder)
    model: dict[bytes, bytes | None] = {}
    try:
        for changes in writes:
            store.write(changes, AT)
            model |= changes
        there = {key: value for key, value in sorted(model.items()) if value is not None}
        opened = [(key, value) for key, value in there.items() if key.startswith(OPEN)]
        closed = [key for key in there if key.startswith(CLOSED)]
        if after.startswith(OPEN):
            due = [(key, value) for key, value in opened if key >= after and end_of(key) <= until_end]
            assert store.open_windows(after, until_end, limit) == due[:limit]
        else:
            assert (
                store.closed_keys(after, until_end, limit)
                == [key for key in closed if key >= after and end_of(key) <= until_end][:limit]
            )
        assert store.newest_open() == (opened[-1][0] if opened else None)
        for agent in ("a", "ab", "b", "\U0010ffff"):
            assert store.open_windows_of(agent) == [pair for pair in opened if window_of(pair[0]).agent_id == agent]
    finally:
        store.close()
        shutil.rmtree(folder)


# -- handles -------------------------------------------------------------------------------------------------------


def test_a_closed_handle_writes_nothing_into_the_store_of_the_next_owner(path: Path) -> None:
    straggler = PartitionStore(path)
    straggler.write({open_key(1_000): b"one"}, AT)
    straggler.close()
    owner = PartitionStore(path)
    with pytest.raises(StateError, match="RocksDB refused a write"):
        straggler.write({open_key(1_000): b"straggler's"}, Position(99, 99, "second"))
    assert owner.get(open_key(1_000)) == b"one"
    assert owner.position() == AT
    owner.close()


def test_a_closed_handle_reads_nothing(store: PartitionStore) -> None:
    put(store, open_key(1_000))
    store.close()
    for read in (
        store.position,
        store.record,
        store.newest_open,
        lambda: store.get(open_key(1_000)),
        lambda: store.open_windows(OPEN, 9_000, 1),
        lambda: store.closed_keys(CLOSED, 9_000, 1),
        lambda: store.open_windows_of("ann"),
    ):
        with pytest.raises(Exception, match=r"(?i)closed"):
            read()


def test_a_store_may_be_closed_twice(path: Path) -> None:
    store = PartitionStore(path)
    store.close()
    store.close()
    PartitionStore(path).close()


def test_a_folder_that_is_open_elsewhere_is_a_clear_error(store: PartitionStore, path: Path) -> None:
    with pytest.raises(StateError, match="another worker using this FEEDBACK_DATA_DIR") as raised:
        PartitionStore(path)
    assert raised.value.message.startswith(f"{path}: RocksDB can't be opened: ")
    put(store, open_key(1_000))
    assert store.get(open_key(1_000)) == b"value", "the one that has it goes on"


def test_a_folder_that_can_not_be_one_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(StateError, match="RocksDB can't be opened"):
        PartitionStore(tmp_path / "file")


def test_wiping_leaves_an_empty_store_that_works(store: PartitionStore, path: Path) -> None:
    put(store, open_key(1_000), closed_key(1_000), PARTITION_RECORD_KEY)
    store.wipe()
    assert store.position() is None
    assert store.get(open_key(1_000)) is None
    assert store.get(PARTITION_RECORD_KEY) is None
    put(store, open_key(2_000))
    store.close()
    again = PartitionStore(path)
    assert again.open_windows(OPEN, 9_000, 10) == [(open_key(2_000), b"value")]
    again.close()
