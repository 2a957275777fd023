"""What the compiled part knows of windows without asking is what it would be told."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import orjson
import pytest

from feedback_app import compiled
from feedback_app.closing import CloseRules, Closing, plan
from feedback_app.core.counts import Counts, MakeCounts
from feedback_app.core.partitioning import partitioner
from feedback_app.core.state import agent_of
from feedback_app.core.transaction import Transaction
from feedback_app.core.watermark import Lateness
from feedback_app.folding import Fold
from feedback_app.models import decode
from tables.state import PartitionState
from tables.store import PartitionStore, Position
from tests.fuzz.corpus import NASTY_TEXTS, valid
from tests.fuzz.harness import NOW_MS, RULES, Record
from tests.services.compiled import is_installed

_SIZE = 1_000
_RULES = replace(RULES, keep_items=False, window_size=_SIZE, lateness=Lateness(500, 3_000), max_future_ms=1 << 40)
_CLOSE = CloseRules(partition=0, aggregates_topic="a", batch_size=100, joint_events=False, split_by_agent=False)
_HOME = partitioner(2)
_AGENTS = [*(f"agent-{'x' * (number % 5)}{number}" for number in range(30)), *(text for text in NASTY_TEXTS if text)]


class Partition:
    """A partition that is folded and closed in one way."""

    def __init__(self, path: Path, counts: MakeCounts, cached: int) -> None:
        self._store = PartitionStore(path)
        self._cached = cached
        self.reopen()
        self._offset = 0
        self.asked = 0
        self._rules = replace(_RULES, counts=self._noting(counts))

    def _noting(self, counts: MakeCounts) -> MakeCounts:
        def make(open_window: Callable[[bytes], bytes | None], *others: Any) -> Any:
            def noted(key: bytes) -> bytes | None:
                self.asked += _HOME(agent_of(key)) == 0
                return open_window(key)

            return counts(noted, *others)

        return make

    def fold(self, values: list[bytes]) -> Transaction:
        fold = Fold(self._state, self._rules, NOW_MS)
        fold.add("feedback", 0, [Record(value, self._offset + index) for index, value in enumerate(values)], decode)
        self._offset += len(values)
        return self._commit(fold.transaction())

    def close(self) -> Transaction | None:
        windows, _ = plan(self._state.take_due(1_000))
        transaction = Closing(windows, self._state.take_expired(1_000), _CLOSE).settle(self._state)
        return None if transaction is None else self._commit(transaction)

    def _commit(self, transaction: Transaction) -> Transaction:
        self._state.persist(transaction, Position(1, 0, "topic"))
        self._state.apply(transaction)
        return transaction

    def fall_silent(self, now_ms: int) -> None:
        """Let the clock close every window."""
        record = _RULES.lateness.silent(self._state.record, now_ms, self._state.newest_end())
        self._commit(Transaction({}, record))
        self.close()

    def reopen(self) -> None:
        """Forget what is not stored, as after a restart."""
        self._state = PartitionState(self._store, self._cached)

    def release(self) -> None:
        self._store.close()


@pytest.mark.skipif(not is_installed(), reason="the compiled part is not installed")
@pytest.mark.parametrize("seed", range(8))
def test_folds_and_closes_come_to_the_same(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)
    cached = chance.choice([7, 1_000])
    ways = [Partition(tmp_path / "python", Counts, cached), Partition(tmp_path / "compiled", compiled.counts(), cached)]
    now = NOW_MS
    for _ in range(60):
        values = []
        for _ in range(chance.randrange(1, 40)):
            now += chance.randrange(60)
            # Some are late, and some come when their window is closed, and open it once more.
            timestamp = now - chance.choice([0, 0, 0, 300, 900, 2_500, 6_000])
            values.append(orjson.dumps(valid(timestamp, agentId=chance.choice(_AGENTS))))
        folded, other = [way.fold(values) for way in ways]
        assert folded == other
        if chance.random() < 0.5:
            closed, other_closed = [way.close() for way in ways]
            assert closed == other_closed
        if chance.random() < 0.2:
            for way in ways:
                way.fall_silent(now + 2_000)
                way.reopen()
    for way in ways:
        way.release()
    in_python, asked = (way.asked for way in ways)
    assert asked < in_python, "it takes no shortcut"
