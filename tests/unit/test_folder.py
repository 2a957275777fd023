"""When a fold goes on with the next batch, and when it is committed."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from itertools import count, islice
from types import SimpleNamespace
from typing import Any, cast

import pytest

from agents import feedback
from agents.feedback import Folder
from agents.pace import Pace
from feedback_app.closing import CloseRules, Closing, plan
from feedback_app.core.aggregate import Aggregate
from feedback_app.core.clock import SystemClock
from feedback_app.core.state import OPEN, Changes, PartitionRecord, closed_key, window_key
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.errors import Aborted
from feedback_app.folding import FoldRules
from feedback_app.health import Health
from feedback_app.measuring import NO_METER
from feedback_app.sinks.counting import CountingSink
from feedback_app.topics import Topics
from feedback_app.transport.readers import Messages
from feedback_app.transport.source import Batch

TOPICS = Topics("feedback", "feedback-repartition", "aggregates", "late", "dead", "changelog", 1)
RULES = FoldRules(0, lambda agent_id: 0, TOPICS, 1_000, Lateness(0, 1_000), 1 << 60, keep_items=False)
CLOSE_RULES = CloseRules(0, TOPICS.aggregates, 100, joint_events=False, split_by_agent=False)


class Record:
    """As confluent-kafka's ``Message``, as far as a fold looks at it."""

    def __init__(self, offset: int) -> None:
        self._offset = offset

    def topic(self) -> str:
        return TOPICS.feedback

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def timestamp(self) -> tuple[int, int]:
        return (2, 0)

    def value(self) -> bytes:
        agent = self._offset % 7
        return b'{"feedbackId":"f","agentId":"a%d","userId":"u","rating":"neutral","timestamp":5}' % agent


class Owned:
    """A partition that remembers what was committed; of the commits, as they are counted from 0, *aborts* fail."""

    def __init__(self, *batches: Batch, aborts: Iterable[int] = ()) -> None:
        self.turn = asyncio.Lock()
        self.folding = False
        self.closing: Closing | None = None
        self.silent_since_ms = 0
        self.state = SimpleNamespace(record=PartitionRecord(), stored=lambda key: None)
        self.inbox: asyncio.Queue[Batch] = asyncio.Queue()
        for batch in batches:
            self.inbox.put_nowait(batch)
        self.committed: list[int] = []
        self.changes: list[Changes] = []
        self.first_commit = asyncio.Event()
        self._attempts = count()
        self._aborts = set(aborts)

    async def commit(self, transaction: Transaction) -> None:
        if next(self._attempts) in self._aborts:
            raise Aborted("aborted on purpose")
        self.committed.append(transaction.record.offsets[TOPICS.feedback])
        self.changes.append(transaction.changes)
        self.first_commit.set()


class Table:
    """What a folder asks of the table: *slowly* come one by one, each some time after it was asked for."""

    def __init__(self, owned: Owned, slowly: Iterable[Batch] = (), again: Iterable[Batch] = ()) -> None:
        self.asked: list[int] = []
        self.closed_when_aborted: list[Transaction | None] = []
        self._owned = owned
        self._slowly = iter(slowly)
        self._again = again

    def ask_for_more(self, batch: Batch) -> None:
        self.asked.append(batch.end)
        for following in islice(self._slowly, 1):
            asyncio.get_running_loop().call_later(0.05, self._owned.inbox.put_nowait, following)

    def read_again(self, owned: Owned) -> None:
        self.closed_when_aborted.append(owned.closing.committed if owned.closing else None)
        for batch in self._again:
            owned.inbox.put_nowait(batch)


def batch(start: int, size: int, *, behind: int) -> Batch:
    records = Messages(cast(Any, Record(offset)) for offset in range(start, start + size))
    return Batch(TOPICS.feedback, 0, start, start + size, records, behind)


def batches(*sizes: int) -> list[Batch]:
    """Batches that follow each other; the last one is the end of the topic."""
    starts = [sum(sizes[:number]) for number in range(len(sizes))]
    return [batch(start, size, behind=sum(sizes) - start - size) for start, size in zip(starts, sizes, strict=True)]


def folder_of(table: Table) -> Folder:
    return Folder(cast(Any, table), CountingSink(), SystemClock(), Health(), Pace(), NO_METER, fold_records=lambda: 100)


async def run(owned: Owned, until: Sequence[int], table: Table | None = None) -> Table:
    """Let a folder work until *until* was committed."""
    table = table or Table(owned)
    folder = folder_of(table)
    task = asyncio.create_task(folder.run(cast(Any, owned), RULES))
    try:
        async with asyncio.timeout(10):
            while owned.committed != list(until):
                assert owned.committed == list(until)[: len(owned.committed)]
                await asyncio.sleep(0.001)
    finally:
        task.cancel()
    return table


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "SLICE", 10)
    monkeypatch.setattr(feedback, "_FOLD_S", 5.0)


def test_folds_that_begin_together_do_not_end_together() -> None:
    folder = Folder(cast(Any, None), CountingSink(), SystemClock(), Health(), Pace(), NO_METER)
    sizes = [folder.fold_records() for _ in range(100)]
    assert max(sizes) - min(sizes) > 10_000
    assert max(sizes) <= 25_000


async def test_batches_that_are_there_become_one_transaction() -> None:
    table = await run(Owned(*batches(30, 30, 30)), [90])
    assert table.asked == [30, 60, 90], "each batch makes room for the next as soon as it is decoded"


