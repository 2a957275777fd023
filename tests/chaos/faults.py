"""Faults at named points of the protocol, inside a worker.

They are put in from outside, around the methods that stand for the steps: the product holds no hook, so what nobody
asks for costs nothing. A seam that is renamed fails when it is looked up.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

from agents.feedback import Folder
from feedback_app.errors import Aborted
from feedback_app.folding import Fold
from feedback_app.sinks.mongodb import MongoSink
from feedback_app.transport.transactions import TransactionalProducer
from tables.feedback_windows import FeedbackWindows
from tables.partition import OwnedPartition
from tables.restore import Restorer
from tables.state import PartitionState
from tables.store import PartitionStore

VARIABLE = "CHAOS_FAULTS"


class Point(StrEnum):
    """The steps of the protocol, in their order."""

    FENCED = "fenced, not restored"
    RESTORE = "in a restore"
    FOLD = "in a fold"
    ITEMS = "items stored, not committed"
    FOLD_PRODUCED = "fold produced, not committed"
    FOLD_COMMITTED = "fold committed, not in RocksDB"
    UPSERT = "before the upsert"
    UPSERTED = "after the upsert"
    CLOSE_PRODUCED = "close produced, not committed"
    CLOSE_COMMITTED = "close committed, not in RocksDB"
    HAND_OVER = "in a hand-over"


class Action(StrEnum):
    """What happens there."""

    KILL = "kill"  # SIGKILL
    STOP = "stop"  # SIGSTOP, until somebody sends SIGCONT
    SLEEP = "sleep"
    ABORT = "abort"  # the transaction is aborted, with all that it has produced


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens at a point.

    Attributes:
        at: the first time that it happens, counted from 1.
        every: it happens again each time that the point has been reached so often since; 0: only once.
        seconds: how long a sleep takes.
    """

    action: Action
    point: Point
    at: int = 1
    every: int = 0
    seconds: float = 0.0


def as_variable(faults: Iterable[Fault]) -> str:
    """Return what :data:`VARIABLE` has to hold."""
    return json.dumps([asdict(fault) for fault in faults])


def from_variable(value: str) -> list[Fault]:
    """Read what :func:`as_variable` has written."""
    return [
        Fault(**{**stored, "action": Action(stored["action"]), "point": Point(stored["point"])})
        for stored in json.loads(value)
    ]


class Faults:
    """Counts how often each point is reached, and lets happen what is due there."""

    def __init__(self, faults: Iterable[Fault]) -> None:
        self._by_point: dict[Point, list[Fault]] = {}
        for fault in faults:
            self._by_point.setdefault(fault.point, []).append(fault)
        self._reached: Counter[Point] = Counter()
        self._counting = threading.Lock()

    def _due(self, point: Point) -> list[Fault]:
        with self._counting:  # partitions have a thread each
            self._reached[point] += 1
            times = self._reached[point]
        return [
            fault
            for fault in self._by_point.get(point, ())
            if times == fault.at or (fault.every and times > fault.at and (times - fault.at) % fault.every == 0)
        ]

    def reached(self, point: Point) -> float:
        """Let happen what is due; return how long to sleep.

        Raises:
            Aborted: an abort is due.
        """
        seconds = 0.0
        for fault in self._due(point):
            if fault.action is Action.KILL:
                os.kill(os.getpid(), signal.SIGKILL)
            elif fault.action is Action.STOP:
                os.kill(os.getpid(), signal.SIGSTOP)
            elif fault.action is Action.SLEEP:
                seconds += fault.seconds
            else:
                raise Aborted("aborted on purpose")
        return seconds

    def blocking(self, point: Point) -> None:
        """As :meth:`reached`; for a thread that may sleep."""
        time.sleep(self.reached(point))


def install(faults: Faults) -> None:
    """Put *faults* around the steps of every worker of this process."""
    _around_taking_over(faults)
    _around_folding(faults)
    _around_transactions(faults)
    _around_closing(faults)


def _around_taking_over(faults: Faults) -> None:
    fence, restore, write = TransactionalProducer.fence, Restorer.restore, PartitionStore.write
    restoring = threading.local()

    def fence_then(self: TransactionalProducer) -> None:
        fence(self)
        faults.blocking(Point.FENCED)

    def restore_noted(self: Restorer, *args: Any, **kwargs: Any) -> Any:
        restoring.now = True
        try:
            return restore(self, *args, **kwargs)
        finally:
            restoring.now = False

    def write_then(self: PartitionStore, *args: Any) -> None:
        write(self, *args)
        if getattr(restoring, "now", False):
            faults.blocking(Point.RESTORE)

    release_all = FeedbackWindows._release_all

    async def release_all_after(self: FeedbackWindows) -> None:
        if self._owned:
            await asyncio.sleep(faults.reached(Point.HAND_OVER))
        await release_all(self)

    _put(TransactionalProducer, "fence", fence_then)
    _put(Restorer, "restore", restore_noted)
    _put(PartitionStore, "write", write_then)
    _put(FeedbackWindows, "_release_all", release_all_after)


def _around_folding(faults: Faults) -> None:
    add, store = Fold.add, Folder._store

    def add_then(self: Fold, *args: Any) -> None:
        add(self, *args)
        faults.blocking(Point.FOLD)

    async def store_then(self: Folder, fold: Fold) -> None:
        await store(self, fold)
        await asyncio.sleep(faults.reached(Point.ITEMS))

    _put(Fold, "add", add_then)
    _put(Folder, "_store", store_then)


def _around_transactions(faults: Faults) -> None:
    commit, send, persist = OwnedPartition._commit, TransactionalProducer._commit, PartitionState.persist
    # Each partition commits in a thread of its own.
    this = threading.local()

    def commit_noted(self: OwnedPartition, transaction: Any) -> None:
        this.folds = bool(transaction.record.offsets != self.state.record.offsets)
        commit(self, transaction)

    def send_after(self: TransactionalProducer) -> None:
        try:
            faults.blocking(Point.FOLD_PRODUCED if this.folds else Point.CLOSE_PRODUCED)
        except Aborted:
            self._abort()
            raise
        send(self)

    def persist_after(self: PartitionState, *args: Any) -> None:
        faults.blocking(Point.FOLD_COMMITTED if this.folds else Point.CLOSE_COMMITTED)
        persist(self, *args)

    _put(OwnedPartition, "_commit", commit_noted)
    _put(TransactionalProducer, "_commit", send_after)
    _put(PartitionState, "persist", persist_after)


def _around_closing(faults: Faults) -> None:
    upsert = MongoSink.upsert_windows

    async def upsert_between(self: MongoSink, documents: Any) -> Any:
        if not documents:
            return await upsert(self, documents)
        await asyncio.sleep(faults.reached(Point.UPSERT))
        outcome = await upsert(self, documents)
        await asyncio.sleep(faults.reached(Point.UPSERTED))
        return outcome

    _put(MongoSink, "upsert_windows", upsert_between)


def _put(where: Any, name: str, replacement: Any) -> None:
    """Replace an attribute that is there."""
    assert hasattr(where, name), f"{where} has no {name}"
    setattr(where, name, replacement)
