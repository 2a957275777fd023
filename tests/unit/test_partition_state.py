"""One partition's committed state: what is due is given out once, and nothing that becomes due again is missed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from feedback_app.core.aggregate import Aggregate
from feedback_app.core.state import CLOSED, OPEN, PARTITION_RECORD_KEY, PartitionRecord, window_key
from feedback_app.core.transaction import Transaction
from feedback_app.errors import StateError
from feedback_app.provisioning import Identities
from feedback_app.settings import load_settings
from feedback_app.topics import Topics
from tables.partition import refuse_other_topics, start_offsets
from tables.restore import Restored
from tables.state import PartitionState, changelog_of
from tables.store import PartitionStore, Position

AT = Position(offset=7, at_ms=1_000, topic_id="first")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionStore]:
    opened = PartitionStore(tmp_path / "store")
    yield opened
    opened.close()


@pytest.fixture
def state(store: PartitionStore) -> PartitionState:
    return PartitionState(store, cached=3)


def key(end: int, agent: str = "ann") -> bytes:
    return window_key(OPEN, agent, end, 1_000)


def closed(end: int, agent: str = "ann") -> bytes:
    return window_key(CLOSED, agent, end, 1_000)


def aggregate(count: int = 1) -> Aggregate:
    new = Aggregate()
    new.positive = count
    return new


def commit(state: PartitionState, transaction: Transaction) -> None:
    state.persist(transaction, AT)
    state.apply(transaction)


def fold(state: PartitionState, *keys: bytes, count: int = 1) -> list[bytes]:
    """Commit what a fold would write; return the values."""
    values = {each: aggregate(count).encode() for each in keys}
    commit(state, Transaction(changes={**values}, record=state.record))
    return list(values.values())


def move(state: PartitionState, watermark: int, floor: int = -1) -> None:
    commit(state, Transaction(changes={}, record=PartitionRecord(watermark=watermark, floor=floor)))


def write(state: PartitionState, changes: dict[bytes, bytes | None]) -> None:
    """Commit what a close pass would write."""
    commit(state, Transaction(changes=changes, record=state.record))


def due(state: PartitionState, limit: int = 100) -> list[bytes]:
    return [taken for taken, _ in state.take_due(limit)]


# -- the record ----------------------------------------------------------------------------------------------------


def test_a_new_partition_begins_at_the_beginning(state: PartitionState) -> None:
    assert state.is_new
    assert state.record == PartitionRecord()
    assert state.newest_end() is None
    assert due(state) == []


def test_state_is_there_after_a_restart(state: PartitionState, store: PartitionStore) -> None:
    fold(state, key(1_000), key(3_000), count=4)
    move(state, 2_000, 500)
    again = PartitionState(store, cached=3)
    assert not again.is_new
    assert again.record == PartitionRecord(watermark=2_000, floor=500)
    assert again.stored(key(1_000)) == aggregate(4).encode()
    assert due(again) == [key(1_000)]
    assert again.newest_end() == 3_000


def test_the_record_is_part_of_every_transaction() -> None:
    record = PartitionRecord(watermark=9)
    transaction = Transaction(changes={key(1_000): b"x", key(2_000): None}, record=record)
    assert changelog_of(transaction) == {key(1_000): b"x", key(2_000): None, PARTITION_RECORD_KEY: record.encode()}


def test_what_is_persisted_and_not_applied_yet_moves_nothing(state: PartitionState) -> None:
    """The store is written in another thread; the rest follows once that has worked."""
    state.persist(Transaction(changes={}, record=PartitionRecord(watermark=9)), AT)
    assert state.record == PartitionRecord()


def test_a_store_that_refuses_leaves_the_state_as_it_was(state: PartitionState, store: PartitionStore) -> None:
    (before,) = fold(state, key(1_000))
    store.close()
    with pytest.raises(StateError):
        fold(state, key(1_000), count=2)
    assert state.stored(key(1_000)) is before


# -- the close schedule --------------------------------------------------------------------------------------------


# watermark                    |3,000
# windows     ]1,000   ]2,000  ]3,000   ]4,000
def test_due_is_what_ends_at_or_before_the_watermark(state: PartitionState) -> None:
    fold(state, key(4_000), key(3_000), key(1_000, "zoe"), key(2_000, "bob"))
    assert due(state) == []
    move(state, 3_000)
    assert due(state) == [key(1_000, "zoe"), key(2_000, "bob"), key(3_000)]


def test_what_was_taken_is_not_given_out_again(state: PartitionState) -> None:
    fold(state, *(key(end) for end in (1_000, 2_000, 3_000, 4_000)))
    move(state, 3_000)
    assert due(state, 2) == [key(1_000), key(2_000)]
    assert due(state, 2) == [key(3_000)]
    assert due(state, 2) == []
    move(state, 4_000)
    assert due(state, 2) == [key(4_000)]


# cursor           1,000 -> 3,000|
# written            2,000]                then 1,500] and 2,500]
def test_a_write_behind_the_cursor_is_given_out(state: PartitionState) -> None:
    fold(state, key(1_000), key(3_000))
    move(state, 3_000)
    assert due(state) == [key(1_000), key(3_000)]
    fold(state, key(2_000))
    assert due(state) == [key(2_000), key(3_000)]
    fold(state, key(2_500), key(1_500))
    assert due(state, 1) == [key(1_500)]
    assert due(state, 1) == [key(2_000)]


def test_a_window_that_changes_after_it_was_taken_is_given_out_as_it_is_now(state: PartitionState) -> None:
    fold(state, key(1_000))
    move(state, 3_000)
    assert state.take_due(9) == [(key(1_000), aggregate(1).encode())]
    fold(state, key(1_000), count=2)
    assert state.take_due(9) == [(key(1_000), aggregate(2).encode())]


def test_what_was_taken_is_known_until_it_changes(store: PartitionStore, state: PartitionState) -> None:
    fold(state, key(1_000), key(2_000), key(3_000))
    move(state, 3_000)
    assert len(due(state)) == 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "get", lambda key: pytest.fail("the store was asked for what is known"))
        assert state.stored(key(1_000)) == state.stored(key(3_000)) == aggregate(1).encode()
    fold(state, key(1_000), count=2)
    write(state, {key(2_000): None, closed(2_000): b"x"})
    assert [state.stored(key(end)) for end in (1_000, 2_000, 3_000)] == [
        aggregate(2).encode(),
        None,
        aggregate(1).encode(),
    ]


def test_a_write_before_the_cursor_was_ever_moved_changes_nothing(state: PartitionState) -> None:
    move(state, 3_000)
    for end in (2_000, 1_000, 3_000):
        fold(state, key(end))
    assert due(state) == [key(1_000), key(2_000), key(3_000)]


def test_closing_does_not_move_the_cursor_back(state: PartitionState) -> None:
    """Neither a deleted open window nor a written closed one is due."""
    fold(state, key(1_000), key(2_000))
    move(state, 3_000)
    due(state)
    write(state, {key(1_000): None, closed(1_000): b"kept"})
    assert due(state) == []


def test_a_write_ahead_of_the_cursor_does_not_move_it(state: PartitionState) -> None:
    fold(state, key(1_000))
    move(state, 3_000)
    assert due(state) == [key(1_000)]
    fold(state, key(2_000))
    assert due(state) == [key(2_000)]


def test_what_is_put_back_is_given_out_again(state: PartitionState) -> None:
    fold(state, key(1_000), key(2_000), key(3_000))
    move(state, 3_000)
    due(state)
    state.put_back([key(3_000), key(2_000)])
    assert due(state) == [key(2_000), key(3_000)]
    state.put_back([])
    assert due(state) == []


def test_what_is_put_back_ahead_of_the_cursor_does_not_move_it(state: PartitionState) -> None:
    fold(state, key(1_000), key(2_000))
    move(state, 3_000)
    assert due(state, 1) == [key(1_000)]
    state.put_back([key(2_000)])
    state.put_back([key(9_000)])
    assert due(state) == [key(2_000)]


def test_what_is_put_back_and_gone_is_not_given_out(state: PartitionState) -> None:
    fold(state, key(1_000), key(2_000))
    move(state, 3_000)
    due(state)
    write(state, {key(1_000): None})
    state.put_back([key(1_000)])
    assert due(state) == [key(2_000)]


# floor                    |2,000                       |3,000
# closed    ]1,000  ]2,000   ]3,000  ]4,000
def test_expired_is_what_was_closed_and_ends_at_or_below_the_floor(state: PartitionState) -> None:
    write(state, dict.fromkeys([closed(end) for end in (1_000, 2_000, 3_000, 4_000)], b"x"))
    fold(state, key(1_000))
    assert state.take_expired(9) == []
    move(state, 9_000, floor=2_000)
    assert state.take_expired(1) == [closed(1_000)]
    assert state.take_expired(9) == [closed(2_000)]
    assert state.take_expired(9) == [], "each is given out once"
    move(state, 9_000, floor=3_000)
    assert state.take_expired(9) == [closed(3_000)]


def test_the_newest_end_is_that_of_an_open_window(state: PartitionState) -> None:
    fold(state, key(1_000), key(2_000))
    write(state, {closed(5_000): b"x"})
    assert state.newest_end() == 2_000
    write(state, {key(2_000): None})
    assert state.newest_end() == 1_000
    write(state, {key(1_000): None})
    assert state.newest_end() is None


def test_the_open_windows_of_an_agent_are_those_committed(state: PartitionState) -> None:
    fold(state, key(2_000), key(1_000), key(1_000, "bob"))
    assert state.open_windows_of("ann") == [(key(end), aggregate().encode()) for end in (1_000, 2_000)]


# -- the cache -----------------------------------------------------------------------------------------------------


def test_what_a_fold_changed_is_kept_in_memory(state: PartitionState) -> None:
    (mine,) = fold(state, key(1_000))
    assert state.stored(key(1_000)) is mine
    (later,) = fold(state, key(1_000), count=2)
    assert state.stored(key(1_000)) is later


def test_no_more_is_kept_than_allowed_and_nothing_is_lost(state: PartitionState) -> None:
    folded = {key(end): fold(state, key(end), count=end)[0] for end in range(1_000, 11_000, 1_000)}
    kept = [each for each, value in folded.items() if state.stored(each) is value]
    assert kept == [key(8_000), key(9_000), key(10_000)]
    for each, value in folded.items():
        assert state.stored(each) == value


def test_one_large_fold_does_not_keep_more_either(state: PartitionState) -> None:
    keys = [key(end) for end in range(1_000, 11_000, 1_000)]
    folded = fold(state, *keys)
    assert sum(state.stored(each) is value for each, value in zip(keys, folded, strict=True)) == 3


def test_a_window_that_was_closed_is_not_kept(state: PartitionState) -> None:
    fold(state, key(1_000))
    write(state, {key(1_000): None, closed(1_000): aggregate(5).encode()})
    assert state.stored(key(1_000)) is None
    assert state.stored(closed(1_000)) == aggregate(5).encode()


# stored    2,000/bob]      then 2,000/zoe]       then 1,000/zoe] closed
def test_the_store_is_not_asked_for_what_is_later_than_all_it_has(store: PartitionStore) -> None:
    fold(PartitionState(store, cached=0), key(2_000, "bob"))
    state = PartitionState(store, cached=0)
    asked: list[bytes] = []
    get = store.get

    def noted(key: bytes) -> bytes | None:
        asked.append(key)
        return get(key)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "get", noted)
        assert state.stored(key(2_000, "bob")) == aggregate().encode()
        assert state.stored(key(2_000, "zoe")) is None
        assert state.stored(key(3_000, "ann")) is None
        assert state.stored(closed(9_000)) is None
        assert asked == [key(2_000, "bob"), closed(9_000)]
        fold(state, key(2_000, "zoe"), count=2)
        fold(state, key(1_000, "zoe"), count=3)
        assert state.stored(key(2_000, "zoe")) == aggregate(2).encode()
        assert state.stored(key(1_000, "zoe")) == aggregate(3).encode()
        write(state, {key(2_000, "zoe"): None})
        assert state.stored(key(2_000, "zoe")) is None


def test_without_a_cache_everything_is_read(store: PartitionStore) -> None:
    state = PartitionState(store, cached=0)
    (mine,) = fold(state, key(1_000), count=6)
    assert state.stored(key(1_000)) is not mine
    assert state.stored(key(1_000)) == aggregate(6).encode()


# -- where reading starts ------------------------------------------------------------------------------------------

TOPICS = Topics("feedback", "feedback-repartition", "aggregates", "late", "dead", "changelog", 8)


def starts(
    store: PartitionStore,
    offsets: dict[str, int] | None,
    *,
    committed: dict[str, int] | None = None,
    firsts: dict[str, int] | None = None,
) -> dict[str, int]:
    """Return where partition 3 is read from, when its record has *offsets* (None: there is no record)."""
    if offsets is not None:
        store.write({PARTITION_RECORD_KEY: PartitionRecord(offsets=offsets).encode()}, AT)
    both = {"feedback": 0, "feedback-repartition": 0} | (firsts or {})
    restored = Restored(records=0, offset=0, wiped="", committed=committed or {}, firsts=both)
    return start_offsets(load_settings(_env_file=None), TOPICS, 3, PartitionState(store, cached=3), restored)


# topic      |10 ................ 100|
# record               17
def test_reading_starts_where_the_record_says(store: PartitionStore) -> None:
    assert starts(store, {"feedback": 17}, firsts={"feedback": 10}) == {
        "feedback": 17,
        "feedback-repartition": 0,
    }


def test_a_new_partition_is_read_from_its_first_record(store: PartitionStore) -> None:
    assert starts(store, None, firsts={"feedback": 10}) == {"feedback": 10, "feedback-repartition": 0}


def test_a_source_topic_that_was_made_anew_is_refused() -> None:
    """Its offsets would mean other records, also where it has grown past the old ones."""
    now = Identities("c", {"feedback": "new", "feedback-repartition": "r"}, tombstones_kept_ms=1)
    with pytest.raises(StateError, match=r"feedback was made anew since it was last read.*new FEEDBACK_APP_ID"):
        refuse_other_topics(PartitionRecord(topic_ids={"feedback": "old", "feedback-repartition": "r"}), now)
    refuse_other_topics(PartitionRecord(topic_ids=now.sources), now)


def test_a_record_that_knows_no_topic_ids_is_taken_as_it_is() -> None:
    """It was written before they were noted, or nothing was read yet."""
    refuse_other_topics(PartitionRecord(offsets={"feedback": 9}), Identities("c", {"feedback": "any"}, 1))


def test_a_group_that_is_not_ahead_is_no_objection(store: PartitionStore) -> None:
    """Its offsets follow, and can expire."""
    expected = {"feedback": 17, "feedback-repartition": 4}
    for committed in (expected, {"feedback": 17}, {"feedback": 16}, {"feedback-repartition": 0}, {}):
        assert starts(store, expected, committed=committed) == expected


def test_a_group_that_is_ahead_is_refused(store: PartitionStore) -> None:
    """What was counted up to there is not in the state."""
    with pytest.raises(StateError, match=r"feedback\[3\]: the group .* has committed offset 18, .* says 17"):
        starts(store, {"feedback": 17}, committed={"feedback": 18})


def test_a_group_without_state_is_refused(store: PartitionStore) -> None:
    """Its changelog is lost: what was counted up to there would be missing."""
    with pytest.raises(StateError, match=r"committed offset 17, but the state says nothing"):
        starts(store, None, committed={"feedback": 17})


# topic          |20 ........ 100|
# record   17
def test_records_that_expired_unread_are_told_and_skipped(
    store: PartitionStore, caplog: pytest.LogCaptureFixture
) -> None:
    assert starts(store, {"feedback": 17}, firsts={"feedback": 20})["feedback"] == 20
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        "feedback[3]: records 17 to 19 expired before they were read"
    ]


def test_records_that_were_trimmed_once_they_were_counted_are_no_loss(
    store: PartitionStore, caplog: pytest.LogCaptureFixture
) -> None:
    firsts = {"feedback-repartition": 20}
    assert starts(store, {"feedback-repartition": 20}, firsts=firsts)["feedback-repartition"] == 20
    assert starts(store, {}, firsts=firsts)["feedback-repartition"] == 20
    assert caplog.records == []
