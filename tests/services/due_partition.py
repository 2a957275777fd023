"""Partitions without a broker: one whose windows are due, for what closes them; and one that only commits."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any, cast

import pytest

import tables.partition
from feedback_app.closing import Closing
from feedback_app.core.clock import SystemClock
from feedback_app.core.state import PARTITION_RECORD_KEY, PartitionRecord
from feedback_app.core.transaction import Transaction
from feedback_app.liveness import Liveness
from feedback_app.measuring import NO_METER
from feedback_app.provisioning import Identities
from feedback_app.settings import Settings
from feedback_app.topics import Topics
from feedback_app.tracing import NO_SPAN, NO_TRACER, Span, Tracer
from tables.partition import OwnedPartition
from tables.schedule import Schedule
from tables.state import PartitionState
from tables.store import PartitionStore, Position


class NotedSchedule(Schedule):
    """Tells when nothing is left to close, and when a window is held back."""

    def __init__(self) -> None:
        super().__init__()
        self.looked = asyncio.Event()
        self.held_back = asyncio.Event()

    def passed(self, *, held: int, caught_up: bool) -> None:
        super().passed(held=held, caught_up=caught_up)
        if caught_up:
            self.looked.set()
        if held:
            self.held_back.set()


class DuePartition:
    """A partition on a real store, and without a broker.

    Args:
        store: an empty one.
        windows: keys and values of its open windows.
        record: says which of them are due.
    """

    closing: Closing | None = None

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


class _Producer:
    """Ends every transaction in one way."""

    def __init__(self, error: BaseException | None) -> None:
        self._error = error

    async def run(self, call: object) -> None:
        if self._error is not None:
            raise self._error


class _State:
    """Takes everything."""

    def __init__(self, record: PartitionRecord) -> None:
        self.record = record

    def apply(self, transaction: Transaction) -> None:
        self.record = transaction.record


def committing_partition(
    monkeypatch: pytest.MonkeyPatch,
    record: PartitionRecord,
    settings: Settings,
    *,
    error: BaseException | None = None,
    tracer: Tracer = NO_TRACER,
) -> OwnedPartition:
    """Return partition 3 after *record*; every commit of it ends with *error*, if there is one."""
    monkeypatch.setattr(tables.partition, "TransactionalProducer", lambda *_, **__: _Producer(error))
    owned = OwnedPartition(
        settings,
        Topics.of(settings),
        3,
        clock=SystemClock(),
        identities=cast(Identities, None),
        cached=1,
        liveness=Liveness(),
        meter=NO_METER,
        tracer=tracer,
    )
    owned._state = cast(Any, _State(record))
    return owned