async def test_a_fold_that_is_large_enough_is_committed() -> None:
    await run(Owned(*batches(60, 60, 60)), [120, 180])


# batches          |---- 30 ----|-- 15 --|
# slices of ten    |   |   |    |   |    |   each with seven windows
async def test_a_fold_that_holds_much_is_committed_in_the_middle_of_a_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "_FOLD_HOLDS", 7)
    owned = Owned(*batches(30, 15))
    table = await run(owned, [10, 20, 30, 40, 45])
    assert table.asked == [30, 45], "no more is asked for before a batch is done with"


async def test_a_partition_is_being_folded_for_as_long_as_some_of_a_batch_is_left(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else the wall clock would close its windows before the rest is counted."""
    monkeypatch.setattr(feedback, "_FOLD_HOLDS", 7)
    noted: list[tuple[str, Any]] = []

    class Noting(Owned):
        def __setattr__(self, name: str, value: Any) -> None:
            noted.append((name, value))
            super().__setattr__(name, value)

    owned = Noting(*batches(30))
    await run(owned, [10, 20, 30])
    assert [value for name, value in noted if name == "folding"] == [False, True, True, True, True, True, False]


# batches     |---- 30 ----|
# aborted         ^ at 20: the rest is read again too
async def test_what_is_left_of_a_batch_is_dropped_when_the_fold_is_aborted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "_FOLD_HOLDS", 7)
    owned = Owned(*batches(30), aborts=[1])
    table = await run(owned, [10, 20, 30], Table(owned, again=[batch(10, 20, behind=0)]))
    assert len(table.closed_when_aborted) == 1


async def test_a_batch_that_is_on_its_way_is_waited_for() -> None:
    first, second = batches(30, 30)
    owned = Owned(first)
    asyncio.get_running_loop().call_later(0.1, owned.inbox.put_nowait, second)
    await run(owned, [60])


async def test_a_batch_that_does_not_come_is_not_waited_for_any_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "_FOLD_S", 0.01)
    first, _ = batches(30, 30)
    await run(Owned(first), [30])


async def test_batches_that_come_one_by_one_are_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feedback, "_FOLD_S", 0.3)
    first, *others = batches(*[10] * 40)
    owned = Owned(first)
    folder = Folder(cast(Any, Table(owned, others)), CountingSink(), SystemClock(), Health(), Pace(), NO_METER)
    task = asyncio.create_task(folder.run(cast(Any, owned), RULES))
    try:
        async with asyncio.timeout(10):
            await owned.first_commit.wait()
    finally:
        task.cancel()
    assert owned.committed[0] < 400, "all of them, which take two seconds to come"


@pytest.mark.parametrize("behind", [0, 9])
async def test_nothing_is_waited_for_at_the_end_or_when_traffic_comes_in_drops(behind: int) -> None:
    owned = Owned(batch(0, 30, behind=behind))
    async with asyncio.timeout(2):  # less than a batch would be waited for
        await run(owned, [30])


async def test_a_small_batch_of_a_backlog_does_not_end_a_fold() -> None:
    await run(Owned(batch(0, 1, behind=30), batch(1, 30, behind=0)), [31])


def key_of(agent: str) -> bytes:
    return window_key(OPEN, agent, 1_000, 1_000)


# batches     |--30--|--30--|
# full pass   waits  ^ taken along
async def test_a_full_close_pass_that_waits_ends_the_fold_after_the_batch() -> None:
    owned = Owned(*batches(30, 30))
    owned.closing = Closing([], [], CLOSE_RULES, full=True)
    await run(owned, [30, 60])


# fold                     counts a0 to a6
# pass that waits    a3, z
# transaction        a0 to a6, and z closed: a3 has changed since its document was built
async def test_a_fold_takes_a_close_pass_along() -> None:
    owned = Owned(*batches(30))
    values = {key_of(agent): Aggregate().encode() for agent in ("a3", "z")}
    owned.state.stored = values.get
    stored, _ = plan(list(values.items()))
    closing = owned.closing = Closing(stored, [], CLOSE_RULES)
    await run(owned, [30])
    (changes,) = owned.changes
    assert {key for key, value in changes.items() if value is None} == {key_of("z")}
    assert changes[closed_key(key_of("z"))] == values[key_of("z")]
    assert changes[key_of("a3")] not in (None, values[key_of("a3")]), "it was counted into"
    assert closed_key(key_of("a3")) not in changes
    assert closing.committed is not None
    assert closing.committed.changes.keys() == {key_of("z"), closed_key(key_of("z"))}


async def test_a_close_pass_is_not_done_when_the_fold_that_takes_it_along_is_aborted() -> None:
    owned = Owned(*batches(30), aborts=[0])
    key = key_of("z")
    owned.state.stored = {key: Aggregate().encode()}.get
    stored, _ = plan([(key, Aggregate().encode())])
    owned.closing = Closing(stored, [], CLOSE_RULES)
    table = await run(owned, [30], Table(owned, again=batches(30)))
    assert table.closed_when_aborted == [None]
    assert owned.closing.committed is not None


async def test_what_was_aborted_is_read_again() -> None:
    owned = Owned(*batches(30), aborts=[0])
    await run(owned, [30], Table(owned, again=batches(30)))
