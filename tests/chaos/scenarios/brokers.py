"""The broker dies, is away, and aborts what takes too long."""

from __future__ import annotations

import os
import signal

from tests.chaos.arena import Arena
from tests.chaos.faults import Action, Fault, Point
from tests.chaos.registry import scenario


@scenario("broker killed and restarted", own_broker=True)
def broker_killed(arena: Arena) -> None:
    worker = arena.worker()
    worker.begin()
    arena.begin_traffic()
    arena.fleet.until_ready(worker)
    for _ in range(2):
        arena.until_sent(1_000)
        arena.kafka.kill()
        arena.fleet.rest(arena.random.uniform(0, 3))
        arena.kafka.start()
    arena.until_sent(1_000)


@scenario("broker away for a minute", own_broker=True)
def broker_away(arena: Arena) -> None:
    """It stands still, as behind a cut network: connections stay open, and nothing answers."""
    workers = [arena.worker(), arena.worker()]
    for worker in workers:
        worker.begin()
    arena.begin_traffic()
    arena.fleet.until_balanced(workers)
    arena.until_sent(1_000)
    os.kill(arena.kafka.pid, signal.SIGSTOP)
    try:
        arena.fleet.rest(60)
    finally:
        os.kill(arena.kafka.pid, signal.SIGCONT)
    arena.fleet.until_balanced(workers)
    arena.until_sent(1_000)


@scenario("transactions aborted", quick=True)
def transactions_aborted(arena: Arena) -> None:
    """Transactions are aborted with all that they have produced, and what was in them is done again."""
    aborts = [
        Fault(Action.ABORT, Point.FOLD_PRODUCED, at=3, every=3),
        Fault(Action.ABORT, Point.CLOSE_PRODUCED, at=2, every=4),
    ]
    worker = arena.worker()
    worker.begin(*aborts)
    arena.begin_traffic()
    arena.fleet.until_ready(worker)
    arena.until_sent(3_000)
    worker.crash()
    worker.wipe()
    worker.begin(*aborts)
    arena.until_sent(1_000)
    for told in ("reading the same records again", "committing the same again"):
        arena.fleet.until(lambda told=told: told in worker.log.read_text(), f"the log says: {told}")  # type: ignore[misc]  # mypy: a lambda with a default


@scenario("transactions aborted by the broker")
def transactions_aborted_by_the_broker(arena: Arena) -> None:
    """A transaction takes longer than the broker waits for it."""
    worker = arena.worker()
    worker.begin(
        Fault(Action.SLEEP, Point.FOLD_PRODUCED, at=5, every=40, seconds=7.0),
        Fault(Action.SLEEP, Point.CLOSE_PRODUCED, at=5, every=40, seconds=7.0),
        transaction_ms=3_000,
    )
    arena.begin_traffic()
    arena.fleet.until_ready(worker)
    arena.until_sent(4_000)
    worker.calm("transaction_ms")
