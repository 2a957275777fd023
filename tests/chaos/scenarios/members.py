"""The group changes: zombies, rolling restarts, scaling, rebalances at the wrong moment."""

from __future__ import annotations

from tests.chaos.arena import Arena
from tests.chaos.faults import Action, Fault, Point
from tests.chaos.fleet import ScenarioFailed
from tests.chaos.registry import scenario


def _zombie(arena: Arena, point: Point) -> None:
    """A worker stands still at *point* until the group has given it up and another has worked on; then it goes on.

    first   owns all ----- SIGSTOP at the point ........................ SIGCONT: fenced, joins again
    second                 joins ......... session timeout, owns all ---
    """
    first, second = arena.worker(), arena.worker()
    first.begin(Fault(Action.STOP, point, at=arena.random.randint(4, 12)))
    arena.begin_traffic()
    arena.fleet.until(lambda: first.is_stopped, f"the first worker stands still: {point}", tended=False)
    second.begin()
    arena.fleet.until(lambda: len(second.owned()) == second.partitions, "the second worker owns everything")
    arena.until_sent(1_000)
    first.thaw()
    arena.fleet.until_balanced([first, second])
    arena.until_sent(1_000)
    # What a zombie may have written to the changelog shows in who restores from it.
    for worker in (first, second):
        worker.crash()
        worker.wipe()
        worker.begin()
    arena.fleet.until_balanced([first, second])


@scenario("zombie in a fold", quick=True)
def zombie_in_a_fold(arena: Arena) -> None:
    _zombie(arena, Point.FOLD)


@scenario("zombie with a fold produced, not committed")
def zombie_with_a_fold_produced(arena: Arena) -> None:
    _zombie(arena, Point.FOLD_PRODUCED)


@scenario("zombie between upsert and closing commit")
def zombie_between_upsert_and_commit(arena: Arena) -> None:
    _zombie(arena, Point.UPSERTED)


@scenario("zombie with a close produced, not committed")
def zombie_with_a_close_produced(arena: Arena) -> None:
    _zombie(arena, Point.CLOSE_PRODUCED)


@scenario("rolling restart", quick=True)
def rolling_restart(arena: Arena) -> None:
    workers = [arena.worker(), arena.worker()]
    for worker in workers:
        worker.begin()
    arena.begin_traffic()
    arena.fleet.until_balanced(workers)
    for worker in workers:
        arena.until_sent(500)
        code = worker.end()
        if code != 0:
            raise ScenarioFailed(f"a worker that was asked to end did so with {code}\n{worker.end_of_log()}")
        worker.begin()
        arena.fleet.until_balanced(workers)


@scenario("scale 1 to 3 to 1")
def scale(arena: Arena) -> None:
    workers = [arena.worker(), arena.worker(), arena.worker()]
    arena.begin_traffic()
    for number, worker in enumerate(workers, 1):
        worker.begin()
        arena.fleet.until_balanced(workers[:number])
        arena.until_sent(800)
    for number in (2, 1):
        workers[number].end()
        arena.fleet.until_balanced(workers[:number])
        arena.until_sent(800)


@scenario("rebalance in a close pass")
def rebalance_in_a_close_pass(arena: Arena) -> None:
    """Workers come and go while each pass takes a second from the upsert to the commit."""
    slow = Fault(Action.SLEEP, Point.UPSERTED, every=1, seconds=1.0)
    first, second = arena.worker(), arena.worker()
    first.begin(slow)
    arena.begin_traffic()
    arena.fleet.until_ready(first)
    for _ in range(2):
        arena.until_sent(800)
        second.begin(slow)
        arena.fleet.until_balanced([first, second])
        arena.until_sent(800)
        second.end()
        arena.fleet.until_balanced([first])


@scenario("everything at once")
def everything_at_once(arena: Arena) -> None:
    """A long run in which one thing happens after the other, in a random order."""
    workers = [arena.worker(), arena.worker()]
    for worker in workers:
        worker.begin()
    arena.begin_traffic()
    arena.fleet.until_balanced(workers)

    def kill() -> None:
        arena.random.choice(workers).crash()

    def wipe() -> None:
        victim = arena.random.choice(workers)
        victim.crash()
        victim.wipe()

    def freeze() -> None:
        victim = arena.random.choice(workers)
        if victim.running:
            victim.freeze()
            arena.fleet.rest(arena.random.uniform(1, 14))
            victim.thaw()

    def restart() -> None:
        victim = arena.random.choice(workers)
        victim.end()
        victim.begin()

    def lose_the_database() -> None:
        arena.database.kill()
        arena.fleet.rest(arena.random.uniform(1, 6))
        arena.database.start()

    def fail_writes() -> None:
        with arena.failing("insert", errorCode=10107):
            arena.fleet.rest(2)

    def kill_in_the_middle() -> None:
        victim = arena.random.choice(workers)
        victim.end()
        point = arena.random.choice([Point.FOLD_PRODUCED, Point.FOLD_COMMITTED, Point.UPSERTED, Point.CLOSE_COMMITTED])
        victim.begin(Fault(Action.KILL, point, at=arena.random.randint(1, 10)))

    happenings = [kill, wipe, freeze, restart, lose_the_database, fail_writes, kill_in_the_middle]
    arena.random.shuffle(happenings)
    for happening in happenings:
        happening()
        arena.fleet.rest(arena.random.uniform(1, 5))
    arena.fleet.until_balanced(workers)
