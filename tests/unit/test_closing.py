"""What closing writes, and that no window is ever started anew over a document that exists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from feedback_app.closing import MAX_EVENT_BYTES, CloseRules, Closing, DueWindow, bulks, plan
from feedback_app.core.aggregate import MAX_TAGS, Aggregate
from feedback_app.core.documents import aggregated_event, encode_event, window_document
from feedback_app.core.events import Event
from feedback_app.core.state import CLOSED, OPEN, PartitionRecord, end_of, window_key
from feedback_app.core.transaction import Send, Transaction
from feedback_app.core.windows import Window

SIZE = 1_000
HYBRID = CloseRules(3, "aggregates", batch_size=4, joint_events=False, split_by_agent=False)
AGENT = replace(HYBRID, split_by_agent=True)
GLOBAL = replace(HYBRID, joint_events=True)


@dataclass
class State:
    """A partition's committed state, in memory."""

    record: PartitionRecord
    values: dict[bytes, bytes] = field(default_factory=dict)

    def stored(self, key: bytes) -> bytes | None:
        return self.values.get(key)

    def apply(self, transaction: Transaction) -> None:
        self.record = transaction.record
        for key, value in transaction.changes.items():
            if value is None:
                self.values.pop(key, None)
            else:
                self.values[key] = value


def counted(count: int = 1, revision: int = 0, tags: Iterable[str] = ()) -> Aggregate:
    aggregate = Aggregate()
    event = Event("f", "ann", "u", "positive", 500, tags=list(tags))
    for _ in range(count):
        aggregate.add(event, 500, 1)
    aggregate.revision = revision
    return aggregate


def open_key(end: int, agent: str = "ann") -> bytes:
    return window_key(OPEN, agent, end, SIZE)


def closed_key(end: int, agent: str = "ann") -> bytes:
    return window_key(CLOSED, agent, end, SIZE)


def state_with(*windows: bytes, floor: int = -1, closed: Iterable[bytes] = ()) -> State:
    """State in which everything is due."""
    values = dict.fromkeys(windows, counted().encode()) | dict.fromkeys(closed, counted().encode())
    return State(PartitionRecord(watermark=10**9, floor=floor, offsets={"feedback": 5}), values)


def due_windows(state: State) -> list[DueWindow]:
    windows, _ = plan(open_windows(state))
    return windows


def open_windows(state: State) -> list[tuple[bytes, bytes]]:
    return sorted((key, value) for key, value in state.values.items() if key.startswith(OPEN))


def close(state: State, expired: Sequence[bytes] = (), rules: CloseRules = HYBRID) -> Transaction:
    """Close all that is open."""
    transaction = Closing(due_windows(state), expired, rules).settle(state)
    assert transaction is not None
    return transaction


# -- the bulk writes -----------------------------------------------------------------------------------------------


def test_a_plan_has_the_document_of_each_window() -> None:
    planned = plan([(open_key(2_000), counted(3, revision=1).encode())])
    window = Window("ann", 1_000, SIZE)
    document = window_document(window, counted(3, revision=1))
    event = encode_event(aggregated_event(window, document))
    assert planned == ([DueWindow(open_key(2_000), counted(3, revision=1).encode(), event)], [document])


# key order     ann 1,000   bob 1,000   ann 2,000   cat 2,000
# global        [------------------------------------------]
# agent         [ann ..................... ann] [bob] [cat]
@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (HYBRID, [["ann|0|1000", "bob|0|1000", "ann|1000|1000", "cat|1000|1000"]]),
        (GLOBAL, [["ann|0|1000", "bob|0|1000", "ann|1000|1000", "cat|1000|1000"]]),
        (AGENT, [["ann|0|1000", "ann|1000|1000"], ["bob|0|1000"], ["cat|1000|1000"]]),
        (replace(HYBRID, batch_size=3), [["ann|0|1000", "bob|0|1000", "ann|1000|1000"], ["cat|1000|1000"]]),
        (replace(AGENT, batch_size=1), [["ann|0|1000"], ["ann|1000|1000"], ["bob|0|1000"], ["cat|1000|1000"]]),
    ],
)
def test_bulk_writes_go_across_agents_or_one_for_each(rules: CloseRules, expected: list[list[str]]) -> None:
    state = state_with(open_key(1_000), open_key(1_000, "bob"), open_key(2_000), open_key(2_000, "cat"))
    _, planned = plan(open_windows(state))
    written = bulks(planned, rules)
    assert [[document["_id"] for document in documents] for documents in written] == expected


