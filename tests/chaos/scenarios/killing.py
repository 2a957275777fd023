"""SIGKILL at every step of the protocol."""

from __future__ import annotations

from tests.chaos.arena import Arena
from tests.chaos.faults import Action, Fault, Point
from tests.chaos.fleet import ScenarioFailed
from tests.chaos.registry import scenario

_TIMES = 2
#: Points that are reached once for each partition that is taken over, or given up.
_SELDOM = frozenset({Point.FENCED, Point.RESTORE, Point.HAND_OVER})


def _killed_at(arena: Arena, point: Point, *, wiped: bool = False) -> None:
    """Kill a worker at *point*, start it again to be killed there again, and let it work on from there."""
    worker = arena.worker()
    arena.begin_traffic()
    arena.until_sent(500)
    for _ in range(_TIMES):
        worker.begin(Fault(Action.KILL, point, at=arena.random.randint(1, 3 if point in _SELDOM else 12)))
        arena.fleet.until(worker.died, f"the worker is killed: {point}", tended=False)
        worker.deaths += 1
    worker.calm()
    worker.begin()
    arena.fleet.until_ready(worker)
    if wiped:
        worker.crash()
        worker.wipe()
        worker.begin()
    arena.until_sent(800)


@scenario("kill in a fold")
def kill_in_a_fold(arena: Arena) -> None:
    _killed_at(arena, Point.FOLD)


@scenario("kill with a fold produced, not committed", quick=True)
def kill_with_a_fold_produced(arena: Arena) -> None:
    _killed_at(arena, Point.FOLD_PRODUCED, wiped=True)


@scenario("kill with a fold committed, not in RocksDB", quick=True)
def kill_with_a_fold_committed(arena: Arena) -> None:
    _killed_at(arena, Point.FOLD_COMMITTED)


@scenario("kill before the upsert")
def kill_before_the_upsert(arena: Arena) -> None:
    _killed_at(arena, Point.UPSERT)


@scenario("kill after the upsert", quick=True)
def kill_after_the_upsert(arena: Arena) -> None:
    _killed_at(arena, Point.UPSERTED)


@scenario("kill with a close produced, not committed")
def kill_with_a_close_produced(arena: Arena) -> None:
    _killed_at(arena, Point.CLOSE_PRODUCED, wiped=True)


@scenario("kill with a close committed, not in RocksDB")
def kill_with_a_close_committed(arena: Arena) -> None:
    _killed_at(arena, Point.CLOSE_COMMITTED)


@scenario("kill with items stored, not committed")
def kill_with_items_stored(arena: Arena) -> None:
    arena.configure(store_items=True)
    _killed_at(arena, Point.ITEMS)


@scenario("kill when fenced, not restored")
def kill_when_fenced(arena: Arena) -> None:
    _killed_at(arena, Point.FENCED)


@scenario("kill in a restore")
def kill_in_a_restore(arena: Arena) -> None:
    """The disk is gone, and the worker that restores it dies on the way, again and again."""
    worker = arena.at_work(3_000)
    worker.crash()
    worker.wipe()
    for _ in range(_TIMES):
        worker.begin(Fault(Action.KILL, Point.RESTORE, at=arena.random.randint(1, 4)))
        arena.fleet.until(worker.died, "the worker is killed in a restore", tended=False)
    worker.calm()
    worker.begin()
    arena.until_sent(800)


@scenario("kill in a hand-over")
def kill_in_a_hand_over(arena: Arena) -> None:
    """A worker dies while it gives partitions up to one that has joined."""
    first, second = arena.worker(), arena.worker()
    first.begin(Fault(Action.KILL, Point.HAND_OVER))
    arena.begin_traffic()
    arena.fleet.until_ready(first)
    arena.until_sent(800)
    second.begin()
    arena.fleet.until(first.died, "the first worker is killed in the hand-over", tended=False)
    first.calm()
    arena.fleet.until_ready(second)
    first.begin()
    arena.fleet.until_balanced([first, second])
    arena.until_sent(1_000)


@scenario("kill at any moment")
def kill_at_any_moment(arena: Arena) -> None:
    """One of two workers, again and again, after a random time."""
    workers = [arena.worker(), arena.worker()]
    for worker in workers:
        worker.begin()
    arena.begin_traffic()
    arena.fleet.until_balanced(workers)
    for _ in range(4):
        arena.fleet.rest(arena.random.uniform(0.1, 4))
        victim = arena.random.choice(workers)
        if victim.running:
            victim.crash()
    arena.fleet.until_balanced(workers)
    if not sum(worker.deaths for worker in workers):
        raise ScenarioFailed("nobody was killed")
    arena.until_sent(1_000)
