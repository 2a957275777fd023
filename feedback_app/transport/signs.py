"""What of Faust and aiokafka can end, or stand still for good, without anybody being told.

Such a worker would live on without consuming (Faust's issues 175, 523 and 532 are of that kind). This relies on
faust-streaming 0.15.3, mode 0.7 and aiokafka 0.14; ``tests/functional/test_faust_seams.py`` fails when one of these
behaviours changes:

* a task of a service that is cancelled ends silently, and leaves ``Service._futures``;
* so does the actor of an agent, unless its supervisor starts it anew;
* the consumer's thread ends silently when its event loop is stopped;
* aiokafka's coordination task keeps an error for whoever fetches by ``getmany`` of its own, and stands still until
  then; Faust fetches in another way, and so nobody ever asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any


def faust_signs(app: Any) -> Iterator[str]:
    """Yield, in words, what has ended or stands still in a worker that has been started and is not stopping."""
    for service, task, name in (
        (app._fetcher, "_fetcher", "Faust's fetcher"),
        (app.tables.recovery, "_restart_recovery", "Faust's recovery"),
        (app.topics, "_subscriber", "Faust's conductor"),
    ):
        if service.started and task not in _tasks(service):
            yield f"{name} has ended"
    for name, agent in app.agents.items():
        if agent.started and all(actor.actor_task is None or actor.actor_task.done() for actor in agent._actors):
            yield f"agent {name} has ended"
    yield from _member_signs(app.consumer._thread)


def _tasks(service: Any) -> set[str]:
    return {task.__wrapped__.__name__ for task in service._futures}


def _member_signs(thread: Any) -> Iterator[str]:
    if thread._thread is not None and not thread._thread.is_alive():
        yield "the consumer's thread has ended"
    coordinator = thread._consumer and thread._consumer._coordinator
    if not coordinator:
        return  # not started yet
    if coordinator._coordination_task.done():
        yield "aiokafka's coordination task has ended"
    elif coordinator._pending_exception is not None:
        yield f"the group does not take this member: {coordinator._pending_exception!r}"
