"""Between two slices of work the event loop gets its turn, and however many partitions there are, soon."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import pytest

from agents import feedback, window_close
from agents.feedback import Folder
from agents.pace import Pace
from agents.window_close import Closer
from feedback_app.closing import CloseRules, Closing, plan
from feedback_app.core.aggregate import Aggregate
from feedback_app.core.clock import ManualClock
from feedback_app.core.state import OPEN, PartitionRecord, window_key
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.health import Health
from feedback_app.measuring import NO_METER
from feedback_app.models import decode
from feedback_app.sinks.counting import CountingSink
from tables.store import PartitionStore
from tests.services.due_partition import DuePartition
from tests.unit.test_folder import RULES, Owned, Table, batches

_PARTITIONS = 6
_SLICES = 5
_RULES = CloseRules(partition=0, aggregates_topic="a", batch_size=100, joint_events=False, split_by_agent=False)


class Turns:
    """Counts the turns of the event loop, and what is done in each."""

    def __init__(self) -> None:
        self.done: Counter[int] = Counter()
        self._now = 0
        asyncio.get_running_loop().call_soon(self._next)

    def noting(self, call: Callable[..., Any]) -> Callable[..., Any]:
        """Return *call*, each call of which is noted."""

        def noted(*args: Any) -> Any:
            self.done[self._now] += 1
            return call(*args)

        return noted

    def _next(self) -> None:
        self._now += 1
        asyncio.get_running_loop().call_soon(self._next)


@pytest.mark.parametrize("in_a_turn", [1, 2, 5])
async def test_a_turn_has_no_more_slices_than_it_may(in_a_turn: int) -> None:
    turns, pace = Turns(), Pace(in_a_turn)
    note = turns.noting(lambda: None)

    async def work() -> None:
        for _ in range(_SLICES):
            async with pace.slice():
                note()

    async with asyncio.timeout(10):
        await asyncio.gather(*(work() for _ in range(_PARTITIONS)))
    assert turns.done.total() == _PARTITIONS * _SLICES
    assert max(turns.done.values()) == in_a_turn


async def test_a_slice_that_fails_gives_its_place_back() -> None:
    pace = Pace(1)
    for _ in range(2):
        with pytest.raises(ValueError, match="on purpose"):
            async with pace.slice():
                raise ValueError("on purpose")
    async with asyncio.timeout(10), pace.slice():
        pass


async def test_folds_of_all_partitions_share_the_places(monkeypatch: pytest.MonkeyPatch) -> None:
    turns = Turns()
    monkeypatch.setattr(feedback, "SLICE", 10)
    monkeypatch.setattr(feedback, "decode", turns.noting(decode))
    partitions = [Owned(*batches(10 * _SLICES)) for _ in range(_PARTITIONS)]
    table: Any = Table(partitions[0])
    folder = Folder(table, CountingSink(), ManualClock(0), Health(), Pace(1), NO_METER)
    await until_done([folder.run(cast(Any, owned), RULES) for owned in partitions], partitions)
    assert turns.done.total() == _PARTITIONS * _SLICES
    assert max(turns.done.values()) == 1


async def test_closes_of_all_partitions_share_the_places(
    due_partitions: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns()
    monkeypatch.setattr(window_close, "_SLICE", 1)
    monkeypatch.setattr(window_close, "plan", turns.noting(plan))
    monkeypatch.setattr(Closing, "settle", turns.noting(Closing.settle))
    table: Any = None
    closer = Closer(table, CountingSink(), ManualClock(0), Health(), Lateness(0, 0), 1 << 40, Pace(1), NO_METER)
    works = [closer.run(owned, _RULES) for owned in due_partitions]
    await until_done(works, due_partitions)
    assert turns.done.total() >= _PARTITIONS * (_SLICES + 1)
    assert max(turns.done.values()) == 1
    assert [len(owned.committed) for owned in due_partitions] == [_SLICES] * _PARTITIONS


class Noting(DuePartition):
    """One that notes which windows are closed."""

    def __init__(self, store: PartitionStore) -> None:
        keys = [window_key(OPEN, f"agent-{number}", 2_000, 1_000) for number in range(_SLICES)]
        record = PartitionRecord(watermark=3_000, floor=2_000)
        super().__init__(store, dict.fromkeys(keys, Aggregate().encode()), record)
        self.committed: list[bytes] = []
        self.first_commit = asyncio.Event()

    async def commit(self, transaction: Transaction) -> None:
        await asyncio.sleep(0)
        self.committed += transaction.changes
        await super().commit(transaction)
        self.first_commit.set()


@pytest.fixture
def due_partitions(tmp_path: Path) -> Iterator[list[Noting]]:
    stores = [PartitionStore(tmp_path / str(number)) for number in range(_PARTITIONS)]
    yield [Noting(store) for store in stores]
    for store in stores:
        store.close()


async def until_done(works: Sequence[Coroutine[Any, Any, None]], partitions: Sequence[Any]) -> None:
    """Do all works until each partition has committed; they never end by themselves."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        async with asyncio.timeout(10):
            await asyncio.gather(*(owned.first_commit.wait() for owned in partitions))
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
