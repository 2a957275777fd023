"""When a partition looks for windows to close."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from agents import window_close
from agents.pace import Pace
from agents.window_close import Closer
from feedback_app.closing import CloseRules
from feedback_app.core.aggregate import Aggregate
from feedback_app.core.clock import ManualClock
from feedback_app.core.documents import Document
from feedback_app.core.state import OPEN, PartitionRecord, window_key
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.health import Health
from feedback_app.measuring import NO_METER
from feedback_app.settings import Settings
from feedback_app.sinks import Outcome
from feedback_app.sinks.counting import CountingSink
from feedback_app.topics import Topics
from tables.store import PartitionStore
from tests.services.due_partition import DuePartition, NotedSchedule, committing_partition

_RULES = CloseRules(partition=0, aggregates_topic="a", batch_size=100, joint_events=False, split_by_agent=False)
_TOPICS = Topics("feedback", "feedback-repartition", "aggregates", "late", "dead", "changelog", 2)


class Sink(CountingSink):
    """One that tells when it is asked to store something."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = asyncio.Event()
        self.sizes: list[int] = []

    async def upsert_windows(self, documents: Sequence[Document]) -> Outcome:
        self.asked.set()
        self.sizes.append(len(documents))
        return await super().upsert_windows(documents)


async def test_what_becomes_due_is_closed_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the next look, which may be a fifth of a second away."""
    monkeypatch.setattr(window_close, "_LOOK_S", 3_600)
    store, sink = PartitionStore(tmp_path / "store"), Sink()
    key = window_key(OPEN, "agent", 2_000, 1_000)
    schedule = NotedSchedule()
    owned: Any = DuePartition(store, {key: Aggregate().encode()}, PartitionRecord(watermark=1_999), schedule)
    table: Any = None
    closer = Closer(table, sink, ManualClock(0), Health(), Lateness(0, 0), 1 << 40, Pace(), NO_METER)
    closing = asyncio.create_task(closer.run(owned, _RULES))
    async with asyncio.timeout(10):
        await schedule.looked.wait()
    assert not sink.asked.is_set()
    await owned.commit(Transaction({}, PartitionRecord(watermark=2_000)))
    owned.became_due.set()
    async with asyncio.timeout(10):
        await sink.asked.wait()
    closing.cancel()
    await asyncio.wait([closing])
    store.close()


def due_keys(*agents: str) -> list[bytes]:
    return [window_key(OPEN, agent, 2_000, 1_000) for agent in agents]


class Counting(DuePartition):
    """One that counts its commits, and that may be folded once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.waited_for = asyncio.Event()
        super().__init__(*args, **kwargs)
        self.commits = 0

    def __setattr__(self, name: str, value: object) -> None:
        super().__setattr__(name, value)
        if name == "closing":
            self.waited_for.set()

    async def commit(self, transaction: Transaction) -> None:
        self.commits += 1
        await super().commit(transaction)

    async def fold(self) -> None:
        """Have the turn until a pass waits for it, and take that along."""
        async with self.turn:
            await self.waited_for.wait()
            assert self.closing is not None
            fold = Transaction({}, self.state.record)
            closed = self.closing.settle(self.state, fold)
            assert closed is not None
            await self.commit(fold.with_changes_of(closed))
            self.closing.committed = closed


async def test_a_pass_that_a_fold_took_along_is_not_committed_again(tmp_path: Path) -> None:
    store, sink, schedule = PartitionStore(tmp_path / "store"), CountingSink(), NotedSchedule()
    keys = due_keys("ann", "bob", "cat")
    windows = dict.fromkeys(keys, Aggregate().encode())
    owned: Any = Counting(store, windows, PartitionRecord(watermark=2_000), schedule)
    table: Any = None
    closer = Closer(table, sink, ManualClock(0), Health(), Lateness(0, 0), 1 << 40, Pace(), NO_METER)
    folding = asyncio.create_task(owned.fold())
    await asyncio.sleep(0)
    assert owned.turn.locked()
    closing = asyncio.create_task(closer.run(owned, _RULES))
    async with asyncio.timeout(10):
        await folding
        await schedule.looked.wait()
    assert owned.commits == 1
    assert owned.closing is None
    assert [store.get(key) for key in keys] == [None] * 3
    assert schedule.due == 0, "it does not know that they are closed"
    closing.cancel()
    await asyncio.wait([closing])
    store.close()


async def test_a_pass_may_have_many_bulk_writes_and_has_one_transaction(tmp_path: Path) -> None:
    store, sink, schedule = PartitionStore(tmp_path / "store"), Sink(), NotedSchedule()
    windows = dict.fromkeys(due_keys("ann", "bob", "cat"), Aggregate().encode())
    owned: Any = Counting(store, windows, PartitionRecord(watermark=2_000), schedule)
    table: Any = None
    closer = Closer(table, sink, ManualClock(0), Health(), Lateness(0, 0), 1 << 40, Pace(), NO_METER)
    closing = asyncio.create_task(closer.run(owned, replace(_RULES, batch_size=2)))
    async with asyncio.timeout(10):
        await schedule.looked.wait()
    assert sorted(sink.sizes) == [1, 2]
    assert owned.commits == 1
    closing.cancel()
    await asyncio.wait([closing])
    store.close()


# windows     [59_000, 60_000)[60_000, 61_000)[61_000, 62_000)
@pytest.mark.parametrize(
    ("before", "after", "due"),
    [
        (60_000, 60_999, False),
        (60_000, 61_000, True),
        (60_999, 61_000, True),
        (60_500, 63_000, True),
        (60_500, 60_500, False),
        (-1, 60_000, True),
    ],
)
async def test_windows_become_due_when_the_watermark_passes_the_end_of_one(
    monkeypatch: pytest.MonkeyPatch, before: int, after: int, due: bool
) -> None:
    settings = Settings.model_construct(batch_time_ms=1_000)
    owned = committing_partition(monkeypatch, PartitionRecord(watermark=before), settings)
    await owned.commit(Transaction({}, PartitionRecord(watermark=after)))
    assert owned.became_due.is_set() == due