@pytest.mark.parametrize("rules", [HYBRID, GLOBAL, AGENT])
def test_without_windows_there_are_no_bulk_writes(rules: CloseRules) -> None:
    assert bulks([], rules) == []


# -- the transaction -----------------------------------------------------------------------------------------------


# floor        |1,000
# windows      ]1,000   ]2,000
# closed                 kept
def test_a_closed_window_is_kept_above_the_floor_and_not_below() -> None:
    state = state_with(open_key(1_000), open_key(1_001), open_key(2_000), floor=1_000)
    assert close(state).changes == {
        open_key(1_000): None,
        open_key(1_001): None,
        closed_key(1_001): counted().encode(),
        open_key(2_000): None,
        closed_key(2_000): counted().encode(),
    }


def test_a_window_that_was_reopened_replaces_its_closed_record() -> None:
    state = state_with(floor=1_000)
    state.values = {open_key(2_000): counted(5, revision=1).encode(), closed_key(2_000): counted(4).encode()}
    transaction = close(state)
    assert transaction.changes == {open_key(2_000): None, closed_key(2_000): counted(5, revision=1).encode()}
    assert orjson.loads(transaction.sends[0].value or b"")["revision"] == 1


def test_a_window_that_was_reopened_and_is_final_now_leaves_no_closed_record() -> None:
    state = state_with(open_key(2_000), floor=2_000, closed=[closed_key(2_000)])
    assert close(state).changes == {open_key(2_000): None, closed_key(2_000): None}


def test_a_window_that_changed_since_its_document_was_built_stays_due() -> None:
    state = state_with(open_key(1_000), open_key(2_000))
    stored = due_windows(state)
    state.values[open_key(1_000)] = counted(2).encode()
    transaction = Closing(stored, [], HYBRID).settle(state)
    assert transaction is not None
    assert transaction.changes == {open_key(2_000): None, closed_key(2_000): counted().encode()}
    assert [orjson.loads(send.value or b"")["_id"] for send in transaction.sends] == ["ann|1000|1000"]


def test_a_window_that_is_gone_is_not_closed_again() -> None:
    state = state_with(open_key(1_000))
    stored = due_windows(state)
    state.apply(close(state))
    assert Closing(stored, [], HYBRID).settle(state) is None


# close   1,000   2,000      both are stored
# fold    1,000   3,000      in the same transaction
def test_a_window_that_the_fold_counts_into_which_takes_the_pass_along_stays_due() -> None:
    state = state_with(open_key(1_000), open_key(2_000))
    fold = Transaction(
        {open_key(1_000): counted(2).encode(), open_key(3_000): counted().encode()},
        replace(state.record, offsets={"feedback": 9}),
        [Send("late", 3, None, b"late")],
    )
    closed = Closing(due_windows(state), [], HYBRID).settle(state, fold)
    assert closed is not None
    assert closed.changes == {open_key(2_000): None, closed_key(2_000): counted().encode()}
    joint = fold.with_changes_of(closed)
    assert joint.changes == fold.changes | closed.changes
    assert joint.record == fold.record
    assert joint.sends == fold.sends + closed.sends


def test_what_the_database_did_not_store_stays_due() -> None:
    state = state_with(open_key(1_000), open_key(2_000))
    transaction = Closing(due_windows(state)[1:], [], HYBRID).settle(state)
    assert transaction is not None
    assert open_key(1_000) not in transaction.changes


# floor             |2,000
# closed    ]1,000  ]2,000  ]2,001
#           dropped dropped  kept
def test_closed_records_at_or_below_the_floor_are_dropped() -> None:
    closed = [closed_key(1_000), closed_key(2_000), closed_key(2_001)]
    state = state_with(floor=2_000, closed=closed)
    transaction = Closing([], closed, HYBRID).settle(state)
    assert transaction is not None
    assert transaction.changes == {closed_key(1_000): None, closed_key(2_000): None}
    assert transaction.sends == []


def test_nothing_to_do_is_no_transaction() -> None:
    state = state_with(open_key(1_000), floor=2_000, closed=[closed_key(2_001)])
    assert Closing([], [], HYBRID).settle(state) is None
    assert Closing([], [closed_key(2_001)], HYBRID).settle(state) is None


def test_closing_moves_neither_the_record_nor_the_source_offsets() -> None:
    state = state_with(open_key(1_000), floor=500)
    transaction = close(state)
    assert transaction.record == state.record


