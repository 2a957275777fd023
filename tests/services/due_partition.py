"""A partition whose windows are due, for what closes them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from feedback_app.core.state import PARTITION_RECORD_KEY, PartitionRecord
from feedback_app.core.transaction import Transaction
from feedback_app.tracing import NO_SPAN, Span
from tables.schedule import Schedule
from tables.state import PartitionState
from tables.store import PartitionStore, Position


class DuePartition:
    """A partition on a real store, and without a broker.

    Args:
        store: an empty one.
        windows: keys and values of its open windows.
        record: says which of them are due.
    """

    turn_wanted = False

    def __init__(
        self,
        store: PartitionStore,
        windows: Mapping[bytes, bytes],
        record: PartitionRecord,
        schedule: Schedule | None = None,
        *,
        partition: int = 0,
        silent_since_ms: int = 0,
    ) -> None:
        store.write({**windows, PARTITION_RECORD_KEY: record.encode()}, Position(1, 0, "topic"))
        self.partition = partition
        self.silent_since_ms = silent_since_ms
        self.state = PartitionState(store, 10)
        self.schedule = schedule or Schedule()
        self.turn = asyncio.Lock()
        self.became_due = asyncio.Event()
        self.last_fold: Span = NO_SPAN

    async def commit(self, transaction: Transaction) -> None:
        self.state.persist(transaction, Position(2, 0, "topic"))
        self.state.apply(transaction)