_ENDS = st.sets(st.integers(1, 8).map(lambda number: number * SIZE), max_size=8)


@hypothesis_settings(deadline=None)
@given(_ENDS, _ENDS, _ENDS, st.integers(-1, 9 * SIZE), st.data())
def test_a_closed_window_is_always_known_or_final(
    opened: set[int], closed: set[int], changed: set[int], floor: int, data: st.DataObject
) -> None:
    """For each document that exists: its window is open, or has a closed record, or its events are late for good."""
    state = state_with(*map(open_key, opened), floor=floor, closed=map(closed_key, closed))
    stored = due_windows(state)
    for end in opened & changed:
        state.values[open_key(end)] = counted(2).encode()
    expired = data.draw(st.lists(st.sampled_from([closed_key(end) for end in closed]) if closed else st.nothing()))
    transaction = Closing(stored, expired, HYBRID).settle(state)
    if transaction is not None:
        state.apply(transaction)
    for end in opened | closed:
        assert open_key(end) in state.values or closed_key(end) in state.values or end <= floor
    assert {end for end in opened if open_key(end) in state.values} == opened & changed
    for key in expired:
        assert (key in state.values) == (end_of(key) > floor)


# -- the aggregated events -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("rules", [HYBRID, AGENT])
def test_each_window_has_an_event_of_its_own(rules: CloseRules) -> None:
    state = state_with(open_key(1_000, "bob"), open_key(2_000, "änn"))
    sends = close(state, rules=rules).sends
    assert [(send.topic, send.partition, send.key, send.headers) for send in sends] == [
        ("aggregates", 3, b"bob", ()),
        ("aggregates", 3, "änn".encode(), ()),
    ]
    events = [orjson.loads(send.value or b"") for send in sends]
    assert [event["eventId"] for event in events] == ["bob:0:1000:0", "änn:1000:1000:0"]
    assert events[0] == orjson.loads(
        orjson.dumps(window_document(Window("bob", 0, SIZE), counted()), option=orjson.OPT_UTC_Z)
    ) | {"eventId": "bob:0:1000:0"}
    assert "closedAt" not in events[0]


def test_the_global_mode_lists_the_windows_of_a_transaction_in_one_event() -> None:
    state = state_with(open_key(1_000, "bob"), open_key(2_000))
    one_by_one = [orjson.loads(send.value or b"") for send in close(state, rules=HYBRID).sends]
    (send,) = close(state, rules=GLOBAL).sends
    assert (send.topic, send.partition, send.key) == ("aggregates", 3, b"3")
    assert orjson.loads(send.value or b"") == {"partition": 3, "windows": one_by_one}


def test_a_transaction_without_closed_windows_has_no_event_in_the_global_mode() -> None:
    state = state_with(floor=2_000, closed=[closed_key(1_000)])
    assert close(state, [closed_key(1_000)], GLOBAL).sends == []


def windows_of(send: Send) -> list[dict[str, Any]]:
    windows: list[dict[str, Any]] = orjson.loads(send.value or b"")["windows"]
    return windows


def test_a_joint_event_is_split_below_the_brokers_limit() -> None:
    long_tags = [f"{number:02}" + "\x01" * 30 for number in range(MAX_TAGS)]  # six bytes a character in JSON
    large = counted(tags=long_tags).encode()
    agents = [f"{number:0>128}" for number in range(400)]
    state = state_with()
    state.values = {open_key(1_000, agent): large for agent in agents}
    sends = close(state, rules=GLOBAL).sends
    sizes = [len(send.value or b"") for send in sends]
    assert sum(sizes) > 2 * MAX_EVENT_BYTES
    assert max(sizes) < MAX_EVENT_BYTES + 100
    # No event could have taken the first window of the next one.
    for send, following in pairwise(sends):
        first = orjson.dumps(windows_of(following)[0])
        assert len(send.value or b"") + len(first) > MAX_EVENT_BYTES
    assert [window["agentId"] for send in sends for window in windows_of(send)] == agents
    assert {(send.key, send.partition) for send in sends} == {(b"3", 3)}


def test_a_window_that_is_too_large_by_itself_stands_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("feedback_app.closing.MAX_EVENT_BYTES", 10)
    state = state_with(open_key(1_000), open_key(1_000, "bob"))
    assert [len(windows_of(send)) for send in close(state, rules=GLOBAL).sends] == [1, 1]
